//! Where in the log this node's own proposals stand.

use std::collections::VecDeque;

use oarlock_membership::ProposalId;

use crate::wire::Forward;

/// A proposal that was appended, here or by the leader, and is not committed yet.
#[derive(Debug)]
pub(super) struct Place {
    index: u64,
    pub(super) term: u64,
    /// What was appended, in case that it has to be again.
    pub(super) forward: Forward,
}

/// By index, each once. They come at the end and leave at the front, nearly always.
#[derive(Debug)]
pub(super) struct Places(VecDeque<Place>);

impl Places {
    pub(super) const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts a proposal where it stands, in place of what was thought to stand there.
    pub(super) fn insert(&mut self, index: u64, term: u64, forward: Forward) {
        let place = Place { index, term, forward };
        if self.0.back().is_none_or(|last| last.index < index) {
            return self.0.push_back(place);
        }
        match self.0.binary_search_by_key(&index, |place| place.index) {
            Ok(at) => self.0[at] = place,
            Err(at) => self.0.insert(at, place),
        }
    }

    /// Takes what stands there.
    pub(super) fn remove(&mut self, index: u64) -> Option<Place> {
        if self.0.front()?.index == index {
            return self.0.pop_front();
        }
        let at = self.0.binary_search_by_key(&index, |place| place.index).ok()?;
        self.0.remove(at)
    }

    /// Forgets a proposal.
    pub(super) fn forget(&mut self, id: ProposalId) {
        self.0.retain(|place| place.forward.id != id);
    }

    /// Takes everything up to `index`.
    pub(super) fn remove_through(&mut self, index: u64) -> impl Iterator<Item = Place> {
        let end = self.0.partition_point(|place| place.index <= index);
        self.0.drain(..end)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::ForwardKind;

    fn forward(sequence: u64) -> Forward {
        let id = ProposalId { origin: 1, incarnation: 1, sequence };
        Forward { id, kind: ForwardKind::Normal, data: Bytes::new(), term: 0 }
    }

    fn sequences(places: impl IntoIterator<Item = Place>) -> Vec<u64> {
        places.into_iter().map(|place| place.forward.id.sequence).collect()
    }

    #[test]
    fn places_are_found_in_whatever_order_they_came() {
        let mut places = Places::new();
        for (index, sequence) in [(5, 1), (9, 2), (7, 3), (6, 4), (9, 5)] {
            places.insert(index, 1, forward(sequence));
        }
        assert_eq!(sequences(places.remove(9)), [5], "the later word counts");
        assert!(places.remove(8).is_none());
        places.forget(forward(4).id);
        assert_eq!(sequences(places.remove_through(6)), [1]);
        assert_eq!(sequences(places.remove(7)), [3]);
        assert!(places.is_empty());
        assert!(places.remove(7).is_none());
    }
}
