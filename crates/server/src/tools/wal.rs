//! `oarlock wal dump` and `oarlock wal verify`: a look at a log, without a lock, a write or a repair (W7).

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use oarlock_membership::{ChangeEntry, EntryKind, EntryView};
use oarlock_raftnode::{AttributeUpdate, Payload, bootstrap::Metadata};
use oarlock_wal::{Entry, Options, ReadOnly};

use crate::{
    config::member_dir,
    exit::{Failure, Kind},
    fault, kv,
};

/// Bytes of entries held at a time.
const PAGE: u64 = 1 << 20;

/// Prints what the log of `place` holds: whose it is, its state, and the entries of `[start, end)`.
///
/// # Errors
/// The log cannot be read, is damaged, or the output cannot be written. A reader that goes away, as `head` does, has seen
/// what it wanted.
pub(crate) fn dump(place: &Path, start: u64, end: u64) -> Result<(), Failure> {
    let (log, dir) = open(place)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    if !is_read(out.write_all(head(&log).as_bytes()))? {
        return Ok(());
    }
    let mut next = start.max(log.first_index());
    let end = end.min(log.last_index().saturating_add(1));
    while next < end {
        let page = log.entries(next..end, PAGE).map_err(|error| fault::log(&error, &dir))?;
        let Some(last) = page.last() else { break };
        next = last.index + 1;
        for entry in &page {
            let (index, term) = (entry.index, entry.term);
            if !is_read(writeln!(out, "{index:>10} {term:>6}  {}", describe(entry)))? {
                return Ok(());
            }
        }
    }
    is_read(out.flush()).map(|_| ())
}

/// Whether somebody still reads what is printed.
fn is_read(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(Kind::Io, error).context("cannot print")),
    }
}

/// Reads and checks every byte of the log of `place`, and says how far it goes.
///
/// # Errors
/// The log cannot be read, or is damaged (exit 65, with file and offset).
pub(crate) fn verify(place: &Path) -> Result<(), Failure> {
    let (log, dir) = open(place)?;
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

/// The log of the member whose data directory `place` is, or else the log that `place` itself is.
fn open(place: &Path) -> Result<(ReadOnly, PathBuf), Failure> {
    let of_member = member_dir(place).join("wal");
    let alone = !of_member.is_dir() && Options::new().exists(place).unwrap_or(false);
    let dir = if alone { place.to_owned() } else { of_member };
    let log = Options::new().open_read_only(&dir).map_err(|error| fault::log(&error, &dir))?;
    Ok((log, dir))
}

/// Everything but the entries.
fn head(log: &ReadOnly) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match Metadata::decode(log.metadata()) {
        Ok(metadata) => writeln!(
            text,
            "member {:x} of cluster {:x}, incarnation {}, birth {:016x}, rescues {}",
            metadata.id,
            metadata.cluster_id,
            metadata.incarnation,
            metadata.birth,
            metadata.rescue_epoch
        ),
        Err(error) => writeln!(text, "metadata: {error}"),
    };
    let state = log.hard_state();
    let _ = writeln!(text, "term {}, vote {:x}, commit {}", state.term, state.vote, state.commit);
    if let Some(mark) = log.snapshot() {
        let _ = writeln!(text, "snapshot at index {}, term {}", mark.index, mark.term);
    }
    let _ = writeln!(
        text,
        "entries {}..={}, known durable up to {}",
        log.first_index(),
        log.last_index(),
        log.proven()
    );
    for segment in log.segments() {
        let end = segment.end.map_or("prepared".to_owned(), |end| format!("used up to {end}"));
        let _ = writeln!(text, "{}: {} bytes, {end}", segment.segment, segment.bytes);
    }
    text
}

/// One entry in words.
fn describe(entry: &Entry) -> String {
    let view = |kind| EntryView { index: entry.index, term: entry.term, kind, data: &entry.data };
    let change = match entry.kind {
        0 => return describe_normal(entry),
        1 => ChangeEntry::read(&view(EntryKind::ConfChange)),
        2 => ChangeEntry::read(&view(EntryKind::ConfChangeV2)),
        other => return format!("entry of the unknown kind {other}, {} bytes", entry.data.len()),
    };
    match change {
        Ok(Some(change)) => format!("members: {change}"),
        Ok(None) => "members: nothing".to_owned(),
        Err(error) => format!("members: {error}"),
    }
}

fn describe_normal(entry: &Entry) -> String {
    match Payload::decode(&entry.data) {
        Ok(Payload::Empty) => "empty".to_owned(),
        Ok(Payload::Application { data, .. }) => kv::describe(data),
        Ok(Payload::Attributes { update, .. }) => match update {
            AttributeUpdate::Publish { member, name, client_urls, .. } => {
                format!(
                    "member {member:x} is {name:?}, clients reach it at {}",
                    client_urls.join(",")
                )
            }
            AttributeUpdate::PeerUrls { member, peer_urls } => {
                format!("member {member:x} is reached by peers at {}", peer_urls.join(","))
            }
            other => format!("{other:?}"),
        },
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("{} bytes: {error}", entry.data.len()),
    }
}
