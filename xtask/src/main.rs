//! Tasks of the workspace: `cargo xtask lint | test | crash | crash-states | planted | fuzz | bench | codegen`.
//!
//! Standard library only, so that a fresh clone runs its first check within seconds. Code generation is the one
//! exception: it sits behind feature `codegen`, and `cargo xtask codegen` switches it on by itself.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task talks to whoever started it"
)]

mod bench;
#[cfg(feature = "codegen")]
mod codegen;
mod crash;
mod fuzz;
mod lint;
mod planted;
mod sh;
mod states;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <task>

  lint [check ...]   fmt, clippy and rustdoc over the feature matrix, boundaries, licences, tidiness
  test               everything: unit, doc, integration, examples, clusters, a short crash loop
  crash [options]    kill -9 a real server under load, count what was lost
                     --rounds N   --members 1|3   --writers N   --seed S
  crash-states [options]
                     the log after every crash there can be and with every damage, on a simulated disk
                     --states N   --stride N   --seed S   --replay STATE
  planted [crate ...] [bug ...]
                     bugs planted on purpose: each must be caught by its named test
  fuzz [target ...] [--seconds N]
                     libFuzzer on the log, its frames and snapshot files
  bench wal|raftnode|transport [options]
                     the log beside its peers, the node beside raft-rs and a plain loop, or the transport beside plain
                     TCP, and the physical limit; builds them first
                     --only A,B   --quick   --list   --dir DIR   --out DIR   --seconds N
  codegen [--check]  Rust from crates/server/proto (no protoc needed)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    if let Some(compiled) = planted::wrapped(&args) {
        return if compiled.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let outcome = match args.first().map(String::as_str) {
        Some("lint") => lint::run(rest),
        Some("test") => test::run(rest),
        Some("crash") => crash::run(rest),
        Some("crash-states") => states::run(rest),
        Some("fuzz") => fuzz::run(rest),
        Some("planted") => planted::run(rest),
        Some("bench") => bench::run(rest),
        Some("codegen") => codegen(rest),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "codegen")]
fn codegen(args: &[String]) -> Result<(), String> {
    let check = match args {
        [] => false,
        [arg] if arg == "--check" => true,
        _ => return Err(USAGE.to_owned()),
    };
    codegen::run(&sh::root(), check).map_err(|error| error.to_string())
}

/// Without the feature: build ourselves once more with it.
#[cfg(not(feature = "codegen"))]
fn codegen(args: &[String]) -> Result<(), String> {
    let base = ["run", "--quiet", "--package", "xtask", "--features", "codegen", "--", "codegen"];
    sh::run(sh::cargo(&sh::root()).args(base).args(args))
}
