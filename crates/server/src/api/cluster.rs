//! `etcdserverpb.Cluster`: changes of the membership, with etcd's checks before they are proposed.
//!
//! These checks are advice, made from one member's view; what is decided is decided when the change is applied, on
//! every member alike.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oarlock_membership::{Change, Cluster, Member, NotReady, check_peer_url};
use oarlock_transport::check_peer_urls;
use tonic::{Request, Response, async_trait};

use super::{Answer, Api, Error};
use crate::{
    backend::Backend,
    pb::etcdserverpb::{
        self as pb, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
        MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
        MemberUpdateRequest, MemberUpdateResponse, cluster_server::Cluster as Service,
    },
};

/// A voter counts as healthy once it has been connected for so long, as in etcd (`HealthInterval`).
const HEALTHY_AFTER: Duration = Duration::from_secs(5);

#[async_trait]
impl<B: Backend> Service for Api<B> {
    async fn member_add(&self, request: Request<MemberAddRequest>) -> Answer<MemberAddResponse> {
        self.require_voter()?;
        let request = request.into_inner();
        check_urls(&request.peer_ur_ls)?;
        // The time goes into the id, so that the same URLs can be added again after a removal.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let member = Member::joining(request.peer_ur_ls, now);
        let id = member.id;
        let change = if request.is_learner {
            Change::AddLearner(Member { is_learner: true, ..member })
        } else {
            let cluster = self.backend.cluster();
            self.guard(|counts| cluster.ready_to_add_voter(counts))?;
            Change::AddVoter(member)
        };
        let cluster = self.backend.change_members(change).await?;
        Ok(Response::new(MemberAddResponse {
            header: self.header(),
            member: cluster.member(id).map(member_pb),
            members: members_pb(&cluster),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Answer<MemberRemoveResponse> {
        self.require_voter()?;
        let id = request.into_inner().id;
        let cluster = self.backend.cluster();
        let member = cluster.member(id).ok_or(Error::MemberNotFound)?;
        let own = self.backend.vitals().member_id;
        if member.is_voter() && id != own && self.backend.active_since(id).is_none() {
            // Removing a member that is gone can only help the others: only the static question is asked.
            self.static_guard(|counts| cluster.ready_to_remove(id, counts))?;
        } else {
            self.guard(|counts| cluster.ready_to_remove(id, counts))?;
        }
        let cluster = self.backend.change_members(Change::Remove(id)).await?;
        Ok(Response::new(MemberRemoveResponse {
            header: self.header(),
            members: members_pb(&cluster),
        }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Answer<MemberUpdateResponse> {
        self.require_voter()?;
        let request = request.into_inner();
        check_urls(&request.peer_ur_ls)?;
        let cluster = self.backend.update_member(request.id, request.peer_ur_ls).await?;
        Ok(Response::new(MemberUpdateResponse {
            header: self.header(),
            members: members_pb(&cluster),
        }))
    }

    async fn member_list(&self, request: Request<MemberListRequest>) -> Answer<MemberListResponse> {
        self.require_voter()?;
        if request.into_inner().linearizable {
            self.backend.read_index().await?; // O24
        }
        Ok(Response::new(MemberListResponse {
            header: self.header(),
            members: members_pb(&self.backend.cluster()),
        }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Answer<MemberPromoteResponse> {
        self.require_voter()?;
        let id = request.into_inner().id;
        let cluster = self.backend.cluster();
        let member = cluster.member(id).ok_or(Error::MemberNotFound)?;
        if member.is_voter() {
            return Err(Error::NotLearner.into());
        }
        self.guard(|counts| cluster.ready_to_promote(id, counts))?;
        self.backend.learner_is_ready(id).await?;
        let cluster = self.backend.change_members(Change::Promote(id)).await?;
        Ok(Response::new(MemberPromoteResponse {
            header: self.header(),
            members: members_pb(&cluster),
        }))
    }
}

impl<B: Backend> Api<B> {
    /// Strict reconfiguration: the members that have ever started make a quorum of what comes after the change, and
    /// so do those that have been connected for a while. Counted after the change, so that one dead member does not
    /// forbid its replacement (etcd issue 21667).
    fn guard(
        &self,
        ask: impl Fn(&dyn Fn(&Member) -> bool) -> Result<(), NotReady>,
    ) -> Result<(), Error> {
        self.static_guard(&ask)?;
        let own = self.backend.vitals().member_id;
        let since = |id| self.backend.active_since(id);
        let healthy = |member: &Member| {
            member.id == own
                || since(member.id).is_some_and(|since| since.elapsed() >= HEALTHY_AFTER)
        };
        self.strictly(ask(&healthy), Error::Unhealthy)
    }

    /// The first half of [`guard`](Self::guard).
    fn static_guard(
        &self,
        ask: impl Fn(&dyn Fn(&Member) -> bool) -> Result<(), NotReady>,
    ) -> Result<(), Error> {
        self.strictly(ask(&Member::is_started), Error::NotEnoughStarted)
    }

    fn strictly(&self, answer: Result<(), NotReady>, error: Error) -> Result<(), Error> {
        match answer {
            Err(reason) if self.limits.strict_reconfig_check => {
                log::warn!(reason:%; "refused a change of the membership");
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

/// etcd's check of URLs given at run time; and ours, that the other members can dial them.
fn check_urls(urls: &[String]) -> Result<(), Error> {
    let good = urls.iter().all(|url| check_peer_url(url).is_ok());
    if good && check_peer_urls(0, urls).is_ok() { Ok(()) } else { Err(Error::BadUrls) }
}

fn members_pb(cluster: &Cluster) -> Vec<pb::Member> {
    cluster.members().map(member_pb).collect()
}

fn member_pb(member: &Member) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}
