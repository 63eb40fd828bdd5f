//! Mark slots: where the log writes down, when it is idle, how far it is durable.

use super::{Key, is_zero, u32_at, u64_at};
use crate::{EntryId, Lsn, SegmentId};

/// Where the two slots stand: in blocks of their own, in sectors apart from the header copies there.
pub(crate) const SLOT_OFFSETS: [u32; 2] = [4096 + 512, 8192 + 512];

/// A position in the stream of frames: how far, and what stood last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The end of the last frame.
    pub(crate) lsn: Lsn,
    /// That frame's checksum.
    pub(crate) chain: u32,
    /// The last entry of the log there.
    pub(crate) last: EntryId,
}

/// Says that everything before `durable.lsn` had been synced when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Goes up by one with each slot written to a segment; its parity chooses the place.
    pub(crate) counter: u64,
    pub(crate) durable: Position,
    /// The log was closed there: nothing was written behind `durable`, here or in later segments. The next one who opens
    /// it for writing takes this back first.
    pub(crate) clean: bool,
}

const CLEAN: u64 = 1;

/// What one place holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    Empty,
    Valid(Slot),
    Damaged,
}

impl SlotState {
    pub(crate) fn valid(&self) -> Option<Slot> {
        match self {
            Self::Valid(slot) => Some(*slot),
            _ => None,
        }
    }
}

impl Slot {
    pub(crate) const LEN: usize = 48;

    /// Where the slot with this counter goes: the other place than the one before.
    pub(crate) fn offset(&self) -> u32 {
        SLOT_OFFSETS[(self.counter % 2) as usize]
    }

    pub(crate) fn encode(&self, key: Key, segment: SegmentId) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[4..8].copy_from_slice(&self.durable.chain.to_le_bytes());
        out[8..16].copy_from_slice(&self.counter.to_le_bytes());
        out[16..24].copy_from_slice(&self.durable.lsn.bits().to_le_bytes());
        out[24..32].copy_from_slice(&self.durable.last.index.to_le_bytes());
        out[32..40].copy_from_slice(&self.durable.last.term.to_le_bytes());
        out[40..48].copy_from_slice(&(if self.clean { CLEAN } else { 0 }).to_le_bytes());
        let crc = key.crc(Lsn::new(segment, self.offset()), &out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the place at `offset`, which is one of [`SLOT_OFFSETS`].
    pub(crate) fn decode(bytes: &[u8], key: Key, at: Lsn) -> SlotState {
        let Some(bytes) = bytes.first_chunk::<{ Self::LEN }>() else { return SlotState::Damaged };
        if is_zero(bytes) {
            return SlotState::Empty;
        }
        let slot = Self {
            counter: u64_at(bytes, 8),
            durable: Position {
                lsn: Lsn::from_bits(u64_at(bytes, 16)),
                chain: u32_at(bytes, 4),
                last: EntryId { index: u64_at(bytes, 24), term: u64_at(bytes, 32) },
            },
            clean: u64_at(bytes, 40) & CLEAN != 0,
        };
        let known = u64_at(bytes, 40) & !CLEAN == 0 && slot.offset() == at.offset();
        if known && key.crc(at, &bytes[4..]) == u32_at(bytes, 0) {
            SlotState::Valid(slot)
        } else {
            SlotState::Damaged
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_counts_only_where_it_was_written() {
        let (key, segment) = (Key(1), SegmentId(4));
        let durable = Position {
            lsn: Lsn::new(segment, 12_400),
            chain: 9,
            last: EntryId { term: 2, index: 30 },
        };
        let slot = Slot { counter: 5, durable, clean: true };
        let bytes = slot.encode(key, segment);
        let at = Lsn::new(segment, slot.offset());
        assert_eq!(Slot::decode(&bytes, key, at), SlotState::Valid(slot));
        assert_eq!(Slot::decode(&[0; Slot::LEN], key, at), SlotState::Empty);
        let elsewhere = [Lsn::new(segment, SLOT_OFFSETS[0]), Lsn::new(SegmentId(5), slot.offset())];
        for moved in elsewhere {
            assert_eq!(Slot::decode(&bytes, key, moved), SlotState::Damaged);
        }
        assert_eq!(Slot::decode(&bytes, Key(2), at), SlotState::Damaged);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Slot::decode(&bad, key, at), SlotState::Damaged, "bit {bit}");
        }
    }
}
