//! Transports and their handlers, over real sockets and over the in-memory network.

mod common;
mod hostile;
mod mem;
mod snapshot;
mod tcp;
