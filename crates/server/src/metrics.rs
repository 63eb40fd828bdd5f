//! Metrics under etcd's names, in Prometheus' text format.
//!
//! The libraries count, and are asked when somebody reads; only durations are recorded here, as they happen.

use std::time::Duration;

use oarlock_membership::Cluster;
use oarlock_raftnode::{Role, Stats, Vitals};
use oarlock_wal::Observer;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector, exponential_buckets,
};

/// Records how long things take.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    fsync: Histogram,
}

/// What the other metrics are at the moment of the question.
pub(crate) struct Reading<'a> {
    pub(crate) id: u64,
    pub(crate) vitals: Vitals,
    pub(crate) stats: Stats,
    pub(crate) pending: usize,
    pub(crate) cluster: &'a Cluster,
    pub(crate) log_bytes: u64,
    pub(crate) log_written: u64,
    pub(crate) state_bytes: u64,
    pub(crate) keys: usize,
    pub(crate) transport: oarlock_transport::Stats,
}

impl Observer for Metrics {
    fn fsync(&self, took: Duration) {
        self.fsync.observe(took.as_secs_f64());
    }
}

impl Metrics {
    /// # Errors
    /// Prometheus' own, for names and buckets that it does not take: a bug.
    pub(crate) fn new() -> prometheus::Result<Self> {
        // etcd's buckets: 1 ms to about 8 s, doubling.
        let options = HistogramOpts::new(
            "etcd_disk_wal_fsync_duration_seconds",
            "The latency distributions of fsync called by WAL.",
        )
        .buckets(exponential_buckets(0.001, 2.0, 14)?);
        Ok(Self { fsync: Histogram::with_opts(options)? })
    }

    /// All metrics as of `reading`.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub(crate) fn text(&self, reading: &Reading<'_>) -> prometheus::Result<String> {
        let page = Page(Registry::new());
        page.add(self.fsync.clone())?;
        page.server(reading)?;
        page.network(&reading.transport)?;
        let mut text = Vec::new();
        TextEncoder::new().encode(&page.0.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The answer to one question.
struct Page(Registry);

impl Page {
    fn add(&self, metric: impl Collector + 'static) -> prometheus::Result<()> {
        self.0.register(Box::new(metric))
    }

    fn gauge(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.add(gauge)
    }

    fn counter(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        let counter = IntCounter::new(name, help)?;
        counter.inc_by(value);
        self.add(counter)
    }

    fn counters<'a>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> prometheus::Result<()> {
        let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
        for (value, count) in values {
            counters.with_label_values(&[value]).inc_by(count);
        }
        self.add(counters)
    }

    fn server(&self, reading: &Reading<'_>) -> prometheus::Result<()> {
        let Reading { vitals, stats, .. } = reading;
        let is_learner = reading.cluster.member(reading.id).is_some_and(|member| member.is_learner);
        self.gauge(
            "etcd_server_has_leader",
            "Whether or not a leader exists.",
            u64::from(vitals.leader != 0),
        )?;
        self.gauge(
            "etcd_server_is_leader",
            "Whether or not this member is a leader.",
            u64::from(vitals.role == Role::Leader),
        )?;
        self.gauge(
            "etcd_server_is_learner",
            "Whether or not this member is a learner.",
            u64::from(is_learner),
        )?;
        let id = IntGaugeVec::new(
            Opts::new("etcd_server_id", "The member's id, as a label."),
            &["server_id"],
        )?;
        id.with_label_values(&[&format!("{:x}", reading.id)]).set(1);
        self.add(id)?;
        let version = IntGaugeVec::new(
            Opts::new("etcd_server_version", "The version that runs, as a label."),
            &["server_version"],
        )?;
        version.with_label_values(&[crate::api::API_VERSION]).set(1);
        self.add(version)?;
        self.gauge("etcd_server_proposals_committed_total", "The commit index.", vitals.commit)?;
        self.gauge("etcd_server_proposals_applied_total", "The applied index.", vitals.applied)?;
        self.gauge(
            "etcd_server_proposals_pending",
            "Proposals that wait for their result.",
            reading.pending as u64,
        )?;
        let counters = [
            ("leader_changes_seen_total", "Leader changes seen.", stats.leader_changes),
            (
                "proposals_failed_total",
                "Proposals that ended without a result.",
                stats.proposals_failed,
            ),
            ("heartbeat_send_failures_total", "Heartbeats that left late.", stats.heartbeats_late),
            (
                "slow_read_indexes_total",
                "Linearizable reads that had to ask again.",
                stats.read_retries,
            ),
            ("read_indexes_failed_total", "Linearizable reads that failed.", stats.reads_failed),
        ];
        for (name, help, value) in counters {
            self.counter(&format!("etcd_server_{name}"), help, value)?;
        }
        let own = [
            ("proposals_forwarded_total", "Proposals sent on to the leader.", stats.forwards),
            ("entries_applied_total", "Entries applied.", stats.applied),
            ("log_writes_total", "Writes to the log.", stats.writes),
            (
                "log_syncs_total",
                "Syncs of the log: fewer than writes means that writers share them.",
                stats.syncs,
            ),
            (
                "disk_stalls_total",
                "Times that the disk stalled for an election timeout.",
                stats.disk_stalls,
            ),
            ("snapshots_taken_total", "Snapshots of the own state.", stats.snapshots_taken),
            (
                "snapshots_failed_total",
                "Snapshots of the own state given up.",
                stats.snapshots_failed,
            ),
            (
                "snapshots_installed_total",
                "Snapshots received and installed.",
                stats.snapshots_installed,
            ),
            (
                "messages_refused_total",
                "Raft messages that the validator refused.",
                stats.messages_refused,
            ),
        ];
        for (name, help, value) in own {
            self.counter(&format!("oarlock_{name}"), help, value)?;
        }
        self.counter(
            "etcd_disk_wal_write_bytes_total",
            "Bytes written to the log.",
            reading.log_written,
        )?;
        self.gauge("oarlock_log_bytes", "Bytes of the log.", reading.log_bytes)?;
        self.gauge("oarlock_keys", "Keys held.", reading.keys as u64)?;
        self.gauge(
            "etcd_mvcc_db_total_size_in_bytes",
            "Bytes of the log and of keys and values.",
            reading.log_bytes.saturating_add(reading.state_bytes),
        )?;
        self.gauge(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Bytes of keys and values.",
            reading.state_bytes,
        )
    }

    fn network(&self, stats: &oarlock_transport::Stats) -> prometheus::Result<()> {
        let names: Vec<String> = stats.peers.keys().map(|id| format!("{id:x}")).collect();
        let peers = || names.iter().map(String::as_str).zip(stats.peers.values());
        let sent = peers().map(|(id, peer)| (id, peer.sent_bytes));
        self.counters("etcd_network_peer_sent_bytes_total", "Bytes sent to peers.", "To", sent)?;
        let received = peers().map(|(id, peer)| (id, peer.received_bytes));
        self.counters(
            "etcd_network_peer_received_bytes_total",
            "Bytes received from peers.",
            "From",
            received,
        )?;
        let dropped = peers().map(|(id, peer)| (id, peer.dropped));
        self.counters("etcd_network_peer_sent_failures_total", "Messages dropped.", "To", dropped)?;
        let refused = peers().map(|(id, peer)| (id, peer.refused_us.values().sum()));
        self.counters(
            "oarlock_network_peer_refused_total",
            "Times that a peer refused this member; /debug/raft/status says why.",
            "By",
            refused,
        )?;
        let large = peers().map(|(id, peer)| (id, peer.too_large));
        self.counters(
            "oarlock_network_peer_too_large_total",
            "Messages that a peer's frames, or ours, cannot hold: give all members the same limits.",
            "To",
            large,
        )?;
        let sent = peers().map(|(id, peer)| (id, peer.snapshots_sent));
        self.counters(
            "etcd_network_snapshot_send_success_total",
            "Snapshots that peers accepted.",
            "To",
            sent,
        )?;
        let failed = peers().map(|(id, peer)| (id, peer.snapshots_failed));
        self.counters(
            "etcd_network_snapshot_send_failures_total",
            "Snapshots that did not arrive.",
            "To",
            failed,
        )?;
        let received = peers().map(|(id, peer)| (id, peer.snapshots_received));
        self.counters(
            "etcd_network_snapshot_receive_success_total",
            "Snapshots accepted.",
            "From",
            received,
        )?;
        let refused = stats.refused.iter().map(|(reason, count)| (*reason, *count));
        self.counters(
            "oarlock_network_refused_total",
            "Handshakes, snapshots and queries refused.",
            "reason",
            refused,
        )?;
        let faults = stats.faults.iter().map(|(fault, count)| (*fault, *count));
        self.counters(
            "oarlock_network_faults_total",
            "Connections ended for what they sent.",
            "fault",
            faults,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_etcds_names_and_buckets() {
        let metrics = Metrics::new().expect("valid names");
        metrics.fsync(Duration::from_millis(3));
        let reading = Reading {
            id: 0x8e9e,
            vitals: Vitals::default(),
            stats: Stats::default(),
            pending: 2,
            cluster: &Cluster::new(1),
            log_bytes: 5,
            log_written: 9,
            state_bytes: 7,
            keys: 1,
            transport: oarlock_transport::Stats::default(),
        };
        let text = metrics.text(&reading).expect("valid names");
        for line in [
            "etcd_server_has_leader 0",
            "etcd_server_proposals_pending 2",
            "etcd_server_id{server_id=\"8e9e\"} 1",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 0",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.004\"} 1",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 1",
            "etcd_disk_wal_write_bytes_total 9",
            "etcd_mvcc_db_total_size_in_bytes 12",
            "# TYPE etcd_server_leader_changes_seen_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
