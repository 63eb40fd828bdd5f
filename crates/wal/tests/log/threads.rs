//! Many threads on one log: group commit, maintenance, closing.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oarlock_wal::testing::{Event, Fault, Op, SimDisk, Unsynced};
use oarlock_wal::vfs::{Access, File, Lock};
use oarlock_wal::{Batch, Error, Maintainer, Observer, SnapshotMark, Vfs, Wal};

use crate::util::{DIR, append, large, options, reopen, run};

const LIMIT: Duration = Duration::from_secs(20);

/// Waits until `done` says so, or fails.
fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "still waiting for {what}");
        thread::yield_now();
    }
}

#[test]
fn callers_that_wait_together_share_a_sync() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    let held = disk.hold_syncs();
    let first = log.append(&Batch::of(&run(1..=1, 1))).expect("appends");
    let threads: Vec<_> = thread::scope(|scope| {
        let one = scope.spawn(|| log.wait(first));
        assert!(held.wait_for(1, LIMIT), "the first one syncs");
        // The append lock is free while it does.
        let tickets: Vec<_> = (2..=9)
            .map(|index| log.append(&Batch::of(&run(index..=index, 1))).expect("appends"))
            .collect();
        assert_eq!(log.last_index(), 9);
        let wait = |ticket| {
            let log = &log;
            scope.spawn(move || log.wait(ticket))
        };
        let others: Vec<_> = tickets.into_iter().map(wait).collect();
        drop(held);
        std::iter::once(one).chain(others).map(|t| t.join().expect("no panic")).collect()
    });
    assert!(threads.iter().all(Result::is_ok));
    let syncs = log.stats().syncs;
    assert!((2..=3).contains(&syncs), "nine callers, {syncs} syncs");
    let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
    assert_eq!(log.last_index(), 9);
}

/// Whoever is late, early, alone or among others: every wait ends, and what it acknowledged is there.
#[test]
fn every_wait_ends_whoever_comes_and_goes() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    let next = parking_lot::Mutex::new(1);
    thread::scope(|scope| {
        for seed in 0..8 {
            let (log, next) = (&log, &next);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                for _ in 0..40 + 20 * seed {
                    let ticket = {
                        let mut next = next.lock();
                        let ticket = log.append(&Batch::of(&run(*next..=*next, 1)));
                        *next += 1;
                        ticket.expect("appends")
                    };
                    if rng.u8(..4) == 0 {
                        thread::sleep(Duration::from_micros(rng.u64(..300)));
                    }
                    if rng.u8(..8) > 0 {
                        log.wait(ticket).expect("syncs");
                    }
                }
            });
        }
    });
    log.sync().expect("syncs");
    let last = *next.lock() - 1;
    let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
    assert_eq!(log.last_index(), last);
}

/// W1 over the seam: the sync that covers a batch ends before its wait does.
#[test]
fn a_wait_ends_after_the_sync_that_covers_it() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    for index in 1..=5 {
        let ticket = log.append(&Batch::of(&run(index..=index, 1))).expect("appends");
        disk.note("appended");
        log.wait(ticket).expect("syncs");
        disk.note("acknowledged");
    }
    let note = |event: &Event, what: &str| matches!(event, Event::Note(note) if note == what);
    let (mut written, mut synced, mut acknowledged) = (false, false, 0);
    for event in disk.trace() {
        match &event {
            Event::Done { op: Op::Write, .. } => (written, synced) = (true, false),
            Event::Done { op: Op::Sync, .. } => synced = written,
            event if note(event, "appended") => assert!(!synced, "an append does not sync"),
            event if note(event, "acknowledged") => {
                assert!(synced, "acknowledged before the sync");
                acknowledged += 1;
            }
            _ => {}
        }
    }
    assert_eq!(acknowledged, 5);
}

#[test]
fn a_failed_sync_wakes_everybody_who_waits() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    disk.fail_nth(Op::Sync, 1, Fault::Io);
    let held = disk.hold_syncs();
    let failed = thread::scope(|scope| {
        let waits: Vec<_> = (1..=4)
            .map(|index| log.append(&Batch::of(&run(index..=index, 1))).expect("appends"))
            .map(|ticket| (ticket, log.clone()))
            .map(|(ticket, log)| scope.spawn(move || log.wait(ticket)))
            .collect();
        drop(held);
        waits.into_iter().map(|t| t.join().expect("no panic")).filter(Result::is_err).count()
    });
    assert_eq!(failed, 4);
}

#[test]
fn writers_and_readers_do_not_disturb_each_other() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    let _maintainer = Maintainer::spawn(&log).expect("starts");
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for index in (1..=300).step_by(3) {
                let entries = large(index..index + 3, 1, 500);
                let ticket = log.append(&Batch::of(&entries)).expect("appends");
                if index % 10 == 0 {
                    log.wait(ticket).expect("syncs");
                }
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while log.last_index() < 300 {
                    let last = log.last_index();
                    let from = last.saturating_sub(20).max(1);
                    let read = log.entries(from..last + 1, u64::MAX).expect("is there");
                    assert!(read.iter().eq(&large(from..last + 1, 1, 500)));
                    thread::yield_now();
                }
            });
        }
        writer.join().expect("no panic");
    });
    log.close().expect("closes");
    assert_eq!(reopen(&disk).expect("opens").last_index(), 300);
}

#[test]
fn a_maintainer_prepares_marks_when_idle_and_ends_with_its_owner() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    let maintainer = Maintainer::spawn(&log).expect("starts");
    until("two segments ahead", || log.stats().segments == 3);
    append(&log, &Batch::of(&run(1..=3, 1)));
    until("the idle mark", || log.stats().marks == 1);
    let rolled = large(4..=30, 1, 1000);
    append(&log, &Batch::of(&rolled[..14]));
    append(&log, &Batch::of(&rolled[14..]));
    until("the marks of both segments", || log.stats().marks >= 3);
    assert_eq!(log.stats().foreground_rolls, 0, "a segment was ready");
    drop(maintainer); // returns once the thread has ended
    log.close().expect("closes");
    let log = reopen(&disk).expect("opens");
    let maintainer = Maintainer::spawn(&log).expect("starts");
    drop(log); // the maintainer does not keep it open
    until("the lock", || match reopen(&disk) {
        Ok(_) => true,
        Err(Error::Locked { .. }) => false,
        Err(other) => panic!("{other}"),
    });
    drop(maintainer);
}

/// Without marks, all that was written since the last pause would rest on the frames behind it (W3).
#[test]
fn a_maintainer_marks_a_log_that_is_never_idle() {
    let disk = SimDisk::new();
    let large = options(&disk).segment_size(4 << 20); // a roll would be marked in its own right
    let log = large.create(DIR, b"").expect("creates");
    let _maintainer = Maintainer::spawn(&log).expect("a thread");
    let mut index = 0;
    let deadline = Instant::now() + LIMIT;
    while log.stats().marks == 0 {
        assert!(Instant::now() < deadline, "no mark after {index} batches");
        index += 1;
        append(&log, &Batch::of(&run(index..=index, 1)));
        log.sync().expect("no fault");
        thread::sleep(Duration::from_millis(2)); // never long enough to count as idle
    }
}

#[test]
fn a_closed_log_refuses_its_other_handles() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    let other = log.clone();
    let ticket = log.append(&Batch::of(&run(1..=1, 1))).expect("appends");
    log.close().expect("closes");
    assert!(matches!(other.append(&Batch::of(&run(2..=2, 1))), Err(Error::Closed)));
    assert!(matches!(other.prepare(), Err(Error::Closed)));
    other.wait(ticket).expect("closing made it durable");
    let again = reopen(&disk).expect("the lock is free");
    assert_eq!((again.last_index(), other.last_index()), (1, 1));
}

/// Whoever opens the log next must not find a segment of ours put over one of its own.
#[test]
fn closing_waits_for_a_segment_in_the_making() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    let held = disk.hold_syncs();
    thread::scope(|scope| {
        let maintainer = log.clone();
        let preparing = scope.spawn(move || maintainer.prepare());
        assert!(held.wait_for(1, LIMIT), "a segment is being synced");
        let closing = scope.spawn(move || log.close());
        let patience = Instant::now() + Duration::from_millis(200);
        while Instant::now() < patience {
            assert!(!closing.is_finished(), "closed under the hands of whoever prepares");
            thread::yield_now();
        }
        assert!(matches!(reopen(&disk), Err(Error::Locked { .. })));
        drop(held);
        preparing.join().expect("no panic").expect("prepares");
        closing.join().expect("no panic").expect("closes");
    });
    assert_eq!(reopen(&disk).expect("opens").stats().segments, 3);
}

/// The next segments must not wait for the next look at the clock.
#[test]
fn a_roll_wakes_the_maintainer() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    let _maintainer = Maintainer::spawn(&log).expect("starts");
    let begun = Instant::now();
    let mut index = 1;
    while log.stats().rolls < 40 {
        until("two segments ahead", || log.stats().segments >= log.stats().rolls + 3);
        append(&log, &Batch::of(&large(index..index + 10, 1, 1800)));
        index += 10;
    }
    assert_eq!(log.stats().foreground_rolls, 0);
    let took = begun.elapsed(); // a look every 50 ms would take 2 s
    assert!(took < Duration::from_secs(1), "40 rolls took {took:?}");
}

#[test]
fn a_maintainer_goes_on_when_a_segment_could_not_be_prepared() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    disk.fail_from(Op::Create, 1, Fault::Io);
    let _maintainer = Maintainer::spawn(&log).expect("starts");
    let tries = disk.count(Op::Create) + 2;
    until("a second try", || disk.count(Op::Create) > tries);
    disk.heal();
    until("two segments ahead", || log.stats().segments == 3);
    append(&log, &Batch::of(&run(1..=1, 1)));
}

#[test]
fn a_ticket_of_another_log_does_not_wait_for_ever() {
    let logs = [SimDisk::new(), SimDisk::new()]
        .map(|disk| options(&disk).create(DIR, b"").expect("creates"));
    let ticket = logs[0].append(&Batch::of(&run(1..=9, 1))).expect("appends");
    logs[1].wait(ticket).expect("nothing to wait for");
    logs[0].wait(ticket).expect("syncs");
}

#[test]
fn dropping_the_last_handle_closes() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    let _ = log.append(&Batch::of(&run(1..=1, 1))).expect("appends");
    drop(log);
    let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
    assert_eq!((log.last_index(), log.recovery().rewritten), (1, 0));
}

#[test]
fn an_observer_hears_of_syncs_appends_and_rolls() {
    #[derive(Debug, Default)]
    struct Counting(parking_lot::Mutex<[u64; 3]>);
    impl Observer for Counting {
        fn fsync(&self, _: Duration) {
            self.0.lock()[0] += 1;
        }
        fn append(&self, bytes: u64, _: Duration) {
            assert!(bytes > 0);
            self.0.lock()[1] += 1;
        }
        fn roll(&self, prepared: bool) {
            assert!(!prepared);
            self.0.lock()[2] += 1;
        }
    }
    let disk = SimDisk::new();
    let counting = Arc::new(Counting::default());
    let log: Wal = options(&disk).observer(counting.clone()).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&large(1..=15, 1, 1000)));
    append(&log, &Batch::of(&large(16..=30, 1, 1000)));
    assert_eq!(*counting.0.lock(), [2, 2, 1]);
    let stats = log.stats();
    assert_eq!((stats.syncs, stats.appends, stats.entries, stats.rolls), (2, 2, 30, 1));
}

/// Two handles that close the log at once both return when it is closed, and both say so if it could not be.
#[test]
fn whoever_closes_second_waits_for_the_first() {
    for fails in [false, true] {
        let disk = SimDisk::new();
        let log = options(&disk).create(DIR, b"").expect("creates");
        let _ = log.append(&Batch::of(&run(1..=2, 1))).expect("appends");
        let other = log.clone();
        if fails {
            disk.fail_nth(Op::Sync, 1, Fault::Io);
        }
        let held = disk.hold_syncs();
        let first = thread::spawn(move || log.close().is_ok());
        assert!(held.wait_for(1, Duration::from_secs(5)), "the first one syncs");
        let second = thread::spawn({
            let disk = disk.clone();
            move || (other.close().is_ok(), reopen(&disk).map(drop))
        });
        let end = Instant::now() + Duration::from_millis(100);
        while Instant::now() < end && !second.is_finished() {
            thread::sleep(Duration::from_millis(5)); // it has its time to return too early
        }
        drop(held);
        assert_eq!(first.join().expect("no panic"), !fails);
        let (closed, opened) = second.join().expect("no panic");
        assert_eq!(closed, !fails);
        opened.expect("the lock was given back");
    }
}

/// A disk on which giving up the first segment takes its time.
#[derive(Debug)]
struct Slow {
    disk: SimDisk,
    reached: AtomicBool,
    go: AtomicBool,
}

impl Vfs for Slow {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.disk.create_new(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        self.disk.open(path, access)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if from.ends_with("00000001.wal") {
            self.reached.store(true, Ordering::SeqCst);
            while !self.go.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.disk.lock(path)
    }
}

/// W6: oldest first, also where two threads release at once; a hole would look like damage after a power cut.
#[test]
fn two_releases_at_once_leave_no_hole() {
    let disk = SimDisk::new();
    let slow = Arc::new(Slow { disk: disk.clone(), reached: false.into(), go: false.into() });
    let log = options(&disk).vfs(slow.clone()).create(DIR, b"").expect("creates");
    for first in (1..50).step_by(10) {
        append(&log, &Batch::of(&large(first..first + 10, 1, 1800)));
    }
    append(&log, &Batch::compact(SnapshotMark::new(45, 1, "")));
    thread::scope(|scope| {
        let one = scope.spawn(|| log.release(21));
        until("the first release", || slow.reached.load(Ordering::SeqCst));
        let two = scope.spawn(|| log.release(41));
        let end = Instant::now() + Duration::from_millis(200);
        while !two.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5)); // it has its time to overtake
        }
        let opened = reopen(&disk.after(Unsynced::Lost)).map(|log| log.last_index());
        slow.go.store(true, Ordering::SeqCst);
        for done in [one, two] {
            assert_eq!(done.join().expect("no panic").expect("covered").segments, 2);
        }
        assert_eq!(opened.expect("no hole"), 50);
    });
    assert_eq!(log.first_index(), 41);
}
