//! What the compiler and its tools say, over a named matrix of features.

use super::Report;
use crate::sh;
use std::path::Path;

/// One configuration of the workspace that must build without a warning.
struct Lane {
    name: &'static str,
    args: &'static [&'static str],
}

/// No `--all-features`: raft-rs's two codecs exclude each other. The first lane has what the tests have; the others
/// see what a user of one crate alone gets, with nothing switched on by a neighbour.
const MATRIX: &[Lane] = &[
    Lane { name: "workspace", args: &["--workspace", "--all-targets", "--features", sh::TESTING] },
    Lane { name: "wal", args: &["-p", "oarlock-wal"] },
    Lane { name: "wal, testing", args: &["-p", "oarlock-wal", "--features", "testing"] },
    Lane { name: "membership", args: &["-p", "oarlock-membership"] },
    Lane { name: "transport", args: &["-p", "oarlock-transport"] },
    Lane { name: "raftnode", args: &["-p", "oarlock-raftnode"] },
    Lane {
        name: "raftnode, own log store",
        args: &["-p", "oarlock-raftnode", "--no-default-features", "--features", "protobuf-codec"],
    },
    Lane {
        name: "raftnode, testing and failpoints",
        args: &["-p", "oarlock-raftnode", "--all-targets", "--features", "testing,failpoints"],
    },
    Lane {
        name: "server, failpoints",
        args: &["-p", "oarlock-server", "--all-targets", "--features", "failpoints"],
    },
    Lane { name: "xtask, codegen", args: &["-p", "xtask", "--features", "codegen"] },
];

/// Only where a protoc 3.x is at hand: this codec generates its code with it.
const PROST_LANE: Lane = Lane {
    name: "raftnode, prost-codec",
    args: &[
        "-p",
        "oarlock-raftnode",
        "--all-targets",
        "--no-default-features",
        "--features",
        "prost-codec,wal,testing",
    ],
};

pub(super) fn fmt(root: &Path) -> Report {
    let mut report = Report::default();
    report.check(sh::capture(sh::cargo(root).args(["fmt", "--all", "--check"])));
    report
}

pub(super) fn clippy(root: &Path) -> Report {
    let mut report = Report::default();
    for lane in MATRIX {
        report.check(clippy_lane(root, lane));
    }
    if sh::has_protoc() {
        report.check(clippy_lane(root, &PROST_LANE));
    } else {
        report.skip(format!("clippy lane `{}`: needs a protoc 3.x on PATH", PROST_LANE.name));
    }
    report
}

fn clippy_lane(root: &Path, lane: &Lane) -> Result<(), String> {
    println!("lint clippy: {}", lane.name);
    sh::run(
        sh::cargo(root).args(["clippy", "--quiet"]).args(lane.args).args(["--", "-D", "warnings"]),
    )
    .map_err(|error| format!("lane `{}`: {error}", lane.name))
}

/// With the features that docs.rs is told to switch on.
pub(super) fn rustdoc(root: &Path) -> Report {
    let mut report = Report::default();
    report.check(rustdoc_with(root, &["--workspace", "--features", sh::TESTING]));
    report
}

fn rustdoc_with(root: &Path, args: &[&str]) -> Result<(), String> {
    let mut command = sh::cargo(root);
    command.env("RUSTDOCFLAGS", "-Dwarnings").args(["doc", "--quiet", "--no-deps"]).args(args);
    sh::run(&mut command)
}

/// The generated code in the tree is what the generator would write today.
pub(super) fn codegen(root: &Path) -> Report {
    let mut report = Report::default();
    let args =
        ["run", "--quiet", "-p", "xtask", "--features", "codegen", "--", "codegen", "--check"];
    report.check(sh::capture(sh::cargo(root).args(args)));
    report
}

#[cfg(test)]
mod tests {
    use super::super::planted::Planted;
    use super::*;

    const PLAIN: Lane = Lane { name: "planted", args: &["--all-targets"] };

    #[test]
    fn clean_code_passes() {
        let planted =
            Planted::package("clean", "//! Clean.\n\n/// Two.\npub fn two() -> u32 {\n    2\n}\n");
        assert_eq!(fmt(planted.root()).faults, Vec::<String>::new());
        rustdoc_with(planted.root(), &[]).expect("nothing to say");
        clippy_lane(planted.root(), &PLAIN).expect("nothing to say");
    }

    #[test]
    fn bad_layout_is_seen() {
        let planted = Planted::package("layout", "//! Layout.\nfn  main ( ) { }\n");
        assert_eq!(fmt(planted.root()).faults.len(), 1);
    }

    #[test]
    fn clippy_warnings_are_seen() {
        let planted = Planted::package(
            "warning",
            "//! W.\n\n/// One.\npub fn one() -> u32 {\n    return 1;\n}\n",
        );
        clippy_lane(planted.root(), &PLAIN).expect_err("needless_return");
    }

    #[test]
    fn broken_doc_links_are_seen() {
        let planted = Planted::package("link", "//! See [`Nothing`].\n");
        rustdoc_with(planted.root(), &[]).expect_err("broken link");
    }

    #[test]
    fn a_generator_that_cannot_run_is_a_fault() {
        let planted = Planted::package("generator", "//! No xtask here.\n");
        assert_eq!(codegen(planted.root()).faults.len(), 1);
    }
}
