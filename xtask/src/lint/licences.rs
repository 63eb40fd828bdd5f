//! Every dependency may be used and passed on under terms that we accept.

use super::Report;
use crate::sh;
use std::path::Path;

/// Permissive licences. A new name here is a decision, not a formality.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Reads the licence of everything that any target and any feature can pull in, build and test tools included.
///
/// `--all-features` only resolves here, it builds nothing, so raft-rs's exclusive codecs do not matter.
pub(super) fn licences(root: &Path) -> Report {
    let args = [
        "tree",
        "--workspace",
        "--target",
        "all",
        "--all-features",
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
    ];
    match sh::capture(sh::cargo(root).args(args)) {
        Ok(tree) => unlicensed(&tree).into_iter().collect(),
        Err(error) => std::iter::once(error).collect(),
    }
}

/// `cargo deny`, where it is installed: advisories and sources beside licences.
pub(super) fn deny(root: &Path) -> Report {
    let mut report = Report::default();
    if sh::find("cargo-deny").is_some() {
        report.check(sh::capture(sh::cargo(root).args(["deny", "--workspace", "check"])));
    } else {
        report.skip(
            "cargo-deny: not installed (licences were checked without it, advisories were not)",
        );
    }
    report
}

/// The packages in `tree` (lines of `name version|expression`) whose licence is missing or not allowed.
fn unlicensed(tree: &str) -> Vec<String> {
    let mut lines: Vec<_> =
        tree.lines().map(|line| line.trim_end_matches(" (*)")).filter(|l| !l.is_empty()).collect();
    lines.sort_unstable();
    lines.dedup();
    if lines.is_empty() {
        return vec!["`cargo tree` printed nothing".to_owned()];
    }
    let bad = lines.into_iter().filter_map(|line| {
        let (package, licence) = line.rsplit_once('|').unwrap_or((line, ""));
        (!accepts(licence)).then(|| format!("{package}: licence `{licence}` is not on the list"))
    });
    bad.collect()
}

/// Whether the SPDX expression can be satisfied with allowed licences alone. `/` is the old way to write OR.
fn accepts(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let verdict = any_of(&mut words);
    verdict == Some(true) && words.is_empty()
}

/// `a OR b`; the words are in reverse, so that the next one is at the end. `None`: not an expression.
fn any_of(words: &mut Vec<&str>) -> Option<bool> {
    let mut verdict = all_of(words)?;
    while words.last() == Some(&"OR") {
        words.pop();
        verdict |= all_of(words)?;
    }
    Some(verdict)
}

/// `a AND b`, which binds tighter.
fn all_of(words: &mut Vec<&str>) -> Option<bool> {
    let mut verdict = one(words)?;
    while words.last() == Some(&"AND") {
        words.pop();
        verdict &= one(words)?;
    }
    Some(verdict)
}

fn one(words: &mut Vec<&str>) -> Option<bool> {
    let word = words.pop()?;
    if word == "(" {
        let verdict = any_of(words)?;
        return (words.pop() == Some(")")).then_some(verdict);
    }
    if words.last() == Some(&"WITH") {
        words.pop();
        let name = format!("{word} WITH {}", words.pop()?);
        return Some(ALLOWED.contains(&name.as_str()));
    }
    Some(ALLOWED.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::super::planted::Planted;
    use super::*;

    #[test]
    fn expressions_are_understood() {
        for (expression, verdict) in [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
            ("(GPL-2.0 OR GPL-3.0) AND MIT", false),
            ("MIT OR GPL-2.0 AND GPL-3.0", true),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true),
            ("GPL-2.0 WITH Classpath-exception-2.0", false),
            ("", false),
            ("MIT OR", false),
            ("(MIT", false),
            ("MIT MIT", false),
        ] {
            assert_eq!(accepts(expression), verdict, "{expression}");
        }
    }

    #[test]
    fn a_planted_licence_fails_the_check() {
        let planted = Planted::package("licence", "");
        let faults = licences(planted.root()).faults;
        assert_eq!(faults.len(), 1, "the planted package states no licence: {faults:?}");
        assert_eq!(unlicensed("a v1|MIT\nb v1|GPL-3.0\nb v1|GPL-3.0 (*)\n").len(), 1);
        assert_eq!(unlicensed("").len(), 1);
    }
}
