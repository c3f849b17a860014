//! The agent's part: asks for the release that its want names, says that it serves, and tells how the installing stands.
//!
//! It asks when all of this holds: it is configured to, its role is `upgrading`, the want names another release than its own,
//! the librarian has answered lately, no request is open, nothing was answered to this (plan, step) or a later one, and nothing
//! is left here that a stop would hurt ([`Clear`]). Then requests of clients end, or their time is over; the request is
//! durable; the librarian has heard of it, or a few seconds have passed; and the agent stops.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use zones::upkeep::Install;
use zones::{Role, Steps, Upkeep, Want};

use super::folder::Folder;
use super::release::Release;
use super::words::{Direction, FileError, Health, Outcome, Report, Request, RequestId, Version, load, store};
use super::{FOLDER, HEALTH, REQUEST, RESULT, SUPERVISED};
use crate::clock::{self, BootInstant};
use crate::config::{Config, How};
use crate::control::Wanted;
use crate::install::selftest::Prober;

/// Time between two looks at files and want.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the librarian may take to hear that an install was asked for.
const TELL_WAIT: Duration = Duration::from_secs(5);
/// Time between two runs of a self-test that fails.
const TEST_EVERY: Duration = Duration::from_secs(5);
/// Time between two complaints about the same obstacle.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Whether a stop would hurt anybody.
pub trait Clear: Send + Sync {
    /// Whether nothing is left on this server but what says where objects went; what is left, in words.
    ///
    /// # Errors
    ///
    /// What is left first.
    fn is_clear(&self) -> Result<(), String>;

    /// Requests of clients that run now.
    fn running(&self) -> u64;

    /// Lets nothing new begin from now on, if nothing is left here: the check of disk and journal that the agent repeats at the
    /// moment it stops (DESIGN.md section 13, Empty). Requests that still run have had their time. May block for a moment.
    ///
    /// # Errors
    ///
    /// What is left; then everything goes on as before.
    fn close(&self) -> Result<(), String>;

    /// Lets everything begin again: nothing could be asked for.
    fn reopen(&self);
}

/// How the installing stands, for the control loop: what the last strings of the *has* record say of it.
#[derive(Debug)]
pub struct InstallView {
    install: Mutex<Shown>,
    tested: watch::Sender<u64>,
    rounds: watch::Sender<u64>,
}

/// What is told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Shown {
    install: Install,
    /// The plan under which it failed or was refused: under a later one the server is as ready as ever.
    until: Option<u64>,
}

impl Default for InstallView {
    fn default() -> Self {
        InstallView {
            install: Mutex::default(),
            tested: watch::Sender::new(0),
            rounds: watch::Sender::new(0),
        }
    }
}

impl InstallView {
    /// Puts both into what is told beside this plan's number.
    #[must_use]
    pub fn fill(&self, upkeep: Upkeep, plan: u64) -> Upkeep {
        let Shown { install, until } = self.install.lock().clone();
        Upkeep {
            install: match until.is_some_and(|until| plan > until) {
                true => Install::Ready,
                false => install,
            },
            tested: *self.tested.borrow(),
            ..upkeep
        }
    }

    /// The librarian has taken what was told.
    pub fn was_told(&self) {
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    fn show(&self, shown: Shown) {
        *self.install.lock() = shown;
    }

    /// Waits until what is shown now was told, at most so long.
    async fn told(&self, most: Duration) {
        let mut rounds = self.rounds.subscribe();
        // A round that is under way may have looked before.
        let two_on = *rounds.borrow() + 2;
        // The sender lives as long as this value.
        drop(timeout(most, rounds.wait_for(|now| *now >= two_on)).await);
    }
}

/// What follows from a want and the files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Nothing.
    Nothing,
    /// A release is to be asked for.
    Ask(Direction, Release),
    /// The upgrade is finalized: no release may be put back any more.
    Close,
}

/// What an agent of release `own` does for a want, by what it and the installer said to each other last. Pure.
#[must_use]
pub fn decide(own: &Release, want: &Want, request: Option<&Request>, report: Option<&Report>) -> Decision {
    if request.is_some() || report.is_some_and(|report| (want.plan, want.step) <= report.request.order()) {
        return Decision::Nothing;
    }
    if want.role == Role::Upgrading
        && let Some(Ok(release)) = want.errand.release.as_deref().map(str::parse::<Release>)
        && release != *own
    {
        let direction = match release.is_lower_than(own) {
            true => Direction::Rollback,
            false => Direction::Install,
        };
        return Decision::Ask(direction, release);
    }
    // Contract steps run since this release was installed: what they write the release before cannot read.
    let finalized = report.is_some_and(|report| {
        report.outcome == (Outcome::Installed {})
            && report.request.direction == Direction::Install
            && report.request.release == *own
            && !report.request.contract
            && want.policy.steps == Steps::All
    });
    match finalized {
        true => Decision::Close,
        false => Decision::Nothing,
    }
}

/// What an agent of release `own` tells of the installing beside this plan's number. Pure.
#[must_use]
pub fn told(own: &Release, request: Option<&Request>, report: Option<&Report>, plan: u64) -> Install {
    let view = InstallView::default();
    view.show(shown(own, request, report));
    view.fill(Upkeep::default(), plan).install
}

/// What is told of the installing.
fn shown(own: &Release, request: Option<&Request>, report: Option<&Report>) -> Shown {
    let shown = |install, until| Shown { install, until };
    if let Some(request) = request.filter(|request| request.direction != Direction::Close) {
        return shown(Install::Asked(request.release.to_string()), None);
    }
    let Some(Report { request, outcome, .. }) = report.filter(|report| report.request.release != *own) else {
        return shown(Install::Ready, None);
    };
    let release = request.release.to_string();
    match outcome {
        Outcome::Failed { .. } | Outcome::Broken { .. } => shown(Install::Failed(release), Some(request.plan)),
        Outcome::Refused { .. } => shown(Install::Refused(release), Some(request.plan)),
        Outcome::Installed {} | Outcome::Closed {} => shown(Install::Ready, None),
    }
}

/// Asks, and says that it serves.
pub struct Asker {
    own: Release,
    /// `None` where a person installs.
    folder: Option<Folder>,
    requests_wait: Duration,
    view: Arc<InstallView>,
    wanted: watch::Receiver<Wanted>,
    clear: Arc<dyn Clear>,
    /// Cancelled when this process is to stop for an install.
    stop: CancellationToken,
}

impl Asker {
    /// Works in the agent's directory, as its settings say.
    ///
    /// # Errors
    ///
    /// The system's, where the folder of requests cannot be made.
    pub fn new(
        dir: &Path,
        config: &Config,
        wanted: watch::Receiver<Wanted>,
        clear: Arc<dyn Clear>,
        stop: CancellationToken,
    ) -> std::io::Result<Asker> {
        let asks = config.install.how == How::Request || std::env::var_os(SUPERVISED).is_some();
        let asker = Asker {
            own: config.release.parse().expect("settings refuse what is no release"),
            folder: match asks {
                true => Some(Folder::make(&dir.join(FOLDER))?),
                false => None,
            },
            requests_wait: config.install.requests_wait,
            view: Arc::default(),
            wanted,
            clear,
            stop,
        };
        // Told from the first word on; what cannot be read is told by the first round.
        if let Ok(Some(Files { request, report, .. })) = asker.files() {
            asker.view.show(shown(&asker.own, request.as_ref(), report.as_ref()));
        }
        Ok(asker)
    }

    /// What the control loop tells.
    #[must_use]
    pub fn view(&self) -> Arc<InstallView> {
        Arc::clone(&self.view)
    }

    /// Asks when it is time to, and tests this server when that is asked for, until dropped.
    pub async fn run(self, prober: Prober) {
        let mut last_complaint = None;
        let mut tester = Tester::default();
        let mut began_waiting = None;
        loop {
            if let Err(error) = self.round(&mut began_waiting).await {
                complain(&mut last_complaint, &format!("{:#}", anyhow::Error::from(error)));
            }
            if self.stop.is_cancelled() {
                // Its ports close: they are not to be tried.
                return;
            }
            if let Err(error) = tester.round(&self, &prober).await {
                complain(&mut last_complaint, &format!("{error:#}"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn files(&self) -> Result<Option<Files<'_>>, FileError> {
        let Some(folder) = &self.folder else { return Ok(None) };
        Ok(Some(Files {
            folder,
            request: load(folder, REQUEST)?,
            report: load(folder, RESULT)?,
        }))
    }

    async fn close(&self) -> Result<(), String> {
        let clear = Arc::clone(&self.clear);
        let closed = tokio::task::spawn_blocking(move || clear.close()).await;
        closed.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn round(&self, began_waiting: &mut Option<Instant>) -> Result<(), FileError> {
        let Some(Files {
            folder,
            request,
            report,
        }) = self.files()?
        else {
            return Ok(());
        };
        self.view.show(shown(&self.own, request.as_ref(), report.as_ref()));
        let wanted = self.wanted.borrow().clone();
        let Some(want) = wanted.want.as_ref().filter(|_| wanted.may_start(BootInstant::now())) else {
            return Ok(());
        };
        let (direction, release) = match decide(&self.own, want, request.as_ref(), report.as_ref()) {
            Decision::Nothing => {
                *began_waiting = None;
                return Ok(());
            }
            Decision::Close => (Direction::Close, self.own.clone()),
            Decision::Ask(direction, release) => {
                let since = *began_waiting.get_or_insert_with(Instant::now);
                if let Err(left) = self.clear.is_clear() {
                    tracing::debug!(%release, left, "not asked for: this server is not empty");
                    return Ok(());
                }
                if self.clear.running() > 0 && since.elapsed() < self.requests_wait {
                    return Ok(());
                }
                if let Err(left) = self.close().await {
                    tracing::warn!(%release, left, "not asked for: this server is not empty any more");
                    return Ok(());
                }
                (direction, release)
            }
        };
        let request = Request {
            v: Version,
            id: RequestId::fresh(),
            direction,
            release,
            present: self.own.clone(),
            plan: want.plan,
            step: want.step,
            contract: want.policy.steps == Steps::All,
            unix_ms: clock::unix_ms(),
        };
        if let Err(error) = store(folder, REQUEST, &request) {
            if direction != Direction::Close {
                self.clear.reopen();
            }
            return Err(error);
        }
        tracing::info!(release = %request.release, plan = request.plan, step = request.step, ?direction, "asked the installer");
        self.view.show(shown(&self.own, Some(&request), None));
        if direction != Direction::Close {
            self.view.told(TELL_WAIT).await;
            self.stop.cancel();
        }
        Ok(())
    }
}

/// What agent and installer have said to each other.
struct Files<'a> {
    folder: &'a Folder,
    request: Option<Request>,
    report: Option<Report>,
}

/// Runs the self-test when somebody waits for it.
#[derive(Debug, Default)]
struct Tester {
    /// It has passed since this process started.
    passed: bool,
    last_try: Option<Instant>,
    answered: Option<RequestId>,
}

impl Tester {
    async fn round(&mut self, asker: &Asker, prober: &Prober) -> anyhow::Result<()> {
        let request = match asker.files() {
            Ok(files) => files.and_then(|files| Some((files.folder, files.request?))),
            // Told by the one who asks.
            Err(_) => None,
        };
        let (plan, role, named, answered) = {
            let wanted = asker.wanted.borrow();
            let named = wanted.want.as_ref().and_then(|want| want.errand.release.clone());
            let plan = wanted.want.as_ref().map_or(0, |want| want.plan);
            (plan, wanted.role(), named, wanted.answered_at.is_some())
        };
        let tested = *asker.view.tested.borrow();
        let validated = role == Some(Role::Validating)
            || (role == Some(Role::Upgrading) && named.as_deref() == Some(asker.own.as_str()));
        let is_due = (validated && plan > tested) || (request.is_some() && !self.passed);
        if !answered {
            return Ok(());
        }
        if is_due && self.last_try.is_none_or(|last| last.elapsed() >= TEST_EVERY) {
            self.last_try = Some(Instant::now());
            prober.test().await?;
            tracing::info!(plan, "the self-test passed");
            self.passed = true;
            self.last_try = None;
            asker.view.tested.send_modify(|tested| *tested = plan.max(*tested));
        }
        if self.passed
            && let Some((folder, request)) = request
            && self.answered != Some(request.id)
        {
            let health = Health {
                v: Version,
                id: request.id,
                release: asker.own.clone(),
                pid: std::process::id(),
                boot: boot_id(),
                unix_ms: clock::unix_ms(),
            };
            store(folder, HEALTH, &health)?;
            self.answered = Some(request.id);
        }
        Ok(())
    }
}

/// Says the same thing once in a while.
fn complain(last: &mut Option<(String, Instant)>, what: &str) {
    let is_old = |(said, when): &(String, Instant)| said != what || when.elapsed() >= COMPLAIN_EVERY;
    if last.as_ref().is_none_or(is_old) {
        tracing::error!(
            error = what,
            "this server is not ready for an install, or not after one"
        );
        *last = Some((what.to_owned(), Instant::now()));
    }
}

fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use zones::{Errand, Policy};

    use super::super::words::tests::a_request;
    use super::super::words::{Failure, Part};
    use super::*;

    fn want(role: Role, plan: u64, step: u64, release: Option<&str>) -> Want {
        Want {
            role,
            targets: Vec::new(),
            plan,
            step,
            policy: Policy::default(),
            errand: Errand {
                release: release.map(str::to_owned),
                ..Errand::default()
            },
        }
    }

    fn failed(plan: u64) -> Report {
        Report {
            request: a_request("2.0", "1.0", plan),
            outcome: Outcome::Failed {
                failure: Failure {
                    part: Part::Start,
                    why: "late".to_owned(),
                    said: Vec::new(),
                },
            },
            unix_ms: 0,
        }
    }

    fn one() -> Release {
        "1.0".parse().unwrap()
    }

    #[test]
    fn upgrading_server_asks_for_another_release_than_its_own() {
        let ask = |want: &Want| decide(&one(), want, None, None);
        assert_eq!(
            ask(&want(Role::Upgrading, 7, 0, Some("2.0"))),
            Decision::Ask(Direction::Install, "2.0".parse().unwrap())
        );
        assert_eq!(
            ask(&want(Role::Upgrading, 7, 0, Some("0.9"))),
            Decision::Ask(Direction::Rollback, "0.9".parse().unwrap())
        );
        for other in [
            want(Role::Upgrading, 7, 0, Some("1.0")),
            want(Role::Upgrading, 7, 0, None),
            want(Role::Empty, 7, 0, Some("2.0")),
        ] {
            assert_eq!(ask(&other), Decision::Nothing);
        }
    }

    #[test]
    fn failed_release_is_asked_for_again_only_under_a_later_want() {
        let report = failed(7);
        for (plan, step, asks) in [(7, 0, false), (6, 5, false), (7, 1, true), (8, 0, true)] {
            let want = want(Role::Upgrading, plan, step, Some("2.0"));
            let decision = decide(&one(), &want, None, Some(&report));
            assert_eq!(decision != Decision::Nothing, asks, "{plan} {step}");
            let open = a_request("2.0", "1.0", 5);
            assert_eq!(decide(&one(), &want, Some(&open), Some(&report)), Decision::Nothing);
        }
    }

    #[test]
    fn record_is_closed_when_contract_steps_begin_after_the_install() {
        let installed = |contract| Report {
            request: Request {
                contract,
                ..a_request("2.0", "1.0", 7)
            },
            outcome: Outcome::Installed {},
            unix_ms: 0,
        };
        let mut want = want(Role::Serving, 8, 0, None);
        let two: Release = "2.0".parse().unwrap();
        let decide = |want: &Want, report: &Report| decide(&two, want, None, Some(report));
        assert_eq!(decide(&want, &installed(false)), Decision::Nothing);
        want.policy.steps = Steps::All;
        assert_eq!(decide(&want, &installed(false)), Decision::Close);
        assert_eq!(decide(&want, &installed(true)), Decision::Nothing, "they ran before");
        assert_eq!(decide(&want, &failed(7)), Decision::Nothing);
    }

    #[test]
    fn what_is_told_follows_request_and_result() {
        let shown =
            |own: &Release, request: Option<&Request>, report: Option<&Report>| shown(own, request, report).install;
        assert_eq!(shown(&one(), None, None), Install::Ready);
        let open = a_request("2.0", "1.0", 8);
        assert_eq!(
            shown(&one(), Some(&open), Some(&failed(7))),
            Install::Asked("2.0".to_owned())
        );
        assert_eq!(shown(&one(), None, Some(&failed(7))), Install::Failed("2.0".to_owned()));
        let two = "2.0".parse().unwrap();
        assert_eq!(
            shown(&two, None, Some(&failed(7))),
            Install::Ready,
            "a person installed it"
        );
    }

    #[test]
    fn failure_is_told_under_the_plan_that_it_happened_under_and_no_longer() {
        let view = InstallView::default();
        view.show(shown(&one(), None, Some(&failed(7))));
        let told = |plan| view.fill(Upkeep::default(), plan).install;
        assert_eq!(told(7), Install::Failed("2.0".to_owned()));
        assert_eq!(told(8), Install::Ready, "a later plan has not failed");
    }

    /// A server with as much left on it as a test says.
    #[derive(Default)]
    struct Left {
        rows: AtomicU64,
        running: AtomicU64,
    }

    impl Clear for Left {
        fn is_clear(&self) -> Result<(), String> {
            match self.rows.load(Ordering::Relaxed) {
                0 => Ok(()),
                rows => Err(format!("{rows} rows")),
            }
        }

        fn close(&self) -> Result<(), String> {
            self.is_clear()
        }

        fn reopen(&self) {}

        fn running(&self) -> u64 {
            self.running.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_for_before_the_server_is_clear_and_its_requests_have_ended_or_had_their_time() {
        for ends in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let left = Arc::new(Left::default());
            let (sender, wanted) = watch::channel(Wanted::default());
            let stop = CancellationToken::new();
            let asker = Asker {
                own: one(),
                folder: Some(Folder::make(&dir.path().join(FOLDER)).unwrap()),
                requests_wait: Duration::from_secs(600),
                view: Arc::default(),
                wanted,
                clear: Arc::clone(&left) as Arc<dyn Clear>,
                stop: stop.clone(),
            };
            let is_asked = || asker.files().unwrap().is_some_and(|files| files.request.is_some());
            let mut since = None;
            let hears = |answered_at| {
                let want = Some(want(Role::Upgrading, 7, 0, Some("2.0")));
                sender.send_modify(|wanted| (wanted.want, wanted.answered_at) = (want, answered_at));
            };
            hears(None);
            asker.round(&mut since).await.unwrap();
            assert!(!is_asked(), "the librarian has not answered lately");
            hears(Some(BootInstant::now() + Duration::from_secs(3600)));
            left.rows.store(1, Ordering::Relaxed);
            left.running.store(1, Ordering::Relaxed);
            asker.round(&mut since).await.unwrap();
            assert!(!is_asked(), "it holds something");
            left.rows.store(0, Ordering::Relaxed);
            asker.round(&mut since).await.unwrap();
            assert!(!is_asked(), "a request runs");
            match ends {
                true => left.running.store(0, Ordering::Relaxed),
                false => tokio::time::advance(Duration::from_secs(600)).await,
            }
            assert!(!stop.is_cancelled());
            asker.round(&mut since).await.unwrap();
            assert!(is_asked() && stop.is_cancelled());
            assert_eq!(
                asker.view().fill(Upkeep::default(), 9).install,
                Install::Asked("2.0".to_owned())
            );
        }
    }
}
