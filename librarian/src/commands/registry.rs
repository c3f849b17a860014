//! `librarian backup`, `restore`, `rebuild` and `reconcile`.

use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde_json::json;
use time::OffsetDateTime;
use time::macros::format_description;
use zones::ServerName;

use crate::config::Config;
use crate::control::words::{Request, Saved};
use crate::control::{self, AskError};
use crate::daemon::REGISTRY_FILE;
use crate::invite::Member;
use crate::reconcile::restore::Made;
use crate::reconcile::words::{Server, Status};
use crate::reconcile::{backup, restore};
use crate::registry::{self, Registry};

/// How often a reconcile is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// `librarian backup`: by the running librarian, or from the file while none runs.
pub(super) fn save(dir: &Path, target: &Path, json: bool) -> anyhow::Result<()> {
    let config = Config::read(dir)?;
    let target = std::path::absolute(target).context("name the backup")?;
    let file = if target.is_dir() {
        target.join(file_name(&config.domain.to_string())?)
    } else {
        target
    };
    let request = Request::Backup { file: file.clone() };
    let saved: Saved = match control::ask_patiently(dir, &request) {
        Ok(saved) => saved,
        Err(AskError::NotRunning { .. }) => {
            let path = dir.join(REGISTRY_FILE);
            if !path.exists() {
                bail!("there is no registry in {}", dir.display());
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            let registry = Registry::open(&path, &config.domain, registry::Settings::default())?;
            let written = registry.snapshot().map(|snapshot| backup::write(&file, &snapshot));
            // Left as it was found: stopped in order.
            runtime.block_on(registry.close());
            Saved::of(file, &written??)
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        return super::say_json(&saved);
    }
    super::say(&format!(
        "saved {} entries to {}, read back and whole
It holds what is registered, and no secret: back up {} once, and after each `invite` and `client add`, by copying the files
librarian.toml, ca/, keys/, pool.key, servers/ and clients/.",
        saved.entries,
        saved.file.display(),
        dir.display()
    ))
}

/// `registry-hypernet.internal-20261127T101500Z.backup`.
fn file_name(domain: &str) -> anyhow::Result<String> {
    let now = OffsetDateTime::now_utc().format(format_description!("[year][month][day]T[hour][minute][second]Z"))?;
    Ok(format!("registry-{}-{now}.backup", domain.trim_end_matches('.')))
}

/// `librarian restore` and `rebuild`.
pub(super) fn make(dir: &Path, from: Option<&Path>, yes: bool, json: bool) -> anyhow::Result<()> {
    let config = Config::read(dir)?;
    let members: Vec<String> = Member::all(dir)?
        .into_iter()
        .map(|member| member.server.to_string())
        .collect();
    if members.is_empty() {
        bail!(
            "{}/servers is empty, so nobody could report what is where: bring servers/, keys/, ca/ and pool.key of this pool \
             back first",
            dir.display()
        );
    }
    if dir.join(REGISTRY_FILE).exists() && !yes {
        let what = match from {
            Some(file) => format!("replace the registry of {} by {}", dir.display(), file.display()),
            None => format!("replace the registry of {} by an empty one", dir.display()),
        };
        confirm(&format!("{what}; the present one is kept beside it"), "restore")?;
    }
    let made = restore::make(dir, &config.domain, from)?;
    if json {
        return super::say_json(&json!({
            "incarnation": made.incarnation.to_string(),
            "saved_unix_s": made.backup.as_ref().map(|head| head.saved_unix_s),
            "entries": made.backup.as_ref().map_or(0, |head| head.entries),
            "old": made.old,
            "waits_for": members,
        }));
    }
    super::say(&told(dir, &made, &members))
}

fn told(dir: &Path, made: &Made, members: &[String]) -> String {
    let mut lines = vec![match &made.backup {
        Some(head) => format!(
            "made the registry from {} entries that were saved {}",
            head.entries,
            ago(head.saved_unix_s)
        ),
        None => "made an empty registry".to_owned(),
    }];
    if let Some(old) = &made.old {
        lines.push(format!("the one before is {}", old.display()));
    }
    lines.push(format!(
        "no register changes until these servers have reported what they have: {}",
        members.join(", ")
    ));
    lines.push(format!("next: librarian run --dir {}", dir.display()));
    lines.push(format!("      librarian reconcile --watch --dir {}", dir.display()));
    lines.join("\n")
}

fn ago(unix_s: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let minutes = now.as_secs().saturating_sub(unix_s) / 60;
    match minutes {
        0..120 => format!("{minutes} minutes ago"),
        120..2_880 => format!("{} hours ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1_440),
    }
}

/// `librarian reconcile`.
pub(super) fn status(dir: &Path, watch: bool, json: bool) -> anyhow::Result<()> {
    let mut status: Status = control::ask(dir, &Request::Reconcile)?;
    let mut shown = String::new();
    while watch && status.reconciling {
        let line = progress(&status);
        if line != shown {
            eprintln!("{line}");
            shown = line;
        }
        std::thread::sleep(LOOK_EVERY);
        status = control::ask(dir, &Request::Reconcile)?;
    }
    say_status(dir, &status, json)
}

/// `librarian reconcile --write-off`.
pub(super) fn write_off(dir: &Path, server: &ServerName, yes: bool, json: bool) -> anyhow::Result<()> {
    if !yes {
        let what = format!(
            "go on without {server}: what only it has is lost, and if it comes back it serves nothing and must join anew"
        );
        confirm(&what, server.as_str())?;
    }
    let request = Request::WriteOff {
        server: server.to_string(),
    };
    let status: Status = control::ask(dir, &request)?;
    say_status(dir, &status, json)
}

fn say_status(dir: &Path, status: &Status, json: bool) -> anyhow::Result<()> {
    if json {
        return super::say_json(status);
    }
    super::say(&describe(dir, status))
}

fn progress(status: &Status) -> String {
    let servers: Vec<String> = status
        .servers
        .iter()
        .map(|server| match server.state.as_str() {
            "reporting" => format!("{} has told {} so far", server.name, server.claims),
            state => format!("{} {state}", server.name),
        })
        .collect();
    format!("reconciling: {}", servers.join(", "))
}

fn describe(dir: &Path, status: &Status) -> String {
    let mut lines = vec![match (status.reconciling, status.ended_unix_s) {
        (true, _) => format!(
            "reconciling: {} objects so far, no register changes; waits for {}",
            status.objects,
            match status.waits_for.is_empty() {
                true => "nobody, about to open".to_owned(),
                false => status.waits_for.join(", "),
            }
        ),
        (false, Some(ended)) => format!(
            "open: {} objects; the last reconcile ended {}",
            status.objects,
            ago(ended)
        ),
        (false, None) => format!("open: {} objects; this registry was never restored", status.objects),
    }];
    lines.extend(status.servers.iter().map(server_line));
    if status.conflicts_count > 0 {
        lines.push(format!(
            "{} claims contradict a register, which stands (two librarians ran, or a server was copied):",
            status.conflicts_count
        ));
        lines.extend(status.conflicts.iter().map(|conflict| {
            format!(
                "  {}: {} says {} at epoch {}, but {}",
                conflict.address, conflict.server, conflict.claim, conflict.epoch, conflict.register
            )
        }));
    }
    if status.claimless_count > 0 {
        lines.push(format!(
            "{} objects were not reported by their owner (all of them: {}/reconcile-claimless.txt):",
            status.claimless_count,
            dir.display()
        ));
        lines.extend(status.claimless.iter().map(|object| {
            let why = if object.written_off { ", written off" } else { "" };
            format!(
                "  {} of {}{why} at epoch {}",
                object.address, object.owner, object.epoch
            )
        }));
    }
    if status.rescued_count > 0 {
        lines.push(format!(
            "{} objects were on their way from a server that was written off, and are where the copy was whole:",
            status.rescued_count
        ));
        lines.extend(status.rescued.iter().map(|object| {
            format!(
                "  {} from {} is {}'s at epoch {}",
                object.address, object.from, object.owner, object.epoch
            )
        }));
    }
    if status.reconciling && !status.waits_for.is_empty() {
        lines.push(
            "start the agents that are waited for; one that is lost for good: librarian reconcile --write-off NAME"
                .to_owned(),
        );
    }
    lines.join("\n")
}

fn server_line(server: &Server) -> String {
    let alive = if server.alive { "" } else { ", not heard" };
    format!("  {}: {}, {} claims{alive}", server.name, server.state, server.claims)
}

/// Asks twice, on a terminal.
pub(super) fn confirm(what: &str, word: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("this would {what}: add --yes if that is wanted");
    }
    eprintln!("This will {what}.");
    for question in [format!("Type {word} to go on: "), format!("Once more, {word}: ")] {
        eprint!("{question}");
        let mut line = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .context("read the answer")?;
        if line.trim() != word {
            bail!("nothing was done");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::words::{Claimless, Conflict};

    #[test]
    fn status_names_who_is_waited_for_and_what_to_do() {
        let mut status = Status {
            reconciling: true,
            waits_for: vec!["s2".to_owned()],
            servers: vec![Server {
                name: "s2".to_owned(),
                state: "silent".to_owned(),
                claims: 0,
                alive: false,
            }],
            ..Status::default()
        };
        let text = describe(Path::new("/pool"), &status);
        assert!(text.contains("waits for s2") && text.contains("--write-off"), "{text}");
        status.reconciling = false;
        status.ended_unix_s = Some(1);
        status.conflicts_count = 1;
        status.conflicts.push(Conflict {
            address: "3.1".to_owned(),
            server: "s2".to_owned(),
            claim: "owned".to_owned(),
            epoch: 4,
            register: "3.1 is s1's at epoch 4".to_owned(),
        });
        status.claimless_count = 7;
        status.claimless.push(Claimless {
            address: "3.2".to_owned(),
            owner: "s3".to_owned(),
            epoch: 2,
            written_off: true,
        });
        let text = describe(Path::new("/pool"), &status);
        for part in ["3.1: s2 says owned at epoch 4", "3.2 of s3, written off", "7 objects"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn nothing_is_done_without_a_word_where_nobody_can_be_asked() {
        // Tests have no terminal.
        if !std::io::stdin().is_terminal() {
            assert!(confirm("remove", "remove").unwrap_err().to_string().contains("--yes"));
        }
    }
}
