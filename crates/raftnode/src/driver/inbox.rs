//! The node thread's inbox: two queues behind one lock.
//!
//! *Control* is what the node's own threads report. It is taken first and never refused, or the node thread and a
//! reporting thread might each wait for room in the other's queue; it is bounded by the work handed to those threads.
//! *Data* comes from peers and callers, and is bounded in number and bytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::events::{Control, Data};
use crate::planted::planted;

/// Messages from peers that may wait. Those beyond it are dropped, as a network would.
const MAX_MESSAGES: usize = 4096;
/// Bytes of messages from peers that may wait: as much as a transport's lane holds. One alone may be larger.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Arrivals closer together than this belong to one burst.
const SOON: Duration = Duration::from_micros(3);
/// The longest wait for the end of a burst.
const LINGER: Duration = Duration::from_micros(150);
/// A burst of this many is taken at once.
const ENOUGH: usize = 384;

#[derive(Debug)]
pub(crate) struct Inbox {
    queues: Mutex<Queues>,
    arrived: Condvar,
    /// How many items wait; read without the lock, so it may be out of date.
    there: AtomicUsize,
    max_requests: usize,
}

#[derive(Debug, Default)]
struct Queues {
    control: VecDeque<Control>,
    data: VecDeque<Data>,
    requests: usize,
    messages: usize,
    message_bytes: usize,
    /// The node is stopping: data is refused.
    closed: bool,
    /// The node thread has ended: everything is dropped.
    gone: bool,
}

/// Whether a [`linger`](Inbox::linger) is worth it. It only delays a lone caller, who waits for each answer before the
/// next call.
#[derive(Debug, Default)]
pub(crate) struct Bursts {
    alone: u32,
}

impl Bursts {
    /// After this many single arrivals the next is expected to be single too.
    const ENOUGH_ALONE: u32 = 8;

    const fn taken(&mut self, data: usize) {
        match data {
            0 => {} // only reports of the node's own threads, which say nothing about callers and peers
            1 => self.alone = self.alone.saturating_add(1),
            _ => self.alone = 0,
        }
    }

    const fn expected(&self) -> bool {
        self.alone < Self::ENOUGH_ALONE
    }
}

/// Why the inbox refused something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    Full,
    Closed,
}

impl Inbox {
    pub(crate) fn new(max_requests: usize) -> Self {
        let (queues, arrived) = (Mutex::default(), Condvar::new());
        Self { queues, arrived, there: AtomicUsize::new(0), max_requests }
    }

    /// Adds a report. Dropped, with any resolver in it, once the node thread has ended.
    pub(crate) fn control(&self, control: Control) {
        let mut queues = self.queues.lock();
        if !queues.gone {
            queues.control.push_back(control);
            self.arrived(&queues);
        }
    }

    /// Adds something from a peer or a caller, if there is room.
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
            // However large one is, it is taken when no other waits: it comes again and again until it is.
            let large = queues.message_bytes + bytes > MAX_MESSAGE_BYTES
                && (queues.messages > 0 || planted("too-large-for-an-empty-inbox"));
            if queues.messages >= MAX_MESSAGES || large {
                return Err(NotTaken::Full);
            }
            queues.messages += 1;
            queues.message_bytes += bytes;
        }
        queues.data.push_back(data);
        self.arrived(&queues);
        Ok(())
    }

    /// Updates the count, with the lock held, and wakes the node thread.
    fn arrived(&self, queues: &Queues) {
        self.there.store(queues.control.len() + queues.data.len(), Ordering::Relaxed);
        self.arrived.notify_one();
    }

    /// Waits until there is something or `deadline` has passed, then takes everything, in exchange for two empty queues.
    ///
    /// Returns a time at which all of it had arrived. That is the time at which a lease has to be in force for the
    /// reads among it ([`Core::set_time`](crate::core::Core::set_time)): it may have run out while this slept.
    pub(crate) fn take(
        &self,
        deadline: Instant,
        bursts: &mut Bursts,
        control: &mut VecDeque<Control>,
        data: &mut VecDeque<Data>,
    ) -> Instant {
        let before = Instant::now();
        self.sleep(deadline);
        if bursts.expected() {
            self.linger();
        }
        let mut queues = self.queues.lock();
        queues.requests = 0;
        queues.messages = 0;
        queues.message_bytes = 0;
        self.there.store(0, Ordering::Relaxed);
        std::mem::swap(&mut queues.control, control);
        std::mem::swap(&mut queues.data, data);
        bursts.taken(data.len());
        if planted("time-of-before-the-wait") { before } else { Instant::now() }
    }

    /// Waits until there is something or `deadline` has passed.
    pub(crate) fn sleep(&self, deadline: Instant) {
        let mut queues = self.queues.lock();
        while queues.control.is_empty() && queues.data.is_empty() {
            if self.arrived.wait_until(&mut queues, deadline).timed_out() {
                return;
            }
        }
    }

    /// Whether there seems to be nothing to take; no lock is taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.there.load(Ordering::Relaxed) == 0
    }

    /// Waits while more keeps arriving every few microseconds: what is taken together becomes one message, one write
    /// and one sync. When nothing more has arrived, it does not wait for what might.
    fn linger(&self) {
        let mut there = self.there.load(Ordering::Relaxed);
        let mut look = Instant::now();
        let give_up = look + LINGER;
        while there > 0 && there < ENOUGH && look < give_up {
            let next = look + SOON;
            while look < next {
                std::thread::yield_now();
                look = Instant::now();
            }
            let now = self.there.load(Ordering::Relaxed);
            if now == there {
                return;
            }
            there = now;
        }
    }

    /// Refuses data from now on, and returns what was waiting.
    pub(crate) fn close(&self) -> VecDeque<Data> {
        let mut queues = self.queues.lock();
        queues.closed = true;
        std::mem::take(&mut queues.data)
    }

    /// Drops everything, now and from now on.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raft::eraftpb::{Entry, Message};

    use super::*;
    use crate::waiter::pending;
    use crate::{ReadError, convert};

    fn read() -> Data {
        let (resolver, _) = pending::<u64, ReadError>();
        Data::Read { resolver, deadline: Instant::now(), lease: false }
    }

    fn message(bytes: usize) -> Data {
        let entry = Entry { data: convert::to_raft(vec![0; bytes].into()), ..Entry::default() };
        let message = Message { entries: convert::list_to_raft(vec![entry]), ..Message::default() };
        Data::Message { from: 2, message: Box::new(message) }
    }

    fn empty(inbox: &Inbox) -> (usize, usize) {
        let (mut control, mut data) = (VecDeque::new(), VecDeque::new());
        inbox.take(Instant::now(), &mut Bursts::default(), &mut control, &mut data);
        (control.len(), data.len())
    }

    #[test]
    fn requests_are_bounded_and_take_no_room_from_messages() {
        let inbox = Inbox::new(2);
        assert_eq!([inbox.data(read()), inbox.data(read())], [Ok(()), Ok(())]);
        assert_eq!(inbox.data(Data::Campaign), Err(NotTaken::Full));
        assert_eq!(inbox.data(message(1)), Ok(()));
        inbox.control(Control::Persisted { number: 1 });
        assert_eq!(empty(&inbox), (1, 3));
        assert_eq!(inbox.data(read()), Ok(()), "there is room again");
    }

    #[test]
    fn messages_are_bounded_in_number_and_in_bytes() {
        let inbox = Inbox::new(2);
        for _ in 0..MAX_MESSAGES {
            assert_eq!(inbox.data(message(1)), Ok(()));
        }
        assert_eq!(inbox.data(message(1)), Err(NotTaken::Full));
        assert_eq!(inbox.data(read()), Ok(()), "callers are not the peers' business");
        assert_eq!(empty(&inbox), (0, MAX_MESSAGES + 1));
        assert_eq!(inbox.data(message(MAX_MESSAGE_BYTES / 2)), Ok(()));
        assert_eq!(inbox.data(message(MAX_MESSAGE_BYTES / 2)), Err(NotTaken::Full));
        assert_eq!(inbox.data(message(1)), Ok(()), "a small one fits");
    }

    /// An entry may be larger than all that may wait: nobody could go on if it were never taken.
    #[test]
    fn a_message_of_any_size_is_taken_when_no_other_waits() {
        let inbox = Inbox::new(2);
        assert_eq!(inbox.data(message(MAX_MESSAGE_BYTES + 1)), Ok(()), "not even alone");
        assert_eq!(inbox.data(message(1)), Err(NotTaken::Full));
        assert_eq!(empty(&inbox), (0, 1));
        assert_eq!(inbox.data(message(1)), Ok(()));
        assert_eq!(inbox.data(message(MAX_MESSAGE_BYTES + 1)), Err(NotTaken::Full));
    }

    #[test]
    fn a_closed_inbox_takes_nothing() {
        let inbox = Inbox::new(2);
        inbox.data(read()).expect("there is room");
        assert_eq!(inbox.close().len(), 1);
        assert_eq!(inbox.data(read()), Err(NotTaken::Closed));
        inbox.gone();
        inbox.control(Control::Persisted { number: 1 });
        assert_eq!(empty(&inbox), (0, 0));
    }

    #[test]
    fn bursts_are_expected_until_all_have_come_alone_for_a_while() {
        let mut bursts = Bursts::default();
        for _ in 0..Bursts::ENOUGH_ALONE {
            assert!(bursts.expected());
            bursts.taken(1);
            bursts.taken(0);
        }
        assert!(!bursts.expected(), "one caller, again and again");
        bursts.taken(2);
        assert!(bursts.expected(), "one that came while another was served");
    }

    /// Otherwise a read would be answered by a lease that ended while the node thread slept, before the read was asked.
    #[test]
    fn nothing_arrives_after_the_time_at_which_it_was_taken() {
        let inbox = Arc::new(Inbox::new(8));
        let caller = {
            let inbox = Arc::clone(&inbox);
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20)); // so that the other thread waits by now, most likely
                let arrived = Instant::now();
                inbox.data(Data::Campaign).expect("there is room");
                arrived
            })
        };
        let (mut control, mut data) = (VecDeque::new(), VecDeque::new());
        let mut taken = inbox.take(Instant::now(), &mut Bursts::default(), &mut control, &mut data);
        while data.is_empty() {
            taken = inbox.take(
                Instant::now() + Duration::from_secs(20),
                &mut Bursts::default(),
                &mut control,
                &mut data,
            );
        }
        let arrived = caller.join().expect("it does not panic");
        assert!(taken >= arrived, "a time from before it arrived");
    }
}
