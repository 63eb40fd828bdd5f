//! A cluster on simulated disks or real ones, clients that write to it all the time, and one failpoint.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use oarlock_raftnode::bootstrap::{Boot, boot};
use oarlock_raftnode::membership::{Change, Cluster};
use oarlock_raftnode::transport::{Identity, MemNetwork};
use oarlock_raftnode::wal::testing::{SimDisk, Unsynced};
use oarlock_raftnode::{Config, NodeBuilder, NodeEnd, NodeHandle, Role, WalOptions};
use parking_lot::Mutex;

use crate::points::{Failure, Place, Stir};
use crate::support::{Journal, member, wait_for};
use crate::{Action, Run};

/// What a process says before each line that was acknowledged to one of its clients.
pub(crate) const ACK: &str = "acknowledged: ";

/// Longer than an election timeout.
const PAUSE: Duration = Duration::from_millis(450);
/// How often a thread stands still; a writer that always did would never be done.
const PAUSES: usize = 2;
/// Writes that must succeed before the fault and after it.
const SOME: usize = 30;

pub(crate) struct World {
    seed: u64,
    network: MemNetwork,
    config: Config,
    founders: Cluster,
    members: BTreeMap<u64, Member>,
    alone: bool,
    target: u64,
    load: Load,
    learners: u64,
}

/// Where a member's log and snapshots are.
enum Disk {
    Simulated(SimDisk),
    Real(PathBuf),
}

impl Disk {
    fn options(&self) -> WalOptions {
        match self {
            Self::Simulated(disk) => WalOptions::new("/data").vfs(Arc::new(disk.clone())),
            Self::Real(folder) => WalOptions::new(folder),
        }
    }

    fn simulated(&self) -> &SimDisk {
        match self {
            Self::Simulated(disk) => disk,
            Self::Real(folder) => panic!("{} is no simulated disk", folder.display()),
        }
    }
}

struct Member {
    disk: Disk,
    journal: Journal,
    handle: Option<NodeHandle<usize>>,
    /// What it says from now on nobody hears: its power is off.
    dead: Arc<AtomicBool>,
}

/// Who can be asked, and whether what it answers still counts.
type Asked = (NodeHandle<usize>, Arc<AtomicBool>);

/// Clients, and what they were told.
#[derive(Default)]
struct Load {
    handles: Arc<Mutex<BTreeMap<u64, Asked>>>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl World {
    /// A healthy cluster that takes writes. The name makes its members' ids its own, so that several can run beside each
    /// other in a process that has one registry of failpoints.
    pub(crate) fn new(name: &str, place: Place) -> Self {
        Self::on(name, place, None, false)
    }

    /// The same on real files below a folder, as they were left there. Aloud, so that another process hears of what is
    /// acknowledged.
    pub(crate) fn below(folder: &Path, name: &str, place: Place, aloud: bool) -> Self {
        Self::on(name, place, Some(folder), aloud)
    }

    fn on(name: &str, place: Place, folder: Option<&Path>, aloud: bool) -> Self {
        let seed = name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31) ^ u64::from(byte));
        let alone = place == Place::Alone;
        let count = if alone { 1 } else { 3 };
        let list: Vec<(String, [String; 1])> =
            (1..=count).map(|n| (format!("m{n}"), [format!("http://127.0.0.1:{n}")])).collect();
        let founders = Cluster::from_initial(name, &list).expect("a valid list");
        let config = Config::new()
            .heartbeat_interval(Duration::from_millis(30))
            .election_ticks(10)
            .snapshot_count(25)
            .snapshot_catchup_entries(5)
            .max_request_bytes(4 << 10)
            .stop_timeout(Duration::from_secs(3))
            .seed(seed);
        let mut world = Self {
            seed,
            network: MemNetwork::new(seed),
            config,
            members: BTreeMap::new(),
            alone,
            target: 0,
            load: Load::default(),
            learners: 1 << 20,
            founders,
        };
        let ids: Vec<u64> = world.founders.members().map(|member| member.id).collect();
        for &id in &ids {
            let disk = folder.map_or_else(
                || Disk::Simulated(SimDisk::new()),
                |folder| Disk::Real(folder.join(format!("{id:x}"))),
            );
            let again = disk.options().exists().expect("it can be looked for");
            world.members.insert(id, Member::new(disk));
            let cluster = world.founders.clone();
            let how = if again { Boot::Restart } else { Boot::New { id, cluster } };
            world.boot(id, &how).expect("it boots");
        }
        wait_for("a leader", || {
            world.handle(ids[0]).campaign();
            thread::sleep(Duration::from_millis(20));
            world.leader()
        });
        world.load.start(&ids, seed, aloud);
        world.load.wait_for_more();
        let leader = wait_for("a leader", || world.leader());
        world.target = match place {
            Place::Alone | Place::Leader => leader,
            Place::Follower => ids.into_iter().find(|id| *id != leader).expect("three"),
        };
        world
    }

    fn handle(&self, id: u64) -> &NodeHandle<usize> {
        self.members[&id].handle.as_ref().expect("it runs")
    }

    fn leader(&self) -> Option<u64> {
        let leads = |member: &Member| {
            let handle = member.handle.as_ref()?;
            (handle.end().is_none() && handle.vitals().role == Role::Leader).then_some(())
        };
        self.members.iter().find_map(|(id, member)| leads(member).map(|()| *id))
    }

    /// Starts a member from what its disk holds.
    fn boot(&mut self, id: u64, how: &Boot) -> Result<(), String> {
        let member = self.members.get_mut(&id).expect("a member");
        let options = member.disk.options().segment_size(64 << 10).maintainer(false);
        let mut log = options.open_or_create().map_err(|error| text_of(&error))?;
        let snapshots = log.snapshots();
        let recovered = boot(&mut log, &*snapshots, how).map_err(|error| text_of(&error))?;
        let identity = Identity::new(id, self.founders.id())
            .incarnation(recovered.incarnation)
            .urls([format!("http://m{id}")]);
        let transport = Arc::new(self.network.endpoint(identity));
        member.journal = Journal::default();
        let handle = NodeBuilder::new(self.config.clone(), recovered, Box::new(log), snapshots)
            .start(member.journal.clone(), |handler| {
                transport.start(handler);
                Ok(transport)
            })
            .map_err(|error| text_of(&error))?;
        self.load.handles.lock().insert(id, (handle.clone(), Arc::clone(&member.dead)));
        member.handle = Some(handle);
        Ok(())
    }

    /// Lets the target come to the point, and what is to happen there happen.
    pub(crate) fn meet(&mut self, run: &Run<'_>) {
        let point = format!("{}@{:x}", run.point.name, self.target);
        let hits = Arc::new(AtomicUsize::new(0));
        match run.action {
            Action::Abort => fail::cfg(&point, "return(abort)").expect("an action"),
            Action::Die => fail::cfg_callback(&point, self.death(&hits)).expect("a callback"),
            Action::Fail => fail::cfg(&point, "1*return->off").expect("an action"),
            Action::Wait => fail::cfg_callback(&point, pause(&hits)).expect("a callback"),
        }
        let deadline = Instant::now() + crate::support::PATIENCE;
        let mut failed = None;
        loop {
            let done = match run.action {
                Action::Abort => false, // nobody is left then
                Action::Die | Action::Wait => hits.load(Ordering::SeqCst) > 0,
                Action::Fail => failed.is_some() || self.has_failed(run.point.failure),
            };
            if done {
                break;
            }
            assert!(Instant::now() < deadline, "the point is not reached");
            if let Err(error) = self.stir(run.point.stir) {
                failed = Some(error);
            }
        }
        fail::remove(&point);
        if let Some(error) = failed {
            assert!(error.contains("injected by a failpoint") || self.is_dead(), "{error}");
        }
        if run.action == Action::Die {
            self.bury();
        }
        self.restart_if_ended();
    }

    /// Power off, at the instant at which a thread of the target comes to the point.
    fn death(&self, hits: &Arc<AtomicUsize>) -> impl Fn() + Send + Sync + 'static {
        let member = &self.members[&self.target];
        let (disk, dead, hits) =
            (member.disk.simulated().clone(), Arc::clone(&member.dead), Arc::clone(hits));
        let (network, target) = (self.network.clone(), self.target);
        move || {
            dead.store(true, Ordering::SeqCst); // first: what is answered from here on, nobody hears
            disk.cut_power_after(0);
            network.isolate(target);
            hits.fetch_add(1, Ordering::SeqCst);
            let thread = thread::current();
            let ends = ["oarlock-node", "oarlock-writer", "oarlock-apply", "oarlock-snapshot"];
            // The others are the test's and the network's.
            if thread.name().is_some_and(|name| ends.contains(&name)) {
                std::panic::resume_unwind(Box::new("the power is off"));
            }
        }
    }

    fn is_dead(&self) -> bool {
        self.members[&self.target].dead.load(Ordering::SeqCst)
    }

    /// The dead machine gets its power back.
    fn bury(&mut self) {
        let member = self.members.get_mut(&self.target).expect("a member");
        self.load.handles.lock().remove(&self.target);
        let disk = Disk::Simulated(member.disk.simulated().reboot(Unsynced::Random(self.seed)));
        if let Some(handle) = member.handle.take() {
            handle.shutdown();
        }
        *member = Member::new(disk);
        self.network.heal();
    }

    /// Whether an injected error shows.
    fn has_failed(&self, failure: Failure) -> bool {
        let stats = |id: &u64| self.members[id].handle.as_ref().map(NodeHandle::stats);
        match failure {
            Failure::EndsNode => self.members[&self.target]
                .handle
                .as_ref()
                .and_then(NodeHandle::end)
                .is_some_and(|end| is_injected(&end)),
            Failure::FailsSnapshot => {
                stats(&self.target).is_some_and(|stats| stats.snapshots_failed > 0)
            }
            Failure::FailsTransfer => {
                self.members.keys().filter_map(stats).any(|stats| stats.snapshots_send_failed > 0)
            }
            Failure::FailsBoot | Failure::None => false, // the boot itself says so
        }
    }

    /// Does once what may lead to the point. An error is that of a boot.
    fn stir(&mut self, stir: Stir) -> Result<(), String> {
        match stir {
            Stir::Writes => thread::sleep(Duration::from_millis(2)),
            Stir::Election if self.alone => {
                self.stop_and_start()?;
                let deadline = Instant::now() + Duration::from_secs(1);
                while self.leader().is_none() && !self.is_dead() && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            Stir::Election => self.move_leadership(),
            Stir::Install => self.fall_behind(),
            Stir::Change => self.change_members(),
            Stir::Restart => return self.stop_and_start(),
        }
        Ok(())
    }

    fn stop_and_start(&mut self) -> Result<(), String> {
        let target = self.target;
        self.load.handles.lock().remove(&target);
        if let Some(handle) = self.members.get_mut(&target).and_then(|m| m.handle.take()) {
            handle.shutdown();
        }
        if self.is_dead() {
            return Ok(());
        }
        self.boot(target, &Boot::Restart)
    }

    /// To the target, or away from it.
    fn move_leadership(&self) {
        let Some(leader) = self.leader() else { return thread::sleep(Duration::from_millis(5)) };
        let other = self.members.keys().find(|id| **id != self.target).copied().expect("three");
        let to = if leader == self.target { other } else { self.target };
        let moved = self.handle(leader).transfer_leader(to);
        let _ = moved.wait_timeout(Duration::from_secs(1)); // it may not come to it
    }

    /// Cuts a follower off until the log no longer holds what it needs, and lets it come back.
    fn fall_behind(&self) {
        let Some(leader) = self.leader() else { return thread::sleep(Duration::from_millis(5)) };
        let behind = if leader == self.target {
            self.members.keys().find(|id| **id != leader).copied().expect("three")
        } else {
            self.target
        };
        let (leader, handle) = (self.handle(leader), self.handle(behind));
        let installed = handle.stats().snapshots_installed;
        self.network.isolate(behind);
        let last = handle.status().last_index;
        let deadline = Instant::now() + Duration::from_secs(3);
        while leader.status().first_index <= last + 1 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        self.network.heal();
        let deadline = Instant::now() + Duration::from_secs(1);
        while handle.stats().snapshots_installed == installed
            && handle.end().is_none()
            && !self.is_dead()
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn change_members(&mut self) {
        self.learners += 1;
        let learner = self.learners;
        for change in [Change::AddLearner(member(learner)), Change::Remove(learner)] {
            if self.is_dead() {
                return;
            }
            let changed = self.handle(self.target).change_members(change);
            let _ = changed.wait_timeout(Duration::from_secs(1)); // it may not come to it
        }
    }

    fn restart_if_ended(&mut self) {
        let target = self.target;
        let member = self.members.get_mut(&target).expect("a member");
        if let Some(end) = member.handle.as_ref().and_then(NodeHandle::end) {
            assert!(is_injected(&end), "it ended for another reason: {end:?}");
            self.load.handles.lock().remove(&target);
            if let Some(handle) = member.handle.take() {
                handle.shutdown();
            }
            let disk = member.disk.simulated().reboot(Unsynced::Random(self.seed));
            *member = Member::new(Disk::Simulated(disk));
        }
        if self.members[&target].handle.is_none() {
            self.boot(target, &Boot::Restart).expect("what is left on the disk boots");
        }
    }

    /// The cluster takes writes, at every member; nothing acknowledged is lost, and all have the same.
    pub(crate) fn check(self) {
        self.check_with(Vec::new());
    }

    /// The same, with what an earlier life acknowledged.
    pub(crate) fn check_with(mut self, mut acknowledged: Vec<String>) {
        self.load.wait_for_more();
        acknowledged.extend(self.load.stop());
        for id in self.members.keys() {
            let line = format!("at last {id:x}");
            wait_for("a write at every member", || {
                self.handle(*id).propose(line.clone()).wait().ok()
            });
            acknowledged.push(line);
        }
        let lines = wait_for("the same state on every member", || {
            let mut states =
                self.members.values().map(|member| member.journal.lines.lock().clone());
            let first = states.next()?;
            (first.len() >= acknowledged.len() && states.all(|state| state == first))
                .then_some(first)
        });
        let mut sorted = lines.clone();
        sorted.sort();
        // The last lines are asked for again until one is answered; the rest is there once at most.
        let doubled =
            sorted.windows(2).find(|pair| pair[0] == pair[1] && !pair[0].starts_with("at last"));
        assert_eq!(doubled, None, "applied twice");
        let lost: Vec<&String> =
            acknowledged.iter().filter(|line| sorted.binary_search(line).is_err()).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}; seed {}", self.seed);
        for member in self.members.into_values() {
            member.handle.expect("it runs").shutdown();
        }
    }
}

impl Member {
    fn new(disk: Disk) -> Self {
        Self { disk, journal: Journal::default(), handle: None, dead: Arc::default() }
    }
}

impl Load {
    /// With lines that no other process writes.
    fn start(&mut self, ids: &[u64], seed: u64, aloud: bool) {
        let life = std::process::id();
        self.clients = (0..2)
            .map(|client: u64| {
                let mut rng = fastrand::Rng::with_seed(seed ^ client);
                let (handles, stop) = (Arc::clone(&self.handles), Arc::clone(&self.stop));
                let (acknowledged, ids) = (Arc::clone(&self.acknowledged), ids.to_vec());
                thread::spawn(move || {
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        thread::sleep(Duration::from_millis(3));
                        let at = ids[rng.usize(..ids.len())];
                        let Some((handle, dead)) = handles.lock().get(&at).cloned() else {
                            continue;
                        };
                        let line = format!("life {life}, client {client}, line {n}");
                        let deadline = Instant::now() + Duration::from_millis(400);
                        let told = handle.propose_by(line.clone(), deadline).wait();
                        // Of what was answered in the instant of the power cut nobody knows whether anybody heard it.
                        if told.is_ok() && !dead.load(Ordering::SeqCst) {
                            if aloud {
                                let _ = writeln!(std::io::stdout().lock(), "{ACK}{line}");
                            }
                            acknowledged.lock().push(line);
                        }
                    }
                })
            })
            .collect();
    }

    /// Writes go on.
    fn wait_for_more(&self) {
        let before = self.acknowledged.lock().len();
        wait_for("writes", || (self.acknowledged.lock().len() >= before + SOME).then_some(()));
    }

    fn stop(&mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().expect("a client does not panic");
        }
        self.handles.lock().clear();
        self.acknowledged.lock().clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn pause(hits: &Arc<AtomicUsize>) -> impl Fn() + Send + Sync + 'static {
    let hits = Arc::clone(hits);
    move || {
        if hits.fetch_add(1, Ordering::SeqCst) < PAUSES {
            thread::sleep(PAUSE);
        }
    }
}

fn is_injected(end: &NodeEnd) -> bool {
    end.error().is_some_and(|error| text_of(error).contains("injected by a failpoint"))
}

/// An error with all its causes.
fn text_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
