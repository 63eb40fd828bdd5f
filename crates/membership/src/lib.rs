//! Raft cluster membership as values: who is in, who is out for good, and what each change does to both.
//!
//! Everything here is a pure function over bytes and numbers: no files, no sockets, no threads, no clock (time is
//! an argument) and no Raft library. That makes it usable inside an apply loop, where every member must come to
//! the same answer, and inside a recovery tool, where there is no apply loop any more.
//!
//! ```
//! use oarlock_membership::{Change, ChangeError, Cluster, Member};
//!
//! let mut cluster = Cluster::from_initial(
//!     "etcd-cluster-1",
//!     &[("infra1", ["http://127.0.0.1:12380"]), ("infra2", ["http://127.0.0.1:22380"])],
//! )?;
//! let infra1 = cluster.member_by_name("infra1").expect("just listed").id;
//! assert_eq!(infra1, 0x8211f1d0f64f3269); // the id that etcd derives from the same flags
//!
//! let joiner = Member::joining(["http://127.0.0.1:32380"], 1_700_000_000);
//! cluster.apply(&Change::AddLearner(joiner.clone()))?;
//! cluster.apply(&Change::Promote(joiner.id))?;
//! cluster.apply(&Change::Remove(infra1))?;
//! assert!(matches!(cluster.apply(&Change::Remove(infra1)), Err(ChangeError::Removed { .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it promises
//! - The same changes in the same order give the same [`Cluster`] and the same refusals on every member.
//! - An id that was removed stays removed; only a [rescue](StandalonePlan) can bring one back.
//! - [`Configuration`] takes exactly the steps that raft-rs takes, joint ones included, and refuses what it refuses.
//! - Bytes are decoded with checks: an unknown number or a foreign context is a typed error, never a default and
//!   never a panic.
//!
//! # What it does not do
//! It sends, stores and proposes nothing. Whether a member is alive is asked of the caller ([`Cluster::ready_to_remove`]
//! and its siblings take a predicate), and host names are not resolved ([`match_peers`] compares URLs as text).
#![forbid(unsafe_code)]

pub mod record;

mod id;
pub use id::{ProposalId, cluster_id, member_id, rescued_cluster_id};

mod member;
pub use member::Member;

mod entry;
pub use entry::{EntryKind, EntryView, PlannedEntry, UnknownEntryKind};

mod context;
pub use context::{ChangeContext, StepContext};

mod change;
pub use change::{Change, ChangeEntry, ReadFault, UnreadableChange};

mod configuration;
pub use configuration::{Configuration, ConfigurationError};

mod ids;
pub use ids::ids_from;

mod cluster;
pub use cluster::{Applied, AppliedEntry, ChangeError, Cluster, DEFAULT_MAX_LEARNERS};

mod agreement;
pub use agreement::Disagreement;

mod head;
pub use head::HeadError;

mod reconfiguration;
pub use reconfiguration::NotReady;

mod initial;
pub use initial::{InitialError, UrlFault, check_peer_url, parse_initial_cluster};

mod join;
pub use join::{JoinError, match_peers};

mod standalone;
pub use standalone::{HardState, LogSpan, PlanError, StandalonePlan, Survivor, UncommittedTail};

mod planted;
mod report;

/// The examples of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
