//! What the log does while nothing goes wrong, and how it refuses what would be wrong.

use std::ops::ControlFlow;

use oarlock_wal::testing::{SimDisk, Unsynced};
use oarlock_wal::{Batch, Entry, EntryRef, Error, HardState, SnapshotMark, Wal};

use crate::util::{DIR, SMALL, all, append, large, options, run};

#[test]
fn what_was_appended_is_read_back_now_and_after_reopening() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    assert_eq!((log.first_index(), log.last_index(), log.log_id()), (1, 0, 7));
    let entries = run(1..=5, 1);
    let state = HardState { term: 1, vote: 2, commit: 3 };
    append(&log, &Batch { hard_state: Some(state), ..Batch::of(&entries) });
    append(&log, &Batch::compact(SnapshotMark::new(2, 1, "conf")));
    let check = |log: &Wal| {
        assert_eq!(all(log), entries);
        assert_eq!(log.entry(3).expect("reads"), entries[2]);
        assert_eq!(log.hard_state(), state);
        assert_eq!(log.snapshot(), Some(SnapshotMark::new(2, 1, "conf")));
        assert_eq!(log.metadata(), "me");
        assert_eq!((log.term(0).expect("base"), log.term(5).expect("last")), (0, 1));
        assert!(matches!(log.term(6), Err(Error::OutOfRange { index: 6, first: 1, last: 5 })));
        assert!(matches!(log.entry(6), Err(Error::OutOfRange { .. })));
        assert!(matches!(log.entries(0..2, 9), Err(Error::OutOfRange { index: 0, .. })));
        assert!(matches!(log.entries(5..7, 9), Err(Error::OutOfRange { index: 7, .. })));
        assert_eq!(log.entries(2..6, 0).expect("reads").len(), 1);
    };
    check(&log);
    log.close().expect("closes");
    let log = options(&disk).open(DIR).expect("opens");
    assert_eq!(log.recovery().torn, None);
    assert_eq!(log.recovery().rewritten, 0, "a closed log is proven to its end");
    check(&log);
}

#[test]
fn a_conflicting_suffix_gives_way() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&large(1..=15, 1, 1000)));
    append(&log, &Batch::of(&large(16..=30, 1, 1000))); // in the next segment
    append(&log, &Batch::of(&run(18..=19, 2)));
    let check = |log: &Wal| {
        assert_eq!(log.last_index(), 19);
        assert_eq!((log.term(17).expect("kept"), log.term(18).expect("new")), (1, 2));
        assert_eq!(log.entries(17..20, u64::MAX).expect("reads")[1..], run(18..=19, 2));
    };
    check(&log);
    log.close().expect("closes");
    check(&options(&disk).open(DIR).expect("opens"));
}

#[test]
fn a_visit_shows_what_entries_collect() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    for first in (1..=600).step_by(50) {
        append(&log, &Batch::of(&run(first..first + 50, 1)));
    }
    log.finish_segment().expect("finishes");
    let mut seen = Vec::new();
    let ended = log.visit(3..601, |e| {
        seen.push(Entry::new(e.index, e.term, e.kind, e.data.to_vec()));
        if e.index == 590 { ControlFlow::Break("enough") } else { ControlFlow::Continue(()) }
    });
    assert_eq!(ended.expect("reads"), ControlFlow::Break("enough"));
    assert_eq!(seen, run(3..=590, 1));
    let nobody = |_: EntryRef<'_>| -> ControlFlow<()> { panic!("nothing to show") };
    assert_eq!(log.visit(7..7, nobody).expect("nothing"), ControlFlow::Continue(()));
    assert!(matches!(log.visit(600..602, nobody), Err(Error::OutOfRange { index: 602, .. })));
}

#[test]
fn retention_by_size_keeps_what_no_snapshot_covers() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    for first in (1..=60).step_by(10) {
        append(&log, &Batch::of(&large(first..first + 10, 1, 1800)));
    }
    let (one, all_of_them) = (SMALL, log.size());
    assert_eq!(all_of_them, 6 * one);
    assert_eq!(log.release_to_size(0).expect("nothing is covered").segments, 0);
    append(&log, &Batch::compact(SnapshotMark::new(45, 1, "")));
    assert_eq!(log.release_to_size(all_of_them).expect("fits").segments, 0);
    assert_eq!(log.release_to_size(5 * one + 1).expect("covered").segments, 1);
    assert_eq!((log.size(), log.first_index()), (5 * one, 11));
    assert_eq!(log.release_to_size(0).expect("covered").segments, 3, "as far as is covered");
    assert_eq!((log.size(), log.first_index()), (2 * one, 41));
    assert_eq!(log.entries(46..61, u64::MAX).expect("kept").len(), 15);
    log.close().expect("closes");
    let log = options(&disk).open(DIR).expect("opens");
    assert_eq!((log.first_index(), log.last_index()), (41, 60));
}

/// Raft paper, section 5.3: a new leader's entries replace a tail that reaches over several segments.
#[test]
fn a_conflicting_suffix_of_several_segments_gives_way() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    for first in (1..=50).step_by(10) {
        append(&log, &Batch::of(&large(first..first + 10, 1, 1800)));
    }
    log.finish_segment().expect("finishes");
    append(&log, &Batch::of(&run(14..=15, 2)));
    let check = |log: &Wal| {
        assert_eq!((log.first_index(), log.last_index()), (1, 15));
        assert_eq!(log.entries(1..14, u64::MAX).expect("kept"), large(1..=13, 1, 1800));
        assert_eq!(log.entries(14..16, u64::MAX).expect("new"), run(14..=15, 2));
        assert!(matches!(log.entry(16), Err(Error::OutOfRange { .. })));
    };
    check(&log);
    log.close().expect("closes");
    for verify in [false, true] {
        let log = options(&disk).verify(verify).open(DIR).expect("opens");
        check(&log);
        log.close().expect("closes");
    }
    // A snapshot far beyond the end, then one more roll: nothing of before comes back.
    let log = options(&disk).open(DIR).expect("opens");
    let mark = SnapshotMark::new(100, 3, "");
    append(&log, &Batch { install: Some(mark), ..Batch::of(&large(101..=109, 3, 1800)) });
    append(&log, &Batch::of(&large(110..=115, 3, 1800)));
    log.close().expect("closes");
    for verify in [false, true] {
        let log = options(&disk).verify(verify).open(DIR).expect("opens");
        assert_eq!((log.first_index(), log.last_index()), (101, 115));
        assert_eq!(all(&log), large(101..=115, 3, 1800));
        assert!(matches!(log.entry(13), Err(Error::OutOfRange { .. })));
        assert_eq!(log.term(100).expect("the snapshot's"), 3);
    }
}

/// Segments that were prepared when they were to be smaller may not even hold what one begins with.
#[test]
fn the_segment_size_may_change_between_openings() {
    let disk = SimDisk::new();
    let sized = |size: u64| options(&disk).segment_size(size);
    let log = sized(256 << 10).create(DIR, &[7; 50 << 10]).expect("creates");
    append(&log, &Batch::of(&run(1..=3, 1)));
    log.close().expect("closes");
    let log = sized(32 << 10).open(DIR).expect("opens");
    log.prepare().expect("prepares");
    let refused = log.append(&Batch::of(&large(4..=200, 1, 2000)));
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    log.close().expect("closes");
    let log = sized(256 << 10).open(DIR).expect("opens");
    (4..200).for_each(|index| append(&log, &Batch::of(&large(index..=index, 1, 2000))));
    assert!(log.stats().rolls > 1);
    let disk = disk.reboot(Unsynced::Lost);
    let log = options(&disk).segment_size(1 << 20).verify(true).open(DIR).expect("opens");
    assert_eq!(log.last_index(), 199);
    append(&log, &Batch::of(&large(200..=500, 1, 2000)));
    assert_eq!(all(&log).len(), 500);
}
