//! Runs the programs that people use: dig, kdig, delv, nsupdate, curl, with their output captured.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process::spawn;

/// How long one command may take, unless said otherwise.
const WAIT: Duration = Duration::from_secs(120);

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Captured {
    /// The command line, as one would type it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Captured {
    /// Itself, if the command succeeded.
    ///
    /// # Errors
    ///
    /// The command line with all that it printed, when it did not.
    pub fn success(self) -> Result<Captured> {
        if self.status.success() {
            return Ok(self);
        }
        bail!(
            "{} ended with {}\n{}{}",
            self.command,
            self.status,
            self.stdout,
            self.stderr
        )
    }

    /// The response code in an answer of dig or kdig, such as `NXDOMAIN`.
    #[must_use]
    pub fn rcode(&self) -> Option<&str> {
        let (_, rest) = self.stdout.split_once("status: ")?;
        rest.split([',', ';']).next().map(str::trim)
    }
}

/// Runs a command to its end, whatever its exit status.
///
/// # Errors
///
/// When it cannot be started, or has not ended in two minutes.
pub fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S]) -> Result<Captured> {
    let mut command = Command::new(program);
    command.args(args);
    capture(command, b"", WAIT)
}

/// Runs a command that reads `input` on its standard input.
///
/// # Errors
///
/// As [`run`].
pub fn run_with_input<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S], input: &[u8]) -> Result<Captured> {
    let mut command = Command::new(program);
    command.args(args);
    capture(command, input, WAIT)
}

/// Runs a prepared command with a time limit.
pub(super) fn capture(mut command: Command, input: &[u8], wait: Duration) -> Result<Captured> {
    let text = spelled(&command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(command)?;
    let mut stdin = child.stdin.take().context("take standard input")?;
    let stdout = collect(child.stdout.take().context("take standard output")?);
    let stderr = collect(child.stderr.take().context("take standard error")?);
    let input = input.to_vec();
    // A command that ends without reading its input closes the pipe; that is no error.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let until = Instant::now() + wait;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            bail!("{text} did not end in {} s", wait.as_secs());
        }
        thread::sleep(Duration::from_millis(2));
    };
    let _ = writer.join();
    Ok(Captured {
        command: text,
        status,
        stdout: stdout.recv().unwrap_or_default(),
        stderr: stderr.recv().unwrap_or_default(),
    })
}

fn collect(mut from: impl Read + Send + 'static) -> std::sync::mpsc::Receiver<String> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

fn spelled(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        let plain = !arg.is_empty()
            && arg
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./:@+=,%".contains(c));
        text.push(' ');
        if plain {
            text.push_str(&arg);
        } else {
            text.push_str(&format!("'{}'", arg.replace('\'', r"'\''")));
        }
    }
    text
}

/// `dig @server -p port ...`, one try of 5 s. With `-k FILE` among the arguments it signs.
///
/// # Errors
///
/// When dig is not installed.
pub fn dig(server: SocketAddr, args: &[&str]) -> Result<Captured> {
    ask("dig", server, &["+tries=1", "+time=5"], args)
}

/// `kdig @server -p port ...`, of Knot's tools.
///
/// # Errors
///
/// When kdig is not installed.
pub fn kdig(server: SocketAddr, args: &[&str]) -> Result<Captured> {
    ask("kdig", server, &["+retry=0", "+time=5"], args)
}

/// `delv -i @server -p port ...`: BIND's validating resolver, told not to validate.
///
/// # Errors
///
/// When delv is not installed.
pub fn delv(server: SocketAddr, args: &[&str]) -> Result<Captured> {
    ask("delv", server, &["-i"], args)
}

fn ask(program: &str, server: SocketAddr, options: &[&str], args: &[&str]) -> Result<Captured> {
    let mut command = Command::new(program);
    command
        .arg(format!("@{}", server.ip()))
        .arg("-p")
        .arg(server.port().to_string());
    command.args(options).args(args);
    // dig reads $HOME/.digrc; a test means the same on every machine.
    command.env("HOME", "/nonexistent");
    capture(command, b"", WAIT)
}

/// `nsupdate`, fed `script` after its `server` line; `key` is a BIND key file, `None` leaves the update unsigned.
///
/// # Errors
///
/// When nsupdate is not installed.
pub fn nsupdate(server: SocketAddr, key: Option<&Path>, script: &str) -> Result<Captured> {
    let mut command = Command::new("nsupdate");
    command.args(["-t", "10", "-u", "5", "-r", "0"]);
    if let Some(key) = key {
        command.arg("-k").arg(key);
    }
    let script = format!("server {} {}\n{script}\n", server.ip(), server.port());
    capture(command, script.as_bytes(), WAIT)
}

/// `curl -sS ...`.
///
/// # Errors
///
/// When curl is not installed.
pub fn curl<S: AsRef<OsStr>>(args: &[S]) -> Result<Captured> {
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "--max-time", "60"]).args(args);
    capture(command, b"", WAIT)
}

/// `getent ahosts NAME`: what a plain program's getaddrinfo finds.
///
/// # Errors
///
/// When getent is not installed.
pub fn getent(name: &str) -> Result<Captured> {
    run("getent", &["ahosts", name])
}
