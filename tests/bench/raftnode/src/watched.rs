//! A transport that notes when heartbeats leave.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_raftnode::transport::{
    Envelope, PeerError, SnapshotDone, SnapshotEnvelope, Stats, TcpTransport, Transport,
};
use parking_lot::Mutex;

/// When heartbeats left. Clones are the same record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heartbeats(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    last: BTreeMap<u64, Instant>,
    gaps: Vec<Duration>,
}

impl Heartbeats {
    /// Forgets everything.
    pub(crate) fn begin(&self) {
        *self.0.lock() = Record::default();
    }

    fn note(&self, to: u64) {
        let now = Instant::now();
        let mut record = self.0.lock();
        if let Some(last) = record.last.insert(to, now) {
            record.gaps.push(now - last);
        }
    }

    /// The time between two heartbeats to the same member, for all of them since [`begin`](Self::begin).
    pub(crate) fn gaps(&self) -> Vec<Duration> {
        self.0.lock().gaps.clone()
    }
}

/// TCP, watched.
pub(crate) struct Watched {
    pub(crate) transport: TcpTransport,
    pub(crate) heartbeats: Heartbeats,
}

impl Transport for Watched {
    fn send(&self, envelopes: Vec<Envelope>) {
        let beats = envelopes.iter().filter(|envelope| envelope.label == "heartbeat");
        beats.for_each(|envelope| self.heartbeats.note(envelope.to));
        self.transport.send(envelopes);
    }

    fn send_snapshot(
        &self,
        envelope: SnapshotEnvelope,
        content: Box<dyn Read + Send>,
        done: SnapshotDone,
    ) {
        self.transport.send_snapshot(envelope, content, done);
    }

    fn add_peer(&self, id: u64, urls: &[String]) -> Result<(), PeerError> {
        self.transport.add_peer(id, urls)
    }

    fn update_peer(&self, id: u64, urls: &[String]) -> Result<(), PeerError> {
        self.transport.update_peer(id, urls)
    }

    fn remove_peer(&self, id: u64) {
        self.transport.remove_peer(id);
    }

    fn active_since(&self, id: u64) -> Option<Instant> {
        self.transport.active_since(id)
    }

    fn pause(&self) {
        self.transport.pause();
    }

    fn resume(&self) {
        self.transport.resume();
    }

    fn stop(&self) {
        self.transport.stop();
    }

    fn stats(&self) -> Stats {
        self.transport.stats()
    }
}
