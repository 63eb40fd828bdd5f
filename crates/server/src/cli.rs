//! The command line, and the environment behind it, in etcd's spelling.

use std::path::PathBuf;

use clap::{
    ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    parser::ValueSource,
};

mod wal;
pub(crate) use wal::{DumpFlags, LogPlace, Payload, RepairFlags, VerifyFlags, WalTool};

/// Prefix of every environment variable that stands for a flag, as in etcd.
const ENV_PREFIX: &str = "ETCD_";

/// Oarlock: a durable replicated key-value store that etcd v3 clients can use.
///
/// Without a subcommand it serves. Every flag of the server can be given as an environment variable too: --data-dir
/// is ETCD_DATA_DIR. A flag and its variable at once are an error.
#[derive(Debug, Parser)]
#[command(name = "oarlock", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) serve: ServeFlags,
    #[command(subcommand)]
    pub(crate) tool: Option<Tool>,
}

/// What `oarlock` can do instead of serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Tool {
    /// Make a one-member cluster of the only survivor, again if need be, and exit.
    Rescue(RescueFlags),
    /// Look at a log, and repair it if told so.
    #[command(subcommand)]
    Wal(WalTool),
}

/// The flags of `oarlock rescue`.
#[derive(Debug, Args)]
pub(crate) struct RescueFlags {
    /// The survivor's data directory.
    #[arg(long, value_name = "DIR", default_value = "default.oarlock")]
    pub(crate) data_dir: PathBuf,
    #[command(flatten)]
    pub(crate) plan: PlanFlags,
}

/// How a rescue is done.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlanFlags {
    /// What to do with entries that are in the log and not known to be committed.
    ///
    /// An acknowledged write can be among them, for the commit index on disk lags behind; but so can one that was
    /// never acknowledged. Of several survivors take the one with the highest last term and index.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) uncommitted_tail: Option<TailChoice>,
    /// Keep the cluster's id. Old members that come back can then still talk to the rescued one: destroy them first.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub(crate) keep_cluster_id: bool,
    /// Show what would be done, in words and as JSON, and exit without doing it.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub(crate) dry_run: bool,
}

/// See [`PlanFlags::uncommitted_tail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TailChoice {
    /// Keep them all (the default).
    Keep,
    /// Discard them all.
    Discard,
}

/// The flags of the server. Defaults that depend on others are filled in by [`Config`](crate::config::Config).
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeFlags {
    /// Human-readable name of this member.
    #[arg(long, default_value = "default")]
    pub(crate) name: String,
    /// Where the member keeps its data [default: <name>.oarlock].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// URLs to listen on for the other members.
    #[arg(long, value_name = "URLS", default_value = "http://localhost:2380")]
    pub(crate) listen_peer_urls: String,
    /// URLs to listen on for clients.
    #[arg(long, value_name = "URLS", default_value = "http://localhost:2379")]
    pub(crate) listen_client_urls: String,
    /// URLs under which the other members reach this one.
    #[arg(long, value_name = "URLS", default_value = "http://localhost:2380")]
    pub(crate) initial_advertise_peer_urls: String,
    /// URLs under which clients reach this member.
    #[arg(long, value_name = "URLS", default_value = "http://localhost:2379")]
    pub(crate) advertise_client_urls: String,
    /// The members that found the cluster: name=url,... [default: <name>=<initial-advertise-peer-urls>].
    #[arg(long, value_name = "MEMBERS")]
    pub(crate) initial_cluster: Option<String>,
    /// Found a cluster ("new") or join one ("existing"). Without effect once there is data.
    #[arg(long, value_name = "STATE", default_value = "new")]
    pub(crate) initial_cluster_state: String,
    /// Goes into the ids of cluster and members, so that clusters founded from equal flags differ.
    #[arg(long, value_name = "TOKEN", default_value = "etcd-cluster")]
    pub(crate) initial_cluster_token: String,
    /// Milliseconds between heartbeats.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub(crate) heartbeat_interval: u64,
    /// Milliseconds without a heartbeat after which an election begins.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub(crate) election_timeout: u64,
    /// Let a part of the first election timeout pass at once, so that a start takes less long.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true")]
    pub(crate) initial_election_tick_advance: bool,
    /// Ask whether an election could be won before disturbing anybody with it.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true")]
    pub(crate) pre_vote: bool,
    /// Applied entries after which a snapshot is taken.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) snapshot_count: u64,
    /// Entries kept behind a snapshot for members that lag [default: 5000, or snapshot-count if that is less].
    #[arg(long, value_name = "N")]
    pub(crate) snapshot_catchup_entries: Option<u64>,
    /// Bytes of keys and values from which on puts are refused; 0 means 2 GiB, less means no bound.
    #[arg(long, value_name = "BYTES", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) quota_backend_bytes: i64,
    /// The largest request, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1_572_864)]
    pub(crate) max_request_bytes: usize,
    /// The most operations in one transaction.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) max_txn_ops: usize,
    /// Refuse changes of the membership that would endanger the quorum.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true")]
    pub(crate) strict_reconfig_check: bool,
    /// Make a one-member cluster of this member: the majority is gone for good. Once: with the flag still set the
    /// next start changes nothing.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub(crate) force_new_cluster: bool,
    #[command(flatten)]
    pub(crate) plan: PlanFlags,
    /// Never wait for the disk: acknowledged writes are lost with the power. For experiments.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub(crate) unsafe_no_fsync: bool,
    /// debug, info, warn, error, or a filter such as "info,raft=info". raft-rs says a lot at info; what matters of it is
    /// said by the node as well.
    #[arg(long, value_name = "FILTER", default_value = "info,raft=warn")]
    pub(crate) log_level: String,
    /// Which flags were given, on the command line or in the environment.
    #[arg(skip)]
    pub(crate) given: Vec<String>,
}

/// Why there is nothing to run.
#[derive(Debug)]
pub(crate) enum CliError {
    /// clap's own: wrong usage, or a request for help that is no error at all.
    Clap(clap::Error),
    /// A flag and its variable, at once.
    Shadowed { variable: String },
}

/// A parsed command line, and what is odd about the environment.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) cli: Cli,
    /// Variables with our prefix that stand for no flag.
    pub(crate) unknown_variables: Vec<String>,
}

/// Reads `args` (the program's name first) and the variables of `env` that begin with [`ENV_PREFIX`].
///
/// # Errors
/// Whatever clap says of the line, and etcd's error for a flag that is given twice, once in each place.
pub(crate) fn parse(
    args: impl IntoIterator<Item = String>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Parsed, CliError> {
    let mut args: Vec<String> = args.into_iter().collect();
    let command = || Cli::command();
    let alone = command().try_get_matches_from(&args).map_err(CliError::Clap)?;
    let mut unknown_variables = Vec::new();
    if alone.subcommand_name().is_none() {
        for (variable, value) in env {
            let Some(name) = variable.strip_prefix(ENV_PREFIX) else { continue };
            let flag = name.to_lowercase();
            if !command().get_arguments().any(|arg| arg.get_id() == flag.as_str()) {
                // etcdctl's own variables are at home in the same environment.
                unknown_variables.extend((!name.starts_with("CTL")).then_some(variable));
            } else if value.is_empty() {
                // as if it were not there, as in etcd
            } else if on_command_line(&alone, &flag) {
                return Err(CliError::Shadowed { variable });
            } else {
                args.push(format!("--{}={value}", flag.replace('_', "-")));
            }
        }
    }
    let matches = command().try_get_matches_from(&args).map_err(CliError::Clap)?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(CliError::Clap)?;
    cli.serve.given = command()
        .get_arguments()
        .map(|arg| arg.get_id().as_str())
        .filter(|id| on_command_line(&matches, id))
        .map(|id| id.replace('_', "-"))
        .collect();
    Ok(Parsed { cli, unknown_variables })
}

fn on_command_line(matches: &ArgMatches, id: &str) -> bool {
    matches.try_contains_id(id).is_ok()
        && matches.value_source(id) == Some(ValueSource::CommandLine)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(line: &str, env: &[(&str, &str)]) -> Result<Parsed, CliError> {
        let args = std::iter::once("oarlock").chain(line.split_whitespace()).map(String::from);
        super::parse(
            args,
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    #[test]
    fn variables_stand_for_flags() {
        let env =
            [("ETCD_NAME", "a"), ("ETCD_PRE_VOTE", "false"), ("ETCD_DATA_DIR", ""), ("HOME", "x")];
        let parsed = parse("--snapshot-count 7", &env).expect("valid");
        let flags = parsed.cli.serve;
        assert_eq!((flags.name.as_str(), flags.pre_vote, flags.snapshot_count), ("a", false, 7));
        assert_eq!(flags.data_dir, None, "an empty variable is none");
        assert!(
            flags.given.contains(&"name".to_owned())
                && !flags.given.contains(&"data-dir".to_owned())
        );
        assert!(parsed.unknown_variables.is_empty());
    }

    #[test]
    fn a_flag_and_its_variable_at_once_are_refused() {
        let error = parse("--name a", &[("ETCD_NAME", "b")]).expect_err("conflict");
        assert!(matches!(error, CliError::Shadowed { variable } if variable == "ETCD_NAME"));
    }

    #[test]
    fn unknown_variables_are_told_but_not_refused() {
        let env = [("ETCD_NO_SUCH", "1"), ("ETCDCTL_API", "3"), ("ETCD_GIVEN", "x")];
        let parsed = parse("", &env).expect("valid");
        assert_eq!(parsed.unknown_variables, ["ETCD_NO_SUCH", "ETCD_GIVEN"]);
    }

    #[test]
    fn booleans_are_spelled_as_in_go() {
        for (line, expected) in [
            ("", true),
            ("--pre-vote", true),
            ("--pre-vote=true", true),
            ("--pre-vote=false", false),
        ] {
            assert_eq!(parse(line, &[]).expect(line).cli.serve.pre_vote, expected, "{line:?}");
        }
    }

    #[test]
    fn subcommands_take_their_own_flags() {
        for (line, dir) in [
            ("wal dump --from 5", "default.oarlock"),
            ("wal dump --start-index 5 d", "d"),
            ("wal dump --data-dir d --from 5", "d"),
        ] {
            let parsed = parse(line, &[("ETCD_NAME", "b")]).expect(line);
            let Some(Tool::Wal(WalTool::Dump(flags))) = parsed.cli.tool else {
                panic!("another tool")
            };
            assert_eq!((flags.place.dir(), flags.from), (Path::new(dir), Some(5)), "{line}");
        }
        assert!(parse("--name a rescue", &[]).is_err());
    }
}
