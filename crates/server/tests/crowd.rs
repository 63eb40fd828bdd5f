//! Clients that take more connections than there are files must not take the member down with them.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use oarlock_tests::{Client, Flags, Outcome, Process, Scratch, eventually, scenario};

const BINARY: &str = env!("CARGO_BIN_EXE_oarlock");

/// The server's command, with at most `files` open files.
fn limited(flags: &Flags, files: u32) -> Command {
    let inner = flags.command(Path::new(BINARY));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {files} && exec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn started(scratch: &Scratch, flags: &Flags, files: u32) -> Outcome<Process> {
    Process::spawn("crowded", &mut limited(flags, files), &scratch.path().join("crowded.log"))
}

/// A log that cannot open its next segment takes nothing more, so clients get what the log and the peers leave.
#[test]
fn idle_connections_do_not_starve_the_log() {
    scenario("crowd", |scratch| {
        const CROWD: usize = 200;
        let flags = Flags::new(scratch.path(), "m1")?;
        let mut process = started(scratch, &flags, 180)?;
        let client = Client::new(&flags.client_url(), Duration::from_secs(10))?;
        eventually("a first write", Duration::from_secs(20), || client.put("k", "v").ok())?;
        // Some find no room even in the system's queue.
        let address = (Ipv4Addr::LOCALHOST, flags.client_port).into();
        let crowd: Vec<TcpStream> = (0..CROWD)
            .filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok())
            .collect();
        assert!(crowd.len() > 20, "only {} got through", crowd.len());
        // Through several segments, each of them a file to open.
        let value = "v".repeat(1 << 20);
        for key in 0..20 {
            let wrote = client.put(&format!("k{key}"), &value);
            assert!(wrote.is_ok(), "{key}: {wrote:?}, ended {:?}", process.ended());
        }
        assert_eq!(client.count("k")?, 21);
        drop(crowd);
        let another = Client::new(&flags.client_url(), Duration::from_secs(10))?;
        let begun = Instant::now();
        another.put("after", "the crowd")?;
        assert!(begun.elapsed() < Duration::from_secs(10));
        process.terminate()?;
        assert_eq!(process.wait(Duration::from_secs(20))?.code(), Some(0));
        Ok(())
    });
}

#[test]
fn too_few_files_to_begin_with_exit_64() {
    scenario("few files", |scratch| {
        let flags = Flags::new(scratch.path(), "m1")?;
        let mut process = started(scratch, &flags, 100)?;
        assert_eq!(process.wait(Duration::from_secs(20))?.code(), Some(64));
        assert!(!flags.data_dir.exists(), "nothing was founded");
        Ok(())
    });
}
