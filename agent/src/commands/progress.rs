//! Progress of long work: a bar on a terminal, nothing in a pipe.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Below this nothing is shown: it would only flicker.
const OCTETS_MIN: u64 = 8 << 20;

/// A bar of octets; silent for small lengths and where nobody looks.
pub(super) fn octets(total: Option<u64>) -> ProgressBar {
    let shown = std::io::stderr().is_terminal() && total.is_none_or(|total| total >= OCTETS_MIN);
    let template = match total {
        Some(_) => "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        None => "{spinner} {binary_bytes} {binary_bytes_per_sec}",
    };
    bar(shown, total, template)
}

/// A bar of things.
pub(super) fn things(total: u64, template: &str) -> ProgressBar {
    bar(std::io::stderr().is_terminal(), Some(total), template)
}

fn bar(shown: bool, total: Option<u64>, template: &str) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(template).expect("our templates are well formed"));
    bar
}
