//! How often a start reads the log: it may be long.

use std::collections::BTreeMap;
use std::sync::Arc;

use oarlock_raftnode::bootstrap::{Boot, Recovered, Standalone, boot};
use oarlock_raftnode::membership::{ProposalId, UncommittedTail};
use oarlock_raftnode::raft::eraftpb::{Entry, EntryType};
use oarlock_raftnode::raft::{GetEntriesContext, Storage};
use oarlock_raftnode::testing::hard_state;
use oarlock_raftnode::transport::{Identity, MemNetwork};
use oarlock_raftnode::{
    Config, LogBatch, LogError, LogReader, LogState, LogStore, LogView, MemSnapshots, MemStore,
    NodeBuilder, Payload, convert,
};
use parking_lot::Mutex;

use crate::place::founders;

/// What was read of a log: how often each entry, and how many bytes at once.
#[derive(Clone, Default)]
struct Reads {
    times: Arc<Mutex<BTreeMap<u64, u32>>>,
    most: Arc<Mutex<usize>>,
}

impl Reads {
    fn times(&self, index: u64) -> u32 {
        self.times.lock().get(&index).copied().unwrap_or_default()
    }
}

struct Counting(MemStore, Reads);

impl LogStore for Counting {
    fn state(&self) -> Result<LogState, LogError> {
        self.0.state()
    }
    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(CountingReader(self.0.reader(), self.1.clone()))
    }
    fn append(&mut self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        self.0.append(batch)
    }
    fn sync(&mut self) -> Result<(), LogError> {
        self.0.sync()
    }
    fn release(&mut self, before: u64) -> Result<(), LogError> {
        self.0.release(before)
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn close(self: Box<Self>) -> Result<(), LogError> {
        Box::new(self.0).close()
    }
}

struct CountingReader(Arc<dyn LogReader>, Reads);

impl LogReader for CountingReader {
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let entries = self.0.entries(low, high, max_bytes)?;
        let Reads { times, most } = &self.1;
        entries.iter().for_each(|entry| *times.lock().entry(entry.index).or_default() += 1);
        let bytes: usize = entries.iter().map(|entry| entry.data.len()).sum();
        let mut most = most.lock();
        *most = bytes.max(*most);
        Ok(entries)
    }
    fn term(&self, index: u64) -> Result<u64, LogError> {
        self.0.term(index)
    }
    fn first_index(&self) -> u64 {
        self.0.first_index()
    }
    fn last_index(&self) -> u64 {
        self.0.last_index()
    }
}

const LAST: u64 = 103;
const LEN: usize = 200_000;

/// One of three founders, with a hundred long entries of which nobody knows whether they are committed.
fn member() -> (Counting, MemSnapshots) {
    let (mut store, snapshots) = (MemStore::new(), MemSnapshots::new());
    let cluster = founders(3);
    let id = cluster.members().next().expect("three").id;
    boot(&mut store, &snapshots, &Boot::New { id, cluster }).expect("empty");
    let entries: Vec<_> = (4..=LAST)
        .map(|index| {
            let id = ProposalId { origin: 9, incarnation: 1, sequence: index };
            let payload = Payload::Application { id, data: vec![b'x'; LEN].into() };
            convert::entry(index, 2, EntryType::EntryNormal, payload.encode())
        })
        .collect();
    let hard_state = Some(hard_state(2, 0, 3));
    let batch = LogBatch { entries: &entries, hard_state, ..LogBatch::default() };
    store.append(&batch).expect("it fits");
    store.sync().expect("no fault");
    (Counting(store, Reads::default()), snapshots)
}

/// The checks of the boot see every entry, and what else has to be known of them is noted on the way.
#[test]
fn a_start_reads_what_is_not_committed_once() {
    let (mut log, snapshots) = member();
    let reads = log.1.clone();
    let recovered = boot(&mut log, &snapshots, &Boot::Restart).expect("it boots");
    let transport =
        MemNetwork::new(1).endpoint(Identity::new(recovered.id, recovered.cluster.id()));
    let transport = Arc::new(transport);
    let builder = NodeBuilder::new(Config::new(), recovered, Box::new(log), Arc::new(snapshots));
    let (node, queue) = builder
        .start_handoff::<(), _>(0, |handler| {
            transport.start(handler);
            Ok(transport)
        })
        .expect("it starts");
    node.campaign(); // before which raft-rs counts the changes that are committed
    assert_eq!(node.status().commit, 3, "it cannot win");
    for index in 1..=LAST {
        let applied = u32::from(index <= 3);
        assert_eq!(reads.times(index), 1 + applied, "entry {index}");
    }
    let most = *reads.most.lock();
    assert!(most < (4 << 20) + 2 * LEN, "{most} bytes at once");
    drop(queue);
    node.shutdown();
}

fn changes(recovered: &Recovered, log: &Counting) -> Vec<u64> {
    let view = recovered.view(log.reader(), LogView::DEFAULT_BUDGET).expect("checked");
    let all = view.entries(1, recovered.last_index + 1, None, GetEntriesContext::empty(false));
    let change = |entry: &&Entry| entry.get_entry_type() != EntryType::EntryNormal;
    all.expect("there").iter().filter(change).map(|entry| entry.index).collect()
}

/// The same of a rescue, which adds changes, and may take others away.
#[test]
fn a_rescue_reads_every_entry_once_and_knows_what_it_appended() {
    for tail in [UncommittedTail::Keep, UncommittedTail::Discard] {
        let (mut log, snapshots) = member();
        let reads = log.1.clone();
        let rescue = Standalone { tail, keep_cluster_id: false, again: false };
        let recovered =
            boot(&mut log, &snapshots, &Boot::Standalone(rescue)).expect("it can be rescued");
        let kept = if tail == UncommittedTail::Keep { LAST } else { 3 };
        let expected = [1, 2, 3, kept + 1, kept + 2]; // the founders, and the removal of two of them
        assert_eq!(changes(&recovered, &log), expected, "{tail:?}");
        for index in 1..=LAST {
            assert_eq!(reads.times(index), 1, "{tail:?}: entry {index}");
        }
        let again = boot(&mut log, &snapshots, &Boot::Restart).expect("it boots");
        assert_eq!(changes(&again, &log), expected, "{tail:?}: as if read anew");
    }
}
