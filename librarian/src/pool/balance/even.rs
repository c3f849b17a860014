//! How even a pool is, and which moves would make it so.
//!
//! Two things are spread: octets on disk, copies of others' objects among them, and requests. Each server has a fair part of both: of
//! the octets in proportion to its capacity, of the requests the same as everybody, and both divided by its price. A larger disk
//! answers no faster: a larger server owns more objects, and fewer of those that are asked for most. Octets go by objects nobody
//! has to know, since what matters is how many; requests go by the objects that are asked for most, which agents name.
//!
//! Pure. A move is chosen only if it lessens what it is for, so that moves end under a steady load: octets go from a server
//! above its part to one below it, never beyond; an object goes only if the server that takes it does not become
//! the busier of the two.

use std::collections::BTreeSet;

use zones::{Address, Hot, ServerName};

/// Most moves for the sake of requests that are chosen at once from one server: what they change is looked at before more.
const HOT_MOVES_MAX: usize = 8;
/// A move for the sake of requests is worth it only from this part of a fair share on, in thousandths.
const WORTH_PERMILLE: u64 = 5;

/// One server that takes part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Share {
    /// Its name.
    pub name: ServerName,
    /// Objects that it owns.
    pub objects: u64,
    /// Octets of disk that one of them takes, on the average.
    pub each: u64,
    /// Octets of disk that they take, and copies of others' objects.
    pub used: u64,
    /// Octets that it has room for.
    pub capacity: u64,
    /// The operator's price for it, in percent.
    pub price_percent: u32,
    /// Requests, in thousandths a second.
    pub asked_milli: u64,
    /// Most by which the rates of its hottest objects may be too high.
    pub doubt_milli: u64,
    /// The objects that are asked for most, the hottest first.
    pub hottest: Vec<Hot>,
}

/// How far a pool is from even.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evenness {
    /// The fullest server's octets over its fair part; 1 for an even pool.
    pub fullest: f64,
    /// The emptiest server's octets over its fair part.
    pub emptiest: f64,
    /// The busiest server's requests over its fair part.
    pub busiest: f64,
}

/// So many objects of one server to another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Flow {
    /// Off this server.
    pub from: ServerName,
    /// To this one.
    pub to: ServerName,
    /// Objects.
    pub objects: u64,
}

/// One object of one server to another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HotMove {
    /// The object, and how often it is asked for.
    pub hot: Hot,
    /// Off this server.
    pub from: ServerName,
    /// To this one.
    pub to: ServerName,
}

/// Fair parts of a sum by weights; none is 0, so that it may divide.
fn parts(sum: f64, weights: &[f64]) -> Vec<f64> {
    let all: f64 = weights.iter().sum();
    weights.iter().map(|weight| (sum * weight / all).max(1.0)).collect()
}

fn price(share: &Share) -> f64 {
    f64::from(share.price_percent.max(1))
}

/// Fair parts of the octets.
fn octets_parts(shares: &[Share]) -> Vec<f64> {
    // What agents say may be any number: sums of them are no integers.
    let sum = shares.iter().map(|share| share.used as f64).sum();
    let weight = |share: &Share| share.capacity.max(1) as f64 / price(share);
    parts(sum, &shares.iter().map(weight).collect::<Vec<_>>())
}

/// Fair parts of the requests.
fn asked_parts(shares: &[Share]) -> Vec<f64> {
    let all = shares.iter().map(|share| share.asked_milli as f64).sum();
    let prices: Vec<u32> = shares.iter().map(|share| share.price_percent).collect();
    requests_parts(all, &prices)
}

/// Fair parts of all requests, by servers' prices in percent; none is 0.
pub(in crate::pool) fn requests_parts(all: f64, prices: &[u32]) -> Vec<f64> {
    let weights: Vec<f64> = prices.iter().map(|price| 1.0 / f64::from((*price).max(1))).collect();
    parts(all, &weights)
}

/// How even it is; a pool of no server is.
#[must_use]
pub fn evenness(shares: &[Share]) -> Evenness {
    let over = |value: fn(&Share) -> u64, parts: Vec<f64>| -> Vec<f64> {
        let of = |(share, part): (&Share, f64)| value(share) as f64 / part;
        shares.iter().zip(parts).map(of).collect()
    };
    let octets = over(|share| share.used, octets_parts(shares));
    let asked = over(|share| share.asked_milli, asked_parts(shares));
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let is_asked = shares.iter().any(|share| share.asked_milli > 0);
    let holds = shares.iter().any(|share| share.used > 0);
    Evenness {
        fullest: if holds { most(&octets) } else { 1.0 },
        emptiest: if holds {
            octets.iter().copied().fold(f64::INFINITY, f64::min)
        } else {
            1.0
        },
        busiest: if is_asked { most(&asked) } else { 1.0 },
    }
}

/// Flows of objects that bring every server's octets within `tolerance` of its fair part, at most `most` objects off one server.
/// The shares are left as they would be afterwards.
pub fn even_octets(shares: &mut [Share], tolerance: f64, most: u64) -> Vec<Flow> {
    let parts = octets_parts(shares);
    let mut left: Vec<u64> = vec![most; shares.len()];
    let mut flows: Vec<Flow> = Vec::new();
    // Each round settles a giver or a taker, empties what a giver may give, or passes a giver over.
    for _ in 0..3 * shares.len() {
        let over = |at: &usize| shares[*at].used as f64 / parts[*at];
        let all = 0..shares.len();
        let giver = all
            .clone()
            .filter(|at| left[*at] > 0)
            .max_by(|a, b| over(a).total_cmp(&over(b)));
        let taker = all
            .filter(|at| !is_nearly_full(&shares[*at]))
            .min_by(|a, b| over(a).total_cmp(&over(b)));
        let (Some(from), Some(to)) = (giver, taker) else { break };
        if over(&from) <= 1.0 + tolerance && over(&to) >= 1.0 - tolerance {
            break;
        }
        let octets_each = shares[from].each;
        let excess = shares[from].used as f64 - parts[from];
        let room = parts[to] - shares[to].used as f64;
        let amount = (excess.min(room) / octets_each.max(1) as f64) as u64;
        let objects = amount.min(left[from]).min(shares[from].objects);
        if objects == 0 {
            // Copies fill it, which are not its own to give, or one object is too much.
            left[from] = 0;
            continue;
        }
        left[from] -= objects;
        let octets = objects.saturating_mul(octets_each);
        shift(shares, (from, to), objects, octets);
        flows.push(Flow {
            from: shares[from].name.clone(),
            to: shares[to].name.clone(),
            objects,
        });
    }
    flows
}

/// Whether a server has hardly room for more, whatever its fair part is.
fn is_nearly_full(share: &Share) -> bool {
    let storage = crate::place::Share {
        used: share.used,
        whole: share.capacity,
    };
    storage.is_nearly_full()
}

fn shift(shares: &mut [Share], (from, to): (usize, usize), objects: u64, octets: u64) {
    shares[from].objects = shares[from].objects.saturating_sub(objects);
    shares[from].used = shares[from].used.saturating_sub(octets);
    shares[to].objects = shares[to].objects.saturating_add(objects);
    shares[to].used = shares[to].used.saturating_add(octets);
}

/// By how much a rate wavers where the load does not: four and a half standard deviations of a count of independent requests, halved
/// at the end of each window of 5 s. Its variance is that of 15 s of requests, near enough at any moment of a window. A hundred servers
/// are looked at anew 24,000 times an hour: with three, chance alone moved a few objects in each.
fn wavers_milli(asked_milli: u64) -> f64 {
    let counted = asked_milli as f64 / 1000.0 * 15.0;
    4.5 * counted.sqrt() / 15.0 * 1000.0
}

/// Moves of single objects that bring every server's requests within `tolerance` of its fair part, as far as counting can tell and
/// the objects that agents name allow. Those in `resting` stay, and `may` says whether one may go to a server. The shares are left as
/// they would be afterwards.
pub fn even_requests(
    shares: &mut [Share],
    tolerance: f64,
    resting: &BTreeSet<Address>,
    may: impl Fn(&Address, &ServerName) -> bool,
) -> Vec<HotMove> {
    let parts = asked_parts(shares);
    let mut left: Vec<usize> = vec![HOT_MOVES_MAX; shares.len()];
    let mut moves = Vec::new();
    loop {
        let over = |at: &usize| shares[*at].asked_milli as f64 / parts[*at];
        let all = 0..shares.len();
        let busiest = all
            .clone()
            .filter(|at| left[*at] > 0)
            .max_by(|a, b| over(a).total_cmp(&over(b)));
        let calmest = all.min_by(|a, b| over(a).total_cmp(&over(b)));
        let (Some(from), Some(to)) = (busiest, calmest) else {
            break;
        };
        let excess = shares[from].asked_milli as f64 - parts[from];
        if excess <= parts[from] * tolerance + shares[from].doubt_milli as f64 + wavers_milli(shares[from].asked_milli)
        {
            left[from] = 0;
            if left.iter().all(|left| *left == 0) {
                break;
            }
            continue;
        }
        // What can go before the other one is the busier: of equal servers, half of what lies between them.
        let between = over(&from) - over(&to);
        let most = between / (1.0 / parts[from] + 1.0 / parts[to]);
        let worth = ((parts[from] * WORTH_PERMILLE as f64 / 1000.0) as u64).max(1);
        // The hottest that does not make the other one too hot: so few objects move.
        let chosen = shares[from].hottest.iter().position(|hot| {
            hot.rate_milli >= worth
                && (hot.rate_milli as f64) < most
                && hot.rate_milli as f64 <= excess * (1.0 + tolerance)
                && !resting.contains(&hot.address)
                && may(&hot.address, &shares[to].name)
        });
        let Some(chosen) = chosen else {
            left[from] = 0;
            if left.iter().all(|left| *left == 0) {
                break;
            }
            continue;
        };
        left[from] -= 1;
        let hot = shares[from].hottest.remove(chosen);
        shares[from].asked_milli -= hot.rate_milli.min(shares[from].asked_milli);
        shares[to].asked_milli = shares[to].asked_milli.saturating_add(hot.rate_milli);
        moves.push(HotMove {
            hot,
            from: shares[from].name.clone(),
            to: shares[to].name.clone(),
        });
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOLERANCE: f64 = 0.05;

    fn share(name: &str, objects: u64, used: u64, capacity: u64) -> Share {
        Share {
            name: name.parse().unwrap(),
            objects,
            each: used / objects.max(1),
            used,
            capacity,
            price_percent: 100,
            asked_milli: 0,
            doubt_milli: 0,
            hottest: Vec::new(),
        }
    }

    fn anywhere(_: &Address, _: &ServerName) -> bool {
        true
    }

    fn asked(name: &str, rates: &[u64], rest: u64) -> Share {
        let hottest = rates.iter().enumerate().map(|(at, rate_milli)| Hot {
            address: format!("{name}.{at}").parse().unwrap(),
            rate_milli: *rate_milli,
        });
        Share {
            asked_milli: rates.iter().sum::<u64>() + rest,
            hottest: hottest.collect(),
            ..share(name, 1000, 1000, 10_000)
        }
    }

    #[test]
    fn a_new_server_is_filled_to_its_part_by_the_others() {
        let mut shares = vec![
            share("s1", 300, 30_000, 100_000),
            share("s2", 300, 30_000, 100_000),
            share("s3", 0, 0, 50_000),
        ];
        let flows = even_octets(&mut shares, TOLERANCE, 1000);
        // Parts of 60,000 octets: 24,000, 24,000, 12,000.
        let told: Vec<_> = flows
            .iter()
            .map(|flow| (flow.from.as_str(), flow.to.as_str(), flow.objects))
            .collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told.iter().all(|(_, to, objects)| *to == "s3" && *objects == 60),
            "{told:?}"
        );
        let even = evenness(&shares);
        assert!(even.fullest <= 1.05 && even.emptiest >= 0.95, "{even:?}");
    }

    #[test]
    fn a_dearer_server_has_less() {
        let mut shares = vec![share("s1", 100, 10_000, 100_000), share("s2", 100, 10_000, 100_000)];
        shares[1].price_percent = 300;
        let flows = even_octets(&mut shares, TOLERANCE, 1000);
        assert_eq!((flows[0].from.as_str(), flows[0].objects), ("s2", 50));
    }

    #[test]
    fn what_is_within_the_tolerance_is_left_alone() {
        let mut shares = vec![share("s1", 104, 10_400, 100_000), share("s2", 96, 9_600, 100_000)];
        assert!(even_octets(&mut shares, TOLERANCE, 1000).is_empty());
    }

    #[test]
    fn what_copies_fill_gets_no_objects_and_gives_what_it_owns() {
        let mut shares = vec![
            // Its disk holds copies of what the others own.
            share("s1", 100, 10_000, 100_000),
            share("s2", 500, 50_000, 100_000),
            share("s3", 100, 10_000, 100_000),
        ];
        shares[0].used = 90_000;
        let flows = even_octets(&mut shares, TOLERANCE, 1000);
        assert!(flows.iter().all(|flow| flow.to.as_str() == "s3"), "{flows:?}");
        // 110,000 octets above what is even would be 400 objects, and it owns 100.
        assert_eq!((flows[0].from.as_str(), flows[0].objects), ("s1", 100));
        assert!(flows.iter().all(|flow| flow.objects > 0));
    }

    #[test]
    fn server_that_is_nearly_full_takes_nothing_however_dear_the_others_are() {
        let mut shares = vec![share("s1", 100, 50_000, 100_000), share("s2", 100, 96_000, 100_000)];
        shares[0].price_percent = 100_000;
        assert!(even_octets(&mut shares, TOLERANCE, 1000).is_empty());
    }

    #[test]
    fn object_that_may_not_go_to_the_calmest_stays_and_the_next_one_goes() {
        let mut shares = vec![asked("s1", &[3_000, 2_900], 4_000), asked("s2", &[], 1_000)];
        let may = |address: &Address, to: &ServerName| !(address.as_str() == "s1.0" && to.as_str() == "s2");
        let moves = even_requests(&mut shares, TOLERANCE, &BTreeSet::new(), may);
        assert_eq!(moves[0].hot.address.as_str(), "s1.1");
    }

    #[test]
    fn no_more_than_asked_for_leaves_one_server() {
        let mut shares = vec![
            share("s1", 1000, 100_000, 1 << 20),
            share("s2", 0, 0, 1 << 20),
            share("s3", 0, 0, 1 << 20),
        ];
        let flows = even_octets(&mut shares, TOLERANCE, 64);
        assert_eq!(flows.iter().map(|flow| flow.objects).sum::<u64>(), 64);
    }

    #[test]
    fn an_object_hotter_than_half_the_difference_stays() {
        // To move the only hot object would move the problem.
        let mut shares = vec![asked("s1", &[9_000], 1_000), asked("s2", &[], 1_000)];
        assert!(even_requests(&mut shares, TOLERANCE, &BTreeSet::new(), anywhere).is_empty());
        let mut shares = vec![asked("s1", &[3_000, 3_000, 3_000], 1_000), asked("s2", &[], 1_000)];
        let moves = even_requests(&mut shares, TOLERANCE, &BTreeSet::new(), anywhere);
        assert_eq!(moves.len(), 1, "{moves:?}");
        assert_eq!(moves[0].hot.address.as_str(), "s1.0");
    }

    #[test]
    fn an_object_that_would_make_the_calmer_server_the_busier_one_is_passed_over() {
        let calm = |name| asked(name, &[], 4_000);
        let mut shares = vec![asked("s1", &[4_400, 2_900], 2_700), calm("s2"), calm("s3"), calm("s4")];
        let moves = even_requests(&mut shares, TOLERANCE, &BTreeSet::new(), anywhere);
        assert_eq!(moves[0].hot.address.as_str(), "s1.1", "{moves:?}");
    }

    #[test]
    fn what_counting_cannot_tell_from_chance_moves_nothing() {
        // 220 requests a second are 10 % over the part, and four and a half standard deviations of them 17.
        let busy = |scale: u64| {
            let calm = |name: String| asked(&name, &[], 200_000 * scale);
            let rates = [9_000 * scale; 3];
            let mut shares = vec![asked("s1", &rates, 193_000 * scale)];
            shares.extend((2..40).map(|number| calm(format!("s{number}"))));
            even_requests(&mut shares, TOLERANCE, &BTreeSet::new(), anywhere).len()
        };
        assert_eq!(busy(1), 0);
        assert_eq!(busy(4), 1, "four times as many are told apart");
    }

    #[test]
    fn what_moved_lately_stays() {
        let mut shares = vec![asked("s1", &[3_000, 2_900, 3], 4_000), asked("s2", &[], 1_000)];
        let resting = [shares[0].hottest[0].address.clone()].into();
        let moves = even_requests(&mut shares, TOLERANCE, &resting, anywhere);
        assert_eq!(moves[0].hot.address.as_str(), "s1.1");
    }

    proptest! {
        #[test]
        fn octets_become_even_and_nothing_is_lost(
            servers in proptest::collection::vec((0u64..100_000, 1u64..1000, 1u64..20), 1..12),
        ) {
            let mut shares: Vec<Share> = servers
                .iter()
                .enumerate()
                .map(|(at, (objects, each, capacity))| share(&format!("s{at}"), *objects, objects * each, capacity << 30))
                .collect();
            let before: u64 = shares.iter().map(|share| share.used).sum();
            // Many rounds of what is done at once.
            for _ in 0..40 {
                even_octets(&mut shares, TOLERANCE, u64::MAX);
            }
            prop_assert_eq!(shares.iter().map(|share| share.used).sum::<u64>(), before);
            let even = evenness(&shares);
            let largest = servers.iter().map(|(_, each, _)| *each).max().unwrap_or(0) as f64;
            let parts = octets_parts(&shares);
            for (share, part) in shares.iter().zip(parts) {
                // One object more or less is no part that can be moved.
                let off = (share.used as f64 - part).abs();
                prop_assert!(off <= part * TOLERANCE + 2.0 * largest, "{:?} {} {:?}", share, part, even);
            }
        }

        /// What agents say is only as true as they are.
        #[test]
        fn no_number_of_an_agent_stops_the_librarian(
            servers in proptest::collection::vec(any::<(u64, u64, u64, u64, u64, u64, u64)>(), 0..6),
        ) {
            let mut shares: Vec<Share> = servers
                .iter()
                .enumerate()
                .map(|(at, (objects, each, used, capacity, asked_milli, doubt_milli, rate_milli))| Share {
                    each: *each,
                    asked_milli: *asked_milli,
                    doubt_milli: *doubt_milli,
                    hottest: vec![Hot { address: format!("3.{at}").parse().unwrap(), rate_milli: *rate_milli }],
                    ..share(&format!("s{at}"), *objects, *used, *capacity)
                })
                .collect();
            even_octets(&mut shares, TOLERANCE, u64::MAX);
            even_requests(&mut shares, TOLERANCE, &BTreeSet::new(), anywhere);
            let even = evenness(&shares);
            prop_assert!(!even.fullest.is_nan() && !even.busiest.is_nan());
        }

        #[test]
        fn a_move_for_requests_never_makes_the_calmer_server_the_busier_one(
            servers in proptest::collection::vec(
                (proptest::collection::vec(0u64..50_000, 0..16), 0u64..100_000, 50u32..200),
                2..10,
            ),
        ) {
            let mut shares: Vec<Share> = servers
                .iter()
                .enumerate()
                .map(|(at, (rates, rest, price_percent))| {
                    let mut rates = rates.clone();
                    rates.sort_unstable_by(|a, b| b.cmp(a));
                    Share {
                        price_percent: *price_percent,
                        ..asked(&format!("s{at}"), &rates, *rest)
                    }
                })
                .collect();
            let before = evenness(&shares);
            let asked: u64 = shares.iter().map(|share| share.asked_milli).sum();
            let moves = even_requests(&mut shares, TOLERANCE, &BTreeSet::new(), anywhere);
            prop_assert!(evenness(&shares).busiest <= before.busiest);
            prop_assert_eq!(shares.iter().map(|share| share.asked_milli).sum::<u64>(), asked);
            let moved: BTreeSet<_> = moves.iter().map(|one| one.hot.address.clone()).collect();
            prop_assert_eq!(moved.len(), moves.len(), "no object twice");
        }
    }
}
