//! A librarian and its agents as separate processes, made the way an operator makes them: with the command line.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::network::Network;
use super::ports::free_port;
use super::process::Process;
use super::releases::{INSTALLER, release_installer};
use super::settings;
use super::tools::{Captured, capture};

/// How long a command of ours may take, unless said otherwise.
const COMMAND_WAIT: Duration = Duration::from_secs(120);
/// Hosts of the processes that are not servers, where a pool has a network.
const LIBRARIAN: &str = "librarian";
const CLIENT: &str = "client";

/// What to start. Made by [`Pool::builder`].
#[derive(Clone, Debug)]
pub struct PoolBuilder {
    program: PathBuf,
    agent_program: PathBuf,
    dir: Option<PathBuf>,
    parent: Option<PathBuf>,
    domain: String,
    servers: usize,
    free: usize,
    dns_port: Option<u16>,
    https_port: Option<u16>,
    agent_port: Option<u16>,
    librarian_settings: Vec<(String, toml::Value)>,
    agent_settings: Vec<(String, toml::Value)>,
    agent_dirs: Vec<(String, PathBuf)>,
    releases: Option<Vec<String>>,
    log: String,
    environment: Vec<(String, String)>,
    librarian_cpu: Option<usize>,
    network: Option<Arc<Network>>,
}

fn one_copy() -> Vec<(String, toml::Value)> {
    let settings = [("copies.wanted", 1), ("copies.hot_percent", 0)];
    settings.map(|(key, value)| (key.to_owned(), value.into())).into()
}

impl PoolBuilder {
    /// The pool's domain; `hypernet.internal.` unless said.
    #[must_use]
    pub fn domain(mut self, domain: &str) -> Self {
        domain.clone_into(&mut self.domain);
        self
    }

    /// How many servers there are, the free ones among them; 3 unless said. They are called s1, s2 and so on, and the
    /// last ones are free. 0 starts a librarian alone.
    #[must_use]
    pub fn servers(mut self, servers: usize) -> Self {
        self.servers = servers;
        self
    }

    /// How many of the servers are free; 1 unless said.
    #[must_use]
    pub fn free(mut self, free: usize) -> Self {
        self.free = free;
        self
    }

    /// The librarian's directory, kept afterwards; a temporary one unless said.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// Where the temporary directory is made, such as a file system of its own.
    #[must_use]
    pub fn temporary_in(mut self, parent: &Path) -> Self {
        self.parent = Some(parent.to_owned());
        self
    }

    /// The directory of one agent, where it is not `agents/<name>` under the librarian's.
    #[must_use]
    pub fn agent_dir(mut self, server: &str, dir: &Path) -> Self {
        self.agent_dirs.push((server.to_owned(), dir.to_owned()));
        self
    }

    /// Port of the librarian's DNS; a free one unless said.
    #[must_use]
    pub fn dns_port(mut self, port: Option<u16>) -> Self {
        self.dns_port = port;
        self
    }

    /// Port of the librarian's HTTPS; a free one unless said.
    #[must_use]
    pub fn https_port(mut self, port: Option<u16>) -> Self {
        self.https_port = port;
        self
    }

    /// First port of the agents: each takes two in a row, for HTTPS and for its peers; on hosts of their own the same two. Free ones
    /// unless said.
    #[must_use]
    pub fn agent_port(mut self, port: Option<u16>) -> Self {
        self.agent_port = port;
        self
    }

    /// One setting of librarian.toml, such as `networks`, which is this machine unless said: who is listed there asks
    /// unsigned and sees all.
    #[must_use]
    pub fn librarian_setting(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.librarian_settings.push((key.to_owned(), value.into()));
        self
    }

    /// How many servers hold each object; `None`: as the librarian does by itself, copies for heat included. One unless said: what
    /// a test is about is then where the objects are, and nowhere else.
    #[must_use]
    pub fn copies(mut self, wanted: Option<u8>) -> Self {
        self.librarian_settings.retain(|(key, _)| !key.starts_with("copies."));
        if let Some(wanted) = wanted {
            self = self.librarian_setting("copies.wanted", i64::from(wanted));
        }
        self
    }

    /// One setting of every agent.toml.
    #[must_use]
    pub fn agent_setting(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.agent_settings.push((key.to_owned(), value.into()));
        self
    }

    /// Another program for the agents, such as an older release. It takes the words `agent ...` too.
    #[must_use]
    pub fn agent_program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.agent_program);
        self
    }

    /// Runs every agent under `agent supervise`, which installs these releases as they are asked for ([`release_installer`]).
    #[must_use]
    pub fn releases(mut self, allow: &[&str]) -> Self {
        self.releases = Some(allow.iter().map(|release| (*release).to_owned()).collect());
        self
    }

    /// RUST_LOG of all processes; that of this process unless said, or `info`.
    #[must_use]
    pub fn log(mut self, filter: &str) -> Self {
        filter.clone_into(&mut self.log);
        self
    }

    /// A variable in the environment of all processes.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Pins the librarian to one processor (with taskset, of util-linux).
    #[must_use]
    pub fn librarian_cpu(mut self, cpu: usize) -> Self {
        self.librarian_cpu = Some(cpu);
        self
    }

    /// Runs every process on a host of its own, called after it: `librarian`, `s1` and so on; the commands of clients run on
    /// `client`.
    #[must_use]
    pub fn network(mut self, network: Arc<Network>) -> Self {
        self.network = Some(network);
        self
    }

    fn address(&self, host: &str) -> Result<IpAddr> {
        let network = self.network.as_ref();
        network.map_or(Ok(Ipv4Addr::LOCALHOST.into()), |network| network.address(host))
    }

    /// Makes the pool and starts it; returns when every server is known to the librarian as alive.
    ///
    /// # Errors
    ///
    /// When a command fails or a process does not become ready; what it printed is in the message.
    pub fn start(self) -> Result<Pool> {
        self.start_telling(|_| ())
    }

    /// As [`PoolBuilder::start`], and says each step.
    ///
    /// # Errors
    ///
    /// As [`PoolBuilder::start`].
    pub fn start_telling(self, mut tell: impl FnMut(&str)) -> Result<Pool> {
        ensure!(
            self.servers > self.free || self.servers == 0,
            "a pool needs more servers than free ones"
        );
        let (dir, temporary) = match &self.dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).with_context(|| format!("make directory {}", dir.display()))?;
                (std::path::absolute(dir).context("name the directory")?, None)
            }
            None => {
                let mut named = tempfile::Builder::new();
                named.prefix("hypernet-");
                let temporary = match &self.parent {
                    Some(parent) => named.tempdir_in(parent),
                    None => named.tempdir(),
                }
                .context("make a temporary directory")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let dns_port = self.dns_port.map_or_else(free_port, Ok)?;
        let https_port = self.https_port.map_or_else(free_port, Ok)?;
        std::fs::create_dir_all(dir.join("logs")).context("make the directory of logs")?;
        let local = self.address(LIBRARIAN)?;
        let mut pool = Pool {
            builder: self,
            dns: SocketAddr::from((local, dns_port)),
            https: SocketAddr::from((local, https_port)),
            dir,
            librarian: None,
            servers: Vec::new(),
            temporary,
        };
        tell("makes the pool's authority, keys and registry (librarian init)");
        let domain = pool.builder.domain.clone();
        pool.librarian(&["init", "--domain", &domain])?;
        settings::write(
            &pool.dir.join("librarian.toml"),
            &[
                (settings::LIBRARIAN_DNS, pool.dns.to_string().into()),
                (settings::LIBRARIAN_HTTPS, pool.https.to_string().into()),
                // Unless asked otherwise: this machine may ask unsigned, as a plain `dig` does.
                ("networks", vec!["127.0.0.0/8"].into()),
            ],
            &pool.builder.librarian_settings,
        )?;
        tell(&format!("starts the librarian on {} (librarian run)", pool.dns));
        pool.start_librarian()?;
        let (count, free) = (pool.builder.servers, pool.builder.free);
        for number in 1..=count {
            let name = format!("s{number}");
            let role = if number > count - free { "free" } else { "serving" };
            tell(&format!(
                "invites {name} ({role}), joins it and starts it (librarian invite, agent join, agent run)"
            ));
            pool.join(&name, role)?;
            pool.start_server(&name)?;
        }
        tell("waits until the librarian has heard from every server");
        pool.wait_for_servers()?;
        Ok(pool)
    }
}

/// The ready line of a librarian.
#[derive(Clone, Debug, Deserialize)]
pub struct LibrarianReady {
    /// Where it answers DNS, UDP and TCP.
    pub dns: SocketAddr,
    /// Where servers join.
    pub https: SocketAddr,
}

/// The ready line of an agent.
#[derive(Clone, Debug, Deserialize)]
pub struct AgentReady {
    /// Its server's name.
    pub name: String,
    /// Where it serves clients.
    pub https: SocketAddr,
    /// Where it takes objects from other agents.
    pub peer: SocketAddr,
    /// Where it tells its metrics, if it does.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
}

/// One server of a pool.
#[derive(Debug)]
pub struct Server {
    /// Its name, such as `s1`.
    pub name: String,
    /// The agent's directory.
    pub dir: PathBuf,
    /// Where it listens; as last told.
    pub ready: AgentReady,
    /// The program that it runs, where that is another than the other servers'.
    program: Option<PathBuf>,
    /// Its process, while it runs.
    process: Option<Process>,
}

impl Server {
    /// Its process.
    ///
    /// # Errors
    ///
    /// When it was stopped.
    pub fn process(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .with_context(|| format!("{} is stopped", self.name))
    }
}

/// A running pool. Dropping it ends its processes and removes its directory, if that is a temporary one.
#[derive(Debug)]
pub struct Pool {
    builder: PoolBuilder,
    dir: PathBuf,
    dns: SocketAddr,
    https: SocketAddr,
    // Declared, and so dropped, in this order: agents end while the librarian still answers.
    servers: Vec<Server>,
    librarian: Option<Process>,
    temporary: Option<tempfile::TempDir>,
}

impl Pool {
    /// A pool of `program`, which takes the words `librarian ...` and `agent ...` (the `demo` binary does).
    #[must_use]
    pub fn builder(program: impl AsRef<Path>) -> PoolBuilder {
        let program = program.as_ref().to_owned();
        PoolBuilder {
            agent_program: program.clone(),
            program,
            dir: None,
            parent: None,
            domain: "hypernet.internal.".to_owned(),
            servers: 3,
            free: 1,
            dns_port: None,
            https_port: None,
            agent_port: None,
            librarian_settings: one_copy(),
            agent_settings: Vec::new(),
            agent_dirs: Vec::new(),
            releases: None,
            log: std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
            environment: Vec::new(),
            librarian_cpu: None,
            network: None,
        }
    }

    /// The pool's domain, with its last dot.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.builder.domain
    }

    /// Where the librarian answers DNS.
    #[must_use]
    pub fn dns(&self) -> SocketAddr {
        self.dns
    }

    /// Where the librarian's HTTPS is.
    #[must_use]
    pub fn https(&self) -> SocketAddr {
        self.https
    }

    /// The librarian's directory: `keys/admin.key` and `ca/ca.pem` lie in it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The admin's TSIG key file, for `dig -k` and `nsupdate -k`.
    #[must_use]
    pub fn admin_key(&self) -> PathBuf {
        self.key("admin")
    }

    /// The TSIG key file of a server, a client or `admin`.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join("keys").join(format!("{name}.key"))
    }

    /// The certificate of the pool's authority.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca").join("ca.pem")
    }

    /// The files of a client that was added: `client.pem`, `client.key`, `ca.pem`, `client.toml`.
    #[must_use]
    pub fn client_dir(&self, name: &str) -> PathBuf {
        self.dir.join("clients").join(name)
    }

    /// The whole name of an object in `obj`.
    #[must_use]
    pub fn obj(&self, address: &str) -> String {
        format!("{address}.obj.{}", self.builder.domain)
    }

    /// All servers, s1 first.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// One server.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn server(&self, name: &str) -> Result<&Server> {
        let found = self.servers.iter().find(|server| server.name == name);
        found.with_context(|| format!("the pool has no server {name}"))
    }

    fn server_mut(&mut self, name: &str) -> Result<&mut Server> {
        let found = self.servers.iter_mut().find(|server| server.name == name);
        found.with_context(|| format!("the pool has no server {name}"))
    }

    /// The librarian's process.
    ///
    /// # Errors
    ///
    /// When it was stopped.
    pub fn librarian_process(&self) -> Result<&Process> {
        self.librarian.as_ref().context("the librarian is stopped")
    }

    /// Every running process, with its name.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.librarian
            .iter()
            .chain(self.servers.iter().filter_map(|server| server.process.as_ref()))
    }

    /// A command of the librarian, `--dir` added: `pool.librarian(&["where", "1.2.3"])`.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn librarian(&self, args: &[&str]) -> Result<Captured> {
        self.librarian_any(args)?.success()
    }

    /// As [`Pool::librarian`], whatever the exit status.
    ///
    /// # Errors
    ///
    /// When it cannot be started or does not end.
    pub fn librarian_any(&self, args: &[&str]) -> Result<Captured> {
        capture(self.librarian_command(args), b"", COMMAND_WAIT)
    }

    /// A librarian's command that the caller runs, such as one that is not waited for.
    #[must_use]
    pub fn librarian_command(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.builder.program, "librarian", LIBRARIAN);
        command.args(args).arg("--dir").arg(&self.dir);
        command
    }

    /// A librarian's command that may take long, such as a drain, given `wait` to end.
    ///
    /// # Errors
    ///
    /// When it fails or does not end in time.
    pub fn librarian_within(&self, wait: Duration, args: &[&str]) -> Result<Captured> {
        capture(self.librarian_command(args), b"", wait)?.success()
    }

    /// A command of the agent's command line, as a client types it; `input` is its standard input.
    /// `pool.agent(&["get", "1.2.3", "--client", dir])`.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn agent<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Result<Captured> {
        self.agent_any(args, input)?.success()
    }

    /// A client's command that may take long, given `wait` to end.
    ///
    /// # Errors
    ///
    /// When it fails or does not end in time.
    pub fn agent_within<S: AsRef<OsStr>>(&self, wait: Duration, args: &[S]) -> Result<Captured> {
        let mut command = self.command(&self.builder.agent_program, "agent", CLIENT);
        command.args(args);
        capture(command, b"", wait)?.success()
    }

    /// A client's command that the caller runs, such as one whose input or output is a stream.
    #[must_use]
    pub fn agent_command(&self) -> Command {
        self.command(&self.builder.agent_program, "agent", CLIENT)
    }

    /// As [`Pool::agent`], whatever the exit status.
    ///
    /// # Errors
    ///
    /// When it cannot be started or does not end.
    pub fn agent_any<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Result<Captured> {
        let mut command = self.command(&self.builder.agent_program, "agent", CLIENT);
        command.args(args);
        capture(command, input, COMMAND_WAIT)
    }

    /// Adds a client with grants such as `read:1` and returns the directory of its files.
    ///
    /// # Errors
    ///
    /// When the librarian refuses.
    pub fn add_client(&self, name: &str, grants: &[&str]) -> Result<PathBuf> {
        let mut args = vec!["client", "add", name];
        for grant in grants {
            args.extend(["--grant", grant]);
        }
        self.librarian(&args)?;
        let dir = self.client_dir(name);
        ensure!(
            dir.join("client.pem").exists(),
            "client add left no certificate in {}",
            dir.display()
        );
        Ok(dir)
    }

    /// Starts the librarian, after [`Pool::stop_librarian`] or [`Pool::kill_librarian`] too.
    ///
    /// # Errors
    ///
    /// When it does not become ready.
    pub fn start_librarian(&mut self) -> Result<()> {
        self.run_librarian(&["run"])
    }

    /// Has a new process take over from the librarian, which then ends by itself.
    ///
    /// # Errors
    ///
    /// When the new one does not become ready, or the old one does not end in order.
    pub fn take_over_librarian(&mut self) -> Result<()> {
        let old = self.librarian.take().context("the librarian is stopped")?;
        self.run_librarian(&["run", "--take-over"])?;
        old.ended()
    }

    fn run_librarian(&mut self, args: &[&str]) -> Result<()> {
        let mut command = self.command(&self.builder.program, "librarian", LIBRARIAN);
        if let Some(cpu) = self.builder.librarian_cpu {
            command = Command::new("taskset");
            command
                .args(["-c", &cpu.to_string()])
                .arg(&self.builder.program)
                .arg("librarian");
            self.surround(&mut command, LIBRARIAN);
        }
        command.args(args).arg("--dir").arg(&self.dir);
        let process = Process::start("librarian", command, &self.dir.join("logs/librarian.log"))?;
        let ready: LibrarianReady = serde_json::from_str(process.ready()).context("read the librarian's ready line")?;
        self.dns = ready.dns;
        self.https = ready.https;
        self.librarian = Some(process);
        Ok(())
    }

    /// Changes one setting of librarian.toml: it counts from the librarian's next start on.
    ///
    /// # Errors
    ///
    /// When the file cannot be changed.
    pub fn set_librarian(&self, key: &str, value: impl Into<toml::Value>) -> Result<()> {
        settings::write(&self.dir.join("librarian.toml"), &[(key, value.into())], &[])
    }

    /// Ends the librarian in order.
    ///
    /// # Errors
    ///
    /// When it ends with an error.
    pub fn stop_librarian(&mut self) -> Result<()> {
        self.librarian.take().context("the librarian is stopped")?.stop()
    }

    /// SIGKILLs the librarian.
    ///
    /// # Errors
    ///
    /// When it is not running.
    pub fn kill_librarian(&mut self) -> Result<()> {
        self.librarian.take().context("the librarian is stopped")?.kill()
    }

    /// Starts a server's agent, after [`Pool::stop_server`] or [`Pool::kill_server`] too.
    ///
    /// # Errors
    ///
    /// When it does not become ready.
    pub fn start_server(&mut self, name: &str) -> Result<()> {
        let log = self.dir.join("logs").join(format!("{name}.log"));
        let program = self
            .server(name)?
            .program
            .as_ref()
            .unwrap_or(&self.builder.agent_program);
        let mut command = self.command(program, "agent", name);
        let supervised = self.builder.releases.is_some();
        let server = self.server_mut(name)?;
        match supervised {
            true => {
                let installer = server.dir.join(INSTALLER);
                command
                    .arg("supervise")
                    .arg("--dir")
                    .arg(&server.dir)
                    .arg("--config")
                    .arg(installer)
            }
            false => command.arg("run").arg("--dir").arg(&server.dir),
        };
        let process = Process::start(name, command, &log)?;
        server.ready = serde_json::from_str(process.ready()).context("read the agent's ready line")?;
        server.process = Some(process);
        Ok(())
    }

    /// Ends a server's agent in order.
    ///
    /// # Errors
    ///
    /// When it ends with an error.
    pub fn stop_server(&mut self, name: &str) -> Result<()> {
        self.server_mut(name)?
            .process
            .take()
            .context("the server is stopped")?
            .stop()
    }

    /// SIGKILLs a server's agent.
    ///
    /// # Errors
    ///
    /// When it is not running.
    pub fn kill_server(&mut self, name: &str) -> Result<()> {
        self.server_mut(name)?
            .process
            .take()
            .context("the server is stopped")?
            .kill()
    }

    /// Does what a person does who installs a release by hand: stops the agent, replaces its program, names the release, starts it.
    ///
    /// # Errors
    ///
    /// When the agent does not end or the new one does not become ready.
    pub fn install_by_hand(&mut self, name: &str, program: &Path, release: &str) -> Result<()> {
        self.stop_server(name)?;
        let server = self.server_mut(name)?;
        server.program = Some(program.to_owned());
        let file = server.dir.join("agent.toml");
        settings::write(&file, &[(settings::AGENT_RELEASE, release.into())], &[])?;
        self.start_server(name)
    }

    /// Leaves the directory where it is when the pool is dropped.
    pub fn keep_dir(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let _ = temporary.keep();
        }
    }

    /// Invites a server and joins it, without starting it.
    ///
    /// # Errors
    ///
    /// When the librarian refuses the invitation or the joining.
    pub fn join(&mut self, name: &str, role: &str) -> Result<()> {
        let set_elsewhere = self.builder.agent_dirs.iter().find(|(server, _)| server == name);
        let dir = match set_elsewhere {
            Some((_, dir)) => dir.clone(),
            None => self.dir.join("agents").join(name),
        };
        let mut args = vec!["invite", name];
        if role != "serving" {
            args.extend(["--role", role]);
        }
        let token = self.librarian(&args)?.stdout;
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let mut command = self.command(&self.builder.agent_program, "agent", name);
        command.args(["join", "--token-file", "-", "--dir"]).arg(&dir);
        capture(command, token.as_bytes(), COMMAND_WAIT)?.success()?;
        let (https, peer) = match self.builder.agent_port {
            // Servers on hosts of their own do not share ports.
            Some(first) if self.builder.network.is_some() => (first, first + 1),
            Some(first) => {
                let first = first + 2 * u16::try_from(self.servers.len()).context("count servers")?;
                (first, first + 1)
            }
            None => (free_port()?, free_port()?),
        };
        let host = self.builder.address(name)?;
        let local = |port| SocketAddr::from((host, port));
        settings::write(
            &dir.join("agent.toml"),
            &[
                (settings::AGENT_HTTPS, local(https).to_string().into()),
                (settings::AGENT_PEER, local(peer).to_string().into()),
            ],
            &self.builder.agent_settings,
        )?;
        if let Some(allow) = &self.builder.releases {
            release_installer(&dir, &allow.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        self.servers.push(Server {
            name: name.to_owned(),
            dir,
            ready: AgentReady {
                name: name.to_owned(),
                https: local(https),
                peer: local(peer),
                metrics: None,
            },
            program: None,
            process: None,
        });
        Ok(())
    }

    /// Waits until the librarian lists every server as alive.
    ///
    /// # Errors
    ///
    /// When that takes over half a minute.
    pub fn wait_for_servers(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let listed = self.pool_status()?;
            let alive = listed.servers.iter().filter(|server| server.alive).count();
            if alive == self.servers.len() {
                return Ok(());
            }
            if Instant::now() > until {
                bail!(
                    "only {alive} of {} servers were heard by the librarian: {listed:?}",
                    self.servers.len()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `librarian pool --json`.
    ///
    /// # Errors
    ///
    /// When the command fails or prints something else.
    pub fn pool_status(&self) -> Result<PoolStatus> {
        let listed = self.librarian(&["pool", "--json"])?;
        serde_json::from_str(&listed.stdout)
            .with_context(|| format!("read the output of {}: {}", listed.command, listed.stdout))
    }

    fn command(&self, program: &Path, word: &str, host: &str) -> Command {
        let mut command = Command::new(program);
        command.arg(word);
        self.surround(&mut command, host);
        command
    }

    fn surround(&self, command: &mut Command, host: &str) {
        if let Some(network) = &self.builder.network {
            network
                .place(command, host)
                .expect("a network has a host for each process");
        }
        command.env("RUST_LOG", &self.builder.log);
        command.envs(self.builder.environment.iter().map(|(name, value)| (name, value)));
    }
}

/// What `librarian pool --json` prints, as far as it is used here.
#[derive(Clone, Debug, Deserialize)]
pub struct PoolStatus {
    /// All servers that ever joined.
    pub servers: Vec<ServerStatus>,
}

/// One server in [`PoolStatus`].
#[derive(Clone, Debug, Deserialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Whether its lease runs.
    pub alive: bool,
    /// Objects it says it has.
    #[serde(default)]
    pub objects: Option<u64>,
    /// Bytes it says it has.
    #[serde(default)]
    pub bytes: Option<u64>,
}
