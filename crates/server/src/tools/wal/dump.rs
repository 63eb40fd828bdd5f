//! `oarlock wal dump`.

use std::{
    io::{self, Write},
    ops::RangeInclusive,
    thread,
    time::Duration,
};

use oarlock_wal::{Content, Entry, Error, HardState, News, Options, Record};
use serde::Serialize;

use super::{Place, describe};
use crate::{
    cli::{DumpFlags, Payload},
    exit::{Failure, Kind},
    fault,
};

/// How often a log that is followed is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Prints the records of a log, a line each, in the order in which they were written.
///
/// # Errors
/// There is no log, it cannot be read at all, or the output cannot be written. A reader that goes away, as `head` does,
/// has seen what it wanted.
pub(crate) fn dump(flags: &DumpFlags) -> Result<(), Failure> {
    if let (Some(from), Some(to)) = (flags.from, flags.to)
        && from > to
    {
        let error = format!("--from {from} is behind --to {to}: there is nothing between them");
        return Err(Failure::new(Kind::Usage, error));
    }
    let dir = Place::of(&flags.place)?.log;
    let failed = |error: Error| fault::log(&error, &dir);
    let mut printer = Printer::new(flags, io::BufWriter::new(io::stdout().lock()));
    let printed = if flags.follow {
        let mut follow = Options::new().follow(&dir).map_err(failed)?;
        loop {
            let printed = match follow.poll().map_err(failed)? {
                News::Nothing => {
                    let flushed = printer.out.flush();
                    thread::sleep(POLL);
                    flushed
                }
                News::Segment(record) => printer.record(&record),
                News::Batch(records) => {
                    records.iter().try_for_each(|record| printer.record(record))
                }
                News::Missed { from, to } => printer.missed(from, to),
                other => printer.text(&format!("{other:?}")),
            };
            if printed.is_err() {
                break printed;
            }
        }
    } else {
        let mut records = Options::new().dump(&dir).map_err(failed)?;
        records
            .try_for_each(|record| match record {
                Ok(record) => printer.record(&record),
                Err(error) => printer.damage(&error),
            })
            .and_then(|()| printer.out.flush())
    };
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Kind::Io, error).context("cannot print"))
        }
        _ => Ok(()),
    }
}

/// Prints records as they were asked for.
struct Printer<W> {
    out: W,
    json: bool,
    payload: Payload,
    /// The entries asked for, and then nothing else.
    range: Option<RangeInclusive<u64>>,
    /// Whether the metadata seen last is a server's: then entries are commands.
    ours: bool,
}

impl<W: Write> Printer<W> {
    fn new(flags: &DumpFlags, out: W) -> Self {
        let range = (flags.from.is_some() || flags.to.is_some())
            .then(|| flags.from.unwrap_or(0)..=flags.to.unwrap_or(u64::MAX));
        Self { out, json: flags.json, payload: flags.payload, range, ours: false }
    }

    fn record(&mut self, record: &Record) -> io::Result<()> {
        let owner = match &record.content {
            Content::Checkpoint { metadata, .. } | Content::Metadata { metadata } => {
                let owner = describe::owner(metadata);
                self.ours = owner.is_some();
                owner
            }
            Content::Entries { entries } => {
                return entries.iter().try_for_each(|entry| self.entry(record, entry));
            }
            _ => None,
        };
        if self.range.is_some() {
            return Ok(());
        }
        if self.json {
            #[derive(Serialize)]
            struct Line<'a> {
                #[serde(flatten)]
                record: &'a Record,
                #[serde(skip_serializing_if = "Option::is_none")]
                owner: Option<String>,
            }
            return self.line(&Line { record, owner });
        }
        let state = |state: &HardState| {
            format!("term {}, vote {:x}, commit {}", state.term, state.vote, state.commit)
        };
        let text = match (&record.content, owner) {
            (Content::Metadata { .. }, Some(owner)) => owner,
            (Content::HardState(hard_state), _) => state(hard_state),
            (Content::Checkpoint { hard_state, last, snapshot, metadata, .. }, owner) => {
                let owner = owner.unwrap_or_else(|| match metadata.is_empty() {
                    true => "no metadata".to_owned(),
                    false => "metadata that is not a server's".to_owned(),
                });
                let mark = snapshot.as_ref().map(|mark| format!(", snapshot at {}", mark.id()));
                let mark = mark.unwrap_or_default();
                format!("checkpoint: {owner}; {}, last {last}{mark}", state(hard_state))
            }
            (content, _) => content.to_string(),
        };
        writeln!(self.out, "{} {:>10} {:>6}  {text}", record.lsn, "-", "-")
    }

    fn entry(&mut self, record: &Record, entry: &Entry) -> io::Result<()> {
        if self.range.as_ref().is_some_and(|range| !range.contains(&entry.index)) {
            return Ok(());
        }
        let Entry { index, term, kind, data } = entry;
        let payload = match self.payload {
            Payload::Describe if self.ours => Some(describe::entry(entry)),
            Payload::Describe | Payload::Len => None,
            Payload::Text => Some(data.escape_ascii().to_string()),
            Payload::Hex => Some(format!("{data:x}")),
        };
        if !self.json {
            let payload = payload.unwrap_or_else(|| format!("kind {kind}, {} bytes", data.len()));
            return writeln!(self.out, "{} {index:>10} {term:>6}  {payload}", record.lsn);
        }
        #[derive(Serialize)]
        struct Line<'a> {
            lsn: String,
            record: &'static str,
            index: u64,
            term: u64,
            kind: u8,
            len: usize,
            #[serde(skip_serializing_if = "Option::is_none")]
            payload: Option<&'a str>,
        }
        let (lsn, len, payload) = (record.lsn.to_string(), data.len(), payload.as_deref());
        self.line(&Line {
            lsn,
            record: "entry",
            index: *index,
            term: *term,
            kind: *kind,
            len,
            payload,
        })
    }

    /// A place where no record reads back.
    fn damage(&mut self, error: &Error) -> io::Result<()> {
        if !self.json {
            return writeln!(self.out, "--- {error}");
        }
        #[derive(Serialize)]
        struct Line {
            record: &'static str,
            error: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            segment: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            offset: Option<u64>,
        }
        let (segment, offset) = match error {
            Error::Corrupt { segment, offset, .. }
            | Error::UnknownVersion { segment, offset, .. } => {
                (Some(segment.to_string()), Some(*offset))
            }
            _ => (None, None),
        };
        self.line(&Line { record: "unreadable", error: error.to_string(), segment, offset })
    }

    fn missed(&mut self, from: oarlock_wal::Lsn, to: oarlock_wal::Lsn) -> io::Result<()> {
        if !self.json {
            return writeln!(self.out, "--- from {from} to {to}: released before it was read");
        }
        #[derive(Serialize)]
        struct Line {
            record: &'static str,
            from: oarlock_wal::Lsn,
            to: oarlock_wal::Lsn,
        }
        self.line(&Line { record: "missed", from, to })
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "--- {text}")
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }
}
