//! etcd's v3 gRPC API, the part that is served.

mod cluster;
mod error;
mod kv;
mod maintenance;
#[cfg(test)]
mod tests;
mod unserved;

use std::sync::Arc;

use tonic::{Request, Status, service::Routes};

pub(crate) use error::Error;
pub(crate) use maintenance::API_VERSION;
pub(crate) use unserved::explain_unserved;

use crate::{
    backend::Backend,
    pb::etcdserverpb::{
        ResponseHeader, cluster_server::ClusterServer, kv_server::KvServer,
        maintenance_server::MaintenanceServer,
    },
};

/// What the API refuses by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The largest request, in bytes.
    pub(crate) max_request_bytes: usize,
    /// The longest list of operations in a transaction.
    pub(crate) max_txn_ops: usize,
    /// Bytes of keys and values from which on puts are refused; `None` for no bound.
    pub(crate) quota_bytes: Option<u64>,
    /// Refuse changes of the membership that would endanger the quorum.
    pub(crate) strict_reconfig_check: bool,
}

/// gRPC frames and small fields around the largest request, as in etcd.
const MESSAGE_OVERHEAD: usize = 512 << 10;

/// The three services over one backend.
#[derive(Clone)]
pub(crate) struct Api<B> {
    backend: B,
    limits: Arc<Limits>,
}

impl<B: Backend> Api<B> {
    pub(crate) fn new(backend: B, limits: Limits) -> Self {
        Self { backend, limits: Arc::new(limits) }
    }

    /// The services, ready to be served.
    pub(crate) fn routes(self) -> Routes {
        let largest = self.limits.max_request_bytes.saturating_add(MESSAGE_OVERHEAD);
        let kv = KvServer::new(self.clone()).max_decoding_message_size(largest);
        let cluster = ClusterServer::new(self.clone());
        let maintenance = MaintenanceServer::new(self);
        Routes::new(kv).add_service(cluster).add_service(maintenance)
    }

    /// Refuses what only a leader's follower can answer: clients ask for this with the header `hasleader`.
    fn require_leader<T>(&self, request: &Request<T>) -> Result<(), Error> {
        let required = request.metadata().get("hasleader").is_some_and(|value| value == "true");
        if required && self.backend.vitals().leader == 0 { Err(Error::NoLeader) } else { Ok(()) }
    }

    /// Refuses what a learner does not serve: everything but serializable reads and its status, as in etcd.
    fn require_voter(&self) -> Result<(), Error> {
        let id = self.backend.vitals().member_id;
        let learner = self.backend.cluster().member(id).is_some_and(|member| member.is_learner);
        if learner { Err(Error::NotSupportedForLearner) } else { Ok(()) }
    }

    /// A whole header for an answer made at `revision`.
    fn header_at(&self, revision: i64) -> ResponseHeader {
        let vitals = self.backend.vitals();
        ResponseHeader {
            cluster_id: vitals.cluster_id,
            member_id: vitals.member_id,
            revision,
            raft_term: vitals.term,
        }
    }

    /// A whole header for an answer that has no revision of its own.
    fn header(&self) -> Option<ResponseHeader> {
        Some(self.header_at(self.backend.kv().state().revision()))
    }
}

/// The answer of a method.
type Answer<T> = Result<tonic::Response<T>, Status>;
