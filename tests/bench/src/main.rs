//! `cargo xtask bench wal`: oarlock-wal, its peers and the physical limit, in one run.
//!
//! Contenders take turns, operation by operation, so that all of them meet the same noise; only ratios within one run
//! mean anything. Each workload has its targets, and says which of them were reached.

mod peers;
mod work;

use std::process::ExitCode;

use oarlock_bench_harness::{Bench, Error, Result, args, limit, machine, report, turns};

const WAL: Bench = Bench {
    name: "wal",
    title: "oarlock-wal beside its peers and the physical limit",
    about: "Contenders took turns, operation by operation; p50 is the median of the medians of nine blocks, p10 the \
            figure least touched by noise. Absolute figures belong to this machine and hour; only ratios within a \
            table mean anything. What falls short of its target is shown as it is; the [README](README.md) says why.",
    works: work::ALL,
    child: work::heap::child,
};

fn main() -> ExitCode {
    match WAL.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
