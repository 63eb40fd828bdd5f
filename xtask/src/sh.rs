//! Running other programs: always from a stated directory, always with the exit status looked at.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the crates offer to tests, theirs and their users': simulated disks and networks, suites for implementers.
pub(crate) const TESTING: &str =
    "oarlock-wal/testing,oarlock-transport/testing,oarlock-raftnode/testing";

/// The root of this workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lives in the workspace").to_owned()
}

/// Where cargo puts what it builds for the workspace at `root`.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// `cargo`, run in `dir`.
///
/// `PROTOC` is taken out of its environment: raft-proto's build script uses whatever it names, and fails on anything
/// newer than protoc 3.x (raft-rs issue 535); without it the script falls back to the one it bundles.
pub(crate) fn cargo(dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir).env_remove("PROTOC").stdin(Stdio::null());
    command
}

/// Whether the `protoc` on the `PATH` is a 3.x, with which raft-proto's other codec is built: it says `libprotoc 3.21.12`.
pub(crate) fn has_protoc() -> bool {
    let said = capture(Command::new("protoc").arg("--version")).unwrap_or_default();
    said.split_whitespace().last().is_some_and(|version| version.starts_with("3."))
}

/// Runs `command`, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} ended with {status}", show(command))),
        Err(error) => Err(format!("cannot run {}: {error}", show(command))),
    }
}

/// Runs `command` and returns its standard output; an error holds what it said on both streams.
pub(crate) fn capture(command: &mut Command) -> Result<String, String> {
    let output =
        command.output().map_err(|error| format!("cannot run {}: {error}", show(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} ended with {}\n{stdout}{stderr}", show(command), output.status))
}

/// The files that git tracks below `root`.
pub(crate) fn tracked(root: &Path) -> Result<Vec<PathBuf>, String> {
    let listing = capture(Command::new("git").current_dir(root).args(["ls-files", "-z"]))?;
    Ok(listing.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

/// The first directory of `PATH` that holds `tool`, with it.
pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|file| file.is_file())
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    format!("`{}`", words.join(" "))
}
