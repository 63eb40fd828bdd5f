//! The threads that carry out what the core decides.

mod events;
mod inbox;
mod shared;
mod waiters;

mod handle;
pub use handle::NodeHandle;
