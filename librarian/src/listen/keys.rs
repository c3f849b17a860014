//! TSIG keys and who holds them.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use certs::Grants;
use hickory_proto::rr::Name;
use zones::{ServerName, TsigKey};

/// Who holds a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Principal {
    /// Whoever may change everything that can be changed.
    Admin,
    /// A server's agent.
    Agent(ServerName),
    /// An application.
    Client(Grants),
}

type Map = HashMap<Name, (TsigKey, Principal)>;

/// All keys, changed while they are used.
#[derive(Default)]
pub struct Keys {
    map: ArcSwap<Map>,
}

impl Keys {
    /// Adds a key, or replaces the one of that name.
    pub fn insert(&self, key: &TsigKey, principal: &Principal) {
        self.map.rcu(|map| {
            let mut map = Map::clone(map);
            map.insert(key.name().to_lowercase(), (key.clone(), principal.clone()));
            map
        });
    }

    /// Takes a key away; from now on it is unknown.
    pub fn remove(&self, name: &Name) {
        self.map.rcu(|map| {
            let mut map = Map::clone(map);
            map.remove(&name.to_lowercase());
            map
        });
    }

    /// Replaces all keys.
    pub fn replace(&self, keys: impl IntoIterator<Item = (TsigKey, Principal)>) {
        let keys = keys.into_iter();
        let map = keys.map(|(key, principal)| (key.name().to_lowercase(), (key, principal)));
        self.map.store(Arc::new(map.collect()));
    }

    /// The key of a name.
    pub(crate) fn find(&self, name: &Name) -> Option<(TsigKey, Principal)> {
        self.map.load().get(&name.to_lowercase()).cloned()
    }
}
