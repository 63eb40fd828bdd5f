//! What is counted where every allocation is.

use std::alloc::System;
use std::path::Path;
use std::time::Duration;

use oarlock_bench_harness::args::Args;
use oarlock_bench_harness::data::Noise;
use oarlock_bench_harness::{Result, machine};
use oarlock_raftnode::Config;
use stats_alloc::{Region, StatsAlloc};

use crate::bare::{Bare, Handed};
use crate::nodes::{Nodes, alone_in_memory, without_snapshots};
use crate::service::Caller;

/// Who counts.
pub type Counted = StatsAlloc<System>;

/// Does what the command line says, as a process of the bench.
///
/// # Errors
/// Whatever went wrong.
pub fn run(counted: &'static Counted) -> Result<()> {
    let args = Args::parse("raftnode", &[], std::env::args().skip(1))?;
    match args.child.as_deref() {
        Some("allocations") => allocations(counted),
        Some("behind") => behind(counted, &args.dir, args.scaled(1_000_000)),
        _ => Err("nothing of that name is counted".into()),
    }
}

/// Prints, for oarlock-raftnode and for bare raft-rs, allocations and bytes allocated for a proposal of 128 B with
/// 1,024 in flight.
fn allocations(counted: &'static Counted) -> Result<()> {
    const N: usize = 256 << 10;
    let noise = Noise::new();
    let caller = Caller { noise: &noise, len: 128, in_flight: 1024 };
    let node = alone_in_memory(Config::new())?;
    caller.run(&node, N / 4)?;
    let region = Region::new(counted);
    caller.run(&node, N)?;
    let ours = region.change();
    node.shutdown();
    drop(node);

    let mut bare = Bare::new()?;
    bare.run(&noise, (128, 1024, N / 4), Handed::Together)?;
    let region = Region::new(counted);
    bare.run(&noise, (128, 1024, N), Handed::Together)?;
    for change in [ours, region.change()] {
        let calls = change.allocations + change.reallocations;
        print!("{} {} ", calls as f64 / N as f64, change.bytes_allocated as f64 / N as f64);
    }
    println!();
    Ok(())
}

/// Prints how much the heap, and the process's anonymous memory, grew while `n` entries of 128 B were written that one
/// of three members never heard of, and the cache budget of the two others together; in bytes.
fn behind(counted: &'static Counted, dir: &Path, n: usize) -> Result<()> {
    let noise = Noise::new();
    let config = without_snapshots();
    let nodes = Nodes::start(&config, dir, 3)?;
    let caller = Caller { noise: &noise, len: 128, in_flight: 1024 };
    let leader = nodes.leader()?;
    caller.run(&nodes.nodes[leader], 4096)?;
    let away = (leader + 1) % 3;
    nodes.nodes[away].pause();
    caller.run(&nodes.nodes[leader], 4096)?;
    std::thread::sleep(Duration::from_secs(2)); // it is known to be away
    let held = || {
        let stats = counted.stats();
        stats.bytes_allocated as f64 - stats.bytes_deallocated as f64
    };
    let (heap, anonymous) = (held(), machine::anonymous()?);
    caller.run(&nodes.nodes[leader], n)?;
    std::thread::sleep(Duration::from_secs(1)); // nothing is under way
    let grown = (held() - heap, machine::anonymous()? as f64 - anonymous as f64);
    let status = nodes.nodes[leader].status();
    let missing =
        status.last_index - status.peers.iter().map(|peer| peer.matched).min().unwrap_or(0);
    if missing < n as u64 {
        return Err(format!("the follower is {missing} entries behind, not {n}").into());
    }
    println!("{} {} {}", grown.0, grown.1, 2.0 * (64 << 20) as f64);
    Ok(())
}
