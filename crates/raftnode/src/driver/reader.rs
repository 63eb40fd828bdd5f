//! The thread that reads the log for followers, or for a state machine, that are far behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::events::Control;
use super::panicked;
use super::shared::Shared;
use crate::planted::planted;
use crate::{Fetch, LogError, LogReader};

/// Makes reads that the node thread must not wait for (O12), one after the other. The thread is started with the first
/// one.
pub(super) struct Reader {
    log: Arc<dyn LogReader>,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    thread: Option<(Sender<Fetch>, Receiver<()>)>,
}

impl Reader {
    /// Once `stop` is set, no further read is started.
    pub(super) fn new(log: Arc<dyn LogReader>, shared: Arc<Shared>, stop: Arc<AtomicBool>) -> Self {
        Self { log, shared, stop, thread: None }
    }

    /// Submits a read, whose result is reported through the inbox. The core limits how many are in flight.
    pub(super) fn submit(&mut self, fetch: Fetch) -> Result<(), LogError> {
        if self.thread.is_none() {
            let op = "start the reader thread";
            self.thread = Some(self.spawn().map_err(|source| LogError::Io { op, source })?);
        }
        if let Some((fetches, _)) = &self.thread {
            let _ = fetches.send(fetch); // if the thread has ended, it has reported why
        }
        Ok(())
    }

    fn spawn(&self) -> std::io::Result<(Sender<Fetch>, Receiver<()>)> {
        let (log, shared, stop) =
            (Arc::clone(&self.log), Arc::clone(&self.shared), Arc::clone(&self.stop));
        let (fetches, queue) = channel::<Fetch>();
        let (finished, done) = channel();
        thread::Builder::new().name("oarlock-reader".into()).spawn(move || {
            let serve = std::panic::AssertUnwindSafe(|| {
                for fetch in &queue {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let entries = fetch.read(&*log);
                    shared.inbox.control(Control::Fetched { fetch, entries });
                }
            });
            if let Err(panic) = std::panic::catch_unwind(serve)
                && !planted("lost-reader-says-nothing")
            {
                shared.inbox.control(Control::Failed(panicked("oarlock-reader", &*panic)));
            }
            drop(log); // before the end of the thread is announced
            drop(finished);
        })?;
        Ok((fetches, done))
    }

    /// Waits for the read in progress; returns whether it ended in time. A disk that hangs must not make stopping the
    /// node hang (O14).
    pub(super) fn close(self, timeout: Duration) -> bool {
        self.thread.is_none_or(|(fetches, done)| {
            drop(fetches);
            done.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
        })
    }
}
