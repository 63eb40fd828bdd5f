//! The thread of one lane to one peer: connects, sends what is queued, connects again.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::dial::{DialError, Link};
use super::net::{part, write_all_vectored, write_frame};
use super::peer::{Mailbox, Next, Peer};
use super::shared::Shared;
use crate::codec::{FrameError, Kind, Limits, Purpose, body_len, decode_refusal, seal};
use crate::planted::planted;
use crate::{Envelope, Lane, Refusal};

/// How often an idle lane looks whether the other side has gone: a peer that restarts is noticed this soon.
const LOOK: Duration = Duration::from_millis(250);

/// So many answers are read before something is sent again: nobody holds a lane up by answering without end.
const MOST_HEARD: usize = 64;

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    /// All is sent, and the lane is over.
    #[error("it was removed, or we stop")]
    Finished,
    #[error("{0}")]
    Lost(FrameError),
    #[error("refused: {0}")]
    Refused(Refusal),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.into())
    }
}

/// Runs until the peer is removed or the transport stops.
pub(super) fn run(shared: &Arc<Shared>, peer: &Arc<Peer>, lane: Lane) {
    let mailbox = peer.lane(lane);
    let (first, longest) = shared.options.backoff;
    let mut backoff = Backoff::new(first, longest);
    while !mailbox.is_finished() {
        let started = Instant::now();
        match shared.connect(peer, Purpose::Lane(lane)) {
            Ok((url, link)) => {
                mailbox.connected(Some((url.clone(), Arc::clone(&link.stream))));
                // The peer may have moved, or its lanes been told to end, while this connection came about.
                let stays = peer.urls.lock().contains(&url) || planted("stays-where-nobody-lives");
                if !stays || mailbox.is_finished() {
                    mailbox.connected(None);
                    continue;
                }
                let end = use_link(shared, peer, lane, link);
                mailbox.connected(None);
                match end {
                    End::Finished => break,
                    End::Lost(error) => shared.fault(peer.id, &error),
                    End::Refused(refusal) => shared.refused_by(peer.id, &refusal),
                }
                shared.reporter.unreachable(peer.id);
                // One that lasted was a good one; one that is cut at once, again and again, must not spin.
                if started.elapsed() > longest || planted("every-connection-was-a-good-one") {
                    backoff.reset();
                }
            }
            Err(DialError::Stopping) => break,
            Err(_) => {
                // Raft repeats what still matters; what waits would only arrive late.
                let dropped = mailbox.give_up();
                shared.counters.peer(peer.id, |stats| stats.dropped += dropped);
                shared.reporter.unreachable(peer.id);
            }
        }
        if !mailbox.pause(backoff.pause()) {
            break;
        }
    }
    let dropped = mailbox.clear();
    shared.counters.peer(peer.id, |stats| stats.dropped += dropped);
}

fn use_link(shared: &Arc<Shared>, peer: &Arc<Peer>, lane: Lane, mut link: Link) -> End {
    shared.counters.peer(peer.id, |stats| stats.connects += 1);
    log::debug!(peer:% = format_args!("{:x}", peer.id), lane = lane.label(); "connected");
    if lane == Lane::Message {
        *peer.active.lock() = Some(Instant::now());
        log::info!(peer:? = format_args!("{:x}", peer.id); "peer became active");
    }
    let mut end = pump(shared, peer, lane, &mut link);
    // A failed write is often the other side's refusal seen from here.
    if matches!(end, End::Lost(_))
        && let Err(refused @ End::Refused(_)) = hear(&mut link)
    {
        end = refused;
    }
    if lane == Lane::Message {
        *peer.active.lock() = None;
        log::info!(peer:? = format_args!("{:x}", peer.id), why:% = end; "peer became inactive");
    }
    if matches!(end, End::Finished) {
        part(&link.stream); // whoever was removed shall read to the end that it was
    }
    end
}

/// Reads what has come back, but not for ever; `true` if it was a sign of life.
fn hear(link: &mut Link) -> Result<bool, End> {
    let mut alive = false;
    let most = if planted("answers-without-end") { usize::MAX } else { MOST_HEARD };
    for _ in 0..most {
        match link.back.poll(&link.stream).map_err(End::Lost)? {
            Some((Kind::Alive, _)) => alive = true,
            Some((Kind::Refusal, head)) => return Err(End::Refused(decode_refusal(&head))),
            Some(_) if planted("anything-is-a-sign-of-life") => alive = true,
            Some(_) => {
                let what = "neither a sign of life nor a refusal came back";
                return Err(End::Lost(FrameError::Malformed(what)));
            }
            None => return Ok(alive),
        }
    }
    Ok(alive)
}

/// Sends until something ends it.
fn pump(shared: &Arc<Shared>, peer: &Arc<Peer>, lane: Lane, link: &mut Link) -> End {
    let mailbox: &Mailbox = peer.lane(lane);
    let (keepalive, idle) = (shared.options.keepalive(), shared.options.idle_timeout);
    let mut scratch = Vec::new();
    let mut heard = Instant::now();
    let mut said = Instant::now();
    loop {
        match hear(link) {
            Ok(alive) if alive => heard = Instant::now(),
            Ok(_) => {}
            Err(end) => return end,
        }
        if heard.elapsed() > idle && !planted("silence-is-overlooked") {
            return End::Lost(FrameError::Timeout);
        }
        let batch = match mailbox.next((Instant::now() + LOOK).min(said + keepalive)) {
            Next::Finished => return End::Finished,
            Next::Send(batch) => batch,
            Next::Idle if said.elapsed() < keepalive => continue,
            Next::Idle => Vec::new(),
        };
        let result = if batch.is_empty() {
            write_frame(&link.stream, &mut link.key, Kind::Ping, b"")
        } else {
            send(shared, peer, link, batch, &mut scratch)
        };
        if let Err(error) = result {
            return error.into();
        }
        said = Instant::now();
    }
}

/// Writes a batch: headers from `scratch`, heads and payloads from where they are.
fn send(
    shared: &Shared,
    peer: &Peer,
    link: &mut Link,
    mut batch: Vec<Envelope>,
    scratch: &mut Vec<u8>,
) -> io::Result<()> {
    batch.retain(|envelope| {
        let fits = fits(envelope, link.limits) || planted("the-receivers-limit-is-ours");
        if !fits {
            shared.too_large(peer.id, envelope, link.limits);
        }
        fits
    });
    scratch.clear();
    let mut ends = Vec::with_capacity(batch.len());
    for envelope in &batch {
        seal(&mut link.key, Kind::Envelope, &envelope.head, &envelope.payloads, scratch);
        ends.push(scratch.len());
    }
    let mut slices = Vec::new();
    let mut start = 0;
    for (envelope, end) in batch.iter().zip(ends) {
        slices.push(IoSlice::new(&scratch[start..end]));
        start = end;
        let parts = std::iter::once(&envelope.head).chain(&envelope.payloads);
        slices.extend(parts.filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)));
    }
    if let Err(error) = write_all_vectored(&link.stream, &mut slices) {
        let lost = if planted("broken-batch-uncounted") { 0 } else { batch.len() as u64 };
        shared.counters.peer(peer.id, |stats| stats.dropped += lost);
        return Err(error);
    }
    let bytes = batch.iter().map(|envelope| envelope.content_len() as u64).sum::<u64>();
    shared.counters.peer(peer.id, |stats| {
        stats.sent_frames += batch.len() as u64;
        stats.sent_bytes += bytes;
    });
    Ok(())
}

/// Whether an envelope is within limits.
pub(super) fn fits(envelope: &Envelope, limits: Limits) -> bool {
    envelope.payloads.len() <= limits.payloads
        && body_len(&envelope.head, &envelope.payloads)
            .is_some_and(|len| len as usize <= limits.body)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::codec::Key;
    use crate::tcp::net::ReturnPath;

    /// What has come back is read in turns: whoever answers without end would hold up what is to be sent, for ever.
    #[test]
    fn no_more_than_so_many_answers_are_read_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (key, back) = Key::pair(1, 2);
        let mut flood = Vec::new();
        let mut theirs = back.clone();
        for _ in 0..3 * MOST_HEARD {
            assert!(seal::<&[u8]>(&mut theirs, Kind::Alive, b"", &[], &mut flood));
        }
        let mut link = Link {
            stream: Arc::new(stream),
            key,
            back: ReturnPath::new(flood, back),
            limits: Limits::HANDSHAKE,
            _registered: None,
        };
        for turn in 0..3 {
            assert!(matches!(hear(&mut link), Ok(true)), "they end in turn {turn}");
        }
        assert!(matches!(hear(&mut link), Ok(false)), "all are read");
    }
}
