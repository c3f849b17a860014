//! Progress: a bar on a terminal, a line now and then in a pipe.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Progress of one long piece of work.
pub(super) struct Progress {
    what: String,
    total: u64,
    bar: Option<ProgressBar>,
    /// When a line was last printed, and what it said.
    last_line: Mutex<(Instant, u64)>,
}

impl Progress {
    pub(super) fn new(what: &str, total: u64) -> Progress {
        let bar = std::io::stdout().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {msg} [{bar:40}] {pos}/{len} ({per_sec}, {eta})")
                .expect("the template is legal")
                .progress_chars("=> ");
            ProgressBar::new(total).with_style(style).with_message(what.to_owned())
        });
        Progress {
            what: what.to_owned(),
            total,
            bar,
            last_line: Mutex::new((Instant::now(), 0)),
        }
    }

    /// Sets how far it is.
    pub(super) fn set(&self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None => {
                let Ok(mut last) = self.last_line.try_lock() else {
                    return;
                };
                if last.0.elapsed() >= LINE_EVERY && last.1 != done {
                    *last = (Instant::now(), done);
                    println!("  {}: {done} of {}", self.what, self.total);
                }
            }
        }
    }

    /// It is done.
    pub(super) fn finish(&self, said: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        println!("  {}: {said}", self.what);
    }
}
