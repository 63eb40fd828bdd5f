//! What all threads of one transport share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::dial::{DialError, Link, Patience, dial};
use super::gripes::Gripes;
use super::inbound::Seat;
use super::net::{Sockets, write_frame};
use super::options::TcpOptions;
use super::peer::Peer;
use super::url::PeerUrl;
use crate::codec::{FrameError, Greeting, Kind, Limits, Purpose, encode_refusal};
use crate::counters::{Counters, bump};
use crate::crew::Crew;
use crate::outcome::InFlight;
use crate::reporter::Reporter;
use crate::{Envelope, Handler, Identity, Refusal};

pub(super) struct Shared {
    pub(super) identity: Identity,
    pub(super) options: TcpOptions,
    pub(super) handler: OnceLock<Arc<dyn Handler>>,
    /// The lanes' threads, which get a moment to finish before the others are stopped.
    pub(super) lanes: Arc<Crew>,
    pub(super) crew: Arc<Crew>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) reporter: Reporter,
    pub(super) counters: Counters,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
    /// Removed peers whose lanes may still be sending.
    pub(super) leaving: Mutex<BTreeMap<u64, Weak<Peer>>>,
    /// How many peers have been removed so far.
    pub(super) removals: AtomicU64,
    /// Where connections from peers sit, one for each peer and purpose.
    seats: Mutex<BTreeMap<(u64, Purpose), Arc<Seat>>>,
    pub(super) half_open: AtomicUsize,
    pub(super) admitted: AtomicUsize,
    pub(super) queries: AtomicUsize,
    paused: AtomicBool,
    gripes: Gripes,
}

impl Shared {
    pub(super) fn new(identity: Identity, options: TcpOptions) -> Self {
        Self {
            identity,
            options,
            handler: OnceLock::new(),
            lanes: Crew::new(),
            crew: Crew::new(),
            sockets: Arc::default(),
            reporter: Reporter::default(),
            counters: Counters::default(),
            in_flight: Arc::default(),
            peers: Mutex::default(),
            leaving: Mutex::default(),
            removals: AtomicU64::new(0),
            seats: Mutex::default(),
            half_open: AtomicUsize::new(0),
            admitted: AtomicUsize::new(0),
            queries: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            gripes: Gripes::default(),
        }
    }

    pub(super) fn peer(&self, id: u64) -> Option<Arc<Peer>> {
        self.peers.lock().get(&id).cloned()
    }

    /// Where connections of this kind from this peer sit.
    pub(super) fn seat(&self, id: u64, purpose: Purpose) -> Arc<Seat> {
        let mut seats = self.seats.lock();
        // Ids are claims: those that nobody sits under, or waits for, need not be kept.
        seats.retain(|_, seat| Arc::strong_count(seat) > 1);
        Arc::clone(seats.entry((id, purpose)).or_default())
    }

    /// Shows out whoever sits under this id.
    pub(super) fn clear_seats(&self, id: u64) {
        for (_, seat) in self.seats.lock().iter().filter(|((from, _), _)| *from == id) {
            seat.clear();
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    /// Our greeting to a peer, with what we are willing to read.
    pub(super) fn greeting(
        &self,
        handler: &Arc<dyn Handler>,
        purpose: Purpose,
        to: u64,
    ) -> Greeting {
        let limits = self.options.limits();
        Greeting {
            max_frame: limits.body as u64,
            max_payloads: limits.payloads as u64,
            ..Greeting::new(purpose, &self.identity, to, handler.hello(to))
        }
    }

    /// Dials a peer under the URL in use, and judges who answers. Failures are counted, logged now and then, and a
    /// refusal is told to the handler.
    pub(super) fn connect(
        &self,
        peer: &Peer,
        purpose: Purpose,
    ) -> Result<(PeerUrl, Link), DialError> {
        let Some(handler) = self.handler.get() else { return Err(DialError::Stopping) };
        let Some(url) = peer.urls.lock().pick() else { return Err(DialError::Stopping) };
        let result = self.shake_hands(handler, peer.id, &url, purpose);
        let Err(error) = result else { return result.map(|link| (url, link)) };
        if matches!(error, DialError::Stopping) || self.crew.is_stopping() {
            return Err(DialError::Stopping);
        }
        peer.urls.lock().failed(&url);
        self.counters.peer(peer.id, |stats| stats.connect_failures += 1);
        if self.gripes.due(error.label(), peer.id) {
            log::warn!(peer:? = format_args!("{:x}", peer.id), url = url.as_str(), lane = purpose.label(), error:%; "cannot connect to peer");
        }
        match &error {
            DialError::Refused(refusal) => self.refused_by(peer.id, refusal),
            DialError::WeRefused(refusal) => self.counters.refused(refusal),
            DialError::Stranger(stranger) => {
                self.counters.update(|stats| bump(&mut stats.faults, stranger.label()));
            }
            DialError::Frame(error) => self.count_fault(error),
            DialError::Io(_) | DialError::Stopping => {}
        }
        Err(error)
    }

    fn shake_hands(
        &self,
        handler: &Arc<dyn Handler>,
        id: u64,
        url: &PeerUrl,
        purpose: Purpose,
    ) -> Result<Link, DialError> {
        let patience = Patience {
            connect: self.options.dial_timeout,
            handshake: self.options.handshake_timeout,
            write: self.options.write_timeout,
        };
        let ours = self.greeting(handler, purpose, id);
        let dialled = dial(url, &ours, None, patience, Limits::HANDSHAKE, Some(&self.sockets))?;
        if dialled.kind != Kind::Welcome {
            return Err(DialError::Frame(FrameError::Malformed("expected a welcome")));
        }
        let (_, theirs) = Greeting::read(&dialled.head).map_err(DialError::WeRefused)?;
        let mut link = dialled.into_link(&ours, &theirs);
        self.judge(handler, id, theirs).map_err(|refusal| {
            let _ =
                write_frame(&link.stream, &mut link.key, Kind::Refusal, &encode_refusal(&refusal));
            DialError::WeRefused(refusal)
        })?;
        Ok(link)
    }

    /// Judges who has welcomed us.
    fn judge(&self, handler: &Arc<dyn Handler>, id: u64, theirs: Greeting) -> Result<(), Refusal> {
        let ours = self.identity.cluster;
        if theirs.cluster != ours {
            return Err(Refusal::WrongCluster { ours, theirs: theirs.cluster });
        }
        if theirs.from != id {
            return Err(Refusal::WrongMember { expected: id, actual: theirs.from });
        }
        handler.admit(&theirs.into_info())
    }

    /// A peer that we dialled has refused us.
    pub(super) fn refused_by(&self, id: u64, refusal: &Refusal) {
        self.counters.refused_us(id, refusal);
        if let Some(handler) = self.handler.get() {
            handler.refused(id, refusal);
        }
    }

    /// We refuse somebody who dialled us.
    pub(super) fn we_refuse(&self, id: u64, refusal: &Refusal) {
        self.counters.refused(refusal);
        if self.gripes.due(refusal.label(), id) {
            log::warn!(peer:? = format_args!("{id:x}"), refusal:%; "refused a connection");
        }
    }

    /// Somebody sent what is not our protocol, or broke it. `id` is 0 if we do not know who.
    pub(super) fn fault(&self, id: u64, error: &FrameError) {
        self.count_fault(error);
        match error.label() {
            Some(label) if self.gripes.due(label, id) => {
                log::warn!(peer:? = format_args!("{id:x}"), error:%; "ended a faulty connection");
            }
            _ => log::debug!(peer:? = format_args!("{id:x}"), error:%; "connection ended"),
        }
    }

    fn count_fault(&self, error: &FrameError) {
        if let Some(label) = error.label() {
            self.counters.update(|stats| bump(&mut stats.faults, label));
        }
    }

    pub(super) fn gripe_due(&self, what: &'static str, id: u64) -> bool {
        self.gripes.due(what, id)
    }

    /// An envelope larger than a frame, of ours or as the peer reads them, can never be sent.
    pub(super) fn too_large(&self, id: u64, envelope: &Envelope, limits: Limits) {
        self.counters.peer(id, |stats| {
            stats.dropped += 1;
            stats.too_large += 1;
        });
        self.reporter.unreachable(id);
        if self.gripes.due("too_large", id) {
            let (bytes, payloads) = (envelope.content_len(), envelope.payloads.len());
            let Limits { body: max_bytes, payloads: max_payloads } = limits;
            log::error!(
                peer:? = format_args!("{id:x}"), label = envelope.label, bytes, payloads, max_bytes, max_payloads;
                "dropped what is larger than a frame to this peer may be: it never arrives"
            );
        }
    }
}

/// One of a bounded number, given back on drop.
pub(super) struct Counted {
    shared: Arc<Shared>,
    which: fn(&Shared) -> &AtomicUsize,
}

impl Counted {
    pub(super) fn one_of(
        shared: &Arc<Shared>,
        which: fn(&Shared) -> &AtomicUsize,
        limit: usize,
    ) -> Option<Self> {
        let counter = which(shared);
        let taken = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            (count < limit).then(|| count + 1)
        });
        taken.ok().map(|_| Self { shared: Arc::clone(shared), which })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.shared).fetch_sub(1, Ordering::AcqRel);
    }
}
