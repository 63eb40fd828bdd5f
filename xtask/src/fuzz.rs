//! `cargo xtask fuzz [target ...] [--seconds N]`: libFuzzer on the targets of `tests/fuzz`, one after the other. What it
//! finds stays in `tests/fuzz/artifacts`, what it learns in the target directory; neither is part of the tree.
//!
//! No nightly and no cargo-fuzz are needed: the coverage that libFuzzer wants is a pass of LLVM's. A C++ compiler is.

use crate::sh;
use std::fs;
use std::process::Command;

const USAGE: &str = "usage: cargo xtask fuzz [open|frame|operations|snapshot ...] [--seconds N]";

const TARGETS: [&str; 4] = ["open", "frame", "operations", "snapshot"];

/// What cargo-fuzz gives rustc for a build without a sanitizer.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg=fuzzing -Cdebug-assertions -Coverflow-checks";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut seconds = 60_u64;
    let mut targets: Vec<&str> = Vec::new();
    let mut words = args.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--seconds" => seconds = words.next().and_then(|n| n.parse().ok()).ok_or(USAGE)?,
            target if TARGETS.contains(&target) => targets.push(target),
            _ => return Err(USAGE.to_owned()),
        }
    }
    if targets.is_empty() {
        targets.extend(TARGETS);
    }
    let dir = sh::root().join("tests/fuzz");
    // Named, so that the flags are not for build scripts.
    let said = sh::capture(Command::new("rustc").arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("no host triple")?;
    let mut build = sh::cargo(&dir);
    build.env("RUSTFLAGS", COVERAGE).args(["build", "--release", "--bins", "--target", host]);
    sh::run(&mut build)?;
    let target_dir = sh::target_dir(&dir);
    for target in targets {
        let learnt = target_dir.join("corpus").join(target);
        let artifacts = dir.join("artifacts").join(target);
        for made in [&learnt, &artifacts] {
            fs::create_dir_all(made).map_err(|error| format!("{}: {error}", made.display()))?;
        }
        println!("fuzz: {target} for {seconds} s");
        let mut command = Command::new(target_dir.join(host).join("release").join(target));
        command.current_dir(&dir).arg(format!("-max_total_time={seconds}")).args([
            "-print_final_stats=1",
            "-timeout=20",
            "-max_len=4096",
        ]);
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        command.arg(&learnt).arg(dir.join("corpus").join(target));
        sh::run(&mut command)?;
    }
    Ok(())
}
