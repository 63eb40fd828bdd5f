//! Messages and restores that wait for the disk, and the order in which they are released.

use std::collections::{BTreeSet, VecDeque};

use raft::eraftpb::{Message, MessageType};

use super::AfterPersist;
use crate::planted::planted;

/// The *after persist* stages that are not due yet: a queue, so that no message overtakes an earlier one.
///
/// ```
/// use oarlock_raftnode::core::{AfterPersist, Held};
/// let mut held = Held::default();
/// held.hold(AfterPersist { number: 4, await_change: Some(9), ..AfterPersist::default() });
/// assert_eq!(held.release(3, 9).len(), 0); // not durable
/// assert_eq!(held.release(4, 8).len(), 0); // durable, but the conf change is not applied (O7)
/// assert_eq!(held.release(4, 9).len(), 1);
/// ```
#[derive(Debug, Default)]
pub struct Held {
    stages: VecDeque<AfterPersist>,
}

impl Held {
    /// Adds a stage, unless it is empty.
    pub fn hold(&mut self, stage: AfterPersist) {
        if !stage.messages.is_empty() || stage.restore.is_some() || stage.await_change.is_some() {
            self.stages.push_back(stage);
        }
    }

    /// Removes and returns the stages that are due, in order: those up to number `acknowledged`
    /// ([`Core::acknowledged`](super::Core::acknowledged)) whose conf change, if they await one, is applied
    /// ([`Core::change_applied`](super::Core::change_applied)).
    #[must_use = "the messages have to be sent, and the snapshot restored"]
    pub fn release(&mut self, acknowledged: u64, change_applied: u64) -> Vec<AfterPersist> {
        let due = self
            .stages
            .iter()
            .take_while(|stage| {
                stage.number <= acknowledged
                    && stage.await_change.is_none_or(|index| index <= change_applied)
            })
            .count();
        self.stages.drain(..due).collect()
    }

    /// How many stages wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stages.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }
}

/// Drops messages that must not or need not be sent; the order of the others is unchanged (O10).
///
/// Dropped are messages to members that are [`gone`](super::Core::gone), and, of several accepting `MsgAppendResponse`s
/// to the same member in the same term, all but the newest, which says all that the older ones say. Rejections carry
/// what probing needs, so all of them stay. (etcd's `processMessages` keeps one response of a batch whatever it says
/// and whomever it is for; raft-rs may put out responses of several terms together.)
#[doc(alias = "processMessages")]
#[must_use]
pub fn prune_messages(mut messages: Vec<Message>, gone: &BTreeSet<u64>) -> Vec<Message> {
    let accepts = |message: &Message| {
        message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject
    };
    let mut newest: Vec<(u64, u64)> = Vec::new();
    let mut keep: Vec<bool> = messages
        .iter()
        .rev()
        .map(|message| {
            if gone.contains(&message.to) && !planted("removed-are-spoken-to") {
                return false;
            }
            let key = (message.to, message.term);
            if accepts(message) {
                if newest.contains(&key) && !planted("every-answer-leaves") {
                    return false;
                }
                newest.push(key);
            }
            true
        })
        .collect();
    messages.retain(|_| keep.pop().unwrap_or(true));
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType, to: u64, term: u64, index: u64, reject: bool) -> Message {
        let mut message = Message { to, term, index, reject, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    #[test]
    fn a_message_never_overtakes_one_that_waits_for_a_conf_change() {
        let stage = |number, await_change| AfterPersist {
            number,
            await_change,
            messages: vec![Message::default()],
            restore: None,
        };
        let mut held = Held::default();
        held.hold(stage(1, Some(5)));
        held.hold(stage(2, None));
        assert!(held.release(2, 4).is_empty());
        let due: Vec<u64> = held.release(2, 5).iter().map(|stage| stage.number).collect();
        assert_eq!(due, [1, 2]);
        assert!(held.is_empty());
    }

    #[test]
    fn only_the_newest_accepting_answer_per_member_and_term_leaves() {
        use MessageType::{MsgAppendResponse as Response, MsgHeartbeatResponse as Beat};
        let messages = vec![
            message(Response, 1, 2, 5, false),
            message(Response, 2, 2, 5, false),
            message(Response, 1, 2, 6, true),
            message(Beat, 1, 2, 0, false),
            message(Response, 1, 2, 7, false),
            message(Response, 1, 3, 7, false),
        ];
        let sent: Vec<(u64, u64, u64)> = prune_messages(messages, &BTreeSet::new())
            .iter()
            .map(|m| (m.to, m.term, m.index))
            .collect();
        assert_eq!(sent, [(2, 2, 5), (1, 2, 6), (1, 2, 0), (1, 2, 7), (1, 3, 7)]);
    }

    #[test]
    fn nothing_is_said_to_those_who_were_removed() {
        let kinds = [MessageType::MsgAppend, MessageType::MsgAppendResponse];
        let messages = kinds.map(|kind| message(kind, 2, 1, 1, true)).to_vec();
        assert_eq!(prune_messages(messages.clone(), &BTreeSet::from([3])).len(), 2);
        assert!(
            prune_messages(messages, &BTreeSet::from([2])).is_empty(),
            "a message for 2 leaves"
        );
    }
}
