//! How often each of many objects is asked for, in bounded memory.
//!
//! Space-Saving (Metwally, Agrawal and El Abbadi, "Efficient computation of frequent and top-k elements in data streams", 2005):
//! a fixed number of counters; an object without one takes over the least counter and, as what it may owe to the object before
//! it, that counter's value. Of n requests on k counters, each count is too high by n / k at most, and every object that was
//! asked for more often than that has a counter.
//!
//! Counts decay: at the end of each window all are halved, so that a count is of the recent past and both bounds hold for the
//! halved numbers.

use std::collections::HashMap;

use crate::address::Address;

/// One request. Halving a count rounds down by less than one part of it, so what a counter loses by rounding stays below two
/// parts: a five-hundred-thousandth of a request.
const ONE: u64 = 1 << 20;

/// Counters of requests, the recent ones above all.
#[derive(Debug)]
pub struct Counters {
    capacity: usize,
    places: HashMap<Address, u32>,
    slots: Vec<Slot>,
    /// Numbers of slots, as a binary heap: the least count first.
    heap: Vec<u32>,
    total: u64,
}

#[derive(Debug)]
struct Slot {
    address: Address,
    count: u64,
    /// How much of the count may be others'.
    error: u64,
    /// Its place in the heap.
    at: u32,
}

/// What is known of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// Which.
    pub address: Address,
    /// Its requests: never fewer than there were.
    pub requests: f64,
    /// By how much that may be too many.
    pub doubt: f64,
}

impl Counters {
    /// No request yet. `capacity` is the number of counters.
    ///
    /// # Panics
    ///
    /// For no counter, or 2^32 and more.
    #[must_use]
    pub fn new(capacity: usize) -> Counters {
        assert!(capacity > 0 && u32::try_from(capacity).is_ok(), "1 counter to 2^32");
        Counters {
            capacity,
            places: HashMap::new(),
            slots: Vec::new(),
            heap: Vec::new(),
            total: 0,
        }
    }

    /// Counts a request for an object, as `times` of them.
    pub fn count(&mut self, address: &Address, times: u32) {
        let more = ONE * u64::from(times);
        self.total += more;
        if let Some(slot) = self.places.get(address) {
            let slot = *slot as usize;
            self.slots[slot].count += more;
            self.sink(self.slots[slot].at as usize);
            return;
        }
        if self.slots.len() < self.capacity {
            let (slot, at) = (self.slots.len(), self.heap.len());
            self.places.insert(address.clone(), number(slot));
            self.heap.push(number(slot));
            self.slots.push(Slot {
                address: address.clone(),
                count: more,
                error: 0,
                at: number(at),
            });
            self.rise(at);
            return;
        }
        let least = self.heap[0];
        let slot = &mut self.slots[least as usize];
        self.places.remove(&slot.address);
        self.places.insert(address.clone(), least);
        slot.address = address.clone();
        slot.error = slot.count;
        slot.count += more;
        self.sink(0);
    }

    /// Ends a window: every count is halved. Objects that nobody asked for in the last twenty windows are forgotten.
    pub fn halve(&mut self) {
        self.total /= 2;
        self.slots.retain_mut(|slot| {
            slot.count /= 2;
            slot.error /= 2;
            slot.count > 0
        });
        self.places.clear();
        let places = self.slots.iter().enumerate();
        self.places
            .extend(places.map(|(at, slot)| (slot.address.clone(), number(at))));
        self.heap = (0..self.slots.len()).map(number).collect();
        self.heap.sort_by_key(|slot| self.slots[*slot as usize].count);
        for (at, slot) in self.heap.iter().enumerate() {
            self.slots[*slot as usize].at = number(at);
        }
    }

    /// Requests for all objects.
    #[must_use]
    pub fn total(&self) -> f64 {
        requests(self.total)
    }

    /// Most by which any count may be too high, and most requests that an object without a counter has had.
    #[must_use]
    pub fn doubt(&self) -> f64 {
        match self.slots.len() < self.capacity {
            true => 0.0,
            false => self
                .heap
                .first()
                .map_or(0.0, |least| requests(self.slots[*least as usize].count)),
        }
    }

    /// The objects that were asked for most, at most `most` of them, the hottest first; of equal ones the lesser address.
    #[must_use]
    pub fn hottest(&self, most: usize) -> Vec<Counted> {
        let hotter = |a: &&Slot, b: &&Slot| b.count.cmp(&a.count).then_with(|| a.address.cmp(&b.address));
        let mut slots: Vec<&Slot> = self.slots.iter().collect();
        if most < slots.len() {
            slots.select_nth_unstable_by(most, hotter);
            slots.truncate(most);
        }
        slots.sort_unstable_by(hotter);
        slots
            .into_iter()
            .map(|slot| Counted {
                address: slot.address.clone(),
                requests: requests(slot.count),
                doubt: requests(slot.error),
            })
            .collect()
    }

    /// Moves a counter that has grown away from the front.
    fn sink(&mut self, mut at: usize) {
        loop {
            let next = [2 * at + 1, 2 * at + 2]
                .into_iter()
                .filter(|child| *child < self.heap.len())
                .min_by_key(|child| self.at(*child).count);
            match next.filter(|child| self.at(*child).count < self.at(at).count) {
                Some(child) => {
                    self.swap(at, child);
                    at = child;
                }
                None => return,
            }
        }
    }

    /// Moves a new counter towards the front.
    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.at(at).count < self.at((at - 1) / 2).count {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn at(&self, place: usize) -> &Slot {
        &self.slots[self.heap[place] as usize]
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for place in [a, b] {
            self.slots[self.heap[place] as usize].at = number(place);
        }
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("as many as counters at most")
}

fn requests(count: u64) -> f64 {
    count as f64 / ONE as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(number: u32) -> Address {
        format!("3.{number}").parse().expect("an address")
    }

    /// Exact counts beside the counters.
    struct Beside {
        counters: Counters,
        exact: HashMap<Address, f64>,
        total: f64,
    }

    impl Beside {
        fn new(capacity: usize) -> Beside {
            Beside {
                counters: Counters::new(capacity),
                exact: HashMap::new(),
                total: 0.0,
            }
        }

        fn count(&mut self, object: u32) {
            self.counters.count(&address(object), 1);
            *self.exact.entry(address(object)).or_default() += 1.0;
            self.total += 1.0;
        }

        fn halve(&mut self) {
            self.counters.halve();
            self.exact.values_mut().for_each(|count| *count /= 2.0);
            self.total /= 2.0;
        }

        /// What Metwally et al. prove: no count too low, none too high by more than it says, nor that more than n / k, and
        /// no object without a counter that was asked for more often than the least of them.
        fn check(&self) {
            // Rounding at halvings.
            let little = 4.0 / ONE as f64;
            let bound = self.total / self.counters.capacity as f64;
            let all = self.counters.hottest(usize::MAX);
            assert!(all.len() <= self.counters.capacity);
            for counted in &all {
                let exact = self.exact.get(&counted.address).copied().unwrap_or_default();
                assert!(counted.requests >= exact - little, "{counted:?}, {exact}");
                assert!(
                    counted.requests - counted.doubt <= exact + little,
                    "{counted:?}, {exact}"
                );
                assert!(counted.doubt <= bound + little, "{counted:?}, {bound}");
            }
            assert!(self.counters.doubt() <= bound + little);
            for (address, exact) in &self.exact {
                let counted = all.iter().any(|counted| counted.address == *address);
                assert!(
                    counted || *exact <= self.counters.doubt() + little,
                    "{address}: {exact}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn counts_are_within_their_bounds_of_exact_ones(
            capacity in 1usize..40,
            asked in proptest::collection::vec(proptest::option::weighted(0.98, 0u32..100), 0..2000),
        ) {
            let mut beside = Beside::new(capacity);
            for object in asked {
                match object {
                    // The lesser the number, the more often.
                    Some(object) => beside.count(object * object / 100),
                    None => beside.halve(),
                }
            }
            beside.check();
        }
    }

    #[test]
    fn few_objects_are_counted_exactly() {
        let mut counters = Counters::new(8);
        for object in [1, 2, 1, 3, 1, 2] {
            counters.count(&address(object), 1);
        }
        counters.count(&address(2), 5);
        let hottest: Vec<_> = counters.hottest(2);
        assert_eq!(
            hottest,
            [
                Counted {
                    address: address(2),
                    requests: 7.0,
                    doubt: 0.0
                },
                Counted {
                    address: address(1),
                    requests: 3.0,
                    doubt: 0.0
                }
            ]
        );
        assert_eq!((counters.total(), counters.doubt()), (11.0, 0.0));
    }

    #[test]
    fn an_object_that_nobody_asks_for_any_more_is_forgotten() {
        let mut counters = Counters::new(8);
        counters.count(&address(1), 1000);
        counters.halve();
        assert_eq!(counters.hottest(8)[0].requests, 500.0);
        (0..40).for_each(|_| counters.halve());
        assert!(counters.hottest(8).is_empty());
        assert_eq!(counters.total(), 0.0);
    }
}
