//! Clocks that differ in speed by what is allowed, and members that count their ticks as badly as is allowed.

use std::collections::VecDeque;

/// In percent, and the speeds, in permille: the fastest is as much faster than the slowest as is allowed.
pub(crate) const DRIFT: u32 = 10;
pub(crate) const SLOWEST: u64 = 955;
pub(crate) const FASTEST: u64 = 1045;

/// How many ticks too many a member may count within one promise: as many as leases allow for.
const TOO_MANY: u64 = 5;
/// No promise is for more ticks.
const LONGEST: u64 = 20;
/// In microseconds of its own.
const TICK: u64 = 100_000;
/// Longer than any promise: no two of the things that may go wrong once fall into the same one.
const WHILE: u64 = 25 * TICK;

pub(crate) struct Clock {
    speed: u64,
    /// What it shows, and when it ticks next, in microseconds.
    shows: u64,
    due: u64,
    late: u64,
    /// Ticks that are still to be counted and are none of its.
    extra: u32,
    /// Until when a promise may have a tick in it that was late, and ticks that are none of its.
    late_until: u64,
    hurried_until: u64,
    /// What it showed after each step of the last promise, and how many ticks had been counted by then.
    counted: VecDeque<(u64, u64)>,
}

impl Clock {
    pub(crate) fn new(rng: &mut fastrand::Rng, shows: u64) -> Self {
        let due = shows + rng.u64(..TICK);
        Self {
            speed: rng.u64(SLOWEST..=FASTEST),
            shows,
            due,
            late: 0,
            extra: 0,
            late_until: 0,
            hurried_until: 0,
            counted: VecDeque::new(),
        }
    }

    pub(crate) const fn shows(&self) -> u64 {
        self.shows
    }

    pub(crate) const fn runs(&mut self, speed: u64) {
        self.speed = speed;
    }

    /// Counts too much once: a tick that is late and one that is made up for, and two after a snapshot; if one has been late
    /// already, only the latter. Not again before all that was promised meanwhile is over.
    pub(crate) const fn hurry(&mut self) {
        if self.shows >= self.hurried_until {
            self.extra = if self.shows < self.late_until { 2 } else { 4 };
            self.hurried_until = self.shows + WHILE;
        }
    }

    /// Whether it ticks soon.
    pub(crate) const fn is_ripe(&self) -> bool {
        self.late == 0 && self.due < self.shows + TICK / 3
    }

    /// So many milliseconds pass. How many ticks the member counts: sometimes one late, and then two at once, but only when it
    /// is `calm`.
    ///
    /// # Panics
    /// If that is more than leases allow for: then the schedule, and not the lease, would be to blame.
    pub(crate) fn passes(&mut self, rng: &mut fastrand::Rng, millis: u64, calm: bool) -> u32 {
        let ticks = self.ticks(rng, millis, calm);
        let total = self.counted.back().map_or(0, |(_, total)| *total) + u64::from(ticks);
        self.counted.push_back((self.shows, total));
        while self.counted.front().is_some_and(|(_, before)| total - before > LONGEST) {
            self.counted.pop_front();
        }
        for (then, before) in &self.counted {
            let (ticks, whole) = (total - before, (self.shows - then) / TICK);
            assert!(ticks <= whole + TOO_MANY, "{ticks} ticks counted in the time of {whole}");
        }
        ticks
    }

    fn ticks(&mut self, rng: &mut fastrand::Rng, millis: u64, calm: bool) -> u32 {
        self.shows += millis * self.speed;
        let extra = std::mem::take(&mut self.extra);
        if self.shows < self.due + self.late {
            return extra;
        }
        self.late = 0;
        if calm && self.shows >= self.hurried_until && rng.u32(..64) == 0 {
            self.late = rng.u64(..TICK * 19 / 10);
            self.late_until = self.due + WHILE;
        }
        let ticks = if self.shows >= self.due + TICK { 2 } else { 1 };
        self.due += u64::from(ticks) * TICK;
        ticks + extra
    }
}
