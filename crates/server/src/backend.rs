//! The seam between the API and the node: what the gRPC layer asks for, in its own words.
//!
//! [`Node`](crate::node::Node) answers it in the server; the API's tests answer it without a cluster.

use std::{future::Future, sync::Arc, time::Instant};

use bytes::Bytes;
use oarlock_membership::{Change, Cluster};

use crate::{
    api::Error,
    kv::{Published, Reply},
};

/// A few numbers about the node, at hand without asking it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vitals {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) term: u64,
    /// 0 if there is none.
    pub(crate) leader: u64,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    /// Bytes of the log.
    pub(crate) log_bytes: u64,
}

impl Vitals {
    /// Whether this member leads.
    pub(crate) fn is_leader(&self) -> bool {
        self.leader != 0 && self.leader == self.member_id
    }
}

/// What the API needs of the node.
pub(crate) trait Backend: Clone + Send + Sync + 'static {
    /// Replicates a command; resolves once this member has applied it.
    fn propose(&self, command: Bytes) -> impl Future<Output = Result<Reply, Error>> + Send;

    /// Resolves once [`kv`](Self::kv) holds everything that was acknowledged before the call (O24).
    fn read_index(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Changes the membership; resolves with the members after the change (O8).
    fn change_members(
        &self,
        change: Change,
    ) -> impl Future<Output = Result<Arc<Cluster>, Error>> + Send;

    /// Replaces a member's peer URLs.
    fn update_member(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> impl Future<Output = Result<Arc<Cluster>, Error>> + Send;

    /// Whether the leader finds that the learner has caught up far enough to vote.
    fn learner_is_ready(&self, id: u64) -> impl Future<Output = Result<(), Error>> + Send;

    /// Hands leadership over; resolves once the other leads.
    fn transfer_leader(&self, to: u64) -> impl Future<Output = Result<(), Error>> + Send;

    /// Since when this member has been connected to another without a break.
    fn active_since(&self, id: u64) -> Option<Instant>;

    /// Numbers as of now.
    fn vitals(&self) -> Vitals;

    /// Sentences about what is wrong with the node beyond a missing leader.
    fn complaints(&self) -> impl Future<Output = Vec<String>> + Send;

    /// The applied membership.
    fn cluster(&self) -> Arc<Cluster>;

    /// The applied keys.
    fn kv(&self) -> &Published;
}
