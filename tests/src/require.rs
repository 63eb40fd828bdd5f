//! Tools that a test needs and a machine may not have.

use crate::{Failure, Outcome};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The path of `tool`, or `None` if this machine does not have it: then the test returns early.
///
/// The skip is written down, for `cargo xtask test` to count by name at its end. Under `OARLOCK_REQUIRE=all`, which CI
/// sets, there are no skips.
///
/// # Panics
/// If the tool is missing and `OARLOCK_REQUIRE` is `all`.
#[must_use]
pub fn require(tool: &str) -> Option<PathBuf> {
    let found = look_for(tool, &std::env::var_os("PATH").unwrap_or_default());
    if found.is_none() {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        assert!(
            std::env::var("OARLOCK_REQUIRE").as_deref() != Ok("all"),
            "{test} needs {tool}, and OARLOCK_REQUIRE=all forbids to skip it: install {tool}"
        );
        eprintln!("skipped: {test} needs {tool}");
        note(&skips(), tool, test);
    }
    found
}

/// Runs `etcdctl` of the distribution against `endpoints`, bounded, and returns what it printed.
///
/// # Errors
/// With both of its streams if it fails.
pub fn etcdctl(program: &Path, endpoints: &str, args: &[&str]) -> Outcome<String> {
    let mut command = Command::new(program);
    command.env_clear().env("ETCDCTL_API", "3").stdin(Stdio::null());
    command
        .args(["--command-timeout=10s", "--dial-timeout=5s", "--endpoints", endpoints])
        .args(args);
    let output = command.output()?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("etcdctl {}: {}\n{stdout}{stderr}", args.join(" "), output.status)))
}

fn look_for(tool: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(tool)).find(|file| file.is_file())
}

/// Where skips are written down: `OARLOCK_SKIPS`, which xtask sets, or a file in the target directory.
fn skips() -> PathBuf {
    let default = || crate::scratch::target_dir().join("skipped-tests.txt");
    std::env::var_os("OARLOCK_SKIPS").map_or_else(default, PathBuf::from)
}

/// One line in one write, so that tests running at once do not mix theirs.
fn note(file: &Path, tool: &str, test: &str) {
    let line = format!("{tool}\t{test}\n");
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .and_then(|mut f| f.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("cannot write {}: {error}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    #[test]
    fn a_tool_that_is_there_is_found() {
        assert!(look_for("sh", "/nowhere:/bin:/usr/bin".as_ref()).is_some());
        assert_eq!(look_for("no-such-tool-anywhere", "/bin:/usr/bin".as_ref()), None);
    }

    #[test]
    fn a_skip_is_written_down_with_the_name_of_the_test() {
        let scratch = Scratch::new("skip").expect("a directory");
        let file = scratch.path().join("skips");
        note(&file, "strace", "one");
        note(&file, "etcdctl", "two");
        assert_eq!(std::fs::read_to_string(file).expect("written"), "strace\tone\netcdctl\ttwo\n");
    }
}
