//! raft-rs alone, in the plain loop that its documentation shows: write, sync, advance, apply, one Ready at a time.
//!
//! Whole clusters of cores are compared with this loop, under random schedules, in the workspace's `tests/src/script`.

use oarlock_raftnode::core::should_wait_wal_sync;
use oarlock_raftnode::raft::storage::MemStorage;
use oarlock_raftnode::raft::{Config, RawNode};

/// etcd had to save before it applied, in a cluster of one (etcd #14370). raft-rs 0.7 gives out as committed only what it
/// was told is durable, with its synchronous `advance` as well as behind a pipeline (where the core asserts it on every
/// Ready).
#[test]
fn a_lone_member_is_never_given_as_committed_what_it_has_yet_to_write() {
    let store = MemStorage::new_with_conf_state((vec![1], vec![]));
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut raw = RawNode::new(&Config::new(1), store.clone(), &logger).expect("it starts");
    raw.campaign().expect("nobody else votes");
    let (mut applied, mut together) = (0, 0);
    for round in 0..200_u32 {
        for n in 0..round % 4 {
            raw.propose(vec![], format!("{round}.{n}").into()).expect("it leads");
        }
        while raw.has_ready() {
            let mut ready = raw.ready();
            let (unstable, committed) = (ready.entries().clone(), ready.take_committed_entries());
            assert!(!should_wait_wal_sync(&unstable, &committed), "{unstable:?}, {committed:?}");
            applied += committed.len();
            store.wl().append(&unstable).expect("contiguous");
            if let Some(hard_state) = ready.hs() {
                store.wl().set_hardstate(hard_state.clone());
            }
            // Only now, told that they are written, raft-rs says that they are committed.
            let mut light = raw.advance(ready);
            let committed = light.take_committed_entries();
            let last = committed.last().map(|entry| entry.index);
            together += u32::from(last.is_some() && last == unstable.last().map(|e| e.index));
            applied += committed.len();
            raw.advance_apply();
        }
    }
    assert_eq!(applied, 1 + 300, "all of it, and the first of the term");
    assert!(together >= 150, "entries were committed by the very sync that wrote them: {together}");
}
