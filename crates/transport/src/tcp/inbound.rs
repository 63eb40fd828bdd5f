//! Receiving from an admitted peer.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::net::{Reader, refuse};
use super::shared::{Counted, Shared};
use super::snapshot;
use crate::codec::{FrameError, Header, Key, Kind, Limits, Purpose, read_body, read_header};
use crate::counters::bump;
use crate::planted::planted;
use crate::{FrameFault, Handler, Lane, Refusal};

/// Faulty messages that end a connection.
const STRIKES: u32 = 3;
/// A frame has this long to arrive, and longer at the rate of ...
const FRAME_TIME: Duration = Duration::from_secs(10);
/// ... so many bytes a second: a slow link may be slow, but nobody may hold a buffer for ever.
const MIN_RATE: u64 = 16 << 10;

/// The place of one peer's connections of one purpose: one sits there, and a newer one displaces it.
#[derive(Debug, Default)]
pub(super) struct Seat {
    state: Mutex<Sitting>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Sitting {
    /// Who came last; only that one may sit, or stay.
    newest: u64,
    stream: Option<Arc<TcpStream>>,
    taken: bool,
}

impl Seat {
    /// Displaces whoever sits or waits there.
    pub(super) fn take(&self, stream: &Arc<TcpStream>) -> u64 {
        let mut sitting = self.state.lock();
        sitting.newest += 1;
        if let Some(old) = sitting.stream.replace(Arc::clone(stream))
            && !planted("the-older-one-stays")
        {
            let _ = old.shutdown(Shutdown::Both);
        }
        self.left.notify_all();
        sitting.newest
    }

    /// Waits until the one before has left, so that nothing of it is received after this. `None` if that takes too
    /// long, or a newer one has come.
    pub(super) fn wait(seat: &Arc<Self>, number: u64, patience: Duration) -> Option<Turn> {
        let end = Instant::now() + patience;
        let mut sitting = seat.state.lock();
        while sitting.taken && sitting.newest == number {
            if seat.left.wait_until(&mut sitting, end).timed_out() {
                break;
            }
        }
        if sitting.taken || sitting.newest != number {
            return None;
        }
        sitting.taken = true;
        Some(Turn { seat: Arc::clone(seat), number })
    }

    /// Shows whoever sits there out.
    pub(super) fn clear(&self) {
        let mut sitting = self.state.lock();
        sitting.newest += 1;
        if let Some(stream) = sitting.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.left.notify_all();
    }
}

/// Sitting, until dropped.
#[derive(Debug)]
pub(super) struct Turn {
    seat: Arc<Seat>,
    number: u64,
}

impl Turn {
    /// Whether nobody newer has come; what was read ahead of an older connection is not received.
    pub(super) fn is_ours(&self) -> bool {
        self.seat.state.lock().newest == self.number
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut sitting = self.seat.state.lock();
        sitting.taken = false;
        if sitting.newest == self.number {
            sitting.stream = None;
        }
        drop(sitting);
        self.seat.left.notify_all();
    }
}

/// An admitted peer's connection.
pub(super) struct Guest {
    pub(super) id: u64,
    pub(super) purpose: Purpose,
    pub(super) stream: Arc<TcpStream>,
    pub(super) reader: Reader,
    pub(super) receive: Key,
    /// Given back before the seat is, which the next one waits for.
    pub(super) _place: Counted,
    pub(super) turn: Turn,
}

impl Guest {
    /// The next frame; it may be `idle` in coming.
    pub(super) fn read(
        &mut self,
        limits: Limits,
        idle: Duration,
    ) -> Result<(Header, Bytes, Vec<Bytes>), FrameError> {
        self.reader.get_mut().set_deadline(Instant::now() + idle);
        let header = read_header(&mut self.reader, limits)?;
        let time = FRAME_TIME + Duration::from_secs(header.len as u64 / MIN_RATE);
        self.reader.get_mut().set_deadline(Instant::now() + time);
        let (head, payloads) = read_body(&mut self.reader, &header, &mut self.receive)?;
        Ok((header, head, payloads))
    }

    /// Counts what is wrong, says so, and closes.
    pub(super) fn end(&mut self, shared: &Shared, error: &FrameError) {
        if !self.turn.is_ours() || shared.crew.is_stopping() {
            return; // we ended it ourselves
        }
        shared.fault(self.id, error);
        if error.label().is_some() {
            self.refuse(&Refusal::Protocol { reason: error.to_string() });
        }
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        refuse(&self.stream, &mut self.reader.get_mut().voice().key, refusal);
    }
}

pub(super) fn serve(shared: &Arc<Shared>, handler: &Arc<dyn Handler>, mut guest: Guest) {
    match guest.purpose {
        Purpose::Lane(lane) => match receive(shared, handler, &mut guest, lane) {
            Left::Broken(error) => guest.end(shared, &error),
            Left::Struck(fault) => {
                guest.refuse(&Refusal::Protocol { reason: fault.to_string() });
            }
            Left::Refusing(refusal) => {
                log::debug!(peer:? = format_args!("{:x}", guest.id), refusal:%; "the dialler refused our welcome");
            }
        },
        Purpose::Snapshot => snapshot::receive(shared, handler, guest),
        Purpose::Query => {} // is answered elsewhere
    }
}

/// Why receiving ended.
enum Left {
    Broken(FrameError),
    Struck(FrameFault),
    Refusing(Refusal),
}

impl From<FrameError> for Left {
    fn from(error: FrameError) -> Self {
        Self::Broken(error)
    }
}

fn receive(
    shared: &Arc<Shared>,
    handler: &Arc<dyn Handler>,
    guest: &mut Guest,
    lane: Lane,
) -> Left {
    let limits = shared.options.limits();
    let idle = shared.options.idle_timeout;
    guest.reader.get_mut().voice().every = Some(shared.options.keepalive() / 2);
    let mut strikes = 0;
    loop {
        let (header, head, payloads) = match guest.read(limits, idle) {
            Ok(frame) => frame,
            Err(error) => return error.into(),
        };
        if !guest.turn.is_ours() || shared.crew.is_stopping() {
            return FrameError::Closed.into();
        }
        match header.kind {
            Kind::Ping => {}
            Kind::Refusal => return Left::Refusing(crate::codec::decode_refusal(&head)),
            Kind::Envelope if shared.is_paused() => {
                shared.counters.peer(guest.id, |stats| stats.dropped_received += 1);
            }
            Kind::Envelope => {
                let bytes = head.len() + payloads.iter().map(Bytes::len).sum::<usize>();
                shared.counters.peer(guest.id, |stats| {
                    stats.received_frames += 1;
                    stats.received_bytes += bytes as u64;
                });
                if let Err(fault) = handler.receive(guest.id, lane, head, payloads) {
                    strikes += 1;
                    note(shared, guest.id, &fault);
                    if strikes >= STRIKES {
                        return Left::Struck(fault);
                    }
                }
            }
            _ => {
                return FrameError::Malformed("a frame of this kind does not belong on a lane")
                    .into();
            }
        }
    }
}

fn note(shared: &Shared, id: u64, fault: &FrameFault) {
    shared.counters.update(|stats| bump(&mut stats.faults, fault.label()));
    shared.counters.peer(id, |stats| stats.faults += 1);
    if shared.gripe_due(fault.label(), id) {
        log::warn!(peer:? = format_args!("{id:x}"), fault:%; "faulty message from peer");
    }
}
