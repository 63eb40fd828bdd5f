//! Events of the core: refusals, and changes of the role and the members.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Node;
use crate::core::{Event, RoleChange};
use crate::driver::clock::LINGER;
use crate::driver::handoff;
use crate::driver::writer::Job;
use crate::failpoint::fail_point;
use crate::hex::Hex;
use crate::{LogError, NodeError, ProposeError, ReadError, Vitals};

impl Node {
    pub(super) fn on_events(&mut self) -> Result<(), NodeError> {
        while let Some(event) = self.core.poll_event() {
            match event {
                Event::Refused { id, error } => self.refuse(id, error),
                Event::Forward { to, forward } => self.out.forward(to, &forward),
                Event::ForwardReply { to, reply } => self.out.forward_reply(to, &reply),
                Event::Members { id, result } => {
                    fail_point!("raftBeforeAnswerChange", self.shared.id);
                    self.waiters.members(id, result); // O8
                    fail_point!("raftAfterAnswerChange", self.shared.id);
                }
                Event::MembersChanged => self.members_changed()?,
                Event::Promise { by, promise, enough } => self.promise_heard(by, promise, enough),
                Event::PromisesKept { longest } => {
                    log::info!(id:% = Hex(self.shared.id), longest:?; "kept what earlier lives promised");
                    self.submit(Job::Promised(longest))?;
                }
                Event::SnapshotWanted(wish) => {
                    log::info!(id:% = Hex(self.shared.id), to:% = Hex(wish.to); "a follower needs a newer snapshot");
                    let _ = self.threads.apply.send(handoff::Job::Snapshot); // if it has gone, it has said why
                }
                Event::Quarantined(quarantine) => {
                    log::error!(
                        id:% = Hex(self.shared.id), commit = quarantine.commit, last_index = quarantine.last_index;
                        "this log is shorter than what it acknowledged; it takes no part any more: remove this \
                         member and add it as a new one"
                    );
                    self.core.refuse_waiting(&ProposeError::Quarantined);
                    self.reads.refuse_all(&ReadError::Quarantined);
                }
                Event::Removed => {
                    log::warn!(id:% = Hex(self.shared.id); "this member was removed from the cluster");
                    self.removed_until = Some(Instant::now() + LINGER);
                    self.core.refuse_waiting(&ProposeError::NotMember);
                }
                Event::Disagreement { index, reason } => {
                    return Err(NodeError::Disagreement { index, reason });
                }
            }
        }
        Ok(())
    }

    fn promise_heard(&self, by: u64, promise: Duration, enough: bool) {
        let (id, by) = (self.shared.id, Hex(by));
        let takes = self.shared.config.promise();
        if enough {
            log::info!(id:% = Hex(id), by:%, promise:?, takes:?; "a voter promises what a lease takes");
        } else {
            log::warn!(
                id:% = Hex(id), by:%, promise:?, takes:?;
                "a voter withholds its vote for less than a lease takes: it has no lease reads, or a shorter election \
                 timeout; unless a majority does, reads by lease are answered by rounds"
            );
        }
    }

    fn members_changed(&mut self) -> Result<(), NodeError> {
        self.follow_members();
        let cluster = Arc::clone(self.core.cluster());
        self.shared.observer.members_changed(&cluster);
        if !self.core.is_alone() && self.core.configuration().contains(self.shared.id) {
            // Heartbeats must not wait for the disk from now on (O12).
            self.threads.writer.move_to_thread().map_err(|source| {
                NodeError::Log(LogError::Io { op: "start the writer thread", source })
            })?;
        }
        Ok(())
    }

    pub(super) fn follow_members(&mut self) {
        let cluster = Arc::clone(self.core.cluster());
        let transport = Arc::clone(self.out.transport());
        let births = self.core.births().clone();
        let gone = self.core.gone().clone();
        self.out.known.follow(self.shared.id, &*transport, &cluster, &gone);
        self.shared.links.keep(|id| self.out.known.contains(id));
        self.shared.publish(|published| {
            published.gone = gone;
            published.cluster = cluster;
            published.births = births;
        });
    }

    pub(super) fn role_changed(&mut self, change: RoleChange) {
        let RoleChange { vitals, new_leader } = change;
        let vitals = Vitals { applied: self.applied(), ..vitals };
        if new_leader {
            self.shared.counters.leader_changes.add(1);
        }
        self.out.heartbeats.reset();
        let (id, term, leader) = (self.shared.id, vitals.term, vitals.leader);
        log::info!(id:% = Hex(id), term, leader:% = Hex(leader), role:? = vitals.role; "role changed");
        self.shared.publish(|published| published.vitals = vitals);
        self.shared.observer.role_changed(&vitals);
        self.transfers.leader(leader);
    }
}
