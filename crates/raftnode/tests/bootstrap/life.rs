//! A raft-rs node started from what a boot left behind.

use oarlock_raftnode::bootstrap::{Boot, Recovered};
use oarlock_raftnode::membership::{ChangeEntry, Cluster, Configuration};
use oarlock_raftnode::raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry,
};
use oarlock_raftnode::raft::{Config, RawNode, StateRole};
use oarlock_raftnode::{LogBatch, LogReader, LogView, convert};
use std::sync::Arc;

use crate::place::{Place, on_every_store};

/// raft-rs, and what an apply loop would know.
pub(crate) struct Life {
    pub(crate) raw: RawNode<LogView>,
    pub(crate) cluster: Cluster,
    pub(crate) configuration: Configuration,
}

impl Life {
    pub(crate) fn begin(recovered: &Recovered, reader: Arc<dyn LogReader>) -> Self {
        let config =
            Config { id: recovered.id, applied: recovered.applied(), ..Config::new(recovered.id) };
        let view = recovered.view(reader, LogView::DEFAULT_BUDGET).expect("the log was checked");
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, view, &logger).expect("what was checked starts");
        let conf = recovered.snapshot.as_ref().map(|mark| &mark.conf_state);
        let conf = conf.map(convert::conf_state_to_record).unwrap_or_default();
        let configuration = Configuration::from_conf_state(&conf).expect("checked");
        Self { raw, cluster: recovered.cluster.clone(), configuration }
    }

    /// Applies what is committed, writes what is new, and ticks, until it leads or the time is up.
    pub(crate) fn run(&mut self, place: &mut Place, ticks: usize) -> bool {
        for _ in 0..ticks {
            while self.raw.has_ready() {
                self.advance(place);
            }
            if self.raw.raft.state == StateRole::Leader && !self.raw.has_ready() {
                return true;
            }
            self.raw.tick();
        }
        false
    }

    fn advance(&mut self, place: &mut Place) {
        let mut ready = self.raw.ready();
        place.write(&LogBatch {
            entries: ready.entries(),
            hard_state: ready.hs().cloned(),
            ..LogBatch::default()
        });
        let view = self.raw.mut_store();
        view.append(ready.entries()).expect("it continues");
        let last = ready.entries().last().map(|entry| (entry.index, entry.term));
        if let Some((index, term)) = last {
            view.persisted(index, term);
        }
        let committed = ready.take_committed_entries();
        let number = ready.number();
        self.raw.advance_append_async(ready);
        self.raw.on_persist_ready(number);
        for entry in &committed {
            self.apply(entry);
        }
        if let Some(last) = committed.last() {
            self.raw.advance_apply_to(last.index);
        }
    }

    fn apply(&mut self, entry: &Entry) {
        let change = ChangeEntry::read(&convert::entry_view(entry)).expect("ours");
        let Some(change) = change else { return };
        let Ok(applied) = self.cluster.apply_entry(&self.configuration, &change) else { return };
        self.configuration = applied.configuration;
        let conf_state = self.raw.apply_conf_change(&to_raft(&change)).expect("raft agrees");
        let record = convert::conf_state_to_record(&conf_state);
        self.cluster.agrees_with(&record).expect("one truth");
    }
}

fn to_raft(change: &ChangeEntry) -> ConfChangeV2 {
    let record = change.to_v2();
    let mut raft = ConfChangeV2::default();
    raft.set_transition(match record.transition {
        0 => ConfChangeTransition::Auto,
        1 => ConfChangeTransition::Implicit,
        _ => ConfChangeTransition::Explicit,
    });
    let singles = record.changes.iter().map(|step| {
        let mut single = ConfChangeSingle { node_id: step.node_id, ..ConfChangeSingle::default() };
        single.set_change_type(match step.change_type {
            0 => ConfChangeType::AddNode,
            1 => ConfChangeType::RemoveNode,
            _ => ConfChangeType::AddLearnerNode,
        });
        single
    });
    raft.set_changes(convert::list_to_raft(singles.collect()));
    raft
}

#[test]
fn a_founder_alone_elects_itself_and_does_so_again() {
    on_every_store(|place| {
        let mut recovered = place.found(1);
        for life in 1..4 {
            let reader = place.open().0.reader();
            let mut node = Life::begin(&recovered, reader);
            assert!(node.run(place, 100), "life {life}");
            assert_eq!(node.raw.raft.term, 1 + life, "each election is a new term");
            assert_eq!(node.cluster.voters().count(), 1);
            let _ = node.raw.propose(vec![], oarlock_raftnode::Payload::Empty.encode().to_vec());
            drop(node);
            place.crash();
            recovered = place.boot(&Boot::Restart).expect("it was a good life");
        }
    });
}

#[test]
fn a_founder_among_three_waits_for_the_others() {
    on_every_store(|place| {
        let recovered = place.found(3);
        let reader = place.open().0.reader();
        let mut node = Life::begin(&recovered, reader);
        assert!(!node.run(place, 100), "one of three is no majority");
        assert_eq!(node.cluster.voters().count(), 3, "it has applied the founding");
        assert_eq!(node.raw.raft.state, StateRole::Candidate);
    });
}

/// The reason for an empty configuration at index 0: a joiner must never take itself for the only voter.
#[test]
fn a_joiner_never_elects_itself() {
    on_every_store(|place| {
        let cluster = crate::place::founders(3);
        let id = cluster.members().next().expect("three").id;
        let recovered = place.boot(&Boot::Join { id, cluster }).expect("empty");
        let reader = place.open().0.reader();
        let mut node = Life::begin(&recovered, reader);
        assert!(!node.run(place, 200));
        assert_eq!((node.raw.raft.state, node.raw.raft.term), (StateRole::Follower, 0));
        assert_eq!(node.raw.raft.raft_log.last_index(), 0);
    });
}
