//! The state machine of the scenarios: a list of words, and the same apply path as the crate's apply thread.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};

use oarlock_raftnode::core::MembersApplied;
use oarlock_raftnode::membership::ProposalId;
use oarlock_raftnode::raft::eraftpb::Entry;
use oarlock_raftnode::{
    AttributeUpdate, MemSnapshots, Payload, SnapshotHead, SnapshotId, SnapshotMark, SnapshotStore,
    Verdict, Window,
};

/// What a normal entry came to.
pub(super) enum Outcome {
    /// Nothing for the state machine.
    Empty,
    /// A word was added.
    Applied(ProposalId),
    /// The id had been applied before, or is too old: no effect (O22).
    Left(ProposalId, Verdict),
    /// For the core: what is known of a member changes.
    Attributes(ProposalId, AttributeUpdate),
}

#[derive(Default)]
pub(super) struct Machine {
    /// Term and index of what was applied last.
    pub(super) applied: (u64, u64),
    pub(super) words: Vec<String>,
    /// Every id whose proposal took effect, however long ago: the window must never let one through again.
    ids: BTreeSet<ProposalId>,
    pub(super) window: Window,
    pub(super) members: Option<MembersApplied>,
    pub(super) snapshot_index: u64,
    /// Of everything applied so far: equal on every member at the same index.
    pub(super) digest: u64,
}

impl Machine {
    /// Applies the next entry that is no conf change.
    pub(super) fn apply(&mut self, entry: &Entry) -> Result<Outcome, String> {
        self.follow(entry)?;
        let payload = Payload::of(entry).map_err(|error| error.to_string())?;
        if let Some(id) = payload.id() {
            let verdict = self.window.accept(id);
            self.stir(&(id, verdict == Verdict::First));
            if verdict != Verdict::First {
                return Ok(Outcome::Left(id, verdict));
            }
            if !self.ids.insert(id) {
                return Err(format!("{id:?} takes effect twice (O22)"));
            }
        }
        Ok(match payload {
            Payload::Application { id, data } => {
                self.words.push(String::from_utf8_lossy(&data).into_owned());
                Outcome::Applied(id)
            }
            Payload::Attributes { id, update } => Outcome::Attributes(id, update),
            _ => Outcome::Empty,
        })
    }

    /// Notes that `entry` is the next one: each once, in order, without a gap (O23).
    pub(super) fn follow(&mut self, entry: &Entry) -> Result<(), String> {
        if entry.index != self.applied.1 + 1 {
            return Err(format!("{} is applied after {} (O23)", entry.index, self.applied.1));
        }
        self.applied = (entry.term, entry.index);
        self.stir(&self.applied.clone());
        Ok(())
    }

    fn stir(&mut self, with: &impl Hash) {
        let mut hasher = DefaultHasher::new();
        (self.digest, with).hash(&mut hasher);
        self.digest = hasher.finish();
    }

    /// Writes a snapshot of what is applied. `None` if nothing was since the last one, or nobody votes yet.
    pub(super) fn snapshot(
        &mut self,
        snapshots: &MemSnapshots,
    ) -> Result<Option<(SnapshotHead, u64)>, String> {
        let (term, index) = self.applied;
        let Some(members) = &self.members else { return Ok(None) };
        if index == self.snapshot_index || members.conf_state.get_voters().is_empty() {
            return Ok(None);
        }
        let conf_state = members.conf_state.clone();
        let head = SnapshotHead {
            mark: SnapshotMark { index, term, conf_state },
            cluster: (*members.cluster).clone(),
            window: self.window.clone(),
            births: members.births.clone(),
        };
        let fault = |error: &dyn std::fmt::Display| error.to_string();
        let mut sink =
            snapshots.create(SnapshotId { index, term }).map_err(|error| fault(&error))?;
        head.write_to(&mut *sink).map_err(|error| fault(&error))?;
        let ids: Vec<String> = self
            .ids
            .iter()
            .map(|id| format!("{} {} {}", id.origin, id.incarnation, id.sequence))
            .collect();
        let (ids, words) = (ids.join("\n"), self.words.join("\n"));
        let content = format!("{}\n\n{ids}\n\n{words}", self.digest);
        sink.write_all(content.as_bytes()).map_err(|error| fault(&error))?;
        let len = sink.commit().map_err(|error| fault(&error))?;
        self.snapshot_index = index;
        Ok(Some((head, len)))
    }

    /// Becomes what a snapshot holds; never an older one than what is applied (O23).
    pub(super) fn restore(
        &mut self,
        snapshots: &MemSnapshots,
        id: SnapshotId,
    ) -> Result<SnapshotHead, String> {
        if id.index <= self.applied.1 && self.applied.1 != 0 {
            return Err(format!("snapshot {id} is restored over {} (O23)", self.applied.1));
        }
        let mut source = snapshots.open(id).map_err(|error| error.to_string())?;
        let head =
            SnapshotHead::read_from(&mut source.content).map_err(|error| error.to_string())?;
        if head.id() != id {
            return Err(format!("snapshot {id} says that it is {}", head.id()));
        }
        let mut content = String::new();
        source.content.read_to_string(&mut content).map_err(|error| error.to_string())?;
        let parts: Vec<&str> = content.splitn(3, "\n\n").collect();
        let [digest, ids, words] = parts[..] else {
            return Err("a snapshot without its parts".into());
        };
        let digest = digest.parse().map_err(|_| format!("not a digest: {digest}"))?;
        let mut restored = Self { digest, ..Self::default() };
        for line in ids.lines() {
            let numbers: Vec<u64> =
                line.split(' ').map(|word| word.parse().unwrap_or_default()).collect();
            let [origin, incarnation, sequence] = numbers[..] else {
                return Err(format!("not an id: {line}"));
            };
            restored.ids.insert(ProposalId { origin, incarnation, sequence });
        }
        restored.words = words.lines().map(str::to_owned).collect();
        restored.applied = (id.term, id.index);
        restored.snapshot_index = id.index;
        restored.window = head.window.clone();
        restored.members = Some(MembersApplied {
            cluster: std::sync::Arc::new(head.cluster.clone()),
            conf_state: head.mark.conf_state.clone(),
            births: BTreeMap::clone(&head.births),
            changed: true,
        });
        *self = restored;
        Ok(head)
    }
}
