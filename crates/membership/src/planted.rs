//! Bugs to order, for testing the tests: `planted.txt` lists them, and `cargo xtask planted membership` shows that each is
//! caught by the test named there.

/// Whether this bug is switched on: never, and known when compiling, unless built with `--cfg oarlock_planted`.
#[cfg(not(oarlock_planted))]
pub(crate) const fn planted(_bug: &str) -> bool {
    false
}

/// Whether this bug is switched on: `OARLOCK_PLANTED` names it.
#[cfg(oarlock_planted)]
pub(crate) fn planted(bug: &str) -> bool {
    static ON: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var("OARLOCK_PLANTED").ok()).as_deref() == Some(bug)
}
