//! Flow control: which append messages are in flight to each follower, and who may be sent more.
//!
//! raft-rs 0.7 limits append messages to a follower only by their number. 512 messages of 1 MiB are half a gigabyte, and
//! raft-rs generates all of them in a single step when a follower that is far behind answers. etcd's raft has a limit in
//! bytes as well since 3.6 (`tracker/inflights.go`, `MaxInflightBytes`). This module adds one around raft-rs:
//!
//! * Each append message counts from when raft-rs generates it until the follower is known to have its entries, or has
//!   answered a later message: lanes keep their order, so an earlier one is not in flight any more.
//! * raft-rs may send by itself only to a follower that replicates, has room, and has been sent everything; then a step
//!   generates at most one message for it, with what the step appended. For all others its own window is closed (its
//!   capacity set to 0 by `adjust_max_inflight_msgs`), and the core sends one message after another while there is room.
//!
//! So at most [`Config::max_inflight_bytes`](crate::Config::max_inflight_bytes) and one message are in flight to a
//! follower; etcd's window may overshoot by one message too. One message is always allowed, however large.
//!
//! A follower that answers heartbeats but no appends may have lost all of them. raft-rs would then send another
//! message, or the same probe again, for each heartbeat that is answered. Here, as in etcd since 3.6, the follower is
//! sent an append without entries that asks for the last entry in flight: it either has it, or its rejection says that
//! everything sent is lost. The question may wait behind all that was sent before, so it is repeated only after an
//! election timeout.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use oarlock_membership::Configuration;
use raft::eraftpb::{Message, MessageType};
use raft::{ProgressState, StateRole};

use super::{Core, entry_bytes};
use crate::Config;
use crate::planted::planted;

#[derive(Debug)]
pub(super) struct Inflight {
    max_messages: usize,
    max_bytes: u64,
    /// Answered heartbeats after which a question counts as lost, and is asked again: an election timeout's worth.
    patience: u32,
    /// The term in which the messages counted here were sent; 0 while this node does not lead.
    term: u64,
    /// How many messages at the front of raft-rs's outgoing ones have been counted.
    seen: usize,
    windows: BTreeMap<u64, Window>,
    pauses: u64,
}

/// The messages in flight to one follower.
#[derive(Debug)]
struct Window {
    /// In the order in which they were sent.
    sent: VecDeque<Sent>,
    messages: usize,
    bytes: u64,
    /// raft-rs's own window is open.
    open: bool,
    /// The next index, if raft-rs could not send it when asked to: the log begins later and there is no snapshot yet,
    /// or the entries are still being read. raft-rs tries again with each answered heartbeat, so it is not asked
    /// before.
    stuck: Option<u64>,
    /// Heartbeats that the follower has answered since the window was closed, or since the last question.
    heard: u32,
    /// The index that the last question was about.
    asked: Option<u64>,
    /// A probe was sent without its entries, because there was no room for them.
    hollow: bool,
}

/// An append message that was not answered.
#[derive(Debug)]
struct Sent {
    /// The index before its first entry.
    prev: u64,
    /// The index of its last entry, `prev` if it has none.
    last: u64,
    bytes: u64,
    /// How many times in a row it was sent, if it has no entries.
    times: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            sent: VecDeque::new(),
            messages: 0,
            bytes: 0,
            open: true, // as raft-rs makes them
            stuck: None,
            heard: 0,
            asked: None,
            hollow: false,
        }
    }
}

impl Window {
    fn push(&mut self, prev: u64, last: u64, bytes: u64) {
        self.messages += usize::from(bytes > 0);
        self.bytes += bytes;
        match self.sent.back_mut() {
            Some(back) if bytes == 0 && (back.prev, back.last) == (prev, prev) => back.times += 1,
            _ => self.sent.push_back(Sent { prev, last, bytes, times: 1 }),
        }
    }

    /// The follower has everything up to `index`. If that is its answer to the message that ends at `index` (`exact`),
    /// all messages before it have arrived too. A follower may also answer an earlier message with its commit index,
    /// which says nothing about the others.
    fn accepted(&mut self, index: u64, exact: bool) {
        let asked = self.sent.iter().position(|sent| sent.last == index).filter(|_| exact);
        self.drop_through(asked.map_or(0, |at| at + 1));
        let (mut messages, mut bytes) = (0, 0);
        self.sent.retain(|sent| {
            let keep = sent.last > index;
            if !keep {
                messages += usize::from(sent.bytes > 0);
                bytes += sent.bytes;
            }
            keep
        });
        self.messages -= messages;
        self.bytes -= bytes;
    }

    /// The follower rejected a message because it lacks the entry before it, at `index`: that message and all before it
    /// are no longer in flight.
    fn refused(&mut self, index: u64) {
        match self.sent.iter().position(|sent| sent.prev == index) {
            Some(at) if self.sent[at].times > 1 => {
                self.sent[at].times -= 1;
                self.drop_through(at);
            }
            Some(at) => self.drop_through(at + 1),
            None => {}
        }
    }

    fn drop_through(&mut self, end: usize) {
        for sent in self.sent.drain(..end) {
            self.messages -= usize::from(sent.bytes > 0);
            self.bytes -= sent.bytes;
        }
    }

    /// Whether it is time to ask whether what was sent has arrived.
    fn may_ask(&self, patience: u32) -> bool {
        let last = self.sent.back().map(|sent| sent.last);
        self.heard >= if last.is_some() && self.asked == last { patience } else { 1 }
    }

    fn forget(&mut self) {
        *self = Self { open: self.open, ..Self::default() };
    }
}

impl Inflight {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            max_messages: config.max_inflight_msgs,
            max_bytes: config.max_inflight_bytes,
            patience: config.election_ticks,
            term: 0,
            seen: 0,
            windows: BTreeMap::new(),
            pauses: 0,
        }
    }

    /// Keeps a window for each other member of the configuration: all those that raft-rs may send to.
    pub(super) fn follow(&mut self, own: u64, configuration: &Configuration) {
        self.windows.retain(|id, _| configuration.contains(*id));
        for id in configuration.ids() {
            if id != own {
                self.windows.entry(id).or_default();
            }
        }
    }

    /// raft-rs's outgoing messages were taken out with a Ready.
    pub(super) const fn taken(&mut self) {
        self.seen = 0;
    }

    /// How many messages, and how many bytes, are in flight to `peer`.
    pub(super) fn of(&self, peer: u64) -> (usize, u64) {
        self.windows.get(&peer).map_or((0, 0), |window| (window.messages, window.bytes))
    }

    fn is_full(&self, window: &Window) -> bool {
        let bytes = window.bytes >= self.max_bytes && !planted("bytes-in-flight-not-counted");
        window.messages > 0 && (bytes || window.messages >= self.max_messages)
    }
}

impl Core {
    /// How many times sending to a follower was paused because the most that may be was in flight to it
    /// ([`Config::max_inflight_bytes`](crate::Config::max_inflight_bytes) or
    /// [`max_inflight_msgs`](crate::Config::max_inflight_msgs)).
    #[must_use]
    pub const fn inflight_pauses(&self) -> u64 {
        self.inflight.pauses
    }

    /// Accounts for a follower's answer; to be called before raft-rs gets it.
    pub(super) fn note_answer(&mut self, message: &Message) {
        let (raft, from) = (&self.raw.raft, message.from);
        if raft.state != StateRole::Leader || message.term != raft.term {
            return;
        }
        let Some(window) = self.inflight.windows.get_mut(&from) else { return };
        let Some(progress) = raft.prs().get(from) else { return };
        match message.get_msg_type() {
            MessageType::MsgHeartbeatResponse => window.heard = window.heard.saturating_add(1),
            MessageType::MsgAppendResponse => {
                let index = message.index;
                if message.reject {
                    window.refused(index);
                } else {
                    // Entries up to its commit index a follower does not compare; after a snapshot it names no commit
                    // index.
                    let looked = (1..index).contains(&message.commit);
                    window.accepted(index, looked && index > progress.matched);
                }
                // Otherwise raft-rs would send all that its own window allows at once.
                let all_sent = progress.state == ProgressState::Replicate
                    && progress.next_idx > raft.raft_log.last_index();
                if !all_sent {
                    self.shut(from);
                }
            }
            _ => {}
        }
    }

    /// Counts raft-rs's new outgoing messages, and sends more to the followers that have room.
    pub(super) fn pace(&mut self) {
        let (state, term) = (self.raw.raft.state, self.raw.raft.term);
        let term = if state == StateRole::Leader { term } else { 0 };
        if self.inflight.term != term {
            self.begin_inflight(term);
        }
        if term == 0 {
            return;
        }
        self.count_sent();
        let mut next = self.inflight.windows.keys().next().copied();
        while let Some(to) = next {
            self.pace_one(to);
            next = self.inflight.windows.range((Excluded(to), Unbounded)).next().map(|(id, _)| *id);
        }
    }

    /// Starts over with open windows: raft-rs keeps capacities from one term to the next, unless a snapshot came in
    /// between.
    fn begin_inflight(&mut self, term: u64) {
        self.inflight.term = term;
        for (id, window) in &mut self.inflight.windows {
            window.forget();
            window.open = true;
            self.raw.raft.adjust_max_inflight_msgs(*id, self.inflight.max_messages);
        }
    }

    fn shut(&mut self, to: u64) {
        if let Some(window) = self.inflight.windows.get_mut(&to)
            && window.open
            && !planted("a-burst-in-one-step")
        {
            (window.open, window.stuck, window.heard) = (false, None, 0);
            self.raw.raft.adjust_max_inflight_msgs(to, 0);
        }
    }

    fn count_sent(&mut self) {
        let mut messages = std::mem::take(&mut self.raw.raft.msgs);
        let mut at = self.inflight.seen;
        while let Some(message) = messages.get_mut(at) {
            if self.count_one(message) {
                at += 1;
            } else {
                messages.remove(at);
            }
        }
        self.inflight.seen = messages.len();
        self.raw.raft.msgs = messages;
    }

    /// Counts a message, and may replace it by a question. Returns whether it is to be sent.
    fn count_one(&mut self, message: &mut Message) -> bool {
        let to = message.to;
        if message.get_msg_type() != MessageType::MsgAppend {
            return true;
        }
        let Some(window) = self.inflight.windows.get(&to) else { return true };
        // raft-rs repeats a probe whenever a heartbeat is answered, whether or not there is room.
        let probe = self.raw.raft.prs().get(to).is_some_and(|p| p.state == ProgressState::Probe);
        let hollow = probe && !message.entries.is_empty() && self.inflight.is_full(window);
        let question = if hollow { self.question(to) } else { None };
        let Some(window) = self.inflight.windows.get_mut(&to) else { return true };
        window.hollow = hollow;
        if let Some(question) = question {
            if !window.may_ask(self.inflight.patience) {
                return false;
            }
            window.heard = 0;
            window.asked = Some(question.index);
            *message = question;
        }
        let last = message.entries.last().map_or(message.index, |entry| entry.index);
        let bytes = message.entries.iter().map(entry_bytes).sum();
        window.push(message.index, last, bytes);
        true
    }

    fn pace_one(&mut self, to: u64) {
        loop {
            let Some(window) = self.inflight.windows.get(&to) else { return };
            let Some(progress) = self.raw.raft.prs().get(to) else { return };
            let (state, next, open) = (progress.state, progress.next_idx, window.open);
            let full = self.inflight.is_full(window);
            match state {
                ProgressState::Snapshot => return self.shut(to),
                ProgressState::Probe => {
                    self.shut(to);
                    return self.fill_probe(to, full);
                }
                ProgressState::Replicate if full => {
                    self.inflight.pauses += u64::from(open);
                    self.shut(to);
                    return self.ask(to);
                }
                ProgressState::Replicate => {
                    let all_sent = next > self.raw.raft.raft_log.last_index();
                    let stuck = window.stuck == Some(next)
                        && !planted("a-snapshot-is-asked-for-at-each-look");
                    if open && (all_sent || stuck) {
                        return;
                    }
                    if planted("room-is-used-at-the-next-heartbeat") && !open {
                        let heard = self.inflight.windows.get(&to).map_or(0, |w| w.heard);
                        if heard == 0 {
                            return;
                        }
                    }
                    self.open(to);
                    // Even without entries it carries the commit index, as raft-rs's own message after a pause does.
                    self.raw.raft.send_append(to);
                    self.count_sent();
                    let sent = self.raw.raft.prs().get(to);
                    if sent.is_none_or(|progress| progress.next_idx == next) {
                        if let Some(window) = self.inflight.windows.get_mut(&to) {
                            window.stuck = (!all_sent).then_some(next);
                        }
                        return;
                    }
                }
            }
        }
    }

    fn open(&mut self, to: u64) {
        if let Some(window) = self.inflight.windows.get_mut(&to)
            && !window.open
        {
            (window.open, window.asked, window.hollow) = (true, None, false);
            self.raw.raft.adjust_max_inflight_msgs(to, self.inflight.max_messages);
        }
    }

    /// Sends the entries of a probe that had to leave without them, if there is room now.
    fn fill_probe(&mut self, to: u64, full: bool) {
        if let Some(window) = self.inflight.windows.get_mut(&to)
            && window.hollow
            && !full
        {
            window.hollow = false;
            if let Some(progress) = self.raw.raft.mut_prs().get_mut(to) {
                progress.resume();
            }
            self.raw.raft.send_append(to);
            self.count_sent();
        }
    }

    /// The window is full. If the follower answers heartbeats and nothing else, what was sent may be lost: ask.
    fn ask(&mut self, to: u64) {
        let Some(window) = self.inflight.windows.get_mut(&to) else { return };
        if !window.may_ask(self.inflight.patience) || planted("lost-appends-are-waited-for") {
            return;
        }
        window.heard = 0;
        window.asked = window.sent.back().map(|sent| sent.last);
        if let Some(question) = self.question(to) {
            self.raw.raft.msgs.push(question);
        } else {
            // The log begins later by now. raft-rs knows what to do: it takes a snapshot.
            self.raw.raft.adjust_max_inflight_msgs(to, self.inflight.max_messages);
            self.raw.raft.send_append(to);
            self.raw.raft.adjust_max_inflight_msgs(to, 0);
        }
        self.count_sent();
    }

    /// An append without entries after the last entry in flight: the answer tells whether everything has arrived.
    fn question(&self, to: u64) -> Option<Message> {
        let raft = &self.raw.raft;
        let index = self.inflight.windows.get(&to)?.sent.back()?.last;
        let log_term = raft.raft_log.term(index).ok().filter(|term| *term > 0)?;
        let (from, term, commit) = (raft.id, raft.term, raft.raft_log.committed);
        let mut message = Message { to, from, term, log_term, index, commit, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        Some(message)
    }
}
