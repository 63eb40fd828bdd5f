//! What wakes the node thread: two queues behind one lock.
//!
//! *Control* is what the node's own threads report. It is bounded by what was handed to them, is taken first, and
//! never refused: if it could be, the node thread and the one that reports might wait for each other's full queue.
//! *Data* comes from outside, peers and callers, and is bounded by count and by bytes.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::events::{Control, Data};

/// Peers' messages that may wait.
const MAX_MESSAGES: usize = 4096;
/// Bytes of peers' messages that may wait.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub(crate) struct Inbox {
    queues: Mutex<Queues>,
    arrived: Condvar,
    max_requests: usize,
}

#[derive(Debug, Default)]
struct Queues {
    control: VecDeque<Control>,
    data: VecDeque<Data>,
    requests: usize,
    messages: usize,
    message_bytes: usize,
    /// No more data: the node is stopping.
    closed: bool,
    /// Nothing at all any more: the node thread has gone.
    gone: bool,
}

/// Why something was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    Full,
    Closed,
}

impl Inbox {
    pub(crate) fn new(max_requests: usize) -> Self {
        Self { queues: Mutex::default(), arrived: Condvar::new(), max_requests }
    }

    /// Never refused while the node thread lives; dropped, and with it any resolver in it, once it has gone.
    pub(crate) fn control(&self, control: Control) {
        let mut queues = self.queues.lock();
        if !queues.gone {
            queues.control.push_back(control);
            self.arrived.notify_one();
        }
    }

    /// Takes something from outside, if there is room.
    pub(crate) fn data(&self, data: Data) -> Result<(), NotTaken> {
        let mut queues = self.queues.lock();
        if queues.closed {
            return Err(NotTaken::Closed);
        }
        if data.is_request() {
            if queues.requests >= self.max_requests {
                return Err(NotTaken::Full);
            }
            queues.requests += 1;
        } else {
            let bytes = data.bytes();
            if queues.messages >= MAX_MESSAGES || queues.message_bytes + bytes > MAX_MESSAGE_BYTES {
                return Err(NotTaken::Full);
            }
            queues.messages += 1;
            queues.message_bytes += bytes;
        }
        queues.data.push_back(data);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits until something is there or `deadline` has passed; then takes all of it.
    pub(crate) fn take(&self, deadline: Instant) -> (VecDeque<Control>, VecDeque<Data>) {
        let mut queues = self.queues.lock();
        while queues.control.is_empty() && queues.data.is_empty() {
            if self.arrived.wait_until(&mut queues, deadline).timed_out() {
                break;
            }
        }
        queues.requests = 0;
        queues.messages = 0;
        queues.message_bytes = 0;
        (std::mem::take(&mut queues.control), std::mem::take(&mut queues.data))
    }

    /// From now on data is refused; what waits is given back.
    pub(crate) fn close(&self) -> VecDeque<Data> {
        let mut queues = self.queues.lock();
        queues.closed = true;
        std::mem::take(&mut queues.data)
    }

    /// From now on everything is dropped.
    pub(crate) fn gone(&self) {
        let (control, data) = {
            let mut queues = self.queues.lock();
            queues.closed = true;
            queues.gone = true;
            (std::mem::take(&mut queues.control), std::mem::take(&mut queues.data))
        };
        drop((control, data)); // outside the lock: resolvers wake whoever waits
    }
}
