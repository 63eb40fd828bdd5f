//! Rot, lost and misplaced files: refused at the place, or whole; never less than was there.

use oarlock_wal::testing::{SimDisk, Unsynced};
use oarlock_wal::{Batch, Damage, Error, HardState, SnapshotMark, Vfs};

use crate::util::{DIR, Model, Spec, append, large, options, reopen, run, segment};

const SECTOR: usize = 512;

/// A log of three segments with a mark, and what it says.
fn sample() -> (SimDisk, Model) {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    let mut model = Model { metadata: "me".into(), released: 1, ..Model::default() };
    let state = |commit| Some(HardState { term: 1, vote: 1, commit });
    let batches = [
        Spec { hard_state: state(0), ..Spec::of(run(1..=9, 1)) },
        Spec::of(large(10..=27, 1, 1000)),
        Spec { hard_state: state(20), ..Spec::of(large(28..=45, 1, 1000)) },
        Spec { compact: Some(SnapshotMark::new(12, 1, "conf")), ..Spec::default() },
        Spec::of(large(46..=56, 1, 1000)),
        Spec { hard_state: state(50), ..Spec::of(run(57..=60, 1)) },
    ];
    for spec in &batches {
        append(&log, &spec.batch());
        model.apply(spec);
    }
    assert_eq!(log.stats().segments, 3);
    log.close().expect("closes");
    (disk.reboot(Unsynced::Lost), model)
}

/// Opens what was damaged at `at` in segment `number`, reading everything: whole, or refused within two kilobytes before
/// that place. Says whether it was refused. Opened by footers, it is whole, or refused then or when it is read.
fn refused_or_whole(disk: &SimDisk, model: &Model, number: u32, at: usize, what: &str) -> bool {
    let context = format!("{what} at {at} of segment {number}");
    let in_place = |error: Error| match error {
        Error::Corrupt { segment, offset, .. } => {
            assert_eq!(segment.0, number, "{context}: reported in {segment}");
            let offset = offset as usize;
            assert!(offset <= at + SECTOR && at < offset + 2048, "{context}: reported at {offset}");
            true
        }
        other => panic!("{context}: {other}"),
    };
    let quick = match reopen(&disk.fork()) {
        Ok(log) => match log.entries(1..log.last_index() + 1, u64::MAX) {
            Ok(_) => {
                assert_eq!(model.difference(&log), None, "{context}: SILENT LOSS");
                false
            }
            Err(error) => in_place(error),
        },
        Err(error) => in_place(error),
    };
    match options(disk).verify(true).open(DIR) {
        Ok(log) => {
            assert_eq!(model.difference(&log), None, "{context}: SILENT LOSS");
            assert!(!quick, "{context}: refused without need");
            false
        }
        Err(error) => in_place(error),
    }
}

/// Where the frames of a segment end.
fn end(disk: &SimDisk, number: u32) -> usize {
    let log = options(disk).open_read_only(DIR).expect("whole");
    log.segments()[number as usize - 1].end.expect("has frames") as usize
}

#[test]
fn a_flipped_bit_is_refused_at_its_place_or_harmless() {
    let (disk, model) = sample();
    for number in 1..=3 {
        let used = end(&disk, number);
        // Densely where headers, slots and the first frames are, sparsely in the payloads.
        let places = (0..72).chain(4096..4160).chain(4600..4664).chain(8700..8760);
        let places = places.chain(12288..12700).chain((12700..used).step_by(61)).chain([used + 9]);
        let (mut tried, mut refused) = (0, 0);
        for at in places {
            let disk = disk.fork();
            disk.tamper(segment(number), |bytes| bytes[at] ^= 1 << (at % 8));
            let no = refused_or_whole(&disk, &model, number, at, "a flipped bit");
            assert_eq!(no, (12288..used).contains(&at), "at {at} of segment {number}");
            (tried, refused) = (tried + 1, refused + usize::from(no));
        }
        assert!(tried > 800 && refused > 400, "{tried} tried, {refused} refused");
    }
}

#[test]
fn a_lost_or_stale_sector_is_refused_at_its_place_or_harmless() {
    let (disk, model) = sample();
    let before = SimDisk::new();
    // The same segments as they were prepared: what a lost write leaves.
    let log = options(&before).create(DIR, b"me").expect("creates");
    log.prepare().expect("prepares");
    for number in 1..=3 {
        let bytes = disk.contents(segment(number)).expect("a segment");
        let stale = before.contents(segment(number)).expect("a segment");
        let used = end(&disk, number);
        let mut refused = 0;
        for sector in 0..bytes.len() / SECTOR {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            for (what, content) in [("zeros", None), ("a stale sector", Some(&stale))] {
                let disk = disk.fork();
                disk.tamper(segment(number), |bytes| match content {
                    None => bytes[range.clone()].fill(0),
                    Some(old) => bytes[range.clone()].copy_from_slice(&old[range.clone()]),
                });
                let changed = disk.contents(segment(number)) != Some(bytes.clone());
                let no = refused_or_whole(&disk, &model, number, range.start, what);
                let proven = changed && range.start >= 12288 && range.start < used;
                assert_eq!(no, proven, "{what}, sector {sector} of segment {number}");
                refused += usize::from(no);
            }
        }
        assert!(refused >= 20, "only {refused} refused in segment {number}");
    }
}

#[test]
fn a_missing_segment_is_refused_by_name() {
    let (disk, model) = sample();
    for number in 1..=3 {
        let disk = disk.fork();
        disk.remove(&segment(number)).expect("removes");
        match reopen(&disk) {
            Err(Error::Corrupt { segment, damage: Damage::Missing, .. }) => {
                assert_eq!(segment.0, number);
            }
            other => panic!("without segment {number}: {other:?}"),
        }
    }
    assert_eq!(model.difference(&reopen(&disk).expect("whole")), None);
}

#[test]
fn renamed_swapped_doubled_cut_grown_and_foreign_segments_are_refused() {
    let (disk, _) = sample();
    let refused = |what: &str, change: &dyn Fn(&SimDisk)| {
        let disk = disk.fork();
        change(&disk);
        match reopen(&disk) {
            Err(Error::Corrupt { segment, damage, .. }) => (segment.0, damage),
            other => panic!("{what}: {other:?}"),
        }
    };
    let get = |number| disk.contents(segment(number)).expect("a segment");
    let renamed = |found| Damage::Renamed { found: oarlock_wal::SegmentId(found) };
    let swapped = refused("swapped", &|disk| {
        disk.tamper(segment(1), |bytes| *bytes = get(2));
        disk.tamper(segment(2), |bytes| *bytes = get(1));
    });
    assert_eq!(swapped, (1, renamed(2)));
    let doubled = refused("doubled", &|disk| {
        let file = disk.create_new(&segment(4)).expect("creates");
        file.write_all_at(&get(3), 0).expect("writes");
    });
    assert_eq!(doubled, (4, renamed(3)));
    let cut = refused("cut", &|disk| {
        disk.tamper(segment(2), |bytes| bytes.truncate(20_000));
    });
    assert_eq!(cut, (2, Damage::Length { expected: 32768, found: 20_000 }));
    let grown = refused("grown", &|disk| {
        disk.tamper(segment(3), |bytes| bytes.push(0));
    });
    assert_eq!(grown, (3, Damage::Length { expected: 32768, found: 32769 }));
    assert_eq!(
        refused("emptied", &|disk| {
            disk.tamper(segment(2), Vec::clear);
        }),
        (2, Damage::Header)
    );
    let other = SimDisk::new();
    let log = options(&other).log_id(8).create(DIR, b"me").expect("creates");
    log.prepare().expect("prepares");
    let foreign = refused("foreign", &|disk| {
        disk.tamper(segment(2), |bytes| *bytes = other.contents(segment(2)).expect("prepared"));
    });
    assert_eq!(foreign, (2, Damage::Foreign { expected: 7, found: 8 }));
}

#[test]
fn damage_names_the_last_good_entry_and_the_first_after() {
    let (disk, _) = sample();
    disk.tamper(segment(1), |bytes| bytes[12_500] ^= 1); // in the entries 1..=9
    let error = options(&disk).verify(true).open(DIR).expect_err("damaged");
    let Error::Corrupt { last_good, first_after, proven, .. } = &error else { panic!("{error}") };
    assert_eq!(*last_good, None, "nothing of the batch counts");
    assert_eq!(first_after.map(|id| id.index), Some(10));
    assert!(proven.segment().0 == 3, "{proven}");
    let text = error.to_string();
    assert!(text.starts_with("00000001.wal, offset 12") && text.contains("checksum"), "{text}");
}

#[test]
fn damage_changes_nothing_on_the_disk() {
    let (disk, _) = sample();
    disk.tamper(segment(2), |bytes| bytes[13_000] ^= 1);
    let before: Vec<_> = (1..=3).map(|n| disk.contents(segment(n))).collect();
    let names = disk.list(DIR.as_ref()).expect("lists");
    options(&disk).verify(true).open(DIR).expect_err("damaged");
    options(&disk).verify(true).open(DIR).expect_err("still");
    assert_eq!(before, (1..=3).map(|n| disk.contents(segment(n))).collect::<Vec<_>>());
    assert_eq!(names, disk.list(DIR.as_ref()).expect("lists"));
}

/// Later frames prove earlier ones before anything is idle; the idle mark proves the last.
#[test]
fn the_last_batch_is_proven_once_the_log_has_been_idle() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"").expect("creates");
    for index in 1..=3 {
        append(&log, &Batch::of(&run(index..=index, 1)));
    }
    let last = end(&disk, 1) - 1;
    let flip = |disk: &SimDisk, at: usize| {
        let disk = disk.fork();
        disk.tamper(segment(1), |bytes| bytes[at] ^= 1);
        reopen(&disk).map(|log| log.last_index())
    };
    assert!(matches!(flip(&disk, 12_400), Err(Error::Corrupt { .. })), "proven by later frames");
    assert!(matches!(flip(&disk, last), Ok(2)), "the limit: a torn tail looks like this");
    assert!(log.idle().expect("marks"));
    assert!(!log.idle().expect("nothing to do"));
    assert!(matches!(flip(&disk, last), Err(Error::Corrupt { .. })), "proven by the slot");
}

#[test]
fn one_damaged_header_copy_is_reported_and_harmless() {
    let (disk, model) = sample();
    disk.tamper(segment(2), |bytes| bytes[..512].fill(0));
    let log = reopen(&disk).expect("two copies are left");
    assert_eq!(model.difference(&log), None);
    assert_eq!(log.recovery().damaged_headers, [(oarlock_wal::SegmentId(2), 0)]);
}

/// W8: nothing that stands in a file makes opening it panic or allocate without bound.
#[test]
fn garbage_is_refused() {
    let (disk, _) = sample();
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = disk.fork();
        disk.tamper(segment(1 + rng.u32(..3)), |bytes| {
            let start = rng.usize(..bytes.len());
            let end = rng.usize(start..bytes.len());
            rng.fill(&mut bytes[start..end]);
        });
        let _ = reopen(&disk);
        let _ = options(&disk).open_read_only(DIR);
    }
}
