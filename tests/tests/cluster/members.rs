//! Members come and go.

use crate::util::{SOON, accepted, has_applied};
use oarlock_tests::{
    Cluster, Flags, Member, Outcome, Scratch, etcdctl, eventually, require, scenario,
};

/// A process for a member that the cluster was already told about.
fn joiner(scratch: &Scratch, cluster: &Cluster, name: &str) -> Outcome<Member> {
    let mut flags = Flags::new(scratch.path(), name)?;
    let known: Vec<String> =
        cluster.members.iter().map(|member| member.flags.as_initial()).collect();
    flags.initial_cluster = format!("{},{}", known.join(","), flags.as_initial());
    flags.initial_cluster_state = "existing";
    Member::new(scratch, flags)
}

#[test]
fn a_voter_is_added_starts_and_catches_up() {
    scenario("add-voter", |scratch| {
        let mut cluster = Cluster::start(scratch, 1)?;
        let client = cluster.client(0)?;
        for number in 0..50 {
            client.put(&format!("k/{number}"), "v")?;
        }
        let mut second = joiner(scratch, &cluster, "m2")?;
        let id = client.member_add(&second.flags.peer_url(), false)?;
        second.start()?;
        cluster.members.push(second);
        assert_eq!(cluster.client(1)?.count("k/")?, 50);
        assert_eq!(cluster.client(1)?.status()?.id, id);
        // Both are needed now.
        cluster.members[1].kill();
        client.put("alone", "x").expect_err("one of two is no majority");
        cluster.members[1].start()?;
        cluster.client(1)?.put("together", "x")?;
        Ok(())
    });
}

#[test]
fn a_learner_catches_up_is_promoted_and_counts() {
    scenario("learner", |scratch| {
        let mut cluster = Cluster::start(scratch, 1)?;
        let client = cluster.client(0)?;
        client.put("k", "v")?;
        let mut second = joiner(scratch, &cluster, "m2")?;
        let id = client.member_add(&second.flags.peer_url(), true)?;
        client.member_promote(id).expect_err("it has not even started");
        second.spawn()?;
        has_applied(&second.client()?, "k", "v")?;
        let listed = client.members()?;
        assert!(listed.iter().any(|member| member.id == id && member.is_learner), "{listed:?}");
        eventually("the promotion", SOON, || client.member_promote(id).ok())?;
        cluster.members.push(second);
        eventually("a vote", SOON, || {
            let listed = client.members().ok()?;
            listed.iter().all(|member| !member.is_learner && !member.name.is_empty()).then_some(())
        })?;
        cluster.members[1].kill();
        client.put("alone", "x").expect_err("its vote is needed");
        Ok(())
    });
}

#[test]
fn a_removed_member_learns_it_and_stops() {
    scenario("remove", |scratch| {
        let mut cluster = Cluster::start(scratch, 3)?;
        let leader = cluster.leader(SOON)?;
        let gone = (leader + 1) % 3;
        let id = cluster.client(gone)?.status()?.id;
        let client = cluster.client(leader)?;
        accepted("the removal", || client.member_remove(id))?;
        let process = cluster.members[gone].process()?;
        assert_eq!(process.wait(SOON)?.code(), Some(78));
        let log = cluster.members[gone].log_text();
        assert!(log.to_lowercase().contains("removed"), "it says why:\n{log}");
        client.put("k", "v")?;
        assert_eq!(client.members()?.len(), 2);
        // Started again it is told the same, and disturbs nobody.
        let term = client.status()?.term;
        let code = cluster.members[gone].spawn()?.wait(SOON)?.code();
        assert_eq!(code, Some(78), "{}", cluster.members[gone].log_text());
        client.put("k", "w")?;
        assert_eq!(client.status()?.term, term, "nobody campaigned");
        Ok(())
    });
}

#[test]
fn a_removed_leader_hands_on() {
    scenario("remove-leader", |scratch| {
        let mut cluster = Cluster::start(scratch, 3)?;
        let leader = cluster.leader(SOON)?;
        let id = cluster.client(leader)?.status()?.id;
        let other = cluster.client((leader + 1) % 3)?;
        accepted("the removal", || other.member_remove(id))?;
        assert_eq!(cluster.members[leader].process()?.wait(SOON)?.code(), Some(78));
        cluster.members[leader].kill(); // forget the process
        crate::util::put_eventually(&other, "k", "v", SOON)?;
        assert_eq!(other.members()?.len(), 2);
        Ok(())
    });
}

#[test]
fn etcdctl_adds_promotes_and_removes() {
    let Some(program) = require("etcdctl") else { return };
    scenario("etcdctl-members", |scratch| {
        let cluster = Cluster::start(scratch, 1)?;
        let endpoint = cluster.endpoints();
        let mut second = joiner(scratch, &cluster, "m2")?;
        let peers = format!("--peer-urls={}", second.flags.peer_url());
        let said = etcdctl(&program, &endpoint, &["member", "add", "m2", "--learner", &peers])?;
        assert!(
            said.contains("added to cluster")
                && said.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""),
            "{said}"
        );
        let id = said.split_whitespace().nth(1).unwrap_or_default().to_owned();
        second.spawn()?;
        eventually("the promotion", SOON, || {
            etcdctl(&program, &endpoint, &["member", "promote", &id]).ok()
        })?;
        let listed = etcdctl(&program, &endpoint, &["member", "list"])?;
        assert_eq!(listed.matches("started").count(), 2, "{listed}");
        etcdctl(&program, &endpoint, &["member", "remove", &id])?;
        assert_eq!(second.process()?.wait(SOON)?.code(), Some(78));
        Ok(())
    });
}
