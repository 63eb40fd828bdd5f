//! What is under way to a slow follower is bounded in bytes, and nothing waits longer than it has to.

use std::collections::VecDeque;
use std::time::Duration;

use oarlock_raftnode::core::Event;
use oarlock_raftnode::raft::eraftpb::{Message, MessageType};
use oarlock_raftnode::wire::{Forward, ForwardKind};
use oarlock_raftnode::{Config, Payload, PeerState, PeerStatus, SnapshotMark};

mod support;
use support::sim::{Packet, Sim};
use support::{TestCluster, config, wait_for};

const BUDGET: u64 = 4_000;

fn small(config: Config) -> Config {
    config.max_size_per_msg(1_000).max_inflight_bytes(BUDGET)
}

/// As the core counts them.
fn bytes(message: &Message) -> u64 {
    message.entries.iter().map(|entry| entry.data.len() as u64 + 64).sum()
}

/// Node 1 leads, and what it appends to node 3 does not arrive by itself.
struct Slow {
    sim: Sim,
    seed: u64,
    /// The appends that wait, in order.
    lane: VecDeque<Message>,
    /// All of 3's traffic is lost.
    cut: bool,
    proposed: usize,
}

impl Slow {
    fn new(seed: u64, configure: impl FnOnce(Config) -> Config) -> Self {
        Self::of(Sim::new_with(3, seed, configure), seed)
    }

    fn of(mut sim: Sim, seed: u64) -> Self {
        sim.elect(1);
        sim.settle();
        let mut slow = Self { sim, seed, lane: VecDeque::new(), cut: false, proposed: 0 };
        slow.tick();
        slow.arrive_all();
        slow
    }

    /// Asks for several appends at once.
    fn propose(&mut self, count: usize, len: usize) {
        let vitals = self.sim.core(1).vitals();
        let forwards: Vec<Forward> = (0..count)
            .map(|_| {
                self.proposed += 1;
                let sequence = 1_000_000 + self.proposed as u64;
                let id = oarlock_raftnode::membership::ProposalId {
                    origin: 1,
                    incarnation: 9,
                    sequence,
                };
                let text = format!("{:04}{}", self.proposed, "x".repeat(len));
                let data = Payload::Application { id, data: text.into() }.encode();
                Forward { id, kind: ForwardKind::Normal, data, term: vitals.term }
            })
            .collect();
        self.sim.core(1).handle_propose(forwards);
        self.sim.poll(1);
        self.work();
    }

    /// Everything but the slow lane does what it can.
    fn work(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "seed {}: it never settles", self.seed);
            let mut busy = false;
            self.watch();
            for id in 1..=3 {
                self.sim.poll(id);
                while self.sim.write(id) {
                    busy = true;
                }
                busy |= self.sim.sync(id);
                busy |= self.sim.apply(id);
                self.watch();
            }
            for (from, to, packet) in std::mem::take(&mut self.sim.net) {
                busy = true;
                if self.cut && (from == 3 || to == 3) {
                    self.sim.cut = vec![3];
                    self.sim.deliver(from, to, packet); // a snapshot's sender hears that it is lost
                    self.sim.cut.clear();
                    continue;
                }
                self.sim.deliver(from, to, packet);
                self.watch();
            }
            if !busy {
                return;
            }
        }
    }

    /// Takes what has left for node 3, and checks the bound: nothing is sent beyond the budget, but for the last message.
    /// What 3 is known to have, from an earlier copy or a snapshot, does not count: it may answer for all of it at once.
    fn watch(&mut self) {
        for (from, to, packet) in std::mem::take(&mut self.sim.net) {
            match packet {
                Packet::Raft(message)
                    if to == 3 && message.get_msg_type() == MessageType::MsgAppend =>
                {
                    if !self.cut {
                        self.lane.push_back(*message);
                    }
                }
                packet => self.sim.net.push_back((from, to, packet)),
            }
        }
        let Some(PeerStatus { matched, inflight_bytes, .. }) = self.peer() else { return };
        let unknown = |message: &&Message| message.entries.iter().any(|e| e.index > matched);
        let sent: Vec<u64> = self.lane.iter().filter(unknown).map(bytes).collect();
        let before: u64 = sent.iter().rev().skip(1).sum();
        assert!(before < BUDGET, "seed {}: {before} bytes, and it sends more", self.seed);
        let all: u64 = sent.iter().sum();
        assert!(
            all <= inflight_bytes,
            "seed {}: {all} bytes are under way, not {inflight_bytes}",
            self.seed
        );
    }

    fn bytes(&self) -> u64 {
        self.lane.iter().map(bytes).sum()
    }

    /// What the leader says of node 3.
    fn peer(&mut self) -> Option<PeerStatus> {
        self.sim.core(1).status().peers.into_iter().find(|peer| peer.id == 3)
    }

    /// Time passes; heartbeats arrive, and are answered.
    fn tick(&mut self) {
        self.sim.tick(1);
        self.work();
    }

    /// The oldest append arrives.
    fn arrive(&mut self) -> bool {
        let Some(message) = self.lane.pop_front() else { return false };
        self.sim.deliver(1, 3, Packet::Raft(message.into()));
        self.work();
        true
    }

    fn arrive_all(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "seed {}: it never ends", self.seed);
            if !self.arrive() {
                return;
            }
        }
    }

    fn catches_up_within(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.arrive_all();
            if self.sim.node(3).lines.len() == self.proposed {
                return;
            }
            self.tick();
        }
        let (have, peer) = (self.sim.node(3).lines.len(), self.peer());
        panic!("seed {}: it has {have} of {}: {peer:?}", self.seed, self.proposed);
    }
}

#[test]
fn what_is_under_way_to_a_slow_follower_is_bounded_in_bytes() {
    let mut slow = Slow::new(1, small);
    for _ in 0..40 {
        slow.propose(1, 300);
    }
    assert_eq!(slow.sim.node(2).lines.len(), 40, "the others do not wait for it");
    assert!(slow.bytes() >= BUDGET, "the budget is not used: {} bytes", slow.bytes());
    let peer = slow.peer().expect("a follower");
    let messages = slow.lane.iter().filter(|message| !message.entries.is_empty()).count();
    assert_eq!((peer.inflight_bytes, peer.inflight), (slow.bytes(), messages));
    assert_eq!(peer.state, PeerState::Replicate);
    assert!(slow.sim.core(1).inflight_pauses() > 0);
    slow.catches_up_within(1);
    assert_eq!(slow.peer().expect("a follower").inflight_bytes, 0);
}

/// What waits together leaves in several messages, before the core is asked for any of them.
#[test]
fn many_proposals_at_once_keep_the_bound() {
    let mut slow = Slow::new(2, small);
    slow.propose(100, 300);
    assert_eq!(slow.sim.node(2).lines.len(), 100);
    assert!(slow.bytes() >= BUDGET);
    slow.catches_up_within(1);
}

/// raft-rs would put out as much as its window holds, 512 messages, in the step that ends the probing: if memory holds the
/// entries.
#[test]
fn a_follower_that_is_far_behind_gets_no_burst() {
    let mut slow = Slow::of(Sim::with_cache(3, 3, 1 << 20, small), 3);
    slow.cut = true;
    slow.propose(100, 300);
    let pauses = slow.sim.core(1).inflight_pauses();
    slow.sim.core(1).handle_unreachable(3);
    slow.cut = false;
    slow.tick();
    assert!(slow.arrive(), "it is asked what has become of what was sent");
    assert!(slow.arrive(), "it is probed");
    assert!(slow.bytes() >= BUDGET, "the budget is not used: {} bytes", slow.bytes());
    let paused = slow.sim.core(1).inflight_pauses() - pauses;
    assert_eq!(paused, 1, "its window is shut once and stays shut");
    slow.catches_up_within(1);
}

#[test]
fn room_is_used_as_soon_as_there_is_some() {
    let mut slow = Slow::new(4, small);
    slow.propose(100, 300);
    let waits = slow.lane.len();
    for _ in 0..20 {
        assert!(slow.arrive());
        assert!(slow.lane.len() >= waits, "nothing took its place");
    }
    slow.catches_up_within(1);
}

#[test]
fn an_entry_beyond_the_budget_goes_alone() {
    let mut slow = Slow::new(5, small);
    slow.propose(5, 3 * BUDGET as usize);
    for _ in 0..5 {
        let full = slow.lane.iter().filter(|message| !message.entries.is_empty()).count();
        assert_eq!(full, 1);
        assert!(slow.arrive());
    }
    slow.catches_up_within(1);
}

/// raft-rs takes the oldest message for lost with every heartbeat that is answered, and sends another one.
#[test]
fn answered_heartbeats_do_not_let_more_through() {
    for (seed, unreachable) in [(6, false), (7, true)] {
        let mut slow = Slow::new(seed, small);
        slow.propose(100, 300);
        if unreachable {
            slow.sim.core(1).handle_unreachable(3); // then it repeats its probe
        }
        let before = slow.bytes();
        for _ in 0..300 {
            slow.tick();
        }
        assert!(slow.bytes() < 2 * before, "seed {seed}: {} bytes", slow.bytes());
        let peer = slow.peer().expect("a follower");
        assert_eq!(peer.inflight_bytes, slow.bytes(), "seed {seed}");
        assert_eq!(slow.sim.node(2).lines.len(), 100);
        slow.catches_up_within(2);
    }
}

/// Without an answer there would never be room again; nobody says that they were lost.
#[test]
fn what_was_lost_is_sent_again_though_the_window_is_full() {
    for seed in 10..14 {
        let mut slow = Slow::new(seed, small);
        slow.propose(100, 300);
        slow.lane.clear();
        slow.catches_up_within(4);
    }
}

#[test]
fn messages_in_flight_are_bounded_too() {
    let mut slow = Slow::new(20, |config| small(config).max_inflight_msgs(3));
    for _ in 0..50 {
        slow.propose(1, 10);
        slow.tick();
    }
    let full = slow.lane.iter().filter(|message| !message.entries.is_empty()).count();
    assert_eq!(full, 3);
    assert_eq!(slow.peer().expect("a follower").inflight, 3);
    slow.catches_up_within(1);
}

/// The log may have been compacted beyond what was sent, when it turns out to be lost.
#[test]
fn a_follower_whose_messages_are_lost_and_compacted_gets_a_snapshot() {
    let mut slow = Slow::new(21, small);
    slow.propose(100, 300);
    slow.lane.clear();
    slow.sim.snapshot(1);
    let snapshot = slow.sim.core(1).status().snapshot_index;
    assert!(slow.peer().expect("a follower").next < slow.sim.core(1).log_bounds().0, "{snapshot}");
    slow.catches_up_within(4);
}

/// What comes next is compacted, and no snapshot is there that helps: then one is asked for once with each answer, not each
/// time the core is looked at. (Whoever looks again for as long as something comes out would never end.)
#[test]
fn a_snapshot_that_is_not_there_yet_is_asked_for_once_with_each_answer() {
    let mut slow = Slow::new(22, small);
    slow.cut = true;
    slow.propose(100, 300);
    slow.sim.core(1).handle_unreachable(3);
    slow.cut = false;
    slow.tick();
    assert!(slow.arrive(), "it is asked what has become of what was sent, and then probed");
    let index = slow.sim.core(1).applied() - 1;
    let mark = SnapshotMark { index, ..SnapshotMark::default() }; // as if from before it was added
    slow.sim.core(1).handle_snapshot_ready(mark, Default::default());
    slow.sim.core(1).handle_compact(index).expect("it reads");
    slow.arrive_all();
    let peer = slow.peer().expect("a follower");
    assert!(peer.state == PeerState::Replicate && peer.next <= index, "{peer:?}");
    let mut wishes = 0;
    for round in 0..10 {
        for _ in 0..10 {
            let core = slow.sim.core(1);
            assert!(core.poll_effects().expect("it reads").is_none());
            while let Some(event) = core.poll_event() {
                wishes += usize::from(matches!(event, Event::SnapshotWanted(_)));
            }
        }
        assert!(wishes <= round, "{wishes} wishes after {round} answers");
        slow.sim.tick(1);
        slow.sim.poll(1);
        let lanes = std::mem::take(&mut slow.sim.net);
        for (from, to, packet) in lanes {
            slow.sim.deliver(from, to, packet);
        }
    }
    slow.sim.snapshot(1);
    slow.catches_up_within(2);
}

/// Real nodes, and a network that takes heartbeats and nothing else: what the leader has handed to it is all that it ever
/// holds for that follower, whatever is written meanwhile.
#[test]
fn a_network_that_takes_nothing_holds_no_more_than_the_budget() {
    let (budget, message, entry) = (1 << 18, 1 << 16, 1 << 14);
    let config = config().max_size_per_msg(message).max_inflight_bytes(budget);
    let mut cluster = TestCluster::new(3, config);
    let leader = cluster.leader();
    let (_, spy) = cluster.spy_on(leader, false);
    cluster.lead(leader);
    let slow = cluster.follower();
    cluster.handle(leader).propose("first").wait().expect("applied");
    cluster.settle(1);
    spy.block(slow);
    for n in 0..200 {
        let line = format!("{n:0entry$}");
        cluster.handle(leader).propose(line).wait().expect("two of three");
        let (_, held) = spy.blocked();
        assert!(held <= budget + message, "after {n}: {held} bytes");
    }
    let (messages, _) = spy.blocked();
    std::thread::sleep(Duration::from_millis(400)); // 20 heartbeats that are answered
    let (later, held) = spy.blocked();
    assert!(later <= messages + 1, "it goes on asking: {messages} messages, and then {later}");
    assert!((budget - 1024..=budget + message).contains(&held), "{held} bytes");
    let status = cluster.handle(leader).status();
    let peer = status.peers.iter().find(|peer| peer.id == slow).expect("a follower");
    assert!(peer.inflight_bytes >= held && peer.inflight > 0, "{peer:?}, {held} bytes");
    assert_eq!((status.stats.inflight_pauses, peer.state), (1, PeerState::Replicate));
    spy.unblock();
    cluster.settle(201);
    wait_for("its answers", || {
        let status = cluster.handle(leader).status();
        status.peers.iter().all(|peer| peer.inflight_bytes == 0).then_some(())
    });
}

/// Whatever is lost, and whatever happens in between: the bound holds, and in the end everybody has everything.
#[test]
fn any_schedule_keeps_the_bound_and_ends() {
    for seed in 100..160 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let messages = rng.usize(1..20);
        let mut slow = Slow::new(seed, |config| small(config).max_inflight_msgs(messages));
        for _ in 0..120 {
            match rng.u8(..12) {
                0..=3 => slow.propose(rng.usize(1..6), rng.usize(1..600)),
                4 => slow.propose(1, rng.usize(1..9_000)),
                5 | 6 => {
                    for _ in 0..rng.usize(1..5) {
                        slow.arrive();
                    }
                }
                7 => slow.lane.truncate(rng.usize(..=slow.lane.len())),
                8 => drop(slow.lane.pop_front()),
                9 => slow.sim.core(1).handle_unreachable(3),
                10 if rng.u8(..4) == 0 => slow.sim.snapshot(1),
                11 if rng.u8(..4) == 0 => slow.cut = !slow.cut,
                _ => slow.tick(),
            }
            slow.work();
        }
        slow.cut = false;
        slow.catches_up_within(40);
    }
}
