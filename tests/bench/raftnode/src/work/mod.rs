//! The workloads, by name.

mod alone;
mod behind;
mod memory;
mod slow;
mod stall;
mod three;

use std::path::Path;
use std::process::Command;

use oarlock_bench_harness::work::Work;
use oarlock_bench_harness::{Bench, Result};

/// The bench.
pub const BENCH: Bench = Bench {
    name: "raftnode",
    title: "oarlock-raftnode beside bare raft-rs, a synchronous loop and the physical limit",
    about: "Contenders took turns in one process; p50 is the median of the medians of nine blocks, p10 the figure least \
            touched by noise. Absolute figures belong to this machine and hour; only ratios within a table mean \
            anything. All members of a cluster share one disk and two cores with whoever calls them. What falls short of \
            its target is shown as it is; the [README](README.md) says why.",
    works: ALL,
    child: |_| Err("the bench has no processes of its own".into()),
};

/// All of them, in the order of the plan.
const ALL: &[Work] = &[
    memory::MEMORY,
    alone::ONE,
    alone::MANY,
    three::THREE,
    slow::SLOW,
    behind::BEHIND,
    stall::STALLED,
];

/// Bytes of a proposal.
const LEN: usize = 128;

/// Figures from the program that counts allocations.
fn counted(what: &str, dir: &Path, quick: bool) -> Result<Vec<f64>> {
    let program = std::env::current_exe()?.with_file_name("oarlock-bench-raftnode-counting");
    let mut command = Command::new(program);
    command.args(["--child", what, "--dir"]).arg(dir);
    if quick {
        command.arg("--quick");
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.split_whitespace().map_while(|word| word.parse().ok()).collect())
}
