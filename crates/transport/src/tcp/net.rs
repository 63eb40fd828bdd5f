//! Sockets with deadlines, and a register of them, so that `stop` can wake whoever waits for one.

use std::collections::BTreeMap;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::Refusal;
use crate::codec::{
    FrameError, HEADER_LEN, Key, Kind, Limits, encode_refusal, read_body, read_header, seal,
};

/// The most slices that one `writev` takes (`IOV_MAX` on Linux).
const MAX_SLICES: usize = 1024;
/// How long and how much of what still arrives is read after a last word, so that the other side can hear it:
/// closing a socket with unread bytes resets the connection.
const LAST_WORD_TIME: Duration = Duration::from_secs(1);

/// A socket that is read until a deadline, and that says now and then that bytes arrive.
#[derive(Debug)]
pub(super) struct Timed {
    stream: Arc<TcpStream>,
    deadline: Instant,
    voice: Voice,
}

/// What we say on a connection that the other side dialled.
#[derive(Debug)]
pub(super) struct Voice {
    pub(super) key: Key,
    /// How often to say that bytes arrive, if at all.
    pub(super) every: Option<Duration>,
    pub(super) said: Instant,
}

/// Buffered, so that a small frame costs one system call; large bodies pass the buffer by.
pub(super) type Reader = BufReader<Timed>;

impl Timed {
    pub(super) fn reader(stream: Arc<TcpStream>, deadline: Instant) -> Reader {
        let voice = Voice { key: Key::greeting(), every: None, said: Instant::now() };
        BufReader::with_capacity(32 << 10, Self { stream, deadline, voice })
    }

    pub(super) const fn voice(&mut self) -> &mut Voice {
        &mut self.voice
    }

    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let count = (&*self.stream).read(buffer)?;
        // Within a large frame too: on a slow link one can take longer than the other side waits for a sign of life.
        if self.voice.every.is_some_and(|every| count > 0 && self.voice.said.elapsed() >= every) {
            self.voice.said = Instant::now();
            write_frame(&self.stream, &mut self.voice.key, Kind::Alive, b"")?;
        }
        Ok(count)
    }
}

/// Writes all slices. The socket's write timeout bounds how long a single write may make no progress.
pub(super) fn write_all_vectored(stream: &TcpStream, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    write_patiently(stream, slices, |_| Err(io::ErrorKind::TimedOut.into()))
}

/// As [`write_all_vectored`], but asks `stalled` whether to go on after so long without progress.
pub(super) fn write_patiently(
    mut stream: &TcpStream,
    mut slices: &mut [IoSlice<'_>],
    mut stalled: impl FnMut(Duration) -> io::Result<()>,
) -> io::Result<()> {
    let mut progress = Instant::now();
    while !slices.is_empty() {
        let few = slices.len().min(MAX_SLICES);
        match stream.write_vectored(&slices[..few]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                progress = Instant::now();
                IoSlice::advance_slices(&mut slices, count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stalled(progress.elapsed())?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes one small frame.
pub(super) fn write_frame(
    mut stream: &TcpStream,
    key: &mut Key,
    kind: Kind,
    head: &[u8],
) -> io::Result<()> {
    let mut frame = Vec::with_capacity(HEADER_LEN + head.len());
    if !seal::<&[u8]>(key, kind, head, &[], &mut frame) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    frame.extend_from_slice(head);
    stream.write_all(&frame)
}

/// Says why, and closes in a way that lets the other side hear it.
pub(super) fn refuse(stream: &TcpStream, key: &mut Key, refusal: &Refusal) {
    let _ = stream.set_write_timeout(Some(LAST_WORD_TIME));
    if write_frame(stream, key, Kind::Refusal, &encode_refusal(refusal)).is_ok() {
        part(stream);
    }
}

/// Ends our direction, and reads on until the other side ends its own, for at most a second.
pub(super) fn part(stream: &TcpStream) {
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let end = Instant::now() + LAST_WORD_TIME;
    let mut nowhere = [0; 16 << 10];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match (&*stream).read(&mut nowhere) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// What comes back on a connection that we dialled: small frames, now and then.
#[derive(Debug)]
pub(super) struct ReturnPath {
    arrived: Vec<u8>,
    key: Key,
    ended: bool,
}

impl ReturnPath {
    /// `arrived` is what was read ahead during the handshake.
    pub(super) const fn new(arrived: Vec<u8>, key: Key) -> Self {
        Self { arrived, key, ended: false }
    }

    /// The next frame's kind and head, if one has arrived; does not wait.
    pub(super) fn poll(
        &mut self,
        stream: &TcpStream,
    ) -> Result<Option<(Kind, bytes::Bytes)>, FrameError> {
        if let Some(frame) = self.next()? {
            return Ok(Some(frame));
        }
        stream.set_nonblocking(true)?;
        let read = self.fill(stream);
        stream.set_nonblocking(false)?;
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
            Ok(()) => self.next(),
        }
    }

    /// The next frame's kind and head; waits for it until the deadline.
    pub(super) fn wait(
        &mut self,
        stream: &TcpStream,
        deadline: Instant,
    ) -> Result<(Kind, bytes::Bytes), FrameError> {
        loop {
            if let Some(frame) = self.next()? {
                return Ok(frame);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FrameError::Timeout);
            }
            stream.set_read_timeout(Some(left))?;
            self.fill(stream)?;
        }
    }

    fn fill(&mut self, mut stream: &TcpStream) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(count) => {
                self.ended = count == 0;
                self.arrived.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn next(&mut self) -> Result<Option<(Kind, bytes::Bytes)>, FrameError> {
        let mut bytes = &self.arrived[..];
        if bytes.len() >= HEADER_LEN {
            let header = read_header(&mut bytes, Limits::HANDSHAKE)?;
            if bytes.len() >= header.len {
                let (head, _) = read_body(&mut bytes, &header, &mut self.key)?;
                self.arrived.drain(..HEADER_LEN + header.len);
                return Ok(Some((header.kind, head)));
            }
        }
        match (self.ended, self.arrived.is_empty()) {
            (false, _) => Ok(None),
            (true, true) => Err(FrameError::Closed),
            (true, false) => Err(FrameError::Truncated),
        }
    }
}

/// Every socket of one transport. Closed once and for all by `stop`.
#[derive(Debug, Default)]
pub(super) struct Sockets(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    streams: BTreeMap<u64, Arc<TcpStream>>,
    closed: bool,
}

impl Sockets {
    /// Remembers a socket until the guard is dropped; `None` once closed.
    pub(super) fn register(self: &Arc<Self>, stream: &Arc<TcpStream>) -> Option<Registered> {
        let mut open = self.0.lock();
        if open.closed {
            return None;
        }
        let number = open.next;
        open.next += 1;
        open.streams.insert(number, Arc::clone(stream));
        Some(Registered { sockets: Arc::clone(self), number })
    }

    /// Ends every connection, and every one to come.
    pub(super) fn close(&self) {
        let mut open = self.0.lock();
        open.closed = true;
        for stream in open.streams.values() {
            let _ = stream.shutdown(Shutdown::Both); // an error means that it has ended already
        }
    }
}

/// A socket that `stop` knows of.
#[derive(Debug)]
pub(super) struct Registered {
    sockets: Arc<Sockets>,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sockets.0.lock().streams.remove(&self.number);
    }
}
