//! One survivor of three goes on alone, once; what returns from the old cluster is refused.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use oarlock_tests::{Cluster, Flags, Member, Outcome, Scratch, eventually, scenario};
use oarlock_wal::{RealVfs, Vfs};

const BINARY: &str = env!("CARGO_BIN_EXE_oarlock");
const BOUND: Duration = Duration::from_secs(20);
const KEYS: usize = 30;

/// Three members with `KEYS` acknowledged writes, all killed; and the position of the one that led, of which the log holds
/// every one of them.
fn three_dead(scratch: &Scratch) -> Outcome<(Cluster, usize)> {
    let mut cluster = Cluster::start(scratch, 3)?;
    let leader = cluster.leader(BOUND)?;
    let client = cluster.client(leader)?;
    for key in 0..KEYS {
        client.put(&format!("k{key:03}"), "v")?;
    }
    cluster.members.iter_mut().for_each(Member::kill);
    Ok((cluster, leader))
}

fn stdout(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn survivor_goes_on_alone_with_every_acknowledged_write() {
    scenario("force new cluster", |scratch| {
        let (mut cluster, leader) = three_dead(scratch)?;
        let mut survivor = cluster.members.remove(leader);
        let mut old = cluster.members.remove(0);
        survivor.flags.extra.push("--force-new-cluster".into());
        survivor.start()?;
        let members = survivor.client()?.members()?;
        assert_eq!(members.len(), 1, "{members:?}");
        let cluster_id = survivor.client()?.status()?.cluster_id;
        assert_eq!(survivor.client()?.prefix("k")?.kvs.len(), KEYS);
        survivor.client()?.put("after", "v")?;

        // With the flag still set, as a unit file would have it.
        survivor.kill();
        survivor.start()?;
        assert_eq!(survivor.client()?.status()?.cluster_id, cluster_id, "nothing was forced twice");
        assert_eq!(survivor.client()?.get("after")?.expect("kept").value, "v");
        assert!(survivor.log_text().contains("rescued before"), "it says so");

        // A new member joins; an old one that comes back is told that it has no place here.
        let mut flags = Flags::new(scratch.path(), "m4")?;
        flags.token = survivor.flags.token.clone();
        flags.initial_cluster = format!("{},{}", survivor.flags.as_initial(), flags.as_initial());
        flags.initial_cluster_state = "existing";
        eventually("the change is taken", BOUND, || {
            survivor.client().ok()?.member_add(&flags.peer_url(), false).ok()
        })?;
        let mut joiner = Member::new(scratch, flags)?;
        joiner.start()?;
        assert_eq!(joiner.client()?.prefix("k")?.kvs.len(), KEYS);
        let end = old.spawn()?.wait(BOUND)?;
        assert_eq!(end.code(), Some(78), "{}", old.log_text());
        assert!(old.log_text().contains("permanently removed"), "{}", old.log_text());
        Ok(())
    });
}

/// Every file of log and snapshots, but for the lock, which has its holder's id.
fn contents(member: &Path) -> Outcome<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for dir in ["wal", "snap"] {
        for file in std::fs::read_dir(member.join(dir))? {
            let path = file?.path();
            if !path.ends_with("LOCK") {
                files.insert(path.clone(), std::fs::read(path)?);
            }
        }
    }
    Ok(files)
}

#[test]
fn plan_is_shown_without_being_carried_out() {
    scenario("dry run", |scratch| {
        let (mut cluster, leader) = three_dead(scratch)?;
        let survivor = &mut cluster.members[leader];
        let mut rescue = Command::new(BINARY);
        rescue.args(["rescue", "--dry-run", "--data-dir"]).arg(&survivor.flags.data_dir);
        survivor.flags.extra = vec!["--force-new-cluster".into(), "--dry-run".into()];
        // What an opening for writing would clean up, and what it would be kept out by.
        let member = survivor.flags.data_dir.join("member");
        std::fs::write(member.join("wal/000000ff.tmp"), "being prepared")?;
        std::fs::write(member.join(format!("snap/{:016x}-{:016x}.snap.tmp", 1, 1)), "unfinished")?;
        let before = contents(&member)?;
        let lock = RealVfs.lock(&member.join("wal/LOCK"))?;
        for command in [&mut rescue, &mut survivor.flags.command(Path::new(BINARY))] {
            let shown = stdout(command)?;
            let json: serde_json::Value =
                serde_json::from_str(shown.lines().last().expect("a plan"))?;
            assert_eq!(json["epoch"], 1, "{shown}");
            assert_eq!(json["removed"].as_array().map(Vec::len), Some(2), "{shown}");
        }
        drop(lock);
        assert!(contents(&member)? == before, "looking has changed something");
        survivor.flags.extra.clear();
        cluster.start_all()?;
        assert_eq!(cluster.client(0)?.members()?.len(), 3, "nothing was changed");
        Ok(())
    });
}

#[test]
fn rescue_can_be_repeated_on_purpose() {
    scenario("rescue", |scratch| {
        let (mut cluster, leader) = three_dead(scratch)?;
        let survivor = &mut cluster.members[leader];
        for epoch in 1..=2 {
            let mut rescue = Command::new(BINARY);
            let shown =
                stdout(rescue.args(["rescue", "--data-dir"]).arg(&survivor.flags.data_dir))?;
            let json: serde_json::Value =
                serde_json::from_str(shown.lines().last().expect("a plan"))?;
            assert_eq!(json["epoch"], epoch, "{shown}");
        }
        survivor.start()?;
        assert_eq!(survivor.client()?.members()?.len(), 1);
        assert_eq!(survivor.client()?.prefix("k")?.kvs.len(), KEYS);
        Ok(())
    });
}

#[test]
fn forcing_without_data_is_a_contradiction() {
    scenario("force without data", |scratch| {
        let mut flags = Flags::new(scratch.path(), "m1")?;
        flags.extra.push("--force-new-cluster".into());
        let output = flags.command(Path::new(BINARY)).output()?;
        assert_eq!(output.status.code(), Some(64), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    });
}

/// The peers' addresses belong to another cluster by now: the data is not theirs.
#[test]
fn member_among_strangers_stops() {
    scenario("foreign cluster", |scratch| {
        let mut ours = Cluster::start(scratch, 2)?;
        ours.members.iter_mut().for_each(Member::kill);
        let mut stranger = Flags::new(scratch.path(), "stranger")?;
        stranger.peer_port = ours.members[1].flags.peer_port;
        stranger.token = "another".into();
        stranger.initial_cluster = stranger.as_initial();
        let mut stranger = Member::new(scratch, stranger)?;
        stranger.start()?;
        let end = ours.members[0].spawn()?.wait(BOUND)?;
        assert_eq!(end.code(), Some(78), "{}", ours.members[0].log_text());
        assert!(ours.members[0].log_text().contains("all the peers belong to another one"));
        Ok(())
    });
}
