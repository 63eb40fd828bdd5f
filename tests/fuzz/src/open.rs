//! A directory of anything: refused or opened, never a panic, and what was opened once is opened again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use oarlock_wal::testing::{SimDisk, Unsynced};
use oarlock_wal::{Batch, Entry, HardState, Options, SnapshotMark, Vfs};

use super::bytes::Bytes;

const DIR: &str = "/wal";

pub(crate) fn options(disk: &SimDisk) -> Options {
    Options::new().segment_size(32 << 10).log_id(7).vfs(Arc::new(disk.clone()))
}

fn segment(number: u32) -> PathBuf {
    Path::new(DIR).join(format!("{number:08x}.wal"))
}

/// A closed log of three segments with footers and one that is prepared.
fn sample() -> SimDisk {
    static SAMPLE: OnceLock<SimDisk> = OnceLock::new();
    let make = || {
        let disk = SimDisk::new();
        let log = options(&disk).create(DIR, b"me").expect("creates");
        for first in (1..40).step_by(6) {
            let entries: Vec<_> =
                (first..first + 6).map(|i| Entry::new(i, 1, 0, vec![i as u8; 1500])).collect();
            let hard_state = Some(HardState { term: 1, vote: 1, commit: first });
            let _ = log.append(&Batch { hard_state, ..Batch::of(&entries) }).expect("appends");
        }
        let _ = log.append(&Batch::compact(SnapshotMark::new(5, 1, "conf"))).expect("appends");
        log.prepare().expect("prepares");
        log.close().expect("closes");
        disk.reboot(Unsynced::Kept)
    };
    SAMPLE.get_or_init(make).fork()
}

/// The first byte says whether what follows is the first segment, whole, or changes to a good log: segment, place,
/// length, bytes.
pub fn open(data: &[u8]) {
    let mut data = Bytes(data);
    if data.byte() % 2 == 0 {
        let disk = SimDisk::new();
        put(&disk, 1, data.0);
        look(&disk);
        return;
    }
    let disk = sample();
    while !data.is_empty() {
        let number = 1 + u32::from(data.byte() % 4);
        let at = usize::from(data.short()) % (32 << 10);
        let len = usize::from(data.byte());
        let bytes = data.take(len);
        disk.tamper(segment(number), |file| {
            let end = file.len().min(at + bytes.len());
            file[at..end].copy_from_slice(&bytes[..end - at]);
        });
    }
    look(&disk);
}

/// Makes segment `number` of these bytes, durably.
pub(crate) fn put(disk: &SimDisk, number: u32, bytes: &[u8]) {
    let dir = Path::new(DIR);
    disk.create_dir_all(dir).expect("no fault");
    let file = disk.create_new(&segment(number)).expect("a new disk");
    file.write_all_at(bytes, 0).expect("no fault");
    file.sync_all().expect("no fault");
    disk.sync_dir(dir).expect("no fault");
}

/// Looks at a log in every way there is.
pub(crate) fn look(disk: &SimDisk) {
    if let Ok(records) = options(disk).dump(DIR) {
        let lines =
            records.map(|record| record.map_or_else(|e| e.to_string(), |r| format!("{r:?}")));
        // Every record and every fault takes eight bytes at least.
        assert!(lines.count() < 4 * (32 << 10) / 8 + 16, "a dump without end");
    }
    if let Ok(log) = options(disk).open_read_only(DIR) {
        let range = log.first_index()..log.last_index().saturating_add(1);
        let _ = log.entries(range, u64::MAX);
    }
    for verify in [false, true] {
        let disk = disk.fork();
        let Ok(log) = options(&disk).verify(verify).open(DIR) else { continue };
        let said = (log.first_index(), log.last_index(), log.hard_state(), log.snapshot());
        let _ = log.entries(said.0..said.1.saturating_add(1), u64::MAX);
        let _ = (log.term(said.0), log.term(said.1), log.entry(said.1));
        let again = disk.after(Unsynced::Lost);
        let next =
            options(&again).verify(verify).open(DIR).expect("what was opened once is opened again");
        assert_eq!(
            (next.first_index(), next.last_index(), next.hard_state(), next.snapshot()),
            said
        );
    }
}
