//! `docs/contracts.md` names, for every contract, the tests and scenarios that try it, and the bugs that break it. This
//! check keeps the page true: each contract is there once, whatever is named exists, every contract about order has a bug
//! that a test is shown to catch, and a scenario or a reason why not, and every failpoint is on the page.

use super::Report;
use super::tidy::read;
use crate::sh;
use std::collections::BTreeSet;
use std::path::Path;

const PAGE: &str = "docs/contracts.md";
const SCENARIOS: &str = "tests/scenarios";
const BUGS: &str = "planted.txt";
const FAILPOINTS: &str = "crates/raftnode/src";

pub(super) fn contracts(root: &Path) -> Report {
    let mut report = Report::default();
    let Some(page) = report.check(read(root, Path::new(PAGE))) else { return report };
    let Some(files) = report.check(sh::tracked(root)) else { return report };
    let mut functions = BTreeSet::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|ext| ext == "rs")) {
        if let Ok(text) = read(root, file) {
            functions.extend(functions_in(&text));
        }
    }
    let scenarios = files.iter().filter(|file| file.starts_with(SCENARIOS));
    let scenarios = scenarios.filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned()));
    let mut bugs = BTreeSet::new();
    for list in files.iter().filter(|file| file.file_name().is_some_and(|name| name == BUGS)) {
        let Some(text) = report.check(read(root, list)) else { continue };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        bugs.extend(lines.filter_map(|line| Some(line.split_once('|')?.0.trim().to_owned())));
    }
    report.faults.extend(untrue(&page, &functions, &scenarios.collect()));
    report.faults.extend(unbroken(&page, &bugs));
    report.faults.extend(unplayed(&page));
    let sources = files.iter().filter(|file| file.starts_with(FAILPOINTS));
    for point in sources.filter_map(|file| read(root, file).ok()).flat_map(|text| points_in(&text))
    {
        if !page.contains(&format!("`{point}`")) {
            report.faults.push(format!("{PAGE}: the failpoint `{point}` is not in its table"));
        }
    }
    report
}

/// What the page says that is not so.
fn untrue(page: &str, functions: &BTreeSet<String>, scenarios: &BTreeSet<String>) -> Vec<String> {
    let wanted = (1..=29).map(|n| format!("O{n}")).chain((1..=8).map(|n| format!("W{n}")));
    let missing = wanted.filter_map(|contract| {
        let heading = format!("### {contract}:");
        let count = page.lines().filter(|line| line.starts_with(&heading)).count();
        (count != 1)
            .then(|| format!("{PAGE}: {contract} has {count} headings `{heading}`, not one"))
    });
    let tests = named(page, "- Tests:").filter(|name| !functions.contains(*name));
    let tests = tests.map(|name| format!("{PAGE}: no function is called `{name}`"));
    let scripts = named(page, "- Scenarios:").filter(|name| !scenarios.contains(*name));
    let scripts = scripts.map(|name| format!("{PAGE}: there is no {SCENARIOS}/{name}.txt"));
    missing.chain(tests).chain(scripts).collect()
}

/// Bugs that nobody planted, and contracts that no bug breaks.
fn unbroken(page: &str, bugs: &BTreeSet<String>) -> Vec<String> {
    let unknown = named(page, "- Mutations:").filter(|name| !bugs.contains(*name));
    let unknown = unknown.map(|name| format!("{PAGE}: no {BUGS} has `{name}`"));
    let sections = page.split("\n### ").skip(1).filter_map(|section| section.split_once(':'));
    let unproved = sections.filter(|(contract, text)| {
        contract.starts_with('O') && named(text, "- Mutations:").next().is_none()
    });
    let unproved =
        unproved.map(|(contract, _)| format!("{PAGE}: {contract} names no bug that breaks it"));
    unknown.chain(unproved).collect()
}

/// Contracts about order that no scenario shows, and nobody says why.
fn unplayed(page: &str) -> Vec<String> {
    let sections = page.split("\n### ").skip(1).filter_map(|section| section.split_once(':'));
    let unplayed = sections.filter(|(contract, text)| {
        let excused = text.lines().any(|line| line.starts_with("- No scenario: "));
        contract.starts_with('O') && excused == named(text, "- Scenarios:").next().is_some()
    });
    let text = "has neither scenarios nor `- No scenario: why`, or both";
    unplayed.map(|(contract, _)| format!("{PAGE}: {contract} {text}")).collect()
}

/// The names of the failpoints in a source file.
fn points_in(source: &str) -> Vec<String> {
    let calls = source.split("fail_point!(").skip(1);
    let names = calls.filter_map(|call| call.trim_start().strip_prefix('"')?.split_once('"'));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// What stands in backticks on the lines that begin with `label`.
fn named<'a>(page: &'a str, label: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = page.lines().filter_map(move |line| line.strip_prefix(label));
    lines.flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn functions_in(source: &str) -> impl Iterator<Item = String> {
    let after = source.split("fn ").skip(1);
    after.map(|text| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(tests: &str) -> String {
        let numbers = (1..=29).map(|n| format!("O{n}")).chain((1..=8).map(|n| format!("W{n}")));
        numbers.map(|name| format!("### {name}: a promise\n- Tests: {tests}\n")).collect()
    }

    #[test]
    fn a_true_page_passes() {
        let functions = functions_in("#[test]\nfn kept() {}").collect();
        assert_eq!(untrue(&page("`kept`"), &functions, &BTreeSet::new()), Vec::<String>::new());
    }

    #[test]
    fn a_test_that_does_not_exist_is_seen() {
        let functions = functions_in("fn kept() {}").collect();
        assert_eq!(untrue(&page("`kept`, `lost`"), &functions, &BTreeSet::new()).len(), 37);
    }

    #[test]
    fn a_scenario_that_does_not_exist_is_seen() {
        let functions = functions_in("fn kept() {}").collect();
        let scenarios = BTreeSet::from(["shown".to_owned()]);
        let page = page("`kept`\n- Scenarios: `shown`, `gone`");
        assert_eq!(untrue(&page, &functions, &scenarios).len(), 37);
    }

    #[test]
    fn a_contract_that_is_missing_or_there_twice_is_seen() {
        let functions = functions_in("fn kept() {}").collect();
        let page = page("`kept`").replace("### O7:", "### O8:");
        assert_eq!(untrue(&page, &functions, &BTreeSet::new()).len(), 2);
    }

    #[test]
    fn a_bug_that_nobody_planted_and_a_contract_without_one_are_seen() {
        let page = "\n### O1: a\n- Mutations: `late`\n### O2: b\n- Tests: `x`\n### W1: c\n";
        let bugs = BTreeSet::from(["late".to_owned()]);
        assert_eq!(unbroken(page, &bugs), ["docs/contracts.md: O2 names no bug that breaks it"]);
        assert_eq!(unbroken(page, &BTreeSet::new()).len(), 2);
    }

    #[test]
    fn a_contract_without_a_scenario_and_without_a_reason_is_seen() {
        let page =
            "\n### O1: a\n- Scenarios: `shown`\n### O2: b\n- No scenario: no clock\n### W1: c\n";
        assert_eq!(unplayed(page), Vec::<String>::new());
        assert_eq!(unplayed(&page.replace("- No scenario: no clock", "- Tests: `x`")).len(), 1);
        assert_eq!(unplayed(&page.replace("- Scenarios: `shown`", "- Scenarios: none")).len(), 1);
    }

    #[test]
    fn failpoints_are_found_in_the_source() {
        let source = concat!("fail_point!(", "\"one\", id);\n fail_point!(", "\n  \"two\",\n id)");
        assert_eq!(points_in(source), ["one", "two"]);
    }
}
