//! The server `oarlock`: a durable replicated key-value store that etcd v3 clients can use.
//!
//! This crate is the binary; the library exists for its tests and for the generated messages and clients in [`pb`].
//! Whoever wants a replicated service of their own takes `oarlock-raftnode`.
#![forbid(unsafe_code)]

mod api;
mod authority;
mod backend;
mod cli;
mod clients;
mod config;
mod exit;
mod fault;
mod http;
mod kv;
mod metrics;
mod node;
pub mod pb;
mod peers;
mod readiness;
mod replica;
mod serve;
mod start;
mod tools;

use std::{io::Write, process::ExitCode};

use cli::{CliError, Tool, WalTool};
use config::Config;
use exit::{Failure, Kind};

/// Runs the program: reads the command line and the environment, then serves, or does what a subcommand says.
///
/// The code is 0 after a stop that was asked for, else one of BSD's `sysexits`; the last line on stderr is then a
/// JSON object with the code, the error and, where it helps, file, offset and what to do.
pub fn main() -> ExitCode {
    let parsed = match cli::parse(std::env::args(), variables()) {
        Ok(parsed) => parsed,
        Err(CliError::Clap(error)) if !error.use_stderr() => {
            drop(error.print()); // help or version, asked for; nobody may be reading
            return ExitCode::SUCCESS;
        }
        Err(error) => return Failure::from(error).report(),
    };
    init_log(
        &parsed.cli.serve.log_level,
        parsed.cli.serve.given.iter().any(|flag| flag == "log-level"),
    );
    for variable in &parsed.unknown_variables {
        log::warn!(variable; "an environment variable that looks like a flag stands for none");
    }
    let done = |()| ExitCode::SUCCESS;
    let result = match &parsed.cli.tool {
        None => Config::new(&parsed.cli.serve)
            .and_then(|config| {
                serve::run(&config)
                    .map_err(|failure| failure.within(&config.member_dir().join("wal")))
            })
            .map(done),
        Some(Tool::Rescue(flags)) => tools::rescue(flags)
            .map(done)
            .map_err(|failure| failure.within(&config::member_dir(&flags.data_dir).join("wal"))),
        Some(Tool::Wal(WalTool::Dump(flags))) => tools::dump(flags).map(done),
        Some(Tool::Wal(WalTool::Verify(flags))) => tools::verify(flags),
        Some(Tool::Wal(WalTool::Repair(flags))) => tools::repair(flags),
    };
    result.unwrap_or_else(|failure| failure.report())
}

/// The environment, as far as it is text: no flag has a value that is not.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Logs to stderr. `--log-level` wins over `RUST_LOG`, which wins over the flag's default.
fn init_log(level: &str, given: bool) {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(level);
    if !given {
        builder.parse_default_env();
    }
    builder.format_timestamp_millis().init();
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        match error {
            CliError::Clap(error) => {
                // The usage is for people; the last line gets the first one of it.
                let text = error.render().to_string();
                let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
                Self::new(Kind::Usage, first).words(text)
            }
            CliError::Shadowed { variable } => Self::new(
                Kind::Usage,
                format_args!(
                    "conflicting environment variable {variable:?} is shadowed by corresponding command-line flag"
                ),
            )
            .help("either unset the environment variable or leave out the flag"),
        }
    }
}

/// Says something to the operator, on stderr: what is no log line and has to be read. If nobody can read it, that is no
/// reason to fail.
fn say(words: &str) {
    drop(std::io::stderr().write_all(words.as_bytes()));
}
