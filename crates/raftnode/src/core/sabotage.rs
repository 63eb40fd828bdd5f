//! The planted bugs of the ready loop (see `planted.txt`), kept here so that the loop itself stays readable.

use raft::{RawNode, StateRole};

use super::Effects;
use crate::planted::planted;
use crate::storage::LogView;

/// Breaks the contract that the bug switched on is about.
pub(super) fn sabotage(mut effects: Effects, raw: &mut RawNode<LogView>) -> Effects {
    let Effects { now, persist, after_persist, apply } = &mut effects;
    if planted("commit-of-snapshot-not-published") {
        now.committed = apply.entries.last().map(|entry| entry.index);
    }
    if planted("leader-waits-for-its-disk") {
        after_persist.messages.append(&mut now.messages);
    }
    let leads = raw.raft.state == StateRole::Leader;
    if (leads && planted("leader-speaks-in-a-term-not-durable"))
        || (!leads && planted("follower-speaks-before-it-writes"))
    {
        now.messages.append(&mut after_persist.messages);
    }
    if planted("change-not-awaited") {
        after_persist.await_change = None;
    }
    if let Some(hard_state) = &mut persist.hard_state
        && planted("vote-not-written")
    {
        hard_state.vote = 0;
    }
    if planted("apply-before-persist") {
        raw.on_persist_ready(persist.number);
    }
    effects
}
