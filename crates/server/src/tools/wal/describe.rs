//! What a record says, in words.

use bytes::Bytes;
use oarlock_membership::{ChangeEntry, EntryKind, EntryView};
use oarlock_raftnode::{AttributeUpdate, Payload, bootstrap::Metadata};
use oarlock_wal::Entry;

use crate::kv;

/// Whose log it is; `None` if the record is not a server's.
pub(super) fn owner(metadata: &Bytes) -> Option<String> {
    let Metadata { id, cluster_id, incarnation, birth, rescue_epoch, .. } =
        Metadata::decode(metadata.clone()).ok()?;
    Some(format!(
        "member {id:x} of cluster {cluster_id:x}, incarnation {incarnation}, birth {birth:016x}, rescues {rescue_epoch}"
    ))
}

/// An entry of a server's log.
pub(super) fn entry(entry: &Entry) -> String {
    let view = |kind| EntryView { index: entry.index, term: entry.term, kind, data: &entry.data };
    let change = match entry.kind {
        0 => return normal(entry),
        1 => ChangeEntry::read(&view(EntryKind::ConfChange)),
        2 => ChangeEntry::read(&view(EntryKind::ConfChangeV2)),
        other => return format!("entry of the unknown kind {other}, {} bytes", entry.data.len()),
    };
    match change {
        Ok(Some(change)) => format!("members: {change}"),
        Ok(None) => "members: nothing".to_owned(),
        Err(error) => format!("members: {error}"),
    }
}

fn normal(entry: &Entry) -> String {
    match Payload::decode(&entry.data) {
        Ok(Payload::Empty) => "empty".to_owned(),
        Ok(Payload::Application { data, .. }) => kv::describe(data),
        Ok(Payload::Attributes { update, .. }) => match update {
            AttributeUpdate::Publish { member, name, client_urls, .. } => {
                let urls = client_urls.join(",");
                format!("member {member:x} is {name:?}, clients reach it at {urls}")
            }
            AttributeUpdate::PeerUrls { member, peer_urls } => {
                format!("member {member:x} is reached by peers at {}", peer_urls.join(","))
            }
            other => format!("{other:?}"),
        },
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("{} bytes: {error}", entry.data.len()),
    }
}
