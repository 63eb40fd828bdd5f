//! Headers in front of what callers propose.

use bytes::Bytes;
use oarlock_membership::ProposalId;

use super::header::{APPLICATION, framed_len, put_framed};
use crate::planted::planted;
use crate::proposal::Payload;
use crate::wire::{Forward, ForwardKind};

/// A proposal on its way to the node thread.
#[derive(Debug)]
pub(crate) enum Proposal {
    /// Application data that has no header yet.
    Bare { id: ProposalId, data: Bytes },
    /// Complete.
    Framed(Forward),
}

impl Proposal {
    /// Data up to this size is framed by the node thread, into a buffer that many share. That is less work than a
    /// buffer for each, with a reference count, that one thread allocates and another frees.
    const SMALL: usize = 512;

    /// Application data.
    pub(crate) fn application(id: ProposalId, data: Bytes) -> Self {
        if data.len() <= Self::SMALL && !planted("framed-one-by-one") {
            return Self::Bare { id, data };
        }
        let data = Payload::Application { id, data }.encode();
        Self::Framed(Forward { id, kind: ForwardKind::Normal, data, term: 0 })
    }

    pub(crate) const fn id(&self) -> ProposalId {
        match self {
            Self::Bare { id, .. } => *id,
            Self::Framed(forward) => forward.id,
        }
    }

    /// Bytes of data.
    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Bare { data, .. } => data.len(),
            Self::Framed(forward) => forward.data.len(),
        }
    }
}

/// Gives small proposals that arrive together their headers, in a buffer that they share.
#[derive(Debug, Default)]
pub(crate) struct Framer {
    /// The proposals that the buffer will hold.
    run: Vec<(ProposalId, Bytes)>,
    /// Its size.
    bytes: usize,
}

impl Framer {
    /// Bytes of a buffer, and so the most that a state machine keeps alive by keeping one small proposal.
    const BUFFER: usize = 16 << 10;

    /// Whether there is room for this proposal; if not, [`take`](Self::take) the others first.
    pub(crate) fn fits(&self, id: ProposalId, data: &[u8]) -> bool {
        self.run.is_empty()
            || self.bytes + framed_len(id, data) <= Self::BUFFER
            || planted("buffers-without-bound")
    }

    pub(crate) fn add(&mut self, id: ProposalId, data: Bytes) {
        self.bytes += framed_len(id, &data);
        self.run.push((id, data));
    }

    /// What was added, in order.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Forward> {
        let mut buffer = Vec::with_capacity(std::mem::take(&mut self.bytes));
        for (id, data) in &self.run {
            put_framed(&mut buffer, APPLICATION, *id, data);
        }
        let mut buffer = Bytes::from(buffer);
        self.run.drain(..).map(move |(id, data)| {
            let data = buffer.split_to(framed_len(id, &data));
            Forward { id, kind: ForwardKind::Normal, data, term: 0 }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sequence: u64) -> ProposalId {
        ProposalId { origin: 7, incarnation: 300, sequence }
    }

    /// Proposals of these lengths, framed together.
    fn framed(lens: &[usize]) -> Vec<Forward> {
        let mut framer = Framer::default();
        let mut framed = Vec::new();
        for (sequence, &len) in (126..).zip(lens) {
            let data = Bytes::from(vec![sequence as u8; len]);
            if !framer.fits(id(sequence), &data) {
                framed.extend(framer.take());
            }
            framer.add(id(sequence), data);
        }
        framed.extend(framer.take());
        framed
    }

    #[test]
    fn each_is_framed_as_if_it_were_alone_and_in_order() {
        let lens = [0, 1, Proposal::SMALL, 2 * Framer::BUFFER, 128, 5000, 127];
        let framed = framed(&lens);
        assert_eq!(framed.len(), lens.len());
        for (forward, (sequence, len)) in framed.iter().zip((126..).zip(lens)) {
            let data = Bytes::from(vec![sequence as u8; len]);
            let alone = Payload::Application { id: id(sequence), data }.encode();
            assert_eq!((forward.id, &forward.data), (id(sequence), &alone));
        }
    }

    #[test]
    fn whoever_keeps_a_small_one_keeps_one_buffer_at_most() {
        let framed = framed(&[300; 200]);
        let ends = framed.chunk_by(|a, b| a.data.as_ptr_range().end == b.data.as_ptr());
        let sizes: Vec<usize> =
            ends.map(|run| run.iter().map(|forward| forward.data.len()).sum()).collect();
        assert!(sizes.len() < 10, "{} buffers for 200 proposals of 300 bytes", sizes.len());
        let largest = sizes.into_iter().max().unwrap_or_default();
        assert!(largest <= Framer::BUFFER, "a buffer of {largest} bytes");
    }
}
