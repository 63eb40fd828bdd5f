//! `oarlock wal`: a look at a log, without a lock, a write or a repair (W7).

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use oarlock_wal::Options;

use crate::{
    config::member_dir,
    exit::{Failure, Kind},
    fault,
};

mod describe;

mod dump;
pub(crate) use dump::dump;

/// Bytes of entries held at a time.
const PAGE: u64 = 1 << 20;

/// The log of the member whose data directory `place` is, or else `place` itself if that is a log.
fn log_dir(place: &Path) -> PathBuf {
    let of_member = member_dir(place).join("wal");
    let alone = !of_member.is_dir() && Options::new().exists(place).unwrap_or(false);
    if alone { place.to_owned() } else { of_member }
}

/// Reads and checks every byte of the log of `place`, and says how far it goes.
///
/// # Errors
/// The log cannot be read, or is damaged (exit 65, with file and offset).
pub(crate) fn verify(place: &Path) -> Result<(), Failure> {
    let dir = log_dir(place);
    let log = Options::new().open_read_only(&dir).map_err(|error| fault::log(&error, &dir))?;
    let mut next = log.first_index();
    let mut bytes = 0_u64;
    while next <= log.last_index() {
        let page = log
            .entries(next..log.last_index() + 1, PAGE)
            .map_err(|error| fault::log(&error, &dir))?;
        let Some(last) = page.last() else { break };
        next = last.index + 1;
        bytes += page.iter().map(|entry| entry.data.len() as u64).sum::<u64>();
    }
    let entries = (log.last_index() + 1).saturating_sub(log.first_index());
    let torn = log.recovery().torn.as_ref().map_or(String::new(), |torn| {
        format!(
            "; a crash cut off {} bytes that were never acknowledged, at {} offset {}",
            torn.bytes, torn.segment, torn.offset
        )
    });
    let line = format!(
        "{}: ok, {entries} entries, {bytes} bytes of data, {} segments{torn}\n",
        dir.display(),
        log.segments().len()
    );
    io::stdout().write_all(line.as_bytes()).map_err(|error| Failure::new(Kind::Io, error))
}
