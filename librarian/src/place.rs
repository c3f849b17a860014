//! Where new objects go: the servers behind `_place.pool.<domain>`, and the weights of SRV answers.
//!
//! Pure. A server takes new objects by its role, its lease and its free space; among those that do, clients spread
//! themselves by weight (RFC 2782), so that disks of unequal size fill evenly.

use zones::{Role, ServerName};

/// Share of its capacity, in percent, below which a server takes new objects only when all others are as full.
const FULL_PERCENT: u64 = 5;
/// Weight of a server with all the free space there is; RFC 2782 has 16 bits for it.
const WEIGHT_MAX: u64 = 60_000;

/// One server, as far as placement is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a ServerName,
    /// Its role.
    pub role: Role,
    /// Whether its lease runs.
    pub alive: bool,
    /// Octets that its store can hold.
    pub capacity: u64,
    /// Octets that it holds.
    pub used: u64,
    /// The operator's factor for it, in percent.
    pub factor_percent: u32,
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
    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }

    fn is_nearly_full(&self) -> bool {
        self.free() <= self.capacity / 100 * FULL_PERCENT
    }

    /// Free octets, scaled by the operator's factor.
    fn worth(&self) -> u128 {
        u128::from(self.free()) * u128::from(self.factor_percent)
    }
}

/// Ranks the servers that take new objects, the best first; the same servers give the same ranking.
///
/// Servers that a factor of 0 takes out, and those whose role or lease does, are not in it.
#[must_use]
pub fn rank(candidates: &[Candidate<'_>]) -> Vec<Placed> {
    let taking: Vec<&Candidate<'_>> = candidates
        .iter()
        .filter(|one| one.alive && one.role.takes_new_objects() && one.factor_percent > 0)
        .collect();
    let most = taking.iter().map(|one| one.worth()).max().unwrap_or(0).max(1);
    let mut placed: Vec<Placed> = taking
        .iter()
        .map(|one| Placed {
            name: one.name.clone(),
            priority: if one.is_nearly_full() { 10 } else { 0 },
            weight: u16::try_from(one.worth() * u128::from(WEIGHT_MAX) / most)
                .expect("a share of a weight below 65536")
                .max(1),
        })
        .collect();
    placed.sort_by(|a, b| {
        (a.priority, std::cmp::Reverse(a.weight), &a.name).cmp(&(b.priority, std::cmp::Reverse(b.weight), &b.name))
    });
    placed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names() -> Vec<ServerName> {
        ["s1", "s2", "s3", "s4"]
            .iter()
            .map(|name| name.parse().expect(name))
            .collect()
    }

    fn candidate(name: &ServerName, role: Role, capacity: u64, used: u64) -> Candidate<'_> {
        Candidate {
            name,
            role,
            alive: true,
            capacity,
            used,
            factor_percent: 100,
        }
    }

    #[test]
    fn only_living_servers_that_take_new_objects_are_named() {
        let names = names();
        let mut candidates = vec![
            candidate(&names[0], Role::Serving, 1000, 0),
            candidate(&names[1], Role::Free, 1000, 0),
            candidate(&names[2], Role::Cordoned, 1000, 0),
            candidate(&names[3], Role::Serving, 1000, 0),
        ];
        candidates[3].alive = false;
        assert_eq!(
            rank(&candidates)
                .iter()
                .map(|one| one.name.as_str())
                .collect::<Vec<_>>(),
            ["s1"]
        );
        candidates[0].factor_percent = 0;
        assert!(rank(&candidates).is_empty());
    }

    #[test]
    fn weight_follows_free_space_and_factor() {
        let names = names();
        let mut candidates = vec![
            candidate(&names[0], Role::Serving, 1000, 750),
            candidate(&names[1], Role::Serving, 1000, 500),
            candidate(&names[2], Role::Serving, 1000, 999),
        ];
        let weights = |candidates: &[Candidate<'_>]| {
            rank(candidates)
                .iter()
                .map(|one| (one.name.to_string(), one.priority, one.weight))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            weights(&candidates),
            [
                ("s2".to_owned(), 0, 60_000),
                ("s1".to_owned(), 0, 30_000),
                ("s3".to_owned(), 10, 120)
            ]
        );
        candidates[0].factor_percent = 400;
        assert_eq!(weights(&candidates)[0], ("s1".to_owned(), 0, 60_000));
    }

    proptest! {
        #[test]
        fn every_taking_server_has_a_weight(sizes in proptest::collection::vec((any::<u64>(), any::<u64>(), 1u32..1_000_000), 4)) {
            let names = names();
            let candidates: Vec<Candidate<'_>> = names
                .iter()
                .zip(&sizes)
                .map(|(name, (capacity, used, factor_percent))| Candidate {
                    factor_percent: *factor_percent,
                    ..candidate(name, Role::Serving, *capacity, *used)
                })
                .collect();
            let placed = rank(&candidates);
            prop_assert_eq!(placed.len(), 4);
            prop_assert!(placed.iter().all(|one| one.weight >= 1));
        }
    }
}
