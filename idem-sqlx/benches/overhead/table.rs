//! The numbers as Markdown.

use crate::measure::{Measured, Spread, spread};

/// A row for each variant, a column for each setting: the ratio to `baseline`. Below them is its rate.
pub(crate) fn ratios(measured: &[Measured], baseline: &str) -> String {
    let mut table = against(measured, baseline, "");
    let rates = measured.iter().map(|measured| measured.rates(baseline).map(|rates| spread(rates.to_vec()).median));
    let rates: Vec<_> = rates.map(|rate| rate.map_or("–".to_owned(), |rate| format!("{rate:.0}"))).collect();
    table += &format!("| {baseline}, requests a second | {} |\n", rates.join(" | "));
    table
}

/// The variants whose names begin like this, with any of them as the baseline.
pub(crate) fn against(measured: &[Measured], baseline: &str, beginning: &str) -> String {
    let mut names = Vec::new();
    for (name, _) in measured.iter().flat_map(|measured| &measured.variants) {
        if name.starts_with(beginning) && !names.contains(name) {
            names.push(name);
        }
    }
    let mut table = head(&format!("ratio to {baseline}"), measured);
    for name in names {
        table += &row(name, measured.iter().map(|measured| measured.ratio(name, baseline)));
    }
    table
}

fn head(corner: &str, measured: &[Measured]) -> String {
    let settings: Vec<_> = measured.iter().map(|measured| measured.setting).collect();
    format!("| {corner} | {} |\n|---|{}\n", settings.join(" | "), "---|".repeat(settings.len()))
}

fn row(name: &str, ratios: impl Iterator<Item = Option<Spread>>) -> String {
    let cells: Vec<_> = ratios.map(|ratio| ratio.map_or("–".to_owned(), cell)).collect();
    format!("| {name} | {} |\n", cells.join(" | "))
}

fn cell(spread: Spread) -> String {
    let Spread { median, lower, upper } = spread;
    format!("{median:.2} ({lower:.2}–{upper:.2})")
}
