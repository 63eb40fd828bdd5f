//! How this node gets on with its peers, as the handshakes of both sides say.

use std::collections::BTreeMap;
use std::time::Instant;

use oarlock_transport::{Refusal, Transport};
use parking_lot::Mutex;

use super::shared::Shared;
use crate::hex::Hex;
use crate::planted::planted;
use crate::{LinkStatus, RefusalStatus};

/// So many peers are remembered: whoever dials can claim any id, and those who are known are few.
const MOST: usize = 256;

/// What came of the last handshakes, by peer.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<BTreeMap<u64, Link>>);

#[derive(Debug, Default)]
struct Link {
    refused: Option<Refused>,
    /// The largest frame that the peer reads; 0 while that is not known.
    max_frame: u64,
}

#[derive(Debug)]
struct Refused {
    by_peer: bool,
    refusal: Refusal,
    first: Instant,
    last: Instant,
}

impl Links {
    fn with<T>(&self, peer: u64, change: impl FnOnce(&mut Link) -> T) -> Option<T> {
        let mut links = self.0.lock();
        let room = links.len() < MOST || links.contains_key(&peer);
        room.then(|| change(links.entry(peer).or_default()))
    }

    /// Forgets everybody else.
    pub(super) fn keep(&self, known: impl Fn(u64) -> bool) {
        self.0.lock().retain(|peer, _| known(*peer));
    }

    /// What is to be said of these peers.
    pub(super) fn status(
        &self,
        known: impl Iterator<Item = u64>,
        transport: &dyn Transport,
    ) -> Vec<LinkStatus> {
        let now = Instant::now();
        let millis = |since: Instant| {
            let past = now.saturating_duration_since(since);
            u64::try_from(past.as_millis()).unwrap_or(u64::MAX)
        };
        let links = self.0.lock();
        let known = known.map(|id| {
            let (active, link) = (transport.active_since(id), links.get(&id));
            // A connection that was made since has ended what the refusal was about.
            let refused = link
                .and_then(|link| link.refused.as_ref())
                .filter(|refused| active.is_none_or(|since| since <= refused.last));
            LinkStatus {
                id,
                connected_ms: active.map(millis),
                max_frame: link.map_or(0, |link| link.max_frame),
                refused: refused.map(|refused| RefusalStatus {
                    by_peer: refused.by_peer,
                    kind: refused.refusal.label(),
                    reason: refused.refusal.to_string(),
                    since_ms: millis(refused.first),
                    last_ms: millis(refused.last),
                }),
            }
        });
        known.collect()
    }
}

impl Shared {
    /// A peer refused this node, or this node the peer.
    pub(super) fn link_refused(&self, peer: u64, by_peer: bool, refusal: &Refusal) {
        if by_peer && planted("refusals-shown-to-nobody") {
            return;
        }
        let active = self.transport.get().and_then(|transport| transport.active_since(peer));
        self.links.with(peer, |link| {
            let last = Instant::now();
            // The same again, without a connection in between.
            let same = link.refused.as_ref().filter(|before| {
                before.by_peer == by_peer
                    && before.refusal.label() == refusal.label()
                    && active.is_none_or(|since| since <= before.last)
            });
            let first = same.map_or(last, |before| before.first);
            link.refused = Some(Refused { by_peer, refusal: refusal.clone(), first, last });
        });
    }

    /// A peer was found well in a handshake. What it cannot read is better said now than when it waits for it in vain:
    /// each side goes by its own configuration, and an entry that is too long for one member keeps it back for ever.
    pub(super) fn link_admitted(&self, peer: u64, max_frame: usize) {
        let max_frame = max_frame as u64;
        let news = self
            .links
            .with(peer, |link| std::mem::replace(&mut link.max_frame, max_frame) != max_frame);
        let largest = self.config.largest_message();
        if news == Some(true) && max_frame < largest {
            let (id, peer) = (Hex(self.id), Hex(peer));
            log::warn!(
                id:%, peer:%, max_frame, largest;
                "a peer does not read messages as large as this member may send: what is larger never arrives there; give \
                 all members the same max_request_bytes and max_size_per_msg, and frames that hold them"
            );
        }
    }
}
