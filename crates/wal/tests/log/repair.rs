//! Repair: what is damaged is planned for, copied, and cut; nothing acknowledged goes without being told.

use std::path::{Path, PathBuf};

use oarlock_wal::repair::{ApplyOptions, Cut, Finding, Plan, Remedy, RepairError, Weight};
use oarlock_wal::testing::{Fault, Op, SimDisk, Unsynced};
use oarlock_wal::{Batch, Damage, Entry, Error, HardState, SnapshotMark, Vfs, Wal};

use crate::util::{DIR, all, append, large, options, reopen, run, segment};

const COPY: &str = "/data/wal.before-repair-1";

/// A closed log of several segments, entries 1 to 59; up to `commit` they are committed, if they are known to be.
fn closed(commit: u64) -> (SimDisk, Vec<Entry>) {
    closed_of(59, commit)
}

/// The same of so many entries.
fn closed_of(len: u64, commit: u64) -> (SimDisk, Vec<Entry>) {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    for first in (1..=len).step_by(5) {
        let entries = large(first..(first + 5).min(len + 1), 1, 1500);
        let hard_state = Some(HardState { term: 1, vote: 1, commit: commit.min(first) });
        append(&log, &Batch { hard_state, ..Batch::of(&entries) });
    }
    log.finish_segment().expect("finishes");
    let entries = all(&log);
    log.close().expect("closes");
    assert_eq!(entries.len() as u64, len);
    (disk, entries)
}

fn plan(disk: &SimDisk) -> Plan {
    options(disk).plan_repair(DIR).expect("a plan")
}

fn cut(plan: &Plan) -> &Cut {
    match &plan.remedy {
        Remedy::Cut(cut) => cut,
        other => panic!("{other:?}"),
    }
}

fn lossy() -> ApplyOptions {
    ApplyOptions::new().accept_loss(true)
}

fn files(disk: &SimDisk, dir: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let names = disk.list(Path::new(dir)).unwrap_or_default();
    let mut paths: Vec<_> = names.into_iter().map(|name| Path::new(dir).join(name)).collect();
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|e| e == "wal"));
    paths.into_iter().map(|path| (path.clone(), disk.contents(&path).expect("there"))).collect()
}

/// The log goes on where it was cut off.
fn goes_on(disk: &SimDisk, log: &Wal) {
    let next = log.last_index() + 1;
    append(log, &Batch::of(&run(next..next + 3, 9)));
    let log = reopen(&disk.reboot(Unsynced::Lost)).expect("opens");
    assert_eq!(log.entry(next + 2).expect("acknowledged").term, 9);
}

#[test]
fn a_whole_or_torn_log_needs_no_repair() {
    let (disk, entries) = closed(0);
    let changes =
        |disk: &SimDisk| [Op::Write, Op::Create, Op::Rename, Op::Lock].map(|op| disk.count(op));
    let before = changes(&disk);
    assert_eq!((plan(&disk).finding, plan(&disk).remedy), (Finding::Whole, Remedy::Nothing));
    assert_eq!(changes(&disk), before, "a plan changes nothing");
    let log = reopen(&disk).expect("opens");
    let used = log.append(&Batch::default()).expect("empty").lsn();
    disk.tamper(segment(used.segment().0), |bytes| bytes[used.offset() as usize + 8] = 1);
    drop(log);
    let torn = plan(&disk);
    assert!(
        matches!(torn.finding, Finding::Torn { .. }) && torn.remedy == Remedy::Nothing,
        "{torn}"
    );
    let done = torn.apply(&ApplyOptions::new()).expect("nothing to do");
    assert_eq!((done.copy, done.last.index), (None, 59));
    assert_eq!(all(&reopen(&disk).expect("opens")), entries);
}

#[test]
fn damage_in_the_middle_is_cut_off_only_when_told_and_a_copy_is_kept() {
    let (disk, entries) = closed(0);
    disk.tamper(segment(2), |bytes| bytes[20_000] ^= 1);
    let before = files(&disk, DIR);
    let plan = plan(&disk);
    let Finding::Damaged { segment: place, offset, damage, first_after } = plan.finding else {
        panic!("{plan}")
    };
    assert!(
        place.0 == 2 && offset <= 20_000 && matches!(damage, Damage::Checksum { .. }),
        "{plan}"
    );
    assert!(first_after.is_some(), "{plan}");
    let cut = cut(&plan);
    assert_eq!((cut.lost.weight, plan.weight()), (Weight::Acknowledged, Weight::Acknowledged));
    assert_eq!(cut.lost.entries, Some(cut.last.index + 1..=59), "{plan}");
    assert!(cut.lost.proven > cut.at && cut.lost.records > 5, "{plan}");
    assert!(plan.to_string().contains("remove the member"), "{plan}");

    let refused = plan.apply(&ApplyOptions::new());
    assert!(
        matches!(refused, Err(RepairError::Loss { weight: Weight::Acknowledged })),
        "{refused:?}"
    );
    assert_eq!(files(&disk, DIR), before, "nothing was changed");
    assert!(disk.list(Path::new(COPY)).is_err());

    let done = plan.apply(&lossy()).expect("cuts");
    assert_eq!((done.copy.as_deref(), done.last), (Some(Path::new(COPY)), cut.last));
    for (path, contents) in &before {
        let kept = disk.contents(Path::new(COPY).join(path.file_name().expect("named")));
        let same = disk.contents(path).as_ref() == Some(contents);
        assert!(same || kept.as_ref() == Some(contents), "{} is nowhere", path.display());
    }
    let why = disk.contents(Path::new(COPY).join("PLAN.txt")).expect("the plan");
    assert!(String::from_utf8_lossy(&why).contains("cut the log off at"));

    let log = reopen(&disk).expect("opens");
    assert_eq!(all(&log), entries[..cut.last.index as usize]);
    assert_eq!((&log.recovery().torn, log.recovery().rewritten), (&None, 0), "its end is proven");
    assert_eq!(log.hard_state(), cut.hard_state);
    goes_on(&disk, &log);
}

#[test]
fn what_is_known_to_be_committed_is_called_that() {
    let (disk, _) = closed(50);
    disk.tamper(segment(2), |bytes| bytes[20_000] ^= 1);
    let plan = plan(&disk);
    assert_eq!(plan.weight(), Weight::Committed, "{plan}");
    assert_eq!(cut(&plan).lost.commit, 50);
    assert!(plan.to_string().contains("COMMITTED ENTRIES WOULD BE LOST"), "{plan}");
}

/// The front is where old damage is found late, and a snapshot covers it.
#[test]
fn damage_before_the_snapshot_costs_nothing() {
    let (disk, entries) = closed(50);
    let log = reopen(&disk).expect("opens");
    append(&log, &Batch::compact(SnapshotMark::new(45, 1, "conf")));
    append(&log, &Batch::of(&large(60..70, 1, 1500)));
    append(&log, &Batch::of(&large(70..80, 1, 1500)));
    let (state, after) = (log.hard_state(), all(&log));
    log.close().expect("closes");
    disk.tamper(segment(2), |bytes| bytes[20_000] ^= 1);
    let plan = plan(&disk);
    let Remedy::DropFront(front) = &plan.remedy else { panic!("{plan}") };
    assert!(
        front.removed.len() == 2 && front.snapshot.index == 45 && *front.kept.end() == 79,
        "{plan}"
    );
    let done = plan.apply(&ApplyOptions::new()).expect("nothing is lost");
    assert_eq!(done.last.index, 79);
    assert!(disk.contents(Path::new(COPY).join("00000002.wal")).is_some());
    let log = reopen(&disk).expect("opens");
    let first = log.first_index();
    assert!(first > 1 && first <= 46);
    assert_eq!((log.hard_state(), all(&log)), (state, after[first as usize - 1..].to_vec()));
    assert_eq!(entries[first as usize - 1..], all(&log)[..60 - first as usize]);
    goes_on(&disk, &log);
}

type Break = fn(&SimDisk);

#[test]
fn every_kind_of_damage_has_a_plan() {
    let cases: [(&str, Weight, Break); 7] = [
        ("a segment is missing", Weight::Acknowledged, |disk| {
            disk.remove(&segment(2)).expect("removes");
            disk.sync_dir(Path::new(DIR)).expect("syncs");
        }),
        ("a header is gone", Weight::Acknowledged, |disk| {
            disk.tamper(segment(2), |bytes| bytes[..12_000].fill(0));
        }),
        ("a file was cut", Weight::Acknowledged, |disk| {
            disk.tamper(segment(2), |bytes| bytes.truncate(20_000));
        }),
        ("another file has the name", Weight::Acknowledged, |disk| {
            let other = disk.contents(segment(1)).expect("there");
            disk.tamper(segment(2), |bytes| *bytes = other);
        }),
        ("the first half of a segment is gone", Weight::Acknowledged, |disk| {
            disk.tamper(segment(2), |bytes| bytes[12_288..20_000].fill(0));
        }),
        ("a file has grown", Weight::Nothing, |disk| {
            disk.tamper(segment(2), |bytes| bytes.extend([1; 4096]));
        }),
        ("both mark slots are gone", Weight::Nothing, |disk| {
            disk.tamper(segment(2), |bytes| {
                bytes[4096 + 512] ^= 1;
                bytes[8192 + 512] ^= 1;
            });
        }),
    ];
    for (name, weight, damage) in cases {
        let (disk, entries) = closed(0);
        damage(&disk);
        assert!(matches!(options(&disk).open_read_only(DIR), Err(Error::Corrupt { .. })), "{name}");
        let plan = plan(&disk);
        assert_eq!(plan.weight(), weight, "{name}: {plan}");
        let done = plan.apply(&lossy()).unwrap_or_else(|error| panic!("{name}: {error}: {plan}"));
        let log = reopen(&disk).unwrap_or_else(|error| panic!("{name}: {error}: {plan}"));
        assert_eq!(log.last_index(), done.last.index, "{name}");
        assert_eq!(all(&log), entries[..done.last.index as usize], "{name}");
        assert_eq!(done.last.index == 59, weight == Weight::Nothing, "{name}: {plan}");
        goes_on(&disk, &log);
    }
}

#[test]
fn a_log_without_a_beginning_cannot_be_kept() {
    let (disk, _) = closed(0);
    disk.tamper(segment(1), |bytes| bytes[12_300] ^= 1);
    let plan = plan(&disk);
    assert_eq!(plan.remedy, Remedy::None);
    assert!(matches!(plan.apply(&lossy()), Err(RepairError::NoRemedy)));
}

/// Whatever sector is gone: if the log is refused, the repaired one opens, and holds a prefix of what was there.
#[test]
fn any_zeroed_sector_can_be_cut_out() {
    let (disk, entries) = closed(0);
    let mut repaired = 0;
    for number in 1..=3 {
        for sector in 0..64 {
            let disk = disk.fork();
            disk.tamper(segment(number), |bytes| bytes[sector * 512..][..512].fill(0));
            if options(&disk).open_read_only(DIR).is_ok() {
                continue; // empty, or a copy of something
            }
            let context = format!("sector {sector} of segment {number}");
            let plan = plan(&disk);
            if plan.remedy == Remedy::None {
                assert!(number == 1 && sector == 24, "{context}: {plan}");
                continue;
            }
            let done = plan.apply(&lossy()).unwrap_or_else(|error| panic!("{context}: {error}"));
            let log = reopen(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(all(&log), entries[..done.last.index as usize], "{context}");
            assert_eq!(log.recovery().rewritten, 0, "{context}");
            repaired += 1;
        }
    }
    assert!(repaired > 80, "{repaired}");
}

/// A crash anywhere in a repair leaves the damaged log, or what the plan keeps; trying again ends it. What was there
/// before is in the log or in a whole copy.
#[test]
fn a_crash_anywhere_in_a_repair_loses_nothing_more() {
    let front = |disk: &SimDisk| {
        let log = reopen(disk).expect("opens");
        append(&log, &Batch::compact(SnapshotMark::new(35, 1, "conf")));
        log.close().expect("closes");
    };
    for drop_front in [false, true] {
        let (disk, _) = closed_of(39, 0);
        if drop_front {
            front(&disk);
        }
        disk.tamper(segment(2), |bytes| bytes[20_000] ^= 1);
        let before = files(&disk, DIR);
        let expected = {
            let disk = disk.fork();
            plan(&disk).apply(&lossy()).expect("repairs");
            all(&reopen(&disk).expect("opens"))
        };
        disk.record();
        plan(&disk).apply(&lossy()).expect("repairs");
        let (mut refused, mut opened) = (0, 0);
        for point in disk.crash_points() {
            for outcome in point.disk.outcomes(2) {
                let context = format!("{drop_front}, after change {}, {outcome:?}", point.changes);
                let after = point.disk.fork().reboot(outcome);
                for (path, contents) in &before {
                    let copy = Path::new(COPY).join(path.file_name().expect("named"));
                    let there =
                        [path, &copy].map(|path| after.contents(path).as_ref() == Some(contents));
                    assert!(there.contains(&true), "{context}: {} is gone", path.display());
                }
                let log = match options(&after).open_read_only(DIR) {
                    Ok(_) => {
                        opened += 1;
                        reopen(&after).expect("as before")
                    }
                    Err(Error::Corrupt { .. }) => {
                        refused += 1;
                        plan(&after).apply(&lossy()).unwrap_or_else(|e| panic!("{context}: {e}"));
                        reopen(&after).unwrap_or_else(|e| panic!("{context}: {e}"))
                    }
                    Err(error) => panic!("{context}: {error}"),
                };
                assert_eq!(all(&log), expected, "{context}");
            }
        }
        assert!(refused > 20 && opened > 2, "{refused} refused, {opened} opened");
    }
}

#[test]
fn a_plan_is_not_carried_out_on_another_log_than_it_was_made_for() {
    let (disk, _) = closed(0);
    disk.tamper(segment(2), |bytes| bytes[20_000] ^= 1);
    let old = plan(&disk);
    disk.tamper(segment(1), |bytes| bytes[20_000] ^= 1);
    assert!(matches!(old.apply(&lossy()), Err(RepairError::Changed)));
    let lock = disk.lock(&Path::new(DIR).join("LOCK")).expect("free");
    let refused = plan(&disk).apply(&lossy());
    assert!(matches!(refused, Err(RepairError::Log(Error::Locked { .. }))), "{refused:?}");
    drop(lock);
}

#[test]
fn a_copy_that_cannot_be_made_ends_the_repair_before_it_begins() {
    let (disk, _) = closed(0);
    disk.tamper(segment(2), |bytes| bytes[20_000] ^= 1);
    let before = files(&disk, DIR);
    let taken = plan(&disk).apply(&lossy().copy_to(DIR));
    assert!(matches!(taken, Err(RepairError::CopyExists { .. })), "{taken:?}");
    disk.fail_nth(Op::Sync, 1, Fault::NoSpace);
    let failed = plan(&disk).apply(&lossy());
    assert!(matches!(failed, Err(RepairError::Copy { .. })), "{failed:?}");
    assert_eq!(files(&disk, DIR), before);
    plan(&disk).apply(&lossy().copy_to("/elsewhere/copy")).expect("another place");
    assert!(disk.contents("/elsewhere/copy/00000002.wal").is_some());
}

/// A log in use, its newest mark in its frames alone: the last write was acknowledged, and no slot has repeated its mark.
fn killed(commit: u64) -> (SimDisk, Vec<Entry>) {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    for first in (1..=20).step_by(2) {
        let entries = large(first..first + 2, 1, 1500);
        let hard_state = Some(HardState { term: 1, vote: 1, commit: commit.min(first) });
        append(&log, &Batch { hard_state, ..Batch::of(&entries) });
    }
    let entries = all(&log);
    let killed = disk.fork();
    drop(log);
    (killed, entries)
}

/// Bytes that are gone take their marks with them: that none is found behind the end proves nothing.
#[test]
fn what_cannot_be_looked_at_may_have_been_acknowledged() {
    type Case = (&'static str, fn(&SimDisk, u32, usize));
    let cases: [Case; 6] = [
        ("the file was cut", |disk, last, end| {
            disk.tamper(segment(last), |bytes| bytes.truncate(end));
        }),
        ("its mark slots are gone, and what stood behind them", |disk, last, end| {
            disk.tamper(segment(last), |bytes| {
                bytes[4096..4096 + 1024].fill(0xa5);
                bytes[8192..8192 + 1024].fill(0xa5);
                bytes[end..].fill(0);
            });
        }),
        ("its header is gone", |disk, last, _| {
            disk.tamper(segment(last), |bytes| bytes[..12_288].fill(0));
        }),
        ("it has the name of another", |disk, last, _| {
            disk.rename(&segment(last), &segment(last + 7)).expect("renames");
        }),
        ("it is another log's", |disk, last, _| {
            let other = SimDisk::new();
            let log = options(&other).log_id(8).create(DIR, b"me").expect("creates");
            log.close().expect("closes");
            let bytes = other.contents(segment(1)).expect("there");
            disk.tamper(segment(last), |there| *there = bytes);
        }),
        ("it is missing, and there is one behind it", |disk, last, _| {
            let bytes = disk.contents(segment(last)).expect("there");
            disk.rename(&segment(last), &segment(last + 1)).expect("renames");
            disk.tamper(segment(last + 1), |there| *there = bytes);
        }),
    ];
    for (name, damage) in cases {
        let (disk, entries) = killed(0);
        let last = options(&disk).open_read_only(DIR).expect("whole").end().segment().0;
        assert!(last > 1, "{last} segments");
        damage(&disk, last, 12_288 + 200);
        let plan = plan(&disk);
        assert_eq!(plan.weight(), Weight::Acknowledged, "{name}: {plan}");
        assert!(cut(&plan).lost.unseen, "{name}: {plan}");
        let refused = plan.apply(&ApplyOptions::new());
        assert!(matches!(refused, Err(RepairError::Loss { .. })), "{name}: {refused:?}");
        let kept = plan.apply(&lossy()).unwrap_or_else(|error| panic!("{name}: {error}")).last;
        assert!((kept.index as usize) < entries.len(), "{name}: {plan}");
    }
}

/// Where the log was closed nothing stood behind: no file that was cut there can have held anything.
#[test]
fn behind_where_a_log_was_closed_nothing_can_be_lost() {
    let (disk, entries) = closed(0);
    let end = options(&disk).open_read_only(DIR).expect("whole").end();
    disk.tamper(segment(end.segment().0), |bytes| bytes.truncate(end.offset() as usize));
    let plan = plan(&disk);
    assert_eq!(plan.weight(), Weight::Nothing, "{plan}");
    plan.apply(&ApplyOptions::new()).expect("nothing is lost");
    assert_eq!(all(&reopen(&disk).expect("opens")), entries);
}

#[test]
fn a_loss_is_told_as_the_least_that_it_can_be() {
    let (disk, entries) = closed(0);
    let last = options(&disk).open_read_only(DIR).expect("whole").end().segment().0;
    for number in 2..=last {
        disk.remove(&segment(number)).expect("removes");
    }
    let plan = plan(&disk);
    let text = plan.to_string();
    assert!(cut(&plan).lost.unseen && cut(&plan).last.index < entries.len() as u64, "{text}");
    assert!(text.contains("at least; 0 records") && text.contains("is unknown"), "{text}");
}

/// Every byte is there: who reads the plan is told so before anything is cut.
#[test]
fn swapped_names_are_to_be_put_back_first() {
    let (disk, entries) = closed(0);
    let swap = || {
        let [two, three] = [2, 3].map(|number| disk.contents(segment(number)).expect("there"));
        disk.tamper(segment(2), |bytes| *bytes = three);
        disk.tamper(segment(3), |bytes| *bytes = two);
    };
    swap();
    let plan = plan(&disk);
    assert!(plan.to_string().contains("give 00000002.wal the name 00000003.wal"), "{plan}");
    assert!(plan.weight() > Weight::Nothing, "{plan}");
    swap();
    assert_eq!(all(&reopen(&disk).expect("opens")), entries);
}
