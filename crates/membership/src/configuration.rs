use std::collections::BTreeSet;

use serde::Serialize;

use crate::planted::planted;
use crate::record::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, RecordError,
};

/// Raft's configuration as sets, with raft's own rules for changing it (Raft thesis, chapter 4; the `confchange`
/// module of raft-rs and of etcd's raft).
///
/// raft-rs keeps the configuration that counts. This one follows it step by step where there is no raft-rs: in tools,
/// before start, and to know what an entry will do before it is proposed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Configuration {
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    voters_outgoing: BTreeSet<u64>,
    learners_next: BTreeSet<u64>,
    auto_leave: bool,
}

/// Why a configuration is illegal, or cannot be changed this way.
///
/// raft-rs refuses the same changes, on every member alike: an entry that meets this at apply changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// Nobody would vote any more.
    #[error("no voter would be left")]
    NoVoters,
    /// A node would be voter and learner at once.
    #[error("{id:x} is both voter and learner")]
    VoterAndLearner {
        /// The node.
        id: u64,
    },
    /// A node waits to become a learner without being an outgoing voter.
    #[error("{id:x} waits to become a learner but is no outgoing voter")]
    StrayLearnerNext {
        /// The node.
        id: u64,
    },
    /// Auto-leave is set although the configuration is not joint.
    #[error("a configuration that is not joint cannot be left")]
    NotJoint,
    /// A joint configuration must be left before anything else is changed: propose again then.
    #[error("a joint configuration must be left first")]
    AlreadyJoint,
    /// A joint change needs voters to start from.
    #[error("an empty configuration cannot become joint")]
    EmptyToJoint,
    /// Node 0 is nobody.
    #[error("0 is nobody's id")]
    ZeroId,
    /// The record holds a number that is unknown here.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Configuration {
    /// The configuration that a record describes. An empty record is the empty configuration, before the first member.
    ///
    /// # Errors
    /// When it breaks a rule of raft: raft-rs refuses to start on such a record, in part by panicking.
    pub fn from_conf_state(state: &ConfState) -> Result<Self, ConfigurationError> {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let configuration = Self {
            voters: set(&state.voters),
            learners: set(&state.learners),
            voters_outgoing: set(&state.voters_outgoing),
            learners_next: set(&state.learners_next),
            auto_leave: state.auto_leave,
        };
        configuration.check()?;
        Ok(configuration)
    }

    /// The record of this configuration, every list ascending.
    #[must_use]
    pub fn to_conf_state(&self) -> ConfState {
        let list = |ids: &BTreeSet<u64>| ids.iter().copied().collect();
        ConfState {
            voters: list(&self.voters),
            learners: list(&self.learners),
            voters_outgoing: list(&self.voters_outgoing),
            learners_next: list(&self.learners_next),
            auto_leave: self.auto_leave,
        }
    }

    /// Voters; of a joint configuration, the incoming ones.
    #[must_use]
    pub fn voters(&self) -> &BTreeSet<u64> {
        &self.voters
    }

    /// Members that do not vote.
    #[must_use]
    pub fn learners(&self) -> &BTreeSet<u64> {
        &self.learners
    }

    /// Voters of the outgoing half of a joint configuration.
    #[must_use]
    pub fn voters_outgoing(&self) -> &BTreeSet<u64> {
        &self.voters_outgoing
    }

    /// Outgoing voters that become learners when the joint configuration is left.
    #[must_use]
    pub fn learners_next(&self) -> &BTreeSet<u64> {
        &self.learners_next
    }

    /// Whether the leader leaves the joint configuration by itself.
    #[must_use]
    pub fn auto_leave(&self) -> bool {
        self.auto_leave
    }

    /// Whether two majorities must agree at present.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether raft sends to, or counts, this node in any role. A node stays in until no half needs it.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.voters.contains(&id)
            || self.learners.contains(&id)
            || self.voters_outgoing.contains(&id)
            || self.learners_next.contains(&id)
    }

    /// Everybody in any role, ascending: the set that etcd's `getIDs` computes.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<u64> {
        let all = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        let roles = if planted("only-voters-are-seen") { 1 } else { all.len() };
        all.into_iter().take(roles).flatten().copied().collect()
    }

    /// What the configuration is after `change`; `self` is left alone.
    ///
    /// # Errors
    /// When raft would refuse the change; the configuration then stays as it is.
    pub fn changed(&self, change: &ConfChangeV2) -> Result<Self, ConfigurationError> {
        let mut next = self.clone();
        if change.leaves_joint() {
            next.leave()?;
        } else if let Some(auto_leave) = joint(change)? {
            next.enter(auto_leave, &change.changes)?;
        } else if self.is_joint() {
            return Err(ConfigurationError::AlreadyJoint);
        } else {
            next.take(&change.changes)?;
        }
        next.check()?;
        Ok(next)
    }

    fn enter(
        &mut self,
        auto_leave: bool,
        steps: &[ConfChangeSingle],
    ) -> Result<(), ConfigurationError> {
        if self.is_joint() {
            return Err(ConfigurationError::AlreadyJoint);
        }
        if self.voters.is_empty() {
            return Err(ConfigurationError::EmptyToJoint);
        }
        self.voters_outgoing.clone_from(&self.voters);
        self.auto_leave = auto_leave;
        self.take(steps)
    }

    fn leave(&mut self) -> Result<(), ConfigurationError> {
        if !self.is_joint() {
            return Err(ConfigurationError::NotJoint);
        }
        self.learners.append(&mut self.learners_next);
        self.voters_outgoing.clear();
        self.auto_leave = false;
        Ok(())
    }

    /// Takes the steps on the incoming half.
    fn take(&mut self, steps: &[ConfChangeSingle]) -> Result<(), ConfigurationError> {
        for step in steps {
            let id = step.node_id;
            if id == 0 {
                continue; // raft's sign for "this step was refused"
            }
            match step.kind()? {
                ConfChangeType::AddNode => {
                    self.forget(id);
                    self.voters.insert(id);
                }
                ConfChangeType::RemoveNode => self.forget(id),
                ConfChangeType::AddLearnerNode => {
                    self.forget(id);
                    // An outgoing voter cannot learn yet: it would be both at once.
                    let outgoing =
                        self.voters_outgoing.contains(&id) && !planted("voter-and-learner-at-once");
                    if outgoing { &mut self.learners_next } else { &mut self.learners }.insert(id);
                }
            }
        }
        if self.voters.is_empty() { Err(ConfigurationError::NoVoters) } else { Ok(()) }
    }

    fn forget(&mut self, id: u64) {
        self.voters.remove(&id);
        self.learners.remove(&id);
        self.learners_next.remove(&id);
    }

    fn check(&self) -> Result<(), ConfigurationError> {
        let votes = |id: &u64| self.voters.contains(id) || self.voters_outgoing.contains(id);
        if self.contains(0) {
            return Err(ConfigurationError::ZeroId);
        }
        if let Some(&id) = self.learners.iter().find(|id| votes(id)) {
            return Err(ConfigurationError::VoterAndLearner { id });
        }
        if let Some(&id) = self.learners_next.iter().find(|id| self.voters.contains(id)) {
            return Err(ConfigurationError::VoterAndLearner { id });
        }
        if let Some(&id) = self.learners_next.iter().find(|id| !self.voters_outgoing.contains(id)) {
            return Err(ConfigurationError::StrayLearnerNext { id });
        }
        if self.voters.is_empty() && !(self.learners.is_empty() && self.voters_outgoing.is_empty())
        {
            return Err(ConfigurationError::NoVoters);
        }
        if self.auto_leave && !self.is_joint() {
            return Err(ConfigurationError::NotJoint);
        }
        Ok(())
    }
}

/// Whether a change goes through a joint configuration, and then whether that is left automatically.
fn joint(change: &ConfChangeV2) -> Result<Option<bool>, RecordError> {
    Ok(match change.mode()? {
        ConfChangeTransition::Auto if change.changes.len() <= 1 => None,
        ConfChangeTransition::Auto | ConfChangeTransition::Implicit => Some(true),
        ConfChangeTransition::Explicit => Some(false),
    })
}
