//! Bars as SVG: one group for a case, one bar for a contender, its length the logarithm of its median.

use std::fmt::Write as _;

use crate::report::{Row, digits};

const WIDTH: f64 = 760.0;
const LABEL: f64 = 190.0;
/// Room for the figures behind a bar.
const FIGURES: f64 = 140.0;
const BAR: f64 = 14.0;
const STEP: f64 = 18.0;
const GROUP: f64 = 34.0;
const HEAD: f64 = 56.0;

/// Draws the rows of a workload below each other, all on one scale: ratios to the first contender of each.
pub(crate) fn draw(title: &str, rows: &[&Row]) -> String {
    let ratios = |row: &Row| -> Vec<f64> {
        let base = row.cells.first().map_or(1.0, |cell| cell.summary.p50);
        row.cells.iter().map(|cell| cell.summary.p50 / base).collect()
    };
    let all: Vec<f64> = rows.iter().flat_map(|row| ratios(row)).filter(|r| r.is_normal()).collect();
    let least = all.iter().copied().fold(1.0, f64::min) / 1.6;
    let most = all.iter().copied().fold(2.0, f64::max);
    let length = |ratio: f64| {
        let share = (ratio.max(least) / least).ln() / (most / least).ln();
        (share * (WIDTH - LABEL - FIGURES)).max(1.0)
    };
    let bars: usize = rows.iter().map(|row| row.cells.len()).sum();
    let height = HEAD + rows.len() as f64 * GROUP + bars as f64 * STEP + 12.0;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, 16.0, 24.0, "#1b1f24\" font-size=\"15\" font-weight=\"600", title);
    let scale =
        "median, and as a multiple of the first bar of its group; logarithmic, shorter is better";
    text(&mut svg, 16.0, 42.0, "#6a737d", scale);
    let mut y = HEAD;
    for row in rows {
        y += GROUP - 12.0;
        text(&mut svg, 16.0, y, "#1b1f24\" font-weight=\"600", &row.case);
        y += 8.0;
        for (cell, ratio) in row.cells.iter().zip(ratios(row)) {
            let colour = match cell.name.as_str() {
                name if name.starts_with("floor") => "#9aa4ae",
                name if name.starts_with("oarlock") => "#0b6e99",
                _ => "#d3a15c",
            };
            let long = if ratio.is_finite() { length(ratio) } else { 1.0 };
            text(&mut svg, 28.0, y + BAR - 3.0, "#1b1f24", &cell.name);
            let _ = writeln!(
                svg,
                "<rect x=\"{LABEL}\" y=\"{y}\" width=\"{long:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>"
            );
            let value = row.unit.show(cell.summary.p50);
            let figures = format!("{value} {} · {}x", row.unit.name(), digits(ratio));
            text(&mut svg, LABEL + long + 6.0, y + BAR - 3.0, "#444c56", &figures);
            y += STEP;
        }
        y += 4.0;
    }
    svg.push_str("</svg>\n");
    svg
}

fn text(svg: &mut String, x: f64, y: f64, fill: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a string does not fail.
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{fill}\">{text}</text>");
}
