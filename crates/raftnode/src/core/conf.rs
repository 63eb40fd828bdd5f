//! Membership changes. Each is validated when it is applied, so that every member comes to the same verdict.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use oarlock_membership::{
    ChangeEntry, ChangeError, Cluster, Configuration, ProposalId, record::ConfChangeTransition,
};
use raft::eraftpb::{Entry, Message, MessageType};

use super::{Core, Event, MembersApplied};
use crate::convert;
use crate::planted::planted;
use crate::proposal::AttributeUpdate;
use crate::snapshot_head::SnapshotHead;
use crate::{ChangeMembersError, SnapshotMark};

/// Membership changes of this node's callers that wait to be answered.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Index of the newest conf change that was applied or refused (O7).
    applied: u64,
    answers: VecDeque<Answer>,
}

#[derive(Debug)]
struct Answer {
    index: u64,
    id: ProposalId,
    result: Result<Arc<Cluster>, ChangeMembersError>,
    /// Answer it even while the configuration is joint: its proposer asked for an explicit joint configuration, and
    /// leaves it itself; or it did not change the configuration at all.
    may_be_joint: bool,
}

impl Core {
    /// The apply loop has reached a conf change, with everything before it applied. Validates it, and applies it to the
    /// cluster and to raft-rs unless it is refused (O8).
    ///
    /// A refused change is not given to raft-rs: it is as if it had not been proposed. The loop continues with the
    /// members returned.
    #[must_use = "the apply loop goes on with it"]
    pub fn handle_change_committed(&mut self, entry: &Entry) -> MembersApplied {
        self.changes.applied = entry.index;
        let view = convert::entry_view(entry);
        let (mut order, mut explicit) = (None, false);
        let (changed, id, result) = match ChangeEntry::read(&view) {
            Ok(Some(change)) => match self.apply_change(&change) {
                Ok(()) => {
                    order = change.rescue;
                    explicit = change.transition == ConfChangeTransition::Explicit;
                    (true, change.proposal, Ok(Arc::clone(&self.cluster)))
                }
                Err(error) => (false, change.proposal, Err(error)),
            },
            Ok(None) => (false, None, Ok(Arc::clone(&self.cluster))),
            Err(unreadable) => {
                log::error!(index = entry.index, unreadable:%; "a conf change cannot be read; refused on every member");
                (false, None, Ok(Arc::clone(&self.cluster)))
            }
        };
        if let Err(error) = &result {
            log::warn!(index = entry.index, error:%; "conf change refused");
        }
        if changed {
            self.members_changed(entry.index, order);
        }
        self.answer(entry.index, id, result, explicit);
        self.members_applied(changed)
    }

    fn apply_change(&mut self, change: &ChangeEntry) -> Result<(), ChangeMembersError> {
        let mut cluster = Cluster::clone(&self.cluster);
        cluster.apply_entry(&self.configuration, change)?;
        let conf_state = self
            .raw
            .apply_conf_change(&convert::conf_change(change))
            .map_err(|error| ChangeMembersError::RefusedByRaft(error.to_string()))?;
        let record = convert::conf_state_to_record(&conf_state);
        self.configuration =
            Configuration::from_conf_state(&record).map_err(ChangeError::Configuration)?;
        self.cluster = Arc::new(cluster);
        Ok(())
    }

    /// The apply loop has reached an entry that changes a member's attributes: its name, its URLs or its birth id.
    #[must_use = "the apply loop goes on with it"]
    pub fn handle_attributes_committed(
        &mut self,
        index: u64,
        id: ProposalId,
        update: &AttributeUpdate,
    ) -> MembersApplied {
        let mut cluster = Cluster::clone(&self.cluster);
        let updated = match update {
            AttributeUpdate::Publish { member, name, client_urls, birth } => {
                cluster.update_attributes(*member, name, client_urls).inspect(|()| {
                    if *birth != 0 {
                        self.births.insert(*member, *birth);
                    }
                })
            }
            AttributeUpdate::PeerUrls { member, peer_urls } => {
                cluster.update_peer_urls(*member, peer_urls)
            }
        };
        let changed = updated.is_ok();
        let result = match updated {
            Ok(()) => {
                self.cluster = Arc::new(cluster);
                self.events.push_back(Event::MembersChanged);
                Ok(Arc::clone(&self.cluster))
            }
            Err(error) => Err(error.into()),
        };
        self.answer(index, Some(id), result, true);
        self.members_applied(changed)
    }

    /// Index of the newest conf change that was applied or refused, for [`Held::release`](super::Held::release) (O7).
    #[must_use]
    pub const fn change_applied(&self) -> u64 {
        self.changes.applied
    }

    pub(super) fn adopt_snapshot(&mut self, mark: &SnapshotMark, head: SnapshotHead) {
        self.changes.applied = self.changes.applied.max(mark.index);
        self.cluster = Arc::new(head.cluster);
        self.births = head.births;
        let record = convert::conf_state_to_record(&mark.conf_state);
        match Configuration::from_conf_state(&record) {
            Ok(configuration) => {
                self.configuration = configuration;
                self.members_changed(mark.index, None);
            }
            Err(error) => self.disagree(mark.index, &error),
        }
        self.places_lost(mark, head.window);
    }

    /// `order` is the epoch of the rescue that wrote the change into the log, if one did.
    fn members_changed(&mut self, index: u64, order: Option<u64>) {
        let id = self.raw.raft.id;
        self.gone = gone(id, &self.cluster, &self.configuration);
        self.inflight.follow(id, &self.configuration);
        self.lease.forget_all_but(&self.configuration);
        let record = self.configuration.to_conf_state();
        if let Err(disagreement) = self.cluster.agrees_with(&record) {
            self.disagree(index, &disagreement);
        }
        self.events.push_back(Event::MembersChanged);
        let present = self.configuration.contains(id);
        // A rescue brings a removed survivor back by changes that follow its removal in the log (etcd #13848). The
        // first of them may leave a joint configuration in whose outgoing half it was.
        let rescued = self.cluster.epoch() < self.rescue_epoch || order == Some(self.rescue_epoch);
        let present_before = self.present || planted("absent-means-removed");
        if present_before && !present && !rescued {
            self.removed = true; // O19
            self.events.push_back(Event::Removed);
        }
        self.present = present;
    }

    /// Heartbeats of a leader that removed itself, to be sent once a tick while it lingers; empty on any other node.
    ///
    /// A configuration takes effect when it is applied. Until the remaining members hear that the removal is committed
    /// they may need the removed leader's vote to elect another (O19), and the message that said so may have been lost.
    /// raft-rs would repeat the commit index with its heartbeats, but it must not tick on a leader that is no member.
    /// So these heartbeats are made here, for the members known to hold the removal. To others they would only delay an
    /// election, and members that have applied the removal ignore them.
    #[must_use = "the transport sends them"]
    pub fn last_words(&self) -> Vec<Message> {
        if !self.removed || planted("removed-leader-says-it-once") {
            return Vec::new();
        }
        let (raft, removal) = (&self.raw.raft, self.changes.applied);
        let mut held = self.matched_peers();
        held.retain(|_, matched| *matched >= removal || planted("last-words-for-all"));
        let heartbeat = |(to, matched): (u64, u64)| {
            let commit = matched.min(raft.raft_log.committed);
            let mut message =
                Message { from: raft.id, to, term: raft.term, commit, ..Message::default() };
            message.set_msg_type(MessageType::MsgHeartbeat);
            message
        };
        held.into_iter().map(heartbeat).collect()
    }

    fn disagree(&mut self, index: u64, reason: &dyn std::fmt::Display) {
        self.events.push_back(Event::Disagreement { index, reason: reason.to_string() });
    }

    fn members_applied(&self, changed: bool) -> MembersApplied {
        MembersApplied {
            cluster: Arc::clone(&self.cluster),
            conf_state: self.conf_state(),
            births: self.births.clone(),
            changed,
        }
    }

    fn answer(
        &mut self,
        index: u64,
        id: Option<ProposalId>,
        result: Result<Arc<Cluster>, ChangeMembersError>,
        may_be_joint: bool,
    ) {
        if let Some(id) = id.filter(|id| id.origin == self.raw.raft.id) {
            self.changes.answers.push_back(Answer { index, id, result, may_be_joint });
        }
    }

    /// Answers changes when the next one can be proposed: they are applied, and a joint configuration was left again
    /// (O8).
    pub(super) fn answer_changes(&mut self) {
        while let Some(first) = self.changes.answers.front() {
            let halfway = self.configuration.is_joint()
                && first.result.is_ok()
                && !first.may_be_joint
                && !planted("joint-change-answered-early");
            if first.index > self.applied || halfway {
                break;
            }
            if let Some(Answer { id, result, .. }) = self.changes.answers.pop_front() {
                self.events.push_back(Event::Members { id, result });
            }
        }
    }
}

/// The removed members that no half of the configuration needs.
///
/// None, while this node itself is not in the configuration: it has yet to apply its own addition, and a rescue may since
/// have brought back a member that this log says was removed. That one may be the leader to catch up from.
pub(super) fn gone(own: u64, cluster: &Cluster, configuration: &Configuration) -> BTreeSet<u64> {
    if !configuration.contains(own) {
        return BTreeSet::new();
    }
    cluster.removed().iter().copied().filter(|id| !configuration.contains(*id)).collect()
}

#[cfg(test)]
mod tests {
    use oarlock_membership::{Change, Member};

    use super::*;

    #[test]
    fn nobody_is_gone_for_one_that_is_not_there_yet() {
        let mut cluster = Cluster::new(1);
        for id in 1..=3 {
            let urls = vec![format!("http://m{id}:1")];
            let member = Member { id, peer_urls: urls, ..Member::default() };
            cluster.apply(&Change::AddVoter(member)).expect("new");
        }
        cluster.apply(&Change::Remove(3)).expect("a member");
        let of = |voters: &[u64]| {
            let record = convert::conf_state_to_record(&(voters.to_vec(), vec![]).into());
            Configuration::from_conf_state(&record).expect("valid")
        };
        assert_eq!(gone(1, &cluster, &of(&[1, 2])), BTreeSet::from([3]));
        assert!(gone(1, &cluster, &of(&[1, 2, 3])).is_empty(), "the configuration needs it still");
        assert!(gone(9, &cluster, &of(&[1, 2])).is_empty(), "its own addition is still to come");
    }
}
