//! Transports and their handlers, over real sockets and over the in-memory network.

mod changes;
mod common;
mod faults;
mod hostile;
mod limits;
mod mem;
mod snapshot;
mod tcp;
