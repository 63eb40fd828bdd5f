//! Every record of a log as it stands on disk, for people: nothing is applied, nothing is hidden.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;

use crate::format::{FRAMES_START, Frame, Kind, is_zero, read_frame};
use crate::segment::{Listing, Segment, Surveyed, survey};
use crate::vfs::{Access, Vfs};
use crate::{EntryId, Error, HardState, Lsn, SnapshotMark};

/// Iterates over the records of a log in the order in which they were written, overwritten ones included.
///
/// Where a segment stops making sense it yields one [`Error::Corrupt`] and goes on with the next. Whether that is damage
/// or a tail that a crash tore, only the whole log can tell: [`Options::open_read_only`](crate::Options::open_read_only)
/// does.
#[derive(Debug)]
pub struct Dump {
    segments: IntoIter<Arc<Segment>>,
    records: IntoIter<Result<Record, Error>>,
}

/// One record, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Where it begins.
    pub lsn: Lsn,
    /// Bytes on disk, header and padding included.
    pub len: u64,
    /// What was known to be durable when it was written.
    pub mark: Lsn,
    /// Whether the batch goes on with the next record.
    pub more: bool,
    /// What it says.
    pub content: Content,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// The head of a segment: everything but entries that the segments before it said.
    Checkpoint {
        /// The owner's record.
        metadata: Bytes,
        /// The hard state.
        hard_state: HardState,
        /// The last entry.
        last: EntryId,
        /// The newest mark.
        mark: Option<SnapshotMark>,
    },
    /// The owner's record.
    Metadata(Bytes),
    /// Entries in a row.
    Entries {
        /// Index of the first.
        first: u64,
        /// Term, kind and payload length of each.
        heads: Vec<(u64, u8, u32)>,
    },
    /// A hard state.
    HardState(HardState),
    /// A snapshot taken here.
    Compact(SnapshotMark),
    /// A snapshot that replaced the log.
    Install(SnapshotMark),
    /// Of a kind, or with a flag, that this version does not know.
    Unknown {
        /// Its kind.
        kind: u8,
    },
}

impl Dump {
    pub(crate) fn open(vfs: &dyn Vfs, dir: &Path) -> Result<Self, Error> {
        let listing = Listing::read(vfs, dir)?.filter(|listing| !listing.segments.is_empty());
        let listing = listing.ok_or_else(|| Error::NotFound { dir: dir.into() })?;
        let surveyed = survey(vfs, dir, &listing.segments, Access::Read)?;
        let segments: Vec<_> =
            surveyed.into_iter().map(|Surveyed { segment, .. }| segment).collect();
        Ok(Self { segments: segments.into_iter(), records: Vec::new().into_iter() })
    }
}

impl Iterator for Dump {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.records.next() {
                return Some(record);
            }
            self.records = records(&*self.segments.next()?).into_iter();
        }
    }
}

/// The records of one segment.
fn records(segment: &Segment) -> Vec<Result<Record, Error>> {
    let mut bytes = vec![0; segment.size as usize];
    if let Err(error) = segment.read(&mut bytes, 0) {
        return vec![Err(error)];
    }
    let (mut records, mut at) = (Vec::new(), FRAMES_START);
    loop {
        match read_frame(&bytes, segment.key, segment.id, at) {
            Ok(frame) => {
                at = frame.end().offset();
                records.push(Ok(Record::of(&frame)));
            }
            Err(fault) => {
                if !is_zero(&bytes[(at as usize).min(bytes.len())..]) {
                    let at = fault.at.offset();
                    records.push(Err(Error::corrupt(segment.id, at, fault.damage)));
                }
                return records;
            }
        }
    }
}

impl Record {
    fn of(frame: &Frame<'_>) -> Self {
        let unknown = Content::Unknown { kind: frame.kind };
        let content = match frame.known() {
            Some(Kind::Checkpoint) => frame.checkpoint().map_or(unknown, |c| Content::Checkpoint {
                metadata: c.metadata.clone(),
                hard_state: c.hard_state(),
                last: c.last(),
                mark: c.mark(),
            }),
            Some(Kind::Metadata) => Content::Metadata(frame.metadata()),
            Some(Kind::Entries) => {
                let heads = frame.entries().map(|(head, _)| (head.term, head.kind, head.len));
                Content::Entries { first: frame.first_index, heads: heads.collect() }
            }
            Some(Kind::HardState) => frame.hard_state().map_or(unknown, Content::HardState),
            Some(Kind::Compact) => frame.snapshot().map_or(unknown, Content::Compact),
            Some(Kind::Install) => frame.snapshot().map_or(unknown, Content::Install),
            None => unknown,
        };
        let (len, more) = (frame.len() as u64, frame.more());
        Self { lsn: frame.lsn, len, mark: frame.mark, more, content }
    }
}

/// One line; entries are counted, not listed.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lsn, len, mark, more, content } = self;
        write!(f, "{lsn} {len:>6} B  durable {mark}{}  {content}", if *more { " +" } else { "  " })
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = |HardState { term, vote, commit }: &HardState| {
            format!("term {term} vote {vote} commit {commit}")
        };
        match self {
            Self::Checkpoint { metadata, hard_state, last, mark } => {
                let hard_state = state(hard_state);
                write!(
                    f,
                    "checkpoint: {hard_state}, last {last}, {} B of metadata",
                    metadata.len()
                )?;
                mark.as_ref().map_or(Ok(()), |mark| write!(f, ", snapshot at {}", mark.id()))
            }
            Self::Metadata(bytes) => write!(f, "metadata: {} B", bytes.len()),
            Self::Entries { first, heads } => {
                let bytes: u64 = heads.iter().map(|(.., len)| u64::from(*len)).sum();
                let last = (first + heads.len() as u64).saturating_sub(1);
                let terms = heads.first().zip(heads.last());
                let (from, to) = terms.map_or((0, 0), |(from, to)| (from.0, to.0));
                write!(f, "entries {first}..={last}, terms {from}..={to}, {bytes} B")
            }
            Self::HardState(hard_state) => write!(f, "hard state: {}", state(hard_state)),
            Self::Compact(mark) => {
                write!(f, "compact: {}, {} B of conf", mark.id(), mark.conf.len())
            }
            Self::Install(mark) => {
                write!(f, "install: {}, {} B of conf", mark.id(), mark.conf.len())
            }
            Self::Unknown { kind } => write!(f, "unknown record of kind {kind}"),
        }
    }
}
