use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{member_id, record};

/// One member of the cluster.
///
/// In JSON it is etcd's `Member`, field for field and in its order: ids are numbers (they exceed 2^53, so readers
/// in other languages must keep 64 bits), `isLearner`, `name` and `clientURLs` are left out when empty, and an empty
/// `peerURLs` is `null`. Reading takes `null` for any absent value.
///
/// ```
/// use oarlock_membership::Member;
/// let json = r#"{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"name":"default"}"#;
/// let member: Member = serde_json::from_str(json)?;
/// assert_eq!(member.id, 0x8e9e05c52164694d);
/// assert_eq!(serde_json::to_string(&member)?, json);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The member's id, never 0; see [`member_id`].
    #[serde(default, deserialize_with = "or_default")]
    pub id: u64,
    /// Where its peers reach it, such as `http://10.0.0.1:2380`.
    #[serde(
        rename = "peerURLs",
        default,
        deserialize_with = "or_default",
        serialize_with = "null_if_empty"
    )]
    pub peer_urls: Vec<String>,
    /// It receives the log and does not vote.
    #[serde(
        rename = "isLearner",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "is_false"
    )]
    pub is_learner: bool,
    /// Its name; a member that was added at run time has none until it has started.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; empty until it has started.
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub client_urls: Vec<String>,
}

impl Member {
    /// A member of a cluster that is being founded: its id comes from its URLs and the cluster's token.
    #[must_use]
    pub fn founding<U: Into<String>>(
        name: &str,
        peer_urls: impl IntoIterator<Item = U>,
        token: &str,
    ) -> Self {
        let peer_urls = sorted(peer_urls);
        Self {
            id: member_id(&peer_urls, token, None),
            peer_urls,
            name: name.to_string(),
            ..Self::default()
        }
    }

    /// A member that is added to a running cluster at `unix_seconds`, which goes into its id. It has no name yet:
    /// the member itself publishes that once it has started.
    #[must_use]
    pub fn joining<U: Into<String>>(
        peer_urls: impl IntoIterator<Item = U>,
        unix_seconds: u64,
    ) -> Self {
        let peer_urls = sorted(peer_urls);
        Self { id: member_id(&peer_urls, "", Some(unix_seconds)), peer_urls, ..Self::default() }
    }

    /// Whether the member has ever started, which is when it published its name.
    #[must_use]
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }

    /// Whether the member votes.
    #[must_use]
    pub fn is_voter(&self) -> bool {
        !self.is_learner
    }
}

pub(crate) fn sorted<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Vec<String> {
    let mut urls: Vec<String> = urls.into_iter().map(Into::into).collect();
    urls.sort_unstable();
    urls
}

impl From<Member> for record::Member {
    fn from(member: Member) -> Self {
        let Member { id, peer_urls, is_learner, name, client_urls } = member;
        Self { id, peer_urls, is_learner, name, client_urls }
    }
}

impl From<record::Member> for Member {
    fn from(member: record::Member) -> Self {
        let record::Member { id, peer_urls, is_learner, name, client_urls } = member;
        Self { id, peer_urls, is_learner, name, client_urls }
    }
}

/// Go writes `null` for a list that was never set, and reads it as nothing: so do we, for every field.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    json: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(json)?.unwrap_or_default())
}

pub(crate) fn null_if_empty<S: Serializer>(urls: &[String], json: S) -> Result<S::Ok, S::Error> {
    if urls.is_empty() { json.serialize_none() } else { urls.serialize(json) }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_etcds_both_ways() {
        let learner = Member {
            id: u64::MAX,
            peer_urls: vec!["http://a:1".into()],
            is_learner: true,
            ..Member::default()
        };
        let started = Member {
            id: 1 << 53 | 1,
            peer_urls: vec!["http://a:1".into(), "http://b:1".into()],
            name: "n".into(),
            client_urls: vec!["http://c:1".into()],
            ..Member::default()
        };
        for (member, json) in [
            (Member::default(), r#"{"id":0,"peerURLs":null}"#),
            (learner, r#"{"id":18446744073709551615,"peerURLs":["http://a:1"],"isLearner":true}"#),
            (
                started,
                r#"{"id":9007199254740993,"peerURLs":["http://a:1","http://b:1"],"name":"n","clientURLs":["http://c:1"]}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&member).expect("encodes"), json);
            assert_eq!(serde_json::from_str::<Member>(json).expect(json), member);
        }
    }

    #[test]
    fn reading_is_lenient_about_absence_and_strict_about_types() {
        let all_null =
            r#"{"id":3,"peerURLs":null,"isLearner":null,"name":null,"clientURLs":null,"later":{}}"#;
        assert_eq!(
            serde_json::from_str::<Member>(all_null).expect("nulls are absence"),
            Member { id: 3, ..Member::default() }
        );
        for json in [
            r#"{"id":-1}"#,
            r#"{"id":"1"}"#,
            r#"{"id":18446744073709551616}"#,
            r#"{"id":1,"peerURLs":"x"}"#,
        ] {
            assert!(serde_json::from_str::<Member>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn records_hold_every_field() {
        let member = Member {
            id: 1,
            peer_urls: vec!["p".into()],
            is_learner: true,
            name: "n".into(),
            client_urls: vec!["c".into()],
        };
        assert_eq!(Member::from(record::Member::from(member.clone())), member);
    }
}
