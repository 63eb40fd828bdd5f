//! Group commit: how long the writer thread waits for more entries before it syncs.
//!
//! When a sync ends, the proposals that it made durable are answered, and most of their callers propose again. The first
//! to do so would find the disk idle and be synced alone, with everybody else behind it: two groups would take turns, and
//! each proposal would wait for nearly two syncs. So the next sync starts when as many entries are waiting as there were
//! when the last one ended, whether it covered them or not, or when patience runs out. `oarlock-wal` does the same for
//! threads that wait for its log; PostgreSQL's `commit_delay` is a fixed time with the same purpose.
//!
//! Patience is a fraction of what a sync takes, so nothing gets slower by more than that fraction, and on a fast disk
//! there is none. It is halved each time it was in vain, and tried in full again now and then, so callers that are late
//! or do not come back are not waited for. A lone caller never waits, nor does anything that other members wait for;
//! the writer knows what that is.

use std::time::Duration;

/// Patience is what a sync takes, divided by this.
const SHARE: u32 = 8;

/// Patience is at most this: callers do not take longer to come back because the disk is slower.
const LONGEST: Duration = Duration::from_millis(20);

/// Less patience than this is none at all: putting a thread to sleep and waking it takes nearly as long.
const SHORTEST: Duration = Duration::from_micros(200);

/// Syncs after which patience is tried in full again.
const ANEW: u32 = 64;

/// Halvings after which nothing is left of any patience.
const MOST_HALVINGS: u32 = 16;

/// What the last syncs tell about the next one. It has no clock: it is told how long things took.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Entries that were waiting or just synced when the last sync ended: as many are expected to come back.
    expected: usize,
    /// How long the last two syncs took, newest first.
    took: [Duration; 2],
    /// How often patience was halved.
    halved: u32,
    syncs: u32,
}

impl Gather {
    /// How much longer to wait with the next sync, when `there` entries are waiting and the last sync ended `since` ago;
    /// `None` to start it now.
    pub(super) fn wait(&self, there: usize, since: Duration) -> Option<Duration> {
        if there >= self.expected {
            return None;
        }
        self.patience().checked_sub(since).filter(|left| !left.is_zero())
    }

    /// Goes by the faster of the last two syncs, so that a single slow one does not count.
    fn patience(&self) -> Duration {
        let usual = self.took[0].min(self.took[1]);
        let patience = (usual / SHARE).min(LONGEST) / (1 << self.halved);
        if patience < SHORTEST { Duration::ZERO } else { patience }
    }

    /// Patience ran out before all were back.
    pub(super) fn in_vain(&mut self) {
        self.halved = (self.halved + 1).min(MOST_HALVINGS);
    }

    /// A sync of `covered` entries has ended that took this long; `behind` more arrived meanwhile.
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
