//! The format is what it was: files of released versions are read, and the same operations write the same bytes.
//!
//! `OARLOCK_BLESS=1` writes the golden file anew. Only a new format version may do that.

use std::fmt::Write;

use oarlock_wal::testing::SimDisk;
use oarlock_wal::{Batch, Entry, HardState, SnapshotMark, Vfs, Wal};

use crate::util::{DIR, all, append, large, options, reopen, run, segment};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.txt");

/// Rows of sixteen bytes; rows like the one before are left out, and marked with a star.
fn hex_dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut before: Option<&[u8]> = None;
    let mut starred = false;
    for (number, row) in bytes.chunks(16).enumerate() {
        if before == Some(row) {
            if !starred {
                text.push_str("*\n");
            }
            starred = true;
            continue;
        }
        (before, starred) = (Some(row), false);
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{:08x}  {}", number * 16, hex.join(" ")).expect("a string takes it");
    }
    writeln!(text, "{:08x}", bytes.len()).expect("a string takes it");
    text
}

fn parse_hex_dump(text: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for line in text.lines().filter(|line| *line != "*") {
        let (offset, hex) = line.split_once("  ").unwrap_or((line, ""));
        let offset = usize::from_str_radix(offset, 16).expect("an offset");
        let row = bytes[bytes.len().saturating_sub(16)..].to_vec();
        while bytes.len() < offset {
            bytes.extend(&row);
        }
        bytes.extend(hex.split_whitespace().map(|b| u8::from_str_radix(b, 16).expect("a byte")));
    }
    bytes
}

/// A bit of everything, over three segments.
fn write() -> SimDisk {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"member 1").expect("creates");
    let state = |term, commit| Some(HardState { term, vote: 2, commit });
    append(&log, &Batch { hard_state: state(1, 2), ..Batch::of(&run(1..=3, 1)) });
    append(&log, &Batch::of(&large(4..=21, 1, 1000)));
    append(&log, &Batch { metadata: Some("renamed".into()), ..Batch::default() });
    append(&log, &Batch::of(&large(20..=24, 2, 1000)));
    append(&log, &Batch::compact(SnapshotMark::new(21, 2, "compact")));
    append(&log, &Batch::of(&large(25..=40, 2, 1000)));
    let install = Some(SnapshotMark::new(30, 3, "install"));
    append(&log, &Batch { install, hard_state: state(3, 30), ..Batch::of(&run(31..=33, 3)) });
    log.close().expect("closes");
    disk
}

fn check(log: &Wal) {
    assert_eq!((log.first_index(), log.last_index()), (31, 33));
    assert_eq!(all(log), run(31..=33, 3));
    assert_eq!(log.metadata(), "renamed");
    assert_eq!(log.hard_state(), HardState { term: 3, vote: 2, commit: 30 });
    assert_eq!(log.snapshot(), Some(SnapshotMark::new(30, 3, "install")));
    assert_eq!(log.recovery().torn, None);
}

fn dump(disk: &SimDisk) -> String {
    (1..=3)
        .map(|n| hex_dump(&disk.contents(segment(n)).expect("a segment")))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_same_operations_write_the_same_bytes() {
    let text = dump(&write());
    if std::env::var_os("OARLOCK_BLESS").is_some() {
        std::fs::write(GOLDEN, &text).expect("writes");
    }
    let golden = std::fs::read_to_string(GOLDEN).expect("reads");
    assert!(text == golden, "the bytes of format version 1 have changed");
}

#[test]
fn files_of_format_version_1_are_read() {
    let golden = std::fs::read_to_string(GOLDEN).expect("reads");
    let disk = SimDisk::new();
    disk.create_dir_all(DIR.as_ref()).expect("creates");
    for (number, text) in (1..).zip(golden.split("\n\n")) {
        let file = disk.create_new(&segment(number)).expect("creates");
        file.write_all_at(&parse_hex_dump(text), 0).expect("writes");
    }
    check(&reopen(&disk).expect("opens"));
}

/// The worked example of `docs/wal-format.md`.
#[test]
fn the_documented_example_is_what_is_written() {
    let disk = SimDisk::new();
    let log = options(&disk).create(DIR, b"me").expect("creates");
    let state = HardState { term: 1, vote: 1, commit: 0 };
    let entries = [Entry::new(1, 1, 0, "set x=1")];
    append(&log, &Batch { hard_state: Some(state), ..Batch::of(&entries) });
    log.close().expect("closes");
    let text = hex_dump(&disk.contents(segment(1)).expect("a segment"));
    let documented = include_str!("../../../../docs/wal-format.md");
    assert!(documented.contains(&text), "docs/wal-format.md should say:\n{text}");
}
