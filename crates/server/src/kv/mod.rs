//! The key-value state machine: what a command means, and nothing about how it got here.
//!
//! The state is an ordered persistent map of which clones are free, so that a reader, a transaction and a snapshot
//! each hold a whole consistent state while the next command is applied. Only the latest revision is kept: a read
//! of an earlier one is answered with etcd's *compacted*, never with something else.

mod check;
mod command;
mod image;
mod machine;
mod range;
mod reject;
mod state;
#[cfg(test)]
mod tests;
mod txn;

pub(crate) use check::{check_delete_range, check_put, check_range, check_txn};
pub(crate) use command::{Reply, describe, encode};
pub(crate) use machine::{Image, KvMachine, Outcome, Published};
pub(crate) use range::range;
pub(crate) use reject::Rejection;
pub(crate) use txn::read_txn;

use state::State;
