//! The threads that carry out what the core decides.
//!
//! | thread | owns | waits for |
//! |---|---|---|
//! | `oarlock-node` | the core | its inbox, until the next tick |
//! | `oarlock-writer` | the log | jobs of the node thread |
//! | `oarlock-reader`, once a follower lacks what memory does not hold | nothing | reads that the node thread asks for; the disk |
//! | `oarlock-apply`, or the owner of an [`ApplyQueue`] | the state machine | jobs of the node thread; its answer to a conf change |
//! | `oarlock-snapshot` | a view, while it is written | the disk |
//! | `oarlock-purge` | nothing, while it removes older snapshots | the disk |
//! | `oarlock-watch`, while a node starts with a restore, or the node thread writes | nothing | the end of that, for an election timeout |
//!
//! The node thread never waits for another of these threads, so no two can wait for each other. It does not wait for a
//! disk either, with two exceptions: a sole member has no writer thread, so the node thread writes; and committed
//! entries that are no longer in the tail cache, because apply is far behind, it reads itself.

use std::any::Any;
use std::sync::Arc;

use crate::NodeError;

mod apply;
mod clock;
mod events;
mod gather;
mod handoff;
mod inbox;
mod links;
mod node;
mod outbox;
mod padded;
mod peers;
mod reader;
mod requests;
mod shared;
mod snapshots;
mod spin;
mod step;
mod stop;
mod ticker;
mod waiters;
mod watch;
mod writer;

mod builder;
pub use builder::NodeBuilder;

pub use handoff::{Apply, ApplyQueue};
pub use step::{Command, Step};

mod handle;
pub use handle::NodeHandle;

/// What a panic said, as an error.
fn panicked(thread: &'static str, panic: &(dyn Any + Send)) -> Arc<NodeError> {
    let message = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "a panic without a message".to_string());
    Arc::new(NodeError::Panicked { thread, message })
}
