//! The program of an earlier release, built from this project's own history, for tests of two releases in one pool.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The last commit of the release before pools upgraded themselves.
pub const OLD_RELEASE: &str = "7f9651225b675c1e6cab9c2ea3f0684977821ae0";
/// Names a program of that release that was built before.
const GIVEN: &str = "HYPERNET_OLD_DEMO";

/// The program of [`OLD_RELEASE`], built where it is not there yet; `None` where the history is not there, as in a copy of the
/// sources or a shallow checkout.
///
/// # Errors
///
/// When it cannot be built; what the build printed is in the message.
pub fn old_program() -> Result<Option<PathBuf>> {
    static BUILT: OnceLock<Result<Option<PathBuf>, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn build() -> Result<Option<PathBuf>> {
    if let Some(given) = std::env::var_os(GIVEN) {
        return Ok(Some(given.into()));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the project's own folder")?;
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(root).args(args).stdin(Stdio::null());
        git
    };
    let known = git(&["cat-file", "-e", &format!("{OLD_RELEASE}^{{commit}}")])
        .stderr(Stdio::null())
        .status();
    if !known.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let dir = root.join("target").join("old-release");
    let program = dir.join("build/debug/demo");
    if program.exists() {
        return Ok(Some(program));
    }
    let sources = dir.join("sources");
    std::fs::create_dir_all(&sources).context("make a folder for the old release")?;
    let mut archive = git(&["archive", OLD_RELEASE])
        .stdout(Stdio::piped())
        .spawn()
        .context("start git archive")?;
    let packed = archive.stdout.take().context("the output of git archive")?;
    let unpacked = Command::new("tar")
        .args(["-x", "-C"])
        .arg(&sources)
        .stdin(packed)
        .status()
        .context("start tar")?;
    ensure!(
        archive.wait().context("wait for git archive")?.success() && unpacked.success(),
        "the old release cannot be unpacked"
    );
    // Of its own: another build of this project may wait for this very test.
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--locked",
            "-p",
            "integration",
            "--bin",
            "demo",
            "--target-dir",
        ])
        .arg(dir.join("build"))
        .current_dir(&sources)
        .output()
        .context("start cargo")?;
    ensure!(
        built.status.success(),
        "the old release cannot be built: {}",
        String::from_utf8_lossy(&built.stderr)
    );
    Ok(Some(program))
}
