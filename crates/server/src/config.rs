//! The server's configuration: flags that have been checked, with every default filled in.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use oarlock_membership::{check_peer_url, parse_initial_cluster};
use oarlock_transport::check_peer_urls;

use crate::{
    api::Limits,
    cli::{ServeFlags, TailChoice},
    exit::{Failure, Kind},
};

/// Entries kept behind a snapshot unless told otherwise, as in etcd.
const DEFAULT_CATCHUP: u64 = 5_000;
/// Bytes of keys and values unless told otherwise, as in etcd.
const DEFAULT_QUOTA: u64 = 2 << 30;
/// etcd's bound on election timeouts.
const LONGEST_ELECTION: u64 = 50_000;

/// A URL that clients or peers use, and the address behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenUrl {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
}

/// Found a cluster, or join one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InitialState {
    New,
    Existing,
}

/// The order to make a one-member cluster of this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForceNew {
    pub(crate) tail: TailChoice,
    pub(crate) keep_cluster_id: bool,
    pub(crate) dry_run: bool,
}

/// Everything the server needs to know, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) listen_peer: Vec<ListenUrl>,
    pub(crate) listen_client: Vec<ListenUrl>,
    pub(crate) advertise_peer: Vec<String>,
    /// Those of them that somebody gave on purpose: the default says nothing about who this member is.
    pub(crate) claimed_peer: Vec<String>,
    pub(crate) advertise_client: Vec<String>,
    /// Name and peer URLs of each founding member.
    pub(crate) initial_cluster: Vec<(String, Vec<String>)>,
    pub(crate) initial_state: InitialState,
    pub(crate) token: String,
    pub(crate) heartbeat: Duration,
    pub(crate) election_ticks: u32,
    pub(crate) initial_tick_advance: bool,
    pub(crate) pre_vote: bool,
    pub(crate) snapshot_count: u64,
    pub(crate) snapshot_catchup: u64,
    pub(crate) limits: Limits,
    pub(crate) force_new: Option<ForceNew>,
    pub(crate) unsafe_no_fsync: bool,
}

impl Config {
    /// Checks `flags`.
    ///
    /// # Errors
    /// A [`Failure`] of kind usage (exit 64) that names the flag.
    pub(crate) fn new(flags: &ServeFlags) -> Result<Self, Failure> {
        let given = |flag: &str| flags.given.iter().any(|known| known == flag);
        if flags.name.is_empty() {
            return Err(usage("--name must not be empty"));
        }
        if given("listen-client-urls") && !given("advertise-client-urls") {
            return Err(usage(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            ));
        }
        check_times(flags.heartbeat_interval, flags.election_timeout)?;
        if flags.snapshot_count == 0 {
            return Err(usage("--snapshot-count must be more than 0"));
        }
        if flags.max_request_bytes == 0 || flags.max_request_bytes > 512 << 20 {
            return Err(usage("--max-request-bytes must be between 1 and 512 MiB"));
        }
        let data_dir =
            flags.data_dir.clone().unwrap_or_else(|| format!("{}.oarlock", flags.name).into());
        let advertise_peer =
            urls("--initial-advertise-peer-urls", &flags.initial_advertise_peer_urls)?;
        dialable("--initial-advertise-peer-urls", &advertise_peer)?;
        let initial_cluster = match &flags.initial_cluster {
            Some(list) => parse_initial_cluster(list)
                .map_err(|error| usage(format!("--initial-cluster: {error}")))?,
            None => vec![(flags.name.clone(), advertise_peer.clone())],
        };
        for (_, urls) in &initial_cluster {
            dialable("--initial-cluster", urls)?;
        }
        Ok(Self {
            listen_peer: listen("--listen-peer-urls", &flags.listen_peer_urls)?,
            listen_client: listen("--listen-client-urls", &flags.listen_client_urls)?,
            advertise_client: urls("--advertise-client-urls", &flags.advertise_client_urls)?,
            claimed_peer: match given("initial-advertise-peer-urls") {
                true => advertise_peer.clone(),
                false => Vec::new(),
            },
            advertise_peer,
            initial_cluster,
            initial_state: match flags.initial_cluster_state.as_str() {
                "new" => InitialState::New,
                "existing" => InitialState::Existing,
                other => {
                    return Err(usage(format!(
                        "unexpected --initial-cluster-state {other:?}: new or existing"
                    )));
                }
            },
            token: flags.initial_cluster_token.clone(),
            heartbeat: Duration::from_millis(flags.heartbeat_interval),
            // At most LONGEST_ELECTION.
            election_ticks: u32::try_from(flags.election_timeout / flags.heartbeat_interval)
                .unwrap_or(u32::MAX),
            initial_tick_advance: flags.initial_election_tick_advance,
            pre_vote: flags.pre_vote,
            snapshot_count: flags.snapshot_count,
            snapshot_catchup: flags
                .snapshot_catchup_entries
                .unwrap_or(DEFAULT_CATCHUP.min(flags.snapshot_count)),
            limits: Limits {
                max_request_bytes: flags.max_request_bytes,
                max_txn_ops: flags.max_txn_ops,
                quota_bytes: match flags.quota_backend_bytes {
                    0 => Some(DEFAULT_QUOTA),
                    bytes => u64::try_from(bytes).ok(),
                },
                strict_reconfig_check: flags.strict_reconfig_check,
            },
            force_new: force_new(flags)?,
            unsafe_no_fsync: flags.unsafe_no_fsync,
            name: flags.name.clone(),
            data_dir,
        })
    }

    /// Where log and snapshots are, as in etcd.
    pub(crate) fn member_dir(&self) -> PathBuf {
        member_dir(&self.data_dir)
    }

    /// Checks what only matters when there is no data yet: this member has to be among the initial ones, with the
    /// URLs that it advertises (etcd's `VerifyBootstrap` and `VerifyJoinExisting`).
    ///
    /// # Errors
    /// A [`Failure`] of kind usage (exit 64).
    pub(crate) fn check_initial(&self) -> Result<(), Failure> {
        let Some((_, listed)) = self.initial_cluster.iter().find(|(name, _)| *name == self.name)
        else {
            return Err(usage(format!(
                "could not find the local name {:?} in --initial-cluster",
                self.name
            ))
            .help(
                "list this member as name=peer-url, or give --name the name it has in the list",
            ));
        };
        let sorted = |urls: &[String]| {
            let mut urls = urls.to_vec();
            urls.sort_unstable();
            urls
        };
        if sorted(listed) != sorted(&self.advertise_peer) {
            return Err(usage(format!(
                "--initial-cluster has {}={} but --initial-advertise-peer-urls is {}",
                self.name,
                listed.join(","),
                self.advertise_peer.join(",")
            ))
            .help("make the two agree: they are how the other members reach this one"));
        }
        Ok(())
    }

    /// Whether clients find the server where they look for one unless told otherwise.
    pub(crate) fn has_default_client_url(&self) -> bool {
        self.listen_client
            .iter()
            .any(|listen| listen.address == SocketAddr::from(([127, 0, 0, 1], 2379)))
    }

    /// Peer URLs of the other founding members.
    pub(crate) fn other_peer_urls(&self) -> Vec<String> {
        let others = self.initial_cluster.iter().filter(|(name, _)| *name != self.name);
        others.flat_map(|(_, urls)| urls.clone()).collect()
    }
}

/// Where a data directory keeps log and snapshots.
pub(crate) fn member_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("member")
}

fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Usage, error)
}

fn check_times(heartbeat: u64, election: u64) -> Result<(), Failure> {
    if heartbeat == 0 {
        Err(usage("--heartbeat-interval must be more than 0 ms"))
    } else if election > LONGEST_ELECTION {
        Err(usage(format!(
            "--election-timeout[{election}ms] is too long, and should be set to at most {LONGEST_ELECTION}ms"
        )))
    } else if election < heartbeat.saturating_mul(5) {
        Err(usage(format!(
            "--election-timeout[{election}ms] should be at least 5 times as long as --heartbeat-interval[{heartbeat}ms]"
        )))
    } else {
        Ok(())
    }
}

fn force_new(flags: &ServeFlags) -> Result<Option<ForceNew>, Failure> {
    let plan = &flags.plan;
    if !flags.force_new_cluster {
        let stray = [
            ("--uncommitted-tail", plan.uncommitted_tail.is_some()),
            ("--keep-cluster-id", plan.keep_cluster_id),
            ("--dry-run", plan.dry_run),
        ];
        return match stray.iter().find(|(_, set)| *set) {
            Some((flag, _)) => {
                Err(usage(format!("{flag} has a meaning only together with --force-new-cluster")))
            }
            None => Ok(None),
        };
    }
    Ok(Some(ForceNew {
        tail: plan.uncommitted_tail.unwrap_or(TailChoice::Keep),
        keep_cluster_id: plan.keep_cluster_id,
        dry_run: plan.dry_run,
    }))
}

/// Splits a list of URLs and checks each.
fn urls(flag: &str, list: &str) -> Result<Vec<String>, Failure> {
    let urls: Vec<String> =
        list.split(',').map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()).collect();
    if urls.is_empty() {
        return Err(usage(format!("{flag} must name at least one URL")));
    }
    for url in &urls {
        check_peer_url(url).map_err(|fault| usage(format!("{flag}: the URL {url:?} {fault}")))?;
    }
    Ok(urls)
}

/// Refuses what a peer URL may be, but our peers cannot dial. What none may be is told elsewhere.
fn dialable(flag: &str, urls: &[String]) -> Result<(), Failure> {
    let mut good = urls.iter().filter(|url| check_peer_url(url).is_ok());
    good.try_for_each(|url| {
        check_peer_urls(0, std::slice::from_ref(url))
            .map_err(|error| usage(format!("{flag}: {error}")))
    })
}

/// Checks URLs to listen on, and resolves them.
fn listen(flag: &str, list: &str) -> Result<Vec<ListenUrl>, Failure> {
    let resolve = |url: String| {
        let Some(host_port) = url.strip_prefix("http://") else {
            return Err(usage(format!(
                "{flag}: {url} asks for TLS, which this version cannot serve"
            ))
            .help("use http:// here, behind a proxy or a private network"));
        };
        let localhost = host_port.starts_with("localhost:");
        if !localhost && host_port.parse::<SocketAddr>().is_err() {
            return Err(usage(format!(
                "{flag}: expected an IP address or localhost in the URL to bind to, not {url}"
            )));
        }
        let addresses = host_port
            .to_socket_addrs()
            .map_err(|error| usage(format!("{flag}: {url}: {error}")))?;
        // Of localhost's addresses the old one: "http://127.0.0.1" is what people and scripts type.
        let address = addresses.min_by_key(SocketAddr::is_ipv6);
        let address = address.ok_or_else(|| usage(format!("{flag}: {url} has no address")))?;
        Ok(ListenUrl { url, address })
    };
    urls(flag, list)?.into_iter().map(resolve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn config(line: &str) -> Result<Config, Failure> {
        let args = std::iter::once("oarlock").chain(line.split_whitespace()).map(String::from);
        Config::new(&cli::parse(args, []).expect(line).cli.serve)
    }

    #[test]
    fn defaults_are_etcds() {
        let config = config("").expect("defaults");
        assert_eq!(config.data_dir, PathBuf::from("default.oarlock"));
        assert_eq!(config.listen_client[0].address, "127.0.0.1:2379".parse().expect("address"));
        assert_eq!(config.advertise_peer, ["http://localhost:2380"]);
        assert_eq!(
            config.initial_cluster,
            [("default".to_owned(), vec!["http://localhost:2380".to_owned()])]
        );
        assert_eq!((config.heartbeat, config.election_ticks), (Duration::from_millis(100), 10));
        assert_eq!((config.snapshot_count, config.snapshot_catchup), (10_000, 5_000));
        assert_eq!(config.limits.quota_bytes, Some(2 << 30));
        assert!(config.has_default_client_url() && config.pre_vote && config.force_new.is_none());
        config.check_initial().expect("alone");
    }

    #[test]
    fn defaults_follow_other_flags() {
        let config =
            config("--name n --snapshot-count 1000 --quota-backend-bytes=-1").expect("valid");
        assert_eq!(config.data_dir, PathBuf::from("n.oarlock"));
        assert_eq!((config.snapshot_catchup, config.limits.quota_bytes), (1_000, None));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let cases = [
            ("--heartbeat-interval 0", "--heartbeat-interval must be more than 0 ms"),
            (
                "--election-timeout 400",
                "should be at least 5 times as long as --heartbeat-interval[100ms]",
            ),
            ("--election-timeout 50001", "is too long"),
            ("--initial-cluster-state old", "unexpected --initial-cluster-state \"old\""),
            ("--initial-cluster a", "--initial-cluster: \"a\""),
            ("--listen-peer-urls http://example.com:1", "expected an IP address or localhost"),
            ("--listen-peer-urls https://127.0.0.1:1", "asks for TLS"),
            ("--listen-peer-urls http://127.0.0.1", "--listen-peer-urls: the URL"),
            ("--initial-advertise-peer-urls https://127.0.0.1:1", "https is not supported yet"),
            ("--initial-cluster a=https://127.0.0.1:1", "https is not supported yet"),
            ("--listen-client-urls http://127.0.0.1:1", "--advertise-client-urls is required"),
            (
                "--uncommitted-tail keep",
                "--uncommitted-tail has a meaning only together with --force-new-cluster",
            ),
            ("--dry-run", "--dry-run has a meaning only"),
            ("--snapshot-count 0", "--snapshot-count"),
            ("--max-request-bytes 0", "--max-request-bytes"),
        ];
        for (line, text) in cases {
            let failure = config(line).expect_err(line);
            assert_eq!(failure.kind(), Kind::Usage, "{line}");
            assert!(failure.text().contains(text), "{line}: {}", failure.text());
        }
    }

    #[test]
    fn a_founder_has_to_be_in_its_own_list() {
        let cases = [
            ("--initial-cluster other=http://localhost:2380", "could not find the local name"),
            (
                "--initial-cluster default=http://localhost:9",
                "--initial-advertise-peer-urls is http://localhost:2380",
            ),
        ];
        for (line, text) in cases {
            let failure = config(line).expect("in itself valid").check_initial().expect_err(line);
            assert!(failure.text().contains(text), "{}", failure.text());
        }
    }

    #[test]
    fn forcing_keeps_the_tail_unless_told_otherwise() {
        let force = config("--force-new-cluster").expect("valid").force_new.expect("set");
        assert_eq!(
            force,
            ForceNew { tail: TailChoice::Keep, keep_cluster_id: false, dry_run: false }
        );
        let line = "--force-new-cluster --uncommitted-tail=discard --keep-cluster-id --dry-run";
        let force = config(line).expect("valid").force_new.expect("set");
        assert_eq!(
            force,
            ForceNew { tail: TailChoice::Discard, keep_cluster_id: true, dry_run: true }
        );
    }
}
