use raft::eraftpb::EntryType;
use raft::{GetEntriesContext, Storage, StorageError};

use super::*;
use crate::MemStore;
use crate::storage::{LogBatch, LogStore};
use crate::testing::{entries, entry, hard_state, mark};

mod fetch;

const BUDGET: u64 = 2000;

fn log_of(batch: &LogBatch<'_>) -> MemStore {
    let mut log = MemStore::new();
    log.append(batch).expect("fits");
    log.sync().expect("no fault");
    log
}

/// A durable log of entries 1..=last, and a view of it with room for about a dozen entries.
fn view(last: u64) -> (MemStore, LogView) {
    let log = log_of(&LogBatch { entries: &entries(1, last, 1), ..LogBatch::default() });
    let view = LogView::new(log.reader(), None, hard_state(1, 0, 0), BUDGET).expect("opens");
    (log, view)
}

/// What a writer does: the same entries, durably.
fn write(log: &mut MemStore, entries: &[Entry]) {
    log.append(&LogBatch { entries, ..LogBatch::default() }).expect("fits");
    log.sync().expect("no fault");
}

fn get(view: &LogView, low: u64, high: u64) -> raft::Result<Vec<Entry>> {
    Storage::entries(view, low, high, u64::MAX, GetEntriesContext::empty(false))
}

fn is(result: raft::Result<impl std::fmt::Debug>, expected: StorageError) -> bool {
    matches!(&result, Err(raft::Error::Store(error)) if *error == expected)
}

#[test]
fn an_empty_log_begins_at_one() {
    let view = view(0).1;
    assert_eq!((view.first_index(), view.last_index()), (Ok(1), Ok(0)));
    assert_eq!(view.term(0), Ok(0), "raft-rs asks for the entry before the first");
    assert!(is(view.term(1), StorageError::Unavailable));
    assert_eq!(get(&view, 1, 1), Ok(vec![]));
}

#[test]
fn what_is_appended_is_readable_before_it_is_written() {
    let (_, mut view) = view(2);
    view.append(&entries(3, 5, 2)).expect("fits");
    assert_eq!(get(&view, 1, 6), Ok([entries(1, 2, 1), entries(3, 5, 2)].concat()));
    assert_eq!((view.last(), view.durable()), (5, 2));
    assert_eq!((view.term(2), view.term(5)), (Ok(1), Ok(2)));
}

/// raft-rs knows only three kinds of refusal; see `RaftLog::slice` and `RaftLog::term`.
#[test]
fn bounds_are_told_as_raft_expects_them() {
    let (_, mut view) = view(9);
    view.compact_to(4).expect("durable");
    assert_eq!((view.first_index(), view.last_index()), (Ok(5), Ok(9)));
    assert!(is(get(&view, 4, 6), StorageError::Compacted));
    assert!(is(get(&view, 5, 11), StorageError::Unavailable));
    assert_eq!(view.term(4), Ok(1), "the entry before the first is known by its term");
    assert!(is(view.term(3), StorageError::Compacted));
    assert!(is(view.term(10), StorageError::Unavailable));
    assert_eq!(get(&view, 5, 10), Ok(entries(5, 9, 1)));
    view.compact_to(2).expect("gone already");
    assert_eq!(view.first(), 5, "it never goes back");
    let mut view = view;
    assert!(view.take_error().is_none(), "none of this is a fault of the log");
}

#[test]
fn all_of_the_log_can_be_compacted() {
    let (mut log, mut view) = view(3);
    view.compact_to(3).expect("durable");
    assert_eq!((view.first(), view.last()), (4, 3));
    assert_eq!(view.term(3), Ok(1));
    view.append(&entries(4, 4, 2)).expect("fits");
    write(&mut log, &entries(4, 4, 2));
    assert_eq!(get(&view, 4, 5), Ok(entries(4, 4, 2)));
}

#[test]
fn what_is_not_durable_cannot_be_compacted() {
    let (_, mut view) = view(3);
    view.append(&entries(4, 5, 1)).expect("fits");
    assert!(matches!(view.compact_to(4), Err(LogError::Unavailable { .. })));
    assert_eq!(view.first(), 1);
}

#[test]
fn memory_does_not_grow_with_the_log() {
    let (mut log, mut view) = view(0);
    for index in 1..=2000 {
        let new = [entry(index, 1)];
        view.append(&new).expect("fits");
        write(&mut log, &new);
        view.persisted(index, 1);
        assert!(view.cached_bytes() <= BUDGET, "{} bytes at {index}", view.cached_bytes());
    }
    assert_eq!(get(&view, 1, 2001), Ok(entries(1, 2000, 1)), "the log gives what memory does not");
    assert_eq!(get(&view, 1990, 2001), Ok(entries(1990, 2000, 1)));
}

#[test]
fn unsynced_entries_stay_in_memory_whatever_they_cost() {
    let (mut log, mut view) = view(0);
    let new = entries(1, 100, 1);
    view.append(&new).expect("fits");
    assert!(view.cached_bytes() > BUDGET, "nothing else has them");
    assert_eq!(get(&view, 1, 101), Ok(new.clone()));
    write(&mut log, &new);
    view.persisted(60, 1);
    assert_eq!(get(&view, 1, 101), Ok(new.clone()));
    view.persisted(100, 1);
    assert!(view.cached_bytes() <= BUDGET);
    assert_eq!(get(&view, 1, 101), Ok(new));
}

/// The hazard of a pipelined log: the notice of a write arrives after another leader has overwritten its entries.
#[test]
fn a_late_notice_does_not_unpin_what_replaced_its_entries() {
    let (mut log, mut view) = view(3);
    view.append(&entries(4, 90, 1)).expect("fits");
    view.append(&entries(50, 120, 2)).expect("fits");
    assert_eq!(view.durable(), 3);
    write(&mut log, &entries(4, 90, 1));
    view.persisted(90, 1);
    assert_eq!(view.durable(), 3, "entry 90 of term 1 is not in the log any more");
    let expected = [entries(1, 49, 1), entries(50, 120, 2)].concat();
    assert_eq!(get(&view, 1, 121), Ok(expected.clone()), "the disk still holds the old ones");
    write(&mut log, &entries(50, 120, 2));
    view.persisted(120, 2);
    assert!(view.cached_bytes() <= BUDGET);
    assert_eq!(get(&view, 1, 121), Ok(expected));
}

#[test]
fn overwriting_durable_entries_takes_durability_back() {
    let (mut log, mut view) = view(9);
    view.append(&entries(5, 6, 2)).expect("fits");
    assert_eq!((view.last(), view.durable()), (6, 4));
    assert_eq!(get(&view, 1, 7), Ok([entries(1, 4, 1), entries(5, 6, 2)].concat()));
    assert!(is(view.term(7), StorageError::Unavailable), "the old tail is gone");
    write(&mut log, &entries(5, 6, 2));
    view.persisted(6, 2);
    assert_eq!(view.durable(), 6);
}

#[test]
fn entries_that_do_not_fit_change_nothing() {
    let (_, mut view) = view(5);
    view.compact_to(2).expect("durable");
    assert!(matches!(view.append(&entries(7, 7, 1)), Err(LogError::Gap { found: 7, expected: 6 })));
    assert!(matches!(view.append(&entries(2, 3, 1)), Err(LogError::Compacted { .. })));
    let hole = [entry(6, 1), entry(8, 1)];
    assert!(matches!(view.append(&hole), Err(LogError::Gap { found: 8, expected: 7 })));
    assert_eq!((view.first(), view.last()), (3, 5));
}

#[test]
fn an_installed_snapshot_replaces_everything() {
    let (_, mut view) = view(5);
    view.set_snapshot(mark(4, 1), Bytes::from("head"));
    view.append(&entries(6, 8, 1)).expect("fits");
    view.install(mark(7, 3));
    assert_eq!((view.first(), view.last(), view.durable()), (8, 7, 7));
    assert_eq!(view.term(7), Ok(3));
    assert!(is(view.term(8), StorageError::Unavailable), "entries after it are gone, too");
    assert!(view.snapshot_offered().is_none(), "the old one ends before the log begins");
    view.persisted(8, 1);
    assert_eq!(view.durable(), 7, "a notice from before changes nothing");
    assert_eq!(view.initial_state().expect("always").conf_state, mark(7, 3).conf_state);
}

#[test]
fn reads_stop_at_the_limit_and_give_at_least_one() {
    let (_, mut view) = view(20);
    view.append(&entries(21, 40, 1)).expect("fits");
    let limited = |low, max: u64| {
        Storage::entries(&view, low, 41, max, GetEntriesContext::empty(false)).expect("there")
    };
    assert_eq!(limited(1, 0).len(), 1);
    assert_eq!(limited(30, 0).len(), 1);
    // Across the border between log and memory, contiguous in both.
    let read = limited(18, 6 * cost(&entry(18, 1)));
    assert_eq!(read, entries(18, 23, 1));
    assert_eq!(get(&view, 1, 41).expect("no limit").len(), 40);
}

#[test]
fn a_limited_read_fits_a_frame_by_count_too() {
    let mut log = MemStore::new();
    let tiny: Vec<_> =
        (1..=40_000).map(|i| crate::convert::entry(i, 1, Default::default(), "")).collect();
    write(&mut log, &tiny);
    let view = LogView::new(log.reader(), None, hard_state(1, 0, 0), BUDGET).expect("opens");
    let read = view.read(1, 40_001, u64::MAX).expect("there");
    assert_eq!(read.len(), LogView::MAX_READ);
    assert!(read.len() <= crate::wire::MAX_ENTRIES);
}

#[test]
fn a_snapshot_is_offered_only_if_it_helps() {
    let (_, mut view) = view(9);
    assert!(is(view.snapshot(0, 2), StorageError::SnapshotTemporarilyUnavailable));
    assert!(is(view.snapshot(5, 3), StorageError::SnapshotTemporarilyUnavailable));
    let wishes = [view.take_snapshot_wish(), view.take_snapshot_wish(), view.take_snapshot_wish()];
    let wish = |to, request_index| Some(SnapshotWish { to, request_index });
    assert_eq!(wishes, [wish(2, 0), wish(3, 5), None]);

    view.set_snapshot(mark(6, 1), Bytes::from("head"));
    let offered = view.snapshot(6, 2).expect("it is at 6");
    assert_eq!(offered.get_data(), b"head");
    assert_eq!((offered.get_metadata().index, offered.get_metadata().term), (6, 1));
    assert_eq!(offered.get_metadata().get_conf_state(), &mark(6, 1).conf_state);
    assert!(is(view.snapshot(7, 2), StorageError::SnapshotTemporarilyUnavailable), "too old");
    view.set_snapshot(mark(3, 1), Bytes::from("late"));
    assert_eq!(view.snapshot_offered().map(|mark| mark.index), Some(6), "never an older one");

    view.compact_to(8).expect("durable");
    let after = view.snapshot(0, 2);
    assert!(is(after, StorageError::SnapshotTemporarilyUnavailable), "entries 7 and 8 are nowhere");
}

/// A log that was released by whole segments begins anywhere; raft-rs needs the term before its first entry.
#[test]
fn a_reopened_log_begins_where_a_term_is_known() {
    let mut log = log_of(&LogBatch {
        entries: &entries(1, 9, 1),
        compact: Some(mark(6, 1)),
        ..LogBatch::default()
    });
    let open = |log: &MemStore| {
        LogView::new(log.reader(), Some(mark(6, 1)), hard_state(1, 0, 6), BUDGET).expect("opens")
    };
    assert_eq!(open(&log).first(), 1, "all of it is there");
    log.release(4).expect("covered");
    let view = open(&log);
    assert_eq!((view.first(), view.last()), (5, 9), "entry 4 gives its term and is not offered");
    assert_eq!(view.term(4), Ok(1));
    log.release(7).expect("covered");
    let view = open(&log);
    assert_eq!((view.first(), view.term(6)), (7, Ok(1)), "the mark gives the term");
}

#[test]
fn a_log_that_does_not_reach_its_snapshot_is_refused() {
    let log = log_of(&LogBatch { install: Some(mark(20, 2)), ..LogBatch::default() });
    let open = |start| LogView::new(log.reader(), start, hard_state(2, 0, 20), BUDGET);
    assert!(matches!(open(None), Err(LogError::Corrupt { .. })), "entries 1 to 20 are missing");
    assert!(matches!(open(Some(mark(30, 2))), Err(LogError::Corrupt { .. })), "it ends before");
    assert!(open(Some(mark(20, 2))).is_ok());
}

#[test]
fn a_fault_of_the_log_is_kept_for_whoever_catches_the_panic() {
    struct Broken;
    impl LogReader for Broken {
        fn entries(&self, _: u64, _: u64, _: u64) -> Result<Vec<Entry>, LogError> {
            Err(LogError::Corrupt { detail: "segment 3".into(), place: None })
        }
        fn term(&self, _: u64) -> Result<u64, LogError> {
            Ok(1)
        }
        fn first_index(&self) -> u64 {
            1
        }
        fn last_index(&self) -> u64 {
            5
        }
    }
    let begin = Some(mark(5, 1)); // nothing follows that would be read to open it
    let mut view = LogView::new(Arc::new(Broken), begin, hard_state(1, 0, 5), 0).expect("opens");
    assert!(matches!(get(&view, 1, 3), Err(raft::Error::Store(StorageError::Other(_)))));
    assert!(matches!(view.take_error(), Some(LogError::Corrupt { .. })));
    assert!(view.take_error().is_none());
}

fn is_change(entry: &Entry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal
}

/// As raft-rs asks, and counts.
fn ask(view: &LogView, low: u64, high: u64) -> usize {
    let entries = view.entries(low, high, None, GetEntriesContext::empty(false));
    entries.expect("there").iter().filter(|entry| is_change(entry)).count()
}

/// A log that answers no question about its entries once it was opened.
struct Shut {
    log: Arc<dyn LogReader>,
    largest: std::sync::atomic::AtomicU64,
    shut: std::sync::atomic::AtomicBool,
}

impl LogReader for Shut {
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        use std::sync::atomic::Ordering::Relaxed;
        assert!(!self.shut.load(Relaxed), "entries {low} to {high} are read");
        let entries = self.log.entries(low, high, max_bytes)?;
        self.largest.fetch_max(entries.iter().map(cost).sum(), Relaxed);
        Ok(entries)
    }
    fn term(&self, index: u64) -> Result<u64, LogError> {
        self.log.term(index)
    }
    fn first_index(&self) -> u64 {
        self.log.first_index()
    }
    fn last_index(&self) -> u64 {
        self.log.last_index()
    }
}

/// Before each election raft-rs asks for all that is committed and not applied, without a limit.
#[test]
fn conf_changes_are_counted_without_reading_the_log() {
    use std::sync::atomic::Ordering::Relaxed;
    let kind = |index| match index {
        300 => EntryType::EntryConfChange,
        700 => EntryType::EntryConfChangeV2,
        _ => EntryType::EntryNormal,
    };
    let entry = |index| crate::convert::entry(index, 1, kind(index), vec![b'x'; 10_000]);
    let mut log = MemStore::new();
    write(&mut log, &(1..=1000).map(entry).collect::<Vec<_>>());
    let shut = Arc::new(Shut { log: log.reader(), largest: 0.into(), shut: false.into() });
    let reader = Arc::clone(&shut) as Arc<dyn LogReader>;
    let mut view = LogView::new(reader, None, hard_state(1, 0, 0), BUDGET).expect("opens");
    let largest = shut.largest.load(Relaxed);
    assert!(largest <= 1 << 20, "{largest} bytes of a log of 10 MB are read at once");
    shut.shut.store(true, Relaxed);
    for (low, high, there) in [(1, 1001, 2), (301, 700, 0), (301, 701, 1), (701, 1001, 0)] {
        assert_eq!(ask(&view, low, high), there, "{low} to {high}");
    }
    // If raft-rs has more, it looks at that only if the answer is not short of an entry (`RaftLog::slice`).
    view.set_more(true);
    let whole = view.entries(701, 1001, None, GetEntriesContext::empty(false)).expect("there");
    assert_eq!(whole.len(), 300);
    assert!(whole.iter().all(|entry| entry.data.is_empty() && !is_change(entry)));
}

/// Random appends, overwrites, notices, compactions and installs, against a plain list.
#[test]
fn it_always_reads_like_a_plain_list() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut log, mut view) = view(0);
        let mut list: Vec<Entry> = Vec::new();
        let (mut before, mut before_term, mut term) = (0, 0, 1);
        // Written to the log, not yet told to the view.
        let mut notices = Vec::new();
        for step in 0..60 {
            let last = before + list.len() as u64;
            match random.u8(0..10) {
                0..=4 => {
                    let first = random.u64(before + 1..=last + 1);
                    term += u64::from(first <= last);
                    let mut new = entries(first, first + random.u64(0..30), term);
                    if random.u8(0..4) == 0 {
                        let at = random.usize(0..new.len());
                        new[at].set_entry_type(EntryType::EntryConfChange);
                    }
                    view.append(&new).expect("fits");
                    list.truncate((first - before - 1) as usize);
                    list.extend(new.iter().cloned());
                    // The writer is behind or not.
                    write(&mut log, &new);
                    notices.push((new[new.len() - 1].index, term));
                }
                5..=7 if !notices.is_empty() => {
                    let (index, term) = notices.remove(0);
                    view.persisted(index, term);
                }
                8 if view.durable() > before => {
                    let at = random.u64(before + 1..=view.durable());
                    view.compact_to(at).expect("durable");
                    before_term = list[(at - before - 1) as usize].term;
                    list.drain(..(at - before) as usize);
                    before = at;
                }
                9 if notices.is_empty() => {
                    term += 1;
                    let at = last + random.u64(1..5);
                    let installed = mark(at, term);
                    log.append(&LogBatch {
                        install: Some(installed.clone()),
                        ..LogBatch::default()
                    })
                    .expect("fits");
                    view.install(installed);
                    (before, before_term) = (at, term);
                    list.clear();
                }
                _ => {}
            }
            let last = before + list.len() as u64;
            let context = format!("seed {seed}, step {step}");
            assert_eq!((view.first(), view.last()), (before + 1, last), "{context}");
            assert_eq!(view.term_at(before).ok(), Some(before_term), "{context}");
            assert_eq!(
                view.read(before + 1, last + 1, u64::MAX).expect(&context),
                list,
                "{context}"
            );
            let low = random.u64(before + 1..=last + 1);
            let counted = ask(&view, low, last + 1);
            let there = list.iter().filter(|entry| entry.index >= low && is_change(entry));
            assert_eq!(counted, there.count(), "{context}");
            assert!(view.durable() <= last, "{context}");
            assert!(list.iter().all(|e| view.term_at(e.index).ok() == Some(e.term)), "{context}");
        }
    }
}
