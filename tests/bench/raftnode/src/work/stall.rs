//! A leader whose disk stands still.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oarlock_bench_harness::Result;
use oarlock_bench_harness::data::{Noise, Scratch};
use oarlock_bench_harness::report::{Bound, Row, Unit, digits};
use oarlock_bench_harness::turns::summary;
use oarlock_bench_harness::work::Work;
use oarlock_raftnode::{Config, Role};

use super::LEN;
use crate::nodes::{Nodes, without_snapshots};

const STALL: Duration = Duration::from_secs(5);

pub(super) const STALLED: Work = Work {
    name: "stall",
    title: "A leader whose disk stands still for 5 s",
    notes: "Three members over TCP, the defaults (heartbeats every 100 ms, an election timeout of 1 s), a caller at each \
            member that proposes again as soon as it is answered. Times are counted from the first sync that does not \
            return. Writes elsewhere are those answered by the two other members.",
    run: |setting, report| {
        let mut seen: Vec<Seen> = Vec::new();
        for round in 0..setting.args.scaled(5).max(1) {
            let scratch = Scratch::new(setting.dir, &round.to_string())?;
            seen.push(one(scratch.path())?);
        }
        let timeout = Config::new().election_timeout().as_nanos() as f64;
        let mut row = Row::new(STALLED.name, "time until", Unit::Milliseconds);
        row.cell("an election timeout is over", summary(&[timeout]));
        let of = |time: fn(&Seen) -> Duration| -> Vec<f64> {
            seen.iter().map(|seen| time(seen).as_nanos() as f64).collect()
        };
        let (reported, handed_over) = (of(|seen| seen.reported), of(|seen| seen.handed_over));
        let (writes, gap) = (of(|seen| seen.writes_go_on), of(|seen| seen.longest_gap));
        row.cell("the stall is reported", summary(&reported));
        row.cell("another member leads", summary(&handed_over));
        row.cell("writes elsewhere are answered", summary(&writes));
        let most = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
        let over = |times: &[f64]| most(times) / timeout;
        row.check("reported, election timeouts", over(&reported), Bound::AtMost(2.0));
        row.check("handed over, election timeouts", over(&handed_over), Bound::AtMost(2.0));
        let late: u64 = seen.iter().map(|seen| seen.late).sum();
        row.check("late heartbeats", late as f64, Bound::AtMost(0.0));
        let least = seen.iter().map(|seen| seen.written).min().unwrap_or(0);
        row.check("writes elsewhere while it stands still", least as f64, Bound::AtLeast(100.0));
        row.note(format!(
            "the longest time between two heartbeats of the leader was {} ms; writes elsewhere while its disk stood \
             still: {least} in the round with the fewest",
            digits(most(&gap) / 1e6),
        ));
        report.rows.push(row);
        Ok(())
    },
};

/// What one round came to.
#[derive(Debug)]
struct Seen {
    reported: Duration,
    handed_over: Duration,
    writes_go_on: Duration,
    longest_gap: Duration,
    late: u64,
    written: usize,
}

fn one(dir: &std::path::Path) -> Result<Seen> {
    let noise = Noise::new();
    let all = Nodes::start(&without_snapshots(), dir, 3)?;
    let leader = all.leader()?;
    let (stop, answered) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let call = |place: usize| {
        while !stop.load(Ordering::Relaxed) {
            // Refusals are expected: who was asked may have lost its leader.
            let answer = all.nodes[place].propose(noise.payload(0, LEN)).wait();
            if answer.is_ok() && place != leader {
                answered
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push(Instant::now());
            }
        }
    };
    let call = &call;
    std::thread::scope(|scope| {
        (0..3).for_each(|place| drop(scope.spawn(move || call(place))));
        let seen = watch(&all, leader);
        stop.store(true, Ordering::Relaxed);
        seen
    })
    .map(|(met, mut seen)| {
        let answered = answered.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let during = |at: &&Instant| **at > met && **at < met + STALL;
        seen.written = answered.iter().filter(during).count();
        let after = answered.iter().filter(|at| **at > met + seen.handed_over);
        seen.writes_go_on = after.min().map_or(Duration::MAX, |at| *at - met);
        seen
    })
}

fn watch(all: &Nodes, leader: usize) -> Result<(Instant, Seen)> {
    let node = &all.nodes[leader];
    std::thread::sleep(Duration::from_secs(1)); // writes are going on
    let late_before = node.stats().heartbeats_late;
    all.heartbeats[leader].begin();
    all.disks[leader].stand_still();
    let met = loop {
        match all.disks[leader].met() {
            Some(met) => break met,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let (mut reported, mut handed_over, mut gaps) = (None, None, Vec::new());
    while met.elapsed() < STALL {
        if reported.is_none() && node.stats().disk_stalls > 0 {
            reported = Some(met.elapsed());
        }
        let leads = |other: &&crate::nodes::Node| other.vitals().role == Role::Leader;
        let others = all.nodes.iter().filter(|other| other.id() != node.id());
        if handed_over.is_none() && others.clone().any(|other| leads(&other)) {
            handed_over = Some(met.elapsed());
            gaps = all.heartbeats[leader].gaps();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let late = node.stats().heartbeats_late - late_before;
    all.disks[leader].go_on();
    let seen = Seen {
        reported: reported.ok_or("the stall was not reported")?,
        handed_over: handed_over.ok_or("leadership was not handed over")?,
        longest_gap: gaps.into_iter().max().unwrap_or_default(),
        late,
        writes_go_on: Duration::MAX,
        written: 0,
    };
    Ok((met, seen))
}
