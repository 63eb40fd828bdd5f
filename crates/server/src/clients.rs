//! Where clients connect, and how many of them may at once.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::serve::Listener;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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
        (Corrected::new(Placed { stream, _place: place }), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
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
