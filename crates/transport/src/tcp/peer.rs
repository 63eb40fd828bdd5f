//! A peer that we send to: its URLs, and for each lane what waits to be sent.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::options::TcpOptions;
use super::queue::Queue;
use super::url::{PeerUrl, Urls};
use crate::{Envelope, Lane};

/// One peer, shared by the callers of the transport and the peer's threads.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: u64,
    pub(super) urls: Mutex<Urls>,
    /// Since when the message lane is connected.
    pub(super) active: Mutex<Option<Instant>>,
    /// The connection of the snapshot that is on its way.
    pub(super) snapshot: Mutex<Option<Arc<TcpStream>>>,
    removed: AtomicBool,
    lanes: [Mailbox; 2],
}

impl Peer {
    pub(super) fn new(id: u64, urls: Vec<PeerUrl>, options: &TcpOptions) -> Self {
        let mailbox = || {
            Mailbox::new(options.queue_envelopes, options.queue_bytes.max(2 * options.max_frame))
        };
        Self {
            id,
            urls: Mutex::new(Urls::new(urls)),
            active: Mutex::default(),
            snapshot: Mutex::default(),
            removed: AtomicBool::new(false),
            lanes: [mailbox(), mailbox()],
        }
    }

    pub(super) const fn lane(&self, lane: Lane) -> &Mailbox {
        &self.lanes[lane as usize]
    }

    pub(super) fn update(&self, urls: Vec<PeerUrl>) {
        let mut current = self.urls.lock();
        *current = Urls::new(urls);
        for lane in &self.lanes {
            lane.moved(&current);
        }
    }

    /// Lets the lanes send what is queued for at most `grace`, and then end.
    pub(super) fn finish(&self, grace: Duration) {
        let end = Instant::now() + grace;
        for lane in &self.lanes {
            lane.finish(end);
        }
    }

    /// Ends the lanes at once, whatever they still have to send.
    pub(super) fn cut(&self) {
        self.finish(Duration::ZERO);
        for lane in &self.lanes {
            lane.cut();
        }
    }

    /// The peer is no longer one: also its snapshot ends.
    pub(super) fn remove(&self, grace: Duration) {
        self.removed.store(true, Ordering::Release);
        if let Some(stream) = self.snapshot.lock().take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.finish(grace);
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

/// What waits for one lane, and the word between its senders and its thread.
#[derive(Debug)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Once set, the lane ends when the queue is empty, or then.
    end: Option<Instant>,
    /// The URL that the lane is connected to.
    connection: Option<(PeerUrl, Arc<TcpStream>)>,
    /// New URLs have come: no use in waiting any longer.
    moved: bool,
}

/// What the lane's thread does next.
pub(super) enum Next {
    Send(Vec<Envelope>),
    /// Nothing to send until the time is up.
    Idle,
    /// The lane has nothing more to do, ever.
    Finished,
}

impl State {
    fn is_finished(&self) -> bool {
        self.end.is_some_and(|end| self.queue.is_empty() || Instant::now() >= end)
    }
}

impl Mailbox {
    fn new(max_envelopes: usize, max_bytes: usize) -> Self {
        let queue = Queue::new(max_envelopes, max_bytes);
        Self {
            state: Mutex::new(State { queue, end: None, connection: None, moved: false }),
            wake: Condvar::new(),
        }
    }

    /// Queues an envelope; says how many were dropped.
    pub(super) fn push(&self, envelope: Envelope) -> u64 {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return 1;
        }
        let dropped = state.queue.push(envelope);
        drop(state);
        self.wake.notify_one();
        dropped
    }

    /// Drops what waits, unless the lane is about to end and tries its best; says how many.
    pub(super) fn give_up(&self) -> u64 {
        let mut state = self.state.lock();
        if state.end.is_some() { 0 } else { state.queue.clear() }
    }

    /// Drops what waits; says how many.
    pub(super) fn clear(&self) -> u64 {
        self.state.lock().queue.clear()
    }

    /// Waits for envelopes to send, but not beyond `until`.
    pub(super) fn next(&self, until: Instant) -> Next {
        let mut state = self.state.lock();
        loop {
            if state.is_finished() {
                return Next::Finished;
            }
            if !state.queue.is_empty() {
                return Next::Send(state.queue.pop_batch());
            }
            if self.wake.wait_until(&mut state, until).timed_out() {
                return if state.queue.is_empty() {
                    Next::Idle
                } else {
                    Next::Send(state.queue.pop_batch())
                };
            }
        }
    }

    /// Waits before the next attempt to connect; shorter if the URLs change. `false` if there is none to come.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.is_finished() && !state.moved {
            let until = state.end.map_or(until, |end| end.min(until));
            if self.wake.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.moved = false;
        !state.is_finished()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.state.lock().is_finished()
    }

    /// Notes what the lane is connected to, so that it can be cut when the peer moves.
    pub(super) fn connected(&self, connection: Option<(PeerUrl, Arc<TcpStream>)>) {
        self.state.lock().connection = connection;
    }

    fn moved(&self, urls: &Urls) {
        let mut state = self.state.lock();
        state.moved = true;
        match &state.connection {
            Some((url, stream)) if !urls.contains(url) => {
                let _ = stream.shutdown(Shutdown::Both);
            }
            _ => {}
        }
        drop(state);
        self.wake.notify_one();
    }

    fn finish(&self, end: Instant) {
        let mut state = self.state.lock();
        state.end = Some(state.end.map_or(end, |before| before.min(end)));
        drop(state);
        self.wake.notify_one();
    }

    fn cut(&self) {
        if let Some((_, stream)) = &self.state.lock().connection {
            let _ = stream.shutdown(Shutdown::Both); // an error means that it has ended already
        }
    }
}
