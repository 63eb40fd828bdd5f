//! A oneshot channel for results, that a thread can wait for and any executor can await.
//!
//! It is one lock, one condition variable and one waker, and needs no runtime. [`Resolver`]'s `drop` keeps the promise
//! that a waiter always resolves (O29): whichever path loses the resolver, its [`Pending`] gets
//! [`Abandoned::abandoned`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::planted::planted;

/// Errors that a [`Pending`] can resolve with by itself, when nobody else does. Implemented by the errors of requests.
pub trait Abandoned {
    /// What can be said when whoever had to answer is gone. For a proposal: its outcome is unknown.
    fn abandoned() -> Self;

    /// What can be said when the deadline is long past and no answer came, because the node thread hangs.
    fn overdue() -> Self;
}

/// How long after its deadline a waiting thread gives up by itself.
const GRACE: Duration = Duration::from_secs(1);

/// The instant `timeout` from now. A timeout that is meant to be endless, such as `Duration::MAX`, counts as a century,
/// which an `Instant` can hold.
pub(crate) fn after(timeout: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Instant::now() + timeout.min(CENTURY)
}

/// The pending result of a request: block on it with [`wait`](Self::wait), or `.await` it.
///
/// It always resolves (O29): with the result, a refusal, or an error that says that the outcome is unknown. Dropping it
/// gives up the answer, not the request.
///
/// [`wait`](Self::wait) also returns when the node thread itself hangs, which can happen in a cluster of one, where it
/// writes to the disk. A future has no clock, so when awaiting in that situation use the executor's timeout.
#[derive(Debug)]
#[must_use = "the request goes on without it, but nobody learns how it ended"]
pub struct Pending<T, E> {
    slot: Arc<Slot<Result<T, E>>>,
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Slot<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

/// The other end of a [`Pending`]. Dropped unused, it resolves with [`Abandoned::abandoned`].
#[derive(Debug)]
pub(crate) struct Resolver<T, E: Abandoned> {
    slot: Option<Arc<Slot<Result<T, E>>>>,
}

/// A resolver and the pending result that it resolves.
pub(crate) fn pending<T, E: Abandoned>() -> (Resolver<T, E>, Pending<T, E>) {
    let slot = Arc::new(Slot {
        state: Mutex::new(State { value: None, waker: None }),
        filled: Condvar::new(),
    });
    (Resolver { slot: Some(Arc::clone(&slot)) }, Pending { slot, deadline: None })
}

impl<T, E: Abandoned> Pending<T, E> {
    /// A result that is known already.
    pub(crate) fn ready(result: Result<T, E>) -> Self {
        let (resolver, pending) = pending();
        resolver.resolve(result);
        pending
    }

    /// Sets the deadline by which the node answers.
    pub(crate) fn by(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Blocks until there is a result. Every request has a deadline, so this returns (O29); if the node itself hangs,
    /// in a disk write for example, a second after the deadline.
    ///
    /// # Errors
    /// Whatever the request ended with.
    pub fn wait(self) -> Result<T, E> {
        let give_up = self.deadline.and_then(|deadline| deadline.checked_add(GRACE));
        let mut state = self.slot.state.lock();
        loop {
            if let Some(value) = state.value.take() {
                return value;
            }
            match give_up {
                None => self.slot.filled.wait(&mut state),
                Some(give_up) => {
                    if self.slot.filled.wait_until(&mut state, give_up).timed_out()
                        && state.value.is_none()
                    {
                        return Err(E::overdue());
                    }
                }
            }
        }
    }
}

impl<T, E> Pending<T, E> {
    /// Blocks for at most `timeout`.
    ///
    /// # Errors
    /// There is no result yet; the error is the pending result itself, to wait for again.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<T, E>, Self> {
        let deadline = after(timeout);
        let mut state = self.slot.state.lock();
        loop {
            if let Some(value) = state.value.take() {
                return Ok(value);
            }
            if self.slot.filled.wait_until(&mut state, deadline).timed_out()
                && state.value.is_none()
            {
                drop(state);
                return Err(self);
            }
        }
    }

    /// Whether there is a result, so that waiting would not block.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.slot.state.lock().value.is_some()
    }
}

impl<T, E> Future for Pending<T, E> {
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.slot.state.lock();
        match state.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T, E: Abandoned> Resolver<T, E> {
    /// Resolves the [`Pending`].
    pub(crate) fn resolve(mut self, result: Result<T, E>) {
        self.fill(result);
    }

    fn fill(&mut self, result: Result<T, E>) {
        let Some(slot) = self.slot.take() else { return };
        let waker = {
            let mut state = slot.state.lock();
            state.value = Some(result);
            slot.filled.notify_all();
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T, E: Abandoned> Drop for Resolver<T, E> {
    fn drop(&mut self) {
        if planted("lost-resolver-says-nothing") {
            return;
        }
        self.fill(Err(E::abandoned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;
    use std::thread;

    #[derive(Debug, PartialEq, Eq)]
    struct Lost;

    impl Abandoned for Lost {
        fn abandoned() -> Self {
            Self
        }

        fn overdue() -> Self {
            Self
        }
    }

    #[test]
    fn a_thread_gets_what_another_resolves() {
        let (resolver, pending) = pending::<u32, Lost>();
        let thread = thread::spawn(move || pending.wait());
        resolver.resolve(Ok(7));
        assert_eq!(thread.join().expect("the waiter does not panic"), Ok(7));
    }

    #[test]
    fn a_lost_resolver_resolves() {
        let (resolver, pending) = pending::<u32, Lost>();
        drop(resolver);
        let told = pending.wait_timeout(Duration::from_secs(5)).expect("it resolves");
        assert_eq!(told, Err(Lost));
    }

    #[test]
    fn whoever_waits_gives_up_some_time_after_the_deadline() {
        let (_resolver, pending) = pending::<u32, Lost>();
        let long_over = Instant::now() - Duration::from_millis(990);
        assert_eq!(pending.by(long_over).wait(), Err(Lost));
    }

    #[test]
    fn a_timeout_gives_the_pending_back() {
        let (resolver, pending) = pending::<u32, Lost>();
        let pending = pending.wait_timeout(Duration::from_millis(1)).expect_err("nothing is there");
        resolver.resolve(Ok(1));
        assert!(pending.is_ready());
        assert_eq!(pending.wait_timeout(Duration::ZERO).expect("it is there"), Ok(1));
    }

    #[test]
    fn an_executor_is_woken() {
        struct Flag(Mutex<bool>);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                *self.0.lock() = true;
            }
        }
        let flag = Arc::new(Flag(Mutex::new(false)));
        let waker = Waker::from(Arc::clone(&flag));
        let (resolver, mut pending) = pending::<u32, Lost>();
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut pending).poll(&mut cx).is_pending());
        resolver.resolve(Ok(3));
        assert!(*flag.0.lock());
        assert_eq!(Pin::new(&mut pending).poll(&mut cx), Poll::Ready(Ok(3)));
    }
}
