//! The running librarian's side of the control socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use zones::{Address, Level, Policy, ServerName, Steps};

use super::answers;
use super::socket_path;
use super::words::{Addresses, LINE_OCTETS_MAX, Line, Loss, Made, Request, Saved};
use crate::handover::Successor;
use crate::keys::KeyRing;
use crate::listen::Questions;
use crate::losses::{self, Losses};
use crate::pool::controller::{ProposeError, propose, sees};
use crate::pool::status::Status;
use crate::pool::{self, Memory, Plan, Progress, Sight, steer};
use crate::reconcile::{Desk, backup};
use crate::registry::{Decided, Proposal, Registry, ServerChange};
use crate::transfer::Transfers;

/// Commands that are served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;
/// How long a command may take to say what it wants, or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the progress of a plan is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Longest time between two lines of progress, so that a command sees that the librarian lives.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// What commands may ask about and act on.
pub struct Control {
    /// The librarian's directory.
    pub dir: PathBuf,
    /// The registry.
    pub registry: Registry,
    /// What is lost of it.
    pub losses: Arc<Losses>,
    /// Its reconcile.
    pub reconcile: Arc<Desk>,
    /// The keys, to be read anew.
    pub keys: Arc<KeyRing>,
    /// Who takes zones.
    pub transfers: Arc<Transfers>,
    /// Where the librarian listens.
    pub addresses: Addresses,
    /// Which objects are looked up most.
    pub questions: Arc<Questions>,
    /// Since when things are as they are.
    pub memory: Arc<Mutex<Memory>>,
    /// Since when this process hears servers.
    pub began: Instant,
    /// Where librarians go that want to take over.
    pub successors: mpsc::Sender<Successor>,
}

/// The control socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}")]
pub struct ControlError {
    /// The socket.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// Binds the socket; one that a killed librarian left behind is replaced. Whoever holds the registry file is the only
/// librarian of the directory, so nobody else's socket is taken away.
fn bind(dir: &Path) -> Result<UnixListener, ControlError> {
    let path = socket_path(dir);
    let attempt = || {
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let socket = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(socket)
    };
    attempt().map_err(|source| ControlError { path, source })
}

/// A control socket that is bound but not served yet.
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    control: Control,
}

impl Listener {
    /// Binds the socket of a directory.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    pub fn bind(dir: &Path, control: Control) -> Result<Listener, ControlError> {
        Ok(Listener {
            socket: bind(dir)?,
            path: socket_path(dir),
            control,
        })
    }

    /// Serves commands until stopped.
    pub async fn serve(self, stop: CancellationToken) {
        let control = Arc::new(self.control);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (control, stop) = (Arc::clone(&control), stop.clone());
                    tokio::spawn(async move {
                        if let Err(error) = connection(stream, &control, &stop).await {
                            tracing::debug!(%error, "command went away");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "command was not accepted");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
        // The next start would replace it; what is left behind only misleads people.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn connection(stream: UnixStream, control: &Control, stop: &CancellationToken) -> io::Result<()> {
    let owner = rustix::process::geteuid().as_raw();
    let uid = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    if uid != owner && uid != 0 {
        return send(
            &mut write,
            &Line::Refused("only the librarian's own user may give it commands".to_owned()),
        )
        .await;
    }
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(LINE_OCTETS_MAX as u64));
    tokio::time::timeout(PATIENCE, read.read_until(b'\n', &mut line)).await??;
    let last = match serde_json::from_slice(&line) {
        Ok(Request::HandOver) => {
            let stream = read
                .into_inner()
                .into_inner()
                .reunite(write)
                .expect("halves of one stream");
            return hand_over(stream, control).await;
        }
        Ok(request) => tokio::select! {
            () = stop.cancelled() => Line::Refused("the librarian is stopping: ask again when it runs".to_owned()),
            line = answer(control, request, &mut write) => line?,
        },
        Err(error) => Line::Refused(format!(
            "this librarian does not understand the command ({error}): use programs of one release"
        )),
    };
    send(&mut write, &last).await
}

/// Gives the connection of a librarian that wants to take over to who decides.
async fn hand_over(stream: UnixStream, control: &Control) -> io::Result<()> {
    let Err(error) = control.successors.try_send(Successor::new(stream)) else {
        return Ok(());
    };
    let (mpsc::error::TrySendError::Full(successor) | mpsc::error::TrySendError::Closed(successor)) = error;
    successor
        .refuse("it is stopping, or another librarian takes over")
        .await
}

/// The last line of the answer; those before it are sent here.
async fn answer(control: &Control, request: Request, write: &mut OwnedWriteHalf) -> io::Result<Line> {
    Ok(match request {
        Request::Addresses => done(&control.addresses),
        Request::Reload => match control.keys.reload() {
            Ok(()) => {
                control.transfers.refresh();
                done(&())
            }
            Err(error) => refused(&error),
        },
        // Whoever reads the request sees to it.
        Request::HandOver => Line::Refused("ask for it first on a connection".to_owned()),
        Request::Where { address } => match address.parse::<Address>() {
            Ok(address) => match answers::find(&control.registry.view(), &address) {
                Some(found) => done(&found),
                None => Line::Refused(format!("{address} was never registered: no object has this address")),
            },
            Err(error) => refused(&error),
        },
        Request::Backup { file } => backup(control, file).await,
        Request::Reconcile => done(&control.reconcile.status(&control.registry.view(), &control.dir)),
        Request::WriteOff { server } => match server.parse::<ServerName>() {
            Ok(server) => match control.reconcile.write_off(&server).await {
                Ok(()) => done(&control.reconcile.status(&control.registry.view(), &control.dir)),
                Err(error) => refused(&error),
            },
            Err(error) => refused(&error),
        },
        Request::Loss { server } => match server.parse::<ServerName>() {
            Ok(server) => loss(control, &server).await,
            Err(error) => refused(&error),
        },
        Request::MarkLost { server, lost, lose } => match server.parse::<ServerName>() {
            Ok(server) => mark_lost(control, &server, lost, lose).await,
            Err(error) => refused(&error),
        },
        Request::Pool => match sees(&control.registry, &control.memory) {
            Ok(sight) => {
                let lost = control.losses.by_owner(&control.registry).await;
                done(&answers::pool(
                    &control.registry.view(),
                    &sight,
                    &control.reconcile,
                    &lost,
                ))
            }
            Err(error) => refused(&error),
        },
        Request::Drain { server, into } => {
            let names = (
                server.parse::<ServerName>(),
                into.as_deref().map(str::parse::<ServerName>).transpose(),
            );
            match names {
                (Ok(server), Ok(into)) => made(control, |sight| pool::drain(sight, &server, into.as_ref())).await,
                (Err(error), _) | (_, Err(error)) => refused(&error),
            }
        }
        Request::Refill { server } => match server.parse::<ServerName>() {
            Ok(server) => made(control, |sight| pool::refill(sight, &server)).await,
            Err(error) => refused(&error),
        },
        Request::Policy => match answers::policy(&control.registry.view()) {
            Ok(asked) => done(&asked),
            Err(error) => refused(&error),
        },
        Request::AskMore {
            level,
            floor,
            contract_steps,
        } => {
            let lowest = control.registry.view().objects_by_level().into_keys().next();
            made(control, |sight| {
                let now = sight.policy();
                let policy = Policy {
                    level: level.map_or(now.level, Level),
                    floor: floor.map_or(now.floor, Level),
                    steps: if contract_steps { Steps::All } else { now.steps },
                };
                pool::ask_more(sight, policy, lowest)
            })
            .await
        }
        Request::UpgradeCheck { to, ask } => {
            let moving = control.registry.view().objects_moving();
            match sees(&control.registry, &control.memory) {
                Ok(sight) => match steer::check(&sight, &to, &ask, moving, unix_s()) {
                    Ok(findings) => done(&findings),
                    Err(error) => refused(&error),
                },
                Err(error) => refused(&error),
            }
        }
        Request::UpgradeStart { to, ask } => {
            let moving = control.registry.view().objects_moving();
            made(control, |sight| steer::start(sight, &to, &ask, moving, unix_s())).await
        }
        Request::UpgradeStatus => match sees(&control.registry, &control.memory) {
            Ok(sight) => done(&Status::of(&sight)),
            Err(error) => refused(&error),
        },
        Request::UpgradePause => made(control, steer::pause).await,
        Request::UpgradeResume => made(control, steer::resume).await,
        Request::UpgradeAbort => made(control, steer::abort).await,
        Request::UpgradeFinalize { waived } => made(control, |sight| steer::finalize(sight, waived)).await,
        Request::Explain { what } => match sees(&control.registry, &control.memory) {
            Ok(sight) => match answers::explain(&control.registry.view(), &sight, &what) {
                Some(mut explained) => {
                    let address = explained.what.parse::<Address>().ok();
                    let why = address.and_then(|address| control.memory.lock().balancer.why(&address, Instant::now()));
                    explained.because.extend(why);
                    done(&explained)
                }
                None => Line::Refused(format!(
                    "{what} is neither a server of this pool nor an address that was registered: `librarian pool` lists the servers"
                )),
            },
            Err(error) => refused(&error),
        },
        Request::RebalancePreview => match sees(&control.registry, &control.memory) {
            Ok(sight) => done(&control.memory.lock().balancer.preview(&control.registry.view(), &sight)),
            Err(error) => refused(&error),
        },
        Request::RebalanceStatus => match sees(&control.registry, &control.memory) {
            Ok(sight) => done(&control.memory.lock().balancer.standing(&sight)),
            Err(error) => refused(&error),
        },
        Request::RebalanceStart => made(control, pool::balance).await,
        Request::RebalanceStop => made(control, pool::stop_balancing).await,
        Request::Secondaries => done(&control.transfers.status()),
        Request::Heat => done(&answers::heat(&control.registry.view(), &control.questions)),
        Request::Follow { plan } => follow(control, plan, write).await?,
    })
}

async fn made<E>(control: &Control, make: impl FnOnce(&Sight) -> Result<Plan, E>) -> Line
where
    ProposeError: From<E>,
{
    match propose(&control.registry, &control.memory, make).await {
        Ok(plan) => done(&Made {
            plan: plan.number,
            goal: plan.goal.to_string(),
        }),
        Err(error) => refused(&error),
    }
}

/// What would be lost with a server, or is.
async fn loss(control: &Control, server: &ServerName) -> Line {
    match found_loss(control, server).await {
        Ok(loss) => done(&loss),
        Err(why) => Line::Refused(why),
    }
}

async fn found_loss(control: &Control, server: &ServerName) -> Result<Loss, String> {
    let lost_objects = losses::with(&control.registry, server).await;
    let view = control.registry.view();
    let known = view.server(server).ok_or_else(|| unknown(server))?;
    Ok(answers::loss(&view, known, lost_objects))
}

/// Marks a server lost for good, or takes that back.
async fn mark_lost(control: &Control, server: &ServerName, lost: bool, lose: u64) -> Line {
    let decided = match decides_mark(control, server, lost) {
        Ok(decided) => decided,
        Err(why) => return Line::Refused(why),
    };
    if lost {
        let found = match found_loss(control, server).await {
            Ok(found) => found,
            Err(why) => return Line::Refused(why),
        };
        if found.lost_objects != lose {
            return Line::Refused(format!(
                "{} objects are lost with {server}, since nobody else has a copy that is not lost: if they may be, say so by `--lose {}`",
                found.lost_objects, found.lost_objects
            ));
        }
    }
    let change = ServerChange::Lost {
        name: server.clone(),
        lost,
        decided: Some(decided),
    };
    match control.registry.submit(Proposal::Server(change)).await {
        Ok(()) => {
            tracing::warn!(%server, lost, role = ?decided.role, "server is marked");
            loss(control, server).await
        }
        Err(error) => refused(&error),
    }
}

/// What a mark rests on, or why a person may not mark a server so now.
fn decides_mark(control: &Control, server: &ServerName, lost: bool) -> Result<Decided, String> {
    let sight = sees(&control.registry, &control.memory).map_err(|error| crate::chain(&error))?;
    let view = control.registry.view();
    let known = view.server(server).ok_or_else(|| unknown(server))?;
    if !view.reconcile().open {
        let why = "the registry is being reconciled: `librarian reconcile --write-off` goes on without a server";
        return Err(why.to_owned());
    }
    let hinders = match lost {
        true if view.is_alive(known) => Some(format!(
            "{server} is heard, its lease runs: stop its agent first; `librarian drain {server}` empties a server that works"
        )),
        // Right after a start everybody is silent.
        true if known.seen.is_none() && control.began.elapsed() < view.lease() => Some(format!(
            "this librarian runs for a few seconds only, and {server} may yet be heard: ask again in {} s",
            view.lease().saturating_sub(control.began.elapsed()).as_secs() + 1
        )),
        false if view.reconcile().written_off.contains(server) => Some(format!(
            "{server} was written off when the registry was reconciled, and must join anew: `librarian invite {server} --again`"
        )),
        true | false => None,
    };
    hinders.map_or(Ok(()), Err)?;
    Ok(Decided {
        seen: known.seen,
        plan: sight.number(),
        role: if lost { None } else { steer::returns_as(&sight, server) },
    })
}

fn unknown(server: &ServerName) -> String {
    format!("there is no server {server} in this pool: `librarian pool` lists them")
}

/// Saves the registry beside its writer and the threads that answer questions.
async fn backup(control: &Control, file: PathBuf) -> Line {
    let snapshot = match control.registry.snapshot() {
        Ok(snapshot) => snapshot,
        Err(error) => return refused(&error),
    };
    let path = file.clone();
    let saved = tokio::task::spawn_blocking(move || backup::write(&path, &snapshot)).await;
    match saved.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
        Ok(head) => {
            tracing::info!(file = %file.display(), entries = head.entries, "registry saved");
            done(&Saved::of(file, &head))
        }
        Err(error) => refused(&error),
    }
}

/// Sends progress until the plan is done or replaced; the last line says which.
async fn follow(control: &Control, plan: u64, write: &mut OwnedWriteHalf) -> io::Result<Line> {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut told: Option<(Progress, tokio::time::Instant)> = None;
    loop {
        ticks.tick().await;
        let progress = match sees(&control.registry, &control.memory) {
            Ok(sight) => Progress::of(&sight),
            Err(error) => return Ok(refused(&error)),
        };
        let progress = match progress {
            Some(progress) if progress.plan == plan => progress,
            Some(other) => {
                return Ok(Line::Refused(format!(
                    "plan {plan} was replaced by plan {} ({})",
                    other.plan, other.goal
                )));
            }
            None => return Ok(Line::Refused(format!("there is no plan {plan}"))),
        };
        if progress.done {
            return Ok(done(&progress));
        }
        let news = told
            .as_ref()
            .is_none_or(|(last, at)| *last != progress || at.elapsed() >= QUIET_MAX);
        if news {
            send(write, &Line::Progress(progress.clone())).await?;
            told = Some((progress, tokio::time::Instant::now()));
        }
    }
}

fn unix_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn done(value: &impl Serialize) -> Line {
    Line::Done(serde_json::to_value(value).expect("our own words are JSON"))
}

fn refused(error: &dyn std::error::Error) -> Line {
    Line::Refused(crate::chain(error))
}

async fn send(write: &mut OwnedWriteHalf, line: &Line) -> io::Result<()> {
    let mut octets = serde_json::to_vec(line).expect("our own words are JSON");
    octets.push(b'\n');
    tokio::time::timeout(PATIENCE, write.write_all(&octets)).await?
}
