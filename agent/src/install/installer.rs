//! The installer: takes a request, and ends with the agent at the wanted release, or at the one before.
//!
//! A small machine over a journal: each step is written down before it begins. Whoever hosts it restarts the agent and knows
//! whether to stop; the rest are commands and files.

use std::thread;
use std::time::{Duration, Instant};

use super::command::{self, Trouble};
use super::folder::Folder;
use super::release::Release;
use super::settings::{Settings, filled};
use super::words::{
    Direction, Failure, FileError, Health, Journal, Outcome, Part, Phase, Record, Report, Request, Version, load,
    remove, store,
};
use super::{HEALTH, JOURNAL, OPEN, REQUEST, RESULT};
use crate::clock;

/// How often a step is begun before it counts as failed: somebody kills the installer in it, or it takes the machine down.
pub const BEGUN_MAX: u32 = 3;
/// Time between two looks for the agent's word.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Requests that are taken one after another at most.
const REQUESTS_MAX: usize = 4;

/// Who restarts the agent.
pub trait Host {
    /// Starts the agent, or stops it and starts it anew.
    ///
    /// # Errors
    ///
    /// [`Trouble`].
    fn restart(&mut self, release: &Release) -> Result<(), Trouble>;

    /// How the agent ended, where this host is its parent and it has.
    fn ended(&mut self) -> Option<String>;

    /// Whether the agent may be running: it need not be started again if it has said that it is healthy.
    fn may_be_running(&mut self) -> bool;

    /// Whether this process is asked to end.
    fn must_stop(&self) -> bool;
}

/// How the installer ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ended {
    /// Nothing was asked for; the agent was left alone.
    Idle,
    /// The agent was restarted, and runs at the release that the report says.
    Done(Report),
    /// It works at neither release.
    Broken(Report),
    /// This process was asked to end. Started again it goes on.
    Interrupted,
}

/// Why the installer cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another installer works for this agent.
    #[error("another installer works here: wait for it to end")]
    Busy(#[source] std::io::Error),
    /// More requests came than an agent makes.
    #[error("request after request, {REQUESTS_MAX} of them: the agent asks without end, look at its log")]
    Endless,
}

/// Installs what is asked for.
#[derive(Debug)]
pub struct Installer {
    /// Where the agent writes.
    folder: Folder,
    /// Where only the installer writes; may be the same folder.
    own: Folder,
    settings: Settings,
}

/// What a step leads to.
enum Next {
    Phase(Phase, Option<Failure>),
    Over(Outcome),
    Interrupted,
}

impl Installer {
    /// Works in these folders: that of the requests, and that of its own notes.
    #[must_use]
    pub fn new(folder: Folder, own: Folder, settings: Settings) -> Installer {
        Installer { folder, own, settings }
    }

    /// Whether an agent has asked for something, or a former installer left something undone.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub fn is_asked(&self) -> Result<bool, FileError> {
        let journal: Option<Journal> = load(&self.own, JOURNAL)?;
        Ok(journal.is_some_and(|journal| journal.phase != Phase::Over) || self.request().is_some())
    }

    /// Whether an agent asks for something that it need not stop for.
    #[must_use]
    pub fn is_asked_to_close(&self) -> bool {
        matches!(self.request(), Some(Ok(request)) if request.direction == Direction::Close)
    }

    /// Goes on with what a former installer left, then does what is asked for.
    ///
    /// # Errors
    ///
    /// [`InstallError`].
    pub fn run(&self, host: &mut dyn Host) -> Result<Ended, InstallError> {
        self.own.lock().map_err(InstallError::Busy)?;
        let mut ended = Ended::Idle;
        for _ in 0..REQUESTS_MAX {
            let journal: Option<Journal> = load(&self.own, JOURNAL)?;
            ended = match journal {
                Some(journal) if journal.phase != Phase::Over => self.go_on(journal, host)?,
                last => match self.request() {
                    None => return Ok(ended),
                    Some(Ok(request)) => self.take(&request, last.as_ref(), host)?,
                    Some(Err(error)) => {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "a request is not understood and removed"
                        );
                        remove(&self.folder, REQUEST)?;
                        self.leave_running(&"unknown".parse().expect("a legal name"), host)?
                    }
                },
            };
            if matches!(ended, Ended::Broken(_) | Ended::Interrupted) {
                return Ok(ended);
            }
        }
        Err(InstallError::Endless)
    }

    fn request(&self) -> Option<Result<Request, FileError>> {
        load(&self.folder, REQUEST).transpose()
    }

    fn take(&self, request: &Request, last: Option<&Journal>, host: &mut dyn Host) -> Result<Ended, InstallError> {
        if last.is_some_and(|last| last.request.id == request.id) {
            // Its result is durable; only this was left to do.
            remove(&self.folder, REQUEST)?;
            return self.leave_running(&request.present, host);
        }
        if request.direction == Direction::Close {
            remove(&self.own, OPEN)?;
            tracing::info!(plan = request.plan, "finalized: no release may be put back");
            self.report(request, last, Outcome::Closed {})?;
            return Ok(Ended::Idle);
        }
        let record: Option<Record> = load(&self.own, OPEN)?;
        if let Err(why) = judge(&self.settings, request, last.map(|last| &last.request), record.as_ref()) {
            tracing::error!(release = %request.release, %why, "refused");
            self.report(request, last, Outcome::Refused { why })?;
            return self.leave_running(&request.present, host);
        }
        if request.direction == Direction::Install && request.release != request.present {
            store(
                &self.own,
                OPEN,
                &Record {
                    v: Version,
                    from: request.present.clone(),
                    to: request.release.clone(),
                    plan: request.plan,
                    unix_ms: clock::unix_ms(),
                },
            )?;
        }
        let journal = Journal {
            request: request.clone(),
            phase: Phase::Installing,
            begun: 0,
            failure: None,
        };
        store(&self.own, JOURNAL, &journal)?;
        self.go_on(journal, host)
    }

    /// Steps on to the end.
    fn go_on(&self, mut journal: Journal, host: &mut dyn Host) -> Result<Ended, InstallError> {
        loop {
            let part = part(journal.phase);
            let next = if journal.begun >= BEGUN_MAX {
                let why = format!("it was begun {BEGUN_MAX} times and never ended");
                after(
                    journal.phase,
                    Err(Failure {
                        part,
                        why,
                        said: Vec::new(),
                    }),
                    journal.failure.clone(),
                )
            } else {
                journal.begun += 1;
                store(&self.own, JOURNAL, &journal)?;
                tracing::info!(release = %journal.request.release, phase = ?journal.phase, begun = journal.begun, "installing");
                match self.step(&journal, host)? {
                    Ok(()) => after(journal.phase, Ok(()), journal.failure.clone()),
                    Err(Trouble::Interrupted) => Next::Interrupted,
                    Err(Trouble::Failed { why, said }) => {
                        let failure = Failure { part, why, said };
                        tracing::error!(release = %journal.request.release, %failure, "a step of the install failed");
                        after(journal.phase, Err(failure), journal.failure.clone())
                    }
                }
            };
            match next {
                Next::Phase(phase, failure) => {
                    journal = Journal {
                        phase,
                        begun: 0,
                        failure,
                        ..journal
                    };
                    store(&self.own, JOURNAL, &journal)?;
                }
                Next::Interrupted => {
                    // It ended in order: that is no sign that the step takes anything down.
                    journal.begun -= 1;
                    store(&self.own, JOURNAL, &journal)?;
                    return Ok(Ended::Interrupted);
                }
                Next::Over(outcome) => {
                    let request = &journal.request;
                    if request.direction == Direction::Rollback && outcome == (Outcome::Installed {}) {
                        remove(&self.own, OPEN)?;
                    }
                    let report = self.report(request, None, outcome)?;
                    return Ok(match report.outcome {
                        Outcome::Broken { .. } => Ended::Broken(report),
                        _ => Ended::Done(report),
                    });
                }
            }
        }
    }

    /// Writes the result; then the journal says that it is; then the request goes. An older request than the last leaves the
    /// journal as it is, so that none becomes newer by it.
    fn report(&self, request: &Request, last: Option<&Journal>, outcome: Outcome) -> Result<Report, InstallError> {
        let report = Report {
            request: request.clone(),
            outcome,
            unix_ms: clock::unix_ms(),
        };
        store(&self.folder, RESULT, &report)?;
        if last.is_none_or(|last| request.order() > last.request.order()) {
            let over = Journal {
                request: request.clone(),
                phase: Phase::Over,
                begun: 0,
                failure: None,
            };
            store(&self.own, JOURNAL, &over)?;
        }
        remove(&self.folder, REQUEST)?;
        Ok(report)
    }

    fn step(&self, journal: &Journal, host: &mut dyn Host) -> Result<Result<(), Trouble>, InstallError> {
        let request = &journal.request;
        let (there, back) = match request.direction {
            Direction::Rollback => (&self.settings.rollback, &self.settings.install),
            Direction::Install | Direction::Close => (&self.settings.install, &self.settings.rollback),
        };
        let run = |template: &[String], release: &Release| {
            let host = &*host;
            command::run(
                &filled(template, release),
                release,
                self.settings.install_timeout,
                &|| host.must_stop(),
            )
        };
        match journal.phase {
            Phase::Installing => Ok(run(there, &request.release)),
            Phase::Undoing => Ok(run(back, &request.present)),
            Phase::Starting => self.bring_up(journal, &request.release, host),
            Phase::Returning => self.bring_up(journal, &request.present, host),
            Phase::Over => Ok(Ok(())),
        }
    }

    /// Restarts the agent, and waits until it says that it serves at this release.
    fn bring_up(
        &self,
        journal: &Journal,
        release: &Release,
        host: &mut dyn Host,
    ) -> Result<Result<(), Trouble>, InstallError> {
        let id = journal.request.id;
        let healthy = || match load::<Health>(&self.folder, HEALTH) {
            Ok(health) => health.is_some_and(|health| health.id == id && health.release == *release),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the agent's word is not read");
                false
            }
        };
        // A former installer may have brought it up, and then been killed.
        if journal.begun > 1 && host.may_be_running() && healthy() {
            return Ok(Ok(()));
        }
        // The word of an agent that ran before this step says nothing.
        remove(&self.folder, HEALTH)?;
        if let Err(trouble) = host.restart(release) {
            return Ok(Err(trouble));
        }
        let until = Instant::now() + self.settings.health_timeout;
        loop {
            if healthy() {
                return Ok(Ok(()));
            }
            let why = if host.must_stop() {
                return Ok(Err(Trouble::Interrupted));
            } else if let Some(how) = host.ended() {
                format!("the agent did not serve at {release}: {how}")
            } else if Instant::now() >= until {
                format!(
                    "the agent did not serve at {release} in {}: its log says why",
                    humantime_serde::re::humantime::format_duration(self.settings.health_timeout)
                )
            } else {
                thread::sleep(LOOK_EVERY);
                continue;
            };
            return Ok(Err(Trouble::Failed { why, said: Vec::new() }));
        }
    }

    /// The agent has stopped for a request that led to nothing: it runs again, as it was.
    fn leave_running(&self, present: &Release, host: &mut dyn Host) -> Result<Ended, InstallError> {
        match host.restart(present) {
            Ok(()) => Ok(load(&self.folder, RESULT)?.map_or(Ended::Idle, Ended::Done)),
            Err(Trouble::Interrupted) => Ok(Ended::Interrupted),
            Err(Trouble::Failed { why, .. }) => {
                tracing::error!(%why, "the agent does not start again");
                Ok(Ended::Idle)
            }
        }
    }
}

fn part(phase: Phase) -> Part {
    match phase {
        Phase::Installing => Part::Install,
        Phase::Starting => Part::Start,
        Phase::Undoing => Part::Undo,
        Phase::Returning | Phase::Over => Part::Return,
    }
}

/// Where a step leads that ended like this; `first` is what failed before.
fn after(phase: Phase, ended: Result<(), Failure>, first: Option<Failure>) -> Next {
    let broken = |back: Failure, first: Option<Failure>| {
        let failure = first.unwrap_or_else(|| back.clone());
        Next::Over(Outcome::Broken { failure, back })
    };
    match (phase, ended) {
        (Phase::Installing, Ok(())) => Next::Phase(Phase::Starting, None),
        (Phase::Installing | Phase::Starting, Err(failure)) => Next::Phase(Phase::Undoing, Some(failure)),
        (Phase::Starting, Ok(())) => Next::Over(Outcome::Installed {}),
        (Phase::Undoing, Ok(())) => Next::Phase(Phase::Returning, first),
        (Phase::Returning, Ok(())) => {
            let failure = first.expect("a step back follows a failure");
            Next::Over(Outcome::Failed { failure })
        }
        (Phase::Undoing | Phase::Returning, Err(back)) => broken(back, first),
        (Phase::Over, Ok(()) | Err(_)) => unreachable!("nothing follows the end"),
    }
}

/// Whether a request may be obeyed, by the installer's own settings and notes.
///
/// # Errors
///
/// Why not, in words for the operator.
pub fn judge(
    settings: &Settings,
    request: &Request,
    last: Option<&Request>,
    record: Option<&Record>,
) -> Result<(), String> {
    let Request { release, present, .. } = request;
    if let Some(last) = last.filter(|last| request.order() <= last.order()) {
        return Err(format!(
            "plan {} step {} is not newer than plan {} step {}, which was obeyed last",
            request.plan, request.step, last.plan, last.step
        ));
    }
    if release.is_lower_than(present) || request.direction == Direction::Rollback {
        // What ran here before needs no place on the list: the record is the leave to put it back.
        return match record {
            Some(record) if record.from == *release && record.to == *present => Ok(()),
            Some(record) => Err(format!(
                "{present} may not be replaced by {release}: the rollback that is open leads from {} to {}",
                record.to, record.from
            )),
            None => Err(format!("{release} is lower than {present}, and no rollback is open")),
        };
    }
    match settings.allows(release) {
        true => Ok(()),
        false => Err(format!(
            "{release} is not among the releases that may be installed here: add it to `allow`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::words::tests::a_request;
    use super::*;

    fn settings() -> Settings {
        let text = "allow = [\"2.0\", \"1.5\"]\ninstall = [\"i\", \"{release}\"]\nrollback = [\"r\", \"{release}\"]";
        Settings::from_toml(text, Path::new("f")).unwrap()
    }

    fn record(from: &str, to: &str) -> Record {
        Record {
            v: Version,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            plan: 7,
            unix_ms: 0,
        }
    }

    #[test]
    fn release_that_is_not_on_the_list_is_refused() {
        assert_eq!(judge(&settings(), &a_request("2.0", "1.0", 7), None, None), Ok(()));
        let why = judge(&settings(), &a_request("2.1", "1.0", 7), None, None).unwrap_err();
        assert!(why.contains("2.1 is not among"), "{why}");
    }

    #[test]
    fn lower_release_is_put_back_only_by_the_record_that_names_it() {
        let back = a_request("1.0", "2.0", 8);
        assert_eq!(judge(&settings(), &back, None, Some(&record("1.0", "2.0"))), Ok(()));
        for other in [None, Some(record("1.1", "2.0")), Some(record("1.0", "1.9"))] {
            assert!(judge(&settings(), &back, None, other.as_ref()).is_err(), "{other:?}");
        }
        assert!(
            judge(
                &settings(),
                &a_request("1.5", "2.0", 8),
                None,
                Some(&record("1.0", "2.0"))
            )
            .is_err(),
            "the list alone is no leave to go back"
        );
        let called_install = Request {
            direction: Direction::Install,
            ..a_request("1.5", "2.0", 8)
        };
        assert!(judge(&settings(), &called_install, None, None).is_err());
    }

    #[test]
    fn request_that_is_not_newer_than_the_last_is_refused() {
        let last = a_request("2.0", "1.0", 7);
        for (plan, step, newer) in [(7, 0, false), (6, 9, false), (7, 1, true), (8, 0, true)] {
            let again = Request {
                step,
                ..a_request("2.0", "1.0", plan)
            };
            assert_eq!(
                judge(&settings(), &again, Some(&last), None).is_ok(),
                newer,
                "{plan} {step}"
            );
        }
    }

    /// Every order of two outcomes of each step ends, with one result.
    #[test]
    fn every_way_through_the_steps_ends() {
        let failure = |why: usize| Failure {
            part: Part::Install,
            why: why.to_string(),
            said: Vec::new(),
        };
        for ways in 0_usize..16 {
            let (mut phase, mut first) = (Phase::Installing, None);
            let outcome = (0..4).find_map(|at| {
                let ended = match ways >> at & 1 {
                    0 => Ok(()),
                    _ => Err(failure(at)),
                };
                match after(phase, ended, first.clone()) {
                    Next::Phase(next, failure) => {
                        (phase, first) = (next, failure);
                        None
                    }
                    Next::Over(outcome) => Some(outcome),
                    Next::Interrupted => None,
                }
            });
            match outcome.expect("four steps are the most") {
                Outcome::Installed {} => assert_eq!(ways & 0b11, 0),
                Outcome::Failed { failure } => assert_eq!(failure.why, (ways & 1 ^ 1).to_string()),
                Outcome::Broken { failure, back } => assert_ne!(failure, back),
                Outcome::Refused { .. } | Outcome::Closed {} => panic!("{ways:04b}"),
            }
        }
    }

    /// A host whose agent says that it is healthy as soon as it is started, at every release but some.
    struct Fake<'a> {
        folder: &'a Folder,
        id: super::super::words::RequestId,
        sick: &'a [&'a str],
        restarts: u32,
    }

    impl Host for Fake<'_> {
        fn restart(&mut self, release: &Release) -> Result<(), Trouble> {
            self.restarts += 1;
            if !self.sick.contains(&release.as_str()) {
                let health = Health {
                    v: Version,
                    id: self.id,
                    release: release.clone(),
                    pid: 1,
                    boot: String::new(),
                    unix_ms: 0,
                };
                store(self.folder, HEALTH, &health).unwrap();
            }
            Ok(())
        }

        fn ended(&mut self) -> Option<String> {
            Some("it ended".to_owned())
        }

        fn may_be_running(&mut self) -> bool {
            true
        }

        fn must_stop(&self) -> bool {
            false
        }
    }

    fn installer(dir: &Path) -> Installer {
        let folder = || Folder::make(&dir.join("upgrade")).unwrap();
        let mut settings = settings();
        let command = vec!["/bin/true".to_owned(), "{release}".to_owned()];
        (settings.install, settings.rollback) = (command.clone(), command);
        Installer::new(folder(), folder(), settings)
    }

    /// Every state of the files that a kill between two writes leaves, at every step.
    #[test]
    fn installer_that_was_killed_anywhere_ends_with_a_result_and_without_a_request() {
        let request = a_request("2.0", "1.0", 7);
        let failure = Failure {
            part: Part::Start,
            why: "late".to_owned(),
            said: Vec::new(),
        };
        let phases = [Phase::Installing, Phase::Starting, Phase::Undoing, Phase::Returning];
        for phase in phases {
            for begun in 0..=BEGUN_MAX {
                for result_written in [false, true] {
                    let dir = tempfile::tempdir().unwrap();
                    let installer = installer(dir.path());
                    let first = matches!(phase, Phase::Undoing | Phase::Returning).then(|| failure.clone());
                    let journal = Journal {
                        request: request.clone(),
                        phase,
                        begun,
                        failure: first.clone(),
                    };
                    store(&installer.folder, REQUEST, &request).unwrap();
                    store(&installer.own, JOURNAL, &journal).unwrap();
                    if result_written {
                        let report = Report {
                            request: request.clone(),
                            outcome: Outcome::Refused {
                                why: "an old one".to_owned(),
                            },
                            unix_ms: 0,
                        };
                        store(&installer.folder, RESULT, &report).unwrap();
                    }
                    let mut host = Fake {
                        folder: &installer.folder,
                        id: request.id,
                        sick: &[],
                        restarts: 0,
                    };
                    let ended = installer.run(&mut host).unwrap();
                    let report: Report = load(&installer.folder, RESULT).unwrap().unwrap();
                    let expected = match (phase, begun == BEGUN_MAX) {
                        (Phase::Installing | Phase::Starting, false) => "installed",
                        (Phase::Installing | Phase::Starting, true) | (_, false) => "failed",
                        (_, true) => "broken",
                    };
                    let found = match (&ended, &report.outcome) {
                        (Ended::Done(_), Outcome::Installed {}) => "installed",
                        (Ended::Done(_), Outcome::Failed { .. }) => "failed",
                        (Ended::Broken(_), Outcome::Broken { .. }) => "broken",
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(found, expected, "{phase:?} {begun}");
                    assert!(load::<Request>(&installer.folder, REQUEST).unwrap().is_none());
                    assert!(!installer.is_asked().unwrap());
                    let restarts = host.restarts;
                    assert_eq!(
                        installer.run(&mut host).unwrap(),
                        Ended::Idle,
                        "and nothing is done twice"
                    );
                    assert_eq!(host.restarts, restarts);
                }
            }
        }
    }

    #[test]
    fn request_whose_result_is_there_already_only_goes() {
        let dir = tempfile::tempdir().unwrap();
        let installer = installer(dir.path());
        let request = a_request("2.0", "1.0", 7);
        store(&installer.folder, REQUEST, &request).unwrap();
        let mut host = Fake {
            folder: &installer.folder,
            id: request.id,
            sick: &[],
            restarts: 0,
        };
        let done = installer.run(&mut host).unwrap();
        store(&installer.folder, REQUEST, &request).unwrap();
        assert_eq!(installer.run(&mut host).unwrap(), done);
        assert_eq!(host.restarts, 2, "the agent runs again in any case");
        assert!(!installer.is_asked().unwrap());
    }

    #[test]
    fn word_of_an_agent_that_ran_before_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let installer = installer(dir.path());
        let request = a_request("2.0", "1.0", 7);
        store(&installer.folder, REQUEST, &request).unwrap();
        let mut host = Fake {
            folder: &installer.folder,
            id: request.id,
            sick: &["1.0", "2.0"],
            restarts: 0,
        };
        for release in ["2.0", "1.0"] {
            host.sick = &[];
            host.restart(&release.parse().unwrap()).unwrap();
        }
        host.sick = &["1.0", "2.0"];
        let ended = installer.run(&mut host).unwrap();
        assert!(matches!(ended, Ended::Broken(_)), "{ended:?}");
    }

    #[test]
    fn rollback_that_was_recorded_is_possible_once_and_not_after_the_end_of_the_upgrade() {
        for close in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let installer = installer(dir.path());
            let ask = |request: &Request| {
                store(&installer.folder, REQUEST, request).unwrap();
                let mut host = Fake {
                    folder: &installer.folder,
                    id: request.id,
                    sick: &[],
                    restarts: 0,
                };
                installer.run(&mut host).unwrap();
                let report: Report = load(&installer.folder, RESULT).unwrap().unwrap();
                (report.outcome, host.restarts)
            };
            assert_eq!(ask(&a_request("2.0", "1.0", 7)).0, Outcome::Installed {});
            if close {
                let closing = Request {
                    direction: Direction::Close,
                    ..a_request("2.0", "2.0", 8)
                };
                assert_eq!(ask(&closing), (Outcome::Closed {}, 0), "the agent is left alone");
            }
            let (outcome, restarts) = ask(&a_request("1.0", "2.0", 9));
            assert_eq!(outcome == (Outcome::Installed {}), !close, "{outcome:?}");
            assert_eq!(restarts, 1, "refused or not, the agent runs again");
            assert_eq!(ask(&a_request("2.0", "1.0", 10)).0, Outcome::Installed {});
            assert!(matches!(ask(&a_request("0.9", "2.0", 11)).0, Outcome::Refused { .. }));
        }
    }

    #[test]
    fn two_installers_do_not_work_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (installer(dir.path()), installer(dir.path()));
        first.own.lock().unwrap();
        let mut host = Fake {
            folder: &second.folder,
            id: a_request("2.0", "1.0", 7).id,
            sick: &[],
            restarts: 0,
        };
        assert!(matches!(second.run(&mut host), Err(InstallError::Busy(_))));
    }
}
