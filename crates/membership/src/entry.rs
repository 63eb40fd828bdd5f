use std::fmt;

use bytes::Bytes;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// What an entry holds. The numbers are raft-rs's `EntryType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum EntryKind {
    /// Anything that is not a conf change; never looked at here.
    Normal = 0,
    /// A [`record::ConfChange`](crate::record::ConfChange).
    ConfChange = 1,
    /// A [`record::ConfChangeV2`](crate::record::ConfChangeV2); empty data leaves a joint configuration.
    ConfChangeV2 = 2,
}

/// A number that is no [`EntryKind`]: a newer version wrote it, or something is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no kind of entry")]
pub struct UnknownEntryKind(pub u8);

impl TryFrom<u8> for EntryKind {
    type Error = UnknownEntryKind;

    fn try_from(number: u8) -> Result<Self, UnknownEntryKind> {
        match number {
            0 => Ok(Self::Normal),
            1 => Ok(Self::ConfChange),
            2 => Ok(Self::ConfChangeV2),
            other => Err(UnknownEntryKind(other)),
        }
    }
}

/// An entry of anybody's log, borrowed: what this crate needs to see of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryView<'a> {
    /// Its place in the log, from 1.
    pub index: u64,
    /// The term in which a leader appended it.
    pub term: u64,
    /// How to read `data`.
    pub kind: EntryKind,
    /// The payload.
    pub data: &'a [u8],
}

/// An entry to be appended.
///
/// In JSON its data is hexadecimal, and `change` says in words what it does.
#[derive(Clone, PartialEq, Eq)]
pub struct PlannedEntry {
    /// Its place in the log.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// How to read `data`.
    pub kind: EntryKind,
    /// The payload, ready to be written.
    pub data: Bytes,
}

impl PlannedEntry {
    /// The entry as others look at it.
    #[must_use]
    pub fn view(&self) -> EntryView<'_> {
        EntryView { index: self.index, term: self.term, kind: self.kind, data: &self.data }
    }
}

impl fmt::Debug for PlannedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, term, kind, data } = self;
        write!(f, "{index}/{term} {kind:?} ({} bytes)", data.len())
    }
}

impl Serialize for PlannedEntry {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut fields = out.serialize_struct("PlannedEntry", 5)?;
        fields.serialize_field("index", &self.index)?;
        fields.serialize_field("term", &self.term)?;
        fields.serialize_field("kind", &self.kind)?;
        fields.serialize_field("change", &self.describe())?;
        fields.serialize_field("data", &format!("{:x}", self.data))?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_raft_rss() {
        for kind in [EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2] {
            assert_eq!(EntryKind::try_from(kind as u8), Ok(kind));
        }
        assert_eq!(EntryKind::try_from(3), Err(UnknownEntryKind(3)));
    }

    #[test]
    fn planned_entries_are_shown_in_words_and_hex() {
        let data = Bytes::from_static(&[0x10, 1, 0x18, 0x1f]);
        let entry = PlannedEntry { index: 3, term: 2, kind: EntryKind::ConfChange, data };
        assert_eq!(
            serde_json::to_string(&entry).expect("encodes"),
            r#"{"index":3,"term":2,"kind":"conf_change","change":"remove 1f","data":"1001181f"}"#
        );
        assert_eq!(format!("{entry:?}"), "3/2 ConfChange (4 bytes)");
    }
}
