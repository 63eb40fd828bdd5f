//! Random schedules of writes, syncs, deliveries, applies, crashes and snapshots over the cores alone.
//!
//! Whatever the order: what was applied once stays (no divergence, nothing committed is lost), a proposal takes effect
//! at most once, and once the network heals everybody agrees. [`Sim`] checks the first on every entry applied.

use oarlock_raftnode::Role;
use oarlock_raftnode::membership::{Change, ChangeEntry};

mod support;
use support::member;
use support::sim::Sim;

const SEEDS: u64 = 150;
const STEPS: usize = 600;

/// What may go wrong in a run; which of it does is drawn from the seed, so that some runs are calm.
struct Weather {
    loss: bool,
    doubling: bool,
    reordering: bool,
    crashes: bool,
    slow_disks: bool,
    changes: bool,
}

fn run(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let count = [1, 3, 3, 5][rng.usize(..4)];
    let weather = Weather {
        loss: rng.bool(),
        doubling: rng.bool(),
        reordering: rng.bool(),
        crashes: rng.bool(),
        slow_disks: rng.bool(),
        changes: rng.bool(),
    };
    let mut sim = Sim::new(count, seed);
    let mut proposed = 0;
    for _ in 0..STEPS {
        step(&mut sim, &mut rng, &weather, &mut proposed);
    }
    heal(&mut sim);
    for (id, node) in &sim.nodes {
        let mut lines = node.lines.clone();
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), node.lines.len(), "node {id} applied a proposal twice");
    }
}

fn step(sim: &mut Sim, rng: &mut fastrand::Rng, weather: &Weather, proposed: &mut u32) {
    let ids: Vec<u64> = sim.nodes.keys().copied().collect();
    let id = ids[rng.usize(..ids.len())];
    match rng.u32(..100) {
        0..40 => {
            for _ in 0..rng.usize(1..8) {
                if sim.net.is_empty() {
                    break;
                }
                let at = if weather.reordering { rng.usize(..sim.net.len()) } else { 0 };
                let (from, to, packet) = sim.net.remove(at).expect("within");
                if weather.loss && rng.u32(..10) == 0 {
                    // A snapshot's sender is told even so (O10).
                    sim.cut.push(to);
                    sim.deliver(from, to, packet);
                    sim.cut.pop();
                    continue;
                }
                if weather.doubling && rng.u32(..10) == 0 {
                    sim.net.push_back((from, to, packet.clone()));
                }
                sim.deliver(from, to, packet);
            }
        }
        40..55 => sim.tick(id),
        55..75 => {
            sim.write(id);
            if !weather.slow_disks || rng.u32(..3) == 0 {
                sim.sync(id);
            }
        }
        75..87 => {
            sim.apply(id);
        }
        87..94 => {
            *proposed += 1;
            sim.propose(id, &format!("{proposed}"));
        }
        94..96 => sim.snapshot(id),
        96..98 if weather.crashes => {
            let kept = rng.usize(..4);
            sim.crash(id, kept);
        }
        98 if weather.changes => change(sim, rng, id),
        _ => match rng.u32(..4) {
            0 if weather.loss => sim.cut = vec![id],
            _ => sim.cut.clear(),
        },
    }
}

/// Adds a learner that never comes, or takes it away; any refusal is fine.
fn change(sim: &mut Sim, rng: &mut fastrand::Rng, at: u64) {
    let id = 100 + rng.u64(..20);
    let change = if sim.node(at).core.cluster().member(id).is_some() {
        Change::Remove(id)
    } else {
        Change::AddLearner(member(id))
    };
    sim.change(at, ChangeEntry::new(change));
}

/// The network works from now on: somebody must lead, and everybody come to the same state.
fn heal(sim: &mut Sim) {
    sim.cut.clear();
    for _ in 0..400 {
        sim.settle();
        let ids: Vec<u64> = sim.nodes.keys().copied().collect();
        for id in &ids {
            sim.tick(*id);
        }
        sim.settle();
        let leads = sim.nodes.values().any(|node| node.core.vitals().role == Role::Leader);
        let first = &sim.nodes[&ids[0]];
        let applied = first.core.applied();
        if leads
            && first.core.vitals().commit == applied
            && applied >= sim.history.keys().next_back().copied().unwrap_or(0)
            && sim
                .nodes
                .values()
                .all(|node| node.core.applied() == applied && node.lines == first.lines)
        {
            return;
        }
    }
    let state: Vec<_> = sim.nodes.values().map(|node| node.core.vitals()).collect();
    panic!("it does not heal: {state:?}");
}

#[test]
fn no_schedule_loses_or_doubles_what_was_committed() {
    for seed in 0..SEEDS {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            panic!("seed {seed}: {}", message.unwrap_or_default());
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let weather = Weather {
            loss: true,
            doubling: true,
            reordering: true,
            crashes: true,
            slow_disks: true,
            changes: true,
        };
        let mut sim = Sim::new(3, seed);
        let mut proposed = 0;
        for _ in 0..STEPS {
            step(&mut sim, &mut rng, &weather, &mut proposed);
        }
        let vitals: Vec<_> = sim.nodes.values().map(|node| node.core.vitals()).collect();
        (vitals, sim.history)
    };
    assert_eq!(trace(3), trace(3));
}
