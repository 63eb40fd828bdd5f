//! What any [`SnapshotStore`] promises.

use std::io::{Read, Write};

use super::Check;
use crate::storage::{SnapshotError, SnapshotId, SnapshotSource, SnapshotStore};

/// How the suite makes and crashes a snapshot store.
pub trait SnapshotFixture {
    /// The store under test.
    type Store: SnapshotStore;

    /// An empty store in a place of its own.
    fn create(&mut self) -> Self::Store;

    /// Power loss, and the store as it opens again.
    fn crash(&mut self, store: Self::Store) -> Self::Store;

    /// Damages the content of a stored snapshot, somewhere in the middle; returns whether it can. By default it cannot,
    /// and the check is left out.
    fn damage(&mut self, store: &Self::Store, id: SnapshotId) -> bool {
        let _ = (store, id);
        false
    }
}

/// Checks everything that [`SnapshotStore`] promises.
///
/// # Panics
/// When the store breaks a promise; the message says which.
pub fn snapshot_store<F: SnapshotFixture>(fixture: &mut F) {
    super::run(&snapshot_store_checks(), fixture);
}

/// The promises of a [`SnapshotStore`], one by one.
#[must_use]
pub fn snapshot_store_checks<F: SnapshotFixture>() -> Vec<Check<F>> {
    vec![
        Check::new("a new store is empty", a_new_store_is_empty),
        Check::new("what is committed reads back", what_is_committed_reads_back),
        Check::new("what is committed survives", what_is_committed_survives),
        Check::new("what is not committed is not there", what_is_not_committed_is_not_there),
        Check::new("the newest that is vouched for is found", the_newest_vouched_for_is_found),
        Check::new("a commit replaces the one of the same id", a_commit_replaces_the_same_id),
        Check::new("what is open stays readable", what_is_open_stays_readable),
        Check::new("a purge removes what is older and nothing else", a_purge_removes_what_is_older),
        Check::new("damage is found", damage_is_found),
    ]
}

const fn id(index: u64) -> SnapshotId {
    SnapshotId { index, term: 3 }
}

/// Bytes that differ by seed and place.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

fn put<S: SnapshotStore>(store: &S, id: SnapshotId, content: &[u8]) {
    let mut sink = store.create(id).expect("there is room");
    for piece in content.chunks(10_007) {
        sink.write_all(piece).expect("there is room");
    }
    let len = sink.commit().expect("there is room");
    assert_eq!(len, content.len() as u64, "as many bytes as were written");
}

fn read(mut source: SnapshotSource) -> Vec<u8> {
    let mut content = Vec::new();
    source.content.read_to_end(&mut content).expect("it is whole");
    assert_eq!(source.len, content.len() as u64, "it has the length that was said");
    content
}

fn get<S: SnapshotStore>(store: &S, id: SnapshotId) -> Vec<u8> {
    read(store.open(id).expect("it is there"))
}

fn newest<S: SnapshotStore>(store: &S) -> Option<SnapshotId> {
    store.newest(&|_| true).expect("the store can be read")
}

fn assert_missing<S: SnapshotStore>(store: &S, id: SnapshotId) {
    let opened = store.open(id);
    assert!(matches!(opened, Err(SnapshotError::NotFound(missing)) if missing == id), "{opened:?}");
}

fn a_new_store_is_empty<F: SnapshotFixture>(fixture: &mut F) {
    let store = fixture.create();
    assert_eq!(newest(&store), None);
    assert_missing(&store, id(1));
    store.purge(100).expect("there is nothing to be done");
}

fn what_is_committed_reads_back<F: SnapshotFixture>(fixture: &mut F) {
    let store = fixture.create();
    for (index, len) in (1..).zip([1, 4095, 65_536, 65_537, 3_000_000]) {
        put(&store, id(index), &content(index, len));
        assert!(get(&store, id(index)) == content(index, len), "{len} bytes");
    }
    // Two at a time, one of them on another thread.
    let (one, other) = (store.open(id(5)).expect("it is there"), store.open(id(5)).expect("it is"));
    let reading = std::thread::spawn(move || read(one));
    assert!(read(other) == reading.join().expect("no panic"));
}

fn what_is_committed_survives<F: SnapshotFixture>(fixture: &mut F) {
    let store = fixture.create();
    put(&store, id(7), &content(7, 100_000));
    let store = fixture.crash(store);
    assert_eq!(newest(&store), Some(id(7)));
    assert!(get(&store, id(7)) == content(7, 100_000));
}

fn what_is_not_committed_is_not_there<F: SnapshotFixture>(fixture: &mut F) {
    let store = fixture.create();
    put(&store, id(1), b"old");
    let mut sink = store.create(id(2)).expect("there is room");
    sink.write_all(&content(2, 200_000)).expect("there is room");
    assert_missing(&store, id(2));
    assert_eq!(newest(&store), Some(id(1)));
    drop(sink);
    assert_missing(&store, id(2));
    let mut sink = store.create(id(3)).expect("there is room");
    sink.write_all(b"under way").expect("there is room");
    std::mem::forget(sink); // a crash drops nothing
    let store = fixture.crash(store);
    assert_eq!(newest(&store), Some(id(1)));
    assert_missing(&store, id(3));
    put(&store, id(3), b"the second try");
    assert_eq!(get(&store, id(3)), b"the second try", "what was left behind is not in the way");
}

fn the_newest_vouched_for_is_found<F: SnapshotFixture>(fixture: &mut F) {
    let store = fixture.create();
    for index in [30, 4, 200, 7] {
        put(&store, id(index), b"any");
    }
    assert_eq!(newest(&store), Some(id(200)), "by number, not by name or age");
    let vouched = store.newest(&|id| id.index < 30).expect("the store can be read");
    assert_eq!(vouched, Some(id(7)));
    assert_eq!(store.newest(&|id| id.term == 1).expect("the store can be read"), None);
}

fn a_commit_replaces_the_same_id<F: SnapshotFixture>(fixture: &mut F) {
    let store = fixture.create();
    put(&store, id(9), b"first");
    let mut sink = store.create(id(9)).expect("there is room");
    sink.write_all(b"given up").expect("there is room");
    assert_eq!(get(&store, id(9)), b"first", "until there is another");
    drop(sink);
    assert_eq!(get(&store, id(9)), b"first");
    put(&store, id(9), b"second, and longer");
    assert_eq!(get(&store, id(9)), b"second, and longer");
    let store = fixture.crash(store);
    assert_eq!(get(&store, id(9)), b"second, and longer");
}

fn what_is_open_stays_readable<F: SnapshotFixture>(fixture: &mut F) {
    let store = fixture.create();
    let whole = content(5, 1_000_000);
    put(&store, id(5), &whole);
    let (purged, replaced) = (store.open(id(5)).expect("it is"), store.open(id(5)).expect("it is"));
    put(&store, id(5), b"another");
    put(&store, id(6), b"newer");
    store.purge(6).expect("what is open stays");
    assert!(read(purged) == whole && read(replaced) == whole);
}

fn a_purge_removes_what_is_older<F: SnapshotFixture>(fixture: &mut F) {
    let store = fixture.create();
    for index in 1..=5 {
        put(&store, id(index), b"any");
    }
    store.purge(4).expect("nothing is open");
    let store = fixture.crash(store);
    for index in 1..=3 {
        assert_missing(&store, id(index));
    }
    assert_eq!((get(&store, id(4)), get(&store, id(5))), (b"any".to_vec(), b"any".to_vec()));
}

fn damage_is_found<F: SnapshotFixture>(fixture: &mut F) {
    let store = fixture.create();
    put(&store, id(1), b"older");
    put(&store, id(2), &content(2, 500_000));
    if !fixture.damage(&store, id(2)) {
        return;
    }
    let outcome = store.open(id(2)).map(|mut source| {
        let mut read = Vec::new();
        (source.content.read_to_end(&mut read), read)
    });
    match outcome {
        Err(_) | Ok((Err(_), _)) => {}
        Ok((Ok(_), read)) => {
            assert!(read == content(2, 500_000), "damaged bytes were given out");
            panic!("the damage was not found, or there was none");
        }
    }
    let found = newest(&store);
    assert_eq!(found, Some(id(1)), "the next older one serves");
}
