//! The binary `oarlock`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    oarlock_server::main()
}
