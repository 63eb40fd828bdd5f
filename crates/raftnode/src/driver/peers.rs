//! The transport's callbacks, and the transport's view of the members.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_membership::{Cluster, Member};
use oarlock_transport::{FrameFault, Handler, Lane, PeerInfo, Refusal, Transport};
use parking_lot::Mutex;
use raft::eraftpb::Message;

use super::events::{Control, Data};
use super::shared::Shared;
use super::snapshots;
use crate::core::StepError;
use crate::hex::Hex;
use crate::planted::planted;
use crate::wire::{self, Hello, Inbound};

/// Answers a transport's queries of kinds that this crate does not know; see
/// [`NodeBuilder::queries`](crate::NodeBuilder::queries).
pub(super) type Queries = Arc<dyn Fn(&str, Bytes) -> Option<Bytes> + Send + Sync>;

/// The transport's [`Handler`]. Called on the transport's threads; only receiving a snapshot blocks.
pub(super) struct PeerHandler {
    shared: Arc<Shared>,
    queries: Option<Queries>,
    /// Held while a snapshot is received: one at a time.
    receiving: Mutex<()>,
}

impl PeerHandler {
    pub(super) fn new(shared: Arc<Shared>, queries: Option<Queries>) -> Self {
        Self { shared, queries, receiving: Mutex::new(()) }
    }

    /// Whether a peer may speak with us.
    fn judge(&self, peer: &PeerInfo) -> Result<(), Refusal> {
        let hello = Hello::decode(peer.hello.clone())
            .map_err(|error| Refusal::Protocol { reason: error.to_string() })?;
        let (cluster, gone, birth, matched) = self.shared.read(|published| {
            let birth = published.births.get(&peer.id).copied();
            let matched = published.matched.get(&peer.id).copied();
            (Arc::clone(&published.cluster), published.gone.contains(&peer.id), birth, matched)
        });
        if gone {
            return Err(Refusal::Removed);
        }
        let way_out = "remove this member and add it as a new one, with an empty data directory";
        if birth.is_some_and(|birth| hello.birth != 0 && hello.birth != birth) {
            return Err(Refusal::rejected(format!(
                "the data directory is not the one that was started: {way_out}"
            )));
        }
        let transport = self.shared.transport.get();
        let connected =
            transport.is_some_and(|transport| transport.active_since(peer.id).is_some());
        // If another of its connections is in use, its log may have grown since it sent this hello.
        if let (Some(matched), false) = (matched, connected)
            && hello.last_index < matched
        {
            let last = hello.last_index;
            return Err(Refusal::rejected(format!(
                "the log ends at {last}, it had acknowledged {matched}: {way_out}"
            )));
        }
        if let Some(transport) = transport
            && cluster.member(peer.id).is_none()
            && !peer.urls.is_empty()
            && let Err(error) = transport.add_peer(peer.id, &peer.urls)
        {
            // A member that lags behind must be able to answer a leader whose addition it has not applied yet.
            log::debug!(id:% = Hex(self.shared.id), peer:% = Hex(peer.id), error:%; "a peer's URLs cannot be used");
        }
        Ok(())
    }

    fn receive_one(
        &self,
        from: u64,
        message: Message,
        len: u64,
        content: &mut dyn Read,
    ) -> Result<(), Refusal> {
        let shared = &self.shared;
        let index = message.get_snapshot().get_metadata().index;
        let (commit, gone) =
            shared.read(|published| (published.vitals.commit, published.gone.contains(&from)));
        if gone {
            return Err(Refusal::Removed);
        }
        if index <= commit {
            return Err(Refusal::rejected(format!(
                "snapshot {index} is not ahead of commit {commit}"
            )));
        }
        log::info!(id:% = Hex(shared.id), from:% = Hex(from), index, bytes = len; "receiving a snapshot");
        snapshots::store(&*shared.snapshots, &message, len, content)
            .or_else(|error| planted("snapshot-stepped-that-is-no-file").then_some(()).ok_or(error))
            .map_err(Refusal::rejected)?;
        let (reply, answer) = sync_channel(1);
        let message = Box::new(message);
        shared.inbox.control(Control::SnapshotArrived { from, message, reply });
        match answer.recv_timeout(shared.config.stop_timeout) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(StepError::Stale)) => Ok(()), // not needed: the log already has what it holds
            Ok(Err(error)) => Err(Refusal::rejected(error.to_string())),
            Err(_) => Err(Refusal::Stopping),
        }
    }
}

impl Handler for PeerHandler {
    fn hello(&self, _peer: u64) -> Bytes {
        let shared = &self.shared;
        let (term, last_index, cluster) = shared.read(|published| {
            (published.vitals.term, published.durable, Arc::clone(&published.cluster))
        });
        let peer_urls = cluster.member(shared.id).map(|own| own.peer_urls.clone());
        Hello { birth: shared.birth, last_index, term, peer_urls: peer_urls.unwrap_or_default() }
            .encode()
    }

    fn admit(&self, peer: &PeerInfo) -> Result<(), Refusal> {
        let judged = self.judge(peer);
        match &judged {
            Ok(()) => self.shared.link_admitted(peer.id, peer.max_frame),
            Err(refusal) => self.shared.link_refused(peer.id, false, refusal),
        }
        judged
    }

    fn receive(
        &self,
        from: u64,
        _lane: Lane,
        head: Bytes,
        payloads: Vec<Bytes>,
    ) -> Result<(), FrameFault> {
        let inbound = wire::decode(head, payloads)
            .map_err(|error| FrameFault::Undecodable { reason: error.to_string() })?;
        let data = match inbound {
            Inbound::Raft(message) => Data::Message { from, message },
            Inbound::Forward(forward) => Data::Forward { from, forward },
            Inbound::ForwardReply(reply) => Data::ForwardReply { from, reply },
        };
        if self.shared.inbox.data(data).is_err() {
            self.shared.counters.messages_shed.add(1); // as if the network had lost it
        }
        Ok(())
    }

    fn receive_snapshot(
        &self,
        from: u64,
        head: Bytes,
        len: u64,
        content: &mut dyn Read,
    ) -> Result<(), Refusal> {
        let message = wire::decode_snapshot(head)
            .map_err(|error| Refusal::Protocol { reason: error.to_string() })?;
        let Some(_one) = self.receiving.try_lock() else { return Err(Refusal::Busy) };
        self.receive_one(from, message, len, content)
    }

    fn unreachable(&self, peer: u64) {
        let _ = self.shared.inbox.data(Data::Unreachable(peer)); // it will be said again
    }

    fn refused(&self, peer: u64, refusal: &Refusal) {
        self.shared.link_refused(peer, true, refusal);
        let _ = self.shared.inbox.data(Data::Refused { peer, refusal: refusal.clone() }); // likewise
    }

    fn members(&self) -> Option<Bytes> {
        let cluster = self.shared.cluster();
        (cluster.members().len() > 0).then(|| cluster.encode().into())
    }

    fn query(&self, kind: &str, payload: Bytes) -> Option<Bytes> {
        if kind == oarlock_transport::QUERY_MEMBERS {
            return self.members();
        }
        self.queries.as_ref().and_then(|queries| queries(kind, payload))
    }
}

/// The peers that were added to the transport, with their URLs.
#[derive(Debug, Default)]
pub(super) struct Known {
    peers: BTreeMap<u64, Vec<String>>,
}

impl Known {
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.peers.keys().copied()
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.peers.contains_key(&id)
    }

    /// Adds these members to the transport, or updates their URLs.
    pub(super) fn add(
        &mut self,
        own: u64,
        transport: &dyn Transport,
        members: impl Iterator<Item = Member>,
    ) {
        for member in members.filter(|member| member.id != own && !member.peer_urls.is_empty()) {
            let urls = member.peer_urls;
            if self.peers.get(&member.id) == Some(&urls) {
                continue;
            }
            match transport.add_peer(member.id, &urls) {
                Ok(()) => {
                    self.peers.insert(member.id, urls);
                }
                Err(error) => {
                    log::warn!(id:% = Hex(own), peer:% = Hex(member.id), error:%; "a member cannot be reached by these URLs");
                }
            }
        }
    }

    /// Adds the members to the transport, and removes those who are gone.
    pub(super) fn follow(
        &mut self,
        own: u64,
        transport: &dyn Transport,
        cluster: &Cluster,
        gone: &BTreeSet<u64>,
    ) {
        self.add(own, transport, cluster.members().cloned());
        self.peers.retain(|id, _| {
            let keep = !gone.contains(id);
            if !keep {
                transport.remove_peer(*id);
            }
            keep
        });
    }
}

/// Detects heartbeats that leave late (O11); etcd's `contention.TimeoutDetector`.
#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    last: BTreeMap<u64, Instant>,
}

impl Heartbeats {
    /// Starts over, after a change of role.
    pub(super) fn reset(&mut self) {
        self.last.clear();
    }

    /// A heartbeat to a peer leaves now. Returns how much later than `expected` after the last one it is, if it is.
    pub(super) fn observe(
        &mut self,
        to: u64,
        now: Instant,
        expected: Duration,
    ) -> Option<Duration> {
        let last = self.last.insert(to, now)?;
        let late = (now - last).checked_sub(expected).filter(|late| !late.is_zero());
        late.filter(|_| !planted("late-heartbeat-overlooked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_heartbeat_is_noticed_unless_the_role_changed() {
        let (start, expected) = (Instant::now(), Duration::from_millis(200));
        let at = |millis| start + Duration::from_millis(millis);
        let mut heartbeats = Heartbeats::default();
        assert_eq!(heartbeats.observe(2, at(0), expected), None, "the first is never late");
        assert_eq!(heartbeats.observe(2, at(200), expected), None);
        assert_eq!(
            heartbeats.observe(3, at(900), expected),
            None,
            "each peer has a clock of its own"
        );
        assert_eq!(heartbeats.observe(2, at(900), expected), Some(Duration::from_millis(500)));
        heartbeats.reset();
        assert_eq!(heartbeats.observe(2, at(9000), expected), None);
    }
}
