//! One way, as much as goes.

use bytes::Bytes;
use oarlock_bench_harness::data::Noise;
use oarlock_bench_harness::report::{Bound, Row, Unit, digits};
use oarlock_bench_harness::turns::{Turn, summary, take_turns, timed};
use oarlock_bench_harness::work::Work;
use oarlock_bench_harness::{Error, Result};

use crate::pair::Pair;
use crate::plain::OneWay;

const EACH: &str = "floor, a write each";
const TOGETHER: &str = "floor, 64 a write";
const FLOOR: &str = "floor";
const OURS: &str = "oarlock-transport";

pub(super) const MESSAGES: Work = Work {
    name: "messages",
    title: "Messages of 128 B, one way, 2,048 on their way at most",
    notes: "Time for a message, from the first write to the arrival of the last. One thread sends envelopes one by one; \
            the lane's thread writes what waits together. The floors write 128 B at a time, and 64 of them.",
    run: |setting, report| {
        const LEN: usize = 128;
        let turn = setting.args.scaled(16 << 10);
        let noise = Noise::new();
        let head = noise.payload(1, LEN);
        let (mut each, mut together) = (OneWay::new()?, OneWay::new()?);
        let batch = noise.bytes()[..64 * LEN].to_vec();
        let pair = Pair::new(false)?;
        let mut row = Row::new(MESSAGES.name, "128 B", Unit::Nanoseconds);
        let mut contenders: [Turn<'_, Error>; 3] = [
            Box::new(|samples| take(samples, turn, || together.run(&batch, turn / 64))),
            Box::new(|samples| take(samples, turn, || each.run(&head, turn))),
            Box::new(|samples| take(samples, turn, || pair.messages(&head, turn, 2048))),
        ];
        let samples = take_turns(&mut contenders, setting.args.budget(1000))?;
        for (name, samples) in [TOGETHER, EACH, OURS].iter().zip(&samples) {
            row.cell(*name, summary(samples));
        }
        let ratio = row.p50(OURS) / row.p50(EACH);
        row.check("time over a write each", ratio, Bound::AtMost(1.0));
        row.note(format!("{OURS}: {} million messages a second", digits(1e3 / row.p50(OURS))));
        report.rows.push(row);
        Ok(())
    },
};

pub(super) const APPENDS: Work = Work {
    name: "appends",
    title: "Appends of 1 MiB, one way, 16 on their way at most",
    notes: "Time for an append, from the first write to the arrival of the last. The floor writes as many bytes from one \
            buffer, and reads 64 KiB at a time into another, again and again; oarlock-transport computes a checksum on both sides and gives \
            each append memory of its own. On two cores the ratio moves between 0.8 and 1.5 from run to run, with where \
            the threads happen to run: read it as: about the same.",
    run: |setting, report| {
        const LEN: usize = 1 << 20;
        let turn = setting.args.scaled(256);
        let noise = Noise::new();
        let payload: Bytes = noise.payload(1, LEN);
        let mut floor = OneWay::new()?;
        let pair = Pair::new(false)?;
        let mut row = Row::new(APPENDS.name, "1 MiB", Unit::Microseconds);
        let mut contenders: [Turn<'_, Error>; 2] = [
            Box::new(|samples| take(samples, turn, || floor.run(&payload, turn))),
            Box::new(|samples| take(samples, turn, || pair.appends(&payload, turn, 16))),
        ];
        let samples = take_turns(&mut contenders, setting.args.budget(1000))?;
        for (name, samples) in [FLOOR, OURS].iter().zip(&samples) {
            row.cell(*name, summary(samples));
            let rate = LEN as f64 / row.p50(name);
            row.note(format!("{name}: {} GB/s", digits(rate)));
        }
        let ratio = row.p50(OURS) / row.p50(FLOOR);
        row.check("time over the floor's", ratio, Bound::AtMost(2.0));
        report.rows.push(row);
        Ok(())
    },
};

/// One sample: what one of `turn` took.
fn take(samples: &mut Vec<f64>, turn: usize, run: impl FnOnce() -> Result<()>) -> Result<()> {
    samples.push(timed(run)? / turn as f64);
    Ok(())
}
