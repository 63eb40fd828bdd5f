//! The bench. See the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    match oarlock_bench_raftnode::BENCH.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
