//! The running node as the API and the HTTP endpoints see it.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use oarlock_membership::{Change, Cluster};
use oarlock_raftnode::{
    ChangeMembersError, LinkStatus, NodeHandle, ProposeError, ReadError, Status, TransferError,
    bootstrap::Place,
};
use oarlock_transport::{Transport, query};
use oarlock_wal::Wal;
use serde::Serialize;

use crate::{
    api::Error,
    backend::{Backend, Vitals},
    exit::Failure,
    http::Observed,
    kv::{Outcome, Published, Reply},
    metrics::{Metrics, Reading},
    peers,
    readiness::{self, Readiness},
};

/// How long another member may take to answer a question.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// The node ends every request by its deadline. Only the node of a lone member can hang in its disk, for it writes there
/// itself; then a request ends here, this much later.
const GRACE: Duration = Duration::from_millis(500);

/// The running node. Clones are the same node.
#[derive(Clone)]
pub(crate) struct Node(Arc<Inner>);

struct Inner {
    handle: NodeHandle<Outcome>,
    transport: Arc<dyn Transport>,
    wal: Wal,
    published: Published,
    metrics: Metrics,
    others: Vec<Vec<String>>,
    /// How long the node is waited for, whatever it was asked.
    patience: Duration,
}

impl Node {
    pub(crate) fn new(
        handle: NodeHandle<Outcome>,
        transport: Arc<dyn Transport>,
        wal: Wal,
        published: Published,
        metrics: Metrics,
        others: Vec<Vec<String>>,
        request_timeout: Duration,
    ) -> Self {
        let patience = request_timeout.saturating_add(GRACE);
        Self(Arc::new(Inner { handle, transport, wal, published, metrics, others, patience }))
    }

    /// Waits until one of the members that were known at the start says whether this one has a place among them, and
    /// whether that place is at the peer URLs that it claims.
    ///
    /// # Errors
    /// It has none, or another; see [`peers::check_welcome`].
    pub(crate) fn check_welcome(&self, claimed: &[String]) -> Result<(), Failure> {
        let handle = &self.0.handle;
        let stopping = || handle.end().is_some();
        let own = Place { cluster_id: handle.cluster().id(), id: handle.id(), claimed };
        peers::check_welcome(own, &self.0.others, &stopping)
    }

    /// The library's handle.
    pub(crate) fn handle(&self) -> &NodeHandle<Outcome> {
        &self.0.handle
    }

    /// The node's answer; without one long after the deadline nobody knows what came of the request (O29).
    async fn bounded<T, E>(
        &self,
        answer: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, Error>
    where
        Error: From<E>,
    {
        match tokio::time::timeout(self.0.patience, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Error::TimedOut),
        }
    }

    /// The full status; asks the node's thread, from one that may block.
    async fn status(&self) -> Option<Status> {
        let handle = self.0.handle.clone();
        tokio::task::spawn_blocking(move || handle.status()).await.ok()
    }
}

impl Backend for Node {
    async fn propose(&self, command: Bytes) -> Result<Reply, Error> {
        Ok(self.bounded(self.0.handle.propose(command)).await?.output?)
    }

    async fn read_index(&self) -> Result<(), Error> {
        self.bounded(self.0.handle.read_index()).await.map(|_| ())
    }

    async fn change_members(&self, change: Change) -> Result<Arc<Cluster>, Error> {
        self.bounded(self.0.handle.change_members(change)).await
    }

    async fn update_member(&self, id: u64, peer_urls: Vec<String>) -> Result<Arc<Cluster>, Error> {
        self.bounded(self.0.handle.update_member(id, peer_urls)).await
    }

    /// Only the leader knows; a follower asks it over the peers' port, as etcd does over its own.
    async fn learner_is_ready(&self, id: u64) -> Result<(), Error> {
        let leader = self.0.handle.leader();
        let readiness = if leader == self.0.handle.id() {
            let status = self.status().await.ok_or(Error::Stopped)?;
            readiness::of(&status, id)
        } else {
            let cluster = self.0.handle.cluster();
            let urls = cluster.member(leader).ok_or(Error::NoLeader)?.peer_urls.clone();
            let ask = move || {
                let question = readiness::encode_question(id);
                query(&urls, readiness::QUERY, question, QUERY_TIMEOUT)
            };
            let answer = tokio::task::spawn_blocking(ask).await.map_err(|_| Error::Stopped)?;
            let answer = answer.map_err(|error| {
                log::warn!(error:%, leader:% = format_args!("{leader:x}"); "the leader does not say how far a learner is");
                Error::TimedOut
            })?;
            Readiness::decode(&answer).ok_or(Error::TimedOut)?
        };
        match readiness {
            Readiness::Ready => Ok(()),
            Readiness::Behind => Err(Error::LearnerNotReady),
            Readiness::Unknown => Err(Error::MemberNotFound),
            Readiness::NotLeader => Err(Error::LeaderChanged),
        }
    }

    async fn transfer_leader(&self, to: u64) -> Result<(), Error> {
        self.bounded(self.0.handle.transfer_leader(to)).await
    }

    fn active_since(&self, id: u64) -> Option<Instant> {
        self.0.transport.active_since(id)
    }

    fn vitals(&self) -> Vitals {
        let vitals = self.0.handle.vitals();
        Vitals {
            cluster_id: self.0.handle.cluster().id(),
            member_id: self.0.handle.id(),
            term: vitals.term,
            leader: vitals.leader,
            committed: vitals.commit,
            applied: vitals.applied,
            log_bytes: self.0.wal.size(),
        }
    }

    async fn complaints(&self) -> Vec<String> {
        let Some(status) = self.status().await else { return Vec::new() };
        let lost = status.quarantined.map(|lost| {
            format!(
                "oarlock: this member's log ends at {} and it once acknowledged {}: remove it and add it as a new one",
                lost.last_index, lost.commit
            )
        });
        let stalled = status.disk_stalled.then(|| "oarlock: the disk has stalled".to_owned());
        // Whoever has a leader is well: a refusal may be an old one, of a peer that is gone.
        let refused = status.links.iter().filter(|_| status.leader == 0).filter_map(refusal);
        lost.into_iter().chain(stalled).chain(refused).collect()
    }

    fn cluster(&self) -> Arc<Cluster> {
        self.0.handle.cluster()
    }

    fn kv(&self) -> &Published {
        &self.0.published
    }
}

/// Why this member is not connected to a peer, if one of the two will not.
fn refusal(link: &LinkStatus) -> Option<String> {
    let refused = link.refused.as_ref()?;
    let (id, reason) = (link.id, &refused.reason);
    Some(if refused.by_peer {
        format!("oarlock: member {id:x} refuses this one: {reason}")
    } else {
        format!("oarlock: this member refuses member {id:x}: {reason}")
    })
}

impl Observed for Node {
    fn metrics(&self) -> String {
        let state = self.0.published.state();
        let reading = Reading {
            id: self.0.handle.id(),
            vitals: self.0.handle.vitals(),
            stats: self.0.handle.stats(),
            pending: self.0.handle.proposals_pending(),
            cluster: &self.0.handle.cluster(),
            log_bytes: self.0.wal.size(),
            log_written: self.0.wal.stats().bytes,
            state_bytes: state.bytes(),
            keys: state.len(),
            transport: self.0.transport.stats(),
        };
        self.0.metrics.text(&reading).unwrap_or_else(|error| format!("# {error}\n"))
    }

    async fn debug_status(&self) -> String {
        #[derive(Serialize)]
        struct Debug {
            raft: Option<Status>,
            kv: KvStatus,
            transport: oarlock_transport::Stats,
        }
        /// Equal on all members at equal indexes.
        #[derive(Serialize)]
        struct KvStatus {
            index: u64,
            revision: i64,
            keys: usize,
            bytes: u64,
            digest: String,
        }
        let view = self.0.published.view();
        let kv = KvStatus {
            index: view.index,
            revision: view.state.revision(),
            keys: view.state.len(),
            bytes: view.state.bytes(),
            digest: format!("{:016x}", view.digest),
        };
        let debug = Debug { raft: self.status().await, kv, transport: self.0.transport.stats() };
        serde_json::to_string_pretty(&debug)
            .unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()))
    }
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NoLeader => Self::NoLeader,
            ProposeError::NotLeader { .. } | ProposeError::Transferring => Self::LeaderChanged,
            ProposeError::Busy(_) => Self::TooManyRequests,
            ProposeError::TooLarge { .. } => Self::TooLarge,
            ProposeError::ConfChangePending => Self::ChangePending,
            ProposeError::Quarantined => Self::Corrupt,
            ProposeError::NotMember | ProposeError::Stopped => Self::Stopped,
            // Whatever a later version adds, nothing stronger than this can be said of it.
            _ => Self::TimedOut,
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoLeader => Self::NoLeader,
            ReadError::Busy(_) => Self::TooManyRequests,
            ReadError::Quarantined => Self::Corrupt,
            ReadError::Stopped => Self::Stopped,
            _ => Self::TimedOut,
        }
    }
}

impl From<ChangeMembersError> for Error {
    fn from(error: ChangeMembersError) -> Self {
        match error {
            ChangeMembersError::Propose(error) => error.into(),
            ChangeMembersError::Refused(error) => error.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<TransferError> for Error {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::NotLeader { .. } => Self::NotLeader,
            TransferError::NotVoter { .. } => Self::BadTransferee,
            TransferError::NoTarget => Self::Unhealthy,
            TransferError::Busy(_) => Self::TooManyRequests,
            TransferError::Stopped => Self::Stopped,
            _ => Self::TransferTimedOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use oarlock_membership::ChangeError;
    use oarlock_raftnode::{Busy, Unknown};
    use tonic::{Code, Status};

    use super::*;

    /// What etcd's clients are told, and whether they may think that nothing was done.
    #[test]
    fn every_error_has_etcds_words() {
        let busy = || Busy::Requests;
        let pending =
            "oarlock: another membership change is in progress, try again when it is done";
        let cases: [(Error, Code, &str); 16] = [
            (ProposeError::NoLeader.into(), Code::Unavailable, "etcdserver: no leader"),
            (
                ProposeError::Busy(busy()).into(),
                Code::ResourceExhausted,
                "etcdserver: too many requests",
            ),
            (
                ProposeError::TooLarge { bytes: 2, max: 1 }.into(),
                Code::InvalidArgument,
                "etcdserver: request is too large",
            ),
            (ProposeError::Transferring.into(), Code::Unavailable, "etcdserver: leader changed"),
            (ProposeError::ConfChangePending.into(), Code::Unavailable, pending),
            (ProposeError::Stopped.into(), Code::Unavailable, "etcdserver: server stopped"),
            (ProposeError::Quarantined.into(), Code::DataLoss, "etcdserver: corrupt cluster"),
            (
                ProposeError::OutcomeUnknown(Unknown::Deadline).into(),
                Code::Unavailable,
                "etcdserver: request timed out",
            ),
            (ReadError::NoLeader.into(), Code::Unavailable, "etcdserver: no leader"),
            (ReadError::TimedOut.into(), Code::Unavailable, "etcdserver: request timed out"),
            (
                ReadError::Busy(busy()).into(),
                Code::ResourceExhausted,
                "etcdserver: too many requests",
            ),
            (
                TransferError::NotVoter { to: 1 }.into(),
                Code::FailedPrecondition,
                "etcdserver: bad leader transferee",
            ),
            (
                TransferError::TimedOut.into(),
                Code::Unavailable,
                "etcdserver: request timed out, leader transfer took too long",
            ),
            (
                ChangeMembersError::Refused(ChangeError::Exists { id: 1 }).into(),
                Code::FailedPrecondition,
                "etcdserver: member ID already exist",
            ),
            (
                ChangeMembersError::Refused(ChangeError::Removed { id: 1 }).into(),
                Code::NotFound,
                "etcdserver: member not found",
            ),
            (
                ChangeMembersError::RefusedByRaft("last voter".into()).into(),
                Code::FailedPrecondition,
                "oarlock: refused by raft: last voter",
            ),
        ];
        for (error, code, message) in cases {
            let status = Status::from(error);
            assert_eq!((status.code(), status.message()), (code, message));
        }
    }
}
