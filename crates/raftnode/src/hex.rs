//! Ids as everybody writes them.

use std::fmt;

/// A member's or cluster's id in a log line: hexadecimal without padding, as `etcdctl` and the data directory's tools
/// print it.
pub(crate) struct Hex(pub(crate) u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}
