//! A snapshot file of anything: set aside, or given out whole.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use oarlock_wal::snapshot::{Options, SnapshotStore};
use oarlock_wal::testing::{SimDisk, Unsynced};

use super::bytes::Bytes;

const DIR: &str = "/snap";
const FILE: &str = "/snap/0000000000000005-0000000000000002.snap";

fn store(disk: &SimDisk) -> SnapshotStore {
    Options::new().vfs(Arc::new(disk.clone())).open(DIR).expect("no fault")
}

/// More than one chunk.
fn content() -> Vec<u8> {
    (0..70_000_u32).map(|n| ((n * 7) >> 3) as u8).collect()
}

fn sample() -> SimDisk {
    static SAMPLE: OnceLock<SimDisk> = OnceLock::new();
    let make = || {
        let disk = SimDisk::new();
        let mut writer = store(&disk).create(5, 2).expect("begins");
        writer.write_all(&content()).expect("writes");
        writer.commit().expect("commits");
        disk.reboot(Unsynced::Kept)
    };
    SAMPLE.get_or_init(make).fork()
}

/// The first byte says whether what follows is the file, or changes to a good one: place, length, bytes; or a cut.
pub fn snapshot(data: &[u8]) {
    let mut data = Bytes(data);
    let disk = sample();
    let what = data.byte();
    disk.tamper(FILE, |file| match what % 3 {
        0 => *file = data.0.to_vec(),
        1 => file.truncate(usize::from(data.short()) << 1),
        _ => {
            while !data.is_empty() {
                let at = usize::from(data.short()) * 2 % file.len();
                let len = usize::from(data.byte());
                let bytes = data.take(len);
                let end = file.len().min(at + len);
                file[at..end].copy_from_slice(&bytes[..end - at]);
            }
        }
    });
    let file = disk.contents(FILE).expect("there");
    let whole = file == sample().contents(FILE).expect("there");
    let store = store(&disk);
    // Reading stops at the first damage, and gives nothing that was not there.
    if let Ok(mut reader) = store.open_file(5, 2) {
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes);
        assert!(bytes.len() <= file.len(), "more than the file holds");
        assert!(
            what % 3 == 0 || read.is_err() || bytes == content(),
            "something else was given out"
        );
    }
    let found = store.newest(|_, _| true).ok().flatten();
    assert!(!whole || found.is_some(), "a whole file was refused");
}
