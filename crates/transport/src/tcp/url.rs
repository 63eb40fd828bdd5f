//! Peer URLs: `http://host:port`, as etcd writes them.

use crate::PeerError;

/// Whether [`TcpTransport`](crate::TcpTransport) can dial these URLs: to be asked before somebody becomes a member whom
/// nobody could reach, and who would count in every majority all the same. Host names are not resolved.
///
/// # Errors
/// [`PeerError::NoUrl`], [`PeerError::BadUrl`]: what [`add_peer`](crate::Transport::add_peer) would say.
///
/// ```
/// use oarlock_transport::check_peer_urls;
/// assert!(check_peer_urls(7, &["http://10.0.0.7:2380".into()]).is_ok());
/// assert!(check_peer_urls(7, &["https://10.0.0.7:2380".into()]).is_err(), "there is no TLS yet");
/// ```
pub fn check_peer_urls(id: u64, urls: &[String]) -> Result<(), PeerError> {
    PeerUrl::parse_all(id, urls).map(drop)
}

/// A peer URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerUrl {
    text: String,
    host: String,
    port: u16,
}

impl PeerUrl {
    pub(super) fn parse(url: &str) -> Result<Self, PeerError> {
        Self::take_apart(url)
            .map_err(|reason| PeerError::BadUrl { url: url.chars().take(200).collect(), reason })
    }

    fn take_apart(url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = url.split_once("://").ok_or("no scheme, expected http://host:port")?;
        if scheme.eq_ignore_ascii_case("https") {
            return Err("https is not supported yet, expected http://host:port");
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err("unknown scheme, expected http://host:port");
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err("has a path, a query or a user, expected http://host:port");
        }
        let (host, port) =
            authority.rsplit_once(':').ok_or("no port, expected http://host:port")?;
        // An IPv6 address is written in brackets and resolved without them.
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
            Some(_) => return Err("what is in brackets is not an IPv6 address"),
            None if host.contains([':', '[', ']']) => return Err("an IPv6 address needs brackets"),
            None => host,
        };
        if host.is_empty() || host.len() > 255 || host.contains(char::is_whitespace) {
            return Err("no usable host, expected http://host:port");
        }
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = match port.parse() {
            Ok(port) if port > 0 && digits => port,
            _ => return Err("no usable port, expected http://host:port"),
        };
        Ok(Self { text: url.to_owned(), host: host.to_owned(), port })
    }

    /// Parses a peer's URLs, of which there must be one.
    pub(super) fn parse_all(id: u64, urls: &[String]) -> Result<Vec<Self>, PeerError> {
        if urls.is_empty() {
            return Err(PeerError::NoUrl { id });
        }
        urls.iter().map(|url| Self::parse(url)).collect()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// What the resolver wants to know.
    pub(super) fn target(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

/// A peer's URLs, and the one in use: it stays until it fails, as in etcd's `urlPicker`.
#[derive(Debug)]
pub(super) struct Urls {
    all: Vec<PeerUrl>,
    picked: usize,
}

impl Urls {
    pub(super) const fn new(all: Vec<PeerUrl>) -> Self {
        Self { all, picked: 0 }
    }

    pub(super) fn pick(&self) -> Option<PeerUrl> {
        self.all.get(self.picked).cloned()
    }

    /// Moves on, if it is the one in use that failed.
    pub(super) fn failed(&mut self, url: &PeerUrl) {
        if self.all.get(self.picked) == Some(url) {
            self.picked = (self.picked + 1) % self.all.len();
        }
    }

    pub(super) fn contains(&self, url: &PeerUrl) -> bool {
        self.all.contains(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_hosts_and_ports() {
        for (url, host, port) in [
            ("http://127.0.0.1:2380", "127.0.0.1", 2380),
            ("HTTP://node-1.example:1/", "node-1.example", 1),
            ("http://[::1]:65535", "::1", 65535),
        ] {
            let parsed = PeerUrl::parse(url).expect(url);
            assert_eq!((parsed.target(), parsed.as_str()), ((host, port), url));
        }
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        for url in [
            "",
            "127.0.0.1:2380",
            "https://a:1",
            "unix://a:1",
            "http://a",
            "http://a:0",
            "http://a:65536",
            "http://:1",
            "http://a:1/raft",
            "http://u@a:1",
            "http://::1:1",
            "http://[a]:1",
            "http://a b:1",
            "http://[::1",
            "http://a:-1",
            "http://a:+1",
        ] {
            assert!(matches!(PeerUrl::parse(url), Err(PeerError::BadUrl { .. })), "{url:?}");
        }
        assert_eq!(PeerUrl::parse_all(7, &[]), Err(PeerError::NoUrl { id: 7 }));
    }

    #[test]
    fn a_url_stays_in_use_until_it_fails() {
        let all: Vec<PeerUrl> =
            ["http://a:1", "http://b:1"].map(|url| PeerUrl::parse(url).expect(url)).into();
        let mut urls = Urls::new(all.clone());
        assert_eq!((urls.pick().as_ref(), urls.pick().as_ref()), (Some(&all[0]), Some(&all[0])));
        urls.failed(&all[1]);
        assert_eq!(urls.pick().as_ref(), Some(&all[0]), "another one's failure changes nothing");
        urls.failed(&all[0]);
        assert_eq!(urls.pick().as_ref(), Some(&all[1]));
        urls.failed(&all[1]);
        assert_eq!(urls.pick().as_ref(), Some(&all[0]));
    }
}
