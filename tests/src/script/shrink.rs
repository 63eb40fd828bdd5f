//! Makes failing schedules short.

/// Leaves out of a schedule that fails whatever it fails without: halves, then quarters, down to single steps, for as
/// long as there are `tries`.
pub(super) fn shrink(
    mut steps: Vec<u64>,
    mut tries: usize,
    mut fails: impl FnMut(&[u64]) -> bool,
) -> Vec<u64> {
    let mut part = steps.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        while at < steps.len() {
            if tries == 0 {
                return steps;
            }
            tries -= 1;
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
    use super::shrink;

    #[test]
    fn what_a_failure_needs_is_left() {
        let fails = |steps: &[u64]| [3, 440, 441].iter().all(|step| steps.contains(step));
        assert_eq!(shrink((0..1000).collect(), 1000, fails), [3, 440, 441]);
    }

    #[test]
    fn it_gives_up_in_time() {
        let mut asked = 0;
        let left = shrink((0..1000).collect(), 10, |_| {
            asked += 1;
            false
        });
        assert_eq!((left.len(), asked), (1000, 10));
    }
}
