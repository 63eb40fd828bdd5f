//! Many callers, one disk: how far a sync is shared.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Noise, Work};
use crate::peers::{Shared, Who};
use crate::report::{Bound, Row, Unit};
use crate::turns::{Turn, summary, take_turns};
use crate::{Error, Result};

const LEN: usize = 1 << 10;
const THREADS_AT_ONCE: usize = 16;
const WINDOW: Duration = Duration::from_millis(150);

pub(super) const THREADS: Work = Work {
    name: "threads",
    title: "Sixteen callers, each waiting for its own 1 KiB",
    notes: "Windows of 150 ms in turn; a sample is the time of a window per entry made durable in it. In oarlock-wal \
            each caller takes the next index under one lock, appends, and waits on its ticket outside; in raft-engine \
            each caller has a group of its own.",
    run: |setting, report| {
        let noise = Noise::new();
        let mut names = Vec::new();
        let mut logs = Vec::new();
        let peers = [Who::Floor, Who::Oarlock, Who::RaftEngine, Who::RaftEngineTuned, Who::OkayWal];
        for who in peers {
            for callers in [1, THREADS_AT_ONCE] {
                if who == Who::Floor && callers > 1 {
                    continue; // it shares nothing
                }
                let dir = setting.dir.join(format!("{}-{callers}", who.name()));
                let Some(log) = who.create_shared(&dir, 512 << 20)? else { continue };
                names.push(name(who, callers));
                logs.push((log, callers));
            }
        }
        let noise = &noise;
        let mut contenders: Vec<Turn<'_, Error>> = Vec::new();
        for (log, callers) in &logs {
            contenders.push(Box::new(move |samples| {
                samples.push(window(&**log, *callers, noise)?);
                Ok(())
            }));
        }
        let samples = take_turns(&mut contenders, setting.args.longer(200))?;
        let mut row = Row::new(THREADS.name, "1 KiB, per entry", Unit::Microseconds);
        for (name, samples) in names.iter().zip(&samples) {
            row.cell(name, summary(samples));
        }
        for (name, (log, _)) in names.iter().zip(&logs) {
            if let Some(entries) = log.shared() {
                row.note(format!("{name}: {entries:.1} entries a sync"));
            }
        }
        let [one, many] = [1, THREADS_AT_ONCE].map(|n| row.p50(&name(Who::Oarlock, n)));
        row.check("entries/s over those of one caller", one / many, Bound::AtLeast(6.0));
        row.check("the same, aimed at", one / many, Bound::AtLeast(10.0));
        report.rows.push(row);
        Ok(())
    },
};

fn name(who: Who, callers: usize) -> String {
    format!("{} x{callers}", who.name())
}

/// Nanoseconds per entry while `callers` append for a while.
fn window(log: &dyn Shared, callers: usize, noise: &Noise) -> Result<f64> {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    let caller = |thread: usize| -> Result<()> {
        let payload = noise.payload(thread as u64, LEN);
        while !stop.load(Ordering::Relaxed) {
            log.append(thread, &payload)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let caller = &caller;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..callers).map(|n| scope.spawn(move || caller(n))).collect();
        std::thread::sleep(WINDOW);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a caller panicked")?)
    })?;
    Ok(begun.elapsed().as_nanos() as f64 / done.load(Ordering::Relaxed).max(1) as f64)
}
