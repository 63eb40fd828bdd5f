use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::planted::planted;

/// Names one proposal among all that were ever made, so that it takes effect at most once and its proposer can be
/// answered, whichever member's log it went through.
///
/// It travels in front of an application entry's data and in the [context](crate::ChangeContext) of a conf change.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct ProposalId {
    /// The member that took the proposal from its client.
    pub origin: u64,
    /// Which life of that member; grows with every start.
    pub incarnation: u64,
    /// Counts that life's proposals, from 1.
    pub sequence: u64,
}

/// A member's id, derived as etcd derives it (`computeMemberId` in `server/etcdserver/api/membership/member.go`):
/// the first eight bytes of SHA-1 over the sorted peer URLs, the cluster token and, for a member that is added at
/// run time, the time in decimal.
///
/// At bootstrap every member computes all ids from the same flags, so there is no time in it. At run time the time
/// keeps a member that comes back under its old URLs from getting an id that was removed for good; the token is
/// empty then.
///
/// ```
/// use oarlock_membership::member_id;
/// let urls = ["http://10.0.0.8:2379".to_string()];
/// assert_eq!(member_id(&urls, "", None), 14544069596553697298);
/// assert_eq!(member_id(&urls, "", Some(472662245)), 2448790162483548276);
/// ```
#[must_use]
pub fn member_id(peer_urls: &[String], token: &str, unix_seconds: Option<u64>) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url.as_bytes());
    }
    hash.update(token.as_bytes());
    if let Some(seconds) = unix_seconds {
        hash.update(seconds.to_string().as_bytes());
    }
    head(hash)
}

/// A cluster's id, derived as etcd derives it (`genID` in `server/etcdserver/api/membership/cluster.go`): the first
/// eight bytes of SHA-1 over the ids of the initial members, ascending, eight bytes big-endian each.
///
/// It is computed once, at bootstrap, and does not change as members come and go.
///
/// ```
/// use oarlock_membership::cluster_id;
/// assert_eq!(cluster_id([3, 1, 2]), 0x70b9aefc37c00c85);
/// ```
#[must_use]
pub fn cluster_id(ids: impl IntoIterator<Item = u64>) -> u64 {
    let mut ids: Vec<u64> = ids.into_iter().collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    head(hash)
}

/// The id of the cluster that rescue number `epoch` makes out of cluster `old`.
///
/// A new id keeps the lost majority, should it come back, from talking to the rescued member (etcd keeps the id and
/// lets it, etcd #8169). It is derived rather than drawn, so that planning twice gives the same plan, and it is never
/// `old` and never 0.
#[must_use]
pub fn rescued_cluster_id(old: u64, epoch: u64) -> u64 {
    let mut round: u64 = 0;
    loop {
        let mut hash = Sha1::new();
        hash.update(b"oarlock rescue");
        for part in [old, epoch, round] {
            hash.update(part.to_be_bytes());
        }
        let id = head(hash);
        if planted("a-rescue-keeps-the-id") {
            return old;
        }
        if id != old && id != 0 {
            return id;
        }
        round += 1;
    }
}

fn head(hash: Sha1) -> u64 {
    let digest: [u8; 20] = hash.finalize().into();
    digest.iter().take(8).fold(0, |id, &byte| id << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(urls: &[&str]) -> Vec<String> {
        urls.iter().map(ToString::to_string).collect()
    }

    /// etcd's TestMemberTime and TestGenID, and ids that etcd prints for well-known flags.
    #[test]
    fn member_ids_are_etcds() {
        let table: &[(&[&str], &str, Option<u64>, u64)] = &[
            (&["http://10.0.0.8:2379"], "", None, 14544069596553697298),
            (&["http://10.0.0.8:2379"], "", Some(472662245), 2448790162483548276),
            (&["http://10.0.0.8:2379"], "etcd", Some(472662245), 6973882743191604649),
            (&["http://10.0.0.1:2379"], "", Some(472662245), 1466075294948436910),
            (&["http://10.0.0.1:2379", "http://10.0.0.2:2379"], "", None, 16552244735972308939),
            (&["http://10.0.0.2:2379", "http://10.0.0.1:2379"], "", None, 16552244735972308939),
            (&["http://localhost:2380"], "etcd-cluster", None, 0x8e9e05c52164694d),
            (&["http://127.0.0.1:12380"], "etcd-cluster-1", None, 0x8211f1d0f64f3269),
            (&["http://127.0.0.1:22380"], "etcd-cluster-1", None, 0x91bc3c398fb3c146),
            (&["http://127.0.0.1:32380"], "etcd-cluster-1", None, 0xfd422379fda50e48),
        ];
        for (list, token, time, id) in table {
            assert_eq!(member_id(&urls(list), token, *time), *id, "{list:?} {token:?} {time:?}");
        }
    }

    #[test]
    fn cluster_ids_are_etcds() {
        let table: &[(&[u64], u64)] = &[
            (&[0x8e9e05c52164694d], 0xcdf818194e3a8c32),
            (&[0x8211f1d0f64f3269, 0x91bc3c398fb3c146, 0xfd422379fda50e48], 0xef37ad9dc622a7c4),
            (&[0xfd422379fda50e48, 0x8211f1d0f64f3269, 0x91bc3c398fb3c146], 0xef37ad9dc622a7c4),
            (&[1, 2], 0x869b3badfbf1d6b7),
            (&[1, 2, 3], 0x70b9aefc37c00c85),
        ];
        for (ids, id) in table {
            assert_eq!(cluster_id(ids.iter().copied()), *id, "{ids:x?}");
        }
    }

    #[test]
    fn each_rescue_has_an_id_of_its_own() {
        let ids: std::collections::BTreeSet<u64> =
            (0..100).map(|epoch| rescued_cluster_id(5, epoch)).collect();
        assert_eq!(ids.len(), 100);
        assert!(!ids.contains(&5) && !ids.contains(&0));
        assert_eq!(rescued_cluster_id(5, 1), rescued_cluster_id(5, 1));
        assert_ne!(rescued_cluster_id(5, 1), rescued_cluster_id(6, 1));
        // Released versions computed this one: it is stored in logs and must never change.
        assert_eq!(rescued_cluster_id(0xcdf818194e3a8c32, 1), RESCUED);
    }

    const RESCUED: u64 = 0x883cfb7bc875075f;
}
