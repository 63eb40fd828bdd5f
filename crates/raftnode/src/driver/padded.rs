//! What one thread writes all the time, kept away from what others read.

use std::ops::Deref;

/// A value with cache lines of its own. Two threads that write side by side in one line wait for each other at every write;
/// processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
