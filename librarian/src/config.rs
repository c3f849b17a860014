//! The librarian's settings, `librarian.toml`: what an operator may change, each with its cost.
//!
//! Unknown keys are refused, so that a misspelt setting is never a silent default. [`template`] writes the file that
//! `librarian init` leaves behind, with a comment on every setting.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use certs::Prefix;
use serde::{Deserialize, Deserializer};
use zones::{Domain, ServerName};

use crate::answer::Network;
use crate::answer::reply::{PLAIN_UDP_OCTETS_MAX, UDP_OCTETS_MAX};
use crate::delegation::{self, OtherPools, ServedPart};
use crate::files::{self, FileError};
use crate::listen::{self, RateLimit};
use crate::place::{Placement, ServerTerms, Terms};
use crate::pool::{Copies, keep};
use crate::transfer;

/// Name of the file inside a librarian's directory.
pub const FILE: &str = "librarian.toml";
/// Longest file that is read.
const FILE_OCTETS_MAX: u64 = 1 << 20;
/// Where DNS is answered unless said otherwise: loopback, and no port that needs privileges.
pub const LISTEN_DNS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5300);
/// Where servers join unless said otherwise.
pub const LISTEN_HTTPS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8443);

/// Everything in `librarian.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The pool's domain.
    #[serde(deserialize_with = "from_text")]
    pub domain: Domain,
    /// Where DNS is answered, UDP and TCP.
    #[serde(default = "listen_dns")]
    pub listen_dns: SocketAddr,
    /// Where servers join, HTTPS.
    #[serde(default = "listen_https")]
    pub listen_https: SocketAddr,
    /// Prometheus metrics over plain HTTP; absent: none.
    #[serde(default)]
    pub listen_metrics: Option<SocketAddr>,
    /// The DNS address told to servers and clients; absent: that of the listener.
    #[serde(default)]
    pub advertise_dns: Option<SocketAddr>,
    /// The HTTPS address told to servers; absent: that of the listener.
    #[serde(default)]
    pub advertise_https: Option<SocketAddr>,
    /// How long a server counts as alive after it last reported.
    #[serde(default = "lease", with = "humantime_serde")]
    pub lease: Duration,
    /// TTL of the records of objects and servers.
    #[serde(default = "ttl", with = "humantime_serde")]
    pub ttl: Duration,
    /// Networks that may ask unsigned and see all objects.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Prefixes that everybody may resolve.
    #[serde(default, deserialize_with = "from_texts")]
    pub public: Vec<Prefix>,
    /// Parts of other pools' trees that are delegated to this librarian.
    #[serde(default)]
    pub serves: Vec<ServedPart>,
    /// Other pools that parts of this one's tree are delegated to.
    #[serde(default)]
    pub pools: OtherPools,
    /// Most changes of records by one key in a second.
    #[serde(default = "changes_per_second")]
    pub changes_per_second: u32,
    /// Most answers of one kind over UDP in a second to one network of strangers; 0 for any number.
    #[serde(default = "responses_per_second")]
    pub responses_per_second: u32,
    /// Largest answer over UDP, in octets.
    #[serde(default = "udp_octets_max")]
    pub udp_octets_max: u16,
    /// Most DNS connections over TCP at once.
    #[serde(default = "tcp_connections_max")]
    pub tcp_connections_max: usize,
    /// How long a DNS connection may be idle.
    #[serde(default = "tcp_idle", with = "humantime_serde")]
    pub tcp_idle: Duration,
    /// Most connections to the join port at once.
    #[serde(default = "join_connections_max")]
    pub join_connections_max: usize,
    /// Most requests to the join port in a second, all senders together.
    #[serde(default = "joins_per_second")]
    pub joins_per_second: u32,
    /// Longest time that one request to the join port may take.
    #[serde(default = "join_timeout", with = "humantime_serde")]
    pub join_timeout: Duration,
    /// How long an invitation is good.
    #[serde(default = "invite_lifetime", with = "humantime_serde")]
    pub invite_lifetime: Duration,
    /// How often the controller looks at the pool.
    #[serde(default = "controller_interval", with = "humantime_serde")]
    pub controller_interval: Duration,
    /// What counts where a server is chosen.
    #[serde(default)]
    pub placement: Placement,
    /// How many copies of each object there are to be.
    #[serde(default)]
    pub copies: Copies,
    /// Bounds of zone transfers.
    #[serde(default)]
    pub transfers: transfer::Settings,
    /// What is said of single servers.
    #[serde(default)]
    pub servers: BTreeMap<ServerName, ServerTerms>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such file.
    #[error("there is no pool in {dir}: make one with `librarian init --dir {dir}`, or say where it is with --dir")]
    Absent {
        /// The directory.
        dir: PathBuf,
    },
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not understood; the cause names line and key.
    #[error("the settings in {path} are not understood")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: Box<toml::de::Error>,
    },
    /// A value is outside what works.
    #[error("setting {key} in {path} must be {range}")]
    Range {
        /// The file.
        path: PathBuf,
        /// Which setting, behind the name of its table.
        key: String,
        /// What it may be.
        range: &'static str,
    },
}

impl Config {
    /// Reads the settings of a librarian's directory.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] says what to correct.
    pub fn read(dir: &Path) -> Result<Config, ConfigError> {
        let path = dir.join(FILE);
        let text = match files::read(&path, FILE_OCTETS_MAX) {
            Ok(text) => text,
            Err(error) if error.is_absent() => return Err(ConfigError::Absent { dir: dir.to_owned() }),
            Err(error) => return Err(error.into()),
        };
        let config: Config = toml::from_str(&text).map_err(|source| ConfigError::Toml {
            path: path.clone(),
            source: Box::new(source),
        })?;
        match config.out_of_range() {
            None => Ok(config),
            Some((key, range)) => Err(ConfigError::Range { path, key, range }),
        }
    }

    /// What costs of servers depend on.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            placement: self.placement,
            servers: self.servers.clone(),
        }
    }

    /// What copies depend on.
    #[must_use]
    pub fn keep(&self) -> keep::Settings {
        keep::Settings {
            copies: self.copies.clone(),
            terms: self.terms(),
        }
    }

    /// The first setting with a value that does not work, and what it may be.
    fn out_of_range(&self) -> Option<(String, &'static str)> {
        let whole = |duration: Duration| duration.subsec_nanos() == 0 && (1..=86_400).contains(&duration.as_secs());
        let checks = [
            (whole(self.ttl), "ttl", "whole seconds from 1s to 1day"),
            (
                (Duration::from_secs(2)..=Duration::from_secs(3600)).contains(&self.lease),
                "lease",
                "2s to 1h",
            ),
            (self.changes_per_second > 0, "changes_per_second", "1 or more"),
            (
                (PLAIN_UDP_OCTETS_MAX..=4096).contains(&self.udp_octets_max),
                "udp_octets_max",
                "512 to 4096",
            ),
            (self.tcp_connections_max > 0, "tcp_connections_max", "1 or more"),
            (!self.tcp_idle.is_zero(), "tcp_idle", "above 0s"),
            (self.join_connections_max > 0, "join_connections_max", "1 or more"),
            (self.joins_per_second > 0, "joins_per_second", "1 or more"),
            (!self.join_timeout.is_zero(), "join_timeout", "above 0s"),
            (
                (Duration::from_secs(1)..=Duration::from_secs(30 * 86_400)).contains(&self.invite_lifetime),
                "invite_lifetime",
                "1s to 30days",
            ),
            (
                (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.controller_interval),
                "controller_interval",
                "10ms to 1min",
            ),
        ];
        let broken = checks.into_iter().find(|(holds, ..)| !holds);
        broken
            .map(|(_, key, range)| (key.to_owned(), range))
            .or_else(|| {
                let (key, range) = self.placement.out_of_range()?;
                Some((format!("placement.{key}"), range))
            })
            .or_else(|| {
                let (key, range) = self.copies.out_of_range()?;
                Some((format!("copies.{key}"), range))
            })
            .or_else(|| {
                let (key, range) = delegation::out_of_range(&self.domain, &self.serves, &self.pools)?;
                Some((key.to_owned(), range))
            })
            .or_else(|| {
                let (key, range) = self.transfers.out_of_range()?;
                Some((format!("transfers.{key}"), range))
            })
            .or_else(|| {
                self.servers.iter().find_map(|(name, said)| {
                    let (key, range) = said.out_of_range()?;
                    Some((format!("servers.{name}.{key}"), range))
                })
            })
    }
}

fn listen_dns() -> SocketAddr {
    LISTEN_DNS
}

fn listen_https() -> SocketAddr {
    LISTEN_HTTPS
}

fn lease() -> Duration {
    Duration::from_secs(10)
}

fn ttl() -> Duration {
    Duration::from_secs(5)
}

fn changes_per_second() -> u32 {
    RateLimit::default().changes_per_second
}

fn responses_per_second() -> u32 {
    listen::Settings::default().responses_per_second
}

fn udp_octets_max() -> u16 {
    UDP_OCTETS_MAX
}

fn tcp_connections_max() -> usize {
    1_024
}

fn tcp_idle() -> Duration {
    Duration::from_secs(30)
}

fn join_connections_max() -> usize {
    64
}

fn joins_per_second() -> u32 {
    10
}

fn join_timeout() -> Duration {
    Duration::from_secs(10)
}

fn invite_lifetime() -> Duration {
    Duration::from_secs(86_400)
}

fn controller_interval() -> Duration {
    Duration::from_millis(500)
}

pub(crate) fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn from_texts<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts
        .iter()
        .map(|text| text.parse().map_err(serde::de::Error::custom))
        .collect()
}

/// The settings file of a new pool: every setting with what it is, its unit, its default, and what a wrong value costs.
#[must_use]
pub fn template(domain: &Domain, listen_dns: SocketAddr, listen_https: SocketAddr) -> String {
    format!(
        r#"# Settings of the librarian. Read when it starts; a key that is not known here stops it.

# The pool's domain. All names and certificates are below it: changing it is making a new pool.
domain = "{domain}"

# Where DNS is answered, UDP and TCP, IP:PORT. Port 0 takes a free one. Default {LISTEN_DNS}.
# Resolvers want port 53, which needs the capability CAP_NET_BIND_SERVICE. On a wrong address nobody finds an object.
listen_dns = "{listen_dns}"

# Where servers join, HTTPS over TCP, IP:PORT. Default {LISTEN_HTTPS}. On a wrong address no server can join or renew.
listen_https = "{listen_https}"

# Prometheus metrics over plain HTTP at /metrics, IP:PORT. Default: none. Keep it local: it tells how much there is.
#listen_metrics = "127.0.0.1:9153"

# The addresses told to servers and clients, IP:PORT, where they differ from the listeners' (0.0.0.0, a translated address).
# Default: those of the listeners. With wrong ones new servers and clients do not find the librarian.
#advertise_dns = "192.0.2.1:53"
#advertise_https = "192.0.2.1:8443"

# How long a server counts as alive after it last reported; servers report every second. Default "10s".
# Shorter: a short network fault takes a server out of the answers. Longer: clients are sent to a dead server for longer.
#lease = "10s"

# TTL of the records of objects and servers, whole seconds. Default "5s".
# Longer spares questions and costs a second hop after each move; correctness never depends on it.
#ttl = "5s"

# Networks whose members may ask unsigned and see where every object is. Default: none; then only signed questions (admin,
# agents, clients added with `librarian client add`) are answered for objects that are not public.
# A resolver or secondary that is listed here shows all of it to everybody whom it serves.
#networks = ["127.0.0.0/8", "::1"]

# Prefixes of which everybody may resolve SRV, A and AAAA. Default: none. "*" tells the world where every object is.
#public = ["3.1"]

# Most changes of records by one key in a second; four times as many at once after a pause. Default 50000.
# Lower slows moves down; higher lets one stolen key fill the registry's disk faster.
#changes_per_second = 50000

# Most answers of one kind over UDP in a second to one network (24 bits of IPv4, 56 of IPv6) of those who are neither listed in
# networks nor sign; of more every second one is cut down so that whoever did ask comes by TCP, and the others are dropped.
# 0 for any number. Default 200. Higher: forged questions make the librarian flood others. Lower: busy resolvers go by TCP.
#responses_per_second = 200

# Largest answer over UDP, octets, 512 to 4096. Default 1232, which passes every path whole. Larger ones get lost in fragments on
# some paths, smaller ones send more askers to TCP.
#udp_octets_max = 1232

# Most DNS connections over TCP at once. Default 1024. Too few: agents cannot update while strangers hold connections.
#tcp_connections_max = 1024

# How long a DNS connection over TCP may be idle. Default "30s". Longer lets strangers hold connections.
#tcp_idle = "30s"

# Most connections to the join port at once. Default 64. Too few: a server that joins has to try again.
#join_connections_max = 64

# Most requests to the join port in a second, all senders together. Default 10. Higher speeds up who tries out secrets,
# which have 256 bits.
#joins_per_second = 10

# Longest time of one request to the join port. Default "10s". Longer lets strangers hold connections.
#join_timeout = "10s"

# How long an invitation is good. Default "1day". Longer gives a lost token more time to be found.
#invite_lifetime = "1day"

# How often the controller looks at the pool. Default "500ms". Longer makes every step of a drain slower.
#controller_interval = "500ms"

# How much the resources of servers count, relative to each other, where servers are chosen for new objects (all three) and
# named for reading (not storage). 0 to 1000, not all 0. Default 1 each. A resource that counts too little runs short unnoticed:
# with storage = 0 new objects go to disks that are nearly full.
#[placement]
#cpu = 1
#storage = 1
#bandwidth = 1

# How far from even the pool is left alone, percent, 1 to 50. Default 5. Lower moves objects to and fro; higher leaves one
# server with more than its part. `librarian rebalance` spreads objects until all is within it.
#tolerance_percent = 5

# Most objects that are on their way off one server at a time when the pool is balanced, 1 to 64. Default 64. Fewer spread more
# slowly, and are felt less by clients.
#moves_at_once = 64

# After so long every object moves to another server, 1min to 100years: for a fresh key and a new place on disk, whatever else
# happens. Default: never. The pool moves all it holds once in this time, at a steady rate: too short is felt by clients.
#move_after = "90days"

# How many copies of each object there are to be on different servers, its owner's among them, 1 to 13. Default: 2 from three servers
# on, else 1. With 1 a server that is lost takes its objects with it; each one more takes the room of all objects once more, and
# every write waits for one more disk.
#[copies]
#wanted = 2

# Other numbers for what prefixes cover, at most 16 of them; the longest decides. Default: none. A prefix that is misspelt covers
# nothing, and its objects have as many copies as all others.
#under = {{ "3.1" = 3 }}

# An object has more copies for its heat while one server would be asked for it more than so many percent of what a server is asked
# in the mean, 5 to 1000; 0: never. Default 25; with `wanted = 1` these are the only copies. Higher leaves
# single servers busier, lower makes more copies, each of which takes room and is waited for by every write of that object.
# Copies go again when it is asked for half as often.
#hot_percent = 25

# Zones are transferred to the secondaries that `librarian secondary add` made. Most transfers that run at once, 1 to 1000. Default
# 12. Fewer: secondaries wait for each other after a restart. More take processor time from answers.
#[transfers]
#at_once = 12

# Most of them to one secondary, 1 to 1000. Default 4: one that is stuck keeps so many places, and no more.
#at_once_each = 4

# Changes that are kept in memory for secondaries that take differences, 0 to 100000000. Default 100000. A secondary that is further
# behind takes the whole zone; a transfer of a whole zone during which more change ends early and has to be begun again.
#journal_changes = 100000

# Memory that these may take, octets. Default 67108864. Kept only while there is a secondary. Too little has the same cost.
#journal_octets = 67108864

# What is to be known of one server; a table for each. Of one without a table the defaults hold.
#[servers.s1]

# Its price, percent of the usual, 1 to 100000. Default 100. At 200 it gets half as many new objects and copies as one of 100, and so
# half as many readers; an upgrade empties it last, so that it ends free. A wrong price fills one disk before the others.
#price_percent = 100

# Whether it takes new objects, and new copies of others'; those that it has stay. Default true. Where no server takes any,
# nobody creates an object.
#new_objects = true

# What its network carries, megabits a second, 1 to 10000000. Default: it limits nothing. Too low sends clients elsewhere, too
# high lets it run short.
#bandwidth_mbit = 1000

# Where it stands, 1 to 63 of 0-9, A-Z, a-z, '.', '_' and '-'. Default: nothing is said. Servers of the same rack or region
# fail together: copies are made as far from the owner as there are servers with room, those for heat also far from each other, and
# balancing moves no object nearer to its copies. A drain moves objects to its target wherever that stands. With a wrong label one
# fault takes all copies.
#rack = "r1"
#region = "eu"
{}"#,
        delegation::TEMPLATE
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Readable;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        files::write(&dir.path().join(FILE), text.as_bytes(), Readable::All).unwrap();
        Config::read(dir.path())
    }

    fn new_template() -> String {
        template(&"hypernet.internal".parse().unwrap(), LISTEN_DNS, LISTEN_HTTPS)
    }

    #[test]
    fn what_init_writes_is_understood() {
        let config = read(&new_template()).unwrap();
        assert_eq!(config.listen_dns, LISTEN_DNS);
        assert!(config.networks.is_empty() && config.public.is_empty());
    }

    #[test]
    fn every_setting_that_is_shown_is_its_default_or_an_example_that_works() {
        let text = new_template()
            .replace("\n#", "\n")
            .lines()
            .map(shown)
            .collect::<String>();
        let shown = read(&text).unwrap();
        let default = read("domain = \"hypernet.internal\"").unwrap();
        assert_eq!(
            (
                shown.lease,
                shown.ttl,
                shown.tcp_idle,
                shown.join_timeout,
                shown.invite_lifetime,
                shown.controller_interval
            ),
            (
                default.lease,
                default.ttl,
                default.tcp_idle,
                default.join_timeout,
                default.invite_lifetime,
                default.controller_interval
            )
        );
        assert_eq!(
            (
                shown.changes_per_second,
                (shown.responses_per_second, shown.udp_octets_max),
                shown.tcp_connections_max,
                shown.join_connections_max,
                shown.joins_per_second
            ),
            (
                default.changes_per_second,
                (default.responses_per_second, default.udp_octets_max),
                default.tcp_connections_max,
                default.join_connections_max,
                default.joins_per_second
            )
        );
        assert_eq!((shown.networks.len(), shown.public.len()), (2, 1));
        assert!(shown.placement.move_after.is_some());
        let usual = Placement {
            move_after: None,
            ..shown.placement
        };
        assert_eq!(usual, default.placement);
        assert!(default.servers.is_empty());
        assert_eq!((shown.copies.wanted, shown.copies.under.len()), (Some(2), 1));
        assert_eq!(default.copies, Copies::default());
        assert_eq!(shown.keep().copies, shown.copies);
        assert_eq!(shown.copies.hot_percent(), default.copies.hot_percent());
        let usual = ServerTerms::default();
        let said = &shown.servers[&"s1".parse().unwrap()];
        assert_eq!(
            (said.price_percent, said.new_objects),
            (usual.price_percent, usual.new_objects)
        );
        assert!(said.bandwidth_mbit.is_some() && said.rack.is_some() && said.region.is_some());
        assert_eq!((shown.serves.len(), default.serves.len()), (1, 0));
        assert!(shown.pools.get(&"other.example.internal".parse().unwrap()).is_some());
    }

    /// Keeps lines that set something or begin a table.
    fn shown(line: &str) -> String {
        match line.split_once(" = ") {
            Some((key, _)) if key.chars().all(|c| c.is_ascii_lowercase() || c == '_') => format!("{line}\n"),
            None if line.starts_with('[') => format!("{line}\n"),
            Some(_) | None => String::new(),
        }
    }

    #[test]
    fn misspelt_and_impossible_settings_are_refused_by_name() {
        let with = |line: &str| read(&format!("domain = \"hypernet.internal\"\n{line}\n"));
        assert!(with("").is_ok());
        for line in [
            "leese = \"10s\"",
            "ttl = 5",
            "public = [\"a b\"]",
            "networks = [\"10.0.0.0/33\"]",
            "weights = { s1 = 100 }",
            "[placement]\nmemory = 1",
            "[placement]\ncpu = -1",
            "[copies]\nmany = 2",
            "[copies]\nwanted = -1",
            "[copies]\nunder = { \"3..1\" = 2 }",
            "[copies]\nunder = { \"3.1\" = \"2\" }",
            "[servers.s1]\nprice = 100",
            "[servers.s1]\nrack = \"a b\"",
            "[servers.s1]\nregion = \"\"",
            "[servers.S1]\nprice_percent = 100",
        ] {
            assert!(matches!(with(line), Err(ConfigError::Toml { .. })), "{line}");
        }
        for line in [
            "ttl = \"0s\"",
            "ttl = \"1500ms\"",
            "lease = \"1s\"",
            "joins_per_second = 0",
        ] {
            let error = with(line).unwrap_err();
            assert!(matches!(error, ConfigError::Range { .. }), "{line}");
            assert!(error.to_string().contains(line.split(' ').next().unwrap()));
        }
        for (lines, key) in [
            ("[placement]\nstorage = 1001", "placement.storage"),
            ("[placement]\ncpu = 0\nstorage = 0\nbandwidth = 0", "placement.cpu"),
            ("[placement]\ntolerance_percent = 0", "placement.tolerance_percent"),
            ("[placement]\ntolerance_percent = 51", "placement.tolerance_percent"),
            ("[placement]\nmoves_at_once = 65", "placement.moves_at_once"),
            ("[placement]\nmove_after = \"1s\"", "placement.move_after"),
            ("[copies]\nwanted = 0", "copies.wanted"),
            ("[copies]\nwanted = 15", "copies.wanted"),
            ("[copies]\nhot_percent = 4", "copies.hot_percent"),
            ("[copies]\nhot_percent = 1001", "copies.hot_percent"),
            ("[copies]\nunder = { \"3.1\" = 0 }", "copies.under.\"3.1\""),
            (
                "[copies]\nunder = { \"3.1\" = 2, \"3.2\" = 15 }",
                "copies.under.\"3.2\"",
            ),
            ("[transfers]\nat_once = 0", "transfers.at_once"),
            ("[servers.s1]\nprice_percent = 0", "servers.s1.price_percent"),
            (
                "[servers.s1]\n[servers.s2]\nprice_percent = 100001",
                "servers.s2.price_percent",
            ),
            ("[servers.s3]\nbandwidth_mbit = 0", "servers.s3.bandwidth_mbit"),
        ] {
            let error = with(lines).unwrap_err();
            assert!(matches!(error, ConfigError::Range { .. }), "{lines}");
            assert!(error.to_string().contains(&format!("setting {key} in")), "{error}");
        }
        assert!(
            matches!(read("ttl = \"5s\""), Err(ConfigError::Toml { .. })),
            "no domain"
        );
    }

    #[test]
    fn an_absent_pool_is_told_how_to_be_made() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            Config::read(dir.path())
                .unwrap_err()
                .to_string()
                .contains("librarian init --dir")
        );
    }
}
