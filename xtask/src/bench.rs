//! `cargo xtask bench wal`: the log, its peers and the physical limit in one run. The harness is a workspace of its own
//! in `tests/bench`, with its own lock file and target directory, so that no peer is built by anything else.

use crate::sh;

const USAGE: &str =
    "usage: cargo xtask bench wal [--only A,B] [--quick] [--list] ...   (--help says more)";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let ["wal", ..] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
        return Err(USAGE.to_owned());
    };
    let bench = sh::root().join("tests/bench");
    sh::run(sh::cargo(&bench).args(["build", "--release", "--locked"]))?;
    let program = sh::target_dir(&bench).join("release/oarlock-bench");
    sh::run(std::process::Command::new(program).args(&args[1..]))
}
