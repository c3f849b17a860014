//! A second generator: dnsperf, where it is installed.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hickory_proto::op::Message;

use super::flood::Questions;
use crate::harness::run;

/// Questions in its file; it asks them over and over.
const QUESTIONS: usize = 100_000;

/// An installed dnsperf with its file of questions.
#[derive(Debug)]
pub(super) struct Dnsperf {
    file: PathBuf,
    cpu: usize,
}

impl Dnsperf {
    /// Writes its questions below `dir`; `None` when it is not installed.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(super) fn find(questions: &Questions, dir: &Path, cpu: usize) -> Result<Option<Dnsperf>> {
        if run("dnsperf", &["-h"]).is_err() {
            return Ok(None);
        }
        let mut text = String::new();
        for question in questions.iter().take(QUESTIONS) {
            let question = Message::from_vec(question).context("read a question")?;
            let question = question.queries.first().context("a question asks")?;
            writeln!(text, "{} {}", question.name(), question.query_type()).context("write a question")?;
        }
        let file = dir.join("dnsperf.txt");
        std::fs::write(&file, text).context("write the questions of dnsperf")?;
        Ok(Some(Dnsperf { file, cpu }))
    }

    /// Answers a second, as it counts them.
    ///
    /// # Errors
    ///
    /// When it fails or says no rate.
    pub(super) fn rate(&self, server: SocketAddr, seconds: u64) -> Result<f64> {
        let (cpu, port, seconds) = (
            self.cpu.to_string(),
            server.port().to_string(),
            seconds.max(1).to_string(),
        );
        let file = self.file.to_string_lossy();
        #[rustfmt::skip]
        let words = ["-c", &cpu, "dnsperf", "-s", "127.0.0.1", "-p", &port, "-d", &file, "-l", &seconds, "-c", "8", "-T", "1", "-q", "512"];
        let said = run("taskset", &words)?.success()?;
        rate(&said.stdout).context("dnsperf says no rate")
    }
}

fn rate(said: &str) -> Option<f64> {
    let line = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("Queries per second:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_read_from_the_summary() {
        let said = "Statistics:\n\n  Queries sent:         1000\n  Queries per second:   133033.266594\n\n";
        assert_eq!(rate(said), Some(133_033.266_594));
        assert_eq!(rate("[Status] Sending queries"), None);
    }
}
