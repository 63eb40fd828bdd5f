//! How a node behaves, with a reason beside every default.

use std::time::Duration;

use crate::core::LEASE_SLACK;
use crate::planted::planted;
use crate::{LogView, Payload};

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteMode {
    /// On the node thread while this node is the only member: that saves a hop between threads, and there is nobody to
    /// send heartbeats to. As soon as there is another member a writer thread takes over, for good, because heartbeats
    /// must not wait for a disk (O12).
    #[default]
    Auto,
    /// On a thread of its own from the start, so that ticks and requests never wait for the disk.
    Pipelined,
}

/// How a node behaves. [`Config::new`] has etcd's defaults; each method changes one and says why it is what it is.
///
/// The limits in bytes and counts are listed together, with what happens at each, under *What is bounded* on the crate's
/// front page.
///
/// ```
/// use std::time::Duration;
/// let config = oarlock_raftnode::Config::new().heartbeat_interval(Duration::from_millis(20)).pre_vote(true);
/// assert_eq!(config.election_timeout(), Duration::from_millis(200));
/// assert!(config.validate().is_ok());
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Config {
    pub(crate) heartbeat_interval: Duration,
    pub(crate) election_ticks: u32,
    pub(crate) pre_vote: bool,
    pub(crate) check_quorum: bool,
    pub(crate) initial_tick_advance: bool,
    pub(crate) max_size_per_msg: u64,
    pub(crate) max_inflight_msgs: usize,
    pub(crate) max_inflight_bytes: u64,
    pub(crate) max_uncommitted_bytes: u64,
    pub(crate) max_apply_bytes: u64,
    pub(crate) max_apply_backlog: u64,
    pub(crate) max_unsynced_bytes: u64,
    pub(crate) max_waiting_proposals: usize,
    pub(crate) max_request_bytes: usize,
    pub(crate) tail_cache_bytes: u64,
    pub(crate) snapshot_count: u64,
    pub(crate) snapshot_catchup_entries: u64,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) stop_timeout: Duration,
    pub(crate) write_mode: WriteMode,
    pub(crate) seed: Option<u64>,
    pub(crate) lease_drift: Option<u32>,
}

/// A configuration that cannot work. Whoever wrote it has to change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// With fewer ticks a single late heartbeat would start an election. etcd demands five as well.
    #[error("election_ticks is {ticks}, it must be at least 5")]
    ElectionTicks {
        /// What was asked for.
        ticks: u32,
    },
    /// An election timeout of more than a day: most likely the unit is wrong.
    #[error("election_ticks heartbeat intervals come to more than a day")]
    ElectionTimeout,
    /// The node could not take any request, not even for its status.
    #[error("max_waiting_proposals must be greater than 0")]
    NoRequests,
    /// raft-rs would send single entries only, or nothing.
    #[error("max_size_per_msg and max_inflight_msgs must be greater than 0")]
    NoMessages,
    /// One message of `max_size_per_msg` must fit among what may be uncommitted.
    #[error("max_uncommitted_bytes is {uncommitted}, below max_size_per_msg, {message}")]
    Uncommitted {
        /// What was asked for.
        uncommitted: u64,
        /// The size of one message.
        message: u64,
    },
    /// One message would fill the window, so each would have to be answered before the next is sent.
    #[error("max_inflight_bytes is {inflight}, below max_size_per_msg, {message}")]
    Inflight {
        /// What was asked for.
        inflight: u64,
        /// The size of one message.
        message: u64,
    },
    /// Without check-quorum raft-rs votes for another candidate although it still hears its leader, so no lease could
    /// hold. Leave check-quorum on, or do without leases.
    #[error("lease_reads needs check_quorum")]
    LeaseWithoutCheckQuorum,
    /// The election timeout is too short to leave anything for a lease. Raise `election_ticks`.
    #[error("lease_reads needs more than {slack} election_ticks, there are {ticks}")]
    LeaseWithoutTime {
        /// What was asked for.
        ticks: u32,
        /// By how many ticks a lease is shorter than an election timeout.
        slack: u32,
    },
    /// A snapshot would be taken after every entry.
    #[error("snapshot_count must be greater than 0")]
    SnapshotCount,
    /// raft could make a message that the transport can never send: it would be retried for ever, and nothing behind it
    /// would be committed. Lower `max_request_bytes` or `max_size_per_msg`, or raise the transport's frame limit, on
    /// every member.
    #[error(
        "a message of {message} bytes can be made, the transport sends at most {frame} at once"
    )]
    MessageBeyondFrame {
        /// What a message may come to.
        message: u64,
        /// What the transport takes; see [`Transport::max_frame`](oarlock_transport::Transport::max_frame).
        frame: u64,
    },
    /// A request of the permitted size would be too large for the log, and end every member that has to write it. Lower
    /// `max_request_bytes`, or give the log larger segments.
    #[error("max_request_bytes is {request}, the log takes at most {log} at once")]
    RequestBeyondLog {
        /// What was asked for.
        request: usize,
        /// What the log takes; see [`LogStore::max_batch`](crate::LogStore::max_batch).
        log: u64,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// etcd's defaults, plus budgets in bytes.
    pub const fn new() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            election_ticks: 10,
            pre_vote: true,
            check_quorum: true,
            initial_tick_advance: true,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 512,
            max_inflight_bytes: 32 << 20,
            max_uncommitted_bytes: 64 << 20,
            max_apply_bytes: 4 << 20,
            max_apply_backlog: 64 << 20,
            max_unsynced_bytes: 64 << 20,
            max_waiting_proposals: 16_384,
            max_request_bytes: 8 << 20,
            tail_cache_bytes: LogView::DEFAULT_BUDGET,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            request_timeout: None,
            stop_timeout: Duration::from_secs(10),
            write_mode: WriteMode::Auto,
            seed: None,
            lease_drift: None,
        }
    }

    /// Time between two heartbeats of a leader, which is also the length of a tick. Defaults to 100 ms, as in etcd:
    /// longer than most round trips between members, and rare enough to cost nothing. Zero stops the ticker, for tests:
    /// then time passes only by [`NodeHandle::advance_ticks`](crate::NodeHandle::advance_ticks).
    pub const fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// The election timeout, in ticks. A follower that hears from no leader campaigns after a random time between one and
    /// two of these. Defaults to 10, as in etcd: with the default heartbeat that is a second, which a few lost messages
    /// or a slow sync do not use up, and a dead leader is replaced in about two. At least 5.
    pub const fn election_ticks(mut self, ticks: u32) -> Self {
        self.election_ticks = ticks;
        self
    }

    /// Whether a candidate first asks if it could win, before it raises its term. On by default, as in etcd since 3.5: a
    /// member that was cut off does not depose a working leader when it returns (Raft thesis, section 9.6).
    pub const fn pre_vote(mut self, on: bool) -> Self {
        self.pre_vote = on;
        self
    }

    /// Whether a leader steps down when it has not heard from a majority for an election timeout. On by default, so that
    /// whoever asks a leader that was cut off learns of it; etcd has no switch for it.
    pub const fn check_quorum(mut self, on: bool) -> Self {
        self.check_quorum = on;
        self
    }

    /// Whether a starting member skips all but two ticks of its first election timeout once a majority is connected
    /// (etcd's `--initial-election-tick-advance`). On by default: a cluster that starts has a leader sooner. Turn it
    /// off where a heartbeat may take longer than two ticks to arrive, or a restart may depose the leader (etcd #9333).
    pub const fn initial_tick_advance(mut self, on: bool) -> Self {
        self.initial_tick_advance = on;
        self
    }

    /// Bytes of entries in one append message; a larger entry goes alone. Defaults to 1 MiB, as in etcd: large enough
    /// that the cost per message does not count, small enough that one takes only milliseconds to send.
    pub const fn max_size_per_msg(mut self, bytes: u64) -> Self {
        self.max_size_per_msg = bytes;
        self
    }

    /// Append messages that may be in flight to one follower, sent and not answered. Defaults to 512, as in etcd: enough
    /// small messages to fill a round trip. For large ones [`max_inflight_bytes`](Self::max_inflight_bytes) is reached
    /// first.
    pub const fn max_inflight_msgs(mut self, messages: usize) -> Self {
        self.max_inflight_msgs = messages;
        self
    }

    /// Bytes of append messages that may be in flight to one follower before it has to answer; each entry counts its data
    /// and 64 bytes. As in etcd, whose name this is, the last message may overshoot the limit. So one slow follower holds
    /// at most this and one message, which is [`max_size_per_msg`](Self::max_size_per_msg) or a single larger entry.
    ///
    /// Defaults to 32 MiB: 10 Gbit/s at a round trip of 25 ms, and half of what `TcpTransport` queues for a lane, so that
    /// none of it has to be dropped and sent again. etcd's server sets no limit. At least `max_size_per_msg`.
    pub const fn max_inflight_bytes(mut self, bytes: u64) -> Self {
        self.max_inflight_bytes = bytes;
        self
    }

    /// Bytes that a leader may have appended beyond its commit index before it answers `Busy`. The same limit holds, on
    /// every node, for its own callers' proposals that have no result yet. Defaults to 64 MiB: all of them are held in
    /// memory, which a cluster that lost its majority would otherwise fill. At least `max_size_per_msg`.
    pub const fn max_uncommitted_bytes(mut self, bytes: u64) -> Self {
        self.max_uncommitted_bytes = bytes;
        self
    }

    /// Bytes of committed entries handed to the apply thread, and read for it, at a time. Defaults to 4 MiB: enough to make
    /// the handoff cheap, and little enough that reads, which wait for the end of a batch, do not wait long.
    pub const fn max_apply_bytes(mut self, bytes: u64) -> Self {
        self.max_apply_bytes = bytes;
        self
    }

    /// Bytes that may wait for the apply thread. Beyond that, proposals get `Busy`, a follower drops its leader's
    /// appends, which are sent again, and committed entries stay in the log until there is room. So memory holds this
    /// and one batch of [`max_apply_bytes`](Self::max_apply_bytes), however long the log is that a member starts with.
    /// Defaults to 64 MiB, so that a short pause of the state machine goes unnoticed. etcd counts 5000 entries instead,
    /// whatever their size.
    pub const fn max_apply_backlog(mut self, bytes: u64) -> Self {
        self.max_apply_backlog = bytes;
        self
    }

    /// Bytes handed to the disk and not yet synced, with the messages that wait for them. Beyond that, proposals get
    /// `Busy` and a follower drops its leader's appends, which are sent again. Defaults to 64 MiB, as much as the
    /// writer takes into one sync: more would only wait longer.
    pub const fn max_unsynced_bytes(mut self, bytes: u64) -> Self {
        self.max_unsynced_bytes = bytes;
        self
    }

    /// Requests that may wait for the node thread, proposals that may wait for a leader, and reads and transfers that may
    /// wait for their answers; beyond that many of each, more get `Busy`. Defaults to 16,384: many times what fills every
    /// sync of a fast disk, at a few hundred bytes each. Their data is bounded by
    /// [`max_uncommitted_bytes`](Self::max_uncommitted_bytes).
    pub const fn max_waiting_proposals(mut self, proposals: usize) -> Self {
        self.max_waiting_proposals = proposals;
        self
    }

    /// The largest proposal; a larger one is refused as `TooLarge`. Defaults to 8 MiB, half of what a frame over TCP
    /// holds ([`TcpOptions::max_frame`](oarlock_transport::TcpOptions::max_frame)); etcd's 1.5 MiB is a better limit
    /// for what comes often, because everything else waits behind a large entry. It must fit every member's frame and
    /// log: starting a node checks its own.
    pub const fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// Memory for the newest entries (their data, and some 200 bytes for each), from which followers that keep up are
    /// served without reading the log. Defaults to 64 MiB, which at 50 MB/s lets them be a second behind.
    pub const fn tail_cache_bytes(mut self, bytes: u64) -> Self {
        self.tail_cache_bytes = bytes;
        self
    }

    /// Applied entries after which a snapshot is taken. Defaults to 10,000, as in etcd since 3.6: fewer would rewrite
    /// the state more often, more would make the log larger and a restart replay longer. A state of more than 64 MiB
    /// also waits until the log has grown by about the state's size, so that snapshots at most double what is written.
    pub const fn snapshot_count(mut self, entries: u64) -> Self {
        self.snapshot_count = entries;
        self
    }

    /// Entries that are kept although a snapshot covers them, so that followers that are a little behind need no snapshot
    /// (O26). Defaults to 5,000, as in etcd: half of what comes between two snapshots.
    pub const fn snapshot_catchup_entries(mut self, entries: u64) -> Self {
        self.snapshot_catchup_entries = entries;
        self
    }

    /// How long a request may take that has no deadline of its own. Defaults to 5 s plus two election timeouts, as in
    /// etcd: long enough for a leader to be lost and another found.
    pub const fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
        self
    }

    /// How long `shutdown` waits for a thread that hangs, in a system call for example, before it leaves it behind.
    /// Defaults to 10 s: longer than a healthy disk ever takes, and well within what service managers grant before they
    /// kill.
    pub const fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// Which thread writes the log. Defaults to [`WriteMode::Auto`].
    pub const fn write_mode(mut self, mode: WriteMode) -> Self {
        self.write_mode = mode;
        self
    }

    /// The seed of everything random in the core, which is election timeouts. By default it is made of the birth id of
    /// the data directory and the number of its starts, so that members differ.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Lets a leader answer [lease reads](crate::NodeHandle::read_lease) without asking anybody, for nearly half an
    /// election timeout after each confirmed round of reads. Off by default, as in etcd: it saves a round trip at the
    /// price of an assumption about clocks, and only whoever runs the machines can make that.
    ///
    /// **The assumption.** The monotonic clocks of any two members differ in speed by at most `max_drift_percent`, and
    /// none stands still while its machine runs. Real clocks differ by far less than one percent. But when a virtual
    /// machine is paused, migrated or restored, or a laptop sleeps, its clock may have stood still while the others
    /// elected somebody else; then a lease read can be stale. If that can happen, leave this off.
    ///
    /// **What followers do for it.** For an election timeout after they heard from their leader, or started, they vote
    /// for nobody else. Nor do they start an election early: [`initial_tick_advance`](Self::initial_tick_advance) and
    /// [`NodeHandle::advance_ticks`](crate::NodeHandle::advance_ticks) do nothing during that time.
    ///
    /// **Mixed clusters are safe.** Every member should have this option and the same election timeout, but correctness
    /// does not rest on it. With each answer a member says for how long it withholds its vote
    /// ([`promise`](Self::promise)), and a leader has a lease only if a majority of the voters, itself included,
    /// promises at least as much as it does itself. Until then (while the option is rolled out, beside an older version
    /// or a shorter election timeout) reads take a round, and [`Status`](crate::Status) and the log say whose promise
    /// is too short. Promises are durable: a member that is restarted without the option, or with a shorter timeout,
    /// first keeps the longest promise that its log records. Once it has run for that long it forgets it, and later
    /// starts keep only the shorter one.
    ///
    /// Each read chooses whether to use the lease, because what a stale answer costs depends on what is read: see
    /// [`NodeHandle::read_lease`](crate::NodeHandle::read_lease).
    pub const fn lease_reads(mut self, max_drift_percent: u32) -> Self {
        self.lease_drift = Some(max_drift_percent);
        self
    }

    /// For how long, by its own clock, this member votes for nobody else after it heard from its leader. It is what this
    /// member promises its leader, and what it demands of others as a leader with leases. Zero without
    /// [`lease_reads`](Self::lease_reads); otherwise an election timeout less five ticks, by which a member that counts
    /// ticks may be off: half of it by default.
    #[must_use]
    pub fn promise(&self) -> Duration {
        if self.lease_drift.is_none() {
            return Duration::ZERO;
        }
        let slack = if planted("slack-not-allowed-for") { 0 } else { LEASE_SLACK };
        self.heartbeat_interval.saturating_mul(self.election_ticks.saturating_sub(slack))
    }

    /// How long a lease lasts, counted from the start of the round of reads that it rests on: a
    /// [`promise`](Self::promise), shortened by the drift allowed between two clocks. Zero without
    /// [`lease_reads`](Self::lease_reads).
    #[must_use]
    pub fn lease(&self) -> Duration {
        let drift = self.lease_drift.filter(|_| !planted("drift-not-allowed-for")).unwrap_or(0);
        self.promise().saturating_mul(100) / 100_u32.saturating_add(drift)
    }

    /// The shortest time without a leader after which a follower campaigns: `election_ticks` heartbeat intervals.
    #[must_use]
    pub const fn election_timeout(&self) -> Duration {
        self.heartbeat_interval.saturating_mul(self.election_ticks)
    }

    /// How long a request without a deadline of its own may take.
    #[must_use]
    pub fn effective_request_timeout(&self) -> Duration {
        self.request_timeout.unwrap_or_else(|| {
            self.election_timeout().saturating_mul(2).saturating_add(Duration::from_secs(5))
        })
    }

    /// The largest message that raft can make, of one large request or many small ones, in bytes.
    pub(crate) fn largest_message(&self) -> u64 {
        /// More than an append of one entry takes beside the entry's data.
        const HEAD: u64 = 1 << 10;
        let request = (self.max_request_bytes + Payload::MAX_OVERHEAD) as u64;
        self.max_size_per_msg.max(request) + HEAD
    }

    /// Checks that the largest message that raft can make fits the frame.
    pub(crate) fn validate_frame(&self, frame: usize) -> Result<(), ConfigError> {
        let (message, frame) = (self.largest_message(), frame as u64);
        if message > frame {
            Err(ConfigError::MessageBeyondFrame { message, frame })
        } else {
            Ok(())
        }
    }

    /// Checks that the settings fit together. Starting a node does the same.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub const fn validate(&self) -> Result<(), ConfigError> {
        if self.election_ticks < 5 {
            return Err(ConfigError::ElectionTicks { ticks: self.election_ticks });
        }
        if self.election_timeout().as_secs() > 24 * 3600 {
            return Err(ConfigError::ElectionTimeout);
        }
        if self.max_waiting_proposals == 0 {
            return Err(ConfigError::NoRequests);
        }
        if self.max_size_per_msg == 0 || self.max_inflight_msgs == 0 {
            return Err(ConfigError::NoMessages);
        }
        if self.max_uncommitted_bytes < self.max_size_per_msg {
            return Err(ConfigError::Uncommitted {
                uncommitted: self.max_uncommitted_bytes,
                message: self.max_size_per_msg,
            });
        }
        if self.max_inflight_bytes < self.max_size_per_msg {
            return Err(ConfigError::Inflight {
                inflight: self.max_inflight_bytes,
                message: self.max_size_per_msg,
            });
        }
        if self.snapshot_count == 0 {
            return Err(ConfigError::SnapshotCount);
        }
        if self.lease_drift.is_some() && !self.check_quorum {
            return Err(ConfigError::LeaseWithoutCheckQuorum);
        }
        if self.lease_drift.is_some() && self.election_ticks <= LEASE_SLACK {
            return Err(ConfigError::LeaseWithoutTime {
                ticks: self.election_ticks,
                slack: LEASE_SLACK,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::new().validate(), Ok(()));
        assert_eq!(Config::new().effective_request_timeout(), Duration::from_secs(7));
    }

    #[test]
    fn a_lease_is_shorter_than_what_it_rests_on() {
        assert_eq!(Config::new().lease(), Duration::ZERO);
        let config = Config::new().lease_reads(0);
        assert_eq!(config.lease(), Duration::from_millis(500));
        assert_eq!(config.clone().lease_reads(100).lease(), Duration::from_millis(250));
        assert!(config.clone().lease_reads(u32::MAX).lease() < Duration::from_millis(1));
        assert_eq!(config.election_ticks(5).lease(), Duration::ZERO);
    }

    #[test]
    fn what_cannot_work_is_named() {
        let cases = [
            (Config::new().election_ticks(4), ConfigError::ElectionTicks { ticks: 4 }),
            (Config::new().heartbeat_interval(Duration::MAX), ConfigError::ElectionTimeout),
            (Config::new().max_waiting_proposals(0), ConfigError::NoRequests),
            (Config::new().max_size_per_msg(0), ConfigError::NoMessages),
            (Config::new().max_inflight_msgs(0), ConfigError::NoMessages),
            (
                Config::new().max_uncommitted_bytes(1),
                ConfigError::Uncommitted { uncommitted: 1, message: 1 << 20 },
            ),
            (
                Config::new().max_inflight_bytes(1),
                ConfigError::Inflight { inflight: 1, message: 1 << 20 },
            ),
            (Config::new().snapshot_count(0), ConfigError::SnapshotCount),
            (
                Config::new().lease_reads(1).check_quorum(false),
                ConfigError::LeaseWithoutCheckQuorum,
            ),
            (
                Config::new().lease_reads(1).election_ticks(5),
                ConfigError::LeaseWithoutTime { ticks: 5, slack: 5 },
            ),
        ];
        for (config, error) in cases {
            assert_eq!(config.validate(), Err(error));
        }
    }
}
