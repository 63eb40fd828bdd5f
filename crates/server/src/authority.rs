//! Requests of clients that put a URL where the host belongs, made readable.
//!
//! etcd's client before 3.5, and so `etcdctl endpoint status` of most distributions, sends the endpoint as it was typed,
//! `http://host:port`, for HTTP/2's `:authority`. Go's servers take it; `h2` resets the stream with a protocol error
//! before anybody sees the request, and rightly so (RFC 9113, 8.3.1). Nothing here reads the authority, so the one
//! thing to do is to make it valid on its way in: `http://` becomes `httpx--`, which is as long as bytes, as a
//! Huffman code and as an entry of the compression table, so that nothing else has to change.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client of HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, kind, flags and stream of a frame.
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The longest frame before a server allows longer ones, which ours never does for headers.
const MAX_HEADERS: usize = 16 << 10;
/// The place of `:authority` in HPACK's static table (RFC 7541, appendix A).
const AUTHORITY: usize = 1;

/// A stream whose read half is corrected.
#[derive(Debug)]
pub(crate) struct Corrected<T> {
    inner: T,
    filter: Filter,
    /// Bytes of a frame that has not arrived whole; the first `cleared` can be given out.
    pending: Vec<u8>,
    cleared: usize,
}

impl<T> Corrected<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, filter: Filter::Preface, pending: Vec::new(), cleared: 0 }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Corrected<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.cleared > 0 {
                let given = this.cleared.min(buf.remaining());
                buf.put_slice(&this.pending[..given]);
                this.pending.drain(..given);
                this.cleared -= given;
                return Poll::Ready(Ok(()));
            }
            if this.pending.is_empty() {
                // The common way: corrected where it was read to.
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
                let arrived = &mut buf.filled_mut()[before..];
                if arrived.is_empty() {
                    return Poll::Ready(Ok(())); // the end
                }
                let cleared = this.filter.clear(arrived);
                this.pending.extend_from_slice(&arrived[cleared..]);
                buf.set_filled(before + cleared);
                if cleared > 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            let mut more = [0; 4096];
            let mut more = ReadBuf::new(&mut more);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut more))?;
            if more.filled().is_empty() {
                // The end, in the middle of a frame: whoever reads decides what to make of it.
                this.filter = Filter::Off;
            }
            this.pending.extend_from_slice(more.filled());
            this.cleared = this.filter.clear(&mut this.pending);
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Corrected<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// Where in the stream we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    /// At its beginning.
    Preface,
    /// Within HTTP/2, with so many bytes of a frame left that are none of our business.
    Frames { skip: usize },
    /// In HTTP/1, or past the end.
    Off,
}

impl Filter {
    /// Corrects `bytes`, which follow those that were cleared before, and says how many can be given out. The others
    /// are to be presented again, with more behind them.
    fn clear(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        if *self == Self::Preface {
            if bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes) {
                return 0;
            }
            (*self, at) = if bytes.starts_with(PREFACE) {
                (Self::Frames { skip: 0 }, PREFACE.len())
            } else {
                (Self::Off, 0)
            };
        }
        let Self::Frames { skip } = self else { return bytes.len() };
        loop {
            let step = (*skip).min(bytes.len() - at);
            (*skip, at) = (*skip - step, at + step);
            let Some(&[a, b, c, kind, flags, ..]) = bytes.get(at..at + FRAME_HEADER) else {
                return at;
            };
            let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            let end = at + FRAME_HEADER + len;
            if kind == HEADERS && len <= MAX_HEADERS {
                let Some(payload) = bytes.get_mut(at + FRAME_HEADER..end) else { return at };
                // What cannot be read is passed on: the server says what is wrong with it.
                let _ = correct_headers(payload, flags);
                at = end;
            } else {
                at += FRAME_HEADER;
                *skip = len;
            }
        }
    }
}

/// Corrects the authority in a HEADERS frame. `None` if the frame cannot be read.
fn correct_headers(payload: &mut [u8], flags: u8) -> Option<()> {
    let mut at = 0;
    if flags & PADDED != 0 {
        at += 1;
    }
    if flags & PRIORITY != 0 {
        at += 5;
    }
    while let Some(&first) = payload.get(at) {
        let prefix = match first {
            0x80.. => 7,      // a whole field from the table
            0x40..=0x7f => 6, // a name from the table or spelled out, a value to remember
            0x20..=0x3f => 5, // a new size of the table
            0x00..=0x1f => 4, // a name, a value not to remember
        };
        let name = integer(payload, &mut at, prefix)?;
        if matches!(first, 0x80.. | 0x20..=0x3f) {
            continue;
        }
        if name == 0 {
            string(payload, &mut at)?;
        }
        let (huffman, from) = string(payload, &mut at)?;
        if name == AUTHORITY {
            correct_value(payload.get_mut(from..at)?, huffman);
        }
    }
    Some(())
}

/// Reads an integer of which the first byte has `prefix` bits (RFC 7541, 5.1), and moves behind it.
fn integer(bytes: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let mut next = || {
        let byte = *bytes.get(*at)?;
        *at += 1;
        Some(usize::from(byte))
    };
    let most = (1 << prefix) - 1;
    let mut value = next()? & most;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None // longer than any frame that is looked at
}

/// Reads a string's head (RFC 7541, 5.2) and moves behind the string: whether it is in Huffman code, and where it begins.
fn string(bytes: &[u8], at: &mut usize) -> Option<(bool, usize)> {
    let huffman = bytes.get(*at)? & 0x80 != 0;
    let len = integer(bytes, at, 7)?;
    let from = *at;
    *at = from.checked_add(len).filter(|end| *end <= bytes.len())?;
    Some((huffman, from))
}

/// The characters in question in HPACK's Huffman code (RFC 7541, appendix B): code and bits.
const H: (u64, u32) = (0x27, 6);
const T: (u64, u32) = (0x9, 5);
const P: (u64, u32) = (0x2b, 6);
const COLON: (u64, u32) = (0x5c, 7);
const SLASH: (u64, u32) = (0x18, 6);
const X: (u64, u32) = (0x79, 7);
const DASH: (u64, u32) = (0x16, 6);

/// `http://` and `httpx--`, 41 bits each.
const URL_CODE: u64 = concatenated([H, T, T, P, COLON, SLASH, SLASH]);
const NAME_CODE: u64 = concatenated([H, T, T, P, X, DASH, DASH]);
const CODE_BITS: u32 = 41;

const fn concatenated(characters: [(u64, u32); 7]) -> u64 {
    let (mut bits, mut at) = (0, 0);
    while at < characters.len() {
        let (code, len) = characters[at];
        bits = bits << len | code;
        at += 1;
    }
    bits
}

fn correct_value(value: &mut [u8], huffman: bool) {
    if !huffman {
        if let Some(scheme) = value.get_mut(..7).filter(|scheme| **scheme == *b"http://") {
            scheme.copy_from_slice(b"httpx--");
        }
        return;
    }
    let Some(head) = value.first_chunk_mut::<6>() else { return };
    let bits = head.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
    let rest = 48 - CODE_BITS;
    if bits >> rest == URL_CODE {
        let corrected = NAME_CODE << rest | bits & ((1 << rest) - 1);
        head.copy_from_slice(&corrected.to_be_bytes()[2..]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame =
            vec![0, (payload.len() >> 8) as u8, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    /// `:method POST`, an authority, and a header spelled out.
    fn headers(authority: &[u8], huffman: bool) -> Vec<u8> {
        let mut block =
            vec![0x3f, 0xe1, 0x1f, 0x83, 0x41, authority.len() as u8 | u8::from(huffman) << 7];
        block.extend_from_slice(authority);
        block.extend_from_slice(b"\x40\x02te\x08trailers");
        block
    }

    fn stream(authority: &[u8], huffman: bool) -> Vec<u8> {
        let block = headers(authority, huffman);
        let padded = [&[2, 0, 0, 0, 0, 9][..], &block, &[0, 0]].concat();
        [
            PREFACE,
            &frame(4, 0, b"012345"),
            &frame(HEADERS, 4, &block),
            &frame(0, 1, b"http://data"),
            &frame(1, 0x2c, &padded),
        ]
        .concat()
    }

    /// A scheme and "a:1" in Huffman code, of 5, 7 and 5 bits, filled up with ones.
    fn huffman(scheme: u64) -> Vec<u8> {
        let bits = ((scheme << 5 | 0x3) << 7 | 0x5c) << 5 | 0x1;
        (bits << 6 | 0x3f).to_be_bytes().to_vec()
    }

    /// Reads through the filter, the bytes arriving `chunk` at a time.
    async fn read(bytes: Vec<u8>, chunk: usize) -> Vec<u8> {
        let (mut from, to) = tokio::io::duplex(chunk);
        let writer = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut from, &bytes).await.expect("read to the end");
        });
        let mut out = Vec::new();
        Corrected::new(to).read_to_end(&mut out).await.expect("no error");
        writer.await.expect("no panic");
        out
    }

    #[tokio::test]
    async fn a_url_becomes_a_name_of_the_same_length_wherever_reads_end() {
        for (given, expected, huffman) in [
            (b"http://127.0.0.1:2379".to_vec(), b"httpx--127.0.0.1:2379".to_vec(), false),
            (huffman(URL_CODE), huffman(NAME_CODE), true),
            (b"127.0.0.1:2379".to_vec(), b"127.0.0.1:2379".to_vec(), false),
        ] {
            let (given, expected) = (stream(&given, huffman), stream(&expected, huffman));
            for chunk in [1, 2, 3, 7, 24, 33, 34, 60, 1000] {
                assert_eq!(read(given.clone(), chunk).await, expected, "{chunk} bytes at a time");
            }
        }
    }

    #[tokio::test]
    async fn plain_http_and_broken_frames_pass_unchanged() {
        let cut = stream(b"http://127.0.0.1:2379", false);
        for bytes in [
            b"POST http:// HTTP/1.1\r\n\r\n".to_vec(),
            b"P".to_vec(),
            Vec::new(),
            [PREFACE, &frame(HEADERS, 0, &[0x41, 0xff, 0xff, 0xff, 0xff, 1])].concat(),
            [PREFACE, &frame(HEADERS, 0, &[0x41, 60, b'h'])].concat(),
            cut[..PREFACE.len() + 30].to_vec(),
        ] {
            for chunk in [1, 1000] {
                assert_eq!(read(bytes.clone(), chunk).await, bytes);
            }
        }
    }

    proptest! {
        /// No bytes make it panic, lose or add anything, however they are cut.
        #[test]
        fn arbitrary_bytes_come_through(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..200_usize) {
            let mut whole = [PREFACE, &bytes].concat();
            let given = whole.clone();
            let cut = cut.min(whole.len());
            let mut filter = Filter::Preface;
            let first = filter.clear(&mut whole[..cut]);
            prop_assert!(first <= cut);
            let second = filter.clear(&mut whole[first..]);
            prop_assert!(first + second <= whole.len());
            let _ = correct_headers(&mut bytes.clone(), bytes.first().copied().unwrap_or(0));
            prop_assert_eq!(whole.len(), given.len());
        }
    }
}
