//! The files of a client, as `librarian client add` writes them.
//!
//! | file                                  | is                                              |
//! |---------------------------------------|-------------------------------------------------|
//! | `client.toml`                         | domain, DNS servers, name of the TSIG key file  |
//! | `client.pem`, `client.key`, `ca.pem`  | certificate, private key, the pool's authority  |
//!
//! A person adds tables for other pools that parts of the tree are delegated to: `[pools."other.example.internal."]`.

use std::collections::{BTreeMap, HashMap};
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
    /// Other pools, by their domains: where parts of the tree are delegated to them, the client goes there.
    pub pools: HashMap<Domain, OtherPool>,
}

/// What is to be known of another pool, which no file of this one is shown to.
#[derive(Clone)]
pub struct OtherPool {
    /// Its librarian; where a delegation says if empty.
    pub dns: Vec<SocketAddr>,
    /// Signs the questions there.
    pub tsig: Option<TsigKey>,
    /// Certificate and key that its operator gave this client.
    pub identity: Identity,
    /// Its authority.
    pub anchor: Anchor,
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
    #[serde(default)]
    pools: BTreeMap<String, OtherFile>,
}

/// `[pools."other.example.internal."]` in `client.toml`: files relative to the directory.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OtherFile {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    #[serde(default)]
    dns: Vec<SocketAddr>,
    #[serde(default)]
    tsig_key: Option<PathBuf>,
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
        let tsig = |name: &Option<PathBuf>| -> Result<Option<TsigKey>, SettingsError> {
            let Some(name) = name else { return Ok(None) };
            let key = zeroize::Zeroizing::new(text(name)?);
            let key = TsigKey::from_bind_file(&key).map_err(|error| value(format!("{}: {error}", name.display())))?;
            Ok(Some(key))
        };
        let domain = |text: &str| -> Result<Domain, SettingsError> {
            text.parse().map_err(|error: zones::NameError| value(error.to_string()))
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
        let own = domain(&file.domain)?;
        let mut pools = HashMap::new();
        for (name, other) in &file.pools {
            let other_domain = domain(name)?;
            if other_domain == own {
                return Err(value(format!("[pools.\"{name}\"] is this pool itself: leave it out")));
            }
            let of = |file: &Path| {
                let path = dir.join(file);
                move |source| SettingsError::Identity { path, source }
            };
            let key = zeroize::Zeroizing::new(text(&other.key)?);
            let pool = OtherPool {
                dns: other.dns.clone(),
                tsig: tsig(&other.tsig_key)?,
                identity: Identity::from_pem(&text(&other.certificate)?, &key).map_err(of(&other.certificate))?,
                anchor: Anchor::from_pem(&text(&other.ca)?).map_err(of(&other.ca))?,
            };
            pools.insert(other_domain, pool);
        }
        Ok(Settings {
            domain: own,
            dns: file.dns,
            tsig: tsig(&file.tsig_key)?,
            identity: Identity::from_pem(&text("client.pem".as_ref())?, &key).map_err(identity)?,
            anchor: Anchor::from_pem(&text("ca.pem".as_ref())?).map_err(identity)?,
            patience: file.patience.unwrap_or(PATIENCE),
            pools,
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
            .field("pools", &self.pools.keys())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use certs::{Authority, Grants, Serial, UnixTime, Who};

    use super::*;

    /// The files of a client of one pool, in a directory of their own.
    fn files(dir: &Path, domain: &str) {
        let domain: Domain = domain.parse().unwrap();
        let now = UnixTime::now();
        let authority = Authority::create(&domain, Serial::new([1; 16]), now).unwrap();
        let who = Who::Client {
            name: "alice".parse().unwrap(),
            grants: Grants::new(["read:*".parse().unwrap()]).unwrap(),
        };
        let identity = authority.issue(&who, Serial::new([2; 16]), now).unwrap();
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("client.key"), identity.key_pem().as_bytes()).unwrap();
        std::fs::write(dir.join("client.pem"), identity.certificate_pem()).unwrap();
        std::fs::write(dir.join("ca.pem"), authority.anchor().pem()).unwrap();
        let text = format!("domain = \"{domain}\"\ndns = [\"127.0.0.1:5300\"]\n");
        std::fs::write(dir.join("client.toml"), text).unwrap();
    }

    #[test]
    fn other_pools_are_known_by_name_with_all_that_is_shown_there_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        files(dir.path(), "hypernet.internal");
        files(&dir.path().join("other"), "other.example");
        let plain = std::fs::read_to_string(dir.path().join("client.toml")).unwrap();
        let read = |table: &str| {
            std::fs::write(dir.path().join("client.toml"), format!("{plain}{table}")).unwrap();
            Settings::read(dir.path())
        };
        assert!(read("").unwrap().pools.is_empty());
        let files = "ca = \"other/ca.pem\"\ncertificate = \"other/client.pem\"\nkey = \"other/client.key\"\n";
        let known = read(&format!("[pools.\"other.example\"]\n{files}")).unwrap();
        let other = &known.pools[&"Other.example.".parse().unwrap()];
        assert!(other.dns.is_empty() && other.tsig.is_none());
        assert_ne!(other.anchor.pem(), known.anchor.pem());
        assert_ne!(other.identity.certificate_pem(), known.identity.certificate_pem());
        // What is missing or wrong is told at once, and not when an object happens to be there.
        for (table, what) in [
            (
                "[pools.\"other.example\"]\nca = \"other/ca.pem\"\n".to_owned(),
                "certificate",
            ),
            (format!("[pools.\"hypernet.internal\"]\n{files}"), "this pool itself"),
            (
                format!("[pools.\"other.example\"]\n{files}tsig_key = \"none.key\"\n"),
                "none.key",
            ),
            (format!("[pools.\"a b\"]\n{files}"), "domain name"),
            (
                format!(
                    "[pools.\"other.example\"]\n{}",
                    files.replace("other/client.key", "client.key")
                ),
                "client.pem",
            ),
        ] {
            let told = crate::access::chain(&read(&table).unwrap_err());
            assert!(told.contains(what), "{table}: {told}");
        }
    }
}
