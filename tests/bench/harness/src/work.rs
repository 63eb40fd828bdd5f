//! What there is to measure.

use std::path::Path;

use crate::Result;
use crate::args::Args;
use crate::report::Report;

/// Something to measure.
#[derive(Clone, Copy)]
pub struct Work {
    pub name: &'static str,
    pub title: &'static str,
    /// For the page: what is timed, and what to know about it.
    pub notes: &'static str,
    pub run: fn(&Setting<'_>, &mut Report) -> Result<()>,
}

/// What a workload runs in.
pub struct Setting<'a> {
    pub args: &'a Args,
    pub dir: &'a Path,
}
