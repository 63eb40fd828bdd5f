//! Snapshot files: a state machine's content, streamed in and out, whole or not there at all.
//!
//! A [`SnapshotStore`] owns a directory. [`create`](SnapshotStore::create) writes under a temporary name;
//! [`commit`](SnapshotWriter::commit) syncs, renames and syncs the directory, so that a crash at any instant leaves
//! either no file or the whole one. The caller then appends the mark that vouches for it to the log, in this order
//! (Raft thesis, section 5; etcd #10219).
//!
//! ```
//! use std::io::{Read, Write};
//! use oarlock_wal::snapshot::SnapshotStore;
//!
//! # let tmp = tempfile::tempdir()?;
//! let store = SnapshotStore::open(tmp.path().join("snap"))?;
//! let mut writer = store.create(42, 7)?; // index and term of the last entry it replaces
//! writer.write_all(b"everything up to entry 42")?;
//! let file = writer.commit()?; // durable from here on
//!
//! let mut content = String::new();
//! store.open_file(42, 7)?.read_to_string(&mut content)?;
//! assert_eq!(content, "everything up to entry 42");
//! assert_eq!(store.newest(|_, _| true)?, Some(file.id));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Sending one to a peer
//! The content travels, not the file: read it from a [`SnapshotReader`], write it into a [`SnapshotWriter`] there, and
//! end with [`commit_expecting`](SnapshotWriter::commit_expecting) the length and checksum that the sender's reader
//! gave. Equal content for the same index and term makes the same file, byte for byte.
//!
//! # What is promised
//! * Every byte is under a checksum, and is verified before it is given out.
//! * Neither side holds more than one 64 KiB chunk in memory, whatever the file says.
//! * While a [`SnapshotReader`] lives, its file is not purged.
//! * What the store did not write it does not touch: unknown names are reported and left alone.
//!
//! # What is not
//! A file is damaged or it is not; nothing is repaired. The checksums are CRC-32: they find accidents, not forgeries.
//! One store per directory, in one process: the log's lock in the same data directory sees to that.
//!
//! # The file, version 1
//! Named `<index>-<term>.snap`, each as sixteen lower-case hexadecimal digits; `.snap.tmp` while it is written,
//! `.snap.broken` once found damaged. All integers are little-endian, all checksums CRC-32 (IEEE).
//!
//! | at | bytes | header |
//! |---:|---:|---|
//! | 0 | 8 | magic `"OARSNAP\n"` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | chunk size, 65536 |
//! | 16 | 8 | index |
//! | 24 | 8 | term |
//! | 32 | 4 | zero |
//! | 36 | 4 | checksum of the 36 bytes before: the file's *key* |
//!
//! Every version has a header of this layout. Then the content in chunks of 65536 bytes, the last one shorter, none
//! empty:
//!
//! | at | bytes | chunk |
//! |---:|---:|---|
//! | 0 | 4 | checksum of key, offset in the file (8 bytes), `length`, and the checksum of the data |
//! | 4 | 4 | `length` of the data in bytes |
//! | 8 | `length` | data |
//!
//! And at the very end, so that the length of the content is known before the first chunk is read:
//!
//! | at | bytes | footer |
//! |---:|---:|---|
//! | 0 | 4 | checksum of key, offset in the file (8 bytes), and the 16 bytes that follow |
//! | 4 | 4 | `0xffff_ffff`, which is no chunk's length |
//! | 8 | 8 | length of the content |
//! | 16 | 4 | checksum of the content: the chunks' data checksums combined |

mod error;
pub use error::{Damage, Error};

mod format;

mod name;
pub use name::SnapshotId;
pub(crate) use name::is_snapshot;

mod reader;
pub use reader::SnapshotReader;

mod store;
pub use store::{Options, SnapshotStore};

mod writer;
pub use writer::{SnapshotFile, SnapshotWriter};
