//! Reading entries back, warm.

use std::hint::black_box;
use std::time::Instant;

use super::{Noise, Scratch, Setting, Work, fill, size, speed};
use crate::limit::Records;
use crate::peers::Who;
use crate::report::{Bound, Row, Unit};
use crate::turns::{Turn, summary, take_turns};
use crate::{Error, Result};

/// Payload in a log that is read.
const BYTES: usize = 64 << 20;
const BATCH: usize = 64;
const SPAN: usize = 256;

pub(super) const GET: Work = Work {
    name: "get",
    title: "Random read of an entry by its index, warm",
    notes: "Written in batches of 64. The floor is the checksum of a record at a random place of a map. redb does not \
            look at the payload, fjall only where a block is decoded; the others check it.",
    run: |setting, report| {
        for len in [128, 1 << 10, 8 << 10] {
            let mut row = measure(setting, GET.name, len, 1, 500)?;
            let beyond = row.p50(Who::Oarlock.name()) - row.p50(Who::Floor.name());
            row.check("ns beyond its checksum", beyond, Bound::AtMost(300.0));
            let speed = speed(&row, Who::RaftEngine);
            row.check("speed over raft-engine's", speed, Bound::AtLeast(15.0));
            report.rows.push(row);
        }
        Ok(())
    },
};

pub(super) const RANGE: Work = Work {
    name: "range",
    title: "Read of 256 entries in a row, warm, per entry",
    notes: "As above; the floor is the checksums of 256 records in a row. oarlock-wal shows them in place (`visit`).",
    run: |setting, report| {
        for len in [128, 1 << 10, 8 << 10] {
            let mut row = measure(setting, RANGE.name, len, SPAN, 16)?;
            if len == 1 << 10 {
                let speed = speed(&row, Who::Floor);
                row.check("speed over map and crc", speed, Bound::AtLeast(0.9));
            }
            report.rows.push(row);
        }
        Ok(())
    },
};

/// Reads `span` entries at `each` random places a turn; a sample is the mean of a turn per entry.
fn measure(
    setting: &Setting<'_>,
    work: &'static str,
    len: usize,
    span: usize,
    each: usize,
) -> Result<Row> {
    let noise = Noise::new();
    let scratch = Scratch::new(setting.dir, &len.to_string())?;
    let n = BYTES / len;
    let file = scratch.path().join("records");
    Records::create(&file, noise.bytes(), len, n)?;
    let records = Records::open(&file, len)?;
    let places = || (0..each).map(|_| fastrand::usize(..=n - span)).collect::<Vec<_>>();
    let mean = |begun: Instant| begun.elapsed().as_nanos() as f64 / (each * span) as f64;
    let mut contenders: Vec<Turn<'_, Error>> = vec![Box::new(|samples| {
        let places = places();
        let begun = Instant::now();
        for at in places {
            black_box(records.check_range(at, span));
        }
        samples.push(mean(begun));
        Ok(())
    })];
    // raft-engine tuned reads as it does at its defaults, less the decompression.
    let logs = || Who::ALL.iter().copied().filter(|who| !matches!(who, Who::Floor));
    for who in logs() {
        let mut log = who.create_to_read(&scratch.path().join(who.name()))?;
        fill(&mut *log, &noise, len, n, BATCH)?;
        contenders.push(Box::new(move |samples| {
            let places = places();
            let begun = Instant::now();
            for at in places {
                let first = at as u64 + 1;
                let read = if span == 1 {
                    log.get(first)?
                } else {
                    log.range(first..first + span as u64)?
                };
                if black_box(read) != len * span {
                    return Err(format!("{} gave {read} bytes", who.name()).into());
                }
            }
            samples.push(mean(begun));
            Ok(())
        }));
    }
    let samples = take_turns(&mut contenders, setting.args.budget(3000))?;
    let mut row = Row::new(work, size(len), Unit::Nanoseconds);
    for (who, samples) in std::iter::once(Who::Floor).chain(logs()).zip(&samples) {
        row.cell(who.name(), summary(samples));
    }
    Ok(row)
}
