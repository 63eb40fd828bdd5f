//! Snapshots: a connection for each, chunks under checksums, and a last word from the receiver.

use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;

use super::dial::{DialError, Link};
use super::inbound::Guest;
use super::net::{part, write_frame, write_patiently};
use super::peer::Peer;
use super::shared::Shared;
use crate::codec::{FrameError, Key, Kind, Limits, Purpose, decode_refusal, seal};
use crate::planted::planted;
use crate::{Handler, Refusal, SnapshotEnvelope, SnapshotSendError};

/// Content travels in chunks of at most this size.
const CHUNK: usize = 1 << 20;
/// A snapshot's head is at most this long.
pub(super) const MAX_HEAD: usize = 1 << 20;
/// What the receiver of a snapshot reads at once.
const LIMITS: Limits = Limits { body: MAX_HEAD + 64, payloads: 1 };

/// Sends one snapshot, on a thread made for it.
pub(super) fn send(
    shared: &Shared,
    peer: &Peer,
    envelope: &SnapshotEnvelope,
    content: &mut dyn Read,
) -> Result<(), SnapshotSendError> {
    let id = peer.id;
    let (_, mut link) = shared.connect(peer, Purpose::Snapshot).map_err(|error| match error {
        DialError::Refused(refusal) | DialError::WeRefused(refusal) => {
            SnapshotSendError::Refused(refusal)
        }
        DialError::Stopping => SnapshotSendError::Stopped,
        error => SnapshotSendError::Unreachable { id, source: error.into_io() },
    })?;
    *peer.snapshot.lock() = Some(Arc::clone(&link.stream));
    let _cut = CutOnDrop(peer);
    let result = if peer.is_removed() {
        Err(SnapshotSendError::PeerRemoved)
    } else {
        // Also while our own disk is slow to give the content, the receiver shall know that we are there.
        let (stream, key) = (Arc::clone(&link.stream), Mutex::new(link.key.clone()));
        let mut courier = Courier { shared, link: &mut link, key: &key, heard: Instant::now() };
        let signs = Signs { kind: Kind::Ping, ..Signs::of_life(shared) };
        signs.during(&stream, &key, || courier.deliver(envelope, content))
    };
    match result {
        Err(_) if peer.is_removed() => Err(SnapshotSendError::PeerRemoved),
        Err(SnapshotSendError::Lost(_)) if shared.crew.is_stopping() => {
            Err(SnapshotSendError::Stopped)
        }
        result => result,
    }
}

/// Cuts a snapshot's connection however it ended, also by a panic of the reader: what is cut cannot be taken for whole.
struct CutOnDrop<'a>(&'a Peer);

impl Drop for CutOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(stream) = self.0.snapshot.lock().take() {
            let _ = stream.shutdown(Shutdown::Both); // an error means that it has ended already
        }
    }
}

/// What became of the snapshot, by the receiver's word.
type Verdict = Result<(), SnapshotSendError>;

/// Brings one snapshot over one connection.
struct Courier<'a> {
    shared: &'a Shared,
    link: &'a mut Link,
    /// Of what we send; locked for as long as a frame is being written.
    key: &'a Mutex<Key>,
    /// When the receiver last gave a sign of life.
    heard: Instant,
}

impl Courier<'_> {
    fn deliver(&mut self, envelope: &SnapshotEnvelope, content: &mut dyn Read) -> Verdict {
        let declared = envelope.len;
        let start = self.write(Kind::SnapshotStart, &envelope.head, &[&declared.to_be_bytes()])?;
        if let Some(verdict) = start {
            return verdict;
        }
        let mut chunk = vec![0; usize::try_from(declared).unwrap_or(CHUNK).min(CHUNK)];
        let mut read = 0;
        while read < declared {
            let want = usize::try_from(declared - read).unwrap_or(CHUNK).min(CHUNK);
            let have = fill(content, &mut chunk[..want])?;
            if have == 0 {
                return Err(SnapshotSendError::WrongLength { declared, read });
            }
            read += have as u64;
            if let Some(verdict) = self.write(Kind::SnapshotChunk, b"", &[&chunk[..have]])? {
                return verdict;
            }
        }
        if fill(content, &mut [0])? > 0 {
            return Err(SnapshotSendError::WrongLength { declared, read: read + 1 });
        }
        match self.write(Kind::SnapshotEnd, b"", &[])? {
            Some(verdict) => verdict,
            None => self.wait(),
        }
    }

    /// Waits for the last word, for as long as the receiver is there.
    fn wait(&mut self) -> Verdict {
        let end = Instant::now() + self.shared.options.snapshot_timeout;
        loop {
            let silence = match planted("waits-for-the-dead") {
                true => end,
                false => self.heard + self.shared.options.idle_timeout,
            };
            match self.link.back.wait(&self.link.stream, end.min(silence)) {
                Ok(frame) => {
                    if let Some(verdict) = self.take(&frame) {
                        return verdict;
                    }
                }
                Err(FrameError::Timeout) if Instant::now() >= end => {
                    return Err(SnapshotSendError::NoAnswer);
                }
                Err(error) => return Err(SnapshotSendError::Lost(broken(error))),
            }
        }
    }

    /// What the receiver has said by now: it may refuse before the end, or already have what we send. An error if it
    /// has said nothing for too long. With the key locked: a poll makes the socket non-blocking for a moment, in which
    /// nobody else may write to it.
    fn hear(&mut self) -> Result<Option<Verdict>, SnapshotSendError> {
        loop {
            match self.link.back.poll(&self.link.stream) {
                Ok(Some(frame)) => {
                    if let Some(verdict) = self.take(&frame) {
                        return Ok(Some(verdict));
                    }
                }
                Ok(None) if self.heard.elapsed() > self.shared.options.idle_timeout => {
                    return Err(SnapshotSendError::Lost(io::ErrorKind::TimedOut.into()));
                }
                Ok(None) => return Ok(None),
                Err(error) => return Err(SnapshotSendError::Lost(broken(error))),
            }
        }
    }

    fn take(&mut self, (kind, head): &(Kind, Bytes)) -> Option<Verdict> {
        match kind {
            Kind::Alive => {
                self.heard = Instant::now();
                None
            }
            Kind::SnapshotAccepted => Some(Ok(())),
            Kind::Refusal => Some(Err(SnapshotSendError::Refused(decode_refusal(head)))),
            _ => {
                let error = FrameError::Malformed("neither accepted nor refused");
                Some(Err(SnapshotSendError::Lost(broken(error))))
            }
        }
    }

    /// Writes a frame; gives the verdict instead if there is one before all of it is written. A disk may keep the receiver from
    /// reading for longer than a lane would put up with, as long as it says that it is there.
    fn write(
        &mut self,
        kind: Kind,
        head: &[u8],
        payloads: &[&[u8]],
    ) -> Result<Option<Verdict>, SnapshotSendError> {
        let mut header = Vec::new();
        let mut key = self.key.lock();
        if let Some(verdict) = self.hear()? {
            return Ok(Some(verdict));
        }
        if !seal(&mut key, kind, head, payloads, &mut header) {
            return Err(SnapshotSendError::HeadTooLarge { len: head.len(), limit: MAX_HEAD });
        }
        let mut slices = vec![IoSlice::new(&header), IoSlice::new(head)];
        slices.extend(payloads.iter().map(|payload| IoSlice::new(payload)));
        let stream = Arc::clone(&self.link.stream);
        let patience = self.shared.options.snapshot_timeout;
        let mut said = Ok(None);
        let written = write_patiently(&stream, &mut slices, |stalled| {
            said = self.hear();
            match said {
                Ok(None) if stalled < patience => Ok(()),
                _ => Err(io::ErrorKind::TimedOut.into()),
            }
        });
        match (written, said) {
            (Ok(()), _) => Ok(None),
            (Err(_), Err(error)) => Err(error),
            (Err(_), Ok(Some(verdict))) => Ok(Some(verdict)),
            // Perhaps because the receiver has refused and gone.
            (Err(error), Ok(None)) => match self.hear() {
                Ok(Some(verdict @ Err(SnapshotSendError::Refused(_)))) => Ok(Some(verdict)),
                _ => Err(SnapshotSendError::Lost(error)),
            },
        }
    }
}

/// Reads until the buffer is full or the content ends.
fn fill(content: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, SnapshotSendError> {
    let mut have = 0;
    while have < buffer.len() {
        match content.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SnapshotSendError::Content(error)),
        }
    }
    Ok(have)
}

fn broken(error: FrameError) -> io::Error {
    match error {
        FrameError::Io(error) => error,
        FrameError::Closed | FrameError::Truncated => io::ErrorKind::UnexpectedEof.into(),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

/// Receives one snapshot on the thread of its connection.
pub(super) fn receive(shared: &Shared, handler: &Arc<dyn Handler>, mut guest: Guest) {
    let id = guest.id;
    let (head, len) = match guest.read(LIMITS, shared.options.handshake_timeout).and_then(start) {
        Ok(start) => start,
        Err(error) => return guest.end(shared, &error),
    };
    if shared.is_paused() || !guest.turn.is_ours() {
        return guest.refuse(&Refusal::Busy);
    }
    let stream = Arc::clone(&guest.stream);
    let key = Mutex::new(guest.reader.get_mut().voice().key.clone());
    let mut content = Content {
        guest: &mut guest,
        idle: shared.options.idle_timeout,
        patience: shared.options.snapshot_timeout,
        chunk: Bytes::new(),
        left: len,
        state: State::Arriving,
    };
    let result = Signs::of_life(shared)
        .during(&stream, &key, || handler.receive_snapshot(id, head, len, &mut content));
    let state = std::mem::replace(&mut content.state, State::Ended);
    guest.reader.get_mut().voice().key = key.into_inner();
    shared.counters.peer(id, |stats| match result {
        Ok(()) => stats.snapshots_received += 1,
        Err(_) => stats.snapshots_refused += 1,
    });
    match (result, state) {
        (Ok(()), _) => {
            let key = &mut guest.reader.get_mut().voice().key;
            if write_frame(&guest.stream, key, Kind::SnapshotAccepted, b"").is_ok() {
                part(&guest.stream);
            }
        }
        (Err(_), State::Broken(error)) => guest.end(shared, &error),
        (Err(refusal), _) => {
            shared.we_refuse(id, &refusal);
            guest.refuse(&refusal);
        }
    }
}

/// What one side says now and then, from a thread of its own, while it waits for the network or a disk: the other side
/// cannot tell a slow disk from a dead machine otherwise.
struct Signs {
    kind: Kind,
    every: Duration,
    /// How long one of them may wait for a receiver that reads nothing.
    patience: Duration,
}

impl Signs {
    /// A receiver's.
    fn of_life(shared: &Shared) -> Self {
        let options = &shared.options;
        let patience = options.write_timeout.max(options.snapshot_timeout / 4);
        Self { kind: Kind::Alive, every: options.keepalive(), patience }
    }

    fn during<T>(&self, stream: &TcpStream, key: &Mutex<Key>, work: impl FnOnce() -> T) -> T {
        let (working, ended) = sync_channel::<()>(0);
        thread::scope(|scope| {
            let name = "oarlock-alive".to_owned();
            let say = move || self.say(stream, key, &ended);
            if let Err(error) = thread::Builder::new().name(name).spawn_scoped(scope, say) {
                log::warn!(error:%; "no thread for the signs of life of a snapshot");
            }
            let result = work();
            drop(working);
            result
        })
    }

    fn say(&self, stream: &TcpStream, key: &Mutex<Key>, ended: &Receiver<()>) {
        while ended.recv_timeout(self.every) == Err(RecvTimeoutError::Timeout)
            && !planted("silent-while-it-works")
        {
            // A frame that is being written is a sign of life as well.
            let Some(mut key) = key.try_lock() else { continue };
            let mut frame = Vec::new();
            seal::<&[u8]>(&mut key, self.kind, b"", &[], &mut frame);
            let written = write_patiently(stream, &mut [IoSlice::new(&frame)], |stalled| {
                let over = ended.try_recv() == Err(TryRecvError::Disconnected);
                if over || stalled > self.patience {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(())
            });
            if written.is_err() {
                let _ = stream.shutdown(Shutdown::Both); // half a frame may be out
                return;
            }
        }
    }
}

/// What the first frame says: the head, and how much follows.
fn start(
    (header, head, payloads): (crate::codec::Header, Bytes, Vec<Bytes>),
) -> Result<(Bytes, u64), FrameError> {
    match (header.kind, payloads.first().map(|payload| <[u8; 8]>::try_from(&payload[..]))) {
        (Kind::SnapshotStart, Some(Ok(len))) => Ok((head, u64::from_be_bytes(len))),
        _ => Err(FrameError::Malformed("expected the start of a snapshot")),
    }
}

/// The content as the handler reads it.
struct Content<'a> {
    guest: &'a mut Guest,
    /// How long the sender may say nothing at all.
    idle: Duration,
    /// How long it may say nothing but that it is there.
    patience: Duration,
    chunk: Bytes,
    left: u64,
    state: State,
}

enum State {
    Arriving,
    /// The sender has vouched for the end.
    Ended,
    Broken(FrameError),
}

impl Content<'_> {
    /// Reads the next chunk, or the end.
    fn advance(&mut self) -> Result<(), FrameError> {
        let end = Instant::now() + self.patience;
        let (header, head, mut payloads) = loop {
            let frame = self.guest.read(LIMITS, self.idle)?;
            if frame.0.kind != Kind::Ping {
                break frame;
            }
            if Instant::now() > end {
                return Err(FrameError::Timeout);
            }
        };
        match (header.kind, payloads.pop()) {
            (Kind::SnapshotChunk, Some(chunk)) if !chunk.is_empty() && head.is_empty() => {
                self.left = self
                    .left
                    .checked_sub(chunk.len() as u64)
                    .ok_or(FrameError::Malformed("the snapshot is longer than declared"))?;
                self.chunk = chunk;
            }
            (Kind::SnapshotEnd, None) if self.left == 0 => self.state = State::Ended,
            (Kind::SnapshotEnd, None) => {
                return Err(FrameError::Malformed("the snapshot is shorter than declared"));
            }
            _ => return Err(FrameError::Malformed("expected a chunk of the snapshot")),
        }
        Ok(())
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.chunk.is_empty() {
            match self.state {
                State::Ended => return Ok(0),
                State::Broken(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
                State::Arriving => {}
            }
            if let Err(error) = self.advance() {
                let cause = io::Error::new(io::ErrorKind::ConnectionAborted, error.to_string());
                self.state = State::Broken(error);
                return Err(cause);
            }
        }
        let count = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
