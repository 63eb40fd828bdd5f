//! One record of a log, typed, as a line, and as JSON.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::format::{Frame, Kind, SlotState, Trailer};
use crate::segment::{Segment, Surveyed};
use crate::{Entry, EntryId, HardState, Lsn, SnapshotMark};

/// One record, and where it stands.
///
/// It serializes flat: the place, then `record`, the kind's name, and the kind's own fields. Payloads of entries are left
/// out (their length is given), other bytes are in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    #[serde(flatten)]
    pub content: Content,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Content {
    /// The header of a segment, and its mark slots.
    Segment {
        /// The log's identity, the same in all its segments.
        #[serde(serialize_with = "hex_number")]
        log_id: u64,
        /// The length of its file.
        size: u64,
        /// The mark slots that read back, older first.
        slots: Vec<MarkSlot>,
        /// How many of the two do not; a crash can tear one.
        damaged_slots: usize,
        /// Offsets of the header's copies that do not read back, while another does.
        damaged_headers: Vec<u32>,
    },
    /// The head of a segment: everything but entries that the segments before it said.
    Checkpoint {
        /// The owner's record.
        #[serde(serialize_with = "hex")]
        metadata: Bytes,
        /// The hard state.
        hard_state: HardState,
        /// The last entry.
        last: EntryId,
        /// The newest mark.
        snapshot: Option<SnapshotMark>,
    },
    /// The owner's record.
    Metadata {
        /// Its bytes.
        #[serde(serialize_with = "hex")]
        metadata: Bytes,
    },
    /// Entries in a row.
    Entries {
        /// All of them, payloads included.
        #[serde(serialize_with = "heads")]
        entries: Vec<Entry>,
    },
    /// A hard state.
    HardState(HardState),
    /// A snapshot taken here.
    Compact(SnapshotMark),
    /// A snapshot that replaced the log.
    Install(SnapshotMark),
    /// The footer of a segment that was left: what its frames did to the index, so that opening need not read them.
    Footer {
        /// Entries that stood in the segment when it was left.
        entries: u32,
        /// The index of the first of them, or of the next one if there is none.
        first: u64,
        /// The last snapshot that was installed in the segment.
        installed: Option<EntryId>,
        /// Where the frames end.
        end: u32,
    },
    /// Of a kind, or with a flag, that this version does not know.
    Unknown {
        /// Its kind.
        kind: u8,
    },
}

/// What a mark slot says: everything before `durable` had been synced when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MarkSlot {
    /// Goes up by one with each slot written to a segment.
    pub counter: u64,
    /// How far the log was durable.
    pub durable: Lsn,
    /// The last entry there.
    pub last: EntryId,
}

impl Record {
    /// What stands in front of the frames of a segment.
    pub(super) fn of_segment(surveyed: &Surveyed) -> Self {
        let Surveyed { segment, slots, damaged_headers, .. } = surveyed;
        let damaged_slots = slots.iter().filter(|slot| **slot == SlotState::Damaged).count();
        let mut slots: Vec<_> = slots.iter().filter_map(SlotState::valid).collect();
        slots.sort_unstable_by_key(|slot| slot.counter);
        let slots = slots.iter().map(|slot| MarkSlot {
            counter: slot.counter,
            durable: slot.durable.lsn,
            last: slot.durable.last,
        });
        Self {
            lsn: Lsn::new(segment.id, 0),
            len: u64::from(crate::format::FRAMES_START),
            mark: segment.slot_mark(),
            more: false,
            content: Content::Segment {
                log_id: segment.key.0,
                size: segment.size.into(),
                slots: slots.collect(),
                damaged_slots,
                damaged_headers: damaged_headers.clone(),
            },
        }
    }

    /// What stands behind the frames.
    pub(super) fn of_footer(segment: &Segment, trailer: &Trailer) -> Self {
        let Trailer { n, first, reset, end, .. } = *trailer;
        Self {
            lsn: Lsn::new(segment.id, trailer.table()),
            len: u64::from(segment.size - trailer.table()),
            mark: Lsn::default(),
            more: false,
            content: Content::Footer { entries: n, first, installed: reset, end },
        }
    }

    /// A frame that was read from `bytes`, of which payloads become slices.
    pub(super) fn of_frame(frame: &Frame<'_>, bytes: &Bytes) -> Self {
        let unknown = Content::Unknown { kind: frame.kind };
        let content = match frame.known() {
            Some(Kind::Checkpoint) => frame.checkpoint().map_or(unknown, |c| Content::Checkpoint {
                metadata: c.metadata.clone(),
                hard_state: c.hard_state(),
                last: c.last(),
                snapshot: c.mark(),
            }),
            Some(Kind::Metadata) => Content::Metadata { metadata: frame.metadata() },
            Some(Kind::Entries) => {
                let entries = frame.entries().zip(frame.first_index..);
                let entries = entries.map(|((head, body), index)| {
                    let data = bytes.slice_ref(head.payload(body));
                    Entry { index, term: head.term, kind: head.kind, data }
                });
                Content::Entries { entries: entries.collect() }
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
        match self {
            Self::Segment { log_id, size, slots, damaged_slots, damaged_headers } => {
                write!(f, "segment of {size} B, log {log_id:016x}")?;
                for MarkSlot { counter, durable, last } in slots {
                    write!(f, ", mark {counter}: durable {durable}, {last}")?;
                }
                if *damaged_slots > 0 {
                    write!(f, ", marks that do not read back: {damaged_slots}")?;
                }
                for offset in damaged_headers {
                    write!(f, ", header copy at {offset} does not read back")?;
                }
                Ok(())
            }
            Self::Checkpoint { metadata, hard_state, last, snapshot } => {
                let len = metadata.len();
                write!(f, "checkpoint: {hard_state}, last {last}, {len} B of metadata")?;
                snapshot.as_ref().map_or(Ok(()), |mark| write!(f, ", snapshot at {}", mark.id()))
            }
            Self::Metadata { metadata } => write!(f, "metadata: {} B", metadata.len()),
            Self::Entries { entries } => {
                let bytes: usize = entries.iter().map(|entry| entry.data.len()).sum();
                match (entries.first(), entries.last()) {
                    (
                        Some(Entry { index: a, term: s, .. }),
                        Some(Entry { index: b, term: t, .. }),
                    ) => {
                        write!(f, "entries {a}..={b}, terms {s}..={t}, {bytes} B")
                    }
                    _ => f.write_str("no entries"),
                }
            }
            Self::HardState(hard_state) => write!(f, "hard state: {hard_state}"),
            Self::Compact(mark) => {
                write!(f, "compact: {}, {} B of conf", mark.id(), mark.conf.len())
            }
            Self::Install(mark) => {
                write!(f, "install: {}, {} B of conf", mark.id(), mark.conf.len())
            }
            Self::Footer { entries, first, installed, end } => {
                write!(f, "footer: {entries} entries from {first}, frames up to {end}")?;
                installed.as_ref().map_or(Ok(()), |id| write!(f, ", installed {id}"))
            }
            Self::Unknown { kind } => write!(f, "unknown record of kind {kind}"),
        }
    }
}

fn hex_number<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{number:016x}"))
}

pub(crate) fn hex<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{bytes:x}"))
}

fn heads<S: Serializer>(entries: &[Entry], to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Head {
        index: u64,
        term: u64,
        kind: u8,
        len: usize,
    }
    to.collect_seq(entries.iter().map(|Entry { index, term, kind, data }| Head {
        index: *index,
        term: *term,
        kind: *kind,
        len: data.len(),
    }))
}
