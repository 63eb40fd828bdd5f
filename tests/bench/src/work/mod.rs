//! The workloads, by name.

mod append;
mod disk;
pub(crate) mod heap;
mod open;
mod read;
mod roll;
mod threads;

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::Result;
use crate::args::Args;
use crate::peers::{Batch, Log, Who};
use crate::report::Report;

/// Something to measure.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// For the page: what is timed, and what to know about it.
    pub(crate) notes: &'static str,
    pub(crate) run: fn(&Setting<'_>, &mut Report) -> Result<()>,
}

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

/// What a workload runs in.
pub(crate) struct Setting<'a> {
    pub(crate) args: &'a Args,
    pub(crate) dir: &'a Path,
}

/// A directory that goes away with what is in it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(parent: &Path, name: &str) -> Result<Self> {
        let dir = parent.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // what stays is in the target directory
    }
}

/// Payloads that do not compress, all alike in length.
pub(crate) struct Noise(Bytes);

impl Noise {
    pub(crate) fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        Self(std::iter::repeat_with(|| random.u8(..)).take(4 << 20).collect())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The payload of entry `index`.
    pub(crate) fn payload(&self, index: u64, len: usize) -> Bytes {
        let at = (index as usize).wrapping_mul(4099) % (self.0.len() - len);
        self.0.slice(at..at + len)
    }

    pub(crate) fn payloads(&self, first: u64, len: usize, n: usize) -> Vec<Bytes> {
        (first..first + n as u64).map(|index| self.payload(index, len)).collect()
    }
}

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
