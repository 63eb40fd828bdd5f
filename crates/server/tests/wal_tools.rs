//! `oarlock wal`: what an operator sees of a log, running or not, the server's or somebody else's, whole or damaged.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use oarlock_tests::{Flags, Member, Outcome, Scratch, scenario};
use oarlock_wal::{Batch, Entry, HardState, Options, RealVfs, SnapshotMark, Vfs, Wal};
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

/// Damages the log of a stopped member in the middle of what it acknowledged.
fn damage(flags: &Flags) -> Outcome<PathBuf> {
    let segment = flags.data_dir.join("member/wal/00000001.wal");
    let mut bytes = std::fs::read(&segment)?;
    let needle = b"value-25";
    let place = bytes.windows(needle.len()).position(|window| window == needle).expect("a value");
    bytes[place] ^= 1;
    std::fs::write(&segment, &bytes)?;
    Ok(segment)
}

fn last_json(text: &str) -> Value {
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in the last line of\n{text}"))
}

/// The only member there is: what can be kept is kept, when the loss was accepted, and it serves again.
#[test]
fn a_damaged_member_is_repaired_when_its_loss_is_accepted() {
    scenario("repair", |scratch| {
        let mut member = Member::new(scratch, Flags::new(scratch.path(), "m1")?)?;
        member.start()?;
        let client = member.client()?;
        for key in 0..50 {
            client.put(&format!("k{key:02}"), &format!("value-{key:02}"))?;
        }
        let dir = member.flags.data_dir.clone();
        let (code, text) = output(&["verify"], &dir)?;
        assert_eq!(code, Some(0), "{text}");
        let (code, text) = output(&["repair"], &dir)?;
        assert_eq!((code, text.contains("it is whole")), (Some(0), true), "{text}");
        member.process()?.terminate()?;
        assert_eq!(member.process()?.wait(BOUND)?.code(), Some(0));

        let segment = damage(&member.flags)?;
        let damaged = std::fs::read(&segment)?;
        let (code, text) = output(&["verify", "--json"], &dir)?;
        let found: Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
        assert_eq!((code, &found["whole"]), (Some(65), &Value::Bool(false)), "{text}");
        assert_eq!(last_json(&text)["file"].as_str(), segment.to_str());

        let (code, text) = output(&["repair"], &dir)?;
        assert_eq!(code, Some(1), "{text}");
        for part in [
            "COMMITTED ENTRIES WOULD BE LOST",
            "remove the member",
            "nothing was changed: --apply --accept-loss does it",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let (code, text) = output(&["repair", "--json"], &dir)?;
        let plan: Value = serde_json::from_str(&text)?;
        assert_eq!(code, Some(1));
        assert_eq!(plan["remedy"]["remedy"], "cut", "{text}");
        assert_eq!(plan["remedy"]["lost"]["weight"], "committed", "{text}");

        let (code, text) = output(&["repair", "--apply"], &dir)?;
        assert_eq!(
            (code, last_json(&text)["kind"].as_str()),
            (Some(65), Some("damaged")),
            "{text}"
        );
        assert!(
            last_json(&text)["help"].as_str().is_some_and(|help| help.contains("--accept-loss"))
        );
        assert_eq!(std::fs::read(&segment)?, damaged, "nothing was changed");

        let running = RealVfs.lock(&dir.join("member/wal/LOCK"))?;
        let (code, text) = output(&["repair", "--apply", "--accept-loss"], &dir)?;
        assert_eq!(code, Some(75), "{text}");
        drop(running);
        let (code, text) = output(&["repair", "--apply", "--accept-loss"], &dir)?;
        assert_eq!(code, Some(0), "{text}");
        let copy = dir.join("member/wal.before-repair-1");
        assert_eq!(std::fs::read(copy.join("00000001.wal"))?, damaged);
        assert!(std::fs::read_to_string(copy.join("PLAN.txt"))?.contains("cut the log off at"));
        let (code, text) = output(&["verify"], &dir)?;
        assert_eq!(code, Some(0), "{text}");

        member.start()?;
        let left = member.client()?.prefix("k")?.kvs.len();
        assert!((20..=25).contains(&left), "{left} keys are left");
        member.client()?.put("after", "v")?;
        Ok(())
    });
}

/// What a crash tore needs no repair; a tail that is being written is called that.
#[test]
fn a_torn_end_has_a_code_of_its_own() {
    scenario("torn", |scratch| {
        let dir = scratch.path().join("log");
        let log = foreign(&dir)?;
        let end = log.append(&Batch::default())?.lsn();
        let segment = dir.join(end.segment().to_string());
        let mut bytes = std::fs::read(&segment)?;
        bytes[end.offset() as usize + 8] = 1;
        std::fs::write(&segment, &bytes)?;
        let (code, text) = output(&["verify"], &dir)?;
        assert!(code == Some(0) && text.contains("is being written"), "{code:?} {text}");
        // As a crash would leave it: a log that is dropped is closed.
        let crashed = scratch.path().join("crashed");
        std::fs::create_dir(&crashed)?;
        for file in std::fs::read_dir(&dir)? {
            let file = file?;
            std::fs::copy(file.path(), crashed.join(file.file_name()))?;
        }
        drop(log);
        let dir = crashed;
        let (code, text) = output(&["verify"], &dir)?;
        assert!(code == Some(1) && text.contains("torn at"), "{code:?} {text}");
        let (code, text) = output(&["repair", "--apply"], &dir)?;
        assert!(code == Some(0) && text.contains("nothing to repair"), "{code:?} {text}");
        Options::new().open(&dir)?.close()?;
        let (code, text) = output(&["verify"], &dir)?;
        assert_eq!(code, Some(0), "{text}");
        Ok(())
    });
}

/// Nobody is told to run what they have just run.
#[test]
fn a_log_of_which_nothing_can_be_kept_says_what_else_to_do() {
    scenario("nothing to keep", |scratch| {
        let dir = scratch.path().join("log");
        let log = Options::new().segment_size(32 << 10).create(&dir, b"")?;
        let _ = log.append(&Batch::of(&[Entry::new(1, 1, 0, "kept")]))?;
        log.close()?;
        let (code, text) = output(&["dump"], &dir)?;
        assert!(code == Some(0) && text.contains("checkpoint: no metadata;"), "{code:?} {text}");
        let segment = dir.join("00000001.wal");
        let mut bytes = std::fs::read(&segment)?;
        bytes[12_300] ^= 1;
        std::fs::write(&segment, &bytes)?;
        let (code, text) = output(&["repair"], &dir)?;
        assert_eq!(code, Some(65), "{text}");
        let last = last_json(&text);
        let help = last["help"].as_str().unwrap_or_default();
        assert!(help.contains("restore a copy") && !help.contains("wal repair"), "{last}");
        Ok(())
    });
}

/// What is gone with the end of a file may have been acknowledged: it is not cut off without being told to.
#[test]
fn a_file_that_was_cut_is_not_repaired_in_passing() {
    scenario("a file that was cut", |scratch| {
        let mut member = Member::new(scratch, Flags::new(scratch.path(), "m1")?)?;
        member.start()?;
        let client = member.client()?;
        for key in 0..40 {
            client.put(&format!("k{key:02}"), &"v".repeat(20_000))?;
        }
        member.kill();
        let dir = member.flags.data_dir.clone();
        let segment = dir.join("member/wal/00000001.wal");
        std::fs::OpenOptions::new().write(true).open(&segment)?.set_len(300_000)?;
        let (code, text) = output(&["repair"], &dir)?;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("at least") && text.contains("--apply --accept-loss"), "{text}");
        let (code, text) = output(&["repair", "--apply"], &dir)?;
        assert_eq!(code, Some(65), "{text}");
        assert_eq!(std::fs::metadata(&segment)?.len(), 300_000, "nothing was changed");
        let (code, text) = output(&["repair", "--apply", "--accept-loss"], &dir)?;
        assert_eq!(code, Some(0), "{text}");
        Ok(())
    });
}
