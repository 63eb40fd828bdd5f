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
use crate::{Envelope, Lane, Refusal};

/// How often an idle lane looks whether the other side has gone: a peer that restarts is noticed this soon.
const LOOK: Duration = Duration::from_millis(250);

/// How a connection ended.
enum End {
    /// All is sent, and the lane is over.
    Finished,
    Lost(FrameError),
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
                mailbox.connected(Some((url, Arc::clone(&link.stream))));
                let end = use_link(shared, peer, lane, link);
                mailbox.connected(None);
                match end {
                    End::Finished => break,
                    End::Lost(error) => {
                        log::debug!(peer:% = format_args!("{:x}", peer.id), lane = lane.label(), error:%; "connection lost");
                    }
                    End::Refused(refusal) => shared.refused_by(peer.id, &refusal),
                }
                shared.reporter.unreachable(peer.id);
                // One that lasted was a good one; one that is cut at once, again and again, must not spin.
                if started.elapsed() > longest {
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
    let end = pump(shared, peer, lane, &mut link);
    if lane == Lane::Message {
        *peer.active.lock() = None;
        log::info!(peer:? = format_args!("{:x}", peer.id); "peer became inactive");
    }
    match &end {
        // Whoever was removed shall read to the end that it was.
        End::Finished => part(&link.stream),
        // A failed write is often the other side's refusal seen from here.
        End::Lost(_) => {
            if let Ok(Some((Kind::Refusal, head))) = link.back.poll(&link.stream) {
                return End::Refused(decode_refusal(&head));
            }
        }
        End::Refused(_) => {}
    }
    end
}

/// Sends until something ends it.
fn pump(shared: &Arc<Shared>, peer: &Arc<Peer>, lane: Lane, link: &mut Link) -> End {
    let mailbox: &Mailbox = peer.lane(lane);
    let (keepalive, idle) = (shared.options.keepalive(), shared.options.idle_timeout);
    let mut scratch = Vec::new();
    let mut heard = Instant::now();
    let mut said = Instant::now();
    loop {
        loop {
            match link.back.poll(&link.stream) {
                Ok(Some((Kind::Refusal, head))) => return End::Refused(decode_refusal(&head)),
                Ok(Some(_)) => heard = Instant::now(),
                Ok(None) => break,
                Err(error) => return End::Lost(error),
            }
        }
        if heard.elapsed() > idle {
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
    let before = batch.len();
    batch.retain(|envelope| fits(envelope, link.limits));
    let too_large = (before - batch.len()) as u64;
    if too_large > 0 {
        shared.too_large(peer.id, too_large);
    }
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
    write_all_vectored(&link.stream, &mut slices)?;
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
