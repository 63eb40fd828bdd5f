//! `cargo xtask lint`: what must hold before a change is looked at.
//!
//! Every check is a function from a workspace root to a [`Report`], so that its own test can hand it a small
//! workspace with a planted fault and see it refuse.

mod boundaries;
mod build;
mod contracts;
mod licences;
mod purity;
mod tidy;

#[cfg(test)]
mod planted;

use crate::sh;
use std::path::Path;
use std::time::Instant;

/// What a check found: nothing, faults, or that a tool it needs is not here.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) faults: Vec<String>,
    pub(crate) skipped: Vec<String>,
}

impl Report {
    fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(text.into());
    }

    fn skip(&mut self, text: impl Into<String>) {
        self.skipped.push(text.into());
    }

    /// Keeps the error of something that should have worked.
    fn check<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|error| self.fault(error)).ok()
    }
}

impl FromIterator<String> for Report {
    fn from_iter<I: IntoIterator<Item = String>>(faults: I) -> Self {
        Self { faults: faults.into_iter().collect(), skipped: Vec::new() }
    }
}

type Check = (&'static str, fn(&Path) -> Report);

/// Cheapest first; the names can be given to `cargo xtask lint` to run only some.
const CHECKS: &[Check] = &[
    ("fmt", build::fmt),
    ("size", tidy::size),
    ("leftovers", tidy::leftovers),
    ("paths", tidy::paths),
    ("files", tidy::files),
    ("profiles", tidy::profiles),
    ("contracts", contracts::contracts),
    ("purity", purity::purity),
    ("boundaries", boundaries::boundaries),
    ("licences", licences::licences),
    ("deny", licences::deny),
    ("clippy", build::clippy),
    ("rustdoc", build::rustdoc),
    ("codegen", build::codegen),
];

/// Runs all checks, or those named in `args`, and fails if any of them found a fault.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    if let Some(unknown) = args.iter().find(|arg| CHECKS.iter().all(|(name, _)| name != arg)) {
        let names: Vec<_> = CHECKS.iter().map(|(name, _)| *name).collect();
        return Err(format!("no check is called {unknown}; there are: {}", names.join(" ")));
    }
    let root = sh::root();
    let mut failed = Vec::new();
    let mut skipped = Vec::new();
    for (name, check) in
        CHECKS.iter().filter(|(name, _)| args.is_empty() || args.iter().any(|arg| arg == name))
    {
        let begin = Instant::now();
        let report = check(&root);
        let verdict = if report.faults.is_empty() { "ok" } else { "FAILED" };
        println!("lint {name}: {verdict} ({:.1} s)", begin.elapsed().as_secs_f64());
        for fault in &report.faults {
            println!("  {}", fault.trim_end().replace('\n', "\n  "));
        }
        if !report.faults.is_empty() {
            failed.push(*name);
        }
        skipped.extend(report.skipped);
    }
    for skip in &skipped {
        println!("skipped: {skip}");
    }
    if !skipped.is_empty() && std::env::var("OARLOCK_REQUIRE").is_ok_and(|value| value == "all") {
        failed.push("skips (OARLOCK_REQUIRE=all)");
    }
    if failed.is_empty() {
        println!("lint: all checks passed, {} skipped", skipped.len());
        Ok(())
    } else {
        Err(format!("lint failed: {}", failed.join(", ")))
    }
}
