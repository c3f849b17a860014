//! What has been found so far, and the table of it.

use std::path::Path;

use anyhow::{Context, Result};

use crate::bench::figure::{Figure, write_figures};

/// Figures and remarks, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Report {
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Report {
    /// Keeps a comparison and prints it.
    pub(super) fn figure(&mut self, figure: &str, peer: &str, ours: f64, theirs: f64) {
        let figure = Figure::new(figure, peer, ours, theirs);
        println!("  = {figure}");
        self.figures.push(figure);
    }

    /// Keeps a remark for the end and prints it now.
    pub(super) fn note(&mut self, note: String) {
        println!("  {note}");
        self.notes.push(note);
    }

    /// Prints the table and the remarks.
    ///
    /// # Errors
    ///
    /// When `json` is given and cannot be written.
    pub(super) fn finish(&self, json: Option<&Path>) -> Result<()> {
        println!(
            "\n{:<64} {:>14} {:<14} {:>14} {:>7}",
            "figure", "ours", "peer", "theirs", "ratio"
        );
        for figure in &self.figures {
            println!("{figure}");
        }
        println!();
        for note in &self.notes {
            println!("{note}");
        }
        json.map_or(Ok(()), |path| {
            write_figures(path, &self.figures).context("write the figures")
        })
    }
}
