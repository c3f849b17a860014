//! Runs one command of the operator's, with bounds in time and output.
//!
//! Never a shell. The environment is empty but for `PATH` and `HYPERNET_RELEASE`. The command leads a process group of its own,
//! which is killed when its time is over or its leader has ended: nothing that it began goes on beside the next step. It ends
//! with its parent, too, so that two installers never work at once.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};

use super::release::Release;
use super::words::{LINE_OCTETS_MAX, LINES_MAX};

/// Where programs are looked for, if this process does not know either.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Time between two looks at a command.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the last words of a command that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a command ended that did not end well.
#[derive(Debug, Eq, PartialEq)]
pub enum Trouble {
    /// In words, with its last lines.
    Failed {
        /// How it ended.
        why: String,
        /// The last lines that it wrote.
        said: Vec<String>,
    },
    /// The caller is to stop; the command was killed.
    Interrupted,
}

/// Runs a command to its end.
///
/// # Errors
///
/// [`Trouble`], also where it cannot be started or its time is over.
pub fn run(words: &[String], release: &Release, time: Duration, must_stop: &dyn Fn() -> bool) -> Result<(), Trouble> {
    let failed = |why: String| Trouble::Failed { why, said: Vec::new() };
    let (program, rest) = words.split_first().expect("settings refuse an empty command");
    let started = (|| {
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(program);
        command
            .args(rest)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()))
            .env("HYPERNET_RELEASE", release.as_str())
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        die_with_parent(&mut command);
        Ok::<_, io::Error>((command.spawn()?, reader))
    })();
    let (child, reader) = started.map_err(|error| failed(format!("{program} cannot be started: {error}")))?;
    let mut group = Group(child);
    let tail = Tail::follow(reader).map_err(|error| failed(format!("no thread can be started: {error}")))?;
    let until = Instant::now() + time;
    let why = loop {
        match group.0.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => break told(status),
            Ok(None) => {}
            Err(error) => break error.to_string(),
        }
        if must_stop() {
            return Err(Trouble::Interrupted);
        }
        if Instant::now() >= until {
            break format!(
                "it did not end in {} and was killed",
                humantime_serde::re::humantime::format_duration(time)
            );
        }
        thread::sleep(LOOK_EVERY);
    };
    drop(group);
    Err(Trouble::Failed {
        why,
        said: tail.lines(),
    })
}

/// How a process ended, in words.
#[must_use]
pub fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with status {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

/// Has a child killed when the thread that starts it ends.
pub(super) fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: the closure runs in the child between fork and exec and makes two system calls, both async-signal-safe; it
    // touches no memory but its own copy of `parent`.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            match rustix::process::getppid() == Some(parent) {
                true => Ok(()),
                false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            }
        });
    }
}

/// A command with everything that it started and that did not leave its group; killed when dropped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // An empty group is no error to tell of.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        drop(self.0.wait());
    }
}

/// The last lines of what is written into a pipe.
struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
    ended: std::sync::mpsc::Receiver<()>,
}

impl Tail {
    fn follow(reader: PipeReader) -> io::Result<Tail> {
        let lines: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        let (end, ended) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new()
            .name("install-output".to_owned())
            .spawn(move || {
                let mut reader = BufReader::new(reader);
                while let Ok(Some(line)) = next_line(&mut reader) {
                    let mut kept = kept.lock();
                    if kept.len() == LINES_MAX {
                        kept.pop_front();
                    }
                    kept.push_back(line);
                }
                let _ = end.send(());
            })?;
        Ok(Tail { lines, ended })
    }

    fn lines(self) -> Vec<String> {
        // What left the group may hold the pipe open.
        let _ = self.ended.recv_timeout(LAST_WORDS);
        self.lines.lock().iter().cloned().collect()
    }
}

/// The next line, cut to its bound; what is longer is passed over.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut octets = Vec::new();
    let most = LINE_OCTETS_MAX as u64;
    if reader.by_ref().take(most).read_until(b'\n', &mut octets)? == 0 {
        return Ok(None);
    }
    if octets.last() != Some(&b'\n') {
        reader.skip_until(b'\n')?;
    }
    let text = String::from_utf8_lossy(&octets);
    let shown = text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c });
    Ok(Some(shown.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, time: Duration) -> Result<(), Trouble> {
        let words = ["/bin/sh", "-c", script].map(str::to_owned);
        run(&words, &"2.0".parse().unwrap(), time, &|| false)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn command_sees_the_release_and_no_other_environment() {
        let ended = shell("echo $HYPERNET_RELEASE; env | grep -c CARGO; exit 3", LONG);
        assert_eq!(
            ended,
            Err(Trouble::Failed {
                why: "it ended with status 3".to_owned(),
                said: vec!["2.0".to_owned(), "0".to_owned()],
            })
        );
        assert_eq!(shell("true", LONG), Ok(()));
    }

    #[test]
    fn output_without_end_is_kept_within_its_bounds() {
        let script = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; head -c 100000 /dev/zero | tr '\\0' x; false";
        let Err(Trouble::Failed { said, .. }) = shell(script, LONG) else {
            panic!("it failed");
        };
        assert_eq!(said.len(), LINES_MAX);
        assert_eq!(said[LINES_MAX - 2], "line 499");
        assert_eq!(said[LINES_MAX - 1].len(), LINE_OCTETS_MAX);
    }

    #[test]
    fn command_is_killed_at_its_time_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 300 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let ended = shell(&script, Duration::from_secs(1));
        assert!(
            matches!(&ended, Err(Trouble::Failed { why, .. }) if why.contains("killed")),
            "{ended:?}"
        );
        let child = std::fs::read_to_string(&file).unwrap();
        let lives = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        // The signal is sent; the system may take a moment to end it.
        let until = Instant::now() + LONG;
        while lives() && Instant::now() < until {
            thread::sleep(LOOK_EVERY);
        }
        assert!(!lives());
    }

    #[test]
    fn program_that_is_not_there_is_named() {
        let words = ["/nowhere/install".to_owned()];
        let ended = run(&words, &"2.0".parse().unwrap(), LONG, &|| false);
        assert!(matches!(ended, Err(Trouble::Failed { why, .. }) if why.contains("/nowhere/install")));
    }

    #[test]
    fn caller_that_must_stop_takes_the_command_along() {
        let words = ["/bin/sh", "-c", "sleep 300"].map(str::to_owned);
        assert_eq!(
            run(&words, &"2.0".parse().unwrap(), LONG, &|| true),
            Err(Trouble::Interrupted)
        );
    }
}
