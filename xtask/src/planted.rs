//! `cargo xtask planted [crate ...] [bug ...]`: bugs planted on purpose, each of which its named test must catch.
//!
//! A crate plants a bug with `if planted("name")`, which is false when it is compiled like any other crate. Built with
//! `--cfg oarlock_planted` it is true in a process whose `OARLOCK_PLANTED` is that name. `crates/X/planted.txt` lists
//! the bugs, one a line:
//!
//! ```text
//! name | what cargo test is told to build | the test's name | what its failure says
//! ```
//!
//! The second column is `--lib` or `--test TARGET`, after `-p PACKAGE` if the test lives in another package. Every test
//! must pass with no bug switched on, and with its own must fail, saying what the list says.
//!
//! Only the packages of this workspace get the cfg: this program serves as cargo's `RUSTC_WORKSPACE_WRAPPER`, so that
//! what they depend on is not built once more.

use crate::sh;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Set for the compiler runs that this program wraps.
const WRAPPING: &str = "OARLOCK_PLANTED_RUSTC";

/// Switches a bug on.
const SWITCH: &str = "OARLOCK_PLANTED";

/// A test that runs longer than this hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// One bug and the test that knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bug {
    name: String,
    target: Target,
    test: String,
    says: String,
}

/// A test binary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    package: String,
    args: Vec<String>,
}

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let root = sh::root();
    let lists = lists(&root)?;
    let (crates, names): (Vec<&String>, Vec<&String>) =
        args.iter().partition(|arg| lists.contains_key(*arg));
    let mut bugs = Vec::new();
    for (name, list) in &lists {
        if !crates.is_empty() && !crates.contains(&name) {
            continue;
        }
        let found = parse(&format!("oarlock-{name}"), list)?;
        agree(&found, &root.join("crates").join(name).join("src"))?;
        bugs.extend(found);
    }
    if let Some(name) = names.iter().find(|name| bugs.iter().all(|bug| bug.name != ***name)) {
        return Err(format!("{name} is neither a bug nor a crate with bugs: {}", keys(&lists)));
    }
    bugs.retain(|bug| names.is_empty() || names.contains(&&bug.name));
    let mut programs = BTreeMap::new();
    for bug in &bugs {
        if !programs.contains_key(&bug.target) {
            programs.insert(bug.target.clone(), build(&root, &bug.target)?);
        }
    }
    let mut faults = Vec::new();
    for (target, program) in &programs {
        let tests: BTreeSet<&str> =
            bugs.iter().filter(|bug| bug.target == *target).map(|bug| bug.test.as_str()).collect();
        let tests: Vec<&str> = tests.into_iter().collect();
        let ran = execute(&root, target, program, &tests, None)?;
        if !ran.passed || !ran.output.contains(&format!(". {} passed; ", tests.len())) {
            faults.push(format!(
                "without any bug, of {tests:?} not all ran and passed:\n{}",
                ran.output
            ));
        }
    }
    faults.extend(try_all(&root, &bugs, &programs));
    if faults.is_empty() {
        println!("{} planted bugs, each caught by its test", bugs.len());
        return Ok(());
    }
    Err(faults.join("\n\n"))
}

/// Switches on one bug after the other, as many side by side as there are processors, and says who was not caught: their
/// tests mostly wait for timeouts, and each is a process of its own.
fn try_all(root: &Path, bugs: &[Bug], programs: &BTreeMap<Target, PathBuf>) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut faults = Vec::new();
        while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let begin = Instant::now();
            let ran = execute(root, &bug.target, &programs[&bug.target], &[&bug.test], Some(bug));
            let caught = ran.and_then(|ran| {
                ran.verdict(bug).map_err(|why| format!("{}: {why}:\n{}", bug.name, ran.output))
            });
            match caught {
                Ok(()) => println!(
                    "planted: {}: caught by {} ({:.1} s)",
                    bug.name,
                    bug.test,
                    begin.elapsed().as_secs_f64()
                ),
                Err(why) => {
                    println!("planted: {}: NOT CAUGHT by {}", bug.name, bug.test);
                    faults.push(why);
                }
            }
        }
        faults
    };
    let side_by_side = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..side_by_side).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| vec!["a thread of this program panicked".to_owned()])
        });
        joined.flatten().collect()
    })
}

/// The lists, by the crate's directory.
fn lists(root: &Path) -> Result<BTreeMap<String, String>, String> {
    let mut lists = BTreeMap::new();
    for entry in fs::read_dir(root.join("crates")).map_err(|error| error.to_string())?.flatten() {
        if let Ok(text) = fs::read_to_string(entry.path().join("planted.txt")) {
            lists.insert(entry.file_name().to_string_lossy().into_owned(), text);
        }
    }
    Ok(lists)
}

fn keys(lists: &BTreeMap<String, String>) -> String {
    lists.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Reads a list. `package` is where its tests live unless a line says otherwise.
fn parse(package: &str, text: &str) -> Result<Vec<Bug>, String> {
    let mut bugs = Vec::new();
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    for line in lines {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [name, target, test, says] = columns[..] else {
            return Err(format!("planted.txt of {package}: not four columns: {line}"));
        };
        if [name, target, test, says].contains(&"") {
            return Err(format!("planted.txt of {package}: an empty column: {line}"));
        }
        let mut words: Vec<String> = target.split_whitespace().map(str::to_owned).collect();
        let mut package = package.to_owned();
        if words.first().is_some_and(|word| word == "-p") && words.len() > 2 {
            package = words.remove(1);
            words.remove(0);
        }
        let target = Target { package, args: words };
        bugs.push(Bug { name: name.into(), target, test: test.into(), says: says.into() });
    }
    Ok(bugs)
}

/// Every bug that is listed is planted below `src`, and the other way round.
fn agree(bugs: &[Bug], src: &Path) -> Result<(), String> {
    let mut planted = BTreeSet::new();
    collect(src, &mut planted)?;
    let listed: BTreeSet<String> = bugs.iter().map(|bug| bug.name.clone()).collect();
    if listed.len() != bugs.len() {
        return Err(format!("{}: a bug is listed twice", src.display()));
    }
    let missing: Vec<_> = listed.difference(&planted).collect();
    let unlisted: Vec<_> = planted.difference(&listed).collect();
    if missing.is_empty() && unlisted.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}: listed and not planted: {missing:?}; planted and not listed: {unlisted:?}",
        src.display()
    ))
}

fn collect(dir: &Path, into: &mut BTreeSet<String>) -> Result<(), String> {
    for entry in fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?.flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            into.extend(names(&text));
        }
    }
    Ok(())
}

/// The bugs that a source file plants.
fn names(text: &str) -> Vec<String> {
    let calls = text.split("planted(\"").skip(1);
    calls.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()).collect()
}

/// Builds a test binary with the bugs in it, and says where it is.
fn build(root: &Path, target: &Target) -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| format!("where am I? {error}"))?;
    let mut command = sh::cargo(root);
    command.env("RUSTC_WORKSPACE_WRAPPER", this).env(WRAPPING, "1");
    command.args(["test", "--no-run", "--package", &target.package]).args(&target.args);
    let own = format!("{}/", target.package);
    let features: Vec<&str> =
        sh::TESTING.split(',').filter(|feature| feature.starts_with(&own)).collect();
    command.args(["--features", &features.join(",")]);
    let output = command.output().map_err(|error| format!("cannot run cargo: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // "  Executable tests/log/main.rs (target/debug/deps/log-0123456789abcdef)"
    let line = said.lines().rev().find(|line| line.trim_start().starts_with("Executable "));
    let path = line.and_then(|line| line.rsplit_once('(')?.1.strip_suffix(')'));
    match path.filter(|_| output.status.success()) {
        Some(path) => Ok(root.join(path)),
        None => Err(format!("cannot build {target:?}:\n{said}")),
    }
}

/// What a run of some tests came to.
struct Ran {
    passed: bool,
    hung: bool,
    output: String,
}

impl Ran {
    /// Whether the test failed, and for the reason that is listed.
    fn verdict(&self, bug: &Bug) -> Result<(), String> {
        if self.hung {
            return Err(format!("its test did not end within {} s", LIMIT.as_secs()));
        }
        if self.passed {
            return Err("its test passed".to_owned());
        }
        if !self.output.contains(&bug.says) {
            return Err(format!("its test failed, but did not say {:?}", bug.says));
        }
        Ok(())
    }
}

fn execute(
    root: &Path,
    target: &Target,
    program: &Path,
    tests: &[&str],
    bug: Option<&Bug>,
) -> Result<Ran, String> {
    let short = target.package.trim_start_matches("oarlock-");
    let dir = match short {
        "tests" => root.join("tests"),
        short => root.join("crates").join(short),
    };
    let name = bug.map_or("none", |bug| &bug.name);
    let said = sh::target_dir(root).join(format!("planted-{name}-{}.txt", std::process::id()));
    let open = || fs::File::create(&said).map_err(|error| format!("{}: {error}", said.display()));
    let file = open()?;
    let mut command = Command::new(program);
    command.current_dir(dir).args(["--exact", "--nocapture", "--test-threads=1"]).args(tests);
    command
        .env_remove(SWITCH)
        .env("OARLOCK_SKIPS", sh::target_dir(root).join("skipped-planted.txt"));
    command.env("RUST_BACKTRACE", "0");
    if let Some(bug) = bug {
        command.env(SWITCH, &bug.name);
    }
    let errors = file.try_clone().map_err(|error| error.to_string())?;
    command.stdin(Stdio::null()).stdout(file).stderr(errors);
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    let output = fs::read(&said).map_err(|error| error.to_string())?;
    let _ = fs::remove_file(&said);
    Ok(Ran {
        passed: status.is_some_and(|status| status.success()),
        hung: status.is_none(),
        output: String::from_utf8_lossy(&output).into_owned(),
    })
}

/// Runs the compiler with the cfg, if cargo called this program for that.
pub(crate) fn wrapped(args: &[String]) -> Option<Result<(), String>> {
    std::env::var_os(WRAPPING)?;
    let (rustc, rest) = args.split_first()?;
    Some(sh::run(Command::new(rustc).args(rest).args(["--cfg", "oarlock_planted"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bug() -> Bug {
        let list = "# a remark\n\nlost | --test log | crash::keeps | LOST\n";
        parse("oarlock-wal", list).expect("a list").remove(0)
    }

    #[test]
    fn a_list_names_bug_target_test_and_reason() {
        let target =
            Target { package: "oarlock-wal".into(), args: vec!["--test".into(), "log".into()] };
        let expected =
            Bug { name: "lost".into(), target, test: "crash::keeps".into(), says: "LOST".into() };
        assert_eq!(bug(), expected);
        let other =
            parse("oarlock-raftnode", "a | -p oarlock-tests --test x | t | s").expect("a list");
        assert_eq!(other[0].target.package, "oarlock-tests");
        assert_eq!(other[0].target.args, ["--test", "x"]);
        parse("oarlock-wal", "a | b | c").expect_err("three columns");
        parse("oarlock-wal", "a | b | c |").expect_err("no reason");
    }

    #[test]
    fn a_bug_counts_as_caught_only_by_a_failure_for_its_reason() {
        let ran = |passed, hung, output: &str| Ran { passed, hung, output: output.into() };
        ran(false, false, "… LOST 5 …").verdict(&bug()).expect("caught");
        ran(false, false, "something else").verdict(&bug()).expect_err("another reason");
        ran(true, false, "LOST").verdict(&bug()).expect_err("passed");
        ran(false, true, "LOST").verdict(&bug()).expect_err("hung");
    }

    #[test]
    fn calls_are_found_in_the_source() {
        let text = concat!("if planted(", "\"one\") || !planted(", "\"two\") {}");
        assert_eq!(names(text), ["one", "two"]);
    }
}
