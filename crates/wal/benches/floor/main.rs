//! The log against the floor: `cargo bench -p oarlock-wal`. Ratios of one run; the peers, and the targets, are in the
//! repository's `cargo xtask bench wal`.
//!
//! A synced write ends in a wait. On a busy machine an ordinary process then waits for the scheduler's next tick as
//! well, and everybody reads 4 ms; so run it as `chrt -r 1 cargo bench -p oarlock-wal` where that is allowed.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod limit;
mod turns;

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use limit::{Records, Written};
use oarlock_wal::{Batch, Entry, Maintainer, Options, Wal};
use turns::{Budget, Turn, summary, take_turns, timed};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const BUDGET: Budget = Budget { time: Duration::from_secs(3), rounds: 2000 };
/// Operations of a turn where one is too short to be timed.
const GETS: usize = 500;
const RANGE: usize = 256;
/// Bytes of payload in the logs that are read.
const READ: usize = 64 << 20;

fn main() -> Result<()> {
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("nothing measured: this is for `cargo bench`");
        return Ok(());
    }
    // Below the target directory: the temporary one may be in memory, where a sync costs nothing.
    let tmp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let noise: Bytes = std::iter::repeat_with(|| fastrand::u8(..)).take(1 << 20).collect();
    println!(
        "{:26}{:>10}{:>10}{:>8}{:>8}{:>8}{:>9}",
        "us, p50", "floor", "log", "ratio", "p10", "p99", "samples"
    );
    for sync in [true, false] {
        for (len, n) in [(128, 1), (1 << 10, 16), (1 << 10, 256), (8 << 10, 256)] {
            append(&tmp.path().join(format!("append-{len}-{n}-{sync}")), &noise, len, n, sync)?;
        }
    }
    for len in [128, 1 << 10, 8 << 10] {
        read(&tmp.path().join(format!("read-{len}")), &noise, len)?;
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

fn append(dir: &Path, noise: &Bytes, len: usize, n: usize, sync: bool) -> Result<()> {
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
    let samples = take_turns(&mut contenders, Budget { rounds, ..BUDGET })?;
    drop(contenders);
    let synced = if sync { "synced" } else { "unsynced" };
    report(&format!("{synced} {len} B x{n}"), &samples);
    Ok(())
}

fn filled(dir: &Path, noise: &Bytes, len: usize) -> Result<Wal> {
    let log = Options::new().create(dir, b"bench")?;
    for first in (0..READ / len).step_by(64) {
        let _ = log.append(&Batch::of(&entries(first as u64 + 1, noise, len, 64)))?;
    }
    log.sync()?;
    Ok(log)
}

fn read(dir: &Path, noise: &Bytes, len: usize) -> Result<()> {
    let log = filled(dir, noise, len)?;
    let file = dir.with_extension("floor");
    Records::create(&file, noise, len, READ / len)?;
    let records = Records::open(&file, len)?;

    let mut contenders: [Turn<'_, Box<dyn Error>>; 2] = [
        Box::new(|samples| {
            let at: Vec<usize> = (0..GETS).map(|_| fastrand::usize(..records.len())).collect();
            let begun = Instant::now();
            for at in at {
                black_box(records.check(at));
            }
            samples.push(begun.elapsed().as_nanos() as f64 / GETS as f64);
            Ok(())
        }),
        Box::new(|samples| {
            let at: Vec<u64> = (0..GETS).map(|_| fastrand::u64(1..=log.last_index())).collect();
            let begun = Instant::now();
            for at in at {
                black_box(log.entry(at)?);
            }
            samples.push(begun.elapsed().as_nanos() as f64 / GETS as f64);
            Ok(())
        }),
    ];
    let samples = take_turns(&mut contenders, BUDGET)?;
    drop(contenders);
    report(&format!("get {len} B"), &samples);

    let mut contenders: [Turn<'_, Box<dyn Error>>; 2] = [
        Box::new(|samples| {
            let first = fastrand::usize(..records.len() - RANGE);
            samples.push(timed(|| Ok::<_, Box<dyn Error>>(records.check_range(first, RANGE)))?);
            Ok(())
        }),
        Box::new(|samples| {
            let first = fastrand::u64(1..=log.last_index() - RANGE as u64);
            samples.push(timed(|| log.entries(first..first + RANGE as u64, u64::MAX))?);
            Ok(())
        }),
    ];
    let samples = take_turns(&mut contenders, BUDGET)?;
    drop(contenders);
    report(&format!("range of {RANGE}, {len} B"), &samples);

    log.close()?;
    let mut contenders: [Turn<'_, Box<dyn Error>>; 2] = [
        Box::new(|samples| {
            samples.push(timed(|| {
                let records = Records::open(&file, len)?;
                let all = records.check_range(0, records.len());
                Ok::<_, Box<dyn Error>>(black_box(all))
            })?);
            Ok(())
        }),
        Box::new(|samples| {
            samples.push(timed(|| Options::new().open(dir))?);
            Ok(())
        }),
    ];
    let samples = take_turns(&mut contenders, BUDGET)?;
    drop(contenders);
    report(&format!("open {} MiB of {len} B", READ >> 20), &samples);
    Ok(())
}
