//! Who may take zones: one file for each secondary, `secondaries/<name>.toml`, and a key of the same name.
//!
//! They lie beside the settings, not in them, so that a command adds one while the librarian runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use certs::ClientName;
use serde::{Deserialize, Serialize};
use zones::Zone;

use crate::files::{self, FileError, Readable};

/// Longest file that is read.
const FILE_OCTETS_MAX: u64 = 64 * 1024;
/// Most addresses at which one secondary is told of changes.
const NOTIFY_MAX: usize = 16;

/// One secondary.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Secondary {
    /// Its name, which is that of its key.
    pub name: ClientName,
    /// Zones that it may take, each once.
    pub zones: Vec<TransferredZone>,
    /// Where it is told of changes.
    pub notify: Vec<SocketAddr>,
}

/// A zone that can be transferred. `pool.<domain>` cannot: its records are soft.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TransferredZone {
    /// `obj.<domain>`.
    Obj,
    /// `tree.<domain>`.
    Tree,
    /// The operator's own.
    Domain,
}

impl TransferredZone {
    /// All of them.
    pub const ALL: [TransferredZone; 3] = [TransferredZone::Obj, TransferredZone::Tree, TransferredZone::Domain];

    /// Which zone it is.
    #[must_use]
    pub fn zone(self) -> Zone {
        match self {
            TransferredZone::Obj => Zone::Obj,
            TransferredZone::Tree => Zone::Tree,
            TransferredZone::Domain => Zone::Apex,
        }
    }

    /// The zone, if it can be transferred.
    #[must_use]
    pub fn of(zone: Zone) -> Option<TransferredZone> {
        match zone {
            Zone::Obj => Some(TransferredZone::Obj),
            Zone::Tree => Some(TransferredZone::Tree),
            Zone::Apex => Some(TransferredZone::Domain),
            Zone::Pool => None,
        }
    }

    /// As it is written in settings, commands and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            TransferredZone::Obj => "obj",
            TransferredZone::Tree => "tree",
            TransferredZone::Domain => "domain",
        }
    }
}

/// What the file holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecondaryFile {
    zones: Vec<TransferredZone>,
    #[serde(default)]
    notify: Vec<SocketAddr>,
}

/// Why a secondary's file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecondaryError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not understood.
    #[error("{path} is malformed: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where the file of a secondary lies.
#[must_use]
pub fn path_of(dir: &Path, name: &ClientName) -> PathBuf {
    dir.join("secondaries").join(format!("{name}.toml"))
}

/// Reads a secondary's file; `None` if there is no such secondary.
///
/// # Errors
///
/// [`SecondaryError`] names the file.
pub fn read(dir: &Path, name: &ClientName) -> Result<Option<Secondary>, SecondaryError> {
    let path = path_of(dir, name);
    let text = match files::read(&path, FILE_OCTETS_MAX) {
        Ok(text) => text,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let malformed = |reason: String| SecondaryError::Malformed {
        path: path.clone(),
        reason,
    };
    let SecondaryFile { mut zones, notify } = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    zones.sort_unstable();
    zones.dedup();
    if zones.is_empty() {
        return Err(malformed("zones names none: obj, tree, domain".to_owned()));
    }
    if notify.len() > NOTIFY_MAX {
        return Err(malformed(format!("notify has more than {NOTIFY_MAX} addresses")));
    }
    Ok(Some(Secondary {
        name: name.clone(),
        zones,
        notify,
    }))
}

/// Writes a secondary's file, each setting with what it is and what a wrong value costs.
///
/// # Errors
///
/// [`SecondaryError::File`].
pub fn write(dir: &Path, secondary: &Secondary) -> Result<(), SecondaryError> {
    let words: Vec<String> = secondary
        .zones
        .iter()
        .map(|zone| format!("{:?}", zone.word()))
        .collect();
    let notify: Vec<String> = secondary.notify.iter().map(|at| format!("\"{at}\"")).collect();
    let text = format!(
        r#"# Secondary {name}. Read when the librarian starts and at `librarian secondary add` or `remove`; a key that is not known
# here is refused.

# Zones that it may take: "obj", "tree", "domain". No default. Who may take a zone sees all of it, and answers whom its own
# operator lets it: with "obj" or "tree", where every object is.
zones = [{zones}]

# Where it is told of changes, IP:PORT, at most {NOTIFY_MAX}. Default: nowhere; it then learns of them when it asks by itself, every 5 s.
# On a wrong address a stranger hears that something changed, and what serial the zone has.
notify = [{notify}]
"#,
        name = secondary.name,
        zones = words.join(", "),
        notify = notify.join(", "),
    );
    files::make_dir(&dir.join("secondaries"))?;
    Ok(files::write(
        &path_of(dir, &secondary.name),
        text.as_bytes(),
        Readable::Owner,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_a_wrong_file_names_itself() {
        let dir = tempfile::tempdir().unwrap();
        let secondary = Secondary {
            name: "ns2".parse().unwrap(),
            zones: vec![TransferredZone::Obj, TransferredZone::Domain],
            notify: vec!["192.0.2.7:53".parse().unwrap(), "[2001:db8::7]:5353".parse().unwrap()],
        };
        write(dir.path(), &secondary).unwrap();
        assert_eq!(read(dir.path(), &secondary.name).unwrap(), Some(secondary.clone()));
        assert_eq!(read(dir.path(), &"other".parse().unwrap()).unwrap(), None);
        for wrong in ["zones = []", "zones = [\"pool\"]", "zones = [\"obj\"]\nport = 1"] {
            files::write(&path_of(dir.path(), &secondary.name), wrong.as_bytes(), Readable::Owner).unwrap();
            let error = read(dir.path(), &secondary.name).unwrap_err();
            assert!(error.to_string().contains("ns2.toml"), "{error}");
        }
    }
}
