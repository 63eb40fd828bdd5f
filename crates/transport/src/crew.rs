//! The threads of one transport: named, counted, stopped together.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Every thread that works for one transport, and every foreign one that is inside its handler.
#[derive(Default)]
pub(crate) struct Crew {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    working: BTreeMap<u64, (String, ThreadId)>,
    stopping: bool,
}

impl Crew {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Starts a thread. Fails if the system has none to give, or if the crew is stopping.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        name: String,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let crew = Arc::clone(self);
        let label = name.clone();
        // The thread signs in itself; until it has, the parent's own entry keeps `stop` waiting.
        let Some(parent) = self.enter(&name) else { return Err(io::ErrorKind::Interrupted.into()) };
        let (ready, signed_in) = std::sync::mpsc::sync_channel::<()>(1);
        thread::Builder::new().name(name).spawn(move || {
            let shift = crew.enter(&label);
            let _ = ready.send(());
            if shift.is_some() {
                work();
            }
        })?;
        let _ = signed_in.recv(); // an error means that the thread has ended already
        drop(parent);
        Ok(())
    }

    /// Signs the current thread in until the guard is dropped; `None` once the crew is stopping.
    pub(crate) fn enter(self: &Arc<Self>, name: &str) -> Option<Shift> {
        let mut state = self.state.lock();
        if state.stopping {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.working.insert(number, (name.to_owned(), thread::current().id()));
        Some(Shift { crew: Arc::clone(self), number })
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.state.lock().stopping
    }

    /// Sleeps, but not beyond the crew's stop. `true` if it is stopping.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.stopping && !self.changed.wait_until(&mut state, end).timed_out() {}
        state.stopping
    }

    /// Lets nobody in any more and wakes the sleepers. `false` if that had been done before.
    pub(crate) fn begin_stop(&self) -> bool {
        let first = !std::mem::replace(&mut self.state.lock().stopping, true);
        self.changed.notify_all();
        first
    }

    /// Waits until everyone else has left, or `end`; names those who have not.
    pub(crate) fn wait(&self, end: Instant) -> Vec<String> {
        let me = thread::current().id();
        let mut state = self.state.lock();
        loop {
            let others = state.working.values().filter(|(_, id)| *id != me);
            let names: Vec<String> = others.map(|(name, _)| name.clone()).collect();
            if names.is_empty() || self.changed.wait_until(&mut state, end).timed_out() {
                return names;
            }
        }
    }
}

/// Signed in until dropped.
pub(crate) struct Shift {
    crew: Arc<Crew>,
    number: u64,
}

impl Drop for Shift {
    fn drop(&mut self) {
        if thread::panicking() {
            let current = thread::current();
            log::error!(thread = current.name().unwrap_or("unnamed"); "a thread of the transport ends by a panic: what it did is not done any more");
        }
        self.crew.state.lock().working.remove(&self.number);
        self.crew.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_wakes_sleepers_and_waits_for_them() {
        let crew = Crew::new();
        let sleeper = Arc::clone(&crew);
        crew.spawn("sleeper".into(), move || assert!(sleeper.sleep(Duration::from_secs(60))))
            .expect("a thread");
        assert!(crew.begin_stop());
        assert!(!crew.begin_stop(), "the second stop is not the first");
        assert_eq!(crew.wait(Instant::now() + Duration::from_secs(10)), Vec::<String>::new());
        assert!(crew.spawn("late".into(), || ()).is_err());
        assert!(crew.enter("late").is_none());
    }

    #[test]
    fn a_thread_that_does_not_leave_is_named() {
        let crew = Crew::new();
        let (release, held) = std::sync::mpsc::channel::<()>();
        crew.spawn("stubborn".into(), move || {
            let _ = held.recv();
        })
        .expect("a thread");
        crew.begin_stop();
        assert_eq!(crew.wait(Instant::now() + Duration::from_millis(20)), ["stubborn"]);
        drop(release);
        assert!(crew.wait(Instant::now() + Duration::from_secs(10)).is_empty());
    }

    #[test]
    fn stopping_from_within_does_not_wait_for_itself() {
        let crew = Crew::new();
        let inner = Arc::clone(&crew);
        let (told, tell) = std::sync::mpsc::channel();
        crew.spawn("self".into(), move || {
            inner.begin_stop();
            let _ = told.send(inner.wait(Instant::now() + Duration::from_secs(10)));
        })
        .expect("a thread");
        assert!(tell.recv().expect("it ends").is_empty());
    }
}
