//! Power cuts at every change of a workload, with many outcomes each, and again inside the recovery.

use oarlock_wal::testing::{SimDisk, Unsynced};
use oarlock_wal::{Batch, HardState, SnapshotMark, Wal};

use crate::util::{DIR, Model, Spec, append, large, options, reopen, run, segment};

/// What a workload does besides appending.
pub(crate) enum Step {
    /// Appends and does not wait.
    Append(Spec),
    Sync,
    Release(u64),
    Prepare,
    Finish,
    Idle,
}
use Step::{Append, Finish, Idle, Prepare, Release, Sync};

/// Append, roll with and without prepared segments, overwrite across segments, install, compact, release.
pub(crate) fn workload() -> Vec<Step> {
    let state = |term, commit| Some(HardState { term, vote: 1, commit });
    vec![
        Append(Spec { hard_state: state(1, 0), ..Spec::of(run(1..=3, 1)) }),
        Sync,
        Prepare,
        Append(Spec::of(large(4..=10, 1, 1000))),
        Append(Spec { hard_state: state(1, 9), ..Spec::of(large(11..=19, 1, 1000)) }),
        Sync,
        Idle,
        Append(Spec::of(large(20..=24, 1, 1500))), // rolls, with the first segment synced
        Append(Spec { hard_state: state(2, 9), ..Spec::of(run(18..=20, 2)) }), // overwrites across the roll
        Sync,
        Finish,
        Idle,
        Append(Spec { compact: Some(SnapshotMark::new(18, 2, "one")), ..Spec::default() }),
        Release(19),
        Append(Spec::of(large(21..=30, 2, 1400))),
        Append(Spec::of(large(31..=40, 2, 1400))), // rolls with the segment before unsynced
        Append(Spec { metadata: Some("more".into()), ..Spec::default() }),
        Sync,
        Append(Spec {
            install: Some(SnapshotMark::new(35, 3, "two")), // below the last entry: a stale tail must not come back
            entries: run(36..=37, 3),
            hard_state: state(3, 36),
            ..Spec::default()
        }),
        Sync,
        Finish,
        Release(36),
        Append(Spec::of(run(38..=39, 3))),
        Idle,
        Sync,
        Idle,
        Prepare, // while everything is proven: recovery has nothing to write, and must sync the name all the same
    ]
}

/// Does a step; keeps the model and writes what was promised into the recording.
pub(crate) fn take(step: &Step, log: &Wal, disk: &SimDisk, history: &mut Vec<Model>) {
    match step {
        Append(spec) => {
            let mut model = history.last().expect("begins with one").clone();
            model.apply(spec);
            history.push(model);
            disk.note(format!("begun {}", history.len() - 1));
            let _ = log.append(&spec.batch()).expect("appends");
        }
        Sync => {
            log.sync().expect("syncs");
            disk.note(format!("synced {}", history.len() - 1));
        }
        Release(before) => {
            let model = history.last_mut().expect("begins with one");
            model.released = model.released.max(*before);
            disk.note(format!("released {before}"));
            log.release(*before).expect("releases"); // syncs, too
            disk.note(format!("synced {}", history.len() - 1));
        }
        Prepare => drop(log.prepare().expect("prepares")),
        Finish => drop(log.finish_segment().expect("finishes")),
        Idle => drop(log.idle().expect("marks")),
    }
}

/// The last number noted behind `word`.
pub(crate) fn noted(notes: &[String], word: &str) -> Option<usize> {
    let number = |note: &String| note.strip_prefix(word)?.trim().parse().ok();
    notes.iter().rev().find_map(number)
}

/// The state that the log is in: one of those between what was promised and what was begun.
pub(crate) fn state_of(log: &Wal, history: &[Model], notes: &[String], context: &str) -> usize {
    let promised = noted(notes, "synced").unwrap_or(0);
    let begun = noted(notes, "begun").unwrap_or(0);
    let released = noted(notes, "released").unwrap_or(0) as u64;
    let mut differences = Vec::new();
    for number in (promised..=begun).rev() {
        let model = Model { released: released.max(1), ..history[number].clone() };
        match model.difference(log) {
            None => return number,
            Some(difference) => differences.push(format!("state {number}: {difference}")),
        }
    }
    panic!("{context}: lost or invented something\n{}", differences.join("\n"));
}

#[test]
fn a_power_cut_anywhere_costs_at_most_what_was_not_synced() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    disk.record();
    let mut history = vec![Model { metadata: "me".into(), ..Model::default() }];
    for step in workload() {
        take(&step, &log, &disk, &mut history);
    }
    let (mut states, mut torn) = (0, 0);
    for point in disk.crash_points() {
        for outcome in point.disk.outcomes(8) {
            let context =
                format!("after change {}, {outcome:?}, {:?}", point.changes, point.notes.last());
            let after = point.disk.fork().reboot(outcome);
            let log = reopen(&after).unwrap_or_else(|e| panic!("{context}: {e}"));
            let state = state_of(&log, &history, &point.notes, &context);
            torn += u64::from(log.recovery().torn.is_some());
            states += 1;

            // What it accepted is durable now (O20), and a second recovery finds nothing to do.
            let again = after.reboot(Unsynced::Lost);
            let log = reopen(&again).unwrap_or_else(|e| panic!("{context}, again: {e}"));
            assert_eq!(log.recovery().torn, None, "{context}");
            assert_eq!(log.recovery().rewritten, 0, "{context}");
            assert_eq!(
                history[state].difference(&log).filter(|_| state > 0),
                None,
                "{context}, again"
            );

            // And it goes on from there.
            let next = history[state].last + 1;
            let entries = run(next..=next, 9);
            let ticket =
                log.append(&Batch::of(&entries)).unwrap_or_else(|e| panic!("{context}: {e}"));
            log.wait(ticket).unwrap_or_else(|e| panic!("{context}: {e}"));
            let log = reopen(&again.reboot(Unsynced::Lost))
                .unwrap_or_else(|e| panic!("{context}, later: {e}"));
            assert_eq!(log.entry(next).expect("acknowledged"), entries[0], "{context}");
        }
    }
    assert!(states > 1000 && torn > 100, "{states} states, {torn} torn tails");
}

#[test]
fn a_crash_inside_the_recovery_changes_nothing() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    disk.record();
    let mut history = vec![Model { metadata: "me".into(), ..Model::default() }];
    for step in workload() {
        take(&step, &log, &disk, &mut history);
    }
    let mut inside = 0;
    for point in disk.crash_points().step_by(3) {
        let seed = point.changes as u64;
        let before = point.disk.fork().reboot(Unsynced::Random(seed));
        for changes in 0.. {
            let context =
                format!("change {}, seed {seed}, {changes} into the recovery", point.changes);
            let first = before.fork();
            first.cut_power_after(changes);
            let opened = reopen(&first).map(drop);
            let off = first.is_off();
            assert!(off || opened.is_ok(), "{context}: {opened:?}");
            let after = first.reboot(Unsynced::Random(seed + changes));
            let log = reopen(&after).unwrap_or_else(|e| panic!("{context}: {e}"));
            state_of(&log, &history, &point.notes, &context);
            inside += 1;
            if !off {
                break;
            }
        }
    }
    assert!(inside > 100, "only {inside} crashes inside a recovery");
}

#[test]
fn a_killed_process_leaves_what_it_wrote_and_the_next_makes_it_durable() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    let entries = run(1..=4, 1);
    let _ = log.append(&Batch::of(&entries)).expect("appends");
    let disk = disk.kill();
    let log = reopen(&disk).expect("opens");
    assert_eq!(log.last_index(), 4, "unsynced, but readable");
    assert!(log.recovery().rewritten > 0);
    let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
    assert_eq!(log.last_index(), 4, "O20: accepted, hence durable before open returned");
}

/// A name that was not synced is as good as any while the machine runs, and gone when the power fails.
#[test]
fn a_power_cut_after_a_kill_costs_nothing_that_the_next_process_acknowledged() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    disk.record();
    let mut history = vec![Model { metadata: "me".into(), ..Model::default() }];
    for step in workload() {
        take(&step, &log, &disk, &mut history);
    }
    for point in disk.crash_points() {
        let context = format!("killed after change {}", point.changes);
        let killed = point.disk.kill();
        let log = reopen(&killed).unwrap_or_else(|e| panic!("{context}: {e}"));
        let state = state_of(&log, &history, &point.notes, &context);
        let last = history[state].last;
        for first in [last + 1, last + 11] {
            let entries = large(first..first + 10, 9, 1800); // one segment each
            log.wait(log.append(&Batch::of(&entries)).expect("appends")).expect("syncs");
            let after = killed.fork().reboot(Unsynced::Lost);
            let log = reopen(&after).unwrap_or_else(|e| panic!("{context}: {e}"));
            let read = log.entries(first..first + 10, u64::MAX);
            assert_eq!(read.expect("acknowledged"), entries, "{context}");
        }
    }
}

/// Names go one by one and in order, or a crash could leave a hole.
#[test]
fn a_power_cut_while_releasing_leaves_no_hole() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    for first in [1, 11, 21, 31, 41] {
        log.wait(log.append(&Batch::of(&large(first..first + 10, 1, 1800))).expect("appends"))
            .expect("syncs");
    }
    log.wait(log.append(&Batch::compact(SnapshotMark::new(45, 1, ""))).expect("appends"))
        .expect("syncs");
    disk.record();
    assert_eq!(log.release(46).expect("covered").segments, 4);
    let mut kept = std::collections::BTreeSet::new();
    for point in disk.crash_points() {
        for outcome in point.disk.outcomes(20) {
            let after = point.disk.fork().reboot(outcome);
            let log = reopen(&after).unwrap_or_else(|e| panic!("{outcome:?}: {e}"));
            assert_eq!(log.last_index(), 50);
            kept.insert(log.stats().segments);
        }
    }
    assert!(kept.len() > 3, "{kept:?}");
}

/// W2: a batch of several frames is one.
#[test]
fn a_batch_in_flight_is_there_whole_or_not_at_all() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    log.wait(log.append(&Batch::of(&run(1..=2, 1))).expect("appends")).expect("syncs");
    let spec = Spec {
        metadata: Some("new".into()),
        install: Some(SnapshotMark::new(10, 4, "conf")),
        entries: large(11..=13, 4, 600),
        hard_state: Some(HardState { term: 4, vote: 0, commit: 11 }),
        compact: Some(SnapshotMark::new(11, 4, "conf")),
    };
    let mut seen = [0; 2];
    for bytes in 0..2400 {
        let disk = disk.fork();
        let log = reopen(&disk.kill()).expect("opens");
        drop(log);
        let disk = disk.kill();
        let log = reopen(&disk).expect("opens");
        disk.cut_power_after_bytes(bytes);
        let _ = log.append(&spec.batch());
        let log = reopen(&disk.reboot(Unsynced::Kept)).expect("a torn tail is no damage");
        let whole = log.last_index() == 13;
        let state = (log.last_index(), log.metadata(), log.hard_state().term, log.snapshot());
        let expected = if whole {
            (13, "new".into(), 4, spec.compact.clone())
        } else {
            (2, "".into(), 0, None)
        };
        assert_eq!(state, expected, "cut after {bytes} bytes");
        assert_eq!(log.recovery().torn.is_some(), !whole && bytes > 0, "cut after {bytes} bytes");
        seen[usize::from(whole)] += 1;
    }
    assert!(seen[0] > 1000 && seen[1] > 10, "{seen:?}");
}

/// A process that dies while it opens the log leaves the page cache to the next one, and the power fails after that.
#[test]
fn a_kill_anywhere_in_an_opening_and_a_power_cut_later_bring_nothing_back() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&run(1..=3, 1)));
    log.prepare().expect("prepares");
    append(&log, &Batch::of(&large(4..=13, 1, 1900)));
    log.idle().expect("marks");
    let (next, after) = (large(14..=14, 1, 1500), large(15..=15, 1, 1500)); // the second one in another segment
    let _ = log.append(&Batch::of(&next)).expect("appends");
    let _ = log.append(&Batch::of(&after)).expect("appends");
    let mut tried = 0;
    for base in disk.every_outcome(12, 1) {
        for changes in 0.. {
            let disk = disk.after(base);
            disk.cut_power_after(changes);
            let whole = reopen(&disk).is_ok();
            let killed = disk.kill();
            let log = reopen(&killed).expect("opens");
            if log.last_index() == 13 {
                let _ = log.append(&Batch::of(&next)).expect("appends");
                for outcome in killed.every_outcome(12, 2) {
                    let last = reopen(&killed.after(outcome)).expect("opens").last_index();
                    assert!(
                        last <= 14,
                        "{base:?}, killed after {changes} changes, {outcome:?}: {last}"
                    );
                    tried += 1;
                }
            }
            if whole {
                break;
            }
        }
    }
    assert!(tried > 300, "{tried} outcomes");
}

/// The log was closed; that is taken back durably before anything is written behind, whoever died trying before.
#[test]
fn a_kill_in_an_opening_leaves_no_clean_end_in_front_of_new_frames() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&run(1..=3, 1)));
    log.close().expect("closes");
    let (four, five) = (large(4..=4, 1, 1000), large(5..=5, 1, 1000));
    let mut cut = 0;
    for changes in 0.. {
        let disk = disk.fork();
        disk.cut_power_after(changes);
        let whole = reopen(&disk).is_ok();
        let killed = disk.kill();
        let log = reopen(&killed).expect("opens");
        let end = log.append(&Batch::default()).expect("empty").lsn().offset() as usize;
        let _ = log.append(&Batch::of(&four)).expect("appends");
        let _ = log.append(&Batch::of(&five)).expect("appends");
        for outcome in killed.every_outcome(60, 1) {
            let disk = killed.after(outcome);
            let log = reopen(&disk).expect("opens");
            if log.last_index() == 3 {
                let bytes = disk.contents(segment(1)).expect("a segment");
                let zero = bytes[end..].iter().all(|byte| *byte == 0);
                assert!(zero, "killed after {changes} changes, {outcome:?}: junk is left");
                cut += u64::from(log.recovery().torn.is_some());
                append(&log, &Batch::of(&four));
                let last = reopen(&disk.reboot(Unsynced::Lost)).expect("opens").last_index();
                assert_eq!(
                    last, 4,
                    "killed after {changes} changes, {outcome:?}: back from nowhere"
                );
            }
        }
        if whole {
            break;
        }
    }
    assert!(cut > 20, "{cut} torn tails");
}
