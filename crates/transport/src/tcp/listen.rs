//! Listening on the addresses that a peer URL stands for.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use super::TcpError;
use super::url::PeerUrl;
use crate::planted::planted;

/// Listens where the URL says.
pub(super) fn on_url(url: &str) -> Result<Vec<TcpListener>, TcpError> {
    let failed = |source| TcpError::Listen { address: url.to_owned(), source };
    let parsed = PeerUrl::parse(url)
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let addresses = parsed.target().to_socket_addrs().map_err(failed)?;
    on_name(url, addresses).map_err(failed)
}

/// Listens on all addresses that one name has.
///
/// A name may have addresses that this machine has not: `localhost` stands for `::1` too in many a container without
/// IPv6. One that works is enough, unless another is taken or forbidden: then somebody else would answer there.
fn on_name(
    name: &str,
    addresses: impl Iterator<Item = SocketAddr>,
) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut missing = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in addresses {
        match TcpListener::bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                let kind = error.kind();
                let elsewhere =
                    matches!(kind, io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied);
                if elsewhere || planted("every-address-must-work") {
                    return Err(error);
                }
                log::info!(name, address:%, error:%; "an address is not listened on");
                missing = Err(error);
            }
        }
    }
    if listeners.is_empty() { missing } else { Ok(listeners) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set aside for documentation (RFC 5737): no machine has it.
    const NOBODYS: &str = "192.0.2.1:0";

    fn listen(addresses: &[SocketAddr]) -> io::Result<Vec<SocketAddr>> {
        let listeners = on_name("test", addresses.iter().copied())?;
        listeners.iter().map(TcpListener::local_addr).collect()
    }

    #[test]
    fn one_address_of_a_name_is_enough_unless_another_is_taken() {
        let [nobodys, free] =
            [NOBODYS, "127.0.0.1:0"].map(|address| address.parse().expect("an address"));
        for order in [[nobodys, free], [free, nobodys]] {
            let found = listen(&order).expect("one works");
            assert!(matches!(&found[..], [one] if one.ip() == free.ip()), "{found:?}");
        }
        let error = listen(&[nobodys]).expect_err("none works");
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(listen(&[]).expect_err("no address").kind(), io::ErrorKind::NotFound);

        let taken = TcpListener::bind(free).expect("a port");
        let taken = taken.local_addr().map(|address| (taken, address)).expect("bound");
        let error = listen(&[free, taken.1]).expect_err("somebody else answers there");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
