//! Where new objects go: the servers behind `_place.pool.<domain>`, and worths as SRV weights.
//!
//! A server takes new objects by its role, its lease and the operator's word; among those that do, clients spread themselves by
//! weight (RFC 2782).

use std::cmp::Reverse;

use zones::{Role, ServerName};

use super::cost::{Server, Weights, Work};

/// Weight of the best server; RFC 2782 has 16 bits for it.
const WEIGHT_MAX: u16 = 60_000;

/// One server, as far as new objects are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a ServerName,
    /// Its role.
    pub role: Role,
    /// Whether its lease runs.
    pub alive: bool,
    /// Whether the operator lets it take new objects.
    pub new_objects: bool,
    /// What it costs.
    pub server: Server,
}

/// One line of the ranking.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placed {
    /// The server.
    pub name: ServerName,
    /// SRV priority: 0 for the usual ones, 10 for those that are nearly full.
    pub priority: u16,
    /// SRV weight, at least 1.
    pub weight: u16,
}

impl Candidate<'_> {
    fn takes(&self) -> bool {
        self.alive && self.new_objects && self.role.takes_new_objects()
    }
}

/// Ranks the servers that take new objects, the best first; the same servers give the same ranking.
#[must_use]
pub fn rank(candidates: &[Candidate<'_>], weights: Weights) -> Vec<Placed> {
    let worth = |one: &Candidate<'_>| one.server.worth(weights, Work::Store);
    let taking = || candidates.iter().filter(|one| one.takes());
    let best = taking().map(worth).fold(0.0, f64::max);
    let mut placed: Vec<Placed> = taking()
        .map(|one| Placed {
            name: one.name.clone(),
            priority: if one.server.is_nearly_full() { 10 } else { 0 },
            weight: weight(worth(one), best, WEIGHT_MAX),
        })
        .collect();
    placed.sort_by(|a, b| (a.priority, Reverse(a.weight), &a.name).cmp(&(b.priority, Reverse(b.weight), &b.name)));
    placed
}

/// A worth as an SRV weight: `most` for the best one, the others in proportion, at least 1, because a weight of 0 is no share.
#[must_use]
pub fn weight(worth: f64, best: f64, most: u16) -> u16 {
    // `as` ends at the borders of the type.
    ((worth / best * f64::from(most)).round() as u16).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::super::cost::Share;
    use super::*;
    use proptest::prelude::*;

    const EVEN: Weights = Weights {
        cpu: 1,
        storage: 1,
        bandwidth: 1,
    };

    fn names() -> Vec<ServerName> {
        ["s1", "s2", "s3", "s4"]
            .iter()
            .map(|name| name.parse().expect(name))
            .collect()
    }

    fn candidate(name: &ServerName, whole: u64, used: u64) -> Candidate<'_> {
        Candidate {
            name,
            role: Role::Serving,
            alive: true,
            new_objects: true,
            server: Server {
                price_percent: 100,
                storage: Share { used, whole },
                cpu: Share { used: 0, whole: 1000 },
                bandwidth: None,
            },
        }
    }

    fn lines(candidates: &[Candidate<'_>], weights: Weights) -> Vec<(String, u16, u16)> {
        let placed = rank(candidates, weights).into_iter();
        placed
            .map(|one| (one.name.to_string(), one.priority, one.weight))
            .collect()
    }

    #[test]
    fn only_living_servers_that_may_take_new_objects_are_named() {
        let names = names();
        let mut candidates: Vec<Candidate<'_>> = names.iter().map(|name| candidate(name, 1000, 0)).collect();
        candidates[1].role = Role::Free;
        candidates[2].role = Role::Cordoned;
        candidates[3].alive = false;
        assert_eq!(lines(&candidates, EVEN), [("s1".to_owned(), 0, 60_000)]);
        candidates[0].new_objects = false;
        assert!(rank(&candidates, EVEN).is_empty());
    }

    #[test]
    fn weight_follows_free_space_and_price_where_storage_alone_counts() {
        let names = names();
        let mut candidates = vec![
            candidate(&names[0], 1000, 750),
            candidate(&names[1], 1000, 500),
            candidate(&names[2], 1000, 980),
        ];
        let storage = Weights {
            cpu: 0,
            bandwidth: 0,
            ..EVEN
        };
        assert_eq!(
            lines(&candidates, storage),
            [
                ("s2".to_owned(), 0, 60_000),
                ("s1".to_owned(), 0, 30_000),
                ("s3".to_owned(), 10, 2400)
            ]
        );
        candidates[1].server.price_percent = 400;
        assert_eq!(
            lines(&candidates, storage)[..2],
            [("s1".to_owned(), 0, 60_000), ("s2".to_owned(), 0, 30_000)]
        );
    }

    #[test]
    fn busy_server_comes_behind_an_idle_one_that_is_as_full() {
        let names = names();
        let mut candidates = vec![candidate(&names[0], 1000, 500), candidate(&names[1], 1000, 500)];
        candidates[0].server.cpu.used = 900;
        // (10 + 2 + 1) / 3 against (1 + 2 + 1) / 3.
        assert_eq!(
            lines(&candidates, EVEN),
            [("s2".to_owned(), 0, 60_000), ("s1".to_owned(), 0, 18_462)]
        );
    }

    proptest! {
        #[test]
        fn every_taking_server_has_a_weight_and_gets_no_more_for_being_fuller_busier_or_dearer(
            sizes in proptest::collection::vec((any::<u64>(), any::<u64>(), 0..=2000_u64, 1..=100_000_u32), 4),
            (fuller, busier, dearer) in (any::<u64>(), 0..=1000_u64, 0..=100_000_u32),
        ) {
            let names = names();
            let mut candidates: Vec<Candidate<'_>> = names
                .iter()
                .zip(&sizes)
                .map(|(name, (whole, used, load, price_percent))| {
                    let mut one = candidate(name, *whole, *used);
                    one.server.cpu.used = *load;
                    one.server.price_percent = *price_percent;
                    one
                })
                .collect();
            let first = |candidates: &[Candidate<'_>]| {
                let found = rank(candidates, EVEN).into_iter().find(|one| one.name == names[0]);
                found.map(|one| (one.priority, one.weight)).expect("it takes new objects")
            };
            let placed = rank(&candidates, EVEN);
            prop_assert_eq!(placed.len(), 4);
            prop_assert!(placed.iter().all(|one| (1..=WEIGHT_MAX).contains(&one.weight)));
            prop_assert!(placed.iter().any(|one| one.weight == WEIGHT_MAX));
            let before = first(&candidates);
            let server = &mut candidates[0].server;
            server.storage.used = server.storage.used.saturating_add(fuller);
            server.cpu.used += busier;
            server.price_percent += dearer;
            let after = first(&candidates);
            prop_assert!(after.0 >= before.0 && after.1 <= before.1, "{before:?} {after:?}");
        }
    }
}
