//! Looking for work before going to sleep (a bounded spin).

use std::time::{Duration, Instant};

/// To be put to sleep and woken takes tens of microseconds, as long as a fast disk takes to sync. A lone member's threads,
/// which nobody else's disk or network keeps waiting, therefore look around for a moment, if the last wait was so short
/// that it would have been worth it, and if there was little to do: where there is much, others need the processor more,
/// and what comes meanwhile is better done together. It yields all the same.
#[derive(Debug)]
pub(super) struct Spin {
    worth_it: bool,
}

impl Spin {
    /// Waits longer than this are slept through.
    const LONGEST: Duration = Duration::from_micros(200);
    /// So little was done since the last wait.
    const LITTLE: usize = 8;

    pub(super) const fn new() -> Self {
        Self { worth_it: false }
    }

    /// Waits, after `done` pieces of work, with `look`, which finds something or does not, and then if need be with `sleep`.
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
