//! Three members, one of which has a slow disk.

use std::time::Duration;

use oarlock_bench_harness::data::Noise;
use oarlock_bench_harness::report::{Bound, Report, Row, Unit, digits};
use oarlock_bench_harness::turns::{Turn, summary, take_turns};
use oarlock_bench_harness::work::Work;
use oarlock_bench_harness::{Error, Result};

use super::LEN;
use super::three::{LOOP, OURS};
use crate::disk::Disk;
use crate::looped::LoopedNodes;
use crate::nodes::{Nodes, without_snapshots};
use crate::service::{Caller, Service};
use crate::watched::Heartbeats;

const DELAY: Duration = Duration::from_millis(100);
/// The default of both.
const INTERVAL: Duration = Duration::from_millis(100);
/// What a proposal to a slow leader takes at least, if the leader answers it.
const ONE_SYNC: &str = "one sync of the leader's disk";
/// What is later than this is late (O11).
const LATE: Duration = Duration::from_millis(200);

pub(super) const SLOW: Work = Work {
    name: "slow",
    title: "Three members over TCP, every fsync of one of them delayed by 100 ms",
    notes: "Time for a proposal of 128 B, and the time between two heartbeats of the leader, which are due every 100 ms and \
            late after 200 (the heartbeats of all cases before). Callers spread over the members have a third of those in \
            flight at each of them, and at least one; a follower forwards to the leader, and answers when it has applied the proposal \
            itself. A leader answers its own callers when its own disk holds what it applies, so with a slow disk those \
            wait for it in any design over raft-rs 0.7: how often, and with how many others, is what is compared. Callers at \
            the other members need not wait, unless the leader writes before it sends.",
    run: |setting, report| {
        let noise = Noise::new();
        let nodes = Nodes::start(&without_snapshots(), &setting.dir.join("nodes"), 3)?;
        let loops = LoopedNodes::start(&setting.dir.join("loops"), 3)?;
        let window = Duration::from_millis(if setting.args.quick { 400 } else { 1500 });
        let (mut our_gaps, mut their_gaps) = (Vec::new(), Vec::new());
        for (slow, to) in
            [(Who::Leader, To::Leader), (Who::Leader, To::All), (Who::Follower, To::Leader)]
        {
            for in_flight in [1, 64, 1024] {
                let ours = Side {
                    services: nodes.nodes.iter().collect(),
                    leader: nodes.leader()?,
                    disks: &nodes.disks,
                    heartbeats: &nodes.heartbeats,
                };
                let theirs = Side {
                    services: loops.nodes.iter().collect(),
                    leader: loops.leader()?,
                    disks: &loops.disks,
                    heartbeats: &loops.heartbeats,
                };
                let case = Case { slow, to, in_flight, window };
                let mut contenders: [Turn<'_, Error>; 2] = [
                    Box::new(|samples| theirs.turn(case, &noise, samples, &mut their_gaps)),
                    Box::new(|samples| ours.turn(case, &noise, samples, &mut our_gaps)),
                ];
                let samples = take_turns(&mut contenders, setting.args.longer(9))?;
                let case =
                    format!("slow {}, {in_flight} in flight, callers {}", slow.name(), to.name());
                let mut row = Row::new(SLOW.name, case, Unit::Microseconds);
                row.cell(LOOP, summary(&samples[0]));
                row.cell(OURS, summary(&samples[1]));
                let speed = row.p50(LOOP) / row.p50(OURS);
                let what = "throughput over the loop's";
                match (slow, to, in_flight) {
                    (Who::Leader, To::Leader, 1) => {
                        row.cell(ONE_SYNC, summary(&[DELAY.as_nanos() as f64]));
                        row.note(format!(
                            "{what}: {}, and bound to about that: the one proposal is answered when its leader's own disk \
                             holds it, in any design over raft-rs 0.7 (O3), and there is no other to share that sync with",
                            digits(speed)
                        ));
                    }
                    (Who::Leader, ..) => row.check(what, speed, Bound::AtLeast(1.5)),
                    (Who::Follower, ..) => row.check(what, speed, Bound::AtLeast(0.95)),
                }
                report.rows.push(row);
            }
        }
        heartbeats(report, &their_gaps, &our_gaps);
        Ok(())
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Leader,
    Follower,
}

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Leader,
    All,
}

impl To {
    const fn name(self) -> &'static str {
        match self {
            Self::Leader => "at the leader",
            Self::All => "spread over the members",
        }
    }
}

#[derive(Clone, Copy)]
struct Case {
    slow: Who,
    to: To,
    in_flight: usize,
    window: Duration,
}

/// One contender.
struct Side<'a, S> {
    services: Vec<&'a S>,
    leader: usize,
    disks: &'a [Disk],
    heartbeats: &'a [Heartbeats],
}

impl<S: Service + Sync> Side<'_, S> {
    fn turn(
        &self,
        Case { slow, to, in_flight, window }: Case,
        noise: &Noise,
        samples: &mut Vec<f64>,
        gaps: &mut Vec<f64>,
    ) -> Result<()> {
        let slow = match slow {
            Who::Leader => self.leader,
            Who::Follower => (self.leader + 1) % self.disks.len(),
        };
        let one = [self.services[self.leader]];
        let (services, in_flight) = match to {
            To::Leader => (&one[..], in_flight),
            To::All => (&self.services[..], in_flight.div_ceil(self.services.len())),
        };
        let caller = Caller { noise, len: LEN, in_flight };
        self.disks[slow].delay(DELAY);
        self.heartbeats[self.leader].begin();
        samples.push(caller.run_for(services, window)?);
        let seen = self.heartbeats[self.leader].gaps();
        gaps.extend(seen.iter().map(|gap| gap.as_nanos() as f64));
        self.disks[slow].delay(Duration::ZERO);
        Ok(())
    }
}

fn heartbeats(report: &mut Report, theirs: &[f64], ours: &[f64]) {
    let mut row = Row::new(SLOW.name, "time between heartbeats", Unit::Milliseconds);
    row.cell("due", summary(&[INTERVAL.as_nanos() as f64]));
    row.cell(LOOP, summary(theirs));
    row.cell(OURS, summary(ours));
    let late = |gaps: &[f64]| gaps.iter().filter(|gap| **gap > LATE.as_nanos() as f64).count();
    let longest = |gaps: &[f64]| gaps.iter().copied().fold(0.0, f64::max) / 1e6;
    row.check("late heartbeats", late(ours) as f64, Bound::AtMost(0.0));
    for (name, gaps) in [(LOOP, theirs), (OURS, ours)] {
        row.note(format!(
            "{name}: {} of {} heartbeats were late, the longest time between two was {} ms",
            late(gaps),
            gaps.len(),
            digits(longest(gaps)),
        ));
    }
    report.rows.push(row);
}
