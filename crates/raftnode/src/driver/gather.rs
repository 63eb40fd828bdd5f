//! How long the writer thread waits for more before it syncs.
//!
//! When a sync ends, the proposals that it made durable are answered, and most of their callers come back with another.
//! Whoever comes first would find the disk free and be synced alone, with all others behind: two groups that take turns,
//! and nearly two syncs that each proposal waits for. So the next sync begins when as many entries are there as were when
//! the last one ended, whether it covered them or not, or when patience ends. `oarlock-wal` has the same idea for threads
//! that wait for the log; PostgreSQL's `commit_delay` is a fixed time for it.
//!
//! Patience is a share of what a sync takes, so nothing becomes slower by more than that share; on a fast disk there is
//! none. It halves when it was in vain and is tried anew now and then: callers who are late, or do not come back, are not
//! waited for. A lone caller never waits, nor does what others wait for; the latter is the writer's to know.

use std::time::Duration;

/// Patience is at most one in so many parts of what a sync takes.
const SHARE: u32 = 8;

/// And at most this: to be answered and to come back takes as long as it takes, however slow the disk is.
const LONGEST: Duration = Duration::from_millis(20);

/// To be put to sleep and woken takes nearly as long as this: below it there is no patience at all.
const SHORTEST: Duration = Duration::from_micros(200);

/// After so many syncs patience is tried anew.
const ANEW: u32 = 64;

/// Beyond so many halvings nothing is left of it.
const MOST_HALVINGS: u32 = 16;

/// What the last syncs tell about the next one. Pure: it is told how long things took.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Entries that were there when the last sync ended, covered by it or not.
    expected: usize,
    /// What the last sync took, and the one before it.
    took: [Duration; 2],
    /// How often patience was halved.
    halved: u32,
    syncs: u32,
}

impl Gather {
    /// How much longer the next sync waits, if `there` are so many entries, and it is so long `since` the last one ended;
    /// `None` if it is to begin.
    pub(super) fn wait(&self, there: usize, since: Duration) -> Option<Duration> {
        if there >= self.expected {
            return None;
        }
        self.patience().checked_sub(since).filter(|left| !left.is_zero())
    }

    /// One that took long by chance says nothing: two in a row do.
    fn patience(&self) -> Duration {
        let usual = self.took[0].min(self.took[1]);
        let patience = (usual / SHARE).min(LONGEST) / (1 << self.halved);
        if patience < SHORTEST { Duration::ZERO } else { patience }
    }

    /// It was waited to the end.
    pub(super) fn in_vain(&mut self) {
        self.halved = (self.halved + 1).min(MOST_HALVINGS);
    }

    /// A sync has ended that covered so many entries, with so many `behind` it, after so long.
    pub(super) fn ended(&mut self, covered: usize, behind: usize, took: Duration) {
        if covered >= self.expected {
            self.halved = self.halved.saturating_sub(1);
        }
        self.syncs = self.syncs.wrapping_add(1);
        if self.syncs.is_multiple_of(ANEW) {
            self.halved = 0;
        }
        self.expected = covered + behind;
        self.took = [took, self.took[0]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_millis(80);
    const PATIENCE: Duration = Duration::from_millis(10);
    const AT_ONCE: Duration = Duration::ZERO;

    /// After some syncs of `covered` entries with `behind` after them.
    fn after(covered: usize, behind: usize, took: Duration) -> Gather {
        let mut gather = Gather::default();
        (0..3).for_each(|_| gather.ended(covered, behind, took));
        gather
    }

    #[test]
    fn a_lone_caller_never_waits() {
        assert_eq!(Gather::default().wait(1, AT_ONCE), None);
        assert_eq!(after(1, 0, SLOW).wait(1, AT_ONCE), None);
    }

    #[test]
    fn those_who_come_back_are_waited_for_until_all_are_there() {
        let gather = after(1, 63, SLOW);
        assert_eq!(
            gather.wait(63, AT_ONCE),
            Some(PATIENCE),
            "the one who was synced alone comes back too"
        );
        assert_eq!(gather.wait(64, AT_ONCE), None);
        assert_eq!(gather.wait(63, PATIENCE / 2), Some(PATIENCE / 2), "since the sync ended");
        assert_eq!(gather.wait(63, PATIENCE), None, "and no longer than that");
    }

    #[test]
    fn patience_is_a_share_of_what_a_sync_takes_and_bounded() {
        assert_eq!(after(64, 0, Duration::from_secs(5)).wait(1, AT_ONCE), Some(LONGEST));
        assert_eq!(after(64, 0, SHORTEST * SHARE).wait(1, AT_ONCE), Some(SHORTEST));
        assert_eq!(after(64, 0, SHORTEST * SHARE / 2).wait(1, AT_ONCE), None, "a fast disk");
    }

    #[test]
    fn one_slow_sync_among_fast_ones_changes_nothing() {
        let mut gather = after(64, 0, Duration::from_micros(100));
        gather.ended(64, 0, SLOW);
        assert_eq!(gather.wait(1, AT_ONCE), None);
        gather.ended(64, 0, SLOW);
        assert_eq!(gather.wait(1, AT_ONCE), Some(PATIENCE));
        gather.ended(64, 0, Duration::from_micros(100));
        assert_eq!(gather.wait(1, AT_ONCE), None, "it is fast again");
    }

    #[test]
    fn patience_halves_when_it_was_in_vain_and_is_tried_anew() {
        let mut gather = after(64, 64, SLOW);
        let mut patience = PATIENCE;
        for _ in 0..4 {
            assert_eq!(gather.wait(64, AT_ONCE), Some(patience));
            gather.in_vain();
            gather.ended(64, 64, SLOW);
            patience /= 2;
        }
        (0..8).for_each(|_| gather.in_vain());
        assert_eq!(gather.wait(64, AT_ONCE), None, "nothing is left of it");
        while !gather.syncs.is_multiple_of(ANEW) {
            gather.ended(64, 64, SLOW);
        }
        assert_eq!(gather.wait(64, AT_ONCE), Some(PATIENCE));
    }

    #[test]
    fn patience_grows_again_when_all_came_back() {
        let mut gather = after(64, 0, SLOW);
        gather.in_vain();
        gather.ended(60, 4, SLOW);
        assert_eq!(gather.wait(4, AT_ONCE), Some(PATIENCE / 2));
        gather.ended(64, 0, SLOW);
        assert_eq!(gather.wait(4, AT_ONCE), Some(PATIENCE));
    }
}
