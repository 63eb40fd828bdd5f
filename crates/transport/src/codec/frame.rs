//! Frames: sealed on one side, checked and opened on the other.

use std::io::{self, BufRead, Read};

use bytes::Bytes;

use crate::planted::planted;

pub(crate) const HEADER_LEN: usize = 20;
/// What is allocated for a body before its bytes arrive.
const FIRST_GROWTH: usize = 64 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hello = 1,
    Welcome = 2,
    Refusal = 3,
    /// From the dialler: anyone there?
    Ping = 4,
    /// From the acceptor, now and then while bytes arrive: they do.
    Alive = 5,
    Envelope = 6,
    SnapshotStart = 7,
    SnapshotChunk = 8,
    SnapshotEnd = 9,
    /// The snapshot is stored whole and accepted.
    SnapshotAccepted = 10,
    /// What a query is answered with.
    Answer = 11,
}

impl Kind {
    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Refusal,
            4 => Self::Ping,
            5 => Self::Alive,
            6 => Self::Envelope,
            7 => Self::SnapshotStart,
            8 => Self::SnapshotChunk,
            9 => Self::SnapshotEnd,
            10 => Self::SnapshotAccepted,
            11 => Self::Answer,
            _ => return None,
        })
    }
}

/// Why what arrived is not a frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The connection ended between two frames, as it may.
    #[error("the connection was closed")]
    Closed,
    /// The connection ended within a frame.
    #[error("the connection ended within a frame")]
    Truncated,
    /// The body is larger than allowed; nothing was allocated for it.
    #[error("a frame of {len} bytes, {limit} are allowed")]
    Oversize {
        /// The length that the header declares, in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// More payloads than allowed; nothing was allocated for them.
    #[error("a frame of {count} payloads, {limit} are allowed")]
    TooManyPayloads {
        /// The number that the header declares.
        count: u64,
        /// The limit.
        limit: u64,
    },
    /// The checksum does not match: damaged on the way, out of turn, or of another connection.
    #[error("a frame's checksum does not match")]
    Checksum,
    /// Lengths, kinds or reserved bytes that no correct peer writes.
    #[error("malformed frame: {0}")]
    Malformed(&'static str),
    /// The frame did not arrive in time.
    #[error("a frame did not arrive in time")]
    Timeout,
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

impl FrameError {
    /// A short name for metrics; `None` for what happens to correct peers too.
    #[must_use]
    pub const fn label(&self) -> Option<&'static str> {
        match self {
            Self::Closed | Self::Io(_) => None,
            Self::Truncated => Some("truncated"),
            Self::Oversize { .. } | Self::TooManyPayloads { .. } => Some("oversize"),
            Self::Checksum => Some("checksum"),
            Self::Malformed(_) => Some("malformed"),
            Self::Timeout => Some("timeout"),
        }
    }
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Io(error),
        }
    }
}

/// How large a frame may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of body.
    pub(crate) body: usize,
    pub(crate) payloads: usize,
}

impl Limits {
    /// Enough for greetings, refusals and a query; all that somebody not yet admitted can make us hold.
    pub(crate) const HANDSHAKE: Self = Self { body: 64 << 10, payloads: 1 };
}

/// What the checksums of one direction of one connection start from.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    key: u32,
    frames: u32,
}

impl Key {
    /// Of the frames that come before the two sides have told their nonces.
    pub(crate) const fn greeting() -> Self {
        Self { key: 0, frames: 0 }
    }

    /// The keys of both directions: from the dialler, and to it.
    pub(crate) fn pair(dialler: u64, acceptor: u64) -> (Self, Self) {
        let key = |direction: u8| {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&[direction]);
            hasher.update(&dialler.to_be_bytes());
            hasher.update(&acceptor.to_be_bytes());
            Self { key: hasher.finalize(), frames: 0 }
        };
        (key(1), key(2))
    }

    /// A hasher for the next frame. Frame numbers map one-to-one to where it starts.
    fn next(&mut self) -> crc32fast::Hasher {
        let start = self.key ^ self.frames.wrapping_mul(0x9e37_79b1);
        self.frames = self.frames.wrapping_add(u32::from(!planted("frames-have-no-number")));
        crc32fast::Hasher::new_with_initial(start)
    }
}

/// The body's length, or `None` if it does not fit the wire's numbers.
pub(crate) fn body_len<P: AsRef<[u8]>>(head: &[u8], payloads: &[P]) -> Option<u32> {
    let lens = payloads.len().checked_mul(4)?.checked_add(head.len())?;
    let sum =
        payloads.iter().try_fold(lens, |sum, payload| sum.checked_add(payload.as_ref().len()))?;
    u32::try_from(sum).ok()
}

/// Appends a frame's header and payload lengths to `out`; head and payloads follow them on the wire as they are.
///
/// `false`, and nothing is appended, if the frame does not fit the wire's numbers.
pub(crate) fn seal<P: AsRef<[u8]>>(
    key: &mut Key,
    kind: Kind,
    head: &[u8],
    payloads: &[P],
    out: &mut Vec<u8>,
) -> bool {
    // Every other number is smaller than the body's length, except the count of no payloads.
    let Some(len) = body_len(head, payloads) else { return false };
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&(head.len() as u32).to_be_bytes());
    out.extend_from_slice(&(payloads.len() as u32).to_be_bytes());
    for payload in payloads {
        out.extend_from_slice(&(payload.as_ref().len() as u32).to_be_bytes());
    }
    let mut hasher = key.next();
    hasher.update(&out[start + 4..]);
    hasher.update(head);
    for payload in payloads {
        hasher.update(payload.as_ref());
    }
    out[start..start + 4].copy_from_slice(&hasher.finalize().to_be_bytes());
    true
}

/// A frame's first bytes, within limits but not yet proven.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) len: usize,
    bytes: [u8; HEADER_LEN],
    head: usize,
    payloads: usize,
}

impl Header {
    fn parse(bytes: [u8; HEADER_LEN], limits: Limits) -> Result<Self, FrameError> {
        let number = |at: usize| {
            u64::from(u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
        };
        let (len, head, payloads) = (number(4), number(12), number(16));
        if bytes[9..12] != [0; 3] {
            return Err(FrameError::Malformed("reserved bytes are not zero"));
        }
        let kind = Kind::from_code(bytes[8]).ok_or(FrameError::Malformed("unknown kind"))?;
        if len > limits.body as u64 {
            return Err(FrameError::Oversize { len, limit: limits.body as u64 });
        }
        if payloads > limits.payloads as u64 {
            return Err(FrameError::TooManyPayloads {
                count: payloads,
                limit: limits.payloads as u64,
            });
        }
        if head + 4 * payloads > len {
            return Err(FrameError::Malformed("the parts are longer than the whole"));
        }
        // All three are within `usize` limits by now.
        Ok(Self {
            kind,
            len: len as usize,
            bytes,
            head: head as usize,
            payloads: payloads as usize,
        })
    }
}

/// Reads a header. [`FrameError::Closed`] if the connection ends before its first byte.
pub(crate) fn read_header(reader: &mut impl BufRead, limits: Limits) -> Result<Header, FrameError> {
    loop {
        match reader.fill_buf() {
            Ok([]) => return Err(FrameError::Closed),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut bytes = [0; HEADER_LEN];
    reader.read_exact(&mut bytes)?;
    Header::parse(bytes, limits)
}

/// Reads and checks the body that belongs to `header`: head and payloads, slices of one buffer, which grew only as
/// bytes arrived.
pub(crate) fn read_body(
    reader: &mut impl BufRead,
    header: &Header,
    key: &mut Key,
) -> Result<(Bytes, Vec<Bytes>), FrameError> {
    let mut body = Vec::new();
    while body.len() < header.len {
        let target = header.len.min(FIRST_GROWTH.max(body.len() * 2));
        body.reserve_exact(target - body.len());
        let want = (target - body.len()) as u64;
        if reader.by_ref().take(want).read_to_end(&mut body)? as u64 != want {
            return Err(FrameError::Truncated);
        }
    }
    let mut hasher = key.next();
    hasher.update(&header.bytes[4..]);
    hasher.update(&body);
    if hasher.finalize().to_be_bytes() != header.bytes[..4] && !planted("damage-is-overlooked") {
        return Err(FrameError::Checksum);
    }
    open(Bytes::from(body), header)
}

fn open(mut body: Bytes, header: &Header) -> Result<(Bytes, Vec<Bytes>), FrameError> {
    let short = FrameError::Malformed("the parts are longer than the whole");
    if 4 * header.payloads + header.head > body.len() {
        return Err(short);
    }
    let lens = body.split_to(4 * header.payloads);
    let head = body.split_to(header.head);
    let mut payloads = Vec::with_capacity(header.payloads);
    for len in lens.chunks_exact(4) {
        let len = u32::from_be_bytes([len[0], len[1], len[2], len[3]]) as usize;
        if len > body.len() {
            return Err(short);
        }
        payloads.push(body.split_to(len));
    }
    if !body.is_empty() {
        return Err(FrameError::Malformed("the parts are shorter than the whole"));
    }
    Ok((head, payloads))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { body: 1 << 16, payloads: 8 };

    fn frame(key: &mut Key, kind: Kind, head: &[u8], payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(seal(key, kind, head, payloads, &mut bytes));
        bytes.extend_from_slice(head);
        payloads.iter().for_each(|payload| bytes.extend_from_slice(payload));
        bytes
    }

    fn read(
        mut bytes: &[u8],
        key: &mut Key,
        limits: Limits,
    ) -> Result<(Kind, Bytes, Vec<Bytes>), FrameError> {
        let header = read_header(&mut bytes, limits)?;
        let (head, payloads) = read_body(&mut bytes, &header, key)?;
        Ok((header.kind, head, payloads))
    }

    /// Gives no more at once than it is told, as a socket may.
    struct Cut<'a, I> {
        stream: &'a [u8],
        cuts: I,
    }

    impl<'a, I: Iterator<Item = &'a usize>> Read for Cut<'a, I> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.cuts.next().map_or(1, |cut| (*cut).min(buffer.len()));
            self.stream.read(&mut buffer[..most])
        }
    }

    proptest! {
        #[test]
        fn frames_survive_the_journey(
            head in prop::collection::vec(any::<u8>(), 0..300),
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..8),
            nonces in any::<(u64, u64)>(),
        ) {
            let (mut sending, _) = Key::pair(nonces.0, nonces.1);
            let mut receiving = sending.clone();
            for _ in 0..3 {
                let bytes = frame(&mut sending, Kind::Envelope, &head, &payloads);
                let (kind, got_head, got) = read(&bytes, &mut receiving, LIMITS).expect("intact");
                prop_assert_eq!(kind, Kind::Envelope);
                prop_assert_eq!(&got_head[..], &head[..]);
                prop_assert_eq!(&got, &payloads);
            }
        }

        /// TCP has no frames: what is read at once may be a byte, or all there is.
        #[test]
        fn frames_are_read_alike_however_the_stream_is_cut(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..5),
            cuts in prop::collection::vec(1usize..700, 1..20),
        ) {
            let (mut sending, _) = Key::pair(1, 2);
            let mut receiving = sending.clone();
            let stream: Vec<u8> = frames
                .iter()
                .flat_map(|payload| frame(&mut sending, Kind::Envelope, b"head", std::slice::from_ref(payload)))
                .collect();
            let mut reader = io::BufReader::with_capacity(512, Cut { stream: &stream, cuts: cuts.iter().cycle() });
            for payload in &frames {
                let header = read_header(&mut reader, LIMITS).expect("whole");
                let (_, payloads) = read_body(&mut reader, &header, &mut receiving).expect("intact");
                prop_assert_eq!(&payloads[0][..], &payload[..]);
            }
            prop_assert!(matches!(read_header(&mut reader, LIMITS), Err(FrameError::Closed)));
        }

        #[test]
        fn a_changed_byte_is_noticed(
            payload in prop::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>(), flip in 1u8..,
        ) {
            let mut bytes = frame(&mut Key::greeting(), Kind::Envelope, b"head", &[payload]);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(read(&bytes, &mut Key::greeting(), LIMITS).is_err(), "byte {at} of {}", bytes.len());
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_allocate_beyond_the_cap(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes, &mut Key::greeting(), LIMITS);
        }

        /// As above, past the checksum: what a peer with the right key can do.
        #[test]
        fn arbitrary_lengths_under_a_good_checksum_do_no_harm(
            head in any::<u32>(), count in 0u32..16, body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = vec![0; HEADER_LEN];
            bytes[4..8].copy_from_slice(&(body.len() as u32).to_be_bytes());
            bytes[8] = Kind::Envelope as u8;
            bytes[12..16].copy_from_slice(&(head % 256).to_be_bytes());
            bytes[16..20].copy_from_slice(&count.to_be_bytes());
            bytes.extend_from_slice(&body);
            let mut hasher = Key::greeting().next();
            hasher.update(&bytes[4..]);
            let crc = hasher.finalize().to_be_bytes();
            bytes[..4].copy_from_slice(&crc);
            if let Ok((_, head, payloads)) = read(&bytes, &mut Key::greeting(), LIMITS) {
                let parts = payloads.iter().map(Bytes::len).sum::<usize>() + head.len() + 4 * payloads.len();
                prop_assert_eq!(parts, body.len());
            }
        }
    }

    #[test]
    fn limits_hold_exactly() {
        let sealed = |len: usize, payloads: usize| {
            let payloads: Vec<Vec<u8>> = (0..payloads).map(|_| Vec::new()).collect();
            frame(
                &mut Key::greeting(),
                Kind::Envelope,
                &vec![0; len - 4 * payloads.len()],
                &payloads,
            )
        };
        let read = |bytes: &[u8]| read(bytes, &mut Key::greeting(), LIMITS);
        for len in [LIMITS.body - 1, LIMITS.body] {
            assert!(read(&sealed(len, 0)).is_ok(), "{len}");
        }
        assert!(matches!(
            read(&sealed(LIMITS.body + 1, 0)),
            Err(FrameError::Oversize { len: 65_537, limit: 65_536 })
        ));
        for count in [LIMITS.payloads - 1, LIMITS.payloads] {
            assert!(read(&sealed(100, count)).is_ok(), "{count}");
        }
        assert!(matches!(
            read(&sealed(100, 9)),
            Err(FrameError::TooManyPayloads { count: 9, limit: 8 })
        ));
    }

    #[test]
    fn frames_of_another_connection_or_out_of_turn_fail() {
        let (mut ours, back) = Key::pair(1, 2);
        let (other, _) = Key::pair(1, 3);
        let first = frame(&mut ours.clone(), Kind::Ping, b"", &[]);
        assert!(read(&first, &mut ours.clone(), LIMITS).is_ok());
        for mut key in [back, other, Key::greeting()] {
            assert!(matches!(read(&first, &mut key, LIMITS), Err(FrameError::Checksum)));
        }
        read(&first, &mut ours, LIMITS).expect("the first time");
        assert!(
            matches!(read(&first, &mut ours, LIMITS), Err(FrameError::Checksum)),
            "a second time"
        );
    }

    #[test]
    fn an_end_between_frames_is_not_an_end_within_one() {
        let bytes = frame(&mut Key::greeting(), Kind::Envelope, b"head", &[vec![7; 100]]);
        assert!(matches!(read(&[], &mut Key::greeting(), LIMITS), Err(FrameError::Closed)));
        for end in 1..bytes.len() {
            let result = read(&bytes[..end], &mut Key::greeting(), LIMITS);
            assert!(matches!(result, Err(FrameError::Truncated)), "cut at {end}: {result:?}");
        }
    }

    /// A header that promises much is believed only as far as bytes arrive.
    #[test]
    fn a_body_grows_as_it_arrives() {
        struct Watched<'a>(&'a [u8], usize);
        impl Read for Watched<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.1 = self.1.max(buffer.len());
                self.0.read(buffer)
            }
        }
        impl BufRead for Watched<'_> {
            fn fill_buf(&mut self) -> io::Result<&[u8]> {
                Ok(self.0)
            }
            fn consume(&mut self, amount: usize) {
                self.0.consume(amount);
            }
        }
        let limits = Limits { body: 16 << 20, payloads: 1 };
        let bytes = frame(&mut Key::greeting(), Kind::Envelope, &vec![1; 16 << 20], &[]);
        let mut few = Watched(&bytes[..100_000], 0);
        let header = read_header(&mut few, limits).expect("a good header");
        assert!(matches!(
            read_body(&mut few, &header, &mut Key::greeting()),
            Err(FrameError::Truncated)
        ));
        assert!(few.1 <= 2 * 100_000, "asked for {} bytes at once when 100,000 had come", few.1);
    }
}
