//! Plays a workload on a disk that records it, beside the model, and writes down what was promised when.

use std::io::{Read, Write};

use oarlock_wal::snapshot::{self, SnapshotStore};
use oarlock_wal::testing::{CrashPoint, SimDisk, Unsynced};
use oarlock_wal::vfs::Access;
use oarlock_wal::{Error, HardState, SnapshotMark, Vfs, Wal};

use crate::util::{DIR, Model, Spec, large, options, run};

/// Beside the log's directory.
const SNAPSHOTS: &str = "/data/snap";

/// Marks whose configuration says this have a file.
const FILED: &str = "filed";

/// What a workload left behind: the disk it was recorded on, and what the log said after each batch.
pub(crate) struct Story {
    pub(crate) disk: SimDisk,
    pub(crate) history: Vec<Model>,
}

/// Which states of a story's history may be found after a crash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The newest that was promised to be durable.
    pub(crate) promised: usize,
    /// The newest that was begun.
    pub(crate) begun: usize,
    /// Entries before it may be gone.
    pub(crate) released: u64,
}

impl Window {
    pub(crate) fn at(point: &CrashPoint) -> Self {
        let newest = |word: &str| {
            let numbers =
                point.notes.iter().filter_map(|note| note.strip_prefix(word)?.trim().parse().ok());
            numbers.max().unwrap_or(0)
        };
        let [promised, begun] = ["synced", "begun"].map(newest);
        Self { promised, begun: begun.max(promised), released: newest("released") as u64 }
    }
}

pub(crate) struct Player {
    pub(crate) disk: SimDisk,
    log: Option<Wal>,
    store: Option<SnapshotStore>,
    history: Vec<Model>,
    /// The term of what is appended next.
    pub(crate) term: u64,
    pub(crate) rng: fastrand::Rng,
}

/// What stands in the snapshot of this index and term.
fn content(index: u64, term: u64) -> Vec<u8> {
    vec![(index * 7 + term) as u8; 700]
}

fn store(disk: &SimDisk) -> Result<SnapshotStore, snapshot::Error> {
    snapshot::Options::new().vfs(std::sync::Arc::new(disk.clone())).open(SNAPSHOTS)
}

/// Checks that the snapshot which the log vouches for is there, whole, if its mark says that there is a file.
pub(crate) fn check_snapshot(disk: &SimDisk, mark: Option<&SnapshotMark>) -> Result<(), String> {
    let Some(mark) = mark.filter(|mark| mark.conf == FILED) else { return Ok(()) };
    let read = || -> Result<Vec<u8>, snapshot::Error> {
        let store = store(disk)?;
        store.newest(|index, term| (index, term) == (mark.index, mark.term))?;
        let mut bytes = Vec::new();
        let read = store.open_file(mark.index, mark.term)?.read_to_end(&mut bytes);
        read.map_err(|source| snapshot::Error::Io { op: "read", path: SNAPSHOTS.into(), source })?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes == content(mark.index, mark.term) => Ok(()),
        Ok(_) => Err(format!("the snapshot of {:?} has other contents", mark.id())),
        Err(error) => Err(format!("lost the snapshot of {:?}: {error}", mark.id())),
    }
}

impl Player {
    /// A new log with a first segment of this size, and the recording begun.
    pub(crate) fn new(seed: u64, size: u64) -> Self {
        let disk = SimDisk::new();
        let log = options(&disk).segment_size(size).create(DIR, b"me").expect("creates");
        let history = vec![Model { metadata: "me".into(), ..Model::default() }];
        let rng = fastrand::Rng::with_seed(seed);
        let player = Self { disk, log: Some(log), store: None, history, term: 1, rng };
        player.quiet();
        player.disk.record();
        player
    }

    pub(crate) fn story(mut self) -> Story {
        // Its closing is not part of the story, unless the workload closed it.
        let Self { disk, history, .. } = &mut self;
        Story { disk: disk.clone(), history: std::mem::take(history) }
    }

    fn log(&self) -> &Wal {
        self.log.as_ref().expect("open")
    }

    pub(crate) fn model(&self) -> &Model {
        self.history.last().expect("begins with one")
    }

    pub(crate) fn covered(&self) -> u64 {
        self.model().mark.as_ref().map_or(0, |mark| mark.index)
    }

    /// The process id in the lock file is in doubt as long as nothing syncs it, and of no interest.
    fn quiet(&self) {
        let lock = self.disk.open(&std::path::Path::new(DIR).join("LOCK"), Access::Read);
        lock.and_then(|file| file.sync_all()).expect("no fault");
    }

    fn promise(&self) {
        self.disk.note(format!("synced {}", self.history.len() - 1));
    }

    pub(crate) fn append(&mut self, spec: Spec) {
        assert!(self.try_append(spec), "there was room");
    }

    /// Appends, and says whether there was room.
    pub(crate) fn try_append(&mut self, spec: Spec) -> bool {
        let mut model = self.model().clone();
        model.apply(&spec);
        self.history.push(model);
        self.disk.note(format!("begun {}", self.history.len() - 1));
        match self.log().append(&spec.batch()) {
            Ok(_) => true,
            Err(Error::NoSpace { .. }) => {
                self.history.pop(); // nothing of it may ever be seen: the next batch takes its number
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// `count` entries of `len` bytes behind the last.
    pub(crate) fn more(&mut self, count: u64, len: usize) {
        let spec = self.next(count, len);
        self.append(spec);
    }

    pub(crate) fn next(&self, count: u64, len: usize) -> Spec {
        let first = self.model().last + 1;
        Spec::of(large(first..first + count, self.term, len))
    }

    /// `count` small entries of a new term, the first of them `back` before the end.
    pub(crate) fn overwrite(&mut self, back: u64, count: u64) {
        self.term += 1;
        let first = (self.model().last + 1).saturating_sub(back).max(self.covered() + 1);
        let state = HardState { term: self.term, vote: 1, commit: self.covered() };
        self.append(Spec {
            hard_state: Some(state),
            ..Spec::of(run(first..first + count, self.term))
        });
    }

    /// A batch of every kind of frame.
    pub(crate) fn everything(&mut self, count: u64, len: usize) {
        let spec = self.next(count, len);
        let at = spec.entries[0].id();
        self.append(Spec {
            metadata: Some(format!("metadata {}", at.index).into()),
            hard_state: Some(HardState { term: self.term, vote: 2, commit: at.index }),
            compact: Some(SnapshotMark::new(at.index, at.term, "conf")),
            ..spec
        });
    }

    pub(crate) fn state(&mut self) {
        let vote = self.rng.u64(..9);
        let state = HardState { term: self.term, vote, commit: self.covered() };
        self.append(Spec { hard_state: Some(state), ..Spec::default() });
    }

    /// A mark for a snapshot taken here, `back` before the end.
    pub(crate) fn compact(&mut self, back: u64, conf: &'static str) {
        let index = self.model().last.saturating_sub(back).max(self.covered());
        let Some(term) = self.model().entries.get(&index).map(|entry| entry.term) else { return };
        self.append(Spec {
            compact: Some(SnapshotMark::new(index, term, conf)),
            ..Spec::default()
        });
    }

    /// A mark for a snapshot from elsewhere, `ahead` of the end (or before it), and what follows it.
    pub(crate) fn install(&mut self, ahead: i64, count: u64, conf: &'static str) {
        self.term += 1;
        let index = self.model().last.saturating_add_signed(ahead).max(self.covered());
        let mark = SnapshotMark::new(index, self.term, conf);
        let entries = run(index + 1..index + 1 + count, self.term);
        self.append(Spec { install: Some(mark), entries, ..Spec::default() });
    }

    /// Takes a snapshot as an owner does: file, mark, release, purge (O5, O6).
    pub(crate) fn snapshot(&mut self, back: u64) {
        let index = self.model().last.saturating_sub(back);
        let Some(entry) = self.model().entries.get(&index).filter(|_| index > self.covered())
        else {
            return;
        };
        self.file(index, entry.term);
        self.compact(back, FILED);
        self.release(index + 1);
        self.purge(index);
    }

    /// Installs a snapshot from elsewhere as an owner does.
    pub(crate) fn receive(&mut self, ahead: i64, count: u64) {
        let index = self.model().last.saturating_add_signed(ahead).max(self.covered() + 1);
        self.file(index, self.term + 1);
        self.install(ahead.max(self.covered() as i64 + 1 - self.model().last as i64), count, FILED);
        self.release(index + 1);
        self.purge(index);
    }

    fn file(&mut self, index: u64, term: u64) {
        let disk = &self.disk;
        let store = self.store.get_or_insert_with(|| store(disk).expect("no fault"));
        let mut writer = store.create(index, term).expect("no fault");
        writer.write_all(&content(index, term)).expect("no fault");
        writer.commit().expect("no fault");
    }

    fn purge(&mut self, index: u64) {
        if let Some(store) = &self.store {
            store.purge(index).expect("no fault");
        }
    }

    pub(crate) fn sync(&mut self) {
        self.log().sync().expect("syncs");
        self.promise();
    }

    pub(crate) fn release(&mut self, before: u64) {
        let model = self.history.last_mut().expect("begins with one");
        model.released = model.released.max(before);
        self.disk.note(format!("released {before}"));
        self.log().release(before).expect("covered");
        self.promise();
    }

    /// How many segments were made of released ones.
    pub(crate) fn recycled(&self) -> u64 {
        self.log().stats().recycled
    }

    pub(crate) fn prepare(&self) {
        self.log().prepare().expect("prepares");
    }

    pub(crate) fn finish(&self) {
        self.log().finish_segment().expect("finishes");
    }

    pub(crate) fn idle(&self) {
        self.log().idle().expect("marks");
    }

    /// Closes the log and opens it again.
    pub(crate) fn reopen(&mut self) {
        self.log.take().expect("open").close().expect("closes");
        self.promise();
        self.open();
    }

    pub(crate) fn close(&mut self) {
        self.log.take().expect("open").close().expect("closes");
        self.promise();
    }

    /// The process dies; the next one opens what it left.
    pub(crate) fn kill(&mut self) {
        self.disk = self.disk.kill();
        self.open();
    }

    fn open(&mut self) {
        self.store = None;
        let verify = self.rng.u8(..4) == 0;
        self.log = Some(options(&self.disk).verify(verify).open(DIR).expect("opens"));
        self.quiet();
        self.promise(); // all that was accepted (O20)
    }

    /// The power fails, and the recording begins again with what is left: the crashes of the second life.
    pub(crate) fn power_cut(&mut self, seed: u64) {
        let points = self.disk.crash_points();
        let window = points.last().map(|point| Window::at(&point)).expect("has one");
        self.disk = self.disk.reboot(Unsynced::Random(seed));
        self.open();
        let found = find(self.log(), &self.history, window).expect("lost or invented something");
        let model = self.history[found].clone();
        self.history.push(model);
        self.disk.record();
        self.disk.note(format!("released {}", window.released));
        self.promise();
    }

    /// No more bytes than now.
    pub(crate) fn full(&self) {
        self.disk.set_capacity(Some(self.disk.used()));
    }

    pub(crate) fn room(&self) {
        self.disk.set_capacity(None);
    }
}

/// The state that a log is in: the newest of those in the window that it agrees with, or how it differs from each.
pub(crate) fn find(log: &Wal, history: &[Model], window: Window) -> Result<usize, String> {
    let mut differences = Vec::new();
    for number in (window.promised..=window.begun).rev() {
        let Some(model) = history.get(number) else { continue }; // refused for want of room
        let model = Model { released: window.released.max(1), ..model.clone() };
        match model.difference(log) {
            None => return Ok(number),
            Some(difference) => differences.push(format!("state {number}: {difference}")),
        }
    }
    Err(differences.join("\n"))
}
