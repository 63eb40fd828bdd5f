//! Random operations on a log and on the plainest model of one.

use raft::eraftpb::Entry;

use super::{LogFixture, entries, hard_state, mark};
use crate::storage::{LogBatch, LogState, LogStore, SnapshotMark};

/// What a log should hold.
#[derive(Clone, Default)]
struct Model {
    metadata: u64,
    term: u64,
    commit: u64,
    snapshot: Option<SnapshotMark>,
    before: u64,
    entries: Vec<Entry>,
}

impl Model {
    fn last(&self) -> u64 {
        self.before + self.entries.len() as u64
    }

    fn term_at(&self, index: u64) -> u64 {
        match index.checked_sub(self.before + 1) {
            Some(offset) => self.entries[offset as usize].term,
            None => self.snapshot.as_ref().map_or(0, |mark| mark.term),
        }
    }
}

/// One random history, with crashes. A failure names its seed.
pub(super) fn run<F: LogFixture>(fixture: &mut F, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut log = fixture.create();
    // What a crash may leave: the state at the last sync, and after each batch since.
    let mut candidates = vec![Model::default()];
    for step in 0..60 {
        let context = format!("seed {seed}, step {step}");
        let mut model = candidates.last().cloned().unwrap_or_default();
        match random.u8(0..10) {
            0..=5 => {
                write(&mut log, &mut model, &mut random, &context);
                candidates.push(model);
            }
            6 | 7 => {
                log.sync().unwrap_or_else(|error| panic!("{context}: {error}"));
                candidates = vec![model];
            }
            8 => {
                log.sync().unwrap_or_else(|error| panic!("{context}: {error}"));
                release(&mut log, &model, &mut random, &context);
                candidates = vec![model];
            }
            _ => {
                log = fixture.crash(log);
                let found = log.state().unwrap_or_else(|error| panic!("{context}: {error}"));
                let kept = candidates.iter().rposition(|candidate| matches(&found, candidate));
                let kept = kept.unwrap_or_else(|| {
                    panic!("{context}: {found:?} is no prefix of what was written")
                });
                candidates = vec![candidates[kept].clone()];
            }
        }
        let expected = candidates.last().cloned().unwrap_or_default();
        check(&log, &expected, &context);
    }
}

fn write<S: LogStore>(log: &mut S, model: &mut Model, random: &mut fastrand::Rng, context: &str) {
    let mut install = None;
    if random.u8(0..8) == 0 {
        model.term += 1;
        let at = random.u64(model.commit.max(1)..=model.last() + 5);
        install = Some(mark(at, model.term));
        model.snapshot.clone_from(&install);
        model.before = at;
        model.commit = at;
        model.entries.clear();
    }
    // Entries continue the log or overwrite what is not committed.
    let first = random.u64(model.commit.max(model.before) + 1..=model.last() + 1);
    if first <= model.last() {
        model.term += 1;
    }
    model.term = model.term.max(1);
    let new = entries(first, first + random.u64(0..6), model.term);
    model.entries.truncate((first - model.before - 1) as usize);
    model.entries.extend(new.iter().cloned());
    model.commit = random.u64(model.commit.max(model.before)..=model.last());
    let compact = (random.u8(0..6) == 0 && model.commit > model.before)
        .then(|| mark(model.commit, model.term_at(model.commit)));
    if compact.is_some() {
        model.snapshot.clone_from(&compact);
    }
    model.metadata += 1;
    let batch = LogBatch {
        metadata: Some(model.metadata.to_string().into()),
        install,
        entries: &new,
        hard_state: Some(hard_state(model.term, 1, model.commit)),
        compact,
    };
    log.append(&batch).unwrap_or_else(|error| panic!("{context}: {error}"));
}

fn release<S: LogStore>(log: &mut S, model: &Model, random: &mut fastrand::Rng, context: &str) {
    let covered = model.snapshot.as_ref().map_or(0, |mark| mark.index);
    if covered > 0 {
        // The mark is durable, the caller has synced (O6). The log may free less, never more.
        let before = random.u64(1..=covered + 1);
        log.release(before).unwrap_or_else(|error| panic!("{context}: {error}"));
    }
}

fn matches(found: &LogState, model: &Model) -> bool {
    let metadata = if model.metadata == 0 { String::new() } else { model.metadata.to_string() };
    found.metadata == metadata && found.last_index == model.last()
}

fn check<S: LogStore>(log: &S, model: &Model, context: &str) {
    let state = log.state().unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(matches(&state, model), "{context}: {state:?}");
    assert_eq!(
        state.hard_state.term,
        if model.metadata == 0 { 0 } else { model.term },
        "{context}"
    );
    assert_eq!(state.hard_state.commit, model.commit, "{context}");
    let ids = |mark: &Option<SnapshotMark>| mark.as_ref().map(|mark| (mark.index, mark.term));
    assert_eq!(ids(&state.snapshot), ids(&model.snapshot), "{context}");
    let covered = model.snapshot.as_ref().map_or(0, |mark| mark.index);
    assert!(state.first_index > model.before, "{context}: entries came back");
    assert!(state.first_index <= covered + 1, "{context}: more was released than is covered");
    let skip = (state.first_index - model.before - 1) as usize;
    let read = log.reader().entries(state.first_index, state.last_index + 1, u64::MAX);
    let read = read.unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(read, model.entries[skip..], "{context}");
    for entry in &read {
        assert_eq!(log.reader().term(entry.index).ok(), Some(entry.term), "{context}");
    }
}
