//! What leaving a segment costs the one who appends.

use super::{Noise, Work};
use crate::Error;
use crate::peers::{Batch, Log, Oarlock, settle_files};
use crate::report::{Bound, Row, Unit};
use crate::turns::{Turn, summary, take_turns, timed};

/// Batches: sixteen entries of 4 KiB.
const LEN: usize = 4 << 10;
const N: usize = 16;

pub(super) const ROLL: Work = Work {
    name: "roll",
    title: "Across a segment roll",
    notes: "Synced batches of 64 KiB into two logs in turn: one of 4 MiB segments, where every 63rd operation rolls, \
            and one that does not roll (the few operations that do are left out). Syncs added: those beyond one an \
            append, and segments that were not ready and had to be prepared by the caller, per roll.",
    run: |setting, report| {
        let noise = Noise::new();
        let mut still = Oarlock::create(&setting.dir.join("still"), 64 << 20)?.grown()?;
        still.settle()?;
        let mut still = still.maintained()?;
        let mut rolling = Oarlock::create(&setting.dir.join("rolling"), 4 << 20)?;
        rolling.settle()?;
        let mut rolling = rolling.maintained()?;
        settle_files(setting.dir)?;
        let before = rolling.stats();
        let (mut at, mut then) = (1, 1);
        let mut at_roll = Vec::new();
        let mut append = |log: &mut Oarlock, first: &mut u64| {
            let payloads = noise.payloads(*first, LEN, N);
            log.stage(&Batch { first: *first, payloads: &payloads });
            *first += N as u64;
            let rolls = log.rolls();
            let took = timed(|| log.commit(true))?;
            Ok::<_, crate::Error>((took, log.rolls() > rolls))
        };
        let append = std::cell::RefCell::new(&mut append);
        let mut contenders: Vec<Turn<'_, Error>> = vec![
            Box::new(|samples| {
                let (took, rolled) = (append.borrow_mut())(&mut still, &mut at)?;
                if !rolled {
                    samples.push(took);
                }
                Ok(())
            }),
            Box::new(|samples| {
                let (took, rolled) = (append.borrow_mut())(&mut rolling, &mut then)?;
                samples.push(took);
                if rolled {
                    at_roll.push(took);
                }
                Ok(())
            }),
        ];
        let samples = take_turns(&mut contenders, setting.args.budget(8000))?;
        drop(contenders);

        let mut row = Row::new(ROLL.name, "64 KiB batches", Unit::Microseconds);
        row.cell("oarlock-wal, no roll", summary(&samples[0]));
        row.cell("oarlock-wal, 4 MiB segments", summary(&samples[1]));
        row.cell("of these, those that roll", summary(&at_roll));
        let [still, all] = [&samples[0], &samples[1]].map(|samples| summary(samples));
        row.check("p99 over that without rolls", all.p99 / still.p99, Bound::AtMost(1.5));
        let after = rolling.stats();
        let rolls = after.rolls - before.rolls;
        let foreground = after.foreground_rolls - before.foreground_rolls;
        row.note(format!("{rolls} rolls, {foreground} of them into a segment that was not ready"));
        let extra = (after.syncs - before.syncs) - (after.appends - before.appends);
        let extra = extra + foreground;
        row.check("syncs added by a roll", extra as f64 / rolls as f64, Bound::AtMost(0.0));
        report.rows.push(row);
        Ok(())
    },
};
