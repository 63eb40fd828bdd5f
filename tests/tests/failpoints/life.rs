//! A cluster that is killed again and again, and what it acknowledged.

use crate::points::{Place, Point, Stir};
use oarlock_tests::{
    Cluster, Failure, Ledger, Member, Outcome, Process, Writers, eventually, http_get,
};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// A generous bound for what happens within a second or two on an idle machine.
const SOON: Duration = Duration::from_secs(30);
/// How long a client waits for an answer: what was sent to a leader that died is never answered.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long whoever armed a point lets things take their course, before something is done once more.
const COURSE: Duration = Duration::from_secs(2);
/// Writes that must succeed before the death and after it.
const SOME: u64 = 20;
/// Snapshots all the time, so that many a death is near one, and a member that was away needs one soon.
const FLAGS: &str = "--heartbeat-interval 50 --election-timeout 400 --snapshot-count 25 \
     --snapshot-catchup-entries 5 --strict-reconfig-check=false";
/// More than a follower can miss without needing a snapshot.
const AWAY: u64 = 70;

/// How the server dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The process aborts at the point.
    Abort,
    /// The operation fails; the server says so and ends.
    Error,
}

impl Cause {
    fn actions(self) -> &'static str {
        match self {
            Self::Abort => "return(abort)",
            Self::Error => "return",
        }
    }
}

pub(crate) struct Life {
    cluster: Cluster,
    place: Place,
    ledger: Ledger,
    rng: fastrand::Rng,
    round: u32,
    learners: u32,
    acked: u64,
}

impl Life {
    /// A healthy cluster.
    pub(crate) fn new(dir: &Path, binary: &Path, place: Place) -> Outcome<Self> {
        let size = if place == Place::Alone { 1 } else { 3 };
        let flags: Vec<&str> = FLAGS.split_whitespace().collect();
        let mut cluster = Cluster::prepare(dir, size, &flags, binary)?;
        cluster.start_all()?;
        let (ledger, rng) = (Ledger::default(), fastrand::Rng::with_seed(size as u64));
        Ok(Self { cluster, place, ledger, rng, round: 0, learners: 0, acked: 0 })
    }

    /// Lets one member die at `point`, start again, and looks for what was acknowledged.
    pub(crate) fn try_one(&mut self, point: &Point, cause: Cause) -> Outcome {
        self.round += 1;
        let writers = Writers::start(&self.cluster, 3, self.round, PATIENCE, &mut self.rng);
        writers.wait_for(SOME, SOON)?;
        let victim = self.victim()?;
        let ended = self.die(victim, point, cause, &writers)?;
        check_end(ended, cause, &mut self.cluster.members[victim])?;
        self.cluster.members[victim].flags.failpoints.clear();
        self.cluster.members[victim].spawn()?;
        for member in &mut self.cluster.members {
            member.wait_healthy(SOON)?;
        }
        writers.wait_for(SOME, SOON)?;
        self.acked += writers.collect(&mut self.ledger)?.0;
        self.remove_learners()?;
        self.wait_for_same_state()?;
        self.read_back(victim, &Writers::prefix(self.round))
    }

    /// Once more everything, from every member; how many writes were acknowledged.
    pub(crate) fn read_back_all(&mut self) -> Outcome<u64> {
        for member in 0..self.cluster.members.len() {
            self.read_back(member, "")?;
        }
        Ok(self.acked)
    }

    /// The ends of the members' logs.
    pub(crate) fn log_tails(&self) -> String {
        let tail = |member: &Member| {
            let text = member.log_text();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            format!("---- {}\n{last}\n", member.flags.name)
        };
        self.cluster.members.iter().map(tail).collect()
    }

    /// Who is to die.
    fn victim(&self) -> Outcome<usize> {
        let leader = self.cluster.leader(SOON)?;
        Ok(if self.place == Place::Follower { self.next(leader) } else { leader })
    }

    fn next(&self, member: usize) -> usize {
        (member + 1) % self.cluster.members.len()
    }

    /// Sets the point on the victim, and does what leads to it until it has ended.
    fn die(
        &mut self,
        victim: usize,
        point: &Point,
        cause: Cause,
        writers: &Writers,
    ) -> Outcome<ExitStatus> {
        let set = format!("{}={}", point.name, cause.actions());
        // A point on the way up is set before it; the others while the member serves.
        let at_start = match point.stir {
            Stir::Restart => point.name.starts_with("boot"),
            Stir::Election => self.place == Place::Alone,
            Stir::Install => self.place == Place::Follower,
            Stir::Writes | Stir::Change => false,
        };
        if at_start {
            self.cluster.members[victim].flags.failpoints = set;
        } else {
            set_point(self.cluster.members[victim].process()?, &set)?;
        }
        let deadline = Instant::now() + SOON;
        loop {
            match point.stir {
                Stir::Writes => self.stay(victim)?,
                Stir::Restart if !at_start => {
                    self.cluster.members[victim].process()?.terminate()?;
                }
                Stir::Restart => self.cluster.members[victim].spawn().map(drop)?,
                Stir::Election if at_start => self.cluster.members[victim].spawn().map(drop)?,
                Stir::Election => self.move_leadership(victim),
                Stir::Install => self.fall_behind(victim, writers)?,
                Stir::Change => self.change_members(victim)?,
            }
            let process = self.cluster.members[victim].process()?;
            if let Ok(status) = eventually("its end", COURSE, || process.ended()) {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(process.failure("does not come to the point"));
            }
        }
    }

    /// Puts leadership where the run needs it, should it have moved.
    fn stay(&self, victim: usize) -> Outcome {
        let Ok(leader) = self.cluster.leader(Duration::ZERO) else { return Ok(()) };
        if (self.place == Place::Follower) == (leader == victim) {
            self.move_leadership(victim);
        }
        Ok(())
    }

    /// To the victim, or away from it. It may not come to it.
    fn move_leadership(&self, victim: usize) {
        let Ok(leader) = self.cluster.leader(COURSE) else { return };
        let to = if leader == victim { self.next(leader) } else { victim };
        let ask = || -> Outcome {
            let id = self.cluster.members[to].impatient_client(PATIENCE)?.status()?.id;
            self.cluster.members[leader].impatient_client(PATIENCE)?.move_leader(id)?;
            Ok(())
        };
        let _ = ask();
    }

    /// Kills a follower, and starts it when the others' logs no longer hold what it needs.
    fn fall_behind(&mut self, victim: usize, writers: &Writers) -> Outcome {
        let behind = if self.place == Place::Leader { self.next(victim) } else { victim };
        self.cluster.members[behind].kill();
        writers.wait_for(AWAY, SOON)?;
        self.cluster.members[behind].spawn()?;
        Ok(())
    }

    /// Adds a learner that never starts, and removes it, by way of the victim. It may not come to it.
    fn change_members(&mut self, victim: usize) -> Outcome {
        self.learners += 1;
        let url = format!("http://127.0.{}.{}:1", 1 + self.learners / 250, 1 + self.learners % 250);
        let client = self.cluster.members[victim].impatient_client(PATIENCE)?;
        let _ = client.member_add(&url, true).and_then(|id| client.member_remove(id));
        Ok(())
    }

    /// What is left of the changes.
    fn remove_learners(&self) -> Outcome {
        let leader = self.cluster.leader(SOON)?;
        let client = self.cluster.client(leader)?;
        for learner in client.members()?.into_iter().filter(|member| member.is_learner) {
            client.member_remove(learner.id)?;
        }
        Ok(())
    }

    /// Every member has the same keys, by their digest, at the same index.
    fn wait_for_same_state(&self) -> Outcome {
        let mut last = Vec::new();
        let same = eventually("the same state on every member", SOON, || {
            let states = self.cluster.members.iter().map(|member| {
                let said = http_get(member.flags.client_port, "/debug/raft/status").ok()?.body;
                let status: serde_json::Value = serde_json::from_str(&said).ok()?;
                let kv = ["index", "revision", "digest"].map(|name| status["kv"][name].to_string());
                Some(kv)
            });
            last = states.collect::<Option<Vec<_>>>()?;
            last.iter().all(|state| *state == last[0]).then_some(())
        });
        same.map_err(|failure| Failure::new(format!("{failure}: {last:?}")))
    }

    fn read_back(&mut self, member: usize, prefix: &str) -> Outcome {
        let lost = self.ledger.read_back(&self.cluster.client(member)?, prefix)?;
        if lost.is_empty() { Ok(()) } else { Err(Failure::new(lost.join("\n"))) }
    }
}

/// Tells a running server, and waits until it holds: what is done next must not overtake it. The server may be gone
/// before it says so, for the point may be where it is all the time.
pub(crate) fn set_point(process: &mut Process, set: &str) -> Outcome {
    process.tell(set)?;
    let holds = format!("failpoint set line={set}");
    let said =
        |process: &mut Process| process.ended().is_some() || process.log_text().contains(&holds);
    eventually("the point is set", SOON, || said(process).then_some(()))
}

/// The point did it, and nothing else.
fn check_end(ended: ExitStatus, cause: Cause, member: &mut Member) -> Outcome {
    const SIGABRT: i32 = 6;
    const EX_DATAERR: i32 = 65; // a snapshot that the state machine refuses
    const EX_SOFTWARE: i32 = 70;
    const EX_IOERR: i32 = 74;
    let process = member.process()?;
    let said = process.log_text();
    let last = said.lines().last().unwrap_or_default();
    let expected = match cause {
        Cause::Abort => ended.signal() == Some(SIGABRT),
        Cause::Error => {
            matches!(ended.code(), Some(EX_DATAERR | EX_SOFTWARE | EX_IOERR))
                && last.starts_with('{')
                && last.contains("injected by a failpoint")
        }
    };
    if expected { Ok(()) } else { Err(process.failure("ended in another way")) }
}
