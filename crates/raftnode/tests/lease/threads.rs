//! Leases through the threads.

use std::time::{Duration, Instant};

use oarlock_raftnode::{ConfigError, Role, StartError};

use crate::support::sim::Sim;
use crate::support::{TestCluster, config, wait_for};

const TICK: Duration = Duration::from_millis(100);

#[test]
fn without_the_option_there_is_no_lease_and_without_check_quorum_no_option() {
    let mut sim = Sim::new(3, 7);
    sim.elect(1);
    sim.core(1).handle_read(1);
    sim.settle();
    assert_eq!(sim.core(1).lease_read(), None);

    let refused = std::panic::catch_unwind(|| {
        TestCluster::new(1, config().lease_reads(1).check_quorum(false));
    });
    let said = refused.expect_err("it must not start");
    let said = said.downcast_ref::<String>().expect("a message");
    let expected = format!("{:?}", StartError::Config(ConfigError::LeaseWithoutCheckQuorum));
    assert!(said.contains(&expected), "{said}");
}

/// A leader answers alone, and no longer does once it is cut off.
#[test]
fn a_leader_answers_alone_until_it_is_cut_off() {
    let cluster = TestCluster::new(3, config().lease_reads(1));
    let leader = cluster.leader();
    let handle = cluster.handle(leader);
    handle.propose("one").wait().expect("applied");
    wait_for("a lease", || {
        handle.read_lease().wait().expect("it leads");
        (handle.stats().reads_by_lease > 0).then_some(())
    });
    let index = handle.read_lease().wait().expect("it leads");
    assert!(index >= 3, "{index}");
    assert_eq!(cluster.handle(cluster.follower()).read_lease().wait(), Ok(index), "by a round");

    handle.pause();
    let second = wait_for("another leader", || {
        let leads = |id: &u64| cluster.handle(*id).vitals().role == Role::Leader;
        cluster.ids().into_iter().filter(|id| *id != leader).find(leads)
    });
    cluster.handle(second).propose("two").wait().expect("two of three");
    let deadline = Instant::now() + 3 * TICK;
    handle.read_lease_by(deadline).wait().expect_err("nobody confirms that it leads");
    handle.resume();
    wait_for("it to see what it missed", || {
        let index = handle.read_lease().wait().ok()?;
        (handle.vitals().applied >= index && cluster.nodes[&leader].lines() == ["one", "two"])
            .then_some(())
    });
}

/// A member that starts without leases is noticed, and so is its return.
#[test]
fn members_without_leases_cost_rounds_and_nothing_else() {
    let mut cluster = TestCluster::new(3, config().lease_reads(1));
    let leader = cluster.leader();
    let leased = |cluster: &TestCluster| {
        let handle = cluster.handle(leader);
        let before = handle.stats().reads_by_lease;
        handle.read_lease().wait().expect("it leads");
        handle.stats().reads_by_lease > before
    };
    wait_for("a lease", || leased(&cluster).then_some(()));
    assert!(cluster.handle(leader).status().leased);

    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    cluster.config = config();
    for id in &others {
        cluster.stop(*id);
        cluster.restart(*id);
        cluster.handle(leader).propose("one").wait().expect("it is back");
    }
    let promises = |cluster: &TestCluster| {
        let status = cluster.handle(leader).status();
        let mut promises: Vec<u64> = status.peers.iter().map(|peer| peer.promise_ms).collect();
        promises.sort_unstable();
        (promises, status.promise_ms)
    };
    wait_for("the leader to know", || (promises(&cluster) == (vec![0, 0, 900], 900)).then_some(()));
    wait_for("the last lease to end", || (!cluster.handle(leader).status().leased).then_some(()));
    for _ in 0..5 {
        assert!(!leased(&cluster), "a lease without promises");
    }

    cluster.config = config().lease_reads(1);
    cluster.stop(others[0]);
    cluster.restart(others[0]);
    wait_for("a lease", || leased(&cluster).then_some(()));
    assert_eq!(promises(&cluster), (vec![0, 900, 900], 900));
}

#[test]
fn time_is_not_hastened_for_those_who_have_promised() {
    let config = config().heartbeat_interval(Duration::from_millis(200)).lease_reads(1);
    let cluster = TestCluster::new(3, config);
    let id = cluster.ids()[0];
    cluster.elect(id);
    let handle = cluster.handle(cluster.follower());
    wait_for("it to hear of its leader", || (handle.leader() == id).then_some(()));
    handle.advance_ticks(1000);
    assert_eq!(handle.status().role, Role::Follower, "an election before its time");
}

/// Nor is the first election after a start, though all are connected at once.
#[test]
fn a_cluster_that_starts_again_waits_for_what_was_promised() {
    let config = config().heartbeat_interval(Duration::from_millis(40)).lease_reads(1);
    let promise = config.promise();
    let mut cluster = TestCluster::new(3, config);
    cluster.leader();
    for id in cluster.ids() {
        cluster.stop(id);
    }
    let started = Instant::now();
    for id in cluster.ids() {
        cluster.restart(id);
    }
    let leads = |id: u64| cluster.handle(id).vitals().role == Role::Leader;
    let elected = wait_for("a leader", || cluster.ids().into_iter().any(leads).then(Instant::now));
    assert!(elected - started >= promise, "{:?} is before its time", elected - started);
}
