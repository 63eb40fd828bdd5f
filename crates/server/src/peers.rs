//! What the other members say before this one has started.

use std::{
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use oarlock_membership::{Cluster, JoinError, Member, match_peers};
use oarlock_transport::query_members;

use crate::{
    config::Config,
    exit::{Failure, Kind},
};

/// How long one member may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a joiner waits until the members agree that it was added: not all of them apply the change at once.
const JOIN: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(200);

/// The cluster as the member at `urls` has applied it; `None` if nobody there says.
fn ask(urls: &[String]) -> Option<Cluster> {
    let answer: Bytes = query_members(urls, ANSWER)
        .map_err(|error| log::debug!(error:%; "a peer does not answer"))
        .ok()?;
    Cluster::decode(&answer)
        .map_err(|error| log::warn!(error:%, urls:? = urls; "a peer's answer cannot be read"))
        .ok()
}

/// The answers of all `members`, asked at once: silence costs the same however many are silent.
fn ask_all(members: &[Vec<String>]) -> Vec<Option<Cluster>> {
    thread::scope(|scope| {
        let asking: Vec<_> = members.iter().map(|urls| scope.spawn(|| ask(urls))).collect();
        asking.into_iter().map(|answer| answer.join().ok().flatten()).collect()
    })
}

/// Refuses to found a cluster that exists: its members would take this one for what it was before it lost its data, and
/// it would vote a second time (etcd issue 12227).
///
/// # Errors
/// A member that answers has seen this one before (exit 78).
pub(crate) fn check_not_bootstrapped(
    config: &Config,
    cluster: &Cluster,
    id: u64,
) -> Result<(), Failure> {
    let others = config.initial_cluster.iter().filter(|(name, _)| *name != config.name);
    let others: Vec<_> = others.map(|(_, urls)| urls.clone()).collect();
    for known in ask_all(&others).into_iter().flatten() {
        if known.is_removed(id) {
            return Err(crate::fault::removed());
        }
        let started = known.member(id).is_some_and(|member| !member.client_urls.is_empty());
        if known.id() == cluster.id() && started {
            let error =
                format_args!("member {id:x} has already been bootstrapped, and its data is gone");
            return Err(Failure::new(Kind::NotMember, error).help(
                "if the data directory was moved, give its --data-dir; if it is lost, remove the member (etcdctl \
                 member remove), add it again and start it with --initial-cluster-state existing",
            ));
        }
        let listed =
            config.advertise_peer.iter().any(|url| known.member_by_peer_url(url).is_some());
        if known.id() != cluster.id() && listed {
            let error = format_args!(
                "the peers run cluster {:x}, which lists this member already",
                known.id()
            );
            return Err(Failure::new(Kind::NotMember, error).help(
                "join it with --initial-cluster-state existing instead of founding another one",
            ));
        }
    }
    Ok(())
}

/// Finds this process among the members of the running cluster that its peers belong to.
///
/// # Errors
/// Nobody answers, or the members do not list this one as its flags do.
pub(crate) fn join(config: &Config) -> Result<(Member, Cluster), Failure> {
    let urls = config.other_peer_urls();
    if urls.is_empty() {
        return Err(Failure::new(
            Kind::Usage,
            "--initial-cluster lists nobody who could be asked about the cluster",
        )
        .help("list the members as `etcdctl member add` printed them"));
    }
    let deadline = Instant::now() + JOIN;
    loop {
        let failure = match ask(&urls) {
            None => Failure::new(
                Kind::InUse,
                "cannot fetch cluster information: none of the other members answers",
            )
            .help("start the members listed in --initial-cluster first, or correct their URLs"),
            Some(cluster) => {
                let members: Vec<Member> = cluster.members().cloned().collect();
                match match_peers(&config.initial_cluster, &members, &config.name) {
                    Ok(own) => return Ok((own, cluster)),
                    Err(error) => join_failure(&error),
                }
            }
        };
        if Instant::now() >= deadline {
            return Err(failure);
        }
        thread::sleep(AGAIN);
    }
}

fn join_failure(error: &JoinError) -> Failure {
    let add =
        "add the member first (etcdctl member add) and use the --initial-cluster that it prints";
    match error {
        JoinError::Initial(_) | JoinError::NotListed { .. } => Failure::from_error(Kind::Usage, error).help(add),
        JoinError::AlreadyStarted { .. } => Failure::from_error(Kind::NotMember, error)
            .help("if the data directory was moved, give its --data-dir; if it is lost, do as the error says"),
        other => Failure::from_error(Kind::NotMember, other).help(add),
    }
}

/// Refuses to go on where this member has no place: it was removed while it was down, or everybody else belongs to
/// another cluster.
///
/// # Errors
/// What the others say (exit 78). Silence is no objection.
pub(crate) fn check_welcome(
    cluster_id: u64,
    id: u64,
    others: &[Vec<String>],
) -> Result<(), Failure> {
    let answers = ask_all(others);
    let mut foreign = None;
    for known in answers.iter().flatten() {
        if known.is_removed(id) {
            return Err(crate::fault::removed());
        }
        if known.id() != cluster_id {
            log::warn!(
                ours:% = format_args!("{cluster_id:x}"), theirs:% = format_args!("{:x}", known.id());
                "a peer belongs to another cluster"
            );
            foreign = Some(known.id());
        }
    }
    let all_foreign =
        answers.iter().all(|answer| answer.as_ref().is_some_and(|known| known.id() != cluster_id));
    match foreign {
        Some(theirs) if all_foreign => {
            let error = format_args!(
                "the data is of cluster {cluster_id:x}, all the peers belong to cluster {theirs:x}"
            );
            Err(Failure::new(Kind::NotMember, error).help(
                "check --data-dir; if the other cluster replaced this one, start with an empty directory after \
                 `etcdctl member add`",
            ))
        }
        _ => Ok(()),
    }
}
