//! A real server with real data on a real disk, asked by a gRPC client and over plain HTTP.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use oarlock_tests::{Cluster, Flags, Member, Outcome, eventually, http_get, scenario};

const BOUND: Duration = Duration::from_secs(20);

fn one(scratch: &oarlock_tests::Scratch, extra: &[&str]) -> Outcome<Member> {
    let mut flags = Flags::new(scratch.path(), "m1")?;
    flags.extra = extra.iter().map(|flag| (*flag).to_owned()).collect();
    let mut member = Member::new(scratch, flags)?;
    member.start()?;
    Ok(member)
}

#[test]
fn what_was_written_is_there_after_kill_and_after_stop() {
    scenario("kill and stop", |scratch| {
        let mut member = one(scratch, &[])?;
        let mut revision = 1;
        for round in 0..3 {
            for key in 0..20 {
                let written = member.client()?.put(&format!("{round}/{key}"), "v")?;
                assert!(written > revision);
                revision = written;
            }
            if round == 1 {
                member.process()?.terminate()?;
                assert_eq!(member.process()?.wait(BOUND)?.code(), Some(0), "{}", member.log_text());
            } else {
                member.kill();
            }
            member.start()?;
            assert_eq!(member.client()?.prefix("")?.kvs.len(), 20 * (round + 1));
            assert_eq!(member.client()?.get("0/0")?.expect("written").mod_revision, 2);
        }
        Ok(())
    });
}

#[test]
fn snapshots_are_taken_and_restored() {
    scenario("snapshots", |scratch| {
        let mut member = one(scratch, &["--snapshot-count", "50"])?;
        let client = member.client()?;
        for key in 0..200 {
            client.put(&format!("k{:03}", key % 70), &format!("{key}"))?;
        }
        let snapshots = member.flags.data_dir.join("member/snap");
        eventually("a snapshot", BOUND, || std::fs::read_dir(&snapshots).ok()?.next().map(|_| ()))?;
        member.kill();
        member.start()?;
        let page = member.client()?.prefix("k")?;
        assert_eq!(page.kvs.len(), 70);
        assert_eq!(member.client()?.get("k059")?.expect("written").value, "199");
        Ok(())
    });
}

#[test]
fn http_answers_beside_grpc() {
    scenario("http", |scratch| {
        let member = one(scratch, &[])?;
        let port = member.flags.client_port;
        member.client()?.put("k", "v")?;
        let health = http_get(port, "/health")?;
        assert_eq!((health.status, health.body.as_str()), (200, r#"{"health":"true"}"#));
        assert_eq!(http_get(port, "/health?serializable=true")?.status, 200);
        let version: serde_json::Value = serde_json::from_str(&http_get(port, "/version")?.body)?;
        assert!(version["etcdserver"].as_str().is_some_and(|version| version.starts_with("3.5.")));
        assert_eq!(member.metric("etcd_server_has_leader")?, 1.0);
        assert_eq!(member.metric("etcd_server_is_leader")?, 1.0);
        assert!(member.metric("etcd_server_proposals_applied_total")? >= 2.0);
        assert!(member.metric("etcd_disk_wal_fsync_duration_seconds_count")? >= 1.0);
        let status: serde_json::Value =
            serde_json::from_str(&http_get(port, "/debug/raft/status")?.body)?;
        assert_eq!(status["raft"]["role"], "leader");
        assert_eq!(status["kv"]["revision"], 2);
        assert_eq!(http_get(port, "/nothing")?.status, 404);
        Ok(())
    });
}

#[test]
fn a_directory_from_elsewhere_wins_over_the_flags() {
    scenario("data wins", |scratch| {
        let mut member = one(scratch, &[])?;
        let id = member.client()?.status()?.id;
        member.client()?.put("k", "v")?;
        member.kill();
        member.flags.token = "another".into();
        member.flags.initial_cluster_state = "existing";
        member.start()?;
        assert_eq!(member.client()?.status()?.id, id, "initial-* flags are for empty directories");
        assert_eq!(member.client()?.get("k")?.expect("still there").value, "v");
        Ok(())
    });
}

#[test]
fn the_log_can_be_looked_at_while_it_is_served() {
    scenario("dump", |scratch| {
        let member = one(scratch, &[])?;
        member.client()?.put("greeting", "hello")?;
        let dump = Command::new(env!("CARGO_BIN_EXE_oarlock"))
            .args(["wal", "dump", "--data-dir"])
            .arg(&member.flags.data_dir)
            .output()?;
        let text = String::from_utf8_lossy(&dump.stdout);
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        for part in [
            "put \"greeting\", 5 bytes",
            "members: add voter",
            "is \"m1\", clients reach it at http://127.0.0.1:",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let mut unread = Command::new(env!("CARGO_BIN_EXE_oarlock"))
            .args(["wal", "dump"])
            .arg(&member.flags.data_dir)
            .stdout(Stdio::piped())
            .spawn()?;
        drop(unread.stdout.take());
        assert!(unread.wait()?.success(), "a reader that went away is no failure");
        let log = member.flags.data_dir.join("member/wal");
        for place in [&member.flags.data_dir, &log] {
            let verify = Command::new(env!("CARGO_BIN_EXE_oarlock"))
                .args(["wal", "verify"])
                .arg(place)
                .output()?;
            let text = String::from_utf8_lossy(&verify.stdout);
            assert!(verify.status.success() && text.contains("ok"), "{}: {text}", place.display());
        }
        member.client()?.put("greeting", "again")?;
        Ok(())
    });
}

/// A voter and a learner join a running cluster; the learner is promoted by a question to a follower; a removed member
/// learns of it and ends with 78.
#[test]
fn members_join_are_promoted_and_leave() {
    scenario("members", |scratch| {
        let mut cluster = Cluster::start(scratch, 1)?;
        cluster.client(0)?.put("before", "v")?;
        let initial = |cluster: &Cluster, added: &Flags| {
            let known = cluster.members.iter().map(|member| member.flags.as_initial());
            known.chain([added.as_initial()]).collect::<Vec<_>>().join(",")
        };
        for (name, is_learner) in [("m2", false), ("m3", true)] {
            let mut flags = Flags::new(scratch.path(), name)?;
            flags.token = cluster.members[0].flags.token.clone();
            flags.initial_cluster = initial(&cluster, &flags);
            flags.initial_cluster_state = "existing";
            eventually("the change is taken", BOUND, || {
                cluster.client(0).ok()?.member_add(&flags.peer_url(), is_learner).ok()
            })?;
            let mut member = Member::new(scratch, flags)?;
            member.spawn()?;
            if is_learner {
                let client = member.client()?;
                eventually("the learner serves", BOUND, || {
                    client.get_serializable("before").ok().flatten()
                })?;
                // It may serve before it has applied the change that made it one.
                eventually("the learner takes no writes", BOUND, || {
                    let refused = client.put("k", "v").err()?;
                    (refused.message() == "etcdserver: rpc not supported for learner").then_some(())
                })?;
            } else {
                member.wait_healthy(BOUND)?;
            }
            cluster.members.push(member);
        }
        let learner = cluster.client(2)?.status()?.id;
        let follower = usize::from(cluster.leader(BOUND)? == 0);
        eventually("the learner is promoted by a follower", BOUND, || {
            cluster.client(follower).ok()?.member_promote(learner).ok()
        })?;
        cluster.members[2].wait_healthy(BOUND)?;
        assert_eq!(cluster.client(2)?.get("before")?.expect("replicated").value, "v");
        eventually("the member is removed", BOUND, || {
            cluster.client(0).ok()?.member_remove(learner).ok()
        })?;
        let end = cluster.members[2].process()?.wait(BOUND)?;
        assert_eq!(end.code(), Some(78), "{}", cluster.members[2].log_text());
        assert!(cluster.members[2].log_text().contains("permanently removed from the cluster"));
        assert_eq!(cluster.client(0)?.members()?.len(), 2);
        Ok(())
    });
}

#[test]
fn leadership_is_handed_over_before_a_stop() {
    scenario("handover", |scratch| {
        let mut cluster = Cluster::start(scratch, 3)?;
        let leader = cluster.leader(BOUND)?;
        let id = cluster.client(leader)?.status()?.id;
        let others: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
        cluster.members[leader].process()?.terminate()?;
        assert_eq!(cluster.members[leader].process()?.wait(BOUND)?.code(), Some(0));
        let log = cluster.members[leader].log_text();
        assert!(log.contains("stopped"), "{log}");
        // Whoever takes over does so at once: no election timeout has to pass.
        cluster.client(others[0])?.put("after", "v")?;
        let next = cluster.client(others[0])?.status()?.leader;
        assert!(next != 0 && next != id, "{next:x} leads after {id:x}");
        Ok(())
    });
}
