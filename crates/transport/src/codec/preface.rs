//! The first eight bytes, and who else may have sent them.

use std::fmt;

use crate::Refusal;

/// The protocol version that this crate speaks.
pub(crate) const VERSION: u8 = 1;
pub(crate) const PREFACE_LEN: usize = 8;
/// What each side sends first.
pub(crate) const PREFACE: [u8; PREFACE_LEN] = *b"OARLOCK\x01";

/// Somebody who does not speak this protocol at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stranger {
    /// It speaks HTTP: an etcd member, a browser, a health check.
    Http,
    /// It speaks TLS, which this transport does not (yet).
    Tls,
    /// None of what we know.
    Garbage,
}

impl Stranger {
    /// A short name for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Garbage => "garbage",
        }
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "speaks HTTP, not Oarlock's peer protocol",
            Self::Tls => "speaks TLS, which this transport does not",
            Self::Garbage => "does not speak Oarlock's peer protocol",
        })
    }
}

/// What the other side's first bytes say, if they are not ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unspoken {
    Stranger(Stranger),
    Refused(Refusal),
}

/// Checks the other side's preface.
pub(crate) fn check_preface(bytes: &[u8; PREFACE_LEN]) -> Result<(), Unspoken> {
    const HTTP: [&[u8]; 9] =
        [b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"PRI * ", b"HTTP/"];
    let name = PREFACE_LEN - 1;
    if bytes[..name] == PREFACE[..name] {
        let theirs = bytes[name];
        return match theirs {
            VERSION => Ok(()),
            _ => Err(Unspoken::Refused(Refusal::Incompatible {
                ours: VERSION.into(),
                theirs: theirs.into(),
            })),
        };
    }
    let stranger = if HTTP.iter().any(|start| bytes.starts_with(start)) {
        Stranger::Http
    } else if bytes.starts_with(&[0x16, 0x03]) || bytes.starts_with(&[0x15, 0x03]) {
        Stranger::Tls
    } else {
        Stranger::Garbage
    };
    Err(Unspoken::Stranger(stranger))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_apart() {
        assert_eq!(check_preface(&PREFACE), Ok(()));
        let refused = Unspoken::Refused(Refusal::Incompatible { ours: 1, theirs: 2 });
        assert_eq!(check_preface(b"OARLOCK\x02"), Err(refused));
        for (bytes, stranger) in [
            (b"GET /raf", Stranger::Http),
            (b"POST /ra", Stranger::Http),
            (b"PRI * HT", Stranger::Http),
            (b"HTTP/1.1", Stranger::Http),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01", Stranger::Tls),
            (b"\x15\x03\x03\x00\x02\x02\x28\x00", Stranger::Tls),
            (b"SSH-2.0-", Stranger::Garbage),
            (b"\0\0\0\0\0\0\0\0", Stranger::Garbage),
            (b"OARLOCX\x01", Stranger::Garbage),
        ] {
            assert_eq!(check_preface(bytes), Err(Unspoken::Stranger(stranger)), "{bytes:?}");
        }
    }
}
