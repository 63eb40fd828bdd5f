//! Bytes on the wire, pure over slices and readers: no sockets, no threads, no clock.
//!
//! ```text
//! connection   dialler: preface, Hello, ...       acceptor: preface, Welcome | Refusal, ...
//! preface      8 B: "OARLOCK" | version
//! frame        20 B: crc | len | kind | 0 0 0 | head len | payloads;  then len bytes of body
//! body         payloads x 4 B: their lengths | head | payload | payload | ...
//! ```
//!
//! Numbers are big-endian. The checksum (CRC-32) covers everything after itself and starts from a value made of the
//! connection's key and the frame's number, so that a frame of another connection, or one out of turn, fails it.
//! It guards against accidents, not against forgery. The preface, and how a [`Refusal`](crate::Refusal) is written,
//! stay as they are in every version.

mod frame;
pub use frame::FrameError;
pub(crate) use frame::{
    HEADER_LEN, Header, Key, Kind, Limits, body_len, read_body, read_header, seal,
};

mod greeting;
pub(crate) use greeting::{Greeting, Purpose, decode_refusal, encode_refusal};

mod preface;
pub use preface::Stranger;
pub(crate) use preface::{PREFACE, PREFACE_LEN, Unspoken, check_preface};
