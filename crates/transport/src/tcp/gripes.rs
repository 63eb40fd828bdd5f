//! Complaints for the log: each at most once a minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

const PAUSE: Duration = Duration::from_secs(60);
/// Beyond so many different ones nothing more is remembered, nor said.
const MAX_DIFFERENT: usize = 1024;

/// What was complained about lately, and about whom.
#[derive(Debug, Default)]
pub(super) struct Gripes(Mutex<BTreeMap<(&'static str, u64), Instant>>);

impl Gripes {
    /// Whether to say it (again) now.
    pub(super) fn due(&self, what: &'static str, peer: u64) -> bool {
        let now = Instant::now();
        let mut said = self.0.lock();
        if said.len() >= MAX_DIFFERENT {
            said.retain(|_, at| now.duration_since(*at) < PAUSE);
        }
        match said.get(&(what, peer)) {
            Some(at) if now.duration_since(*at) < PAUSE => false,
            None if said.len() >= MAX_DIFFERENT => false,
            _ => {
                said.insert((what, peer), now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_complaint_is_made_once_a_minute_and_few_are_remembered() {
        let gripes = Gripes::default();
        assert!(gripes.due("checksum", 1));
        assert!(!gripes.due("checksum", 1));
        assert!(gripes.due("checksum", 2) && gripes.due("oversize", 1));
        let said = (0..2 * MAX_DIFFERENT as u64).filter(|peer| gripes.due("flood", *peer)).count();
        assert_eq!(said, MAX_DIFFERENT - 3);
    }
}
