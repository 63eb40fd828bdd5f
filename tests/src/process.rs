//! A process that cannot outlive its test.

use crate::scratch::tail;
use crate::{Failure, Outcome, eventually};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A running process; both its streams go to one log file. It is killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where in the log this start's own output begins.
    begin: usize,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`, appending what it prints to the file `log`.
    ///
    /// # Errors
    /// If the log cannot be opened or the program not be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Outcome<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(log)?;
        writeln!(file, "==== start of {name}: {command:?}")?;
        let begin = usize::try_from(file.metadata()?.len())?;
        let streams: (File, File) = (file.try_clone()?, file);
        let child = command.stdin(Stdio::piped()).stdout(streams.0).stderr(streams.1).spawn();
        let child =
            child.map_err(|error| Failure::new(format!("cannot start {command:?}: {error}")))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), begin, ended: None })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input, which stays open and silent otherwise.
    ///
    /// # Errors
    /// If it does not read any more.
    pub fn tell(&mut self, line: &str) -> Outcome {
        let written = self.child.stdin.as_mut().map(|stdin| writeln!(stdin, "{line}"));
        match written {
            Some(Ok(())) => Ok(()),
            _ => Err(self.failure(&format!("could not be told `{line}`"))),
        }
    }

    /// How the process ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// `kill -9`, and waits until it is gone: its files are closed, its locks free.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// Asks the process to stop (SIGTERM).
    ///
    /// # Errors
    /// If the signal could not be sent.
    pub fn terminate(&mut self) -> Outcome {
        let status = Command::new("kill").args(["-TERM", &self.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(self.failure("could not be sent SIGTERM")) }
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// If it still runs after `bound`.
    pub fn wait(&mut self, bound: Duration) -> Outcome<ExitStatus> {
        let waited = eventually("its end", bound, || self.ended());
        waited.map_err(|_| self.failure(&format!("still runs after {bound:?}")))
    }

    /// Waits until it has printed `text`.
    ///
    /// # Errors
    /// If it does not after `bound`, or the process ended without it.
    pub fn wait_for_log(&mut self, text: &str, bound: Duration) -> Outcome {
        let found = eventually("a line in the log", bound, || {
            let ended = self.ended(); // before the look at the log: what it printed last is seen
            if self.log_text().contains(text) {
                return Some(true);
            }
            ended.map(|_| false)
        });
        match found {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.failure(&format!("ended without printing `{text}`"))),
            Err(_) => Err(self.failure(&format!("did not print `{text}` within {bound:?}"))),
        }
    }

    /// Everything it printed since this start.
    #[must_use]
    pub fn log_text(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.begin..).unwrap_or_default()).into_owned()
    }

    /// A failure about this process, with the end of its log.
    #[must_use]
    pub fn failure(&self, text: &str) -> Failure {
        let end = self.ended.map_or_else(String::new, |status| format!(" ({status})"));
        Failure::new(format!(
            "{}{end} {text}; the end of its log:\n{}",
            self.name,
            tail(&self.log, 40)
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    const SOON: Duration = Duration::from_secs(10);

    fn stub(scratch: &Scratch, script: &str) -> Process {
        let log = scratch.path().join("stub.log");
        Process::spawn("stub", Command::new("sh").args(["-c", script]), &log).expect("sh")
    }

    fn runs(pid: u32) -> bool {
        Command::new("kill")
            .args(["-0", &pid.to_string()])
            .stderr(Stdio::null())
            .status()
            .expect("kill")
            .success()
    }

    #[test]
    fn both_streams_are_captured_and_the_end_is_seen() {
        let scratch = Scratch::new("streams").expect("a directory");
        let mut process = stub(&scratch, "echo one; echo two >&2; exit 65");
        assert_eq!(process.wait(SOON).expect("ends at once").code(), Some(65));
        let log = process.log_text();
        assert!(log.contains("one\n") && log.contains("two\n"), "{log}");
    }

    #[test]
    fn dropped_means_killed() {
        let scratch = Scratch::new("dropped").expect("a directory");
        let process = stub(&scratch, "exec sleep 600");
        let pid = process.id();
        assert!(runs(pid));
        drop(process);
        assert!(!runs(pid));
    }

    #[test]
    fn a_line_is_waited_for() {
        let scratch = Scratch::new("line").expect("a directory");
        let mut process = stub(&scratch, "sleep 0.1; echo ready; exec sleep 600");
        process.wait_for_log("ready", SOON).expect("it prints it");
        assert!(process.ended().is_none());
    }

    #[test]
    fn what_an_earlier_start_printed_does_not_count() {
        let scratch = Scratch::new("earlier").expect("a directory");
        stub(&scratch, "echo ready").wait(SOON).expect("ends at once");
        stub(&scratch, "exit 1 # ready")
            .wait_for_log("ready", SOON)
            .expect_err("it did not say so");
    }

    #[test]
    fn an_early_end_is_a_failure_with_the_log() {
        let scratch = Scratch::new("early").expect("a directory");
        let mut process = stub(&scratch, "echo cannot bind; exit 75");
        let failure = process.wait_for_log("ready", SOON).expect_err("it ends without").to_string();
        assert!(failure.contains("cannot bind") && failure.contains("75"), "{failure}");
    }

    #[test]
    fn a_silent_process_does_not_hang_the_test() {
        let scratch = Scratch::new("silent").expect("a directory");
        let mut process = stub(&scratch, "exec sleep 600");
        process.wait_for_log("ready", Duration::from_millis(50)).expect_err("silent");
        process.wait(Duration::from_millis(50)).expect_err("still runs");
    }

    #[test]
    fn a_process_can_be_told_something() {
        let scratch = Scratch::new("told").expect("a directory");
        let mut process = stub(&scratch, "read line; echo \"heard $line\"");
        process.tell("this").expect("it reads");
        process.wait_for_log("heard this", SOON).expect("it says so");
        process.wait(SOON).expect("it ends");
        process.tell("that").expect_err("nobody reads");
    }

    #[test]
    fn sigterm_can_be_answered() {
        let scratch = Scratch::new("sigterm").expect("a directory");
        let mut process =
            stub(&scratch, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
        process.wait_for_log("up", SOON).expect("starts");
        process.terminate().expect("it runs");
        assert!(process.wait(SOON).expect("it ends").success());
        assert!(process.log_text().contains("bye"));
    }
}
