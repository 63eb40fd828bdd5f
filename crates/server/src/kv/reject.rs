//! Why a well-formed request has no effect.

/// Why a request was refused; it changed nothing, on any member.
///
/// The texts and the gRPC codes (see `api::status`) are those of etcd's `rpctypes`, which clients compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    /// A request without a key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist, or an operation without a request.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// A value beside `ignore_value`.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// A lease beside `ignore_lease`.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// No lease is ever found: this server grants none.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// More operations in one list than the server takes.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// A transaction that writes one key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target that is not in the protocol.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// A revision before the latest.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// A revision that is not there yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
}
