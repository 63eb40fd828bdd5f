//! Messages of an earlier term.

use raft::eraftpb::{Message, MessageType};

use super::Core;
use crate::planted::planted;

impl Core {
    /// Tells a leader or candidate of an earlier term about this node's term (Raft paper, section 5.1); otherwise it
    /// would go on in vain. Returns whether that is all there is to do with the message.
    ///
    /// raft-rs answers candidates never, and leaders only with pre-vote or check-quorum: it expects this node to campaign
    /// instead. But a learner never does, nor a node that has not applied its own addition yet.
    pub(super) fn answers_earlier(&mut self, message: &Message) -> bool {
        let kind = match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgHeartbeat => MessageType::MsgAppendResponse,
            // Not a refusal of the vote: it would count if the candidate has meanwhile reached this very term by itself.
            MessageType::MsgRequestVote => MessageType::MsgRequestPreVoteResponse,
            _ => return false,
        };
        let raft = &mut self.raw.raft;
        if message.term >= raft.term || planted("earlier-terms-are-not-answered") {
            return false;
        }
        let reject = kind == MessageType::MsgRequestPreVoteResponse;
        let (from, to, term) = (raft.id, message.from, raft.term);
        let mut answer = Message { from, to, term, reject, ..Message::default() };
        answer.set_msg_type(kind);
        raft.msgs.push(answer);
        true
    }
}
