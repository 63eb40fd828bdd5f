//! What makes a proposal take effect at most once: an id in front of its data, and a window of ids already seen.

mod framer;
pub(crate) use framer::{Framer, Proposal};

mod header;
pub use header::{AttributeUpdate, HeaderError, Payload};

mod window;
pub use window::{Verdict, Window, WindowError};
