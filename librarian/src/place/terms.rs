//! What the operator says of resources and servers: `[placement]` and `[servers.<name>]` of `librarian.toml`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use zones::want::WISHES_MAX;
use zones::{Has, ServerName};

use super::apart::{Label, Labels};
use super::cost::{Server, Share, Weights};
use crate::pool::balance;

/// After how long every object may move.
const MOVE_AFTER: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(100 * 365 * 86_400);
/// Octets a second in a megabit a second.
const MEGABIT_OCTETS: u64 = 125_000;

/// `[placement]`: what counts where a server is chosen.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// How much processors count, relative to the other resources.
    pub cpu: u32,
    /// How much storage counts.
    pub storage: u32,
    /// How much the network counts.
    pub bandwidth: u32,
    /// How far from even a pool is left alone, in percent.
    pub tolerance_percent: u32,
    /// Most objects that are on their way off one server at a time when a pool is balanced.
    pub moves_at_once: usize,
    /// After so long every object moves to another server, for a fresh key and place.
    #[serde(with = "humantime_serde")]
    pub move_after: Option<Duration>,
}

/// `[servers.<name>]`: what is said of one server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTerms {
    /// Its price, in percent of the usual.
    pub price_percent: u32,
    /// Whether it takes new objects.
    pub new_objects: bool,
    /// What its network carries, in megabits a second; `None`: it limits nothing.
    pub bandwidth_mbit: Option<u32>,
    /// The rack that it stands in.
    pub rack: Option<Label>,
    /// The region that it stands in.
    pub region: Option<Label>,
}

/// All that costs depend on besides what servers tell of themselves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Terms {
    /// What counts.
    pub placement: Placement,
    /// What is said of servers; of one that is not listed, the default.
    pub servers: BTreeMap<ServerName, ServerTerms>,
}

impl Default for Placement {
    fn default() -> Self {
        Placement {
            cpu: 1,
            storage: 1,
            bandwidth: 1,
            tolerance_percent: 5,
            moves_at_once: WISHES_MAX,
            move_after: None,
        }
    }
}

/// What holds for a server of which nothing is said.
static UNSAID: ServerTerms = ServerTerms {
    price_percent: 100,
    new_objects: true,
    bandwidth_mbit: None,
    rack: None,
    region: None,
};

impl Default for ServerTerms {
    fn default() -> Self {
        UNSAID.clone()
    }
}

impl Placement {
    /// How a pool is balanced.
    #[must_use]
    pub fn balance(&self) -> balance::Settings {
        balance::Settings {
            tolerance_percent: self.tolerance_percent,
            octets: self.storage > 0,
            requests: self.cpu > 0 || self.bandwidth > 0,
            at_once: self.moves_at_once,
            move_after: self.move_after,
        }
    }

    /// The weights of the resources.
    #[must_use]
    pub fn weights(&self) -> Weights {
        Weights {
            cpu: self.cpu,
            storage: self.storage,
            bandwidth: self.bandwidth,
        }
    }

    /// The first setting with a value that does not work, and what it may be.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, &'static str)> {
        let weights = [self.cpu, self.storage, self.bandwidth];
        let is_weight = |weight: u32| weight <= 1000;
        first_broken([
            (is_weight(self.cpu), "cpu", "0 to 1000"),
            (is_weight(self.storage), "storage", "0 to 1000"),
            (is_weight(self.bandwidth), "bandwidth", "0 to 1000"),
            (
                weights.iter().any(|weight| *weight > 0),
                "cpu",
                "above 0, or storage or bandwidth must be: nothing would count",
            ),
            (
                (1..=50).contains(&self.tolerance_percent),
                "tolerance_percent",
                "1 to 50",
            ),
            (
                (1..=WISHES_MAX).contains(&self.moves_at_once),
                "moves_at_once",
                "1 to 64",
            ),
            (
                self.move_after.is_none_or(|after| MOVE_AFTER.contains(&after)),
                "move_after",
                "1min to 100years",
            ),
        ])
    }
}

impl ServerTerms {
    /// Where the server stands.
    #[must_use]
    pub fn labels(&self) -> Labels<'_> {
        Labels {
            rack: self.rack.as_ref(),
            region: self.region.as_ref(),
        }
    }

    /// The first setting with a value that does not work, and what it may be.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, &'static str)> {
        let carries = |mbit: u32| (1..=10_000_000).contains(&mbit);
        first_broken([
            (
                (1..=100_000).contains(&self.price_percent),
                "price_percent",
                "1 to 100000; `new_objects = false` keeps new objects off a server",
            ),
            (
                self.bandwidth_mbit.is_none_or(carries),
                "bandwidth_mbit",
                "1 to 10000000; without it the server's network limits nothing",
            ),
        ])
    }
}

fn first_broken<const N: usize>(
    checks: [(bool, &'static str, &'static str); N],
) -> Option<(&'static str, &'static str)> {
    let broken = checks.into_iter().find(|(holds, ..)| !holds);
    broken.map(|(_, key, range)| (key, range))
}

impl Terms {
    /// What is said of a server.
    #[must_use]
    pub fn of(&self, name: &ServerName) -> &ServerTerms {
        self.servers.get(name).unwrap_or(&UNSAID)
    }

    /// A server as its cost sees it: by what it tells of itself and what is said of it.
    #[must_use]
    pub fn server(&self, name: &ServerName, has: &Has) -> Server {
        let said = self.of(name);
        Server {
            price_percent: said.price_percent,
            storage: Share {
                // Copies of what others own take their room as well.
                used: has
                    .bytes
                    .saturating_add(has.kept.as_ref().map_or(0, |kept| kept.octets)),
                whole: has.capacity,
            },
            cpu: Share {
                used: u64::from(has.load),
                whole: 1000,
            },
            bandwidth: said.bandwidth_mbit.map(|mbit| Share {
                // An agent of a release before does not tell what it carries.
                used: has.hot.as_ref().map_or(0, |hot| hot.served),
                whole: u64::from(mbit) * MEGABIT_OCTETS,
            }),
        }
    }

    /// The prices of servers that have one of their own, in percent.
    #[must_use]
    pub fn prices(&self) -> BTreeMap<ServerName, u32> {
        let prices = self.servers.iter();
        prices.map(|(name, said)| (name.clone(), said.price_percent)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{has, server};

    #[test]
    fn server_of_which_nothing_is_said_has_the_usual_terms() {
        let terms = Terms {
            servers: [(
                server("s1"),
                ServerTerms {
                    price_percent: 250,
                    bandwidth_mbit: Some(8),
                    ..ServerTerms::default()
                },
            )]
            .into(),
            ..Terms::default()
        };
        assert_eq!(*terms.of(&server("s2")), ServerTerms::default());
        let has = Has {
            bytes: 7,
            load: 300,
            ..has()
        };
        let usual = Server {
            price_percent: 100,
            storage: Share {
                used: 7,
                whole: 1 << 30,
            },
            cpu: Share { used: 300, whole: 1000 },
            bandwidth: None,
        };
        assert_eq!(terms.server(&server("s2"), &has), usual);
        assert_eq!(
            terms.server(&server("s1"), &has),
            Server {
                price_percent: 250,
                bandwidth: Some(Share {
                    used: 0,
                    whole: 1_000_000
                }),
                ..usual
            }
        );
        let carries = Has {
            hot: Some(zones::Heat {
                served: 400_000,
                ..zones::Heat::default()
            }),
            ..has
        };
        let bandwidth = terms.server(&server("s1"), &carries).bandwidth.unwrap();
        assert_eq!((bandwidth.used, bandwidth.whole), (400_000, 1_000_000));
        assert_eq!(terms.prices(), [(server("s1"), 250)].into());
    }
}
