//! What must be seen of the real binary: one file for each thing.
#![expect(clippy::print_stderr, reason = "how a story went is shown with its result")]

mod crash;
mod damage;
mod members;
mod one;
mod peer_port;
mod readme;
mod rescue;
mod snapshots;
mod sync_before_answer;
mod three;
mod util;
