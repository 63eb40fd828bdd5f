use serde::{Deserialize, Serialize};

use crate::member::{is_false, null_if_empty, or_default};
use crate::{Member, ProposalId};

/// What a conf change says beyond the node's id: JSON in the `context` of the change.
///
/// It is etcd's `ConfigChangeContext` (a [`Member`] and `isPromote`) with additions that etcd's reader ignores. A
/// plain member, as the entries of a new cluster carry it, reads as a context that promotes nobody. Fields that this
/// version does not know are skipped.
///
/// ```
/// use oarlock_membership::ChangeContext;
/// let context = ChangeContext::from_json(br#"{"id":7,"peerURLs":["http://a:1"]}"#)?;
/// assert_eq!(context.first.member.id, 7);
/// assert!(!context.first.is_promote && context.rescue.is_none());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct ChangeContext {
    /// What belongs to the change's first, usually only, step. Id 0 when there is none.
    pub first: StepContext,
    /// What belongs to the further steps of a joint change, in their order.
    pub also: Vec<StepContext>,
    /// The rescue (a [`StandalonePlan`](crate::StandalonePlan)) that ordered this change.
    pub rescue: Option<u64>,
    /// Whom to answer.
    pub proposal: Option<ProposalId>,
}

/// The context of one step: the member as it is to be, of which a promotion or removal carries the id only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WireStep", into = "WireStep")]
pub struct StepContext {
    /// The member.
    pub member: Member,
    /// The step promotes a learner that is already a member.
    pub is_promote: bool,
}

impl ChangeContext {
    /// Reads a context. Empty bytes are an empty context: raft-rs users may propose bare changes.
    ///
    /// # Errors
    /// When the bytes are not JSON of this shape.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        if bytes.is_empty() { Ok(Self::default()) } else { serde_json::from_slice(bytes) }
    }

    /// Writes the context as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        json(self)
    }
}

/// JSON of a value of this crate.
pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    // `to_vec` fails for maps with keys that are no strings and for `Serialize` impls that fail: ours are
    // structs of numbers, strings and lists.
    serde_json::to_vec(value).expect("numbers, strings and lists are always JSON")
}

/// The flat form: etcd embeds the member. Spelled out, because serde's `flatten` reads numbers through a buffer
/// whose exactness depends on serde_json's features elsewhere in the build.
#[derive(Serialize, Deserialize)]
struct WireStep {
    #[serde(default, deserialize_with = "or_default")]
    id: u64,
    #[serde(
        rename = "peerURLs",
        default,
        deserialize_with = "or_default",
        serialize_with = "null_if_empty"
    )]
    peer_urls: Vec<String>,
    #[serde(
        rename = "isLearner",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "is_false"
    )]
    is_learner: bool,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    client_urls: Vec<String>,
    #[serde(rename = "isPromote", default, deserialize_with = "or_default")]
    is_promote: bool,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(default, deserialize_with = "or_default")]
    id: u64,
    #[serde(
        rename = "peerURLs",
        default,
        deserialize_with = "or_default",
        serialize_with = "null_if_empty"
    )]
    peer_urls: Vec<String>,
    #[serde(
        rename = "isLearner",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "is_false"
    )]
    is_learner: bool,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    client_urls: Vec<String>,
    #[serde(rename = "isPromote", default, deserialize_with = "or_default")]
    is_promote: bool,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    also: Vec<StepContext>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rescue: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proposal: Option<ProposalId>,
}

impl From<WireStep> for StepContext {
    fn from(wire: WireStep) -> Self {
        let WireStep { id, peer_urls, is_learner, name, client_urls, is_promote } = wire;
        Self { member: Member { id, peer_urls, is_learner, name, client_urls }, is_promote }
    }
}

impl From<StepContext> for WireStep {
    fn from(step: StepContext) -> Self {
        let StepContext {
            member: Member { id, peer_urls, is_learner, name, client_urls },
            is_promote,
        } = step;
        Self { id, peer_urls, is_learner, name, client_urls, is_promote }
    }
}

impl From<Wire> for ChangeContext {
    fn from(wire: Wire) -> Self {
        let Wire {
            id,
            peer_urls,
            is_learner,
            name,
            client_urls,
            is_promote,
            also,
            rescue,
            proposal,
        } = wire;
        let first = StepContext {
            member: Member { id, peer_urls, is_learner, name, client_urls },
            is_promote,
        };
        Self { first, also, rescue, proposal }
    }
}

impl From<ChangeContext> for Wire {
    fn from(context: ChangeContext) -> Self {
        let ChangeContext { first: StepContext { member, is_promote }, also, rescue, proposal } =
            context;
        let Member { id, peer_urls, is_learner, name, client_urls } = member;
        Self { id, peer_urls, is_learner, name, client_urls, is_promote, also, rescue, proposal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promote(id: u64) -> StepContext {
        StepContext { member: Member { id, ..Member::default() }, is_promote: true }
    }

    #[test]
    fn json_is_etcds_with_additions() {
        let member = Member {
            id: u64::MAX - 1,
            peer_urls: vec!["http://a:1".into()],
            is_learner: true,
            name: "n".into(),
            client_urls: vec!["http://c:1".into()],
        };
        let full = ChangeContext {
            first: StepContext { member, is_promote: false },
            also: vec![promote(9)],
            rescue: Some(1),
            proposal: Some(ProposalId { origin: u64::MAX, incarnation: 2, sequence: 3 }),
        };
        for (context, json) in [
            (
                ChangeContext { first: promote(7), ..ChangeContext::default() },
                r#"{"id":7,"peerURLs":null,"isPromote":true}"#,
            ),
            (
                full,
                concat!(
                    r#"{"id":18446744073709551614,"peerURLs":["http://a:1"],"isLearner":true,"name":"n","clientURLs":["http://c:1"],"#,
                    r#""isPromote":false,"also":[{"id":9,"peerURLs":null,"isPromote":true}],"rescue":1,"#,
                    r#""proposal":{"origin":18446744073709551615,"incarnation":2,"sequence":3}}"#,
                ),
            ),
        ] {
            assert_eq!(String::from_utf8(context.to_json()).expect("JSON is UTF-8"), json);
            assert_eq!(ChangeContext::from_json(json.as_bytes()).expect(json), context);
        }
    }

    #[test]
    fn unreadable_contexts_are_errors() {
        assert_eq!(ChangeContext::from_json(b"").expect("no context"), ChangeContext::default());
        for bytes in [
            &b"{"[..],
            b"null",
            b"7",
            br#"{"id":1,"isPromote":"yes"}"#,
            br#"{"id":1,"proposal":{}}"#,
            &[0xff],
        ] {
            assert!(ChangeContext::from_json(bytes).is_err(), "{bytes:?}");
        }
    }
}
