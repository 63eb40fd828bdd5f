//! Snapshot files on a disk that crashes and fails: nothing, or the whole file.
#![cfg(feature = "testing")]

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use oarlock_wal::Vfs;
use oarlock_wal::snapshot::{Error, Options, SnapshotStore};
use oarlock_wal::testing::{Event, Fault, Op, SimDisk};

const DIR: &str = "/data/snap";
const FILE: &str = "/data/snap/000000000000002a-0000000000000007.snap";
const TEMPORARY: &str = "/data/snap/000000000000002a-0000000000000007.snap.tmp";

fn open(disk: &SimDisk) -> Result<SnapshotStore, Error> {
    Options::new().vfs(Arc::new(disk.clone())).open(DIR)
}

/// More than a chunk, and different for each version.
fn content(version: u8) -> Vec<u8> {
    vec![version; 66_000]
}

fn put(store: &SnapshotStore, index: u64, content: &[u8]) -> Result<(), Error> {
    let mut writer = store.create(index, 7)?;
    // The same error as of `commit`, which follows.
    let _ = writer.write_all(content);
    writer.commit().map(drop)
}

fn get(store: &SnapshotStore, index: u64) -> Result<Option<Vec<u8>>, Error> {
    let mut reader = match store.open_file(index, 7) {
        Err(Error::NotFound { .. }) => return Ok(None),
        reader => reader?,
    };
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(_) => Ok(Some(bytes)),
        Err(source) => Err(Error::Io { op: "read", path: FILE.into(), source }),
    }
}

/// O5: what `commit` returned for is there after any power cut; before, it is there whole or not at all.
#[test]
fn a_power_cut_anywhere_leaves_nothing_or_the_whole_file() {
    let disk = SimDisk::new();
    disk.record();
    let store = open(&disk).expect("no fault");
    for version in 1..=2 {
        put(&store, 42, &content(version)).expect("no fault");
        disk.note(format!("committed {version}"));
    }
    put(&store, 43, &content(3)).expect("no fault");
    disk.note("purging");
    assert_eq!(store.purge(43).expect("no fault"), 1);
    disk.note("purged");

    let mut states = 0;
    for point in disk.crash_points() {
        let promised = |note: &str| point.notes.iter().any(|n| n == note);
        for outcome in point.disk.outcomes(12) {
            let context =
                format!("after change {}, {outcome:?}, notes {:?}", point.changes, point.notes);
            let after = point.disk.fork().reboot(outcome);
            let store = open(&after).unwrap_or_else(|e| panic!("{context}: {e}"));
            let found = get(&store, 42).unwrap_or_else(|e| panic!("{context}: {e}"));
            let allowed = [
                (!promised("committed 1") || promised("purging")).then_some(None),
                (!promised("committed 2") && !promised("purged")).then(|| Some(content(1))),
                (promised("committed 1") && !promised("purged")).then(|| Some(content(2))),
            ];
            assert!(allowed.contains(&Some(found)), "{context}");
            let newest = store.newest(|_, _| true).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(
                newest,
                store.list().first().copied(),
                "{context}: set aside what a crash left"
            );
            assert!(after.contents(TEMPORARY).is_none(), "{context}");
            states += 1;
        }
    }
    assert!(states > 300, "only {states} states were tried");
}

#[test]
fn a_killed_writer_leaves_nothing_once_the_store_is_opened_again() {
    let disk = SimDisk::new();
    let store = open(&disk).expect("no fault");
    let mut writer = store.create(42, 7).expect("free");
    writer.write_all(&content(1)).expect("no fault");
    let next = disk.kill();
    writer.commit().expect_err("the process is dead");
    assert!(next.contents(TEMPORARY).is_some());
    let store = open(&next).expect("no fault");
    assert!(store.list().is_empty());
    assert!(next.contents(TEMPORARY).is_none());
}

#[test]
fn the_file_is_synced_before_it_has_its_name_and_the_name_before_commit_returns() {
    let disk = SimDisk::new();
    let store = open(&disk).expect("no fault");
    put(&store, 42, &content(1)).expect("no fault");
    disk.note("committed");
    let trace = disk.trace();
    let last = |wanted: &dyn Fn(&Event) -> bool| trace.iter().rposition(wanted).expect("traced");
    let order = [
        last(&|e| e.is(Op::Write, TEMPORARY)),
        last(&|e| e.is(Op::Sync, TEMPORARY)),
        last(&|e| e.is(Op::Rename, FILE)),
        last(&|e| e.is(Op::SyncDir, DIR)),
        last(&|e| *e == Event::Note("committed".into())),
    ];
    assert!(order.is_sorted(), "{order:?}");
}

/// O13: whatever fails before the name is given, there is no file, nothing is tried twice, and the store goes on.
#[test]
fn a_failed_step_leaves_no_file() {
    for (op, fault) in [
        (Op::Create, Fault::Io),
        (Op::Write, Fault::Io),
        (Op::Write, Fault::Short(10)),
        (Op::Write, Fault::NoSpace),
        (Op::Sync, Fault::Io),
        (Op::Rename, Fault::Io),
    ] {
        for nth in 1.. {
            let disk = SimDisk::new();
            let store = open(&disk).expect("no fault yet");
            let before = disk.count(op);
            disk.fail_nth(op, nth, fault);
            let done = put(&store, 42, &content(1));
            if disk.count(op) - before < nth {
                done.expect("the fault was never due");
                assert!(nth > 1, "{op:?} was never done");
                break;
            }
            done.expect_err("planned");
            assert_eq!(disk.count(op) - before, nth, "{op:?} was done again after its failure");
            assert!(store.list().is_empty());
            assert_eq!(
                disk.list(Path::new(DIR)).expect("lists"),
                [""; 0],
                "{op:?} {nth} {fault:?}"
            );
            put(&store, 42, &content(2)).expect("another file, another try");
            assert_eq!(get(&store, 42).expect("reads"), Some(content(2)));
        }
    }
}

/// O13: after a failed sync of the directory no later one proves anything.
#[test]
fn a_failed_sync_of_the_directory_poisons_the_store() {
    let disk = SimDisk::new();
    let store = open(&disk).expect("no fault yet");
    put(&store, 41, &content(0)).expect("no fault yet");
    let mut waiting = store.create(44, 7).expect("free");
    waiting.write_all(&content(4)).expect("no fault yet");
    disk.fail_nth(Op::SyncDir, 1, Fault::Io);
    put(&store, 42, &content(1)).expect_err("planned");
    assert_eq!(store.list().len(), 1, "42 is not known to be durable");
    assert!(matches!(put(&store, 43, &content(1)), Err(Error::Poisoned)));
    assert!(matches!(waiting.commit(), Err(Error::Poisoned)));
    assert_eq!(get(&store, 41).expect("reading goes on"), Some(content(0)));
    let next = open(&disk.kill()).expect("opens");
    assert_eq!(get(&next, 42).expect("whole, if it is there"), Some(content(1)));
}

#[test]
fn a_writer_is_poisoned_by_its_first_failure() {
    let disk = SimDisk::new();
    let store = open(&disk).expect("no fault yet");
    let mut writer = store.create(42, 7).expect("free");
    disk.fail_nth(Op::Write, 1, Fault::Io);
    let error = writer.write_all(&[0; 200_000]).expect_err("planned");
    assert_ne!(error.kind(), io::ErrorKind::WriteZero);
    let error = writer.write(b"more").expect_err("poisoned");
    assert!(matches!(error.downcast(), Ok(Error::Poisoned)));
    assert!(matches!(writer.commit(), Err(Error::Poisoned)));
}

#[test]
fn a_full_disk_is_reported_as_such_and_space_is_given_back() {
    let disk = SimDisk::new();
    let store = open(&disk).expect("no fault");
    disk.set_capacity(Some(100_000));
    match put(&store, 42, &[0; 200_000]) {
        Err(Error::Poisoned) => {} // `write_all` was told why
        other => panic!("{other:?}"),
    }
    let mut writer = store.create(42, 7).expect("free");
    let error = writer.write_all(&[0; 200_000]).expect_err("full");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    drop(writer);
    put(&store, 42, &content(1)).expect("fits");
}

#[test]
fn a_file_that_cannot_be_read_is_not_set_aside() {
    let disk = SimDisk::new();
    let store = open(&disk).expect("no fault yet");
    put(&store, 42, &content(1)).expect("no fault yet");
    for nth in 1..=4 {
        disk.fail_nth(Op::Read, nth, Fault::Io);
        assert!(matches!(store.newest(|_, _| true), Err(Error::Io { .. })), "read {nth}");
        assert_eq!(store.list().len(), 1);
    }
    assert!(store.newest(|_, _| true).expect("reads").is_some());
}

#[test]
fn a_large_snapshot_is_synced_as_it_grows() {
    let disk = SimDisk::new();
    let store = open(&disk).expect("no fault");
    let mut writer = store.create(42, 7).expect("free");
    for _ in 0..33 {
        writer.write_all(&[0; 1 << 20]).expect("no fault");
    }
    assert_eq!(disk.count(Op::Sync), 2);
    writer.commit().expect("no fault");
    assert_eq!(disk.count(Op::Sync), 3);
}

#[test]
fn without_fsync_nothing_is_synced() {
    let disk = SimDisk::new();
    let store = Options::new()
        .vfs(Arc::new(disk.clone()))
        .unsafe_no_fsync(true)
        .open(DIR)
        .expect("no fault");
    put(&store, 42, &content(1)).expect("no fault");
    assert_eq!(disk.count(Op::Sync) + disk.count(Op::SyncDir), 0);
    assert_eq!(get(&store, 42).expect("reads"), Some(content(1)));
}
