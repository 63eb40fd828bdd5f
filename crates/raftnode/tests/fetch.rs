//! What memory does not hold, and followers lack or the state machine has to be given, is read elsewhere: nothing else waits
//! for it (O12).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oarlock_raftnode::bootstrap::Boot;
use oarlock_raftnode::membership::{Change, ChangeEntry};
use oarlock_raftnode::raft::eraftpb::{Entry, MessageType};
use oarlock_raftnode::{
    Applied, Config, Fetch, LogError, LogReader, LogStore, NodeEnd, NodeError, Pending,
    ProposeError, Role,
};
use parking_lot::{Condvar, Mutex};

mod support;
use support::read_through::ReadThrough;
use support::sim::{Packet, Sim};
use support::{PATIENCE, TestCluster, config, wait_for};

/// More than a simulated node keeps in memory.
const MANY: usize = 60;

/// A leader, 1, and those who miss what it has committed meanwhile; one heartbeat later they are back.
fn behind(count: u64, away: &[u64]) -> Sim {
    let mut sim = Sim::new(count, 1);
    sim.elect(1);
    sim.slow_reads = true;
    sim.cut = away.to_vec();
    for n in 0..MANY {
        sim.propose(1, &format!("{n}"));
    }
    sim.settle();
    away.iter().for_each(|id| sim.core(1).handle_unreachable(*id));
    sim.cut.clear();
    sim.tick(1);
    sim
}

/// Everything but reads, until it is as it should be.
fn without_reads<T>(sim: &mut Sim, mut until: impl FnMut(&mut Sim) -> Option<T>) -> Option<T> {
    for _ in 0..100 {
        for id in sim.nodes.keys().copied().collect::<Vec<_>>() {
            while sim.write(id) || sim.sync(id) || sim.apply(id) {}
        }
        for (from, to, packet) in std::mem::take(&mut sim.net) {
            sim.deliver(from, to, packet);
        }
        if let Some(found) = until(sim) {
            return Some(found);
        }
    }
    None
}

fn first_fetch(sim: &mut Sim) -> Fetch {
    let fetch = |sim: &mut Sim| {
        let fetches = &mut sim.nodes.get_mut(&1).expect("a node").fetches;
        let at = fetches.iter().position(|fetch| !fetch.is_to_apply())?;
        fetches.remove(at)
    };
    without_reads(sim, fetch).expect("something is to be read")
}

fn read(sim: &Sim, fetch: &Fetch) -> Result<Vec<Entry>, LogError> {
    fetch.read(&*sim.node(1).store.reader())
}

fn answer(sim: &mut Sim, fetch: Fetch, entries: Result<Vec<Entry>, LogError>) {
    sim.core(1).handle_fetched(fetch, entries).expect("the log is well");
    sim.poll(1);
}

/// The first entries of appends under way from 1, by the receiver.
fn appends(sim: &Sim) -> Vec<(u64, u64)> {
    let append = |packet: &Packet| match packet {
        Packet::Raft(message) if message.get_msg_type() == MessageType::MsgAppend => {
            message.entries.first().map(|first| first.index)
        }
        _ => None,
    };
    let sent = sim.net.iter().filter(|(from, _, _)| *from == 1);
    sent.filter_map(|(_, to, packet)| Some((*to, append(packet)?))).collect()
}

/// Everybody has the same, `extra` lines more than there were.
fn agree(sim: &mut Sim, extra: usize) {
    let leader = sim.leader().expect("somebody leads");
    for _ in 0..5 {
        sim.settle();
        sim.tick(leader);
    }
    sim.settle();
    for (id, node) in &sim.nodes {
        assert_eq!(node.lines.len(), MANY + extra, "node {id}");
    }
}

#[test]
fn who_is_far_behind_is_served_once_it_was_read() {
    let mut sim = behind(3, &[3]);
    let fetch = first_fetch(&mut sim);
    assert!(appends(&sim).is_empty(), "nothing was read yet");
    let low = fetch.range().start;
    let entries = read(&sim, &fetch);
    answer(&mut sim, fetch, entries);
    assert_eq!(appends(&sim), [(3, low)]);
    agree(&mut sim, 0);
}

#[test]
fn what_several_lack_is_read_once_for_all_of_them() {
    let mut sim = behind(5, &[4, 5]);
    let fetch = first_fetch(&mut sim);
    sim.tick(1);
    sim.settle(); // all the others have been heard, and nothing else is to be read
    let low = fetch.range().start;
    let entries = read(&sim, &fetch);
    answer(&mut sim, fetch, entries);
    assert_eq!(appends(&sim), [(4, low), (5, low)], "one of them was forgotten");
    agree(&mut sim, 0);
}

/// The same node may lead again, in a later term and with other entries, and the same be asked for by another follower.
#[test]
fn what_was_read_before_it_was_overwritten_is_not_sent() {
    let mut sim = Sim::new(5, 1);
    sim.elect(1);
    sim.slow_reads = true;
    // Alone with many entries, and heard by one that lacks them.
    sim.cut = vec![1];
    for n in 0..MANY {
        sim.propose(1, &format!("lost {n}"));
    }
    while sim.write(1) || sim.sync(1) {}
    sim.core(1).handle_unreachable(2);
    sim.net.clear();
    sim.cut = vec![3, 4, 5];
    sim.tick(1);
    let fetch = first_fetch(&mut sim);
    let (low, old) = (fetch.range().start, read(&sim, &fetch));

    sim.net.clear();
    sim.cut = vec![1, 3];
    sim.elect(2);
    for n in 0..MANY {
        sim.propose(2, &format!("kept {n}"));
    }
    sim.settle();
    sim.cut = vec![3];
    for _ in 0..3 {
        sim.tick(2);
        sim.settle();
    }
    sim.elect(1);
    assert!(sim.node(1).lines.iter().any(|line| line.starts_with("kept")), "it follows");

    sim.cut.clear();
    sim.tick(1);
    without_reads(&mut sim, |_| None::<()>); // until nothing more happens
    answer(&mut sim, fetch, old);
    assert_eq!(appends(&sim), [], "what was overwritten is sent");
    assert_eq!(sim.node(1).fetches.front().map(|fetch| fetch.range().start), Some(low));
    for _ in 0..5 {
        sim.settle();
        sim.tick(1);
    }
    for (id, node) in &sim.nodes {
        assert_eq!(node.lines, sim.node(1).lines, "node {id}");
    }
}

#[test]
fn what_is_compacted_while_it_is_read_comes_as_a_snapshot() {
    let mut sim = behind(3, &[3]);
    let fetch = first_fetch(&mut sim);
    sim.snapshot(1);
    let gone = read(&sim, &fetch);
    assert!(matches!(gone, Err(LogError::Compacted { .. })), "{gone:?}");
    answer(&mut sim, fetch, gone);
    agree(&mut sim, 0);
    assert!(sim.node(3).core.log_bounds().0 > 10, "it got all of the entries");
}

#[test]
fn what_is_read_for_a_leader_that_was_deposed_is_for_nobody() {
    let mut sim = behind(3, &[3]);
    let fetch = first_fetch(&mut sim);
    sim.elect(2);
    sim.settle();
    let entries = read(&sim, &fetch);
    answer(&mut sim, fetch, entries);
    assert!(appends(&sim).is_empty(), "it does not lead");
    agree(&mut sim, 0);
}

#[test]
fn what_is_read_for_one_who_was_removed_is_for_nobody() {
    let mut sim = behind(3, &[3]);
    let fetch = first_fetch(&mut sim);
    sim.change(1, ChangeEntry::new(Change::Remove(3)));
    sim.cut = vec![3];
    for _ in 0..3 {
        sim.settle();
        sim.tick(1);
    }
    assert!(sim.node(1).core.gone().contains(&3));
    let entries = read(&sim, &fetch);
    answer(&mut sim, fetch, entries);
    assert!(appends(&sim).iter().all(|(to, _)| *to != 3));
}

#[test]
fn a_log_that_does_not_read_back_ends_the_node() {
    let mut sim = behind(3, &[3]);
    let fetch = first_fetch(&mut sim);
    let damage = || LogError::Corrupt { detail: "entry 7".into(), place: None };
    assert!(matches!(
        sim.core(1).handle_fetched(fetch, Err(damage())),
        Err(LogError::Corrupt { .. })
    ));
    for wrong in [0, 1] {
        let mut sim = behind(3, &[3]);
        let fetch = first_fetch(&mut sim);
        let entries = read(&sim, &fetch).expect("whole").into_iter().skip(1);
        let entries = entries.take(wrong).collect(); // none, or one that was not asked for
        let answer = sim.core(1).handle_fetched(fetch, Ok(entries));
        assert!(matches!(answer, Err(LogError::Corrupt { .. })), "{answer:?}");
    }
}

/// Nobody else, after a restart with more to apply than a piece.
fn restarted() -> Sim {
    let mut sim = Sim::new_with(1, 1, |config| config.max_apply_bytes(100));
    sim.elect(1);
    for n in 0..MANY {
        sim.propose(1, &format!("{n}"));
    }
    sim.settle();
    sim.slow_reads = true;
    sim.crash(1, 0);
    sim
}

/// One read at a time, and no entry without its turn or twice (O23).
#[test]
fn what_is_to_be_applied_is_read_a_piece_at_a_time() {
    let mut sim = restarted();
    let (mut pieces, mut next) = (0, 1);
    while sim.node(1).lines.len() < MANY {
        assert_eq!(sim.node(1).fetches.len(), 1, "after {next}");
        let fetch = sim.nodes.get_mut(&1).and_then(|node| node.fetches.pop_front());
        let fetch = fetch.expect("counted");
        assert!(fetch.is_to_apply());
        assert_eq!(fetch.range().start, next);
        sim.tick(1);
        assert!(!sim.apply(1), "applied before it was read");
        let entries = read(&sim, &fetch).expect("whole");
        next += entries.len() as u64;
        pieces += 1;
        answer(&mut sim, fetch, Ok(entries));
        while sim.apply(1) {}
        assert_eq!(sim.node(1).core.applied(), next - 1);
    }
    assert!(pieces > 3, "{pieces} pieces");
    sim.elect(1);
    sim.propose(1, "more");
    sim.settle();
    assert_eq!(sim.node(1).lines.len(), MANY + 1);
}

#[test]
fn nothing_is_read_for_apply_while_it_is_held() {
    let mut sim = restarted();
    let fetch = sim.nodes.get_mut(&1).and_then(|node| node.fetches.pop_front());
    let fetch = fetch.expect("something is to be read");
    let entries = read(&sim, &fetch);
    let core = sim.core(1);
    core.hold_apply(true);
    core.handle_fetched(fetch, entries).expect("the log is well");
    assert!(core.poll_apply().is_none() && core.poll_fetch().is_none(), "it is held");
    core.hold_apply(false);
    let (stage, next) = (core.poll_apply().expect("it is here"), core.poll_fetch());
    assert_eq!(next.map(|next| next.range().start), stage.entries.last().map(|e| e.index + 1));
}

/// A log whose old pages come slowly, or not at all, once it is told so.
#[derive(Clone, Default)]
struct Cold(Arc<Gate>);

#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicU64,
    /// The next read panics, or fails.
    panics: AtomicBool,
    fails: AtomicBool,
}

impl Cold {
    fn shut(&self, shut: bool) {
        *self.0.shut.lock() = shut;
        self.0.opened.notify_all();
    }

    fn waiting(&self) -> Option<()> {
        (self.0.waiting.load(Ordering::Relaxed) > 0).then_some(())
    }
}

impl Gate {
    fn read(
        &self,
        log: &dyn LogReader,
        (low, high, max_bytes): (u64, u64, u64),
    ) -> Result<Vec<Entry>, LogError> {
        assert!(!self.panics.load(Ordering::Relaxed), "asked to panic");
        if self.fails.load(Ordering::Relaxed) {
            return Err(LogError::Corrupt { detail: "asked to fail".into(), place: None });
        }
        if !std::thread::current().name().is_some_and(|name| name.starts_with("oarlock-")) {
            return log.entries(low, high, max_bytes); // a boot
        }
        let mut shut = self.shut.lock();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        while *shut {
            self.opened.wait(&mut shut);
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        drop(shut);
        log.entries(low, high, max_bytes)
    }
}

impl Drop for Cold {
    fn drop(&mut self) {
        self.shut(false); // a test that fails does not hang
    }
}

const LINES: usize = 300;

/// It takes many messages to catch up; and a machine with other things to do deposes nobody.
fn cold_config() -> Config {
    let config = config().tail_cache_bytes(1024).max_size_per_msg(1024).election_ticks(200);
    config.stop_timeout(Duration::from_millis(500))
}

fn restart_cold(cluster: &mut TestCluster, id: u64, cold: &Cold) {
    cluster.stop(id);
    let node = &cluster.nodes[&id];
    let (store, snapshots) = (node.store.clone(), node.snapshots.clone());
    let gate = Arc::clone(&cold.0);
    let log = Box::new(ReadThrough::new(store.clone(), move |log, range| gate.read(log, range)));
    cluster.boot_with(id, store, log, snapshots, &Boot::Restart);
    wait_for("it to follow", || (cluster.handle(id).leader() != 0).then_some(())); // or nothing it is told gets there
}

/// A leader with a log like that, and a follower that lacks most of it and is still away.
fn cold_cluster(cold: &Cold) -> (TestCluster, u64, u64) {
    let mut cluster = TestCluster::new(3, cold_config());
    let leader = cluster.ids()[0];
    cluster.elect(cluster.ids()[2]);
    restart_cold(&mut cluster, leader, cold);
    cluster.lead(leader);
    let away = cluster.ids()[1];
    cluster.network.isolate(away);
    write(&cluster, leader, LINES);
    (cluster, leader, away)
}

fn write(cluster: &TestCluster, leader: u64, count: usize) {
    let pending: Vec<_> =
        (0..count).map(|n| cluster.handle(leader).propose(format!("{n}"))).collect();
    for pending in pending {
        pending.wait().expect("two of three");
    }
}

/// For as long as followers wait for a leader, while a read hangs.
fn leads_on(cluster: &TestCluster, leader: u64, cold: &Cold, mut each: impl FnMut()) {
    wait_for("the log to be read", || cold.waiting());
    let before = cluster.handle(leader).vitals().term;
    let late = cluster.handle(leader).stats().heartbeats_late;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        each();
        let asked = Instant::now();
        let _ = cluster.handle(leader).status();
        assert!(asked.elapsed() < Duration::from_secs(1), "the node thread waits for the cold log");
        std::thread::sleep(Duration::from_millis(5));
    }
    let vitals = cluster.handle(leader).vitals();
    assert_eq!((vitals.role, vitals.term), (Role::Leader, before), "it was deposed");
    let late = cluster.handle(leader).stats().heartbeats_late - late;
    assert!(late < 10, "{late} of 100 heartbeats were late");
    assert!(cold.waiting().is_some(), "it was read in the meantime");
}

/// O12: for a follower that is far behind nobody else waits, least of all the heartbeats.
#[test]
fn heartbeats_and_writes_go_on_while_the_log_is_read() {
    let cold = Cold::default();
    let (cluster, leader, _) = cold_cluster(&cold);
    cold.shut(true);
    cluster.network.heal();
    let mut written = 0;
    leads_on(&cluster, leader, &cold, || {
        let pending = cluster.handle(leader).propose(format!("meanwhile {written}"));
        let answer = pending.wait_timeout(Duration::from_secs(1));
        assert!(answer.is_ok_and(|answer| answer.is_ok()), "waits for the cold log");
        written += 1;
    });
    cold.shut(false);
    cluster.settle(LINES + written);
}

/// O12: what is committed here, not applied, and not in memory any more is read for the state machine.
#[test]
fn a_member_that_starts_with_a_long_log_leads_while_it_is_read() {
    let cold = Cold::default();
    // After a snapshot, or the founding changes would have to be applied before it may campaign.
    let mut cluster = TestCluster::new(3, cold_config().snapshot_count(5));
    let (id, other) = (cluster.ids()[0], cluster.ids()[2]);
    cluster.elect(other);
    write(&cluster, other, 5);
    wait_for("a snapshot", || (cluster.handle(id).status().snapshot_index > 3).then_some(()));
    cluster.config = cold_config();
    cluster.stop(id);
    cluster.restart(id);
    write(&cluster, other, LINES);
    let last = cluster.handle(other).vitals().commit;
    wait_for("it to have them", || (cluster.handle(id).vitals().commit >= last).then_some(()));
    cold.shut(true);
    restart_cold(&mut cluster, id, &cold);
    cluster.lead(id);
    let mut pending = Vec::new();
    leads_on(&cluster, id, &cold, || pending.push(cluster.handle(id).propose("meanwhile")));
    let vitals = cluster.handle(id).vitals();
    assert!(vitals.commit > vitals.applied + (LINES + pending.len() / 2) as u64, "{vitals:?}");
    cold.shut(false);
    let written = pending.len();
    assert!(pending.into_iter().all(|pending| pending.wait().is_ok()));
    cluster.settle(5 + LINES + written);
}

/// A leader whose apply was so far behind that memory has moved on, and begins to read what it left behind.
fn left_behind(
    cold: &Cold,
    config: Config,
) -> (TestCluster, u64, Vec<Pending<Applied<usize>, ProposeError>>) {
    let config = config.max_apply_backlog(2000).max_apply_bytes(1000);
    let mut cluster = TestCluster::new(3, config);
    let leader = cluster.ids()[0];
    cluster.elect(cluster.ids()[2]);
    restart_cold(&mut cluster, leader, cold);
    cluster.lead(leader);
    let journal = cluster.nodes[&leader].journal.clone();
    let gate = journal.gate.lock();
    // All at once, for it would soon refuse more.
    cluster.network.isolate(leader);
    let lines = std::iter::once("wait".to_owned()).chain((1..LINES).map(|n| format!("{n}")));
    let pending = lines.map(|line| cluster.handle(leader).propose(line)).collect();
    let last = wait_for("the entries", || {
        let status = cluster.handle(leader).status();
        (status.last_index >= status.applied + LINES as u64).then_some(status.last_index)
    });
    cluster.network.heal();
    // Everywhere, so that nothing is read for followers.
    let all = || cluster.nodes.values().all(|node| node.handle().vitals().commit >= last);
    wait_for("the commit", || all().then_some(()));
    cold.shut(true);
    drop(gate);
    (cluster, leader, pending)
}

#[test]
fn heartbeats_go_on_while_what_apply_left_behind_is_read() {
    let cold = Cold::default();
    let (cluster, leader, pending) = left_behind(&cold, cold_config());
    leads_on(&cluster, leader, &cold, || ());
    cold.shut(false);
    assert!(pending.into_iter().all(|pending| pending.wait().is_ok()));
    cluster.settle(LINES);
}

/// O12: what it cannot read it cannot apply, and so answers nobody; others can.
#[test]
fn a_leader_that_cannot_read_what_it_is_to_apply_hands_over() {
    let cold = Cold::default();
    let (cluster, leader, pending) = left_behind(&cold, cold_config().election_ticks(30));
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let leads = |id: &&u64| cluster.handle(**id).vitals().role == Role::Leader;
    let next = *wait_for("another leader", || others.iter().find(leads));
    assert!(cluster.handle(leader).stats().disk_stalls > 0);
    cluster.handle(next).propose("elsewhere").wait().expect("two of three");
    cold.shut(false);
    assert!(pending.into_iter().all(|pending| pending.wait().is_ok()), "they were committed");
    cluster.settle(LINES + 1);
}

#[test]
fn a_node_stops_while_its_log_is_read() {
    let cold = Cold::default();
    let (mut cluster, leader, away) = cold_cluster(&cold);
    cold.shut(true);
    cluster.network.heal();
    wait_for("the log to be read", || cold.waiting());
    let began = Instant::now();
    assert!(matches!(cluster.stop(leader), NodeEnd::Stopped));
    assert!(began.elapsed() < PATIENCE / 2, "it took {:?}", began.elapsed());
    // The others go on, and the one that was behind gets everything from them.
    cluster.elect(cluster.ids()[2]);
    wait_for("the lines", || (cluster.nodes[&away].lines().len() == LINES).then_some(()));
    cold.shut(false);
}

#[test]
fn a_reader_that_fails_or_panics_ends_the_node() {
    let cases: [fn(&Gate) -> &AtomicBool; 2] = [|gate| &gate.fails, |gate| &gate.panics];
    for (n, how) in cases.into_iter().enumerate() {
        let cold = Cold::default();
        let (cluster, leader, _) = cold_cluster(&cold);
        how(&cold.0).store(true, Ordering::Relaxed);
        cluster.network.heal();
        let end = wait_for("the node to end", || cluster.handle(leader).end());
        let NodeEnd::Failed(error) = end else { panic!("{end:?}") };
        match (n, &*error) {
            (0, NodeError::Log(LogError::Corrupt { .. }))
            | (1, NodeError::Panicked { thread: "oarlock-reader", .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}
