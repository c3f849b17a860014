//! What agent and installer write to each other: JSON, one object a file.
//!
//! Both sides may be of different releases. So each file names the version of its form, `"v": 1`, and a reader refuses
//! another one, and every key that it does not know.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::folder::Folder;
use super::release::Release;

/// Most lines of a command's output that are kept.
pub const LINES_MAX: usize = 20;
/// Longest such line, in octets.
pub const LINE_OCTETS_MAX: usize = 240;

/// The version of the form of all these files.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Version;

/// A file has another form.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("form {0} is not known here: this program is older than who wrote it")]
pub struct VersionError(u8);

impl TryFrom<u8> for Version {
    type Error = VersionError;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        match number {
            1 => Ok(Version),
            other => Err(VersionError(other)),
        }
    }
}

impl From<Version> for u8 {
    fn from(Version: Version) -> u8 {
        1
    }
}

/// Names a request; fresh for each.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(Uuid);

impl RequestId {
    /// One that was never used.
    #[must_use]
    pub fn fresh() -> RequestId {
        RequestId(Uuid::now_v7())
    }

    /// One of these octets.
    #[must_use]
    pub fn from_u128(octets: u128) -> RequestId {
        RequestId(Uuid::from_u128(octets))
    }
}

impl TryFrom<String> for RequestId {
    type Error = uuid::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(RequestId)
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> String {
        id.0.to_string()
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// A release that is not lower than the present one.
    Install,
    /// The one lower release that may be put back.
    Rollback,
    /// No release: that from now on none may be put back. The upgrade is finalized.
    Close,
}

/// What the agent asks for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The form.
    pub v: Version,
    /// Fresh for each request.
    pub id: RequestId,
    /// What is asked for.
    pub direction: Direction,
    /// The wanted release; the present one where nothing is to be installed.
    pub release: Release,
    /// The release of the agent that asks.
    pub present: Release,
    /// The plan that says so.
    pub plan: u64,
    /// Order within the plan.
    pub step: u64,
    /// Whether the plan let contract steps run when this was asked for.
    pub contract: bool,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
}

impl Request {
    /// Where it stands among all that a controller ever wants.
    #[must_use]
    pub fn order(&self) -> (u64, u64) {
        (self.plan, self.step)
    }
}

/// What a failure was part of.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The command that installs, or puts back where that was asked for.
    Install,
    /// The wait for the agent at the wanted release.
    Start,
    /// The command that undoes it.
    Undo,
    /// The wait for the agent at the release before.
    Return,
}

/// Why a step failed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Which step.
    pub part: Part,
    /// How it ended.
    pub why: String,
    /// The last lines that its command wrote.
    pub said: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = match self.part {
            Part::Install => "install",
            Part::Start => "start",
            Part::Undo => "undo",
            Part::Return => "return",
        };
        write!(f, "{part}: {}", self.why)?;
        match self.said.last() {
            Some(last) => write!(f, " (it said last: {last})"),
            None => Ok(()),
        }
    }
}

/// What became of a request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// The agent serves at the wanted release.
    Installed {},
    /// It did not work, and the agent serves at the release before.
    Failed {
        /// What failed.
        failure: Failure,
    },
    /// Nothing was done.
    Refused {
        /// Why.
        why: String,
    },
    /// It did not work, and neither did the way back: a person is needed.
    Broken {
        /// What failed first.
        failure: Failure,
        /// What failed on the way back.
        back: Failure,
    },
    /// No release may be put back any more.
    Closed {},
}

/// The result of a request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The request.
    pub request: Request,
    /// What became of it.
    pub outcome: Outcome,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
}

/// That a lower release may be put back, and which one. Written when an install begins, gone when the upgrade is finalized or
/// the release is back.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The form.
    pub v: Version,
    /// The release that may be put back.
    pub from: Release,
    /// The release that is then replaced.
    pub to: Release,
    /// The plan under which it was installed.
    pub plan: u64,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
}

/// That the agent serves.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// The form.
    pub v: Version,
    /// The request that it answers.
    pub id: RequestId,
    /// The release of the agent.
    pub release: Release,
    /// Its process.
    pub pid: u32,
    /// The machine's boot id.
    pub boot: String,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
}

/// A step of the installer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The command runs.
    Installing,
    /// The agent starts at the wanted release.
    Starting,
    /// The command that undoes it runs.
    Undoing,
    /// The agent starts at the release before.
    Returning,
    /// The result is written.
    Over,
}

/// Where the installer is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// The request that it is at, or was at last.
    pub request: Request,
    /// The step.
    pub phase: Phase,
    /// How often this step was begun.
    pub begun: u32,
    /// What failed first.
    pub failure: Option<Failure>,
}

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read or written.
    #[error("use {path}/{name}")]
    Disk {
        /// The folder.
        path: String,
        /// The file.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It is no such object.
    #[error("{path}/{name} is not understood: remove it if it was written by hand")]
    Malformed {
        /// The folder.
        path: String,
        /// The file.
        name: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// Reads one of these files; `None` where there is none.
///
/// # Errors
///
/// [`FileError`].
pub fn load<T: DeserializeOwned>(folder: &Folder, name: &'static str) -> Result<Option<T>, FileError> {
    let path = || folder.path().display().to_string();
    let octets = folder.read(name).map_err(|source| FileError::Disk {
        path: path(),
        name,
        source,
    })?;
    octets
        .map(|octets| serde_json::from_slice(&octets))
        .transpose()
        .map_err(|source| FileError::Malformed {
            path: path(),
            name,
            source,
        })
}

/// Writes one of these files, durable on return.
///
/// # Errors
///
/// [`FileError::Disk`].
pub fn store<T: Serialize>(folder: &Folder, name: &'static str, what: &T) -> Result<(), FileError> {
    let mut text = serde_json::to_vec_pretty(what).expect("these have no map with other keys than texts");
    text.push(b'\n');
    folder.write(name, &text).map_err(|source| FileError::Disk {
        path: folder.path().display().to_string(),
        name,
        source,
    })
}

/// Removes one of these files.
///
/// # Errors
///
/// [`FileError::Disk`].
pub fn remove(folder: &Folder, name: &'static str) -> Result<(), FileError> {
    folder.remove(name).map_err(|source| FileError::Disk {
        path: folder.path().display().to_string(),
        name,
        source,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn release() -> impl Strategy<Value = Release> {
        "[0-9A-Za-z.+-]{1,32}".prop_map(|text| text.parse().unwrap())
    }

    fn request() -> impl Strategy<Value = Request> {
        let direction = prop_oneof![
            Just(Direction::Install),
            Just(Direction::Rollback),
            Just(Direction::Close)
        ];
        let numbers = any::<(u128, u64, u64, bool, u64)>();
        (direction, release(), release(), numbers).prop_map(
            |(direction, release, present, (id, plan, step, contract, unix_ms))| Request {
                v: Version,
                id: RequestId::from_u128(id),
                direction,
                release,
                present,
                plan,
                step,
                contract,
                unix_ms,
            },
        )
    }

    fn failure() -> impl Strategy<Value = Failure> {
        let part = prop_oneof![
            Just(Part::Install),
            Just(Part::Start),
            Just(Part::Undo),
            Just(Part::Return)
        ];
        (part, ".{0,40}", prop::collection::vec(".{0,40}", 0..4)).prop_map(|(part, why, said)| Failure {
            part,
            why,
            said,
        })
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Installed {}),
            failure().prop_map(|failure| Outcome::Failed { failure }),
            ".{0,40}".prop_map(|why| Outcome::Refused { why }),
            (failure(), failure()).prop_map(|(failure, back)| Outcome::Broken { failure, back }),
            Just(Outcome::Closed {}),
        ]
    }

    fn reads_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(what: &T) {
        let text = serde_json::to_vec(what).unwrap();
        assert_eq!(&serde_json::from_slice::<T>(&text).unwrap(), what);
        let mut longer: serde_json::Value = serde_json::from_slice(&text).unwrap();
        longer["more"] = 1.into();
        assert!(
            serde_json::from_value::<T>(longer).is_err(),
            "an unknown key is refused"
        );
    }

    proptest! {
        #[test]
        fn every_file_reads_back_as_it_was_written(request in request(), outcome in outcome(), failure in failure()) {
            let phase = Phase::Undoing;
            reads_back(&Journal { request: request.clone(), phase, begun: 2, failure: Some(failure) });
            reads_back(&Health {
                v: Version,
                id: request.id,
                release: request.release.clone(),
                pid: 7,
                boot: "b".to_owned(),
                unix_ms: 3,
            });
            reads_back(&Record {
                v: Version,
                from: request.present.clone(),
                to: request.release.clone(),
                plan: request.plan,
                unix_ms: 1,
            });
            reads_back(&request);
            reads_back(&Report { request, outcome, unix_ms: 5 });
        }

        #[test]
        fn any_octets_are_read_or_refused(octets: Vec<u8>) {
            drop(serde_json::from_slice::<Request>(&octets));
            drop(serde_json::from_slice::<Report>(&octets));
            drop(serde_json::from_slice::<Journal>(&octets));
        }

        #[test]
        fn request_for_what_is_no_release_is_refused(request in request(), text in "[ -~]{0,40}") {
            prop_assume!(text.parse::<Release>().is_err());
            let mut value = serde_json::to_value(&request).unwrap();
            value["release"] = text.into();
            prop_assert!(serde_json::from_value::<Request>(value).is_err());
        }
    }

    #[test]
    fn another_form_is_refused() {
        let mut value = serde_json::to_value(a_request("2.0", "1.0", 7)).unwrap();
        value["v"] = 2.into();
        let refused = serde_json::from_value::<Request>(value).unwrap_err();
        assert!(refused.to_string().contains("form 2"), "{refused}");
    }

    /// A request for tests.
    pub(crate) fn a_request(release: &str, present: &str, plan: u64) -> Request {
        let (release, present): (Release, Release) = (release.parse().unwrap(), present.parse().unwrap());
        Request {
            v: Version,
            id: RequestId::from_u128(u128::from(plan)),
            direction: match release.is_lower_than(&present) {
                true => Direction::Rollback,
                false => Direction::Install,
            },
            release,
            present,
            plan,
            step: 0,
            contract: false,
            unix_ms: 0,
        }
    }
}
