//! Tells the handler which peers cannot be reached, from a thread of its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::Handler;

/// Between two rounds of reports, so that a flood of drops does not become a flood of reports.
const PACE: Duration = Duration::from_millis(10);

/// Merges reports: `send` may drop a thousand envelopes to a peer and must not call the handler itself, for its
/// caller may hold whatever the handler needs.
#[derive(Default)]
pub(crate) struct Reporter {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    unreachable: BTreeSet<u64>,
    stopped: bool,
}

impl Reporter {
    pub(crate) fn unreachable(&self, peer: u64) {
        if self.state.lock().unreachable.insert(peer) {
            self.wake.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.wake.notify_all();
    }

    /// The thread's work: reports until stopped.
    pub(crate) fn run(&self, handler: &Arc<dyn Handler>) {
        loop {
            let mut state = self.state.lock();
            while state.unreachable.is_empty() && !state.stopped {
                self.wake.wait(&mut state);
            }
            if state.stopped {
                return;
            }
            let peers = std::mem::take(&mut state.unreachable);
            drop(state);
            for peer in peers {
                handler.unreachable(peer);
            }
            let mut state = self.state.lock();
            if !state.stopped {
                let _ = self.wake.wait_for(&mut state, PACE);
            }
        }
    }
}
