//! Released segments become segments again: with nothing to be zeroed, and nothing of the old ever read.

use std::path::Path;
use std::sync::Arc;

use oarlock_wal::testing::{Event, Op, SimDisk, Unsynced};
use oarlock_wal::{Batch, Options, SnapshotMark, Wal};

use crate::crash::{Step, state_of, take};
use crate::util::{DIR, Model, Spec, append, large, options, reopen, run};

/// Fills segments, one batch each, and releases all but the last.
fn used(log: &Wal, segments: u64) {
    let last = segments * 10;
    for first in (1..last).step_by(10) {
        append(log, &Batch::of(&large(first..first + 10, 1, 1800)));
    }
    append(log, &Batch::compact(SnapshotMark::new(last - 1, 1, "")));
    log.finish_segment().expect("finishes");
    assert_eq!(log.release(last).expect("covered").segments, segments - 1);
}

fn spares(disk: &SimDisk) -> usize {
    let vfs: Arc<dyn oarlock_wal::Vfs> = Arc::new(disk.clone());
    let names = vfs.list(Path::new(DIR)).expect("lists");
    names.iter().filter(|name| name.to_string_lossy().ends_with(".free")).count()
}

/// The bytes written to a file, from the `from`th event on.
fn written(disk: &SimDisk, from: usize, name: &str) -> u64 {
    let events = disk.trace().into_iter().skip(from);
    let bytes = events.map(|event| match event {
        Event::Done { op: Op::Write, path, len, .. } if path.ends_with(name) => len,
        _ => 0,
    });
    bytes.sum()
}

#[test]
fn a_released_segment_becomes_the_next_one_without_zeros() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    used(&log, 4);
    assert_eq!((spares(&disk), log.stats().recycled), (3, 0));
    assert_eq!((log.size(), log.stats().spares), (32_768, 3));
    let before = disk.trace().len();
    assert_eq!(log.prepare().expect("prepares"), 2);
    assert_eq!((spares(&disk), log.stats().recycled), (1, 2));
    let written = written(&disk, before, "00000003.free");
    assert!(written < 13_000, "{written} bytes written instead of the head alone");

    let entries = large(41..=50, 1, 1800);
    append(&log, &Batch::of(&entries));
    append(&log, &Batch::of(&large(51..=60, 1, 1800)));
    assert_eq!(log.entries(41..51, u64::MAX).expect("reads"), entries);
    let records: Result<Vec<_>, _> = options(&disk).dump(DIR).expect("dumps").collect();
    records.expect("nothing but records");
    for outcome in [Unsynced::Lost, Unsynced::Kept] {
        let log = reopen(&disk.fork().reboot(outcome)).expect("opens");
        assert_eq!((log.last_index(), log.recovery().torn.clone()), (60, None));
    }
}

/// What a file held before is no torn tail, and a torn tail among it is found all the same.
#[test]
fn what_a_file_held_before_is_nothing_and_a_torn_tail_is_cut_off() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    used(&log, 4);
    log.prepare().expect("prepares");
    append(&log, &Batch::of(&large(41..=50, 1, 1800)));
    append(&log, &Batch::of(&run(51..=52, 1)));
    let killed = disk.kill();
    let log = reopen(&killed).expect("opens");
    assert_eq!((log.last_index(), log.recovery().torn.clone()), (52, None));
    drop(log);

    let disk = killed.fork();
    let log = reopen(&disk).expect("opens");
    disk.cut_power_after_bytes(600); // into the second of two frames
    let spec = Spec { entries: run(53..=60, 1), ..Spec::default() };
    let _ = log.append(&spec.batch());
    let _ = log.append(&Batch::of(&large(61..=61, 1, 4000)));
    let torn = disk.reboot(Unsynced::Kept);
    let log = reopen(&torn).expect("opens");
    assert!((52..=60).contains(&log.last_index()), "{}", log.last_index());
    let cut = log.recovery().torn.clone().expect("a torn tail");
    assert!(cut.bytes < 8000, "{cut:?}: no more than what was torn");
    let next = log.last_index() + 1;
    append(&log, &Batch::of(&run(next..=next, 2)));
    let log = reopen(&torn.reboot(Unsynced::Lost)).expect("opens");
    assert_eq!((log.last_index(), log.recovery().torn.clone()), (next, None));
}

#[test]
fn a_power_cut_anywhere_while_recycling_costs_nothing_acknowledged() {
    use Step::{Append, Finish, Idle, Prepare, Release, Sync};
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    let mut history = vec![Model { metadata: "me".into(), ..Model::default() }];
    let fill = |first: u64, term| Append(Spec::of(large(first..first + 10, term, 1800)));
    let compact =
        |at| Append(Spec { compact: Some(SnapshotMark::new(at, 1, "")), ..Spec::default() });
    disk.record();
    let steps = [
        fill(1, 1),
        fill(11, 1),
        fill(21, 1),
        Sync,
        compact(21),
        Release(22),
        Prepare,
        fill(31, 1), // into a recycled segment
        Append(Spec::of(run(41..=43, 1))),
        Sync,
        Append(Spec::of(run(42..=44, 2))),
        Idle,
        fill(45, 2),
        compact(40),
        Finish,
        Release(41),
        Append(Spec::of(run(55..=56, 2))),
        Sync,
        Append(Spec::of(large(57..=58, 3, 1000))), // two batches in flight, over old bytes
        Append(Spec::of(run(59..=60, 3))),
        Prepare,
        Sync,
        fill(61, 3),
        Append(Spec::of(run(71..=72, 3))),
        Sync,
    ];
    for step in &steps {
        take(step, &log, &disk, &mut history);
    }
    assert!(log.stats().recycled >= 3, "{:?}", log.stats());
    let (mut states, mut torn) = (0, 0);
    for point in disk.crash_points() {
        for outcome in point.disk.outcomes(3) {
            let context = format!("after change {}, {outcome:?}", point.changes);
            let after = point.disk.fork().reboot(outcome);
            let log = reopen(&after).unwrap_or_else(|e| panic!("{context}: {e}"));
            let state = state_of(&log, &history, &point.notes, &context);
            torn += u64::from(log.recovery().torn.is_some());
            states += 1;
            assert!(spares(&after) <= 4, "{context}");
            let again = after.reboot(Unsynced::Lost);
            let log = reopen(&again).unwrap_or_else(|e| panic!("{context}, again: {e}"));
            assert_eq!(
                (log.recovery().torn.clone(), log.recovery().rewritten),
                (None, 0),
                "{context}"
            );
            let next = history[state].last + 1;
            append(&log, &Batch::of(&large(next..next + 10, 9, 1800)));
            append(&log, &Batch::of(&large(next + 10..next + 20, 9, 1800)));
            let log = reopen(&again.reboot(Unsynced::Lost))
                .unwrap_or_else(|e| panic!("{context}, later: {e}"));
            assert_eq!(log.last_index(), next + 19, "{context}");
        }
    }
    assert!(states > 300 && torn > 10, "{states} states, {torn} torn tails");
}

#[test]
fn spares_of_the_wrong_length_or_too_many_are_removed() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    used(&log, 8);
    assert_eq!(spares(&disk), 4);
    log.close().expect("closes");
    for (name, len) in [("000000a0.free", 100), ("000000a1.free", 32_768)] {
        let vfs: &dyn oarlock_wal::Vfs = &disk;
        let file = vfs.create_new(&Path::new(DIR).join(name)).expect("creates");
        file.write_all_at(&vec![1; len], 0).expect("writes");
    }
    let log = reopen(&disk).expect("opens");
    assert_eq!((spares(&disk), log.recovery().unknown.len()), (4, 0));
    log.prepare().expect("prepares");
    assert_eq!((spares(&disk), log.stats().recycled), (2, 2));
    assert_eq!(log.last_index(), 80);
    drop(log);
    let log = options(&disk).segment_size(64 << 10).open(DIR).expect("opens");
    assert_eq!(spares(&disk), 0, "they are too short now");
    drop(log);
}

/// The head of a spare that a failure left half written counts for nothing, and neither does the failure.
#[test]
fn a_spare_that_cannot_be_made_a_segment_gives_way_to_zeros() {
    for op in [Op::Open, Op::Write, Op::Read, Op::Sync, Op::Rename] {
        let disk = SimDisk::new();
        let log = options(&disk).create(DIR, b"").expect("creates");
        used(&log, 4);
        disk.fail_nth(op, 1, oarlock_wal::testing::Fault::Io);
        let first = log.prepare();
        assert_eq!(first.is_ok(), op == Op::Open, "{op:?}: {first:?}");
        log.prepare().unwrap_or_else(|e| panic!("{op:?}: {e}"));
        assert_eq!(log.stats().recycled, 2, "{op:?}");
        append(&log, &Batch::of(&large(41..=50, 1, 1800)));
        let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
        assert_eq!(log.last_index(), 50);
    }
}

#[test]
fn spares_give_way_when_a_full_disk_keeps_the_log_from_opening() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    used(&log, 3);
    let _ = log.append(&Batch::of(&run(31..=32, 1))).expect("appends");
    let disk = disk.kill();
    disk.set_capacity(Some(3 * 32_768 + 100)); // what there is
    let log = reopen(&disk).expect("opens");
    assert!(log.recovery().rewritten > 0);
    assert_eq!((log.last_index(), spares(&disk)), (32, 1), "no more than it takes");
}

/// Spares that give way are no reason to keep quiet about what was found.
#[test]
fn what_was_found_is_told_also_where_spares_gave_way() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    used(&log, 3);
    let next = log.last_index() + 1;
    append(&log, &Batch::of(&large(next..=next, 1, 4000)));
    let _ = log.append(&Batch::of(&run(next + 1..=next + 1, 1))).expect("appends");
    disk.cut_power_after_bytes(700);
    let _ = log.append(&Batch::of(&large(next + 2..=next + 2, 1, 4000)));
    let disk = disk.reboot(Unsynced::Kept);
    let easy = reopen(&disk.fork()).expect("opens").recovery().clone();
    assert!(easy.torn.is_some() && easy.rewritten > 0, "{easy:?}");
    disk.set_capacity(Some(disk.used() + 5000));
    assert_eq!(*reopen(&disk).expect("opens").recovery(), easy);
    assert!(spares(&disk) < 2, "one gave way");
}

/// W5, on real files: a payload that is held keeps its file from being written over, here and in another process. What
/// was read and given back, or only looked at when the log was opened, keeps nothing.
#[test]
fn what_a_reader_holds_is_never_written_over() {
    let holders = [
        "nobody",
        "a reader",
        "another handle",
        "a reader before",
        "nobody any more",
        "a closed handle",
    ];
    for held_by in holders {
        let tmp = tempfile::tempdir().expect("tempdir");
        let options = Options::new().segment_size(32 << 10);
        let mut log = options.create(tmp.path(), b"").expect("creates");
        for first in (1..40).step_by(10) {
            append(&log, &Batch::of(&large(first..first + 10, 1, 1800)));
        }
        log.finish_segment().expect("finishes");
        let read = log.entries(1..40, u64::MAX).expect("reads");
        let beside = options.open_read_only(tmp.path()).expect("opens");
        let held = match held_by {
            "a reader" | "a reader before" => Some(read[4].data.clone()),
            "another handle" => Some(beside.entry(5).expect("reads").data),
            _ => None,
        };
        drop((read, beside));
        let closed = log.clone();
        if ["a reader before", "nobody any more", "a closed handle"].contains(&held_by) {
            log.close().expect("closes");
            log = options.open(tmp.path()).expect("opens");
        }
        let closed = Some(closed).filter(|_| held_by == "a closed handle");
        append(&log, &Batch::compact(SnapshotMark::new(39, 1, "")));
        assert_eq!(log.release(40).expect("covered").segments, 3);
        for first in (41..200).step_by(10) {
            log.prepare().expect("prepares");
            append(&log, &Batch::of(&large(first..first + 10, 1, 1800)));
        }
        let recycled = log.stats().recycled;
        let expected = if closed.is_some() { 0 } else { 3 - u64::from(held.is_some()) };
        assert_eq!(recycled, expected, "held by {held_by}");
        let expected = &large(5..=5, 1, 1800)[0].data;
        let held = closed.map(|log| log.entry(5).expect("reads").data).or(held);
        assert!(held.is_none_or(|held| held == expected), "written over under {held_by}");
    }
}
