//! What a link does to the envelopes that cross it.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Fate;

/// The faults of a link. The default has none.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// How long an envelope is under way.
    pub delay: RangeInclusive<Duration>,
    /// The probability that one is lost, silently, as by a connection that breaks.
    pub loss: f64,
    /// The probability that one arrives twice.
    pub duplicate: f64,
    /// The probability that one may be overtaken: it is under way for up to three times the longest delay (at least
    /// 10 ms) longer, and later ones need not wait for it.
    pub reorder: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self { delay: Duration::ZERO..=Duration::ZERO, loss: 0.0, duplicate: 0.0, reorder: 0.0 }
    }
}

impl Faults {
    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> Fate {
        if rng.f64() < self.loss {
            return Vec::new();
        }
        let copies = if rng.f64() < self.duplicate { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                let delay = self.draw_delay(rng);
                if rng.f64() < self.reorder {
                    (delay + self.draw_detour(rng), true)
                } else {
                    (delay, false)
                }
            })
            .collect()
    }

    pub(super) fn draw_delay(&self, rng: &mut fastrand::Rng) -> Duration {
        let span = self.delay.end().saturating_sub(*self.delay.start());
        *self.delay.start() + span.mul_f64(rng.f64())
    }

    fn draw_detour(&self, rng: &mut fastrand::Rng) -> Duration {
        (*self.delay.end() * 3).max(Duration::from_millis(10)).mul_f64(rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_fates() {
        let faults = Faults {
            delay: Duration::ZERO..=Duration::from_millis(5),
            loss: 0.3,
            duplicate: 0.3,
            reorder: 0.3,
        };
        let draw = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            (0..200).map(|_| faults.draw(&mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let lost = draw(1).iter().filter(|fate| fate.is_empty()).count();
        assert!((20..120).contains(&lost), "{lost} of 200 lost with probability 0.3");
    }

    #[test]
    fn no_faults_means_one_copy_at_once_in_order() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..100 {
            assert_eq!(Faults::default().draw(&mut rng), [(Duration::ZERO, false)]);
        }
    }
}
