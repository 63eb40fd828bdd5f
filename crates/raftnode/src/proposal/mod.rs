//! How a proposal takes effect at most once: an id in front of its data, and a window of the ids that were applied.

mod framer;
pub(crate) use framer::{Framer, Proposal};

mod header;
pub use header::{AttributeUpdate, HeaderError, Payload};

mod window;
pub use window::{Verdict, Window, WindowError};
