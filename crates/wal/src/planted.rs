//! Bugs to order, for testing the tests: `planted.txt` lists them, and `cargo xtask planted wal` shows that each is
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

/// The footer without what was overwritten since the segment was left, perhaps by frames that are not durable.
#[cfg(oarlock_planted)]
pub(crate) fn truncated(
    footer: &crate::format::Footer,
    index: &crate::index::Index,
) -> std::sync::Arc<crate::format::Footer> {
    let mut footer = footer.clone();
    if planted("footer-of-the-truncated-run") {
        let terms = footer.terms.clone();
        let term = |i| terms.iter().rev().find(|(first, _)| *first <= i).map(|(_, term)| *term);
        let held = (footer.first..).take(footer.offsets.len());
        let live = held.take_while(|i| index.term(*i) == term(*i)).count();
        footer.offsets.truncate(live);
        footer.terms.retain(|(first, _)| *first < footer.first + live as u64);
    }
    std::sync::Arc::new(footer)
}

/// Zeros over the torn tail where it stands, which a failed sync leaves in the page cache alone.
#[cfg(oarlock_planted)]
pub(crate) fn zeroed(
    junk: &[crate::scan::Junk],
    segment: &crate::segment::Segment,
) -> Result<bool, crate::Error> {
    let torn = junk.iter().filter(|_| planted("torn-tail-zeroed-in-place"));
    let Some(torn) = torn.clone().find(|junk| junk.segment.id == segment.id) else {
        return Ok(false);
    };
    segment.write(&vec![0; (torn.end - torn.start) as usize], torn.start)?;
    segment.sync()?;
    Ok(true)
}
