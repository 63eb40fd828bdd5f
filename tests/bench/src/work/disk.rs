//! Space on disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oarlock_wal::Options;

use super::{Noise, Work, fill};
use crate::Result;
use crate::peers::Who;
use crate::report::{Bound, Row, Unit};
use crate::turns::summary;

const LEN: usize = 1 << 10;
const BATCH: usize = 16;
const ENTRIES: usize = 128 << 10;

pub(super) const SPACE: Work = Work {
    name: "space",
    title: "Space on disk, per entry",
    notes: "128 Ki entries of 1 KiB in batches of 16 (an eighth of it in a quick run), durable: blocks of the log's \
            files, prepared ones included, per entry. For oarlock-wal also what is used of them beyond the payload, \
            against what the format allows: 16 B an entry, 40 B a frame, 4 B of table an entry, 12 KiB a segment.",
    run: |setting, report| {
        let noise = Noise::new();
        let n = setting.args.scaled(ENTRIES);
        let mut row = Row::new(SPACE.name, "1 KiB x16", Unit::Bytes);
        for who in Who::ALL.iter().copied().filter(|who| *who != Who::Floor) {
            let dir = setting.dir.join(who.name());
            let mut log = who.create_to_read(&dir)?;
            fill(&mut *log, &noise, LEN, n, BATCH)?;
            row.cell(who.name(), summary(&[blocks(&dir)? as f64 / n as f64]));
            if who == Who::Oarlock {
                let (used, segments) = used(&dir.join("wal"))?;
                // A segment's checkpoint is a frame too.
                let allowed = 20 * n + 40 * (n / BATCH + segments) + (12 << 10) * segments;
                let beyond = used as f64 - (n * LEN) as f64;
                row.check("used beyond the payload", beyond / n as f64, {
                    Bound::AtMost(allowed as f64 / n as f64)
                });
            }
        }
        report.rows.push(row);
        Ok(())
    },
};

/// Bytes of the blocks that the files below `dir` take.
fn blocks(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { blocks(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}

/// Bytes that are used of the segments, headers and footers included, and how many segments hold frames.
fn used(dir: &Path) -> Result<(usize, usize)> {
    let log = Options::new().open_read_only(dir)?;
    let held = log.segments().iter().filter_map(|s| Some(s.end? + s.footer.unwrap_or(0)));
    Ok(held.fold((0, 0), |(sum, segments), used| (sum + used as usize, segments + 1)))
}
