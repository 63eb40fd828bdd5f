//! `cargo xtask bench wal | raftnode | transport`: ours, its peers and the physical limit in one run. The harness is a workspace of
//! its own in `tests/bench`, with its own lock file and target directory, so that no peer is built by anything else; and
//! the benches of the node and of the transport build none.

use crate::sh;

const USAGE: &str = "usage: cargo xtask bench wal|raftnode|transport [--only A,B] [--quick] [--list] ...   (--help says more)";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let package = match args.first().map(String::as_str) {
        Some("wal") => "oarlock-bench",
        Some("raftnode") => "oarlock-bench-raftnode",
        Some("transport") => "oarlock-bench-transport",
        _ => return Err(USAGE.to_owned()),
    };
    let bench = sh::root().join("tests/bench");
    sh::run(sh::cargo(&bench).args(["build", "--release", "--locked", "--package", package]))?;
    let program = sh::target_dir(&bench).join("release").join(package);
    sh::run(std::process::Command::new(program).args(&args[1..]))
}
