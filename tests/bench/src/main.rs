//! `cargo xtask bench wal`: oarlock-wal, its peers and the physical limit, in one run.
//!
//! Contenders take turns, operation by operation, so that all of them meet the same noise; only ratios within one run
//! mean anything. Each workload has its targets, and says which of them were reached.

#[path = "../../../crates/wal/benches/floor/limit.rs"]
mod limit;
#[path = "../../../crates/wal/benches/floor/turns.rs"]
mod turns;

mod args;
mod chart;
mod machine;
mod peers;
mod report;
mod work;

use std::fs;
use std::process::ExitCode;

use args::Args;
use machine::Priority;
use report::Report;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args = Args::parse(std::env::args().skip(1))?;
    if let Some(child) = &args.child {
        return work::heap::child(child, &args.dir);
    }
    if args.list {
        work::ALL.iter().for_each(|work| println!("{:16}{}", work.name, work.title));
        return Ok(());
    }
    fs::create_dir_all(&args.dir)?;
    machine::refuse_memory(&args.dir)?;
    let priority = Priority::raise();
    println!("{}", machine::describe(&args.dir, &priority));

    let mut report = Report::default();
    for work in work::ALL.iter().filter(|work| args.wants(work.name)) {
        println!("\n== {}: {}", work.name, work.title);
        let begun = report.rows.len();
        let scratch = work::Scratch::new(&args.dir, work.name)?;
        (work.run)(&work::Setting { args: &args, dir: scratch.path() }, &mut report)?;
        report.rows[begun..].iter().for_each(report::Row::print);
    }
    report.print_verdicts();
    if let Some(out) = args.out() {
        report.write(&out, &machine::describe(&args.dir, &priority))?;
        println!("written to {}", out.canonicalize()?.display());
    }
    Ok(())
}
