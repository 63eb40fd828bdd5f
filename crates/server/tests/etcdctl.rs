//! The server under `etcdctl` of the distribution: what users of etcd type, and what they expect to read.

use std::{path::PathBuf, time::Duration};

use oarlock_tests::{
    Cluster, Flags, Member, Outcome, Scratch, etcdctl, eventually, require, scenario,
};

const BOUND: Duration = Duration::from_secs(20);

/// `etcdctl` against one endpoint or several.
struct Ctl {
    program: PathBuf,
    endpoints: String,
}

impl Ctl {
    fn run(&self, args: &[&str]) -> Outcome<String> {
        etcdctl(&self.program, &self.endpoints, args)
    }

    #[track_caller]
    fn prints(&self, args: &[&str], expected: &str) {
        let printed = self.run(args).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(printed, expected, "{args:?}");
    }

    #[track_caller]
    fn fails(&self, args: &[&str], expected: &str) {
        let failure =
            self.run(args).err().unwrap_or_else(|| panic!("{args:?} succeeds")).to_string();
        assert!(failure.contains(expected), "{args:?}: {expected} is not in\n{failure}");
    }
}

fn one(scratch: &Scratch, program: PathBuf) -> Outcome<(Member, Ctl)> {
    let mut member = Member::new(scratch, Flags::new(scratch.path(), "m1")?)?;
    member.start()?;
    let ctl = Ctl { program, endpoints: member.flags.client_url() };
    Ok((member, ctl))
}

#[test]
fn etcdctl_reads_and_writes_keys() {
    let Some(program) = require("etcdctl") else { return };
    scenario("etcdctl keys", |scratch| {
        let (_member, ctl) = one(scratch, program)?;
        ctl.prints(&["put", "foo", "bar"], "OK\n");
        ctl.prints(&["get", "foo"], "foo\nbar\n");
        ctl.prints(&["put", "--prev-kv", "foo", "baz"], "OK\nfoo\nbar\n");
        for (key, value) in [("foo1", "1"), ("foo2", "2"), ("goo", "3")] {
            ctl.prints(&["put", key, value], "OK\n");
        }
        ctl.prints(&["get", "--prefix", "foo"], "foo\nbaz\nfoo1\n1\nfoo2\n2\n");
        ctl.prints(&["get", "foo", "foo2"], "foo\nbaz\nfoo1\n1\n");
        ctl.prints(&["get", "--from-key", "--keys-only", "foo2"], "foo2\n\ngoo\n\n");
        ctl.prints(
            &["get", "--prefix", "--limit=1", "--order=DESCEND", "--sort-by=KEY", "foo"],
            "foo2\n2\n",
        );
        ctl.prints(&["get", "--prefix", "--print-value-only", "--consistency=s", "goo"], "3\n");
        let json = ctl.run(&["get", "foo", "-w", "json"])?;
        assert!(json.contains(r#""create_revision":2,"mod_revision":3,"version":2"#), "{json}");
        ctl.fails(
            &["get", "foo", "--rev=2"],
            "etcdserver: mvcc: required revision has been compacted",
        );
        ctl.fails(
            &["get", "foo", "--rev=99"],
            "etcdserver: mvcc: required revision is a future revision",
        );
        ctl.fails(&["put", "--ignore-value", "none"], "etcdserver: key not found");
        ctl.fails(&["put", "--lease=1", "k", "v"], "etcdserver: requested lease not found");
        ctl.fails(&["put", "", "v"], "etcdserver: key is not provided");
        ctl.prints(&["del", "--prev-kv", "foo"], "1\nfoo\nbaz\n");
        ctl.prints(&["del", "--prefix", "foo"], "2\n");
        ctl.prints(&["get", "foo"], "");
        Ok(())
    });
}

#[test]
fn etcdctl_runs_transactions() {
    let Some(program) = require("etcdctl") else { return };
    scenario("etcdctl txn", |scratch| {
        let (_member, ctl) = one(scratch, program)?;
        ctl.prints(&["put", "k", "1"], "OK\n");
        let script = scratch.path().join("txn");
        std::fs::write(&script, "value(\"k\") = \"1\"\n\nput k 2\nget k\n\nput k 3\n\n")?;
        let txn = || -> Outcome<String> {
            let output = std::process::Command::new(&ctl.program)
                .env("ETCDCTL_API", "3")
                .args(["--endpoints", &ctl.endpoints, "txn"])
                .stdin(std::fs::File::open(&script)?)
                .output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let first = txn()?;
        assert!(first.starts_with("SUCCESS\n") && first.contains("k\n2\n"), "{first}");
        assert!(txn()?.starts_with("FAILURE\n"));
        ctl.prints(&["get", "--print-value-only", "k"], "3\n");
        Ok(())
    });
}

#[test]
fn etcdctl_is_told_what_is_not_served() {
    let Some(program) = require("etcdctl") else { return };
    scenario("etcdctl unserved", |scratch| {
        let (_member, ctl) = one(scratch, program)?;
        ctl.fails(&["lease", "grant", "60"], "oarlock: leases are not served yet");
        ctl.fails(&["compaction", "1"], "oarlock: only the latest revision is kept");
        ctl.fails(&["user", "list"], "oarlock: users and roles are not served yet");
        ctl.prints(&["alarm", "list"], "");
        Ok(())
    });
}

#[test]
fn etcdctl_sees_the_cluster_and_moves_its_leader() {
    let Some(program) = require("etcdctl") else { return };
    scenario("etcdctl cluster", |scratch| {
        let mut cluster = Cluster::start(scratch, 3)?;
        let ctl = Ctl { program: program.clone(), endpoints: cluster.endpoints() };
        eventually("every member has published its name", BOUND, || {
            let list = ctl.run(&["member", "list"]).ok()?;
            let started = |name| list.contains(&format!(", started, {name}, http://127.0.0.1:"));
            ["m1", "m2", "m3"].into_iter().all(started).then_some(())
        })?;
        let table = ctl.run(&["member", "list", "-w", "table"])?;
        assert!(table.contains("IS LEARNER"), "{table}");
        let status = ctl.run(&["endpoint", "status", "--cluster", "-w", "table"])?;
        assert_eq!(status.matches("http://127.0.0.1:").count(), 3, "{status}");
        assert_eq!(status.matches(" true |").count(), 1, "one leader, in\n{status}");
        let health = ctl.run(&["endpoint", "health", "--cluster"]);
        assert!(health.is_ok(), "{health:?}");

        let leader = cluster.leader(BOUND)?;
        let target = (leader + 1) % 3;
        let id = cluster.client(target)?.status()?.id;
        let at_leader = Ctl { program, endpoints: cluster.members[leader].flags.client_url() };
        let moved = at_leader.run(&["move-leader", &format!("{id:x}")])?;
        assert!(moved.starts_with("Leadership transferred from "), "{moved}");
        assert_eq!(cluster.leader(BOUND)?, target);
        at_leader.fails(&["move-leader", &format!("{id:x}")], "no leader endpoint given");

        // The leader dies: writes go on, and it comes back to what it missed.
        cluster.members[target].kill();
        eventually("writes go on", BOUND, || ctl.run(&["put", "k", "v"]).ok())?;
        cluster.members[target].start()?;
        assert_eq!(cluster.client(target)?.get("k")?.expect("caught up").value, "v");
        Ok(())
    });
}

/// The lines that the server prints for who tries it out are run as they stand.
#[test]
fn the_printed_lines_work() {
    let Some(program) = require("etcdctl") else { return };
    scenario("banner", |scratch| {
        let (mut member, ctl) = one(scratch, program)?;
        member.process()?.wait_for_log("endpoint status", BOUND)?;
        let log = member.log_text();
        let lines: Vec<&str> =
            log.lines().map(str::trim).filter(|line| line.starts_with("etcdctl ")).collect();
        assert_eq!(lines.len(), 3, "{log}");
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            ctl.run(&words)?;
        }
        ctl.prints(&["get", "greeting"], "greeting\nhello\n");
        Ok(())
    });
}
