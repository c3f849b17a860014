//! What commands ask the running librarian, and what it answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::pool::{Ask, Progress};
use crate::reconcile::backup::Head;

/// Longest line either way.
pub const LINE_OCTETS_MAX: usize = 1 << 20;

/// What a command asks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Where the librarian listens.
    Addresses,
    /// Read the keys anew.
    Reload,
    /// Hand the sockets on to the librarian that asks: [`Sockets`] and the sockets themselves; then as in [`crate::handover`].
    HandOver,
    /// Who holds an object: [`Where`].
    Where {
        /// Its address.
        address: String,
    },
    /// The pool at a glance: [`Pool`].
    Pool,
    /// Save the registry to a file: [`Saved`].
    Backup {
        /// Which file, with its whole path.
        file: PathBuf,
    },
    /// How far the reconcile of the registry is: [`crate::reconcile::words::Status`].
    Reconcile,
    /// Reconcile without a server that is lost for good: [`crate::reconcile::words::Status`].
    WriteOff {
        /// Which.
        server: String,
    },
    /// What would be lost with a server: [`Loss`].
    Loss {
        /// Which.
        server: String,
    },
    /// Mark a server lost for good, or take that back: [`Loss`].
    MarkLost {
        /// Which.
        server: String,
        /// Whether it is lost.
        lost: bool,
        /// Objects that may be lost with it: just as many as would be; absent: none.
        #[serde(default)]
        lose: u64,
    },
    /// Make a plan that empties a server: [`Made`].
    Drain {
        /// Which.
        server: String,
        /// Into which; absent: the roomiest free one.
        into: Option<String>,
    },
    /// Make a plan that gives a server its objects back: [`Made`].
    Refill {
        /// Which.
        server: String,
    },
    /// What is asked of objects: [`Asked`].
    Policy,
    /// Make a plan that asks more of objects: [`Made`].
    AskMore {
        /// Level of new objects and of those that move; absent: as now.
        level: Option<u8>,
        /// Lowest level that agents take from each other; absent: as now.
        floor: Option<u8>,
        /// Whether contract steps run from now on; false: as now.
        contract_steps: bool,
    },
    /// What the start of an upgrade would find: an array of [`crate::pool::preflight::Finding`].
    UpgradeCheck {
        /// The release that the pool is to have.
        to: String,
        /// What is asked for.
        ask: Ask,
    },
    /// Begin an upgrade: [`Made`].
    UpgradeStart {
        /// The release that the pool is to have.
        to: String,
        /// What is asked for.
        ask: Ask,
    },
    /// How the upgrade stands: [`crate::pool::status::Status`].
    UpgradeStatus,
    /// Move nothing until it is resumed: [`Made`].
    UpgradePause,
    /// Go on: [`Made`].
    UpgradeResume,
    /// Run the rotation backwards: [`Made`].
    UpgradeAbort,
    /// Make it final: [`Made`].
    UpgradeFinalize {
        /// Objects of the quarantine list that do not hinder it.
        waived: u64,
    },
    /// Why a server or an object is as it is: [`crate::pool::status::Explained`].
    Explain {
        /// Its name or address.
        what: String,
    },
    /// What balancing would do: [`crate::pool::balance::Preview`].
    RebalancePreview,
    /// Make a plan that balances the pool: [`Made`].
    RebalanceStart,
    /// Make a plan under which nothing moves: [`Made`].
    RebalanceStop,
    /// How even the pool is: [`crate::pool::balance::Standing`].
    RebalanceStatus,
    /// How secondaries stand: an array of [`crate::transfer::book::Status`].
    Secondaries,
    /// Which objects are asked for most: [`Heat`].
    Heat,
    /// Tell the progress of a plan until it is done or replaced: lines of [`Progress`], then [`Progress`].
    Follow {
        /// Its number.
        plan: u64,
    },
}

/// One line of an answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// How far the plan is; more lines follow.
    Progress(Progress),
    /// The answer; the last line.
    Done(serde_json::Value),
    /// Why not, in a sentence that says what to do; the last line.
    Refused(String),
}

/// Where the librarian listens.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Addresses {
    /// DNS, as told to servers and clients.
    pub dns: SocketAddr,
    /// The join port, as told to servers.
    pub https: SocketAddr,
}

/// The names of the sockets that come with this line, in their order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Sockets {
    /// `dns`, `join` or `metrics`.
    pub sockets: Vec<String>,
}

/// Who holds an object.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Where {
    /// The address as it is registered.
    pub address: String,
    /// `stable`, `moving` or `deleted`.
    pub state: String,
    /// Where it is moving to.
    pub to: Option<String>,
    /// Epoch of the register.
    pub epoch: u64,
    /// Its owner.
    pub owner: String,
    /// Everybody with an in-sync copy.
    pub holders: Vec<String>,
    /// Type of the object.
    #[serde(rename = "type")]
    pub kind: String,
    /// Schema at the last change of owner.
    pub schema: u32,
    /// Level at the last change of owner.
    pub level: u8,
    /// Where the holders are.
    pub servers: Vec<Place>,
    /// Its name in `obj`.
    pub name: String,
}

/// Where an address leads.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// To an object of this pool.
    Here(Where),
    /// To another pool.
    Delegated(Delegated),
}

/// A part of the tree that another pool's librarian answers for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Delegated {
    /// The address that was asked for.
    pub address: String,
    /// The zone that is delegated.
    pub zone: String,
    /// Names of its name servers, each with the addresses that are set with it.
    pub servers: Vec<(String, Vec<IpAddr>)>,
}

/// What is asked of objects, and how many have come to it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Asked {
    /// Level of new objects and of those that move.
    pub level: u8,
    /// Lowest level that agents take from each other.
    pub floor: u8,
    /// Which schema steps run: `expand` or `all`.
    pub steps: String,
    /// Objects by the level that they had at their last change of owner.
    pub objects_by_level: BTreeMap<u8, u64>,
}

/// Where a server is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Whether its lease runs.
    pub alive: bool,
    /// Its addresses, with the port of its HTTPS access.
    pub https: Vec<SocketAddr>,
}

/// The pool at a glance.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Pool {
    /// The pool's domain.
    pub domain: String,
    /// Objects that are not deleted.
    pub objects: u64,
    /// Servers that a reconcile of the registry waits for; absent if registers change as usual.
    #[serde(default)]
    pub reconcile: Option<Vec<String>>,
    /// The last plan and how far it is.
    pub plan: Option<Progress>,
    /// How it stands with copies; absent from a release before them.
    #[serde(default)]
    pub copies: Option<Copies>,
    /// Every server that joined, by name.
    pub servers: Vec<Server>,
}

/// How it stands with copies.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Copies {
    /// Copies of an object that there are to be, its owner's among them.
    pub wanted: u8,
    /// Other numbers for what a prefix covers.
    pub under: BTreeMap<String, u8>,
    /// Whether servers are told so.
    pub begun: bool,
    /// Servers of a release before copies: these begin when there is none.
    pub waits_for: Vec<String>,
    /// Objects that have fewer copies than they are to have, as servers say that are heard.
    pub short: u64,
    /// Servers that are not heard, and say nothing of it.
    #[serde(default)]
    pub unheard: u64,
    /// Objects with a copy on a server that copies are to leave.
    pub leaving: u64,
    /// Objects that are to have more copies for their heat.
    #[serde(default)]
    pub hot: u64,
    /// How many more all of these are to have.
    #[serde(default)]
    pub hot_copies: u64,
}

/// What is lost with a server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Loss {
    /// Its name.
    pub server: String,
    /// Whether it is marked lost.
    pub lost: bool,
    /// Objects that it owns.
    pub owned: u64,
    /// Objects, its own or others', that it has and nobody else but servers that are lost.
    pub lost_objects: u64,
}

/// One server.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// The role it should act in.
    pub role: String,
    /// Where it should drain to.
    pub targets: Vec<String>,
    /// Whether its lease runs.
    pub alive: bool,
    /// Seconds since it was last heard by this process.
    pub heard_s: Option<f64>,
    /// Seconds until its lease ends.
    pub lease_s: Option<f64>,
    /// Seconds that its clock was ahead of the librarian's when it was last heard; below 0 it was behind.
    #[serde(default)]
    pub clock_ahead_s: Option<i64>,
    /// Its release.
    pub release: Option<String>,
    /// Objects that it says it owns.
    pub objects: u64,
    /// Registers that name it as the owner.
    pub owned: u64,
    /// Registers that name it in any field.
    pub named: u64,
    /// Registers that name it as the holder of a copy, and another server as the owner.
    #[serde(default)]
    pub held: u64,
    /// Whether it is marked lost for good.
    #[serde(default)]
    pub lost: bool,
    /// For one that is marked lost: objects that it owns and of which nobody has a copy but servers that are lost.
    #[serde(default)]
    pub lost_objects: Option<u64>,
    /// Octets of its objects.
    pub bytes: u64,
    /// Octets that copies of others' objects take on its disk.
    #[serde(default)]
    pub held_bytes: u64,
    /// Octets that it can hold.
    pub capacity: u64,
    /// Share of its processors in use, in thousandths.
    pub load: u32,
    /// Requests in its window of heat.
    pub heat: u64,
    /// Requests that failed by its own fault.
    pub errors: u64,
    /// Objects that no move can take away since their copies there cannot be read.
    pub unreadable: u64,
    /// Objects that a schema step failed on.
    #[serde(default)]
    pub quarantined: u64,
    /// The end of its log of moves that is kept here: `COUNT:HASH`.
    #[serde(default)]
    pub audit: Option<String>,
    /// Whether its log is not the one that it told of before.
    #[serde(default)]
    pub log_is_doubtful: bool,
    /// The highest plan it knows.
    pub plan: u64,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Port of its HTTPS access.
    pub https_port: Option<u16>,
}

/// Which objects are asked for most.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Heat {
    /// Requests of the busiest server over the mean of those that serve; 1 where nothing is asked for.
    pub hottest_over_mean: f64,
    /// Requests for all objects, in thousandths a second.
    pub asked_milli: u64,
    /// Octets a second that clients were sent and sent.
    pub served: u64,
    /// The objects that servers name, and those that are looked up most, the hottest first.
    pub objects: Vec<HotObject>,
}

/// An object that is asked for often.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HotObject {
    /// Its address.
    pub address: String,
    /// Requests, in thousandths a second, on all servers together.
    pub rate_milli: u64,
    /// Most by which that may be too high.
    pub doubt_milli: u64,
    /// Questions for it that the librarian answered, in thousandths a second; to about a tenth.
    #[serde(default)]
    pub questions_milli: u64,
    /// The servers that answered the requests.
    pub servers: Vec<String>,
    /// The servers that are to have copies of it for its heat, besides the wanted number.
    #[serde(default)]
    pub copies: Vec<String>,
}

/// A backup that was written and read back.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Saved {
    /// The file.
    pub file: PathBuf,
    /// The registry's incarnation.
    pub incarnation: String,
    /// Entries in it.
    pub entries: u64,
    /// When, in seconds since 1970.
    pub saved_unix_s: u64,
}

impl Saved {
    /// What a backup says of itself.
    pub(crate) fn of(file: PathBuf, head: &Head) -> Saved {
        Saved {
            file,
            incarnation: head.incarnation.to_string(),
            entries: head.entries,
            saved_unix_s: head.saved_unix_s,
        }
    }
}

/// A plan that became current.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Made {
    /// Its number.
    pub plan: u64,
    /// What it does.
    pub goal: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_told_apart_by_their_command_and_nothing_else_is_taken() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(read(r#"{"command":"pool"}"#).unwrap(), Request::Pool);
        assert_eq!(
            read(r#"{"command":"drain","server":"s2","into":null}"#).unwrap(),
            Request::Drain {
                server: "s2".to_owned(),
                into: None
            }
        );
        for text in [
            "",
            "{}",
            r#"{"command":"erase"}"#,
            r#"{"command":"refill","server":"s2","now":true}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(text in ".{0,200}") {
            let _ = serde_json::from_str::<Request>(&text);
            let _ = serde_json::from_str::<Line>(&text);
        }
    }
}
