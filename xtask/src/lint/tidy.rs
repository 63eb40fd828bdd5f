//! The tree itself: sizes, files that each crate carries, profiles, leftovers, names of somebody's machine.

use super::Report;
use crate::sh;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines after which a file holds more than one idea.
const MAX_LINES: usize = 700;

/// Ways to leave something for later that nobody will find again.
const LEFTOVERS: &[&str] = &[
    concat!("to", "do!("),
    concat!("FIX", "ME"),
    concat!("#[ig", "nore"),
    concat!("```ig", "nore"),
    concat!("allow(dead", "_code)"),
];

/// Directories that exist on one machine only.
const MACHINES: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("../sha", "red/"),
];

/// What every published crate carries, because crates.io shows one crate, not a workspace.
const CARRIED: &[&str] = &["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// No source file is longer than 700 lines; generated ones say so and are let be.
pub(super) fn size(root: &Path) -> Report {
    each_source(root, |file, text| {
        let lines = text.lines().count();
        let generated = text.lines().take(3).any(|line| line.contains("@generated"));
        (lines > MAX_LINES && !generated)
            .then(|| {
                format!(
                    "{}: {lines} lines; {MAX_LINES} is the most: cut it by phase",
                    file.display()
                )
            })
            .into_iter()
            .collect()
    })
}

/// No stub, ignored test or silenced lint is left.
pub(super) fn leftovers(root: &Path) -> Report {
    each_source(root, |file, text| lines_with(file, text, LEFTOVERS))
}

/// No tracked file names a directory of somebody's machine.
pub(super) fn paths(root: &Path) -> Report {
    each_tracked(root, |_| true, |file, text| lines_with(file, text, MACHINES))
}

/// Every crate carries its licences, a README and a CHANGELOG.
pub(super) fn files(root: &Path) -> Report {
    let mut report = Report::default();
    let Some(tracked) = report.check(sh::tracked(root)) else { return report };
    let manifests =
        tracked.iter().filter(|file| file.starts_with("crates") && file.ends_with("Cargo.toml"));
    let crates: Vec<PathBuf> =
        manifests.filter_map(|file| file.parent().map(Path::to_owned)).collect();
    if crates.is_empty() {
        report.fault("crates/: no crate found; did they move?");
    }
    for folder in crates.iter().map(PathBuf::as_path).chain([Path::new("")]) {
        for name in CARRIED
            .iter()
            .filter(|name| !(folder.as_os_str().is_empty() && **name == "CHANGELOG.md"))
        {
            let file = folder.join(name);
            // Two lines: a title alone tells nobody anything. Read through links, which is what `cargo package` does.
            if fs::read_to_string(root.join(&file)).map_or(0, |text| text.lines().count()) < 2 {
                report.fault(format!("{}: missing or empty", file.display()));
            }
        }
    }
    report
}

/// `panic = "unwind"` everywhere: the node thread catches raft-rs's panics and reports them as the node's end.
pub(super) fn profiles(root: &Path) -> Report {
    let mut report = Report::default();
    if let Some(manifest) = report.check(read(root, Path::new("Cargo.toml"))) {
        report.faults.extend(aborting(&manifest));
        for profile in ["release", "dev"] {
            let stated = section(&manifest, &format!("[profile.{profile}]"))
                .any(|line| line == "panic = \"unwind\"");
            if !stated {
                report
                    .fault(format!("Cargo.toml: [profile.{profile}] must say panic = \"unwind\""));
            }
        }
    }
    if let Ok(config) = fs::read_to_string(root.join(".cargo/config.toml")) {
        report.faults.extend(aborting(&config));
    }
    report
}

fn aborting(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| {
        let line: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        line.starts_with("panic=") && line != "panic=\"unwind\"" || line.contains("panic=abort")
    });
    lines.map(|line| format!("`{}`: a panic must unwind", line.trim())).collect()
}

fn section<'a>(text: &'a str, header: &str) -> impl Iterator<Item = &'a str> {
    let after = text
        .lines()
        .map(str::trim)
        .skip_while(move |line| *line != header)
        .skip(1)
        .collect::<Vec<_>>();
    after.into_iter().take_while(|line| !line.starts_with('['))
}

fn lines_with(file: &Path, text: &str, words: &[&str]) -> Vec<String> {
    let lines = text.lines().enumerate();
    let hits = lines.filter(|(_, line)| words.iter().any(|word| line.contains(word)));
    hits.map(|(at, line)| format!("{}:{}: {}", file.display(), at + 1, line.trim())).collect()
}

fn each_source(root: &Path, look: impl Fn(&Path, &str) -> Vec<String>) -> Report {
    each_tracked(root, |file| file.extension().is_some_and(|ext| ext == "rs"), look)
}

/// Runs `look` over the text of every tracked file that `wanted` picks; what is not text is passed over.
fn each_tracked(
    root: &Path,
    wanted: impl Fn(&Path) -> bool,
    look: impl Fn(&Path, &str) -> Vec<String>,
) -> Report {
    let mut report = Report::default();
    let Some(files) = report.check(sh::tracked(root)) else { return report };
    for file in files.iter().filter(|file| wanted(file)) {
        let Ok(bytes) = fs::read(root.join(file)) else { continue }; // deleted, not yet committed
        if let Ok(text) = String::from_utf8(bytes) {
            report.faults.extend(look(file, &text));
        }
    }
    report
}

/// The text of a file below `root`.
pub(super) fn read(root: &Path, file: &Path) -> Result<String, String> {
    fs::read_to_string(root.join(file)).map_err(|error| format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::super::planted::Planted;
    use super::*;

    #[test]
    fn a_long_file_is_seen_and_a_generated_one_let_be() {
        let long = "// line\n".repeat(MAX_LINES + 1);
        let planted = Planted::empty("size")
            .with("a.rs", &long)
            .with("b.rs", &format!("// @generated\n{long}"));
        let faults = size(planted.root()).faults;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("a.rs: 701 lines"));
    }

    #[test]
    fn each_leftover_is_seen_with_its_line() {
        for (number, word) in LEFTOVERS.iter().enumerate() {
            let planted = Planted::empty(&format!("leftover-{number}"))
                .with("a.rs", &format!("\n// {word}\n"));
            let faults = leftovers(planted.root()).faults;
            assert_eq!(faults.len(), 1, "{word}");
            assert!(faults[0].starts_with("a.rs:2: "), "{faults:?}");
        }
    }

    #[test]
    fn each_private_path_is_seen_in_any_file() {
        for (number, path) in MACHINES.iter().enumerate() {
            let planted =
                Planted::empty(&format!("paths-{number}")).with("a.md", &format!("see {path}x\n"));
            assert_eq!(paths(planted.root()).faults.len(), 1, "{path}");
        }
    }

    #[test]
    fn a_missing_changelog_is_seen() {
        let mut planted = Planted::empty("files").with("crates/a/Cargo.toml", "");
        for name in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            planted = planted.with(name, "a\nb\n").with(&format!("crates/a/{name}"), "a\nb\n");
        }
        assert_eq!(files(planted.root()).faults, ["crates/a/CHANGELOG.md: missing or empty"]);
        let planted = planted.with("crates/a/CHANGELOG.md", "a\nb\n");
        assert_eq!(files(planted.root()).faults, Vec::<String>::new());
    }

    #[test]
    fn no_crates_at_all_is_a_fault() {
        assert!(
            files(Planted::empty("no-crates").root())
                .faults
                .iter()
                .any(|fault| fault.contains("no crate found"))
        );
    }

    #[test]
    fn an_aborting_profile_is_seen() {
        let good = "[profile.dev]\npanic = \"unwind\"\n[profile.release]\npanic = \"unwind\"\n";
        let clean = Planted::empty("profiles").with("Cargo.toml", good);
        assert_eq!(profiles(clean.root()).faults, Vec::<String>::new());
        let silent = Planted::empty("profiles-silent")
            .with("Cargo.toml", "[profile.dev]\npanic = \"unwind\"\n");
        assert_eq!(profiles(silent.root()).faults.len(), 1);
        let bench = format!("{good}[profile.bench]\npanic='abort'\n");
        let abort = Planted::empty("profiles-abort").with("Cargo.toml", &bench);
        assert_eq!(profiles(abort.root()).faults.len(), 1);
        let flags = clean.with(".cargo/config.toml", "rustflags = [\"-Cpanic=abort\"]\n");
        assert_eq!(profiles(flags.root()).faults.len(), 1);
    }
}
