//! What any [`LogStore`] promises.

use raft::eraftpb::{Entry, EntryType};

use super::{Check, entries, entry, hard_state, log_model as model, mark};
use crate::convert;
use crate::storage::{LogBatch, LogError, LogReader, LogState, LogStore};

/// How the suite makes and crashes a log.
pub trait LogFixture {
    /// The log under test.
    type Store: LogStore;

    /// An empty log in a place of its own.
    fn create(&mut self) -> Self::Store;

    /// Power loss, and the log as it opens again: what was not synced may be there or not, batch by batch from the
    /// front.
    fn crash(&mut self, store: Self::Store) -> Self::Store;

    /// Closes the log in order, and opens it again. `None`, the default, leaves the check out.
    fn reopen(&mut self, store: Self::Store) -> Option<Self::Store> {
        drop(store);
        None
    }

    /// Makes the next sync of the log fail, and nothing else; returns whether it can. By default it cannot, and the
    /// check is left out.
    fn fail_next_sync(&mut self, store: &mut Self::Store) -> bool {
        let _ = store;
        false
    }
}

/// Checks everything that [`LogStore`] promises.
///
/// # Panics
/// When the log breaks a promise; the message says which.
pub fn log_store<F: LogFixture>(fixture: &mut F) {
    super::run(&log_store_checks(), fixture);
}

/// The promises of a [`LogStore`], one by one.
#[must_use]
pub fn log_store_checks<F: LogFixture>() -> Vec<Check<F>> {
    vec![
        Check::new("a new log is empty", a_new_log_is_empty),
        Check::new("what is appended is readable at once", what_is_appended_is_readable_at_once),
        Check::new("what is synced survives", what_is_synced_survives),
        Check::new(
            "a crash keeps whole batches from the front",
            a_crash_keeps_whole_batches_from_the_front,
        ),
        Check::new("an overwrite replaces the tail", an_overwrite_replaces_the_tail),
        Check::new("entries that do not fit are refused", entries_that_do_not_fit_are_refused),
        Check::new(
            "an installed snapshot replaces the log",
            an_installed_snapshot_replaces_the_log,
        ),
        Check::new("a compaction keeps entries readable", a_compaction_keeps_entries_readable),
        Check::new("a release needs a mark", a_release_needs_a_mark),
        Check::new("reads are bounded", reads_are_bounded),
        Check::new("kinds and empty data are kept", kinds_and_empty_data_are_kept),
        Check::new("readers work on any thread", readers_work_on_any_thread),
        Check::new("closing makes durable", closing_makes_durable),
        Check::new("a failed sync poisons for good", a_failed_sync_poisons_for_good),
        Check::new("any history reads back", any_history_reads_back),
    ]
}

fn any_history_reads_back<F: LogFixture>(fixture: &mut F) {
    for seed in 0..24 {
        model::run(fixture, seed);
    }
}

fn append<S: LogStore>(log: &mut S, entries: &[Entry]) {
    log.append(&LogBatch { entries, ..LogBatch::default() }).expect("these entries fit");
}

fn all(reader: &dyn LogReader) -> Vec<Entry> {
    let (first, last) = (reader.first_index(), reader.last_index());
    reader.entries(first, last + 1, u64::MAX).expect("what lies within the bounds is readable")
}

fn a_new_log_is_empty<F: LogFixture>(fixture: &mut F) {
    let log = fixture.create();
    let empty = LogState { first_index: 1, ..LogState::default() };
    assert_eq!(log.state().expect("readable"), empty);
    assert_eq!(all(&*log.reader()), []);
    let log = fixture.crash(log);
    assert_eq!(log.state().expect("readable"), empty, "an empty log is empty after a crash");
}

fn what_is_appended_is_readable_at_once<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    let reader = log.reader();
    let batch = LogBatch {
        metadata: Some("whose".into()),
        entries: &entries(1, 3, 1),
        hard_state: Some(hard_state(1, 2, 0)),
        ..LogBatch::default()
    };
    log.append(&batch).expect("it fits");
    let expected = LogState {
        metadata: "whose".into(),
        hard_state: hard_state(1, 2, 0),
        snapshot: None,
        first_index: 1,
        last_index: 3,
    };
    assert_eq!(log.state().expect("readable"), expected, "before any sync");
    assert_eq!(all(&*reader), entries(1, 3, 1), "through a reader made before");
    assert_eq!(reader.term(2).expect("there"), 1);
}

fn what_is_synced_survives<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    for (metadata, index, term) in [("first", 1, 1), ("second", 2, 3)] {
        log.append(&LogBatch {
            metadata: Some(metadata.into()),
            entries: &[entry(index, term)],
            hard_state: Some(hard_state(term, 1, index)),
            ..LogBatch::default()
        })
        .expect("it fits");
    }
    log.sync().expect("no fault");
    let before = log.state().expect("readable");
    let log = fixture.crash(log);
    assert_eq!(log.state().expect("readable"), before);
    assert_eq!(before.metadata, "second", "the latest record counts");
    assert_eq!(all(&*log.reader()), [entry(1, 1), entry(2, 3)]);
}

fn a_crash_keeps_whole_batches_from_the_front<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    for index in 1..=5 {
        log.append(&LogBatch {
            metadata: Some(index.to_string().into()),
            entries: &entries(2 * index - 1, 2 * index, index),
            hard_state: Some(hard_state(index, 1, index)),
            ..LogBatch::default()
        })
        .expect("it fits");
        if index == 2 {
            log.sync().expect("no fault");
        }
    }
    let log = fixture.crash(log);
    let state = log.state().expect("readable");
    let kept = state.hard_state.term;
    assert!((2..=5).contains(&kept), "two batches were synced, {kept} are there");
    assert_eq!(state.metadata, kept.to_string(), "a batch is there whole or not at all");
    assert_eq!((state.first_index, state.last_index), (1, 2 * kept), "with all its entries");
    assert!(all(&*log.reader()).iter().all(|entry| entry.term == entry.index.div_ceil(2)));
}

fn an_overwrite_replaces_the_tail<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    append(&mut log, &entries(1, 8, 1));
    log.sync().expect("no fault");
    append(&mut log, &entries(4, 5, 2));
    let expected = [entries(1, 3, 1), entries(4, 5, 2)].concat();
    assert_eq!(all(&*log.reader()), expected, "what follows an overwritten entry is gone");
    log.sync().expect("no fault");
    let mut log = fixture.crash(log);
    assert_eq!(all(&*log.reader()), expected, "and stays gone");
    append(&mut log, &entries(6, 6, 2));
    assert_eq!(log.state().expect("readable").last_index, 6);
    append(&mut log, &entries(1, 1, 3));
    assert_eq!(all(&*log.reader()), entries(1, 1, 3), "all of it may be overwritten");
}

fn entries_that_do_not_fit_are_refused<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    append(&mut log, &entries(1, 3, 1));
    let before = log.state().expect("readable");
    let mut hole = entries(4, 6, 1);
    hole.remove(1);
    for misfit in [entries(5, 5, 1), hole] {
        let batch = LogBatch {
            entries: &misfit,
            metadata: Some("a refused batch leaves nothing".into()),
            ..LogBatch::default()
        };
        let result = log.append(&batch);
        assert!(matches!(result, Err(LogError::Gap { .. })), "{result:?}");
        assert_eq!(log.state().expect("readable"), before);
    }
    append(&mut log, &entries(4, 4, 1));
    log.sync().expect("a refusal does not poison");
}

fn an_installed_snapshot_replaces_the_log<F: LogFixture>(fixture: &mut F) {
    for at in [2, 5, 9] {
        let mut log = fixture.create();
        append(&mut log, &entries(1, 5, 1));
        log.append(&LogBatch { install: Some(mark(at, 2)), ..LogBatch::default() })
            .expect("it fits");
        let check = |log: &F::Store| {
            let state = log.state().expect("readable");
            assert_eq!((state.first_index, state.last_index), (at + 1, at), "snapshot at {at}");
            assert_eq!(state.snapshot.map(|mark| (mark.index, mark.term)), Some((at, 2)));
            assert_eq!(log.reader().term(at).expect("the mark's own"), 2);
        };
        check(&log);
        log.sync().expect("no fault");
        log = fixture.crash(log);
        check(&log);
        let batch = LogBatch {
            install: Some(mark(at + 7, 3)),
            entries: &entries(at + 8, at + 9, 3),
            ..LogBatch::default()
        };
        log.append(&batch).expect("entries follow the snapshot in the same batch");
        assert_eq!(all(&*log.reader()), entries(at + 8, at + 9, 3));
    }
}

fn a_compaction_keeps_entries_readable<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    append(&mut log, &entries(1, 9, 1));
    log.append(&LogBatch { compact: Some(mark(6, 1)), ..LogBatch::default() }).expect("it fits");
    log.sync().expect("no fault");
    let log = fixture.crash(log);
    let state = log.state().expect("readable");
    assert_eq!((state.first_index, state.last_index), (1, 9));
    let kept = state.snapshot.expect("there is a mark");
    assert_eq!((kept.index, kept.term), (6, 1));
    let voters: std::collections::BTreeSet<_> = kept.conf_state.get_voters().iter().collect();
    assert_eq!(voters, [1, 2, 3].iter().collect(), "the configuration is kept");
    assert_eq!(all(&*log.reader()), entries(1, 9, 1), "until it is released");
}

fn a_release_needs_a_mark<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    append(&mut log, &entries(1, 9, 1));
    log.sync().expect("no fault");
    let result = log.release(2);
    assert!(matches!(result, Err(LogError::NoMark { .. })), "{result:?}");
    log.append(&LogBatch { compact: Some(mark(6, 1)), ..LogBatch::default() }).expect("it fits");
    log.sync().expect("no fault");
    assert!(log.release(8).is_err(), "entry 7 is in no snapshot");
    log.release(5).expect("entries up to 6 are covered");
    let log = fixture.crash(log);
    let reader = log.reader();
    assert!(reader.first_index() <= 5, "no more than asked");
    assert_eq!(reader.entries(5, 10, u64::MAX).expect("kept"), entries(5, 9, 1));
}

fn reads_are_bounded<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    let sized = |index| convert::entry(index, 1, EntryType::EntryNormal, vec![7; 100]);
    append(&mut log, &(1..=10).map(sized).collect::<Vec<_>>());
    let reader = log.reader();
    let read = |low, high, max| reader.entries(low, high, max).map(|entries| entries.len());
    assert_eq!(read(1, 11, u64::MAX).expect("there"), 10);
    assert_eq!(read(1, 11, 0).expect("there"), 1, "at least one");
    let some = read(1, 11, 250).expect("there");
    assert!((1..=3).contains(&some), "{some} entries of 100 bytes within 250");
    assert_eq!(read(4, 4, u64::MAX).expect("nothing is asked for"), 0);
    assert!(matches!(read(9, 12, u64::MAX), Err(LogError::Unavailable { .. })));
    assert!(matches!(reader.term(11), Err(LogError::Unavailable { .. })));
    log.append(&LogBatch { install: Some(mark(20, 2)), ..LogBatch::default() }).expect("it fits");
    assert!(matches!(read(3, 4, u64::MAX), Err(LogError::Compacted { .. })));
    assert!(matches!(reader.term(3), Err(LogError::Compacted { .. })));
}

fn kinds_and_empty_data_are_kept<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    let kinds = [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];
    let written: Vec<_> =
        (1..).zip(kinds).map(|(index, kind)| convert::entry(index, 1, kind, "")).collect();
    append(&mut log, &written);
    log.sync().expect("no fault");
    let log = fixture.crash(log);
    assert_eq!(all(&*log.reader()), written);
}

fn readers_work_on_any_thread<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    append(&mut log, &entries(1, 2, 1));
    let reader = log.reader();
    let reading = std::thread::spawn(move || all(&*reader));
    assert_eq!(reading.join().expect("no panic"), entries(1, 2, 1));
    assert!(log.size() < 1 << 30, "two entries take no gigabyte");
}

fn closing_makes_durable<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    append(&mut log, &entries(1, 2, 1));
    if let Some(log) = fixture.reopen(log) {
        assert_eq!(all(&*log.reader()), entries(1, 2, 1), "closed in order, without a sync before");
    }
}

fn a_failed_sync_poisons_for_good<F: LogFixture>(fixture: &mut F) {
    let mut log = fixture.create();
    append(&mut log, &entries(1, 2, 1));
    log.sync().expect("no fault");
    append(&mut log, &entries(3, 3, 1));
    if !fixture.fail_next_sync(&mut log) {
        return;
    }
    log.sync().expect_err("the disk failed");
    for _ in 0..2 {
        let synced = log.sync();
        assert!(
            matches!(synced, Err(LogError::Poisoned { .. })),
            "it must not be tried again: {synced:?}"
        );
        let batch = LogBatch { entries: &entries(4, 4, 1), ..LogBatch::default() };
        let appended = log.append(&batch);
        assert!(
            matches!(appended, Err(LogError::Poisoned { .. })),
            "nothing more is taken: {appended:?}"
        );
    }
    let log = fixture.crash(log);
    assert!(log.state().expect("readable").last_index >= 2, "what was synced before is there");
}
