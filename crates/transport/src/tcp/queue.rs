//! What waits to be sent on one lane to one peer: bounded, and full of what matters most.

use std::collections::VecDeque;

use crate::planted::planted;
use crate::{Envelope, Shed};

/// What an envelope costs beyond its bytes, so that empty ones have a price too.
const ENVELOPE_COST: usize = 128;
const PAYLOAD_COST: usize = 32;
/// A batch ends after so many envelopes or bytes, whichever comes first; then it is time to look at the clock.
const BATCH_ENVELOPES: usize = 64;
const BATCH_BYTES: usize = 256 << 10;

/// A FIFO with a limit on envelopes and on bytes, which sheds as [`Shed`] says.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Envelope>,
    bytes: usize,
    /// How many wait of each class.
    of: [usize; 3],
    max_envelopes: usize,
    max_bytes: usize,
}

impl Queue {
    pub(super) fn new(max_envelopes: usize, max_bytes: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, of: [0; 3], max_envelopes, max_bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Queues an envelope; says how many were dropped for it, or instead of others.
    pub(super) fn push(&mut self, envelope: Envelope) -> u64 {
        let mut dropped = 0;
        let cost = cost(&envelope);
        while self.waiting.len() >= self.max_envelopes
            || self.bytes.saturating_add(cost) > self.max_bytes
        {
            // The oldest heartbeat is the stalest. Of appends the newest goes: the rest is still without a gap.
            let victim = if self.of[Shed::First as usize] > 0 {
                self.waiting.iter().position(|waiting| waiting.shed == Shed::First)
            } else if envelope.shed == Shed::Last && self.of[Shed::Normal as usize] > 0 {
                let normal = |waiting: &Envelope| waiting.shed == Shed::Normal;
                match planted("a-hole-at-the-front") {
                    true => self.waiting.iter().position(normal),
                    false => self.waiting.iter().rposition(normal),
                }
            } else {
                None
            };
            dropped += 1;
            let Some(victim) = victim.and_then(|at| self.waiting.remove(at)) else {
                return dropped;
            };
            self.forget(&victim);
        }
        self.bytes += cost;
        self.of[envelope.shed as usize] += 1;
        self.waiting.push_back(envelope);
        dropped
    }

    /// Takes the next few, in order.
    pub(super) fn pop_batch(&mut self) -> Vec<Envelope> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_ENVELOPES && bytes < BATCH_BYTES {
            let Some(envelope) = self.waiting.pop_front() else { break };
            self.forget(&envelope);
            bytes += envelope.content_len();
            batch.push(envelope);
        }
        batch
    }

    /// Drops everything; says how many.
    pub(super) fn clear(&mut self) -> u64 {
        let dropped = self.waiting.len() as u64;
        *self = Self::new(self.max_envelopes, self.max_bytes);
        dropped
    }

    fn forget(&mut self, envelope: &Envelope) {
        self.bytes -= cost(envelope);
        self.of[envelope.shed as usize] -= 1;
    }
}

fn cost(envelope: &Envelope) -> usize {
    let overhead = ENVELOPE_COST + PAYLOAD_COST * envelope.payloads.len();
    envelope.content_len().saturating_add(overhead)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::Lane;

    fn envelope(name: &'static str, shed: Shed) -> Envelope {
        let head = Bytes::from_static(name.as_bytes());
        Envelope { to: 1, lane: Lane::Message, label: "test", shed, head, payloads: Vec::new() }
    }

    fn names(queue: &mut Queue) -> Vec<Bytes> {
        queue.pop_batch().into_iter().map(|envelope| envelope.head).collect()
    }

    #[test]
    fn heartbeats_go_first_then_the_newest_append_and_never_a_vote() {
        let mut queue = Queue::new(4, usize::MAX);
        for (name, shed) in
            [("a", Shed::Normal), ("h", Shed::First), ("b", Shed::Normal), ("i", Shed::First)]
        {
            assert_eq!(queue.push(envelope(name, shed)), 0);
        }
        assert_eq!(queue.push(envelope("j", Shed::First)), 1, "h gives way");
        assert_eq!(queue.push(envelope("c", Shed::Normal)), 1, "i gives way");
        assert_eq!(queue.push(envelope("d", Shed::Normal)), 1, "j gives way");
        assert_eq!(queue.push(envelope("e", Shed::Normal)), 1, "e itself: a, b, c, d have no gap");
        assert_eq!(queue.push(envelope("k", Shed::First)), 1, "k itself");
        assert_eq!(queue.push(envelope("v", Shed::Last)), 1, "d gives way");
        assert_eq!(names(&mut queue), ["a", "b", "c", "v"]);
        for _ in 0..4 {
            queue.push(envelope("v", Shed::Last));
        }
        assert_eq!(queue.push(envelope("w", Shed::Last)), 1, "w itself");
        assert_eq!(queue.clear(), 4);
        assert!(queue.is_empty());
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut queue = Queue::new(100, 10_000);
        let large = |len| Envelope { head: vec![0; len].into(), ..envelope("", Shed::Normal) };
        assert_eq!(queue.push(large(10_001)), 1);
        assert_eq!(queue.push(large(9_000)), 0);
        assert_eq!(queue.push(large(900)), 1);
        assert_eq!(names(&mut queue).len(), 1);
        assert_eq!(queue.push(large(9_000)), 0, "its room is free again");
    }

    proptest! {
        #[test]
        fn order_is_kept_nothing_is_invented_and_all_is_counted(
            pushes in prop::collection::vec((0u8..3, 0usize..3000, any::<bool>()), 0..300),
        ) {
            let mut queue = Queue::new(16, 20_000);
            let (mut pushed, mut dropped, mut popped) = (0, 0, Vec::new());
            for (number, (shed, len, pop)) in pushes.into_iter().enumerate() {
                let shed = [Shed::First, Shed::Normal, Shed::Last][shed as usize];
                let head = [&(number as u32).to_be_bytes()[..], &vec![0; len]].concat().into();
                pushed += 1;
                dropped += queue.push(Envelope { head, ..envelope("", shed) });
                prop_assert!(queue.waiting.len() <= 16 && queue.bytes <= 20_000);
                if pop {
                    popped.extend(names(&mut queue));
                }
            }
            while !queue.is_empty() {
                popped.extend(names(&mut queue));
            }
            prop_assert_eq!((queue.bytes, queue.of), (0, [0; 3]));
            prop_assert_eq!(popped.len() as u64 + dropped, pushed);
            prop_assert!(popped.is_sorted_by(|a, b| a[..4] < b[..4]));
        }
    }
}
