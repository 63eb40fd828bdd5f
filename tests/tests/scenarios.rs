//! Conversations between nodes, written down in `tests/scenarios/*.txt`, and random ones.
//!
//! `OARLOCK_REWRITE=1 cargo test -p oarlock-tests --test scenarios` writes what is printed into the files.

use std::path::{Path, PathBuf};

use oarlock_tests::script::check_file;

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
