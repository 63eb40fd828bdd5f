use std::collections::BTreeSet;

use crate::planted::planted;
use crate::record::ConfState;
use crate::{Cluster, Configuration, ConfigurationError, Member};

/// Members and raft's configuration have come apart: a bug here or in the apply loop, never an operator's fault.
///
/// Going on would make this node answer for a cluster that raft does not run: stop it, and keep its log for the
/// report. (etcd ran for years with members that only one of its two stores knew, etcd #20995.)
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("members and raft's configuration disagree: members only {members_only:x?}, raft only {raft_only:x?}, in different roles {roles:x?}{}", invalid(.illegal.as_ref()))]
pub struct Disagreement {
    /// Ids that only the member list has.
    pub members_only: Vec<u64>,
    /// Ids that only raft has.
    pub raft_only: Vec<u64>,
    /// Ids that both have, once as voter and once as learner.
    pub roles: Vec<u64>,
    /// What is wrong with raft's configuration itself, if it is.
    pub illegal: Option<ConfigurationError>,
}

fn invalid(error: Option<&ConfigurationError>) -> String {
    error.map(|error| format!("; {error}")).unwrap_or_default()
}

impl Cluster {
    /// Whether the members are those of raft's configuration, in the same roles.
    ///
    /// Of a joint configuration the incoming half counts, with outgoing voters that are to become learners as
    /// learners: that is what the members are as soon as the joint change is applied.
    ///
    /// # Errors
    /// [`Disagreement`], naming every id in question.
    pub fn agrees_with(&self, conf: &ConfState) -> Result<(), Disagreement> {
        let none =
            Disagreement { members_only: vec![], raft_only: vec![], roles: vec![], illegal: None };
        let raft = Configuration::from_conf_state(conf)
            .map_err(|error| Disagreement { illegal: Some(error), ..none.clone() })?;

        let ids = |members: &mut dyn Iterator<Item = &Member>| {
            members.map(|member| member.id).collect::<BTreeSet<u64>>()
        };
        let (voters, learners) = (ids(&mut self.voters()), ids(&mut self.learners()));
        let raft_learners = raft.learners() | raft.learners_next();
        let all = &voters | &learners;
        let raft_all = raft.voters() | &raft_learners;
        let found = Disagreement {
            members_only: (&all - &raft_all).into_iter().collect(),
            raft_only: (&raft_all - &all).into_iter().collect(),
            roles: (&(&voters & &raft_learners) | &(&learners & raft.voters()))
                .into_iter()
                .collect(),
            illegal: None,
        };
        if found == none || planted("disagreement-is-overlooked") { Ok(()) } else { Err(found) }
    }
}
