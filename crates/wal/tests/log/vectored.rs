//! Large payloads are written from where they are, and nothing else about them is different.

use oarlock_wal::testing::{Op, SimDisk, Unsynced};
use oarlock_wal::{Batch, Entry, HardState, Options};

use crate::util::{DIR, append, options, run};

/// Large and small payloads, more than the bytes from which on nothing large is copied.
fn mixed(first: u64) -> Vec<Entry> {
    let lens = [9000, 3, 2048, 2047, 0, 30_000, 5, 41_001];
    let payload =
        |len: usize, index: u64| (0..len).map(|i| (i as u64 + index) as u8).collect::<Vec<_>>();
    (first..).zip(lens).map(|(index, len)| Entry::new(index, 3, 1, payload(len, index))).collect()
}

/// W2: also a write of many pieces is one batch, wherever it is torn.
#[test]
fn a_torn_write_of_pieces_is_one_batch() {
    let disk = SimDisk::new();
    let options = options(&disk).segment_size(256 << 10);
    let log = options.create(DIR, b"").expect("creates");
    append(&log, &Batch::of(&run(1..=2, 1)));
    let entries = mixed(3);
    let state = HardState { term: 3, vote: 1, commit: 2 };
    let batch = Batch { hard_state: Some(state), ..Batch::of(&entries) };
    let disk = disk.kill();
    let mut seen = [0; 2];
    for bytes in (0..85_000).step_by(997).chain(84_100..84_400) {
        let disk = disk.fork();
        let log = options_of(&disk).open(DIR).expect("opens");
        let writes = disk.count(Op::Write);
        disk.cut_power_after_bytes(bytes);
        let _ = log.append(&batch);
        assert_eq!(disk.count(Op::Write), writes + 1, "one write a batch");
        drop(log);
        let log =
            options_of(&disk.reboot(Unsynced::Kept)).open(DIR).expect("a torn tail is no damage");
        let whole = log.last_index() == 10;
        assert_eq!(log.hard_state().term, if whole { 3 } else { 0 }, "cut after {bytes} bytes");
        assert!(whole || log.last_index() == 2, "cut after {bytes} bytes");
        if whole {
            assert_eq!(log.entries(3..11, u64::MAX).expect("reads"), entries);
        }
        seen[usize::from(whole)] += 1;
    }
    assert!(seen[0] > 80 && seen[1] > 10, "{seen:?}");
}

fn options_of(disk: &SimDisk) -> Options {
    options(disk).segment_size(256 << 10)
}

#[test]
fn what_is_written_in_pieces_reads_back_from_the_real_disk() {
    let tmp = tempfile::tempdir().expect("tempdir");
    let options = Options::new().segment_size(256 << 10).verify(true);
    let log = options.create(tmp.path().join("wal"), b"").expect("creates");
    let batches: Vec<_> = (0..6).map(|n| mixed(1 + 8 * n)).collect();
    for batch in &batches {
        append(&log, &Batch::of(batch));
    }
    assert_eq!(log.stats().rolls, 2);
    assert_eq!(log.entries(1..49, u64::MAX).expect("reads"), batches.concat());
    log.close().expect("closes");
    let log = options.open(tmp.path().join("wal")).expect("every byte is as it should be");
    assert_eq!(log.entries(1..49, u64::MAX).expect("reads"), batches.concat());
}
