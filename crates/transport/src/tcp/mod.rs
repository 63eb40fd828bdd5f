//! The transport over TCP: std threads and sockets.
//!
//! Each side dials its own outgoing connections, one for each lane, so that a pair of members has four. Where things
//! are: `dial` and `accept` shake hands; `lane` sends, `inbound` receives; `peer` and `queue` hold what waits;
//! `net` has deadlines and the register of sockets that lets `stop` wake everybody.

mod accept;
mod backoff;
mod dial;
mod gripes;
mod inbound;
mod lane;
mod listen;
mod net;
mod peer;
mod queue;
mod shared;
mod snapshot;

mod url;
pub use url::check_peer_urls;

mod options;
pub use options::TcpOptions;

mod query;
pub use query::{QueryError, query, query_members};

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::outcome::Outcome;
use crate::planted::planted;
use crate::{
    Envelope, Handler, Identity, Lane, PeerError, SnapshotDone, SnapshotEnvelope,
    SnapshotSendError, Stats, Transport,
};
use peer::Peer;
use shared::Shared;
use url::PeerUrl;

/// How long what is queued for a removed peer may take to leave.
const REMOVE_GRACE: Duration = Duration::from_secs(1);
/// How long what is queued may take to leave when the transport stops.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// How long `stop` takes at most.
const STOP_BOUND: Duration = Duration::from_secs(2);

/// Why a TCP transport could not be made or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// An address cannot be listened on: it is taken, or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Our own identity cannot be: id 0, or more than 16 URLs.
    #[error("unusable identity: {reason}")]
    Identity {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The system has no thread to give.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// It was started before.
    #[error("the transport was started before")]
    Started,
    /// It was stopped before.
    #[error("the transport was stopped before")]
    Stopped,
}

/// A [`Transport`] over TCP. Dropping it stops it.
///
/// It listens from the moment it is made, so that its addresses are known, and serves from
/// [`start`](Self::start). Peers may be added before that.
///
/// # Peers that do not speak this protocol
/// Whoever sends HTTP, TLS or garbage is counted in [`Stats::faults`], logged at most once a minute, and closed;
/// HTTP gets a sentence.
///
/// ```
/// # use std::{io::Read, sync::{Arc, mpsc}};
/// # use oarlock_transport::*;
/// # use bytes::Bytes;
/// # struct Inbox(mpsc::Sender<Bytes>);
/// # impl Handler for Inbox {
/// #     fn hello(&self, _: u64) -> Bytes { Bytes::new() }
/// #     fn admit(&self, _: &PeerInfo) -> Result<(), Refusal> { Ok(()) }
/// #     fn receive(&self, _: u64, _: Lane, head: Bytes, _: Vec<Bytes>) -> Result<(), FrameFault> {
/// #         let _ = self.0.send(head);
/// #         Ok(())
/// #     }
/// #     fn receive_snapshot(&self, _: u64, _: Bytes, _: u64, _: &mut dyn Read) -> Result<(), Refusal> { Ok(()) }
/// #     fn unreachable(&self, _: u64) {}
/// #     fn refused(&self, _: u64, _: &Refusal) {}
/// #     fn members(&self) -> Option<Bytes> { None }
/// # }
/// # let (sender, inbox) = mpsc::channel();
/// let one = TcpTransport::bind(Identity::new(1, 7), "127.0.0.1:0", TcpOptions::new())?;
/// let two = TcpTransport::bind(Identity::new(2, 7), "127.0.0.1:0", TcpOptions::new())?;
/// one.add_peer(2, &[format!("http://{}", two.local_addrs()[0])])?;
/// # one.start(Arc::new(Inbox(mpsc::channel().0)))?;
/// two.start(Arc::new(Inbox(sender)))?;
/// one.send(vec![Envelope {
///     to: 2,
///     lane: Lane::Message,
///     label: "greeting",
///     shed: Shed::Normal,
///     head: Bytes::from_static(b"ahoy"),
///     payloads: Vec::new(),
/// }]);
/// assert_eq!(inbox.recv()?, "ahoy");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TcpTransport {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    /// Until the start.
    listeners: Mutex<Vec<TcpListener>>,
}

impl TcpTransport {
    /// Listens on every address that `addresses` stands for. Port 0 takes a free one.
    ///
    /// # Errors
    /// The identity cannot be used, or an address cannot be listened on.
    pub fn bind(
        identity: Identity,
        addresses: impl ToSocketAddrs + std::fmt::Debug,
        options: TcpOptions,
    ) -> Result<Self, TcpError> {
        let failed = |address: String| move |source| TcpError::Listen { address, source };
        let all = addresses.to_socket_addrs().map_err(failed(format!("{addresses:?}")))?;
        let listeners: Result<Vec<_>, _> = all
            .map(|address| TcpListener::bind(address).map_err(failed(address.to_string())))
            .collect();
        Self::new(identity, listeners?, options)
    }

    /// As [`bind`](Self::bind), where peer URLs say, such as `http://127.0.0.1:2380`: for a member that listens where its
    /// peers find it. Behind a proxy or a translated address the two differ.
    ///
    /// Of the addresses that a name has, those are passed over that this machine lacks (`localhost` is `::1` too, also
    /// where there is no IPv6); one has to work.
    ///
    /// # Errors
    /// As for `bind`; a URL that [`add_peer`](Transport::add_peer) would refuse is [`TcpError::Listen`] too.
    pub fn bind_urls(
        identity: Identity,
        urls: &[String],
        options: TcpOptions,
    ) -> Result<Self, TcpError> {
        let listeners: Result<Vec<_>, _> = urls.iter().map(|url| listen::on_url(url)).collect();
        Self::new(identity, listeners?.into_iter().flatten().collect(), options)
    }

    /// Takes listeners that were bound before, in blocking mode. Without any, it only dials.
    ///
    /// # Errors
    /// The identity cannot be used, or a listener has no address.
    pub fn new(
        identity: Identity,
        listeners: Vec<TcpListener>,
        options: TcpOptions,
    ) -> Result<Self, TcpError> {
        if identity.id == 0 {
            return Err(TcpError::Identity { reason: "a member id is never 0" });
        }
        if identity.urls.len() > 16 {
            return Err(TcpError::Identity { reason: "more than 16 peer urls" });
        }
        let address = |listener: &TcpListener| {
            listener
                .local_addr()
                .map_err(|source| TcpError::Listen { address: "a given listener".into(), source })
        };
        let addresses = listeners.iter().map(address).collect::<Result<_, _>>()?;
        let shared = Arc::new(Shared::new(identity, options));
        Ok(Self { shared, addresses, listeners: Mutex::new(listeners) })
    }

    /// Begins to accept and to dial. Connections that came since `bind` are served now.
    ///
    /// # Errors
    /// It was started or stopped before, or the system has no thread to give; then the transport is stopped.
    pub fn start(&self, handler: Arc<dyn Handler>) -> Result<(), TcpError> {
        let shared = &self.shared;
        if shared.crew.is_stopping() {
            return Err(TcpError::Stopped);
        }
        let reporting = (Arc::clone(shared), Arc::clone(&handler));
        // With the peers locked, so that each gets its lanes either here or in `add_peer`.
        let peers = shared.peers.lock();
        shared.handler.set(handler).map_err(|_| TcpError::Started)?;
        let started = peers.values().try_for_each(|peer| run_lanes(shared, peer));
        drop(peers);
        started
            .and_then(|()| {
                let (shared, handler) = reporting;
                self.shared
                    .crew
                    .spawn("oarlock-report".into(), move || shared.reporter.run(&handler))
            })
            .and_then(|()| {
                std::mem::take(&mut *self.listeners.lock()).into_iter().try_for_each(|listener| {
                    let accepting = Arc::clone(shared);
                    shared
                        .crew
                        .spawn("oarlock-accept".into(), move || accept::run(&accepting, &listener))
                })
            })
            .map_err(|error| {
                self.stop();
                TcpError::Thread(error)
            })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    fn check_peer(&self, id: u64, urls: &[String]) -> Result<Vec<PeerUrl>, PeerError> {
        match id {
            0 => Err(PeerError::ZeroId),
            id if id == self.shared.identity.id => Err(PeerError::OwnId { id }),
            _ if self.shared.crew.is_stopping() => Err(PeerError::Stopped),
            _ => PeerUrl::parse_all(id, urls),
        }
    }

    /// Why a snapshot cannot even be begun.
    fn begin_snapshot(&self, envelope: &SnapshotEnvelope) -> Result<Arc<Peer>, SnapshotSendError> {
        let (shared, len) = (&self.shared, envelope.head.len());
        if shared.crew.is_stopping() || shared.handler.get().is_none() {
            return Err(SnapshotSendError::Stopped);
        }
        if shared.is_paused() {
            return Err(SnapshotSendError::Paused);
        }
        if len > snapshot::MAX_HEAD {
            return Err(SnapshotSendError::HeadTooLarge { len, limit: snapshot::MAX_HEAD });
        }
        shared.peer(envelope.to).ok_or(SnapshotSendError::UnknownPeer { id: envelope.to })
    }
}

/// Starts a peer's threads.
fn run_lanes(shared: &Arc<Shared>, peer: &Arc<Peer>) -> io::Result<()> {
    Lane::ALL.into_iter().try_for_each(|lane| {
        let (shared, peer) = (Arc::clone(shared), Arc::clone(peer));
        let name = format!("oarlock-{}-{:x}", &lane.label()[..3], peer.id);
        let crew = Arc::clone(&shared.lanes);
        crew.spawn(name, move || lane::run(&shared, &peer, lane))
    })
}

impl Transport for TcpTransport {
    fn max_frame(&self) -> usize {
        self.shared.options.limits().body
    }

    fn send(&self, envelopes: Vec<Envelope>) {
        let shared = &self.shared;
        let (limits, paused) = (shared.options.limits(), shared.is_paused());
        for envelope in envelopes {
            let to = envelope.to;
            if to == 0 || to == shared.identity.id {
                continue;
            }
            let Some(peer) = shared.peer(to) else {
                shared.counters.update(|stats| stats.dropped_unknown += 1);
                continue;
            };
            if paused || shared.crew.is_stopping() {
                shared.counters.peer(to, |stats| stats.dropped += 1);
                continue;
            }
            if !lane::fits(&envelope, limits) {
                shared.too_large(to, &envelope, limits);
                continue;
            }
            let label = envelope.label;
            let lane = if planted("one-lane-for-all") { Lane::Append } else { envelope.lane };
            let dropped = peer.lane(lane).push(envelope);
            if dropped > 0 {
                shared.counters.peer(to, |stats| stats.dropped += dropped);
                shared.reporter.unreachable(to);
                if shared.gripe_due("queue_full", to) {
                    log::warn!(peer:? = format_args!("{to:x}"), lane = lane.label(), label; "dropped messages to peer: its queue is full");
                }
            }
        }
    }

    fn send_snapshot(
        &self,
        envelope: SnapshotEnvelope,
        mut content: Box<dyn Read + Send>,
        done: SnapshotDone,
    ) {
        let outcome = Outcome::new(done);
        let peer = match self.begin_snapshot(&envelope) {
            Ok(peer) => peer,
            Err(error) => return outcome.report(Err(error)),
        };
        let Some(place) = self.shared.in_flight.begin(peer.id) else {
            return outcome.report(Err(SnapshotSendError::Busy));
        };
        let shared = Arc::clone(&self.shared);
        // If there is no thread, the closure is dropped and `outcome` with it, which reports.
        let _ = self.shared.crew.spawn(format!("oarlock-snap-{:x}", peer.id), move || {
            let result = snapshot::send(&shared, &peer, &envelope, &mut *content);
            drop(content);
            shared.counters.peer(peer.id, |stats| match &result {
                Ok(()) => stats.snapshots_sent += 1,
                Err(_) => stats.snapshots_failed += 1,
            });
            drop(place); // first, so that `done` can send the next one
            outcome.report(result);
        });
    }

    fn add_peer(&self, id: u64, urls: &[String]) -> Result<(), PeerError> {
        let urls = self.check_peer(id, urls)?;
        let shared = &self.shared;
        let mut peers = shared.peers.lock();
        if let Some(peer) = peers.get(&id) {
            peer.update(urls);
            return Ok(());
        }
        if let Some(former) = shared.leaving.lock().remove(&id).and_then(|peer| peer.upgrade())
            && !planted("a-former-life-goes-on")
        {
            former.cut();
        }
        let peer = Arc::new(Peer::new(id, urls, &shared.options));
        shared.counters.add_peer(id); // first, for the lanes count at once
        if shared.handler.get().is_some() {
            run_lanes(shared, &peer).map_err(|error| {
                log::error!(peer:? = format_args!("{id:x}"), error:%; "no thread for a peer");
                peer.finish(Duration::ZERO);
                shared.counters.remove_peer(id);
                PeerError::Stopped
            })?;
        }
        peers.insert(id, peer);
        Ok(())
    }

    fn update_peer(&self, id: u64, urls: &[String]) -> Result<(), PeerError> {
        let urls = self.check_peer(id, urls)?;
        self.shared.peer(id).ok_or(PeerError::Unknown { id })?.update(urls);
        Ok(())
    }

    fn remove_peer(&self, id: u64) {
        let shared = &self.shared;
        let mut peers = shared.peers.lock();
        if let Some(peer) = peers.remove(&id) {
            let mut leaving = shared.leaving.lock();
            leaving.retain(|_, peer| peer.strong_count() > 0);
            leaving.insert(id, Arc::downgrade(&peer));
            peer.remove(if planted("removed-without-a-word") {
                Duration::ZERO
            } else {
                REMOVE_GRACE
            });
        }
        drop(peers);
        shared.removals.fetch_add(1, Ordering::AcqRel); // first, for whoever takes a seat looks at it afterwards
        shared.clear_seats(id);
        shared.counters.remove_peer(id);
    }

    fn active_since(&self, id: u64) -> Option<Instant> {
        *self.shared.peer(id)?.active.lock()
    }

    fn pause(&self) {
        self.shared.set_paused(true);
    }

    fn resume(&self) {
        self.shared.set_paused(false);
    }

    fn stop(&self) {
        let shared = &self.shared;
        let end = Instant::now() + STOP_BOUND;
        // Lanes first: what was queued, such as a last transfer of leadership, gets a moment to leave (O14).
        if shared.lanes.begin_stop() {
            shared.peers.lock().values().for_each(|peer| peer.finish(STOP_GRACE));
            shared.lanes.wait(Instant::now() + STOP_GRACE);
            shared.crew.begin_stop();
            shared.reporter.stop();
            shared.sockets.close();
            self.listeners.lock().clear();
            self.addresses.iter().copied().for_each(accept::wake);
        }
        let mut left = shared.lanes.wait(end);
        left.extend(shared.crew.wait(end));
        if !left.is_empty() {
            log::warn!(threads:? = left; "the transport stopped with threads still busy");
        }
    }

    fn stats(&self) -> Stats {
        let mut stats = self.shared.counters.snapshot();
        stats.half_open = self.shared.half_open.load(Ordering::Acquire) as u64;
        stats.admitted = self.shared.admitted.load(Ordering::Acquire) as u64;
        stats
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.stop();
    }
}
