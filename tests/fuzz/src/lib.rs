//! Fuzz targets of the log: each takes any bytes, and panics if the log does, or if it breaks a promise.
//!
//! `cargo xtask fuzz` feeds them from libFuzzer; `tests/tests/fuzz.rs` includes this file and replays the corpus.

mod bytes;
mod frame;
pub use frame::frame;
mod open;
pub use open::open;
mod operations;
pub use operations::operations;
mod snapshot;
pub use snapshot::snapshot;
