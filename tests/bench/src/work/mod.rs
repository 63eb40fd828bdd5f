//! The workloads, by name.

mod append;
mod disk;
pub(crate) mod heap;
mod open;
mod read;
mod roll;
mod threads;

pub(crate) use oarlock_bench_harness::data::{Noise, Scratch};
pub(crate) use oarlock_bench_harness::work::{Setting, Work};

use crate::Result;
use crate::peers::{Batch, Log, Who};

/// All of them, in the order of the plan.
pub(crate) const ALL: &[Work] = &[
    append::SMALL,
    append::MEDIUM,
    append::LARGE,
    roll::ROLL,
    threads::THREADS,
    append::CPU,
    open::OPEN,
    read::GET,
    read::RANGE,
    heap::HEAP,
    disk::SPACE,
];

/// Fills `log` with `n` entries, `batch` at a time, and makes them durable at the end.
fn fill(log: &mut dyn Log, noise: &Noise, len: usize, n: usize, batch: usize) -> Result<()> {
    for (round, first) in (1..=n as u64).step_by(batch).enumerate() {
        let payloads = noise.payloads(first, len, batch.min(n + 1 - first as usize));
        log.stage(&Batch { first, payloads: &payloads });
        log.commit(false)?;
        // Now and then, so that what is dirty stays within what the kernel likes.
        if (round + 1) * batch * len / (64 << 20) > round * batch * len / (64 << 20) {
            log.settle()?;
        }
    }
    log.settle()
}

/// Bytes as people write them.
fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

/// How many times as fast as somebody ours is.
fn speed(row: &crate::report::Row, other: Who) -> f64 {
    row.p50(other.name()) / row.p50(Who::Oarlock.name())
}
