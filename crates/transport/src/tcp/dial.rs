//! Connecting to a peer: the dialler's half of the handshake.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::net::{Reader, Registered, ReturnPath, Sockets, Timed};
use super::url::PeerUrl;
use crate::Refusal;
use crate::codec::{
    FrameError, Greeting, Key, Kind, Limits, PREFACE, PREFACE_LEN, Stranger, Unspoken,
    check_preface, decode_refusal, read_body, read_header, seal,
};

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("cannot connect: {0}")]
    Io(io::Error),
    #[error("whoever answers there {0}")]
    Stranger(Stranger),
    #[error("handshake: {0}")]
    Frame(FrameError),
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("we refused: {0}")]
    WeRefused(Refusal),
    #[error("stopping")]
    Stopping,
}

impl DialError {
    /// A short name, under which it is logged at most once a minute.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Io(_) => "unreachable",
            Self::Stranger(stranger) => stranger.label(),
            Self::Frame(_) => "handshake",
            Self::Refused(refusal) | Self::WeRefused(refusal) => refusal.label(),
            Self::Stopping => "stopping",
        }
    }

    /// As an I/O error, for whoever only wants to know that there is no connection.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Frame(error) => io::Error::new(io::ErrorKind::InvalidData, error),
            Self::Stranger(stranger) => {
                io::Error::new(io::ErrorKind::InvalidData, stranger.to_string())
            }
            Self::Refused(refusal) | Self::WeRefused(refusal) => io::Error::other(refusal),
            Self::Stopping => io::ErrorKind::Interrupted.into(),
        }
    }
}

/// How long the parts of dialling may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) connect: Duration,
    pub(super) handshake: Duration,
    pub(super) write: Duration,
}

/// A connection whose other side has answered our hello.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) stream: Arc<TcpStream>,
    /// What the other side answered: its welcome, or an answer.
    pub(super) kind: Kind,
    pub(super) head: Bytes,
    reader: Reader,
    _registered: Option<Registered>,
}

/// A connection to an admitted peer.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: Arc<TcpStream>,
    pub(super) key: Key,
    pub(super) back: ReturnPath,
    /// What the other side is willing to read.
    pub(super) limits: Limits,
    pub(super) _registered: Option<Registered>,
}

/// Connects, says hello with `payload` behind it, and returns with what is answered first, unless it is a refusal.
/// The socket is known to `sockets` before anything waits for it.
pub(super) fn dial(
    url: &PeerUrl,
    hello: &Greeting,
    payload: Option<Bytes>,
    patience: Patience,
    answer_limits: Limits,
    sockets: Option<&Arc<Sockets>>,
) -> Result<Dialled, DialError> {
    let stream = Arc::new(connect(url, patience.connect).map_err(DialError::Io)?);
    let registered = match sockets {
        Some(sockets) => Some(sockets.register(&stream).ok_or(DialError::Stopping)?),
        None => None,
    };
    let deadline = Instant::now() + patience.handshake;
    say_hello(&stream, hello, payload, patience).map_err(DialError::Io)?;

    let mut reader = Timed::reader(Arc::clone(&stream), deadline);
    let mut preface = [0; PREFACE_LEN];
    reader.read_exact(&mut preface).map_err(|error| DialError::Frame(error.into()))?;
    check_preface(&preface).map_err(|unspoken| match unspoken {
        Unspoken::Stranger(stranger) => DialError::Stranger(stranger),
        // Their refusal of our version says the same in the terms of their side.
        Unspoken::Refused(Refusal::Incompatible { ours, theirs }) => {
            DialError::Refused(Refusal::Incompatible { ours: theirs, theirs: ours })
        }
        Unspoken::Refused(refusal) => DialError::Refused(refusal),
    })?;
    let header = read_header(&mut reader, answer_limits).map_err(DialError::Frame)?;
    let (head, _) =
        read_body(&mut reader, &header, &mut Key::greeting()).map_err(DialError::Frame)?;
    match header.kind {
        Kind::Refusal => Err(DialError::Refused(decode_refusal(&head))),
        kind => Ok(Dialled { stream, kind, head, reader, _registered: registered }),
    }
}

impl Dialled {
    /// The link that the two greetings make.
    pub(super) fn into_link(self, ours: &Greeting, theirs: &Greeting) -> Link {
        let (key, back) = Key::pair(ours.nonce, theirs.nonce);
        let limit = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Link {
            stream: self.stream,
            key,
            back: ReturnPath::new(self.reader.buffer().to_vec(), back),
            limits: Limits { body: limit(theirs.max_frame), payloads: limit(theirs.max_payloads) },
            _registered: self._registered,
        }
    }
}

fn say_hello(
    mut stream: &TcpStream,
    hello: &Greeting,
    payload: Option<Bytes>,
    patience: Patience,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(patience.write))?;
    let (head, payloads) = (hello.encode_to_vec(), payload.as_slice());
    let mut bytes = PREFACE.to_vec();
    if !seal(&mut Key::greeting(), Kind::Hello, &head, payloads, &mut bytes) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    bytes.extend_from_slice(&head);
    payloads.iter().for_each(|payload| bytes.extend_from_slice(payload));
    stream.write_all(&bytes)
}

/// Tries each address that the host has, all within `patience`.
fn connect(url: &PeerUrl, patience: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<_> = url.target().to_socket_addrs()?.take(4).collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let share = patience / u32::try_from(addresses.len()).unwrap_or(1).max(1);
    for address in addresses {
        match TcpStream::connect_timeout(&address, share) {
            // A port that nobody listens on can connect to itself.
            Ok(stream) if stream.local_addr().ok() == Some(address) => {
                last = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
