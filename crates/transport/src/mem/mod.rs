//! An in-process network whose faults are chosen by a seed.

mod endpoint;
pub use endpoint::MemTransport;

mod faults;
pub use faults::Faults;

mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::Identity;
use endpoint::Endpoint;

/// A network of [`MemTransport`]s in one process, for tests.
///
/// Each directed link draws its faults from a generator seeded with the network's seed and the two ids: the n-th
/// envelope of a link always meets the same fate. Without faults the network keeps order per peer and lane, as
/// TCP does; with [`Faults::duplicate`] and [`Faults::reorder`] it breaks that promise on purpose, as messages of an
/// old connection can.
///
/// Cloning gives another handle on the same network.
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
/// let network = MemNetwork::new(42);
/// let one = network.endpoint(Identity::new(1, 7));
/// let two = network.endpoint(Identity::new(2, 7));
/// # one.start(Arc::new(Inbox(mpsc::channel().0)));
/// two.start(Arc::new(Inbox(sender)));
/// one.add_peer(2, &[])?;
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
#[derive(Clone)]
pub struct MemNetwork {
    net: Arc<Net>,
}

impl MemNetwork {
    /// A network without endpoints and without faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { net: Arc::new(Net { seed, state: Mutex::default() }) }
    }

    /// A new endpoint, which takes part once it is [started](MemTransport::start). It replaces one of the same id
    /// that is still there, as a restarted process does.
    #[must_use]
    pub fn endpoint(&self, identity: Identity) -> MemTransport {
        MemTransport::new(Arc::clone(&self.net), identity)
    }

    /// Sets the faults of every link that has none of its own.
    pub fn set_faults(&self, faults: Faults) {
        self.net.state.lock().faults = faults;
    }

    /// Sets the faults of one direction of one link; `None` returns it to the network's.
    pub fn set_link_faults(&self, from: u64, to: u64, faults: Option<Faults>) {
        self.net.state.lock().link(self.net.seed, from, to).faults = faults;
    }

    /// Cuts one direction: nothing from `from` reaches `to`, what is under way included.
    pub fn cut(&self, from: u64, to: u64) {
        self.net.state.lock().cut.insert((from, to));
    }

    /// Mends one direction.
    pub fn mend(&self, from: u64, to: u64) {
        self.net.state.lock().cut.remove(&(from, to));
    }

    /// Splits the network: members of different groups cannot reach each other. Earlier cuts are forgotten; members
    /// in no group keep all their links.
    pub fn partition(&self, groups: &[&[u64]]) {
        let mut state = self.net.state.lock();
        state.cut.clear();
        for (i, from) in groups.iter().enumerate() {
            for (_, to) in groups.iter().enumerate().filter(|(j, _)| *j != i) {
                let pairs = from.iter().flat_map(|a| to.iter().map(|b| (*a, *b)));
                state.cut.extend(pairs);
            }
        }
    }

    /// Cuts one member off from every endpoint there is, in both directions.
    pub fn isolate(&self, id: u64) {
        let mut state = self.net.state.lock();
        let others: Vec<u64> =
            state.endpoints.keys().copied().filter(|other| *other != id).collect();
        state.cut.extend(others.into_iter().flat_map(|other| [(id, other), (other, id)]));
    }

    /// Mends every cut. Faults stay as they are.
    pub fn heal(&self) {
        self.net.state.lock().cut.clear();
    }

    /// Asks an endpoint what [`query`](crate::query) asks over TCP. `None` if it is not there or does not answer.
    #[must_use]
    pub fn query(&self, to: u64, kind: &str, payload: Bytes) -> Option<Bytes> {
        let endpoint = self.net.state.lock().endpoints.get(&to).cloned()?;
        endpoint.query(kind, payload)
    }
}

struct Net {
    seed: u64,
    state: Mutex<NetState>,
}

#[derive(Default)]
struct NetState {
    endpoints: BTreeMap<u64, Arc<Endpoint>>,
    faults: Faults,
    links: BTreeMap<(u64, u64), Link>,
    cut: BTreeSet<(u64, u64)>,
}

struct Link {
    rng: fastrand::Rng,
    faults: Option<Faults>,
}

/// What becomes of one envelope: a copy for each entry, arriving after that time; `true` if it may overtake.
type Fate = Vec<(Duration, bool)>;

impl NetState {
    fn link(&mut self, seed: u64, from: u64, to: u64) -> &mut Link {
        self.links.entry((from, to)).or_insert_with(|| {
            let seed = seed
                ^ from.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ to.rotate_left(43);
            Link { rng: fastrand::Rng::with_seed(seed), faults: None }
        })
    }
}

impl Net {
    /// The endpoint at the other end, unless it is cut off or not there.
    fn reach(&self, from: u64, to: u64) -> Option<Arc<Endpoint>> {
        let state = self.state.lock();
        if state.cut.contains(&(from, to)) { None } else { state.endpoints.get(&to).cloned() }
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.state.lock().cut.contains(&(from, to))
    }

    fn fate(&self, from: u64, to: u64) -> Fate {
        let mut state = self.state.lock();
        let common = state.faults.clone();
        let link = state.link(self.seed, from, to);
        link.faults.as_ref().unwrap_or(&common).draw(&mut link.rng)
    }

    fn delay(&self, from: u64, to: u64) -> Duration {
        let mut state = self.state.lock();
        let common = state.faults.clone();
        let link = state.link(self.seed, from, to);
        link.faults.as_ref().unwrap_or(&common).draw_delay(&mut link.rng)
    }
}
