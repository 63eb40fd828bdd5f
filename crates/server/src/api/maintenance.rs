//! `etcdserverpb.Maintenance`: questions an operator asks.

use tonic::{Request, Response, async_trait};

use super::{Answer, Api, Error};
use crate::{
    backend::Backend,
    pb::etcdserverpb::{
        AlarmRequest, AlarmResponse, MoveLeaderRequest, MoveLeaderResponse, StatusRequest,
        StatusResponse, alarm_request::AlarmAction, maintenance_server::Maintenance,
    },
};

/// The version of etcd's API that is spoken, with who speaks it in the part that clients do not compare.
pub(crate) const API_VERSION: &str = concat!("3.5.0+oarlock-", env!("CARGO_PKG_VERSION"));

#[async_trait]
impl<B: Backend> Maintenance for Api<B> {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Answer<AlarmResponse> {
        match request.into_inner().action() {
            AlarmAction::Get | AlarmAction::Deactivate => {
                Ok(Response::new(AlarmResponse { header: self.header(), alarms: Vec::new() }))
            }
            AlarmAction::Activate => Err(tonic::Status::unimplemented(
                "oarlock: alarms cannot be raised yet; listing them works",
            )),
        }
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        let vitals = self.backend.vitals();
        let cluster = self.backend.cluster();
        let state = self.backend.kv().state();
        let mut errors = self.backend.complaints().await;
        if vitals.leader == 0 {
            errors.insert(0, Error::NoLeader.to_string());
        }
        let held = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(Response::new(StatusResponse {
            header: Some(self.header_at(state.revision())),
            version: API_VERSION.to_owned(),
            db_size: held(vitals.log_bytes + state.bytes()),
            leader: vitals.leader,
            raft_index: vitals.committed,
            raft_term: vitals.term,
            raft_applied_index: vitals.applied,
            errors,
            db_size_in_use: held(state.bytes()),
            is_learner: cluster.member(vitals.member_id).is_some_and(|member| member.is_learner),
        }))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Answer<MoveLeaderResponse> {
        self.require_voter()?;
        let to = request.into_inner().target_id;
        if !self.backend.vitals().is_leader() {
            return Err(Error::NotLeader.into());
        }
        let is_voter = self.backend.cluster().member(to).is_some_and(|member| member.is_voter());
        if !is_voter {
            return Err(Error::BadTransferee.into());
        }
        self.backend.transfer_leader(to).await?;
        Ok(Response::new(MoveLeaderResponse { header: self.header() }))
    }
}
