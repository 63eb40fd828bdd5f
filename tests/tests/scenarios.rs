//! Conversations between nodes, written down in `tests/scenarios/*.txt`, and random ones.
//!
//! `OARLOCK_REWRITE=1 cargo test -p oarlock-tests --test scenarios` writes what is printed into the files.

use std::path::{Path, PathBuf};

use oarlock_tests::script::{Simulated, check_file, simulate};

fn scenarios() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = std::fs::read_dir(folder).expect("the folder of scenarios");
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("readable").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

#[test]
fn every_scenario_prints_what_its_file_says() {
    let paths = scenarios();
    assert!(paths.len() >= 10, "found {} scenarios only", paths.len());
    let failures: Vec<String> = paths.iter().filter_map(|path| check_file(path).err()).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// `OARLOCK_SEED` is the first seed and `OARLOCK_SEEDS` how many; `OARLOCK_STEPS` is how long each is.
#[test]
fn random_schedules_keep_every_promise() {
    let steps = number("OARLOCK_STEPS").unwrap_or(2_500) as usize;
    let first = number("OARLOCK_SEED").unwrap_or(1);
    let alone = number("OARLOCK_SEED").is_some();
    let seeds = number("OARLOCK_SEEDS").unwrap_or(if alone { 1 } else { 40 });
    let mut sum = Simulated::default();
    for seed in first..first + seeds {
        sum += simulate(seed, steps).unwrap_or_else(|error| panic!("{error}"));
    }
    // A simulation in which nothing happens proves nothing.
    let Simulated { committed, elections, crashes, restored, changes, reads, .. } = sum;
    let Simulated { equal, behind, fetches, .. } = sum;
    let often = [committed, elections, crashes, restored, changes, reads, equal, behind, fetches];
    let happened = often.iter().all(|count| *count >= seeds / 2) && sum.torn_installs >= seeds / 10;
    assert!(alone || happened, "too little happened: {sum:?}");
    // Those who are left cannot elect anybody, for whoever was removed has stopped and the news of it was lost with them: the
    // limit that O19 states, and the only reason for which an end may be stranded. It takes several things at once.
    assert!(sum.stranded <= seeds / 200, "too many are left without a leader: {sum:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1..=3 {
        assert_eq!(simulate(seed, 800), simulate(seed, 800), "seed {seed}");
    }
}
