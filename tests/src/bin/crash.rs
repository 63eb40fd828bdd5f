//! `cargo xtask crash`: kills a server under load, again and again, and counts what was lost.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool talks to whoever started it"
)]

use oarlock_tests::{CrashOptions, Scratch, crash_loop, server_binary};
use std::process::ExitCode;
use std::str::FromStr;

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl Iterator<Item = String>) -> Result<(), String> {
    let options = parse(args)?;
    let scratch = Scratch::new("crash").map_err(|failure| failure.to_string())?;
    println!("seed {}, data in {}", options.seed, scratch.path().display());
    let outcome = crash_loop(scratch.path(), &options, &mut |line| println!("{line}"));
    let problem = match outcome {
        Ok(report) => {
            for line in &report.lost {
                println!("LOST {line}");
            }
            let (rounds, acked, unknown, lost) =
                (report.rounds, report.acked, report.unknown, report.lost.len());
            println!("rounds {rounds}, acked {acked}, unknown {unknown}, lost {lost}");
            if lost == 0 && acked > 0 {
                return Ok(());
            }
            if lost == 0 {
                "nothing was acknowledged: the loop proved nothing".to_owned()
            } else {
                String::new()
            }
        }
        Err(failure) => failure.to_string(),
    };
    let CrashOptions { rounds, members, writers, seed, .. } = &options;
    let logs = scratch.log_tails(40);
    Err(format!(
        "{logs}{problem}\nkept: {}\nagain: cargo xtask crash --members {members} --rounds {rounds} --writers {writers} \
         --seed {seed}",
        scratch.keep().display()
    ))
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<CrashOptions, String> {
    let mut server = None;
    let mut options = CrashOptions {
        server: Default::default(),
        rounds: 20,
        members: 1,
        writers: 16,
        seed: fastrand::u64(..),
    };
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--server" => server = Some(value.into()),
            "--rounds" => options.rounds = number(&flag, &value)?,
            "--members" => options.members = number(&flag, &value)?,
            "--writers" => options.writers = number(&flag, &value)?,
            "--seed" => options.seed = number(&flag, &value)?,
            _ => {
                return Err(format!(
                    "no option is called {flag}; there are: --rounds --members --writers --seed --server"
                ));
            }
        }
    }
    if !matches!(options.members, 1..=9) || options.writers == 0 {
        return Err("--members takes 1 to 9, --writers at least 1".to_owned());
    }
    options.server =
        server.map_or_else(|| server_binary().map_err(|failure| failure.to_string()), Ok)?;
    Ok(options)
}

fn number<T: FromStr>(flag: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{flag} takes a number, not {value}"))
}
