//! Who stands still for longer than an election timeout, and who notices.
//!
//! The node thread watches the writer thread and the apply loop. A member that is alone writes on the node thread itself;
//! then the apply loop, which has nothing to do while nothing is written, watches that. While a node starts neither runs; a
//! thread of its own watches the restore with which it may begin.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::node::Node;
use super::shared::Shared;
use crate::Stalled;
use crate::hex::Hex;
use crate::planted::planted;

/// How often a thread that watches looks, at least; and how often when there is no election timeout to go by.
const LOOK: Duration = Duration::from_millis(250);

/// A write under way on the node thread.
#[derive(Debug, Default)]
pub(crate) struct InlineWrite {
    since: Mutex<Option<Instant>>,
    /// Changed under the lock; every caller looks, without it.
    stalled: AtomicBool,
}

impl InlineWrite {
    pub(super) fn begins(&self) {
        *self.since.lock() = Some(Instant::now());
    }

    pub(super) fn ended(&self) {
        let mut since = self.since.lock();
        *since = None;
        self.stalled.store(false, Ordering::Relaxed);
    }

    /// Whether the node thread has hung in a write for longer than an election timeout.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Whether it is newly found to.
    fn stalls(&self, timeout: Duration) -> bool {
        let since = self.since.lock();
        let late = since.is_some_and(|since| since.elapsed() > timeout);
        late && !self.stalled.swap(true, Ordering::Relaxed)
    }
}

/// What the node thread has seen of the apply loop.
#[derive(Debug)]
pub(super) struct ApplyWatch {
    steps: u64,
    since: Instant,
    stalled: bool,
}

impl ApplyWatch {
    pub(super) const fn new(now: Instant) -> Self {
        Self { steps: 0, since: now, stalled: false }
    }

    /// Whether the loop is newly found to have made no step for `timeout`, though there is something to do.
    fn stalls(&mut self, now: Instant, busy: bool, steps: u64, timeout: Duration) -> bool {
        if !busy || steps != self.steps {
            *self = Self { steps, ..Self::new(now) };
        }
        let late = now.saturating_duration_since(self.since) > timeout;
        late && !std::mem::replace(&mut self.stalled, true)
    }
}

impl Shared {
    /// How long a thread that watches may sleep.
    pub(super) fn watch_interval(&self) -> Duration {
        let timeout = self.config.election_timeout();
        if timeout.is_zero() { LOOK } else { (timeout / 4).clamp(Duration::from_millis(5), LOOK) }
    }

    /// Called by the apply loop when it has nothing to do.
    pub(super) fn watch_inline_write(&self) {
        let timeout = self.config.election_timeout();
        if !timeout.is_zero() && self.inline_write.stalls(timeout) {
            self.report_stall(Stalled::Disk, timeout);
        }
    }

    /// Carries out the restore with which a node starts, and watches it.
    pub(super) fn watch_first_restore<T>(&self, restore: impl FnOnce() -> T) -> io::Result<T> {
        let timeout = self.config.election_timeout();
        if timeout.is_zero() || planted("first-restore-is-not-watched") {
            return Ok(restore());
        }
        thread::scope(|scope| {
            let (done, restored) = channel::<()>();
            let watch = move || {
                if restored.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
                    self.report_stall(Stalled::Apply, timeout);
                }
            };
            let watch =
                thread::Builder::new().name("oarlock-watch".into()).spawn_scoped(scope, watch)?;
            let restored = restore();
            drop(done);
            let _ = watch.join(); // a panic would be the observer's, whom nothing obliges to be told
            Ok(restored)
        })
    }

    fn report_stall(&self, what: Stalled, timeout: Duration) {
        match what {
            Stalled::Disk => self.counters.disk_stalls.add(1),
            Stalled::Apply => self.counters.apply_stalls.add(1),
        }
        let id = Hex(self.id);
        log::warn!(id:%, what:?, timeout:?; "no progress for an election timeout");
        self.observer.stalled(what);
    }
}

impl Node {
    /// A write older than an election timeout costs the leadership (O12), and so does a read without which nothing more is
    /// applied. A state machine that stands still is only reported: it most likely does on every member, for they apply the
    /// same.
    pub(super) fn watch_others(&mut self, now: Instant) {
        let timeout = self.shared.config.election_timeout();
        if timeout.is_zero() {
            return; // time does not pass by itself
        }
        let late = |at: &Instant| now.saturating_duration_since(*at) > timeout;
        let unread = self.reading.filter(|_| !planted("hanging-reads-are-not-watched"));
        let stalled = self.writes.front().is_some_and(|(_, at, _)| late(at))
            || unread.is_some_and(|at| late(&at));
        if stalled != self.core.is_disk_stalled() {
            if stalled {
                self.shared.report_stall(Stalled::Disk, timeout);
            }
            self.core.handle_disk_stall(stalled);
        }
        let steps = self.shared.apply_steps.load(Ordering::Relaxed);
        let first = self.shared.is_to_be_restored() && !planted("first-apply-is-not-watched");
        let busy = self.unapplied > 0 || self.restoring || first;
        if self.apply_watch.stalls(now, busy, steps, timeout) {
            self.shared.report_stall(Stalled::Apply, timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);

    #[test]
    fn an_apply_loop_that_makes_no_step_is_reported_once() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut watch = ApplyWatch::new(start);
        assert!(!watch.stalls(at(500), false, 0, TIMEOUT), "it has nothing to do");
        assert!(!watch.stalls(at(590), true, 0, TIMEOUT), "it has just been given something");
        assert!(watch.stalls(at(601), true, 0, TIMEOUT));
        assert!(!watch.stalls(at(900), true, 0, TIMEOUT), "this is known");
        assert!(!watch.stalls(at(901), true, 1, TIMEOUT), "it goes on");
        assert!(watch.stalls(at(1002), true, 1, TIMEOUT), "and stops again");
    }

    #[test]
    fn a_write_on_the_node_thread_is_reported_once_and_forgotten_when_it_ends() {
        let write = InlineWrite::default();
        assert!(!write.stalls(Duration::ZERO));
        write.begins();
        assert!(!write.stalls(Duration::from_secs(3600)));
        std::thread::sleep(Duration::from_millis(1));
        assert!(write.stalls(Duration::ZERO) && write.is_stalled());
        assert!(!write.stalls(Duration::ZERO));
        write.ended();
        assert!(!write.is_stalled());
    }
}
