//! Who may depend on whom. A boundary is a command that can fail, not a sentence in a document.

use super::Report;
use crate::sh;
use std::path::Path;

/// What the dependency tree of one package must not hold.
struct Boundary {
    package: &'static str,
    features: &'static [&'static str],
    forbidden: &'static [&'static str],
}

const ASYNC: &[&str] = &["tokio", "tonic", "hyper", "axum", "async-std", "futures-executor"];
const RAFT: &[&str] =
    &["raft", "raft-proto", "protobuf", "oarlock-raftnode", "oarlock-server", "slog", "clap"];

const BOUNDARIES: &[Boundary] = &[
    // Files and checksums: no consensus, no network, no neighbour.
    Boundary {
        package: "oarlock-wal",
        features: &["testing"],
        forbidden: &["oarlock-membership", "oarlock-transport", "rustls"],
    },
    // Pure values: in addition nothing that maps files, locks or draws numbers.
    Boundary {
        package: "oarlock-membership",
        features: &[],
        forbidden: &[
            "oarlock-wal",
            "oarlock-transport",
            "memmap2",
            "parking_lot",
            "fastrand",
            "rand",
            "tempfile",
        ],
    },
    // Sockets and frames: no log, no members.
    Boundary {
        package: "oarlock-transport",
        features: &["testing"],
        forbidden: &["oarlock-wal", "oarlock-membership", "memmap2"],
    },
    // The only crate below the server that knows raft-rs; it runs on threads.
    Boundary {
        package: "oarlock-raftnode",
        features: &["testing", "failpoints"],
        forbidden: &["oarlock-server", "clap", "axum"],
    },
    // Without the feature `wal` its user brings a log of their own.
    Boundary {
        package: "oarlock-raftnode",
        features: NO_LOG,
        forbidden: &["oarlock-wal", "memmap2"],
    },
];

/// Marks the lane that switches the default features off.
const NO_LOG: &[&str] = &["protobuf-codec"];

pub(super) fn boundaries(root: &Path) -> Report {
    let mut report = Report::default();
    for boundary in BOUNDARIES {
        let without_defaults = boundary.features == NO_LOG;
        if let Some(tree) =
            report.check(tree(root, boundary.package, boundary.features, without_defaults))
        {
            let raft: &[&str] = if boundary.package == "oarlock-raftnode" { &[] } else { RAFT };
            let forbidden: Vec<_> = [boundary.forbidden, raft, ASYNC].concat();
            report.faults.extend(trespassers(boundary.package, &tree, &forbidden));
        }
    }
    report
}

/// The normal dependencies of `package`, one a line; not to know the package is an error, not an empty tree.
fn tree(
    root: &Path,
    package: &str,
    features: &[&str],
    without_defaults: bool,
) -> Result<String, String> {
    let mut command = sh::cargo(root);
    command.args(["tree", "--package", package, "--edges", "normal", "--prefix", "none"]);
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    if without_defaults {
        command.arg("--no-default-features");
    }
    sh::capture(&mut command)
}

/// The lines of `tree` that name a forbidden package.
fn trespassers(package: &str, tree: &str, forbidden: &[&str]) -> Vec<String> {
    let mut names: Vec<_> =
        tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    if names.first() != Some(&package) {
        return vec![format!("{package}: `cargo tree` printed no tree for it")];
    }
    names.sort_unstable();
    names.dedup();
    let found = names.into_iter().filter(|name| forbidden.contains(name));
    found
        .map(|name| {
            format!("{package} must not depend on {name}: `cargo tree -p {package} -i {name}`")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::planted::Planted;
    use super::*;

    /// A package called like the real one, with a dependency called like the forbidden one.
    fn planted(name: &str) -> Planted {
        Planted::empty(name)
            .with(
                "Cargo.toml",
                "[package]\nname = \"oarlock-wal\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
                 [workspace]\n[dependencies]\nraft = { path = \"raft\" }\n",
            )
            .with("src/lib.rs", "")
            .with(
                "raft/Cargo.toml",
                "[package]\nname = \"raft\"\nversion = \"0.0.0\"\nedition = \"2024\"\n",
            )
            .with("raft/src/lib.rs", "")
    }

    #[test]
    fn a_forbidden_dependency_is_seen() {
        let planted = planted("boundary");
        let tree = tree(planted.root(), "oarlock-wal", &[], false).expect("a tree");
        let found = trespassers("oarlock-wal", &tree, RAFT);
        assert_eq!(found.len(), 1, "{tree}");
        assert!(found[0].contains("oarlock-wal must not depend on raft"));
    }

    #[test]
    fn a_package_that_is_not_there_is_an_error() {
        let planted = planted("boundary-missing");
        tree(planted.root(), "oarlock-membership", &[], false).expect_err("no such package");
        assert!(!boundaries(planted.root()).faults.is_empty());
    }

    #[test]
    fn an_empty_tree_is_not_a_clean_one() {
        assert_eq!(trespassers("oarlock-wal", "", RAFT).len(), 1);
    }

    #[test]
    fn a_longer_name_is_not_the_forbidden_one() {
        assert!(
            trespassers("oarlock-wal", "oarlock-wal v0.1.0\nraft-engine v0.4.2\n", RAFT).is_empty()
        );
    }
}
