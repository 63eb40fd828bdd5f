//! `cargo xtask bench raftnode`: oarlock-raftnode beside bare raft-rs, a synchronous loop and the physical limit.
//!
//! Two programs share this: the bench itself, and one that counts every allocation, which would slow the bench down.

mod bare;
mod disk;
mod looped;
mod machine;
mod memory;
mod nodes;
mod service;
mod watched;
mod work;

pub mod counting;

pub use work::BENCH;
