//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Doubles from `first` up to `last`; each pause is drawn from the upper half, so that a cluster that lost a member
/// does not knock at its door in step.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) const fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, next: first }
    }

    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next.min(self.last);
        self.next = pause.saturating_mul(2).min(self.last);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub(super) const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_last_and_start_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for millis in [100, 200, 400, 800, 1000, 1000] {
            let (pause, full) = (backoff.pause(), Duration::from_millis(millis));
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }
}
