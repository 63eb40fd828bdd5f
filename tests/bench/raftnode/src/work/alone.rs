//! One member on its disk, written inline, beside the disk itself and the log alone.

use oarlock_bench_harness::data::Noise;
use oarlock_bench_harness::limit::Written;
use oarlock_bench_harness::report::{Bound, Report, Row, Unit};
use oarlock_bench_harness::turns::{Turn, summary, take_turns, timed};
use oarlock_bench_harness::work::{Setting, Work};
use oarlock_bench_harness::{Error, Result};
use oarlock_wal::{Batch, Entry, Maintainer, Options};

use super::LEN;
use crate::nodes::{alone_on_disk, without_snapshots};
use crate::service::Caller;

const FLOOR: &str = "floor";
const LOG: &str = "oarlock-wal";
const LOG_AT_ONCE: &str = "oarlock-wal, one batch";
const OURS: &str = "oarlock-raftnode";

pub(super) const ONE: Work = Work {
    name: "latency",
    title: "One member on the log, synced, inline, one proposal of 128 B in flight",
    notes: "From the call to the answer. The floor is one write of the payload's bytes into written blocks, and one \
            fdatasync; oarlock-wal appends one entry and waits for it.",
    run: |setting, report| {
        let mut row = measure(setting, ONE.name, 1)?;
        let ratio = row.p50(OURS) / row.p50(FLOOR);
        row.check("p50 over the floor's", ratio, Bound::AtMost(1.3));
        report.rows.push(row);
        Ok(())
    },
};

pub(super) const MANY: Work = Work {
    name: "group",
    title: "One member on the log, synced, inline, 1,024 proposals of 128 B in flight",
    notes: "Time for a proposal. oarlock-wal appends 1,024 entries, each for itself, and waits for the last, so that one \
            sync makes all of them durable; or appends them as one batch. The floor is one write of as many bytes of \
            payload, and one fdatasync.",
    run: |setting: &Setting<'_>, report: &mut Report| {
        let mut row = measure(setting, MANY.name, 1024)?;
        let ratio = row.p50(OURS) / row.p50(LOG);
        row.check("time over the log's own", ratio, Bound::AtMost(1.5));
        report.rows.push(row);
        Ok(())
    },
};

fn measure(setting: &Setting<'_>, name: &'static str, in_flight: usize) -> Result<Row> {
    /// Groups of a turn.
    const GROUPS: usize = 8;
    let noise = Noise::new();
    let mut file = Written::create(&setting.dir.join(FLOOR), 64 << 20)?;
    let log = Options::new().create(setting.dir.join(LOG), b"bench")?;
    let _maintainer = Maintainer::spawn(&log)?;
    log.prepare()?;
    let node = alone_on_disk(without_snapshots(), &setting.dir.join(OURS))?;
    let caller = Caller { noise: &noise, len: LEN, in_flight };
    let bytes = &noise.bytes()[..LEN * in_flight];
    let entries = |n: usize| -> Vec<Entry> {
        let first = log.last_index() + 1;
        let entry = |index| Entry::new(index, 1, 0, noise.payload(index, LEN));
        (first..first + n as u64).map(entry).collect()
    };
    let mut contenders: Vec<Turn<'_, Error>> = vec![
        Box::new(|samples| {
            for _ in 0..GROUPS {
                samples.push(timed(|| file.append(bytes, true))? / in_flight as f64);
            }
            Ok(())
        }),
        Box::new(|samples| {
            for _ in 0..GROUPS {
                let entries = entries(in_flight);
                let took = timed(|| {
                    let (last, others) = entries.split_last().ok_or("no entries")?;
                    for entry in others {
                        let _ = log.append(&Batch::of(std::slice::from_ref(entry)))?; // the last one's covers it
                    }
                    Ok::<_, Error>(log.wait(log.append(&Batch::of(std::slice::from_ref(last)))?)?)
                })?;
                samples.push(took / in_flight as f64);
            }
            Ok(())
        }),
        Box::new(|samples| {
            for _ in 0..GROUPS {
                let entries = entries(in_flight);
                let took = timed(|| log.wait(log.append(&Batch::of(&entries))?))?;
                samples.push(took / in_flight as f64);
            }
            Ok(())
        }),
        Box::new(|samples| {
            if in_flight == 1 {
                for _ in 0..GROUPS {
                    samples.push(caller.run(&node, 1)?);
                }
            } else {
                samples.push(caller.run(&node, GROUPS * in_flight)?);
            }
            Ok(())
        }),
    ];
    let samples = take_turns(&mut contenders, setting.args.budget(2000))?;
    let mut row = Row::new(name, "128 B", Unit::Microseconds);
    for (name, samples) in [FLOOR, LOG, LOG_AT_ONCE, OURS].iter().zip(&samples) {
        if in_flight > 1 || *name != LOG_AT_ONCE {
            row.cell(*name, summary(samples));
        }
    }
    let stats = node.stats();
    let each = stats.applied as f64 / stats.syncs.max(1) as f64;
    row.note(format!("{OURS}: {each:.1} entries a sync"));
    Ok(row)
}
