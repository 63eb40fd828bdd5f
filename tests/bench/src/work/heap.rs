//! Memory that entries take while they are in the log.

use std::process::Command;

use super::{Noise, Work};
use crate::args::Args;
use crate::peers::{Batch, Log, Oarlock, Who};
use crate::report::{Bound, Row, Unit};
use crate::turns::summary;
use crate::{Result, machine};

const LEN: usize = 16;
const BATCH: usize = 256;
const ENTRIES: usize = 2 << 20;
/// Small enough that several are sealed, large enough that one holds half a million entries.
const SEGMENT: u64 = 16 << 20;

pub(super) const HEAP: Work = Work {
    name: "heap",
    title: "Heap per entry",
    notes: "Two million entries of 16 bytes in batches of 256, unsynced, each log in a process of its own: anonymous \
            memory it grew by, per entry. For oarlock-wal also what the index itself says it holds: at its worst for \
            the entries of the active segment, and by how much it grew from the first sealed segment to the last.",
    run: |setting, report| {
        let mut row = Row::new(HEAP.name, "16 B x256", Unit::Bytes);
        let logs = Who::ALL.iter().filter(|who| who.appends_unsynced() && **who != Who::Floor);
        let mut ours = None;
        for who in logs {
            let output = Command::new(std::env::current_exe()?)
                .args(["--child", who.name(), "--dir"])
                .arg(setting.dir.join(who.name()))
                .output()?;
            let said = String::from_utf8_lossy(&output.stdout);
            let figures: Vec<f64> = said.split_whitespace().map_while(|w| w.parse().ok()).collect();
            let [grown, rest @ ..] = &figures[..] else {
                return Err(String::from_utf8_lossy(&output.stderr).into());
            };
            row.cell(who.name(), summary(&[*grown]));
            if let [active, sealed] = rest {
                ours = Some((*active, *sealed));
            }
        }
        let (active, sealed) = ours.ok_or("no word from the index")?;
        row.check("index, an entry of the active segment", active, Bound::AtMost(4.5));
        row.check("index, an entry of a sealed segment", sealed, Bound::AtMost(0.0));
        report.rows.push(row);
        Ok(())
    },
};

/// The process of one log: prints bytes per entry.
pub(crate) fn child(args: &Args) -> Result<()> {
    let who = args.child.as_deref().and_then(Who::named).ok_or("nobody of that name")?;
    let dir = &*args.dir;
    let mut log: Box<dyn Log> = match who {
        Who::Oarlock => Box::new(Oarlock::create(dir, SEGMENT)?),
        _ => who.create_to_read(dir)?,
    };
    let noise = Noise::new();
    let append = |log: &mut dyn Log, first: u64| -> Result<()> {
        let payloads = noise.payloads(first, LEN, BATCH);
        log.stage(&Batch { first, payloads: &payloads });
        log.commit(false)
    };
    append(&mut *log, 1)?;
    let before = machine::anonymous()?;
    // What the index held, and how many entries there were, when the active segment was begun.
    let (mut base, mut from, mut worst) = (0, 1, 0.0_f64);
    // The same when the second segment was begun, and now.
    let mut sealed: Option<[(u64, u64); 2]> = None;
    let mut rolls = log.rolls();
    for first in (1 + BATCH as u64..=ENTRIES as u64).step_by(BATCH) {
        let held = log.index_bytes();
        append(&mut *log, first)?;
        if log.rolls() > rolls {
            (rolls, base, from) = (log.rolls(), held.unwrap_or(0), first);
            log.settle()?; // as its maintainer would
            base = base.min(log.index_bytes().unwrap_or(0));
            sealed = Some([sealed.map_or((first, base), |[begun, _]| begun), (first, base)]);
        } else if let Some(now) = log.index_bytes()
            && first - from > 64 << 10
        {
            let there = first + BATCH as u64 - from;
            worst = worst.max(now.saturating_sub(base) as f64 / there as f64);
        }
    }
    let grown = machine::anonymous()?.saturating_sub(before);
    print!("{} ", grown as f64 / ENTRIES as f64);
    if log.index_bytes().is_some() {
        let [(begun, held), (now, holds)] = sealed.ok_or("no segment was sealed")?;
        print!("{worst} {}", holds.saturating_sub(held) as f64 / (now - begun).max(1) as f64);
    }
    println!();
    Ok(())
}
