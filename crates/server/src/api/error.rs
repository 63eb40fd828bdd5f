//! What clients are told when a request is not done, in etcd's words and codes.

use oarlock_membership::ChangeError;
use tonic::{Code, Status};

use crate::kv::Rejection;

/// Why a request was not done.
///
/// Texts and codes are those of etcd's `api/v3/v3rpc/rpctypes/error.go`: clients compare them. What etcd has no word
/// for begins with `oarlock:`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The key-value state refused it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Larger than the server takes.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// Too much at once. Nothing was done.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// More keys and values than the quota allows.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// Nobody leads. Nothing was done.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// Only the leader does this.
    #[error("etcdserver: not leader")]
    NotLeader,
    /// The leader changed while the request was on its way. Nothing was done.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// No answer in time: a write may have been done, or be done yet.
    #[error("etcdserver: request timed out")]
    TimedOut,
    /// The new leader did not take over in time.
    #[error("etcdserver: request timed out, leader transfer took too long")]
    TransferTimedOut,
    /// The member is stopping. Nothing was done.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// Leadership can go to voters only.
    #[error("etcdserver: bad leader transferee")]
    BadTransferee,
    /// Learners serve little.
    #[error("etcdserver: rpc not supported for learner")]
    NotSupportedForLearner,
    /// There is such a member.
    #[error("etcdserver: member ID already exist")]
    MemberExists,
    /// There is no such member.
    #[error("etcdserver: member not found")]
    MemberNotFound,
    /// The peer URLs are somebody's.
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    /// The peer URLs are no URLs.
    #[error("etcdserver: given member URLs are invalid")]
    BadUrls,
    /// The change would leave fewer started members than a quorum.
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// The change would leave fewer connected members than a quorum.
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
    /// Voters are voters already.
    #[error("etcdserver: can only promote a learner member")]
    NotLearner,
    /// The learner lags.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// One at a time.
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    /// Another change of the membership is on its way. Nothing was done.
    #[error("oarlock: another membership change is in progress, try again when it is done")]
    ChangePending,
    /// This member's log lost entries that it had acknowledged: it must be removed and added as a new one.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// The change was refused for a reason that etcd has no word for.
    #[error("oarlock: {0}")]
    Refused(String),
}

impl Error {
    /// The gRPC code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Rejected(rejection) => match rejection {
                Rejection::EmptyKey
                | Rejection::KeyNotFound
                | Rejection::ValueProvided
                | Rejection::LeaseProvided
                | Rejection::TooManyOps
                | Rejection::DuplicateKey
                | Rejection::InvalidSortOption => Code::InvalidArgument,
                Rejection::LeaseNotFound => Code::NotFound,
                Rejection::Compacted | Rejection::FutureRevision => Code::OutOfRange,
            },
            Self::TooLarge | Self::BadUrls => Code::InvalidArgument,
            Self::TooManyRequests | Self::NoSpace => Code::ResourceExhausted,
            Self::NoLeader
            | Self::LeaderChanged
            | Self::TimedOut
            | Self::TransferTimedOut
            | Self::Stopped
            | Self::Unhealthy
            | Self::ChangePending
            | Self::NotSupportedForLearner => Code::Unavailable,
            Self::MemberNotFound => Code::NotFound,
            Self::Corrupt => Code::DataLoss,
            Self::NotLeader
            | Self::BadTransferee
            | Self::MemberExists
            | Self::PeerUrlExists
            | Self::NotEnoughStarted
            | Self::NotLearner
            | Self::LearnerNotReady
            | Self::TooManyLearners
            | Self::Refused(_) => Code::FailedPrecondition,
        }
    }
}

/// etcd's words for a change that every member refused at apply.
impl From<ChangeError> for Error {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Exists { .. } => Self::MemberExists,
            ChangeError::UrlInUse { .. } => Self::PeerUrlExists,
            ChangeError::TooManyLearners { .. } => Self::TooManyLearners,
            ChangeError::Unknown { .. } | ChangeError::Removed { .. } => Self::MemberNotFound,
            ChangeError::NotLearner { .. } => Self::NotLearner,
            ChangeError::LastVoter { .. } => Self::NotEnoughStarted,
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        Error::from(rejection).into()
    }
}
