//! `oarlock wal`: a look at a log, without a lock, a write or a repair (W7), unless it is told to repair.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use oarlock_wal::Options;

use crate::{
    cli::LogPlace,
    config::member_dir,
    exit::{Failure, Kind},
};

mod describe;

mod dump;
pub(crate) use dump::dump;

mod repair;
pub(crate) use repair::repair;

mod verify;
pub(crate) use verify::verify;

/// Exit code of a tool that has found something to be done, and nothing damaged beyond it.
const FOUND: u8 = 1;

/// Where a log is, and the snapshots that belong to it.
struct Place {
    log: PathBuf,
    snapshots: PathBuf,
}

impl Place {
    /// That of the member whose data directory was given, or else the directory itself if that is a log.
    ///
    /// # Errors
    /// It is a file (exit 64).
    fn of(place: &LogPlace) -> Result<Self, Failure> {
        let dir = place.dir();
        if dir.is_file() {
            let error = format!("{} is a file, not a directory", dir.display());
            let help = "give the data directory of a member, or the directory of a log: its files belong together";
            return Err(Failure::new(Kind::Usage, error).at(dir, None).help(help));
        }
        let of_member = member_dir(dir).join("wal");
        let alone = !of_member.is_dir() && Options::new().exists(dir).unwrap_or(false);
        let log = if alone { dir.to_owned() } else { of_member };
        Ok(Self { snapshots: log.with_file_name("snap"), log })
    }
}

/// Prints a few lines. A reader that has gone away has seen what it wanted.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Kind::Io, error).context("cannot print"))
        }
        _ => Ok(()),
    }
}

/// Prints one object on a line.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string(value).map_err(|error| Failure::new(Kind::Internal, error))?;
    print(&format!("{json}\n"))
}
