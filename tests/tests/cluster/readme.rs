//! The walk-through of the README, as it stands there: only the ports and the place differ.

use crate::util::{SOON, put_eventually};
use oarlock_tests::{
    Client, Failure, Outcome, Process, eventually, free_port, scenario, server_binary,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The commands of the README that begin with `start`, each on one line.
fn commands(start: &str) -> Outcome<Vec<String>> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let joined = readme.replace("\\\n", " ");
    Ok(joined.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect())
}

/// `text` with every port replaced by a free one, the same for the same.
fn on_free_ports(text: &str, ports: &mut BTreeMap<String, u16>) -> Outcome<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("127.0.0.1:") {
        let digits = at + "127.0.0.1:".len();
        out.push_str(&rest[..digits]);
        rest = &rest[digits..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let port = match ports.get(&rest[..end]) {
            Some(port) => *port,
            None => {
                let port = free_port()?;
                ports.insert(rest[..end].to_owned(), port);
                port
            }
        };
        out.push_str(&port.to_string());
        rest = &rest[end..];
    }
    Ok(out + rest)
}

#[test]
fn the_three_member_walk_through_works() {
    scenario("readme", |scratch| {
        let binary = server_binary()?;
        let mut ports = BTreeMap::new();
        let peers = commands("PEERS=")?.pop().ok_or_else(|| Failure::new("no PEERS line"))?;
        let peers = on_free_ports(peers.trim_start_matches("PEERS="), &mut ports)?;
        let mut members = Vec::new();
        for line in commands("target/release/oarlock --name")? {
            let line = on_free_ports(&line, &mut ports)?.replace("$PEERS", &peers);
            let args: Vec<&str> = line.split_whitespace().skip(1).collect();
            let name = args.get(1).copied().unwrap_or_default().to_owned();
            let mut command = Command::new(&binary);
            command.current_dir(scratch.path()).args(&args);
            members.push((name, command));
        }
        assert_eq!(members.len(), 4, "three members, and a fourth that is added");
        let (fourth_name, mut fourth) = members.pop().expect("four");
        let mut processes = Vec::new();
        for (name, mut command) in members {
            processes.push(Process::spawn(
                &name,
                &mut command,
                &scratch.path().join(format!("{name}.log")),
            )?);
        }
        let client = |port: &str| Client::new(&format!("http://127.0.0.1:{}", ports[port]), SOON);
        let first = client("2379")?;
        put_eventually(&first, "boat", "oarlock", SOON)
            .map_err(|failure| processes[0].failure(&failure.to_string()))?;
        let added = first.member_add(&format!("http://127.0.0.1:{}", ports["42380"]), true)?;
        let log = scratch.path().join(format!("{fourth_name}.log"));
        processes.push(Process::spawn(&fourth_name, &mut fourth, &log)?);
        eventually("the promotion", SOON, || first.member_promote(added).ok())
            .map_err(|failure| processes[3].failure(&failure.to_string()))?;
        let fourth = client("42379")?;
        let found =
            eventually("a read through the fourth", SOON, || fourth.get("boat").ok().flatten())?;
        assert_eq!(found.value, "oarlock");
        Ok(())
    });
}
