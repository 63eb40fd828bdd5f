//!
//! A scenario is a file of commands, each followed by what came of it (the format is described in
//! `tests/scenarios/README.md`). The nodes are `oarlock_raftnode::core::Core` with its held messages, log view, boot
//! and stores in memory; only threads, clocks and sockets are missing. A script says who writes, syncs, reports,
//! applies, sends and crashes, and when.
//!
//! Whatever a script does, the same invariants are checked after each of its commands: one leader per term, log
//! matching, what is committed is on a majority of disks and stays what it is, nothing is said before what it promises
//! is on disk, nothing is applied before it is committed and durable, members are a fold of the log, reads are not
//! stale, and no answer is a lie.
//!
//! ```
//! use oarlock_tests::script::Script;
//! let mut script = Script::new();
//! script.run("nodes 1 2 3")?;
//! script.run("elect 1")?;
//! script.run("propose 1 hello")?;
//! assert_eq!(script.run("settle")?, "1: \"hello\" applied at 2/5\n");
//! # Ok::<(), String>(())
//! ```

mod end;
mod life;
mod machine;
mod net;
mod node;
mod text;
mod trace;
mod twin;
mod witness;
mod world;

mod command;
mod show;

mod run;
pub use run::Script;

mod file;
pub use file::check_file;

mod heal;
mod shrink;

mod random;
pub use random::{Simulated, simulate};
