//! What tools rely on: one writer at a time, readers that change nothing, files for their owner only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oarlock_wal::examine::{End, Progress, SnapshotState};
use oarlock_wal::testing::{Event, Op, SimDisk, Unsynced};
use oarlock_wal::{Batch, Content, Error, Follow, News, Options, SnapshotMark, Vfs, snapshot};
use parking_lot::Mutex;

use crate::util::{DIR, SMALL, all, append, large, options, reopen, run, segment};

#[test]
fn a_second_writer_is_refused_and_told_who_holds_the_log() {
    let tmp = tempfile::tempdir().expect("tempdir");
    let dir = tmp.path().join("wal");
    let options = Options::new().segment_size(SMALL);
    let log = options.create(&dir, b"").expect("creates");
    match options.open(&dir) {
        Err(error @ Error::Locked { holder, .. }) => {
            assert_eq!(holder, Some(std::process::id()));
            assert!(error.to_string().contains("process"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    log.close().expect("closes");
    options.open(&dir).expect("the lock is free");
}

#[test]
fn creating_and_opening_know_each_other() {
    let disk = SimDisk::new();
    assert!(!options(&disk).exists(DIR).expect("lists"));
    assert!(matches!(reopen(&disk), Err(Error::NotFound { .. })));
    assert!(matches!(options(&disk).open_read_only(DIR), Err(Error::NotFound { .. })));
    assert!(disk.list("/data".as_ref()).is_err(), "looking made nothing");
    drop(options(&disk).create(DIR, b"").expect("creates"));
    assert!(options(&disk).exists(DIR).expect("lists"));
    assert!(matches!(options(&disk).create(DIR, b""), Err(Error::AlreadyExists { .. })));
    let limit = options(&SimDisk::new()).create(DIR, &vec![0; 8193]);
    assert!(matches!(limit, Err(Error::TooLarge { bytes: 8193, limit: 8192 })));
}

#[test]
fn a_crash_while_creating_leaves_no_log_or_a_whole_one() {
    let disk = SimDisk::new();
    disk.record();
    drop(options(&disk).create(DIR, b"me").expect("creates"));
    disk.note("created");
    let mut seen = [0; 2];
    for point in disk.crash_points() {
        for outcome in point.disk.outcomes(10) {
            let after = point.disk.fork().reboot(outcome);
            let exists = options(&after).exists(DIR).unwrap_or(false);
            assert!(exists || !point.notes.contains(&"created".into()), "{outcome:?}");
            let log = if exists {
                reopen(&after).expect("whole")
            } else {
                options(&after).create(DIR, b"me").expect("creates")
            };
            assert_eq!(log.metadata(), "me");
            seen[usize::from(exists)] += 1;
        }
    }
    assert!(seen[0] > 20 && seen[1] > 5, "{seen:?}");
}

/// W7: no lock, no write, no repair; a tail in the making is reported, not touched.
#[test]
fn read_only_changes_nothing() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    append(&log, &Batch::of(&large(1..=15, 1, 1000)));
    append(&log, &Batch::of(&large(16..=22, 1, 1000)));
    append(&log, &Batch::compact(SnapshotMark::new(3, 1, "conf")));
    let used = log.append(&Batch::default()).expect("empty").lsn().offset() as usize;
    disk.tamper(segment(2), |bytes| bytes[used + 8] = 1); // a frame that is being written
    let changes = |disk: &SimDisk| {
        let kinds =
            [Op::Write, Op::Create, Op::Sync, Op::SyncDir, Op::Remove, Op::Rename, Op::Lock];
        kinds.map(|op| disk.count(op))
    };
    let before = changes(&disk);
    let tool = options(&disk).open_read_only(DIR).expect("needs no lock");
    assert_eq!((tool.first_index(), tool.last_index(), tool.log_id()), (1, 22, 7));
    assert_eq!(tool.entries(1..23, u64::MAX).expect("reads"), all(&log));
    assert_eq!(tool.entry(22).expect("reads"), log.entry(22).expect("reads"));
    assert_eq!((tool.metadata(), tool.snapshot()), (log.metadata(), log.snapshot()));
    assert_eq!((tool.hard_state(), tool.term(22).expect("term")), (log.hard_state(), 1));
    assert_eq!(tool.end().offset() as usize, used);
    assert!(tool.proven() < tool.end() && tool.segments().len() == 2);
    let torn = tool.recovery().torn.clone().expect("a torn tail");
    assert_eq!((torn.segment.0, torn.offset as usize, torn.set_aside.len()), (2, used, 0));
    let records = options(&disk).dump(DIR).expect("opens").filter(Result::is_ok).count();
    assert_eq!(records, 7, "two headers, two checkpoints, two batches, one mark");
    assert_eq!(changes(&disk), before);

    // The writer's own recovery keeps a copy of what the tool only reported.
    let disk = disk.kill();
    let log = reopen(&disk).expect("opens");
    let torn = log.recovery().torn.clone().expect("a torn tail");
    assert_eq!(torn.set_aside.len(), 1);
    let kept = disk.contents(&torn.set_aside[0]).expect("kept");
    assert_eq!(kept, [0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(log.last_index(), 22);
}

#[test]
fn a_dump_shows_every_record_and_where_it_cannot_go_on() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    append(&log, &Batch::of(&run(1..=3, 1)));
    append(&log, &Batch::compact(SnapshotMark::new(2, 1, "conf")));
    log.close().expect("closes");
    let dump = |disk: &SimDisk| options(disk).dump(DIR).expect("opens");
    let lines: Vec<String> = dump(&disk).map(|record| record.expect("whole").to_string()).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[0].contains("segment of 32768 B") && lines[0].contains("mark 1:"), "{lines:#?}");
    assert!(lines[1].contains("checkpoint") && lines[2].contains("entries 1..=3"), "{lines:#?}");
    assert!(lines[3].contains("compact: index 2 of term 1"), "{lines:#?}");
    disk.tamper(segment(1), |bytes| bytes[12_360] ^= 1);
    let records: Vec<_> = dump(&disk).collect();
    let [Ok(_), Ok(_), Err(Error::Corrupt { .. }), Ok(after)] = &records[..] else {
        panic!("{records:#?}");
    };
    assert!(matches!(after.content, Content::Compact(_)), "what follows the damage is shown");
}

/// W5, on the real disk: a payload outlives the release of its segment and the log itself.
#[test]
fn a_reader_keeps_what_it_reads() {
    let tmp = tempfile::tempdir().expect("tempdir");
    let dir = tmp.path().join("wal");
    let log = Options::new().segment_size(SMALL).create(&dir, b"").expect("creates");
    for first in (1..=60).step_by(10) {
        append(&log, &Batch::of(&large(first..first + 10, 1, 1000)));
    }
    let held = log.entries(1..11, u64::MAX).expect("reads");
    append(&log, &Batch::compact(SnapshotMark::new(55, 1, "")));
    let (size, segments) = (log.size(), log.stats().segments);
    let released = log.release(50).expect("covered");
    assert!(released.segments >= 2 && log.first_index() > 30, "{released:?}");
    assert_eq!(log.size(), size - released.bytes);
    assert_eq!(log.stats().segments, segments - released.segments);
    assert!(matches!(log.entry(10), Err(Error::OutOfRange { .. })));
    let base = log.first_index() - 1;
    assert_eq!(log.term(base).expect("the one before the first"), 1);
    log.close().expect("closes");
    assert_eq!(held, large(1..11, 1, 1000));
    let log = Options::new().open(&dir).expect("opens");
    assert_eq!((log.first_index() - 1, log.last_index()), (base, 60));
    assert_eq!(log.term(base).expect("from the checkpoint"), 1);
}

#[test]
fn unknown_files_and_leftovers_are_reported_and_only_ours_removed() {
    let disk = SimDisk::new();
    drop(options(&disk).create(DIR, b"").expect("creates"));
    for name in ["notes.txt", "00000002.tmp"] {
        disk.create_new(&segment(1).with_file_name(name)).expect("creates");
    }
    let log = reopen(&disk).expect("opens");
    assert_eq!(log.recovery().unknown, ["notes.txt"]);
    assert_eq!(log.recovery().temporaries, ["00000002.tmp"]);
    assert!(disk.contents(segment(1).with_file_name("notes.txt")).is_some());
    assert!(disk.contents(segment(2).with_extension("tmp")).is_none());
}

#[test]
fn without_fsync_nothing_is_synced_and_nothing_is_claimed() {
    let disk = SimDisk::new();
    let log = options(&disk).unsafe_no_fsync(true).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&run(1..=3, 1)));
    log.idle().expect("nothing to claim");
    log.close().expect("closes");
    let synced = |event: &Event| matches!(event, Event::Done { op: Op::Sync, .. });
    assert!(!disk.trace().iter().any(synced));
    let log = options(&disk).open(DIR).expect("opens, with syncs");
    assert_eq!(log.last_index(), 3);
    assert!(log.recovery().rewritten > 0, "nothing of it was proven");
    let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
    assert_eq!(log.last_index(), 3);
}

#[test]
fn files_and_directories_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let tmp = tempfile::tempdir().expect("tempdir");
    let dir = tmp.path().join("wal");
    let log = Options::new().segment_size(SMALL).create(&dir, b"").expect("creates");
    log.prepare().expect("prepares");
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path).expect("exists").permissions().mode() & 0o777
    };
    assert_eq!(mode(&dir), 0o700);
    let files: Vec<_> = std::fs::read_dir(&dir).expect("lists").map(|f| f.expect("file")).collect();
    assert_eq!(files.len(), 4, "three segments and the lock");
    assert!(files.iter().all(|file| mode(&file.path()) == 0o600));
}

/// Everything that is new, in order; and how often something was missed.
fn news(follow: &mut Follow) -> (Vec<u64>, usize) {
    let (mut indexes, mut missed) = (Vec::new(), 0);
    loop {
        match follow.poll().expect("follows") {
            News::Nothing => return (indexes, missed),
            News::Missed { .. } => missed += 1,
            News::Batch(records) => {
                assert!(records.iter().rev().skip(1).all(|r| r.more), "a batch is whole");
                for record in records {
                    if let Content::Entries { entries } = record.content {
                        indexes.extend(entries.iter().map(|entry| entry.index));
                    }
                }
            }
            News::Segment(header) => assert!(header.to_string().contains("log 0000000000000007")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_follower_sees_every_batch_once_across_rolls_and_restarts() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    let mut follow = options(&disk).follow(DIR).expect("follows");
    assert_eq!(news(&mut follow), (vec![], 0));
    append(&log, &Batch::of(&run(1..=3, 1)));
    assert_eq!(news(&mut follow), (vec![1, 2, 3], 0));
    log.prepare().expect("prepares");
    for first in (4..40).step_by(4) {
        append(&log, &Batch::of(&large(first..first + 4, 1, 1500)));
    }
    assert_eq!(news(&mut follow), ((4..40).collect(), 0));
    let used = log.append(&Batch::default()).expect("empty").lsn();
    assert!(used.segment().0 > 2, "it has rolled");

    // A batch that is not whole is not shown, and what takes its place after a recovery is.
    disk.tamper(segment(used.segment().0), |bytes| bytes[used.offset() as usize + 8] = 1);
    assert_eq!(news(&mut follow), (vec![], 0));
    drop(log);
    let log = options(&disk).verify(true).open(DIR).expect("recovers"); // it was closed: look all the same
    assert!(log.recovery().torn.is_some());
    append(&log, &Batch::of(&run(40..=41, 2)));
    assert_eq!(news(&mut follow), (vec![40, 41], 0));
    log.close().expect("closes");
    assert_eq!(news(&mut follow), (vec![], 0));
}

#[test]
fn a_follower_that_is_overtaken_by_a_release_says_so_and_goes_on() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    let mut follow = options(&disk).follow(DIR).expect("follows");
    append(&log, &Batch::of(&run(1..=3, 1)));
    assert_eq!(news(&mut follow), (vec![1, 2, 3], 0));
    for first in (4..60).step_by(4) {
        append(&log, &Batch::of(&large(first..first + 4, 1, 1500)));
    }
    append(&log, &Batch::compact(SnapshotMark::new(59, 1, "")));
    assert!(log.release(50).expect("releases").segments > 1);
    let oldest = log.first_index();
    assert_eq!(news(&mut follow), ((oldest..60).collect(), 1));
}

#[test]
fn a_follower_stops_at_damage_and_names_it() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    for first in (1..40).step_by(4) {
        append(&log, &Batch::of(&large(first..first + 4, 1, 1500)));
    }
    log.close().expect("closes");
    disk.tamper(segment(1), |bytes| bytes[15_000] ^= 1);
    let mut follow = options(&disk).follow(DIR).expect("follows");
    let error = loop {
        match follow.poll() {
            Ok(News::Nothing) => panic!("it waits for what will never come"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let shown = options(&disk).dump(DIR).expect("opens").filter_map(Result::ok);
    let footers = shown.filter(|record| matches!(record.content, Content::Footer { .. })).count();
    assert!(footers > 2, "segments that were left have one");
    let Error::Corrupt { segment, offset, .. } = error else { panic!("{error}") };
    assert!(segment.0 == 1 && (13_400..=15_000).contains(&offset), "{error}");
}

#[test]
fn an_examination_tells_a_tail_in_the_making_from_a_torn_one() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    append(&log, &Batch::of(&large(1..=15, 1, 1000)));
    let used = log.append(&Batch::default()).expect("empty").lsn();
    disk.tamper(segment(1), |bytes| bytes[used.offset() as usize + 8] = 1);
    let examine = |disk: &SimDisk| {
        let seen = Arc::new(Mutex::new((0, 0)));
        let told = seen.clone();
        let progress = move |progress: Progress| {
            let mut seen = told.lock();
            assert!(progress.done >= seen.0 && progress.done <= progress.total);
            *seen = (progress.done, progress.total);
        };
        let found = options(disk).examine(DIR, Some("/data/snap".as_ref()), progress);
        assert!(seen.lock().1 >= SMALL, "{seen:?}");
        found.expect("examines")
    };
    let found = examine(&disk);
    assert!(found.is_whole());
    let log_found = found.log.expect("reads");
    assert_eq!((log_found.end, log_found.entries), (End::BeingWritten { at: used }, 1..=15));
    let disk = disk.kill();
    let locks = disk.count(Op::Lock);
    assert_eq!(examine(&disk).log.expect("reads").end, End::Torn { at: used, bytes: 9 });
    assert_eq!(disk.count(Op::Lock), locks);
    drop(log);

    // A log that was released needs its snapshot, whole.
    let log = reopen(&disk).expect("opens");
    for first in (16..60).step_by(4) {
        append(&log, &Batch::of(&large(first..first + 4, 1, 1500)));
    }
    append(&log, &Batch::compact(SnapshotMark::new(50, 1, "conf")));
    assert!(log.release(50).expect("releases").segments > 0);
    let found = examine(&disk);
    assert!(found.snapshot_missing && !found.is_whole());
    let snapshots = snapshot::Options::new().vfs(Arc::new(disk.clone())).open("/data/snap");
    let mut writer = snapshots.expect("opens").create(50, 1).expect("creates");
    std::io::Write::write_all(&mut writer, &[7; 100_000]).expect("writes");
    writer.commit().expect("commits");
    let found = examine(&disk);
    assert!(found.is_whole(), "{found:?}");
    let [report] = &found.snapshots[..] else { panic!("{found:?}") };
    let SnapshotState::Whole { covers } = report.state else { panic!("{report:?}") };
    assert_eq!(covers.index, 50);
    disk.tamper(&report.path, |bytes| bytes[70_000] ^= 1);
    let found = examine(&disk);
    assert!(!found.is_whole() && found.log.is_ok(), "{found:?}");
    assert!(matches!(found.snapshots[0].state, SnapshotState::Damaged { .. }));
    disk.tamper(
        segment(log.append(&Batch::default()).expect("empty").lsn().segment().0),
        |bytes| bytes[12_300] ^= 1,
    );
    assert!(matches!(examine(&disk).log, Err(Error::Corrupt { .. })));
}

/// W7, on real files: a writer that rolls, releases and recycles looks like damage to nobody beside it.
#[test]
fn readers_beside_a_writer_that_recycles_see_no_damage() {
    let tmp = tempfile::tempdir().expect("tempdir");
    let options = Options::new().segment_size(SMALL);
    let log = options.create(tmp.path(), b"").expect("creates");
    append(&log, &Batch::of(&large(1..=5, 1, 1800)));
    let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let stopped = || stop.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            scope.spawn(|| {
                while !stopped() {
                    let log = options.open_read_only(tmp.path()).expect("opens");
                    for index in log.first_index()..=log.last_index() {
                        let entry = log.entry(index).unwrap_or_else(|e| panic!("{index}: {e}"));
                        assert_eq!(entry, large(index..=index, 1, 1800)[0]);
                        read.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        let follower = scope.spawn(|| {
            let mut follow = options.follow(tmp.path()).expect("follows");
            while !stopped() {
                follow.poll().expect("no damage");
            }
        });
        let end = Instant::now() + Duration::from_secs(3);
        let mut next = 6;
        let done = |read: u64| Instant::now() > end && read > 1000;
        while !done(read.load(Ordering::Relaxed))
            && !readers.iter().any(|r| r.is_finished())
            && !follower.is_finished()
        {
            append(&log, &Batch::of(&large(next..next + 5, 1, 1800)));
            next += 5;
            if next % 30 == 1 {
                append(&log, &Batch::compact(SnapshotMark::new(next - 12, 1, "")));
                log.finish_segment().expect("finishes");
                log.release(next - 11).expect("releases");
                log.prepare().expect("prepares");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(log.stats().rolls > 10, "{:?}", log.stats());
}
