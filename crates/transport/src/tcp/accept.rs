//! Accepting connections, and the acceptor's half of the handshake.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::inbound::{self, Guest, Seat};
use super::net::{Reader, Timed, part, refuse};
use super::shared::{Counted, Shared};
use crate::codec::{
    FrameError, Greeting, Key, Kind, Limits, PREFACE, PREFACE_LEN, Purpose, Stranger, Unspoken,
    check_preface, read_body, read_header, seal,
};
use crate::planted::planted;
use crate::{Handler, Refusal};

/// The pause after `accept` itself failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The thread of a listener: runs until the transport stops.
pub(super) fn run(shared: &Arc<Shared>, listener: &TcpListener) {
    while !shared.crew.is_stopping() {
        match listener.accept() {
            Ok((stream, from)) => begin(shared, stream, from),
            Err(error) => {
                if shared.gripe_due("accept", 0) {
                    log::error!(error:%; "cannot accept connections from peers");
                }
                if shared.crew.sleep(ACCEPT_PAUSE) {
                    return;
                }
            }
        }
    }
}

/// Wakes a thread that waits in `accept`.
pub(super) fn wake(listener: SocketAddr) {
    let mut address = listener;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr = if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        address.set_ip(loopback);
    }
    // If it fails, somebody else is connecting, which wakes the thread as well.
    let _ = TcpStream::connect_timeout(&address, Duration::from_millis(200));
}

fn begin(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr) {
    if shared.crew.is_stopping() {
        return;
    }
    shared.counters.update(|stats| stats.accepted += 1);
    let half_open =
        Counted::one_of(shared, |shared| &shared.half_open, shared.options.max_half_open);
    let Some(half_open) = half_open else {
        shared.we_refuse(0, &Refusal::Busy);
        // The socket is new and its buffer empty: this does not wait.
        if stream.set_nonblocking(true).is_ok() {
            let _ = (&stream).write_all(&PREFACE);
            let busy = crate::codec::encode_refusal(&Refusal::Busy);
            let _ = super::net::write_frame(&stream, &mut Key::greeting(), Kind::Refusal, &busy);
        }
        return;
    };
    let serving = Arc::clone(shared);
    let spawned =
        shared.crew.spawn("oarlock-in".into(), move || serve(&serving, stream, from, half_open));
    if let Err(error) = spawned
        && !shared.crew.is_stopping()
        && shared.gripe_due("thread", 0)
    {
        log::error!(error:%; "no thread for a connection from a peer");
    }
}

/// What a hello leads to.
enum Greeted {
    Peer(Guest),
    Query { kind: String, payload: Bytes },
}

/// Why a hello leads to nothing.
enum Rude {
    Stranger(Stranger),
    Frame(FrameError),
    Refused(u64, Refusal),
}

impl From<FrameError> for Rude {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

fn serve(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr, half_open: Counted) {
    let stream = Arc::new(stream);
    let Some(_registered) = shared.sockets.register(&stream) else { return };
    let Some(handler) = shared.handler.get() else { return };
    let write_timeout = Some(shared.options.write_timeout);
    if stream.set_nodelay(true).and(stream.set_write_timeout(write_timeout)).is_err() {
        return; // it is gone already
    }
    let deadline = Instant::now() + shared.options.handshake_timeout;
    let reader = Timed::reader(Arc::clone(&stream), deadline);
    match greet(shared, handler, &stream, reader) {
        Ok(Greeted::Peer(guest)) => {
            drop(half_open);
            inbound::serve(shared, handler, guest);
        }
        Ok(Greeted::Query { kind, payload }) => {
            drop(half_open);
            answer(shared, handler, &stream, &kind, payload);
        }
        Err(rude) => turn_away(shared, &stream, from, rude),
    }
}

/// Reads the hello and judges it; `Welcome` has been said when this returns a peer.
fn greet(
    shared: &Arc<Shared>,
    handler: &Arc<dyn Handler>,
    stream: &Arc<TcpStream>,
    mut reader: Reader,
) -> Result<Greeted, Rude> {
    let mut preface = [0; PREFACE_LEN];
    read_preface(&mut reader, &mut preface)?;
    check_preface(&preface).map_err(|unspoken| match unspoken {
        Unspoken::Stranger(stranger) => Rude::Stranger(stranger),
        Unspoken::Refused(refusal) => Rude::Refused(0, refusal),
    })?;
    let header = read_header(&mut reader, Limits::HANDSHAKE)?;
    if header.kind != Kind::Hello {
        return Err(Rude::Frame(FrameError::Malformed("expected a hello")));
    }
    let (head, mut payloads) = read_body(&mut reader, &header, &mut Key::greeting())?;
    let (purpose, theirs) = Greeting::read(&head).map_err(|refusal| Rude::Refused(0, refusal))?;
    if purpose == Purpose::Query {
        return Ok(Greeted::Query {
            kind: theirs.query,
            payload: payloads.pop().unwrap_or_default(),
        });
    }

    let us = &shared.identity;
    let (from, refused) = (theirs.from, |refusal| Rude::Refused(theirs.from, refusal));
    if theirs.cluster != us.cluster {
        return Err(refused(Refusal::WrongCluster { ours: us.cluster, theirs: theirs.cluster }));
    }
    if theirs.to != us.id {
        return Err(refused(Refusal::WrongMember { expected: theirs.to, actual: us.id }));
    }
    if from == 0 || from == us.id {
        return Err(refused(Refusal::rejected(
            "the sender's member id is 0, or the receiver's own",
        )));
    }
    let info = theirs.clone().into_info();
    let removals = shared.removals.load(Ordering::Acquire);
    if !planted("nobody-is-judged") {
        handler.admit(&info).map_err(refused)?;
    }

    // Only now may it displace an earlier connection, and only when that has left may anything of this be received.
    let seat = shared.seat(from, purpose);
    let turn = seat.take(stream);
    let patience = shared.options.handshake_timeout;
    let Some(turn) = Seat::wait(&seat, turn, patience) else { return Err(refused(Refusal::Busy)) };
    let limit = match planted("admitted-without-bound") {
        true => usize::MAX,
        false => shared.options.max_admitted,
    };
    let Some(place) = Counted::one_of(shared, |shared| &shared.admitted, limit) else {
        return Err(refused(Refusal::Busy));
    };
    // Whoever is removed from here on is shown out; one that was removed before has to be judged again.
    if shared.removals.load(Ordering::Acquire) != removals
        && !planted("judged-before-it-was-removed")
    {
        handler.admit(&info).map_err(refused)?;
    }
    shared.counters.admit_peer(from);
    let ours = shared.greeting(handler, purpose, from);
    let (receive, send) = Key::pair(theirs.nonce, ours.nonce);
    let mut welcome = PREFACE.to_vec();
    let head = ours.encode_to_vec();
    if !seal::<&[u8]>(&mut Key::greeting(), Kind::Welcome, &head, &[], &mut welcome) {
        return Err(refused(Refusal::Busy));
    }
    welcome.extend_from_slice(&head);
    (&**stream).write_all(&welcome).map_err(FrameError::Io)?;
    reader.get_mut().voice().key = send;
    Ok(Greeted::Peer(Guest {
        id: from,
        purpose,
        stream: Arc::clone(stream),
        reader,
        receive,
        _place: place,
        turn,
    }))
}

fn read_preface(reader: &mut Reader, preface: &mut [u8; PREFACE_LEN]) -> Result<(), FrameError> {
    let mut have = 0;
    while have < PREFACE_LEN {
        match reader.read(&mut preface[have..]) {
            Ok(0) if have == 0 => return Err(FrameError::Closed),
            Ok(0) => return Err(FrameError::Truncated),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn turn_away(shared: &Shared, stream: &TcpStream, from: SocketAddr, rude: Rude) {
    let refusal = match rude {
        Rude::Stranger(stranger) => {
            shared
                .counters
                .update(|stats| crate::counters::bump(&mut stats.faults, stranger.label()));
            if shared.gripe_due(stranger.label(), 0) {
                log::warn!(from:%; "turned away somebody who {stranger}");
            }
            if stranger == Stranger::Http {
                let text = "this port speaks Oarlock's peer protocol, not HTTP\n";
                let len = text.len();
                let head =
                    "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n";
                let mut stream = stream;
                if write!(stream, "{head}content-length: {len}\r\n\r\n{text}").is_ok() {
                    part(stream);
                }
            }
            return;
        }
        Rude::Frame(error) => {
            shared.fault(0, &error);
            if error.label().is_none() {
                return; // nobody is left to be told
            }
            Refusal::Protocol { reason: error.to_string() }
        }
        Rude::Refused(id, refusal) => {
            shared.we_refuse(id, &refusal);
            refusal
        }
    };
    if { stream }.write_all(&PREFACE).is_ok() {
        refuse(stream, &mut Key::greeting(), &refusal);
    }
}

/// Answers a query; the handler may take its time.
fn answer(
    shared: &Arc<Shared>,
    handler: &Arc<dyn Handler>,
    stream: &TcpStream,
    kind: &str,
    payload: Bytes,
) {
    let place = Counted::one_of(shared, |shared| &shared.queries, shared.options.max_queries);
    let answer = match place {
        Some(_) => handler.query(kind, payload).ok_or(Refusal::NoAnswer),
        None => Err(Refusal::Busy),
    };
    let mut key = Key::greeting();
    if { stream }.write_all(&PREFACE).is_err() {
        return;
    }
    match answer {
        Ok(answer) => {
            shared.counters.update(|stats| stats.queries += 1);
            if super::net::write_frame(stream, &mut key, Kind::Answer, &answer).is_ok() {
                part(stream);
            }
        }
        Err(refusal) => {
            shared.counters.refused(&refusal);
            refuse(stream, &mut key, &refusal);
        }
    }
}
