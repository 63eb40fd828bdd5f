//! `cargo xtask crash-states`: every state that a crash can leave of the log, two million of them unless told otherwise,
//! and every damage to a closed one. The work itself is in `crates/wal/tests/log`, `states.rs` and `rot.rs`; the gate
//! does less of it.

use crate::sh;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

const USAGE: &str =
    "usage: cargo xtask crash-states [--states N] [--stride N] [--seed S] [--replay STATE]";

/// How many states one run tries.
const STATES: u64 = 2_000_000;

/// How many the gate tries.
pub(crate) const IN_TEST: u64 = 100_000;

/// Of bits and lengths, the gate tries one of so many.
pub(crate) const STRIDE_IN_TEST: &str = "17";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut states = STATES;
    let mut command = sh::cargo(&sh::root());
    command.args(["test", "--quiet"]).args(TARGET);
    command.env("OARLOCK_STRIDE", "1");
    let mut replay = false;
    for pair in args.chunks(2) {
        match pair {
            [flag, value] if flag == "--states" => states = value.parse().map_err(|_| USAGE)?,
            [flag, value] if flag == "--seed" => drop(command.env("OARLOCK_SEED", value)),
            [flag, value] if flag == "--stride" => drop(command.env("OARLOCK_STRIDE", value)),
            [flag, value] if flag == "--replay" => {
                command.env("OARLOCK_STATE", value);
                replay = true;
            }
            _ => return Err(USAGE.to_owned()),
        }
    }
    command.env("OARLOCK_STATES", states.to_string());
    command.args(["--", "states::"]).args(if replay { None } else { Some("rot::") });
    command.args(["--nocapture", "--test-threads"]);
    command.arg(std::thread::available_parallelism().map_or(2, usize::from).to_string());
    let begin = Instant::now();
    let said = watch(&mut command)?;
    if replay {
        return Ok(());
    }
    let tried = count(&said);
    println!(
        "{tried} states in {:.0} s: nothing lost, nothing wrongly refused",
        begin.elapsed().as_secs_f64()
    );
    if tried < states { Err(format!("only {tried} states of {states}")) } else { Ok(()) }
}

/// What cargo is told to build.
pub(crate) const TARGET: [&str; 6] =
    ["--package", "oarlock-wal", "--profile", "checked", "--test", "log"];

/// The states that the workloads say they tried: `states: roll: 2012 of 12 seeds …`.
pub(crate) fn count(said: &str) -> u64 {
    let numbers = said.lines().filter_map(|line| {
        let (_, counts) = line.split_once("states: ")?.1.split_once(": ")?;
        counts.split_whitespace().next()?.parse::<u64>().ok()
    });
    numbers.sum()
}

/// Runs `command`, shows what it prints, and keeps it.
fn watch(command: &mut Command) -> Result<String, String> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    let mut said = String::new();
    for line in BufReader::new(child.stdout.take().expect("piped above")).split(b'\n') {
        let line = line.map_err(|error| error.to_string())?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(said) } else { Err(format!("the enumeration ended with {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_added_up() {
        let said = "test states::a ... states: roll: 2012 of 12 seeds\nok\nstates: kill: 30 of 1\n";
        assert_eq!(count(said), 2042);
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        run(&["--sates".to_owned(), "5".to_owned()]).expect_err("misspelled");
    }
}
