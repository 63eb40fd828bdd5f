//! Snapshots: written beside apply, streamed to followers, received from a leader.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use oarlock_transport::Transport;
use raft::eraftpb::Message;

use super::events::Control;
use super::shared::Shared;
use crate::bootstrap::Recovered;
use crate::chain::Chain;
use crate::failpoint::fail_point;
#[cfg(feature = "failpoints")]
use crate::failpoint::injected;
use crate::hex::Hex;
use crate::planted::planted;
use crate::snapshot_head::{SnapshotHead, SnapshotHeadError};
use crate::{NodeError, SnapshotError, SnapshotId, SnapshotStore, SnapshotView, StartError, wire};

/// Snapshots that are sent at the same time, at most (O10), as in etcd.
const MAX_IN_FLIGHT: usize = 16;

/// Opens a stored snapshot: returns its verified head, and the rest for the state machine to read.
pub(super) fn open(
    store: &dyn SnapshotStore,
    id: SnapshotId,
) -> Result<(SnapshotHead, Box<dyn Read + Send>), NodeError> {
    let index = id.index;
    let mut source = store.open(id)?;
    let bad =
        |error: SnapshotHeadError| NodeError::BadSnapshot { index, reason: error.to_string() };
    let head = SnapshotHead::read_from(&mut source.content).map_err(bad)?;
    if head.id() != id {
        let reason = format!("it says that it is {}", head.id());
        return Err(NodeError::BadSnapshot { index, reason });
    }
    Ok((head, source.content))
}

/// The same while a node starts.
pub(super) fn open_at_start(
    store: &dyn SnapshotStore,
    id: SnapshotId,
) -> Result<(SnapshotHead, Box<dyn Read + Send>), StartError> {
    open(store, id).map_err(|error| match error {
        NodeError::Snapshot(error) => StartError::Snapshot(error),
        other => StartError::SnapshotHead(other.to_string()),
    })
}

/// Refuses another store of snapshots than the one that was booted with: what it lacks could be sent to nobody, and
/// what it holds of another member would be purged.
///
/// It may hold what the log does not vouch for, since a crash may come between a file and its mark (O5); so among
/// members of one cluster only the snapshot that the log begins with tells their stores apart.
pub(super) fn check(store: &dyn SnapshotStore, recovered: &Recovered) -> Result<(), StartError> {
    if let Some(expected) = &recovered.head {
        let needed = expected.id();
        return match open_at_start(store, needed) {
            Ok((head, _)) if head == *expected => Ok(()),
            Ok(_) | Err(StartError::Snapshot(SnapshotError::NotFound(_))) => {
                Err(StartError::OtherSnapshots { needed })
            }
            Err(error) => Err(error),
        };
    }
    let Some(found) = store.newest(&|_| true)? else { return Ok(()) };
    let Ok((SnapshotHead { cluster, .. }, _)) = open(store, found) else { return Ok(()) };
    // A rescue leaves snapshots with the id from before it.
    if cluster.id() != recovered.cluster.id() && cluster.epoch() >= recovered.rescue_epoch {
        return Err(StartError::ForeignSnapshots { found, cluster: cluster.id() });
    }
    Ok(())
}

/// Removes older snapshots, on a thread of its own: removing a large file takes time, and the node thread must not wait
/// for a disk (O12).
pub(super) fn purge(shared: &Arc<Shared>, keep_from: u64) {
    let (id, snapshots) = (shared.id, Arc::clone(&shared.snapshots));
    let purge = move || {
        if let Err(error) = snapshots.purge(keep_from) {
            log::warn!(id:% = Hex(id), error:% = Chain(&error); "old snapshots could not be removed");
        }
    };
    if planted("purge-waited-for") {
        return purge();
    }
    let spawned = thread::Builder::new().name("oarlock-purge".into()).spawn(purge);
    if let Err(error) = spawned {
        log::warn!(id:% = Hex(id), error:%; "no thread to remove old snapshots on; the next time will do");
    }
}

/// Writes a snapshot of this node's state, on a thread of its own, and reports how that ended.
pub(super) fn write(
    shared: &Arc<Shared>,
    head: SnapshotHead,
    mut view: Box<dyn SnapshotView>,
    writing: &Arc<AtomicBool>,
    written: Arc<AtomicU64>,
) {
    let worker = Arc::clone(shared);
    let done = Writing(Arc::clone(writing));
    let spawned = thread::Builder::new().name("oarlock-snapshot".into()).spawn(move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            write_file(worker.id, &*worker.snapshots, &head, &mut *view)
        }));
        drop(view);
        if let Ok(Ok(_)) = &outcome {
            // A newer one may have been installed meanwhile.
            written.fetch_max(head.mark.index, Ordering::AcqRel);
        }
        drop(done);
        match outcome {
            Ok(Ok(len)) => {
                let announcement = head.announce(len);
                worker.counters.snapshots_taken.add(1);
                worker.inbox.control(Control::SnapshotTaken { mark: head.mark, announcement });
            }
            Ok(Err(error)) => {
                // Nothing is lost: the log is not compacted, and the next snapshot may succeed.
                log::warn!(id:% = Hex(worker.id), index = head.mark.index, error:% = Chain(&error); "a snapshot could not be written");
                worker.counters.snapshots_failed.add(1);
            }
            Err(panic) => {
                let error = super::panicked("oarlock-snapshot", &*panic);
                worker.inbox.control(Control::Failed(error));
            }
        }
    });
    if let Err(error) = spawned {
        log::warn!(id:% = Hex(shared.id), error:%; "no thread to write a snapshot on");
        shared.counters.snapshots_failed.add(1);
    }
}

struct Writing(Arc<AtomicBool>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn write_file(
    id: u64,
    store: &dyn SnapshotStore,
    head: &SnapshotHead,
    view: &mut dyn SnapshotView,
) -> Result<u64, SnapshotError> {
    let wrap = |source: io::Error| match source.kind() {
        io::ErrorKind::StorageFull => SnapshotError::NoSpace { source },
        _ => SnapshotError::Io { op: "write", source },
    };
    let mut sink = store.create(head.id())?;
    {
        let mut buffered = BufWriter::with_capacity(1 << 16, &mut sink);
        head.write_to(&mut buffered).map_err(wrap)?;
        view.write_to(&mut buffered).map_err(wrap)?;
        buffered.flush().map_err(wrap)?;
    }
    fail_point!("raftBeforeCommitSnap", id, Err(wrap(injected())));
    let len = sink.commit()?;
    fail_point!("raftAfterCommitSnap", id, Err(wrap(injected())));
    Ok(len)
}

/// The snapshots that are being sent.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// How many are being sent, by index.
    indexes: BTreeMap<u64, usize>,
}

impl Sending {
    /// The index of the oldest: what follows it must stay in the log (O26).
    pub(super) fn oldest(&self) -> Option<u64> {
        self.indexes.keys().next().copied()
    }

    /// Counts one more, and returns whether that is within the limit.
    fn begin(&mut self, index: u64) -> bool {
        *self.indexes.entry(index).or_default() += 1;
        self.indexes.values().sum::<usize>() <= MAX_IN_FLIGHT
    }

    pub(super) fn ended(&mut self, index: u64) {
        if let Some(count) = self.indexes.get_mut(&index) {
            *count -= 1;
            if *count == 0 {
                self.indexes.remove(&index);
            }
        }
    }

    /// Starts to send the snapshot of a `MsgSnapshot`. Its outcome is always reported as [`Control::SnapshotSent`],
    /// even if it is not sent at all (O10): until then raft-rs does not replicate to the follower.
    pub(super) fn send(
        &mut self,
        shared: &Arc<Shared>,
        transport: &dyn Transport,
        message: &Message,
    ) {
        let to = message.to;
        let index = message.get_snapshot().get_metadata().index;
        let term = message.get_snapshot().get_metadata().term;
        let room = self.begin(index);
        let mut report = Report { shared: Arc::clone(shared), to, index, ok: false };
        if !room {
            log::warn!(id:% = Hex(shared.id), to:% = Hex(to), index; "too many snapshots are being sent");
            return;
        }
        let content = Content {
            store: Arc::clone(&shared.snapshots),
            id: SnapshotId { index, term },
            opened: None,
        };
        let announced = SnapshotHead::announced_len(message.get_snapshot().data.clone());
        let envelope = announced
            .map_err(|error| error.to_string())
            .and_then(|len| wire::encode_snapshot(message, len).map_err(|error| error.to_string()));
        let envelope = match envelope {
            Ok(envelope) => envelope,
            Err(error) => {
                log::error!(id:% = Hex(shared.id), to:% = Hex(to), index, error:%; "a snapshot cannot be sent");
                return;
            }
        };
        log::info!(id:% = Hex(shared.id), to:% = Hex(to), index, bytes = envelope.len; "sending a snapshot");
        let done = Box::new(move |outcome: Result<(), oarlock_transport::SnapshotSendError>| {
            if let Err(error) = &outcome {
                log::warn!(id:% = Hex(report.shared.id), to:% = Hex(to), index, error:% = Chain(error); "a snapshot was not delivered");
            }
            report.ok = outcome.is_ok() || planted("refused-snapshot-counts-as-sent");
            drop(report);
        });
        transport.send_snapshot(envelope, Box::new(content), done);
    }
}

/// The content of a stored snapshot, opened on first read by the transport's thread, because the node thread must not
/// wait for a disk (O12).
struct Content {
    store: Arc<dyn SnapshotStore>,
    id: SnapshotId,
    opened: Option<Box<dyn Read + Send>>,
}

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(content) = &mut self.opened {
            return content.read(buf);
        }
        let source = self.store.open(self.id).map_err(io::Error::other)?;
        self.opened.insert(source.content).read(buf)
    }
}

/// Reports the outcome when dropped, so that no path can forget to.
struct Report {
    shared: Arc<Shared>,
    to: u64,
    index: u64,
    ok: bool,
}

impl Drop for Report {
    fn drop(&mut self) {
        let Self { to, index, ok, .. } = *self;
        if !ok && planted("dropped-snapshot-not-reported") {
            return;
        }
        let counters = &self.shared.counters;
        let count = if ok { &counters.snapshots_sent } else { &counters.snapshots_send_failed };
        count.add(1);
        self.shared.inbox.control(Control::SnapshotSent { to, index, ok });
    }
}

/// Stores a snapshot that a peer streams, completely and durably (O25); the transport verifies each chunk. Its head has
/// to agree with the message that came with it.
pub(super) fn store(
    store: &dyn SnapshotStore,
    message: &Message,
    len: u64,
    content: &mut dyn Read,
) -> Result<(), String> {
    let metadata = message.get_snapshot().get_metadata();
    let id = SnapshotId { index: metadata.index, term: metadata.term };
    let data = message.get_snapshot().data.clone();
    let (announced, announced_len) =
        SnapshotHead::parse_announcement(data).map_err(|error| error.to_string())?;
    if announced.id() != id || announced_len != len {
        return Err(format!("snapshot {id} comes with the head of {}", announced.id()));
    }
    let text = |error: SnapshotError| error.to_string();
    let mut sink = store.create(id).map_err(text)?;
    let copied = io::copy(content, &mut sink).map_err(|error| error.to_string())?;
    if copied != len {
        return Err(format!("{copied} of {len} bytes arrived"));
    }
    fail_point!("raftBeforeReceiveSnap", message.to, Err(injected().to_string()));
    sink.commit().map_err(text)?;
    fail_point!("raftAfterReceiveSnap", message.to, Err(injected().to_string()));
    let mut source = store.open(id).map_err(text)?;
    let head = SnapshotHead::read_from(&mut source.content).map_err(|error| error.to_string())?;
    if head.id() != id {
        return Err(format!("the content of snapshot {id} says that it is {}", head.id()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_snapshots_are_sent_at_once_and_no_more() {
        let mut sending = Sending::default();
        for n in 0..MAX_IN_FLIGHT as u64 {
            assert!(sending.begin(5 + n % 3));
        }
        assert!(!sending.begin(9), "one too many");
        sending.ended(9); // as is reported at once
        assert_eq!(sending.oldest(), Some(5));
        sending.ended(5);
        assert!(sending.begin(9), "there is room again");
    }
}
