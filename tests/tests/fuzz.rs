//! The corpus of the fuzz targets, replayed, and changed a little at random. `cargo xtask fuzz` does it for long.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a crate of its own beside this one, and only here a module")]
mod targets;

/// The files of a target's corpus, in order.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = files.map(|file| file.expect("readable").path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(file).expect("readable"))).collect()
}

fn changed(data: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut data = data.to_vec();
    for _ in 0..1 + rng.usize(..4) {
        let at = rng.usize(..=data.len());
        match rng.u8(..4) {
            0 if at < data.len() => data[at] ^= 1 << rng.u8(..8),
            1 if at < data.len() => data[at] = rng.u8(..),
            2 => data.truncate(at),
            _ => drop(
                data.splice(at..at, (0..rng.usize(..9)).map(|_| rng.u8(..)).collect::<Vec<_>>()),
            ),
        }
    }
    data
}

fn replay(name: &str, target: fn(&[u8])) {
    let number =
        |name, default| std::env::var(name).ok().and_then(|t| t.parse().ok()).unwrap_or(default);
    let (seed, mutations) = (number("OARLOCK_SEED", 0_u64), number("OARLOCK_MUTATIONS", 20_u64));
    let corpus = corpus(name);
    assert!(corpus.len() > 3, "hardly a corpus");
    for (path, data) in corpus {
        let run = |what: &str, data: &[u8]| {
            let done = std::panic::catch_unwind(|| target(data));
            assert!(done.is_ok(), "{}, {what}: {data:?}", path.display());
        };
        run("as it is", &data);
        for seed in seed..seed + mutations {
            run(&format!("seed {seed}"), &changed(&data, &mut fastrand::Rng::with_seed(seed)));
        }
    }
}

#[test]
fn opening_takes_any_bytes() {
    replay("open", targets::open);
}

#[test]
fn frames_may_hold_anything() {
    replay("frame", targets::frame);
}

#[test]
fn operations_and_crashes_agree_with_the_model() {
    replay("operations", targets::operations);
}

#[test]
fn a_snapshot_file_may_be_anything() {
    replay("snapshot", targets::snapshot);
}
