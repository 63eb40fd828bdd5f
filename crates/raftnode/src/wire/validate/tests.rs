//! Each rule by a table, and all of them together in front of real raft-rs nodes that are spoken to at random.

use std::panic::{AssertUnwindSafe, catch_unwind};

use raft::eraftpb::Snapshot;
use raft::{Config, RawNode};

use super::*;
use crate::storage::{LogBatch, LogStore, SnapshotMark};
use crate::testing::{entries, entry, hard_state, mark};
use crate::{LogView, MemStore, convert};

mod random;

/// Member 1 of three, with a snapshot at 5 and entries 6 to 10, of which 7 are committed, all of term 1; at term 2.
struct Node {
    raw: RawNode<LogView>,
    unpersisted: Vec<(u64, Option<(u64, u64)>)>,
}

const LAST: u64 = 10;

impl Node {
    fn new() -> Self {
        let mut log = MemStore::new();
        log.append(&LogBatch {
            install: Some(mark(5, 1)),
            entries: &entries(6, LAST, 1),
            ..LogBatch::default()
        })
        .expect("fits");
        let state = hard_state(2, 0, 7);
        let mut view = LogView::new(log.reader(), Some(mark(5, 1)), state, 1 << 20).expect("opens");
        view.set_snapshot(mark(5, 1), "head".into());
        let config = Config {
            id: 1,
            applied: 5,
            pre_vote: true,
            check_quorum: true,
            max_size_per_msg: 1 << 20,
            ..Config::new(1)
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, view, &logger).expect("a valid configuration");
        let mut node = Self { raw, unpersisted: Vec::new() };
        node.settle();
        node
    }

    /// Follows member 2 in term 2.
    fn follower() -> Self {
        let mut node = Self::new();
        node.raw.step(message(MessageType::MsgHeartbeat, 2)).expect("a heartbeat");
        node.settle();
        assert_eq!(node.raw.raft.leader_id, 2);
        node
    }

    /// Waits for votes in term 3.
    fn candidate() -> Self {
        let mut node = Self::new();
        node.raw.campaign().expect("promotable");
        node.settle();
        node.raw.step(message(MessageType::MsgRequestPreVoteResponse, 3)).expect("a vote");
        node.settle();
        assert_eq!(node.raw.raft.state, StateRole::Candidate);
        node
    }

    /// Leads term 3; its empty entry is durable and not committed.
    fn leader() -> Self {
        let mut node = Self::candidate();
        node.raw.step(message(MessageType::MsgRequestVoteResponse, 3)).expect("a vote");
        node.settle();
        assert_eq!(node.raw.raft.state, StateRole::Leader);
        assert_eq!(node.raw.raft.raft_log.last_index(), LAST + 1);
        node
    }

    fn judge(&self, peer: u64, message: &Message) -> Result<(), Refused> {
        let raft = &self.raw.raft;
        let view = View {
            id: raft.id,
            term: raft.term,
            role: raft.state,
            leader: raft.leader_id,
            first_index: raft.raft_log.first_index(),
            last_index: raft.raft_log.last_index(),
            persisted: raft.raft_log.persisted,
            committed: raft.raft_log.committed,
            applied: raft.raft_log.applied(),
            is_removed: &|id| id == 9,
        };
        validate(peer, message, &view)
    }

    /// What a node does with every message.
    fn deliver(&mut self, message: Message) {
        if self.judge(message.from, &message).is_ok() {
            let _ = self.raw.step(message); // an error is an answer, a panic is not
        }
    }

    /// Takes a Ready and writes it, without a sync.
    fn write(&mut self) {
        if !self.raw.has_ready() {
            return;
        }
        let mut ready = self.raw.ready();
        let committed = ready.take_committed_entries();
        let view = self.raw.mut_store();
        let mut installed = None;
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            let (index, term) = (metadata.index, metadata.term);
            let conf_state = metadata.get_conf_state().clone();
            view.install(SnapshotMark { index, term, conf_state });
            installed = Some(index);
        }
        view.append(ready.entries()).expect("raft-rs appends what fits");
        if let Some(state) = ready.hs() {
            view.set_hard_state(state.clone());
        }
        let last = ready.entries().last().map(|entry| (entry.index, entry.term));
        self.unpersisted.push((ready.number(), last));
        self.raw.advance_append_async(ready);
        if let Some(index) = installed {
            self.persist();
            self.raw.advance_apply_to(index);
        }
        if let Some(last) = committed.last() {
            self.raw.advance_apply_to(last.index);
        }
    }

    fn persist(&mut self) {
        for (number, last) in std::mem::take(&mut self.unpersisted) {
            if let Some((index, term)) = last {
                self.raw.mut_store().persisted(index, term);
            }
            self.raw.on_persist_ready(number);
        }
    }

    fn settle(&mut self) {
        while self.raw.has_ready() {
            self.write();
            self.persist();
        }
    }
}

/// From member 2, in a term that is current or becomes so.
fn message(kind: MessageType, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.to, message.from, message.term) = (1, 2, term);
    message
}

fn with(kind: MessageType, term: u64, change: impl FnOnce(&mut Message)) -> Message {
    let mut message = message(kind, term);
    change(&mut message);
    message
}

fn append(term: u64, index: u64, log_term: u64, entries: Vec<Entry>) -> Message {
    with(MessageType::MsgAppend, term, |m| {
        (m.index, m.log_term) = (index, log_term);
        m.set_entries(convert::list_to_raft(entries));
    })
}

fn snapshot(term: u64, mark: &SnapshotMark) -> Message {
    with(MessageType::MsgSnapshot, term, |m| {
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = mark.index;
        snapshot.mut_metadata().term = mark.term;
        snapshot.mut_metadata().set_conf_state(mark.conf_state.clone());
        m.set_snapshot(snapshot);
    })
}

fn read(kind: MessageType, term: u64, contexts: &[&'static str]) -> Message {
    let entry = |context: &&'static str| convert::entry(0, 0, EntryType::EntryNormal, *context);
    with(kind, term, |m| m.set_entries(convert::list_to_raft(contexts.iter().map(entry).collect())))
}

/// What honest members say, at any time: all of it must pass, or be told from a fault.
#[test]
fn honest_messages_pass() {
    let (follower, candidate, leader) = (Node::follower(), Node::candidate(), Node::leader());
    let at = |node: &Node, message: Message| node.judge(message.from, &message);
    let in_order = [entries(11, 12, 1), entries(13, 13, 2)].concat();
    for message in [
        append(2, 10, 1, in_order),
        append(2, 10, 1, vec![]),
        append(2, 90, 2, vec![]),
        with(MessageType::MsgHeartbeat, 2, |m| m.commit = LAST),
        snapshot(2, &mark(20, 2)),
        with(MessageType::MsgRequestVote, 3, |m| (m.index, m.log_term) = (30, 2)),
        with(MessageType::MsgRequestPreVote, 3, |m| (m.index, m.log_term) = (30, 2)),
        message(MessageType::MsgTimeoutNow, 2),
        with(read(MessageType::MsgReadIndexResp, 2, &["id"]).get_msg_type(), 2, |m| {
            m.index = 30; // it may lie beyond what has arrived here
            m.set_entries(read(MessageType::MsgReadIndexResp, 2, &["id"]).take_entries());
        }),
        // A leader that we do not know of yet, in a later term.
        with(MessageType::MsgHeartbeat, 5, |m| m.from = 77),
    ] {
        assert_eq!(at(&follower, message.clone()), Ok(()), "{message:?}");
    }
    let vote = message(MessageType::MsgRequestVoteResponse, 3);
    assert_eq!(at(&candidate, vote), Ok(()));
    for message in [
        with(MessageType::MsgAppendResponse, 3, |m| (m.index, m.commit) = (11, 11)),
        with(MessageType::MsgAppendResponse, 3, |m| {
            (m.index, m.reject, m.reject_hint, m.log_term) = (11, true, 9, 1);
        }),
        with(MessageType::MsgHeartbeatResponse, 3, |m| m.commit = 8),
        read(MessageType::MsgReadIndex, 0, &["id"]),
        // Late or stale, and ignored by raft-rs.
        with(MessageType::MsgAppendResponse, 2, |m| m.index = 500),
        with(MessageType::MsgHeartbeat, 2, |m| m.commit = 500),
        message(MessageType::MsgTimeoutNow, 2),
    ] {
        assert_eq!(at(&leader, message.clone()), Ok(()), "{message:?}");
    }
}

/// Who a message is spoken to.
#[derive(Clone, Copy, Debug)]
enum To {
    Follower,
    Candidate,
    Leader,
    /// Nobody leads, as far as it knows.
    Idle,
}

impl To {
    fn node(self) -> Node {
        match self {
            Self::Follower => Node::follower(),
            Self::Candidate => Node::candidate(),
            Self::Leader => Node::leader(),
            Self::Idle => Node::new(),
        }
    }
}

/// Messages of a peer that is broken, hostile or was wiped. `true` marks those that make raft-rs 0.7 panic in this
/// very state; the test below shows that they do.
fn hostile() -> Vec<(&'static str, To, Message, bool)> {
    use MessageType::*;
    use To::{Candidate, Follower, Idle, Leader};
    let huge = u64::MAX;
    let conf = |change: fn(&mut ConfState)| {
        let mut mark = mark(20, 2);
        change(&mut mark.conf_state);
        snapshot(2, &mark)
    };
    let mut gap = entries(11, 13, 2);
    gap.remove(1);
    let mut with_context = entry(11, 2);
    with_context.set_context(convert::to_raft("ctx".into()));
    let bad_change = convert::entry(11, 2, EntryType::EntryConfChange, &b"\x10\x09\x18\x01"[..]);
    vec![
        // Whom, and from whom.
        ("for somebody else", Follower, with(MsgHeartbeat, 2, |m| m.to = 3), false),
        ("from nobody", Follower, with(MsgHeartbeat, 2, |m| m.from = 0), false),
        ("from ourselves", Follower, with(MsgHeartbeat, 2, |m| m.from = 1), false),
        ("from a removed member", Follower, with(MsgHeartbeat, 3, |m| m.from = 9), false),
        // Types that do not travel.
        ("hup", Follower, message(MsgHup, 2), false),
        ("beat", Leader, message(MsgBeat, 3), false),
        ("check quorum", Leader, message(MsgCheckQuorum, 3), false),
        ("unreachable", Leader, message(MsgUnreachable, 3), false),
        ("snapshot status", Leader, message(MsgSnapStatus, 3), false),
        ("transfer leader", Leader, message(MsgTransferLeader, 3), false),
        ("propose", Leader, append(0, 0, 0, entries(0, 0, 0)), false),
        ("propose nothing", Leader, message(MsgPropose, 0), true),
        // Numbers.
        ("term 0 vote", Idle, with(MsgRequestVote, 0, |m| (m.index, m.log_term) = (30, 2)), true),
        (
            "term 0 pre-vote",
            Idle,
            with(MsgRequestPreVote, 0, |m| (m.index, m.log_term) = (30, 2)),
            true,
        ),
        ("term 0 heartbeat", Follower, message(MsgHeartbeat, 0), false),
        ("the last term", Follower, message(MsgHeartbeat, huge), false),
        (
            "the last term, from a stranger",
            Leader,
            with(MsgAppendResponse, huge, |m| m.from = 77),
            false,
        ),
        ("a term that the log has no room for", Follower, message(MsgHeartbeat, 1 << 56), false),
        ("a term far ahead", Follower, message(MsgHeartbeat, 1 << 33), false),
        ("index overflow", Follower, append(2, huge, 1, vec![]), false),
        ("a log newer than its term", Follower, append(2, 10, 3, vec![]), false),
        ("commit overflow", Follower, with(MsgHeartbeat, 2, |m| m.commit = huge), true),
        (
            "a long context",
            Follower,
            with(MsgHeartbeat, 2, |m| m.set_context(convert::to_raft(vec![0; 2000].into()))),
            false,
        ),
        // Entries.
        ("a gap within", Follower, append(2, 10, 1, gap), false),
        ("a gap before", Follower, append(2, 10, 1, entries(13, 13, 2)), true),
        ("a conflict with what is committed", Follower, append(2, 10, 1, entries(6, 6, 2)), true),
        (
            "terms that fall",
            Follower,
            append(2, 10, 1, [entries(11, 11, 2), entries(12, 12, 1)].concat()),
            false,
        ),
        ("terms from the future", Follower, append(2, 10, 1, entries(11, 11, 3)), false),
        ("an entry of term 0", Follower, append(2, 10, 0, entries(11, 11, 0)), false),
        ("an entry with a context", Follower, append(2, 10, 1, vec![with_context]), false),
        ("a conf change of unknown type", Follower, append(2, 10, 1, vec![bad_change]), false),
        (
            "entries in a heartbeat",
            Follower,
            with(MsgHeartbeat, 2, |m| m.set_entries(convert::list_to_raft(entries(1, 1, 1)))),
            false,
        ),
        ("a match beyond the log", Follower, append(2, 500, 0, entries(501, 501, 2)), true),
        // What was lost here.
        ("commit beyond the log", Follower, with(MsgHeartbeat, 2, |m| m.commit = LAST + 1), true),
        (
            "commit beyond the log, new leader",
            Candidate,
            with(MsgHeartbeat, 4, |m| m.commit = LAST + 1),
            true,
        ),
        // Two leaders.
        ("another leader's append", Follower, with(MsgAppend, 2, |m| m.from = 3), false),
        ("another leader's heartbeat", Leader, with(MsgHeartbeat, 3, |m| m.commit = 500), false),
        // Acknowledgements.
        (
            "an ack beyond the log",
            Leader,
            with(MsgAppendResponse, 3, |m| m.index = LAST + 2),
            false,
        ),
        (
            "an ack at the end of numbers",
            Leader,
            with(MsgAppendResponse, 3, |m| m.index = huge),
            true,
        ),
        (
            "a hint at the end of numbers",
            Leader,
            with(MsgAppendResponse, 3, |m| (m.index, m.reject, m.reject_hint) = (10, true, huge)),
            true,
        ),
        (
            "a hint beyond the rejection",
            Leader,
            with(MsgAppendResponse, 3, |m| (m.index, m.reject, m.reject_hint) = (9, true, 10)),
            false,
        ),
        (
            "a snapshot wish from the future",
            Leader,
            with(MsgAppendResponse, 3, |m| (m.reject, m.request_snapshot) = (true, 500)),
            false,
        ),
        (
            "a follower ahead of its leader",
            Leader,
            with(MsgHeartbeatResponse, 3, |m| m.commit = 500),
            false,
        ),
        // Snapshots.
        ("no snapshot at all", Follower, message(MsgSnapshot, 2), false),
        (
            "a snapshot in a heartbeat",
            Follower,
            with(MsgHeartbeat, 2, |m| m.set_snapshot(snapshot(2, &mark(20, 2)).take_snapshot())),
            false,
        ),
        ("a snapshot of nothing", Follower, snapshot(2, &mark(0, 0)), false),
        ("a snapshot at the end of numbers", Follower, snapshot(2, &mark(huge, 2)), true),
        ("a snapshot from the future", Follower, snapshot(2, &mark(20, 3)), false),
        ("nobody votes", Follower, conf(|c| c.set_voters(vec![])), false),
        ("a voter learns", Follower, conf(|c| c.set_learners(vec![2])), true),
        (
            "an outgoing voter learns",
            Follower,
            conf(|c| (c.set_voters_outgoing(vec![1, 4]), c.set_learners(vec![4])).0),
            true,
        ),
        ("a voter is named twice", Follower, conf(|c| c.set_voters(vec![1, 1, 2])), false),
        ("member 0", Follower, conf(|c| c.set_voters(vec![0, 1, 2])), true),
        ("nobody becomes a learner", Follower, conf(|c| c.set_learners_next(vec![7])), true),
        ("leaving what is not joint", Follower, conf(|c| c.auto_leave = true), true),
        // Elections and reads.
        ("a vote before it was asked for", Candidate, message(MsgRequestVoteResponse, 3), false),
        (
            "an election ordered by a follower",
            Follower,
            with(MsgTimeoutNow, 2, |m| m.from = 3),
            false,
        ),
        ("a read with nothing in it", Leader, message(MsgReadIndex, 0), false),
        ("two reads", Leader, read(MsgReadIndex, 0, &["a", "b"]), false),
        ("a read with a term", Follower, read(MsgReadIndex, 2, &["id"]), true),
        ("a read that we would hand on", Follower, read(MsgReadIndex, 0, &["id"]), false),
        (
            "a read's answer without a term",
            Follower,
            with(MsgReadIndexResp, 0, |m| {
                m.index = 500;
                m.set_entries(read(MsgReadIndexResp, 0, &["id"]).take_entries());
            }),
            true,
        ),
        (
            "a read's answer from a follower",
            Follower,
            with(MsgReadIndexResp, 2, |m| {
                m.from = 3;
                m.set_entries(read(MsgReadIndexResp, 2, &["id"]).take_entries());
            }),
            false,
        ),
    ]
}

#[test]
fn each_hostile_message_is_refused() {
    for (name, to, message, _) in hostile() {
        if name == "a vote before it was asked for" {
            continue; // it depends on what is durable; see below
        }
        let node = to.node();
        // The transport tells who a connection belongs to; some lie about that.
        let peer = if [0, 1].contains(&message.from) { 2 } else { message.from };
        let verdict = node.judge(peer, &message);
        assert!(verdict.is_err(), "{name}: {message:?}");
        let untimely = [
            "a removed",
            "beyond the log",
            "another leader's",
            "an election ordered",
            "hand on",
            "answer from",
        ];
        let lost = matches!(verdict, Err(Refused::LogLost { commit: 11, last: 10 }));
        assert_eq!(lost, name.starts_with("commit beyond"), "{name}: {verdict:?}");
        if !untimely.iter().any(|part| name.contains(part)) {
            assert!(verdict.is_err_and(|refused| refused.is_fault()), "{name}");
        }
    }
}

/// Why the table is what it is. When a new raft-rs no longer panics on one of these, this test says so.
#[test]
fn raft_panics_on_the_marked_messages_without_the_validator() {
    let mut taken = Vec::new();
    for (name, to, message, _) in hostile().into_iter().filter(|(.., panics)| *panics) {
        let mut node = to.node();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let _ = node.raw.step(message);
            node.settle();
            for _ in 0..30 {
                node.raw.tick();
                node.settle();
            }
        }));
        if result.is_ok() {
            taken.push(name);
        }
    }
    assert!(taken.is_empty(), "raft-rs takes these now: {taken:?}");
}

#[test]
fn behind_the_validator_none_of_them_panics() {
    for (name, to, message, _) in hostile() {
        let mut node = to.node();
        let result = catch_unwind(AssertUnwindSafe(|| {
            node.deliver(message);
            node.settle();
            for _ in 0..30 {
                node.raw.tick();
                node.settle();
            }
        }));
        assert!(result.is_ok(), "{name}");
    }
}

/// raft-rs asserts at its election that everything it holds is durable (raft-rs #489).
#[test]
fn a_vote_before_our_log_is_durable_is_refused() {
    let mut node = Node::follower();
    node.raw.step(append(2, 10, 1, entries(11, 11, 2))).expect("an append");
    node.write();
    node.raw.campaign().expect("promotable");
    let vote = message(MessageType::MsgRequestPreVoteResponse, 3);
    assert!(matches!(node.judge(2, &vote), Err(Refused::NotNow(_))));
    node.settle();
    node.persist();
    assert_eq!(node.judge(2, &vote), Ok(()));
}

/// raft-rs looks for conf changes among the entries that a snapshot has just replaced.
#[test]
fn no_election_while_a_snapshot_is_being_installed() {
    let mut node = Node::follower();
    node.raw.step(snapshot(2, &mark(20, 2))).expect("a snapshot");
    let order = message(MessageType::MsgTimeoutNow, 2);
    assert!(matches!(node.judge(2, &order), Err(Refused::NotNow(_))));
    node.settle();
    assert_eq!(node.judge(2, &order), Ok(()), "it is applied now");
}

#[test]
fn removed_members_and_strangers_are_told_apart() {
    let node = Node::follower();
    let from = |from| with(MessageType::MsgRequestVote, 3, |m| m.from = from);
    assert_eq!(node.judge(9, &from(9)), Err(Refused::Removed { from: 9 }));
    assert_eq!(
        node.judge(77, &from(77)),
        Ok(()),
        "added by entries that have not arrived here yet"
    );
    assert_eq!(node.judge(3, &from(2)), Err(Refused::WrongSender { from: 2, peer: 3 }));
}
