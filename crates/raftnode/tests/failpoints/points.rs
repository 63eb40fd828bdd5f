//! Every failpoint of the crate, where it can be reached, and what must be going on for it.

/// Which member of which cluster the point is set on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The only member there is.
    Alone,
    /// The leader of three.
    Leader,
    /// A follower of three.
    Follower,
}

/// What makes a member come to the point, beside the writes that are always under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stir {
    /// The writes do; they lead to snapshots of the own state, too.
    Writes,
    /// Leadership moves away from the member or to it; alone, it starts again.
    Election,
    /// A follower needs a snapshot from the leader.
    Install,
    /// Learners are added and removed.
    Change,
    /// The member stops and starts again.
    Restart,
}

/// What becomes of an error that is injected at the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing can fail there.
    None,
    /// The node ends with it.
    EndsNode,
    /// The member does not boot.
    FailsBoot,
    /// A snapshot of the own state is not taken; the next one is.
    FailsSnapshot,
    /// A snapshot is not received; it is sent again.
    FailsTransfer,
}

pub(crate) struct Point {
    pub(crate) name: &'static str,
    pub(crate) places: &'static [Place],
    pub(crate) stir: Stir,
    pub(crate) failure: Failure,
}

const EVERYWHERE: &[Place] = &[Place::Alone, Place::Leader, Place::Follower];
const OF_THREE: &[Place] = &[Place::Leader, Place::Follower];
const LEADER: &[Place] = &[Place::Leader];
const FOLLOWER: &[Place] = &[Place::Follower];

const fn point(
    name: &'static str,
    places: &'static [Place],
    stir: Stir,
    failure: Failure,
) -> Point {
    Point { name, places, stir, failure }
}

/// O1: the role before anything else of a Ready.
pub(crate) const ROLE: &[Point] = &[
    point("raftBeforePublishRole", EVERYWHERE, Stir::Election, Failure::None),
    point("raftAfterPublishRole", EVERYWHERE, Stir::Election, Failure::None),
];

/// O4, O7, O15, O16: who may speak before the disk has, and who may not.
pub(crate) const SENDING: &[Point] = &[
    point("raftBeforeLeaderSend", LEADER, Stir::Writes, Failure::None),
    point("raftAfterLeaderSend", LEADER, Stir::Writes, Failure::None),
    point("raftBeforeAdvance", EVERYWHERE, Stir::Writes, Failure::None),
    point("raftAfterAdvance", EVERYWHERE, Stir::Writes, Failure::None),
    point("raftBeforeFollowerSend", FOLLOWER, Stir::Writes, Failure::None),
    point("raftAfterFollowerSend", FOLLOWER, Stir::Writes, Failure::None),
];

/// O3, O7, O16: what is written, and when it counts.
pub(crate) const SAVING: &[Point] = &[
    point("raftBeforeSave", EVERYWHERE, Stir::Writes, Failure::EndsNode),
    point("raftBeforeSync", EVERYWHERE, Stir::Writes, Failure::EndsNode),
    point("raftAfterSave", EVERYWHERE, Stir::Writes, Failure::EndsNode),
];

/// O3, O23: what is applied.
pub(crate) const APPLYING: &[Point] = &[
    point("raftBeforeApply", EVERYWHERE, Stir::Writes, Failure::None),
    point("raftAfterApply", EVERYWHERE, Stir::Writes, Failure::None),
    point("beforeApplyOneEntryNormal", EVERYWHERE, Stir::Writes, Failure::EndsNode),
    point("afterApplyOneEntryNormal", EVERYWHERE, Stir::Writes, Failure::None),
];

/// O6, O9: snapshots of the own state, and what the log gives up for them.
pub(crate) const OWN_SNAPSHOTS: &[Point] = &[
    point("raftBeforeTakeSnap", EVERYWHERE, Stir::Writes, Failure::EndsNode),
    point("raftAfterTakeSnap", EVERYWHERE, Stir::Writes, Failure::None),
    point("raftBeforeCommitSnap", EVERYWHERE, Stir::Writes, Failure::FailsSnapshot),
    point("raftAfterCommitSnap", EVERYWHERE, Stir::Writes, Failure::FailsSnapshot),
    point("raftBeforeMarkSnap", EVERYWHERE, Stir::Writes, Failure::EndsNode),
    point("raftAfterMarkSnap", EVERYWHERE, Stir::Writes, Failure::None),
    point("raftBeforeWALRelease", EVERYWHERE, Stir::Writes, Failure::EndsNode),
    point("raftAfterWALRelease", EVERYWHERE, Stir::Writes, Failure::EndsNode),
];

/// O5, O10, O17, O25: snapshots that come from a leader.
pub(crate) const INSTALLING: &[Point] = &[
    point("raftBeforeReceiveSnap", FOLLOWER, Stir::Install, Failure::FailsTransfer),
    point("raftAfterReceiveSnap", FOLLOWER, Stir::Install, Failure::FailsTransfer),
    point("raftBeforeStepSnap", FOLLOWER, Stir::Install, Failure::None),
    point("raftAfterStepSnap", FOLLOWER, Stir::Install, Failure::None),
    point("raftBeforeSaveSnap", FOLLOWER, Stir::Install, Failure::EndsNode),
    point("raftAfterSaveSnap", FOLLOWER, Stir::Install, Failure::EndsNode),
    point("raftBeforeApplySnap", FOLLOWER, Stir::Install, Failure::EndsNode),
    point("raftAfterApplySnap", FOLLOWER, Stir::Install, Failure::None),
    point("raftBeforeReportSnap", LEADER, Stir::Install, Failure::None),
    point("raftAfterReportSnap", LEADER, Stir::Install, Failure::None),
];

/// O7, O8: changes of the members.
pub(crate) const CHANGING: &[Point] = &[
    point("beforeApplyOneConfChange", EVERYWHERE, Stir::Change, Failure::None),
    point("afterApplyOneConfChange", EVERYWHERE, Stir::Change, Failure::None),
    point("raftBeforeAnswerChange", EVERYWHERE, Stir::Change, Failure::None),
    point("raftAfterAnswerChange", EVERYWHERE, Stir::Change, Failure::None),
];

/// O14: the end of a node, in order.
pub(crate) const STOPPING: &[Point] = &[
    point("raftBeforeStop", EVERYWHERE, Stir::Restart, Failure::None),
    point("raftBeforeTransportStop", EVERYWHERE, Stir::Restart, Failure::None),
    point("raftAfterTransportStop", OF_THREE, Stir::Restart, Failure::None),
    point("raftBeforeLogClose", EVERYWHERE, Stir::Restart, Failure::None),
    point("raftAfterLogClose", EVERYWHERE, Stir::Restart, Failure::None),
];

/// O20: what is made durable before raft sees it.
pub(crate) const BOOTING: &[Point] = &[
    point("bootBeforeSave", EVERYWHERE, Stir::Restart, Failure::FailsBoot),
    point("bootAfterSave", EVERYWHERE, Stir::Restart, Failure::FailsBoot),
];

pub(crate) const ALL: &[&[Point]] =
    &[ROLE, SENDING, SAVING, APPLYING, OWN_SNAPSHOTS, INSTALLING, CHANGING, STOPPING, BOOTING];
