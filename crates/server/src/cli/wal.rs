//! The command line of `oarlock wal`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

/// What can be done with a log. Nothing here needs the member to be stopped, and nothing writes, but `repair --apply`.
#[derive(Debug, Subcommand)]
pub(crate) enum WalTool {
    /// Print what the log of a member holds, a line for each record, in the order in which they were written.
    ///
    /// Overwritten entries are shown too, and what follows a damaged place. A record that does not read back has a line
    /// of its own; whether it is damage or what a crash left, `oarlock wal verify` says. The exit code is 0 either way.
    Dump(DumpFlags),
    /// Read every byte of the log of a member, and of the snapshots beside it, and check it.
    ///
    /// Exit codes: 0, all is whole, were it that the last write is just being made by a running member. 1, a crash tore
    /// the end of the log; nothing acknowledged is lost, and the next start sets it aside. 65, something is damaged or
    /// missing: file and offset are named. Others as for the server.
    Verify(VerifyFlags),
    /// Show what can be done about a damaged log, and do it if told so.
    ///
    /// Without --apply nothing is changed. With it, a copy of every file that will be touched is made and synced first.
    ///
    /// A member that forgets what it has acknowledged can make its whole cluster lose committed writes. As long as the
    /// cluster has a majority without this member, remove it, empty its directory, and add it again: do not repair it.
    ///
    /// Exit codes: 0, there is nothing to repair, or it was done. 1, something can be done, at a loss or not, and was shown.
    /// 65, nothing can be done, or --apply would have lost what --accept-loss does not accept. Others as for the server.
    Repair(RepairFlags),
}

/// Where a log is that is looked at: given as to `etcd-dump-logs`, or by the server's flag.
#[derive(Debug, Args)]
pub(crate) struct LogPlace {
    /// The member's data directory, or the directory of a log alone [default: default.oarlock].
    #[arg(value_name = "DIR", conflicts_with = "data_dir")]
    dir: Option<PathBuf>,
    /// The same, under the server's name for it.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl LogPlace {
    /// The directory meant.
    pub(crate) fn dir(&self) -> &Path {
        let given = self.dir.as_ref().or(self.data_dir.as_ref());
        given.map_or_else(|| Path::new("default.oarlock"), PathBuf::as_path)
    }
}

/// The flags of `oarlock wal dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpFlags {
    #[command(flatten)]
    pub(crate) place: LogPlace,
    /// First index to print. With a range, entries alone are printed.
    #[arg(long, value_name = "INDEX", alias = "start-index")]
    pub(crate) from: Option<u64>,
    /// Last index to print.
    #[arg(long, value_name = "INDEX")]
    pub(crate) to: Option<u64>,
    /// How payloads are shown.
    #[arg(long, value_enum, value_name = "HOW", default_value = "describe")]
    pub(crate) payload: Payload,
    /// Print JSON, one object a line. Positions are as in the text, segment and offset in hexadecimal.
    #[arg(long)]
    pub(crate) json: bool,
    /// Go on printing what is appended, until interrupted. Beside a running member; across rolls, releases and restarts.
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// The flags of `oarlock wal verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyFlags {
    #[command(flatten)]
    pub(crate) place: LogPlace,
    /// Print what was found as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The flags of `oarlock wal repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairFlags {
    #[command(flatten)]
    pub(crate) place: LogPlace,
    /// Do what can be done. The member must not be running.
    #[arg(long)]
    pub(crate) apply: bool,
    /// Cut off even what was committed, or may have been acknowledged.
    #[arg(long, requires = "apply")]
    pub(crate) accept_loss: bool,
    /// Where the copy goes [default: <log>.before-repair-<n>, beside the log].
    #[arg(long, value_name = "DIR", requires = "apply")]
    pub(crate) copy_to: Option<PathBuf>,
    /// Print the plan, and what was done, as JSON, one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// See [`DumpFlags::payload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Payload {
    /// What it does, in words, without values; of a log that is not a server's, the length alone.
    Describe,
    /// As text, what cannot be printed escaped.
    Text,
    /// In hexadecimal.
    Hex,
    /// Its length alone.
    Len,
}
