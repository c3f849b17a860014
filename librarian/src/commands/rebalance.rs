//! `librarian rebalance` and `heat`.

use std::path::Path;

use clap::Subcommand;

use super::text::{columns, octets};
use crate::control;
use crate::control::words::{Heat, Made, Request};
use crate::pool::balance::{Preview, Standing};

/// Objects that are listed for a person who does not say how many.
pub(super) const LISTED: usize = 20;

/// What `librarian rebalance` does.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum RebalanceCommand {
    /// Begin, and go on until `stop` or another plan.
    #[command(after_help = "Example:
  librarian rebalance start")]
    Start {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// How even the pool is, and what is under way.
    #[command(after_help = "Example:
  librarian rebalance status --json | jq .fullest")]
    Status {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Begin no move any more; those under way are finished.
    #[command(after_help = "Example:
  librarian rebalance stop")]
    Stop {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(dir: &Path, what: Option<RebalanceCommand>, json: bool) -> anyhow::Result<()> {
    match what {
        // Without a command nothing is done, whether --dry-run says so or not.
        None => {
            let preview: Preview = control::ask(dir, &Request::RebalancePreview)?;
            tell(&preview, json, preview_words)
        }
        Some(RebalanceCommand::Start { json }) => {
            let made: Made = control::ask(dir, &Request::RebalanceStart)?;
            let words = |made: &Made| {
                format!(
                    "plan {}: {}; `librarian rebalance status` shows how far it is",
                    made.plan, made.goal
                )
            };
            tell(&made, json, words)
        }
        Some(RebalanceCommand::Stop { json }) => {
            let made: Made = control::ask(dir, &Request::RebalanceStop)?;
            tell(&made, json, |made: &Made| format!("plan {}: {}", made.plan, made.goal))
        }
        Some(RebalanceCommand::Status { json }) => {
            let standing: Standing = control::ask(dir, &Request::RebalanceStatus)?;
            tell(&standing, json, standing_words)
        }
    }
}

pub(super) fn heat(dir: &Path, limit: usize, json: bool) -> anyhow::Result<()> {
    let heat: Heat = control::ask(dir, &Request::Heat)?;
    tell(&heat, json, |heat| heat_words(heat, limit))
}

fn tell<T: serde::Serialize>(what: &T, json: bool, words: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    match json {
        true => super::say_json(what),
        false => super::say(&words(what)),
    }
}

fn standing_words(standing: &Standing) -> String {
    let mut lines = vec![match (standing.on, standing.wished) {
        (false, 0) => "not balancing".to_owned(),
        (false, wished) => format!("not balancing; {wished} objects are on their way by the schedule"),
        (true, 0) => "balancing: all is even".to_owned(),
        (true, wished) => format!("balancing: {wished} objects are on their way"),
    }];
    lines.push(format!(
        "{} moved since the librarian started; the fullest server has {:.2} times its part, the emptiest {:.2}, the busiest is asked {:.2} times \
         its part; within {} % is left alone",
        standing.moved, standing.fullest, standing.emptiest, standing.busiest, standing.tolerance_percent
    ));
    let rows = standing.servers.iter().map(|part| {
        [
            part.server.clone(),
            part.objects.to_string(),
            octets(part.used),
            octets(part.capacity),
            rate(part.asked_milli),
        ]
    });
    lines.extend(columns(["SERVER", "OBJECTS", "USED", "CAPACITY", "REQUESTS/S"], rows));
    lines.join("\n")
}

fn preview_words(preview: &Preview) -> String {
    let mut lines = vec![standing_words(&preview.now)];
    if preview.flows.is_empty() && preview.hot.is_empty() {
        lines.push("nothing would move".to_owned());
        return lines.join("\n");
    }
    lines.extend(
        preview
            .flows
            .iter()
            .map(|flow| format!("would move {} objects of {} to {}", flow.objects, flow.from, flow.to)),
    );
    lines.extend(preview.hot.iter().map(|one| {
        format!(
            "would move {} ({} requests/s) of {} to {}",
            one.address,
            rate(one.rate_milli),
            one.from,
            one.to
        )
    }));
    lines.push(format!(
        "afterwards the fullest server would have {:.2} times its part, the busiest be asked {:.2} times its part",
        preview.fullest_after, preview.busiest_after
    ));
    lines.join("\n")
}

fn heat_words(heat: &Heat, limit: usize) -> String {
    let mut lines = vec![format!(
        "{} requests/s, {} a second; the busiest server is asked {:.2} times the mean",
        rate(heat.asked_milli),
        octets(heat.served),
        heat.hottest_over_mean
    )];
    let rows = heat.objects.iter().take(limit).map(|object| {
        [
            object.address.clone(),
            rate(object.rate_milli),
            rate(object.doubt_milli),
            rate(object.questions_milli),
            object.servers.join(","),
            object.copies.join(","),
        ]
    });
    lines.extend(columns(
        [
            "OBJECT",
            "REQUESTS/S",
            "TOO HIGH BY AT MOST",
            "DNS/S",
            "SERVERS",
            "COPIES FOR ITS HEAT",
        ],
        rows,
    ));
    let more = heat.objects.len().saturating_sub(limit);
    if more > 0 {
        lines.push(format!(
            "{more} more are told: `--limit {}` lists all",
            heat.objects.len()
        ));
    }
    lines.join("\n")
}

/// Requests a second.
fn rate(milli: u64) -> String {
    format!("{:.1}", milli as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::words::HotObject;

    #[test]
    fn heat_tells_which_objects_have_copies_for_it_and_where() {
        let object = HotObject {
            address: "3.1".to_owned(),
            rate_milli: 1_500,
            doubt_milli: 0,
            questions_milli: 0,
            servers: vec!["s1".to_owned()],
            copies: vec!["s2".to_owned(), "s5".to_owned()],
        };
        let heat = Heat {
            hottest_over_mean: 1.0,
            asked_milli: 1_500,
            served: 0,
            objects: vec![object],
        };
        let words = |limit| heat_words(&heat, limit);
        assert!(words(1).ends_with("s2,s5"), "{}", words(1));
        assert!(
            words(0).ends_with("1 more are told: `--limit 1` lists all"),
            "{}",
            words(0)
        );
    }

    #[test]
    fn an_even_pool_is_told_that_nothing_would_move() {
        let now = Standing {
            fullest: 1.0,
            emptiest: 1.0,
            busiest: 1.0,
            tolerance_percent: 5,
            on: false,
            wished: 0,
            moved: 0,
            servers: Vec::new(),
        };
        let preview = Preview {
            now,
            flows: Vec::new(),
            hot: Vec::new(),
            fullest_after: 1.0,
            busiest_after: 1.0,
        };
        assert!(preview_words(&preview).contains("nothing would move"));
    }
}
