//! Makes failing schedules short.

use std::time::{Duration, Instant};

/// Leaves out of a schedule that fails whatever it fails without: halves, then quarters, down to single steps, for as
/// long as there is `patience`.
pub(super) fn shrink(
    mut steps: Vec<u64>,
    patience: Duration,
    mut fails: impl FnMut(&[u64]) -> bool,
) -> Vec<u64> {
    let began = Instant::now();
    let mut part = steps.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        while at < steps.len() {
            if began.elapsed() >= patience {
                return steps;
            }
            let end = steps.len().min(at + part);
            let without = [&steps[..at], &steps[end..]].concat();
            if fails(&without) {
                steps = without;
            } else {
                at = end;
            }
        }
        part /= 2;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_needs_is_left() {
        let fails = |steps: &[u64]| [3, 440, 441].iter().all(|step| steps.contains(step));
        assert_eq!(shrink((0..1000).collect(), Duration::MAX, fails), [3, 440, 441]);
    }

    #[test]
    fn it_gives_up_in_time() {
        let mut asked = 0;
        let left = shrink((0..1000).collect(), Duration::ZERO, |_| {
            asked += 1;
            false
        });
        assert_eq!((left.len(), asked), (1000, 0));
    }
}
