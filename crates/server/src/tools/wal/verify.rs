//! `oarlock wal verify`.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use oarlock_wal::{
    Options,
    examine::{End, Examination, LogReport, Progress, SnapshotState},
};
use serde::Serialize;

use super::{FOUND, Place, print, print_json};
use crate::{
    cli::VerifyFlags,
    exit::{Failure, Kind},
    fault,
};

/// Reads and checks every byte of a log and of the snapshots beside it, and says what was found.
///
/// # Errors
/// There is no log, or something is damaged or missing (exit 65, with file and offset).
pub(crate) fn verify(flags: &VerifyFlags) -> Result<ExitCode, Failure> {
    let Place { log: dir, snapshots } = Place::of(&flags.place)?;
    let terminal = io::stderr().is_terminal();
    let shown = AtomicU64::new(u64::MAX);
    let progress = move |progress: Progress| {
        let percent = progress.done * 100 / progress.total.max(1);
        if terminal && shown.swap(percent, Ordering::Relaxed) != percent {
            let end = if progress.done < progress.total { "" } else { "\r\x1b[K" };
            crate::say(&format!("\r{percent:>3}% of {} MiB{end}", progress.total >> 20));
        }
    };
    let found = Options::new().examine(&dir, Some(&snapshots), progress);
    let found = found.map_err(|error| fault::log(&error, &dir))?;
    if flags.json {
        print_json(&Json::of(&found))?;
    } else {
        print(&words(&found, &dir.display().to_string()))?;
    }
    let log = found.log.map_err(|error| fault::log(&error, &dir))?;
    for report in &found.snapshots {
        if let SnapshotState::Damaged { error } = &report.state {
            return Err(fault::snapshot_file(error));
        }
    }
    if found.snapshot_missing {
        let begins = log.entries.start();
        let error = format!("the log begins at entry {begins}, and no snapshot reaches up to it");
        return Err(Failure::new(Kind::Damaged, error).at(snapshots, None).help(fault::REPLACE));
    }
    Ok(match log.end {
        End::Torn { .. } => ExitCode::from(FOUND),
        _ => ExitCode::SUCCESS,
    })
}

/// What was found, in a line for each thing.
fn words(found: &Examination, dir: &str) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match &found.log {
        Err(error) => writeln!(text, "{dir}: {error}"),
        Ok(log) => {
            let LogReport { entries, last, hard_state, segments, bytes, proven, .. } = log;
            let (first, mib) = (entries.start(), bytes >> 20);
            let state = match log.end {
                End::BeingWritten { at } => format!("ok, the batch at {at} is being written"),
                End::Torn { at, bytes } => format!(
                    "torn at {at}: {bytes} bytes of which none is known to have been durable; the next start sets them aside"
                ),
                _ => "ok".to_owned(),
            };
            writeln!(
                text,
                "{dir}: {state}\n  entries {first} to {}, the last of term {}; {hard_state}; proven durable up to {proven}; \
                 {segments} segments, {mib} MiB",
                last.index, last.term
            )
        }
    };
    if let Ok(log) = &found.log {
        for (segment, offset) in &log.damaged_headers {
            let _ = writeln!(
                text,
                "  a copy of the header of {segment}, at {offset}, does not read back: look at the disk"
            );
        }
        for name in &log.unknown {
            let _ = writeln!(text, "  {name} is not a file of the log");
        }
    }
    for report in &found.snapshots {
        let (path, bytes) = (report.path.display(), report.bytes);
        let _ = match &report.state {
            SnapshotState::Whole { covers } => {
                writeln!(text, "{path}: ok, everything up to {covers}, {bytes} bytes")
            }
            SnapshotState::Damaged { error } => writeln!(text, "{path}: {error}"),
            _ => writeln!(text, "{path}: set aside, unfinished, or none of ours"),
        };
    }
    text
}

/// What was found, for machines.
#[derive(Serialize)]
struct Json<'a> {
    whole: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<&'a LogReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    snapshots: &'a [oarlock_wal::examine::SnapshotReport],
    snapshot_missing: bool,
}

impl<'a> Json<'a> {
    fn of(found: &'a Examination) -> Self {
        Self {
            whole: found.is_whole(),
            log: found.log.as_ref().ok(),
            error: found.log.as_ref().err().map(ToString::to_string),
            snapshots: &found.snapshots,
            snapshot_missing: found.snapshot_missing,
        }
    }
}
