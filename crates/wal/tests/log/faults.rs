//! A disk that says no: EIO poisons for good, a full disk only pauses.

use std::path::Path;

use oarlock_wal::testing::{Fault, Op, SimDisk, Unsynced};
use oarlock_wal::{Batch, Error, HardState, SnapshotMark, Vfs, Wal};

use crate::crash::{noted, workload};
use crate::util::{DIR, Model, Spec, all, append, large, options, reopen, run, segment};

/// O13, and what fsyncgate taught: the second sync would have said yes and written nothing.
#[test]
fn a_failed_sync_is_never_retried() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&run(1..=2, 1)));
    let early = log.append(&Batch::default()).expect("nothing to write");
    let ticket = log.append(&Batch::of(&run(3..=4, 1))).expect("appends");
    disk.fail_nth(Op::Sync, 1, Fault::Io);
    assert!(matches!(log.wait(ticket), Err(Error::Io { op: "sync", .. })));
    let syncs = disk.count(Op::Sync);
    assert!(matches!(log.wait(ticket), Err(Error::Poisoned { .. })));
    let Err(Error::Poisoned { cause }) = log.sync() else { panic!("it took another sync") };
    assert_eq!(
        cause.to_string(),
        format!("cannot sync {}", segment(1).display()),
        "why, and where"
    );
    assert!(matches!(log.append(&Batch::of(&run(5..=5, 1))), Err(Error::Poisoned { .. })));
    assert!(matches!(log.release(1), Err(Error::Poisoned { .. })));
    assert!(matches!(log.prepare(), Err(Error::Poisoned { .. })));
    assert!(matches!(log.idle(), Err(Error::Poisoned { .. })));
    log.wait(early).expect("was durable before");
    assert_eq!(all(&log).len(), 4, "reads go on");
    assert!(matches!(log.close(), Err(Error::Poisoned { .. })));
    assert_eq!(disk.count(Op::Sync), syncs, "nobody tried again");

    // The same kernel still shows the bytes that the disk never got: what is accepted is written anew (O20).
    let disk = disk.kill();
    let accepted = all(&reopen(&disk).expect("opens"));
    let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
    assert_eq!(all(&log), accepted);
}

#[test]
fn a_failed_or_short_write_poisons() {
    for fault in [Fault::Io, Fault::NoSpace, Fault::Short(30)] {
        let disk = SimDisk::new();
        let log = options(&disk).create(DIR, b"").expect("creates");
        append(&log, &Batch::of(&run(1..=2, 1)));
        disk.fail_nth(Op::Write, 1, fault);
        let error = log.append(&Batch::of(&run(3..=3, 1))).expect_err("fails");
        assert!(matches!(error, Error::Io { op: "write to", .. }), "{error}");
        assert!(matches!(log.append(&Batch::of(&run(3..=3, 1))), Err(Error::Poisoned { .. })));
        assert_eq!(log.last_index(), 2, "not readable either");
        drop(log);
        assert_eq!(reopen(&disk.kill()).expect("opens").last_index(), 2);
    }
}

#[test]
fn a_full_disk_refuses_the_roll_and_the_log_goes_on_when_there_is_space_again() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    disk.set_capacity(Some(32_800)); // the first segment and the lock
    assert!(matches!(log.prepare(), Err(Error::NoSpace { .. })));
    append(&log, &Batch::of(&large(1..=18, 1, 1000)));
    let left = log.space_left();
    assert!(left < 3000, "{left} left");
    for _ in 0..3 {
        let refused = log.append(&Batch::of(&large(19..=21, 1, 1000)));
        assert!(matches!(refused, Err(Error::NoSpace { .. })));
    }
    append(&log, &Batch::of(&run(19..=19, 1))); // what fits goes on
    assert_eq!(log.last_index(), 19);
    disk.set_capacity(None);
    append(&log, &Batch::of(&large(20..=21, 1, 1000)));
    assert_eq!(log.last_index(), 21);
    let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
    assert_eq!((log.last_index(), log.recovery().torn.clone()), (21, None));
}

/// Every call of a script fails once, or from then on: nothing acknowledged is lost, nothing panics.
#[test]
fn any_failing_call_loses_nothing_acknowledged() {
    use crate::crash::Step::{Append, Finish, Idle, Prepare, Release, Sync};
    let ops = [Op::Write, Op::Sync, Op::SyncDir, Op::Create, Op::Rename, Op::Remove, Op::Read];
    let mut failed = 0;
    for op in ops {
        for nth in 1.. {
            let fault = if nth % 2 == 0 { Fault::Io } else { Fault::NoSpace };
            let context = format!("{op:?} number {nth} fails with {fault:?}");
            let disk = SimDisk::new();
            let log = options(&disk).create(DIR, b"me").expect("no fault yet");
            let begun = disk.count(op);
            disk.fail_nth(op, nth, fault);
            let mut history = vec![Model { metadata: "me".into(), ..Model::default() }];
            let mut notes = Vec::new();
            let mut error = None;
            for step in workload() {
                let synced = |notes: &mut Vec<String>, history: &Vec<Model>| {
                    notes.push(format!("synced {}", history.len() - 1));
                };
                let done = match step {
                    Append(spec) => log.append(&spec.batch()).map(|_| {
                        let mut model = history.last().expect("has one").clone();
                        model.apply(&spec);
                        history.push(model);
                    }),
                    Sync => log.sync().map(|()| synced(&mut notes, &history)),
                    Release(before) => {
                        history.last_mut().expect("has one").released = before;
                        log.release(before).map(|_| synced(&mut notes, &history))
                    }
                    Prepare => log.prepare().map(drop),
                    Finish => log.finish_segment().map(drop),
                    Idle => log.idle().map(drop),
                };
                if let Err(e) = done {
                    error = Some(e);
                    break;
                }
            }
            drop(log);
            let hit = disk.count(op) - begun >= nth;
            let promised = noted(&notes, "synced").unwrap_or(0);
            let log = reopen(&disk.reboot(Unsynced::Random(nth)))
                .unwrap_or_else(|e| panic!("{context} ({error:?}): {e}"));
            let released = history.last().expect("has one").released.max(1);
            let found = history[promised..]
                .iter()
                .any(|model| Model { released, ..model.clone() }.difference(&log).is_none());
            assert!(found, "{context} ({error:?}): lost or invented");
            failed += u64::from(hit);
            if !hit {
                break;
            }
        }
    }
    assert!(failed > 60, "only {failed} calls failed");
}

/// A preparation touches nothing that counts: whatever fails there can be tried again, and nobody is poisoned.
#[test]
fn a_preparation_that_fails_can_be_tried_again() {
    for op in [Op::Create, Op::Write, Op::Sync, Op::Rename] {
        let disk = SimDisk::new();
        let log = options(&disk).create(DIR, b"").expect("creates");
        append(&log, &Batch::of(&large(1..=18, 1, 1000)));
        disk.fail_from(op, 1, Fault::Io);
        let error = log.prepare().expect_err("fails");
        assert!(matches!(error, Error::NotPrepared { .. }), "{op:?}: {error}");
        disk.heal();
        disk.fail_nth(op, 1, Fault::Io);
        let batch = large(19..=30, 1, 1000);
        let error = log.append(&Batch::of(&batch)).expect_err("has to prepare a segment itself");
        assert!(matches!(error, Error::NotPrepared { .. }), "{op:?}: {error}");
        assert_eq!((log.last_index(), all(&log).len()), (18, 18), "{op:?}");
        append(&log, &Batch::of(&batch));
        assert_eq!(log.prepare().expect("prepares"), 2, "{op:?}");
        let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
        assert_eq!((log.last_index(), log.recovery().temporaries.len()), (30, 0), "{op:?}");
    }
}

/// Unlike what else a preparation does, syncing the directory is about names that count.
#[test]
fn a_failed_sync_of_the_directory_poisons() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    disk.fail_nth(Op::SyncDir, 1, Fault::Io);
    assert!(matches!(log.prepare(), Err(Error::Io { .. })));
    assert!(matches!(log.append(&Batch::of(&run(1..=1, 1))), Err(Error::Poisoned { .. })));

    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&large(1..=18, 1, 1000)));
    append(&log, &Batch::of(&large(19..=30, 1, 1000)));
    append(&log, &Batch::compact(SnapshotMark::new(20, 1, "")));
    disk.fail_nth(Op::SyncDir, 1, Fault::Io);
    assert!(matches!(log.release(21), Err(Error::Io { .. })));
    assert!(matches!(log.release(21), Err(Error::Poisoned { .. })));
}

#[test]
fn a_full_disk_does_not_keep_the_log_from_opening() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    log.prepare().expect("prepares");
    let _ = log.append(&Batch::of(&run(1..=5, 1))).expect("appends");
    let disk = disk.kill();
    disk.set_capacity(Some(3 * 32_768 + 100)); // what there is
    let log = reopen(&disk).expect("prepared segments give way");
    assert!(log.recovery().rewritten > 0);
    assert_eq!((log.last_index(), log.stats().segments), (5, 2));
    let disk = disk.reboot(Unsynced::Lost);
    assert_eq!(reopen(&disk).expect("opens").last_index(), 5);

    let log = reopen(&disk).expect("opens");
    let _ = log.append(&Batch::of(&run(6..=6, 1))).expect("appends");
    let disk = disk.kill();
    disk.set_capacity(Some(2 * 32_768 + 100));
    assert_eq!(reopen(&disk).expect("the last one gives way").last_index(), 6);
    let disk = disk.kill();
    let log = reopen(&disk).expect("opens");
    let _ = log.append(&Batch::of(&run(7..=7, 1))).expect("appends");
    let disk = disk.kill();
    disk.set_capacity(Some(32_768 + 100));
    assert!(matches!(reopen(&disk), Err(Error::NoSpace { .. })), "nothing is left to give way");
    disk.set_capacity(None);
    assert_eq!(reopen(&disk).expect("nothing was lost").last_index(), 7);
}

/// A torn tail that cannot be set aside for want of room: what was prepared gives way, and what cannot be done leaves
/// nothing behind.
#[test]
fn a_torn_tail_does_not_keep_the_log_from_opening_on_a_full_disk() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&run(1..=3, 1)));
    log.prepare().expect("prepares");
    disk.cut_power_after_bytes(700);
    let _ = log.append(&Batch::of(&large(4..=4, 1, 4000)));
    let disk = disk.reboot(Unsynced::Kept);
    let full = disk.fork();
    full.set_capacity(Some(disk.used() + 100));
    let log = reopen(&full).expect("prepared segments give way");
    assert_eq!((log.last_index(), log.recovery().torn.is_some()), (3, true));

    for number in [3, 2] {
        disk.remove(&segment(number)).expect("removes"); // nothing is left to give way
    }
    let names = |disk: &SimDisk| disk.list(Path::new(DIR)).expect("lists");
    let before = names(&disk);
    for room in [100, 1000] {
        disk.set_capacity(Some(disk.used() + room)); // too little for the copy of the tail, or for that of the segment
        for _ in 0..3 {
            let refused = reopen(&disk);
            assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
            let kept = names(&disk).len() - before.len();
            assert_eq!(kept, usize::from(room > 700), "at most one copy: {:?}", names(&disk));
        }
    }
    disk.set_capacity(None);
    let log = reopen(&disk).expect("nothing was lost");
    assert_eq!((log.last_index(), log.recovery().torn.is_some()), (3, true));
}

/// Each sync of an opening fails, and the next process opens the log: that the last one closed it is taken back on the
/// disk, too, before anything is written behind. Else proven batches could rot away unseen.
#[test]
fn a_sync_that_failed_while_opening_hides_no_damage_later() {
    for nth in 1.. {
        let disk = SimDisk::new();
        let log = options(&disk).create(DIR, b"").expect("creates");
        append(&log, &Batch::of(&run(1..=3, 1)));
        log.close().expect("closes");
        disk.fail_nth(Op::Sync, nth, Fault::Io);
        let failed = reopen(&disk).is_err();
        let log = reopen(&disk).expect("opens");
        let end = log.append(&Batch::default()).expect("nothing to write").lsn();
        (4..=6).for_each(|index| append(&log, &Batch::of(&run(index..=index, 1))));
        let disk = disk.reboot(Unsynced::Lost);
        assert_eq!(reopen(&disk.fork()).expect("opens").last_index(), 6);
        assert!(disk.tamper(segment(1), |bytes| bytes[end.offset() as usize + 60] ^= 1));
        let opened = reopen(&disk).map(|log| log.last_index());
        assert!(
            matches!(opened, Err(Error::Corrupt { .. })),
            "SILENT LOSS: {opened:?}, sync {nth}"
        );
        if !failed {
            assert!(nth > 1, "nothing failed");
            break;
        }
    }
}

/// A torn tail whose cut could not be synced is still on the disk, whatever the page cache shows.
#[test]
fn a_tail_whose_cut_failed_does_not_come_back() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&run(1..=3, 1)));
    log.idle().expect("marks");
    let end = log.append(&Batch::default()).expect("nothing to write").lsn().offset() as usize;
    let fits = (end + 56 + 400).next_multiple_of(512) - end - 56; // the next batch begins a sector
    let (four, five) = (large(4..=4, 1, fits), large(5..=5, 1, 300));
    let _ = log.append(&Batch::of(&four)).expect("appends");
    let _ = log.append(&Batch::of(&five)).expect("appends");
    let mut failed = 0;
    for outcome in disk.every_outcome(100, 1) {
        for nth in 1.. {
            let disk = disk.after(outcome);
            disk.fail_nth(Op::Sync, nth, Fault::Io);
            if reopen(&disk).is_ok() {
                break;
            }
            failed += 1;
            let log = reopen(&disk).expect("opens");
            if log.last_index() == 3 {
                append(&log, &Batch::of(&four));
                let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
                assert_eq!(log.last_index(), 4, "{outcome:?}, sync {nth}: back from nowhere");
            }
        }
    }
    assert!(failed > 50, "{failed} openings failed");
}

/// What a script of two lives did before something failed.
struct Lives {
    disk: SimDisk,
    history: Vec<Model>,
    /// The newest state that was promised to be durable.
    promised: usize,
}

impl Lives {
    fn append(&mut self, log: &Wal, spec: Spec) -> Result<(), Error> {
        let mut model = self.history.last().expect("has one").clone();
        model.apply(&spec);
        self.history.push(model); // it may be there even if the write is said to have failed
        log.append(&spec.batch()).map(drop)
    }

    fn sync(&mut self, log: &Wal) -> Result<(), Error> {
        log.sync()?;
        self.promised = self.history.len() - 1;
        Ok(())
    }

    fn release(&mut self, log: &Wal, before: u64) -> Result<(), Error> {
        let model = self.history.last_mut().expect("has one");
        model.released = model.released.max(before);
        log.release(before)?;
        self.promised = self.history.len() - 1;
        Ok(())
    }

    /// Everything that touches the disk: creation, appends, rolls with and without segments prepared, overwriting, marks,
    /// footers, release, spares, recycling, close; a kill, the recovery from it, an opening that verifies.
    fn run(&mut self) -> Result<(), Error> {
        let log = options(&self.disk).create(DIR, b"me")?;
        let state = |term, commit| Some(HardState { term, vote: 1, commit });
        self.append(&log, Spec { hard_state: state(1, 0), ..Spec::of(run(1..=3, 1)) })?;
        self.sync(&log)?;
        self.append(&log, Spec::of(large(4..=14, 1, 1600)))?; // rolls, nothing prepared
        self.sync(&log)?;
        log.prepare()?;
        self.append(&log, Spec::of(large(15..=25, 1, 1600)))?;
        self.append(&log, Spec::of(run(20..=21, 2)))?;
        self.sync(&log)?;
        log.finish_segment()?;
        log.idle()?;
        let mark = SnapshotMark::new(19, 1, "conf");
        self.append(
            &log,
            Spec { compact: Some(mark), hard_state: state(2, 19), ..Spec::default() },
        )?;
        self.release(&log, 15)?; // two segments become spares
        log.prepare()?; // of which the next are made
        self.append(&log, Spec::of(large(22..=32, 2, 1600)))?;
        self.append(&log, Spec::of(large(33..=43, 2, 1600)))?;
        self.sync(&log)?;
        log.close()?;
        self.promised = self.history.len() - 1;

        let log = options(&self.disk).open(DIR)?;
        self.append(
            &log,
            Spec { install: Some(SnapshotMark::new(50, 3, "two")), ..Spec::of(run(51..=52, 3)) },
        )?;
        self.sync(&log)?;
        self.release(&log, 51)?;
        self.append(&log, Spec::of(large(53..=63, 3, 1600)))?;
        log.prepare()?;
        self.append(&log, Spec::of(run(60..=61, 4)))?;
        self.disk.note("killed");
        let _ = log.append(&Batch::of(&run(62..=62, 4)))?;
        let mut last = self.history.last().expect("has one").clone();
        last.apply(&Spec::of(run(62..=62, 4)));
        self.history.push(last);
        std::mem::forget(log); // a process that dies closes nothing
        Ok(())
    }

    /// The second process: the same disk, with its plans for failure.
    fn recover(&mut self) -> Result<(), Error> {
        let log = options(&self.disk).verify(true).open(DIR)?;
        self.promised = self.history.len() - 1;
        self.append(&log, Spec::of(run(63..=64, 5)))?;
        self.sync(&log)?;
        log.finish_segment()?;
        log.close()
    }
}

/// Each call of each kind fails once, in each way: nothing acknowledged is lost, nothing that failed is said to have
/// worked, nothing panics, and the next process finds a whole log.
#[test]
fn every_call_of_two_lives_may_fail_in_every_way() {
    let ops = [
        Op::Create,
        Op::Open,
        Op::Read,
        Op::Write,
        Op::SetLen,
        Op::Sync,
        Op::SyncDir,
        Op::Rename,
        Op::Remove,
        Op::List,
        Op::Lock,
    ];
    let faults = [Fault::Io, Fault::NoSpace, Fault::Short(0), Fault::Short(17), Fault::Short(700)];
    let (mut tried, mut hit) = (0, std::collections::BTreeMap::new());
    for op in ops {
        let short = op == Op::Write;
        for fault in faults.into_iter().filter(|f| short || !matches!(f, Fault::Short(_))) {
            for nth in 1.. {
                let context = format!("{op:?} number {nth} fails with {fault:?}");
                let disk = SimDisk::new();
                disk.fail_nth(op, nth, fault);
                let first = Model { metadata: "me".into(), ..Model::default() };
                let mut lives = Lives { disk: disk.clone(), history: vec![first], promised: 0 };
                let mut done = lives.run();
                let mut calls = disk.count(op);
                if done.is_ok() {
                    // Killed, and opened by the next process, whose calls are counted on.
                    lives.disk = disk.kill();
                    if nth > calls {
                        lives.disk.fail_nth(op, nth - calls, fault);
                    }
                    done = lives.recover();
                    calls += lives.disk.count(op);
                }
                for seed in 0..2 {
                    let after = lives.disk.after(Unsynced::Random(nth * 2 + seed));
                    let log = match reopen(&after) {
                        Err(Error::NotFound { .. }) if lives.history.len() == 1 => continue,
                        log => log.unwrap_or_else(|e| panic!("{context} ({done:?}): {e}")),
                    };
                    let released = lives.history.iter().map(|model| model.released).max();
                    let released = released.unwrap_or(0).max(1);
                    let mut states = lives.history[lives.promised..].iter();
                    let found =
                        states.any(|m| Model { released, ..m.clone() }.difference(&log).is_none());
                    assert!(found, "{context} ({done:?}), seed {seed}: lost or invented something");
                    let next = log.last_index() + 1;
                    append(&log, &Batch::of(&run(next..=next, 9)));
                }
                tried += 1;
                if calls < nth {
                    done.unwrap_or_else(|e| panic!("{context}: it was never due, and yet {e}"));
                    break;
                }
                *hit.entry(op).or_insert(0) += 1;
            }
        }
    }
    let kinds: Vec<_> = hit.keys().copied().collect();
    assert!(tried > 500, "only {tried} failures: {hit:?}");
    assert_eq!(kinds.len(), ops.len() - 1, "only a lock file is cut to size: {hit:?}");
}
