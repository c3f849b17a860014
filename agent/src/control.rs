//! The agent's side of the control plane: every second it tells the librarian what this server has and asks what it
//! should do.
//!
//! Level-triggered: each round says the whole state, so a lost one costs a second and nothing else. A plan's number is
//! durable here before it is reported, and a want of a lower (plan, step) is ignored, so that no agent obeys an older
//! plan. Without an answer, [`Wanted::may_start`] turns false: open moves are finished and none is started.
//!
//! Specification: DESIGN.md sections 5 and 13.

mod load;

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use zones::{Has, Heat, Kept, Policy, Role, Upkeep, Want, Wish};

use crate::clock::BootInstant;
use crate::install::InstallView;
use crate::migration::guard::{Guard, stands};
use crate::register::{Registers, Wishes};
use load::Load;

/// Time between two rounds.
pub const PERIOD: Duration = Duration::from_secs(1);
/// How long an answer allows moves to start: a few rounds may be lost.
pub const ANSWER_SERVES: Duration = Duration::from_secs(4);
/// Name of the file that keeps the highest plan number, and what that plan asks of objects.
const PLAN_FILE: &str = "plan";

/// What the controller wants of this server, as far as this agent may obey it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Wanted {
    /// Role, targets, plan; `None` before the controller has said anything.
    pub want: Option<Want>,
    /// Wishes for single objects.
    pub todos: Vec<Wish>,
    /// Highest plan seen, durable.
    pub plan: u64,
    /// What it asks of objects, durable with it.
    pub policy: Policy,
    /// When the question was sent that was answered last.
    pub answered_at: Option<BootInstant>,
}

impl Wanted {
    /// The role this server is to act in; until the controller has said something it is `None`.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.want.as_ref().map(|want| want.role)
    }

    /// Whether moves may start: the librarian has answered lately.
    #[must_use]
    pub fn may_start(&self, now: BootInstant) -> bool {
        self.answered_at.is_some_and(|asked| now - asked < ANSWER_SERVES)
    }

    /// Takes an answer in. Whether its plan is a new one: then number and policy have to be durable before this is obeyed or
    /// reported.
    pub fn take(&mut self, wishes: Wishes) -> bool {
        let older = stands(Guard::LowerPlan)
            && match (&self.want, &wishes.want) {
                (Some(known), Some(new)) => known.supersedes(new),
                (Some(_), None) => true,
                (None, Some(new)) => new.plan < self.plan,
                (None, None) => false,
            };
        self.answered_at = Some(wishes.asked_at);
        if older {
            // An answer of the past, or of a registry that lost something: it is obeyed in nothing.
            return false;
        }
        self.todos = wishes.todos;
        self.want = wishes.want;
        let Some(want) = &self.want else {
            return false;
        };
        let higher = want.plan > self.plan;
        self.plan = self.plan.max(want.plan);
        self.policy = want.policy;
        higher
    }
}

/// The numbers of this server that change from second to second.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Figures {
    /// Objects owned.
    pub objects: u64,
    /// Octets of these.
    pub bytes: u64,
    /// Octets that the store can hold.
    pub capacity: u64,
    /// Requests for objects in the last minute.
    pub heat: u64,
    /// Requests that failed by this server's fault since it started.
    pub errors: u64,
    /// Objects that no move can take away since their copies here cannot be read.
    pub unreadable: u64,
    /// Objects that a schema step failed on.
    pub quarantined: u64,
    /// Commits of the index.
    pub commits: u64,
    /// The end of the log of moves.
    pub audit: Option<zones::audit::Head>,
    /// What gates of an upgrade are judged by.
    pub upkeep: Upkeep,
    /// Which objects are asked for most.
    pub hot: Heat,
    /// Copies beside their owner's.
    pub kept: Kept,
}

/// What is told of this server.
#[derive(Clone, Debug)]
pub struct Told {
    /// Release of the software.
    pub release: String,
    /// TCP port where it serves clients.
    pub https_port: u16,
    /// UDP port where it takes objects from its peers.
    pub peer_port: u16,
    /// Its addresses, at least one.
    pub addresses: Vec<IpAddr>,
    /// How the installing of another release stands.
    pub install: Arc<InstallView>,
}

/// Keeps telling and asking.
#[derive(Debug)]
pub struct Control {
    registers: Arc<Registers>,
    plan_file: PathBuf,
    wanted: watch::Sender<Wanted>,
}

impl Control {
    /// Reads the highest plan number that this agent has seen, and its policy.
    ///
    /// # Errors
    ///
    /// The system's, or `InvalidData` for a plan file that holds neither: without it an older plan could be obeyed.
    pub fn open(dir: &Path, registers: Arc<Registers>) -> io::Result<(Control, watch::Receiver<Wanted>)> {
        let plan_file = dir.join(PLAN_FILE);
        let (plan, policy) = match fs::read_to_string(&plan_file) {
            Ok(text) => read_plan(&text).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} holds no plan number: restore it", plan_file.display()),
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => (0, Policy::default()),
            Err(error) => return Err(error),
        };
        let (wanted, receiver) = watch::channel(Wanted {
            plan,
            policy,
            ..Wanted::default()
        });
        let control = Control {
            registers,
            plan_file,
            wanted,
        };
        Ok((control, receiver))
    }

    /// Tells and asks every second, until dropped.
    pub async fn run(self, told: Told, mut figures: impl FnMut() -> Figures + Send) {
        let mut rounds = tokio::time::interval(PERIOD);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut load = Load::default();
        let mut answered = true;
        loop {
            rounds.tick().await;
            let outcome = self.round(&told, figures(), load.permille()).await;
            match &outcome {
                Ok(()) if !answered => tracing::info!("the librarian answers again"),
                Ok(()) => {}
                Err(error) if answered => {
                    tracing::warn!(%error, "no word from the librarian: no move is started");
                }
                Err(error) => tracing::debug!(%error, "still no word from the librarian"),
            }
            answered = outcome.is_ok();
        }
    }

    /// One round: tells and asks at once.
    async fn round(&self, told: &Told, figures: Figures, load: u32) -> Result<(), Box<dyn std::error::Error + Send>> {
        let has = {
            let wanted = self.wanted.borrow();
            Has {
                release: told.release.clone(),
                // Until the controller has said something this server does nothing that another role would not do.
                role: wanted.role().unwrap_or(Role::Free),
                objects: figures.objects,
                bytes: figures.bytes,
                capacity: figures.capacity,
                load,
                heat: figures.heat,
                errors: figures.errors,
                unreadable: figures.unreadable,
                plan: wanted.plan,
                commits: figures.commits,
                peer_port: told.peer_port,
                quarantined: figures.quarantined,
                audit: figures.audit,
                upkeep: Some(told.install.fill(figures.upkeep, wanted.plan)),
                hot: Some(figures.hot),
                kept: Some(figures.kept),
            }
        };
        let (heard, wishes) = tokio::join!(
            self.registers.tell(&has, told.https_port, &told.addresses),
            self.registers.wishes(),
        );
        let wishes = wishes.map_err(boxed)?;
        let mut next = self.wanted.borrow().clone();
        if next.take(wishes) {
            let (file, plan, policy) = (self.plan_file.clone(), next.plan, next.policy);
            let written = tokio::task::spawn_blocking(move || write_durably(&file, plan, &policy)).await;
            written.expect("writing a number does not panic").map_err(boxed)?;
            tracing::info!(plan, "a new plan");
        }
        self.wanted.send_if_modified(|wanted| {
            let news = wanted.want != next.want || wanted.todos != next.todos || wanted.plan != next.plan;
            if wanted.want != next.want
                && let Some(want) = &next.want
            {
                tracing::info!(role = %want.role, plan = want.plan, step = want.step, targets = ?want.targets, "wanted");
            }
            *wanted = next;
            news
        });
        heard.map_err(boxed)?;
        told.install.was_told();
        Ok(())
    }
}

fn boxed(error: impl std::error::Error + Send + 'static) -> Box<dyn std::error::Error + Send> {
    Box::new(error)
}

/// Reads a plan file: the number, then the policy's text, if it has one.
#[must_use]
pub fn read_plan(text: &str) -> Option<(u64, Policy)> {
    let mut words = text.split_whitespace();
    let plan = words.next()?.parse().ok()?;
    let policy = Policy::from_strings(&words.collect::<Vec<_>>()).ok()?;
    Some((plan, policy))
}

/// The text of a plan file.
#[must_use]
pub fn plan_text(plan: u64, policy: &Policy) -> String {
    let words: Vec<String> = std::iter::once(plan.to_string()).chain(policy.strings()).collect();
    words.join(" ") + "\n"
}

/// Writes a plan file so that it is there after a power loss, or the one before it.
fn write_durably(file: &Path, plan: u64, policy: &Policy) -> io::Result<()> {
    let fresh = file.with_extension("new");
    let mut new = File::create(&fresh)?;
    new.write_all(plan_text(plan, policy).as_bytes())?;
    new.sync_all()?;
    fs::rename(&fresh, file)?;
    match file.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::stub::Stub;

    fn want(role: Role, plan: u64, step: u64) -> Want {
        Want {
            role,
            targets: Vec::new(),
            plan,
            step,
            policy: zones::Policy::default(),
            errand: zones::Errand::default(),
        }
    }

    fn wishes(want: Option<Want>) -> Wishes {
        Wishes {
            asked_at: BootInstant::now(),
            want,
            todos: Vec::new(),
        }
    }

    #[test]
    fn want_of_an_older_plan_is_obeyed_in_nothing() {
        let mut wanted = Wanted::default();
        assert!(wanted.take(wishes(Some(want(Role::Draining, 4, 2)))));
        for older in [Some(want(Role::Serving, 3, 9)), Some(want(Role::Serving, 4, 1)), None] {
            assert!(!wanted.take(wishes(older)));
            assert_eq!(wanted.role(), Some(Role::Draining));
            assert_eq!(wanted.plan, 4);
        }
        assert!(wanted.take(wishes(Some(want(Role::Serving, 5, 0)))));
        assert_eq!(wanted.role(), Some(Role::Serving));
    }

    #[test]
    fn older_plan_is_not_obeyed_after_a_restart() {
        let mut wanted = Wanted {
            plan: 7,
            ..Wanted::default()
        };
        assert!(!wanted.take(wishes(Some(want(Role::Draining, 6, 0)))));
        assert_eq!(wanted.role(), None);
    }

    #[test]
    fn no_answer_for_a_while_starts_no_move() {
        let mut wanted = Wanted::default();
        assert!(!wanted.may_start(BootInstant::now()));
        wanted.take(wishes(None));
        assert!(wanted.may_start(BootInstant::now()));
        assert!(!wanted.may_start(BootInstant::now() + ANSWER_SERVES));
    }

    #[test]
    fn policy_is_kept_with_the_plan_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(PLAN_FILE);
        let policy = Policy {
            level: zones::Level(2),
            ..Policy::default()
        };
        for policy in [Policy::default(), policy] {
            write_durably(&file, 12, &policy).unwrap();
            assert_eq!(read_plan(&fs::read_to_string(&file).unwrap()), Some((12, policy)));
        }
        assert_eq!(
            read_plan("12\n"),
            Some((12, Policy::default())),
            "as a release without policies writes it"
        );
        for broken in ["", "x", "12 level=2", "12 level=2 floor=3 steps=expand"] {
            assert_eq!(read_plan(broken), None, "{broken:?}");
        }
    }

    #[tokio::test]
    async fn plan_is_durable_before_it_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let stub = Stub::start().await;
        stub.pool.lock().want = Some(want(Role::Draining, 12, 3));
        let told = Told {
            release: "0.1.0".to_owned(),
            https_port: 9001,
            peer_port: 9101,
            addresses: vec!["127.0.0.1".parse().unwrap()],
            install: Arc::default(),
        };
        let (control, mut wanted) = Control::open(dir.path(), Arc::new(stub.registers())).unwrap();
        let run = tokio::spawn(control.run(told, Figures::default));
        wanted.wait_for(|wanted| wanted.plan == 12).await.unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("plan")).unwrap(), "12\n");
        assert_eq!(wanted.borrow().role(), Some(Role::Draining));
        run.abort();
        let (_, again) = Control::open(dir.path(), Arc::new(stub.registers())).unwrap();
        assert_eq!(again.borrow().plan, 12);
        assert!(stub.pool.lock().told >= 1);
    }
}
