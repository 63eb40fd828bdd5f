//! What is read elsewhere.

use super::*;

/// As raft-rs asks when it has something to send.
fn send(view: &LogView, low: u64, max_bytes: u64) -> raft::Result<Vec<Entry>> {
    Storage::entries(view, low, view.last() + 1, max_bytes, GetEntriesContext::empty(true))
}

fn unavailable(result: raft::Result<Vec<Entry>>) -> bool {
    is(result, StorageError::LogTemporarilyUnavailable)
}

/// A view of 40 entries, of which the last few are in memory, and which reads nothing for followers.
fn cold() -> (MemStore, LogView, u64) {
    let (mut log, mut view) = view(0);
    for index in 1..=40 {
        let new = [entry(index, 1)];
        view.append(&new).expect("fits");
        write(&mut log, &new);
        view.persisted(index, 1);
    }
    view.fetch_elsewhere();
    let first = view.tail.first().expect("some are in memory");
    assert!((20..40).contains(&first), "{first}");
    (log, view, first)
}

fn put(view: &mut LogView, fetch: &Fetch) -> Result<(), LogError> {
    let entries = fetch.read(&*view.reader());
    view.put_fetched(fetch, entries)
}

#[test]
fn what_memory_holds_is_given_at_once() {
    let (_, mut view, first) = cold();
    assert_eq!(send(&view, first, u64::MAX), Ok(entries(first, 40, 1)));
    assert!(is(send(&view, 0, u64::MAX), StorageError::Compacted));
    assert!(view.take_fetch().is_none());
}

/// raft-rs, when it makes a Ready, cannot wait; and looks at nothing but where what is committed ends.
#[test]
fn what_is_committed_raft_is_only_told_the_end_of() {
    let (_, mut view, first) = cold();
    assert_eq!(get(&view, 1, 41), Ok(vec![entry(40, 1)].into_iter().map(bare).collect()));
    assert_eq!(get(&view, 1, first), Ok(vec![bare(entry(first - 1, 0))]));
    assert!(is(get(&view, 0, 41), StorageError::Compacted));
    assert!(is(get(&view, 1, 42), StorageError::Unavailable));
    assert!(view.take_fetch().is_none());
}

fn bare(entry: Entry) -> Entry {
    Entry { data: Default::default(), ..entry }
}

#[test]
fn what_is_to_be_applied_comes_from_memory_or_is_to_be_fetched_to_where_memory_begins() {
    let (_, view, first) = cold();
    assert_eq!(view.in_memory(first..38, u64::MAX), entries(first, 37, 1));
    assert_eq!(view.in_memory(first..38, 1), entries(first, first, 1));
    assert!(view.fetch_to_apply(first..38, u64::MAX).is_none());
    assert!(view.in_memory(first - 1..38, u64::MAX).is_empty(), "no gap");
    for (low, high, end) in [(3, 41, first), (3, 10, 10)] {
        let fetch = view.fetch_to_apply(low..high, 1 << 20).expect("only the log has it");
        assert!(fetch.is_to_apply());
        assert_eq!(*fetch.range(), low..end);
        let read = fetch.read(&*view.reader());
        assert_eq!(fetch.checked(read).expect("in order"), entries(low, end - 1, 1));
    }
}

#[test]
fn what_is_fetched_is_given_with_what_memory_holds_and_then_forgotten() {
    let (_, mut view, first) = cold();
    assert!(unavailable(send(&view, 3, u64::MAX)));
    let fetch = view.take_fetch().expect("noted");
    assert_eq!(*fetch.range(), 3..first, "the rest is in memory");
    put(&mut view, &fetch).expect("it reads");
    assert_eq!(send(&view, 3, u64::MAX), Ok(entries(3, 40, 1)));
    assert_eq!(send(&view, 5, u64::MAX), Ok(entries(5, 40, 1)), "another one who lacks less");
    assert!(unavailable(send(&view, 2, u64::MAX)));
    view.forget_fetched();
    assert!(unavailable(send(&view, 3, u64::MAX)), "it was to be forgotten");
}

/// So that the same messages leave, whoever reads.
#[test]
fn a_message_ends_where_it_would_have_ended() {
    let (_, mut view, _) = cold();
    for max_bytes in [0, 1, 40, 100, 333, 1000, 5000] {
        assert!(unavailable(send(&view, 2, max_bytes)));
        let fetch = view.take_fetch().expect("noted");
        put(&mut view, &fetch).expect("it reads");
        let sent = send(&view, 2, max_bytes).expect("it is here");
        assert_eq!(sent, view.read(2, 41, max_bytes).expect("there"), "{max_bytes} bytes");
        view.forget_fetched();
    }
}

#[test]
fn one_read_is_asked_for_once_and_sixteen_at_most() {
    let (_, mut view, _) = cold();
    let mut under_way = Vec::new();
    for _ in 0..3 {
        (1..=19).for_each(|low| assert!(unavailable(send(&view, low, 100))));
        under_way.extend(std::iter::from_fn(|| view.take_fetch()));
    }
    let lows: Vec<u64> = under_way.iter().map(|fetch| fetch.range().start).collect();
    assert_eq!(lows, (1..=16).collect::<Vec<_>>());
    put(&mut view, &under_way[3]).expect("it reads");
    view.forget_fetched();
    assert!(unavailable(send(&view, 19, 100)));
    assert_eq!(view.take_fetch().map(|fetch| fetch.range().start), Some(19), "there is room again");
}

#[test]
fn what_has_changed_meanwhile_is_void_be_it_entries_or_an_error() {
    // Overwritten, replaced by a snapshot, compacted.
    type Change = fn(&mut LogView);
    let changes: [Change; 3] = [
        |view| view.append(&entries(2, 30, 2)).expect("fits"),
        |view| view.install(mark(90, 2)),
        |view| view.compact_to(5).expect("durable"),
    ];
    for change in changes {
        for fails in [false, true] {
            let (_, mut view, _) = cold();
            assert!(unavailable(send(&view, 2, u64::MAX)));
            let fetch = view.take_fetch().expect("noted");
            let read = fetch.read(&*view.reader());
            change(&mut view);
            let read = if fails { Err(LogError::Poisoned { cause: None }) } else { read };
            view.put_fetched(&fetch, read).expect("of no interest");
            assert!(view.fetches.as_ref().is_some_and(|fetches| fetches.here(2).is_empty()));
        }
    }
    // What follows is another matter.
    let (_, mut view, first) = cold();
    assert!(unavailable(send(&view, 2, u64::MAX)));
    let fetch = view.take_fetch().expect("noted");
    view.append(&entries(first, 50, 2)).expect("fits");
    view.compact_to(1).expect("durable");
    put(&mut view, &fetch).expect("it reads");
    let expected = [entries(2, first - 1, 1), entries(first, 50, 2)].concat();
    assert_eq!(send(&view, 2, u64::MAX), Ok(expected));
}

#[test]
fn a_read_that_fails_or_brings_something_else_is_an_error() {
    let wrong: [Vec<Entry>; 4] =
        [vec![], entries(3, 5, 1), vec![entry(2, 1), entry(4, 1)], entries(2, 41, 1)];
    for wrong in wrong {
        let (_, mut view, _) = cold();
        assert!(unavailable(send(&view, 2, u64::MAX)));
        let fetch = view.take_fetch().expect("noted");
        let answer = view.put_fetched(&fetch, Ok(wrong));
        assert!(matches!(answer, Err(LogError::Corrupt { .. })), "{answer:?}");
    }
    let (_, mut view, _) = cold();
    assert!(unavailable(send(&view, 2, u64::MAX)));
    let fetch = view.take_fetch().expect("noted");
    assert!(matches!(
        view.put_fetched(&fetch, Err(LogError::Poisoned { cause: None })),
        Err(LogError::Poisoned { .. })
    ));
}
