//! For how long a follower withholds its vote, in its answers to heartbeats.
//!
//! It rides in `reject_hint`, which raft-rs neither sets nor reads in a `MsgHeartbeatResponse`: so a peer of a version that
//! knows nothing of promises gives none, and is not disturbed by ours.

use std::time::Duration;

use raft::eraftpb::Message;

/// What [`validate`](super::validate) lets pass; 146 years.
const MAX: u64 = (1 << 62) - 1;

/// Writes a promise into a `MsgHeartbeatResponse`: from when its sender heard the heartbeat, it gives its vote to nobody
/// but that leader for this long by its own clock, restarts included.
pub fn set_promise(answer: &mut Message, promise: Duration) {
    answer.reject_hint = u64::try_from(promise.as_nanos()).unwrap_or(MAX).min(MAX);
}

/// Reads what [`set_promise`] wrote; zero from whoever promises nothing.
#[must_use]
pub const fn promise(answer: &Message) -> Duration {
    Duration::from_nanos(answer.reject_hint)
}
