//! Those who wait for a sync, and how long the next one waits for more of them.
//!
//! When a sync ends, everybody it covered is woken, and most of them come back with another append. Whoever comes first
//! would find the disk free and sync alone, with all others behind: two groups that take turns, each half as large as
//! it could be. So the next sync begins when as many wait as waited at the last one, or when patience ends. Callers
//! that are late are not waited for a second time: patience halves when it was in vain, and is tried anew now and then.
//! A lone caller never waits: the last group was of one.
//!
//! Measured with sixteen callers of 1 KiB: waiting for all of them beats waiting for half or for nobody, and is no worse
//! than three quarters. The rest of the time goes into waking sixteen threads; waking them by each other, in a chain or a
//! tree, took longer than one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::Lsn;

/// Patience is at most this: waking and appending takes as long as it takes, however slow the disk is.
const LONGEST: Duration = Duration::from_micros(500);

/// After so many syncs patience is tried anew.
const ANEW: u32 = 64;

/// A thread that is parked until the log is durable up to some point.
#[derive(Debug)]
pub(super) struct Waiter {
    lsn: Lsn,
    thread: Thread,
    word: AtomicU8,
}

/// What a parked thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Word {
    /// Nothing yet: it was not woken, or too early.
    None,
    /// What it waits for is durable.
    Durable,
    /// To look again: it may be the one to sync, or the log is poisoned.
    Look,
}

impl Waiter {
    pub(super) fn new(lsn: Lsn) -> Arc<Self> {
        let thread = std::thread::current();
        Arc::new(Self { lsn, thread, word: AtomicU8::new(Word::None as u8) })
    }

    pub(super) fn tell(&self, word: Word) {
        self.word.store(word as u8, Ordering::Release);
        self.thread.unpark();
    }

    fn told(&self) -> Word {
        match self.word.load(Ordering::Acquire) {
            1 => Word::Durable,
            2 => Word::Look,
            _ => Word::None,
        }
    }

    /// Sleeps until told something, or until the deadline. To be called by the thread that made it.
    pub(super) fn park(&self, deadline: Option<Instant>) -> Word {
        loop {
            let told = self.told();
            if told != Word::None {
                return told;
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => std::thread::park(),
                Some(Duration::ZERO) => return Word::None,
                Some(left) => std::thread::park_timeout(left),
            }
        }
    }
}

/// What a caller who arrives is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// To sync, now.
    Lead,
    /// To wait until told.
    Follow,
    /// To wait until told, and to look again at this moment: nobody else will.
    Watch(Instant),
}

/// The crowd before a sync.
#[derive(Debug)]
pub(super) struct Crowd {
    waiting: Vec<Arc<Waiter>>,
    syncing: bool,
    /// How many were there when the last sync ended, whether it covered them or not.
    expected: usize,
    /// Until when they are waited for.
    until: Option<Instant>,
    /// Whether somebody is to look again then.
    watched: bool,
    patience: Duration,
    /// How long syncs take, smoothed.
    usual: Duration,
    syncs: u32,
}

impl Crowd {
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::new(),
            syncing: false,
            expected: 1,
            until: None,
            watched: false,
            patience: LONGEST,
            usual: Duration::ZERO,
            syncs: 0,
        }
    }

    /// What one more caller is to do, or one who was told to look again.
    pub(super) fn role(&mut self, now: impl FnOnce() -> Instant) -> Role {
        if self.syncing {
            return Role::Follow;
        }
        let until = self.until.filter(|_| self.waiting.len() + 1 < self.expected);
        match until {
            Some(until) if now() < until => {
                if std::mem::replace(&mut self.watched, true) {
                    Role::Follow
                } else {
                    Role::Watch(until)
                }
            }
            _ => Role::Lead,
        }
    }

    pub(super) fn join(&mut self, waiter: Arc<Waiter>) {
        self.waiting.push(waiter);
    }

    /// Takes back one who joined and looks again by itself.
    pub(super) fn leave(&mut self, waiter: &Arc<Waiter>) {
        self.waiting.retain(|other| !Arc::ptr_eq(other, waiter));
    }

    /// A sync begins, led by one who is not among those who wait.
    pub(super) fn begin(&mut self) {
        if self.waiting.len() + 1 >= self.expected {
            self.patience = (self.patience * 2).min(LONGEST);
        } else {
            self.patience /= 2;
        }
        (self.syncing, self.watched) = (true, false);
    }

    /// The sync has ended, with success up to `durable`. Gives those whom it covered, and the one who is to look after
    /// the others.
    pub(super) fn end(
        &mut self,
        durable: Lsn,
        took: Duration,
        now: Instant,
    ) -> (Vec<Arc<Waiter>>, Option<Arc<Waiter>>) {
        self.syncing = false;
        self.expected = self.waiting.len() + 1;
        self.usual = if self.usual.is_zero() { took } else { (self.usual * 7 + took) / 8 };
        self.syncs = self.syncs.wrapping_add(1);
        if self.syncs.is_multiple_of(ANEW) {
            self.patience = LONGEST;
        }
        self.until = Some(now + self.patience.min(self.usual));
        let mut covered = Vec::new();
        self.waiting.retain(|waiter| {
            let stays = waiter.lsn > durable;
            if !stays {
                covered.push(waiter.clone());
            }
            stays
        });
        (covered, self.heir())
    }

    /// The sync has failed: everybody is to look again.
    pub(super) fn fail(&mut self) -> Vec<Arc<Waiter>> {
        (self.syncing, self.watched) = (false, false);
        std::mem::take(&mut self.waiting)
    }

    /// Takes the one who has waited longest out, to look again.
    fn heir(&mut self) -> Option<Arc<Waiter>> {
        if self.waiting.is_empty() { None } else { Some(self.waiting.remove(0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SegmentId;

    fn lsn(offset: u32) -> Lsn {
        Lsn::new(SegmentId(1), offset)
    }

    const SYNC: Duration = Duration::from_micros(100);

    /// A sync that covers everybody, after `followers` have joined.
    fn sync(crowd: &mut Crowd, followers: usize, now: Instant) {
        (0..followers).for_each(|_| crowd.join(Waiter::new(lsn(1))));
        crowd.begin();
        let (covered, heir) = crowd.end(lsn(1), SYNC, now);
        assert_eq!((covered.len(), heir.is_none()), (followers, true));
    }

    #[test]
    fn a_lone_caller_syncs_at_once() {
        let (mut crowd, now) = (Crowd::new(), Instant::now());
        for _ in 0..3 {
            assert_eq!(crowd.role(|| unreachable!("does not look at the clock")), Role::Lead);
            sync(&mut crowd, 0, now);
        }
    }

    #[test]
    fn the_last_of_those_who_come_back_leads() {
        let (mut crowd, now) = (Crowd::new(), Instant::now());
        sync(&mut crowd, 3, now);
        assert_eq!(crowd.role(|| now), Role::Watch(now + SYNC));
        crowd.join(Waiter::new(lsn(2)));
        for _ in 0..2 {
            assert_eq!(crowd.role(|| now), Role::Follow);
            crowd.join(Waiter::new(lsn(2)));
        }
        assert_eq!(crowd.role(|| now), Role::Lead);
        crowd.begin();
        assert_eq!(crowd.role(|| now), Role::Follow, "while the disk works");
    }

    #[test]
    fn nobody_waits_for_those_who_went_away() {
        let (mut crowd, now) = (Crowd::new(), Instant::now());
        sync(&mut crowd, 3, now);
        assert_eq!(crowd.role(|| now + SYNC), Role::Lead);
        sync(&mut crowd, 0, now);
        assert_eq!(crowd.role(|| now), Role::Lead);
    }

    #[test]
    fn patience_shrinks_when_it_was_in_vain_and_is_tried_anew() {
        let (mut crowd, now) = (Crowd::new(), Instant::now());
        sync(&mut crowd, 3, now);
        for _ in 0..8 {
            crowd.join(Waiter::new(lsn(2))); // two of those who came back; the others come while the disk works
            crowd.begin();
            (0..2).for_each(|_| crowd.join(Waiter::new(lsn(2))));
            crowd.end(lsn(2), SYNC, now);
        }
        let Role::Watch(until) = crowd.role(|| now) else { panic!("some patience is left") };
        assert!(until < now + SYNC / 8, "{:?}", until - now);
        crowd.watched = false;
        while !crowd.syncs.is_multiple_of(ANEW) {
            sync(&mut crowd, 1, now);
        }
        assert_eq!(crowd.role(|| now), Role::Watch(now + SYNC));
    }

    #[test]
    fn whoever_was_not_covered_has_an_heir_among_them() {
        let (mut crowd, now) = (Crowd::new(), Instant::now());
        crowd.begin();
        [2, 3, 1].into_iter().for_each(|at| crowd.join(Waiter::new(lsn(at))));
        let (covered, heir) = crowd.end(lsn(1), SYNC, now);
        assert_eq!(covered.len(), 1);
        let heir = heir.expect("two are left");
        assert_eq!((heir.lsn, crowd.waiting.len()), (lsn(2), 1));
        assert!(matches!(crowd.role(|| now), Role::Watch(_)), "the heir, who looks again");
    }
}
