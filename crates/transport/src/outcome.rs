//! A snapshot's outcome: reported exactly once, and never more than so many at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{SnapshotDone, SnapshotSendError};

/// How many snapshots may be on their way at once (O10; etcd's `maxInFlightMsgSnap`).
pub(crate) const MAX_SNAPSHOTS: usize = 16;

/// Calls `done` once: with what it is given, or with [`SnapshotSendError::Stopped`] when dropped, also by a panic.
pub(crate) struct Outcome(Option<SnapshotDone>);

impl Outcome {
    pub(crate) const fn new(done: SnapshotDone) -> Self {
        Self(Some(done))
    }

    pub(crate) fn report(mut self, result: Result<(), SnapshotSendError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(SnapshotSendError::Stopped));
        }
    }
}

/// The peers that a snapshot is on its way to: one for each, [`MAX_SNAPSHOTS`] in all.
#[derive(Default)]
pub(crate) struct InFlight(Mutex<BTreeSet<u64>>);

impl InFlight {
    /// Takes a place, until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>, peer: u64) -> Option<Place> {
        let mut peers = self.0.lock();
        (peers.len() < MAX_SNAPSHOTS && peers.insert(peer))
            .then(|| Place { in_flight: Arc::clone(self), peer })
    }
}

/// A place among the snapshots in flight.
pub(crate) struct Place {
    in_flight: Arc<InFlight>,
    peer: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_flight.0.lock().remove(&self.peer);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn an_outcome_is_reported_once_also_by_drop() {
        let (sender, receiver) = mpsc::channel();
        let done: SnapshotDone = Box::new(move |result| drop(sender.send(result)));
        Outcome::new(done).report(Ok(()));
        assert!(matches!(receiver.recv(), Ok(Ok(()))));
        assert!(receiver.recv().is_err(), "it was called once and is gone");

        let (sender, receiver) = mpsc::channel();
        drop(Outcome::new(Box::new(move |result| drop(sender.send(result)))));
        assert!(matches!(receiver.recv(), Ok(Err(SnapshotSendError::Stopped))));
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let in_flight = Arc::<InFlight>::default();
        let first = in_flight.begin(0);
        assert!(first.is_some());
        assert!(in_flight.begin(0).is_none(), "one for each peer");
        let rest: Vec<_> = (1..MAX_SNAPSHOTS as u64).map(|peer| in_flight.begin(peer)).collect();
        assert!(rest.iter().all(Option::is_some));
        assert!(in_flight.begin(99).is_none(), "{MAX_SNAPSHOTS} in all");
        drop(first);
        assert!(in_flight.begin(99).is_some());
    }
}
