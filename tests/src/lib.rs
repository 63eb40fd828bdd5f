//! Whole clusters, for tests: real `oarlock` processes on loopback with their data on a real disk, a client of our
//! own, and the loop that kills servers under load and counts what was lost.
//!
//! Everything here is bounded: what is waited for has a deadline, what was started is killed on drop, and a failure
//! shows the ends of the logs and keeps the data directories.
//!
//! ```no_run
//! use oarlock_tests::{Cluster, scenario};
//!
//! scenario("a write reaches everybody", |scratch| {
//!     let cluster = Cluster::start(scratch, 3)?;
//!     cluster.client(0)?.put("k", "v")?;
//!     assert_eq!(cluster.client(2)?.get("k")?.expect("written").value, "v");
//!     Ok(())
//! });
//! ```
//! # Tools
//! A test that needs a program which may not be installed asks [`require`] for it, and returns early without it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "what failed, and why, goes to whoever runs the tests")]

mod client;
pub use client::{Client, KeyValue, ListedMember, MemberStatus, Page};

mod cluster;
pub use cluster::{Cluster, Member};

mod crash;
pub use crash::{CrashOptions, CrashReport, crash_loop};

mod failure;
pub use failure::{Failure, Outcome};

mod http;
pub use http::{HttpAnswer, http_get};

mod ledger;
pub use ledger::Ledger;

mod pb;

mod process;
pub use process::Process;

mod require;
pub use require::{etcdctl, require};

mod scratch;
pub use scratch::{Scratch, scenario};

pub mod script;

mod server;
pub use server::{Flags, failpoint_binary, free_port, server_binary};

mod wait;
pub use wait::eventually;

mod writers;
pub use writers::Writers;

/// The example of the README, compiled and run with the doctests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
