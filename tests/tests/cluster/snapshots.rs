//! Snapshots while writes go on, a log that does not grow, and members that were away too long.

use crate::util::{SOON, accepted, files, has_applied, put_eventually, segments};
use oarlock_tests::{Cluster, Failure, Flags, Member, Outcome, eventually, scenario};
use std::time::{Duration, Instant};

const FLAGS: &[&str] = &["--snapshot-count", "1000", "--snapshot-catchup-entries", "500"];

/// Enough bytes a value for 5,000 of them to fill the log's first segments.
const VALUE: usize = 2048;

/// Writes `count` keys through several connections and returns how long the slowest took.
fn write_many(cluster: &Cluster, through: &[usize], count: usize) -> Outcome<Duration> {
    const WRITERS: usize = 8;
    let value = "x".repeat(VALUE);
    let slowest = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (value, at) = (&value, through[writer % through.len()]);
                scope.spawn(move || -> Outcome<Duration> {
                    let client = cluster.client(at)?;
                    let mut slowest = Duration::ZERO;
                    for number in (writer..count).step_by(WRITERS) {
                        let begin = Instant::now();
                        // A stalled disk may cost a leader its role meanwhile, and a client its answer (O12).
                        put_eventually(&client, &format!("bulk/{number:05}"), value, SOON)?;
                        slowest = slowest.max(begin.elapsed());
                    }
                    Ok(slowest)
                })
            })
            .collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| Failure::new("a writer panicked"))?);
        joined.collect::<Outcome<Vec<_>>>()
    })?;
    Ok(slowest.into_iter().max().unwrap_or_default())
}

#[test]
fn snapshots_are_taken_while_writes_go_on_and_old_segments_go() {
    scenario("snapshots", |scratch| {
        let mut cluster = Cluster::start_with(scratch, 1, FLAGS)?;
        let first = segments(&cluster.members[0].flags.data_dir)?[0].clone();
        let slowest = write_many(&cluster, &[0], 5000)?;
        let member = &cluster.members[0];
        let taken = member.metric("oarlock_snapshots_taken_total")?;
        assert!(taken >= 3.0, "{taken} snapshots in 5000 writes");
        assert!(slowest < Duration::from_secs(2), "a write took {slowest:?}");
        eventually("the first segment to go", SOON, || (!first.exists()).then_some(()))?;
        let snapshots = files(&member.flags.data_dir)?
            .into_iter()
            .filter(|file| file.ends_with("snap"))
            .count();
        assert!(snapshots < 10, "{snapshots} snapshot files: old ones go too");
        // What is left is enough.
        cluster.members[0].kill();
        cluster.members[0].start()?;
        assert_eq!(cluster.client(0)?.count("bulk/")?, 5000);
        Ok(())
    });
}

#[test]
fn a_member_that_was_away_for_5000_writes_and_an_empty_new_one_catch_up_by_snapshot() {
    scenario("catch-up", |scratch| {
        let mut cluster = Cluster::start_with(scratch, 3, FLAGS)?;
        let leader = cluster.leader(SOON)?;
        let away = (leader + 1) % 3;
        cluster.members[away].kill();
        write_many(&cluster, &[leader, (leader + 2) % 3], 5000)?;
        cluster.members[away].start()?;
        has_applied(&cluster.client(away)?, "bulk/04999", &"x".repeat(VALUE))?;
        assert!(cluster.members[away].metric("oarlock_snapshots_installed_total")? >= 1.0);
        assert_eq!(cluster.client(away)?.count("bulk/")?, 5000);

        let mut flags = Flags::new(scratch.path(), "m4")?;
        flags.extra = FLAGS.iter().map(|&arg| arg.to_owned()).collect();
        flags.initial_cluster =
            format!("{},{}", cluster.members[0].flags.initial_cluster, flags.as_initial());
        flags.initial_cluster_state = "existing";
        let client = cluster.client(leader)?;
        accepted("the addition", || client.member_add(&flags.peer_url(), false))?;
        let mut fourth = Member::new(scratch, flags)?;
        fourth.start()?;
        has_applied(&fourth.client()?, "bulk/04999", &"x".repeat(VALUE))?;
        assert!(fourth.metric("oarlock_snapshots_installed_total")? >= 1.0);
        // What it got is its own: it survives a restart of everybody.
        cluster.members.push(fourth);
        cluster.members.iter_mut().for_each(Member::kill);
        cluster.start_all()?;
        assert_eq!(cluster.client(3)?.count("bulk/")?, 5000);
        Ok(())
    });
}
