//! Any sequence of operations, kills and power cuts, beside a model.

use std::collections::BTreeMap;

use oarlock_wal::testing::{SimDisk, Unsynced};
use oarlock_wal::{Batch, Entry, SnapshotMark, Wal};

use super::bytes::Bytes;
use super::open::options;

const DIR: &str = "/wal";

#[derive(Clone, Debug, Default)]
struct Model {
    /// Term and length of each entry.
    entries: BTreeMap<u64, (u64, usize)>,
    last: u64,
    /// Index and term of the newest mark.
    mark: (u64, u64),
}

impl Model {
    fn append(&mut self, first: u64, count: u64, term: u64, len: usize) -> Vec<Entry> {
        let indexes = first..first + count;
        self.entries.split_off(&first);
        self.entries.extend(indexes.clone().map(|index| (index, (term, len))));
        self.last = first + count - 1;
        indexes.map(|index| Entry::new(index, term, 0, vec![(index + term) as u8; len])).collect()
    }

    /// Whether the log says this. How much of what a mark covers is still there is its own affair.
    fn is(&self, log: &Wal) -> bool {
        let (first, last) = (log.first_index(), log.last_index());
        let mark = log.snapshot().map_or((0, 0), |mark| (mark.index, mark.term));
        if (last, mark) != (self.last, self.mark) || first > self.mark.0 + 1 {
            return false;
        }
        let Ok(read) = log.entries(first..last + 1, u64::MAX) else { return false };
        let whole = |e: &Entry| e.data.iter().all(|b| *b == (e.index + e.term) as u8);
        let said = read.iter().map(|e| (e.index, (e.term, e.data.len())));
        let held = self.entries.range(first..).map(|(index, held)| (*index, *held));
        said.eq(held) && read.iter().all(whole)
    }
}

/// Two bytes or three for each operation.
pub fn operations(data: &[u8]) {
    let mut data = Bytes(data);
    let mut disk = SimDisk::new();
    let mut log = options(&disk).create(DIR, b"me").expect("creates");
    // The states since the last one that was promised, and the present one last.
    let mut since = vec![Model::default()];
    for term in 1..200 {
        if data.is_empty() {
            break;
        }
        let mut model = since.last().cloned().unwrap_or_default();
        let (what, size) = (data.byte(), u64::from(data.byte()));
        let mut promise = |model: Model| since = vec![model];
        match what % 13 {
            0..=2 => {
                let len = usize::from(data.byte()) * 16;
                let back = if what < 128 { 0 } else { size % 7 };
                let first = (model.last + 1 - back.min(model.last)).max(model.mark.0 + 1);
                let count = (1 + size % 9).min(19_000 / (len as u64 + 24)).max(1);
                let batch = model.append(first, count, term, len);
                let _ = log.append(&Batch::of(&batch)).expect("a valid batch");
                since.push(model);
            }
            3 => {
                log.sync().expect("syncs");
                promise(model);
            }
            4 => {
                let index = (model.last - (size % 9).min(model.last)).max(model.mark.0);
                let Some((held, _)) = model.entries.get(&index).copied() else { continue };
                model.mark = (index, held);
                let _ =
                    log.append(&Batch::compact(SnapshotMark::new(index, held, ""))).expect("valid");
                since.push(model);
            }
            5 => {
                let index = (model.last + size % 9).saturating_sub(4).max(model.mark.0);
                (model.mark, model.last) = ((index, term), index);
                model.entries.clear();
                let _ =
                    log.append(&Batch::install(SnapshotMark::new(index, term, ""))).expect("valid");
                since.push(model);
            }
            6 => {
                log.release((model.mark.0 + 1).saturating_sub(size % 9)).expect("covered");
                promise(model);
            }
            7 => drop(log.prepare().expect("prepares")),
            8 => drop(log.finish_segment().expect("finishes")),
            9 => drop(log.idle().expect("marks")),
            10 => {
                log.close().expect("closes");
                log = options(&disk).verify(size % 2 == 0).open(DIR).expect("opens");
                assert!(log.recovery().torn.is_none() && log.recovery().rewritten == 0);
                promise(model);
            }
            11 => {
                disk = disk.kill();
                log = options(&disk).verify(size % 2 == 0).open(DIR).expect("opens");
                promise(model);
            }
            _ => {
                let seed = size << 8 | u64::from(data.byte());
                disk = disk.reboot(Unsynced::Random(seed));
                log = options(&disk).open(DIR).expect("a crash is no damage");
                let found = since.iter().rfind(|state| state.is(&log)).cloned();
                since = vec![found.expect("lost or invented something")];
            }
        }
        assert!(since.last().is_some_and(|state| state.is(&log)), "not what was written");
    }
}
