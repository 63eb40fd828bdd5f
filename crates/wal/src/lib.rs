//! oarlock-wal

mod mmap;

pub mod vfs;
pub use vfs::{RealVfs, Vfs};

pub mod snapshot;

#[cfg(feature = "testing")]
pub mod testing;
