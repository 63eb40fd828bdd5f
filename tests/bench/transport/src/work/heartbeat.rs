//! A heartbeat there and its answer back, with and without something large on its way.

use std::time::Instant;

use bytes::Bytes;
use oarlock_bench_harness::data::Noise;
use oarlock_bench_harness::report::{Bound, Row, Unit, digits};
use oarlock_bench_harness::turns::{Turn, summary, take_turns, timed};
use oarlock_bench_harness::work::Work;
use oarlock_bench_harness::{Error, Result};

use crate::pair::Pair;
use crate::plain::RoundTrip;

const FLOOR: &str = "floor";
const OURS: &str = "oarlock-transport";

pub(super) const HEARTBEAT: Work = Work {
    name: "heartbeat",
    title: "A message of 64 B there and one back",
    notes: "From `send` to the arrival of the answer. The floor is a plain TCP connection that echoes, while the same \
            load is on. An idle machine wakes its threads more slowly than a busy one. Under load the machine's cores are what is contended for; what a lane would add by waiting for \
            another lane would show as milliseconds.",
    run: |setting, report| {
        let noise = Noise::new();
        let (head, bulk): (Bytes, Bytes) = (noise.payload(1, 64), noise.payload(2, 1 << 20));
        let pair = Pair::new(true)?;
        let mut floor = RoundTrip::new()?;
        let mut measure = |case: &str| {
            let mut row = Row::new(HEARTBEAT.name, case, Unit::Microseconds);
            let mut contenders: [Turn<'_, Error>; 2] = [
                Box::new(|samples| take(samples, || floor.run(&head))),
                Box::new(|samples| take(samples, || pair.round_trip(&head))),
            ];
            let samples = take_turns(&mut contenders, setting.args.budget(400))?;
            for (name, samples) in [FLOOR, OURS].iter().zip(&samples) {
                row.cell(*name, summary(samples));
            }
            let ratio = row.p50(OURS) / row.p50(FLOOR);
            Ok::<_, Error>((row, ratio))
        };

        let (mut row, ratio) = measure("nothing else")?;
        row.check("p50 over the floor's", ratio, Bound::AtMost(3.0));
        report.rows.push(row);

        let (begun, snapshot) = (Instant::now(), pair.snapshot());
        let (mut row, ratio) = measure("while a snapshot streams")?;
        let rate = snapshot.bytes() as f64 / begun.elapsed().as_nanos() as f64;
        snapshot.end();
        row.note(format!("the snapshot went at {} GB/s", digits(rate)));
        row.check("p50 over the floor's", ratio, Bound::AtMost(3.0));
        report.rows.push(row);

        let stop = std::sync::atomic::AtomicBool::new(false);
        let (mut row, ratio) = std::thread::scope(|scope| {
            let appending = scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    pair.appends(&bulk, 64, 16)?;
                }
                Ok::<_, Error>(())
            });
            let measured = measure("while appends of 1 MiB stream");
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            appending.join().map_err(|_| "the appends panicked")??;
            measured
        })?;
        row.check("p50 over the floor's", ratio, Bound::AtMost(3.0));
        report.rows.push(row);
        Ok(())
    },
};

/// A few samples, each of one round trip.
fn take(samples: &mut Vec<f64>, mut round_trip: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..50 {
        samples.push(timed(&mut round_trip)?);
    }
    Ok(())
}
