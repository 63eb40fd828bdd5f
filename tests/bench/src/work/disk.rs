//! Space on disk.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

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

/// Bytes of segments up to the last that is not zero, and how many segments hold frames.
fn used(dir: &Path) -> Result<(usize, usize)> {
    let (mut sum, mut segments) = (0, 0);
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "wal") {
            continue;
        }
        let file = fs::File::open(&path)?;
        let mut end = file.metadata()?.len() as usize;
        let mut piece = vec![0; 64 << 10];
        let used = loop {
            let start = end.saturating_sub(piece.len());
            piece.truncate(end - start);
            file.read_exact_at(&mut piece, start as u64)?;
            match piece.iter().rposition(|byte| *byte != 0) {
                Some(at) => break start + at + 1,
                None if start == 0 => break 0,
                None => end = start,
            }
        };
        // Headers and mark slots alone: prepared, or empty.
        if used > 12 << 10 {
            sum += used;
            segments += 1;
        }
    }
    Ok((sum, segments))
}
