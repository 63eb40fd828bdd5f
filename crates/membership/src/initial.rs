use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::context::json;
use crate::record::{ConfChange, ConfChangeType};
use crate::{Cluster, EntryKind, Member, PlannedEntry};

/// What is wrong with the list of a new cluster's members. The fault is in the flags; nothing has been written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InitialError {
    /// No member at all.
    #[error("the initial cluster has no members")]
    Empty,
    /// A piece of the list is not `name=url`.
    #[error("{piece:?} in the initial cluster is not of the form name=url")]
    NotAPair {
        /// The piece.
        piece: String,
    },
    /// Two members have the same name.
    #[error("the name {name:?} occurs twice in the initial cluster")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A URL is listed twice, for one member or for two.
    #[error("the peer URL {url} occurs twice in the initial cluster")]
    DuplicateUrl {
        /// The URL.
        url: String,
    },
    /// Two members come out with the same id.
    #[error(
        "the members {first:?} and {second:?} of the initial cluster get the same id {id:x}; change a peer URL"
    )]
    DuplicateId {
        /// The id.
        id: u64,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A member has no URL to be reached at.
    #[error("{name:?} in the initial cluster has no peer URL")]
    NoUrl {
        /// The member.
        name: String,
    },
    /// A URL is none.
    #[error("the peer URL {url:?} of {name:?} {fault}")]
    BadUrl {
        /// The member.
        name: String,
        /// What was given.
        url: String,
        /// What is wrong with it.
        fault: UrlFault,
    },
}

/// What is wrong with a peer URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlFault {
    /// Peers are reached by `http://` or `https://`.
    #[error("does not begin with http:// or https://")]
    Scheme,
    /// Host and port are needed, nothing else.
    #[error("is not of the form scheme://host:port")]
    HostPort,
    /// The port is not a number from 1 to 65535.
    #[error("has no valid port")]
    Port,
    /// There is something after the port.
    #[error("has a path")]
    Path,
}

/// Checks that a peer URL is `http://host:port` or `https://host:port` and nothing more, as etcd asks of peer URLs
/// (`NewURLs` in `client/pkg/types/urls.go`; etcd also takes unix sockets).
///
/// # Errors
/// [`UrlFault`].
///
/// ```
/// use oarlock_membership::{UrlFault, check_peer_url};
/// assert_eq!(check_peer_url("http://[::1]:2380"), Ok(()));
/// assert_eq!(check_peer_url("http://10.0.0.1"), Err(UrlFault::HostPort));
/// ```
pub fn check_peer_url(url: &str) -> Result<(), UrlFault> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .ok_or(UrlFault::Scheme)?;
    if rest.contains(['/', '?', '#']) {
        return Err(UrlFault::Path);
    }
    let (host, port) = rest.rsplit_once(':').ok_or(UrlFault::HostPort)?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = bracketed.unwrap_or(host);
    let colons_fit = bracketed.is_some() || !host.contains([':', '[', ']']);
    if named.is_empty() || !colons_fit || host.contains(|c: char| c.is_whitespace() || c == '@') {
        return Err(UrlFault::HostPort);
    }
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(1..) if digits => Ok(()),
        _ => Err(UrlFault::Port),
    }
}

/// Reads the value of `--initial-cluster`: `name=url` pieces with commas between. A name that occurs several times
/// has several URLs, as in etcd. Members come in the order of their first mention.
///
/// # Errors
/// [`InitialError::NotAPair`], [`InitialError::Empty`]. Names and URLs are checked by [`Cluster::from_initial`].
///
/// ```
/// let list = oarlock_membership::parse_initial_cluster("a=http://h1:2380,b=http://h2:2380,a=http://h3:2380")?;
/// assert_eq!(list[0], ("a".into(), vec!["http://h1:2380".into(), "http://h3:2380".into()]));
/// # Ok::<(), oarlock_membership::InitialError>(())
/// ```
pub fn parse_initial_cluster(list: &str) -> Result<Vec<(String, Vec<String>)>, InitialError> {
    let mut members: Vec<(String, Vec<String>)> = Vec::new();
    for piece in list.split(',').map(str::trim).filter(|piece| !piece.is_empty()) {
        let pair = piece.split_once('=').filter(|(name, url)| !name.is_empty() && !url.is_empty());
        let (name, url) =
            pair.ok_or_else(|| InitialError::NotAPair { piece: piece.to_string() })?;
        match members.iter_mut().find(|(known, _)| known == name) {
            Some((_, urls)) => urls.push(url.to_string()),
            None => members.push((name.to_string(), vec![url.to_string()])),
        }
    }
    if members.is_empty() { Err(InitialError::Empty) } else { Ok(members) }
}

/// The members that a list of names and URLs founds, checked, in the order of the list.
pub(crate) fn founding_members<N, L, U>(
    token: &str,
    list: &[(N, L)],
) -> Result<Vec<Member>, InitialError>
where
    N: AsRef<str>,
    L: AsRef<[U]>,
    U: AsRef<str>,
{
    let mut urls_seen = BTreeMap::new();
    let mut ids_seen: BTreeMap<u64, String> = BTreeMap::new();
    let mut members: Vec<Member> = Vec::with_capacity(list.len());
    for (name, urls) in list {
        let (name, urls) = (name.as_ref(), urls.as_ref());
        if members.iter().any(|member| member.name == name) {
            return Err(InitialError::DuplicateName { name: name.to_string() });
        }
        if urls.is_empty() {
            return Err(InitialError::NoUrl { name: name.to_string() });
        }
        for url in urls.iter().map(AsRef::as_ref) {
            check_peer_url(url).map_err(|fault| InitialError::BadUrl {
                name: name.to_string(),
                url: url.to_string(),
                fault,
            })?;
            if urls_seen.insert(url, name).is_some() {
                return Err(InitialError::DuplicateUrl { url: url.to_string() });
            }
        }
        let member = Member::founding(name, urls.iter().map(AsRef::as_ref), token);
        if let Some(first) = ids_seen.insert(member.id, name.to_string()) {
            return Err(InitialError::DuplicateId {
                id: member.id,
                first,
                second: name.to_string(),
            });
        }
        members.push(member);
    }
    if members.is_empty() { Err(InitialError::Empty) } else { Ok(members) }
}

impl Cluster {
    /// The first entries of a new cluster's log, the same on every founding member: one *add voter* for each, ascending
    /// by id, from index 1 at term 1, with the member's JSON as context (etcd's `StartNode`).
    ///
    /// Beside them belong a hard state of term 1, no vote and commit at the last of them, and an *empty* initial
    /// configuration: with a full one at index 0, a member that joins later and replays the log would elect itself.
    #[must_use]
    pub fn founding_entries(&self) -> Vec<PlannedEntry> {
        let entry = |(index, member): (u64, &Member)| {
            let change = ConfChange {
                context: json(member).into(),
                ..ConfChange::new(ConfChangeType::AddNode, member.id)
            };
            PlannedEntry {
                index,
                term: 1,
                kind: EntryKind::ConfChange,
                data: Bytes::from(change.encode_to_vec()),
            }
        };
        (1..).zip(self.members()).map(entry).collect()
    }
}
