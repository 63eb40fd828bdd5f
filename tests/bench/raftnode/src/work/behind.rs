//! A follower that is away, and a log that goes on.

use oarlock_bench_harness::report::{Bound, Row, Unit};
use oarlock_bench_harness::turns::summary;
use oarlock_bench_harness::work::Work;

use super::counted;

pub(super) const BEHIND: Work = Work {
    name: "behind",
    title: "A follower a million entries behind",
    notes: "Three members in a process of their own, one of them cut off; a million entries of 128 B, no snapshot taken, \
            so that the log holds all that the follower misses. What the heap grew by, as the allocator counts, and the \
            process's anonymous memory, beside the cache budget (64 MiB, the default) of both members that go on.",
    run: |setting, report| {
        let figures = counted("behind", setting.dir, setting.args.quick)?;
        let [heap, anonymous, budget] = figures[..] else {
            return Err("no word of memory".into());
        };
        let mut row = Row::new(BEHIND.name, "128 B", Unit::Mebibytes);
        row.cell("cache budgets", summary(&[budget]));
        row.cell("heap", summary(&[heap]));
        row.cell("anonymous memory", summary(&[anonymous]));
        row.check("heap grown, over the budgets", heap / budget, Bound::AtMost(1.0));
        report.rows.push(row);
        Ok(())
    },
};
