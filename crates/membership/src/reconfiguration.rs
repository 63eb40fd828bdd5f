use crate::planted::planted;
use crate::{Cluster, Member};

/// Too few members could take part after a change for the cluster to go on.
///
/// Start the members that are down first, or remove one of those instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "after the change {needed} of {voters} voters are needed, and only {counting} are known to take part"
)]
pub struct NotReady {
    /// Voters after the change.
    pub voters: usize,
    /// How many of them make a majority.
    pub needed: usize,
    /// How many of them count.
    pub counting: usize,
}

/// Strict reconfiguration: is there still a majority *after* the change?
///
/// Each function takes who counts. Asked with [`Member::is_started`] they are etcd's static guards
/// (`IsReadyToAddVotingMember` and siblings in `server/etcdserver/api/membership/cluster.go`); asked with who is
/// connected, they are its live ones (`mayAddMember` and siblings in `server/etcdserver/server.go`), for which etcd
/// has arithmetic of its own. A proposer should ask both. They are advice to one proposer at one moment, not part of
/// what every member checks at apply.
///
/// Where they differ from etcd: a learner that is promoted must count like anybody else (etcd takes it as started);
/// removing a learner, which changes no majority, is always fine; and the live answer is computed after the change
/// from the start (etcd asked for *every* voter before an addition, etcd #21667).
impl Cluster {
    /// Whether a voter may be added: the present voters that count make a majority even if the new one never starts.
    ///
    /// A single voter that counts may always get a second one, else no cluster could grow; the new one must start
    /// then.
    ///
    /// # Errors
    /// [`NotReady`].
    pub fn ready_to_add_voter(&self, counts: impl Fn(&Member) -> bool) -> Result<(), NotReady> {
        let voters = self.voters().count();
        let counting = self.voters().filter(|voter| counts(voter)).count();
        if voters == 1 && counting == 1 { Ok(()) } else { majority(voters + 1, counting) }
    }

    /// Whether a member may be removed: the remaining voters that count make a majority of the remaining ones.
    ///
    /// Yes for a learner, and for an unknown id, which [`Cluster::validate`] refuses.
    ///
    /// # Errors
    /// [`NotReady`].
    pub fn ready_to_remove(
        &self,
        id: u64,
        counts: impl Fn(&Member) -> bool,
    ) -> Result<(), NotReady> {
        if self.member(id).is_none_or(|member| member.is_learner) {
            return Ok(());
        }
        let remaining = self.voters().filter(|voter| voter.id != id);
        let still = usize::from(planted("counted-before-the-change"));
        majority(remaining.clone().count() + still, remaining.filter(|voter| counts(voter)).count())
    }

    /// Whether a learner may become a voter: the voters that count, with it if it counts, make a majority of all.
    ///
    /// Whether it has caught up is another question, which only the leader can answer.
    ///
    /// # Errors
    /// [`NotReady`].
    pub fn ready_to_promote(
        &self,
        id: u64,
        counts: impl Fn(&Member) -> bool,
    ) -> Result<(), NotReady> {
        let others = self.voters().filter(|voter| voter.id != id);
        let after = others.clone().count() + 1;
        majority(after, others.chain(self.member(id)).filter(|member| counts(member)).count())
    }
}

fn majority(voters: usize, counting: usize) -> Result<(), NotReady> {
    let needed = voters / 2 + 1;
    if counting >= needed { Ok(()) } else { Err(NotReady { voters, needed, counting }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Change;

    /// A cluster with one member per character: `V` and `v` are voters, `L` and `l` learners, started if upper case.
    /// Ids count from 1.
    fn cluster(members: &str) -> Cluster {
        let mut cluster = Cluster::new(1).with_max_learners(9);
        for (id, member) in (1..).zip(members.chars()) {
            let name = if member.is_uppercase() { format!("m{id}") } else { String::new() };
            let added = Member { id, name, ..Member::default() };
            let learner = member.eq_ignore_ascii_case(&'l');
            cluster
                .apply(&if learner { Change::AddLearner(added) } else { Change::AddVoter(added) })
                .expect("a new id");
        }
        cluster
    }

    /// etcd's TestIsReadyToAddVotingMember.
    #[test]
    fn a_voter_is_added_only_if_the_others_suffice() {
        for (members, ready) in [
            ("vvv", false),
            ("Vv", false),
            ("Vvv", false),
            ("V", true),
            ("VVv", false),
            ("VVV", true),
            ("VVVv", true),
            ("", false),
            ("VVll", true),
            ("VvLL", false),
        ] {
            assert_eq!(
                cluster(members).ready_to_add_voter(Member::is_started).is_ok(),
                ready,
                "{members:?}"
            );
        }
        assert_eq!(
            cluster("VVv").ready_to_add_voter(Member::is_started),
            Err(NotReady { voters: 4, needed: 3, counting: 2 })
        );
        assert!(
            cluster("v").ready_to_add_voter(Member::is_started).is_err(),
            "the only voter has to count"
        );
    }

    /// etcd's TestIsReadyToRemoveVotingMember; the last two rows are ours.
    #[test]
    fn a_voter_is_removed_only_if_the_rest_suffices() {
        for (members, id, ready) in [
            ("V", 1, false),
            ("vvv", 1, false),
            ("Vv", 2, true),
            ("Vv", 1, false),
            ("VVv", 2, false),
            ("VVv", 3, true),
            ("VVV", 3, true),
            ("VVVv", 4, true),
            ("VVVv", 1, true),
            ("Vl", 1, false),
            ("VvL", 1, false),
            ("Vvl", 2, true),
            ("VVVl", 3, true),
            ("vvl", 3, true),
            ("v", 7, true),
        ] {
            assert_eq!(
                cluster(members).ready_to_remove(id, Member::is_started).is_ok(),
                ready,
                "{members:?} {id}"
            );
        }
    }

    /// etcd's TestIsReadyToPromoteMember; the last row is where we are stricter.
    #[test]
    fn a_learner_is_promoted_only_if_a_majority_of_all_is_there() {
        for (members, id, ready) in [
            ("VL", 2, true),
            ("vL", 2, false),
            ("VVL", 3, true),
            ("VvL", 3, true),
            ("VvvL", 4, false),
            ("VVvL", 4, true),
            ("VVvvL", 5, true),
            ("VvvvL", 5, false),
            ("Vl", 2, false),
        ] {
            assert_eq!(
                cluster(members).ready_to_promote(id, Member::is_started).is_ok(),
                ready,
                "{members:?} {id}"
            );
        }
    }

    #[test]
    fn who_counts_is_up_to_the_caller() {
        let three = cluster("VVV");
        let connected = |member: &Member| member.id != 3;
        assert!(three.ready_to_remove(3, connected).is_ok(), "the one that is down may go");
        assert!(three.ready_to_remove(1, connected).is_err(), "one of two that are up may not");
    }
}
