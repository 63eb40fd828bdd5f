//! What scenarios ask about: logs, disks, states.

use oarlock_raftnode::{LogReader, LogStore};

use super::life::{Report, Write};
use super::node::Node;
use super::text;
use super::world::World;

impl World {
    pub(super) fn show_log(&mut self, id: u64) {
        let Some(life) = self.life(id) else { return self.trace.say(id, "down") };
        let (first, _) = life.core.log_bounds();
        let entries = text::entries(&life.log.from(first));
        self.trace.say(id, format!("log from {first}: {entries}"));
    }

    pub(super) fn show_disk(&mut self, id: u64) {
        let Some(Node { store, .. }) = self.nodes.get(&id) else { return };
        let Ok(state) = store.state() else { return };
        let first = state.first_index;
        let entries = store.entries(first, state.last_index + 1, u64::MAX).unwrap_or_default();
        let mark = state
            .snapshot
            .map_or_else(String::new, |mark| format!("snapshot {}/{}, ", mark.term, mark.index));
        let hard_state = text::hard_state(&state.hard_state);
        let line = format!("disk: {hard_state}, {mark}from {first}: {}", text::entries(&entries));
        self.trace.say(id, line);
    }

    pub(super) fn show_state(&mut self, id: u64) {
        let Some(life) = self.life(id) else { return self.trace.say(id, "down") };
        let (term, index) = life.machine.applied;
        let line = format!("state at {term}/{index}: {}", life.machine.words.join(" "));
        self.trace.say(id, line);
    }

    pub(super) fn show_status(&mut self, id: u64) {
        let Some(life) = self.life(id) else { return self.trace.say(id, "down") };
        let status = life.core.status();
        let mut line = format!(
            "{} of term {} leader {} commit {} applied {} durable {} log {}..{} voters {}",
            text::role(status.role),
            status.term,
            status.leader,
            status.commit,
            status.applied,
            status.durable,
            status.first_index,
            status.last_index,
            text::ids(&status.voters)
        );
        for (what, ids) in [("outgoing", &status.voters_outgoing), ("learners", &status.learners)] {
            if !ids.is_empty() {
                line += &format!(" {what} {}", text::ids(ids));
            }
        }
        if status.snapshot_index > 0 {
            line += &format!(" snapshot {}", status.snapshot_index);
        }
        if status.transferee > 0 {
            line += &format!(" transferring to {}", status.transferee);
        }
        if status.quarantined.is_some() {
            line += " in quarantine";
        }
        if life.core.is_removed() {
            line += " removed";
        }
        self.trace.say(id, line);
    }

    pub(super) fn show_progress(&mut self, id: u64) {
        let Some(life) = self.life(id) else { return self.trace.say(id, "down") };
        for peer in life.core.status().peers {
            let active = if peer.recently_active { "active" } else { "silent" };
            let line = format!(
                "peer {} {:?} match {} next {} in flight {} {active}",
                peer.id, peer.state, peer.matched, peer.next, peer.inflight
            );
            self.trace.say(id, line);
        }
    }

    pub(super) fn show_net(&mut self) {
        for (from, to) in self.net.busy() {
            for packet in self.net.packets((from, to)) {
                self.trace.lines.push(format!("{from}->{to}: {}", packet.text));
            }
        }
    }

    /// What waits on a node, and how much is held until it is done.
    pub(super) fn show_held(&mut self, id: u64) {
        let Some(life) = self.life(id) else { return self.trace.say(id, "down") };
        let writes: Vec<String> = life
            .writes
            .iter()
            .map(|write| match write {
                Write::Stage(stage) => format!("#{}", stage.number),
                Write::Mark { mark, .. } => format!("mark {}", mark.index),
            })
            .collect();
        let reports: Vec<String> = life
            .unreported
            .iter()
            .map(|report| match report {
                Report::Stage(number) => format!("#{number}"),
                Report::Mark { mark, .. } => format!("mark {}", mark.index),
            })
            .collect();
        let line = format!(
            "to write [{}], to report [{}], to apply {}, held {}, unanswered {}",
            writes.join(" "),
            reports.join(" "),
            life.jobs.len(),
            life.held.len(),
            life.waiting()
        );
        self.trace.say(id, line);
    }
}
