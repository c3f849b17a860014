//! What the settings say of parts of trees: those of other pools that this librarian serves, and the pools that parts of its own
//! are delegated to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use certs::Anchor;
use hickory_proto::rr::Name;
use serde::{Deserialize, Deserializer};
use zones::tsig::TsigKey;
use zones::{Address, Domain, NameError};

use crate::answer::Served;
use crate::config::from_text;

/// Most parts of other trees served by one librarian: each is looked at for every question.
const SERVED_MAX: usize = 64;

/// What `librarian.toml` shows of these settings.
pub(crate) const TEMPLATE: &str = r#"
# A part of another pool's tree that its admin delegated to this librarian, a table for each, at most 64. Default: none.
# The object 0.7.1 of this pool is then answered as 1.7.0.tree.hypernet.internal. too, for those who may see it. A part that is
# delegated here and not served is found by nobody.
#[[serves]]

# The other pool's domain, and the prefix of the addresses that it delegated.
#domain = "far.internal."
#prefix = "0.7"

# The name by which the delegation calls this librarian, as in its NS record there. Default: ns right below the prefix, such as
# "ns.7.0.tree.far.internal."; then no object can be found at that very name. With another name than the delegation has,
# some resolvers find nothing.
#ns = "ns.pool.hypernet.internal."

# Another pool that a part of this one's tree is delegated to, a table for each, by its domain. Default: none; `librarian where` then
# says that it does not follow there. Files lie in this directory unless said with /.
#[pools."other.example.internal."]

# The certificate of that pool's authority. With a wrong one its servers are told to be strangers.
#ca = "other/ca.pem"

# The addresses of its librarian, IP:PORT. Default: what the delegation says, port 53. On a wrong address nothing is found.
#dns = ["192.0.2.7:53"]

# The key that signs questions there, a BIND key file. Default: none; then that librarian has to list this one in its networks.
#tsig_key = "other/tsig.key"
"#;

/// `[[serves]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServedPart {
    /// Whose tree it is a part of.
    #[serde(deserialize_with = "from_text")]
    pub domain: Domain,
    /// Which part.
    #[serde(deserialize_with = "from_text")]
    pub prefix: Address,
    /// What the delegation calls this librarian.
    #[serde(default, deserialize_with = "some_name")]
    pub ns: Option<Name>,
}

impl ServedPart {
    /// What answers need.
    ///
    /// # Errors
    ///
    /// [`NameError`] where the prefix has no name in that tree.
    pub fn served(&self) -> Result<Served, NameError> {
        Served::new(self.domain.clone(), &self.prefix, self.ns.clone())
    }
}

/// `[pools]`: other pools by their domains.
#[derive(Clone, Debug, Default)]
pub struct OtherPools(Vec<(Domain, OtherPool)>);

/// What is to be known of another pool.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherPool {
    /// File of its authority's certificate.
    ca: PathBuf,
    /// Its librarian.
    #[serde(default)]
    pub dns: Vec<SocketAddr>,
    /// File of the key that signs questions there.
    #[serde(default)]
    tsig_key: Option<PathBuf>,
}

impl OtherPools {
    /// The pool of a domain.
    #[must_use]
    pub fn get(&self, domain: &Domain) -> Option<&OtherPool> {
        self.0.iter().find(|(found, _)| found == domain).map(|(_, pool)| pool)
    }

    /// Where the librarian at an address of a delegation answers: at the port that is set for it, else where DNS is.
    #[must_use]
    pub fn place(&self, address: std::net::IpAddr) -> SocketAddr {
        let mut set = self.0.iter().flat_map(|(_, pool)| &pool.dns);
        let found = set.find(|place| place.ip() == address).copied();
        found.unwrap_or_else(|| SocketAddr::new(address, 53))
    }
}

impl<'de> Deserialize<'de> for OtherPools {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pools = std::collections::BTreeMap::<String, OtherPool>::deserialize(deserializer)?;
        let read = |(domain, pool): (String, OtherPool)| {
            let domain = domain.parse().map_err(serde::de::Error::custom)?;
            Ok((domain, pool))
        };
        pools.into_iter().map(read).collect::<Result<_, _>>().map(OtherPools)
    }
}

impl OtherPool {
    /// Its authority.
    ///
    /// # Errors
    ///
    /// Names the file that cannot be used.
    pub fn anchor(&self, dir: &Path) -> anyhow::Result<Anchor> {
        let path = dir.join(&self.ca);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Anchor::from_pem(&text).with_context(|| format!("read the authority in {}", path.display()))
    }

    /// What signs questions to its librarian.
    ///
    /// # Errors
    ///
    /// Names the file that cannot be used.
    pub fn key(&self, dir: &Path) -> anyhow::Result<Option<TsigKey>> {
        let Some(file) = &self.tsig_key else { return Ok(None) };
        let path = dir.join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let text = zeroize::Zeroizing::new(text);
        let key = TsigKey::from_bind_file(&text).with_context(|| format!("read the key in {}", path.display()))?;
        Ok(Some(key))
    }
}

/// The first of these settings that does not work, and what it may be.
pub(crate) fn out_of_range(
    own: &Domain,
    serves: &[ServedPart],
    pools: &OtherPools,
) -> Option<(&'static str, &'static str)> {
    if serves.len() > SERVED_MAX {
        return Some(("serves", "at most 64 tables"));
    }
    let mut zones: Vec<Name> = Vec::new();
    for part in serves {
        if part.domain == *own {
            return Some(("serves.domain", "that of another pool: the own tree is served anyway"));
        }
        let Ok(served) = part.served() else {
            return Some(("serves.prefix", "short enough for a name in that tree"));
        };
        if !served.has_usable_ns() {
            return Some((
                "serves.ns",
                "a name outside of the part that is served, or right below its prefix",
            ));
        }
        if zones.contains(served.zone()) {
            return Some(("serves.prefix", "another in each table of one domain"));
        }
        zones.push(served.zone().clone());
    }
    match pools.get(own) {
        Some(_) => Some(("pools", "of other domains than this pool's")),
        None => None,
    }
}

fn some_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Name>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut name = Name::from_ascii(&text).map_err(serde::de::Error::custom)?;
    name.set_fqdn(true);
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError, FILE};

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), format!("domain = \"hypernet.internal\"\n{text}")).unwrap();
        Config::read(dir.path())
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let part = "[[serves]]\ndomain = \"far.internal\"\nprefix = \"0.7\"\n";
        assert!(read(part).is_ok());
        for (text, key) in [
            (
                "[[serves]]\ndomain = \"hypernet.internal.\"\nprefix = \"0.7\"",
                "serves.domain",
            ),
            (&format!("{part}{part}"), "serves.prefix"),
            (&format!("{part}ns = \"a.b.7.0.tree.far.internal.\""), "serves.ns"),
            ("[pools.\"hypernet.internal\"]\nca = \"ca.pem\"", "pools"),
        ] {
            let error = read(text).unwrap_err();
            assert!(matches!(error, ConfigError::Range { .. }), "{text}: {error:?}");
            assert!(error.to_string().contains(&format!("setting {key} in")), "{error}");
        }
        for text in [
            "[[serves]]\ndomain = \"far.internal\"",
            "[[serves]]\nzone = \"7.0.tree.far.internal.\"",
            "[[serves]]\ndomain = \"far.internal\"\nprefix = \"0..7\"",
            "[pools.\"other.example\"]\ndns = [\"192.0.2.7:53\"]",
            "[pools.\"a b\"]\nca = \"ca.pem\"",
        ] {
            assert!(matches!(read(text), Err(ConfigError::Toml { .. })), "{text}");
        }
    }

    #[test]
    fn pool_is_known_by_its_domain_and_its_librarian_by_its_address() {
        let pools = read("[pools.\"Other.example\"]\nca = \"ca.pem\"\ndns = [\"192.0.2.7:5300\"]")
            .unwrap()
            .pools;
        assert!(pools.get(&"other.example.".parse().unwrap()).is_some());
        assert!(pools.get(&"another.example.".parse().unwrap()).is_none());
        assert_eq!(pools.place([192, 0, 2, 7].into()).port(), 5300);
        assert_eq!(pools.place([192, 0, 2, 8].into()).port(), 53);
    }
}
