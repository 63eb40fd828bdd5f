//! How a node ends: by power loss, by a disk that fails, or because it is told to.

use oarlock_raftnode::core::Event;
use oarlock_raftnode::{ProposeError, Unknown};

use super::node::{Around, Node, append};

impl Node {
    /// Power loss. The first `kept` writes that were under way turn out to have reached the disk.
    pub(super) fn crash(&mut self, kept: usize) {
        if let Some(life) = self.life.take() {
            for write in life.writes.iter().take(kept) {
                // What the log refuses it would have refused before the crash: found by `sync`.
                let _ = append(&mut self.store, write);
            }
        }
        let kept = if kept == 0 { 0 } else { self.store.unsynced_batches() };
        self.store = self.store.crash_keeping(kept);
    }

    /// A new disk: everything it knew and promised is gone.
    pub(super) fn wipe(&mut self) {
        *self = Self { wiped: true, ..Self::new(self.id) };
    }

    /// Leadership goes to whoever is best, so that this node can stop; to whom, if there is anybody.
    pub(super) fn hand_over(&mut self, around: &mut Around<'_>) -> Option<u64> {
        let successor = self.life.as_ref()?.core.successor()?;
        self.transfer(successor, around).ok().map(|()| successor)
    }

    /// Stops in order (O14): nothing more is accepted, the writes in hand are finished, nothing is sent any more.
    pub(super) fn stop(&mut self, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        life.core.refuse_waiting(&ProposeError::Stopped);
        while let Some(event) = life.core.poll_event() {
            if matches!(event, Event::Refused { .. }) {
                life.on_event(self.id, event, around);
            }
        }
        self.sync(usize::MAX, around);
        self.end(around);
    }

    /// Whoever still waits is told that nobody knows (O29).
    pub(super) fn end(&mut self, around: &mut Around<'_>) {
        around.twins.died(self.id);
        let waiting = self.life.take().map(|life| life.waiting).unwrap_or_default();
        for what in waiting.into_values() {
            let error = ProposeError::OutcomeUnknown(Unknown::Stopped);
            around.trace.say(self.id, format!("{what} refused: {error}"));
        }
    }
}
