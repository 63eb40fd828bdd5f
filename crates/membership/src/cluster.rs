use std::collections::{BTreeMap, BTreeSet};

use crate::initial::{InitialError, founding_members};
use crate::planted::planted;
use crate::{Change, ChangeEntry, Configuration, ConfigurationError, Member, cluster_id};

/// How many learners a cluster allows unless told otherwise, as in etcd.
pub const DEFAULT_MAX_LEARNERS: u64 = 1;

/// The applied membership: who is in, and who was and can never be again.
///
/// It changes only by what the log says, so it is the same on every member at the same index. It stands beside raft's
/// [`Configuration`] (which knows ids and roles, but no URLs and no past) and agrees with it after every entry:
/// [`Cluster::agrees_with`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub(crate) id: u64,
    pub(crate) members: BTreeMap<u64, Member>,
    pub(crate) removed: BTreeSet<u64>,
    pub(crate) max_learners: u64,
    pub(crate) epoch: u64,
}

/// Why a change is refused. Nothing was changed; every member refuses it alike.
///
/// The order in which objections are looked for is etcd's (`ValidateConfigurationChange` in
/// `server/etcdserver/api/membership/cluster.go`), so that clients meet the same one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// 0 is nobody's id.
    #[error("0 is nobody's id")]
    ZeroId,
    /// The id was removed for good. A node that comes back needs an empty data directory and a new id.
    #[error("member {id:x} was removed from the cluster for good")]
    Removed {
        /// The id.
        id: u64,
    },
    /// There is such a member already.
    #[error("member {id:x} exists already")]
    Exists {
        /// The id.
        id: u64,
    },
    /// A peer URL belongs to another member.
    #[error("peer URL {url} belongs to member {owner:x}")]
    UrlInUse {
        /// The URL.
        url: String,
        /// Whose it is.
        owner: u64,
    },
    /// Promote or remove a learner first.
    #[error("the cluster has its {max} learners already")]
    TooManyLearners {
        /// How many it allows.
        max: u64,
    },
    /// There is no such member, and never was.
    #[error("no member {id:x}")]
    Unknown {
        /// The id.
        id: u64,
    },
    /// Only a learner can be promoted.
    #[error("member {id:x} is a voter already")]
    NotLearner {
        /// The id.
        id: u64,
    },
    /// Nobody would be left to vote.
    #[error("member {id:x} is the last voter")]
    LastVoter {
        /// The id.
        id: u64,
    },
    /// Raft's own rules forbid it.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
}

/// What a change did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A new member.
    Added(Member),
    /// A learner became this voter.
    Promoted(Member),
    /// This member is gone for good. In a joint configuration raft may still need it until that is left: stop
    /// sending to it once [`Configuration::contains`] says no.
    Removed(Member),
    /// An order found everything as it should be.
    Unchanged,
}

/// What an entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedEntry {
    /// Raft's configuration from here on.
    pub configuration: Configuration,
    /// One for each step.
    pub applied: Vec<Applied>,
}

impl Cluster {
    /// A cluster without members, before its first entry.
    #[must_use]
    pub fn new(id: u64) -> Self {
        Self {
            id,
            members: BTreeMap::new(),
            removed: BTreeSet::new(),
            max_learners: DEFAULT_MAX_LEARNERS,
            epoch: 0,
        }
    }

    /// The cluster that a list of names and peer URLs founds, as `--initial-cluster` gives it: ids as etcd's, all
    /// members voters.
    ///
    /// This is what it will be; the applied view starts from [`Cluster::new`] and gets there by applying
    /// [`Cluster::founding_entries`].
    ///
    /// # Errors
    /// [`InitialError`]: an empty list, a name, URL or id twice, a member without URL, a malformed URL.
    pub fn from_initial<N, L, U>(token: &str, members: &[(N, L)]) -> Result<Self, InitialError>
    where
        N: AsRef<str>,
        L: AsRef<[U]>,
        U: AsRef<str>,
    {
        let members = founding_members(token, members)?;
        let id = cluster_id(members.iter().map(|member| member.id));
        let members = members.into_iter().map(|member| (member.id, member)).collect();
        Ok(Self { members, ..Self::new(id) })
    }

    /// Allows this many learners at a time.
    ///
    /// The limit decides what is refused at apply, so it must be the same on every member: set it when the cluster is
    /// founded and leave it alone.
    #[must_use]
    pub fn with_max_learners(self, max_learners: u64) -> Self {
        Self { max_learners, ..self }
    }

    /// The cluster's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Gives the cluster another id, after a rescue: see [`StandalonePlan::cluster_id`](crate::StandalonePlan).
    pub fn set_id(&mut self, id: u64) {
        self.id = id;
    }

    /// The members, ascending by id.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> + Clone {
        self.members.values()
    }

    /// The members that vote, ascending by id.
    pub fn voters(&self) -> impl Iterator<Item = &Member> + Clone {
        self.members().filter(|member| !member.is_learner)
    }

    /// The members that do not vote, ascending by id.
    pub fn learners(&self) -> impl Iterator<Item = &Member> + Clone {
        self.members().filter(|member| member.is_learner)
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The first member with this name. Names are what members say of themselves, so two can have the same.
    #[must_use]
    pub fn member_by_name(&self, name: &str) -> Option<&Member> {
        self.members().find(|member| member.name == name)
    }

    /// The member that this peer URL belongs to.
    #[must_use]
    pub fn member_by_peer_url(&self, url: &str) -> Option<&Member> {
        self.members().find(|member| member.peer_urls.iter().any(|known| known == url))
    }

    /// Whether this id was a member and is gone for good.
    #[must_use]
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// The ids that are gone for good.
    #[must_use]
    pub fn removed(&self) -> &BTreeSet<u64> {
        &self.removed
    }

    /// How many learners the cluster allows at a time.
    #[must_use]
    pub fn max_learners(&self) -> u64 {
        self.max_learners
    }

    /// The newest rescue whose orders were applied; 0 if there was none.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether a change can be applied now. A proposer asks to answer early; what counts is the same question at
    /// apply, when others' changes may have come first.
    ///
    /// # Errors
    /// The first objection, in etcd's order.
    pub fn validate(&self, change: &Change) -> Result<(), ChangeError> {
        self.objection(change)?;
        match change {
            Change::Remove(id)
                if !self.voters().any(|voter| voter.id != *id) && !planted("nobody-votes") =>
            {
                Err(ChangeError::LastVoter { id: *id })
            }
            _ => Ok(()),
        }
    }

    /// Applies a single change, or refuses it and stays as it is.
    ///
    /// # Errors
    /// As [`Cluster::validate`].
    pub fn apply(&mut self, change: &Change) -> Result<Applied, ChangeError> {
        self.validate(change)?;
        Ok(self.take(change))
    }

    /// Whether an entry can be applied now, given raft's configuration.
    ///
    /// # Errors
    /// As [`Cluster::apply_entry`].
    pub fn validate_entry(
        &self,
        configuration: &Configuration,
        entry: &ChangeEntry,
    ) -> Result<(), ChangeError> {
        self.clone().apply_entry(configuration, entry).map(drop)
    }

    /// Applies a whole entry, or refuses it and stays as it is: every step in order, and raft's own rules on
    /// `configuration`, the one before the entry.
    ///
    /// A refused entry must not be given to raft. An accepted one must be, and raft's configuration is the returned
    /// one afterwards.
    ///
    /// A [rescue](crate::StandalonePlan)'s entry is an order. It meets none of the objections to a request: a removed
    /// id comes back, a change that is done already is no error, and a removal is remembered whether or not the member
    /// was known. Only raft's own rules and the last voter still hold.
    ///
    /// # Errors
    /// The first objection of the first step that meets one, [`ChangeError::LastVoter`] if the entry as a whole
    /// leaves no voter, [`ChangeError::Configuration`] if raft would refuse it.
    pub fn apply_entry(
        &mut self,
        configuration: &Configuration,
        entry: &ChangeEntry,
    ) -> Result<AppliedEntry, ChangeError> {
        let mut next = self.clone();
        let mut applied = Vec::with_capacity(entry.changes.len());
        for change in &entry.changes {
            applied.push(match entry.rescue {
                Some(_) => next.obey(change)?,
                None => {
                    next.objection(change)?;
                    next.take(change)
                }
            });
            if planted("half-a-change-is-taken") {
                *self = next.clone();
            }
        }
        // Checked on the whole: a joint change may well replace the only voter.
        let removal = entry.changes.iter().rfind(|change| matches!(change, Change::Remove(_)));
        if let (None, Some(removal)) = (next.voters().next(), removal) {
            return Err(ChangeError::LastVoter { id: removal.id() });
        }
        let configuration = configuration.changed(&entry.to_v2())?;
        next.epoch = next.epoch.max(entry.rescue.unwrap_or(0));
        *self = next;
        Ok(AppliedEntry { configuration, applied })
    }

    /// Records what a member says of itself once it has started: its name and where clients reach it.
    ///
    /// # Errors
    /// [`ChangeError::Removed`], [`ChangeError::Unknown`]: nobody to record it for, nothing changed.
    pub fn update_attributes(
        &mut self,
        id: u64,
        name: &str,
        client_urls: &[String],
    ) -> Result<(), ChangeError> {
        let member = self.known(id)?;
        member.name = name.to_string();
        member.client_urls = client_urls.to_vec();
        Ok(())
    }

    /// Records where a member is reached from now on. Only its peer URLs change: an update that replaced the member
    /// would forget that it is a learner (etcd #21694).
    ///
    /// # Errors
    /// [`ChangeError::Removed`], [`ChangeError::Unknown`], [`ChangeError::UrlInUse`]; nothing changed.
    pub fn update_peer_urls(&mut self, id: u64, peer_urls: &[String]) -> Result<(), ChangeError> {
        self.known(id)?;
        self.url_objection(id, peer_urls)?;
        let member = self.known(id)?;
        member.peer_urls = crate::member::sorted(peer_urls);
        if planted("an-update-makes-a-voter") {
            member.is_learner = false;
        }
        Ok(())
    }

    fn known(&mut self, id: u64) -> Result<&mut Member, ChangeError> {
        if self.is_removed(id) {
            return Err(ChangeError::Removed { id });
        }
        self.members.get_mut(&id).ok_or(ChangeError::Unknown { id })
    }

    /// What speaks against a step, the last voter apart.
    fn objection(&self, change: &Change) -> Result<(), ChangeError> {
        let id = change.id();
        if id == 0 {
            return Err(ChangeError::ZeroId);
        }
        if self.is_removed(id) && !planted("the-removed-come-back") {
            return Err(ChangeError::Removed { id });
        }
        match (change, self.member(id)) {
            (Change::AddVoter(_) | Change::AddLearner(_), Some(_)) => {
                Err(ChangeError::Exists { id })
            }
            (Change::AddVoter(member), None) => self.url_objection(id, &member.peer_urls),
            (Change::AddLearner(member), None) => {
                self.url_objection(id, &member.peer_urls)?;
                let max = self.max_learners;
                let full =
                    self.learners().count() as u64 >= max && !planted("learners-without-bound");
                if full { Err(ChangeError::TooManyLearners { max }) } else { Ok(()) }
            }
            (Change::Promote(_) | Change::Remove(_), None) => Err(ChangeError::Unknown { id }),
            (Change::Promote(_), Some(member)) if !member.is_learner => {
                Err(ChangeError::NotLearner { id })
            }
            (Change::Promote(_) | Change::Remove(_), Some(_)) => Ok(()),
        }
    }

    fn url_objection(&self, id: u64, peer_urls: &[String]) -> Result<(), ChangeError> {
        for url in peer_urls {
            if let Some(owner) =
                self.members().find(|other| other.id != id && other.peer_urls.contains(url))
                && !planted("two-at-one-url")
            {
                return Err(ChangeError::UrlInUse { url: url.clone(), owner: owner.id });
            }
        }
        Ok(())
    }

    /// Takes a step that nothing speaks against.
    fn take(&mut self, change: &Change) -> Applied {
        match change {
            Change::AddVoter(member) => self.add(Member { is_learner: false, ..member.clone() }),
            Change::AddLearner(member) => self.add(Member { is_learner: true, ..member.clone() }),
            Change::Promote(id) => match self.members.get_mut(id) {
                Some(member) if member.is_learner => {
                    member.is_learner = false;
                    Applied::Promoted(member.clone())
                }
                _ => Applied::Unchanged,
            },
            Change::Remove(id) => {
                self.removed.insert(*id);
                self.members.remove(id).map_or(Applied::Unchanged, Applied::Removed)
            }
        }
    }

    fn add(&mut self, member: Member) -> Applied {
        self.members.insert(member.id, member.clone());
        Applied::Added(member)
    }

    /// Takes a step that a rescue orders, whatever speaks against it.
    fn obey(&mut self, change: &Change) -> Result<Applied, ChangeError> {
        let id = change.id();
        if id == 0 {
            return Err(ChangeError::ZeroId);
        }
        Ok(match (change, self.member(id)) {
            (Change::AddVoter(_), Some(_)) => self.take(&Change::Promote(id)),
            (Change::AddLearner(_), Some(_)) => Applied::Unchanged,
            (Change::AddVoter(_) | Change::AddLearner(_), None) => {
                self.removed.remove(&id);
                self.take(change)
            }
            (Change::Promote(_), None) => return Err(ChangeError::Unknown { id }),
            (Change::Promote(_) | Change::Remove(_), _) => self.take(change),
        })
    }
}
