//! The main job on one machine: a pool from nothing, objects in it, `dig` finding them, and the whole pool upgraded, one
//! server drained, or what is asked for most spread, while clients read and write.

mod book;
mod digs;
mod drain;
mod hot;
mod load;
mod options;
mod progress;
mod registers;
mod signals;
mod store;
mod summary;
mod upgrade;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use zones::Domain;

use crate::harness::Pool;
use crate::objects::{Sample, generate, load as load_file};
use book::Book;
use load::Mix;
pub use options::Options;
pub(crate) use signals::install as install_signals;
use summary::{Drained, Job, Phases, Summary};

/// Name of the client that the demo adds.
const CLIENT: &str = "demo";

/// Runs the whole demo. `program` can be a librarian and an agent: the demo's own binary.
///
/// # Errors
///
/// When a part of the pool does not start or a phase cannot run. Failed operations and objects that differ are no error
/// here: they are in the summary, and the exit status is 1.
pub fn run(options: &Options, program: &Path) -> Result<ExitCode> {
    let done = run_to_the_end(options, program);
    signals::yield_to_the_end();
    done
}

fn run_to_the_end(options: &Options, program: &Path) -> Result<ExitCode> {
    let domain: Domain = options.domain.parse().context("read --domain")?;
    let samples = samples(options, &domain)?;
    let directory = directory(options)?;
    signals::install(directory.temporary.clone()).context("listen for signals")?;

    println!(
        "A pool of {} servers, one of them free, in {}",
        options.servers,
        directory.path.display()
    );
    let mut builder = Pool::builder(program).copies(options.copies);
    if options.upgrade {
        builder = upgrade::builder(builder, &directory.path, &samples)?;
    }
    if options.hot {
        builder = hot::builder(builder, options)?;
    }
    let mut pool = builder
        .domain(&domain.to_string())
        .dir(&directory.path)
        .servers(options.servers)
        .dns_port(options.dns_port)
        .https_port(options.https_port)
        .agent_port(options.agent_port)
        .start_telling(|step| println!("  {step}"))?;
    if options.upgrade {
        upgrade::prepare(&pool, &samples)?;
    }
    let client_dir = pool
        .add_client(CLIENT, &["read:*", "write:*"])
        .context("add a client")?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let book = Arc::new(Book::new(samples));
    let phases = work(options, &mut pool, &client_dir, &book, &runtime)?;
    let summary = Summary::new(&pool, &book, phases)?;
    summary.print();
    if let Some(path) = &options.json {
        summary.write(path)?;
        println!("The summary is in {}", path.display());
    }
    let good = summary.is_good();
    if options.keep {
        tell_how_to_talk(&pool, &book);
        signals::wait_for_stop();
        println!("stops");
    }
    drop(pool);
    directory.remove();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Fills the pool, shows it, does the job under load, reads everything back.
fn work(
    options: &Options,
    pool: &mut Pool,
    client_dir: &Path,
    book: &Arc<Book>,
    runtime: &tokio::runtime::Runtime,
) -> Result<Phases> {
    let schema = options.upgrade.then_some(upgrade::CLIENTS_SCHEMA);
    let stores = store::Store::several(client_dir, options.clients, schema)?;
    println!("\nPuts {} objects, {} octets", book.len(), book.octets()?);
    let filled = runtime.block_on(load::fill(&stores, book)).context("fill the pool")?;
    let mix = options.hot.then(|| Mix::new(options, book));
    let drained = drain::choose(options.drain.as_deref(), pool)?;
    let object = match &mix {
        Some(Mix::Hot { ranks, .. }) => book.entries()[ranks[0]].address(),
        Some(Mix::Even) | None => digs::object_on(pool, book, &drained)?,
    };
    let shown = digs::about(pool, object)?;
    println!("\nAsk DNS where objects are; these are real answers:");
    digs::show(pool, &shown)?;

    let before_registers = runtime
        .block_on(registers::read_all(pool, book))
        .context("read all registers")?;
    let (moved, mut job) = if let Some(mix) = mix {
        let hot::Spread { moved, facts } = hot::under_load(options, pool, book, &stores, mix, runtime)?;
        (moved, Job::Hot(facts))
    } else if options.upgrade {
        let upgrade::Upgraded {
            before,
            during,
            after,
            facts,
        } = upgrade::under_load(options, pool, book, &stores, runtime)?;
        let elapsed = during.elapsed;
        let moved = drain::Moved {
            before,
            during,
            after,
            elapsed,
        };
        (moved, Job::Upgrade(facts))
    } else {
        let moved = drain::under_load(options, pool, book, &stores, &drained, runtime)?;
        let drained_left = runtime.block_on(verify::left_on(pool, client_dir, &drained))?;
        (moved, Job::Drain(Drained { drained, drained_left }))
    };
    let after_registers = runtime
        .block_on(registers::read_all(pool, book))
        .context("read all registers again")?;

    match &job {
        Job::Upgrade(_) => println!("\nThe same questions now that the pool is upgraded:"),
        Job::Drain(Drained { drained, .. }) => println!("\nThe same questions now that {drained} is drained:"),
        Job::Hot(_) => println!("\nThe same questions, about the hottest object, now that heat is followed:"),
    }
    digs::show(pool, &shown)?;
    let verified = runtime.block_on(verify::read_everything(&stores, book));
    if let Job::Hot(facts) = &mut job {
        facts.count_replicated(&after_registers);
    }
    Ok(Phases {
        filled,
        moved,
        job,
        changes: registers::changes(book, &before_registers, &after_registers)?,
        verified,
        counts: store::counts(&stores),
    })
}

fn samples(options: &Options, domain: &Domain) -> Result<Vec<Sample>> {
    let Some(path) = &options.objects else {
        let samples = generate(options.count, options.seed);
        println!(
            "Makes {} objects that look like real ones (--seed {}; --objects FILE loads yours)",
            samples.len(),
            options.seed
        );
        return Ok(samples);
    };
    let loaded = load_file(path, domain)?;
    println!("Read {} objects from {}", loaded.samples.len(), path.display());
    for skipped in loaded.skipped.iter().take(10) {
        println!("  left out line {}: {} {}", skipped.line, skipped.address, skipped.why);
    }
    if loaded.skipped.len() > 10 {
        println!("  left out {} more lines", loaded.skipped.len() - 10);
    }
    Ok(loaded.samples)
}

/// Where the pool lies.
struct Directory {
    path: PathBuf,
    /// The same, if it goes away at the end.
    temporary: Option<PathBuf>,
}

impl Directory {
    fn remove(self) {
        if let Some(path) = self.temporary {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

fn directory(options: &Options) -> Result<Directory> {
    match &options.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
            let empty = std::fs::read_dir(dir)
                .with_context(|| format!("list {}", dir.display()))?
                .next()
                .is_none();
            ensure!(
                empty,
                "--dir {} is not empty: the demo makes a pool from nothing, name an empty directory",
                dir.display()
            );
            Ok(Directory {
                path: dir.canonicalize().with_context(|| format!("name {}", dir.display()))?,
                temporary: None,
            })
        }
        None => {
            let made = tempfile::Builder::new()
                .prefix("hypernet-demo-")
                .tempdir()
                .context("make a temporary directory")?;
            let path = made.keep();
            Ok(Directory {
                temporary: Some(path.clone()),
                path,
            })
        }
    }
}

fn tell_how_to_talk(pool: &Pool, book: &Book) {
    let (dns, dir, domain) = (pool.dns(), pool.dir().display(), pool.domain());
    let program = std::env::current_exe().map_or("demo".to_owned(), |path| path.display().to_string());
    let address = book.first();
    let Some(server) = pool.servers().iter().find(|server| server.process().is_ok()) else {
        return;
    };
    let port = server.ready.https.port();
    println!(
        "\nThe pool runs on. Talk to it:\n  \
         dig @{ip} -p {dns_port} {address}.obj.{domain} SRV\n  \
         dig @{ip} -p {dns_port} -k {dir}/keys/admin.key {address}.obj.{domain} TXT\n  \
         {program} librarian where {address} --dir {dir}\n  \
         {program} librarian pool --dir {dir}\n  \
         {program} agent get {address} --client {dir}/clients/{CLIENT}\n  \
         curl --cacert {dir}/ca/ca.pem --cert {dir}/clients/{CLIENT}/client.pem --key {dir}/clients/{CLIENT}/client.key \\\n    \
         --resolve any.pool.{host}:{port}:127.0.0.1 -L https://any.pool.{host}:{port}/objects/{address}\n\
         Ctrl-C or SIGTERM stops it.",
        ip = dns.ip(),
        dns_port = dns.port(),
        host = domain.trim_end_matches('.'),
    );
}
