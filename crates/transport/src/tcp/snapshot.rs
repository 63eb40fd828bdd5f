//! Snapshots: a connection for each, chunks under checksums, and a last word from the receiver.

use std::io::{self, IoSlice, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};

use super::dial::{DialError, Link};
use super::inbound::Guest;
use super::net::{part, write_all_vectored, write_frame};
use super::peer::Peer;
use super::shared::Shared;
use crate::codec::{FrameError, Kind, Limits, Purpose, decode_refusal, seal};
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
    // A disk may keep the receiver from reading for longer than a lane would put up with.
    let patience = shared.options.write_timeout.max(shared.options.snapshot_timeout / 4);
    let _ = link.stream.set_write_timeout(Some(patience)); // an error means that the connection is gone
    let result = if peer.is_removed() {
        Err(SnapshotSendError::PeerRemoved)
    } else {
        stream(shared, &mut link, envelope, content)
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

fn stream(
    shared: &Shared,
    link: &mut Link,
    envelope: &SnapshotEnvelope,
    content: &mut dyn Read,
) -> Result<(), SnapshotSendError> {
    write(link, Kind::SnapshotStart, &envelope.head, &envelope.len.to_be_bytes())?;
    let mut chunk = vec![0; usize::try_from(envelope.len).unwrap_or(CHUNK).min(CHUNK)];
    let declared = envelope.len;
    let mut read = 0;
    while read < declared {
        let want = usize::try_from(declared - read).unwrap_or(CHUNK).min(CHUNK);
        let have = fill(content, &mut chunk[..want])?;
        if have == 0 {
            return Err(SnapshotSendError::WrongLength { declared, read });
        }
        read += have as u64;
        if let Some(verdict) = early_verdict(link)? {
            return verdict;
        }
        write(link, Kind::SnapshotChunk, b"", &chunk[..have])?;
    }
    if fill(content, &mut [0])? > 0 {
        return Err(SnapshotSendError::WrongLength { declared, read: read + 1 });
    }
    write_frame(&link.stream, &mut link.key, Kind::SnapshotEnd, b"")
        .or_else(|error| lost(link, error))?;
    let deadline = Instant::now() + shared.options.snapshot_timeout;
    match link.back.wait(&link.stream, deadline) {
        Ok(frame) => verdict(&frame),
        Err(FrameError::Timeout) => Err(SnapshotSendError::NoAnswer),
        Err(error) => Err(SnapshotSendError::Lost(broken(error))),
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

fn write(
    link: &mut Link,
    kind: Kind,
    head: &[u8],
    payload: &[u8],
) -> Result<(), SnapshotSendError> {
    let mut header = Vec::new();
    if !seal(&mut link.key, kind, head, &[payload], &mut header) {
        return Err(SnapshotSendError::HeadTooLarge { len: head.len(), limit: MAX_HEAD });
    }
    let mut slices = [IoSlice::new(&header), IoSlice::new(head), IoSlice::new(payload)];
    write_all_vectored(&link.stream, &mut slices).or_else(|error| lost(link, error))
}

/// A write failed; perhaps because the receiver has refused and gone.
fn lost(link: &mut Link, error: io::Error) -> Result<(), SnapshotSendError> {
    match early_verdict(link) {
        Ok(Some(Err(refused))) => Err(refused),
        _ => Err(SnapshotSendError::Lost(error)),
    }
}

/// What the receiver has said before the end, if anything: it may refuse, or already have what we send.
fn early_verdict(
    link: &mut Link,
) -> Result<Option<Result<(), SnapshotSendError>>, SnapshotSendError> {
    match link.back.poll(&link.stream) {
        Ok(frame) => Ok(frame.as_ref().map(verdict)),
        Err(error) => Err(SnapshotSendError::Lost(broken(error))),
    }
}

fn verdict((kind, head): &(Kind, Bytes)) -> Result<(), SnapshotSendError> {
    match kind {
        Kind::SnapshotAccepted => Ok(()),
        Kind::Refusal => Err(SnapshotSendError::Refused(decode_refusal(head))),
        _ => Err(SnapshotSendError::Lost(broken(FrameError::Malformed(
            "neither accepted nor refused",
        )))),
    }
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
    let timeout = shared.options.snapshot_timeout;
    let (head, len) = match guest.read(LIMITS, shared.options.handshake_timeout).and_then(start) {
        Ok(start) => start,
        Err(error) => return guest.end(shared, &error),
    };
    if shared.is_paused() || !guest.turn.is_ours() {
        return guest.refuse(&Refusal::Busy);
    }
    let mut content = Content {
        guest: &mut guest,
        timeout,
        chunk: Bytes::new(),
        left: len,
        state: State::Arriving,
    };
    let result = handler.receive_snapshot(id, head, len, &mut content);
    let state = std::mem::replace(&mut content.state, State::Ended);
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
    timeout: Duration,
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
        let (header, head, mut payloads) = self.guest.read(LIMITS, self.timeout)?;
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
