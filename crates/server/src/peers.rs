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

/// The cluster as the member at `urls` has applied it; `None` if nobody there says, or has not applied it yet.
fn ask(urls: &[String]) -> Option<Cluster> {
    let answer: Bytes = query_members(urls, ANSWER)
        .map_err(|error| log::debug!(error:%; "a peer does not answer"))
        .ok()?;
    let cluster = Cluster::decode(&answer)
        .map_err(|error| log::warn!(error:%, urls:? = urls; "a peer's answer cannot be read"))
        .ok()?;
    let has_any = cluster.members().len() > 0;
    has_any.then_some(cluster)
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

/// What a member takes for its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) cluster_id: u64,
    pub(crate) id: u64,
    /// The peer URLs that its flags say are its own; none if they say nothing.
    pub(crate) claimed: &'a [String],
}

/// Asks the other members, again and again until one of them says something, whether this one has a place among them:
/// it may have been removed while it was down, or everybody else may belong to another cluster by now. The transport
/// refuses the same peers by itself; this is for a clear end instead of a member that waits for ever. And for a member
/// that was started with the data directory of another one, or a copy of it: two of one id would vote twice.
///
/// # Errors
/// What the others say (exit 78).
pub(crate) fn check_welcome(
    own: Place<'_>,
    others: &[Vec<String>],
    stopping: &dyn Fn() -> bool,
) -> Result<(), Failure> {
    // What is to be found where it listens itself is no other.
    let is_own = |urls: &[String]| urls.iter().any(|url| own.claimed.contains(url));
    let others: Vec<_> = others.iter().filter(|urls| !is_own(urls)).cloned().collect();
    while !others.is_empty() && !stopping() {
        let answers = ask_all(&others);
        if answers.iter().any(Option::is_some) {
            return judge_welcome(own, &answers);
        }
        thread::sleep(AGAIN);
    }
    Ok(())
}

fn judge_welcome(own: Place<'_>, answers: &[Option<Cluster>]) -> Result<(), Failure> {
    let Place { cluster_id, id, .. } = own;
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
    check_place(own, answers)?;
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

/// Refuses to serve from the peer URLs of another member, if everybody says that they are another's.
///
/// One who does not may know more: a member that took over the URLs of another, by an update of both, is at home there.
fn check_place(own: Place<'_>, answers: &[Option<Cluster>]) -> Result<(), Failure> {
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
    let error = format_args!(
        "the data is of member {:x} ({}, {}), and the flags give it the peer URLs of member {:x} ({})",
        own.id,
        listed.name,
        listed.peer_urls.join(","),
        other.id,
        other.name,
    );
    Err(Failure::new(Kind::NotMember, error).help(
        "check --data-dir: it belongs to the other member's place, or is a copy of its data; if the member has moved, \
         tell the cluster first (etcdctl member update)",
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
            let own = Place { cluster_id: 1, id: 7, claimed: &[] };
            let failure = judge_welcome(own, answers).err();
            assert_eq!(failure.is_some(), expected.is_some(), "{answers:?}");
            if let (Some(failure), Some(expected)) = (failure, expected) {
                assert!(failure.text().contains(expected) && failure.kind() == Kind::NotMember);
            }
        }
    }

    #[test]
    fn nobody_serves_from_the_place_of_another() {
        let listed = [("a", ["http://h1:1"]), ("b", ["http://h2:1"]), ("c", ["http://h3:1"])];
        let all = Cluster::from_initial("t", &listed).expect("valid");
        let [a, b] = ["a", "b"].map(|name| all.member_by_name(name).expect("listed").id);
        let cluster_id = all.id();
        let mut moved = all.clone(); // a went to h4, and b to where it was
        for (id, url) in [(a, "http://h4:1"), (b, "http://h1:1")] {
            moved.update_peer_urls(id, &[url.to_owned()]).expect("nobody else is there");
        }
        let (all, moved, empty) = (Some(all), Some(moved), Some(Cluster::new(cluster_id)));
        let (h1, h2, h9) = ("http://h1:1", "http://h2:1", "http://h9:1");
        type Case<'a> = (&'a [&'a str], &'a [Option<Cluster>], bool);
        let cases: [Case<'_>; 9] = [
            (&[h1], &[all.clone(), all.clone()], true),
            (&[h2], &[all.clone(), None], false),
            (&[h2], &[all.clone(), all.clone()], false),
            (&[h2], &[all.clone(), empty.clone()], false), // it has not heard of anybody
            (&[h2, h1], &[all.clone(), all.clone()], true),
            (&[h9], &[all.clone(), all.clone()], true), // behind a translation of addresses
            (&[], &[all.clone(), all.clone()], true),
            (&[h2], &[None, empty], true),
            (&[h1], &[moved.clone(), moved.clone()], false),
        ];
        for (claimed, answers, good) in cases {
            let claimed: Vec<String> = claimed.iter().map(ToString::to_string).collect();
            let own = Place { cluster_id, id: a, claimed: &claimed };
            let judged = judge_welcome(own, answers);
            assert_eq!(judged.is_ok(), good, "{claimed:?} {answers:?}");
            let failure = judged.err().map(|failure| (failure.kind(), failure.text().to_owned()));
            let told = failure.is_none_or(|(kind, text)| {
                kind == Kind::NotMember && text.contains("the data is of member")
            });
            assert!(told, "{claimed:?}");
        }
        // Of those who update, one may be behind.
        let claimed = [h1.to_owned()];
        let own = Place { cluster_id, id: b, claimed: &claimed };
        judge_welcome(own, &[all, moved]).expect("b lives there by now");
    }
}
