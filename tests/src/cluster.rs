//! Members and clusters of them, as processes.

use crate::client::MemberStatus;
use crate::scratch::Scratch;
use crate::{Client, Failure, Flags, Outcome, Process, eventually, http_get, server_binary};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a member may take from its start to the first answer. Generous: it is a bound, not an expectation.
pub(crate) const STARTS: Duration = Duration::from_secs(30);

/// How long a client waits for one answer: longer than the server's own bound of 5 s and two election timeouts.
pub(crate) const ANSWERS: Duration = Duration::from_secs(8);

/// One member: its flags, and the process while there is one.
#[derive(Debug)]
pub struct Member {
    /// How it is started next time.
    pub flags: Flags,
    binary: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Member {
    /// A member that is not running yet; its log is `<name>.log` in `scratch`.
    ///
    /// # Errors
    /// If the server does not build.
    pub fn new(scratch: &Scratch, flags: Flags) -> Outcome<Self> {
        Ok(Self::with_binary(scratch.path(), flags, server_binary()?))
    }

    pub(crate) fn with_binary(dir: &Path, flags: Flags, binary: PathBuf) -> Self {
        Self { log: dir.join(format!("{}.log", flags.name)), flags, binary, process: None }
    }

    /// Starts the process and returns at once; an earlier one is killed.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&mut self) -> Outcome<&mut Process> {
        self.kill();
        let process =
            Process::spawn(&self.flags.name, &mut self.flags.command(&self.binary), &self.log)?;
        Ok(self.process.insert(process))
    }

    /// Starts the process and waits until it serves.
    ///
    /// # Errors
    /// If it ends, or does not answer in time.
    pub fn start(&mut self) -> Outcome {
        self.spawn()?;
        self.wait_healthy(STARTS)
    }

    /// Waits until `/health` says yes: there is a leader and a read goes through.
    ///
    /// # Errors
    /// If the process ends before, or does not get there in time.
    pub fn wait_healthy(&mut self, bound: Duration) -> Outcome {
        let port = self.flags.client_port;
        let process = self.process()?;
        let healthy = eventually("health", bound, || {
            if process.ended().is_some() {
                return Some(false);
            }
            http_get(port, "/health").is_ok_and(|answer| answer.status == 200).then_some(true)
        });
        match healthy {
            Ok(true) => Ok(()),
            Ok(false) => Err(process.failure("ended before it was healthy")),
            Err(_) => Err(process.failure(&format!("is not healthy after {bound:?}"))),
        }
    }

    /// The running process.
    ///
    /// # Errors
    /// If it was not started.
    pub fn process(&mut self) -> Outcome<&mut Process> {
        let name = &self.flags.name;
        self.process.as_mut().ok_or_else(|| Failure::new(format!("{name} was not started")))
    }

    /// `kill -9`, if it runs.
    pub fn kill(&mut self) {
        self.process = None; // dropping kills and reaps
    }

    /// A new client of this member.
    ///
    /// # Errors
    /// None that a test should see.
    pub fn client(&self) -> Outcome<Client> {
        self.impatient_client(ANSWERS)
    }

    /// The same, with another deadline for every call.
    ///
    /// # Errors
    /// None that a test should see.
    pub fn impatient_client(&self, deadline: Duration) -> Outcome<Client> {
        Client::new(&self.flags.client_url(), deadline)
    }

    /// Everything it printed since it was first started.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// A counter or gauge from `/metrics`, summed over its labels.
    ///
    /// # Errors
    /// If the member does not answer, or has no metric of this name.
    pub fn metric(&self, name: &str) -> Outcome<f64> {
        let text = http_get(self.flags.client_port, "/metrics")?.body;
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let values = lines
            .filter(|rest| rest.starts_with(['{', ' ']))
            .filter_map(|rest| rest.rsplit(' ').next());
        let values: Vec<f64> = values.filter_map(|value| value.parse().ok()).collect();
        if values.is_empty() {
            return Err(Failure::new(format!("{} has no metric {name}", self.flags.name)));
        }
        Ok(values.iter().sum())
    }
}

/// Members that know each other from the start; more can be pushed to `members`.
#[derive(Debug)]
pub struct Cluster {
    /// The members, `m1` first.
    pub members: Vec<Member>,
}

impl Cluster {
    /// `size` members with the server's default flags, started and healthy.
    ///
    /// # Errors
    /// If one does not get there in time.
    pub fn start(scratch: &Scratch, size: usize) -> Outcome<Self> {
        Self::start_with(scratch, size, &[])
    }

    /// The same with further flags for every member.
    ///
    /// # Errors
    /// If one does not get there in time.
    pub fn start_with(scratch: &Scratch, size: usize, extra: &[&str]) -> Outcome<Self> {
        let mut cluster = Self::prepare(scratch.path(), size, extra, &server_binary()?)?;
        cluster.start_all()?;
        Ok(cluster)
    }

    /// Members that are not running yet.
    ///
    /// # Errors
    /// If there are no free ports.
    pub fn prepare(dir: &Path, size: usize, extra: &[&str], binary: &Path) -> Outcome<Self> {
        let mut all = (1..=size)
            .map(|number| Flags::new(dir, &format!("m{number}")))
            .collect::<Outcome<Vec<_>>>()?;
        let initial = all.iter().map(Flags::as_initial).collect::<Vec<_>>().join(",");
        for flags in &mut all {
            flags.initial_cluster.clone_from(&initial);
            flags.extra = extra.iter().map(|&arg| arg.to_owned()).collect();
        }
        let members = all
            .into_iter()
            .map(|flags| Member::with_binary(dir, flags, binary.to_owned()))
            .collect();
        Ok(Self { members })
    }

    /// Starts every member, then waits for all: none becomes healthy before a majority runs.
    ///
    /// # Errors
    /// If one does not get there in time.
    pub fn start_all(&mut self) -> Outcome {
        for member in &mut self.members {
            member.spawn()?;
        }
        for member in &mut self.members {
            member.wait_healthy(STARTS)?;
        }
        Ok(())
    }

    /// A new client of the member at `position`.
    ///
    /// # Errors
    /// None that a test should see.
    pub fn client(&self, position: usize) -> Outcome<Client> {
        self.members[position].client()
    }

    /// All client URLs, as `etcdctl --endpoints` takes them.
    #[must_use]
    pub fn endpoints(&self) -> String {
        self.members.iter().map(|member| member.flags.client_url()).collect::<Vec<_>>().join(",")
    }

    /// Position of the running member that all running members call leader, once they agree.
    ///
    /// # Errors
    /// If they do not agree in time.
    pub fn leader(&self, bound: Duration) -> Outcome<usize> {
        let running: Vec<usize> =
            (0..self.members.len()).filter(|&at| self.members[at].process.is_some()).collect();
        let clients = running.iter().map(|&at| self.client(at)).collect::<Outcome<Vec<_>>>()?;
        eventually("an agreed leader", bound, || {
            let all: Vec<MemberStatus> =
                clients.iter().map(Client::status).collect::<Result<_, _>>().ok()?;
            let leader = all.first()?.leader;
            let agreed =
                all.iter().all(|status| status.leader == leader && status.term == all[0].term);
            agreed
                .then(|| all.iter().position(|status| status.id == leader))
                .flatten()
                .map(|at| running[at])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const SOON: Duration = Duration::from_secs(10);

    /// A member whose binary is this script.
    fn stub(scratch: &Scratch, script: &str) -> Member {
        let binary = scratch.path().join("stub");
        fs::write(&binary, format!("#!/bin/sh\n{script}\n")).expect("writable");
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("ours");
        Member::with_binary(
            scratch.path(),
            Flags::new(scratch.path(), "m1").expect("ports"),
            binary,
        )
    }

    /// Answers every connection to `port` with this status, until dropped with the test's process.
    fn health(port: u16, status: &'static str) {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("free");
        std::thread::spawn(move || {
            use std::io::{Read, Write};
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 1024]);
                let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            }
        });
    }

    #[test]
    fn a_healthy_member_is_seen() {
        let scratch = Scratch::new("healthy").expect("a directory");
        let mut member = stub(&scratch, "exec sleep 600");
        health(member.flags.client_port, "200 OK");
        member.start().expect("healthy");
    }

    #[test]
    fn an_unhealthy_member_is_not_waited_for_forever() {
        let scratch = Scratch::new("unhealthy").expect("a directory");
        let mut member = stub(&scratch, "exec sleep 600");
        health(member.flags.client_port, "503 Service Unavailable");
        member.spawn().expect("sh");
        let failure = member.wait_healthy(Duration::from_millis(200)).expect_err("503").to_string();
        assert!(failure.contains("not healthy"), "{failure}");
    }

    #[test]
    fn a_member_that_ends_is_a_failure_with_its_log() {
        let scratch = Scratch::new("ends").expect("a directory");
        let mut member = stub(&scratch, "echo address already in use; exit 75");
        let failure = member.start().expect_err("it ends").to_string();
        assert!(failure.contains("address already in use"), "{failure}");
    }

    #[test]
    fn a_restart_gets_the_same_flags() {
        let scratch = Scratch::new("restart").expect("a directory");
        let mut member = stub(&scratch, "echo \"args $*\"");
        for _ in 0..2 {
            member.spawn().expect("sh").wait(SOON).expect("ends at once");
        }
        let log = member.log_text();
        let args: Vec<&str> = log.lines().filter(|line| line.starts_with("args ")).collect();
        assert_eq!(args.len(), 2, "{log}");
        assert_eq!(args[0], args[1]);
    }

    #[test]
    fn metrics_are_read_by_name_and_summed_over_labels() {
        let scratch = Scratch::new("metrics").expect("a directory");
        let member = stub(&scratch, "");
        let listener =
            std::net::TcpListener::bind(("127.0.0.1", member.flags.client_port)).expect("free");
        let server = std::thread::spawn(move || {
            use std::io::{BufRead, BufReader, Write};
            let (mut stream, _) = listener.accept().expect("our own connection");
            let request = BufReader::new(stream.try_clone().expect("a handle"));
            let head = request.lines().map(|line| line.expect("the client writes"));
            head.take_while(|line| !line.is_empty()).for_each(drop); // closing before would cut the client off
            let body = "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2\"} 3\nab 7\n";
            write!(stream, "HTTP/1.1 200 OK\r\n\r\n{body}").expect("the client reads");
        });
        assert!((member.metric("a").expect("there are two") - 5.0).abs() < 1e-9);
        server.join().expect("answered");
    }
}
