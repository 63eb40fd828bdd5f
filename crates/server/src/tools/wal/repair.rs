//! `oarlock wal repair`.

use std::{path::Path, process::ExitCode};

use oarlock_wal::{
    Options, RealVfs,
    repair::{ApplyOptions, DropFront, Finding, Plan, Remedy, RepairError, Weight},
    snapshot::{SnapshotId, SnapshotReader},
};

use super::{FOUND, Place, print, print_json};
use crate::{
    cli::RepairFlags,
    exit::{Failure, Kind},
    fault,
};

/// What to do instead, loudly.
const INSTEAD: &str = "if this member is one of several: do NOT repair it, for a voter that forgets what it has acknowledged \
     can make the whole cluster lose committed writes; remove it (etcdctl member remove), empty its --data-dir, and add it \
     again (etcdctl member add). If it is the only copy there is, --accept-loss cuts it";

/// What to do where nothing can be kept.
const NOTHING: &str = "keep the directory for inspection; if this member is one of several: remove it (etcdctl member remove), \
     empty its --data-dir, and add it again (etcdctl member add); for the only member, restore a copy";

/// Shows what can be done about a log, and does it if told so.
///
/// # Errors
/// Nothing can be done, or only at a loss that was not accepted (exit 65); the log is in use (75); the disk failed (74).
pub(crate) fn repair(flags: &RepairFlags) -> Result<ExitCode, Failure> {
    let Place { log: dir, snapshots } = Place::of(&flags.place)?;
    let plan = Options::new().plan_repair(&dir).map_err(|error| fault::log(&error, &dir))?;
    if flags.json {
        print_json(&plan)?;
    } else {
        print(&plan.to_string())?;
    }
    match &plan.remedy {
        Remedy::None => return Err(refused(&plan, &RepairError::NoRemedy)),
        Remedy::Nothing => return Ok(ExitCode::SUCCESS),
        Remedy::DropFront(front) => check_snapshot(front, &snapshots)?,
        _ => {}
    }
    if !flags.apply {
        if !flags.json {
            let flags = match plan.weight() {
                Weight::Nothing => "--apply",
                _ => "--apply --accept-loss",
            };
            print(&format!("nothing was changed: {flags} does it\n"))?;
        }
        return Ok(ExitCode::from(FOUND));
    }
    let mut how = ApplyOptions::new().accept_loss(flags.accept_loss);
    if let Some(copy) = &flags.copy_to {
        how = how.copy_to(copy);
    }
    let done = plan.apply(&how).map_err(|error| refused(&plan, &error))?;
    if flags.json {
        print_json(&done)?;
    } else {
        let copy = done.copy.as_ref().map_or_else(String::new, |copy| {
            format!("; what was there before is in {}", copy.display())
        });
        print(&format!("done: the log ends with {}{copy}\n", done.last))?;
        if plan.weight() > Weight::Nothing {
            print(
                "this member has forgotten what it may have acknowledged: never let it back among members that remember\n",
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is given up at the front is given up for this snapshot's sake.
fn check_snapshot(front: &DropFront, snapshots: &Path) -> Result<(), Failure> {
    let id = SnapshotId { index: front.snapshot.index, term: front.snapshot.term };
    let path = snapshots.join(format!("{id}.snap"));
    let checked = SnapshotReader::open(&RealVfs, &path).and_then(SnapshotReader::verify);
    checked.map(drop).map_err(|error| {
        fault::snapshot_file(&error)
            .context("nothing can be done without the snapshot that covers the damaged segment")
            .help(NOTHING)
    })
}

fn refused(plan: &Plan, error: &RepairError) -> Failure {
    let dir = &plan.dir;
    let failure = match error {
        RepairError::Loss { .. } => Failure::from_error(Kind::Damaged, error).help(INSTEAD),
        RepairError::NoRemedy => Failure::from_error(Kind::Damaged, error).help(NOTHING),
        RepairError::Changed => Failure::from_error(Kind::InUse, error).help("run it again"),
        RepairError::CopyExists { .. } => {
            Failure::from_error(Kind::Usage, error).help("give a --copy-to that does not exist yet")
        }
        RepairError::Copy { .. } => Failure::from_error(Kind::Io, error)
            .help("nothing was changed; make room, or give a --copy-to on another disk"),
        RepairError::Log(error) => return fault::log(error, dir),
        other => Failure::from_error(Kind::Internal, other),
    };
    match &plan.finding {
        Finding::Damaged { segment, offset, .. } => {
            failure.at(dir.join(segment.to_string()), Some(*offset))
        }
        _ => failure,
    }
}
