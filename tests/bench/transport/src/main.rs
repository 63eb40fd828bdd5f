//! `cargo xtask bench transport`: oarlock-transport beside plain TCP on the same loopback.

mod pair;
mod plain;
mod work;

use std::process::ExitCode;

fn main() -> ExitCode {
    match work::BENCH.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
