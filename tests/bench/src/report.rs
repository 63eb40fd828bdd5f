//! What was measured, and whether it is enough.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::turns::Summary;
use crate::{Result, chart, work};

/// Everything measured so far.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
}

/// One case of a workload: what each contender took, and what was asked of it.
pub(crate) struct Row {
    pub(crate) work: &'static str,
    pub(crate) case: String,
    pub(crate) unit: Unit,
    pub(crate) cells: Vec<Cell>,
    pub(crate) checks: Vec<Check>,
    /// What explains the figures.
    notes: Vec<String>,
}

pub(crate) struct Cell {
    pub(crate) name: String,
    pub(crate) summary: Summary,
}

/// How samples are shown. Less is better in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Bytes,
}

/// A target, and what came of it.
pub(crate) struct Check {
    pub(crate) what: String,
    pub(crate) measured: f64,
    pub(crate) bound: Bound,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Bytes => "B",
        }
    }

    /// A sample (nanoseconds or bytes) as it is shown, to three digits.
    pub(crate) fn show(self, sample: f64) -> String {
        let value = match self {
            Self::Nanoseconds | Self::Bytes => sample,
            Self::Microseconds => sample / 1e3,
            Self::Milliseconds => sample / 1e6,
        };
        digits(value)
    }
}

/// Three digits that matter.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl Check {
    pub(crate) fn reached(&self) -> bool {
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
    pub(crate) fn new(work: &'static str, case: impl Into<String>, unit: Unit) -> Self {
        Self {
            work,
            case: case.into(),
            unit,
            cells: Vec::new(),
            checks: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn cell(&mut self, name: impl Into<String>, summary: Summary) {
        self.cells.push(Cell { name: name.into(), summary });
    }

    pub(crate) fn check(&mut self, what: impl Into<String>, measured: f64, bound: Bound) {
        self.checks.push(Check { what: what.into(), measured, bound });
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The median of a contender; not a number if it did not take part.
    pub(crate) fn p50(&self, name: &str) -> f64 {
        let cell = self.cells.iter().find(|cell| cell.name == name);
        cell.map_or(f64::NAN, |cell| cell.summary.p50)
    }

    /// What the first contender of the row took, whom the others are compared with.
    fn base(&self) -> f64 {
        self.cells.first().map_or(f64::NAN, |cell| cell.summary.p50)
    }

    pub(crate) fn print(&self) {
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
    pub(crate) fn print_verdicts(&self) {
        let checks: Vec<&Check> = self.rows.iter().flat_map(|row| &row.checks).collect();
        let reached = checks.iter().filter(|check| check.reached()).count();
        println!("\n{reached} of {} targets reached", checks.len());
    }

    /// Writes `wal.md` and a chart for every workload.
    pub(crate) fn write(&self, out: &Path, machine: &str) -> Result<()> {
        fs::create_dir_all(out)?;
        let mut page = format!(
            "# oarlock-wal beside its peers and the physical limit\n\n\
             Made by `cargo xtask bench wal`. {machine}.\n\n\
             Contenders took turns, operation by operation; p50 is the median of the medians of nine blocks, p10 the figure \
             least touched by noise. Absolute figures belong to this machine and hour; only ratios within a table mean \
             anything. What falls short of its target is shown as it is; the [README](README.md) says why.\n"
        );
        self.targets(&mut page)?;
        for work in work::ALL {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.work == work.name).collect();
            if rows.is_empty() {
                continue;
            }
            let chart = format!("wal-{}.svg", work.name);
            fs::write(out.join(&chart), chart::draw(work.title, &rows))?;
            writeln!(page, "\n## {}\n\n![{}]({chart})\n\n{}", work.title, work.title, work.notes)?;
            rows.iter().try_for_each(|row| row.table(&mut page))?;
        }
        Ok(fs::write(out.join("wal.md"), page)?)
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
