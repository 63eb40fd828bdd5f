//! Snapshot files: what is committed is whole, what is damaged is refused, what is read stays.

use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};

use oarlock_wal::RealVfs;
use oarlock_wal::snapshot::{
    Damage, Error, Options, SnapshotFile, SnapshotId, SnapshotReader, SnapshotStore,
};

const ID: SnapshotId = SnapshotId { index: 42, term: 7 };
const NAME: &str = "000000000000002a-0000000000000007.snap";

struct Place {
    store: SnapshotStore,
    dir: PathBuf,
    _tmp: tempfile::TempDir,
}

fn place() -> Place {
    let tmp = tempfile::tempdir().expect("tempdir");
    let dir = tmp.path().join("snap");
    Place { store: SnapshotStore::open(&dir).expect("opens"), dir, _tmp: tmp }
}

fn content(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(len as u64);
    (0..len).map(|_| rng.u8(..)).collect()
}

fn put(store: &SnapshotStore, index: u64, term: u64, content: &[u8]) -> SnapshotFile {
    let mut writer = store.create(index, term).expect("free");
    writer.write_all(content).expect("no fault");
    writer.commit().expect("no fault")
}

fn get(store: &SnapshotStore, index: u64, term: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open_file(index, term).expect("is there").read_to_end(&mut bytes).expect("whole");
    bytes
}

fn verify(path: &Path) -> Result<SnapshotFile, Error> {
    SnapshotReader::open(&RealVfs, path)?.verify()
}

#[test]
fn content_of_any_length_comes_back_and_is_the_same_file_after_a_transfer() {
    let (here, there) = (place(), place());
    for len in [0, 1, 511, 65535, 65536, 65537, 131_072, 200_000] {
        let content = content(len);
        let mut writer = here.store.create(42, 7).expect("free");
        assert!(writer.is_empty());
        for part in content.chunks(7001) {
            writer.write_all(part).expect("writes");
            writer.flush().expect("does nothing");
        }
        assert_eq!((writer.id(), writer.len()), (ID, len as u64));
        let file = writer.commit().expect("commits");
        assert_eq!(file, SnapshotFile { id: ID, len: len as u64, crc: crc32fast::hash(&content) });
        assert!(get(&here.store, 42, 7) == content, "{len} bytes");

        let mut reader = here.store.open_file(42, 7).expect("is there");
        assert_eq!(
            (reader.index(), reader.term(), reader.len(), reader.is_empty()),
            (42, 7, len as u64, len == 0)
        );
        let announced = reader.file();
        let mut writer = there.store.create(42, 7).expect("free");
        io::copy(&mut reader, &mut writer).expect("copies");
        assert_eq!(writer.commit_expecting(announced).expect("commits"), file);
        assert!(
            fs::read(here.dir.join(NAME)).expect("reads")
                == fs::read(there.dir.join(NAME)).expect("reads")
        );
    }
}

/// The bytes that version 1 wrote, and every later version reads.
#[test]
fn format_one_is_what_it_was() {
    let here = place();
    put(&here.store, 42, 7, b"stroke");
    let golden = [
        "4f4152534e41500a 01000000 00000100 2a00000000000000 0700000000000000 00000000 71bdec06",
        "894537bf 06000000 7374726f6b65",
        "bf087e62 ffffffff 0600000000000000 725b4a09",
    ];
    let found: String =
        fs::read(here.dir.join(NAME)).expect("reads").iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(found, golden.concat().replace(' ', ""));
}

#[test]
fn every_flipped_bit_is_refused() {
    let here = place();
    put(&here.store, 42, 7, &content(200));
    let path = here.dir.join(NAME);
    let whole = fs::read(&path).expect("reads");
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).expect("writes");
        match verify(&path) {
            Err(Error::Corrupt { offset, .. }) => {
                assert!(offset <= bit as u64 / 8 + 20, "bit {bit}, offset {offset}");
            }
            other => panic!("bit {bit}: {other:?}"),
        }
        let mut given = Vec::new();
        if let Ok(mut reader) = here.store.open_file(42, 7) {
            let error = reader.read_to_end(&mut given).expect_err("damaged");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "bit {bit}");
        }
        assert!(given.is_empty(), "bit {bit}: unverified bytes were given out");
    }
}

#[test]
fn damage_anywhere_in_many_chunks_is_refused_and_what_is_given_out_before_is_right() {
    let here = place();
    let content = content(200_000);
    put(&here.store, 42, 7, &content);
    let path = here.dir.join(NAME);
    let whole = fs::read(&path).expect("reads");
    for at in (0..whole.len()).step_by(997) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).expect("writes");
        verify(&path).expect_err("damaged");
        let mut given = Vec::new();
        if let Ok(mut reader) = here.store.open_file(42, 7) {
            reader.read_to_end(&mut given).expect_err("damaged");
        }
        assert!(content.starts_with(&given), "byte {at}");
    }
}

#[test]
fn every_truncation_and_any_growth_is_refused() {
    let here = place();
    put(&here.store, 42, 7, &content(200));
    let path = here.dir.join(NAME);
    let whole = fs::read(&path).expect("reads");
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).expect("writes");
        assert!(matches!(verify(&path), Err(Error::Corrupt { .. })), "cut at {len}");
    }
    for more in [&[0][..], &[0; 20], &whole] {
        fs::write(&path, [&whole, more].concat()).expect("writes");
        assert!(matches!(verify(&path), Err(Error::Corrupt { .. })), "{} more", more.len());
    }
    fs::write(&path, &whole).expect("writes");
    verify(&path).expect("whole again");
}

#[test]
fn chunks_that_changed_places_or_files_are_refused() {
    let here = place();
    put(&here.store, 42, 7, &content(200_000));
    put(&here.store, 43, 7, &content(200_000));
    let path = here.dir.join(NAME);
    let whole = fs::read(&path).expect("reads");
    let chunk = |n: usize| 40 + n * 65544..40 + (n + 1) * 65544;
    let mut swapped = whole.clone();
    swapped[chunk(0)].copy_from_slice(&whole[chunk(1)]);
    swapped[chunk(1)].copy_from_slice(&whole[chunk(0)]);
    let mut foreign =
        fs::read(here.dir.join("000000000000002b-0000000000000007.snap")).expect("reads");
    foreign[..40].copy_from_slice(&whole[..40]);
    for (bytes, expected) in [(swapped, Damage::Chunk), (foreign, Damage::Footer)] {
        fs::write(&path, bytes).expect("writes");
        assert!(matches!(verify(&path), Err(Error::Corrupt { damage, .. }) if damage == expected));
    }
}

/// As when a sector of the file that was replaced comes back: valid for its place, and not the content.
#[test]
fn a_chunk_of_an_earlier_file_of_the_same_name_is_refused() {
    let here = place();
    let path = here.dir.join(NAME);
    put(&here.store, 42, 7, &[1; 100_000]);
    let old = fs::read(&path).expect("reads");
    put(&here.store, 42, 7, &[2; 100_000]);
    let mut bytes = fs::read(&path).expect("reads");
    bytes[40..40 + 65544].copy_from_slice(&old[40..40 + 65544]);
    fs::write(&path, bytes).expect("writes");
    assert!(matches!(verify(&path), Err(Error::Corrupt { damage: Damage::Content, .. })));
}

#[test]
fn a_file_under_another_name_is_refused() {
    let here = place();
    put(&here.store, 42, 7, b"stroke");
    fs::rename(here.dir.join(NAME), here.dir.join("000000000000002b-0000000000000007.snap"))
        .expect("renames");
    let store = SnapshotStore::open(&here.dir).expect("opens");
    match store.open_file(43, 7) {
        Err(Error::Corrupt { damage: Damage::WrongId { found }, .. }) => assert_eq!(found, ID),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_newer_version_is_refused_by_name_and_stays() {
    let here = place();
    put(&here.store, 42, 7, b"stroke");
    let path = here.dir.join(NAME);
    let mut bytes = fs::read(&path).expect("reads");
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..36]);
    bytes[36..40].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).expect("writes");
    assert!(matches!(
        here.store.newest(|_, _| true),
        Err(Error::UnknownVersion { version: 2, .. })
    ));
    assert!(path.exists());
}

#[test]
fn the_newest_vouched_and_intact_one_is_used_and_damaged_ones_are_set_aside() {
    let here = place();
    for index in [10, 20, 30, 40] {
        put(&here.store, index, 1, &content(300));
    }
    let rot = here.dir.join("000000000000001e-0000000000000001.snap");
    let mut bytes = fs::read(&rot).expect("reads");
    bytes[100] ^= 1;
    fs::write(&rot, bytes).expect("writes");
    let vouched = |index, term| index != 40 && term == 1;
    assert_eq!(here.store.newest(vouched).expect("reads"), Some(SnapshotId { index: 20, term: 1 }));
    assert!(!rot.exists());
    assert!(here.dir.join("000000000000001e-0000000000000001.snap.broken").exists());
    for store in [&here.store, &SnapshotStore::open(&here.dir).expect("opens")] {
        assert_eq!(store.list().iter().map(|id| id.index).collect::<Vec<_>>(), [40, 20, 10]);
        assert!(store.unknown().is_empty(), "a broken file is known");
        assert!(matches!(store.open_file(30, 1), Err(Error::NotFound { .. })));
    }
    assert_eq!(here.store.newest(|_, _| false).expect("reads"), None);
}

/// For tools, beside a running node.
#[test]
fn a_read_only_store_changes_nothing() {
    let here = place();
    put(&here.store, 10, 1, &content(300));
    put(&here.store, 20, 1, &content(300));
    let rot = here.dir.join("0000000000000014-0000000000000001.snap");
    let mut bytes = fs::read(&rot).expect("reads");
    bytes[100] ^= 1;
    fs::write(&rot, bytes).expect("writes");
    let unfinished = here.dir.join("000000000000001e-0000000000000001.snap.tmp");
    fs::write(&unfinished, "").expect("writes");
    let store = Options::new().read_only(true).open(&here.dir).expect("opens");
    assert_eq!(store.newest(|_, _| true).expect("reads"), Some(SnapshotId { index: 10, term: 1 }));
    assert!(store.create(30, 1).is_err() && store.purge(u64::MAX).is_err());
    assert!(rot.exists() && unfinished.exists());
    let nowhere = here.dir.join("nowhere");
    let store = Options::new().read_only(true).open(&nowhere).expect("opens");
    assert!(store.list().is_empty() && !nowhere.exists());
}

#[test]
fn purge_removes_what_is_old_but_not_what_is_read_nor_the_newest() {
    let here = place();
    for index in [10, 20, 30, 40] {
        put(&here.store, index, 1, &content(100_000));
    }
    let mut first = here.store.open_file(10, 1).expect("is there");
    let second = here.store.open_file(10, 1).expect("is there");
    assert_eq!(here.store.purge(10).expect("purges"), 0);
    assert_eq!(here.store.purge(30).expect("purges"), 1, "20 alone: 10 is being read, 30 is kept");
    assert!(matches!(here.store.open_file(20, 1), Err(Error::NotFound { .. })));
    drop(second);
    assert_eq!(here.store.purge(30).expect("purges"), 0, "still being read");
    let mut bytes = Vec::new();
    first.read_to_end(&mut bytes).expect("whole");
    assert!(bytes == content(100_000));
    drop(first);
    assert_eq!(here.store.purge(u64::MAX).expect("purges"), 2);
    assert_eq!(here.store.list(), [SnapshotId { index: 40, term: 1 }]);
    assert_eq!(fs::read_dir(&here.dir).expect("lists").count(), 1);
}

#[test]
fn unknown_names_are_reported_and_left_alone_and_own_leftovers_removed() {
    let tmp = tempfile::tempdir().expect("tempdir");
    let foreign = ["notes.txt", "2a-7.snap", "000000000000002A-0000000000000007.snap", ".tmp"];
    for name in foreign {
        fs::write(tmp.path().join(name), "mine").expect("writes");
    }
    fs::write(tmp.path().join(format!("{NAME}.tmp")), "half").expect("writes");
    let store = SnapshotStore::open(tmp.path()).expect("opens");
    let mut unknown: Vec<_> = store.unknown().iter().filter_map(|n| n.to_str()).collect();
    unknown.sort_unstable();
    let mut expected = foreign;
    expected.sort_unstable();
    assert_eq!(unknown, expected);
    put(&store, 1, 1, b"x");
    put(&store, 2, 1, b"x");
    store.purge(u64::MAX).expect("purges");
    for name in foreign {
        assert_eq!(fs::read(tmp.path().join(name)).expect("still there"), b"mine");
    }
    assert!(!tmp.path().join(format!("{NAME}.tmp")).exists());
}

#[test]
fn an_uncommitted_snapshot_leaves_nothing_behind() {
    let here = place();
    let mut writer = here.store.create(42, 7).expect("free");
    writer.write_all(&content(100_000)).expect("writes");
    assert!(matches!(here.store.create(42, 7), Err(Error::Busy { id: ID })));
    assert!(here.store.list().is_empty());
    drop(writer);
    assert_eq!(fs::read_dir(&here.dir).expect("lists").count(), 0);
    drop(here.store.create(42, 7).expect("free again"));
}

#[test]
fn content_that_is_not_what_was_announced_is_not_kept() {
    let here = place();
    let announced = SnapshotFile { id: ID, len: 6, crc: crc32fast::hash(b"stroke") };
    for (sent, announced) in [
        (&b"strike"[..], announced),
        (b"strok", announced),
        (b"stroke!", announced),
        (b"stroke", SnapshotFile { id: SnapshotId { index: 42, term: 8 }, ..announced }),
    ] {
        let mut writer = here.store.create(42, 7).expect("free");
        writer.write_all(sent).expect("writes");
        assert!(
            matches!(writer.commit_expecting(announced), Err(Error::Mismatch { .. })),
            "{sent:?}"
        );
        assert_eq!(fs::read_dir(&here.dir).expect("lists").count(), 0);
    }
}

#[test]
fn a_replaced_snapshot_stays_readable_for_who_had_it_open() {
    let here = place();
    put(&here.store, 42, 7, &content(150_000));
    let mut old = here.store.open_file(42, 7).expect("is there");
    assert!(!old.fill_buf().expect("reads").is_empty());
    put(&here.store, 42, 7, b"new");
    let mut bytes = Vec::new();
    old.read_to_end(&mut bytes).expect("whole");
    assert!(bytes == content(150_000));
    assert_eq!(get(&here.store, 42, 7), b"new");
}
