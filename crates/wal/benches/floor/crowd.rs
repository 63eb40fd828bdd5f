//! Many callers at one log, and what leaving a segment costs the one who appends.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_wal::{Batch, Entry, Maintainer, Options, Wal};

use super::{BUDGET, Result, entries};
use crate::turns::{Budget, Turn, take_turns, timed};

const WINDOW: Duration = Duration::from_millis(100);
const LEN: usize = 1 << 10;

/// Nanoseconds per entry of one caller, and of `callers` at once.
pub(crate) fn threads(dir: &Path, noise: &Bytes, callers: usize) -> Result<Vec<Vec<f64>>> {
    let logs = [1, callers].map(|n| dir.with_extension(n.to_string()));
    let logs = logs.map(|dir| Options::new().create(dir, b"bench"));
    let (mut open, mut maintainers) = (Vec::new(), Vec::new());
    for log in logs {
        let log = log?;
        maintainers.push(Maintainer::spawn(&log)?);
        open.push(log);
    }
    let mut contenders: Vec<Turn<'_, Box<dyn std::error::Error>>> = Vec::new();
    for (log, callers) in open.iter().zip([1, callers]) {
        contenders.push(Box::new(move |samples| {
            samples.push(window(log, callers, noise)?);
            Ok(())
        }));
    }
    let samples = take_turns(&mut contenders, Budget { time: BUDGET.time * 2, ..BUDGET })?;
    drop(contenders);
    for (log, callers) in open.iter().zip([1, callers]) {
        let stats = log.stats();
        let shared = stats.entries as f64 / stats.syncs as f64;
        println!("{:26}{shared:10.2} entries a sync", format!("  {callers} callers"));
    }
    Ok(samples)
}

/// Each takes the next index under one lock, appends, and waits outside.
fn window(log: &Wal, callers: usize, noise: &Bytes) -> Result<f64> {
    let next = Mutex::new(log.last_index());
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let caller = |thread: usize| -> std::result::Result<(), oarlock_wal::Error> {
        let payload = noise.slice(thread * LEN..(thread + 1) * LEN);
        while !stop.load(Ordering::Relaxed) {
            let ticket = {
                let mut last = next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let entry = Entry::new(*last + 1, 1, 0, payload.clone());
                let ticket = log.append(&Batch::of(&[entry]))?;
                *last += 1;
                ticket
            };
            log.wait(ticket)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let (caller, begun) = (&caller, Instant::now());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..callers).map(|n| scope.spawn(move || caller(n))).collect();
        std::thread::sleep(WINDOW);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    Ok(begun.elapsed().as_nanos() as f64 / done.load(Ordering::Relaxed).max(1) as f64)
}

/// Synced batches of 64 KiB into a log that does not roll, and one of 4 MiB segments.
pub(crate) fn roll(dir: &Path, noise: &Bytes) -> Result<Vec<Vec<f64>>> {
    let still = Options::new().create(dir.with_extension("still"), b"bench")?;
    let rolling = Options::new().segment_size(4 << 20);
    let rolling = rolling.create(dir.with_extension("rolling"), b"bench")?;
    let _maintainers = [Maintainer::spawn(&still)?, Maintainer::spawn(&rolling)?];
    std::thread::sleep(Duration::from_millis(500)); // until both have segments ahead
    let append = |log: &Wal, samples: &mut Vec<f64>, all: bool| {
        let rolls = log.stats().rolls;
        let batch = entries(log.last_index() + 1, noise, 4 << 10, 16);
        let took = timed(|| log.wait(log.append(&Batch::of(&batch))?))?;
        if all || log.stats().rolls == rolls {
            samples.push(took);
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    let mut contenders: [Turn<'_, Box<dyn std::error::Error>>; 2] = [
        Box::new(|samples| append(&still, samples, false)),
        Box::new(|samples| append(&rolling, samples, true)),
    ];
    let budget = Budget { time: BUDGET.time * 2, rounds: 8000 };
    let samples = take_turns(&mut contenders, budget)?;
    drop(contenders);
    let stats = rolling.stats();
    let (rolls, waited) = (stats.rolls, stats.foreground_rolls);
    println!("  {rolls} rolls, {waited} of them into a segment that was not ready");
    Ok(samples)
}
