//! How often a start reads the log: it may be long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_raftnode::bootstrap::{Boot, Recovered, Standalone, boot};
use oarlock_raftnode::membership::{ProposalId, UncommittedTail};
use oarlock_raftnode::raft::eraftpb::{Entry, EntryType};
use oarlock_raftnode::raft::{GetEntriesContext, Storage};
use oarlock_raftnode::testing::hard_state;
use oarlock_raftnode::transport::{Identity, MemNetwork};
use oarlock_raftnode::{
    Config, LogBatch, LogError, LogReader, LogStore, LogView, MemSnapshots, MemStore, NodeBuilder,
    Payload, convert,
};
use parking_lot::Mutex;

use crate::place::founders;
use crate::read_through::ReadThrough;

/// What was read of a log: how often each entry, and how many bytes at once.
#[derive(Clone, Default)]
struct Reads {
    times: Arc<Mutex<BTreeMap<u64, u32>>>,
    most: Arc<Mutex<usize>>,
}

impl Reads {
    fn read(
        &self,
        log: &dyn LogReader,
        (low, high, max_bytes): (u64, u64, u64),
    ) -> Result<Vec<Entry>, LogError> {
        let entries = log.entries(low, high, max_bytes)?;
        let mut times = self.times.lock();
        entries.iter().for_each(|entry| *times.entry(entry.index).or_default() += 1);
        let bytes: usize = entries.iter().map(|entry| entry.data.len()).sum();
        let mut most = self.most.lock();
        *most = bytes.max(*most);
        drop(most);
        Ok(entries)
    }

    fn times(&self, index: u64) -> u32 {
        self.times.lock().get(&index).copied().unwrap_or_default()
    }
}

const LAST: u64 = 103;
const LEN: usize = 200_000;

/// One of three founders, with a hundred long entries of which nobody knows whether they are committed.
fn member() -> (ReadThrough, Reads, MemSnapshots) {
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
    let reads = Reads::default();
    let counted = reads.clone();
    let log = ReadThrough::new(store, move |log, range| counted.read(log, range));
    (log, reads, snapshots)
}

/// The checks of the boot see every entry, and what else has to be known of them is noted on the way.
#[test]
fn a_start_reads_what_is_not_committed_once() {
    let (mut log, reads, snapshots) = member();
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
    let deadline = Instant::now() + Duration::from_secs(20);
    while reads.times(3) < 2 {
        assert!(Instant::now() < deadline, "what is committed was not read for the apply loop");
        std::thread::sleep(Duration::from_millis(1)); // another thread reads it
    }
    for index in 1..=LAST {
        let applied = u32::from(index <= 3);
        assert_eq!(reads.times(index), 1 + applied, "entry {index}");
    }
    let most = *reads.most.lock();
    assert!(most < (4 << 20) + 2 * LEN, "{most} bytes at once");
    drop(queue);
    node.shutdown();
}

fn changes(recovered: &Recovered, log: &ReadThrough) -> Vec<u64> {
    let view = recovered.view(log.reader(), LogView::DEFAULT_BUDGET).expect("checked");
    let all = view.entries(1, recovered.last_index + 1, None, GetEntriesContext::empty(false));
    let change = |entry: &&Entry| entry.get_entry_type() != EntryType::EntryNormal;
    all.expect("there").iter().filter(change).map(|entry| entry.index).collect()
}

/// The same of a rescue, which adds changes, and may take others away.
#[test]
fn a_rescue_reads_every_entry_once_and_knows_what_it_appended() {
    for tail in [UncommittedTail::Keep, UncommittedTail::Discard] {
        let (mut log, reads, snapshots) = member();
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
