//! Which proposals have been applied.

use std::collections::BTreeMap;

use oarlock_membership::ProposalId;

use crate::planted::planted;

/// Whether a proposal that was committed takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the first of its id: apply it.
    First,
    /// It was applied before: the entry is a duplicate and has no effect.
    Duplicate,
    /// It is older than what is remembered of its origin, or of an earlier incarnation: whether it was applied is no
    /// longer known, so it has no effect. Its proposer stopped waiting long ago.
    Stale,
}

/// The ids of applied proposals, as far back as it matters (O22): what makes a duplicate entry have no effect.
///
/// A follower forwards a proposal once per attempt, but the network may duplicate it, and a leader may append it twice.
/// Every member applies the same entries through the same window, which is part of each snapshot, and so comes to the
/// same verdicts.
///
/// For each origin it remembers one incarnation and the last [`SPAN`](Self::SPAN) sequence numbers, which takes 2 KiB;
/// for a removed member, after [`close`](Self::close), only a few bytes.
///
/// ```
/// use oarlock_raftnode::{Verdict, Window, membership::ProposalId};
/// let mut window = Window::new();
/// let id = ProposalId { origin: 1, incarnation: 1, sequence: 7 };
/// assert_eq!(window.accept(id), Verdict::First);
/// assert_eq!(window.accept(id), Verdict::Duplicate);
/// assert_eq!(window.accept(ProposalId { sequence: 6, ..id }), Verdict::First, "order does not matter");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    origins: BTreeMap<u64, Origin>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    incarnation: u64,
    highest: u64,
    /// Bit `sequence % SPAN` tells whether it was seen, for those in `(highest - SPAN, highest]`. Others are zero.
    /// `None` once closed: nothing of this incarnation is accepted any more.
    seen: Option<Box<[u64; WORDS]>>,
}

const WORDS: usize = 256;
const SPAN: u64 = WORDS as u64 * 64;

/// Why bytes are not a window. A snapshot's head that holds them must not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowError {
    /// Not protobuf of this shape.
    #[error("not a window of proposals: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Protobuf that no window encodes to.
    #[error("an inconsistent window of proposals: {0}")]
    Inconsistent(&'static str),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WindowRecord {
    #[prost(message, repeated, tag = "1")]
    origins: Vec<OriginRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OriginRecord {
    #[prost(fixed64, tag = "1")]
    origin: u64,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    highest: u64,
    /// Little-endian words without the zeros at the end.
    #[prost(bytes = "bytes", tag = "4")]
    seen: bytes::Bytes,
    #[prost(bool, tag = "5")]
    closed: bool,
}

impl Window {
    /// How far back, in sequence numbers of one origin, a late proposal can still be told from a duplicate.
    pub const SPAN: u64 = SPAN;

    /// Nothing applied yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { origins: BTreeMap::new() }
    }

    /// Decides whether a committed proposal takes effect, and remembers it. To be called once for each, in log order.
    pub fn accept(&mut self, id: ProposalId) -> Verdict {
        let origin = self.origins.entry(id.origin).or_insert_with(|| Origin::new(id));
        if id.incarnation < origin.incarnation {
            return Verdict::Stale;
        }
        if id.incarnation > origin.incarnation {
            *origin = Origin::new(id);
        }
        match origin.accept(id.sequence) {
            Verdict::Duplicate if planted("duplicate-takes-effect") => Verdict::First,
            verdict => verdict,
        }
    }

    /// Forgets the sequence numbers of a member that was removed from the cluster: no proposal of this incarnation takes
    /// effect any more, wherever it still is. A later incarnation (after a rescue) starts over.
    pub fn close(&mut self, origin: u64) {
        if let Some(origin) = self.origins.get_mut(&origin) {
            origin.seen = None;
            origin.highest = 0;
        }
    }

    /// How many origins are remembered.
    #[must_use]
    pub fn origins(&self) -> usize {
        self.origins.len()
    }

    /// Encodes; equal windows give equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(&self.to_record())
    }

    /// Decodes what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// The bytes are not a window.
    pub fn decode(bytes: &[u8]) -> Result<Self, WindowError> {
        <WindowRecord as prost::Message>::decode(bytes)?.try_into()
    }

    pub(crate) fn to_record(&self) -> WindowRecord {
        let origins = self.origins.iter().map(|(&id, origin)| OriginRecord {
            origin: id,
            incarnation: origin.incarnation,
            highest: origin.highest,
            seen: origin.seen.as_deref().map(trimmed).unwrap_or_default().into(),
            closed: origin.seen.is_none(),
        });
        WindowRecord { origins: origins.collect() }
    }
}

impl Origin {
    /// An origin about to accept `id`: everything before its window counts as seen long ago.
    fn new(id: ProposalId) -> Self {
        Self { incarnation: id.incarnation, highest: 0, seen: Some(Box::new([0; WORDS])) }
    }

    fn accept(&mut self, sequence: u64) -> Verdict {
        let Some(seen) = self.seen.as_deref_mut() else { return Verdict::Stale };
        if sequence > self.highest {
            // Move the window up: clear the bits that the new numbers reuse.
            if sequence - self.highest >= SPAN {
                seen.fill(0);
            } else {
                for passed in self.highest + 1..=sequence {
                    let (word, bit) = place(passed);
                    seen[word] &= !bit;
                }
            }
            self.highest = sequence;
        } else if self.highest - sequence >= SPAN {
            return Verdict::Stale;
        }
        let (word, bit) = place(sequence);
        if seen[word] & bit != 0 {
            return Verdict::Duplicate;
        }
        seen[word] |= bit;
        Verdict::First
    }
}

const fn place(sequence: u64) -> (usize, u64) {
    let slot = sequence % SPAN;
    ((slot / 64) as usize, 1 << (slot % 64))
}

fn trimmed(seen: &[u64; WORDS]) -> Vec<u8> {
    let used = seen.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
    seen[..used].iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl TryFrom<WindowRecord> for Window {
    type Error = WindowError;

    fn try_from(record: WindowRecord) -> Result<Self, WindowError> {
        let mut origins = BTreeMap::new();
        let mut previous = None;
        for record in record.origins {
            if previous >= Some(record.origin) {
                return Err(WindowError::Inconsistent("origins are not in order"));
            }
            previous = Some(record.origin);
            origins.insert(record.origin, record.try_into()?);
        }
        Ok(Self { origins })
    }
}

impl TryFrom<OriginRecord> for Origin {
    type Error = WindowError;

    fn try_from(record: OriginRecord) -> Result<Self, WindowError> {
        let OriginRecord { incarnation, highest, seen: bytes, closed, .. } = record;
        if closed {
            return match (highest, bytes.is_empty()) {
                (0, true) => Ok(Self { incarnation, highest: 0, seen: None }),
                _ => Err(WindowError::Inconsistent("a closed origin remembers proposals")),
            };
        }
        let (words, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || words.len() > WORDS || words.last() == Some(&[0; 8]) {
            return Err(WindowError::Inconsistent("an origin's bits are cut off or padded"));
        }
        let mut seen = Box::new([0; WORDS]);
        for (into, word) in seen.iter_mut().zip(words) {
            *into = u64::from_le_bytes(*word);
        }
        let (word, bit) = place(highest);
        if seen[word] & bit == 0 {
            return Err(WindowError::Inconsistent("an origin's newest proposal was not seen"));
        }
        if highest < SPAN
            && (highest + 1..SPAN).any(|later| seen[place(later).0] & place(later).1 != 0)
        {
            return Err(WindowError::Inconsistent("an origin saw proposals after its newest"));
        }
        Ok(Self { incarnation, highest, seen: Some(seen) })
    }
}

#[cfg(test)]
mod tests;
