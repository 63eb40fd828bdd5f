//! Member and cluster ids in hexadecimal, as etcd writes them.

use std::fmt;

/// A member's or cluster's id in a log line: hexadecimal without padding, as `etcdctl` and the data directory's tools
/// print it.
pub(crate) struct Hex(pub(crate) u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Several of them.
pub(crate) struct HexList<'a>(pub(crate) &'a [u64]);

impl fmt::Debug for HexList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|id| Hex(*id))).finish()
    }
}

/// An id as JSON: a string, as in etcd's `raft.status`. Numbers beyond 2^53 do not survive every reader.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
pub(crate) fn one<S: serde::Serializer>(id: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Hex(*id))
}

/// Several ids as JSON.
pub(crate) fn many<S: serde::Serializer>(ids: &[u64], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(ids.iter().map(|id| format!("{id:x}")))
}
