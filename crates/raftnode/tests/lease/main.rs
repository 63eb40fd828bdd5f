//! Reads within a lease: what ends one, whose promises it takes, and that none is ever stale while clocks keep to what was
//! assumed.

use std::time::Duration;

use oarlock_raftnode::Config;

#[path = "../support/mod.rs"]
mod support;
use support::sim::Sim;

mod bounds;
mod clock;
mod promises;
mod schedule;
mod storm;
mod threads;

/// Three members with lease reads and clocks that may differ by so many percent; the first leads, and it is 10 s o'clock.
fn elected(drift: u32) -> Sim {
    let mut sim = Sim::new_with(3, 7, |config| config.lease_reads(drift));
    sim.elect(1);
    set_time(&mut sim, 10_000);
    sim
}

/// The same, and the first holds a lease from then on.
fn with_lease() -> Sim {
    let mut sim = elected(1);
    lease(&mut sim, 1);
    sim
}

fn set_time(sim: &mut Sim, millis: u64) {
    for node in sim.nodes.values_mut() {
        node.core.set_time(Duration::from_millis(millis));
    }
}

/// A round of reads; whether it leaves a lease behind.
fn round(sim: &mut Sim, id: u64) -> bool {
    let before = sim.node(id).reads.len();
    sim.core(id).handle_read(99);
    sim.settle();
    assert!(sim.node(id).reads.len() > before, "the round was confirmed");
    sim.core(id).lease_read().is_some()
}

/// A round of reads, which leaves a lease behind.
fn lease(sim: &mut Sim, id: u64) {
    assert!(round(sim, id), "no lease");
}

/// Starts a member again, with another configuration from now on.
fn restart(sim: &mut Sim, id: u64, config: Config) {
    sim.configs.insert(id, config);
    sim.crash(id, 0);
    sim.settle();
}
