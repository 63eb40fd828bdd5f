//! How entries and messages read in a scenario.

use oarlock_raftnode::membership::{Change, ChangeEntry, record::ConfChangeTransition};
use oarlock_raftnode::raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};
use oarlock_raftnode::wire::{Forward, ForwardKind, ForwardReply};
use oarlock_raftnode::{AttributeUpdate, Payload, Role, SnapshotHead, convert};

/// `2/5 "a"`: term, index, content.
pub(super) fn entry(entry: &Entry) -> String {
    format!("{}/{} {}", entry.term, entry.index, content(entry))
}

pub(super) fn entries(entries: &[Entry]) -> String {
    entries.iter().map(self::entry).collect::<Vec<_>>().join(", ")
}

fn content(entry: &Entry) -> String {
    if entry.get_entry_type() != EntryType::EntryNormal {
        return match ChangeEntry::read(&convert::entry_view(entry)) {
            Ok(Some(change)) => self::change(&change),
            Ok(None) => "no change".into(),
            Err(error) => format!("unreadable change: {error}"),
        };
    }
    match Payload::of(entry) {
        Ok(Payload::Empty) => "\"\"".into(),
        Ok(Payload::Application { data, .. }) => format!("{:?}", String::from_utf8_lossy(&data)),
        Ok(Payload::Attributes { update, .. }) => match update {
            AttributeUpdate::Publish { member, name, .. } => format!("publish {member} {name}"),
            AttributeUpdate::PeerUrls { member, peer_urls } => {
                format!("move {member} {}", peer_urls.join(" "))
            }
            _ => "attributes".into(),
        },
        Ok(_) => "a payload".into(),
        Err(error) => format!("unreadable: {error}"),
    }
}

/// A change as the commands spell it.
pub(super) fn change(change: &ChangeEntry) -> String {
    let steps: Vec<String> = change
        .changes
        .iter()
        .map(|step| match step {
            Change::AddVoter(member) => format!("add-voter {}", member.id),
            Change::AddLearner(member) => format!("add-learner {}", member.id),
            Change::Promote(id) => format!("promote {id}"),
            Change::Remove(id) => format!("remove {id}"),
        })
        .collect();
    let steps = steps.join(" ");
    match change.transition {
        ConfChangeTransition::Auto if change.changes.is_empty() => "leave-joint".into(),
        ConfChangeTransition::Auto if change.changes.len() == 1 => steps,
        ConfChangeTransition::Auto => format!("joint auto {steps}"),
        ConfChangeTransition::Implicit => format!("joint implicit {steps}"),
        ConfChangeTransition::Explicit => format!("joint explicit {steps}"),
    }
}

pub(super) fn hard_state(state: &HardState) -> String {
    format!("term {} vote {} commit {}", state.term, state.vote, state.commit)
}

pub(super) const fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

/// A message, without its sender.
pub(super) fn message(message: &Message) -> String {
    let Message { to, term, index, log_term, commit, reject, reject_hint, .. } = message;
    let yes = if *reject { "no" } else { "yes" };
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            let entries = self::entries(message.get_entries());
            format!(
                "append to {to}: term {term} after {log_term}/{index} [{entries}] commit {commit}"
            )
        }
        MessageType::MsgAppendResponse if *reject => {
            format!("append rejected to {to}: term {term} at {index} hint {reject_hint}")
        }
        MessageType::MsgAppendResponse => {
            format!("append accepted to {to}: term {term} up to {index}")
        }
        MessageType::MsgHeartbeat => format!("heartbeat to {to}: term {term} commit {commit}"),
        MessageType::MsgHeartbeatResponse => format!("heartbeat answer to {to}: term {term}"),
        MessageType::MsgRequestVote => {
            format!("vote request to {to}: term {term} last {log_term}/{index}")
        }
        MessageType::MsgRequestVoteResponse => format!("vote answer to {to}: term {term} {yes}"),
        MessageType::MsgRequestPreVote => {
            format!("pre-vote request to {to}: term {term} last {log_term}/{index}")
        }
        MessageType::MsgRequestPreVoteResponse => {
            format!("pre-vote answer to {to}: term {term} {yes}")
        }
        MessageType::MsgTimeoutNow => format!("timeout-now to {to}: term {term}"),
        MessageType::MsgReadIndex => format!("read request to {to}"),
        MessageType::MsgReadIndexResp => format!("read answer to {to}: term {term} index {index}"),
        MessageType::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            format!("snapshot to {to}: term {term} at {}/{}", metadata.term, metadata.index)
        }
        other => format!("{other:?} to {to}"),
    }
}

pub(super) fn forward(to: u64, forward: &Forward) -> String {
    let kind = match forward.kind {
        ForwardKind::Normal => EntryType::EntryNormal,
        ForwardKind::ConfChange => EntryType::EntryConfChange,
        _ => EntryType::EntryConfChangeV2,
    };
    let entry = convert::entry(0, 0, kind, forward.data.clone());
    format!("forward to {to}: {}", content(&entry))
}

pub(super) fn forward_reply(to: u64, reply: &ForwardReply) -> String {
    match reply {
        ForwardReply::Accepted { index, term, .. } => {
            format!("forward accepted to {to}: {term}/{index}")
        }
        ForwardReply::Refused { reason, .. } => format!("forward refused to {to}: {reason:?}"),
    }
}

/// Ids, blank between them.
pub(super) fn ids<'a>(ids: impl IntoIterator<Item = &'a u64>) -> String {
    ids.into_iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

/// The configuration of a snapshot's head, in short.
pub(super) fn head(head: &SnapshotHead) -> String {
    let conf = convert::conf_state_to_record(&head.mark.conf_state);
    format!("{}/{} voters {}", head.mark.term, head.mark.index, ids(&conf.voters))
}
