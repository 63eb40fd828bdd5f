//! The suites of `testing`: this crate's own implementations pass, and each check catches what breaks its promise.

use std::panic::{AssertUnwindSafe, catch_unwind};

use oarlock_raftnode::testing::Check;

mod logs;
mod machines;
mod snapshots;

/// Runs each check on an implementation without a bug, which it must let pass, and on the one that was made to break its
/// promise, which it must not.
fn each_check_catches_its_bug<F, B: Copy + std::fmt::Debug>(
    checks: &[Check<F>],
    bugs: &[(&str, B)],
    fixture: impl Fn(Option<B>) -> F,
) {
    for check in checks {
        check.run(&mut fixture(None));
        let planted: Vec<B> = bugs
            .iter()
            .filter(|(promise, _)| *promise == check.promise())
            .map(|(_, bug)| *bug)
            .collect();
        assert!(!planted.is_empty(), "nothing shows that a check can fail: {}", check.promise());
        for bug in planted {
            let caught = catch_unwind(AssertUnwindSafe(|| check.run(&mut fixture(Some(bug)))));
            assert!(caught.is_err(), "{bug:?} passes: {}", check.promise());
        }
    }
    for (promise, bug) in bugs {
        let known = checks.iter().any(|check| check.promise() == *promise);
        assert!(known, "{bug:?} breaks a promise that nobody makes: {promise}");
    }
}
