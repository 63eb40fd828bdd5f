//! One member: served with one command, killed, stopped, started with flags that cannot work.

use crate::util::{SOON, has_applied, put_eventually};
use oarlock_tests::{
    Cluster, Failure, Flags, Member, Process, etcdctl, http_get, require, scenario, server_binary,
};
use std::net::TcpListener;
use std::process::Command;

#[test]
fn what_was_written_survives_kill_9() {
    scenario("kill-9", |scratch| {
        let mut cluster = Cluster::start(scratch, 1)?;
        let client = cluster.client(0)?;
        for number in 0..50 {
            client.put(&format!("k{number}"), &format!("v{number}"))?;
        }
        let before = client.prefix("k")?;
        cluster.members[0].kill();
        cluster.members[0].start()?;
        let after = cluster.client(0)?.prefix("k")?;
        assert_eq!(after.kvs, before.kvs);
        assert!(after.revision >= before.revision, "{} < {}", after.revision, before.revision);
        Ok(())
    });
}

/// The lines that a one-member server prints to try must work as they stand.
#[test]
fn the_lines_it_prints_work() {
    let Some(program) = require("etcdctl") else { return };
    scenario("hints", |scratch| {
        let mut member = Member::new(scratch, Flags::new(scratch.path(), "m1")?)?;
        member.start()?;
        let url = member.flags.client_url();
        member.process()?.wait_for_log("etcdctl", SOON)?;
        let log = member.log_text();
        let hints: Vec<&str> = log
            .lines()
            .filter_map(|line| line.split_once("etcdctl ").map(|(_, args)| args))
            .collect();
        assert_eq!(hints.len(), 3, "three lines to try in\n{log}");
        for hint in hints {
            let args: Vec<&str> =
                hint.split_whitespace().filter(|word| !word.starts_with('#')).collect();
            let without_endpoints: Vec<&str> =
                args.iter().copied().filter(|arg| !arg.starts_with("--endpoints")).collect();
            etcdctl(&program, &url, &without_endpoints)?;
        }
        Ok(())
    });
}

/// No flags at all, as in the README; only the ports differ, so that a server that runs here does not matter.
#[test]
fn data_goes_to_default_oarlock_in_the_current_directory() {
    scenario("defaults", |scratch| {
        let mut flags = Flags::new(scratch.path(), "default")?;
        flags.data_dir = scratch.path().join("default.oarlock");
        let mut command = Command::new(server_binary()?);
        command.current_dir(scratch.path());
        command.args([
            "--listen-client-urls",
            &flags.client_url(),
            "--advertise-client-urls",
            &flags.client_url(),
        ]);
        command.args([
            "--listen-peer-urls",
            &flags.peer_url(),
            "--initial-advertise-peer-urls",
            &flags.peer_url(),
        ]);
        let mut process =
            Process::spawn("default", &mut command, &scratch.path().join("default.log"))?;
        let client = oarlock_tests::Client::new(&flags.client_url(), SOON)?;
        put_eventually(&client, "k", "v", SOON)
            .map_err(|failure| process.failure(&failure.to_string()))?;
        assert!(flags.data_dir.is_dir());
        process.terminate()?;
        assert_eq!(process.wait(SOON)?.code(), Some(0), "SIGTERM ends it cleanly");
        Ok(())
    });
}

#[test]
fn sigterm_stops_cleanly_and_nothing_is_lost() {
    scenario("sigterm", |scratch| {
        let mut cluster = Cluster::start(scratch, 1)?;
        cluster.client(0)?.put("k", "v")?;
        let process = cluster.members[0].process()?;
        process.terminate()?;
        assert_eq!(process.wait(SOON)?.code(), Some(0));
        cluster.members[0].start()?;
        has_applied(&cluster.client(0)?, "k", "v")
    });
}

#[test]
fn a_second_server_on_the_same_data_is_told_so() {
    scenario("locked", |scratch| {
        let cluster = Cluster::start(scratch, 1)?;
        let mut flags = Flags::new(scratch.path(), "second")?;
        flags.data_dir.clone_from(&cluster.members[0].flags.data_dir);
        let mut second = Member::new(scratch, flags)?;
        let code = second.spawn()?.wait(SOON)?.code();
        assert_eq!(code, Some(75), "{}", second.log_text());
        cluster.client(0)?.put("k", "v")?; // the first does not mind
        Ok(())
    });
}

#[test]
fn a_taken_port_is_told_so() {
    scenario("port-taken", |scratch| {
        let flags = Flags::new(scratch.path(), "m1")?;
        let _taken = TcpListener::bind(("127.0.0.1", flags.client_port))?;
        let mut member = Member::new(scratch, flags)?;
        let code = member.spawn()?.wait(SOON)?.code();
        let log = member.log_text();
        assert_eq!(code, Some(75), "{log}");
        let last = log.lines().last().unwrap_or_default();
        let json: serde_json::Value = serde_json::from_str(last)?;
        assert_eq!(json["exit"], 75, "the last line is for machines: {last}");
        Ok(())
    });
}

#[test]
fn flags_that_cannot_be_are_a_usage_error() {
    scenario("usage", |scratch| {
        let mut member = Member::new(scratch, Flags::new(scratch.path(), "m1")?)?;
        member.flags.initial_cluster = "somebody-else=http://127.0.0.1:1".to_owned();
        let code = member.spawn()?.wait(SOON)?.code();
        assert_eq!(code, Some(64), "{}", member.log_text());
        Ok(())
    });
}

#[test]
fn http_endpoints_answer_beside_grpc() {
    scenario("http", |scratch| {
        let cluster = Cluster::start(scratch, 1)?;
        let port = cluster.members[0].flags.client_port;
        let health: serde_json::Value = serde_json::from_str(&http_get(port, "/health")?.body)?;
        assert_eq!(health["health"], "true");
        let version: serde_json::Value = serde_json::from_str(&http_get(port, "/version")?.body)?;
        assert!(version["etcdserver"].is_string(), "{version}");
        let status = http_get(port, "/debug/raft/status")?;
        assert_eq!(status.status, 200);
        serde_json::from_str::<serde_json::Value>(&status.body)?;
        cluster.client(0)?.put("k", "v")?;
        for metric in [
            "etcd_server_has_leader",
            "etcd_server_is_leader",
            "etcd_disk_wal_fsync_duration_seconds_count",
        ] {
            let value = cluster.members[0].metric(metric)?;
            if value < 1.0 {
                return Err(Failure::new(format!("{metric} is {value}")));
            }
        }
        Ok(())
    });
}
