//! `GET`, over a plain socket: enough for `/health` and `/metrics`, and nothing between us and the server.

use crate::{Failure, Outcome};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// What a server answered.
#[derive(Debug)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The body, decoded if it came in chunks.
    pub body: String,
}

/// Asks 127.0.0.1:`port` for `path`.
///
/// # Errors
/// If nobody answers within three seconds, or not in HTTP/1.
pub fn http_get(port: u16, path: &str) -> Outcome<HttpAnswer> {
    const BOUND: Duration = Duration::from_secs(3); // more than /health takes to give up
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), BOUND)?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.set_write_timeout(Some(BOUND))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(16 << 20).read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| Failure::new(format!("127.0.0.1:{port} does not answer {path} in HTTP/1")))
}

fn parse(answer: &str) -> Option<HttpAnswer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()?;
    let chunked = head.lines().any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked"));
    let body = if chunked { unchunk(body)? } else { body.to_owned() };
    Some(HttpAnswer { status, body })
}

fn unchunk(mut body: &str) -> Option<String> {
    let mut out = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(out);
        }
        out.push_str(rest.get(..size)?);
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        let plain = parse("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").expect("an answer");
        assert_eq!((plain.status, plain.body.as_str()), (200, "ok"));
        let chunked = "HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nnot\r\n1\r\n!\r\n0\r\n\r\n";
        let chunked = parse(chunked).expect("an answer");
        assert_eq!((chunked.status, chunked.body.as_str()), (503, "not!"));
        assert!(parse("SSH-2.0-x\r\n\r\n").is_none());
    }

    #[test]
    fn nobody_there_is_a_failure() {
        let port = crate::free_port().expect("one of many");
        http_get(port, "/health").expect_err("nobody listens");
    }
}
