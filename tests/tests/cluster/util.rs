//! What several of the stories need.

use oarlock_tests::{Client, Failure, Outcome, eventually};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Status;

/// A generous bound for what happens within a second or two on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Writes `key`, asking again until it is acknowledged.
pub(crate) fn put_eventually(
    client: &Client,
    key: &str,
    value: &str,
    bound: Duration,
) -> Outcome<i64> {
    let mut last = String::new();
    eventually(key, bound, || {
        client.put(key, value).map_err(|status| last = status.to_string()).ok()
    })
    .map_err(|failure| Failure::new(format!("{failure}; last: {last}")))
}

/// Changes the membership, asking again while the cluster says that it is not healthy enough yet: as in etcd, members
/// count as connected after five seconds.
pub(crate) fn accepted<T>(what: &str, mut change: impl FnMut() -> Result<T, Status>) -> Outcome<T> {
    let mut last = String::new();
    let outcome = eventually(what, SOON, || match change() {
        Ok(done) => Some(Ok(done)),
        Err(status) if status.message().contains("unhealthy cluster") => {
            last = status.to_string();
            None
        }
        Err(status) => Some(Err(status)),
    });
    Ok(outcome.map_err(|failure| Failure::new(format!("{failure}; last: {last}")))??)
}

/// Waits until this member itself has applied `key` with this value.
pub(crate) fn has_applied(client: &Client, key: &str, value: &str) -> Outcome {
    eventually(&format!("{key} = {value} applied"), SOON, || {
        let found = client.get_serializable(key).ok().flatten()?;
        (found.value == value).then_some(())
    })
}

/// The log's segment files below a data directory, in order.
pub(crate) fn segments(data_dir: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = files(data_dir)?
        .into_iter()
        .filter(|file| file.parent().is_some_and(|dir| dir.ends_with("wal")))
        .collect();
    found.retain(|file| fs::metadata(file).is_ok_and(|data| data.len() >= 16 << 10)); // not the lock
    found.sort();
    if found.is_empty() {
        return Err(Failure::new(format!("no segments below {}", data_dir.display())));
    }
    Ok(found)
}

/// Every file below `dir`.
pub(crate) fn files(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}
