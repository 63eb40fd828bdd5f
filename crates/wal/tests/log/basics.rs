//! What the log does while nothing goes wrong, and how it refuses what would be wrong.

use oarlock_wal::testing::SimDisk;
use oarlock_wal::{Batch, Error, HardState, SnapshotMark, Wal};

use crate::util::{DIR, all, append, large, options, run};

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
