//! Two members that know each other, in one process.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_bench_harness::Result;
use oarlock_transport::{
    Envelope, FrameFault, Handler, Identity, Lane, PeerInfo, Refusal, Shed, SnapshotEnvelope,
    TcpOptions, TcpTransport, Transport,
};
use parking_lot::{Condvar, Mutex};

const BOUND: Duration = Duration::from_secs(30);

/// How much has arrived, for somebody who waits for it.
#[derive(Default)]
pub(crate) struct Arrived {
    count: AtomicU64,
    /// What is waited for.
    goal: AtomicU64,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Arrived {
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    pub(crate) fn add(&self, count: u64) {
        let now = self.count.fetch_add(count, Ordering::SeqCst) + count;
        let goal = self.goal.load(Ordering::SeqCst);
        if now >= goal && now - count < goal {
            drop(self.lock.lock());
            self.changed.notify_all();
        }
    }

    pub(crate) fn wait(&self, goal: u64) -> Result<()> {
        let end = Instant::now() + BOUND;
        self.goal.store(goal, Ordering::SeqCst);
        let mut locked = self.lock.lock();
        while self.count() < goal {
            if self.changed.wait_until(&mut locked, end).timed_out() {
                return Err(format!("{} of {goal} arrived", self.count()).into());
            }
        }
        Ok(())
    }
}

/// Counts what arrives on each lane; with an echo, sends what comes on the message lane back.
struct End {
    arrived: [Arrived; 2],
    echo: Option<Mutex<Weak<TcpTransport>>>,
}

impl Handler for End {
    fn hello(&self, _: u64) -> Bytes {
        Bytes::new()
    }
    fn admit(&self, _: &PeerInfo) -> Result<(), Refusal> {
        Ok(())
    }
    fn receive(&self, from: u64, lane: Lane, head: Bytes, _: Vec<Bytes>) -> Result<(), FrameFault> {
        let echo = self.echo.as_ref().filter(|_| lane == Lane::Message);
        if let Some(transport) = echo.and_then(|echo| echo.lock().upgrade()) {
            transport.send(vec![message(from, head)]);
        }
        self.arrived[lane as usize].add(1);
        Ok(())
    }
    fn receive_snapshot(
        &self,
        _: u64,
        _: Bytes,
        _: u64,
        content: &mut dyn Read,
    ) -> Result<(), Refusal> {
        let mut buffer = vec![0; 1 << 20];
        while content.read(&mut buffer).map_err(|error| Refusal::rejected(error.to_string()))? > 0 {
        }
        Ok(())
    }
    fn unreachable(&self, _: u64) {}
    fn refused(&self, _: u64, _: &Refusal) {}
    fn members(&self) -> Option<Bytes> {
        None
    }
}

fn message(to: u64, head: Bytes) -> Envelope {
    let shed = Shed::Normal;
    Envelope { to, lane: Lane::Message, label: "bench", shed, head, payloads: Vec::new() }
}

pub(crate) struct Pair {
    one: Arc<TcpTransport>,
    near: Arc<End>,
    far: Arc<End>,
    _two: Arc<TcpTransport>,
}

impl Pair {
    /// Member 1 sends to member 2, which sends messages back if it is an echo.
    pub(crate) fn new(echo: bool) -> Result<Self> {
        let member = |id, echo: bool| -> Result<(Arc<TcpTransport>, Arc<End>)> {
            let options = TcpOptions::new();
            let transport = TcpTransport::bind(Identity::new(id, 7), "127.0.0.1:0", options)?;
            let transport = Arc::new(transport);
            let echo = echo.then(|| Mutex::new(Arc::downgrade(&transport)));
            let end = Arc::new(End { arrived: Default::default(), echo });
            transport.start(Arc::clone(&end) as Arc<dyn Handler>)?;
            Ok((transport, end))
        };
        let ((one, near), (two, far)) = (member(1, false)?, member(2, echo)?);
        let url = |transport: &TcpTransport| format!("http://{}", transport.local_addrs()[0]);
        one.add_peer(2, &[url(&two)])?;
        if echo {
            two.add_peer(1, &[url(&one)])?;
        }
        let end = Instant::now() + BOUND;
        let connected = || {
            let both = |transport: &TcpTransport, id| {
                transport.stats().peers.get(&id).is_some_and(|peer| peer.connects == 2)
            };
            both(&one, 2) && (!echo || both(&two, 1))
        };
        while !connected() {
            if Instant::now() > end {
                return Err("the two do not connect".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { one, near, far, _two: two })
    }

    /// Sends so many messages without a payload, no more than `window` on their way; returns when all have arrived.
    pub(crate) fn messages(&self, head: &Bytes, times: usize, window: u64) -> Result<()> {
        self.run(Lane::Message, window, times, || message(2, head.clone()))
    }

    /// The same with appends of one payload.
    pub(crate) fn appends(&self, payload: &Bytes, times: usize, window: u64) -> Result<()> {
        self.run(Lane::Append, window, times, || {
            let payloads = vec![payload.clone()];
            Envelope { lane: Lane::Append, payloads, ..message(2, Bytes::from_static(b"head")) }
        })
    }

    fn run(
        &self,
        lane: Lane,
        window: u64,
        times: usize,
        make: impl Fn() -> Envelope,
    ) -> Result<()> {
        let arrived = &self.far.arrived[lane as usize];
        let first = arrived.count();
        for sent in 0..times as u64 {
            // Half a window must have arrived before the next one goes.
            if sent % (window / 2) == 0 && sent >= window {
                arrived.wait(first + sent - window / 2)?;
            }
            self.one.send(vec![make()]);
        }
        arrived.wait(first + times as u64)
    }

    /// A message there, and one back.
    pub(crate) fn round_trip(&self, head: &Bytes) -> Result<()> {
        let arrived = &self.near.arrived[Lane::Message as usize];
        let goal = arrived.count() + 1;
        self.one.send(vec![message(2, head.clone())]);
        arrived.wait(goal)
    }

    /// Streams a snapshot without end until the guard is dropped; counts what is read of it.
    pub(crate) fn snapshot(&self) -> Busy {
        let busy = Busy::default();
        let content = Content(busy.clone());
        let envelope = SnapshotEnvelope { to: 2, head: Bytes::new(), len: u64::MAX };
        let ended = busy.clone();
        let done = Box::new(move |_| ended.ended.store(true, Ordering::SeqCst));
        self.one.send_snapshot(envelope, Box::new(content), done);
        busy
    }
}

/// Something that goes on until this is dropped.
#[derive(Clone, Default)]
pub(crate) struct Busy {
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
}

impl Busy {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        while !self.ended.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Content(Busy);

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.stop.load(Ordering::SeqCst) {
            return Ok(0);
        }
        buffer.fill(7);
        self.0.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(buffer.len())
    }
}
