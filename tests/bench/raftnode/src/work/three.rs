//! Three members, each with files and sockets of its own.

use oarlock_bench_harness::Error;
use oarlock_bench_harness::data::Noise;
use oarlock_bench_harness::report::{Bound, Row, Unit};
use oarlock_bench_harness::turns::{Turn, summary, take_turns};
use oarlock_bench_harness::work::Work;

use super::LEN;
use crate::looped::LoopedNodes;
use crate::nodes::{Nodes, without_snapshots};
use crate::service::{Caller, Service};

pub(super) const LOOP: &str = "synchronous loop";
pub(super) const OURS: &str = "oarlock-raftnode";

pub(super) const THREE: Work = Work {
    name: "three",
    title: "Three members over TCP on the loopback, synced, proposals of 128 B to the leader",
    notes: "Time for a proposal; all members, their disk and their caller are in one process. The synchronous loop is one \
            thread a member, which takes what has arrived, asks raft-rs, writes and syncs, sends, applies and goes on: the \
            same transport, the same log, the same batches, and less to do (no snapshots, no changes of members, no \
            window of applied ids). Neither takes snapshots here.",
    run: |setting, report| {
        let noise = Noise::new();
        let nodes = Nodes::start(&without_snapshots(), &setting.dir.join("nodes"), 3)?;
        let loops = LoopedNodes::start(&setting.dir.join("loops"), 3)?;
        for in_flight in [1, 64, 1024] {
            let caller = Caller { noise: &noise, len: LEN, in_flight };
            let (our_leader, their_leader) = (nodes.leader()?, loops.leader()?);
            let mut contenders: [Turn<'_, Error>; 2] = [
                Box::new(|samples| turn(&caller, &loops.nodes[their_leader], samples)),
                Box::new(|samples| turn(&caller, &nodes.nodes[our_leader], samples)),
            ];
            let samples = take_turns(&mut contenders, setting.args.longer(4000))?;
            let mut row =
                Row::new(THREE.name, format!("{in_flight} in flight"), Unit::Microseconds);
            row.cell(LOOP, summary(&samples[0]));
            row.cell(OURS, summary(&samples[1]));
            let speed = row.p50(LOOP) / row.p50(OURS);
            let least = if in_flight == 1 { 1.0 } else { 0.95 };
            row.check("throughput over the loop's", speed, Bound::AtLeast(least));
            report.rows.push(row);
        }
        Ok(())
    },
};

fn turn<S: Service>(caller: &Caller<'_>, service: &S, samples: &mut Vec<f64>) -> Result<(), Error> {
    if caller.in_flight == 1 {
        for _ in 0..8 {
            samples.push(caller.run(service, 1)?);
        }
    } else {
        samples.push(caller.run(service, 8 * caller.in_flight)?);
    }
    Ok(())
}
