//! When ticks are due.

use std::time::{Duration, Instant};

/// Turns the monotonic clock into ticks, and never into more of them than intervals have passed: election timeouts and
/// promises are counted in ticks, and must last about as long as configured.
#[derive(Debug)]
pub(super) struct Ticker {
    interval: Duration,
    next: Option<Instant>,
}

impl Ticker {
    /// With an interval of zero it never ticks: for tests, which let time pass themselves.
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, next: (!interval.is_zero()).then_some(now + interval) }
    }

    /// When the next tick is due.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.next
    }

    pub(super) const fn is_inert(&self) -> bool {
        self.next.is_none()
    }

    /// Returns the ticks to make now, and how many are skipped: after a pause at most two are made up for, or a process
    /// that was suspended would start an election for no other reason.
    pub(super) fn take(&mut self, now: Instant) -> (u32, u64) {
        let Some(due) = self.next.filter(|due| *due <= now) else { return (0, 0) };
        let missed = (now - due).as_nanos() / self.interval.as_nanos();
        let more = missed.min(1) as u32;
        self.next = Some(if missed > 1 { now } else { due + self.interval * more } + self.interval);
        (1 + more, u64::try_from(missed).unwrap_or(u64::MAX) - u64::from(more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);

    #[test]
    fn ticks_come_with_the_clock_and_at_most_two_at_a_time() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut ticker = Ticker::new(INTERVAL, start);
        assert_eq!(ticker.take(at(9)), (0, 0));
        assert_eq!(ticker.take(at(14)), (1, 0), "late by a little");
        assert_eq!(ticker.next(), Some(at(20)), "which delays no other");
        assert_eq!(ticker.take(at(35)), (2, 0), "both are due");
        assert_eq!(ticker.next(), Some(at(40)));
        assert_eq!(ticker.take(at(1005)), (2, 95), "the process was stopped");
        assert_eq!(ticker.next(), Some(at(1015)));
    }

    #[test]
    fn an_interval_of_zero_never_ticks() {
        let start = Instant::now();
        let mut ticker = Ticker::new(Duration::ZERO, start);
        assert!(ticker.is_inert());
        assert_eq!(ticker.take(start + Duration::from_secs(3600)), (0, 0));
    }
}
