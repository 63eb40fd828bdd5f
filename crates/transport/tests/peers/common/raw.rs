//! A second, independent writing of the wire format, for peers that misbehave.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use prost::Message;

pub(crate) const PREFACE: [u8; 8] = *b"OARLOCK\x01";
pub(crate) const HELLO: u8 = 1;
pub(crate) const WELCOME: u8 = 2;
pub(crate) const REFUSAL: u8 = 3;
pub(crate) const PING: u8 = 4;
pub(crate) const ALIVE: u8 = 5;
pub(crate) const ENVELOPE: u8 = 6;
pub(crate) const SNAPSHOT_START: u8 = 7;
pub(crate) const SNAPSHOT_CHUNK: u8 = 8;
pub(crate) const SNAPSHOT_END: u8 = 9;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Greeting {
    #[prost(uint32, tag = "1")]
    pub purpose: u32,
    #[prost(fixed64, tag = "2")]
    pub cluster: u64,
    #[prost(fixed64, tag = "3")]
    pub from: u64,
    #[prost(fixed64, tag = "4")]
    pub to: u64,
    #[prost(fixed64, tag = "5")]
    pub incarnation: u64,
    #[prost(fixed64, tag = "6")]
    pub nonce: u64,
    #[prost(uint64, tag = "7")]
    pub max_frame: u64,
    #[prost(uint64, tag = "8")]
    pub max_payloads: u64,
    #[prost(string, repeated, tag = "9")]
    pub urls: Vec<String>,
    #[prost(bytes = "vec", tag = "10")]
    pub hello: Vec<u8>,
    #[prost(string, tag = "11")]
    pub query: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RefusalRecord {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    #[prost(fixed64, tag = "2")]
    pub a: u64,
    #[prost(fixed64, tag = "3")]
    pub b: u64,
    #[prost(string, tag = "4")]
    pub reason: String,
}

/// Where a direction's checksums start, and the number of the next frame.
#[derive(Clone, Copy)]
pub(crate) struct Key(pub(crate) u32, pub(crate) u32);

impl Key {
    pub(crate) const GREETING: Self = Self(0, 0);

    pub(crate) fn of(direction: u8, dialler: u64, acceptor: u64) -> Self {
        let bytes = [&[direction][..], &dialler.to_be_bytes(), &acceptor.to_be_bytes()].concat();
        Self(crc32fast::hash(&bytes), 0)
    }

    fn crc(&mut self, bytes: &[u8]) -> [u8; 4] {
        let mut hasher =
            crc32fast::Hasher::new_with_initial(self.0 ^ self.1.wrapping_mul(0x9e37_79b1));
        self.1 += 1;
        hasher.update(bytes);
        hasher.finalize().to_be_bytes()
    }
}

/// A whole frame.
pub(crate) fn frame(key: &mut Key, kind: u8, head: &[u8], payloads: &[&[u8]]) -> Vec<u8> {
    let number = |n: usize| u32::try_from(n).expect("small").to_be_bytes();
    let len = 4 * payloads.len()
        + head.len()
        + payloads.iter().map(|payload| payload.len()).sum::<usize>();
    let mut rest =
        [&number(len)[..], &[kind, 0, 0, 0], &number(head.len()), &number(payloads.len())].concat();
    payloads.iter().for_each(|payload| rest.extend(number(payload.len())));
    rest.extend(head);
    payloads.iter().for_each(|payload| rest.extend(*payload));
    [&key.crc(&rest)[..], &rest].concat()
}

/// A connection that says what the test wants.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    pub(crate) send: Key,
    pub(crate) receive: Key,
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(super::BOUND)).expect("a timeout");
        stream.set_write_timeout(Some(super::BOUND)).expect("a timeout");
        Self { stream, send: Key::GREETING, receive: Key::GREETING }
    }

    /// The preface and a hello.
    pub(crate) fn greet(address: SocketAddr, hello: &Greeting) -> Self {
        let mut raw = Self::connect(address);
        raw.write(&PREFACE);
        raw.write(&frame(&mut Key::GREETING.clone(), HELLO, &hello.encode_to_vec(), &[]));
        raw
    }

    /// A whole handshake.
    pub(crate) fn admitted(address: SocketAddr, hello: &Greeting) -> Self {
        let mut raw = Self::greet(address, hello);
        let (kind, head) = raw.read_answer().expect("an answer");
        assert_eq!(kind, WELCOME);
        let welcome = Greeting::decode(&head[..]).expect("a greeting");
        raw.send = Key::of(1, hello.nonce, welcome.nonce);
        raw.receive = Key::of(2, hello.nonce, welcome.nonce);
        raw
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it reads");
    }

    pub(crate) fn send(&mut self, kind: u8, head: &[u8], payloads: &[&[u8]]) {
        let bytes = frame(&mut self.send, kind, head, payloads);
        self.write(&bytes);
    }

    /// The other side's preface and first frame.
    pub(crate) fn read_answer(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut preface = [0; 8];
        self.stream.read_exact(&mut preface)?;
        assert_eq!(preface, PREFACE);
        self.read()
    }

    /// The next frame's kind and head; its checksum must be right.
    pub(crate) fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut header = [0; 20];
        self.stream.read_exact(&mut header)?;
        let len = u32::from_be_bytes(header[4..8].try_into().expect("four bytes"));
        let mut body = vec![0; len as usize];
        self.stream.read_exact(&mut body)?;
        let crc = self.receive.crc(&[&header[4..], &body].concat());
        assert_eq!(crc, header[..4], "checksum");
        let payloads = u32::from_be_bytes(header[16..20].try_into().expect("four bytes"));
        Ok((header[8], body[4 * payloads as usize..].to_vec()))
    }

    /// The refusal that must come, after any signs of life; and then the end of the connection.
    #[track_caller]
    pub(crate) fn refusal(mut self) -> RefusalRecord {
        let preface = if self.receive.0 == 0 { self.read_answer() } else { self.read() };
        let mut next = preface.expect("a frame");
        while next.0 == ALIVE {
            next = self.read().expect("a frame");
        }
        assert_eq!(next.0, REFUSAL);
        self.assert_ended();
        RefusalRecord::decode(&next.1[..]).expect("a refusal")
    }

    #[track_caller]
    pub(crate) fn assert_ended(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        self.stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "more came: {rest:?}"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
}
