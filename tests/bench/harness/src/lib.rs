//! What the benches of this workspace share: contenders take turns, targets are checked, tables and charts drawn.
//!
//! Contenders take turns, operation by operation, so that all of them meet the same noise; only ratios within one run
//! mean anything. Each workload has its targets, and the report says which of them were reached.

#[path = "../../../../crates/wal/benches/floor/limit.rs"]
pub mod limit;
#[path = "../../../../crates/wal/benches/floor/turns.rs"]
pub mod turns;

pub mod args;
mod chart;
pub mod data;
pub mod machine;
pub mod report;
pub mod work;

use std::fs;

use args::Args;
use data::Scratch;
use machine::Priority;
use report::Report;
use work::{Setting, Work};

/// Whatever went wrong: a bench has nobody to tell but the terminal.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The result of nearly everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One bench: what `cargo xtask bench <name>` runs.
#[derive(Clone, Copy)]
pub struct Bench {
    pub name: &'static str,
    /// The title of its page.
    pub title: &'static str,
    /// What the page says about the figures, after machine and date.
    pub about: &'static str,
    pub works: &'static [Work],
    /// What a process that was started with `--child` does.
    pub child: fn(&Args) -> Result<()>,
}

impl Bench {
    /// Does what the command line asks for.
    ///
    /// # Errors
    /// Whatever a workload ended with.
    pub fn run(&self) -> Result<()> {
        let args = Args::parse(self.name, self.works, std::env::args().skip(1))?;
        if args.child.is_some() {
            return (self.child)(&args);
        }
        if args.list {
            self.works.iter().for_each(|work| println!("{:16}{}", work.name, work.title));
            return Ok(());
        }
        fs::create_dir_all(&args.dir)?;
        machine::refuse_memory(&args.dir)?;
        let priority = Priority::raise();
        let machine = machine::describe(&args.dir, &priority);
        println!("{machine}");

        let mut report = Report::default();
        for work in self.works.iter().filter(|work| args.wants(work.name)) {
            println!("\n== {}: {}", work.name, work.title);
            let begun = report.rows.len();
            let scratch = Scratch::new(&args.dir, work.name)?;
            (work.run)(&Setting { args: &args, dir: scratch.path() }, &mut report)?;
            report.rows[begun..].iter().for_each(report::Row::print);
        }
        report.print_verdicts();
        if let Some(out) = args.out() {
            report.write(&out, self, &machine)?;
            println!("written to {}", out.canonicalize()?.display());
        }
        Ok(())
    }
}
