//! What was measured, and whether it is enough.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::turns::Summary;
use crate::{Bench, Result, chart};

/// Everything measured so far.
#[derive(Default)]
pub struct Report {
    pub rows: Vec<Row>,
}

/// One case of a workload: what each contender took, and what was asked of it.
pub struct Row {
    pub work: &'static str,
    pub case: String,
    pub unit: Unit,
    pub cells: Vec<Cell>,
    pub checks: Vec<Check>,
    /// What explains the figures.
    notes: Vec<String>,
}

pub struct Cell {
    pub name: String,
    pub summary: Summary,
}

/// How samples are shown. Less is better in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Bytes,
    Mebibytes,
}

/// A target, and what came of it.
pub struct Check {
    pub what: String,
    pub measured: f64,
    pub bound: Bound,
}

#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Bytes => "B",
            Self::Mebibytes => "MiB",
        }
    }

    /// A sample (nanoseconds or bytes) as it is shown, to three digits.
    pub fn show(self, sample: f64) -> String {
        let value = match self {
            Self::Nanoseconds | Self::Bytes => sample,
            Self::Microseconds => sample / 1e3,
            Self::Milliseconds => sample / 1e6,
            Self::Mebibytes => sample / (1 << 20) as f64,
        };
        digits(value)
    }
}

/// Three digits that matter.
pub fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl Check {
    pub fn reached(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.measured <= bound,
            Bound::AtLeast(bound) => self.measured >= bound,
        }
    }

    fn target(&self) -> String {
        match self.bound {
            Bound::AtMost(bound) => format!("at most {}", digits(bound)),
            Bound::AtLeast(bound) => format!("at least {}", digits(bound)),
        }
    }

    fn verdict(&self) -> &'static str {
        if self.reached() { "reached" } else { "not reached" }
    }
}

impl Row {
    pub fn new(work: &'static str, case: impl Into<String>, unit: Unit) -> Self {
        Self {
            work,
            case: case.into(),
            unit,
            cells: Vec::new(),
            checks: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub fn cell(&mut self, name: impl Into<String>, summary: Summary) {
        self.cells.push(Cell { name: name.into(), summary });
    }

    pub fn check(&mut self, what: impl Into<String>, measured: f64, bound: Bound) {
        self.checks.push(Check { what: what.into(), measured, bound });
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The median of a contender; not a number if it did not take part.
    pub fn p50(&self, name: &str) -> f64 {
        let cell = self.cells.iter().find(|cell| cell.name == name);
        cell.map_or(f64::NAN, |cell| cell.summary.p50)
    }

    /// What the first contender of the row took, whom the others are compared with.
    fn base(&self) -> f64 {
        self.cells.first().map_or(f64::NAN, |cell| cell.summary.p50)
    }

    pub fn print(&self) {
        println!("\n{} · {} ({})", self.work, self.case, self.unit.name());
        for Cell { name, summary } in &self.cells {
            let [p50, p10, p99] =
                [summary.p50, summary.p10, summary.p99].map(|v| self.unit.show(v));
            let ratio = digits(summary.p50 / self.base());
            println!(
                "  {name:26}{p50:>10}{ratio:>8}x   p10 {p10:>8}   p99 {p99:>8}   n {}",
                summary.samples
            );
        }
        self.notes.iter().for_each(|note| println!("  ({note})"));
        for check in &self.checks {
            let (measured, target) = (digits(check.measured), check.target());
            println!("  {}: {measured}, {target}: {}", check.what, check.verdict());
        }
    }
}

impl Report {
    pub fn print_verdicts(&self) {
        let checks: Vec<&Check> = self.rows.iter().flat_map(|row| &row.checks).collect();
        let reached = checks.iter().filter(|check| check.reached()).count();
        println!("\n{reached} of {} targets reached", checks.len());
    }

    /// Writes the bench's page, and a chart for every workload.
    pub fn write(&self, out: &Path, bench: &Bench, machine: &str) -> Result<()> {
        fs::create_dir_all(out)?;
        let Bench { name, title, about, .. } = bench;
        let mut page =
            format!("# {title}\n\nMade by `cargo xtask bench {name}`. {machine}.\n\n{about}\n");
        self.targets(&mut page)?;
        for work in bench.works {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.work == work.name).collect();
            if rows.is_empty() {
                continue;
            }
            let chart = format!("{name}-{}.svg", work.name);
            fs::write(out.join(&chart), chart::draw(work.title, &rows))?;
            writeln!(page, "\n## {}\n\n![{}]({chart})\n\n{}", work.title, work.title, work.notes)?;
            rows.iter().try_for_each(|row| row.table(&mut page))?;
        }
        Ok(fs::write(out.join(format!("{name}.md")), page)?)
    }

    fn targets(&self, page: &mut String) -> Result<()> {
        writeln!(page, "\n## Targets\n\n| work | case | what | target | measured | |")?;
        writeln!(page, "|---|---|---|---|---|---|")?;
        for row in &self.rows {
            for check in &row.checks {
                writeln!(
                    page,
                    "| {} | {} | {} | {} | {} | {} |",
                    row.work,
                    row.case,
                    check.what,
                    check.target(),
                    digits(check.measured),
                    if check.reached() { "reached" } else { "**not reached**" },
                )?;
            }
        }
        Ok(())
    }
}

impl Row {
    fn table(&self, page: &mut String) -> Result<()> {
        let base = self.cells.first().map_or("", |cell| cell.name.as_str());
        let unit = self.unit.name();
        writeln!(page, "\n{}\n", self.case)?;
        writeln!(
            page,
            "| | p50 {unit} | x {base} | p10 {unit} | x {base} | p99 {unit} | samples |"
        )?;
        writeln!(page, "|---|---:|---:|---:|---:|---:|---:|")?;
        let least = self.cells.first().map_or(f64::NAN, |cell| cell.summary.p10);
        for Cell { name, summary } in &self.cells {
            let [p50, p10, p99] =
                [summary.p50, summary.p10, summary.p99].map(|v| self.unit.show(v));
            let ratio = digits(summary.p50 / self.base());
            let (low, n) = (digits(summary.p10 / least), summary.samples);
            writeln!(page, "| {name} | {p50} | {ratio} | {p10} | {low} | {p99} | {n} |")?;
        }
        for note in &self.notes {
            writeln!(page, "\n{note}.")?;
        }
        Ok(())
    }
}
