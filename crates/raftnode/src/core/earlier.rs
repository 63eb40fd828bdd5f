//! What is asked in an earlier term.

use raft::eraftpb::{Message, MessageType};

use super::Core;
use crate::planted::planted;

impl Core {
    /// Whoever leads, or wants to, in an earlier term than this node's is told of the later one (Raft paper, section 5.1): else
    /// it goes on in vain. Whether that is all there is to do.
    ///
    /// raft-rs keeps silent without pre-vote and check-quorum, and to those who ask for a vote always: it expects this node
    /// to campaign. One that has yet to catch up with its own addition, or only learns, never does.
    pub(super) fn answers_earlier(&mut self, message: &Message) -> bool {
        let kind = match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgHeartbeat => MessageType::MsgAppendResponse,
            // Not the refusal of a vote: it would count if the candidate has come to this very term by itself.
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
