//! A bounded spin before going to sleep.

use std::time::{Duration, Instant};

/// Decides whether to spin before sleeping.
///
/// Putting a thread to sleep and waking it takes tens of microseconds, as long as a sync takes on a fast disk. The
/// threads of a lone member, which wait for no other disk or network, therefore look for work a little longer, provided
/// that the last wait was short enough to make it worthwhile and that there was little to do: a busy node leaves the
/// processor to other threads, and does better with larger batches anyway. Each turn of the spin yields.
#[derive(Debug)]
pub(super) struct Spin {
    worth_it: bool,
}

impl Spin {
    /// The longest spin.
    const LONGEST: Duration = Duration::from_micros(200);
    /// Pieces of work since the last wait that still count as little to do.
    const LITTLE: usize = 8;

    pub(super) const fn new() -> Self {
        Self { worth_it: false }
    }

    /// Waits for something, `done` pieces of work after the last wait: polls `look`, and falls back to `sleep`.
    pub(super) fn wait<T>(
        &mut self,
        done: usize,
        mut look: impl FnMut() -> Option<T>,
        sleep: impl FnOnce() -> T,
    ) -> T {
        let began = Instant::now();
        let mut found = look();
        let patient = self.worth_it && done <= Self::LITTLE;
        while found.is_none() && patient && began.elapsed() < Self::LONGEST {
            std::thread::yield_now();
            found = look();
        }
        let found = found.unwrap_or_else(sleep);
        self.worth_it = began.elapsed() < Self::LONGEST;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_after_a_short_wait_and_little_work_it_looks_twice() {
        let mut look = Spin::new();
        let mut wait = |done: usize, sleeps: Duration| {
            let mut looks = 0;
            look.wait(
                done,
                || {
                    looks += 1;
                    None
                },
                || std::thread::sleep(sleeps),
            );
            looks
        };
        assert_eq!(wait(1, Duration::ZERO), 1, "nothing is known yet");
        assert_eq!(wait(100, Duration::ZERO), 1, "there is much to do");
        assert!(wait(1, 2 * Spin::LONGEST) > 1, "the last wait was short");
        assert_eq!(wait(1, Duration::ZERO), 1, "the last wait was long");
    }

    #[test]
    fn what_is_there_is_taken_without_sleep() {
        let found = Spin::new().wait(0, || Some(7), || unreachable!("there is something"));
        assert_eq!(found, 7);
    }
}
