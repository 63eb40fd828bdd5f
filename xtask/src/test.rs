//! `cargo xtask test`: everything, with one line at the end that says how much ran and what did not.

use crate::{planted, sh, states};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// One call of `cargo test`.
struct Run {
    name: &'static str,
    args: &'static [&'static str],
}

/// All in the dev profile and one target directory, so that nothing is built twice without a reason.
const RUNS: &[Run] = &[
    // Unit, doc, integration, compatibility; the cluster tests, the short crash loop and etcdctl are in oarlock-tests.
    Run { name: "workspace", args: &["--workspace", "--features", sh::TESTING] },
    // The failpoints compile to nothing above.
    Run {
        name: "raftnode, failpoints",
        args: &["-p", "oarlock-raftnode", "--features", "testing,failpoints", "--lib", "--tests"],
    },
    // For those who bring a log of their own.
    Run {
        name: "raftnode, own log store",
        args: &[
            "-p",
            "oarlock-raftnode",
            "--no-default-features",
            "--features",
            "protobuf-codec,testing",
            "--lib",
        ],
    },
];

/// raft-rs's other codec, where a protoc 3.x is at hand to build it: what converts, stores and sends messages.
const PROST: Run = Run {
    name: "raftnode, prost-codec",
    args: &[
        "-p",
        "oarlock-raftnode",
        "--no-default-features",
        "--features",
        "prost-codec,wal,testing",
        "--lib",
        "--test",
        "conformance",
        "--test",
        "log_stores",
        "--test",
        "core",
    ],
};

/// The crates whose planted bugs must be caught.
const PLANTED: [&str; 4] = ["wal", "membership", "transport", "raftnode"];

/// What the test binaries reported, added up.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
}

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    if let Some(arg) = args.first() {
        return Err(format!(
            "`cargo xtask test` runs everything and takes no {arg}; `cargo test` takes filters"
        ));
    }
    let root = sh::root();
    let skips = sh::target_dir(&root).join("skipped-tests.txt");
    let _ = fs::remove_file(&skips); // of an earlier run
    let mut tally = Tally::default();
    let mut broken = Vec::new();
    let prost = sh::has_protoc().then_some(&PROST);
    for run in RUNS.iter().chain(prost) {
        let mut command = sh::cargo(&root);
        command.arg("test").args(run.args).arg("--no-fail-fast");
        step(run.name, &mut command, &skips, &mut tally, &mut broken);
    }
    if prost.is_none() {
        skip("protoc 3.x", PROST.name, &skips, &mut tally, &mut broken);
    }
    let mut command = sh::cargo(&root);
    command.env("OARLOCK_STATES", states::IN_TEST.to_string());
    command.env("OARLOCK_STRIDE", states::STRIDE_IN_TEST);
    command.arg("test").args(states::TARGET).args(["--", "states::", "rot::", "--nocapture"]);
    step("crash states and damage of the log", &mut command, &skips, &mut tally, &mut broken);
    for (package, example) in examples(&root) {
        let mut command = sh::cargo(&root);
        // With the features of the first run, as far as they are the package's own, so that little is built for it.
        let own =
            sh::TESTING.split(',').filter(|feature| feature.starts_with(&format!("{package}/")));
        let features = own.collect::<Vec<_>>().join(",");
        let what = ["--package", &package, "--example", &example, "--features", &features];
        command.args(["run", "--quiet"]).args(what);
        let before = broken.len();
        step(&format!("example {example}"), &mut command, &skips, &mut tally, &mut broken);
        if broken.len() == before {
            tally.passed += 1;
        } else {
            tally.failed += 1;
        }
    }
    println!("test: planted bugs");
    match planted::run(&PLANTED.map(str::to_owned)) {
        Ok(()) => tally.passed += 1,
        Err(why) => {
            println!("{why}");
            tally.failed += 1;
            broken.push("planted bugs".to_owned());
        }
    }
    conclude(&tally, &skipped(&fs::read_to_string(&skips).unwrap_or_default()), &broken)
}

/// Runs `command`, shows what it prints, and adds the results up.
fn step(
    name: &str,
    command: &mut Command,
    skips: &Path,
    tally: &mut Tally,
    broken: &mut Vec<String>,
) {
    println!("test: {name}");
    let begin = Instant::now();
    command.env("OARLOCK_SKIPS", skips).stdout(Stdio::piped());
    let outcome = command.spawn().and_then(|mut child| {
        for line in BufReader::new(child.stdout.take().expect("piped above")).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tally.add(&line);
        }
        child.wait()
    });
    println!("test: {name}: {:.0} s", begin.elapsed().as_secs_f64());
    match outcome {
        Ok(status) if status.success() => {}
        Ok(status) => broken.push(format!("{name} ({status})")),
        Err(error) => broken.push(format!("{name} (cannot run cargo: {error})")),
    }
}

/// Notes a run that was left out, like a test that did not find its tool.
fn skip(tool: &str, name: &str, skips: &Path, tally: &mut Tally, broken: &mut Vec<String>) {
    if std::env::var("OARLOCK_REQUIRE").is_ok_and(|value| value == "all") {
        broken.push(format!("{name} (needs {tool})"));
        return;
    }
    let noted = fs::OpenOptions::new().create(true).append(true).open(skips);
    match noted.and_then(|mut file| writeln!(file, "{tool}\t{name}")) {
        Ok(()) => tally.passed += 1, // as such a test does
        Err(error) => broken.push(format!("{name} (cannot be noted as skipped: {error})")),
    }
}

impl Tally {
    /// Adds the last line of one test binary; any other line is passed over.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) =
            line.split_once("test result: ").and_then(|(_, rest)| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let mut words = count.split_whitespace();
            let number = words.next().and_then(|word| word.parse::<usize>().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// Tool to the tests that looked for it in vain; the file has lines `tool<TAB>test`.
fn skipped(file: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut by_tool: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tool, test) in file.lines().filter_map(|line| line.split_once('\t')) {
        by_tool.entry(tool).or_default().push(test);
    }
    by_tool
}

fn conclude(
    tally: &Tally,
    skipped: &BTreeMap<&str, Vec<&str>>,
    broken: &[String],
) -> Result<(), String> {
    let skips: usize = skipped.values().map(Vec::len).sum();
    for (tool, tests) in skipped {
        println!("skipped for want of {tool}: {}", tests.join(", "));
    }
    if tally.ignored > 0 {
        println!("{} tests are ignored: a test runs, or skips by name, or goes", tally.ignored);
    }
    // A skip returns early, so its binary counted it as passed.
    let passed = tally.passed.saturating_sub(skips);
    // A binary that died, or a build that failed, reports no count of its own.
    let failed = tally.failed.max(broken.len());
    let by_name: Vec<_> =
        skipped.iter().map(|(tool, tests)| format!("{tool}: {}", tests.len())).collect();
    let names =
        if by_name.is_empty() { String::new() } else { format!(" ({})", by_name.join(", ")) };
    let line =
        format!("{passed} passed, {failed} failed, {} skipped{names}", skips + tally.ignored);
    if !broken.is_empty() {
        return Err(format!("broken: {}\n{line}", broken.join(", ")));
    }
    if passed == 0 || tally.ignored > 0 {
        return Err(line);
    }
    println!("{line}");
    Ok(())
}

/// Package and name of every example of a crate.
fn examples(root: &Path) -> Vec<(String, String)> {
    let list =
        |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = Vec::new();
    for folder in list(root.join("crates")) {
        let Some(package) = folder.file_name().and_then(|name| name.to_str()) else { continue };
        for file in list(folder.join("examples"))
            .filter(|file| file.extension().is_some_and(|ext| ext == "rs"))
        {
            if let Some(name) = file.file_stem().and_then(|name| name.to_str()) {
                found.push((format!("oarlock-{package}"), name.to_owned()));
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let mut tally = Tally::default();
        tally.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s");
        tally.add("test tests::result ... ok");
        tally.add("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        assert_eq!(tally, Tally { passed: 14, failed: 3, ignored: 1 });
    }

    #[test]
    fn skips_are_counted_by_tool() {
        let by_tool = skipped("etcdctl\ta\nstrace\tb\netcdctl\tc\nnot a line\n");
        assert_eq!(by_tool.get("etcdctl"), Some(&vec!["a", "c"]));
        assert_eq!(by_tool.get("strace"), Some(&vec!["b"]));
        assert_eq!(by_tool.len(), 2);
    }

    #[test]
    fn a_run_that_was_left_out_is_named() {
        let skips = sh::target_dir(&sh::root()).join(format!("skip-{}.txt", std::process::id()));
        let (mut tally, mut broken) = (Tally::default(), Vec::new());
        skip("protoc", "a run", &skips, &mut tally, &mut broken);
        let noted = fs::read_to_string(&skips).unwrap_or_default();
        let _ = fs::remove_file(&skips);
        // Where nothing may be skipped it fails the whole instead.
        if broken.is_empty() {
            assert_eq!((noted.as_str(), tally.passed), ("protoc\ta run\n", 1));
        } else {
            assert_eq!((noted.as_str(), broken.len()), ("", 1));
        }
    }

    #[test]
    fn anything_that_broke_fails_the_whole() {
        let none = BTreeMap::new();
        let fine = Tally { passed: 1, failed: 0, ignored: 0 };
        conclude(&fine, &none, &[]).expect("all passed");
        conclude(&fine, &none, &["workspace".to_owned()])
            .expect_err("a build that failed has no count");
        conclude(&Tally { ignored: 1, ..fine }, &none, &[]).expect_err("an ignored test");
        conclude(&Tally::default(), &none, &[]).expect_err("no test ran at all");
    }

    #[test]
    fn a_skipped_test_is_not_a_passed_one() {
        let tally = Tally { passed: 1, failed: 0, ignored: 0 };
        conclude(&tally, &skipped("strace\ta\n"), &[]).expect_err("the only test was skipped");
    }
}
