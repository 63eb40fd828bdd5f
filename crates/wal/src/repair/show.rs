//! A plan in words.

use std::fmt;
use std::ops::RangeInclusive;

use super::{Cut, DropFront, Finding, Lost, Plan, Remedy, Weight};
use crate::{Damage, SegmentId};

/// In words, over several lines: what is wrong, what can be done, what it costs, and what to do instead.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "log in {}", self.dir.display())?;
        write!(f, "{}{}", self.finding, self.remedy)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => writeln!(f, "found: it is whole"),
            Self::Torn { segment, offset, bytes } => writeln!(
                f,
                "found: the end is torn, {bytes} bytes from {segment}, offset {offset}; nothing of it is known to have been durable"
            ),
            Self::Damaged { segment, offset, damage, first_after } => {
                writeln!(f, "found: damage at {segment}, offset {offset}: {damage}")?;
                if let Damage::Renamed { found } = damage {
                    writeln!(
                        f,
                        "  first, by hand: copy the directory, give {segment} the name {found} and every other file its own\n  \
                         name back, and verify: nothing may be lost at all; what follows knows of no renaming"
                    )?;
                }
                first_after
                    .map_or(Ok(()), |id| writeln!(f, "  the next entry that reads back: {id}"))
            }
        }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => writeln!(f, "nothing to repair: the next opening does what is needed"),
            Self::DropFront(front) => front.fmt(f),
            Self::Cut(cut) => cut.fmt(f),
            Self::None => f.write_str(
                "nothing can be kept: no beginning and no end of this log makes a log\n\
                 what to do: remove the member from its cluster and add a new one; for the only member, restore a copy\n",
            ),
        }
    }
}

impl fmt::Display for DropFront {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { removed, snapshot, kept, hard_state } = self;
        writeln!(f, "can be done: give up what the newest snapshot covers")?;
        writeln!(f, "  removed: {}", list(removed))?;
        writeln!(f, "  stays: {}, {hard_state}", entries(kept))?;
        writeln!(f, "  lost: nothing, as long as the snapshot of {snapshot} is whole")
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "can be done: cut the log off at {}", self.at)?;
        writeln!(f, "  written again: {}", list(&self.rewritten))?;
        if !self.removed.is_empty() {
            writeln!(f, "  removed: {}", list(&self.removed))?;
        }
        let kept = self.first..=self.last.index;
        writeln!(
            f,
            "  stays: {}, the last one {}, {}",
            entries(&kept),
            self.last,
            self.hard_state
        )?;
        self.lost.fmt(f)
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, bytes, entries: range, commit, hard_state, proven, unseen, weight } =
            self;
        if *weight == Weight::Nothing {
            return writeln!(f, "  lost: nothing that was ever known to be durable");
        }
        let range = range.as_ref().map_or_else(
            || "no entry that is known of".to_owned(),
            |range| format!("{} at least", entries(range)),
        );
        writeln!(
            f,
            "  lost: {range}; {records} records of {bytes} bytes behind it still read back"
        )?;
        if *unseen {
            writeln!(f, "  a part of it cannot be looked at, and what stood there is unknown")?;
        }
        if let Some(state) = hard_state {
            writeln!(f, "  lost: the newest hard state, {state}")?;
        }
        writeln!(f, "  durable up to {proven} at least, committed up to index {commit} at least")?;
        let what = match weight {
            Weight::Committed => "COMMITTED ENTRIES WOULD BE LOST.",
            _ if *unseen => {
                "WHAT WOULD BE LOST MAY HAVE BEEN DURABLE: IT MAY HAVE BEEN ACKNOWLEDGED, AND VOTES WITH IT."
            }
            _ => {
                "WHAT WOULD BE LOST WAS DURABLE: IT MAY HAVE BEEN ACKNOWLEDGED, AND VOTES WITH IT."
            }
        };
        writeln!(
            f,
            "{what}\n\
             A member that forgets what it has acknowledged can make its whole cluster lose committed writes. Do not do\n\
             this to a member of a cluster that has a majority without it. Instead: remove the member, start it with an\n\
             empty directory, add it again. To cut is for the last copy there is, and needs to be told so."
        )
    }
}

fn entries(range: &RangeInclusive<u64>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first > last => "no entries".to_owned(),
        (first, last) => format!("entries {first} to {last}"),
    }
}

fn list(segments: &[SegmentId]) -> String {
    let names: Vec<_> = segments.iter().map(SegmentId::to_string).collect();
    match &names[..] {
        [first, _, _, .., last] => format!("{first} to {last}, {} files", names.len()),
        names => names.join(", "),
    }
}
