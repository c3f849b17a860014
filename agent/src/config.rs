//! The agent's settings, `agent.toml`: what an operator may change, each with its cost.
//!
//! Unknown keys are refused, so that a misspelt setting is never a silent default. [`template`] writes the file that
//! `agent join` leaves behind, with a comment on every setting.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use zones::{Domain, ServerName};

use crate::transfer::quic;

/// Name of the file inside an agent's directory.
pub const FILE: &str = "agent.toml";

/// Everything in `agent.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This server's name in the pool.
    #[serde(deserialize_with = "from_text")]
    pub name: ServerName,
    /// The pool's domain.
    #[serde(deserialize_with = "from_text")]
    pub domain: Domain,
    /// The release that this agent reports.
    #[serde(default = "release")]
    pub release: String,
    /// The directory of this release's schemas; relative to the agent's directory. Absent: every type is kept as it is.
    #[serde(default)]
    pub schemas: Option<PathBuf>,
    /// The directory of the schemas of the release that the pool goes to next, to be tried on every object; relative to the agent's
    /// directory. Absent: none are tried.
    #[serde(default)]
    pub next_schemas: Option<PathBuf>,
    /// Where the librarian is.
    pub librarian: Librarian,
    /// Where this agent listens.
    pub listen: Listen,
    /// This server's certificate, and those of others.
    #[serde(default)]
    pub certificates: Certificates,
    /// The log of moves.
    #[serde(default)]
    pub audit: Audit,
    /// How much it keeps and how.
    #[serde(default)]
    pub store: Store,
    /// What opens the keyring.
    #[serde(default)]
    pub keyring: Keyring,
    /// Who keeps the keys, and how long one serves.
    #[serde(default)]
    pub keys: Keys,
    /// Bounds of client access.
    #[serde(default)]
    pub access: Access,
    /// Bounds of moves.
    #[serde(default)]
    pub moves: Moves,
    /// How copies are read to find damage.
    #[serde(default)]
    pub scrub: Scrub,
    /// How another release is installed.
    #[serde(default)]
    pub install: Install,
}

/// Where the librarian is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Librarian {
    /// Address of its DNS, UDP and TCP.
    pub dns: SocketAddr,
    /// Address of its HTTPS port for joining and renewals.
    pub https: SocketAddr,
}

/// Where this agent listens. Port 0 takes a free one; the ready line and the server's records tell which.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// HTTPS for clients, TCP.
    pub https: SocketAddr,
    /// QUIC for other agents, UDP.
    pub peer: SocketAddr,
    /// Prometheus metrics over plain HTTP; absent: none.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// The addresses told to others; empty: those of the listeners.
    #[serde(default)]
    pub advertise: Vec<IpAddr>,
}

/// How much this agent keeps and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Most octets of disk for objects.
    pub capacity: Octets,
    /// By how much a volume grows at once.
    pub volume_step: Octets,
    /// Folder of the volumes; relative to the agent's directory.
    pub volumes: PathBuf,
}

/// This server's certificate, and those of others.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Certificates {
    /// Age at which the certificate is renewed; it lives 7 days.
    #[serde(with = "humantime_serde")]
    pub renew_after: Duration,
    /// How often the librarian is asked who was revoked.
    #[serde(with = "humantime_serde")]
    pub revocations_every: Duration,
}

impl Default for Certificates {
    fn default() -> Self {
        Certificates {
            renew_after: Duration::from_secs(2 * 24 * 3600),
            revocations_every: Duration::from_secs(5),
        }
    }
}

/// The log of moves.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// How long an entry is kept.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
}

impl Default for Audit {
    fn default() -> Self {
        Audit {
            keep: Duration::from_secs(400 * 24 * 3600),
        }
    }
}

/// What opens the keyring.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keyring {
    /// Where the keyring's own key comes from.
    pub secret: KeyringSecret,
}

/// Where the key that seals the keyring comes from; paths are relative to the agent's directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeyringSecret {
    /// `file:PATH`: 32 random octets in a file, made at the first start.
    File(PathBuf),
    /// `passphrase:PATH`: the first line of a file.
    Passphrase(PathBuf),
    /// `credential:NAME`: a credential of systemd.
    Credential(String),
}

impl Default for KeyringSecret {
    fn default() -> Self {
        KeyringSecret::File(PathBuf::from("keys/keyring.key"))
    }
}

/// A text says not where the keyring's key comes from.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} names no secret: write file:PATH, passphrase:PATH or credential:NAME")]
pub struct KeyringSecretError {
    /// What was given.
    pub text: String,
}

impl FromStr for KeyringSecret {
    type Err = KeyringSecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(KeyringSecret::File(path.into())),
            Some(("passphrase", path)) if !path.is_empty() => Ok(KeyringSecret::Passphrase(path.into())),
            Some(("credential", name)) if !name.is_empty() => Ok(KeyringSecret::Credential(name.to_owned())),
            Some(_) | None => Err(KeyringSecretError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for KeyringSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyringSecret::File(path) => write!(f, "file:{}", path.display()),
            KeyringSecret::Passphrase(path) => write!(f, "passphrase:{}", path.display()),
            KeyringSecret::Credential(name) => write!(f, "credential:{name}"),
        }
    }
}

impl<'de> Deserialize<'de> for KeyringSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// Who keeps the key-encryption keys, and how long one serves.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// Who keeps them.
    pub provider: KeyKeeper,
    /// Age at which a generation ends: then nothing that was removed before it ended opens any more.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// How long reads go on while the provider does not answer.
    #[serde(with = "humantime_serde")]
    pub cache_for: Duration,
    /// The token, where `provider` is `pkcs11`.
    pub pkcs11: Option<Pkcs11>,
}

/// Who keeps the key-encryption keys.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum KeyKeeper {
    /// A sealed file in the agent's directory.
    #[default]
    Keyring,
    /// A token behind PKCS#11.
    Pkcs11,
}

/// A token behind PKCS#11.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11 {
    /// The vendor's library.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// Where its PIN is: the first line of a file, or a credential of systemd.
    pub pin: KeyringSecret,
}

/// Bounds of client access.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Most client connections at once.
    pub connections_max: usize,
    /// Most requests that run at once.
    pub requests_max: usize,
    /// Most properties of one object, in octets of JSON.
    pub properties_max: Octets,
    /// Most writes that wait for one object.
    pub queued_writes_max: usize,
    /// Longest wait of a read or a write for one object.
    #[serde(with = "humantime_serde")]
    pub queue_wait: Duration,
    /// Longest time a client may take between two pieces of a body.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Objects whose requests are counted at once.
    pub heat_counters: usize,
}

/// Bounds of moves.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Moves {
    /// Most objects that are on their way out at once.
    pub window_objects: usize,
    /// Most octets that are on their way out at once.
    pub window_octets: Octets,
    /// Longest that clients should wait, at the 99th percentile: moves slow down when they wait longer.
    #[serde(with = "humantime_serde")]
    pub foreground_p99: Duration,
    /// Smallest share of the window that moves slow down to, in thousandths.
    pub slowest_permille: u32,
    /// Longest time that writes to one object wait while its move commits.
    #[serde(with = "humantime_serde")]
    pub seal_budget: Duration,
    /// How long a moved copy is kept at its source.
    #[serde(with = "humantime_serde")]
    pub retire_after: Duration,
    /// How long a destination keeps space reserved for an object that does not come.
    #[serde(with = "humantime_serde")]
    pub reserve_for: Duration,
    /// How long a server that gave an object away says where it went, at least.
    #[serde(with = "humantime_serde")]
    pub forward_for: Duration,
    /// Octets of payload in the first UDP packets between agents; larger ones are found by probing.
    pub mtu: u16,
}

/// How copies are read to find damage.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scrub {
    /// Most octets read a second.
    pub rate: Octets,
    /// Time from the end of one pass to the begin of the next.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Most octets read a second of what arrived from a server that is being upgraded; 0: as fast as it goes.
    pub arrivals_rate: Octets,
}

/// How another release is installed.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Install {
    /// Who installs it.
    pub how: How,
    /// How long running requests of clients are waited for before the agent stops for an install.
    #[serde(with = "humantime_serde")]
    pub requests_wait: Duration,
}

/// Who installs another release.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// A person.
    #[default]
    ByHand,
    /// An installer, which the agent asks by a file.
    Request,
}

impl Default for Install {
    fn default() -> Self {
        Install {
            how: How::default(),
            requests_wait: Duration::from_secs(600),
        }
    }
}

impl Default for Scrub {
    fn default() -> Self {
        Scrub {
            rate: Octets(16 << 20),
            interval: Duration::from_secs(7 * 24 * 3600),
            arrivals_rate: Octets(0),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Store {
            capacity: Octets(64 << 30),
            volume_step: Octets(64 << 20),
            volumes: PathBuf::from("volumes"),
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Keys {
            provider: KeyKeeper::default(),
            max_age: Duration::from_secs(24 * 3600),
            cache_for: Duration::from_secs(600),
            pkcs11: None,
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Access {
            connections_max: 1024,
            requests_max: 512,
            properties_max: Octets(1 << 20),
            queued_writes_max: 64,
            queue_wait: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            heat_counters: 4096,
        }
    }
}

impl Default for Moves {
    fn default() -> Self {
        Moves {
            window_objects: 512,
            window_octets: Octets(32 << 20),
            foreground_p99: Duration::from_millis(50),
            slowest_permille: 20,
            seal_budget: Duration::from_millis(100),
            retire_after: Duration::from_secs(30),
            reserve_for: Duration::from_secs(60),
            forward_for: Duration::from_secs(300),
            mtu: quic::MTU_DEFAULT,
        }
    }
}

/// A number of octets, written as `512MiB`, `64GiB` or a bare number of octets.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Octets(pub u64);

/// Units of [`Octets`], the greatest first.
const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("", 0)];

/// A text is not a number of octets.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a size: write a whole number and KiB, MiB, GiB or TiB, such as 64GiB")]
pub struct OctetsError {
    /// What was given.
    pub text: String,
}

impl FromStr for Octets {
    type Err = OctetsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || OctetsError { text: text.to_owned() };
        let (digits, shift) = UNITS
            .iter()
            .find_map(|(unit, shift)| text.strip_suffix(unit).map(|digits| (digits, *shift)))
            .ok_or_else(bad)?;
        let number: u64 = digits.trim_end().parse().map_err(|_| bad())?;
        number.checked_mul(1 << shift).map(Octets).ok_or_else(bad)
    }
}

impl fmt::Display for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: u32| self.0.is_multiple_of(1 << shift) && self.0 > 0;
        let (unit, shift) = UNITS.iter().find(|(_, shift)| whole(*shift)).unwrap_or(&("", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read; `agent join` writes it.
    #[error("cannot read the settings {path}: join a pool first with `agent join --token-file FILE --dir DIR`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no such TOML; the cause names line and key.
    #[error("settings {path} are not understood")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: Box<toml::de::Error>,
    },
    /// A value is outside its bounds.
    #[error("settings {path}: {what}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Which value and what it may be.
        what: &'static str,
    },
}

impl Config {
    /// Reads `agent.toml` in an agent's directory.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a file that is absent, not understood or out of bounds.
    pub fn read(dir: &Path) -> Result<Config, ConfigError> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })?;
        Config::from_toml(&text, &path)
    }

    /// Reads settings from text; `path` is for the errors.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for text that is not understood or out of bounds.
    pub fn from_toml(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|source| ConfigError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        match config.fault() {
            None => Ok(config),
            Some(what) => Err(ConfigError::Value {
                path: path.to_owned(),
                what,
            }),
        }
    }

    /// The first value outside its bounds.
    fn fault(&self) -> Option<&'static str> {
        let mut release = self.release.chars();
        let release_legal = release.clone().count() <= 32
            && !self.release.is_empty()
            && release.all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-'));
        let rules = [
            (
                !release_legal,
                "release holds 1 to 32 of letters, digits, '.', '+' and '-'",
            ),
            (self.store.capacity.0 < 16 << 20, "store.capacity is at least 16MiB"),
            (
                self.store.volume_step.0 < 1 << 20 || !self.store.volume_step.0.is_multiple_of(4096),
                "store.volume_step is at least 1MiB and whole blocks of 4KiB",
            ),
            (
                self.store.volume_step > self.store.capacity,
                "store.volume_step is at most store.capacity",
            ),
            (
                self.keys.max_age < Duration::from_secs(60),
                "keys.max_age is at least 1m: every generation costs a commit for each 256 objects",
            ),
            (
                self.keys.cache_for < Duration::from_secs(10),
                "keys.cache_for is at least 10s",
            ),
            (
                (self.keys.provider == KeyKeeper::Pkcs11) != self.keys.pkcs11.is_some(),
                "keys.provider is pkcs11 exactly where there is a table [keys.pkcs11] with module, token and pin",
            ),
            (self.access.connections_max == 0, "access.connections_max is at least 1"),
            (self.access.requests_max == 0, "access.requests_max is at least 1"),
            (
                !(1..=16 << 20).contains(&self.access.properties_max.0),
                "access.properties_max is between 1 octet and 16MiB",
            ),
            (
                self.access.queued_writes_max == 0,
                "access.queued_writes_max is at least 1",
            ),
            (
                !(16..=1 << 20).contains(&self.access.heat_counters),
                "access.heat_counters is between 16 and 1048576",
            ),
            (
                self.moves.window_objects == 0 || self.moves.window_octets.0 < 1 << 20,
                "moves.window_objects is at least 1 and moves.window_octets at least 1MiB",
            ),
            (
                self.moves.foreground_p99 < Duration::from_millis(1)
                    || self.moves.foreground_p99 > Duration::from_secs(3600),
                "moves.foreground_p99 is between 1ms and 1h",
            ),
            (
                !(1..=1000).contains(&self.moves.slowest_permille),
                "moves.slowest_permille is between 1 and 1000",
            ),
            (
                self.moves.seal_budget.is_zero() || self.moves.seal_budget > Duration::from_secs(5),
                "moves.seal_budget is between 1ms and 5s",
            ),
            (
                !(quic::MTU_MIN..=quic::MTU_MAX).contains(&self.moves.mtu),
                "moves.mtu is between 1200 and 6550: beyond that ten packets at once no longer fit what the kernel takes",
            ),
            (
                self.scrub.rate.0 < 1 << 20,
                "scrub.rate is at least 1MiB: slower, a pass does not end before copies rot",
            ),
            (
                (1..1 << 20).contains(&self.scrub.arrivals_rate.0),
                "scrub.arrivals_rate is 0 or at least 1MiB: slower, an upgrade does not end",
            ),
            (
                self.scrub.interval < Duration::from_secs(60),
                "scrub.interval is at least 1m",
            ),
            (
                self.install.requests_wait > Duration::from_secs(3600),
                "install.requests_wait is at most 1h",
            ),
        ];
        rules.iter().find(|(broken, _)| *broken).map(|(_, what)| *what)
    }

    /// The folder of the volumes.
    #[must_use]
    pub fn volumes(&self, dir: &Path) -> PathBuf {
        dir.join(&self.store.volumes)
    }
}

/// What `agent join` knows and writes into the settings.
#[derive(Clone, Debug)]
pub struct Joined {
    /// This server's name.
    pub name: ServerName,
    /// The pool's domain.
    pub domain: Domain,
    /// The librarian's DNS.
    pub librarian_dns: SocketAddr,
    /// The librarian's HTTPS port.
    pub librarian_https: SocketAddr,
    /// HTTPS for clients.
    pub listen_https: SocketAddr,
    /// QUIC for other agents.
    pub listen_peer: SocketAddr,
    /// Most octets of disk for objects.
    pub capacity: Octets,
}

/// The settings file of a server that has just joined: every setting with what it is, its unit, its default, and what a
/// wrong value costs.
#[must_use]
pub fn template(joined: &Joined) -> String {
    let Joined {
        name,
        domain,
        librarian_dns,
        librarian_https,
        listen_https,
        listen_peer,
        capacity,
    } = joined;
    let store = Store::default();
    let volume_step = store.volume_step.min(*capacity);
    let access = Access::default();
    let moves = Moves::default();
    let keys = Keys::default();
    let scrub = Scrub::default();
    let release = release();
    let certificates = Certificates::default();
    let renew_after = humantime_serde::re::humantime::format_duration(certificates.renew_after);
    let revocations_every = humantime_serde::re::humantime::format_duration(certificates.revocations_every);
    let audit_keep = humantime_serde::re::humantime::format_duration(Audit::default().keep);
    let time = humantime_serde::re::humantime::format_duration;
    format!(
        r#"# Settings of one agent. Read once, at the start; unknown keys are refused.

# This server's name in the pool. Given by `librarian invite`; its certificate names it, so another name here only
# keeps the agent from starting.
name = "{name}"
# The pool's domain. Fixed by the pool: with another one no name is found.
domain = "{domain}"
# Release that this agent reports. Default: that of the program. A wrong one misleads upgrades.
# release = "{release}"
# Directory of the schemas and steps of this release, a directory for each type (agent/STORE.md section 10). Relative to this
# file. Default: none, every object is kept as it is. Try a new one first: `agent schema check`, `agent schema dry-run`. All
# servers of one release need the same one.
# schemas = "/usr/share/hypernet/schemas"
# The same of the release that the pool goes to next. Its steps are tried on every object beforehand, slowly and changing none;
# `librarian upgrade check` says what came of it, the file dry-run.json beside this one which objects and why. Looked at every
# minute. Default: none, and an upgrade begins without. The wrong one tells nothing of that release.
# next_schemas = "/usr/share/hypernet-next/schemas"

[librarian]
# DNS of the librarian, IP:PORT, UDP and TCP. With a wrong one the agent starts no move and creates no object.
dns = "{librarian_dns}"
# HTTPS of the librarian, IP:PORT, for joining and renewals. With a wrong one certificates run out.
https = "{librarian_https}"

[listen]
# HTTPS for clients, IP:PORT. Port 0 takes a free one at every start. On an address that clients cannot reach, objects
# are kept but not served.
https = "{listen_https}"
# QUIC for other agents, IP:PORT, UDP. Port 0 as above. Behind a firewall that drops UDP no object can move.
peer = "{listen_peer}"
# Prometheus metrics over plain HTTP, IP:PORT. Default: none. Anyone who reaches it reads counts, never addresses or
# content, so keep it local.
# metrics = "127.0.0.1:9201"
# IP addresses told to others in DNS. Default: those of the listeners. Needed where the listeners are 0.0.0.0 or behind
# address translation; a wrong one sends clients elsewhere.
# advertise = ["192.0.2.10"]

[store]
# Most disk for objects (B, KiB, MiB, GiB, TiB). Default {default_capacity}. More than the disk has ends in "no space"
# during writes; less leaves disk unused.
capacity = "{capacity}"
# By how much a volume grows at once, filled with random octets. Default {volume_step_default}. Small: slower first
# writes. Large: a long pause at each growth.
volume_step = "{volume_step}"
# Folder of the volumes, relative to this file. Default "{volumes}". Moving it without its content loses every object.
# volumes = "{volumes}"

[certificates]
# Age at which this server's certificate is renewed; it lives 7 days. Default {renew_after}. Later leaves less time to notice that
# renewals fail; earlier costs the librarian a signature each time.
# renew_after = "{renew_after}"
# How often the librarian is asked who was revoked. Default {revocations_every}. For so long a revoked client or server is still let in.
# revocations_every = "{revocations_every}"

[audit]
# How long entries of the log of moves are kept, such as "400days". Default {audit_keep}. Each takes about 600 octets of the index;
# what is cut off can no longer be shown, and `librarian audit verify` goes on from there.
# keep = "{audit_keep}"

[keyring]
# What opens the keyring, the sealed file with the keys of all objects: file:PATH (32 random octets, made at the first
# start), passphrase:PATH (first line of a file), credential:NAME (of systemd, best). Default "{secret}". Who has both the
# keyring and this secret can open every object here; without the secret nobody can, so keep a copy elsewhere.
# secret = "{secret}"

[keys]
# Who keeps the key-encryption keys: keyring (the sealed file above) or pkcs11 (a token, such as an HSM; described in
# [keys.pkcs11]). Default keyring. It cannot be changed for a directory with objects in it: drain the server first.
# provider = "keyring"
# Age at which a key ends. All data keys are then wrapped anew and the old key is destroyed, so that nothing that was removed
# before opens any more, whatever is left of it on disk. Default {max_age}, at least 1m. Short costs writes of the index; long
# leaves what was removed open, for that long, to who gets the keys and the disk.
# max_age = "{max_age}"
# How long objects can be read after the key provider has stopped answering; writes are refused at once. Default {cache_for}.
# Long keeps keys in memory without the provider's consent.
# cache_for = "{cache_for}"
# The token: the vendor's library, the token's label, and its PIN as file:PATH (first line) or credential:NAME (of systemd).
#   [keys.pkcs11]
#   module = "/usr/lib/softhsm/libsofthsm2.so"
#   token = "hypernet"
#   pin = "credential:pin"

[access]
# Most client connections at once. Default {connections_max}. Too few: clients wait to connect. Each costs about 100 KiB.
# connections_max = {connections_max}
# Most requests that run at once; more get 503. Default {requests_max}. Too many cost memory, about 1 MiB each.
# requests_max = {requests_max}
# Most properties of one object, octets of JSON. Default {properties_max}. They are kept in memory while in use.
# properties_max = "{properties_max}"
# Most writes that wait for one object; more get 503 at once. Default {queued_writes_max}.
# queued_writes_max = {queued_writes_max}
# Longest wait of a read or write for one object before 503. Default {queue_wait}. Longer rides out a slow librarian;
# clients feel all of it.
# queue_wait = "{queue_wait}"
# Longest silence of a client within a body. Default {idle_timeout}. Short cuts off slow networks; long lets idle clients
# keep connections.
# idle_timeout = "{idle_timeout}"
# Objects whose requests are counted at once, to find those that are asked for most; about 200 octets of memory each. Default
# {heat_counters}. With few, the rates of objects that are asked for less often than 1 in so many requests are told too high.
# heat_counters = {heat_counters}

[moves]
# Most objects on their way out at once. Default {window_objects}. More is faster for small objects and takes memory here
# and at the destination.
# window_objects = {window_objects}
# Most octets on their way out at once. Default {window_octets}. As above, for large objects.
# window_octets = "{window_octets}"
# Longest that clients of this server should wait for the head of an answer, at the 99th percentile of the last seconds, between 1ms and
# 1h. Default {foreground_p99}. Below that, moves keep it to three times what it was without them, and 10ms are always theirs. While clients
# wait longer, moves out of this server use half of the two bounds above, then half of that, and
# so on; from other servers the same share of 8 times these bounds comes in a second, the rest waits up to 5s. Moves speed up again when
# clients wait less than half as long, or are few. Short: moves are slow under any load. Long: clients feel moves.
# foreground_p99 = "{foreground_p99}"
# Smallest share of the two bounds that moves slow down to, in thousandths, 1 to 1000. Default {slowest_permille}. Small: a drain takes long
# under a heavy load. 1000: moves never slow down.
# slowest_permille = {slowest_permille}
# Longest time that writes to one object wait while its move commits. Default {seal_budget}. Longer values ride out a slow
# librarian; writers feel all of it. Shorter ones abort and repeat moves under load.
# seal_budget = "{seal_budget}"
# How long a moved copy stays at its source. Default {retire_after}. Short frees disk sooner; long keeps more to look at
# after a fault. It is never read again either way. What a drain takes away stays until the server's role is empty.
# retire_after = "{retire_after}"
# How long a destination keeps space for an object that does not come. Default {reserve_for}.
# reserve_for = "{reserve_for}"
# How long this server says where an object went that it gave away, at least; at most twice as long. Default {forward_for}. It
# has to outlast every answer that still names this server: twice the librarian's ttl, and the 60 s after which a secondary
# expires. Too short costs late clients a question to the librarian and a redirect, never more; long costs a row of the index
# for each object that went.
# forward_for = "{forward_for}"
# Octets of payload in the first UDP packets between agents, 1200 to 6550. Default {mtu}. What the path carries beyond that
# is found by probing, up to 6550, and used: larger packets need less CPU. A value that a link does not carry costs every new
# connection a fallback to 1200 and the probing anew.
# mtu = {mtu}

[scrub]
# Most octets a second that are read in the background to find damaged copies (B, KiB, MiB, GiB), at least 1MiB. Default
# {scrub_rate}. Less while clients or moves use the disk. High: the disk is busy, and clients feel it. Low: a pass takes longer
# (1 TiB at 16MiB: 18 hours), and damage is found later.
# rate = "{scrub_rate}"
# Time from the end of one pass to the begin of the next, at least 1m. Default {scrub_interval}. Long: damage is found late, when
# other copies may be damaged too, and an upgrade that asks for a recent pass waits. Short: the disk is read all the time.
# interval = "{scrub_interval}"
# Most octets a second that are read back of what arrived from a server that is being upgraded, 0 or at least 1MiB. Default
# {scrub_arrivals_rate}: as fast as it goes, one copy at a time, and half of the time while clients or moves use the disk. The
# upgrade waits for it: low makes it take longer (1 TiB at 16MiB: 18 hours). High: the disk is busy meanwhile.
# arrivals_rate = "{scrub_arrivals_rate}"

[install]
# Who installs another release when an upgrade asks for it: by-hand (a person) or request (the agent stops and asks an installer
# by a file in upgrade/: agent-install.path of systemd). Default by-hand; under `agent supervise --config FILE` it is request. With
# request and no installer the agent stops and nobody starts it again.
# how = "by-hand"
# How long running requests of clients are waited for before the agent stops for an install, at most 1h. Default {requests_wait}.
# Short cuts off long downloads; long holds up the upgrade of the whole pool.
# requests_wait = "{requests_wait}"
"#,
        default_capacity = store.capacity,
        volume_step_default = store.volume_step,
        volumes = store.volumes.display(),
        secret = KeyringSecret::default(),
        max_age = time(keys.max_age),
        cache_for = time(keys.cache_for),
        connections_max = access.connections_max,
        requests_max = access.requests_max,
        properties_max = access.properties_max,
        queued_writes_max = access.queued_writes_max,
        queue_wait = time(access.queue_wait),
        idle_timeout = time(access.idle_timeout),
        heat_counters = access.heat_counters,
        window_objects = moves.window_objects,
        window_octets = moves.window_octets,
        foreground_p99 = time(moves.foreground_p99),
        slowest_permille = moves.slowest_permille,
        seal_budget = time(moves.seal_budget),
        retire_after = time(moves.retire_after),
        reserve_for = time(moves.reserve_for),
        forward_for = time(moves.forward_for),
        mtu = moves.mtu,
        scrub_rate = scrub.rate,
        scrub_arrivals_rate = scrub.arrivals_rate,
        scrub_interval = time(scrub.interval),
        requests_wait = time(Install::default().requests_wait),
    )
}

/// The release of this program.
fn release() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// Reads a value through its text form.
fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined() -> Joined {
        Joined {
            name: "s2".parse().unwrap(),
            domain: "hypernet.internal".parse().unwrap(),
            librarian_dns: "127.0.0.1:5300".parse().unwrap(),
            librarian_https: "127.0.0.1:8443".parse().unwrap(),
            listen_https: "127.0.0.1:0".parse().unwrap(),
            listen_peer: "127.0.0.1:0".parse().unwrap(),
            capacity: Octets(32 << 20),
        }
    }

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::from_toml(text, Path::new("agent.toml"))
    }

    /// The lines of a TOML setting, with those behind a comment sign.
    fn uncommented(template: &str) -> String {
        let setting = |line: &str| {
            let key = line.split(" = ").next().unwrap_or_default();
            line.contains(" = ") && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        };
        template
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if setting(rest) => rest,
                Some(_) | None => line,
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn template_is_read_back() {
        let config = read(&template(&joined())).unwrap();
        assert_eq!(config.name.as_str(), "s2");
        assert_eq!(config.domain.to_string(), "hypernet.internal.");
        assert_eq!(config.store.capacity, Octets(32 << 20));
        assert_eq!(config.listen.metrics, None);
    }

    #[test]
    fn template_shows_every_setting_with_its_default() {
        let shown = read(&uncommented(&template(&joined()))).unwrap();
        assert_eq!(format!("{:?}", shown.access), format!("{:?}", Access::default()));
        assert_eq!(format!("{:?}", shown.moves), format!("{:?}", Moves::default()));
        assert_eq!(format!("{:?}", shown.scrub), format!("{:?}", Scrub::default()));
        assert_eq!(format!("{:?}", shown.install), format!("{:?}", Install::default()));
        assert_eq!(shown.keyring.secret, KeyringSecret::default());
        assert_eq!(shown.release, release());
        assert!(shown.schemas.is_some() && shown.next_schemas.is_some());
        assert!(shown.listen.metrics.is_some() && !shown.listen.advertise.is_empty());
    }

    #[test]
    fn unknown_setting_is_refused_by_name() {
        let text = template(&joined()).replace("# seal_budget", "seal_budgt");
        let refused = read(&text).unwrap_err();
        let cause = std::error::Error::source(&refused).unwrap().to_string();
        assert!(cause.contains("seal_budgt"), "{cause}");
    }

    #[test]
    fn value_out_of_bounds_says_what_it_may_be() {
        let text = template(&joined()).replace("capacity = \"32MiB\"", "capacity = \"1MiB\"");
        assert!(read(&text).unwrap_err().to_string().contains("at least 16MiB"));
    }

    #[test]
    fn size_is_read_as_it_is_written() {
        for octets in [1, 4096, 5 << 20, 64 << 30, 3 << 40, (1 << 30) + 1] {
            let text = Octets(octets).to_string();
            assert_eq!(text.parse(), Ok(Octets(octets)), "{text}");
        }
        assert!("64GB".parse::<Octets>().is_err());
        assert!("99999999TiB".parse::<Octets>().is_err());
    }
}
