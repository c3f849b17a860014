//! Another release of an agent, without another program: a line of its settings, and the schemas that go with it.
//!
//! A supervised agent installs with a script in its directory:
//!
//! | file in the agent's directory  | means                                                                        |
//! |--------------------------------|------------------------------------------------------------------------------|
//! | `install.toml`                 | the installer's settings, for `agent supervise --config`                      |
//! | `install.sh`, `rollback.sh`    | write the release into `agent.toml`                                           |
//! | `releases/2.0/schemas`         | the schemas of that release; without it those of the release before stay      |
//! | `fail.install`, `fail.rollback`| how often that command fails before it works                                  |
//! | `installs.log`                 | what ran: `install 2.0`, `rollback 1.0`                                       |

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The installer's settings in an agent's directory.
pub const INSTALLER: &str = "install.toml";

/// `$1` is the release. It may be run again: the settings are then written as they are.
const SCRIPT: &str = r#"#!/bin/sh
set -eu
cd "$(dirname "$0")"
me=$(basename "$0" .sh)
echo "$me $1" >> installs.log
left=$(cat "fail.$me" 2>/dev/null || echo 0)
if [ "$left" -gt 0 ]; then
    echo $((left - 1)) > "fail.$me"
    echo "$me of $1 fails, as asked, $((left - 1)) times more"
    exit 3
fi
{
    echo "release = \"$1\""
    if [ -d "releases/$1/schemas" ]; then
        echo "schemas = \"releases/$1/schemas\""
        grep -v '^release = ' agent.toml | grep -v '^schemas = '
    else
        grep -v '^release = ' agent.toml
    fi
} > agent.toml.new
sync agent.toml.new
mv agent.toml.new agent.toml
"#;

/// Writes an installer into an agent's directory: `agent supervise` with the file that is returned as `--config` installs
/// exactly these releases.
///
/// # Errors
///
/// The system's.
pub fn release_installer(dir: &Path, allow: &[&str]) -> Result<PathBuf> {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok::<_, anyhow::Error>(path)
    };
    let mut settings = format!("allow = {allow:?}\nhealth_timeout = \"60s\"\n");
    for name in ["install", "rollback"] {
        let script = write(&format!("{name}.sh"), SCRIPT)?;
        writeln!(settings, "{name} = [\"/bin/sh\", {script:?}, \"{{release}}\"]")?;
    }
    write(INSTALLER, &settings)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn installer_writes_release_and_schemas_and_fails_as_often_as_asked() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        std::fs::write(
            at("agent.toml"),
            "name = \"s1\"\nschemas = \"old\"\n[store]\ncapacity = \"1GiB\"\n",
        )?;
        agent::install::Settings::read(&release_installer(dir.path(), &["2.0"])?)?;
        std::fs::create_dir_all(at("releases/2.0/schemas"))?;
        std::fs::write(at("fail.install"), "2")?;
        let run = |name: &str, release: &str| -> Result<bool> {
            let command = Command::new("/bin/sh").arg(at(name)).arg(release).output()?;
            Ok(command.status.success())
        };
        for works in [false, false, true, true] {
            assert_eq!(run("install.sh", "2.0")?, works);
        }
        let text = std::fs::read_to_string(at("agent.toml"))?;
        assert_eq!(
            text,
            "release = \"2.0\"\nschemas = \"releases/2.0/schemas\"\nname = \"s1\"\n[store]\ncapacity = \"1GiB\"\n"
        );
        assert!(run("rollback.sh", "1.0")?);
        let text = std::fs::read_to_string(at("agent.toml"))?;
        assert!(
            text.starts_with("release = \"1.0\"\nschemas = \"releases/2.0/schemas\"\nname"),
            "{text}"
        );
        Ok(())
    }
}
