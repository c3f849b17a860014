//! The files of a client, as `librarian client add` writes them.
//!
//! | file                                  | is                                              |
//! |---------------------------------------|-------------------------------------------------|
//! | `client.toml`                         | domain, DNS servers, name of the TSIG key file  |
//! | `client.pem`, `client.key`, `ca.pem`  | certificate, private key, the pool's authority  |

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use certs::{Anchor, Identity};
use serde::Deserialize;
use zones::Domain;
use zones::tsig::TsigKey;

/// How long an operation is repeated before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a [`crate::client::Client`] is made of.
#[derive(Clone)]
pub struct Settings {
    /// The pool's domain.
    pub domain: Domain,
    /// DNS servers, asked in this order: the librarian, a secondary, or a resolver in front.
    pub dns: Vec<SocketAddr>,
    /// Signs the questions, so that the librarian answers what the grants show. A resolver in front takes none.
    pub tsig: Option<TsigKey>,
    /// Certificate and key.
    pub identity: Identity,
    /// The pool's authority.
    pub anchor: Anchor,
    /// How long one operation is repeated before it fails.
    pub patience: Duration,
}

/// `client.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Name of the client, for people.
    #[serde(default, rename = "name")]
    _name: Option<String>,
    domain: String,
    dns: Vec<SocketAddr>,
    /// File of the TSIG key, relative to the directory.
    #[serde(default)]
    tsig_key: Option<PathBuf>,
    #[serde(default, with = "humantime_serde")]
    patience: Option<Duration>,
}

/// Why the files of a client cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A file cannot be read.
    #[error("cannot read {path}: make a client with `librarian client add NAME --grant read:*` and give its directory")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// `client.toml` is not understood; the cause names line and key.
    #[error("settings {path} are not understood")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: Box<toml::de::Error>,
    },
    /// A value cannot be used.
    #[error("settings {path}: {what}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Which value, and what it may be.
        what: String,
    },
    /// Certificate or key cannot be used.
    #[error("certificate or key in {path}")]
    Identity {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        source: certs::IdentityError,
    },
}

impl Settings {
    /// Reads the files in a client's directory.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] names the file.
    pub fn read(dir: &Path) -> Result<Settings, SettingsError> {
        let text = |name: &Path| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(|source| SettingsError::Read { path, source })
        };
        let path = dir.join("client.toml");
        let file: File = toml::from_str(&text("client.toml".as_ref())?).map_err(|source| SettingsError::Toml {
            path: path.clone(),
            source: Box::new(source),
        })?;
        let value = |what: String| SettingsError::Value {
            path: path.clone(),
            what,
        };
        if file.dns.is_empty() {
            return Err(value("dns is a list of at least one IP:PORT".to_owned()));
        }
        let tsig = match &file.tsig_key {
            None => None,
            Some(name) => {
                let key = zeroize::Zeroizing::new(text(name)?);
                Some(TsigKey::from_bind_file(&key).map_err(|error| value(error.to_string()))?)
            }
        };
        let identity = |source| SettingsError::Identity {
            path: dir.to_owned(),
            source,
        };
        // A renewal that was interrupted is ended first.
        crate::membership::settle(dir, "client").map_err(|source| SettingsError::Read {
            path: dir.join("client.pem"),
            source,
        })?;
        let key = zeroize::Zeroizing::new(text("client.key".as_ref())?);
        Ok(Settings {
            domain: file
                .domain
                .parse()
                .map_err(|error: zones::NameError| value(error.to_string()))?,
            dns: file.dns,
            tsig,
            identity: Identity::from_pem(&text("client.pem".as_ref())?, &key).map_err(identity)?,
            anchor: Anchor::from_pem(&text("ca.pem".as_ref())?).map_err(identity)?,
            patience: file.patience.unwrap_or(PATIENCE),
        })
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("domain", &self.domain)
            .field("dns", &self.dns)
            .field("signed", &self.tsig.is_some())
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}
