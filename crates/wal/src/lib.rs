//! oarlock-wal

mod mmap;

pub mod vfs;
pub use vfs::{RealVfs, Vfs};

#[cfg(feature = "testing")]
pub mod testing;
