//! The servers of the pool, as the registry knows them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use zones::audit::Head;
use zones::{Has, Role, ServerName, Want, Wish};

/// Most addresses that a server may have.
pub const ADDRESSES_MAX: usize = 8;

/// Where a server is and what it said of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    /// TCP port of its HTTPS access.
    pub https_port: u16,
    /// Its addresses, at least one.
    pub addresses: Vec<IpAddr>,
    /// What it last said it has.
    pub has: Has,
}

/// One server of the pool.
///
/// | field | lasts |
/// |---|---|
/// | name, want, lost, audit | over a restart |
/// | host | port, addresses, capacity, release and the index's commit counter over a restart; the rest as they were at the last change of these |
/// | seen, clock, todos | until the process ends |
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Its name.
    pub name: ServerName,
    /// What it should do; its role is the server's role.
    pub want: Want,
    /// Per-object wishes.
    pub todos: Vec<Wish>,
    /// Marked as lost for good: a holder may take what it owns.
    pub lost: bool,
    /// Where it is; `None` until its agent has said so.
    pub host: Option<Host>,
    /// The end of its log of moves, as far as it was ever told: a log that is cut back or rewritten is found by it.
    pub audit: Option<Head>,
    /// When its agent last said so to this process.
    pub seen: Option<Instant>,
    /// How far its clock was ahead of ours then, in seconds; below 0 it was behind.
    pub clock_ahead_s: i64,
}

impl Server {
    /// A server of which nothing was heard yet.
    pub(crate) fn new(name: ServerName, want: Want) -> Server {
        Server {
            name,
            want,
            todos: Vec::new(),
            lost: false,
            host: None,
            audit: None,
            seen: None,
            clock_ahead_s: 0,
        }
    }

    /// The role it should act in.
    #[must_use]
    pub fn role(&self) -> Role {
        self.want.role
    }

    /// What it last said it has.
    #[must_use]
    pub fn has(&self) -> Option<&Has> {
        self.host.as_ref().map(|host| &host.has)
    }

    /// Takes the end of its log of moves. One that does not follow from what was told before is not taken, and stays to be seen.
    pub(crate) fn told_of_log(&mut self, told: Option<Head>) {
        let Some(told) = told else { return };
        let follows = self.audit.is_none_or(|kept| told.count > kept.count || told == kept);
        if follows {
            self.audit = Some(told);
        } else {
            tracing::error!(server = %self.name, kept = ?self.audit.map(|kept| kept.to_string()), %told, "a log of moves was cut back or rewritten");
        }
    }

    /// Whether its log of moves is not the one that it told of before.
    #[must_use]
    pub fn log_is_doubtful(&self) -> bool {
        match (self.audit, self.has().and_then(|has| has.audit)) {
            (Some(kept), Some(told)) => kept != told,
            (Some(_), None) => self.host.is_some(),
            (None, _) => false,
        }
    }

    /// Whether its lease runs.
    #[must_use]
    pub fn is_alive(&self, now: Instant, lease: Duration) -> bool {
        self.seen
            .is_some_and(|seen| now.saturating_duration_since(seen) < lease)
    }

    /// Whether `new` differs in something that must outlast a restart.
    pub(crate) fn differs_durably(&self, new: &Server) -> bool {
        let kept = |server: &Server| {
            server.host.as_ref().map(|host| {
                let Has {
                    release,
                    commits,
                    plan,
                    peer_port,
                    capacity,
                    ..
                } = &host.has;
                (
                    host.https_port,
                    host.addresses.clone(),
                    *capacity,
                    release.clone(),
                    *commits,
                    *plan,
                    *peer_port,
                )
            })
        };
        self.want != new.want || self.lost != new.lost || self.audit != new.audit || kept(self) != kept(new)
    }

    /// Whether `new` differs in something that answers about objects, or transferred records of them, are made of, so that
    /// serials must rise.
    pub(crate) fn differs_in_answers(&self, new: &Server) -> bool {
        let place = |server: &Server| {
            server
                .host
                .as_ref()
                .map(|host| (host.https_port, host.addresses.clone(), host.has.capacity))
        };
        self.role() != new.role() || place(self) != place(new)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn has() -> Has {
        Has {
            release: "0.1.0".to_owned(),
            role: Role::Serving,
            objects: 3,
            bytes: 1000,
            capacity: 100_000,
            load: 100,
            heat: 0,
            errors: 0,
            unreadable: 0,
            plan: 0,
            commits: 12,
            peer_port: 9101,
            quarantined: 0,
            audit: None,
            upkeep: None,
            hot: None,
            kept: None,
        }
    }

    #[test]
    fn load_is_soft_and_the_commit_counter_is_not() {
        let want = Want {
            role: Role::Serving,
            targets: Vec::new(),
            plan: 0,
            step: 0,
            policy: zones::Policy::default(),
            errand: zones::Errand::default(),
        };
        let mut old = Server::new("s2".parse().unwrap(), want);
        old.host = Some(Host {
            https_port: 1,
            addresses: vec![IpAddr::from([127, 0, 0, 1])],
            has: has(),
        });
        let change = |change: fn(&mut Server)| {
            let mut new = old.clone();
            change(&mut new);
            (old.differs_durably(&new), old.differs_in_answers(&new))
        };
        assert_eq!(change(|new| new.host.as_mut().unwrap().has.load = 999), (false, false));
        assert_eq!(change(|new| new.host.as_mut().unwrap().has.commits += 1), (true, false));
        assert_eq!(change(|new| new.host.as_mut().unwrap().https_port += 1), (true, true));
        assert_eq!(change(|new| new.want.role = Role::Cordoned), (true, true));
        assert_eq!(change(|new| new.seen = Some(Instant::now())), (false, false));
    }

    #[test]
    fn log_that_is_cut_back_or_rewritten_does_not_take_the_place_of_the_one_that_was_told() {
        let mut server = Server::new(
            "s2".parse().unwrap(),
            Want {
                role: Role::Serving,
                targets: Vec::new(),
                plan: 0,
                step: 0,
                policy: zones::Policy::default(),
                errand: zones::Errand::default(),
            },
        );
        let told = |count, octet| {
            Some(Head {
                count,
                hash: [octet; 32],
            })
        };
        let mut tell = |head| {
            server.told_of_log(head);
            server.host = Some(Host {
                https_port: 1,
                addresses: Vec::new(),
                has: Has { audit: head, ..has() },
            });
            (server.audit, server.log_is_doubtful())
        };
        assert_eq!(tell(told(3, 1)), (told(3, 1), false));
        assert_eq!(tell(told(5, 2)), (told(5, 2), false));
        for doubtful in [told(4, 9), told(5, 3), None] {
            assert_eq!(tell(doubtful), (told(5, 2), true));
        }
        assert_eq!(tell(told(5, 2)), (told(5, 2), false), "the log came back");
        assert_eq!(tell(told(6, 4)), (told(6, 4), false));
    }
}
