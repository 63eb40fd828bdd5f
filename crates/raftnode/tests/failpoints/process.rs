//! The same with a process of its own, on real files: it aborts at the point, and all its members with it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::points::{self, Place};
use crate::world::{ACK, World};
use crate::{Action, Run, side_by_side};

/// In the process that is to abort: where its files are, the point's name, and which member comes to it.
const CHILD: &str = "OARLOCK_FAILPOINT_CHILD";

/// The name of the test below, for the process to run nothing else.
const TEST: &str = "process::nothing_is_lost_when_the_process_aborts_at_any_point";

#[test]
fn nothing_is_lost_when_the_process_aborts_at_any_point() {
    if let Ok(child) = std::env::var(CHILD) {
        return abort(&child);
    }
    let mut runs = Vec::new();
    for point in points::ALL.iter().flat_map(|group| *group) {
        let places = point.places.iter();
        runs.extend(places.map(|&place| Run { point, place, action: Action::Abort }));
    }
    side_by_side(&runs, |run| {
        let name = name(run.point.name, run.place);
        let tried = std::panic::catch_unwind(|| try_one(run, &name));
        tried.unwrap_or_else(|panic| {
            let message = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            Err(format!("{name}: {message}"))
        })
    });
}

fn name(point: &str, place: Place) -> String {
    format!("{point}, {place:?}")
}

fn try_one(run: &Run<'_>, name: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let child = format!("{}|{}|{:?}", folder.path().display(), run.point.name, run.place);
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["--exact", TEST, "--nocapture", "--test-threads=1"]).env(CHILD, child);
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if !aborted(&output) {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name}: it did not abort: {}\n{said}", output.status));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let acknowledged: Vec<String> =
        said.lines().filter_map(|line| Some(line.split_once(ACK)?.1.to_owned())).collect();
    if acknowledged.is_empty() {
        return Err(format!("{name}: nothing was acknowledged before it aborted"));
    }
    World::below(folder.path(), name, run.place, false).check_with(acknowledged);
    Ok(())
}

/// Only the point makes a process end like this.
#[cfg(unix)]
fn aborted(output: &Output) -> bool {
    use std::os::unix::process::ExitStatusExt;
    const SIGABRT: i32 = 6;
    output.status.signal() == Some(SIGABRT)
}

#[cfg(not(unix))]
fn aborted(output: &Output) -> bool {
    !output.status.success()
}

/// A healthy cluster that comes to the point.
fn abort(child: &str) {
    let mut words = child.split('|');
    let (folder, point, place) =
        (words.next().expect("a folder"), words.next().expect("a point"), words.next());
    let mut all = points::ALL.iter().flat_map(|group| *group);
    let point = all.find(|listed| listed.name == point).expect("a point that is listed");
    let mut places = point.places.iter().copied();
    let place = places.find(|listed| Some(format!("{listed:?}").as_str()) == place);
    let place = place.expect("a place where it can be reached");
    let mut world = World::below(Path::new(folder), &name(point.name, place), place, true);
    world.meet(&Run { point, place, action: Action::Abort });
}
