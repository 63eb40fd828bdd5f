//! Linearizable reads: one ReadIndex round at a time, for all reads that arrived before it began (O24).

use raft::{ReadState, StateRole};

use super::{Core, ReadsConfirmed};
use crate::planted::planted;

/// The waiting reads, and the round in progress.
///
/// A round asks raft-rs for a read index, more than once if need be. Each try has an id that no other try of any round,
/// node or incarnation has, so that a late answer cannot be mistaken for another's (etcd #20418). An answer to any try
/// of the round will do, because all its reads arrived before the first.
#[derive(Debug)]
pub(super) struct Reads {
    id: u64,
    incarnation: u64,
    tries: u64,
    waiting: Vec<u64>,
    round: Option<Round>,
    /// Ticks after which a try is repeated: half an election timeout, as etcd's 500 ms are.
    patience: u32,
    retries: u64,
    /// Start a round even if no read waits, to renew the lease.
    renewal: bool,
}

#[derive(Debug)]
struct Round {
    tokens: Vec<u64>,
    /// The numbers of its tries: the first, and the last.
    first_try: u64,
    last_try: u64,
    ticks: u32,
    /// Try again: the last try took too long, or the leader changed.
    again: bool,
}

impl Reads {
    pub(super) const fn new(id: u64, incarnation: u64, election_ticks: u32) -> Self {
        let patience = election_ticks.div_ceil(2);
        Self {
            id,
            incarnation,
            tries: 0,
            waiting: Vec::new(),
            round: None,
            patience,
            retries: 0,
            renewal: false,
        }
    }

    /// The id of a try, which raft-rs hands back with the answer: member, incarnation and number, big-endian.
    fn context(&self, attempt: u64) -> Vec<u8> {
        [self.id, self.incarnation, attempt].iter().flat_map(|part| part.to_be_bytes()).collect()
    }

    /// Asks for a round although no read waits for it.
    pub(super) const fn renew(&mut self) {
        self.renewal = true;
    }

    /// Ends the round if one of its tries was answered. Of several answers only the last is used: raft-rs gives them in
    /// order, so it has the highest index (O2).
    fn confirmed(&mut self, states: &[ReadState]) -> Option<ReadsConfirmed> {
        let round = self.round.as_ref()?;
        let own = |state: &&ReadState| {
            (round.first_try..=round.last_try)
                .any(|attempt| state.request_ctx == self.context(attempt))
        };
        let mut own = states.iter().filter(own);
        let last = if planted("first-read-state-counts") { own.next() } else { own.next_back() };
        let index = last?.index;
        let tokens = self.round.take()?.tokens;
        Some(ReadsConfirmed { tokens, index })
    }
}

impl Core {
    /// A read was asked for. `token` comes back in [`Now::reads`](super::Now::reads) once a round has confirmed it. There
    /// are no deadlines here: see [`cancel_reads`](Self::cancel_reads).
    pub fn handle_read(&mut self, token: u64) {
        self.reads.waiting.push(token);
    }

    /// Drops the reads for which `abandoned` returns true.
    pub fn cancel_reads(&mut self, abandoned: &dyn Fn(u64) -> bool) {
        self.reads.waiting.retain(|token| !abandoned(*token));
        if let Some(round) = &mut self.reads.round {
            round.tokens.retain(|token| !abandoned(*token));
        }
    }

    /// Tries of rounds beyond the first, so far.
    #[must_use]
    pub const fn read_retries(&self) -> u64 {
        self.reads.retries
    }

    /// Starts or repeats a round, when there is reason to. Not without a leader, nor on a leader that has not committed
    /// an entry of its term: then raft-rs would drop the request silently.
    pub(super) fn flush_reads(&mut self) {
        let reads = &mut self.reads;
        if let Some(round) = &mut reads.round
            && planted("read-joins-a-round-under-way")
        {
            round.tokens.append(&mut reads.waiting);
        }
        let begin = match &reads.round {
            None => !reads.waiting.is_empty() || reads.renewal,
            Some(round) => round.again,
        };
        let raft = &self.raw.raft;
        let leads = raft.state == StateRole::Leader;
        if !begin || raft.leader_id == 0 || (leads && !raft.commit_to_current_term()) {
            return;
        }
        reads.renewal = false;
        reads.tries += 1;
        let attempt = reads.tries;
        match &mut reads.round {
            Some(round) => {
                (round.last_try, round.ticks, round.again) = (attempt, 0, false);
                reads.retries += 1;
            }
            None => {
                let tokens = std::mem::take(&mut reads.waiting);
                let (first_try, last_try) = (attempt, attempt);
                reads.round = Some(Round { tokens, first_try, last_try, ticks: 0, again: false });
            }
        }
        let context = reads.context(attempt);
        self.lease_asked(&context);
        self.raw.read_index(context);
    }

    pub(super) fn reads_confirmed(&mut self, states: &[ReadState]) -> Option<ReadsConfirmed> {
        self.reads.confirmed(states)
    }

    pub(super) fn tick_reads(&mut self) {
        if let Some(round) = &mut self.reads.round {
            round.ticks += 1;
            round.again |= round.ticks >= self.reads.patience;
        }
    }

    /// The leader or term changed: what was asked before may never be answered, so ask again.
    pub(super) fn leader_seen(&mut self, leader: u64) {
        if leader != 0
            && let Some(round) = &mut self.reads.round
        {
            round.again = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both answers are good for every read of the round; the last is what the others are part of.
    #[test]
    fn of_several_read_states_the_last_is_used() {
        let mut reads = Reads::new(1, 1, 10);
        let round = Round { tokens: vec![7, 8], first_try: 1, last_try: 3, ticks: 0, again: false };
        reads.round = Some(round);
        let state = |attempt, index| ReadState { index, request_ctx: reads.context(attempt) };
        let states = [state(9, 1), state(1, 5), state(2, 6), state(4, 9)];
        let confirmed = reads.confirmed(&states);
        assert_eq!(confirmed, Some(ReadsConfirmed { tokens: vec![7, 8], index: 6 }));
        assert_eq!(reads.confirmed(&states), None, "the round is over");
    }
}
