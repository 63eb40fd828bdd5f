//! For how long a follower withholds its vote, in its answers to heartbeats.
//!
//! It is carried in `reject_hint`, which raft-rs neither sets nor reads in a `MsgHeartbeatResponse`. So a peer of a
//! version without promises gives none, and ignores those of others.

use std::time::Duration;

use raft::eraftpb::Message;

/// The longest that [`validate`](super::validate) accepts: 146 years.
const MAX: u64 = (1 << 62) - 1;

/// Writes a promise into a `MsgHeartbeatResponse`: for this long after it heard the heartbeat, by its own clock and
/// across restarts, its sender votes for nobody but that leader.
pub fn set_promise(answer: &mut Message, promise: Duration) {
    answer.reject_hint = u64::try_from(promise.as_nanos()).unwrap_or(MAX).min(MAX);
}

/// Reads what [`set_promise`] wrote; zero if the sender promises nothing.
#[must_use]
pub const fn promise(answer: &Message) -> Duration {
    Duration::from_nanos(answer.reject_hint)
}
