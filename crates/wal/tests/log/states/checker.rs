//! Opens every image that a crash can leave of a story, and says whether all is as promised.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use oarlock_wal::testing::{SimDisk, Unsynced};
use oarlock_wal::{Batch, Error, Recovery, Wal};

use super::player::{Story, Window, check_snapshot, find};
use crate::util::{DIR, large, options};

/// How deep recoveries are crashed: in the recovery from the crash, and in the recovery from that.
const DEPTH: usize = 2;

/// One crash, as a failing run prints it: how many changes had been made, and what became of the unsynced ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crash {
    changes: usize,
    outcome: Unsynced,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.changes)?;
        match self.outcome {
            Unsynced::Lost => f.write_str("lost"),
            Unsynced::Kept => f.write_str("kept"),
            Unsynced::Only(n) => write!(f, "only-{n}"),
            Unsynced::AllBut(n) => write!(f, "allbut-{n}"),
            Unsynced::Random(seed) => write!(f, "random-{seed}"),
            Unsynced::Each(each) => write!(f, "each-{each}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl FromStr for Crash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no crash");
        let (changes, outcome) = text.split_once('/').ok_or_else(wrong)?;
        let (word, number) = outcome.split_once('-').unwrap_or((outcome, "0"));
        let number: u128 = number.parse().map_err(|_| wrong())?;
        let outcome = match word {
            "lost" => Unsynced::Lost,
            "kept" => Unsynced::Kept,
            "only" => Unsynced::Only(number as usize),
            "allbut" => Unsynced::AllBut(number as usize),
            "random" => Unsynced::Random(number as u64),
            "each" => Unsynced::Each(number),
            _ => return Err(wrong()),
        };
        Ok(Self { changes: changes.parse().map_err(|_| wrong())?, outcome })
    }
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Images opened and checked, no two of them equal and with equal promises.
    pub(crate) states: u64,
    /// Crash points of the workloads.
    pub(crate) points: u64,
    /// States that a crash inside a recovery left.
    pub(crate) nested: u64,
    /// States in which a torn tail was cut off.
    pub(crate) torn: u64,
    /// States in which something had to be written again.
    pub(crate) rewritten: u64,
}

pub(crate) struct Checker {
    /// The workload and its seed: the first part of what a failure prints.
    pub(crate) name: String,
    seen: HashSet<u64>,
    pub(crate) counts: Counts,
    most: u64,
    /// Only this is tried.
    replay: Option<Vec<Crash>>,
    trail: Vec<Crash>,
}

/// Says where, if the code under test panics.
struct Trail<'a>(&'a str, &'a [Crash]);

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cargo xtask crash-states --replay {}", self.0)?;
        self.1.iter().try_for_each(|crash| write!(f, "/{crash}"))
    }
}

impl Checker {
    /// Tries `most` states and no more, or only those that lead to the last of `replay`.
    pub(crate) fn new(most: u64, replay: Option<Vec<Crash>>) -> Self {
        let (name, seen, counts, trail) = Default::default();
        Self { name, seen, counts, most, replay, trail }
    }

    pub(crate) fn done(&self) -> bool {
        self.counts.states >= self.most
    }

    fn fail(&self, what: impl fmt::Display) -> ! {
        panic!("{what}\nreplay with: {}", Trail(&self.name, &self.trail));
    }

    /// Crashes the story at each of its points, with up to `most` outcomes each.
    pub(crate) fn story(&mut self, story: &Story, most: usize, seed: u64) {
        for point in story.disk.crash_points() {
            self.counts.points += 1;
            let window = Window::at(&point);
            for outcome in self.outcomes(&point.disk, point.changes, most, seed) {
                if self.done() {
                    return;
                }
                self.trail.push(Crash { changes: point.changes, outcome });
                self.check(story, &point.disk.after(outcome), window);
                self.trail.pop();
            }
        }
    }

    fn outcomes(&self, disk: &SimDisk, changes: usize, most: usize, seed: u64) -> Vec<Unsynced> {
        match &self.replay {
            None => disk.every_outcome(most, seed ^ (changes as u64) << 32),
            Some(crashes) => {
                let next = crashes.get(self.trail.len()).filter(|crash| crash.changes == changes);
                next.map(|crash| crash.outcome).into_iter().collect()
            }
        }
    }

    /// Opens what a crash left, checks it, opens it again, and goes on from there.
    fn check(&mut self, story: &Story, disk: &SimDisk, window: Window) {
        // The lock file holds a process id.
        let digest = disk.digest(|path| !path.ends_with("LOCK"));
        let identity =
            digest ^ (window.promised as u64) << 48 ^ (window.begun as u64) << 32 ^ window.released;
        if !self.seen.insert(identity) && self.replay.is_none() {
            return;
        }
        self.counts.states += 1;
        self.counts.nested += u64::from(self.trail.len() > 1);
        if digest.is_multiple_of(4) {
            self.look(story, disk, window);
        }
        if digest % 16 == 1 {
            self.full(story, disk, window);
        }
        if digest % 4 == 1 {
            self.verify(story, disk, window);
        }
        if digest % 8 == 5 {
            self.killed(story, disk, window, digest);
        }
        let depth = self.trail.len();
        let nested = match &self.replay {
            Some(crashes) => crashes.len() > depth,
            None => depth <= DEPTH && digest % 32 == 2,
        };
        let recovering = disk.fork();
        if nested {
            recovering.record();
        }
        let (log, found) = self.open(story, &recovering, window);
        let recovery = log.recovery().clone();
        self.counts.torn += u64::from(recovery.torn.is_some());
        self.counts.rewritten += u64::from(recovery.rewritten > 0);
        if nested {
            recovering.note("opened");
            self.inside(story, &recovering, window, found, digest);
        }

        // What it accepted is durable (O20), and a second recovery finds nothing to do.
        let only = Window { promised: found, begun: found, ..window };
        let again = recovering.after(Unsynced::Lost);
        let (log, _) = self.open(story, &again, only);
        if log.recovery().torn.is_some() || log.recovery().rewritten > 0 {
            self.fail(format_args!("recovered twice: {recovery:?}, then {:?}", log.recovery()));
        }

        // And it goes on from there; now and then beyond the end of the segment.
        let next = story.history[found].last + 1;
        let (count, len) = if digest % 8 == 3 { (14, 1400) } else { (1, 20) };
        for first in [next, next + count].into_iter().take(if count > 1 { 2 } else { 1 }) {
            let entries = large(first..first + count, 1 << 40, len);
            let done = log.append(&Batch::of(&entries)).and_then(|ticket| log.wait(ticket));
            if let Err(error) = done {
                self.fail(format_args!("after the recovery: {error}"));
            }
            let later = options(&again.after(Unsynced::Lost)).open(DIR);
            if let Some(torn) = later.as_ref().ok().and_then(|log| log.recovery().torn.clone()) {
                self.fail(format_args!("all was synced, and yet {torn:?}"));
            }
            match later.and_then(|log| log.entries(first..first + count, u64::MAX)) {
                Ok(read) if read == entries => {}
                other => self.fail(format_args!("lost what the next life acknowledged: {other:?}")),
            }
        }
    }

    fn open(&self, story: &Story, disk: &SimDisk, window: Window) -> (Wal, usize) {
        let open = || options(disk).open(DIR);
        let log = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)) {
            Ok(Ok(log)) => log,
            Ok(Err(error)) => self.fail(format_args!("refused: {error}")),
            Err(_) => self.fail("opening panicked"),
        };
        let found = match find(&log, &story.history, window) {
            Ok(found) => found,
            Err(why) => {
                self.fail(format_args!("lost or invented something\n{why}\n{:?}", log.recovery()))
            }
        };
        if let Err(why) = check_snapshot(disk, log.snapshot().as_ref()) {
            self.fail(why);
        }
        (log, found)
    }

    /// The process that opens it is killed in the middle and leaves its page cache to the next one, in whose hands the power
    /// fails.
    fn killed(&self, story: &Story, disk: &SimDisk, window: Window, digest: u64) {
        let opening = disk.fork();
        opening.cut_power_after((digest >> 8) % 16);
        let opened = options(&opening).open(DIR);
        let killed = opening.kill();
        drop(opened); // closes nothing: its disk is gone
        let (log, found) = self.open(story, &killed, window);
        let next = story.history[found].last + 1;
        let entries = large(next..next + 1, 1 << 40, 600);
        if let Err(error) = log.append(&Batch::of(&entries)) {
            self.fail(format_args!("after a kill in the recovery: {error}"));
        }
        let only = Window { promised: found, begun: found, ..window };
        for outcome in killed.every_outcome(4, digest) {
            let log = match options(&killed.after(outcome)).open(DIR) {
                Ok(log) => log,
                Err(error) => {
                    self.fail(format_args!("killed in the recovery, {outcome:?}: {error}"))
                }
            };
            let written =
                log.last_index() == next && log.entry(next).is_ok_and(|e| e == entries[0]);
            if let Err(why) = find(&log, &story.history, only)
                && !written
            {
                self.fail(format_args!("killed in the recovery, {outcome:?}\n{why}"));
            }
            if !log.recovery().damaged_footers.is_empty() {
                self.fail(format_args!("a crash is no damage: {:?}", log.recovery()));
            }
        }
    }

    /// Reading only sees the same and changes nothing (W7).
    fn look(&self, story: &Story, disk: &SimDisk, window: Window) {
        let aside = disk.fork();
        let before = aside.digest(|_| true);
        let log = match options(&aside).open_read_only(DIR) {
            Ok(log) => log,
            Err(error) => self.fail(format_args!("refused to read: {error}")),
        };
        let states = &story.history[window.promised..=window.begun.min(story.history.len() - 1)];
        let seen = (log.last_index(), log.hard_state(), log.snapshot());
        if !states.iter().any(|s| (s.last, s.hard_state, s.mark.clone()) == seen) {
            self.fail(format_args!("reading only shows something else: {seen:?}"));
        }
        if aside.digest(|_| true) != before {
            self.fail("reading only changed something");
        }
    }

    /// Opening by the frames alone finds what opening by footers finds, and footers that are whole.
    fn verify(&self, story: &Story, disk: &SimDisk, window: Window) {
        let log = match options(&disk.fork()).verify(true).open(DIR) {
            Ok(log) => log,
            Err(error) => self.fail(format_args!("refused when verified: {error}")),
        };
        if let Err(why) = find(&log, &story.history, window) {
            self.fail(format_args!("lost or invented something, when verified\n{why}"));
        }
        let Recovery { damaged_headers, damaged_footers, .. } = log.recovery();
        if !damaged_footers.is_empty() || damaged_headers.iter().any(|(_, offset)| *offset == 0) {
            self.fail(format_args!("a crash is no damage: {:?}", log.recovery()));
        }
    }

    /// On a full disk opening may ask for room, and must have lost nothing when there is some again.
    fn full(&self, story: &Story, disk: &SimDisk, window: Window) {
        let full = disk.fork();
        full.set_capacity(Some(full.used()));
        match options(&full).open(DIR) {
            Ok(log) => {
                if let Err(why) = find(&log, &story.history, window) {
                    self.fail(format_args!("lost or invented something on a full disk\n{why}"));
                }
            }
            Err(Error::NoSpace { .. }) => {}
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull => {}
            Err(error) => self.fail(format_args!("refused on a full disk: {error}")),
        }
        self.open(story, &full.after(Unsynced::Lost), window);
    }

    /// Crashes a recorded recovery at each of its points.
    fn inside(
        &mut self,
        story: &Story,
        recovering: &SimDisk,
        window: Window,
        found: usize,
        seed: u64,
    ) {
        for point in recovering.crash_points() {
            // What opening has shown stays.
            let opened = point.notes.iter().any(|note| note == "opened");
            let window =
                if opened { Window { promised: found, begun: found, ..window } } else { window };
            for outcome in self.outcomes(&point.disk, point.changes, 8, seed) {
                self.trail.push(Crash { changes: point.changes, outcome });
                self.check(story, &point.disk.after(outcome), window);
                self.trail.pop();
            }
        }
    }
}

#[test]
fn a_crash_is_read_as_it_is_printed() {
    let outcomes = [
        Unsynced::Lost,
        Unsynced::Kept,
        Unsynced::Only(3),
        Unsynced::AllBut(4),
        Unsynced::Random(u64::MAX),
        Unsynced::Each(u128::MAX),
    ];
    for outcome in outcomes {
        let crash = Crash { changes: 17, outcome };
        assert_eq!(crash.to_string().parse(), Ok(crash));
    }
    "17/gone".parse::<Crash>().expect_err("no outcome");
}
