//! One member's end of the in-memory network.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::Net;
use crate::counters::{Counters, bump};
use crate::crew::Crew;
use crate::outcome::{InFlight, Outcome};
use crate::reporter::Reporter;
use crate::{
    Envelope, Handler, Identity, Lane, PeerError, PeerInfo, Refusal, SnapshotDone,
    SnapshotEnvelope, SnapshotSendError, Stats, Transport,
};

/// How often an unconnected peer is tried.
const REDIAL: Duration = Duration::from_millis(20);
/// How often to look whether there is one.
const LOOK: Duration = Duration::from_millis(100);
/// Envelopes under way to one endpoint; beyond it they are dropped and the peer reported unreachable.
const MAX_UNDER_WAY: usize = 1 << 16;
/// Faulty messages that end a connection, as over TCP.
const STRIKES: u32 = 3;
const STOP_BOUND: Duration = Duration::from_secs(2);

/// A [`Transport`] over a [`MemNetwork`](super::MemNetwork). Peer URLs are not looked at: ids are addresses.
///
/// Dropping it stops it.
pub struct MemTransport {
    endpoint: Arc<Endpoint>,
}

impl MemTransport {
    pub(super) fn new(net: Arc<Net>, identity: Identity) -> Self {
        let endpoint = Endpoint {
            net,
            identity,
            handler: OnceLock::new(),
            crew: Crew::new(),
            reporter: Reporter::default(),
            counters: Counters::default(),
            in_flight: Arc::default(),
            paused: AtomicBool::new(false),
            peers: Mutex::default(),
            inbox: Mutex::default(),
            wake: Condvar::new(),
        };
        Self { endpoint: Arc::new(endpoint) }
    }

    /// Takes part in the network from now on; what arrives goes to `handler`. A second call changes nothing.
    pub fn start(&self, handler: Arc<dyn Handler>) {
        let endpoint = &self.endpoint;
        let reporting = Arc::clone(&handler);
        if endpoint.handler.set(handler).is_err() {
            return;
        }
        let id = endpoint.identity.id;
        endpoint.net.state.lock().endpoints.insert(id, Arc::clone(endpoint));
        let delivering = Arc::clone(endpoint);
        let delivery = endpoint.crew.spawn(format!("mem-{id:x}"), move || delivering.deliver());
        let reporter = Arc::clone(endpoint);
        let report = endpoint
            .crew
            .spawn(format!("mem-report-{id:x}"), move || reporter.reporter.run(&reporting));
        if let Err(error) = delivery.and(report) {
            log::error!(id:% = format_args!("{id:x}"), error:%; "no thread for an in-memory endpoint");
            self.stop();
        }
    }
}

impl Transport for MemTransport {
    fn send(&self, envelopes: Vec<Envelope>) {
        for envelope in envelopes {
            self.endpoint.send(envelope);
        }
    }

    fn send_snapshot(
        &self,
        envelope: SnapshotEnvelope,
        content: Box<dyn Read + Send>,
        done: SnapshotDone,
    ) {
        let outcome = Outcome::new(done);
        let endpoint = &self.endpoint;
        let to = envelope.to;
        if endpoint.crew.is_stopping() {
            return outcome.report(Err(SnapshotSendError::Stopped));
        }
        if endpoint.is_paused() {
            return outcome.report(Err(SnapshotSendError::Paused));
        }
        if !endpoint.peers.lock().contains_key(&to) {
            return outcome.report(Err(SnapshotSendError::UnknownPeer { id: to }));
        }
        let Some(place) = endpoint.in_flight.begin(to) else {
            return outcome.report(Err(SnapshotSendError::Busy));
        };
        let sending = Arc::clone(endpoint);
        let name = format!("mem-snap-{to:x}");
        // If there is no thread, the closure is dropped and `outcome` with it, which reports.
        let _ = endpoint.crew.spawn(name, move || {
            let result = super::snapshot::send(&sending, envelope, content);
            sending.counters.peer(to, |peer| match &result {
                Ok(()) => peer.snapshots_sent += 1,
                Err(_) => peer.snapshots_failed += 1,
            });
            drop(place); // first, so that `done` can send the next one
            outcome.report(result);
        });
    }

    fn add_peer(&self, id: u64, _urls: &[String]) -> Result<(), PeerError> {
        let endpoint = &self.endpoint;
        endpoint.check_peer(id)?;
        endpoint.counters.add_peer(id);
        endpoint.peers.lock().entry(id).or_default();
        endpoint.wake.notify_one();
        Ok(())
    }

    fn update_peer(&self, id: u64, _urls: &[String]) -> Result<(), PeerError> {
        self.endpoint.check_peer(id)?;
        if self.endpoint.peers.lock().contains_key(&id) {
            Ok(())
        } else {
            Err(PeerError::Unknown { id })
        }
    }

    fn remove_peer(&self, id: u64) {
        let endpoint = &self.endpoint;
        endpoint.peers.lock().remove(&id);
        endpoint.inbox.lock().admitted.remove(&id);
        endpoint.counters.remove_peer(id);
    }

    fn active_since(&self, id: u64) -> Option<Instant> {
        let (there, since) = self.endpoint.peers.lock().get(&id)?.connected.clone()?;
        let reached = self.endpoint.net.reach(self.endpoint.identity.id, id)?;
        std::ptr::eq(there.as_ptr(), Arc::as_ptr(&reached)).then_some(since)
    }

    fn pause(&self) {
        self.endpoint.paused.store(true, Ordering::Release);
    }

    fn resume(&self) {
        self.endpoint.paused.store(false, Ordering::Release);
    }

    fn stop(&self) {
        self.endpoint.stop();
    }

    fn stats(&self) -> Stats {
        self.endpoint.counters.snapshot()
    }
}

impl Drop for MemTransport {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(super) struct Endpoint {
    pub(super) net: Arc<Net>,
    pub(super) identity: Identity,
    pub(super) crew: Arc<Crew>,
    pub(super) counters: Counters,
    handler: OnceLock<Arc<dyn Handler>>,
    reporter: Reporter,
    in_flight: Arc<InFlight>,
    paused: AtomicBool,
    peers: Mutex<BTreeMap<u64, Peer>>,
    inbox: Mutex<Inbox>,
    wake: Condvar,
}

/// What we send to: the endpoint that admitted us, and since when.
#[derive(Default)]
struct Peer {
    connected: Option<(Weak<Endpoint>, Instant)>,
}

/// What is under way to us.
#[derive(Default)]
struct Inbox {
    next: u64,
    under_way: BinaryHeap<Reverse<Arrival>>,
    /// When the last envelope of a sender's lane arrives that must not be overtaken.
    last: BTreeMap<(u64, Lane), Instant>,
    /// Whose messages we take, with their faults so far.
    admitted: BTreeMap<u64, (Weak<Endpoint>, u32)>,
}

struct Arrival {
    due: Instant,
    number: u64,
    from: Arc<Endpoint>,
    lane: Lane,
    head: Bytes,
    payloads: Vec<Bytes>,
}

impl PartialEq for Arrival {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Arrival {}

impl PartialOrd for Arrival {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Arrival {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// Why two endpoints are not connected.
pub(super) enum NotConnected {
    /// Nobody is there, or the link is cut.
    Unreachable,
    /// We found the other side wanting.
    WeRefused(Refusal),
    /// The other side refused us.
    Refused(Refusal),
}

impl Endpoint {
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    fn check_peer(&self, id: u64) -> Result<(), PeerError> {
        match id {
            0 => Err(PeerError::ZeroId),
            id if id == self.identity.id => Err(PeerError::OwnId { id }),
            _ if self.crew.is_stopping() => Err(PeerError::Stopped),
            _ => Ok(()),
        }
    }

    fn send(self: &Arc<Self>, envelope: Envelope) {
        let (from, to) = (self.identity.id, envelope.to);
        if to == 0 || to == from {
            return;
        }
        if !self.peers.lock().contains_key(&to) {
            return self.counters.update(|stats| stats.dropped_unknown += 1);
        }
        if self.is_paused() || self.crew.is_stopping() || self.handler.get().is_none() {
            return self.counters.peer(to, |peer| peer.dropped += 1);
        }
        let bytes = envelope.content_len() as u64;
        let taken = self
            .net
            .reach(from, to)
            .is_some_and(|there| there.take(self, envelope, &self.net.fate(from, to)));
        if taken {
            self.counters.peer(to, |peer| {
                peer.sent_frames += 1;
                peer.sent_bytes += bytes;
            });
        } else {
            self.counters.peer(to, |peer| peer.dropped += 1);
            self.disconnected(to);
        }
    }

    /// Puts an envelope under way to us, as often as its fate says. `false` if there is no room.
    fn take(&self, from: &Arc<Self>, envelope: Envelope, fate: &[(Duration, bool)]) -> bool {
        let now = Instant::now();
        let mut inbox = self.inbox.lock();
        if inbox.under_way.len() >= MAX_UNDER_WAY || self.crew.is_stopping() {
            return false;
        }
        for (delay, overtaken) in fate {
            let mut due = now + *delay;
            if !overtaken {
                let last = inbox.last.entry((from.identity.id, envelope.lane)).or_insert(due);
                due = due.max(*last);
                *last = due;
            }
            let number = inbox.next;
            inbox.next += 1;
            let (head, payloads) = (envelope.head.clone(), envelope.payloads.clone());
            let arrival = Arrival {
                due,
                number,
                from: Arc::clone(from),
                lane: envelope.lane,
                head,
                payloads,
            };
            inbox.under_way.push(Reverse(arrival));
        }
        drop(inbox);
        self.wake.notify_one();
        true
    }

    /// The delivery thread: hands over what is due, and connects in between.
    fn deliver(self: Arc<Self>) {
        let mut redial = Instant::now();
        while !self.crew.is_stopping() {
            if Instant::now() >= redial {
                let apart = self.dial();
                redial = Instant::now() + if apart { REDIAL } else { LOOK };
            }
            let mut inbox = self.inbox.lock();
            let now = Instant::now();
            match inbox.under_way.peek() {
                Some(Reverse(first)) if first.due <= now => {
                    let arrival = inbox.under_way.pop();
                    drop(inbox);
                    if let Some(Reverse(arrival)) = arrival {
                        self.hand_over(arrival);
                    }
                }
                first => {
                    let until = first.map_or(redial, |Reverse(first)| first.due.min(redial));
                    if !self.crew.is_stopping() {
                        let _ = self.wake.wait_until(&mut inbox, until);
                    }
                }
            }
        }
    }

    /// Connects to the peers that we are not connected to, as TCP lanes do unasked. `true` if there were any.
    fn dial(self: &Arc<Self>) -> bool {
        let apart: Vec<u64> = {
            let peers = self.peers.lock();
            peers.iter().filter(|(_, peer)| !peer.is_connected()).map(|(id, _)| *id).collect()
        };
        for id in &apart {
            let id = *id;
            let Some(there) = self.net.reach(self.identity.id, id) else { continue };
            if !self.net.is_cut(id, self.identity.id) && self.connect(&there).is_err() {
                self.counters.peer(id, |peer| peer.connect_failures += 1);
            }
        }
        !apart.is_empty()
    }

    /// The handshake, both ways, as over TCP; tells our handler if we are refused.
    pub(super) fn connect(self: &Arc<Self>, there: &Arc<Self>) -> Result<(), NotConnected> {
        let result = self.shake_hands(there);
        let id = there.identity.id;
        match &result {
            Ok(()) => {
                let at = Instant::now();
                there.counters.add_peer(self.identity.id);
                there.inbox.lock().admitted.insert(self.identity.id, (Arc::downgrade(self), 0));
                if let Some(peer) = self.peers.lock().get_mut(&id) {
                    peer.connected = Some((Arc::downgrade(there), at));
                }
                self.counters.peer(id, |peer| peer.connects += 1);
            }
            Err(NotConnected::Refused(refusal)) => {
                there.counters.refused(refusal);
                self.counters.refused_us(id, refusal);
                if let (Some(handler), Some(_inside)) =
                    (self.handler.get(), self.crew.enter("mem-refused"))
                {
                    handler.refused(id, refusal);
                }
                self.disconnected(id);
            }
            Err(NotConnected::WeRefused(refusal)) => {
                self.counters.refused(refusal);
                self.disconnected(id);
            }
            Err(NotConnected::Unreachable) => self.disconnected(id),
        }
        result
    }

    fn shake_hands(&self, there: &Self) -> Result<(), NotConnected> {
        // Both handlers are about to be called: neither transport's stop returns meanwhile.
        let (Some(_here), Some(_there)) =
            (self.crew.enter("mem-dial"), there.crew.enter("mem-accept"))
        else {
            return Err(NotConnected::Unreachable);
        };
        let (Some(ours), Some(theirs)) = (self.handler.get(), there.handler.get()) else {
            return Err(NotConnected::Unreachable);
        };
        if self.identity.cluster != there.identity.cluster {
            let (ours, theirs) = (there.identity.cluster, self.identity.cluster);
            return Err(NotConnected::Refused(Refusal::WrongCluster { ours, theirs }));
        }
        theirs
            .admit(&self.introduce(ours.hello(there.identity.id)))
            .map_err(NotConnected::Refused)?;
        ours.admit(&there.introduce(theirs.hello(self.identity.id)))
            .map_err(NotConnected::WeRefused)
    }

    fn introduce(&self, hello: Bytes) -> PeerInfo {
        let Identity { id, cluster, incarnation, ref urls } = self.identity;
        PeerInfo { incarnation, urls: urls.clone(), hello, ..PeerInfo::new(id, cluster) }
    }

    fn disconnected(&self, id: u64) {
        if let Some(peer) = self.peers.lock().get_mut(&id) {
            peer.connected = None;
            self.reporter.unreachable(id);
        }
    }

    /// Whether messages of this very endpoint are taken, after a handshake if need be.
    fn admits(self: &Arc<Self>, from: &Arc<Self>) -> bool {
        self.is_admitted(from) || from.connect(self).is_ok()
    }

    pub(super) fn is_admitted(&self, from: &Arc<Self>) -> bool {
        self.inbox.lock().admitted.get(&from.identity.id).is_some_and(|(known, _)| is(known, from))
    }

    fn hand_over(self: &Arc<Self>, arrival: Arrival) {
        let Arrival { from, lane, head, payloads, .. } = arrival;
        let id = from.identity.id;
        if self.net.is_cut(id, self.identity.id) {
            return from.disconnected(self.identity.id);
        }
        if self.is_paused() {
            return self.counters.peer(id, |peer| peer.dropped_received += 1);
        }
        if !self.admits(&from) {
            return;
        }
        let Some(handler) = self.handler.get() else { return };
        let bytes = payloads.iter().fold(head.len(), |sum, payload| sum + payload.len()) as u64;
        self.counters.peer(id, |peer| {
            peer.received_frames += 1;
            peer.received_bytes += bytes;
        });
        if let Err(fault) = handler.receive(id, lane, head, payloads) {
            self.strike(&from, &fault);
        }
    }

    fn strike(&self, from: &Arc<Self>, fault: &crate::FrameFault) {
        let id = from.identity.id;
        log::debug!(peer:% = format_args!("{id:x}"), fault:%; "faulty message");
        self.counters.update(|stats| bump(&mut stats.faults, fault.label()));
        self.counters.peer(id, |peer| peer.faults += 1);
        let mut inbox = self.inbox.lock();
        let Some((_, strikes)) = inbox.admitted.get_mut(&id) else { return };
        *strikes += 1;
        if *strikes >= STRIKES {
            inbox.admitted.remove(&id);
            drop(inbox);
            from.disconnected(self.identity.id);
        }
    }

    /// Our handler, with the guard that keeps our stop waiting while it is called.
    pub(super) fn inside(&self, what: &str) -> Option<(&Arc<dyn Handler>, crate::crew::Shift)> {
        Some((self.handler.get()?, self.crew.enter(what)?))
    }

    pub(super) fn knows(&self, id: u64) -> bool {
        self.peers.lock().contains_key(&id)
    }

    pub(super) fn query(&self, kind: &str, payload: Bytes) -> Option<Bytes> {
        let (handler, _inside) = self.inside("mem-query")?;
        let answer = handler.query(kind, payload)?;
        self.counters.update(|stats| stats.queries += 1);
        Some(answer)
    }

    fn stop(self: &Arc<Self>) {
        if self.crew.begin_stop() {
            let mut state = self.net.state.lock();
            let id = self.identity.id;
            if state.endpoints.get(&id).is_some_and(|there| Arc::ptr_eq(there, self)) {
                state.endpoints.remove(&id);
            }
            drop(state);
            self.reporter.stop();
            // The lock, so that the delivery thread is either waiting or will see the stop.
            drop(self.inbox.lock());
            self.wake.notify_all();
        }
        let left = self.crew.wait(Instant::now() + STOP_BOUND);
        if !left.is_empty() {
            log::warn!(threads:? = left; "an in-memory endpoint stopped with calls still running");
        }
        self.inbox.lock().under_way.clear();
    }
}

impl Peer {
    fn is_connected(&self) -> bool {
        let there = self.connected.as_ref().and_then(|(there, _)| there.upgrade());
        there.is_some_and(|there| !there.crew.is_stopping())
    }
}

fn is(known: &Weak<Endpoint>, endpoint: &Arc<Endpoint>) -> bool {
    std::ptr::eq(known.as_ptr(), Arc::as_ptr(endpoint))
}
