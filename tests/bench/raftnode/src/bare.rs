//! raft-rs as its documentation drives it: one thread, `MemStorage`, no waiters, no threads to wake.

use bytes::Bytes;
use oarlock_bench_harness::Result;
use oarlock_bench_harness::data::Noise;
use oarlock_raftnode::raft_logger;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode};

/// A group of one.
pub(crate) struct Bare {
    node: RawNode<MemStorage>,
    applied: u64,
    counted: u64,
}

/// How proposals are handed to raft-rs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handed {
    /// By `propose`, each in a message of its own.
    OneByOne,
    /// All that are due in one message, as oarlock-raftnode does.
    Together,
}

impl Bare {
    pub(crate) fn new() -> Result<Self> {
        let config = Config {
            id: 1,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 512,
            ..Config::default()
        };
        let storage = MemStorage::new_with_conf_state((vec![1], vec![]));
        let mut node = RawNode::new(&config, storage, &raft_logger(slog::o!()))?;
        node.campaign()?;
        let mut bare = Self { node, applied: 0, counted: 0 };
        bare.poll()?;
        Ok(bare)
    }

    /// Keeps `in_flight` proposals under way until `n` are applied.
    pub(crate) fn run(
        &mut self,
        noise: &Noise,
        (len, in_flight, n): (usize, usize, usize),
        handed: Handed,
    ) -> Result<()> {
        let (mut proposed, begun) = (0, self.counted);
        while self.counted - begun < n as u64 {
            let due =
                (in_flight as u64 - (proposed - (self.counted - begun))).min(n as u64 - proposed);
            let data = (proposed..proposed + due).map(|index| noise.payload(index, len));
            match handed {
                Handed::OneByOne => {
                    for data in data {
                        self.node.propose(Vec::new(), data.to_vec())?;
                    }
                }
                Handed::Together => self.propose_together(data)?,
            }
            proposed += due;
            self.poll()?;
        }
        Ok(())
    }

    fn propose_together(&mut self, data: impl Iterator<Item = Bytes>) -> Result<()> {
        let entry = |data: Bytes| Entry { data: data.to_vec().into(), ..Entry::default() };
        let mut message = Message { from: 1, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(data.map(entry).collect::<Vec<_>>().into());
        Ok(self.node.raft.step(message)?)
    }

    /// The loop of raft-rs's documentation.
    fn poll(&mut self) -> Result<()> {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            self.apply(&ready.take_committed_entries());
            let store = self.node.raft.raft_log.store.clone();
            store.wl().append(ready.entries())?;
            if let Some(hard_state) = ready.hs() {
                store.wl().set_hardstate(hard_state.clone());
            }
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                store.wl().mut_hard_state().commit = commit;
            }
            self.apply(&light.take_committed_entries());
            self.node.advance_apply();
            if self.applied % 8192 < 1024 && self.applied > 8192 {
                store.wl().compact(self.applied - 1024)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, committed: &[Entry]) {
        for entry in committed {
            self.applied = entry.index;
            self.counted += u64::from(!entry.data.is_empty());
        }
    }
}
