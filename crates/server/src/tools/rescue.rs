//! `oarlock rescue`, and the plan behind `--force-new-cluster`.

use std::io::{self, Write};

use oarlock_membership::StandalonePlan;
use oarlock_raftnode::{
    LogStore, WalOptions, WalStoreError, WalView,
    bootstrap::{Boot, Standalone, boot, plan_standalone},
};

use crate::{
    cli::{RescueFlags, TailChoice},
    config::{ForceNew, member_dir},
    exit::{Failure, Kind},
    fault,
    start::standalone,
};

/// Makes a one-member cluster of the survivor in the given directory, whether or not that was done before.
///
/// # Errors
/// There is no data, it is damaged or in use, or the plan cannot be made.
pub(crate) fn rescue(flags: &RescueFlags) -> Result<(), Failure> {
    let dir = member_dir(&flags.data_dir);
    let failed = |error: WalStoreError| fault::store(&error, &dir);
    let force = ForceNew {
        tail: flags.plan.uncommitted_tail.unwrap_or(TailChoice::Keep),
        keep_cluster_id: flags.plan.keep_cluster_id,
        dry_run: flags.plan.dry_run,
    };
    let order = Standalone { again: true, ..standalone(force) };
    if force.dry_run {
        return show_plan(&WalView::open(&dir).map_err(failed)?, order);
    }
    let mut store = WalOptions::new(&dir).open().map_err(failed)?;
    let snapshots = store.snapshots();
    let recovered = boot(&mut store, &*snapshots, &Boot::Standalone(order))
        .map_err(|error| fault::boot(&error))?;
    let closed = Box::new(store).close();
    closed.map_err(|error| fault::boot(&error.into()))?;
    print(recovered.rescued.as_ref())
}

/// Shows what a rescue of the member would do, in words and as JSON. Neither locks nor writes.
///
/// # Errors
/// The plan cannot be made, or nobody reads it.
pub(crate) fn show_plan(store: &WalView, order: Standalone) -> Result<(), Failure> {
    let plan =
        plan_standalone(store, &*store.snapshots(), order).map_err(|error| fault::boot(&error))?;
    print(plan.as_ref())
}

fn print(plan: Option<&StandalonePlan>) -> Result<(), Failure> {
    let text = match plan {
        Some(plan) => {
            let json =
                serde_json::to_string(plan).map_err(|error| Failure::new(Kind::Internal, error))?;
            format!("{plan}\n{json}\n")
        }
        None => "nothing to do: this member was rescued before (`oarlock rescue` does it again)\n"
            .to_owned(),
    };
    io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::new(Kind::Io, error))
}
