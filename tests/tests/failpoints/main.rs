//! A real server dies at each failpoint of `oarlock-raftnode`, alone, as the leader and as a follower of three, while
//! clients write; and where an error can be injected, it ends with that error.
//!
//! Each run proves that the point was reached: nothing but a point makes the server abort, and an injected error is on
//! the last line of its log. Then it starts again; the cluster takes writes, everything that was acknowledged is read
//! back, and all members have the same state at the same index.
//!
//! The node's own tests kill simulated machines at the same points, with what was not synced lost (their list is this
//! one's); here nothing is simulated but the instant.
#![expect(clippy::print_stderr, reason = "how the runs went is shown with their result")]

mod life;
use life::{Cause, Life};

#[path = "../../../crates/raftnode/tests/failpoints/points.rs"]
mod points;
use points::{Failure, Place};

use oarlock_tests::{Cluster, Failure as Problem, Outcome, Scratch, failpoint_binary, scenario};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Three clusters beside each other, for they mostly wait: for elections, and for servers that start.
#[test]
fn nothing_is_lost_wherever_the_server_dies() {
    scenario("failpoints", |scratch: &Scratch| {
        let binary = failpoint_binary()?;
        let outcomes = thread::scope(|scope| {
            let places = [Place::Alone, Place::Leader, Place::Follower];
            let threads = places.map(|place| {
                let binary = &binary;
                scope.spawn(move || try_all(scratch, binary, place))
            });
            threads.map(|thread| thread.join().map_err(|_| Problem::new("a thread panicked"))?)
        });
        for (runs, acked) in outcomes.into_iter().collect::<Outcome<Vec<_>>>()? {
            assert!(runs > 0 && acked > 0, "{runs} runs, {acked} acknowledged");
        }
        Ok(())
    });
}

/// A lone member's node thread writes, and hangs with the disk: whoever asks it learns that in time all the same (O29).
#[test]
fn a_request_ends_although_a_lone_members_disk_hangs() {
    scenario("hanging-disk", |scratch: &Scratch| {
        let flags = ["--heartbeat-interval", "10", "--election-timeout", "100"];
        let mut cluster = Cluster::prepare(scratch.path(), 1, &flags, &failpoint_binary()?)?;
        cluster.start_all()?;
        let client = cluster.members[0].impatient_client(Duration::from_secs(30))?;
        client.put("before", "v")?;
        life::set_point(cluster.members[0].process()?, "raftBeforeSave=sleep(60000)")?;
        let begin = Instant::now();
        let error = client.put("k", "v").expect_err("nobody can know");
        assert_eq!(error.message(), "etcdserver: request timed out", "after {:?}", begin.elapsed());
        // Who comes later is refused at once.
        let begin = Instant::now();
        let error = client.put("k", "v").expect_err("nothing is taken");
        assert_eq!(error.message(), "etcdserver: too many requests");
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        Ok(())
    });
}

/// One after the other in one cluster: how many, and how many writes were acknowledged.
fn try_all(scratch: &Scratch, binary: &Path, place: Place) -> Outcome<(u32, u64)> {
    let name = format!("{place:?}").to_lowercase();
    let dir = scratch.path().join(&name);
    std::fs::create_dir_all(&dir)?;
    let mut life = Life::new(&dir, binary, place)?;
    let begin = Instant::now();
    let mut runs = 0;
    for point in points::ALL.iter().flat_map(|group| *group) {
        if !point.places.contains(&place) {
            continue;
        }
        let ends = matches!(point.failure, Failure::EndsNode | Failure::FailsBoot);
        for cause in [Some(Cause::Abort), ends.then_some(Cause::Error)].into_iter().flatten() {
            let tried = life.try_one(point, cause);
            tried.map_err(|problem| {
                let logs = life.log_tails();
                Problem::new(format!("{}, {place:?}, {cause:?}: {problem}\n{logs}", point.name))
            })?;
            runs += 1;
        }
    }
    let acked = life.read_back_all()?;
    eprintln!("{name}: died {runs} times in {:?}: acked {acked}, lost 0", begin.elapsed());
    Ok((runs, acked))
}
