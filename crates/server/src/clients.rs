//! Where clients connect, and how many of them may at once.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use rustix::{
    net::sockopt,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    authority::Corrected,
    exit::{Failure, Kind},
};

/// Open files that clients never get, as in etcd (`reservedInternalFDNum`): they are for the log, snapshots and peers.
/// A log that cannot open its next segment ends the member.
const RESERVED_FILES: u64 = 150;

/// Silence after which a client is asked whether it is there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2 * 60 * 60);
/// How long it may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is asked meanwhile.
const KEEPALIVE_PROBES: u32 = 4;

/// The connections that clients may have at once, over all addresses.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    /// As many as the process may have files open, less what is kept back. Raises the soft limit to the hard one first,
    /// as Go's runtime does for etcd.
    ///
    /// # Errors
    /// The limit leaves nothing for clients (exit 64).
    pub(crate) fn of_this_process() -> Result<Self, Failure> {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: maximum, maximum };
        let limit = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => maximum,
            Err(error) => {
                log::debug!(error:%; "cannot raise the limit of open files");
                current
            }
        };
        let Some(limit) = limit else { return Ok(Self::new(u64::MAX)) };
        match limit.checked_sub(RESERVED_FILES) {
            Some(places @ 1..) => Ok(Self::new(places)),
            _ => Err(Failure::new(
                Kind::Usage,
                format_args!(
                    "this process may have {limit} files open, and needs more than {RESERVED_FILES}"
                ),
            )
            .help("raise the limit: ulimit -n, or LimitNOFILE= in a systemd unit")),
        }
    }

    fn new(places: u64) -> Self {
        let places = usize::try_from(places).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(places)))
    }

    /// Waits for a place. `None` would be a closed semaphore, which nobody closes.
    async fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).acquire_owned().await.ok()
    }
}

/// An address that clients connect to. When all places are taken the next ones wait in the system's queue.
pub(crate) struct Clients {
    listener: TcpListener,
    places: Places,
}

impl Clients {
    /// # Errors
    /// The system's, when the socket cannot be made asynchronous.
    pub(crate) fn new(listener: std::net::TcpListener, places: Places) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: TcpListener::from_std(listener)?, places })
    }
}

impl Listener for Clients {
    type Io = Corrected<Placed<TcpStream>>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = self.places.take().await;
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // An answer is often one small frame: it must not wait for a second one.
        drop(stream.set_nodelay(true));
        if let Err(error) = watch_over(&stream) {
            log::debug!(error:%; "cannot watch over a connection");
        }
        (Corrected::new(Placed { stream, _place: place }), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Has the system ask a silent client whether it is still there, so that one that vanished without a word gives its place
/// back: after as long as in etcd (`--grpc-keepalive-interval`, `--grpc-keepalive-timeout`), by TCP instead of HTTP/2.
fn watch_over(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_TIMEOUT / KEEPALIVE_PROBES)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_socket_keepalive(stream, true)
}

/// A connection that gives its place back when it is dropped.
#[derive(Debug)]
pub(crate) struct Placed<T> {
    stream: T,
    _place: Option<OwnedSemaphorePermit>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Placed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Placed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_vanishes_is_noticed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut clients = Clients::new(listener, Places::new(2)).expect("listens");
        let _client = TcpStream::connect(address).await.expect("connects");
        let place = clients.places.0.available_permits();
        let (io, _) = clients.accept().await;
        assert_eq!(clients.places.0.available_permits(), place - 1);
        drop(io);
        assert_eq!(clients.places.0.available_permits(), place);

        let (listener, mut accepted) = (clients.listener, None);
        let _client = TcpStream::connect(address).await.expect("connects");
        while accepted.is_none() {
            accepted = listener.accept().await.ok();
        }
        let (stream, _) = accepted.expect("accepted");
        watch_over(&stream).expect("the system can");
        assert!(sockopt::socket_keepalive(&stream).expect("asks"));
        assert_eq!(sockopt::tcp_keepidle(&stream).expect("asks"), KEEPALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&stream).expect("asks"), KEEPALIVE_PROBES);
    }
}
