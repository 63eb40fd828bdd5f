//! A member dies, fails or waits at each failpoint, as the leader, as a follower and alone, while clients write.
//!
//! Each run proves that the point was reached. Afterwards nothing that was acknowledged is missing, every member has the
//! same state, and the cluster takes writes again. Whoever dies does so as a machine does: its disk (simulated) stops at
//! that instant and keeps of what was not synced what the seed says, and nothing that it sends leaves any more.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

#[path = "../support/mod.rs"]
mod support;

mod points;
use points::{Failure, Place, Point};

mod process;

mod world;
use world::World;

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The machine loses power.
    Die,
    /// The operation fails.
    Fail,
    /// The process aborts, all its members with it.
    Abort,
    /// The thread stands still for longer than an election timeout.
    Wait,
}

struct Run<'a> {
    point: &'a Point,
    place: Place,
    action: Action,
}

/// Tries every point of a group in every way.
fn try_all(group: &[Point]) {
    let mut runs = Vec::new();
    for point in group {
        for &place in point.places {
            for action in [Action::Die, Action::Fail, Action::Wait] {
                if action != Action::Fail || point.failure != Failure::None {
                    runs.push(Run { point, place, action });
                }
            }
        }
    }
    side_by_side(&runs, try_one);
}

/// Some runs at a time; all of them must come to a good end.
fn side_by_side(runs: &[Run<'_>], try_one: impl Fn(&Run<'_>) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    // They mostly wait: for elections, deadlines, and what was told to wait.
    let failures: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = Vec::new();
                    while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        failures.extend(try_one(run).err());
                    }
                    failures
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("it catches panics")).collect()
    });
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), runs.len(), failures.join("\n"));
}

fn try_one(run: &Run<'_>) -> Result<(), String> {
    let Run { point, place, action } = run;
    let name = format!("{}, {place:?}, {action:?}", point.name);
    let tried = std::panic::catch_unwind(|| {
        let mut world = World::new(&name, *place);
        world.meet(run);
        world.check();
    });
    tried.map_err(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        format!("{name}: {}", message.unwrap_or_default())
    })
}

#[test]
fn nothing_is_lost_where_the_role_is_published() {
    try_all(points::ROLE);
}

#[test]
fn nothing_is_lost_where_messages_leave() {
    try_all(points::SENDING);
}

#[test]
fn nothing_is_lost_where_the_log_is_written() {
    try_all(points::SAVING);
}

#[test]
fn nothing_is_lost_where_entries_are_applied() {
    try_all(points::APPLYING);
}

#[test]
fn nothing_is_lost_where_a_snapshot_is_taken_and_the_log_released() {
    try_all(points::OWN_SNAPSHOTS);
}

#[test]
fn nothing_is_lost_where_a_snapshot_is_installed() {
    try_all(points::INSTALLING);
}

#[test]
fn nothing_is_lost_where_members_change() {
    try_all(points::CHANGING);
}

#[test]
fn nothing_is_lost_where_a_node_stops() {
    try_all(points::STOPPING);
}

#[test]
fn nothing_is_lost_where_a_node_boots() {
    try_all(points::BOOTING);
}

#[test]
fn every_failpoint_in_the_source_is_tried() {
    let mut planted = BTreeSet::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut planted);
    let tried: Vec<&str> = points::ALL.iter().flat_map(|group| *group).map(|p| p.name).collect();
    let set: BTreeSet<String> = tried.iter().map(ToString::to_string).collect();
    assert_eq!(set.len(), tried.len(), "one is listed twice");
    assert_eq!(planted, set);
}

/// The names of all failpoints below a folder.
fn collect(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("the sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into);
        } else {
            let text = std::fs::read_to_string(&path).expect("text");
            let calls = text.split("fail_point!(").skip(1);
            let names =
                calls.filter_map(|call| call.trim_start().strip_prefix('"')?.split_once('"'));
            into.extend(names.map(|(name, _)| name.to_owned()));
        }
    }
}
