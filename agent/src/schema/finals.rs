//! Versions that contract steps have led to for good.
//!
//! A step is marked for the release that it came with: once that release is final, the next one reads what the step leads to, whatever
//! its mark says. So each agent keeps, of every type, the newest version that it knew while the plan let contract steps run, in a
//! file beside its settings, which outlasts its index. Under the next upgrade contract steps up to there go on as expand steps do, and
//! only those beyond wait for its finalize.
//!
//! A server that joins in the midst of an upgrade has no such file: it takes objects as they come, and steps none beyond an old contract
//! step before the finalize.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use zones::ObjectType;

/// Name of the file in the agent's directory.
pub const FILE: &str = "schemas.final";
/// Longest file that is read, in octets.
const OCTETS_MAX: u64 = 1 << 20;

/// Versions by type.
pub type Finals = BTreeMap<ObjectType, u32>;

/// Reads the file; no file is no version.
///
/// # Errors
///
/// The system's, or `InvalidData` for a file that holds something else.
pub fn read(dir: &Path) -> io::Result<Finals> {
    let file = match File::open(dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Finals::new()),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, OCTETS_MAX), &mut text)?;
    of_text(&text).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{FILE} does not hold versions by type: restore it, or remove it while no upgrade is under way"),
        )
    })
}

/// Writes the file so that it is there after a power loss, or the one before it.
///
/// # Errors
///
/// The system's.
pub fn write(dir: &Path, finals: &Finals) -> io::Result<()> {
    let (fresh, place) = (dir.join("schemas.final.new"), dir.join(FILE));
    let mut file = File::create(&fresh)?;
    file.write_all(text_of(finals).as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, place)?;
    File::open(dir)?.sync_all()
}

/// Reads the file's text; `None` for anything else than versions by type.
#[must_use]
pub fn of_text(text: &str) -> Option<Finals> {
    let lines = text.lines().map(|line| {
        let (kind, version) = line.split_once(' ')?;
        Some((kind.parse().ok()?, version.parse().ok()?))
    });
    lines.collect()
}

/// The file's text: a line for each type, its name and its version.
#[must_use]
pub fn text_of(finals: &Finals) -> String {
    finals
        .iter()
        .map(|(kind, version)| format!("{kind} {version}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Finals::new());
        let finals = Finals::from([("file".parse().unwrap(), 4), ("folder".parse().unwrap(), 1)]);
        write(dir.path(), &finals).unwrap();
        assert_eq!(read(dir.path()).unwrap(), finals);
        fs::write(dir.path().join(FILE), "file\n").unwrap();
        assert_eq!(read(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}") {
            if let Some(finals) = of_text(&text) {
                prop_assert_eq!(of_text(&text_of(&finals)), Some(finals));
            }
        }
    }
}
