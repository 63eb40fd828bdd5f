//! Protection from false sharing.

use std::ops::Deref;

/// A value with cache lines of its own, so that a thread that writes it often does not slow down others that use its
/// neighbours. 128 bytes, because processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
