//! The promise above all, tried: many writers, `kill -9` at a random instant, restart, and every acknowledged write
//! must be there.
//!
//! The system's page cache survives the death of a process, so this loop proves the order *acknowledge after append*,
//! recovery, and agreement between members; that the bytes had reached the disk is proved by the tests that cut the
//! power of a simulated disk (`oarlock-wal`) and by the one that watches `fdatasync` with `strace`.

use crate::cluster::{ANSWERS, Cluster, STARTS};
use crate::scratch::on_disk;
use crate::{Failure, Ledger, Outcome, Writers};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// What the loop does.
#[derive(Clone, Debug)]
pub struct CrashOptions {
    /// The server.
    pub server: PathBuf,
    /// How often to kill.
    pub rounds: u32,
    /// Size of the cluster.
    pub members: usize,
    /// Clients that write at once.
    pub writers: usize,
    /// Decides whom to kill, when, and what is written. Not the operating system's scheduling.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct CrashReport {
    /// Rounds finished.
    pub rounds: u32,
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Writes whose client got an error or nothing: they may be there or not.
    pub unknown: u64,
    /// Acknowledged writes that were not there, or not as they were written; one line each. Must be empty.
    pub lost: Vec<String>,
}

/// Rounds of one loop, with its cluster.
struct Loop<'a> {
    options: &'a CrashOptions,
    cluster: Cluster,
    rng: fastrand::Rng,
    report: CrashReport,
    ledger: Ledger,
}

/// Runs the loop with its data below `dir`, and `say`s what happens.
///
/// # Errors
/// If a server does not come back, or answers nothing in time. Lost writes are not an error but the result.
pub fn crash_loop(
    dir: &Path,
    options: &CrashOptions,
    say: &mut dyn FnMut(&str),
) -> Outcome<CrashReport> {
    on_disk(dir)?;
    // Snapshots, compaction and released segments are part of what must survive, so they happen often.
    let flags = "--heartbeat-interval 50 --election-timeout 500 --snapshot-count 2000 --snapshot-catchup-entries 500";
    let flags: Vec<&str> = flags.split(' ').collect();
    let mut this = Loop {
        options,
        cluster: Cluster::prepare(dir, options.members, &flags, &options.server)?,
        rng: fastrand::Rng::with_seed(options.seed),
        report: CrashReport::default(),
        ledger: Ledger::default(),
    };
    this.cluster.start_all()?;
    for round in 1..=options.rounds {
        this.round(round, say)
            .map_err(|failure| Failure::new(format!("round {round}: {failure}")))?;
        if !this.report.lost.is_empty() {
            return Ok(this.report);
        }
    }
    // Once more everything, from every member.
    for member in 0..options.members {
        this.read_back(member, "", &format!("at the end, m{}", member + 1))?;
    }
    Ok(this.report)
}

impl Loop<'_> {
    fn round(&mut self, round: u32, say: &mut dyn FnMut(&str)) -> Outcome {
        let all_at_once = self.options.members == 1 || round.is_multiple_of(2);
        let victims: Vec<usize> = if all_at_once {
            (0..self.options.members).collect()
        } else {
            vec![self.rng.usize(0..self.options.members)]
        };
        let delay = Duration::from_micros(self.rng.u64(20_000..1_200_000));
        let writers =
            Writers::start(&self.cluster, self.options.writers, round, ANSWERS, &mut self.rng);
        thread::sleep(delay); // the random instant
        self.kill(&victims);
        if !all_at_once {
            thread::sleep(Duration::from_millis(self.rng.u64(0..1500))); // the others go on, or elect
        }
        // Recovery is a time to crash like any other.
        let again = self.rng.u8(0..4) == 0;
        if again {
            self.spawn(&victims)?;
            thread::sleep(Duration::from_micros(self.rng.u64(0..300_000)));
            self.kill(&victims);
        }
        if all_at_once {
            writers.stop(); // nobody is there to answer
        }
        self.spawn(&victims)?;
        for member in &mut self.cluster.members {
            member.wait_healthy(STARTS)?;
        }
        let (acked, unknown) = writers.collect(&mut self.ledger)?;
        self.report.acked += acked;
        self.report.unknown += unknown;
        let reader = self.rng.usize(0..self.options.members);
        self.read_back(reader, &Writers::prefix(round), &format!("round {round}"))?;
        self.report.rounds = round;
        let who: Vec<_> = victims.iter().map(|victim| format!("m{}", victim + 1)).collect();
        say(&format!(
            "round {round}/{}: killed {} after {} ms{}: acked {acked}, unknown {unknown}, lost {}",
            self.options.rounds,
            who.join(" "),
            delay.as_millis(),
            if again { " and again while it recovered" } else { "" },
            self.report.lost.len(),
        ));
        Ok(())
    }

    fn spawn(&mut self, members: &[usize]) -> Outcome {
        for &member in members {
            self.cluster.members[member].spawn()?;
        }
        Ok(())
    }

    fn kill(&mut self, members: &[usize]) {
        for &member in members {
            self.cluster.members[member].kill();
        }
    }

    /// Reads everything below `prefix`, linearizably, and notes what is not as it was acknowledged.
    fn read_back(&mut self, member: usize, prefix: &str, when: &str) -> Outcome {
        let missing = self.ledger.read_back(&self.cluster.client(member)?, prefix)?;
        self.report.lost.extend(missing.into_iter().map(|line| format!("{when}: {line}")));
        Ok(())
    }
}
