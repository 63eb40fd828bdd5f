//! A handler that writes down what it is told, and waits for conditions instead of sleeping.

pub(crate) mod proxy;
pub(crate) mod raw;

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_transport::{
    Envelope, FrameFault, Handler, Lane, PeerInfo, Refusal, Shed, SnapshotSendError,
};
use parking_lot::{Condvar, Mutex};

/// How long a test waits for what must happen; with a bug planted it need not wait for what will not.
pub(crate) const BOUND: Duration = Duration::from_secs(if cfg!(oarlock_planted) { 8 } else { 20 });

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Received { from: u64, lane: Lane, head: Bytes, payloads: Vec<Bytes> },
    Snapshot { from: u64, head: Bytes, content: Vec<u8> },
    BrokenSnapshot { from: u64, read: usize },
    Unreachable(u64),
    Refused(u64, Refusal),
    Admitted(PeerInfo),
}

type Admit = Box<dyn Fn(&PeerInfo) -> Result<(), Refusal> + Send + Sync>;
type Receive = Box<dyn Fn(&Bytes) -> Result<(), FrameFault> + Send + Sync>;
type ReceiveSnapshot = Box<dyn Fn() -> Result<(), Refusal> + Send + Sync>;

pub(crate) struct Recorder {
    events: Mutex<Vec<Event>>,
    changed: Condvar,
    pub(crate) admit: Mutex<Admit>,
    pub(crate) receive: Mutex<Receive>,
    pub(crate) before_snapshot: Mutex<ReceiveSnapshot>,
    pub(crate) after_snapshot: Mutex<ReceiveSnapshot>,
    pub(crate) members: Mutex<Option<Bytes>>,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            events: Mutex::default(),
            changed: Condvar::new(),
            admit: Mutex::new(Box::new(|_| Ok(()))),
            receive: Mutex::new(Box::new(|_| Ok(()))),
            before_snapshot: Mutex::new(Box::new(|| Ok(()))),
            after_snapshot: Mutex::new(Box::new(|| Ok(()))),
            members: Mutex::default(),
        })
    }

    fn note(&self, event: Event) {
        self.events.lock().push(event);
        self.changed.notify_all();
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().clone()
    }

    /// Waits until the events so far satisfy `condition`.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        let end = Instant::now() + BOUND;
        let mut events = self.events.lock();
        while !condition(&events) {
            let late = self.changed.wait_until(&mut events, end).timed_out();
            assert!(!late || condition(&events), "{what} did not happen, but: {:?}", tail(&events));
        }
        events.clone()
    }

    /// The heads received so far on a lane.
    pub(crate) fn heads(&self, lane: Lane) -> Vec<Bytes> {
        let events = self.events.lock();
        events
            .iter()
            .filter_map(|event| match event {
                Event::Received { lane: on, head, .. } if *on == lane => Some(head.clone()),
                _ => None,
            })
            .collect()
    }

    #[track_caller]
    pub(crate) fn wait_received(&self, count: usize) -> Vec<Event> {
        self.wait(&format!("receiving {count}"), |events| {
            events.iter().filter(|event| matches!(event, Event::Received { .. })).count() >= count
        })
    }

    #[track_caller]
    pub(crate) fn wait_refused(&self, by: u64) -> Refusal {
        let found = |event: &Event| match event {
            Event::Refused(peer, refusal) if *peer == by => Some(refusal.clone()),
            _ => None,
        };
        let events =
            self.wait("a refusal", |events| events.iter().any(|event| found(event).is_some()));
        events.iter().find_map(found).expect("just waited for it")
    }

    #[track_caller]
    pub(crate) fn wait_unreachable(&self, peer: u64) {
        self.wait("unreachable", |events| events.contains(&Event::Unreachable(peer)));
    }
}

fn tail(events: &[Event]) -> &[Event] {
    &events[events.len().saturating_sub(8)..]
}

impl Handler for Recorder {
    fn hello(&self, peer: u64) -> Bytes {
        Bytes::from(format!("hello {peer}"))
    }

    fn admit(&self, peer: &PeerInfo) -> Result<(), Refusal> {
        (self.admit.lock())(peer)?;
        self.note(Event::Admitted(peer.clone()));
        Ok(())
    }

    fn receive(
        &self,
        from: u64,
        lane: Lane,
        head: Bytes,
        payloads: Vec<Bytes>,
    ) -> Result<(), FrameFault> {
        (self.receive.lock())(&head)?;
        self.note(Event::Received { from, lane, head, payloads });
        Ok(())
    }

    fn receive_snapshot(
        &self,
        from: u64,
        head: Bytes,
        len: u64,
        content: &mut dyn Read,
    ) -> Result<(), Refusal> {
        (self.before_snapshot.lock())()?;
        let mut bytes = Vec::new();
        if content.read_to_end(&mut bytes).is_err() {
            self.note(Event::BrokenSnapshot { from, read: bytes.len() });
            return Err(Refusal::rejected("broke off"));
        }
        assert_eq!(bytes.len() as u64, len, "Ok(0) before the end");
        (self.after_snapshot.lock())()?;
        self.note(Event::Snapshot { from, head, content: bytes });
        Ok(())
    }

    fn unreachable(&self, peer: u64) {
        self.note(Event::Unreachable(peer));
    }

    fn refused(&self, peer: u64, refusal: &Refusal) {
        self.note(Event::Refused(peer, refusal.clone()));
    }

    fn members(&self) -> Option<Bytes> {
        self.members.lock().clone()
    }
}

pub(crate) fn envelope(to: u64, lane: Lane, head: impl Into<Bytes>) -> Envelope {
    Envelope {
        to,
        lane,
        label: "test",
        shed: Shed::Normal,
        head: head.into(),
        payloads: Vec::new(),
    }
}

/// A `done` for a snapshot, and where its calls arrive.
pub(crate) struct Outcome(std::sync::mpsc::Receiver<Result<(), SnapshotSendError>>);

pub(crate) fn outcome() -> (oarlock_transport::SnapshotDone, Outcome) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let done = Box::new(move |result| drop(sender.send(result)));
    (done, Outcome(receiver))
}

impl Outcome {
    /// What `done` was called with. That it is not called twice, its type says; that it is, this.
    #[track_caller]
    pub(crate) fn get(&self) -> Result<(), SnapshotSendError> {
        self.0.recv_timeout(BOUND).expect("`done` is called")
    }
}

/// Waits for a condition that nothing announces.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}
