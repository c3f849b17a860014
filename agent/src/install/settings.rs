//! The installer's settings: what may be installed, and by which commands.
//!
//! A file of the operator's, apart from the agent's settings: the agent must not be able to write it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::release::Release;

/// What stands for the release in a command.
pub const PLACEHOLDER: &str = "{release}";
/// Longest settings file, in octets.
const FILE_OCTETS_MAX: u64 = 64 << 10;
/// Longest bound that may be set.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Settings of `agent install` and `agent supervise`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The releases that may be installed, by their exact names.
    pub allow: Vec<Release>,
    /// The command that installs a release, `{release}` standing for it. Never a shell. It must end well where its work is
    /// done already: it is run again after a kill.
    pub install: Vec<String>,
    /// The command that puts back the release before.
    pub rollback: Vec<String>,
    /// How long such a command may run.
    #[serde(default = "install_timeout", with = "humantime_serde")]
    pub install_timeout: Duration,
    /// How long the agent may take until it serves and its self-test has passed.
    #[serde(default = "health_timeout", with = "humantime_serde")]
    pub health_timeout: Duration,
    /// The command that restarts the agent, for `agent install`.
    #[serde(default = "restart")]
    pub restart: Vec<String>,
    /// The agent's program and its first words, for `agent supervise`; `run --dir DIR` is added. Absent: the supervisor's own.
    #[serde(default)]
    pub program: Option<Vec<String>>,
    /// Where the installer keeps its own notes; absent: beside the requests. With other rights than the agent's it belongs
    /// where the agent cannot write.
    #[serde(default)]
    pub state: Option<PathBuf>,
}

fn install_timeout() -> Duration {
    Duration::from_secs(600)
}

fn health_timeout() -> Duration {
    Duration::from_secs(120)
}

fn restart() -> Vec<String> {
    ["systemctl", "restart", "agent.service"].map(str::to_owned).into()
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("read the installer's settings {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no such TOML; the cause names line and key.
    #[error("the installer's settings {path} are not understood")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: Box<toml::de::Error>,
    },
    /// A value is outside its bounds.
    #[error("the installer's settings {path}: {what}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Which value and what it may be.
        what: &'static str,
    },
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`SettingsError`].
    pub fn read(path: &Path) -> Result<Settings, SettingsError> {
        let failed = |source| SettingsError::Read {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(file, FILE_OCTETS_MAX), &mut text).map_err(failed)?;
        Settings::from_toml(&text, path)
    }

    /// Reads settings from text; `path` is for the errors.
    ///
    /// # Errors
    ///
    /// [`SettingsError`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Settings, SettingsError> {
        let settings: Settings = toml::from_str(text).map_err(|source| SettingsError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        match settings.fault() {
            None => Ok(settings),
            Some(what) => Err(SettingsError::Value {
                path: path.to_owned(),
                what,
            }),
        }
    }

    fn fault(&self) -> Option<&'static str> {
        let bounded = |time: Duration| !time.is_zero() && time <= TIMEOUT_MAX;
        let rules = [
            (
                !is_template(&self.install),
                "install is a program and its words, {release} the only word in braces and not in the program's name",
            ),
            (
                !is_template(&self.rollback),
                "rollback is a program and its words, {release} the only word in braces and not in the program's name",
            ),
            (
                !is_command(&self.restart),
                "restart is a program and its words, without braces",
            ),
            (
                self.program.as_ref().is_some_and(|program| !is_command(program)),
                "program is a program and its first words, without braces",
            ),
            (
                !bounded(self.install_timeout) || !bounded(self.health_timeout),
                "install_timeout and health_timeout are above 0 and at most 1day",
            ),
        ];
        rules.iter().find(|(broken, _)| *broken).map(|(_, what)| *what)
    }

    /// Whether a release is on the list.
    #[must_use]
    pub fn allows(&self, release: &Release) -> bool {
        self.allow.contains(release)
    }
}

/// A command for one release.
#[must_use]
pub fn filled(template: &[String], release: &Release) -> Vec<String> {
    template
        .iter()
        .map(|word| word.replace(PLACEHOLDER, release.as_str()))
        .collect()
}

fn is_command(words: &[String]) -> bool {
    words.first().is_some_and(|program| !program.is_empty())
        && words.iter().all(|word| !word.contains(['{', '}', '\0']))
}

fn is_template(words: &[String]) -> bool {
    let Some((program, rest)) = words.split_first() else {
        return false;
    };
    let rest: Vec<String> = rest.iter().map(|word| word.replace(PLACEHOLDER, "")).collect();
    is_command(std::slice::from_ref(program)) && rest.iter().all(|word| !word.contains(['{', '}', '\0']))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        allow = ["2.0", "2.1"]
        install = ["/usr/lib/hypernet/install", "{release}"]
        rollback = ["/usr/lib/hypernet/rollback", "--to={release}"]
    "#;

    fn read(text: &str) -> Result<Settings, SettingsError> {
        Settings::from_toml(text, Path::new("agent-install.toml"))
    }

    #[test]
    fn release_takes_the_place_of_its_word_and_of_nothing_else() {
        let settings = read(TEXT).unwrap();
        let release = "2.0".parse().unwrap();
        assert!(settings.allows(&release) && !settings.allows(&"2".parse().unwrap()));
        assert_eq!(
            filled(&settings.install, &release),
            ["/usr/lib/hypernet/install", "2.0"]
        );
        assert_eq!(
            filled(&settings.rollback, &release),
            ["/usr/lib/hypernet/rollback", "--to=2.0"]
        );
        assert_eq!(settings.restart, ["systemctl", "restart", "agent.service"]);
    }

    #[test]
    fn settings_that_would_run_something_else_are_refused() {
        for (right, wrong) in [
            ("[\"/usr/lib/hypernet/install\", \"{release}\"]", "[]"),
            ("/usr/lib/hypernet/install", "/opt/{release}/install"),
            ("\"--to={release}\"", "\"{relase}\""),
            ("\"2.1\"", "\"2;1\""),
            ("allow", "allowed"),
        ] {
            assert!(read(&TEXT.replace(right, wrong)).is_err(), "{wrong}");
        }
        assert!(read(&format!("{TEXT}\nhealth_timeout = \"0s\"")).is_err());
        assert!(read(&format!("{TEXT}\nrestart = [\"systemctl\", \"{{release}}\"]")).is_err());
    }

    #[test]
    fn file_of_the_package_shows_every_setting_with_its_default() {
        let text = include_str!("../../systemd/agent-install.toml");
        let settings = read(text).unwrap();
        let shown: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest)
                    if rest
                        .split(" = ")
                        .next()
                        .is_some_and(|key| rest.contains(" = ") && !key.contains(' ')) =>
                {
                    rest
                }
                Some(_) | None => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let all = read(&shown).unwrap();
        assert!(all.program.is_some() && all.state.is_some());
        let known = Settings {
            program: None,
            state: None,
            ..all
        };
        assert_eq!(known, settings);
    }
}
