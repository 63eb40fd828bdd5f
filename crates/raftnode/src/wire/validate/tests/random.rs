//! Real raft-rs nodes behind the validator, spoken to at random.

use super::*;

/// Numbers around everything that matters to a node.
fn number(random: &mut fastrand::Rng, node: &Node) -> u64 {
    let log = &node.raw.raft.raft_log;
    let near =
        [0, 5, log.applied(), log.committed, log.persisted, log.last_index(), node.raw.raft.term];
    match random.u8(0..20) {
        0 => u64::MAX,
        1 => 1 << 62,
        2 => random.u64(..),
        _ => (near[random.usize(0..near.len())] + random.u64(0..5)).saturating_sub(2),
    }
}

fn any_message(random: &mut fastrand::Rng, node: &Node) -> Message {
    use MessageType::*;
    const KINDS: [MessageType; 19] = [
        MsgHup,
        MsgBeat,
        MsgPropose,
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgSnapshot,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgUnreachable,
        MsgSnapStatus,
        MsgCheckQuorum,
        MsgTransferLeader,
        MsgTimeoutNow,
        MsgReadIndex,
        MsgReadIndexResp,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
    ];
    let any = |random: &mut fastrand::Rng| number(random, node);
    let mut message = Message::default();
    message.set_msg_type(KINDS[random.usize(0..KINDS.len())]);
    message.to = 1;
    message.from = random.u64(2..4);
    let term = node.raw.raft.term;
    message.term = if random.u8(0..3) == 0 { any(random) } else { term + random.u64(0..2) };
    message.log_term = any(random).min(message.term);
    message.index = any(random);
    message.commit = any(random);
    message.commit_term = any(random);
    message.reject = random.u8(0..3) == 0;
    message.reject_hint = any(random);
    message.request_snapshot = if random.u8(0..8) == 0 { any(random) } else { 0 };
    if random.u8(0..4) == 0 {
        message.set_context(convert::to_raft("CampaignTransfer".into()));
    }
    match message.get_msg_type() {
        MsgAppend | MsgPropose => {
            let first =
                if random.u8(0..6) == 0 { any(random) } else { message.index.saturating_add(1) };
            let term = any(random).min(message.term).max(message.log_term);
            let last = first.saturating_add(random.u64(0..4)).min(u64::MAX - 1);
            message.set_entries(convert::list_to_raft(
                (first..last).map(|index| entry(index, term)).collect(),
            ));
        }
        MsgReadIndex | MsgReadIndexResp if random.u8(0..4) > 0 => {
            message.term = if message.get_msg_type() == MsgReadIndex { 0 } else { message.term };
            message.set_entries(read(MsgReadIndex, 0, &["id"]).take_entries());
        }
        // A leader's snapshot, as it should be.
        MsgSnapshot if random.bool() => {
            message.term = term.max(2);
            message.from = [node.raw.raft.leader_id, 2][usize::from(node.raw.raft.leader_id < 2)];
            let index = node.raw.raft.raft_log.last_index().saturating_add(random.u64(1..5));
            message
                .set_snapshot(snapshot(message.term, &mark(index, message.term)).take_snapshot());
        }
        MsgSnapshot => {
            let ids = |random: &mut fastrand::Rng, n| {
                (0..random.u64(0..n)).map(|_| random.u64(0..6)).collect()
            };
            let mut conf_state = ConfState::default();
            conf_state.set_voters(if random.bool() { vec![1, 2, 3] } else { ids(random, 4) });
            conf_state.set_learners(ids(random, 2));
            conf_state.set_voters_outgoing(ids(random, 4));
            conf_state.set_learners_next(ids(random, 2));
            conf_state.auto_leave = random.u8(0..4) == 0;
            let (index, term) = (any(random), any(random).min(message.term));
            let snapshot =
                snapshot(message.term, &SnapshotMark { index, term, conf_state }).take_snapshot();
            message.set_snapshot(snapshot);
        }
        _ => {}
    }
    message
}

/// Peers that say anything at all, to a node in any state: it may lose its election, never its life.
#[test]
fn nothing_that_passes_makes_raft_panic() {
    let (mut passed, mut snapshots) = (0, 0);
    for seed in 0..2000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut node = [To::Follower, To::Candidate, To::Leader][random.usize(0..3)].node();
        for step in 0..60 {
            let mut said = None;
            let result = catch_unwind(AssertUnwindSafe(|| match random.u8(0..12) {
                0 => {
                    // O17: no ticks while a snapshot is under way.
                    if node.raw.snap().is_none() {
                        node.raw.tick();
                    }
                }
                1 | 2 => node.write(),
                3 => node.persist(),
                4 => {
                    node.settle();
                    node.persist();
                }
                5 if node.raw.raft.state == StateRole::Leader => {
                    let _ = node.raw.propose(vec![], b"x".to_vec());
                }
                _ => {
                    let message = any_message(&mut random, &node);
                    let verdict = node.judge(message.from, &message);
                    passed += usize::from(verdict.is_ok());
                    snapshots += usize::from(verdict.is_ok() && message.has_snapshot());
                    said = Some(message.clone());
                    node.deliver(message);
                }
            }));
            assert!(result.is_ok(), "seed {seed}, step {step}: {said:?}");
        }
    }
    assert!(passed > 2000, "only {passed} messages passed: the test speaks nonsense");
    assert!(snapshots > 100, "only {snapshots} snapshots passed");
}

/// `check_conf_state` accepts what raft-rs can start from, and nothing that it panics about or changes.
#[test]
fn raft_starts_from_every_configuration_that_passes() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..4000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut ids =
            |most| -> Vec<u64> { (0..random.u64(0..=most)).map(|_| random.u64(0..6)).collect() };
        let mut conf_state = ConfState::from((ids(3), ids(2)));
        conf_state.set_voters_outgoing(ids(2));
        conf_state.set_learners_next(ids(1));
        conf_state.auto_leave = random.bool();
        let passes = check_conf_state(&conf_state).is_ok();
        let start = SnapshotMark { index: 5, term: 1, conf_state: conf_state.clone() };
        let result = catch_unwind(|| {
            let mut log = MemStore::new();
            log.append(&LogBatch { install: Some(start.clone()), ..LogBatch::default() })
                .expect("fits");
            let view =
                LogView::new(log.reader(), Some(start), hard_state(1, 0, 5), 0).expect("opens");
            let config = Config { id: 1, applied: 5, ..Config::new(1) };
            let logger = slog::Logger::root(slog::Discard, slog::o!());
            RawNode::new(&config, view, &logger).is_ok()
        });
        if passes {
            good += 1;
            assert!(matches!(result, Ok(true)), "seed {seed}: {conf_state:?}");
        } else {
            bad += 1;
        }
    }
    assert!(good > 50 && bad > 50, "{good} good and {bad} bad ones");
}
