//! Directories for one test, on the disk that the code is built on, and what happens to them when it fails.

use crate::{Failure, Outcome};
use parking_lot::Mutex;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A directory that is gone after a test that passed, and kept after one that failed.
///
/// It lies in the target directory, not in `/tmp`, which is often memory: a disk that cannot be slow proves little.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new, empty directory with `name` in its name.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn new(name: &str) -> Outcome<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = target_dir()
            .join("oarlock-tests")
            .join(format!("{name}-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path); // of an earlier process with this number
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last lines of every log in it, with their names.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        let mut logs: Vec<PathBuf> = fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        logs.retain(|path| path.extension().is_some_and(|ext| ext == "log"));
        logs.sort();
        logs.iter().map(|log| format!("---- {}\n{}\n", log.display(), tail(log, lines))).collect()
    }

    /// Leaves the directory where it is, and says where that is.
    #[must_use]
    pub fn keep(self) -> PathBuf {
        let path = self.path.clone();
        std::mem::forget(self);
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}kept: {}", self.log_tails(60), self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Runs one test with a cluster in it: one at a time in this process, so that clusters do not starve each other of the
/// machine and turn a slow one into a failure.
///
/// # Panics
/// If `story` fails; the ends of the logs are printed and the directories kept.
pub fn scenario(name: &str, story: impl FnOnce(&Scratch) -> Outcome) {
    static ONE: Mutex<()> = Mutex::new(());
    let _turn = ONE.lock();
    let scratch = Scratch::new(name).expect("the target directory is writable");
    if let Err(failure) = story(&scratch) {
        panic!("{name}: {failure}");
    }
}

/// The last `lines` lines of a file, or why there are none.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    match fs::read(file) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({error})"),
    }
}

/// Cargo's target directory.
pub(crate) fn target_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), |dir| workspace.join(dir))
}

/// The type of the file system that holds `path`, as in `/proc/self/mounts`; `None` where there is no such file.
pub(crate) fn file_system(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let path = path.canonicalize().ok()?;
    let fields = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?, words.next()?))
    });
    let holding = fields.filter(|(at, _)| path.starts_with(at));
    holding.max_by_key(|(at, _)| at.len()).map(|(_, kind)| kind.to_owned())
}

/// Refuses a file system that lives in memory: nothing that is killed there proves anything about a disk.
pub(crate) fn on_disk(path: &Path) -> Outcome {
    match file_system(path).as_deref() {
        Some(kind @ ("tmpfs" | "ramfs")) => Err(Failure::new(format!(
            "{} is on {kind}: set CARGO_TARGET_DIR to a directory on a disk",
            path.display()
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_when_the_test_passed() {
        let scratch = Scratch::new("goes").expect("a directory");
        let path = scratch.path().to_owned();
        assert!(path.is_dir());
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_stays_when_the_test_failed() {
        let path = std::thread::spawn(|| {
            let scratch = Scratch::new("stays").expect("a directory");
            std::panic::panic_any(scratch.path().to_owned()); // the payload brings the path out
        });
        let path = *path.join().expect_err("panicked").downcast::<PathBuf>().expect("the path");
        assert!(path.is_dir());
        fs::remove_dir_all(path).expect("ours");
    }

    #[test]
    fn the_tail_is_the_end() {
        let scratch = Scratch::new("tail").expect("a directory");
        let log = scratch.path().join("a.log");
        fs::write(&log, "1\n2\n3\n").expect("writable");
        assert_eq!(tail(&log, 2), "2\n3");
        assert!(scratch.log_tails(1).ends_with("a.log\n3\n"));
    }

    #[test]
    fn memory_is_not_a_disk() {
        if let Some("tmpfs") = file_system(Path::new("/dev/shm")).as_deref() {
            on_disk(Path::new("/dev/shm")).expect_err("memory");
        }
        on_disk(Path::new("/proc/self/no-such-file")).expect("nothing known against it");
    }
}
