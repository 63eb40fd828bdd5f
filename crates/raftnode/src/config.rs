//! How a node behaves, with a reason beside every default.

use std::time::Duration;

use crate::Payload;
use crate::core::LEASE_SLACK;
use crate::planted::planted;

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteMode {
    /// Inline while this node is the only member, pipelined from the moment that there is another.
    #[default]
    Auto,
    /// The node thread writes and syncs itself: no hop between threads, but a slow disk delays everything. Left for
    /// good, as in `Auto`, when there is another member: heartbeats must not wait for a disk (O12).
    Inline,
    /// A thread of its own writes; ticks, heartbeats and messages go on meanwhile.
    Pipelined,
}

/// How a node behaves. Made with [`Config::new`], changed with the methods named after the fields.
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
    /// With fewer ticks one late heartbeat starts an election. etcd asks for five.
    #[error("election_ticks is {ticks}, it must be at least 5")]
    ElectionTicks {
        /// What was asked for.
        ticks: u32,
    },
    /// Longer than a day, which is no time to be without a leader: most likely the unit is wrong.
    #[error("election_ticks heartbeat intervals come to more than a day")]
    ElectionTimeout,
    /// Nothing could be asked of the node, not even its status.
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
    /// Every message would be waited for.
    #[error("max_inflight_bytes is {inflight}, below max_size_per_msg, {message}")]
    Inflight {
        /// What was asked for.
        inflight: u64,
        /// The size of one message.
        message: u64,
    },
    /// A member that does not check its quorum votes for others whenever it is asked, so that no lease holds. Leave
    /// check-quorum on, or read without leases.
    #[error("lease_reads needs check_quorum")]
    LeaseWithoutCheckQuorum,
    /// Nothing of the election timeout is left for a lease: no read would ever be answered by one. Raise `election_ticks`.
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
    /// A message that raft makes would never leave, be sent again and again, and nothing after it would ever be committed.
    /// Lower `max_request_bytes` or `max_size_per_msg`, or give the transport a larger frame, on every member.
    #[error(
        "a message of {message} bytes can be made, the transport sends at most {frame} at once"
    )]
    MessageBeyondFrame {
        /// What a message may come to.
        message: u64,
        /// What the transport takes; see [`Transport::max_frame`](oarlock_transport::Transport::max_frame).
        frame: u64,
    },
    /// A request that is let in would be more than the log can write, and end every member. Lower `max_request_bytes`,
    /// or give the log larger segments.
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
            tail_cache_bytes: 64 << 20,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            request_timeout: None,
            stop_timeout: Duration::from_secs(10),
            write_mode: WriteMode::Auto,
            seed: None,
            lease_drift: None,
        }
    }

    /// Time between two heartbeats of a leader, which is one tick. Defaults to 100 ms, as in etcd: about the round
    /// trip between members, and rarely enough to be cheap. Zero makes the ticker inert: time passes by
    /// [`NodeHandle::advance_ticks`](crate::NodeHandle::advance_ticks) only, for tests.
    pub const fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// Ticks without a leader after which a follower may campaign; each waits for one to two times as many. Defaults
    /// to 10, as in etcd. At least 5.
    pub const fn election_ticks(mut self, ticks: u32) -> Self {
        self.election_ticks = ticks;
        self
    }

    /// Whether a candidate first asks if it could win, without raising its term. On by default, as in etcd since 3.4:
    /// a member that was cut off does not depose a working leader when it returns (Raft thesis, 9.6).
    pub const fn pre_vote(mut self, on: bool) -> Self {
        self.pre_vote = on;
        self
    }

    /// Whether a leader steps down when it has not heard from a majority for an election timeout. On by default; etcd
    /// has no switch for it.
    pub const fn check_quorum(mut self, on: bool) -> Self {
        self.check_quorum = on;
        self
    }

    /// Whether a starting member skips most of its first election timeout (etcd's `--initial-election-tick-advance`).
    /// On by default. Turn it off where members are far apart.
    pub const fn initial_tick_advance(mut self, on: bool) -> Self {
        self.initial_tick_advance = on;
        self
    }

    /// Bytes of entries in one append message. Defaults to 1 MiB, as in etcd: 100 MB/s at a round trip of 10 ms.
    pub const fn max_size_per_msg(mut self, bytes: u64) -> Self {
        self.max_size_per_msg = bytes;
        self
    }

    /// Append messages with entries under way to one follower: sent, and not answered. Defaults to 512, as in etcd: enough
    /// small ones to fill a round trip.
    pub const fn max_inflight_msgs(mut self, messages: usize) -> Self {
        self.max_inflight_msgs = messages;
        self
    }

    /// Bytes of append messages under way to one follower, beyond which it is sent no more until it answers; each entry
    /// counts 64 more than its data. One message may go beyond it, as in etcd (whose name this is), and a message that is
    /// larger than this goes alone. So what waits for one slow follower is at most this and one message: of
    /// [`max_size_per_msg`](Self::max_size_per_msg), or of a single entry that is larger.
    ///
    /// Defaults to 32 MiB: 10 Gbit/s at a round trip of 25 ms, and half of what `TcpTransport` queues for a lane, so that
    /// nothing of it has to be dropped and sent again. etcd's server sets no limit. At least `max_size_per_msg`.
    pub const fn max_inflight_bytes(mut self, bytes: u64) -> Self {
        self.max_inflight_bytes = bytes;
        self
    }

    /// Bytes that a leader appends ahead of its commit index before it answers `Busy`, and of proposals that may wait for
    /// their results on one node, leader or not. Defaults to 64 MiB: they are held in memory, and a cluster that lost
    /// its majority must not fill it.
    pub const fn max_uncommitted_bytes(mut self, bytes: u64) -> Self {
        self.max_uncommitted_bytes = bytes;
        self
    }

    /// Bytes of committed entries handed to the apply thread at a time. Defaults to 4 MiB.
    pub const fn max_apply_bytes(mut self, bytes: u64) -> Self {
        self.max_apply_bytes = bytes;
        self
    }

    /// Bytes that may be with the apply thread and not applied yet. Beyond it, proposals get `Busy`, appends of the leader are
    /// left for it to repeat, and what is committed stays in the log until there is room. So memory holds this and one batch of
    /// [`max_apply_bytes`](Self::max_apply_bytes), however long the log is that a member starts with. Defaults to 64 MiB. etcd
    /// counts 5000 entries instead, whatever their size.
    pub const fn max_apply_backlog(mut self, bytes: u64) -> Self {
        self.max_apply_backlog = bytes;
        self
    }

    /// Bytes written and not yet synced, beyond which appends of the leader are left for it to repeat and proposals
    /// get `Busy`. Defaults to 64 MiB.
    pub const fn max_unsynced_bytes(mut self, bytes: u64) -> Self {
        self.max_unsynced_bytes = bytes;
        self
    }

    /// Proposals that wait for the node thread or for a leader, beyond which more get `Busy`. Defaults to 16,384.
    pub const fn max_waiting_proposals(mut self, proposals: usize) -> Self {
        self.max_waiting_proposals = proposals;
        self
    }

    /// The largest proposal; more is `TooLarge`. Defaults to 8 MiB. It must fit the transport's frame, which is 16 MiB
    /// over TCP ([`TcpOptions::max_frame`](oarlock_transport::TcpOptions::max_frame)), on every member; starting checks this one's.
    pub const fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// Memory for recent entries, so that followers that keep up cost no reads: their data, and some 200 bytes for each
    /// entry. Defaults to 64 MiB.
    pub const fn tail_cache_bytes(mut self, bytes: u64) -> Self {
        self.tail_cache_bytes = bytes;
        self
    }

    /// Entries applied after which a snapshot is taken. Defaults to 10,000, as in etcd since 3.6. A state beyond
    /// 64 MiB also waits until the log has grown by about the state's size, so that it is not rewritten over and over.
    pub const fn snapshot_count(mut self, entries: u64) -> Self {
        self.snapshot_count = entries;
        self
    }

    /// Entries kept before a snapshot, so that followers that are a little behind need no snapshot (O26). Defaults to
    /// 5,000, as in etcd.
    pub const fn snapshot_catchup_entries(mut self, entries: u64) -> Self {
        self.snapshot_catchup_entries = entries;
        self
    }

    /// How long a request without a deadline of its own may take. Defaults to 5 s and two election timeouts, as in
    /// etcd: long enough for a leader to be lost and another found.
    pub const fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
        self
    }

    /// How long `shutdown` waits for a thread that hangs, in a system call for example. Defaults to 10 s.
    pub const fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// Who writes the log. Defaults to [`WriteMode::Auto`].
    pub const fn write_mode(mut self, mode: WriteMode) -> Self {
        self.write_mode = mode;
        self
    }

    /// The seed of everything random, which is election timeouts. Defaults to one made from the birth of the data
    /// directory and the count of its starts.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Allows a leader to answer [`lease reads`](crate::NodeHandle::read_lease) without asking anybody, for most of half an
    /// election timeout after a round of reads was confirmed. Off by default, as in etcd: it trades a round trip for an
    /// assumption about clocks, which only whoever runs the machines can make.
    ///
    /// The assumption: the monotonic clocks of any two members differ in speed by at most `max_drift_percent`, and none stands
    /// still while its machine does not. Real clocks differ by far less than one percent. But a virtual machine that is
    /// paused, migrated or restored, or a laptop that sleeps, may find its clock where it was while the others have elected
    /// somebody else: then a lease read can be stale. If that can happen, leave this off.
    ///
    /// Its other half is what followers do: they give their vote to nobody for an election timeout after they heard of their
    /// leader or started again, whoever asks. Meanwhile they do not hasten an election either:
    /// [`initial_tick_advance`](Self::initial_tick_advance) and
    /// [`NodeHandle::advance_ticks`](crate::NodeHandle::advance_ticks) do nothing.
    ///
    /// So every member should have it, with the same election timeout, but nothing rests on that. Each member says with each
    /// answer for how long it withholds its vote ([`promise`](Self::promise)), and a leader has a lease only if a majority of
    /// the voters, itself included, has promised at least what it promises itself. In a mixed cluster (an option that is
    /// being rolled out, a member of an older version, a shorter election timeout) reads are therefore answered by rounds
    /// until enough members have it, and [`Status`](crate::Status) and the log say whose promise is short. What was promised
    /// is durable: a member that starts again without the option, or with a shorter timeout, keeps the old promise first,
    /// and does so at every start, because a record of the longest one stays in its log.
    ///
    /// A read chooses for itself whether it uses the lease, because what a stale answer costs depends on what is read: see
    /// [`NodeHandle::read_lease`](crate::NodeHandle::read_lease).
    pub const fn lease_reads(mut self, max_drift_percent: u32) -> Self {
        self.lease_drift = Some(max_drift_percent);
        self
    }

    /// For how long this member gives its vote to nobody else after it has heard of its leader, by its own clock: what it
    /// promises to others, and what a lease takes of them. Zero without [`lease_reads`](Self::lease_reads). Five ticks
    /// less than an election timeout, because that is by how much it may miscount it; half of it by default.
    #[must_use]
    pub fn promise(&self) -> Duration {
        if self.lease_drift.is_none() {
            return Duration::ZERO;
        }
        let slack = if planted("slack-not-allowed-for") { 0 } else { LEASE_SLACK };
        self.heartbeat_interval.saturating_mul(self.election_ticks.saturating_sub(slack))
    }

    /// How long a lease lasts, from when the round began that it rests on: a [`promise`](Self::promise), less what the
    /// drift between two clocks takes. Zero without [`lease_reads`](Self::lease_reads).
    #[must_use]
    pub fn lease(&self) -> Duration {
        let drift = self.lease_drift.filter(|_| !planted("drift-not-allowed-for")).unwrap_or(0);
        self.promise().saturating_mul(100) / 100_u32.saturating_add(drift)
    }

    /// The shortest time without a leader after which a follower campaigns.
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

    /// Checks that what raft makes of the largest request, or of many small ones, fits a transport's frame.
    pub(crate) fn validate_frame(&self, frame: usize) -> Result<(), ConfigError> {
        /// More than the head of an append of one entry takes.
        const HEAD: u64 = 1 << 10;
        let request = (self.max_request_bytes + Payload::MAX_OVERHEAD) as u64;
        let (message, frame) = (self.max_size_per_msg.max(request) + HEAD, frame as u64);
        if message > frame {
            Err(ConfigError::MessageBeyondFrame { message, frame })
        } else {
            Ok(())
        }
    }

    /// Checks that the parts fit together. Starting a node does the same.
    ///
    /// # Errors
    /// What does not fit.
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
