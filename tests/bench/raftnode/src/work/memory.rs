//! What the threads, the waiters and the contracts cost, without a disk.

use std::collections::BTreeMap;
use std::fs;

use oarlock_bench_harness::data::Noise;
use oarlock_bench_harness::report::{Bound, Row, Unit, digits};
use oarlock_bench_harness::turns::{Turn, summary, take_turns, timed};
use oarlock_bench_harness::work::Work;
use oarlock_bench_harness::{Error, Result};
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
        let (mut used_by, mut turns) = (BTreeMap::new(), 0);
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
                let before = processor_time()?;
                samples.push(caller.run(&node, TURN)?);
                for (thread, after) in processor_time()? {
                    let used = after.saturating_sub(before.get(&thread).copied().unwrap_or(0));
                    *used_by.entry(thread).or_insert(0) += used;
                }
                turns += TURN as u64;
                Ok(())
            }),
        ];
        let samples = take_turns(&mut contenders, setting.args.budget(1000))?;
        drop(contenders);
        let mut row = Row::new(MEMORY.name, "128 B", Unit::Nanoseconds);
        for (name, samples) in [BARE, ONE_BY_ONE, OURS].iter().zip(&samples) {
            row.cell(*name, summary(samples));
        }
        let speed = row.p50(BARE) / row.p50(OURS);
        row.check("throughput over bare raft-rs's", speed, Bound::AtLeast(0.5));
        let each = |thread: &str| used_by.get(thread).copied().unwrap_or(0) / turns;
        row.note(format!(
            "processor time for a proposal: {} ns in the node's thread, {} ns where it is applied, {} ns at the caller; \
             {:.0} proposals a write",
            each("oarlock-node"),
            each("oarlock-apply"),
            each("oarlock-bench-r"),
            node.stats().applied as f64 / node.stats().writes as f64 * 2.0,
        ));
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

/// Nanoseconds that the threads of this process have run, by their names.
fn processor_time() -> Result<BTreeMap<String, u64>> {
    let mut used = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        let read = |what| fs::read_to_string(task.join(what)).unwrap_or_default(); // it may have ended
        let (name, ran) = (read("comm"), read("schedstat"));
        let ran: u64 = ran.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
        *used.entry(name.trim().to_owned()).or_insert(0) += ran;
    }
    Ok(used)
}
