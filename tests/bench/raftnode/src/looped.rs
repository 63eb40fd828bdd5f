//! Members that a synchronous loop drives: one thread each does everything, one after the other.
//!
//! Take all that has arrived, ask raft-rs, write and sync, send, apply, go on. The same transport, the same log, the
//! same batches: what waits is proposed in one message, and of several answers to an append only the newest is sent.
//! It knows nothing of snapshots, changes of members, refusals or restarts, and keeps no window of applied ids.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_bench_harness::Result;
use oarlock_raftnode::bootstrap::{Boot, Recovered, boot};
use oarlock_raftnode::core::prune_messages;
use oarlock_raftnode::membership::{Cluster, ProposalId, record};
use oarlock_raftnode::transport::{
    FrameFault, Handler, Identity, Lane, PeerInfo, Refusal, TcpOptions, TcpTransport, Transport,
};
use oarlock_raftnode::wire::{self, Forward, ForwardKind, Hello, Inbound};
use oarlock_raftnode::{LogBatch, LogStore, LogView, Payload, WalOptions, WalStore, raft_logger};
use raft::eraftpb::{
    ConfChange, ConfChangeType, Entry, EntryType, HardState, Message, MessageType,
};
use raft::{Config, RawNode, StateRole};

use crate::disk::Disk;
use crate::nodes::founders;
use crate::service::Service;
use crate::watched::{Heartbeats, Watched};

const TICK: Duration = Duration::from_millis(100);
/// Bytes in one message, as `Config::max_size_per_msg` of oarlock-raftnode.
const MAX_BATCH: usize = 1 << 20;

enum Arrival {
    Message(Message),
    Forward(Forward),
    Propose { forward: Forward, done: SyncSender<()> },
    Unreachable(u64),
    Campaign,
    Stop,
}

/// A member, as its callers see it.
pub(crate) struct Looped {
    id: u64,
    sequence: AtomicU64,
    leader: Arc<AtomicU64>,
    arrivals: Sender<Arrival>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Service for Looped {
    type Answer = Receiver<()>;

    fn propose(&self, data: Bytes) -> Self::Answer {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let id = ProposalId { origin: self.id, incarnation: 1, sequence };
        let data = Payload::Application { id, data }.encode();
        let forward = Forward { id, kind: ForwardKind::Normal, data, term: 0 };
        let (done, answer) = sync_channel(1);
        let _ = self.arrivals.send(Arrival::Propose { forward, done }); // whoever waits finds out
        answer
    }

    fn wait(answer: Self::Answer) -> Result<()> {
        Ok(answer.recv_timeout(Duration::from_secs(30))?)
    }
}

impl Drop for Looped {
    fn drop(&mut self) {
        let _ = self.arrivals.send(Arrival::Stop); // it may have ended
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => eprintln!("a loop ended with: {error}"),
            Some(Err(_)) => eprintln!("a loop panicked"),
            Some(Ok(Ok(()))) | None => {}
        }
    }
}

/// Several members in this process: real disks, real sockets.
pub(crate) struct LoopedNodes {
    pub(crate) nodes: Vec<Looped>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) heartbeats: Vec<Heartbeats>,
}

impl LoopedNodes {
    pub(crate) fn start(dir: &Path, n: usize) -> Result<Self> {
        let (cluster, listeners) = founders(n)?;
        let mut all = Self { nodes: Vec::new(), disks: Vec::new(), heartbeats: Vec::new() };
        for listener in listeners {
            let (disk, heartbeats) = (Disk::default(), Heartbeats::default());
            all.nodes.push(start(&cluster, listener, dir, &disk, &heartbeats)?);
            all.disks.push(disk);
            all.heartbeats.push(heartbeats);
        }
        let known = |node: &Looped| node.leader.load(Ordering::Acquire) != 0;
        let give_up = Instant::now() + Duration::from_secs(20);
        while !all.nodes.iter().all(known) {
            if Instant::now() > give_up {
                return Err("the loops found no leader".into());
            }
            let _ = all.nodes[0].arrivals.send(Arrival::Campaign); // found out by the above
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(all)
    }

    pub(crate) fn leader(&self) -> Result<usize> {
        let leader = self.nodes[0].leader.load(Ordering::Acquire);
        self.nodes.iter().position(|node| node.id == leader).ok_or_else(|| "nobody leads".into())
    }
}

fn start(
    cluster: &Cluster,
    listener: TcpListener,
    dir: &Path,
    disk: &Disk,
    heartbeats: &Heartbeats,
) -> Result<Looped> {
    let url = format!("http://{}", listener.local_addr()?);
    let id = cluster.member_by_peer_url(&url).ok_or("not listed")?.id;
    let mut log = WalOptions::new(dir.join(format!("{id:x}")))
        .vfs(Arc::new(disk.clone()))
        .open_or_create()?;
    let snapshots = log.snapshots();
    let recovered = boot(&mut log, &*snapshots, &Boot::New { id, cluster: cluster.clone() })?;
    let (arrivals, queue) = channel();
    let identity = Identity::new(id, cluster.id()).incarnation(1);
    let transport = TcpTransport::new(identity, vec![listener], TcpOptions::new())?;
    for member in cluster.members().filter(|member| member.id != id) {
        transport.add_peer(member.id, &member.peer_urls)?;
    }
    transport.start(Arc::new(Mailroom(arrivals.clone())))?;
    let transport = Watched { transport, heartbeats: heartbeats.clone() };
    let leader = Arc::new(AtomicU64::new(0));
    let member = Member::new(&recovered, log, transport, Arc::clone(&leader))?;
    let thread =
        std::thread::Builder::new().name("loop".into()).spawn(move || member.run(&queue))?;
    Ok(Looped { id, sequence: AtomicU64::new(0), leader, arrivals, thread: Some(thread) })
}

/// Hands what arrives to the loop.
struct Mailroom(Sender<Arrival>);

impl Handler for Mailroom {
    fn hello(&self, _: u64) -> Bytes {
        Hello::default().encode()
    }

    fn admit(&self, _: &PeerInfo) -> Result<(), Refusal> {
        Ok(())
    }

    fn receive(
        &self,
        _: u64,
        _: Lane,
        head: Bytes,
        payloads: Vec<Bytes>,
    ) -> Result<(), FrameFault> {
        let arrival = match wire::decode(head, payloads) {
            Ok(Inbound::Raft(message)) => Arrival::Message(*message),
            Ok(Inbound::Forward(forward)) => Arrival::Forward(forward),
            Ok(_) => return Ok(()),
            Err(error) => return Err(FrameFault::Undecodable { reason: error.to_string() }),
        };
        let _ = self.0.send(arrival); // a loop that has ended needs nothing
        Ok(())
    }

    fn receive_snapshot(&self, _: u64, _: Bytes, _: u64, _: &mut dyn Read) -> Result<(), Refusal> {
        Err(Refusal::Busy)
    }

    fn unreachable(&self, peer: u64) {
        let _ = self.0.send(Arrival::Unreachable(peer)); // a loop that has ended needs nothing
    }

    fn refused(&self, _: u64, _: &Refusal) {}

    fn members(&self) -> Option<Bytes> {
        None
    }
}

/// A member, as its thread sees it.
struct Member {
    id: u64,
    raw: RawNode<LogView>,
    log: WalStore,
    transport: Watched,
    leader: Arc<AtomicU64>,
    waiting: Vec<Forward>,
    callers: HashMap<u64, SyncSender<()>>,
    next_tick: Instant,
}

impl Member {
    fn new(
        recovered: &Recovered,
        log: WalStore,
        transport: Watched,
        leader: Arc<AtomicU64>,
    ) -> Result<Self> {
        let config = Config {
            id: recovered.id,
            election_tick: 10,
            heartbeat_tick: 1,
            max_size_per_msg: MAX_BATCH as u64,
            max_inflight_msgs: 512,
            check_quorum: true,
            pre_vote: true,
            max_committed_size_per_ready: 4 << 20,
            ..Config::default()
        };
        let view = recovered.view(log.reader(), LogView::DEFAULT_BUDGET)?;
        let raw = RawNode::new(&config, view, &raft_logger(slog::o!()))?;
        Ok(Self {
            id: recovered.id,
            raw,
            log,
            transport,
            leader,
            waiting: Vec::new(),
            callers: HashMap::new(),
            next_tick: Instant::now() + TICK,
        })
    }

    fn run(mut self, queue: &Receiver<Arrival>) -> Result<()> {
        loop {
            let patience = self.next_tick.saturating_duration_since(Instant::now());
            let first = match queue.recv_timeout(patience) {
                Ok(arrival) => Some(arrival),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            for arrival in first.into_iter().chain(std::iter::from_fn(|| queue.try_recv().ok())) {
                match arrival {
                    Arrival::Message(message) => drop(self.raw.step(message)), // as a network loses it
                    Arrival::Forward(forward) => self.waiting.push(forward),
                    Arrival::Propose { forward, done } => {
                        self.callers.insert(forward.id.sequence, done);
                        self.waiting.push(forward);
                    }
                    Arrival::Unreachable(peer) => self.raw.report_unreachable(peer),
                    Arrival::Campaign => self.raw.campaign()?,
                    Arrival::Stop => {
                        self.transport.stop();
                        return Ok(());
                    }
                }
            }
            let now = Instant::now();
            if now >= self.next_tick {
                self.raw.tick();
                self.next_tick = (self.next_tick + TICK).max(now);
            }
            self.hand_on()?;
            while self.raw.has_ready() {
                self.on_ready()?;
            }
            self.leader.store(self.raw.raft.leader_id, Ordering::Release);
        }
    }

    /// What waits: to raft-rs on the leader, to the leader elsewhere.
    fn hand_on(&mut self) -> Result<()> {
        let leader = self.raw.raft.leader_id;
        if leader == 0 || self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        if self.raw.raft.state != StateRole::Leader {
            let envelopes = waiting.iter().map(|forward| wire::encode_forward(leader, forward));
            self.transport.send(envelopes.collect::<Result<_, _>>()?);
            return Ok(());
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        for forward in waiting {
            bytes += forward.data.len();
            if bytes > MAX_BATCH {
                bytes = forward.data.len();
                self.propose(std::mem::take(&mut batch))?;
            }
            batch.push(Entry { data: forward.data, ..Entry::default() });
        }
        self.propose(batch)
    }

    fn propose(&mut self, entries: Vec<Entry>) -> Result<()> {
        let mut message = Message { from: self.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(entries.into());
        Ok(self.raw.raft.step(message)?)
    }

    /// Ready: write and sync, send, apply, advance.
    fn on_ready(&mut self) -> Result<()> {
        let mut ready = self.raw.ready();
        let entries = ready.take_entries();
        let hard_state = ready.hs().cloned();
        let batch = LogBatch { entries: &entries, hard_state, ..LogBatch::default() };
        if !batch.is_empty() {
            self.log.append(&batch)?;
        }
        if ready.must_sync() {
            self.log.sync()?;
        }
        let view = self.raw.mut_store();
        view.append(&entries)?;
        if let Some(hard_state) = ready.hs() {
            view.set_hard_state(hard_state.clone());
        }
        if let Some(last) = entries.last() {
            view.persisted(last.index, last.term);
        }
        self.send(ready.take_messages());
        self.send(ready.take_persisted_messages());
        self.apply(&ready.take_committed_entries())?;
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            let hard_state = HardState { commit, ..self.raw.store().hard_state().clone() };
            self.raw.mut_store().set_hard_state(hard_state.clone());
            self.log.append(&LogBatch { hard_state: Some(hard_state), ..LogBatch::default() })?;
        }
        self.send(light.take_messages());
        self.apply(&light.take_committed_entries())?;
        self.raw.advance_apply();
        Ok(())
    }

    fn send(&self, messages: Vec<Message>) {
        let messages = prune_messages(messages, &BTreeSet::new());
        let envelopes: Vec<_> =
            messages.iter().filter_map(|message| wire::encode(message).ok()).collect();
        if !envelopes.is_empty() {
            self.transport.send(envelopes);
        }
    }

    fn apply(&mut self, committed: &[Entry]) -> Result<()> {
        for entry in committed {
            match entry.get_entry_type() {
                EntryType::EntryNormal => {
                    if let Payload::Application { id, .. } = Payload::of(entry)?
                        && id.origin == self.id
                        && let Some(caller) = self.callers.remove(&id.sequence)
                    {
                        let _ = caller.try_send(()); // it has room, or nobody waits any more
                    }
                }
                EntryType::EntryConfChange => {
                    let node = record::ConfChange::decode_checked(&entry.data)?.node_id;
                    let mut change = ConfChange { node_id: node, ..ConfChange::default() };
                    change.set_change_type(ConfChangeType::AddNode); // the founders
                    self.raw.apply_conf_change(&change)?;
                }
                EntryType::EntryConfChangeV2 => return Err("a conf change in a bench".into()),
            }
        }
        Ok(())
    }
}
