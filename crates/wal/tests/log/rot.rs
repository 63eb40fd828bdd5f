//! Damage, in full: every bit of a closed log flipped, every length it can be cut to, every sector zeroed or put back to
//! what it held before, every file deleted, doubled, renamed and swapped. Each is refused, naming the place within one
//! frame, or everything reads back. There is no third way.
//!
//! `cargo xtask crash-states` tries all of it. `OARLOCK_STRIDE` is how much of bits and cuts is passed over between two:
//! 1 is nothing.
#![expect(clippy::print_stdout, reason = "counts are for whoever started it")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use oarlock_wal::snapshot::{self, SnapshotStore};
use oarlock_wal::testing::{SimDisk, Unsynced};
use oarlock_wal::{Content, Damage, Entry, Error, HardState, SnapshotMark, Vfs};

use crate::util::{DIR, Model, Spec, append, large, options, run, segment};

const SECTOR: usize = 512;
const SNAPSHOTS: &str = "/data/snap";

/// A log of several segments, the first ones released and recycled, with a snapshot file; closed.
struct Sample {
    disk: SimDisk,
    model: Model,
    segments: Vec<u32>,
    /// Where the frames of each segment stand.
    frames: BTreeMap<u32, Vec<Range<usize>>>,
    /// What each sector held at some time, other than now.
    before: BTreeMap<(u32, usize), BTreeSet<Vec<u8>>>,
    snapshot: PathBuf,
}

fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(make)
}

fn content() -> Vec<u8> {
    (0..1500).map(|n: u32| (n * 7) as u8).collect()
}

fn store(disk: &SimDisk) -> SnapshotStore {
    snapshot::Options::new().vfs(Arc::new(disk.clone())).open(SNAPSHOTS).expect("opens")
}

fn make() -> Sample {
    let disk = SimDisk::new();
    disk.record();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    let mut model = Model { metadata: "me".into(), released: 1, ..Model::default() };
    let mut write = |spec: Spec| {
        append(&log, &spec.batch());
        model.apply(&spec);
    };
    let state = |term, commit| Some(HardState { term, vote: 1, commit });
    // Two segments that will be released.
    log.prepare().expect("prepares");
    for first in [1, 31] {
        write(Spec { hard_state: state(1, first), ..Spec::of(large(first..first + 15, 1, 600)) });
        write(Spec::of(large(first + 15..first + 30, 1, 600)));
    }
    let mut writer = store(&disk).create(58, 1).expect("begins");
    writer.write_all(&content()).expect("writes");
    writer.commit().expect("commits");
    write(Spec { compact: Some(SnapshotMark::new(58, 1, "conf")), ..Spec::default() });
    log.prepare().expect("prepares");
    write(Spec::of(large(61..70, 1, 900)));
    log.finish_segment().expect("finishes");
    assert!(log.release(59).expect("covered").segments > 0);
    log.prepare().expect("prepares");
    // And three that stay: batches of all kinds, an overwritten tail.
    for first in (70..118).step_by(6) {
        write(Spec { hard_state: state(1, first), ..Spec::of(run(first..first + 3, 1)) });
        write(Spec::of(large(first + 3..first + 6, 1, 700)));
    }
    write(Spec {
        metadata: Some("more".into()),
        hard_state: state(2, 90),
        ..Spec::of(run(115..119, 2))
    });
    write(Spec::of(large(119..130, 2, 1000)));
    log.finish_segment().expect("finishes");
    log.prepare().expect("prepares");
    write(Spec::of(large(130..139, 2, 300)));
    write(Spec { hard_state: state(2, 120), ..Spec::of(run(139..150, 2)) });
    log.close().expect("closes");
    model.released = 59;

    let names = disk.list(Path::new(DIR)).expect("lists");
    let number = |name: &str| u32::from_str_radix(name.strip_suffix(".wal")?, 16).ok();
    let mut segments: Vec<u32> = names.iter().filter_map(|name| number(name.to_str()?)).collect();
    segments.sort_unstable();
    assert!(segments.len() >= 3, "{segments:?}");
    let mut before: BTreeMap<(u32, usize), BTreeSet<Vec<u8>>> = BTreeMap::new();
    let now: BTreeMap<u32, Vec<u8>> =
        segments.iter().map(|n| (*n, disk.contents(segment(*n)).expect("listed"))).collect();
    for point in disk.crash_points() {
        for (number, now) in &now {
            let Some(then) = point.disk.contents(segment(*number)) else { continue };
            for (sector, (now, then)) in now.chunks(SECTOR).zip(then.chunks(SECTOR)).enumerate() {
                if now != then {
                    before.entry((*number, sector)).or_default().insert(then.to_vec());
                }
            }
        }
    }
    let disk = disk.reboot(Unsynced::Lost);
    let mut frames: BTreeMap<u32, Vec<Range<usize>>> = BTreeMap::new();
    for record in options(&disk).dump(DIR).expect("whole") {
        let record = record.expect("whole");
        if !matches!(record.content, Content::Segment { .. } | Content::Footer { .. }) {
            let start = record.lsn.offset() as usize;
            let segment = frames.entry(record.lsn.segment().0).or_default();
            segment.push(start..start + record.len as usize);
        }
    }
    let name = disk.list(Path::new(SNAPSHOTS)).expect("lists").remove(0);
    let sample =
        Sample { model, segments, frames, before, snapshot: Path::new(SNAPSHOTS).join(name), disk };
    for look in LOOKS {
        assert_eq!(sample.look(&sample.disk, look), Seen::Whole);
    }
    sample
}

/// A way to look at a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Opened for writing, then everything read.
    Open,
    /// The same, with every byte verified when it is opened.
    Verify,
    /// Opened for reading only, which verifies every byte, then everything read.
    ReadOnly,
}

const LOOKS: [Look; 3] = [Look::Open, Look::Verify, Look::ReadOnly];

/// What a look at a damaged log came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Whole,
    Refused { segment: u32, offset: usize, damage: Option<Damage> },
    Lost(String),
}

/// What a log says, however it was opened.
struct Said {
    registers: (Bytes, HardState, Option<SnapshotMark>),
    range: (u64, u64),
    entries: Vec<Result<Entry, Error>>,
}

impl Sample {
    fn look(&self, disk: &SimDisk, look: Look) -> Seen {
        let disk = disk.fork();
        let said = match look {
            Look::Open | Look::Verify => {
                options(&disk).verify(look == Look::Verify).open(DIR).map(|log| {
                    let range = (log.first_index(), log.last_index());
                    let entries = (range.0..=range.1).map(|index| log.entry(index)).collect();
                    Said {
                        registers: (log.metadata(), log.hard_state(), log.snapshot()),
                        range,
                        entries,
                    }
                })
            }
            Look::ReadOnly => options(&disk).open_read_only(DIR).map(|log| {
                let range = (log.first_index(), log.last_index());
                let entries = (range.0..=range.1).map(|index| log.entry(index)).collect();
                Said {
                    registers: (log.metadata(), log.hard_state(), log.snapshot()),
                    range,
                    entries,
                }
            }),
        };
        let said = match said {
            Ok(said) => said,
            Err(error) => return refused(error),
        };
        let model = &self.model;
        if said.registers != (model.metadata.clone(), model.hard_state, model.mark.clone()) {
            return Seen::Lost(format!("registers are {:?}", said.registers));
        }
        if said.range.0 > model.released || said.range.1 != model.last {
            return Seen::Lost(format!("entries are {:?}", said.range));
        }
        for (index, entry) in (said.range.0..).zip(said.entries) {
            match entry {
                Ok(entry) if model.entries.get(&index) == Some(&entry) => {}
                Ok(entry) => return Seen::Lost(format!("entry {index} is {entry:?}")),
                Err(error) => return refused(error),
            }
        }
        Seen::Whole
    }

    /// Whether what is wrong in `place` of a segment may be reported at `offset` of `segment`: in a frame of that place,
    /// or in the one before or after it in the log.
    fn is_near(&self, number: u32, place: &Range<usize>, segment: u32, offset: usize) -> bool {
        let frames: Vec<(u32, Range<usize>)> = self
            .frames
            .iter()
            .flat_map(|(n, frames)| frames.iter().map(|f| (*n, f.clone())))
            .collect();
        let first = frames.partition_point(|(n, f)| (*n, f.end) <= (number, place.start));
        let beyond = frames.partition_point(|(n, f)| (*n, f.start) < (number, place.end));
        let low = frames.get(first.saturating_sub(1)).map_or((0, 0), |(n, f)| (*n, f.start));
        let high = frames.get(beyond).map_or((u32::MAX, 0), |(n, f)| (*n, f.end));
        (low.min((number, place.start))..=high).contains(&(segment, offset))
    }

    /// Damages `place` of a segment, and demands that it is refused there, or harmless. Says whether anybody refused.
    fn damage(
        &self,
        number: u32,
        place: Range<usize>,
        what: &str,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let disk = self.disk.fork();
        disk.tamper(segment(number), change);
        let mut refusals = Vec::new();
        for look in LOOKS {
            let context = || format!("{what} at {place:?} of segment {number}, {look:?}");
            match self.look(&disk, look) {
                Seen::Whole => {}
                Seen::Refused { segment, offset, damage } => {
                    let near = self.is_near(number, &place, segment, offset);
                    assert!(near, "{}: reported in {segment} at {offset}: {damage:?}", context());
                    refusals.push(look);
                }
                Seen::Lost(how) => panic!("{}: SILENT LOSS: {how}", context()),
            }
        }
        // Whoever reads every byte misses nothing that somebody else finds.
        let verified = matches!(refusals[..], [] | [Look::Verify, Look::ReadOnly])
            || refusals.len() == LOOKS.len();
        assert!(verified, "{what} at {place:?} of segment {number}: refused by {refusals:?} alone");
        !refusals.is_empty()
    }
}

fn refused(error: Error) -> Seen {
    match error {
        Error::Corrupt { segment, offset, damage, .. } => {
            Seen::Refused { segment: segment.0, offset: offset as usize, damage: Some(damage) }
        }
        Error::UnknownVersion { segment, offset, .. } => {
            Seen::Refused { segment: segment.0, offset: offset as usize, damage: None }
        }
        other => Seen::Lost(format!("an error that names no place: {other}")),
    }
}

fn stride() -> usize {
    std::env::var("OARLOCK_STRIDE").map_or(997, |text| text.parse().expect("a number"))
}

fn say(what: &str, tried: usize, refused: usize) {
    println!(
        "damage: {what}: {tried} tried, {refused} refused, {} harmless, 0 silent",
        tried - refused
    );
}

/// Each segment of the sample is a test of its own, so that they share the cores.
fn every_bit(nth: usize) {
    let sample = sample();
    let Some(&number) = sample.segments.get(nth) else { return };
    let bits = sample.disk.contents(segment(number)).expect("there").len() * 8;
    let (mut tried, mut refused) = (0, 0);
    for bit in (0..bits).step_by(stride()) {
        let at = bit / 8;
        let seen =
            sample.damage(number, at..at + 1, "a flipped bit", |bytes| bytes[at] ^= 1 << (bit % 8));
        let in_frame =
            sample.frames.get(&number).is_some_and(|f| f.iter().any(|f| f.contains(&at)));
        assert!(seen || !in_frame, "bit {bit} of segment {number} is under no checksum");
        (tried, refused) = (tried + 1, refused + usize::from(seen));
    }
    say(&format!("bits flipped in segment {number}"), tried, refused);
}

#[test]
fn every_flipped_bit_is_refused_or_harmless_in_the_first_segment() {
    every_bit(0);
}

#[test]
fn every_flipped_bit_is_refused_or_harmless_in_the_second_segment() {
    every_bit(1);
}

#[test]
fn every_flipped_bit_is_refused_or_harmless_in_the_third_segment() {
    every_bit(2);
}

#[test]
fn every_flipped_bit_is_refused_or_harmless_in_the_segments_behind() {
    (3..sample().segments.len()).for_each(every_bit);
}

/// A file's length is part of what is checked, so no cut is harmless.
#[test]
fn a_segment_cut_at_any_length_is_refused() {
    let sample = sample();
    let (mut tried, mut refused) = (0, 0);
    for &number in &sample.segments {
        let len = sample.disk.contents(segment(number)).expect("there").len();
        for cut in (0..len).step_by(stride()) {
            let disk = sample.disk.fork();
            disk.tamper(segment(number), |bytes| bytes.truncate(cut));
            for look in LOOKS {
                match sample.look(&disk, look) {
                    Seen::Refused { segment, .. } => assert_eq!(segment, number),
                    other => panic!("segment {number} cut to {cut}, {look:?}: {other:?}"),
                }
            }
            (tried, refused) = (tried + 1, refused + 1);
        }
    }
    say("lengths cut to", tried, refused);
}

#[test]
fn a_sector_zeroed_or_stale_is_refused_or_harmless() {
    let sample = sample();
    let (mut tried, mut refused) = (0, 0);
    for &number in &sample.segments {
        let bytes = sample.disk.contents(segment(number)).expect("there");
        for sector in 0..bytes.len() / SECTOR {
            let place = sector * SECTOR..(sector + 1) * SECTOR;
            let zeros = vec![0; SECTOR];
            let stale = sample.before.get(&(number, sector)).into_iter().flatten();
            for old in stale.chain([&zeros]) {
                let seen = sample.damage(number, place.clone(), "an older sector", |bytes| {
                    bytes[place.clone()].copy_from_slice(old);
                });
                (tried, refused) = (tried + 1, refused + usize::from(seen));
            }
        }
    }
    assert!(tried > sample.segments.len() * 64 && refused > 100, "{tried}, {refused}");
    say("sectors zeroed or stale", tried, refused);
}

/// What a file operation on a segment does must be refused, or leave everything readable.
fn misplaced(sample: &Sample, what: &str, change: &dyn Fn(&SimDisk)) -> bool {
    let disk = sample.disk.fork();
    change(&disk);
    let mut refused = false;
    for look in LOOKS {
        match sample.look(&disk, look) {
            Seen::Whole => {}
            Seen::Refused { .. } => refused = true,
            Seen::Lost(how) => panic!("{what}, {look:?}: SILENT LOSS: {how}"),
        }
    }
    refused
}

#[test]
fn a_segment_deleted_doubled_renamed_or_swapped_is_refused_or_harmless() {
    let sample = sample();
    let live: Vec<u32> = sample.frames.keys().copied().collect();
    let beyond = sample.segments.last().expect("some") + 1;
    let names: Vec<u32> = (1..beyond + 2).collect();
    let (mut tried, mut refused) = (0, 0);
    let mut count = |seen: bool| (tried, refused) = (tried + 1, refused + usize::from(seen));
    for &number in &sample.segments {
        let bytes = sample.disk.contents(segment(number)).expect("there");
        let put = |disk: &SimDisk, path: &Path, bytes: &[u8]| {
            if !disk.tamper(path, |old| *old = bytes.to_vec()) {
                disk.create_new(path).and_then(|f| f.write_all_at(bytes, 0)).expect("no fault");
            }
        };
        let deleted = misplaced(sample, &format!("without segment {number}"), &|disk| {
            disk.remove(&segment(number)).expect("there");
        });
        assert!(deleted || !live.contains(&number), "segment {number} is not missed");
        count(deleted);
        for &name in names.iter().filter(|name| **name != number) {
            let there = sample.disk.contents(segment(name));
            let doubled = misplaced(sample, &format!("segment {number} also as {name}"), &|disk| {
                put(disk, &segment(name), &bytes);
            });
            assert!(doubled, "segment {number} passes for {name}");
            let renamed = misplaced(sample, &format!("segment {number} as {name}"), &|disk| {
                disk.rename(&segment(number), &segment(name)).expect("there");
            });
            assert!(renamed, "segment {number} passes for {name}");
            let swapped =
                misplaced(sample, &format!("segments {number} and {name} swapped"), &|disk| {
                    put(disk, &segment(name), &bytes);
                    put(disk, &segment(number), &there.clone().unwrap_or_default());
                });
            assert!(swapped, "segments {number} and {name} pass for each other");
            [doubled, renamed, swapped].into_iter().for_each(&mut count);
        }
        let foreign = Path::new(DIR).join(format!("{number:08x}.bak"));
        count(misplaced(sample, "a copy under a name that is not ours", &|disk| {
            put(disk, &foreign, &bytes);
        }));
    }
    // Any two gone, and all of one kind.
    for (nth, first) in sample.segments.iter().enumerate() {
        for second in &sample.segments[nth + 1..] {
            count(misplaced(sample, &format!("without segments {first} and {second}"), &|disk| {
                disk.remove(&segment(*first)).expect("there");
                disk.remove(&segment(*second)).expect("there");
            }));
        }
    }
    say("segments deleted, doubled, renamed, swapped", tried, refused);
}

/// What the snapshot store gives after the file was changed: the content, or nothing at all.
fn snapshot_is_whole(sample: &Sample, what: &str, change: impl FnOnce(&SimDisk)) -> bool {
    let disk = sample.disk.fork();
    change(&disk);
    let store = store(&disk);
    let found = match store.newest(|index, term| (index, term) == (58, 1)) {
        Ok(found) => found,
        Err(snapshot::Error::UnknownVersion { .. }) => return false,
        Err(error) => panic!("{what}: {error}"),
    };
    let Some(id) = found else { return false };
    let mut bytes = Vec::new();
    store.open_file(id.index, id.term).expect("found").read_to_end(&mut bytes).expect("verified");
    assert!(bytes == content() && (id.index, id.term) == (58, 1), "{what}: SILENT LOSS");
    true
}

#[test]
fn a_damaged_snapshot_is_never_given_out() {
    let sample = sample();
    let path = &sample.snapshot;
    let len = sample.disk.contents(path).expect("there").len();
    assert!(snapshot_is_whole(sample, "as it was", |_| ()));
    let mut tried = 0;
    for bit in 0..len * 8 {
        let whole = snapshot_is_whole(sample, &format!("bit {bit} flipped"), |disk| {
            disk.tamper(path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        });
        assert!(!whole, "bit {bit} is under no checksum");
        tried += 1;
    }
    for cut in 0..len {
        let whole = snapshot_is_whole(sample, &format!("cut to {cut}"), |disk| {
            disk.tamper(path, |bytes| bytes.truncate(cut));
        });
        assert!(!whole, "cut to {cut}");
        tried += 1;
    }
    for sector in 0..len.div_ceil(SECTOR) {
        let whole = snapshot_is_whole(sample, &format!("sector {sector} zeroed"), |disk| {
            disk.tamper(path, |bytes| {
                let end = bytes.len().min((sector + 1) * SECTOR);
                bytes[sector * SECTOR..end].fill(0);
            });
        });
        assert!(!whole, "sector {sector} zeroed");
        tried += 1;
    }
    for name in ["000000000000003b-0000000000000001.snap", "000000000000003a-0000000000000002.snap"]
    {
        for doubled in [false, true] {
            let what = format!("{} as {name}", if doubled { "also" } else { "now" });
            let whole = snapshot_is_whole(sample, &what, |disk| {
                let other = Path::new(SNAPSHOTS).join(name);
                let bytes = disk.contents(path).expect("there");
                disk.create_new(&other).and_then(|f| f.write_all_at(&bytes, 0)).expect("no fault");
                if !doubled {
                    disk.remove(path).expect("there");
                }
            });
            assert_eq!(whole, doubled, "{what}");
            tried += 1;
        }
    }
    assert!(!snapshot_is_whole(sample, "deleted", |disk| disk.remove(path).expect("there")));
    say("snapshot file flipped, cut, zeroed, misplaced", tried + 1, tried - 1);
}
