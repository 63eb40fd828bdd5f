//! Snapshot stores: in memory, on files, and some that break one promise each.

use std::io::{self, Read, Write};

use oarlock_raftnode::testing::{SnapshotFixture, snapshot_store, snapshot_store_checks};
use oarlock_raftnode::{
    MemSnapshots, SnapshotError, SnapshotId, SnapshotSink, SnapshotSource, SnapshotStore,
};

use crate::each_check_catches_its_bug;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    FindsWhatIsNotThere,
    CutsOff,
    ForgetsInACrash,
    ShowsWhatIsNotCommitted,
    OrdersByName,
    KeepsTheFirst,
    ReadsLate,
    PurgesTooMuch,
    PurgesNothing,
    HasNoChecksum,
}

const BUGS: [(&str, Bug); 10] = [
    ("a new store is empty", Bug::FindsWhatIsNotThere),
    ("what is committed reads back", Bug::CutsOff),
    ("what is committed survives", Bug::ForgetsInACrash),
    ("what is not committed is not there", Bug::ShowsWhatIsNotCommitted),
    ("the newest that is vouched for is found", Bug::OrdersByName),
    ("a commit replaces the one of the same id", Bug::KeepsTheFirst),
    ("what is open stays readable", Bug::ReadsLate),
    ("a purge removes what is older and nothing else", Bug::PurgesTooMuch),
    ("a purge removes what is older and nothing else", Bug::PurgesNothing),
    ("damage is found", Bug::HasNoChecksum),
];

#[derive(Clone)]
struct Buggy {
    inner: MemSnapshots,
    bug: Option<Bug>,
}

impl Buggy {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
}

impl SnapshotStore for Buggy {
    fn create(&self, id: SnapshotId) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        if self.has(Bug::ShowsWhatIsNotCommitted) {
            self.inner.create(id)?.commit()?;
        }
        let keep = self.has(Bug::KeepsTheFirst) && self.inner.open(id).is_ok();
        let inner = self.inner.create(id)?;
        Ok(Box::new(Sink { inner, written: 0, keep, cut: self.has(Bug::CutsOff) }))
    }

    fn open(&self, id: SnapshotId) -> Result<SnapshotSource, SnapshotError> {
        let mut source = self.inner.open(id)?;
        if self.has(Bug::ReadsLate) {
            source.content = Box::new(Late { store: self.inner.clone(), id, at: 0 });
        }
        Ok(source)
    }

    fn newest(
        &self,
        vouched: &dyn Fn(SnapshotId) -> bool,
    ) -> Result<Option<SnapshotId>, SnapshotError> {
        let ids = self.inner.ids();
        if self.has(Bug::FindsWhatIsNotThere) && ids.is_empty() {
            return Ok(Some(SnapshotId { index: 1, term: 1 }));
        }
        if self.has(Bug::OrdersByName) {
            let vouched = ids.into_iter().filter(|id| vouched(*id));
            return Ok(vouched.max_by_key(ToString::to_string));
        }
        self.inner.newest(vouched)
    }

    fn purge(&self, keep_from: u64) -> Result<(), SnapshotError> {
        match self.bug {
            Some(Bug::PurgesTooMuch) => self.inner.purge(keep_from + 1),
            Some(Bug::PurgesNothing) => Ok(()),
            _ => self.inner.purge(keep_from),
        }
    }
}

struct Sink {
    inner: Box<dyn SnapshotSink>,
    written: u64,
    keep: bool,
    cut: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written += bytes.len() as u64;
        if !self.cut || self.written <= 65_536 {
            self.inner.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl SnapshotSink for Sink {
    fn commit(self: Box<Self>) -> Result<u64, SnapshotError> {
        if !self.keep {
            self.inner.commit()?;
        }
        Ok(self.written)
    }
}

/// Looks for the content when it is read.
struct Late {
    store: MemSnapshots,
    id: SnapshotId,
    at: u64,
}

impl Read for Late {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut source = self.store.open(self.id).map_err(io::Error::other)?;
        io::copy(&mut (&mut source.content).take(self.at), &mut io::sink())?;
        let len = source.content.read(into)?;
        self.at += len as u64;
        Ok(len)
    }
}

struct Fixture(Option<Bug>);

impl SnapshotFixture for Fixture {
    type Store = Buggy;

    fn create(&mut self) -> Buggy {
        Buggy { inner: MemSnapshots::new(), bug: self.0 }
    }

    fn crash(&mut self, store: Buggy) -> Buggy {
        if store.has(Bug::ForgetsInACrash) { self.create() } else { store }
    }

    fn damage(&mut self, store: &Buggy, id: SnapshotId) -> bool {
        if !store.has(Bug::HasNoChecksum) {
            return false; // memory is not damaged
        }
        let mut sink = store.inner.create(id).expect("there is room");
        sink.write_all(b"other bytes").expect("there is room");
        sink.commit().expect("there is room");
        true
    }
}

#[test]
fn snapshots_in_memory_keep_their_promises() {
    snapshot_store(&mut Fixture(None));
}

#[test]
fn each_check_of_snapshots_catches_what_breaks_its_promise() {
    each_check_catches_its_bug(&snapshot_store_checks(), &BUGS, Fixture);
}

#[cfg(feature = "wal")]
mod files {
    use std::path::PathBuf;
    use std::sync::Arc;

    use oarlock_raftnode::WalOptions;

    use super::*;

    /// The directories of the stores that were made, and the logs beside them, which hold their locks.
    #[derive(Default)]
    struct OnFiles {
        dirs: Vec<tempfile::TempDir>,
        log: Option<oarlock_raftnode::WalStore>,
    }

    impl OnFiles {
        fn open(&mut self) -> Arc<dyn SnapshotStore> {
            self.log = None;
            let dir = self.dirs.last().expect("created before").path();
            let options = WalOptions::new(dir).segment_size(64 << 10).maintainer(false);
            let log = options.open_or_create().expect("it opens");
            let snapshots = log.snapshots();
            self.log = Some(log);
            snapshots
        }

        fn largest_file(&self) -> PathBuf {
            let dir = self.dirs.last().expect("created before").path().join("snap");
            let files = std::fs::read_dir(dir).expect("it is there").map(|file| {
                let file = file.expect("readable");
                (file.metadata().expect("readable").len(), file.path())
            });
            files.max().expect("there is one").1
        }
    }

    impl SnapshotFixture for OnFiles {
        type Store = Arc<dyn SnapshotStore>;

        fn create(&mut self) -> Self::Store {
            self.dirs.push(tempfile::tempdir().expect("a directory"));
            self.open()
        }

        fn crash(&mut self, store: Self::Store) -> Self::Store {
            drop(store);
            self.open()
        }

        fn damage(&mut self, _: &Self::Store, _: SnapshotId) -> bool {
            let path = self.largest_file();
            let mut bytes = std::fs::read(&path).expect("readable");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            std::fs::write(&path, bytes).expect("writable");
            true
        }
    }

    #[test]
    fn snapshots_on_files_keep_their_promises() {
        snapshot_store(&mut OnFiles::default());
    }
}
