//! Questions asked by somebody who may have no member id.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::dial::{DialError, Patience, dial};
use super::url::PeerUrl;
use crate::codec::{FrameError, Greeting, Kind, Limits, Stranger};
use crate::{PeerError, QUERY_MEMBERS, Refusal};

/// An answer is at most this long.
const MAX_ANSWER: usize = 1 << 20;
/// A question is at most this long.
const MAX_QUESTION: usize = 32 << 10;

/// Why a query was not answered: of the last URL that was tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// A URL cannot be used, or there is none.
    #[error("{0}")]
    Url(#[source] PeerError),
    /// The question is longer than 32 KiB.
    #[error("a question of {len} bytes is too long, {limit} are allowed")]
    TooLong {
        /// The length of kind and payload, in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Nobody could be connected to.
    #[error("cannot reach {url}: {source}")]
    Unreachable {
        /// The URL that was tried.
        url: String,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever answers there is no Oarlock member: check the URL.
    #[error("{url} {stranger}")]
    Stranger {
        /// The URL that was tried.
        url: String,
        /// What it speaks instead.
        stranger: Stranger,
    },
    /// The answer was not one, or did not come in time.
    #[error("{url}: {source}")]
    Broken {
        /// The URL that was tried.
        url: String,
        /// What was wrong with it.
        source: FrameError,
    },
    /// The member refused to answer.
    #[error("{url}: {refusal}")]
    Refused {
        /// The URL that was tried.
        url: String,
        /// What it said.
        refusal: Refusal,
    },
}

/// Asks one URL after the other until one answers; `timeout` bounds the whole. Blocks the calling thread.
///
/// The other side's [`Handler::query`](crate::Handler::query) answers. Question (32 KiB) and answer (1 MiB) are
/// opaque here; neither side has proven who it is.
///
/// # Errors
/// Nobody answered; the error is that of the last URL.
pub fn query(
    urls: &[String],
    kind: &str,
    payload: Bytes,
    timeout: Duration,
) -> Result<Bytes, QueryError> {
    let len = kind.len() + payload.len();
    if len > MAX_QUESTION {
        return Err(QueryError::TooLong { len, limit: MAX_QUESTION });
    }
    let end = Instant::now() + timeout;
    let urls = PeerUrl::parse_all(0, urls).map_err(QueryError::Url)?;
    let mut result = Err(QueryError::Url(PeerError::NoUrl { id: 0 }));
    for (tried, url) in urls.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        if tried > 0 && left.is_zero() {
            break;
        }
        // The others shall have their chance too, unless there are none.
        let share = (left / (urls.len() - tried) as u32).max(Duration::from_millis(1));
        result = ask(url, kind, payload.clone(), share);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Asks for the members of a cluster, as a joiner does. The bytes are what [`Handler::members`] gave.
///
/// [`Handler::members`]: crate::Handler::members
///
/// # Errors
/// As for [`query`].
pub fn query_members(urls: &[String], timeout: Duration) -> Result<Bytes, QueryError> {
    query(urls, QUERY_MEMBERS, Bytes::new(), timeout)
}

fn ask(url: &PeerUrl, kind: &str, payload: Bytes, time: Duration) -> Result<Bytes, QueryError> {
    let patience = Patience { connect: time, handshake: time, write: time };
    let limits = Limits { body: MAX_ANSWER, payloads: 0 };
    let name = || url.as_str().to_owned();
    let dialled = dial(url, &Greeting::query(kind), Some(payload), patience, limits, None)
        .map_err(|error| match error {
            DialError::Io(source) => QueryError::Unreachable { url: name(), source },
            DialError::Stranger(stranger) => QueryError::Stranger { url: name(), stranger },
            DialError::Frame(source) => QueryError::Broken { url: name(), source },
            DialError::Refused(refusal) | DialError::WeRefused(refusal) => {
                QueryError::Refused { url: name(), refusal }
            }
            DialError::Stopping => {
                QueryError::Unreachable { url: name(), source: io::ErrorKind::Interrupted.into() }
            }
        })?;
    match dialled.kind {
        Kind::Answer => Ok(dialled.head),
        _ => Err(QueryError::Broken {
            url: name(),
            source: FrameError::Malformed("expected an answer"),
        }),
    }
}
