//! Footers: segments that need not be read, entries that take no heap, and never a word to believe against the frames.

use oarlock_wal::testing::{Event, Op, SimDisk, Unsynced};
use oarlock_wal::{Batch, Entry, Error, SegmentId, SnapshotMark, Wal};

use crate::util::{DIR, Model, Spec, all, append, large, options, reopen, run, segment};

/// Where the trailer of a segment begins, from the end of its file.
const TRAILER: usize = 64;

/// A closed log of three segments, of which the second overwrites the end of the first.
fn sample() -> (SimDisk, Model) {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    let mut model = Model { metadata: "me".into(), released: 1, ..Model::default() };
    let batches = [
        Spec::of(large(1..=17, 1, 1000)),
        Spec::of(large(18..=30, 1, 1000)),
        Spec::of(large(15..=18, 2, 1000)),
        Spec { compact: Some(SnapshotMark::new(3, 1, "conf")), ..Spec::default() },
        Spec::of(large(19..=30, 3, 1000)),
    ];
    for spec in &batches {
        append(&log, &spec.batch());
        model.apply(spec);
    }
    assert_eq!(log.stats().segments, 3);
    log.close().expect("closes");
    (disk.reboot(Unsynced::Lost), model)
}

fn verified(disk: &SimDisk) -> Result<Wal, Error> {
    options(disk).verify(true).open(DIR)
}

#[test]
fn what_a_footer_stands_for_is_not_read_when_the_log_is_opened() {
    let (disk, model) = sample();
    assert_eq!(model.difference(&reopen(&disk).expect("opens")), None);
    disk.tamper(segment(1), |bytes| bytes[13_000] ^= 1); // in entry 1
    assert!(matches!(verified(&disk), Err(Error::Corrupt { segment: SegmentId(1), .. })));
    let log = reopen(&disk).expect("the footers are good");
    assert!(matches!(log.entry(1), Err(Error::Corrupt { segment: SegmentId(1), .. })), "W3");
    assert_eq!(log.entries(2..31, u64::MAX).expect("the others are good").len(), 29);
    assert_eq!((log.term(14).expect("known"), log.term(15).expect("known")), (1, 2));
}

#[test]
fn entries_of_a_segment_that_was_left_take_no_heap() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    for first in (1..=3000).step_by(100) {
        append(&log, &Batch::of(&run(first..first + 100, 1)));
    }
    assert!(log.stats().segments > 3);
    let before = log.stats().index_bytes;
    assert!(log.finish_segment().expect("finishes") > 3);
    let after = log.stats().index_bytes;
    assert!(after + 4 * 2000 < before, "{before} bytes before, {after} after");
    assert_eq!(all(&log), run(1..=3000, 1), "read by the footers' tables");
    assert_eq!(log.entry(1).expect("reads"), run(1..=1, 1)[0]);
    log.close().expect("closes");
    let log = reopen(&disk).expect("opens");
    assert!(log.stats().index_bytes <= after);
    assert_eq!(all(&log), run(1..=3000, 1));
}

/// The footer is written long after the segment was left. If it then left out what a later segment overwrote, with frames
/// that are not durable, a crash would lose acknowledged entries.
#[test]
fn a_footer_keeps_what_was_overwritten_after_the_segment_was_left() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&large(1..=17, 1, 1000)));
    append(&log, &Batch::of(&large(18..=20, 1, 1000))); // in the next segment: acknowledged
    let _ = log.append(&Batch::of(&run(10..=10, 2))).expect("appends");
    assert_eq!(log.finish_segment().expect("finishes"), 1);
    assert_eq!(log.last_index(), 10);
    let kept = disk.kill();
    let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
    assert_eq!(all(&log), large(1..=20, 1, 1000), "acknowledged");
    let log = reopen(&kept).expect("opens");
    assert_eq!((log.last_index(), log.term(10).expect("overwritten")), (10, 2));
}

#[test]
fn a_footer_that_does_not_read_back_costs_nothing() {
    let (disk, model) = sample();
    for (number, entries) in [(1, 17_usize), (2, 4)] {
        let bytes = disk.contents(segment(number)).expect("a segment");
        let table = bytes.len() - TRAILER - 16 - (4 * entries).next_multiple_of(8);
        for at in table..bytes.len() {
            let disk = disk.fork();
            disk.tamper(segment(number), |bytes| bytes[at] ^= 1 << (at % 8));
            let context = format!("a flipped bit at {at} of segment {number}");
            let log = verified(&disk.fork()).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(model.difference(&log), None, "{context}, everything read");
            let log = reopen(&disk).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(model.difference(&log), None, "{context}");
            // The last one may have been torn; without magic and number it is what a recycled file has.
            let magic = bytes.len() - TRAILER + 8;
            let told = number == 1 && !(magic..magic + 8).contains(&at);
            let found = &log.recovery().damaged_footers;
            assert_eq!(found.first() == Some(&SegmentId(1)), told, "{context}: {found:?}");
            log.close().expect("closes, and writes it anew");
            assert_eq!(disk.contents(segment(number)).expect("a segment")[table..], bytes[table..]);
        }
        let disk = disk.fork();
        disk.tamper(segment(number), |bytes| bytes[table..].fill(0));
        assert_eq!(model.difference(&reopen(&disk).expect("opens")), None);
    }
}

/// A footer with the right checksums and the wrong contents: that of another log with the same identity, and as many
/// entries.
#[test]
fn a_footer_that_contradicts_the_frames_is_not_believed() {
    let (disk, model) = sample();
    let other = SimDisk::new();
    let log = options(&other).create(DIR, b"me").expect("creates");
    append(&log, &Batch::of(&large(1..=17, 1, 990)));
    append(&log, &Batch::of(&large(18..=30, 1, 990)));
    log.close().expect("closes");
    let foreign = other.contents(segment(1)).expect("a segment");
    disk.tamper(segment(1), |bytes| {
        let start = bytes.len() - TRAILER - 16 - 4 * 18; // seventeen, padded
        bytes[start..].copy_from_slice(&foreign[start..]);
    });
    for log in [verified(&disk.fork()), reopen(&disk.fork())] {
        let log = log.expect("opens");
        assert_eq!(log.recovery().damaged_footers, [SegmentId(1)]);
        assert_eq!(model.difference(&log), None);
    }
    let read = options(&disk).open_read_only(DIR).expect("opens");
    assert_eq!(read.recovery().damaged_footers, [SegmentId(1)]);
}

/// Whatever happened in a segment: installs, overwriting across segments, releases that take the history away.
#[test]
fn footers_say_what_the_frames_say() {
    let mut skipped = 0;
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::new();
        let log = options(&disk).create(DIR, b"me").expect("creates");
        let mut model = Model { metadata: "me".into(), released: 1, ..Model::default() };
        for term in 1..40 {
            let covered = model.mark.as_ref().map_or(0, |mark| mark.index);
            let first = rng.u64(model.last.saturating_sub(30).max(covered)..=model.last) + 1;
            let len = rng.usize(0..900);
            let spec = match rng.u8(0..10) {
                0 => Spec {
                    install: Some(SnapshotMark::new(covered.max(first) + rng.u64(0..9), term, "")),
                    ..Spec::default()
                },
                1 | 2 if model.last > covered => {
                    let index = rng.u64(covered + 1..=model.last);
                    let held = model.entries.get(&index).map_or(term, |entry| entry.term);
                    Spec { compact: Some(SnapshotMark::new(index, held, "")), ..Spec::default() }
                }
                _ => Spec::of(large(first..first + rng.u64(1..14), term, len)),
            };
            append(&log, &spec.batch());
            model.apply(&spec);
            if rng.u8(0..4) == 0 {
                log.finish_segment().expect("finishes");
            }
            if rng.u8(0..6) == 0 {
                let covered = model.mark.as_ref().map_or(0, |mark| mark.index);
                let before = rng.u64(0..=covered) + 1;
                log.release(before).expect("covered");
                model.released = model.released.max(before);
            }
            assert_eq!(model.difference(&log), None, "seed {seed}, term {term}");
        }
        log.close().expect("closes");
        let read = options(&disk).open_read_only(DIR).expect("whole");
        assert_eq!(read.recovery().damaged_footers, [], "seed {seed}");
        for round in 0..3 {
            let log = reopen(&disk).expect("opens");
            assert_eq!(model.difference(&log), None, "seed {seed}, round {round}");
            log.close().expect("closes");
        }
        let log = verified(&disk).expect("opens");
        assert_eq!(model.difference(&log), None, "seed {seed}, everything read");
        skipped += log.stats().segments - 1;
    }
    assert!(skipped > 100, "{skipped} segments with footers");
}

/// Terms that go up and down, as those of a Raft log never do, may leave no room for the footer: then there is none.
#[test]
fn a_segment_without_room_for_its_footer_does_without() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    // Nothing shows before the last byte of room is looked at: 17 entries, and a run of terms for each.
    let entry = |index: u64| Entry::new(index, 1 + index % 2, 0, vec![index as u8; 1168]);
    let entries: Vec<_> = (1..=17).map(entry).collect();
    append(&log, &Batch::of(&entries));
    append(&log, &Batch::of(&large(18..=20, 3, 1000)));
    assert!(log.finish_segment().expect("finishes") > 0);
    assert_eq!(all(&log)[..17], entries, "read by what is in memory");
    log.close().expect("closes");
    let read = options(&disk).open_read_only(DIR).expect("whole");
    let footers: Vec<_> = read.segments().iter().map(|segment| segment.footer).collect();
    assert_eq!(footers, [None, None]);
    for verify in [false, true] {
        let log = options(&disk).verify(verify).open(DIR).expect("opens");
        assert_eq!(log.recovery().damaged_footers, []);
        assert_eq!(all(&log)[..17], entries);
        log.close().expect("closes");
        assert!(log_is_whole(&disk), "closing wrote over nothing");
    }
}

/// The promise of `Wal::batch_limit` is about bytes: a footer that has no room for all the terms is done without.
#[test]
fn a_batch_of_many_terms_is_not_refused_for_its_footer() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    let count = log.batch_limit() / 32;
    let entries: Vec<_> = (1..=count).map(|index| Entry::new(index, index, 0, "")).collect();
    append(&log, &Batch::of(&entries));
    append(&log, &Batch::of(&large(count + 1..=count + 2, count, 1000)));
    assert!(log.stats().rolls > 0);
    log.finish_segment().expect("finishes");
    assert_eq!(all(&log)[..entries.len()], entries);
    log.close().expect("closes");
    let log = reopen(&disk).expect("opens");
    assert_eq!(all(&log)[..entries.len()], entries);
    assert_eq!(log.recovery().damaged_footers, []);
}

/// "No crash does that", not even a kill and then a power cut: what the first left in the page cache is written again.
#[test]
fn a_footer_that_a_killed_process_wrote_is_durable_before_the_next_one() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&large(1..400, 1, 8)));
    append(&log, &Batch::of(&large(400..410, 1, 1800)));
    let held = disk.hold_syncs();
    let finishing = std::thread::spawn({
        let log = log.clone();
        move || log.finish_segment().map(drop)
    });
    assert!(held.wait_for(1, std::time::Duration::from_secs(5)));
    let killed = disk.kill();
    drop(held);
    let _ = finishing.join().expect("no panic");
    let log = reopen(&killed).expect("opens");
    append(&log, &Batch::of(&large(410..420, 1, 1800)));
    append(&log, &Batch::of(&large(420..430, 1, 1800)));
    log.finish_segment().expect("finishes");
    let reset = killed.outcomes(40);
    for outcome in reset {
        let log = reopen(&killed.after(outcome)).expect("opens");
        assert_eq!(log.recovery().damaged_footers, [], "{outcome:?}");
    }
}

/// Rot in the table of a footer, once the log is open, is damage as any other.
#[test]
fn an_offset_that_rotted_in_a_footer_is_refused_as_damage() {
    let (disk, _) = sample();
    let log = reopen(&disk).expect("opens");
    let len = disk.contents(segment(1)).expect("a segment").len();
    let table = len - TRAILER - 16 - (4 * 17_usize).next_multiple_of(8);
    for bit in 0..32 {
        let at = table + 4 * 5 + bit / 8;
        disk.tamper(segment(1), |bytes| bytes[at] ^= 1 << (bit % 8));
        for index in [5, 6] {
            let read = log.entry(index);
            let refused = matches!(read, Err(Error::Corrupt { segment: SegmentId(1), .. }));
            assert!(refused || index == 5 && read.is_ok(), "bit {bit}, entry {index}: {read:?}");
        }
        disk.tamper(segment(1), |bytes| bytes[at] ^= 1 << (bit % 8));
    }
}

fn log_is_whole(disk: &SimDisk) -> bool {
    options(disk).open_read_only(DIR).is_ok_and(|log| log.last_index() == 20)
}

/// Closing says that nothing follows; the next writer takes that back, durably, before it writes.
#[test]
fn a_torn_tail_behind_a_clean_end_is_found() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&run(1..=2, 1)));
    log.close().expect("closes");
    let log = reopen(&disk).expect("opens");
    let _ = log.append(&Batch::of(&large(3..=3, 1, 600))).expect("appends");
    let _ = log.append(&Batch::of(&large(4..=4, 1, 600))).expect("appends");
    let mut torn = 0;
    for seed in 0..200 {
        let after = disk.fork().reboot(Unsynced::Random(seed));
        let log = reopen(&after).expect("opens");
        assert!(log.last_index() >= 2, "acknowledged");
        torn += u64::from(log.recovery().torn.is_some());
        let bytes = after.contents(segment(1)).expect("a segment");
        let used = log.append(&Batch::default()).expect("empty").lsn().offset() as usize;
        assert!(bytes[used..].iter().all(|byte| *byte == 0), "seed {seed}: junk is left");
    }
    assert!(torn > 20, "{torn} torn tails");
}

#[test]
fn a_log_that_was_closed_is_opened_without_a_look_at_what_is_unused() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&run(1..=2, 1)));
    log.prepare().expect("prepares");
    log.close().expect("closes");
    let looked = |disk: &SimDisk| {
        let before = disk.trace().len();
        reopen(disk).expect("opens").close().expect("closes");
        let whole = |event: &Event| matches!(event, Event::Done { op: Op::Read, len, path, .. } if *len == 32_768 && *path == segment(3));
        disk.trace()[before..].iter().filter(|event| whole(event)).count()
    };
    assert_eq!(looked(&disk), 0);
    let log = reopen(&disk).expect("opens");
    drop(log.append(&Batch::default()));
    let killed = disk.kill();
    assert_eq!(looked(&killed), 1, "nobody closed it");
    assert_eq!(looked(&killed), 0);
    killed.tamper(segment(1), |bytes| bytes[4096 + 512] ^= 1);
    assert_eq!(looked(&killed), 1, "the slot that does not read back may have said otherwise");
}
