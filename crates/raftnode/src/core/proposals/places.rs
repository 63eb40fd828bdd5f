//! The places, by index and term, at which this node's own proposals were appended.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};

use oarlock_membership::ProposalId;

use crate::planted::planted;
use crate::wire::Forward;

/// A proposal that was appended, here or by the leader, and is not committed yet.
#[derive(Debug)]
pub(super) struct Place {
    index: u64,
    pub(super) term: u64,
    /// The proposal, in case it has to be proposed again.
    pub(super) forward: Forward,
}

/// Places in the order of their indexes; nearly always they are added at the end and removed at the front. Several may
/// have the same index: in the log of a deposed leader, and in its successor's. Which one holds shows when the index is
/// committed.
///
/// Forgetting a proposal only marks it: after a partition hundreds of thousands of deadlines may pass at once, and to
/// search for each would take too long. Marked ones are removed together when they come to half of all.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: VecDeque<Place>,
    forgotten: BTreeSet<ProposalId>,
}

impl Places {
    /// How many may be marked, at least, before they are removed.
    const MANY: usize = 1024;

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds the place of a proposal.
    pub(super) fn insert(&mut self, index: u64, term: u64, forward: Forward) {
        if planted("one-proposal-a-place") {
            self.places.retain(|place| place.index != index);
        }
        let place = Place { index, term, forward };
        if self.places.back().is_none_or(|last| last.index <= index) {
            return self.places.push_back(place);
        }
        let at = self.places.partition_point(|place| place.index <= index);
        self.places.insert(at, place);
    }

    /// Removes and returns a place with this index.
    pub(super) fn remove(&mut self, index: u64) -> Option<Place> {
        loop {
            let place = match self.places.front()?.index.cmp(&index) {
                Ordering::Greater => return None,
                Ordering::Equal => self.places.pop_front()?,
                Ordering::Less => {
                    let at = self.places.binary_search_by_key(&index, |place| place.index).ok()?;
                    self.places.remove(at)?
                }
            };
            if !is_forgotten(&mut self.forgotten, &place) {
                return Some(place);
            }
        }
    }

    /// Removes and returns all places of terms before `term`.
    pub(super) fn remove_before_term(&mut self, term: u64) -> impl Iterator<Item = Place> {
        let places = std::mem::take(&mut self.places).into_iter();
        let (over, places): (VecDeque<Place>, _) = places.partition(|place| place.term < term);
        self.places = places;
        let forgotten = &mut self.forgotten;
        over.into_iter().filter(|place| !is_forgotten(forgotten, place))
    }

    /// Forgets a proposal, if it has a place.
    pub(super) fn forget(&mut self, id: ProposalId) {
        if self.places.is_empty() {
            return;
        }
        self.forgotten.insert(id);
        if self.forgotten.len() >= Self::MANY.max(self.places.len() / 2) {
            let forgotten = std::mem::take(&mut self.forgotten);
            self.places.retain(|place| !forgotten.contains(&place.forward.id));
        }
    }

    /// Removes and returns all places up to `index`.
    pub(super) fn remove_through(&mut self, index: u64) -> impl Iterator<Item = Place> {
        let end = self.places.partition_point(|place| place.index <= index);
        let forgotten = &mut self.forgotten;
        self.places.drain(..end).filter(|place| !is_forgotten(forgotten, place))
    }
}

fn is_forgotten(forgotten: &mut BTreeSet<ProposalId>, place: &Place) -> bool {
    !forgotten.is_empty() && forgotten.remove(&place.forward.id)
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
        let mut places = Places::default();
        for (index, sequence) in [(5, 1), (9, 2), (7, 3), (6, 4), (9, 5)] {
            places.insert(index, sequence, forward(sequence));
        }
        let mut nine = sequences([places.remove(9), places.remove(9)].into_iter().flatten());
        nine.sort_unstable();
        assert_eq!(nine, [2, 5], "both were thought to stand there");
        assert!(places.remove(8).is_none());
        assert!(places.remove(9).is_none());
        places.forget(forward(4).id);
        assert_eq!(sequences(places.remove_through(6)), [1]);
        assert_eq!(sequences(places.remove(7)), [3]);
        assert!(places.is_empty());
        assert!(places.remove(7).is_none());
    }

    #[test]
    fn what_is_forgotten_goes_away_in_time() {
        let mut places = Places::default();
        for n in 1..=4000 {
            places.insert(n, 1, forward(n));
        }
        (1..=3000).for_each(|n| places.forget(forward(n).id));
        assert!(places.places.len() < 3000, "{} are kept", places.places.len());
        assert!(places.remove(2999).is_none());
        assert_eq!(sequences(places.remove_through(3002)), [3001, 3002]);
        (3003..=4000).for_each(|n| places.forget(forward(n).id));
        assert!(places.remove_through(4000).next().is_none());
        assert!(places.is_empty());
        // Nothing is left behind by those that stood nowhere.
        places.insert(5000, 1, forward(5000));
        (0..4 * Places::MANY as u64).for_each(|n| places.forget(forward(n + 9000).id));
        assert!(places.forgotten.len() < Places::MANY);
        assert_eq!(sequences(places.remove(5000)), [5000]);
    }
}
