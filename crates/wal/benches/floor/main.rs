//! The log against the floor: `cargo bench -p oarlock-wal`. Ratios of one run; the peers, and the targets, are in the
//! repository's `cargo xtask bench wal`.
//!
//! A synced write ends in a wait. On a busy machine an ordinary process then waits for the scheduler's next tick as
//! well, and everybody reads 4 ms; so run it as `chrt -r 1 cargo bench -p oarlock-wal` where that is allowed.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod crowd;
#[expect(unreachable_pub, reason = "they are a part of another crate too")]
mod limit;
#[expect(unreachable_pub, reason = "they are a part of another crate too")]
mod turns;

use std::error::Error;
use std::hint::black_box;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use limit::{Records, Written};
use oarlock_wal::{Batch, Entry, Maintainer, Options, Wal};
use turns::{Budget, Turn, summary, take_turns, timed};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const BUDGET: Budget = Budget { time: Duration::from_secs(3), rounds: 2000 };

/// Measures the floor, then the log that is in `dir`.
type Measure = fn(dir: &Path, records: &Path, len: usize) -> Result<Vec<Vec<f64>>>;

/// Operations of a turn where one is too short to be timed.
const GETS: usize = 500;
const RANGE: usize = 256;
/// Bytes of payload in the logs that are read.
const READ: usize = 64 << 20;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench") {
        println!("nothing measured: this is for `cargo bench`");
        return Ok(());
    }
    let filters: Vec<_> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |what: &str| filters.is_empty() || filters.iter().any(|f| what.starts_with(*f));
    // Below the target directory: the temporary one may be in memory, where a sync costs nothing.
    let tmp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let noise: Bytes = std::iter::repeat_with(|| fastrand::u8(..)).take(1 << 20).collect();
    println!(
        "{:26}{:>10}{:>10}{:>8}{:>8}{:>8}{:>9}",
        "us, p50", "floor", "log", "ratio", "p10", "p99", "samples"
    );
    for (sync, name) in [(true, "synced"), (false, "unsynced")] {
        for (len, n) in
            [(128, 1), (128, 256), (1 << 10, 1), (1 << 10, 16), (1 << 10, 256), (8 << 10, 256)]
        {
            let what = format!("{name} {len} B x{n}");
            if wanted(&what) {
                report(&what, &append(&tmp.path().join(&what), &noise, len, n, sync)?);
            }
        }
    }
    // Of these the "floor" is the same log with one caller, and without rolls.
    let what = "threads 1 KiB x16";
    if wanted(what) {
        report(what, &crowd::threads(&tmp.path().join("threads"), &noise, 16)?);
    }
    let what = "roll 4 KiB x16";
    if wanted(what) {
        report(what, &crowd::roll(&tmp.path().join("roll"), &noise)?);
    }
    let reads: [(_, Measure); 5] =
        [("get", get), ("range", range), ("visit", visit), ("open", open), ("verify", verify)];
    for (name, measure) in reads {
        for len in [128, 1 << 10, 8 << 10] {
            let what = format!("{name} {len} B");
            if wanted(&what) {
                report(&what, &read(&tmp.path().join(&what), &noise, len, measure)?);
            }
        }
    }
    Ok(())
}

fn report(what: &str, samples: &[Vec<f64>]) {
    let [floor, log] = [&samples[0], &samples[1]].map(|samples| summary(samples));
    let [p50, p10, p99] = [log.p50 / floor.p50, log.p10 / floor.p10, log.p99 / floor.p99];
    let [floor_us, log_us] = [floor.p50 / 1e3, log.p50 / 1e3];
    let samples = log.samples;
    println!("{what:26}{floor_us:10.2}{log_us:10.2}{p50:8.2}{p10:8.2}{p99:8.2}{samples:9}");
}

fn entries(first: u64, noise: &Bytes, len: usize, n: usize) -> Vec<Entry> {
    let payload = |i: usize| noise.slice((i * 61) % (noise.len() - len)..).slice(..len);
    (0..n).map(|i| Entry::new(first + i as u64, 1, 0, payload(first as usize + i))).collect()
}

fn append(dir: &Path, noise: &Bytes, len: usize, n: usize, sync: bool) -> Result<Vec<Vec<f64>>> {
    let log = Options::new().create(dir, b"bench")?;
    let _maintainer = Maintainer::spawn(&log)?;
    log.prepare()?;
    let mut file = Written::create(&dir.with_extension("floor"), 64 << 20)?;
    let mut bytes = Vec::new();
    let mut contenders: [Turn<'_, Box<dyn Error>>; 2] = [
        Box::new(|samples| {
            let batch = entries(1, noise, len, n);
            for _ in 0..2 {
                bytes.clear();
                batch.iter().for_each(|entry| bytes.extend_from_slice(&entry.data));
                samples.push(timed(|| file.append(&bytes, sync))?);
            }
            Ok(())
        }),
        Box::new(|samples| {
            for _ in 0..2 {
                let batch = entries(log.last_index() + 1, noise, len, n);
                samples.push(timed(|| {
                    let ticket = log.append(&Batch::of(&batch))?;
                    if sync { log.wait(ticket) } else { Ok(()) }
                })?);
            }
            Ok(())
        }),
    ];
    // So much that the disk is not asked for more than the page cache takes.
    let rounds = BUDGET.rounds.min((256 << 20) / (2 * len * n));
    take_turns(&mut contenders, Budget { rounds, ..BUDGET })
}

fn read(dir: &Path, noise: &Bytes, len: usize, measure: Measure) -> Result<Vec<Vec<f64>>> {
    let log = Options::new().create(dir, b"bench")?;
    for first in (0..READ / len).step_by(64) {
        let _ = log.append(&Batch::of(&entries(first as u64 + 1, noise, len, 64)))?;
    }
    log.close()?;
    let records = dir.with_extension("floor");
    Records::create(&records, noise, len, READ / len)?;
    measure(dir, &records, len)
}

fn get(dir: &Path, records: &Path, len: usize) -> Result<Vec<Vec<f64>>> {
    let (log, records) = (Options::new().open(dir)?, Records::open(records, len)?);
    let mean = |begun: Instant| begun.elapsed().as_nanos() as f64 / GETS as f64;
    let mut contenders: [Turn<'_, Box<dyn Error>>; 2] = [
        Box::new(|samples| {
            let places: Vec<usize> = (0..GETS).map(|_| fastrand::usize(..records.len())).collect();
            let begun = Instant::now();
            for at in places {
                black_box(records.check(at));
            }
            samples.push(mean(begun));
            Ok(())
        }),
        Box::new(|samples| {
            let places: Vec<u64> = (0..GETS).map(|_| fastrand::u64(1..=log.last_index())).collect();
            let begun = Instant::now();
            for at in places {
                black_box(log.entry(at)?);
            }
            samples.push(mean(begun));
            Ok(())
        }),
    ];
    take_turns(&mut contenders, BUDGET)
}

/// Ranges of 256 entries, collected.
fn range(dir: &Path, records: &Path, len: usize) -> Result<Vec<Vec<f64>>> {
    ranges(dir, records, len, |log, range| Ok(log.entries(range, u64::MAX)?.len()))
}

/// The same, in place.
fn visit(dir: &Path, records: &Path, len: usize) -> Result<Vec<Vec<f64>>> {
    ranges(dir, records, len, |log, range| {
        let mut n = 0;
        let _all = log.visit::<()>(range, |entry| {
            n += usize::from(!black_box(entry).data.is_empty());
            ControlFlow::Continue(())
        })?;
        Ok(n)
    })
}

fn ranges(
    dir: &Path,
    records: &Path,
    len: usize,
    read: impl Fn(&Wal, Range<u64>) -> Result<usize>,
) -> Result<Vec<Vec<f64>>> {
    let (log, records) = (Options::new().open(dir)?, Records::open(records, len)?);
    let mut contenders: [Turn<'_, Box<dyn Error>>; 2] = [
        Box::new(|samples| {
            let first = fastrand::usize(..records.len() - RANGE);
            samples.push(timed(|| Ok::<_, Box<dyn Error>>(records.check_range(first, RANGE)))?);
            Ok(())
        }),
        Box::new(|samples| {
            let first = fastrand::u64(1..=log.last_index() - RANGE as u64);
            samples.push(timed(|| read(&log, first..first + RANGE as u64))?);
            Ok(())
        }),
    ];
    take_turns(&mut contenders, BUDGET)
}

/// By footers; the floor checks every byte.
fn open(dir: &Path, records: &Path, len: usize) -> Result<Vec<Vec<f64>>> {
    opening(dir, records, len, false)
}

/// The whole log, every byte checked.
fn verify(dir: &Path, records: &Path, len: usize) -> Result<Vec<Vec<f64>>> {
    opening(dir, records, len, true)
}

fn opening(dir: &Path, records: &Path, len: usize, verify: bool) -> Result<Vec<Vec<f64>>> {
    let mut contenders: [Turn<'_, Box<dyn Error>>; 2] = [
        Box::new(|samples| {
            samples.push(timed(|| {
                let records = Records::open(records, len)?;
                Ok::<_, Box<dyn Error>>(records.check_range(0, records.len()))
            })?);
            Ok(())
        }),
        Box::new(|samples| {
            let options = Options::new().verify(verify);
            samples.push(timed(|| options.open(dir))?);
            Ok(())
        }),
    ];
    take_turns(&mut contenders, BUDGET)
}
