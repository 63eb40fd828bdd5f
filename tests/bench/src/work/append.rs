//! One caller appends, synced and unsynced.

use super::{Noise, Setting, Work, size, speed};
use crate::peers::{Batch, Who};
use crate::report::{Bound, Row, Unit, digits};
use crate::turns::{Turn, summary, take_turns, timed};
use crate::{Error, Result};

/// The most that a contender writes in a row, so that what was prepared for it lasts.
const VOLUME: usize = 640 << 20;

pub(super) const SMALL: Work = Work {
    name: "append-small",
    title: "Synced append, batches up to 16 KiB",
    notes: "Timed: encode, write, fdatasync, index. The floor writes the same payload bytes into written blocks.",
    run: |setting, report| {
        for (len, n) in [(128, 1), (128, 16), (1 << 10, 1), (1 << 10, 16), (8 << 10, 1)] {
            let mut row = synced(setting, SMALL.name, len, n)?;
            against_floor(&mut row, 1.05);
            for other in [Who::OkayWal, Who::RaftEngineTuned] {
                at_least(&mut row, other, 0.98);
            }
            report.rows.push(row);
        }
        Ok(())
    },
};

pub(super) const MEDIUM: Work = Work {
    name: "append-medium",
    title: "Synced append, batches of 32 KiB to 256 KiB",
    notes: "As above.",
    run: |setting, report| {
        for (len, n) in [(128, 256), (1 << 10, 64), (8 << 10, 16), (1 << 10, 256)] {
            let mut row = synced(setting, MEDIUM.name, len, n)?;
            against_floor(&mut row, 1.15);
            at_least(&mut row, Who::RaftEngine, 2.5);
            at_least(&mut row, Who::RaftEngineTuned, 1.15);
            report.rows.push(row);
        }
        Ok(())
    },
};

pub(super) const LARGE: Work = Work {
    name: "append-large",
    title: "Synced append, batches of 2 MiB",
    notes: "As above. Every 32 batches fill a segment, so preparing the next ones runs beside.",
    run: |setting, report| {
        let mut row = synced(setting, LARGE.name, 8 << 10, 256)?;
        against_floor(&mut row, 1.20);
        report.rows.push(row);
        Ok(())
    },
};

pub(super) const CPU: Work = Work {
    name: "append-cpu",
    title: "Unsynced append, per entry",
    notes: "Timed: encode, write into the page cache, index; several operations in a row, per entry. okaywal's commit \
            always syncs, so it does not take part. raft-engine fills files ahead with writes of 16 MiB, and the \
            larger pieces of page cache that those leave are probably why it is slower here tuned than at its \
            defaults where appends are small.",
    run: |setting, report| {
        for len in [128, 1 << 10] {
            for n in [1, 16, 256] {
                let mut row = unsynced(setting, len, n)?;
                at_least(&mut row, Who::RaftEngineTuned, 1.4);
                at_least(&mut row, Who::RaftEngine, 3.5);
                report.rows.push(row);
            }
        }
        Ok(())
    },
};

fn against_floor(row: &mut Row, bound: f64) {
    let ratio = row.p50(Who::Oarlock.name()) / row.p50(Who::Floor.name());
    row.check("time over the floor's", ratio, Bound::AtMost(bound));
}

fn at_least(row: &mut Row, other: Who, bound: f64) {
    // Nobody is faster than the bytes alone.
    let limit = row.p50(other.name()) / row.p50(Who::Floor.name());
    if limit < bound {
        let limit = digits(limit);
        row.note(format!("the floor itself is {limit} times as fast as {}", other.name()));
    }
    let speed = speed(row, other);
    row.check(format!("speed over {}'s", other.name()), speed, Bound::AtLeast(bound));
}

fn synced(setting: &Setting<'_>, work: &'static str, len: usize, n: usize) -> Result<Row> {
    let case = format!("{} x{n}", size(len));
    let rounds = (VOLUME / (2 * len * n)).min(4000);
    measure(
        setting,
        Row::new(work, case, Unit::Microseconds),
        Who::ALL,
        (len, n),
        (2, rounds),
        true,
    )
}

fn unsynced(setting: &Setting<'_>, len: usize, n: usize) -> Result<Row> {
    let case = format!("{} x{n}", size(len));
    let each = (512 / n).clamp(4, 64);
    let rounds = (VOLUME / 2 / (each * len * n)).min(4000);
    let who: Vec<Who> = Who::ALL.iter().copied().filter(|who| who.appends_unsynced()).collect();
    let row = Row::new(CPU.name, case, Unit::Nanoseconds);
    measure(setting, row, &who, (len, n), (each, rounds), false)
}

/// Lets everybody append batches of `n` entries of `len` bytes, `each` a turn. Without sync a sample is the mean of a
/// turn per entry, and what was written goes to the disk between turns, now and then.
fn measure(
    setting: &Setting<'_>,
    mut row: Row,
    who: &[Who],
    (len, n): (usize, usize),
    (each, rounds): (usize, usize),
    sync: bool,
) -> Result<Row> {
    let noise = Noise::new();
    let mut contenders: Vec<Turn<'_, Error>> = Vec::new();
    let scratch = super::Scratch::new(setting.dir, &format!("{len}-{n}"))?;
    for who in who {
        let mut log = who.create(&scratch.path().join(who.name()), VOLUME as u64)?;
        let (noise, mut first, mut unsettled) = (&noise, 1, 0);
        contenders.push(Box::new(move |samples| {
            let mut turn = 0.0;
            for _ in 0..each {
                let payloads = noise.payloads(first, len, n);
                log.stage(&Batch { first, payloads: &payloads });
                first += n as u64;
                let took = timed(|| log.commit(sync))?;
                if sync {
                    samples.push(took);
                }
                turn += took;
            }
            if !sync {
                samples.push(turn / (each * n) as f64);
                unsettled += each * n * len;
                if unsettled >= 16 << 20 {
                    unsettled = 0;
                    log.settle()?;
                }
            }
            Ok(())
        }));
    }
    let samples = take_turns(&mut contenders, setting.args.budget(rounds))?;
    for (who, samples) in who.iter().zip(&samples) {
        row.cell(who.name(), summary(samples));
    }
    Ok(row)
}
