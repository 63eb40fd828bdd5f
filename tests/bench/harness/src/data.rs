//! What is written, and where.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::Result;

/// A directory that goes away with what is in it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(parent: &Path, name: &str) -> Result<Self> {
        let dir = parent.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // what stays is in the target directory
    }
}

/// Payloads that do not compress, all alike in length.
pub struct Noise(Bytes);

impl Default for Noise {
    fn default() -> Self {
        Self::new()
    }
}

impl Noise {
    pub fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        Self(std::iter::repeat_with(|| random.u8(..)).take(4 << 20).collect())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The payload of entry `index`.
    pub fn payload(&self, index: u64, len: usize) -> Bytes {
        let at = (index as usize).wrapping_mul(4099) % (self.0.len() - len);
        self.0.slice(at..at + len)
    }

    pub fn payloads(&self, first: u64, len: usize, n: usize) -> Vec<Bytes> {
        (first..first + n as u64).map(|index| self.payload(index, len)).collect()
    }
}
