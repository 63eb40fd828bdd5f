//! Two of three are gone for good.

use crate::util::{SOON, put_eventually};
use oarlock_tests::{Client, Cluster, Flags, Member, Outcome, scenario};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Writes until told to stop and returns what was acknowledged.
fn write_until(client: &Client, writer: usize, stop: &AtomicBool) -> Vec<String> {
    let mut acked = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("k/{writer}/{number:05}");
        match client.put(&key, "v") {
            Ok(_) => acked.push(key),
            Err(_) => break,
        }
    }
    acked
}

#[test]
fn the_survivor_has_every_acknowledged_write_and_is_rescued_once() {
    scenario("rescue", |scratch| {
        let mut cluster = Cluster::start(scratch, 3)?;
        let leader = cluster.leader(SOON)?;
        let (survivor, first_gone) = ((leader + 1) % 3, (leader + 2) % 3);
        cluster.client(survivor)?.put("early", "x")?;
        // From here on a majority is leader and survivor: whatever is acknowledged, the survivor's log holds.
        cluster.members[first_gone].kill();
        let stop = AtomicBool::new(false);
        let clients = (0..8).map(|_| cluster.client(leader)).collect::<Outcome<Vec<_>>>()?;
        let mut acked: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = clients
                .iter()
                .enumerate()
                .map(|(writer, client)| {
                    let stop = &stop;
                    scope.spawn(move || write_until(client, writer, stop))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(700)); // let them write: the end comes in the middle of it
            cluster.members[survivor].kill();
            cluster.members[leader].kill();
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(acked.len() > 50, "only {} writes: nothing was tried", acked.len());
        acked.push("early".to_owned());

        cluster.members[survivor].flags.extra = vec!["--force-new-cluster".to_owned()];
        cluster.members[survivor].start()?;
        let client = cluster.client(survivor)?;
        let page = client.prefix("")?;
        let missing: Vec<_> =
            acked.iter().filter(|key| page.kvs.iter().all(|kv| kv.key != **key)).collect();
        assert!(missing.is_empty(), "{} of {} lost: {missing:?}", missing.len(), acked.len());
        let members = client.members()?;
        assert_eq!(members.len(), 1, "{members:?}");
        put_eventually(&client, "after", "x", SOON)?;
        let rescued = client.status()?;

        // The flag is still set: nothing happens again.
        cluster.members[survivor].kill();
        cluster.members[survivor].start()?;
        let client = cluster.client(survivor)?;
        let again = client.status()?;
        assert_eq!((again.cluster_id, again.id), (rescued.cluster_id, rescued.id));
        assert_eq!(client.members()?.len(), 1);
        assert_eq!(client.get("after")?.expect("acknowledged").value, "x");

        // One that returns belongs to a cluster that is no more.
        cluster.members[first_gone].spawn()?;
        cluster.members[leader].spawn()?;
        let refused = cluster.client(first_gone)?;
        std::thread::sleep(Duration::from_secs(2)); // time to do harm
        assert_eq!(client.members()?.len(), 1);
        client.put("undisturbed", "x")?;
        if let Ok(found) = refused.get("undisturbed") {
            assert_eq!(found, None, "two histories were mixed");
        }
        cluster.members[first_gone].kill();
        cluster.members[leader].kill();

        // New members can be added.
        let mut flags = Flags::new(scratch.path(), "m4")?;
        flags.initial_cluster =
            format!("{},{}", cluster.members[survivor].flags.as_initial(), flags.as_initial());
        flags.initial_cluster_state = "existing";
        client.member_add(&flags.peer_url(), false)?;
        let mut fourth = Member::new(scratch, flags)?;
        fourth.start()?;
        assert_eq!(fourth.client()?.get("after")?.expect("acknowledged").value, "x");
        Ok(())
    });
}
