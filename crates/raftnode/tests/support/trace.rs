//! What a node does to its disk, its network and its observer, in order, and gates to hold that up.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oarlock_raftnode::transport::{
    Envelope, Lane, MemTransport, PeerError, SnapshotDone, SnapshotEnvelope, Stats, Transport,
};
use oarlock_raftnode::{
    LogBatch, LogError, LogReader, LogState, LogStore, MemStore, NodeEnd, Observer, Vitals,
};
use parking_lot::{Condvar, Mutex};

/// What happened, in order; and a gate that holds up syncs.
#[derive(Clone, Default)]
pub(crate) struct Trace {
    pub(crate) events: Arc<Mutex<Vec<String>>>,
    gate: Arc<(Mutex<bool>, Condvar)>,
    fails: Arc<AtomicBool>,
    delay: Arc<Mutex<Duration>>,
}

impl Trace {
    pub(crate) fn say(&self, event: impl Into<String>) {
        self.events.lock().push(event.into());
    }

    /// Lets the next sync fail, and those after it succeed, as a kernel does.
    pub(crate) fn fail_next_sync(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }

    pub(crate) fn shut(&self, shut: bool) {
        *self.gate.0.lock() = shut;
        self.gate.1.notify_all();
    }

    /// From now on a sync takes this much longer.
    pub(crate) fn slow(&self, delay: Duration) {
        *self.delay.lock() = delay;
    }

    fn pass(&self) {
        let delay = *self.delay.lock();
        std::thread::sleep(delay);
        let mut shut = self.gate.0.lock();
        while *shut {
            self.gate.1.wait(&mut shut);
        }
    }
}

pub(crate) struct Recorder {
    pub(crate) inner: MemStore,
    pub(crate) trace: Trace,
}

impl LogStore for Recorder {
    fn state(&self) -> Result<LogState, LogError> {
        self.inner.state()
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.inner.reader()
    }

    fn append(&mut self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        if let Some(mark) = &batch.install {
            let whole = batch.hard_state.as_ref().is_some_and(|state| state.commit >= mark.index);
            self.trace.say(format!("install {}", mark.index));
            self.trace.say(if whole { "with its term and commit" } else { "alone" });
        }
        for entry in batch.entries {
            self.trace.say(format!("append {}", entry.index));
        }
        if let Some(mark) = &batch.compact {
            self.trace.say(format!("mark {}", mark.index));
        }
        self.inner.append(batch)
    }

    fn max_batch(&self) -> u64 {
        self.inner.max_batch()
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.trace.pass();
        if self.trace.fails.swap(false, Ordering::Relaxed) {
            self.trace.say("a sync fails");
            let source = std::io::Error::other("asked to fail");
            return Err(LogError::Io { op: "sync", source });
        }
        self.inner.sync()?;
        self.trace.say("sync");
        Ok(())
    }

    fn release(&mut self, before: u64) -> Result<(), LogError> {
        self.trace.say(format!("release {before}"));
        let _ = self.inner.release(before); // refused if no synced mark covers it: what is recorded shows that
        Ok(())
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        self.trace.say("close");
        Box::new(self.inner).close()
    }
}

type Kept = (SnapshotEnvelope, Box<dyn Read + Send>, SnapshotDone);

/// A transport that records what leaves, and keeps snapshots under way for as long as the gate is shut.
pub(crate) struct Spy {
    pub(crate) inner: MemTransport,
    pub(crate) trace: Trace,
    /// Snapshots that nobody has heard of yet, in either direction.
    pub(crate) kept: Mutex<Vec<Kept>>,
    pub(crate) keeps: bool,
    /// A peer whose append lane takes nothing, and what waits in it.
    slow: Mutex<Option<u64>>,
    lane: Mutex<Vec<Envelope>>,
}

impl Spy {
    pub(crate) fn new(inner: MemTransport, trace: Trace, keeps: bool) -> Self {
        let (kept, slow, lane) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { inner, trace, kept, keeps, slow, lane }
    }

    /// From now on the append lane to `peer` takes nothing.
    pub(crate) fn block(&self, peer: u64) {
        *self.slow.lock() = Some(peer);
    }

    /// How many messages, and how many bytes of entries, wait in the lane that takes nothing.
    pub(crate) fn blocked(&self) -> (usize, u64) {
        let lane = self.lane.lock();
        (
            lane.len(),
            lane.iter().flat_map(|envelope| &envelope.payloads).map(|p| p.len() as u64).sum(),
        )
    }

    /// What waits arrives, and what is sent from now on.
    pub(crate) fn unblock(&self) {
        let mut slow = self.slow.lock();
        self.inner.send(std::mem::take(&mut *self.lane.lock()));
        *slow = None;
    }

    /// Lets the snapshots go that were kept.
    pub(crate) fn let_go(&self) {
        for (envelope, content, done) in std::mem::take(&mut *self.kept.lock()) {
            self.inner.send_snapshot(envelope, content, done);
        }
    }
}

impl Transport for Spy {
    fn send(&self, envelopes: Vec<Envelope>) {
        for envelope in &envelopes {
            self.trace.say(format!("send {}", envelope.label));
        }
        let slow = self.slow.lock();
        let blocked =
            |envelope: &Envelope| Some(envelope.to) == *slow && envelope.lane == Lane::Append;
        let (waits, leaves) = envelopes.into_iter().partition(blocked);
        self.lane.lock().extend::<Vec<Envelope>>(waits);
        self.inner.send(leaves);
    }

    fn send_snapshot(
        &self,
        envelope: SnapshotEnvelope,
        content: Box<dyn Read + Send>,
        done: SnapshotDone,
    ) {
        self.trace.say("send snapshot");
        if self.keeps {
            self.kept.lock().push((envelope, content, done));
        } else {
            self.inner.send_snapshot(envelope, content, done);
        }
    }

    fn add_peer(&self, id: u64, urls: &[String]) -> Result<(), PeerError> {
        self.inner.add_peer(id, urls)
    }

    fn update_peer(&self, id: u64, urls: &[String]) -> Result<(), PeerError> {
        self.inner.update_peer(id, urls)
    }

    fn remove_peer(&self, id: u64) {
        self.inner.remove_peer(id);
    }

    fn active_since(&self, id: u64) -> Option<Instant> {
        self.inner.active_since(id)
    }

    fn pause(&self) {
        self.inner.pause();
    }

    fn resume(&self) {
        self.inner.resume();
    }

    fn stop(&self) {
        self.trace.say("transport stopped");
        self.inner.stop();
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

impl Observer for Trace {
    fn role_changed(&self, vitals: &Vitals) {
        self.say(format!("role {:?}", vitals.role));
    }

    fn ended(&self, _: &NodeEnd) {
        self.say("ended");
    }
}
