//! What the simulated disk promises, and that it promises nothing else.
#![cfg(feature = "testing")]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use oarlock_wal::Vfs;
use oarlock_wal::testing::{Event, Fault, Op, SimDisk, Unsynced};
use oarlock_wal::vfs::{Access, File};

const DIR: &str = "/d";
const FILE: &str = "/d/f";

/// A disk with an empty file whose name is durable.
fn disk() -> (SimDisk, Box<dyn File>) {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new(DIR)).expect("no fault yet");
    let file = disk.create_new(Path::new(FILE)).expect("no fault yet");
    disk.sync_dir(Path::new(DIR)).expect("no fault yet");
    (disk, file)
}

fn read(disk: &SimDisk) -> Vec<u8> {
    disk.contents(FILE).expect("the name was synced")
}

#[test]
fn synced_bytes_survive_whatever_the_outcome() {
    let (disk, file) = disk();
    file.write_all_at(&[1; 700], 0).expect("writes");
    file.sync_data().expect("syncs");
    file.write_all_at(&[2; 700], 700).expect("writes");
    for seed in 0..500 {
        let after = read(&disk.fork().reboot(Unsynced::Random(seed)));
        assert_eq!(after.get(..700), Some(&[1; 700][..]), "seed {seed}");
    }
}

#[test]
fn each_unsynced_sector_is_lost_or_kept_for_itself() {
    let (disk, file) = disk();
    file.write_all_at(&[1; 2048], 0).expect("writes");
    file.sync_all().expect("syncs");
    file.write_all_at(&[2; 2048], 0).expect("writes");
    assert_eq!(disk.unsynced(), 4);
    let mut seen = BTreeSet::new();
    for outcome in disk.outcomes(64) {
        let after = read(&disk.fork().reboot(outcome));
        let sectors: Vec<u8> = after
            .chunks(512)
            .map(|s| if s.iter().all(|b| *b == s[0]) { s[0] } else { 9 })
            .collect();
        if !matches!(outcome, Unsynced::Random(_)) {
            assert!(sectors.iter().all(|b| [1, 2].contains(b)), "{outcome:?}: {sectors:?}");
        }
        seen.insert(sectors);
    }
    for expected in [[1, 1, 1, 1], [2, 2, 2, 2], [1, 2, 1, 1], [2, 2, 1, 2]] {
        assert!(seen.contains(expected.as_slice()), "{expected:?} was never tried");
    }
    assert!(seen.iter().any(|s| s.contains(&9)), "no torn or garbled sector was tried");
    assert!(seen.iter().any(|s| s.contains(&0)), "no zeroed sector was tried");
}

#[test]
fn a_torn_write_leaves_the_synced_rest_of_its_sector_alone() {
    let (disk, file) = disk();
    file.write_all_at(&[1; 100], 0).expect("writes");
    file.sync_data().expect("syncs");
    file.write_all_at(&[2; 50], 100).expect("writes");
    file.write_all_at(&[3; 50], 150).expect("writes");
    let mut seen = BTreeSet::new();
    for seed in 0..500 {
        let after = read(&disk.fork().reboot(Unsynced::Random(seed)));
        assert_eq!(after.get(..100), Some(&[1; 100][..]), "seed {seed}");
        seen.insert(after);
    }
    let second_lost = [&[1; 100][..], &[2; 50]].concat();
    assert!(
        seen.iter().any(|s| s.starts_with(&second_lost) && !s.ends_with(&[3; 50])),
        "no older version was tried"
    );
}

#[test]
fn names_are_durable_with_their_directory_only() {
    let (disk, file) = disk();
    file.write_all_at(b"old", 0).expect("writes");
    file.sync_all().expect("syncs");
    let new = disk.create_new(Path::new("/d/tmp")).expect("creates");
    new.write_all_at(b"new", 0).expect("writes");
    new.sync_all().expect("syncs");
    disk.rename(Path::new("/d/tmp"), Path::new(FILE)).expect("renames");
    assert_eq!(read(&disk), b"new");
    let names = |outcome| {
        let after = disk.fork().reboot(outcome);
        (read(&after), after.list(Path::new(DIR)).expect("is there").len())
    };
    assert_eq!(names(Unsynced::Lost), (b"old".to_vec(), 1));
    assert_eq!(names(Unsynced::Kept), (b"new".to_vec(), 1));
    assert_eq!(names(Unsynced::Only(0)), (b"old".to_vec(), 2));
    assert_eq!(names(Unsynced::Only(1)), (b"new".to_vec(), 1), "the rename alone");
    disk.sync_dir(Path::new(DIR)).expect("syncs");
    assert_eq!(names(Unsynced::Lost), (b"new".to_vec(), 1));
}

#[test]
fn a_name_may_outlive_contents_that_were_not_synced() {
    let (disk, file) = disk();
    file.write_all_at(b"text", 0).expect("writes");
    assert_eq!(read(&disk.fork().reboot(Unsynced::Lost)), b"");
    assert_eq!(read(&disk.fork().reboot(Unsynced::Only(0))), [0; 4], "the length alone");
}

#[test]
fn a_removed_file_comes_back_unless_the_directory_was_synced() {
    let (disk, _file) = disk();
    disk.remove(Path::new(FILE)).expect("removes");
    assert!(disk.fork().reboot(Unsynced::Lost).contents(FILE).is_some());
    disk.sync_dir(Path::new(DIR)).expect("syncs");
    assert!(disk.fork().reboot(Unsynced::Lost).contents(FILE).is_none());
}

#[test]
fn cut_contents_do_not_come_back_when_the_file_grows_again() {
    let (disk, file) = disk();
    file.write_all_at(&[7; 2000], 0).expect("writes");
    file.sync_all().expect("syncs");
    file.set_len(100).expect("cuts");
    file.set_len(2000).expect("grows");
    let expected = [&[7; 100][..], &[0; 1900]].concat();
    assert_eq!(read(&disk), expected);
    assert_eq!(read(&disk.fork().reboot(Unsynced::Lost)), [7; 2000]);
    file.sync_all().expect("syncs");
    assert_eq!(read(&disk.reboot(Unsynced::Lost)), expected);
}

#[test]
fn a_killed_process_loses_its_locks_and_nothing_it_wrote() {
    let (disk, file) = disk();
    let _lock = disk.lock(Path::new("/d/LOCK")).expect("free");
    assert_eq!(disk.lock(Path::new("/d/LOCK")).expect_err("held").kind(), ErrorKind::WouldBlock);
    file.write_all_at(b"text", 0).expect("writes");
    let next = disk.kill();
    file.write_all_at(b"late", 0).expect_err("the process is dead");
    assert_eq!(read(&next), b"text");
    assert_eq!(
        next.contents("/d/LOCK").expect("is there"),
        std::process::id().to_string().as_bytes()
    );
    next.lock(Path::new("/d/LOCK")).expect("free");
    assert_eq!(
        read(&next.reboot(Unsynced::Lost)),
        b"",
        "it was not synced, and the kill did not change that"
    );
}

#[test]
fn power_fails_after_so_many_changes_or_bytes() {
    let (disk, file) = disk();
    disk.cut_power_after(2);
    file.write_all_at(b"one", 0).expect("first");
    file.sync_data().expect("second");
    file.write_all_at(b"two", 0).expect_err("third");
    assert!(disk.is_off());
    file.read_exact_at(&mut [0; 3], 0).expect_err("off is off");
    let disk = disk.reboot(Unsynced::Kept);
    assert_eq!(read(&disk), b"one");
    let file = disk.open(Path::new(FILE), Access::ReadWrite).expect("opens");
    disk.cut_power_after_bytes(5);
    file.write_all_at(b"tw", 0).expect("two bytes");
    file.write_all_at(b"three", 0).expect_err("three of five");
    assert_eq!(read(&disk.reboot(Unsynced::Kept)), b"thr");
}

#[test]
fn planned_faults_hit_the_operation_they_name() {
    let (disk, file) = disk();
    disk.fail_nth(Op::Write, 2, Fault::Short(3));
    disk.fail_nth(Op::Rename, 1, Fault::Io);
    file.write_all_at(b"......", 0).expect("first");
    let error = file.write_all_at(b"stroke", 0).expect_err("second");
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(read(&disk), b"str...");
    file.write_all_at(b"stroke", 0).expect("third");
    let error = disk.rename(Path::new(FILE), Path::new("/d/g")).expect_err("first");
    assert_eq!(error.raw_os_error(), Some(5));
    disk.fail_from(Op::Open, 1, Fault::Io);
    for _ in 0..3 {
        disk.open(Path::new(FILE), Access::Read).expect_err("always");
    }
    disk.heal();
    disk.open(Path::new(FILE), Access::Read).expect("healed");
    assert_eq!(disk.count(Op::Write), 3);
}

#[test]
fn what_a_failed_sync_forgot_a_later_sync_does_not_write() {
    let (disk, file) = disk();
    file.write_all_at(b"first", 0).expect("writes");
    disk.fail_nth(Op::Sync, 1, Fault::Io);
    file.sync_data().expect_err("planned");
    file.sync_data().expect("and yet it says it is fine");
    assert_eq!(read(&disk.fork().reboot(Unsynced::Lost)), [0; 5]);
    file.write_all_at(b"again", 0).expect("writes");
    file.sync_data().expect("syncs");
    assert_eq!(read(&disk.reboot(Unsynced::Lost)), b"again");
}

#[test]
fn a_full_disk_takes_what_fits() {
    let (disk, file) = disk();
    disk.set_capacity(Some(10));
    file.write_all_at(b"01234567", 0).expect("fits");
    assert_eq!(
        file.write_all_at(b"abcdef", 6).expect_err("two too many").kind(),
        ErrorKind::StorageFull
    );
    assert_eq!(read(&disk), b"012345abcd");
    file.write_all_at(b"xx", 0).expect("overwriting needs no space");
    assert_eq!(file.set_len(11).expect_err("full").kind(), ErrorKind::StorageFull);
    disk.remove(Path::new(FILE)).expect("removes");
    disk.create_new(Path::new(FILE))
        .expect("creates")
        .write_all_at(&[0; 10], 0)
        .expect("room again");
}

#[test]
fn a_recording_is_cut_before_and_after_each_change() {
    let (disk, file) = disk();
    disk.record();
    disk.note("begin");
    file.write_all_at(b"a", 0).expect("writes");
    file.sync_data().expect("syncs");
    disk.note("a");
    file.write_all_at(b"b", 1).expect("writes");
    let points: Vec<_> = disk.crash_points().collect();
    let lost: Vec<_> = points.iter().map(|p| read(&p.disk.reboot(Unsynced::Lost))).collect();
    assert_eq!(lost, [&b""[..], b"", b"a", b"a"]);
    let notes: Vec<_> = points.iter().map(|p| p.notes.join(" ")).collect();
    assert_eq!(notes, ["begin", "begin", "begin a", "begin a"]);
    assert_eq!(points.iter().map(|p| p.changes).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn a_sync_in_flight_covers_what_was_written_before_it_began() {
    let (disk, file) = disk();
    file.write_all_at(b"before", 0).expect("writes");
    let held = disk.hold_syncs();
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync_data());
        assert!(held.wait_for(1, Duration::from_secs(10)), "the sync never began");
        file.write_all_at(b"during", 0).expect("a write does not wait for a sync");
        disk.note("written");
        drop(held);
        sync.join().expect("no panic").expect("syncs");
    });
    let trace = disk.trace();
    let position = |wanted: &dyn Fn(&Event) -> bool| trace.iter().position(wanted).expect("traced");
    assert!(
        position(&|e| e.is(Op::Sync, FILE)) > position(&|e| *e == Event::Note("written".into()))
    );
    assert_eq!(read(&disk.fork().reboot(Unsynced::Kept)), b"during");
    assert_eq!(read(&disk.reboot(Unsynced::Lost)), b"before");
}

#[test]
fn a_power_cut_ends_a_sync_that_waits() {
    let (disk, file) = disk();
    let held = disk.hold_syncs();
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync_data());
        assert!(held.wait_for(1, Duration::from_secs(10)), "the sync never began");
        let _next = disk.reboot(Unsynced::Lost);
        sync.join().expect("no panic").expect_err("it never reached the disk");
    });
}

#[test]
fn files_read_back_and_handles_keep_their_rights() {
    let (disk, file) = disk();
    file.write_all_at(b"oars", 2).expect("writes");
    assert_eq!(file.len().expect("len"), 6);
    assert_eq!(file.view(0, 6).expect("views"), &b"\0\0oars"[..]);
    assert_eq!(file.view(3, 4).expect_err("short").kind(), ErrorKind::UnexpectedEof);
    assert_eq!(file.view(u64::MAX, 1).expect_err("far").kind(), ErrorKind::UnexpectedEof);
    let reader = disk.open(Path::new(FILE), Access::Read).expect("opens");
    assert_eq!(
        reader.write_all_at(b"x", 0).expect_err("read only").kind(),
        ErrorKind::PermissionDenied
    );
    assert_eq!(
        disk.create_new(Path::new(FILE)).expect_err("is there").kind(),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        disk.open(Path::new("/d/g"), Access::Read).expect_err("is not").kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        disk.create_new(Path::new("/e/g")).expect_err("no directory").kind(),
        ErrorKind::NotFound
    );
    disk.create_dir_all(Path::new("/d/sub/dir")).expect("creates");
    assert_eq!(disk.list(Path::new(DIR)).expect("lists"), ["f", "sub"]);
    assert!(disk.tamper(FILE, |bytes| bytes[2] ^= 1));
    assert_eq!(read(&disk.reboot(Unsynced::Lost)), b"\0\0nars", "rot is durable");
}

/// A file `a` of one durable sector and two written since, and a name `b` that is not durable.
fn in_doubt() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).expect("no fault");
    let file = disk.create_new(Path::new("/d/a")).expect("no fault");
    file.write_all_at(&[1; 1536], 0).expect("no fault");
    file.sync_all().expect("no fault");
    disk.sync_dir(Path::new("/d")).expect("no fault");
    file.write_all_at(&[2; 1000], 20).expect("no fault");
    disk.create_new(Path::new("/d/b")).expect("no fault");
    disk
}

#[test]
fn every_combination_is_tried_where_few_things_are_in_doubt() {
    let disk = in_doubt();
    let images = |outcomes: Vec<Unsynced>| -> std::collections::BTreeSet<u64> {
        outcomes.into_iter().map(|outcome| disk.after(outcome).digest(|_| true)).collect()
    };
    assert_eq!(
        images(disk.every_outcome(32, 0)).len(),
        32,
        "two sectors, four ways each, and a name"
    );
    assert!(images(disk.every_outcome(16, 0)).len() >= 8, "there or not, each; and drawn ones");
    let file = |outcome| disk.after(outcome).contents("/d/a").expect("durable");
    assert_eq!(file(Unsynced::Each(0)), [1; 1536]);
    // The name comes first, then the sectors.
    let zeros = file(Unsynced::Each(2 << 2 | 1 << 4));
    assert_eq!(zeros[..20], [1; 20], "not touched by the write");
    assert_eq!(zeros[20..512], [0; 492]);
    assert_eq!(zeros[512..1020], [2; 508]);
    assert_eq!(file(Unsynced::Each(3 << 2))[..20], [1; 20]);
    assert!(file(Unsynced::Each(3 << 2)) != file(Unsynced::Each(0)));
}

#[test]
fn a_crash_seen_from_aside_leaves_the_machine_running() {
    let disk = in_doubt();
    let after = disk.after(Unsynced::Kept);
    assert_eq!(after.unsynced(), 0);
    assert_eq!(after.used(), 1536);
    assert_eq!(disk.unsynced(), 3);
    disk.sync_dir(Path::new("/d")).expect("still on");
}

#[test]
fn a_recording_goes_on_when_the_process_is_killed() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).expect("no fault");
    disk.record();
    disk.create_new(Path::new("/d/a")).expect("no fault");
    disk.note("killed");
    let next = disk.kill();
    next.create_new(Path::new("/d/b")).expect("no fault");
    let points: Vec<_> = next.crash_points().collect();
    assert_eq!(points.len(), 3);
    assert_eq!(points[2].notes, ["killed"]);
}
