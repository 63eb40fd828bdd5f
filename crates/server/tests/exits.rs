//! How the process ends when it cannot serve: the code, and the last line for machines.

use std::{net::TcpListener, path::Path, process::Command, time::Duration};

use oarlock_tests::{Flags, Member, Outcome, Scratch, scenario};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_oarlock");
const BOUND: Duration = Duration::from_secs(20);

/// Runs `command` to its end; the exit code and the last line on stderr.
fn run(command: &mut Command) -> Outcome<(i32, Value)> {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
        if !command.get_envs().any(|(set, _)| set.to_str() == Some(name.as_str())) {
            command.env_remove(name);
        }
    }
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = stderr.lines().last().unwrap_or_default();
    let last = serde_json::from_str(last)
        .unwrap_or_else(|error| panic!("{error} in the last line of\n{stderr}"));
    Ok((output.status.code().unwrap_or(-1), last))
}

fn flags(scratch: &Scratch, name: &str) -> Outcome<Flags> {
    Flags::new(scratch.path(), name)
}

fn served_once(scratch: &Scratch, flags: &Flags, keys: usize) -> Outcome {
    let mut member = Member::new(scratch, flags.clone())?;
    member.start()?;
    let client = member.client()?;
    for key in 0..keys {
        client.put(&format!("k{key}"), &"v".repeat(200))?;
    }
    member.process()?.terminate()?;
    assert_eq!(member.process()?.wait(BOUND)?.code(), Some(0));
    Ok(())
}

#[test]
fn wrong_flags_exit_64() {
    for (args, word) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["--election-timeout", "100"], "--heartbeat-interval"),
        (&["--listen-client-urls", "http://127.0.0.1:1"], "--advertise-client-urls"),
        (&["wal", "dump", "--data-dir", "/nonexistent"], "no log in"),
        (&["wal", "verify", "/nonexistent"], "no log in /nonexistent/member/wal"),
        (&["wal", "verify", BINARY], "is a file"),
        (&["wal", "dump", BINARY], "is a file"),
        (&["wal", "repair", BINARY], "is a file"),
        (&["wal", "dump", "--from", "22", "--to", "20", "/a"], "nothing between"),
        (&["wal", "verify", "/a", "--data-dir", "/b"], "--data-dir"),
    ] {
        let (code, last) = run(Command::new(BINARY).args(args)).expect("it runs");
        assert_eq!((code, last["exit"].as_i64()), (64, Some(64)), "{args:?}");
        assert!(
            last["error"].as_str().is_some_and(|error| error.contains(word)),
            "{args:?}: {last}"
        );
    }
}

/// Once for people, once for machines.
#[test]
fn a_usage_error_is_said_once() {
    let output = Command::new(BINARY).arg("--no-such-flag").output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.matches("unexpected argument").count(), 2, "{stderr}");
    assert!(stderr.contains("Usage:"), "{stderr}");
}

#[test]
fn flag_and_variable_at_once_exit_64() {
    let (code, last) =
        run(Command::new(BINARY).args(["--name", "a"]).env("ETCD_NAME", "b")).expect("it runs");
    assert_eq!(code, 64);
    let error = last["error"].as_str().unwrap_or_default();
    assert_eq!(
        error,
        "conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding command-line flag"
    );
}

#[test]
fn help_and_version_exit_0() {
    for flag in ["--help", "--version"] {
        let output = Command::new(BINARY).arg(flag).output().expect("it runs");
        assert!(output.status.success() && !output.stdout.is_empty(), "{flag}");
    }
}

#[test]
fn a_data_dir_that_is_none_exits_64() {
    scenario("no directory", |scratch| {
        let flags = flags(scratch, "m1")?;
        let not_mounted = scratch.path().join("not-mounted");
        std::os::unix::fs::symlink(not_mounted, &flags.data_dir)?;
        let (code, last) = run(&mut flags.command(Path::new(BINARY)))?;
        assert_eq!((code, last["kind"].as_str()), (64, Some("usage")), "{last}");
        assert!(last["help"].as_str().is_some_and(|help| help.contains("mount what")), "{last}");

        std::fs::remove_file(&flags.data_dir)?;
        std::fs::write(&flags.data_dir, "a file")?;
        let (code, last) = run(&mut flags.command(Path::new(BINARY)))?;
        assert_eq!((code, last["kind"].as_str()), (64, Some("usage")), "{last}");
        Ok(())
    });
}

#[test]
fn taken_port_exits_75() {
    scenario("taken port", |scratch| {
        let flags = flags(scratch, "m1")?;
        let _taken = TcpListener::bind(("127.0.0.1", flags.client_port))?;
        let (code, last) = run(&mut flags.command(Path::new(BINARY)))?;
        assert_eq!((code, last["kind"].as_str()), (75, Some("in_use")));
        assert!(
            last["help"].as_str().is_some_and(|help| help.contains("--listen-client-urls")),
            "{last}"
        );
        assert!(!flags.data_dir.join("member/wal").exists(), "nothing was founded");
        Ok(())
    });
}

#[test]
fn locked_directory_exits_75() {
    scenario("locked directory", |scratch| {
        let first = flags(scratch, "m1")?;
        let mut member = Member::new(scratch, first.clone())?;
        member.start()?;
        let second = Flags { data_dir: first.data_dir.clone(), ..flags(scratch, "m2")? };
        let (code, last) = run(&mut second.command(Path::new(BINARY)))?;
        assert_eq!((code, last["kind"].as_str()), (75, Some("in_use")), "{last}");
        member.client()?.put("still", "served")?;
        Ok(())
    });
}

/// While it waits for peers that do not answer, to join them.
#[test]
fn a_stop_before_anything_is_served_is_a_stop() {
    scenario("stopped while it starts", |scratch| {
        let mut flags = flags(scratch, "m1")?;
        // A listener that never answers.
        let silent = TcpListener::bind("127.0.0.1:0")?;
        flags.initial_cluster =
            format!("{},m2=http://{}", flags.as_initial(), silent.local_addr()?);
        flags.initial_cluster_state = "existing";
        let mut member = Member::new(scratch, flags)?;
        let process = member.spawn()?;
        let (_asked, _) = silent.accept()?; // it has begun to ask
        process.terminate()?;
        assert_eq!(process.wait(BOUND)?.code(), Some(0), "{}", member.log_text());
        assert!(member.log_text().contains("before anything was served"), "{}", member.log_text());
        Ok(())
    });
}

#[test]
fn founder_outside_its_own_list_exits_64() {
    scenario("not in the list", |scratch| {
        let mut flags = flags(scratch, "m1")?;
        flags.initial_cluster = "other=http://127.0.0.1:1".into();
        let (code, last) = run(&mut flags.command(Path::new(BINARY)))?;
        assert_eq!(code, 64, "{last}");
        Ok(())
    });
}

/// A bit that flips in the proven part of the log is refused with file and offset, by the server and by the tool.
#[test]
fn damaged_log_exits_65_and_names_the_place() {
    scenario("damaged log", |scratch| {
        let flags = flags(scratch, "m1")?;
        served_once(scratch, &flags, 50)?;
        let wal = flags.data_dir.join("member/wal");
        let segment = wal.join("00000001.wal");
        let verify = || {
            let mut command = Command::new(BINARY);
            command.args(["wal", "verify", "--data-dir"]).arg(&flags.data_dir);
            command
        };
        assert!(verify().status()?.success(), "whole before");
        let mut bytes = std::fs::read(&segment)?;
        let needle = [b'v'; 64];
        let place = bytes.windows(64).position(|window| window == needle).expect("a value");
        bytes[place] ^= 1;
        std::fs::write(&segment, &bytes)?;
        for command in [&mut flags.command(Path::new(BINARY)), &mut verify()] {
            let (code, last) = run(command)?;
            assert_eq!((code, last["kind"].as_str()), (65, Some("damaged")), "{last}");
            assert_eq!(last["file"].as_str(), segment.to_str());
            let offset = last["offset"].as_u64().expect("where") as usize;
            assert!(offset <= place && place - offset < 1024, "{offset} is not near {place}");
        }
        Ok(())
    });
}

/// The same in a segment that was left long ago, whose footer would have answered for it.
#[test]
fn damage_in_a_left_segment_names_the_place_too() {
    scenario("damage in a left segment", |scratch| {
        let flags = flags(scratch, "m1")?;
        let mut member = Member::new(scratch, flags.clone())?;
        member.start()?;
        let client = member.client()?;
        let [segment, next] = [1, 2].map(|n| flags.data_dir.join(format!("member/wal/{n:08}.wal")));
        let large = "v".repeat(500_000);
        for key in 0..60 {
            client.put(&format!("k{key}"), &large)?;
        }
        assert!(next.exists(), "it has rolled");
        member.process()?.terminate()?;
        assert_eq!(member.process()?.wait(BOUND)?.code(), Some(0));
        let mut bytes = std::fs::read(&segment)?;
        bytes[2_000_000] ^= 1;
        std::fs::write(&segment, &bytes)?;
        let (code, last) = run(&mut flags.command(Path::new(BINARY)))?;
        assert_eq!((code, last["kind"].as_str()), (65, Some("damaged")), "{last}");
        assert_eq!(last["file"].as_str(), segment.to_str(), "{last}");
        let offset = last["offset"].as_u64().expect("where");
        assert!((1_400_000..=2_000_000).contains(&offset), "{last}");
        let error = last["error"].as_str().unwrap_or_default();
        let dir = segment.parent().expect("a directory").display().to_string();
        assert!(error.contains(&dir) && error.contains("last good entry"), "{last}");
        Ok(())
    });
}

/// A wiped founder would vote again in a cluster that remembers its votes.
#[test]
fn wiped_founder_is_refused_while_its_peers_know_it() {
    scenario("wiped founder", |scratch| {
        let mut cluster = oarlock_tests::Cluster::start(scratch, 3)?;
        cluster.members[0].kill();
        let flags = cluster.members[0].flags.clone();
        std::fs::remove_dir_all(&flags.data_dir)?;
        let (code, last) = run(&mut flags.command(Path::new(BINARY)))?;
        assert_eq!(code, 78, "{last}");
        assert!(
            last["error"].as_str().is_some_and(|error| error.contains("already been bootstrapped")),
            "{last}"
        );
        Ok(())
    });
}

/// Each would be a member that nobody can reach, and of a copied directory there would be two.
#[test]
fn data_of_another_member_exits_78() {
    scenario("swapped directories", |scratch| {
        let mut cluster = oarlock_tests::Cluster::start(scratch, 3)?;
        let dirs = [0, 1].map(|member| {
            cluster.members[member].kill();
            cluster.members[member].flags.data_dir.clone()
        });
        for (member, own, other) in [(0, &dirs[0], &dirs[1]), (1, &dirs[1], &dirs[0])] {
            let member = &mut cluster.members[member];
            member.flags.data_dir.clone_from(other);
            let end = member.spawn()?.wait(BOUND)?;
            let log = member.log_text();
            assert_eq!(end.code(), Some(78), "{log}");
            assert!(log.contains("claims the peer URLs of member"), "{log}");
            member.flags.data_dir.clone_from(own);
        }
        cluster.start_all()?; // and where they belong they serve
        cluster.client(0)?.put("k", "v")?;
        Ok(())
    });
}
