//! One line of a report: ours against theirs.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    /// What was measured, unit included.
    pub(super) figure: String,
    /// The server or ceiling it was measured against.
    pub(super) peer: String,
    /// Our value.
    pub(super) ours: f64,
    /// The peer's value.
    pub(super) theirs: f64,
    /// Ours divided by theirs.
    pub(super) ratio: f64,
}

impl Figure {
    /// A comparison of two values.
    #[must_use]
    pub(super) fn new(figure: &str, peer: &str, ours: f64, theirs: f64) -> Figure {
        let ratio = if theirs == 0.0 { 0.0 } else { ours / theirs };
        Figure {
            figure: figure.to_owned(),
            peer: peer.to_owned(),
            ours,
            theirs,
            ratio,
        }
    }

    /// Prints it as one line.
    pub(super) fn print(&self) {
        println!(
            "{:<56} ours {:>14}   {:<28} {:>14}   ratio {:.2}",
            self.figure,
            rounded(self.ours),
            self.peer,
            rounded(self.theirs),
            self.ratio
        );
    }
}

impl fmt::Display for Figure {
    /// A line of a table.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{:<64} {:>14} {:<14} {:>14} {:>7.2}",
            self.figure,
            rounded(self.ours),
            self.peer,
            rounded(self.theirs),
            self.ratio
        )
    }
}

fn rounded(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.3}"),
        10.0..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Writes a list of figures as JSON.
///
/// # Errors
///
/// When the file cannot be written.
pub(super) fn write_figures(path: &Path, figures: &[Figure]) -> Result<()> {
    let mut text = serde_json::to_string_pretty(figures).context("write figures as JSON")?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The middle value; 0 of none.
#[must_use]
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
