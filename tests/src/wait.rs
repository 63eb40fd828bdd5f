//! Waiting for something to become true, with a bound.

use crate::{Failure, Outcome};
use std::time::{Duration, Instant};

/// Asks `question` every few milliseconds until it answers `Some`.
///
/// # Errors
/// After `bound`: that `what` did not happen in time.
pub fn eventually<T>(
    what: &str,
    bound: Duration,
    mut question: impl FnMut() -> Option<T>,
) -> Outcome<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(answer) = question() {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(format!("not within {bound:?}: {what}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_the_wait() {
        let mut asked = 0;
        let answer = eventually("the third question", Duration::from_secs(5), || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(answer.expect("in time"), 3);
    }

    #[test]
    fn the_bound_ends_the_wait() {
        let failure =
            eventually::<()>("never", Duration::from_millis(20), || None).expect_err("never");
        assert_eq!(failure.to_string(), "not within 20ms: never");
    }
}
