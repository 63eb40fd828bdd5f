//! What can be done about a damaged log, decided first and done afterwards.
//!
//! Opening never does any of this: what a crash tore is recovery's business, what was durable and no longer reads back is
//! an operator's. [`Options::plan_repair`](crate::Options::plan_repair) looks and changes nothing; [`Plan::apply`] does
//! what the plan says, after it has put a copy of every file it will touch beside the log.
//!
//! **Repairing is not the way to bring a member of a cluster back.** A voter that forgets what it acknowledged can make
//! the others elect a leader without it, and then the whole cluster has lost a committed write (Raft thesis, 3.8 and 11.2;
//! etcd says the same of a lost data directory). Remove the member, start it again with an empty directory, and add it
//! as a new one. To cut is for the last copy there is.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::format::Position;
use crate::{Damage, EntryId, Error, HardState, Lsn, Options, SegmentId, TornTail};

mod apply;
pub use apply::{ApplyOptions, RepairError, Repaired};

mod look;

mod show;

/// What is wrong with a log, and what can be done about it. Nothing was changed to make it.
///
/// ```
/// # let tmp = tempfile::tempdir()?;
/// # let dir = tmp.path().join("wal");
/// use oarlock_wal::{Options, repair::{Finding, Remedy}};
///
/// # Options::new().create(&dir, b"")?.close()?;
/// let plan = Options::new().plan_repair(&dir)?;
/// assert!(matches!((&plan.finding, &plan.remedy), (Finding::Whole, Remedy::Nothing)));
/// println!("{plan}"); // in words
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// The log.
    pub dir: PathBuf,
    /// What is wrong.
    pub finding: Finding,
    /// What can be done.
    pub remedy: Remedy,
    #[serde(skip)]
    options: Options,
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// Nothing.
    Whole,
    /// A crash tore its end, or somebody is writing it: the next opening deals with it, and loses nothing.
    Torn {
        /// The segment in which the torn end begins.
        segment: SegmentId,
        /// Where in it.
        offset: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// Bytes that were durable do not read back.
    Damaged {
        /// The segment.
        segment: SegmentId,
        /// Bytes from the beginning of its file.
        offset: u64,
        /// What is wrong there.
        #[serde(serialize_with = "displayed")]
        damage: Damage,
        /// The first entry behind it that reads back.
        first_after: Option<EntryId>,
    },
}

/// What can be done about a damaged log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "remedy", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Remedy {
    /// Nothing needs to be done.
    Nothing,
    /// Give up segments at the front, the damaged one last. Every entry in them is covered by the newest snapshot, so that
    /// nothing is lost as long as that one's file is whole: check it first.
    DropFront(DropFront),
    /// Keep what reads back up to the damage, and give up everything behind it. A log has no holes: of entries behind a
    /// damaged one none can be kept.
    Cut(Cut),
    /// Nothing can be kept: no prefix and no suffix of the log makes a log.
    None,
}

/// See [`Remedy::DropFront`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DropFront {
    /// The segments that go.
    pub removed: Vec<SegmentId>,
    /// The snapshot that covers them.
    pub snapshot: EntryId,
    /// The entries that stay.
    pub kept: RangeInclusive<u64>,
    /// The hard state, which stays as it is.
    pub hard_state: HardState,
}

/// See [`Remedy::Cut`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Cut {
    /// Where the log will end.
    pub at: Lsn,
    /// Its first entry.
    pub first: u64,
    /// Its last one.
    pub last: EntryId,
    /// The hard state there: not the newest, if that is lost. A member that goes back in term or vote can vote twice.
    pub hard_state: HardState,
    /// The newest snapshot mark there.
    pub snapshot: Option<EntryId>,
    /// Segments that are written again without what is cut off, and with marks that are true afterwards.
    pub rewritten: Vec<SegmentId>,
    /// Segments behind the cut, all of which go.
    pub removed: Vec<SegmentId>,
    /// What is known of the part that goes.
    pub lost: Lost,
    #[serde(skip)]
    end: Position,
    /// The segments that stay, and where the frames of each end.
    #[serde(skip)]
    ends: Vec<(SegmentId, u32)>,
}

/// What is known of the part of a log that a [`Cut`] gives up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lost {
    /// Records that read back.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The entries that are known to have been there, by what reads back and by the marks. There may have been more.
    pub entries: Option<RangeInclusive<u64>>,
    /// The highest index known to be committed, wherever that is written; more than the last entry kept if committed
    /// entries are lost.
    pub commit: u64,
    /// The newest hard state in it that reads back.
    pub hard_state: Option<HardState>,
    /// How far the log is proven to have been durable.
    pub proven: Lsn,
    /// Whether a part of it cannot be looked at: a segment that is missing or has no header, the rest of a file that was
    /// cut, both mark slots. No mark that is missing proves anything then.
    pub unseen: bool,
    /// What that means for who was told of it.
    pub weight: Weight,
}

/// How bad a loss is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Weight {
    /// Nothing of it was ever known to be durable: nobody was told that it was.
    #[default]
    Nothing,
    /// It was durable, or a part of it cannot be looked at and may have been: votes and entries in it may have been
    /// acknowledged, and entries committed.
    Acknowledged,
    /// Entries in it were committed.
    Committed,
}

impl Plan {
    pub(crate) fn new(options: &Options, dir: &Path) -> Result<Self, Error> {
        let (finding, remedy) = match options.open_read_only(dir) {
            Ok(log) => match &log.recovery().torn {
                Some(TornTail { segment, offset, bytes, .. }) => {
                    let (segment, offset, bytes) = (*segment, *offset, *bytes);
                    (Finding::Torn { segment, offset, bytes }, Remedy::Nothing)
                }
                None => (Finding::Whole, Remedy::Nothing),
            },
            Err(Error::Corrupt { segment, offset, damage, first_after, .. }) => {
                let remedy = look::remedy(&**options.files(), dir)?;
                (Finding::Damaged { segment, offset, damage, first_after }, remedy)
            }
            Err(error) => return Err(error),
        };
        Ok(Self { dir: dir.into(), finding, remedy, options: options.clone() })
    }

    /// How bad it is what the remedy gives up.
    #[must_use]
    pub fn weight(&self) -> Weight {
        match &self.remedy {
            Remedy::Cut(cut) => cut.lost.weight,
            _ => Weight::Nothing,
        }
    }
}

fn displayed<S: serde::Serializer>(value: &impl fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}
