//! Whole upgrades of real processes: every one on a network host of its own, agents under `agent supervise`, clients by the Rust
//! client and by plain getaddrinfo and curl through unbound. Needs root, for network namespaces.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use integration::chaos::clients::{Clients, Workload};
use integration::chaos::history::History;
use integration::harness::{NETWORK, Network, Pool, Unbound, UpgradeStatus};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// Servers of the pool whose clients work.
const SERVERS: usize = 4;
const AGENT_PORT: u16 = 8443;
/// Each of these runs has a dozen processes: one run at a time.
static ALONE: Mutex<()> = Mutex::new(());
/// What a program reads that knows DNS, HTTPS and a certificate, and nothing of us.
const PLAIN: &str = "7.plain";

/// A shell that reads one object over and over: getaddrinfo asks unbound, curl follows redirects.
struct PlainReader {
    child: Child,
    dir: tempfile::TempDir,
    _unbound: Unbound,
}

impl PlainReader {
    fn start(pool: &Pool, network: &Network, client: &Path) -> Result<PlainReader> {
        let here = network.address("client")?;
        let unbound = Unbound::start(pool, (here, 53).into())?;
        let dir = tempfile::tempdir()?;
        let file = |name: &str| dir.path().join(name);
        std::fs::write(file("resolv.conf"), format!("nameserver {here}\n"))?;
        std::fs::write(file("nsswitch.conf"), "hosts: files dns\n")?;
        let script = format!(
            "mount --bind {dir}/resolv.conf /etc/resolv.conf && mount --bind {dir}/nsswitch.conf /etc/nsswitch.conf || exit 1\n\
             while [ ! -e {dir}/stop ]; do\n\
               curl -q -sS -L --max-time 10 --cacert {client}/ca.pem --cert {client}/client.pem --key {client}/client.key \
                 -o /dev/null -w '%{{http_code}}\\n' https://any.pool.hypernet.internal:{AGENT_PORT}/objects/{PLAIN}/body \
                 >> {dir}/codes 2>> {dir}/errors\n\
             done\n",
            dir = dir.path().display(),
            client = client.display(),
        );
        let child = Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .context("start a shell")?;
        Ok(PlainReader {
            child,
            dir,
            _unbound: unbound,
        })
    }

    /// Ends it; answers with the status codes that it saw, 0 for no answer.
    fn stop(mut self) -> Result<Vec<u16>> {
        std::fs::write(self.dir.path().join("stop"), "")?;
        let ended = self.child.wait()?;
        ensure!(ended.success(), "the shell ended with {ended}");
        let codes = std::fs::read_to_string(self.dir.path().join("codes")).unwrap_or_default();
        let errors = std::fs::read_to_string(self.dir.path().join("errors")).unwrap_or_default();
        let codes: Vec<u16> = codes.lines().map(|line| line.parse().unwrap_or(0)).collect();
        if let Some(error) = errors.lines().next() {
            println!("curl said: {error}");
        }
        Ok(codes)
    }
}

/// What clients saw.
struct Seen {
    known: usize,
    unknown: usize,
    /// The longest operation, in milliseconds.
    longest_ms: u128,
    codes: Vec<u16>,
}

/// Upgrades a pool of four on hosts of their own while clients work. `trouble` may do something at each look.
fn upgrade(trouble: impl FnMut(&mut Pool, &UpgradeStatus) -> Result<()> + Send) -> Result<Seen> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let hosts = ["librarian", "client", "s1", "s2", "s3", "s4"];
    let network = Arc::new(Network::new(&hosts)?);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            // The clients' host: this thread's, and so that of everything that it starts.
            network.enter("client")?;
            upgrade_on(&network, trouble)
        });
        running.join().map_err(|_| anyhow!("the run panicked"))?
    })
}

fn upgrade_on(
    network: &Arc<Network>,
    mut trouble: impl FnMut(&mut Pool, &UpgradeStatus) -> Result<()>,
) -> Result<Seen> {
    let mut pool = Pool::builder(DEMO)
        .servers(SERVERS)
        .network(Arc::clone(network))
        .agent_port(Some(AGENT_PORT))
        .agent_setting("release", "1")
        .releases(&["2"])
        .librarian_setting("networks", vec![NETWORK])
        // A server is stopped when answers that name it are cached nowhere any more.
        .librarian_setting("ttl", "1s")
        .start()?;
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let words = ["put", PLAIN, "-", "--client", dir.to_str().context("a path of text")?];
    pool.agent(&words, b"plain content")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let clients = Arc::new(Clients::new(&dir, History::new())?);
    let workload = Workload {
        seed: 11,
        clients: 4,
        objects: 60,
    };
    runtime.block_on(clients.create(workload.objects))?;
    let plain = PlainReader::start(&pool, network, &dir)?;
    let stop = Arc::new(AtomicBool::new(false));
    let working = runtime.spawn(Arc::clone(&clients).work(workload, Arc::clone(&stop)));

    let upgraded = (|| {
        let ask = [
            "upgrade",
            "start",
            "--to",
            "2",
            "--level",
            "2",
            "--soak",
            "1s",
            "--errors-max",
            "1000",
            "--detach",
        ];
        pool.librarian(&ask)?;
        let soaked = pool.follow_upgrade("soaked", &mut trouble)?;
        soaked.all_run(SERVERS, "2")?;
        ensure!(soaked.unreadable_by_old_release == 0, "{soaked:#?}");
        pool.librarian(&["upgrade", "finalize"])?;
        let done = pool.follow_upgrade("done", |_, _| Ok(()))?;
        ensure!(done.resting == 0, "{done:#?}");
        Ok(())
    })();
    stop.store(true, Ordering::Release);
    let worked = runtime.block_on(working);
    let codes = plain.stop();
    let kept = upgraded.inspect_err(|_| pool.keep_dir());
    kept.with_context(|| format!("upgrade the pool; the logs lie in {}", pool.dir().display()))?;
    worked??;
    let (known, unknown) = clients.history().counts();
    let longest_ms = clients.history().longest().as_millis();
    runtime.block_on(clients.read_all())?;
    if let Err(violation) = clients.history().judge() {
        pool.keep_dir();
        bail!("{violation}; the logs lie in {}", pool.dir().display());
    }
    Ok(Seen {
        known,
        unknown,
        longest_ms,
        codes: codes?,
    })
}

#[test]
fn nobody_notices_an_upgrade_without_faults() -> Result<()> {
    let seen = upgrade(|_, _| Ok(()))?;
    println!(
        "{} operations, the longest {} ms, {} plain reads",
        seen.known,
        seen.longest_ms,
        seen.codes.len()
    );
    ensure!(seen.unknown == 0, "{} operations got no answer", seen.unknown);
    ensure!(seen.known > 200 && seen.codes.len() > 20, "the clients did too little");
    let bad: Vec<&u16> = seen.codes.iter().filter(|code| **code != 200).collect();
    ensure!(
        bad.is_empty(),
        "{} of {} plain reads failed: {bad:?}",
        bad.len(),
        seen.codes.len()
    );
    Ok(())
}

#[test]
fn nothing_is_lost_when_source_destination_and_librarian_are_killed_in_an_upgrade() -> Result<()> {
    let (mut source, mut destination, mut librarian, mut installing) = (false, false, false, false);
    let seen = upgrade(|pool, now| {
        if let Some(draining) = now.in_role("draining").next() {
            let into = draining.into.as_deref().context("a drain has a target")?;
            // One after the other, each in the midst of a drain of its own or of what is left of one.
            let victim = match (source, destination, librarian) {
                (false, _, _) => {
                    source = true;
                    Some(draining.name.as_str())
                }
                (true, false, _) => {
                    destination = true;
                    Some(into)
                }
                (true, true, false) => {
                    librarian = true;
                    pool.kill_librarian()?;
                    pool.start_librarian()?;
                    None
                }
                (true, true, true) => None,
            };
            if let Some(victim) = victim {
                pool.kill_server(victim)?;
                pool.start_server(victim)?;
            }
        } else if let (Some(upgrading), false) = (now.in_role("upgrading").next(), installing) {
            installing = true;
            pool.kill_server(&upgrading.name)?;
            pool.start_server(&upgrading.name)?;
        }
        Ok(())
    })?;
    println!(
        "{} operations, {} without an answer, the longest {} ms, {} plain reads",
        seen.known,
        seen.unknown,
        seen.longest_ms,
        seen.codes.len()
    );
    ensure!(
        source && destination && librarian && installing,
        "not everybody was killed"
    );
    ensure!(seen.known > 200, "the clients did too little: {}", seen.known);
    Ok(())
}

/// The server that is emptied first never comes back: neither install nor rollback works there.
#[test]
fn reserve_takes_the_place_of_a_server_that_never_comes_back() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pool = Pool::builder(DEMO)
        .servers(3)
        .agent_setting("release", "1")
        .releases(&["2"])
        .librarian_setting("ttl", "1s")
        .start()?;
    pool.join("s4", "reserve")?;
    pool.start_server("s4")?;
    pool.wait_for_servers()?;
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let alice = dir.to_str().context("a path of text")?;
    for number in 0..20 {
        pool.agent(&["put", &format!("3.{number}"), "-", "--client", alice], b"content")?;
    }
    let ask = [
        "upgrade",
        "start",
        "--to",
        "2",
        "--soak",
        "1s",
        "--install-wait",
        "20s",
        "--detach",
    ];
    pool.librarian(&ask)?;
    let mut lost: Option<String> = None;
    let soaked = pool.follow_upgrade("soaked", |pool, now| {
        if let (Some(draining), None) = (now.in_role("draining").next(), &lost) {
            let dir: PathBuf = pool.server(&draining.name)?.dir.clone();
            std::fs::write(dir.join("fail.install"), "99")?;
            std::fs::write(dir.join("fail.rollback"), "99")?;
            lost = Some(draining.name.clone());
        }
        Ok(())
    })?;
    let lost = lost.context("a server was drained")?;
    let failed = soaked.in_role("failed").map(|server| server.name.as_str());
    ensure!(failed.eq([lost.as_str()]), "{soaked:#?}");
    let mut others = soaked.servers.iter().filter(|server| server.name != lost);
    ensure!(
        others.all(|server| server.release.as_deref() == Some("2")),
        "{soaked:#?}"
    );
    for number in 0..20 {
        let read = pool.agent(&["get", &format!("3.{number}"), "--client", alice], b"")?;
        ensure!(read.stdout == "content", "3.{number} is {:?}", read.stdout);
    }
    Ok(())
}
