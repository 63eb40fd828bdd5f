//! What the other members say before this one has started.

use std::{
    thread,
    time::{Duration, Instant},
};

use oarlock_membership::{Cluster, JoinError, Member, match_peers};
use oarlock_raftnode::bootstrap::{self, Place, Unwelcome, ask_members};

use crate::{
    config::Config,
    exit::{Failure, Kind},
};

/// How long one member may take to answer. It may be starting too: then it listens, and does not answer yet.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a joiner waits until the members agree that it was added: not all of them apply the change at once.
const JOIN: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(200);

/// Refuses to found a cluster that exists, or one beside another that all the peers belong to.
///
/// # Errors
/// See [`check_not_bootstrapped`](bootstrap::check_not_bootstrapped) (exit 78).
pub(crate) fn check_not_bootstrapped(
    config: &Config,
    cluster: &Cluster,
    id: u64,
) -> Result<(), Failure> {
    let others = config.initial_cluster.iter().filter(|(name, _)| *name != config.name);
    let others: Vec<_> = others.map(|(_, urls)| urls.clone()).collect();
    let answers = ask_members(&others, ANSWER);
    bootstrap::check_not_bootstrapped(id, cluster, &answers).map_err(|error| unwelcome(&error))
}

/// What the others hold against this member, with the way out in terms of flags.
fn unwelcome(error: &Unwelcome) -> Failure {
    let help = match error {
        Unwelcome::Removed { .. } => return crate::fault::removed(),
        Unwelcome::AlreadyBootstrapped { .. } => {
            "if the data directory was moved, give its --data-dir; if it is lost, remove the member (etcdctl member \
             remove), add it again and start it with --initial-cluster-state existing"
        }
        Unwelcome::ListedElsewhere { .. } => {
            "join it with --initial-cluster-state existing instead of founding another one"
        }
        Unwelcome::Strangers { .. } => {
            "check --initial-cluster, --initial-cluster-token and --data-dir; to become a member of theirs, `etcdctl \
             member add` it and start it with an empty directory and --initial-cluster-state existing"
        }
        Unwelcome::NotItsPlace { .. } => {
            "check --data-dir: it belongs to the other member's place, or is a copy of its data; if the member has \
             moved, tell the cluster first (etcdctl member update)"
        }
        _ => "see what the other members log",
    };
    Failure::from_error(Kind::NotMember, error).help(help)
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
        let answer = ask_members(std::slice::from_ref(&urls), ANSWER).pop().flatten();
        let failure = match answer {
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
        let answers = ask_members(&others, ANSWER);
        if answers.iter().any(Option::is_some) {
            return bootstrap::check_welcome(own, &answers).map_err(|error| unwelcome(&error));
        }
        thread::sleep(AGAIN);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_unwelcome_is_told_what_to_do() {
        let errors = [
            Unwelcome::Removed { id: 1 },
            Unwelcome::AlreadyBootstrapped { id: 1 },
            Unwelcome::ListedElsewhere { theirs: 2 },
            Unwelcome::Strangers { ours: 2 },
            Unwelcome::NotItsPlace { own: Box::default(), other: Box::default() },
        ];
        for error in errors {
            let failure = unwelcome(&error);
            assert_eq!(failure.kind(), Kind::NotMember, "{error}");
            let help = failure.help_text().expect("a way out");
            assert!(help.contains("--") && !failure.text().contains("--"), "{error}: {help}");
        }
    }
}
