//! The log on a disk that crashes: what was acknowledged is there, a batch in flight is there whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use oarlock_wal::testing::{CrashPoint, Event, Fault, Op, SimDisk, Unsynced};
use oarlock_wal::{Batch, Entry, Error, HardState, Options, SnapshotMark, Vfs, Wal};

const DIR: &str = "/data/wal";

fn options(disk: &SimDisk) -> Options {
    Options::new().vfs(Arc::new(disk.clone())).segment_size(32 << 10).log_id(7)
}

/// What a log should say.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    metadata: Vec<u8>,
    entries: BTreeMap<u64, Entry>,
    last: u64,
    hard_state: HardState,
    mark: Option<SnapshotMark>,
}

impl Model {
    fn covered(&self) -> u64 {
        self.mark.as_ref().map_or(0, |mark| mark.index)
    }

    fn apply(&mut self, batch: &Batch<'_>) {
        if let Some(metadata) = &batch.metadata {
            self.metadata = metadata.to_vec();
        }
        if let Some(mark) = &batch.install {
            self.entries.clear();
            self.last = mark.index;
            self.mark = Some(mark.clone());
        }
        if let Some(first) = batch.entries.first() {
            self.entries.retain(|index, _| *index < first.index);
        }
        for entry in batch.entries {
            self.entries.insert(entry.index, entry.clone());
            self.last = entry.index;
        }
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        self.mark = batch.compact.clone().or(self.mark.take());
    }

    /// Whether `log` says this. How many of the entries that a snapshot covers are still there is its own affair.
    fn is(&self, log: &Wal) -> bool {
        let (first, last) = (log.first_index(), log.last_index());
        let registers = log.metadata() == self.metadata
            && log.hard_state() == self.hard_state
            && log.snapshot() == self.mark;
        registers
            && last == self.last
            && first <= self.covered() + 1
            && self.mark.as_ref().is_none_or(|mark| log.term(mark.index).ok() == Some(mark.term))
            && (first..=last)
                .all(|index| log.entry(index).ok().as_ref() == self.entries.get(&index))
    }
}

/// One batch, owned.
#[derive(Clone, Debug, Default)]
struct Step {
    metadata: Option<Vec<u8>>,
    install: Option<SnapshotMark>,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    compact: Option<SnapshotMark>,
}

impl Step {
    fn batch(&self) -> Batch<'_> {
        Batch {
            metadata: self.metadata.clone().map(Into::into),
            install: self.install.clone(),
            entries: &self.entries,
            hard_state: self.hard_state,
            compact: self.compact.clone(),
        }
    }

    /// Something that may follow `model`.
    fn random(model: &Model, rng: &mut fastrand::Rng) -> Self {
        let mut step = Self::default();
        let term = model.hard_state.term.max(1) + u64::from(rng.u8(..5) == 0);
        let mut last = model.last;
        if rng.u8(..12) == 0 {
            last = model.covered().max(model.last.saturating_sub(3)) + rng.u64(..6);
            step.install = Some(SnapshotMark::new(last, term, vec![rng.u8(..); rng.usize(..40)]));
        }
        let covered = step.install.as_ref().map_or(model.covered(), |mark| mark.index);
        if rng.u8(..5) > 0 {
            let overwrites = rng.u8(..5) == 0 && step.install.is_none();
            let first = if overwrites { rng.u64(covered + 1..=last + 1) } else { last + 1 };
            let count = rng.u64(1..=4);
            let payload =
                |rng: &mut fastrand::Rng| vec![rng.u8(..); [0, 5, 700, 5000][rng.usize(..4)]];
            step.entries = (first..first + count)
                .map(|i| Entry::new(i, term, rng.u8(..3), payload(rng)))
                .collect();
            last = first + count - 1;
        }
        if rng.bool() {
            step.hard_state =
                Some(HardState { term, vote: rng.u64(..4), commit: last.min(covered + 2) });
        }
        if rng.u8(..10) == 0 {
            step.metadata = Some(vec![rng.u8(..); rng.usize(..100)]);
        }
        if rng.u8(..6) == 0 && last > covered {
            let mut after = model.clone();
            after.apply(&step.batch());
            let index = rng.u64(covered + 1..=last);
            let held = after.entries.get(&index).map_or(term, |entry| entry.term);
            step.compact = Some(SnapshotMark::new(index, held, "conf"));
        }
        if step.batch().is_empty() {
            step.hard_state = Some(HardState { term, vote: 1, commit: 0 });
        }
        step
    }
}

/// A workload: the disk it was recorded on, and what the log says after each batch. The notes on the disk say what was
/// begun and acknowledged.
struct Story {
    disk: SimDisk,
    states: Vec<Model>,
}

/// Runs `count` random batches on a new log, with maintenance in between, some waited for and some not.
fn story(seed: u64, count: usize) -> Story {
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::new();
    disk.record();
    let log = options(&disk).create(DIR, b"first").expect("no fault");
    disk.note("created");
    let mut states = vec![Model { metadata: b"first".to_vec(), ..Model::default() }];
    for number in 1..=count {
        let mut model = states[number - 1].clone();
        let step = Step::random(&model, &mut rng);
        model.apply(&step.batch());
        states.push(model);
        disk.note(format!("begun {number}"));
        let ticket = log
            .append(&step.batch())
            .unwrap_or_else(|e| panic!("seed {seed}, batch {number}: {e}"));
        if rng.u8(..3) > 0 {
            log.wait(ticket).expect("no fault");
            disk.note(format!("acknowledged {number}"));
        }
        match rng.u8(..12) {
            0 => drop(log.idle().expect("no fault")),
            1 => drop(log.prepare().expect("no fault")),
            2 => drop(log.finish_segment().expect("no fault")),
            3 | 4 => drop(log.release(states[number].covered()).expect("covered")),
            _ => {}
        }
        assert!(states[number].is(&log), "seed {seed}, batch {number}");
    }
    if rng.bool() {
        log.close().expect("no fault");
        disk.note(format!("acknowledged {count}"));
    }
    Story { disk, states }
}

/// The batches that may be there: from the last acknowledged to the last begun.
struct Promise {
    created: bool,
    acknowledged: usize,
    begun: usize,
}

impl Promise {
    fn of(point: &CrashPoint) -> Self {
        let newest = |what: &str| {
            let numbers =
                point.notes.iter().filter_map(|note| note.strip_prefix(what)?.trim().parse().ok());
            numbers.max().unwrap_or(0)
        };
        Self {
            created: point.notes.iter().any(|note| note == "created"),
            acknowledged: newest("acknowledged"),
            begun: newest("begun"),
        }
    }

    /// Opens the log on `disk` and says which of `states` it is in; `None` if there is none yet and need not be.
    fn check(&self, disk: &SimDisk, states: &[Model], context: &str) -> Option<(Wal, usize)> {
        let log = match options(disk).open(DIR) {
            Err(Error::NotFound { .. }) if !self.created => return None,
            opened => opened.unwrap_or_else(|e| panic!("{context}: {e}")),
        };
        let found = (self.acknowledged..=self.begun).rev().find(|number| states[*number].is(&log));
        let Some(found) = found else {
            panic!(
                "{context}: neither of batches {}..={} is the last one: entries {}..={}, {:?}, {:?}",
                self.acknowledged,
                self.begun,
                log.first_index(),
                log.last_index(),
                log.snapshot(),
                log.recovery(),
            );
        };
        Some((log, found))
    }
}

/// W1, W2: cut the power after every change, with many outcomes each.
#[test]
fn a_power_cut_anywhere_loses_nothing_acknowledged() {
    let mut states_tried = 0;
    for seed in 0..3 {
        let Story { disk, states } = story(seed, 40);
        for point in disk.crash_points() {
            let promise = Promise::of(&point);
            for outcome in point.disk.outcomes(3) {
                let context = format!("seed {seed}, change {}, {outcome:?}", point.changes);
                let after = point.disk.fork().reboot(outcome);
                states_tried += 1;
                let Some((log, found)) = promise.check(&after, &states, &context) else { continue };
                // And it goes on from there.
                let entry = Entry::new(states[found].last + 1, 99, 0, "after");
                let ticket = log.append(&Batch::of(std::slice::from_ref(&entry)));
                log.wait(ticket.unwrap_or_else(|e| panic!("{context}: {e}"))).expect("no fault");
                let again = options(&after.reboot(Unsynced::Lost)).open(DIR);
                let again = again.unwrap_or_else(|e| panic!("{context}, again: {e}"));
                let torn = &again.recovery().torn;
                assert!(torn.is_none(), "{context}: all was synced, and yet {torn:?}");
                assert_eq!(again.entry(entry.index).expect("acknowledged"), entry, "{context}");
            }
        }
    }
    assert!(states_tried > 1000, "only {states_tried}");
}

/// O20, and recovery may itself crash anywhere: what it showed stays.
#[test]
fn a_power_cut_during_recovery_loses_nothing_either() {
    for seed in 10..13 {
        let Story { disk, states } = story(seed, 25);
        for (nth, point) in disk.crash_points().enumerate() {
            if !(nth as u64 + seed).is_multiple_of(5) {
                continue;
            }
            let promise = Promise::of(&point);
            for outcome in [Unsynced::Kept, Unsynced::Random(nth as u64)] {
                let context = format!("seed {seed}, change {}, {outcome:?}", point.changes);
                let after = point.disk.fork().reboot(outcome);
                after.record();
                let Some((log, found)) = promise.check(&after, &states, &context) else { continue };
                after.note("opened");
                drop(log);
                for second in after.crash_points() {
                    let opened = second.notes.iter().any(|note| note == "opened");
                    for outcome in second.disk.outcomes(1) {
                        let context =
                            format!("{context}, then change {}, {outcome:?}", second.changes);
                        let disk = second.disk.fork().reboot(outcome);
                        let Some((log, again)) = promise.check(&disk, &states, &context) else {
                            continue;
                        };
                        assert!(
                            !opened || states[found].is(&log),
                            "{context}: was {found}, is {again}"
                        );
                    }
                }
            }
        }
    }
}

/// A process that is killed leaves its unsynced writes readable. Once opening has shown them, no power cut takes them.
#[test]
fn what_opening_showed_after_a_kill_is_durable() {
    for seed in 20..26 {
        let Story { disk, states } = story(seed, 25);
        for point in disk.crash_points() {
            let context = format!("seed {seed}, change {}", point.changes);
            let promise = Promise::of(&point);
            let next = point.disk.kill();
            let Some((_log, found)) = promise.check(&next, &states, &context) else { continue };
            let after = options(&next.reboot(Unsynced::Lost)).open(DIR);
            let after = after.unwrap_or_else(|e| panic!("{context}: {e}"));
            assert!(states[found].is(&after), "{context}");
        }
    }
}

fn entry(index: u64) -> [Entry; 1] {
    [Entry::new(index, 1, 0, vec![index as u8; 3000])]
}

/// O13: after a failed write or sync nothing is acknowledged, nothing is tried again, and what was acknowledged is
/// there after the restart.
#[test]
fn the_first_failed_write_or_sync_is_the_last() {
    for (op, fault) in [
        (Op::Sync, Fault::Io),
        (Op::Write, Fault::Io),
        (Op::Write, Fault::Short(100)),
        (Op::SyncDir, Fault::Io),
        (Op::Rename, Fault::Io),
        (Op::Create, Fault::Io),
    ] {
        for nth in 1.. {
            let disk = SimDisk::new();
            let log = options(&disk).create(DIR, b"").expect("no fault yet");
            let before = disk.count(op);
            disk.fail_nth(op, nth, fault);
            let mut acknowledged = 0;
            let mut failed = None;
            for index in 1..=25 {
                match log.append(&Batch::of(&entry(index))).and_then(|ticket| log.wait(ticket)) {
                    Ok(()) => acknowledged = index,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            let Some(error) = failed else {
                assert!(disk.count(op) - before < nth, "{op:?} {nth} failed and nobody was told");
                assert!(nth > 1, "{op:?} was never done");
                break;
            };
            let context = format!("{op:?} {nth} {fault:?}: {error}");
            let retryable = matches!(error, Error::NoSpace { .. } | Error::NotPrepared { .. });
            if !retryable {
                let syncs = disk.count(Op::Sync);
                assert!(
                    matches!(
                        log.append(&Batch::of(&entry(acknowledged + 1))),
                        Err(Error::Poisoned { .. })
                    ),
                    "{context}"
                );
                // What is durable already may be said to be.
                assert_eq!(log.sync().is_ok(), log.last_index() == acknowledged, "{context}");
                assert!(log.idle().is_err() && log.release(1).is_err(), "{context}");
                drop(log);
                assert_eq!(disk.count(Op::Sync), syncs, "{context}: synced again after a failure");
            }
            for outcome in disk.outcomes(4) {
                let log = options(&disk.fork().reboot(outcome)).open(DIR);
                let log = log.unwrap_or_else(|e| panic!("{context}, {outcome:?}: {e}"));
                assert!(log.last_index() >= acknowledged, "{context}, {outcome:?}");
                for index in 1..=acknowledged {
                    assert_eq!(
                        log.entry(index).expect("acknowledged"),
                        entry(index)[0],
                        "{context}, {outcome:?}"
                    );
                }
            }
        }
    }
}

/// On a full disk the log stays whole, and goes on when there is space again.
#[test]
fn a_full_disk_costs_nothing_acknowledged() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("no fault yet");
    disk.set_capacity(Some(100 << 10));
    let mut index = 1;
    let error = loop {
        match log.append(&Batch::of(&entry(index))) {
            Ok(ticket) => log.wait(ticket).expect("space was prepared"),
            Err(error) => break error,
        }
        index += 1;
        assert!(index < 100, "the disk never filled up");
    };
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert_eq!(log.last_index(), index - 1);
    assert_eq!(log.entry(1).expect("readable"), entry(1)[0]);
    disk.set_capacity(None);
    let ticket = log.append(&Batch::of(&entry(index))).expect("space again");
    log.wait(ticket).expect("no fault");
    let log = options(&disk.reboot(Unsynced::Lost)).open(DIR).expect("whole");
    assert_eq!(log.last_index(), index);
}

/// W1 over the seam: whoever is told that a batch is durable is told after a sync of its segment ended, which began
/// after the batch was written.
#[test]
fn a_ticket_resolves_after_the_sync_of_what_was_written() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("no fault");
    for index in 1..=25 {
        let ticket = log.append(&Batch::of(&entry(index))).expect("no fault");
        log.wait(ticket).expect("no fault");
        disk.note("durable");
    }
    let mut unsynced = std::collections::BTreeSet::new();
    let mut resolved = 0;
    for event in disk.trace() {
        match event {
            Event::Done { op: Op::Write, path, .. }
                if path.starts_with(DIR) && path != Path::new(DIR).join("LOCK") =>
            {
                unsynced.insert(path);
            }
            Event::Done { op: Op::Sync, path, .. } => drop(unsynced.remove(&path)),
            Event::Note(_) => {
                assert!(
                    unsynced.is_empty(),
                    "ticket {resolved} resolved while {unsynced:?} was not synced"
                );
                resolved += 1;
            }
            _ => {}
        }
    }
    assert_eq!(resolved, 25);
}

/// An append does not wait for a sync in flight, and is not covered by it.
#[test]
fn appends_go_on_while_a_sync_is_in_flight() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("no fault");
    let first = log.append(&Batch::of(&entry(1))).expect("no fault");
    let held = disk.hold_syncs();
    let second = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| log.wait(first));
        assert!(held.wait_for(1, std::time::Duration::from_secs(10)), "no sync began");
        let second = log.append(&Batch::of(&entry(2))).expect("does not wait");
        assert_eq!(log.entry(2).expect("readable at once"), entry(2)[0]);
        // The second must not say that the first is durable: a power cut may keep it and lose the first.
        for outcome in disk.outcomes(32) {
            let opened = options(&disk.fork().reboot(outcome)).open(DIR);
            assert!(opened.is_ok_and(|log| log.last_index() <= 2), "{outcome:?}");
        }
        drop(held);
        waiter.join().expect("no panic").expect("no fault");
        second
    });
    let before = options(&disk.fork().reboot(Unsynced::Lost)).open(DIR).expect("whole");
    assert_eq!(before.last_index(), 1);
    log.wait(second).expect("no fault");
    let after = options(&disk.reboot(Unsynced::Lost)).open(DIR).expect("whole");
    assert_eq!(after.last_index(), 2);
}

/// Crash, recovery, kill, and then rot: what recovery accepted is proven, so no sector of it can go unnoticed.
#[test]
fn a_sector_that_rots_after_a_recovery_is_noticed_or_was_not_needed() {
    let mut refused = 0;
    for seed in 40..42 {
        let Story { disk, states } = story(seed, 20);
        for point in disk.crash_points().step_by(23) {
            let context = format!("seed {seed}, change {}", point.changes);
            let recovered = point.disk.fork().reboot(Unsynced::Random(seed));
            let Some((log, found)) = Promise::of(&point).check(&recovered, &states, &context)
            else {
                continue;
            };
            let killed = recovered.kill(); // before the log could close itself
            drop(log);
            for name in killed.list(Path::new(DIR)).expect("no fault") {
                let path = Path::new(DIR).join(name);
                let bytes = killed.contents(&path).unwrap_or_default();
                let is_segment = path.extension().is_some_and(|ending| ending == "wal");
                for sector in (0..bytes.len() / 512).filter(|_| is_segment) {
                    let range = sector * 512..(sector + 1) * 512;
                    if bytes[range.clone()].iter().all(|byte| *byte == 0) {
                        continue;
                    }
                    let rotten = killed.fork();
                    assert!(rotten.tamper(&path, |bytes| bytes[range].fill(0)));
                    match options(&rotten).verify(true).open(DIR) {
                        Err(Error::Corrupt { .. }) => refused += 1,
                        Ok(log) => assert!(
                            states[found].is(&log),
                            "{context}: {} {sector}",
                            path.display()
                        ),
                        Err(error) => panic!("{context}: {error}"),
                    }
                }
            }
        }
    }
    assert!(refused > 100, "only {refused} were refused");
}
