//! The command line: `librarian init`, `run`, `invite`, `client add`, `where`, `name`, `pool`, `heat`, `drain`, `refill`,
//! `lost`, `rebalance`, `backup`, `restore`, `rebuild`, `reconcile`, `upgrade`, `explain` and `resolver-config`.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage. What was asked for goes to standard output, everything else to standard
//! error. Errors say what to do.

mod audit;
mod client;
mod elsewhere;
mod init;
mod invite;
mod lookup;
mod lost;
mod moves;
mod quarantine;
mod rebalance;
mod registry;
mod resolver;
mod secondary;
mod servers;
mod show;
mod text;
mod upgrade;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use certs::{ClientName, Grant};
use clap::{Args, Parser, Subcommand, ValueEnum};
use zones::{Address, Domain, Role, ServerName};

use crate::{config, daemon, huge_pages, logging};

/// Keeps the register of a pool's objects, answers where each is, and decides what servers should do.
#[derive(Debug, Parser)]
#[command(
    name = "librarian",
    version,
    after_help = "A pool from nothing:
  librarian init --dir /var/lib/librarian
  librarian run --dir /var/lib/librarian
  librarian invite s1 --dir /var/lib/librarian > s1.token"
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Common {
    /// The librarian's directory.
    #[arg(long, global = true, env = "LIBRARIAN_DIR", default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// How log lines are written to standard error; RUST_LOG says which.
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: logging::Format,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "one value in the life of a process")]
enum Command {
    /// Make a new pool: authority, keys, settings and an empty registry.
    #[command(after_help = "Example:
  librarian init --dir /var/lib/librarian --domain hypernet.internal --dns 192.0.2.1:53 --https 192.0.2.1:8443")]
    Init {
        /// The pool's domain; fixed for ever.
        #[arg(long, default_value = "hypernet.internal")]
        domain: Domain,
        /// Where DNS is answered, UDP and TCP.
        #[arg(long, default_value_t = config::LISTEN_DNS, value_name = "IP:PORT")]
        dns: std::net::SocketAddr,
        /// Where servers join, HTTPS.
        #[arg(long, default_value_t = config::LISTEN_HTTPS, value_name = "IP:PORT")]
        https: std::net::SocketAddr,
    },
    /// Serve DNS, joining and the controller until SIGTERM or Ctrl-C.
    #[command(after_help = "Example:
  librarian run --dir /var/lib/librarian
  librarian run --dir /var/lib/librarian --take-over      (a new release, in the place of the one that runs)

Prints one line `ready {...}` when it serves, and tells systemd (Type=notify). Sockets that systemd hands on are used if they are
named dns, join or metrics. A restart by --take-over, or with sockets of systemd, loses no question.")]
    Run {
        /// Take over from the librarian that runs in the directory, with its sockets; it then ends by itself.
        #[arg(long)]
        take_over: bool,
    },
    /// Invite a server: prints a token that lets it join once.
    #[command(after_help = "Example:
  librarian invite s4 --role free --out s4.token
  agent join --token-file s4.token --dir /var/lib/agent     (on s4)

Whoever has the token can join as this server: hand it over as a secret.")]
    Invite {
        /// The name that the server will have, such as s4.
        server: ServerName,
        /// Its first role.
        #[arg(long, value_enum, default_value = "serving")]
        role: FirstRole,
        /// File for the token instead of standard output, readable by its owner only.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Invite a server that joined before, such as one that lost its disk: its old TSIG key ends when the new one joins.
        #[arg(long)]
        again: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Applications that may use the pool.
    #[command(subcommand)]
    Client(ClientCommand),
    /// Who holds an object, and where; in another pool too, if [pools] of librarian.toml knows that one.
    #[command(after_help = "Example:
  librarian where 3.1.2.1.023 --json")]
    Where {
        /// The object's address.
        address: Address,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The DNS names of an address.
    #[command(after_help = "Example:
  dig @127.0.0.1 -p 5300 $(librarian name 3.1.2.1.023 --form obj) SRV")]
    Name {
        /// The address.
        address: Address,
        /// Print one form only.
        #[arg(long, value_enum)]
        form: Option<Form>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The pool at a glance: servers, roles, releases, objects, bytes, heat, leases, copies that are missing.
    #[command(after_help = "Example:
  librarian pool --json | jq '.servers[] | select(.alive | not) | .name'")]
    Pool {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Which objects are asked for most, and how evenly servers are.
    #[command(after_help = "Example:
  librarian heat --limit 50
  librarian heat --json | jq '.objects[0]'

Those that are asked for most come first; of those that nobody asks for, those that are looked up most. `--json` has all that are told.")]
    Heat {
        /// Objects that are listed.
        #[arg(long, default_value_t = rebalance::LISTED)]
        limit: usize,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Spread objects, so that disks fill and servers are asked evenly; what is within the tolerance is left alone.
    #[command(
        args_conflicts_with_subcommands = true,
        arg_required_else_help = true,
        after_help = "Examples:
  librarian rebalance --dry-run
  librarian rebalance start
  librarian rebalance status --json

It goes on, at a bounded rate, until `stop` or another plan: a drain or an upgrade takes its place at once. [placement] and
[servers] in librarian.toml say what counts how much."
    )]
    Rebalance {
        /// Print what `start` would do, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
        #[command(subcommand)]
        what: Option<rebalance::RebalanceCommand>,
    },
    /// Move every object off a server into a free one; reads and writes go on. The server is free afterwards.
    #[command(after_help = "Example:
  librarian drain s2
  librarian drain s2 --into s4 --detach

Interrupting the command does not stop the drain; `librarian refill s2` turns it round.")]
    Drain {
        /// The server to be emptied.
        server: ServerName,
        /// The free server that takes the objects; the roomiest one unless said. A serving one if no server is free.
        #[arg(long, value_name = "SERVER")]
        into: Option<ServerName>,
        #[command(flatten)]
        follow: Follow,
    },
    /// Give a drained server its objects back; the server that took them is free afterwards.
    #[command(after_help = "Example:
  librarian refill s2

While s2 is being drained, this turns the drain round.")]
    Refill {
        /// The server that was drained.
        server: ServerName,
        #[command(flatten)]
        follow: Follow,
    },
    /// Mark a server lost for good, so that servers with copies take what it owned; asks twice. Or take that back.
    #[command(after_help = "Examples:
  librarian lost s2
  librarian lost s2 --yes --lose 3
  librarian lost s2 --undo

Without a copy elsewhere an object is lost with its server, unless that comes back. A server that comes back and is to serve again:
`--undo`; what others have taken meanwhile stays theirs. If the pool has gone to another release without it and it owns nothing
any more, it comes back as failed: `librarian upgrade start --to` the pool's own release brings it along.")]
    Lost {
        /// Which server.
        server: ServerName,
        /// Take the mark back.
        #[arg(long)]
        undo: bool,
        /// Do not ask. Refused if objects are lost with it, unless `--lose` says how many.
        #[arg(long)]
        yes: bool,
        /// How many objects may be lost with it: just as many as would be.
        #[arg(long, value_name = "OBJECTS", conflicts_with = "undo")]
        lose: Option<u64>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// What is asked of objects: level, floor and schema steps. With options, ask for more; it never falls again.
    #[command(after_help = "Examples:
  librarian policy --json
  librarian policy --level 2
  librarian policy --floor 2 --contract-steps

Objects come to a new level, and through contract steps, when they move. A floor is refused while an object is below it.")]
    Policy {
        /// Level of new objects and of those that move: 1, 2 or 3 (STORE.md says what each protects from).
        #[arg(long)]
        level: Option<u8>,
        /// Lowest level that servers take from each other.
        #[arg(long)]
        floor: Option<u8>,
        /// Run schema steps whose result the release before cannot read.
        #[arg(long)]
        contract_steps: bool,
        #[command(flatten)]
        follow: Follow,
    },
    /// Bring the whole pool to another release, server by server, while it serves.
    #[command(subcommand)]
    Upgrade(upgrade::UpgradeCommand),
    /// Why a server or an object has not moved or been upgraded yet, what blocks it, and since when.
    #[command(after_help = "Example:
  librarian explain s2
  librarian explain 3.1.2.1.023")]
    Explain {
        /// A server's name or an object's address.
        what: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Make void all certificates and the key of a client or a server; servers refuse it within seconds.
    #[command(after_help = "Example:
  librarian revoke shop

A revoked server keeps its objects and can no longer serve, move or register them: drain it first, if it can be trusted so far.
Who was revoked by mistake is let in again by `librarian client add`, or `librarian invite` and `agent join`.")]
    Revoke {
        /// Name of the client or server.
        name: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The moves of objects, as the servers' logs have them; and whether these are whole.
    #[command(after_help = "Examples:
  librarian audit 3.1.2.1.023
  librarian audit export > moves.jsonl
  librarian audit verify --json

An object's address may be written with a leading `=`, such as `=verify`.")]
    Audit {
        /// An address; `verify` checks all logs against the heads that the librarian keeps, `export` prints every entry as a
        /// line of JSON.
        #[arg(value_name = "ADDRESS|verify|export")]
        what: String,
        /// Print JSON: an array of logs for `verify`, else an entry a line.
        #[arg(long)]
        json: bool,
    },
    /// Save the registry to a file, while it serves or not; the file is read back.
    #[command(after_help = "Example:
  librarian backup /var/backups/librarian/
  librarian backup registry.backup --json

A backup holds what is registered: objects, servers and their roles, the operator's own records, plans. It holds no secret;
librarian.toml, ca/, keys/, pool.key, servers/, clients/ and secondaries/ change seldom and are backed up by copying them.")]
    Backup {
        /// File to write, or a directory for a file with the time in its name.
        #[arg(value_name = "FILE|DIR")]
        target: PathBuf,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Make the registry anew from a backup. Servers then report what has changed since; nothing changes until all have.
    #[command(after_help = "Example:
  librarian restore /var/backups/librarian/registry-hypernet.internal-20261127T101500Z.backup --dir /var/lib/librarian
  librarian run --dir /var/lib/librarian
  librarian reconcile --watch --dir /var/lib/librarian

The librarian must not run. The registry that was there is kept beside the new one.")]
    Restore {
        /// A file that `librarian backup` wrote.
        file: PathBuf,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Make the registry anew from what servers report, without any backup.
    #[command(after_help = "Example:
  librarian rebuild --dir /var/lib/librarian
  librarian run --dir /var/lib/librarian
  librarian reconcile --watch --dir /var/lib/librarian

Needs librarian.toml, ca/, keys/, pool.key and servers/ of the pool. What only a registry knows is lost: the operator's own
records, delegations, roles (a server with objects serves), and deletions of servers that are written off.")]
    Rebuild {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// How far the reconcile after a restore or rebuild is, and what it found.
    #[command(after_help = "Example:
  librarian reconcile
  librarian reconcile --watch
  librarian reconcile --write-off s3
  librarian reconcile --json | jq '.claimless[].address'")]
    Reconcile {
        /// Wait until the registry is open.
        #[arg(long, conflicts_with = "write_off")]
        watch: bool,
        /// Go on without a server that is lost for good; asks twice.
        #[arg(long, value_name = "SERVER")]
        write_off: Option<ServerName>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Name servers that take zones from the librarian.
    #[command(subcommand)]
    Secondary(secondary::SecondaryCommand),
    /// Lines for a resolver in front of the librarian.
    #[command(after_help = "Example:
  librarian resolver-config unbound > /etc/unbound/unbound.conf.d/hypernet.conf")]
    ResolverConfig {
        /// Which resolver.
        #[arg(value_enum)]
        kind: resolver::Kind,
    },
}

#[derive(Debug, Subcommand)]
enum ClientCommand {
    /// Make a certificate, a TSIG key and settings for an application.
    #[command(after_help = "Example:
  librarian client add shop --grant read:3.1 --grant write:3.1.2 --out ./shop
  agent get 3.1.2.1.023 --client ./shop
  curl --cacert shop/ca.pem --cert shop/client.pem --key shop/client.key ...

Grants are VERB:PREFIX with the verb read, write or none, and an address or * as the prefix; the most specific one decides.
The certificate is good for 7 days; --replace makes a new one.")]
    Add {
        /// Its name, such as shop.
        name: ClientName,
        /// What it may do; may be given several times.
        #[arg(long = "grant", required = true, value_name = "VERB:PREFIX")]
        grants: Vec<Grant>,
        /// Where to put its files; clients/NAME in the librarian's directory unless said.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Replace certificate, key and grants of a client that was added before.
        #[arg(long)]
        replace: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Change what an application may do; its certificate stays as it is.
    #[command(after_help = "Example:
  librarian client grant shop --grant read:3.1")]
    Grant {
        /// Its name.
        name: ClientName,
        /// What it may do from now on; may be given several times.
        #[arg(long = "grant", required = true, value_name = "VERB:PREFIX")]
        grants: Vec<Grant>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Whether to wait for a plan.
#[derive(Args, Clone, Copy, Debug)]
struct Follow {
    /// Return at once; `librarian pool` shows how far it is.
    #[arg(long)]
    detach: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FirstRole {
    /// Keeps objects and takes new ones.
    Serving,
    /// Holds nothing and takes the next drain.
    Free,
    /// Free, and kept back.
    Reserve,
}

impl FirstRole {
    fn role(self) -> Role {
        match self {
            FirstRole::Serving => Role::Serving,
            FirstRole::Free => Role::Free,
            FirstRole::Reserve => Role::Reserve,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// As written, in obj.
    Obj,
    /// Reversed, in tree.
    Tree,
    /// Without a zone; only the librarian itself answers it.
    Bare,
}

/// Runs one command; `args` come without the program's name.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(std::iter::once(OsString::from("librarian")).chain(args)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap knows which stream is whose. A closed stream is nobody's loss.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", crate::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let Common { dir, log_format } = cli.common;
    // Whatever a directory of somebody else's making lets others see, our files are our own.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    match cli.command {
        Command::Init { domain, dns, https } => init::init(&dir, &domain, dns, https),
        Command::Run { take_over } => {
            let huge_pages = huge_pages::prefer();
            logging::begin(log_format);
            if let Err(error) = huge_pages {
                tracing::warn!(%error, "memory is not in huge pages: answers are slower");
            }
            // One provider of primitives in the process, whoever asks for it.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let beginning = if take_over {
                daemon::Beginning::TakeOver
            } else {
                daemon::Beginning::Alone
            };
            Ok(runtime.block_on(daemon::run(&dir, beginning))?)
        }
        Command::Invite {
            server,
            role,
            out,
            again,
            json,
        } => invite::invite(
            &dir,
            &invite::Wish {
                server,
                role: role.role(),
                out,
                again,
                json,
            },
        ),
        Command::Client(ClientCommand::Add {
            name,
            grants,
            out,
            replace,
            json,
        }) => client::add(
            &dir,
            client::Wish {
                name,
                grants,
                out,
                replace,
                json,
            },
        ),
        Command::Where { address, json } => show::find(&dir, &address, json),
        Command::Name { address, form, json } => show::name(&dir, &address, form, json),
        Command::Pool { json } => show::pool(&dir, json),
        Command::Heat { limit, json } => rebalance::heat(&dir, limit, json),
        Command::Rebalance { what, json, .. } => rebalance::run(&dir, what, json),
        Command::Drain { server, into, follow } => moves::drain(&dir, &server, into.as_ref(), follow),
        Command::Refill { server, follow } => moves::refill(&dir, &server, follow),
        Command::Lost {
            server,
            undo,
            yes,
            lose,
            json,
        } => lost::run(&dir, &server, undo, (yes, lose), json),
        Command::Client(ClientCommand::Grant { name, grants, json }) => client::grant(&dir, &name, grants, json),
        Command::Revoke { name, json } => client::revoke(&dir, &name, json),
        Command::Audit { what, json } => match what.as_str() {
            "verify" => audit::verify(&dir, json),
            "export" => audit::list(&dir, None, true),
            address => {
                let address = address.strip_prefix('=').unwrap_or(address);
                audit::list(&dir, Some(&address.parse()?), json)
            }
        },
        Command::Policy {
            level: None,
            floor: None,
            contract_steps: false,
            follow,
        } => show::policy(&dir, follow.json),
        Command::Policy {
            level,
            floor,
            contract_steps,
            follow,
        } => moves::ask_more(&dir, (level, floor, contract_steps), follow),
        Command::Upgrade(command) => upgrade::run(&dir, command),
        Command::Explain { what, json } => upgrade::explain(&dir, &what, json),
        Command::Backup { target, json } => registry::save(&dir, &target, json),
        Command::Restore { file, yes, json } => registry::make(&dir, Some(&file), yes, json),
        Command::Rebuild { yes, json } => registry::make(&dir, None, yes, json),
        Command::Reconcile {
            write_off: Some(server),
            yes,
            json,
            ..
        } => registry::write_off(&dir, &server, yes, json),
        Command::Reconcile { watch, json, .. } => registry::status(&dir, watch, json),
        Command::Secondary(command) => secondary::run(&dir, command),
        Command::ResolverConfig { kind } => resolver::print(&dir, kind),
    }
}

/// Prints to standard output; a reader that went away is no failure of the command.
fn say(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn say_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    say(&serde_json::to_string_pretty(value)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn walk(command: &clap::Command) {
            if command.has_subcommands() {
                command.get_subcommands().for_each(walk);
            } else {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "{} shows no example", command.get_name());
            }
        }
        walk(&Cli::command());
    }

    #[test]
    fn wrong_usage_is_told_apart_from_failure() {
        let status = |args: &[&str]| format!("{:?}", run(args.iter().map(OsString::from)));
        let (usage, failure) = (format!("{:?}", ExitCode::from(2)), format!("{:?}", ExitCode::FAILURE));
        for args in [
            &["erase"][..],
            &[],
            &["where", "1..2"],
            &["invite", "S2"],
            &["client", "add", "shop"],
        ] {
            assert_eq!(status(args), usage, "{args:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(status(&["pool", "--dir", dir.path().to_str().unwrap()]), failure);
        assert_eq!(status(&["--help"]), format!("{:?}", ExitCode::SUCCESS));
    }
}
