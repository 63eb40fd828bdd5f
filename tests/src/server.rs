//! The binary under test and how it is started.

use crate::scratch::target_dir;
use crate::{Failure, Outcome};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `oarlock` to test: what `OARLOCK_BIN` names, or the one of this workspace, built first if it is not fresh.
///
/// # Errors
/// If it does not build.
pub fn server_binary() -> Outcome<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| match std::env::var_os("OARLOCK_BIN") {
        Some(binary) => Ok(binary.into()),
        None => build("oarlock", &[]),
    });
    built.clone().map_err(Failure::new)
}

/// The same server with failpoints: what the variable `FAILPOINTS` says is set from its first instant, and what
/// [`Process::tell`](crate::Process::tell) says later.
///
/// # Errors
/// If it does not build.
pub fn failpoint_binary() -> Outcome<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build("oarlock-failpoints", &["--features", "failpoints"]));
    built.clone().map_err(Failure::new)
}

/// On its own, without the test features that the rest of the workspace switches on.
fn build(binary: &str, features: &[&str]) -> Result<PathBuf, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("PROTOC");
    cargo.args(["build", "--quiet", "--package", "oarlock-server", "--bin", binary]).args(features);
    match cargo.output() {
        Ok(output) if output.status.success() => Ok(target_dir().join("debug").join(binary)),
        Ok(output) => {
            Err(format!("the server does not build:\n{}", String::from_utf8_lossy(&output.stderr)))
        }
        Err(error) => Err(format!("cannot run cargo: {error}")),
    }
}

/// A port on which nobody listens now.
///
/// Taken from below the range that the system gives to outgoing connections, so that none of those takes it between
/// now and the moment the server binds it.
///
/// # Errors
/// If a thousand ports in a row are taken.
pub fn free_port() -> Outcome<u16> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 15_000;
    let start = std::process::id().wrapping_mul(37);
    for _ in 0..1000 {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Failure::new("no free port on 127.0.0.1"))
}

/// The flags of one member; what a test does not set has the server's default.
#[derive(Clone, Debug)]
pub struct Flags {
    /// `--name`.
    pub name: String,
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// Port of the client URL.
    pub client_port: u16,
    /// Port of the peer URL.
    pub peer_port: u16,
    /// `--initial-cluster`.
    pub initial_cluster: String,
    /// `--initial-cluster-state`: `new` or `existing`.
    pub initial_cluster_state: &'static str,
    /// `--initial-cluster-token`.
    pub token: String,
    /// Any others, as on the command line.
    pub extra: Vec<String>,
    /// What `FAILPOINTS` says to a server that has them; not set if empty.
    pub failpoints: String,
}

impl Flags {
    /// A member called `name` on free ports, with its data below `dir`; alone in its cluster until told otherwise.
    ///
    /// # Errors
    /// If there are no free ports.
    pub fn new(dir: &Path, name: &str) -> Outcome<Self> {
        let mut flags = Self {
            name: name.to_owned(),
            data_dir: dir.join(format!("{name}.oarlock")),
            client_port: free_port()?,
            peer_port: free_port()?,
            initial_cluster: String::new(),
            initial_cluster_state: "new",
            token: "oarlock-tests".to_owned(),
            extra: Vec::new(),
            failpoints: String::new(),
        };
        flags.initial_cluster = flags.as_initial();
        Ok(flags)
    }

    /// `http://127.0.0.1:<client port>`.
    #[must_use]
    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// `http://127.0.0.1:<peer port>`.
    #[must_use]
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    /// This member as a piece of `--initial-cluster`.
    #[must_use]
    pub fn as_initial(&self) -> String {
        format!("{}={}", self.name, self.peer_url())
    }

    /// The command that starts the member.
    #[must_use]
    pub fn command(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        let ours = std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| name.to_string_lossy().starts_with("ETCD_"));
        for name in ours {
            command.env_remove(name); // a flag given twice is an error, as in etcd
        }
        command.env("RUST_LOG", std::env::var_os("RUST_LOG").unwrap_or_else(|| "info".into()));
        command.args(["--name", &self.name]).arg("--data-dir").arg(&self.data_dir);
        command.args([
            "--listen-client-urls",
            &self.client_url(),
            "--advertise-client-urls",
            &self.client_url(),
        ]);
        command.args([
            "--listen-peer-urls",
            &self.peer_url(),
            "--initial-advertise-peer-urls",
            &self.peer_url(),
        ]);
        command.args(["--initial-cluster", &self.initial_cluster]);
        command.args([
            "--initial-cluster-state",
            self.initial_cluster_state,
            "--initial-cluster-token",
            &self.token,
        ]);
        command.args(&self.extra);
        if !self.failpoints.is_empty() {
            command.env("FAILPOINTS", &self.failpoints);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_free() {
        let ports: Vec<u16> = (0..20).map(|_| free_port().expect("one of many")).collect();
        let mut sorted = ports.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ports.len());
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("free");
        }
    }

    #[test]
    fn a_member_is_alone_until_told_otherwise() {
        let flags = Flags::new(Path::new("dir"), "m1").expect("ports");
        assert_eq!(flags.initial_cluster, format!("m1=http://127.0.0.1:{}", flags.peer_port));
        let command = flags.command(Path::new("oarlock"));
        let args: Vec<_> =
            command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        assert!(args.windows(2).any(|pair| pair == ["--data-dir", "dir/m1.oarlock"]), "{args:?}");
    }
}
