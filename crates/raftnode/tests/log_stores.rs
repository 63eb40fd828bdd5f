//! Every log of this crate keeps the promises of `LogStore`.

use oarlock_raftnode::testing::{LogFixture, log_store};
use oarlock_raftnode::{LogStore, MemStore, convert};

/// Loses everything unsynced, or keeps some of it, in turn.
struct InMemory(usize);

impl LogFixture for InMemory {
    type Store = MemStore;

    fn create(&mut self) -> MemStore {
        MemStore::new()
    }

    fn crash(&mut self, store: MemStore) -> MemStore {
        self.0 += 1;
        store.crash_keeping(self.0 % 3)
    }

    fn reopen(&mut self, store: MemStore) -> Option<MemStore> {
        let disk = store.clone();
        Box::new(store).close().expect("no fault");
        Some(disk.crash())
    }

    fn fail_next_sync(&mut self, store: &mut MemStore) -> bool {
        store.fail_next_sync();
        true
    }
}

#[test]
fn mem_store_keeps_its_promises() {
    log_store(&mut InMemory(0));
}

#[test]
fn a_failed_sync_poisons_for_good() {
    let mut log = MemStore::new();
    log.fail_next_sync();
    assert!(log.sync().is_err());
    for _ in 0..3 {
        assert!(matches!(log.sync(), Err(oarlock_raftnode::LogError::Poisoned { .. })));
    }
}

#[cfg(feature = "wal")]
mod wal {
    use std::sync::Arc;

    use oarlock_raftnode::wal::testing::{Fault, Op, SimDisk, Unsynced};
    use oarlock_raftnode::{LogBatch, LogError, SnapshotId, WalOptions, WalStore, WalStoreError};

    use super::*;

    /// Each log on a simulated disk of its own; power loss takes all, none, or a random part of what was not synced.
    struct OnSimDisk {
        disk: SimDisk,
        crashes: u64,
    }

    fn options(disk: &SimDisk) -> WalOptions {
        WalOptions::new("/data")
            .segment_size(64 << 10)
            .vfs(Arc::new(disk.clone()))
            .maintainer(false)
    }

    impl LogFixture for OnSimDisk {
        type Store = WalStore;

        fn create(&mut self) -> WalStore {
            self.disk = SimDisk::new();
            options(&self.disk).create().expect("a new disk takes a log")
        }

        fn crash(&mut self, store: WalStore) -> WalStore {
            self.crashes += 1;
            self.disk = self.disk.reboot(match self.crashes % 4 {
                0 => Unsynced::Lost,
                1 => Unsynced::Kept,
                _ => Unsynced::Random(self.crashes),
            });
            drop(store);
            options(&self.disk).open().expect("a crash leaves a log that opens")
        }

        fn reopen(&mut self, store: WalStore) -> Option<WalStore> {
            Box::new(store).close().expect("no fault");
            self.disk = self.disk.reboot(Unsynced::Lost);
            Some(options(&self.disk).open().expect("what was closed opens"))
        }

        fn fail_next_sync(&mut self, _: &mut WalStore) -> bool {
            self.disk.fail_nth(Op::Sync, 1, Fault::Io);
            true
        }
    }

    #[test]
    fn wal_store_keeps_its_promises() {
        log_store(&mut OnSimDisk { disk: SimDisk::new(), crashes: 0 });
    }

    /// On real files a process that dies leaves its page cache: reopening without closing.
    struct OnFiles(Vec<tempfile::TempDir>);

    impl LogFixture for OnFiles {
        type Store = WalStore;

        fn create(&mut self) -> WalStore {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let log = WalOptions::new(dir.path())
                .segment_size(64 << 10)
                .create()
                .expect("a new directory takes a log");
            self.0.push(dir);
            log
        }

        fn crash(&mut self, store: WalStore) -> WalStore {
            drop(store);
            let dir = self.0.last().expect("created before");
            WalOptions::new(dir.path())
                .segment_size(64 << 10)
                .open()
                .expect("what was closed opens")
        }
    }

    #[test]
    fn wal_store_keeps_its_promises_on_files() {
        log_store(&mut OnFiles(Vec::new()));
    }

    #[test]
    fn a_failed_fsync_poisons_a_wal_store_for_good() {
        let disk = SimDisk::new();
        let mut log = options(&disk).create().expect("a new disk takes a log");
        log.append(&LogBatch { metadata: Some("x".into()), ..LogBatch::default() }).expect("fits");
        disk.fail_nth(Op::Sync, 1, Fault::Io);
        assert!(matches!(log.sync(), Err(LogError::Io { .. })));
        disk.heal();
        assert!(matches!(log.sync(), Err(LogError::Poisoned { .. })));
        let batch = LogBatch { metadata: Some("y".into()), ..LogBatch::default() };
        assert!(matches!(log.append(&batch), Err(LogError::Poisoned { .. })));
    }

    /// A log's own upkeep, say, of which nobody waits for the outcome.
    #[test]
    fn whoever_meets_the_poison_is_told_what_failed_first() {
        let disk = SimDisk::new();
        let mut log = options(&disk).create().expect("a new disk takes a log");
        log.append(&LogBatch { metadata: Some("x".into()), ..LogBatch::default() }).expect("fits");
        log.sync().expect("no fault yet");
        disk.fail_nth(Op::Write, 1, Fault::Io);
        log.wal().idle().expect_err("the mark cannot be written");
        disk.heal();
        let batch = LogBatch { metadata: Some("y".into()), ..LogBatch::default() };
        let error = log.append(&batch).expect_err("poisoned");
        let error: &(dyn std::error::Error + 'static) = &error;
        let chain = std::iter::successors(Some(error), |error| error.source());
        let told = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        assert!(told.contains("cannot write to") && told.contains("00000001.wal"), "{told}");
    }

    /// And both stores say for which file there was none.
    #[test]
    fn a_full_disk_is_told_with_the_file() {
        use std::io::Write;
        let disk = SimDisk::new();
        let mut log = options(&disk).create().expect("a new disk takes a log");
        let mut sink = log.snapshots().create(SnapshotId { index: 1, term: 1 }).expect("room");
        disk.set_capacity(Some(disk.used()));
        let error = (1..1000).find_map(|index| {
            let mut entry = oarlock_raftnode::testing::entry(index, 1);
            entry.data = convert::to_raft(vec![b'x'; 2000].into());
            log.append(&LogBatch { entries: &[entry], ..LogBatch::default() }).err()
        });
        let Some(LogError::NoSpace { source }) = error else { panic!("{error:?}") };
        assert!(source.to_string().contains("/data/wal/0000000"), "{source}");
        let told = sink.write_all(&vec![b'x'; 1 << 20]).expect_err("there is no room");
        assert_eq!(told.kind(), std::io::ErrorKind::StorageFull, "{told}");
        assert!(told.to_string().contains("/data/snap/"), "{told}");
    }

    #[test]
    fn an_entry_with_a_context_is_refused() {
        let mut log = options(&SimDisk::new()).create().expect("a new disk takes a log");
        let mut entry = oarlock_raftnode::testing::entry(1, 1);
        entry.set_context("ctx".into());
        let batch = LogBatch { entries: &[entry], ..LogBatch::default() };
        assert!(matches!(log.append(&batch), Err(LogError::Other(_))));
        assert_eq!(log.state().expect("readable").last_index, 0);
    }

    #[test]
    fn snapshots_are_whole_or_not_there() {
        use std::io::{Read, Write};
        let disk = SimDisk::new();
        let log = options(&disk).create().expect("a new disk takes a log");
        let store = log.snapshots();
        let id = SnapshotId { index: 7, term: 2 };
        assert!(store.newest(&|_| true).expect("readable").is_none());
        let mut dropped = store.create(id).expect("room");
        dropped.write_all(b"never committed").expect("room");
        drop(dropped);
        assert!(store.open(id).is_err());
        let mut sink = store.create(id).expect("room");
        sink.write_all(b"content").expect("room");
        assert_eq!(sink.commit().expect("room"), 7);
        let mut source = store.open(id).expect("committed");
        let mut content = String::new();
        source.content.read_to_string(&mut content).expect("whole");
        assert_eq!((source.len, content.as_str()), (7, "content"));
        assert_eq!(store.newest(&|_| true).expect("readable"), Some(id));
        assert_eq!(store.newest(&|id| id.term == 1).expect("readable"), None, "not vouched for");
    }

    /// The log itself would find it when the entry is read; a member must know before it votes.
    #[test]
    fn rot_in_a_segment_that_was_left_is_found_before_the_member_takes_part() {
        let disk = SimDisk::new();
        let mut log = options(&disk).create().expect("a new disk takes a log");
        for index in 1..=100 {
            let mut entry = oarlock_raftnode::testing::entry(index, 1);
            entry.data = convert::to_raft(vec![b'x'; 2000].into());
            log.append(&LogBatch { entries: &[entry], ..LogBatch::default() }).expect("room");
            log.sync().expect("no fault");
        }
        Box::new(log).close().expect("no fault");
        assert!(disk.tamper("/data/wal/00000001.wal", |bytes| bytes[20_000] ^= 1), "it is there");
        let damaged = options(&disk).open().expect_err("damaged");
        let place = "00000001.wal, offset ";
        assert!(
            matches!(damaged, WalStoreError::Log(_)) && damaged.to_string().contains(place),
            "{damaged}"
        );
        options(&disk).verify(false).open().expect("by its footer");
    }

    /// What a member was left with when its log was lost is no place to begin anew: it would serve fewer keys.
    #[test]
    fn snapshots_without_their_log_are_refused() {
        use std::io::Write;
        let dir = tempfile::tempdir().expect("a directory");
        let options = || WalOptions::new(dir.path()).segment_size(64 << 10).maintainer(false);
        let log = options().create().expect("an empty directory takes a log");
        let mut sink = log.snapshots().create(SnapshotId { index: 7, term: 2 }).expect("room");
        sink.write_all(b"content").expect("room");
        sink.commit().expect("room");
        Box::new(log).close().expect("in order");
        drop(options().open_or_create().expect("both are there"));
        std::fs::remove_dir_all(dir.path().join("wal")).expect("it is there");
        for _ in 0..2 {
            let refused = options().open_or_create();
            assert!(matches!(refused, Err(WalStoreError::LogMissing { .. })), "{refused:?}");
        }
        std::fs::remove_dir_all(dir.path().join("snap")).expect("it is there");
        options().open_or_create().expect("an empty directory takes a log");
    }
}
