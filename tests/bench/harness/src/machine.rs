//! What the figures were taken on, and the priority they were taken at.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;

const RAISED: &str = "OARLOCK_BENCH_CHRT";
const STAY: &str = "OARLOCK_BENCH_NO_CHRT";

/// Whether the scheduler lets this process run as soon as its sync is done.
#[derive(Debug)]
pub enum Priority {
    RealTime,
    /// On a busy machine everybody then waits for the scheduler's tick after a sync.
    Ordinary(&'static str),
}

impl Priority {
    /// Starts this process anew under `chrt -r 1`, if that is allowed.
    pub fn raise() -> Self {
        if std::env::var_os(RAISED).is_some() {
            return Self::RealTime;
        }
        if std::env::var_os(STAY).is_some() {
            return Self::Ordinary("as asked");
        }
        let chrt = || {
            let mut command = Command::new("chrt");
            command.args(["-r", "1"]);
            command
        };
        let allowed = chrt().arg("true").stderr(Stdio::null()).status();
        match allowed.map(|status| status.success()) {
            Err(_) => Self::Ordinary("there is no chrt"),
            Ok(false) => Self::Ordinary("chrt -r 1 is not allowed"),
            Ok(true) => {
                let program = std::env::current_exe().unwrap_or_default();
                let args = std::env::args_os().skip(1);
                // Comes back only if it failed.
                let _ = chrt().arg(program).args(args).env(RAISED, "1").exec();
                Self::Ordinary("chrt could not be started")
            }
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::RealTime => "real-time priority (chrt -r 1)".into(),
            Self::Ordinary(why) => {
                format!("ordinary priority ({why}): synced figures include the scheduler's tick")
            }
        }
    }
}

/// Type of the file system that `dir` is on.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.into());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((Path::new(words.next()?), words.next()?))
    });
    // The longest mount point wins; of several on the same one, the last.
    let found = mounts.filter(|(at, _)| dir.starts_with(at));
    let found = found.max_by_key(|(at, _)| at.components().count());
    found.map_or_else(|| "unknown".into(), |(_, kind)| kind.to_owned())
}

/// A sync costs nothing in memory, so there is nothing to measure there.
pub fn refuse_memory(dir: &Path) -> Result<()> {
    match file_system(dir).as_str() {
        kind @ ("tmpfs" | "ramfs" | "devtmpfs") => {
            Err(format!("{} is on {kind}: choose a real disk with --dir", dir.display()).into())
        }
        _ => Ok(()),
    }
}

/// One paragraph: date, commit, machine, disk, priority, load.
pub fn describe(dir: &Path, priority: &Priority) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let cpu = cpu.map_or("unknown processor", |model| model.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!(
        "{}, commit {}, {}; {cores} x {cpu}, Linux {}, {}; {}; load average {}",
        said("date", &["-u", "+%F %H:%M UTC"]),
        said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
        said("rustc", &["--version"]),
        kernel.trim(),
        file_system(dir),
        priority.describe(),
        load.join(" "),
    )
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    output.unwrap_or_else(|_| format!("no {program}"))
}

/// Anonymous memory of this process, in bytes: what is on its heaps and stacks.
pub fn anonymous() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no RssAnon")?;
    Ok(kib.trim().parse::<u64>()? << 10)
}
