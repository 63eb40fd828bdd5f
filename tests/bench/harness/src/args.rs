//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::turns::Budget;
use crate::work::Work;

/// What was asked for.
#[derive(Debug, Default)]
pub struct Args {
    pub only: Vec<String>,
    pub quick: bool,
    pub list: bool,
    pub dir: PathBuf,
    /// This process is one of another one's: what it is to do.
    pub child: Option<String>,
    seconds: Option<u64>,
    out: Option<PathBuf>,
}

fn usage(bench: &str) -> String {
    format!(
        "\
usage: cargo xtask bench {bench} [options]

  --only A,B     workloads whose names begin with one of these (--list names them)
  --quick        a tenth of the time and of the data: a look, not a result
  --seconds N    time for every set of turns (6)
  --dir DIR      where the data goes, on a real disk (target/bench)
  --out DIR      where table and charts go; by default docs/bench, and only after a full run
  --list         names the workloads

environment: OARLOCK_BENCH_NO_CHRT=1 stays at ordinary priority"
    )
}

impl Args {
    /// The words after `cargo xtask bench <bench>`.
    pub fn parse(
        bench: &str,
        works: &[Work],
        mut words: impl Iterator<Item = String>,
    ) -> Result<Self> {
        let usage = usage(bench);
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../target/bench");
        let mut args = Self { dir: dir.into(), ..Self::default() };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{usage}"));
            match word.as_str() {
                "--only" => args.only.extend(value()?.split(',').map(str::to_owned)),
                "--quick" => args.quick = true,
                "--seconds" => args.seconds = Some(value()?.parse()?),
                "--dir" => args.dir = value()?.into(),
                "--out" => args.out = Some(value()?.into()),
                "--child" => args.child = Some(value()?),
                "--list" => args.list = true,
                _ => return Err(usage.into()),
            }
        }
        let known = |only: &&String| works.iter().any(|work| work.name.starts_with(&***only));
        match args.only.iter().find(|only| !known(only)) {
            Some(only) => Err(format!("no workload begins with {only}; --list names them").into()),
            None => Ok(args),
        }
    }

    pub fn wants(&self, work: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| work.starts_with(only.as_str()))
    }

    /// Time for a set of turns, of `rounds` at most.
    pub fn budget(&self, rounds: usize) -> Budget {
        let seconds = self.seconds.unwrap_or(if self.quick { 1 } else { 6 });
        Budget { time: Duration::from_secs(seconds), rounds }
    }

    /// The same for turns that take long.
    pub fn longer(&self, rounds: usize) -> Budget {
        let budget = self.budget(rounds);
        Budget { time: budget.time * 4, ..budget }
    }

    /// `full`, or a tenth or so of it in a quick run.
    pub fn scaled(&self, full: usize) -> usize {
        if self.quick { full / 8 } else { full }
    }

    /// Where the report goes: only a full run changes the one in the repository.
    pub fn out(&self) -> Option<PathBuf> {
        let full = self.only.is_empty() && !self.quick;
        let docs = || concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/bench").into();
        self.out.clone().or_else(|| full.then(docs))
    }
}
