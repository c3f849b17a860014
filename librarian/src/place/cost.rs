//! What it costs to have a server keep or serve objects.
//!
//! ```text
//! pressure = mean over resources, by their weights, of 1 / (1 - u)        u: share of the resource in use, at most 0.99
//! cost     = price * pressure / capacity     to keep one more object      worth = 1 / cost
//!            price * pressure                to be asked
//! ease     = 1 / pressure                    among holders of the same object
//! ```
//!
//! **Why 1 / (1 - u).** What waits for a resource waits in proportion to it: in a queue with random arrivals, the mean time from
//! arrival to end is 1 / (1 - u) times the service alone. It is convex: from 0 to 50 % in use it rises by 1, from 80 to 90 % by 5.
//! So a resource that runs short is avoided long before it is full, even where the others are idle, and while all have
//! plenty, small differences of load hardly count. Past 99 % it rises no more, so that every server keeps some worth.
//!
//! **Why by capacity.** New objects go to servers in proportion to worth. With equal prices and pressures, a server of twice the
//! capacity gets twice the objects, so that unequal servers fill evenly. With storage alone weighted, worth is free octets by
//! price.
//!
//! **Why once.** A server of twice the capacity, or of half the price, holds twice as many objects, and so is asked twice as often
//! already. Were holders of an object chosen by capacity or price as well, both would count twice: a server of half the size would
//! be asked a quarter. So among holders only what is in use counts.
//!
//! Sources: L. Kleinrock, Queueing Systems, volume 1 (1975), section 3.2 (the queue M/M/1); B. Fortz and M. Thorup, Internet
//! Traffic Engineering by Optimizing OSPF Weights (INFOCOM 2000), which spreads load by a convex cost of this shape.

/// Highest share in use that counts.
const USED_MAX: f64 = 0.99;
/// Part of its capacity, in percent, that a server keeps free of what may as well go elsewhere.
pub const FULL_PERCENT: u64 = 5;

/// One server, as far as its cost is concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Server {
    /// The operator's price for it, in percent of the usual; at least 1.
    pub price_percent: u32,
    /// Octets that it holds, of those that its store can hold.
    pub storage: Share,
    /// Thousandths of its processors in use, of 1000.
    pub cpu: Share,
    /// Octets a second that it carries, of those that its network can carry; `None`: its network limits nothing.
    pub bandwidth: Option<Share>,
}

/// How much of a resource is in use; both in the resource's unit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share {
    /// What is in use.
    pub used: u64,
    /// All that there is.
    pub whole: u64,
}

/// How much each resource counts, relative to the others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Weights {
    /// Processors.
    pub cpu: u32,
    /// Storage.
    pub storage: u32,
    /// Network.
    pub bandwidth: u32,
}

/// What a server is chosen for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// To keep one more object: all resources count.
    Store,
    /// To be asked: storage does not count.
    Serve,
}

impl Server {
    /// What work costs there, in percent of the usual price, to store for each octet of capacity; above 0.
    #[must_use]
    pub fn cost(&self, weights: Weights, work: Work) -> f64 {
        let priced = f64::from(self.price_percent.max(1)) * pressure(self, weights, work);
        match work {
            Work::Store => priced / number(self.storage.whole.max(1)),
            Work::Serve => priced,
        }
    }

    /// How gladly it is chosen: clients come in proportion to it. Above 0.
    #[must_use]
    pub fn worth(&self, weights: Weights, work: Work) -> f64 {
        1.0 / self.cost(weights, work)
    }

    /// How gladly clients choose it among holders of the same object. Above 0, at most 1.
    #[must_use]
    pub fn ease(&self, weights: Weights) -> f64 {
        1.0 / pressure(self, weights, Work::Serve)
    }

    /// Whether so little is free that it takes more only where all others are as full.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.storage.is_nearly_full()
    }
}

/// How short the server's resources are: 1 when all are idle, 100 at most; 1 also where none of those that count has a weight.
#[must_use]
pub fn pressure(server: &Server, weights: Weights, work: Work) -> f64 {
    let storage = match work {
        Work::Store => weights.storage,
        Work::Serve => 0,
    };
    let parts = [
        (weights.cpu, server.cpu.pressure()),
        (storage, server.storage.pressure()),
        // A server without a limit compares with others as one that carries nothing.
        (weights.bandwidth, server.bandwidth.map_or(1.0, Share::pressure)),
    ];
    let all: f64 = parts.iter().map(|(weight, _)| f64::from(*weight)).sum();
    if all == 0.0 {
        return 1.0;
    }
    let weighted = parts.iter().map(|(weight, pressure)| f64::from(*weight) * pressure);
    weighted.sum::<f64>() / all
}

impl Share {
    /// Whether less is free than stays free of what may as well go elsewhere.
    #[must_use]
    pub fn is_nearly_full(self) -> bool {
        self.has_at_most_free(FULL_PERCENT)
    }

    /// Whether at most so many percent of it are free.
    #[must_use]
    pub fn has_at_most_free(self, percent: u64) -> bool {
        self.whole.saturating_sub(self.used) <= self.whole / 100 * percent
    }

    fn pressure(self) -> f64 {
        let used = number(self.used) / number(self.whole.max(1));
        1.0 / (1.0 - used.min(USED_MAX))
    }
}

/// A count as a number; above 2^53 the nearest one that there is, which keeps the order.
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVEN: Weights = Weights {
        cpu: 1,
        storage: 1,
        bandwidth: 1,
    };
    const STORAGE: Weights = Weights {
        cpu: 0,
        storage: 1,
        bandwidth: 0,
    };

    /// An idle server.
    fn server(used: u64, whole: u64) -> Server {
        Server {
            price_percent: 100,
            storage: Share { used, whole },
            cpu: Share { used: 0, whole: 1000 },
            bandwidth: None,
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
    }

    #[test]
    fn pressure_is_the_weighted_mean_of_what_waits_for_each_resource() {
        let busy = Server {
            cpu: Share { used: 900, whole: 1000 },
            bandwidth: Some(Share { used: 3, whole: 4 }),
            ..server(500, 1000)
        };
        for (cpu, storage, bandwidth, work, expected) in [
            (1, 1, 1, Work::Store, (10.0 + 2.0 + 4.0) / 3.0),
            (1, 1, 1, Work::Serve, (10.0 + 4.0) / 2.0),
            (2, 1, 0, Work::Store, (2.0 * 10.0 + 2.0) / 3.0),
            (0, 1000, 0, Work::Store, 2.0),
            (0, 1000, 0, Work::Serve, 1.0),
            (0, 0, 0, Work::Store, 1.0),
        ] {
            let weights = Weights {
                cpu,
                storage,
                bandwidth,
            };
            let found = pressure(&busy, weights, work);
            assert!(near(found, expected), "{weights:?} {work:?}: {found}");
        }
        let unlimited = Server {
            bandwidth: None,
            ..busy
        };
        assert!(near(pressure(&unlimited, EVEN, Work::Serve), (10.0 + 1.0) / 2.0));
    }

    #[test]
    fn last_tenth_of_a_resource_costs_more_than_all_the_others() {
        let at = |used| pressure(&server(used, 1000), STORAGE, Work::Store);
        let steps: Vec<f64> = (0..9).map(|n| at(100 * n + 100) - at(100 * n)).collect();
        assert!(steps.is_sorted(), "{steps:?}");
        assert!(at(990) - at(900) > steps.iter().sum::<f64>());
        assert!(near(at(990), 100.0) && near(at(u64::MAX), 100.0));
    }

    #[test]
    fn idle_processors_do_not_make_up_for_a_full_store() {
        let full = server(990, 1000);
        let busy = Server {
            cpu: Share { used: 900, whole: 1000 },
            ..server(500, 1000)
        };
        assert!(full.worth(EVEN, Work::Store) < busy.worth(EVEN, Work::Store) / 5.0);
        assert!(full.worth(EVEN, Work::Serve) > busy.worth(EVEN, Work::Serve));
    }

    #[test]
    fn store_of_any_size_is_asked_as_gladly_and_a_price_counts_for_what_is_stored_alone() {
        let small = server(500, 1000);
        let large = server(750, 1500);
        assert!(near(small.worth(EVEN, Work::Serve), large.worth(EVEN, Work::Serve)));
        assert!(near(small.ease(EVEN), large.ease(EVEN)));
        let dear = Server {
            price_percent: 200,
            ..small
        };
        assert!(near(dear.ease(EVEN), small.ease(EVEN)));
        for work in [Work::Store, Work::Serve] {
            assert!(near(dear.worth(EVEN, work), small.worth(EVEN, work) / 2.0));
        }
    }

    #[test]
    fn servers_of_unequal_size_fill_evenly() {
        for weights in [STORAGE, EVEN] {
            let mut servers = [100_000, 200_000, 700_000].map(|whole| server(0, whole));
            for _ in 0..90 {
                let worths = servers.map(|server| server.worth(weights, Work::Store));
                let all: f64 = worths.iter().sum();
                for (server, worth) in servers.iter_mut().zip(worths) {
                    server.storage.used += (10_000.0 * worth / all).round() as u64;
                }
            }
            let shares = servers.map(|server| server.storage.used * 1000 / server.storage.whole);
            assert!(shares.iter().all(|share| (895..=905).contains(share)), "{shares:?}");
        }
    }

    fn shares() -> impl Strategy<Value = Share> {
        (any::<u64>(), any::<u64>()).prop_map(|(used, whole)| Share { used, whole })
    }

    fn servers() -> impl Strategy<Value = Server> {
        (1..=100_000_u32, shares(), 0..=2000_u64, proptest::option::of(shares())).prop_map(
            |(price_percent, storage, load, bandwidth)| Server {
                price_percent,
                storage,
                cpu: Share {
                    used: load,
                    whole: 1000,
                },
                bandwidth,
            },
        )
    }

    proptest! {
        /// The rule before other resources counted.
        #[test]
        fn with_storage_alone_worth_is_free_octets_by_price(
            whole in 1_000..u64::MAX >> 11,
            permille in 0..=989_u64,
            price in 1..=100_000_u32,
        ) {
            let used = whole / 1000 * permille;
            let server = Server { price_percent: price, ..server(used, whole) };
            let before = number(whole - used) / f64::from(price);
            let found = server.worth(STORAGE, Work::Store);
            prop_assert!(near(found, before), "{found} {before}");
        }

        #[test]
        fn more_use_or_a_higher_price_is_never_worth_more_and_a_larger_store_never_less(
            server in servers(),
            (cpu, storage, bandwidth) in (0..=1000_u32, 0..=1000_u32, 0..=1000_u32),
            more in any::<u64>(),
            dearer in 0..=100_000_u32,
        ) {
            let weights = Weights { cpu, storage, bandwidth };
            let fuller = |share: Share| Share { used: share.used.saturating_add(more), ..share };
            for work in [Work::Store, Work::Serve] {
                let worth = server.worth(weights, work);
                prop_assert!(worth.is_finite() && worth > 0.0);
                prop_assert!((1.0..=100.1).contains(&pressure(&server, weights, work)));
                for worse in [
                    Server { price_percent: server.price_percent + dearer, ..server },
                    Server { storage: fuller(server.storage), ..server },
                    Server { cpu: fuller(server.cpu), ..server },
                    Server { bandwidth: server.bandwidth.map(fuller), ..server },
                ] {
                    prop_assert!(worse.worth(weights, work) <= worth, "{worse:?}");
                }
                let whole = server.storage.whole.saturating_add(more);
                let larger = Server { storage: Share { whole, ..server.storage }, ..server };
                prop_assert!(larger.worth(weights, work) >= worth);
            }
        }
    }
}
