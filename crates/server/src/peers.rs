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

/// How long one member may take to answer. It may be starting too: then it listens, and does not answer yet.
const ANSWER: Duration = Duration::from_secs(1);
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
/// And refuses to found one beside a cluster that all the others belong to: they would never speak with this one.
///
/// # Errors
/// A member that answers has seen this one before, or all are of another cluster (exit 78).
pub(crate) fn check_not_bootstrapped(
    config: &Config,
    cluster: &Cluster,
    id: u64,
) -> Result<(), Failure> {
    let others = config.initial_cluster.iter().filter(|(name, _)| *name != config.name);
    let others: Vec<_> = others.map(|(_, urls)| urls.clone()).collect();
    judge_founding(config, cluster, id, &ask_all(&others))
}

fn judge_founding(
    config: &Config,
    cluster: &Cluster,
    id: u64,
    answers: &[Option<Cluster>],
) -> Result<(), Failure> {
    for known in answers.iter().flatten() {
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
    let stranger = |known: &&Cluster| known.id() != cluster.id();
    let strangers = answers.iter().flatten().filter(stranger).count();
    if strangers == answers.len() && strangers > 0 {
        let error = format_args!(
            "the flags found cluster {:x}, and all the peers belong to another one",
            cluster.id()
        );
        return Err(Failure::new(Kind::NotMember, error).help(
            "check --initial-cluster and --initial-cluster-token; to become a member of theirs, `etcdctl member add` \
             it and start it with --initial-cluster-state existing",
        ));
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

/// Asks the other members, again and again until one of them says something, whether this one has a place among them:
/// it may have been removed while it was down, or everybody else may belong to another cluster by now. The transport
/// refuses the same peers by itself; this is for a clear end instead of a member that waits for ever.
///
/// # Errors
/// What the others say (exit 78).
pub(crate) fn check_welcome(
    cluster_id: u64,
    id: u64,
    others: &[Vec<String>],
    stopping: &dyn Fn() -> bool,
) -> Result<(), Failure> {
    while !others.is_empty() && !stopping() {
        let answers = ask_all(others);
        if answers.iter().any(Option::is_some) {
            return judge_welcome(cluster_id, id, &answers);
        }
        thread::sleep(AGAIN);
    }
    Ok(())
}

fn judge_welcome(cluster_id: u64, id: u64, answers: &[Option<Cluster>]) -> Result<(), Failure> {
    let mut strangers = 0;
    for known in answers.iter().flatten() {
        if known.is_removed(id) {
            return Err(crate::fault::removed());
        }
        if known.id() != cluster_id {
            strangers += 1;
            log::warn!(
                ours:% = format_args!("{cluster_id:x}"), theirs:% = format_args!("{:x}", known.id());
                "a peer belongs to another cluster"
            );
        }
    }
    if strangers < answers.len() {
        return Ok(()); // one of ours may be among the silent
    }
    let error = format_args!(
        "the data is of cluster {cluster_id:x}, and all the peers belong to another one"
    );
    Err(Failure::new(Kind::NotMember, error).help(
        "check --data-dir; if the other cluster replaced this one, start with an empty directory after \
         `etcdctl member add`",
    ))
}

#[cfg(test)]
mod tests {
    use oarlock_membership::Change;

    use super::*;
    use crate::cli;

    #[test]
    fn nobody_founds_a_cluster_alone_among_strangers() {
        let line = "oarlock --name a --initial-advertise-peer-urls http://h1:1 \
                    --initial-cluster a=http://h1:1,b=http://h2:1,c=http://h3:1";
        let args = line.split_whitespace().map(String::from);
        let config = Config::new(&cli::parse(args, []).expect("flags").cli.serve).expect("valid");
        let cluster = Cluster::from_initial(&config.token, &config.initial_cluster).expect("valid");
        let id = cluster.member_by_name("a").expect("listed").id;
        let (ours, strangers) = (Some(cluster.clone()), Some(Cluster::new(2)));
        let cases: [(&[Option<Cluster>], bool); 5] = [
            (&[], true), // alone on purpose
            (&[None, None], true),
            (&[strangers.clone(), None], true), // the silent one may be ours
            (&[strangers.clone(), ours], true),
            (&[strangers.clone(), strangers], false),
        ];
        for (answers, good) in cases {
            let judged = judge_founding(&config, &cluster, id, answers);
            assert_eq!(judged.is_ok(), good, "{answers:?}");
            if let Err(failure) = judged {
                assert!(failure.text().contains("all the peers belong to another one"));
                assert_eq!(failure.kind(), Kind::NotMember);
            }
        }
    }

    #[test]
    fn only_what_is_certain_ends_a_member() {
        let ours = Some(Cluster::new(1));
        let strangers = Some(Cluster::new(2));
        let mut without_us = Cluster::new(1);
        for id in [7, 8] {
            let member =
                Member { id, peer_urls: vec![format!("http://h{id}:1")], ..Member::default() };
            without_us.apply(&Change::AddVoter(member)).expect("a new one");
        }
        without_us.apply(&Change::Remove(7)).expect("not the last");
        let cases: [(&[Option<Cluster>], Option<&str>); 6] = [
            (&[ours.clone(), None], None),
            (&[ours.clone(), strangers.clone()], None),
            (&[strangers.clone(), None], None),
            (std::slice::from_ref(&strangers), Some("all the peers belong to another one")),
            (&[strangers.clone(), strangers.clone()], Some("all the peers belong to another one")),
            (&[ours, Some(without_us)], Some("permanently removed")),
        ];
        for (answers, expected) in cases {
            let failure = judge_welcome(1, 7, answers).err();
            assert_eq!(failure.is_some(), expected.is_some(), "{answers:?}");
            if let (Some(failure), Some(expected)) = (failure, expected) {
                assert!(failure.text().contains(expected) && failure.kind() == Kind::NotMember);
            }
        }
    }
}
