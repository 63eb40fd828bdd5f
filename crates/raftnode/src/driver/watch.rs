//! Who stands still for longer than an election timeout, and who notices.
//!
//! The node thread watches the writer thread and the apply loop. A member that is alone writes on the node thread
//! itself; then a thread of its own watches that, `oarlock-watch`, which depends on nobody else, for a disk that hangs
//! may well hang the state machine too. It sleeps while nothing is written, and wakes once in an election timeout while
//! there is. Before a node runs at all, another one watches the restore with which it may begin.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::events::Control;
use super::node::Node;
use super::panicked;
use super::shared::Shared;
use crate::Stalled;
use crate::hex::Hex;
use crate::planted::planted;

/// A write under way on the node thread.
#[derive(Debug, Default)]
pub(crate) struct InlineWrite {
    state: Mutex<Writing>,
    wake: Condvar,
    /// Changed under the lock; every caller looks, without it.
    stalled: AtomicBool,
}

#[derive(Debug, Default)]
struct Writing {
    since: Option<Instant>,
    /// Whoever watches sleeps until something is written.
    asleep: bool,
    /// Nothing more is written here.
    over: bool,
}

impl InlineWrite {
    pub(super) fn begins(&self) {
        let mut state = self.state.lock();
        state.since = Some(Instant::now());
        if std::mem::take(&mut state.asleep) {
            self.wake.notify_one();
        }
    }

    pub(super) fn ended(&self) {
        let mut state = self.state.lock();
        state.since = None;
        if self.stalled.swap(false, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// There will be no more of them.
    pub(super) fn is_over(&self) {
        self.state.lock().over = true;
        self.wake.notify_one();
    }

    /// Whether the node thread has hung in a write for longer than an election timeout.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Returns when a write is newly found to have taken longer than `timeout`; `false` when there will be no more.
    fn wait_for_stall(&self, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        while !state.over {
            match state.since {
                Some(since) if self.is_stalled() || since.elapsed() > timeout => {
                    if !self.stalled.swap(true, Ordering::Relaxed) {
                        return true;
                    }
                    self.wake.wait(&mut state); // until it ends
                }
                // Most likely it has ended by then, and another one has begun.
                Some(since) => drop(self.wake.wait_until(&mut state, since + timeout)),
                None => {
                    state.asleep = true;
                    self.wake.wait(&mut state);
                }
            }
        }
        false
    }
}

/// Lets the thread that watches a node's inline writes go when it is dropped.
pub(super) struct Watcher(Arc<Shared>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.inline_write.is_over();
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
    /// Has a thread watch what the node thread writes, if time passes here.
    pub(super) fn watch_inline_writes(self: &Arc<Self>) -> io::Result<Watcher> {
        let (shared, timeout) = (Arc::clone(self), self.config.election_timeout());
        if !timeout.is_zero() && !planted("inline-writes-are-watched-by-nobody") {
            thread::Builder::new().name("oarlock-watch".into()).spawn(move || {
                while shared.inline_write.wait_for_stall(timeout) {
                    let told = catch_unwind(AssertUnwindSafe(|| {
                        shared.report_stall(Stalled::Disk, timeout);
                    }));
                    if let Err(panic) = told {
                        let error = panicked("oarlock-watch", &*panic); // the observer's
                        shared.inbox.control(Control::Failed(error));
                    }
                }
            })?;
        }
        Ok(Watcher(Arc::clone(self)))
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
        thread::scope(|scope| {
            let (told, stalls) = channel();
            scope.spawn(|| {
                let told = told; // gone when it ends
                while write.wait_for_stall(TIMEOUT) {
                    told.send(Instant::now()).expect("somebody listens");
                }
            });
            for _ in 0..2 {
                write.begins();
                write.ended();
                assert!(stalls.recv_timeout(2 * TIMEOUT).is_err(), "nothing is written");
                let began = Instant::now();
                write.begins();
                let told = stalls.recv_timeout(100 * TIMEOUT).expect("it takes too long");
                assert!(told - began > TIMEOUT && write.is_stalled());
                assert!(stalls.recv_timeout(2 * TIMEOUT).is_err(), "this is known");
                write.ended();
                assert!(!write.is_stalled());
            }
            write.begins();
            write.is_over();
            assert_eq!(stalls.recv_timeout(100 * TIMEOUT), Err(RecvTimeoutError::Disconnected));
        });
    }
}
