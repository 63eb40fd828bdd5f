//! The ready loop: from a raft-rs `Ready` to [`Effects`], with raft's duties in order, on one screen.
//!
//! # What may be in flight at once
//!
//! | while persist stages are in flight | |
//! |---|---|
//! | further Readies, any number | allowed: stages are written and reported in order, several with one sync |
//! | ticks, messages, proposals, reads | allowed |
//! | applying what is durable | allowed, and it may lag behind (O3) |
//! | a leader's messages | leave at once, unless its own term is among what is in flight (O4, O15); asserted |
//! | a follower's or candidate's messages | wait until their stage is durable and raft-rs has been told so (O7, O16): [`Held`](super::Held) |
//! | overwriting entries in flight | allowed: the overwritten stage counts only together with the one that overwrites it |
//! | a new term | allowed: its votes and entries wait for its stage like any others |
//! | becoming leader with entries in flight | forbidden, and asserted by raft-rs. Votes come only after the log was durable (O7), and an only voter waits (`would_win_too_early`) |
//! | installing a snapshot | forbidden: it waits until every stage has completed and everything committed is applied (O17); asserted |
//! | while a snapshot is being installed | ticks wait (O17); a second snapshot is refused, and sent again; further stages are allowed |
//! | while a committed conf change is not applied | a follower's messages wait for it (O7); the next change is not appended (O8); no campaigns (raft-rs) |

use std::sync::Arc;

use raft::StateRole;
use raft::eraftpb::{Entry, Snapshot};

use super::{AfterPersist, ApplyStage, Core, Effects, Now, Persist, Restore, RoleChange};
use crate::planted::planted;
use crate::snapshot_head::SnapshotHead;
use crate::{LogError, SnapshotMark, convert};

impl Core {
    /// The next piece of work; `None` when there is none for now.
    ///
    /// # Errors
    /// Entries do not continue the log. A Ready cannot be taken twice, so end the node.
    pub fn poll_effects(&mut self) -> Result<Option<Effects>, LogError> {
        if !self.is_driven() {
            return Ok(None);
        }
        self.pace();
        self.flush_proposals();
        self.flush_reads();
        if !self.raw.has_ready() || self.must_drain_first() {
            return Ok(None);
        }
        self.on_ready().map(Some)
    }

    fn on_ready(&mut self) -> Result<Effects, LogError> {
        let mut ready = self.raw.ready();
        self.inflight.taken();
        let number = ready.number();
        let mut now = Now { role: self.role_change(), ..Now::default() }; // O1
        now.reads = self.reads_confirmed(&ready.take_read_states()); // O2, O24

        let committed = ready.take_committed_entries(); // only where they end
        assert!(!must_persist_before_apply(&committed, self.pipeline.durable_index())); // O3
        assert!(!should_wait_wal_sync(ready.entries(), &committed), "raft 0.7 never asks for this");

        let snapshot = ready.snapshot();
        assert!(snapshot.is_empty() || self.may_install(), "installed amidst other work (O17)");
        let install = (!snapshot.is_empty()).then(|| mark_of(snapshot));
        let restore = install
            .clone()
            .map(|mark| Restore { mark, head: convert::from_raft(snapshot.data.clone()) });
        let entries = Arc::new(ready.take_entries());
        let hard_state = ready.hs().cloned();
        now.committed = last_index(&committed).max(install.as_ref().map(|mark| mark.index)); // O28

        // A leader may replicate while it writes its own disk (Raft thesis, 10.2.1), once its term is durable.
        let mut persisted_messages = ready.take_persisted_messages();
        if self.pipeline.durable_term() == self.raw.raft.term {
            now.messages = ready.take_messages(); // O4
        } else {
            persisted_messages.append(&mut ready.take_messages()); // O15
        }
        self.lease.promise(&mut persisted_messages);
        let leads = self.raw.raft.state == StateRole::Leader;
        assert!(
            leads || now.messages.is_empty(),
            "only a leader speaks before it has written (O4)"
        );

        // raft-rs reads snapshot, entries and hard state through `Storage` from now on, before they are written.
        let view = self.raw.mut_store();
        if let Some(mark) = &install {
            view.install(mark.clone());
        }
        view.append_shared(&entries)?;
        if let Some(hard_state) = &hard_state {
            view.set_hard_state(hard_state.clone());
        }
        let must_sync = ready.must_sync();
        let persist = Persist { number, install, entries, hard_state, must_sync }; // O5
        self.pipeline.start(&persist);
        let newly = self.pipeline.handover.commit(last_index(&committed));
        let await_change = if leads { None } else { self.raw.store().last_change(newly) };
        let apply = ApplyStage { entries: self.next_to_apply() }; // O23
        self.raw.advance_append_async(ready);

        let messages = persisted_messages;
        let after_persist = AfterPersist { number, messages, await_change, restore }; // O7, O16
        let effects = Effects { now, persist, after_persist, apply };
        #[cfg(oarlock_planted)]
        let effects = super::sabotage::sabotage(effects, &mut self.raw);
        Ok(effects)
    }

    /// A snapshot is installed only when no write and no apply is under way (O17).
    fn must_drain_first(&self) -> bool {
        self.raw.snap().is_some_and(|snapshot| !snapshot.is_empty()) && !self.may_install()
    }

    fn may_install(&self) -> bool {
        let drained =
            self.pipeline.is_empty() && self.applied >= self.pipeline.handover.committed();
        drained || planted("install-without-draining")
    }

    /// Whether a snapshot waits to be installed or is being installed.
    pub(super) fn installing(&self) -> bool {
        self.pipeline.installing.is_some()
            || self.raw.snap().is_some_and(|snapshot| !snapshot.is_empty())
    }

    fn role_change(&mut self) -> Option<RoleChange> {
        let vitals = self.vitals();
        let shown = (vitals.term, vitals.role, vitals.leader);
        if shown == self.last_role {
            return None;
        }
        self.last_role = shown;
        let new_leader = vitals.leader != 0 && vitals.leader != self.last_leader;
        if new_leader {
            self.last_leader = vitals.leader;
        }
        self.leader_seen(vitals.leader);
        Some(RoleChange { vitals, new_leader })
    }

    /// Everything up to this number is durable. Release from [`Held`](super::Held) what has become due afterwards.
    pub fn handle_persisted(&mut self, number: u64) {
        let completed = self.pipeline.complete(number);
        if completed.number == 0 || self.removed {
            return; // raft-rs would look for the progress of a leader that is no member any more, and panic
        }
        self.raw.on_persist_ready(completed.number); // O16: before any message that waited for it
        if let Some((index, term)) = completed.last_entry {
            self.raw.mut_store().persisted(index, term);
        }
    }

    /// The highest number that was reported as durable and that raft-rs has been told of.
    #[must_use]
    pub const fn acknowledged(&self) -> u64 {
        self.pipeline.acknowledged
    }

    /// The highest index known to be durable here.
    #[must_use]
    pub const fn durable_index(&self) -> u64 {
        self.pipeline.durable_index()
    }

    /// The state machine was restored from a snapshot that [`AfterPersist::restore`] named.
    pub fn handle_restored(
        &mut self,
        mark: SnapshotMark,
        head: SnapshotHead,
        head_bytes: bytes::Bytes,
    ) {
        self.pipeline.installing = None;
        self.applied = mark.index;
        if !self.removed {
            self.raw.advance_apply_to(mark.index);
        }
        self.raw.mut_store().set_snapshot(mark.clone(), head_bytes);
        self.adopt_snapshot(&mark, head);
        if !planted("restored-and-not-answered") {
            self.answer_changes();
        }
        self.replay_ticks();
    }
}

/// Whether what was committed must be made durable here before it may be applied (O3).
///
/// The seed of this project compared the committed entries with the unstable ones of the same Ready; see
/// [`should_wait_wal_sync`]. What counts is the disk: etcd acknowledged writes that a crash then lost, because raft gave
/// out as committed what was still being written (etcd #14370). With raft 0.7 this never is true; it is asserted on
/// every Ready.
#[must_use]
pub fn must_persist_before_apply(committed: &[Entry], durable_index: u64) -> bool {
    committed.last().is_some_and(|last| last.index > durable_index)
}

/// Whether committed and unstable entries overlap, so that etcd saves before it applies (`shouldWaitWALSync` of
/// etcd 3.4.21 and 3.5.5). For parity, and to show that raft 0.7 never asks for it.
#[must_use]
pub fn should_wait_wal_sync(entries: &[Entry], committed: &[Entry]) -> bool {
    match (committed.last(), entries.first()) {
        (Some(committed), Some(unstable)) => {
            (committed.term, committed.index) >= (unstable.term, unstable.index)
        }
        _ => false,
    }
}

fn mark_of(snapshot: &Snapshot) -> SnapshotMark {
    let metadata = snapshot.get_metadata();
    SnapshotMark {
        index: metadata.index,
        term: metadata.term,
        conf_state: metadata.get_conf_state().clone(),
    }
}

fn last_index(entries: &[Entry]) -> Option<u64> {
    entries.last().map(|entry| entry.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(places: &[(u64, u64)]) -> Vec<Entry> {
        places.iter().map(|&(term, index)| Entry { term, index, ..Entry::default() }).collect()
    }

    /// etcd's cases of `TestShouldWaitWALSync`, as (term, index).
    #[test]
    fn a_save_is_waited_for_when_committed_and_unstable_entries_overlap() {
        type Places = &'static [(u64, u64)];
        #[rustfmt::skip]
        let cases: &[(&str, Places, Places, bool)] = &[
            ("both empty", &[], &[], false),
            ("nothing unstable", &[], &[(4, 10), (4, 11)], false),
            ("nothing committed", &[(4, 10), (4, 11)], &[], false),
            ("committed term and index are lower", &[(5, 11), (5, 12)], &[(4, 9), (4, 10)], false),
            ("committed index is lower", &[(5, 11), (5, 12)], &[(5, 9), (5, 10)], false),
            ("identical", &[(4, 10)], &[(4, 10)], true),
            ("identical, several", &[(4, 10), (4, 11), (4, 12)], &[(4, 10), (4, 11), (4, 12)], true),
            ("overlap at the end", &[(5, 10), (5, 11), (5, 12)], &[(5, 8), (5, 9), (5, 10)], true),
            ("first committed is lower", &[(4, 11), (4, 12)], &[(4, 10), (4, 11), (4, 12)], true),
            ("committed term is higher", &[(4, 11)], &[(5, 2)], true),
        ];
        for (name, unstable, committed, wait) in cases {
            assert_eq!(
                should_wait_wal_sync(&entries(unstable), &entries(committed)),
                *wait,
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_committed_beyond_the_disk_must_wait() {
        assert!(!must_persist_before_apply(&[], 0));
        assert!(!must_persist_before_apply(&entries(&[(1, 4), (1, 5)]), 5));
        assert!(must_persist_before_apply(&entries(&[(1, 4), (1, 5)]), 4));
    }
}
