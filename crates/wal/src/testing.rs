//! [`SimDisk`]: a disk in memory that crashes, tears, fills up and fails on command (feature `testing`).
//!
//! It keeps exactly what [`vfs`](crate::vfs) promises and nothing more: it knows for each 512-byte sector, file length
//! and name whether it was synced, and after a power cut any of what was not may be old, new or mangled.
//!
//! ```
//! use oarlock_wal::testing::{SimDisk, Unsynced};
//! use oarlock_wal::{Vfs, vfs::Access};
//! use std::path::Path;
//!
//! let disk = SimDisk::new();
//! let (dir, path) = (Path::new("/boat"), Path::new("/boat/log"));
//! disk.create_dir_all(dir)?;
//! let file = disk.create_new(path)?;
//! disk.sync_dir(dir)?;
//! file.write_all_at(b"stroke", 0)?;
//! file.sync_data()?;
//! file.write_all_at(b"strike", 0)?; // never synced
//!
//! let mut seen = [0; 6];
//! disk.reboot(Unsynced::Lost).open(path, Access::Read)?.read_exact_at(&mut seen, 0)?;
//! assert_eq!(&seen, b"stroke");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! A log takes it like any other disk, and is opened again on what a power cut left:
//!
//! ```
//! use oarlock_wal::testing::{SimDisk, Unsynced};
//! use oarlock_wal::{Batch, Entry, Options};
//! use std::sync::Arc;
//!
//! let disk = SimDisk::new();
//! let options = |disk: &SimDisk| Options::new().vfs(Arc::new(disk.clone()));
//! let log = options(&disk).create("/boat/wal", b"")?;
//! log.wait(log.append(&Batch::of(&[Entry::new(1, 1, 0, "stroke")]))?)?; // acknowledged
//! let _ = log.append(&Batch::of(&[Entry::new(2, 1, 0, "strike")]))?; // and not
//!
//! let log = options(&disk.reboot(Unsynced::Lost)).open("/boat/wal")?;
//! assert_eq!(log.last_index(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A workload is recorded once ([`SimDisk::record`]) and then crashed after each of its operations
//! ([`SimDisk::crash_points`]), each time with every outcome worth trying ([`SimDisk::outcomes`]).

mod disk;
pub use disk::{HeldSyncs, SimDisk};

mod fault;
pub use fault::Fault;

mod handle;

mod machine;

mod outcome;
pub use outcome::Unsynced;

mod record;
pub use record::{CrashPoint, CrashPoints};

mod state;

mod trace;
pub use trace::{Event, Op};
