//! `oarlock wal`: what an operator sees of a log, running or not, the server's or somebody else's, whole or damaged.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use oarlock_tests::{Flags, Member, Outcome, Scratch, scenario};
use oarlock_wal::{Batch, Entry, HardState, Options, SnapshotMark, Wal};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(20);

fn wal(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    command.arg("wal").args(args).arg(dir);
    command
}

fn output(args: &[&str], dir: &Path) -> Outcome<(Option<i32>, String)> {
    let Output { status, stdout, stderr } = wal(args, dir).output()?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    Ok((status.code(), text + &String::from_utf8_lossy(&stderr)))
}

/// A log of small segments that no server wrote, with a few of them full.
fn foreign(dir: &Path) -> Outcome<Wal> {
    let log = Options::new().segment_size(32 << 10).create(dir, b"not a server's")?;
    for first in (1..=60).step_by(10) {
        let entries: Vec<_> = (first..first + 10)
            .map(|index| Entry::new(index, 1, 0, format!("{index:a>10}").repeat(50)))
            .collect();
        let hard_state = Some(HardState { term: 1, vote: 2, commit: first });
        let _ = log.append(&Batch { hard_state, ..Batch::of(&entries) })?;
    }
    log.sync()?;
    Ok(log)
}

#[test]
fn a_log_of_somebody_else_is_dumped_in_ranges_and_as_json() {
    scenario("foreign dump", |scratch| {
        let dir = scratch.path().join("log");
        let log = foreign(&dir)?;
        let (code, text) = output(&["dump"], &dir)?;
        assert_eq!(code, Some(0), "{text}");
        for part in
            ["metadata that is not a server's", "kind 0, 500 bytes", "term 1, vote 2, commit 51"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.lines().count() > 60, "{text}");

        let (_, text) = output(&["dump", "--from", "7", "--to", "8", "--payload", "text"], &dir)?;
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("aaaaaaaaa7aaaaaaaaa7"), "{text}");

        let _ = log.append(&Batch::compact(SnapshotMark::new(50, 1, "conf")))?;
        log.sync()?;
        let (_, text) = output(&["dump", "--json", "--payload", "hex"], &dir)?;
        let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let of = |kind: &str| -> Vec<&Value> {
            lines.iter().filter(|line| line["record"] == kind).collect()
        };
        assert_eq!((of("entry").len(), of("hard_state").len(), of("compact").len()), (60, 6, 1));
        assert_eq!(of("segment").len(), of("checkpoint").len(), "{text}");
        assert_eq!(of("entry")[59]["index"], 60);
        assert!(of("entry")[59]["payload"].as_str().is_some_and(|hex| hex.ends_with("3630")));
        assert_eq!(of("compact")[0]["conf"], "636f6e66");
        Ok(())
    });
}

/// A child that ends with the test.
struct Following(Child, mpsc::Receiver<String>);

impl Following {
    fn new(args: &[&str], dir: &Path) -> Outcome<Self> {
        let mut child = wal(args, dir).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().expect("piped");
        let (lines, received) = mpsc::channel();
        thread::spawn(move || {
            let _ = BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|l| lines.send(l));
        });
        Ok(Self(child, received))
    }

    /// Waits for the next line that contains `part`.
    fn until(&self, part: &str) -> String {
        loop {
            let line = self.1.recv_timeout(BOUND).unwrap_or_else(|_| panic!("{part} never came"));
            if line.contains(part) {
                return line;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_follower_goes_along_with_rolls_releases_and_restarts() {
    scenario("follow", |scratch| {
        let dir = scratch.path().join("log");
        let log = foreign(&dir)?;
        let follower = Following::new(&["dump", "--follow"], &dir)?;
        follower.until("        60      1");
        let entries: Vec<_> = (61..=70).map(|i| Entry::new(i, 2, 0, vec![b'x'; 2000])).collect();
        let _ = log.append(&Batch::of(&entries))?;
        follower.until("        70      2");
        let _ = log.append(&Batch::compact(SnapshotMark::new(65, 2, "")))?;
        log.sync()?;
        assert!(log.release(60)?.segments > 0);
        log.close()?;
        let log = Options::new().segment_size(32 << 10).open(&dir)?;
        let _ = log.append(&Batch::of(&[Entry::new(70, 3, 0, "overwritten")]))?;
        follower.until("        70      3");
        Ok(())
    });
}

#[test]
fn a_running_member_is_followed() {
    scenario("follow a member", |scratch: &Scratch| {
        let mut member = Member::new(scratch, Flags::new(scratch.path(), "m1")?)?;
        member.start()?;
        let follower = Following::new(&["dump", "--follow", "--data-dir"], &member.flags.data_dir)?;
        follower.until("is \"m1\", clients reach it");
        member.client()?.put("first", "v")?;
        follower.until("put \"first\", 1 bytes");
        member.kill();
        member.start()?;
        member.client()?.put("second", "v")?;
        follower.until("put \"second\", 1 bytes");
        Ok(())
    });
}
