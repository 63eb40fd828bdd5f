//! What the threads, the waiters and the contracts cost, without a disk.

use oarlock_bench_harness::Error;
use oarlock_bench_harness::data::Noise;
use oarlock_bench_harness::report::{Bound, Row, Unit, digits};
use oarlock_bench_harness::turns::{Turn, summary, take_turns, timed};
use oarlock_bench_harness::work::Work;
use oarlock_raftnode::Config;

use super::{LEN, counted};
use crate::bare::{Bare, Handed};
use crate::nodes::alone_in_memory;
use crate::service::Caller;

const IN_FLIGHT: usize = 1024;
/// Proposals of a turn.
const TURN: usize = 32 << 10;

const BARE: &str = "raft-rs, bare";
const ONE_BY_ONE: &str = "raft-rs, bare, one by one";
const OURS: &str = "oarlock-raftnode";

pub(super) const MEMORY: Work = Work {
    name: "memory",
    title: "One member, log in memory, 1,024 proposals of 128 B in flight",
    notes: "Time for a proposal. Bare raft-rs is driven in one thread as its documentation shows, over its MemStorage, \
            and answers nobody; what is due is proposed in one message, as oarlock-raftnode does it, or by `propose` one \
            by one. oarlock-raftnode is called from a thread of its own and answers each proposal; defaults throughout, \
            snapshots and compaction included.",
    run: |setting, report| {
        let noise = Noise::new();
        let caller = Caller { noise: &noise, len: LEN, in_flight: IN_FLIGHT };
        let (mut together, mut one_by_one) = (Bare::new()?, Bare::new()?);
        let node = alone_in_memory(Config::new())?;
        let run = (LEN, IN_FLIGHT, TURN);
        let mut contenders: [Turn<'_, Error>; 3] = [
            Box::new(|samples| {
                let took = timed(|| together.run(&noise, run, Handed::Together))?;
                samples.push(took / TURN as f64);
                Ok(())
            }),
            Box::new(|samples| {
                let took = timed(|| one_by_one.run(&noise, run, Handed::OneByOne))?;
                samples.push(took / TURN as f64);
                Ok(())
            }),
            Box::new(|samples| {
                samples.push(caller.run(&node, TURN)?);
                Ok(())
            }),
        ];
        let samples = take_turns(&mut contenders, setting.args.budget(1000))?;
        let mut row = Row::new(MEMORY.name, "128 B", Unit::Nanoseconds);
        for (name, samples) in [BARE, ONE_BY_ONE, OURS].iter().zip(&samples) {
            row.cell(*name, summary(samples));
        }
        let speed = row.p50(BARE) / row.p50(OURS);
        row.check("throughput over bare raft-rs's", speed, Bound::AtLeast(0.5));
        let figures = counted("allocations", setting.dir, setting.args.quick)?;
        let [ours, our_bytes, bare, bare_bytes] = figures[..] else {
            return Err("no word of allocations".into());
        };
        row.note(format!(
            "allocations for a proposal, all threads and the caller included: {} ({} B) in {OURS}, {} ({} B) in {BARE}",
            digits(ours),
            digits(our_bytes),
            digits(bare),
            digits(bare_bytes),
        ));
        report.rows.push(row);
        Ok(())
    },
};
