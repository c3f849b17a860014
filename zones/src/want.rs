//! What a server should do, where new objects go, and the names of both below `pool.<domain>`.
//!
//! | name              | type | holds                                             |
//! |-------------------|------|---------------------------------------------------|
//! | `_want.s2.pool`   | TXT  | one [`Want`]                                      |
//! | `_todo.s2.pool`   | TXT  | at most 64 [`Wish`]es, a record each              |
//! | `_report.s2.pool` | TXT  | what it reports to a reconcile: never answered    |
//! | `_place.pool`     | SRV  | servers that take new objects, the best first     |
//!
//! Specification: DESIGN.md section 5, PROTOCOL.md section 4.

use hickory_proto::rr::Name;

use crate::address::Address;
use crate::copies::Keep;
use crate::has::is_release;
use crate::name::{Domain, Zone, label_count};
use crate::policy::Policy;
use crate::register::HOLDERS_MAX;
use crate::server::{Role, ServerName};
use crate::strings::{Strings, StringsError, illegal};
use crate::upkeep::Arrivals;

/// Most per-object wishes that a server is given at a time.
pub const WISHES_MAX: usize = 64;
/// Most targets of a drain; the record stays one character-string of 255 octets each.
pub const TARGETS_MAX: usize = HOLDERS_MAX;

/// What a server should do, as the controller wrote it. Ordered by (plan, step).
///
/// Text, as character-strings of one TXT record, in this order: `v=hn1` `role=` `targets=s4,s5` `plan=` `step=`, then those of
/// the [`Policy`], then those of the [`Errand`]. Strings of a later release may follow: they are passed over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Want {
    /// The role it should take.
    pub role: Role,
    /// Where it may drain to; empty unless it drains.
    pub targets: Vec<ServerName>,
    /// The plan that says so.
    pub plan: u64,
    /// Order within the plan.
    pub step: u64,
    /// What the plan asks of objects.
    pub policy: Policy,
    /// What else the server is to do in this role.
    pub errand: Errand,
}

/// What a server is to do beside moving objects. Empty, it has no text: so a release that does not know it reads the want.
///
/// Text, each string only where it says something: `release=` `arrivals=s2:7` `sweep=`, then those of [`Keep`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Errand {
    /// The release that an upgrading server is to run.
    pub release: Option<String>,
    /// The moves that it is to count and to read back.
    pub arrivals: Option<Arrivals>,
    /// Octets a second that it may write anew to bring resting objects to what the plan asks for.
    pub sweep: Option<u64>,
    /// What it is to do for the copies of its objects.
    pub keep: Keep,
}

impl Errand {
    /// Its own keys; those of [`Keep`] follow.
    const KEYS: [&'static str; 3] = ["release", "arrivals", "sweep"];

    fn strings(&self) -> impl Iterator<Item = String> {
        [
            self.release.as_ref().map(|release| format!("release={release}")),
            self.arrivals.as_ref().map(|arrivals| format!("arrivals={arrivals}")),
            self.sweep.map(|octets| format!("sweep={octets}")),
        ]
        .into_iter()
        .flatten()
        .chain(self.keep.strings())
    }

    fn from_rest<S: AsRef<[u8]>>(strings: &mut Strings<'_, S>) -> Result<Errand, StringsError> {
        let mut errand = Errand::default();
        if strings.has("release") {
            let release = strings.take("release")?;
            if !is_release(release) {
                return Err(illegal("release", release));
            }
            errand.release = Some(release.to_owned());
        }
        if strings.has("arrivals") {
            errand.arrivals = Some(strings.parse("arrivals")?);
        }
        if strings.has("sweep") {
            errand.sweep = Some(strings.number("sweep")?);
        }
        errand.keep = Keep::from_rest(strings)?;
        Ok(errand)
    }
}

impl Want {
    /// The character-strings of the TXT record.
    #[must_use]
    pub fn strings(&self) -> Vec<String> {
        let targets: Vec<&str> = self.targets.iter().map(ServerName::as_str).collect();
        let mut strings = vec![
            "v=hn1".to_owned(),
            format!("role={}", self.role),
            format!("targets={}", targets.join(",")),
            format!("plan={}", self.plan),
            format!("step={}", self.step),
        ];
        strings.extend(self.policy.strings());
        strings.extend(self.errand.strings());
        strings
    }

    /// Reads the character-strings of a TXT record. Reading accepts exactly what [`Want::strings`] makes.
    ///
    /// # Errors
    ///
    /// [`StringsError`]; a target that is named twice, or more than 14 of them, are an illegal value.
    pub fn from_strings<S: AsRef<[u8]>>(strings: &[S]) -> Result<Want, StringsError> {
        let mut strings = Strings::new(strings);
        strings.version()?;
        let want = Want {
            role: strings.parse("role")?,
            targets: strings.servers("targets", TARGETS_MAX)?,
            plan: strings.number("plan")?,
            step: strings.number("step")?,
            policy: Policy::from_rest(&mut strings)?,
            errand: Errand::from_rest(&mut strings)?,
        };
        strings.later(&[&Errand::KEYS[..], &Keep::KEYS[..]].concat())?;
        Ok(want)
    }

    /// Whether this want is newer than another.
    #[must_use]
    pub fn supersedes(&self, other: &Want) -> bool {
        (self.plan, self.step) > (other.plan, other.step)
    }
}

/// One thing that a server should do with one object.
///
/// Text, as character-strings of one TXT record: `copy`, `drop` or `move`; the address; the server.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Wish {
    /// Let `server` hold a copy as well.
    Copy {
        /// The object.
        address: Address,
        /// The holder to be.
        server: ServerName,
    },
    /// Let `server` hold a copy no longer.
    Drop {
        /// The object.
        address: Address,
        /// The holder that was.
        server: ServerName,
    },
    /// Move the object to `server`.
    Move {
        /// The object.
        address: Address,
        /// The owner to be.
        server: ServerName,
    },
}

impl Wish {
    /// The object.
    #[must_use]
    pub fn address(&self) -> &Address {
        match self {
            Wish::Copy { address, .. } | Wish::Drop { address, .. } | Wish::Move { address, .. } => address,
        }
    }

    /// The server that is named.
    #[must_use]
    pub fn server(&self) -> &ServerName {
        match self {
            Wish::Copy { server, .. } | Wish::Drop { server, .. } | Wish::Move { server, .. } => server,
        }
    }

    /// The character-strings of the TXT record.
    #[must_use]
    pub fn strings(&self) -> Vec<String> {
        let verb = match self {
            Wish::Copy { .. } => "copy",
            Wish::Drop { .. } => "drop",
            Wish::Move { .. } => "move",
        };
        vec![verb.to_owned(), self.address().to_string(), self.server().to_string()]
    }

    /// Reads the character-strings of a TXT record.
    ///
    /// # Errors
    ///
    /// [`StringsError`].
    pub fn from_strings<S: AsRef<[u8]>>(strings: &[S]) -> Result<Wish, StringsError> {
        let mut strings = Strings::new(strings);
        let verb = strings.bare("verb")?;
        let address = strings.bare("address")?;
        let address: Address = address.parse().map_err(|_| illegal("address", address))?;
        let server = strings.bare("server")?;
        let server: ServerName = server.parse().map_err(|_| illegal("server", server))?;
        strings.end()?;
        match verb {
            "copy" => Ok(Wish::Copy { address, server }),
            "drop" => Ok(Wish::Drop { address, server }),
            "move" => Ok(Wish::Move { address, server }),
            other => Err(illegal("verb", other)),
        }
    }
}

/// What a name in the zone `pool.<domain>` stands for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum PoolName {
    /// `pool.<domain>` itself.
    Apex,
    /// `s2.pool`: a server; addresses, SRV, TXT with what it has.
    Server(ServerName),
    /// `_want.s2.pool`: what it should do.
    Want(ServerName),
    /// `_todo.s2.pool`: its per-object wishes.
    Todo(ServerName),
    /// `_report.s2.pool`: what it reports to a registry that is being reconciled; taken, never answered.
    Report(ServerName),
    /// `any.pool`: addresses of all serving agents.
    Any,
    /// `ns.pool`: the librarian.
    Ns,
    /// `_place.pool`: where new objects go.
    Place,
}

impl PoolName {
    /// What `name` stands for, in any case; `None` for a name outside the zone and for one that means nothing in it.
    #[must_use]
    pub fn of(domain: &Domain, name: &Name) -> Option<PoolName> {
        if domain.zone_of(name) != Some(Zone::Pool) {
            return None;
        }
        let below = label_count(name) - label_count(domain.zone(Zone::Pool));
        let labels: Vec<String> = name
            .iter()
            .take(below)
            .map(|label| std::str::from_utf8(label).map(str::to_ascii_lowercase))
            .collect::<Result<_, _>>()
            .ok()?;
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] => Some(PoolName::Apex),
            ["any"] => Some(PoolName::Any),
            ["ns"] => Some(PoolName::Ns),
            ["_place"] => Some(PoolName::Place),
            [server] => server.parse().ok().map(PoolName::Server),
            ["_want", server] => server.parse().ok().map(PoolName::Want),
            ["_todo", server] => server.parse().ok().map(PoolName::Todo),
            ["_report", server] => server.parse().ok().map(PoolName::Report),
            [_, _, ..] => None,
        }
    }

    /// The name, in lower case.
    #[must_use]
    pub fn name(&self, domain: &Domain) -> Name {
        let below = |label: &str, server: &ServerName| {
            domain
                .in_pool(server.as_str())
                .prepend_label(label)
                .expect("a domain leaves room for short labels")
        };
        match self {
            PoolName::Apex => domain.zone(Zone::Pool).clone(),
            PoolName::Server(server) => domain.in_pool(server.as_str()),
            PoolName::Want(server) => below("_want", server),
            PoolName::Todo(server) => below("_todo", server),
            PoolName::Report(server) => below("_report", server),
            PoolName::Any => domain.in_pool("any"),
            PoolName::Ns => domain.in_pool("ns"),
            PoolName::Place => domain.in_pool("_place"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_reads_back_as_it_was_written() {
        for text in [
            "v=hn1 role=draining targets=s4,s5 plan=7 step=2",
            "v=hn1 role=serving targets= plan=0 step=0",
            "v=hn1 role=serving targets= plan=8 step=0 level=2 floor=1 steps=expand",
            "v=hn1 role=serving targets= plan=9 step=0 level=3 floor=3 steps=all",
            "v=hn1 role=upgrading targets= plan=9 step=4 release=2.0",
            "v=hn1 role=serving targets= plan=9 step=2 level=2 floor=1 steps=expand arrivals=s2:8",
            "v=hn1 role=serving targets= plan=9 step=2 level=2 floor=1 steps=all sweep=1000000",
            "v=hn1 role=serving targets= plan=9 step=3 copies=2",
            "v=hn1 role=serving targets= plan=9 step=3 sweep=7 copies=2 under=3.1:3 spread=s2:500,s3:120 leave=s4 lost=s1 hot=3.1.2.1.023:s2,s5",
        ] {
            let strings: Vec<&str> = text.split(' ').collect();
            assert_eq!(Want::from_strings(&strings).unwrap().strings(), strings);
        }
        let twice = ["v=hn1", "role=draining", "targets=s4,s4", "plan=7", "step=2"];
        assert!(matches!(
            Want::from_strings(&twice),
            Err(StringsError::Value { key: "targets", .. })
        ));
        for rest in [
            "level=1 floor=1 steps=expand",
            "level=2 floor=3 steps=expand",
            "level=2 floor=0 steps=all",
            "level=2 floor=1 steps=none",
            "level=2 floor=1",
            "level=2 floor=1 steps=all more",
            "release=2;0",
            "arrivals=s2",
            "sweep=01",
            "sweep=7 release=2.0",
            "copies=2 sweep=7",
            "copies=2 spread=",
            "copies=2 copies=2",
            "spread=s2:5 copies=2",
            "hot=3.1:s2 lost=s1",
        ] {
            let text = format!("v=hn1 role=serving targets= plan=9 step=0 {rest}");
            let strings: Vec<&str> = text.split(' ').collect();
            assert!(Want::from_strings(&strings).is_err(), "{rest}");
        }
    }

    #[test]
    fn strings_of_a_later_release_are_passed_over() {
        let now = "v=hn1 role=upgrading targets= plan=9 step=4 release=2.0";
        let later = format!("{now} more=1 most=");
        let read = |text: &str| Want::from_strings(&text.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!(read(&later), read(now));
        let copies = format!("{now} copies=2 under=3.1:3");
        assert_eq!(read(&format!("{copies} more=1 most=")), read(&copies));
    }

    /// A release before copies reads `release=`, `arrivals=` and `sweep=`, and passes over the rest.
    #[test]
    fn release_before_copies_reads_a_want_that_says_something_of_them() {
        let texts = "copies=2 under=3.1:3 spread=s2:500,s3:120 leave=s4 lost=s1 hot=3.1:s5";
        let strings: Vec<&str> = texts.split(' ').collect();
        assert_eq!(Strings::new(&strings).later(&Errand::KEYS), Ok(()));
    }

    #[test]
    fn want_that_says_nothing_of_copies_has_the_text_of_the_release_before() {
        let want = Want {
            role: Role::Serving,
            targets: Vec::new(),
            plan: 9,
            step: 2,
            policy: Policy::default(),
            errand: Errand {
                sweep: Some(7),
                keep: Keep::default(),
                ..Errand::default()
            },
        };
        assert_eq!(
            want.strings().join(" "),
            "v=hn1 role=serving targets= plan=9 step=2 sweep=7"
        );
    }

    #[test]
    fn later_step_of_an_older_plan_does_not_supersede() {
        let want = |plan, step| Want {
            role: Role::Serving,
            targets: Vec::new(),
            plan,
            step,
            policy: Policy::default(),
            errand: Errand::default(),
        };
        assert!(want(2, 0).supersedes(&want(1, 9)));
        assert!(want(2, 1).supersedes(&want(2, 0)));
        assert!(!want(1, 9).supersedes(&want(2, 0)));
        assert!(!want(2, 0).supersedes(&want(2, 0)));
    }

    #[test]
    fn wish_reads_back_as_it_was_written() {
        for verb in ["copy", "drop", "move"] {
            let strings = [verb, "3.1.2.1.023", "s4"];
            assert_eq!(Wish::from_strings(&strings).unwrap().strings(), strings);
        }
        assert!(Wish::from_strings(&["erase", "3.1", "s4"]).is_err());
        assert!(Wish::from_strings(&["move", "3.1"]).is_err());
        assert!(Wish::from_strings(&["move", "3.1", "s4", "now"]).is_err());
    }

    #[test]
    fn pool_names_are_told_apart_in_any_case() {
        let domain: Domain = "hypernet.internal".parse().unwrap();
        let of = |text: &str| PoolName::of(&domain, &text.parse().unwrap());
        let s2: ServerName = "s2".parse().unwrap();
        for (text, means) in [
            ("pool.hypernet.internal.", PoolName::Apex),
            ("S2.pool.Hypernet.internal.", PoolName::Server(s2.clone())),
            ("_WANT.s2.pool.hypernet.internal.", PoolName::Want(s2.clone())),
            ("_todo.s2.pool.hypernet.internal.", PoolName::Todo(s2.clone())),
            ("_report.s2.pool.hypernet.internal.", PoolName::Report(s2)),
            ("any.pool.hypernet.internal.", PoolName::Any),
            ("ns.pool.hypernet.internal.", PoolName::Ns),
            ("_place.pool.hypernet.internal.", PoolName::Place),
        ] {
            assert_eq!(of(text), Some(means.clone()), "{text}");
            assert_eq!(means.name(&domain), text.parse::<Name>().unwrap());
        }
        assert_eq!(of("_other.s2.pool.hypernet.internal."), None);
        assert_eq!(of("a._want.s2.pool.hypernet.internal."), None);
        assert_eq!(of("*.pool.hypernet.internal."), None);
        assert_eq!(of("s2.obj.hypernet.internal."), None);
    }
}
