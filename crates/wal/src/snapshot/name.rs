//! Which snapshot a file is, and which file a snapshot is.

use std::ffi::OsStr;
use std::fmt;

/// The last log entry that a snapshot replaces. Orders by index, then term.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct SnapshotId {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// `<index>-<term>` in hexadecimal: the file's name without its ending.
impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.index, self.term)
    }
}

/// The three endings of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    Temporary,
    Broken,
}

impl Kind {
    const ALL: [(Self, &str); 3] =
        [(Self::Whole, ".snap"), (Self::Temporary, ".snap.tmp"), (Self::Broken, ".snap.broken")];

    fn ending(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, ending)| ending)
    }
}

pub(super) fn format(id: SnapshotId, kind: Kind) -> String {
    format!("{id}{}", kind.ending())
}

/// The inverse of [`format`], and of nothing else: a name that would be formatted differently is not ours.
pub(super) fn parse(name: &OsStr) -> Option<(SnapshotId, Kind)> {
    let name = name.to_str()?;
    let (index, term) = (name.get(..16)?, name.get(17..33)?);
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let id = SnapshotId { index: hex(index)?, term: hex(term)? };
    let kind = Kind::ALL.iter().find(|(_, ending)| name.get(33..) == Some(*ending))?.0;
    (format(id, kind) == name).then_some((id, kind))
}

/// Whether this is the name of a snapshot that was finished, and was not set aside.
pub(crate) fn is_snapshot(path: &std::path::Path) -> bool {
    path.file_name().and_then(parse).is_some_and(|(_, kind)| kind == Kind::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_not_otherwise() {
        let id = SnapshotId { index: 0x2a, term: u64::MAX };
        let name = "000000000000002a-ffffffffffffffff.snap";
        for (kind, name) in [
            (Kind::Whole, name.to_owned()),
            (Kind::Temporary, format!("{name}.tmp")),
            (Kind::Broken, format!("{name}.broken")),
        ] {
            assert_eq!(format(id, kind), name);
            assert_eq!(parse(OsStr::new(&name)), Some((id, kind)));
        }
        for other in [
            "",
            ".snap",
            "2a-7.snap",
            "000000000000002A-ffffffffffffffff.snap",
            "000000000000002a_ffffffffffffffff.snap",
            "000000000000002a-ffffffffffffffff",
            "000000000000002a-ffffffffffffffff.snap.bak",
            "000000000000002a-ffffffffffffffff.snap.tmp.tmp",
            "+00000000000002a-ffffffffffffffff.snap",
            "0000000000000000002a-ffffffffffffffff.snap",
            "00000000000000é-ffffffffffffffff.snap",
        ] {
            assert_eq!(parse(OsStr::new(other)), None, "{other:?}");
        }
    }
}
