//! Three members: `etcdctl` drives them, the leader dies, it comes back.

use crate::util::{SOON, has_applied, put_eventually};
use oarlock_tests::{Cluster, etcdctl, require, scenario};
use std::time::{Duration, Instant};

/// The server's default.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

#[test]
fn etcdctl_finds_what_it_expects() {
    let Some(program) = require("etcdctl") else { return };
    scenario("etcdctl", |scratch| {
        let cluster = Cluster::start(scratch, 3)?;
        let all = cluster.endpoints();
        let ctl = |args: &[&str]| etcdctl(&program, &all, args);
        assert_eq!(ctl(&["put", "boat", "oarlock"])?, "OK\n");
        assert_eq!(ctl(&["get", "boat"])?, "boat\noarlock\n");
        assert_eq!(ctl(&["get", "bo", "--prefix", "--keys-only"])?.trim(), "boat");
        assert_eq!(ctl(&["del", "boat"])?, "1\n");
        assert_eq!(ctl(&["get", "boat"])?, "");
        let status = ctl(&["endpoint", "status", "--cluster", "-w", "table"])?;
        assert_eq!(status.matches("http://127.0.0.1:").count(), 3, "{status}");
        assert_eq!(status.matches(" true |").count(), 1, "one leader, no learner:\n{status}");
        let members = ctl(&["member", "list", "-w", "table"])?;
        assert_eq!(members.matches("started").count(), 3, "{members}");
        ctl(&["endpoint", "health", "--cluster"])?; // fails unless all three are healthy
        let leader = cluster.leader(SOON)?;
        let next = cluster.client((leader + 1) % 3)?.status()?;
        etcdctl(
            &program,
            &cluster.members[leader].flags.client_url(),
            &["move-leader", &format!("{:x}", next.id)],
        )?;
        assert_eq!(cluster.leader(SOON)?, (leader + 1) % 3);
        Ok(())
    });
}

#[test]
fn etcdctl_transactions_branch() {
    let Some(program) = require("etcdctl") else { return };
    scenario("etcdctl-txn", |scratch| {
        let cluster = Cluster::start(scratch, 1)?;
        cluster.client(0)?.put("k", "1")?;
        // The distribution's etcdctl reads a transaction from its standard input.
        let script = "value(\"k\") = \"1\"\n\nput k 2\nget k\n\nput k 3\n\n";
        let mut command = std::process::Command::new(&program);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &cluster.endpoints(), "txn"]);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn()?;
        std::io::Write::write_all(&mut child.stdin.take().expect("piped"), script.as_bytes())?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.starts_with("SUCCESS") && text.contains("k\n2"),
            "{text}"
        );
        Ok(())
    });
}

#[test]
fn reads_and_conditional_writes_agree_on_every_member() {
    scenario("agree", |scratch| {
        let cluster = Cluster::start(scratch, 3)?;
        let clients = [cluster.client(0)?, cluster.client(1)?, cluster.client(2)?];
        let revision = clients[0].put("k", "first")?;
        for client in &clients {
            let found = client.get("k")?.expect("linearizable: it was acknowledged");
            assert_eq!((found.value.as_str(), found.mod_revision), ("first", revision));
        }
        assert!(clients[1].put_if("k", revision, "second")?);
        assert!(!clients[2].put_if("k", revision, "third")?, "somebody wrote since");
        assert_eq!(clients[0].get("k")?.expect("there").value, "second");
        assert!(clients[2].delete("k")?);
        assert_eq!(clients[0].get("k")?, None);
        Ok(())
    });
}

#[test]
fn writes_go_on_within_three_election_timeouts_of_the_leaders_death() {
    scenario("leader-killed", |scratch| {
        let mut cluster = Cluster::start(scratch, 3)?;
        let leader = cluster.leader(SOON)?;
        let follower = (leader + 1) % 3;
        cluster.client(leader)?.put("before", "1")?;
        // What was forwarded to the dead leader has no known outcome, so a client that wants to go on gives up early.
        let survivor = cluster.members[follower].impatient_client(ELECTION_TIMEOUT / 4)?;
        survivor.put("warm", "connection")?;
        cluster.members[leader].kill();
        let begin = Instant::now();
        put_eventually(&survivor, "after", "2", 3 * ELECTION_TIMEOUT)?;
        eprintln!("the next write took {:?}", begin.elapsed());
        let survivor = cluster.client(follower)?;
        assert_eq!(survivor.get("before")?.expect("acknowledged").value, "1");
        for number in 0..100 {
            put_eventually(&survivor, &format!("meanwhile/{number}"), "x", SOON)?;
        }
        cluster.members[leader].start()?;
        let returned = cluster.client(leader)?;
        has_applied(&returned, "meanwhile/99", "x")?;
        assert_eq!(returned.count("meanwhile/")?, 100);
        Ok(())
    });
}

#[test]
fn a_leader_that_is_asked_to_stop_hands_over_first() {
    scenario("hand-over", |scratch| {
        let mut cluster = Cluster::start(scratch, 3)?;
        let leader = cluster.leader(SOON)?;
        let survivor = cluster.client((leader + 1) % 3)?;
        survivor.put("k", "1")?;
        let process = cluster.members[leader].process()?;
        process.terminate()?;
        assert_eq!(process.wait(SOON)?.code(), Some(0));
        cluster.members[leader].kill(); // forget the process
        // Without the hand-over nobody would campaign for at least one election timeout.
        put_eventually(&survivor, "k", "2", ELECTION_TIMEOUT)?;
        Ok(())
    });
}

#[test]
fn a_majority_that_dies_at_once_and_returns_has_everything() {
    scenario("majority", |scratch| {
        let mut cluster = Cluster::start(scratch, 3)?;
        let client = cluster.client(0)?;
        for number in 0..100 {
            put_eventually(&client, &format!("k/{number:03}"), "v", SOON)?;
        }
        cluster.members.iter_mut().for_each(oarlock_tests::Member::kill);
        cluster.start_all()?;
        for member in 0..3 {
            assert_eq!(cluster.client(member)?.count("k/")?, 100, "m{}", member + 1);
        }
        Ok(())
    });
}
