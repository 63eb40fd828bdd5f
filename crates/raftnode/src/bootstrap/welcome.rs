//! What the other members say of one that is about to begin, or to go on.
//!
//! A log alone cannot tell that another one was lost. Whoever founds a cluster a second time, with an empty log, would
//! vote again where it has voted; whoever was removed while it was down waits for ever. The members know, and say who
//! they are to whoever asks.

use std::thread;
use std::time::Duration;

use oarlock_membership::{Cluster, Member};
use oarlock_transport::query_members;

use crate::planted::planted;

/// Why a member must not begin, or go on, as the others see it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unwelcome {
    /// It was removed. Its data is of no more use: delete it, and add it again under a new id.
    #[error("member {id:x} has been permanently removed from the cluster")]
    Removed {
        /// The member.
        id: u64,
    },
    /// It has run before, and its data is gone, with what it had voted and acknowledged. Give it its own data
    /// directory; if that is lost, remove it, add it again, and let it join.
    #[error("member {id:x} has already been bootstrapped, and its data is gone")]
    AlreadyBootstrapped {
        /// The member.
        id: u64,
    },
    /// The peers run another cluster, to which it was added: join that instead of founding one.
    #[error("the peers run cluster {theirs:x}, which lists this member already")]
    ListedElsewhere {
        /// Their cluster.
        theirs: u64,
    },
    /// Everybody belongs to another cluster. Check the list of members and its token, or the data directory; to become
    /// a member of theirs it has to be added to it, and to join with an empty log.
    #[error("this member is of cluster {ours:x}, and all the peers belong to another one")]
    Strangers {
        /// Its own cluster.
        ours: u64,
    },
    /// It claims the peer URLs of another member: the data is another member's, or a copy, and two of one id would vote
    /// twice. Check the data directory; if the member has moved, tell the cluster first.
    #[error(
        "the data is of member {:x} ({}, {}), and it claims the peer URLs of member {:x} ({})",
        .own.id, .own.name, .own.peer_urls.join(","), .other.id, .other.name
    )]
    NotItsPlace {
        /// Whose data it is.
        own: Box<Member>,
        /// Whose place it claims.
        other: Box<Member>,
    },
}

/// What the members at each of these lists of URLs say of their cluster, in the same order; `None` from whoever does
/// not answer, or has not heard of anybody yet.
///
/// All are asked at once, so that it takes at most about `patience`, however many are silent. Blocks for that long.
#[must_use]
pub fn ask_members(members: &[Vec<String>], patience: Duration) -> Vec<Option<Cluster>> {
    thread::scope(|scope| {
        let named = || thread::Builder::new().name("oarlock-ask".into());
        let begin = members.iter().map(|urls| named().spawn_scoped(scope, || ask(urls, patience)));
        let asking: Vec<_> = begin.collect();
        // Without a thread to ask on it is as if there was no answer.
        asking.into_iter().map(|asking| asking.ok()?.join().ok()?).collect()
    })
}

fn ask(urls: &[String], patience: Duration) -> Option<Cluster> {
    let answer = query_members(urls, patience)
        .map_err(|error| log::debug!(error:%; "a peer does not answer"))
        .ok()?;
    let cluster = Cluster::decode(&answer)
        .map_err(|error| log::warn!(error:%, urls:?; "a peer's answer cannot be read"))
        .ok()?;
    let has_any = cluster.members().len() > 0;
    has_any.then_some(cluster)
}

/// Refuses to found a cluster that exists: its members would take this one for what it was before it lost its data, and
/// it would vote a second time (etcd issue 12227, and etcd's check of that name). Refuses as well to found one beside a
/// cluster that all the others belong to, who would never speak with this one.
///
/// `answers` are those of the other founders ([`ask_members`]). Silence is no answer: where everybody is new, nobody
/// answers. A founder counts as started once it has published client URLs
/// ([`NodeHandle::publish`](crate::NodeHandle::publish)). One that published a name alone is refused later, by the
/// peers' handshakes, for it has another birth.
///
/// # Errors
/// [`Unwelcome`].
///
/// ```no_run
/// use oarlock_raftnode::{bootstrap::{Boot, ask_members, check_not_bootstrapped}, membership::Cluster};
/// # use std::time::Duration;
/// let list = [("a", ["http://10.0.0.1:2380"]), ("b", ["http://10.0.0.2:2380"])];
/// let cluster = Cluster::from_initial("token", &list)?;
/// let id = cluster.member_by_name("a").expect("listed").id;
/// let others: Vec<_> = cluster.members().filter(|m| m.id != id).map(|m| m.peer_urls.clone()).collect();
/// check_not_bootstrapped(id, &cluster, &ask_members(&others, Duration::from_secs(1)))?;
/// let how = Boot::New { id, cluster };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn check_not_bootstrapped(
    id: u64,
    cluster: &Cluster,
    answers: &[Option<Cluster>],
) -> Result<(), Unwelcome> {
    let own_urls = cluster.member(id).map_or(&[][..], |own| &own.peer_urls[..]);
    for known in answers.iter().flatten() {
        if known.is_removed(id) {
            return Err(Unwelcome::Removed { id });
        }
        let started = known.member(id).is_some_and(|member| !member.client_urls.is_empty());
        if known.id() == cluster.id() && started && !planted("founded-a-second-time") {
            return Err(Unwelcome::AlreadyBootstrapped { id });
        }
        let listed = own_urls.iter().any(|url| known.member_by_peer_url(url).is_some());
        if known.id() != cluster.id() && listed {
            return Err(Unwelcome::ListedElsewhere { theirs: known.id() });
        }
    }
    not_among_strangers(cluster.id(), answers)
}

/// What a member takes for its own.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its cluster.
    pub cluster_id: u64,
    /// Its id.
    pub id: u64,
    /// The peer URLs that it is configured with; none if it goes by what the cluster knows.
    pub claimed: &'a [String],
}

/// Whether a member that goes on has a place among the others: it may have been removed while it was down, everybody
/// else may belong to another cluster by now, or it may have been started with another member's data directory, or a
/// copy of it.
///
/// The transport refuses the same peers by itself ([`Status::links`](crate::Status::links) shows it); this is for a
/// clear end instead of a member that waits for ever. Ask beside the running node, again and again until somebody
/// answers.
///
/// # Errors
/// What is certain by these answers.
pub fn check_welcome(own: Place<'_>, answers: &[Option<Cluster>]) -> Result<(), Unwelcome> {
    let Place { cluster_id, id, .. } = own;
    if answers.iter().flatten().any(|known| known.is_removed(id)) {
        return Err(Unwelcome::Removed { id });
    }
    check_place(own, answers)?;
    not_among_strangers(cluster_id, answers)
}

/// One of ours may be among the silent.
fn not_among_strangers(ours: u64, answers: &[Option<Cluster>]) -> Result<(), Unwelcome> {
    let strangers = || answers.iter().flatten().filter(|known| known.id() != ours);
    for theirs in strangers() {
        log::warn!(
            ours:% = format_args!("{ours:x}"), theirs:% = format_args!("{:x}", theirs.id());
            "a peer belongs to another cluster"
        );
    }
    if !answers.is_empty() && strangers().count() == answers.len() {
        return Err(Unwelcome::Strangers { ours });
    }
    Ok(())
}

/// Refuses to serve from the peer URLs of another member, if everybody says that they are another's.
///
/// One who does not may know more: a member that took over the URLs of another, by an update of both, is at home there.
fn check_place(own: Place<'_>, answers: &[Option<Cluster>]) -> Result<(), Unwelcome> {
    let ours = answers.iter().flatten().filter(|known| known.id() == own.cluster_id);
    let mut holder = None;
    for known in ours {
        let Some(listed) = known.member(own.id) else { continue }; // it has not heard of this one yet
        let holders = own.claimed.iter().filter_map(|url| known.member_by_peer_url(url));
        match holders.reduce(|first, other| if other.id == own.id { other } else { first }) {
            Some(member) if member.id != own.id => holder = Some((listed, member)),
            _ => return Ok(()),
        }
    }
    let Some((listed, other)) = holder else { return Ok(()) };
    Err(Unwelcome::NotItsPlace { own: Box::new(listed.clone()), other: Box::new(other.clone()) })
}
