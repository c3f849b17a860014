//! `librarian drain`, `refill` and `policy`: what makes a plan.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use zones::ServerName;

use super::Follow;
use crate::control::words::{Made, Request};
use crate::control::{self, AskError};
use crate::pool::Progress;

/// How long a librarian that went away is waited for: a restart is shorter.
const RESTART_MAX: Duration = Duration::from_secs(60);
/// Pause between two attempts to reach it.
const RETRY: Duration = Duration::from_millis(500);
/// Shortest time between two plain lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(1);

pub(super) fn drain(dir: &Path, server: &ServerName, into: Option<&ServerName>, follow: Follow) -> anyhow::Result<()> {
    let request = Request::Drain {
        server: server.to_string(),
        into: into.map(ToString::to_string),
    };
    plan(dir, &request, follow)
}

pub(super) fn refill(dir: &Path, server: &ServerName, follow: Follow) -> anyhow::Result<()> {
    let request = Request::Refill {
        server: server.to_string(),
    };
    plan(dir, &request, follow)
}

pub(super) fn ask_more(
    dir: &Path,
    (level, floor, contract_steps): (Option<u8>, Option<u8>, bool),
    follow: Follow,
) -> anyhow::Result<()> {
    let request = Request::AskMore {
        level,
        floor,
        contract_steps,
    };
    plan(dir, &request, follow)
}

fn plan(dir: &Path, request: &Request, follow: Follow) -> anyhow::Result<()> {
    let made: Made = control::ask(dir, request)?;
    if follow.detach {
        if follow.json {
            return super::say_json(&made);
        }
        return super::say(&format!(
            "plan {}: {}; `librarian pool` shows how far it is",
            made.plan, made.goal
        ));
    }
    let began = Instant::now();
    let mut display = Display::new(&made);
    let objects = watch(dir, made.plan, &mut display)?;
    display.end();
    let seconds = began.elapsed().as_secs_f64();
    if follow.json {
        return super::say_json(&json!({
            "plan": made.plan,
            "goal": made.goal,
            "done": true,
            "objects_moved": objects,
            "seconds": seconds,
        }));
    }
    super::say(&format!(
        "plan {}: {} is done, {objects} objects in {seconds:.1} s",
        made.plan, made.goal
    ))
}

/// Follows a plan to its end, over restarts of the librarian too; answers with the objects that were moved meanwhile.
fn watch(dir: &Path, plan: u64, display: &mut Display) -> anyhow::Result<u64> {
    let mut most = 0;
    let mut away: Option<Instant> = None;
    loop {
        let followed = control::follow::<Progress>(dir, &Request::Follow { plan }, |progress| {
            away = None;
            most = most.max(progress.objects_left);
            display.show(progress, most);
        });
        match followed {
            Ok(progress) => return Ok(most.saturating_sub(progress.objects_left)),
            Err(error @ (AskError::NotRunning { .. } | AskError::Broken { .. })) => {
                if away.get_or_insert_with(Instant::now).elapsed() > RESTART_MAX {
                    return Err(error.into());
                }
                std::thread::sleep(RETRY);
            }
            Err(error @ AskError::Refused(_)) => return Err(error.into()),
        }
    }
}

/// Shows progress on standard error: a bar on a terminal, plain lines in a pipe.
enum Display {
    Bar(ProgressBar),
    Lines {
        goal: String,
        last: Option<(String, Instant)>,
    },
}

impl Display {
    fn new(made: &Made) -> Display {
        let goal = format!("plan {}: {}", made.plan, made.goal);
        if !std::io::stderr().is_terminal() {
            return Display::Lines { goal, last: None };
        }
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{prefix} [{bar:32}] {pos}/{len} objects, {elapsed}, {msg}");
        bar.set_style(style.expect("the template is well formed"));
        bar.set_prefix(goal);
        bar.enable_steady_tick(Duration::from_millis(200));
        Display::Bar(bar)
    }

    fn show(&mut self, progress: &Progress, most: u64) {
        let state = match progress.waits.first() {
            Some(wait) => wait.clone(),
            None => format!("{} is {}", progress.from, progress.role),
        };
        match self {
            Display::Bar(bar) => {
                bar.set_length(most);
                bar.set_position(most.saturating_sub(progress.objects_left));
                bar.set_message(state);
            }
            Display::Lines { goal, last } => {
                let line = format!(
                    "{goal}: {} of {most} objects moved, {} left; {state}",
                    most.saturating_sub(progress.objects_left),
                    super::text::octets(progress.bytes_left),
                );
                let news = last
                    .as_ref()
                    .is_none_or(|(text, at)| *text != line && at.elapsed() >= LINE_EVERY);
                if news {
                    eprintln!("{line}");
                    *last = Some((line, Instant::now()));
                }
            }
        }
    }

    fn end(&self) {
        match self {
            Display::Bar(bar) => bar.finish_and_clear(),
            Display::Lines { .. } => {}
        }
    }
}
