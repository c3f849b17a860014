//! Since when things are as they are: what a controller knows only from having looked before.
//!
//! All of it may be forgotten: a controller that was killed counts anew from its start, so that it waits too long and never too
//! short (DESIGN.md section 13, "counted from the end of the old process").

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zones::{Errand, Keep, Role, ServerName, Want};

use super::balance::{self, Balancer};
use super::keep;
use super::secondaries::Secondaries;
use super::sight::Sight;
use super::spread::Spreader;
use crate::transfer::book::Book;

/// What was seen before.
#[derive(Debug)]
pub struct Memory {
    linger: Duration,
    prices: BTreeMap<ServerName, u32>,
    plan: Option<(u64, Instant)>,
    quiet: BTreeMap<ServerName, Instant>,
    secondaries: Secondaries,
    emptied: BTreeMap<ServerName, Instant>,
    silent: BTreeMap<ServerName, Instant>,
    wants: BTreeMap<ServerName, Told>,
    copies: Arc<keep::Settings>,
    /// What balancing remembers.
    pub balancer: Balancer,
    /// Since when objects are hot and cool.
    spreader: Spreader,
}

/// A want that was seen.
#[derive(Debug)]
struct Told {
    want: Want,
    /// Since when it is so, whatever it says of copies.
    since: Instant,
    /// Since when it says so of copies.
    keep_since: Instant,
}

impl Told {
    fn new(want: &Want, now: Instant) -> Told {
        Told {
            want: want.clone(),
            since: now,
            keep_since: now,
        }
    }

    /// Takes note of what the want is now.
    fn see(&mut self, want: &Want, now: Instant) {
        if self.want == *want {
            return;
        }
        let before = std::mem::replace(&mut self.want, want.clone());
        let told_of_copies = before.errand.keep != want.errand.keep;
        if told_of_copies {
            self.keep_since = now;
        }
        // A want that says something else of copies alone is not another step of its server's turn.
        let without = |want: &Want| Want {
            step: 0,
            errand: Errand {
                keep: Keep::default(),
                ..want.errand.clone()
            },
            ..want.clone()
        };
        if !told_of_copies || without(&before) != without(want) {
            self.since = now;
        }
    }
}

impl Memory {
    /// A memory of nothing. `linger` is how long an answer that names a server, and the answer with that server's address, may
    /// be cached together.
    #[must_use]
    pub fn new(linger: Duration) -> Memory {
        Memory {
            linger,
            prices: BTreeMap::new(),
            plan: None,
            quiet: BTreeMap::new(),
            secondaries: Secondaries::default(),
            emptied: BTreeMap::new(),
            silent: BTreeMap::new(),
            wants: BTreeMap::new(),
            copies: Arc::default(),
            balancer: Balancer::default(),
            spreader: Spreader::default(),
        }
    }

    /// The same with the operator's settings of balancing.
    #[must_use]
    pub fn with_balance(self, settings: balance::Settings) -> Memory {
        Memory {
            balancer: Balancer::new(settings),
            ..self
        }
    }

    /// The same with the secondaries that may tell of servers.
    #[must_use]
    pub fn with_secondaries(self, book: Arc<Book>) -> Memory {
        Memory {
            secondaries: Secondaries::new(book),
            ..self
        }
    }

    /// The same with what the operator says of copies.
    #[must_use]
    pub fn with_copies(self, settings: keep::Settings) -> Memory {
        Memory {
            copies: Arc::new(settings),
            ..self
        }
    }

    /// The same with the operator's prices of servers, in percent of the usual, which no registry knows.
    #[must_use]
    pub fn with_prices(self, prices: BTreeMap<ServerName, u32>) -> Memory {
        Memory { prices, ..self }
    }

    /// Looks, remembers, and says in the sight how long things have been so.
    pub fn see(&mut self, now: Instant, sight: &mut Sight) {
        let number = sight.number();
        let since = match self.plan {
            Some((known, since)) if known == number => since,
            Some(_) | None => now,
        };
        self.plan = Some((number, since));
        sight.plan_for = now.saturating_duration_since(since);
        sight.linger = self.linger;
        sight.copies = Arc::clone(&self.copies);
        for (name, seen) in &mut sight.servers {
            // Out of placements and of `any.pool` by its role, and out of the answers for objects by their registers.
            let is_quiet = seen.named == 0 && !seen.want.role.takes_new_objects();
            seen.quiet_for = lasts(&mut self.quiet, name, is_quiet, now);
            (seen.lagging, seen.told_for) = self.secondaries.see(name, is_quiet, sight.serials, now);
            let holds_none = seen.objects() == 0 && seen.kept().is_none_or(|kept| kept.held == 0);
            let is_emptied = seen.want.role == Role::Draining && seen.named == 0 && holds_none;
            seen.emptied_for = lasts(&mut self.emptied, name, is_emptied, now);
            seen.price_percent = self.prices.get(name).copied().unwrap_or(100);
            seen.silent_for = lasts(&mut self.silent, name, !seen.alive, now);
            let told = self
                .wants
                .entry(name.clone())
                .and_modify(|told| told.see(&seen.want, now))
                .or_insert_with(|| Told::new(&seen.want, now));
            seen.step_for = now.saturating_duration_since(told.since);
            seen.keep_for = now.saturating_duration_since(told.keep_since);
        }
        self.quiet.retain(|name, _| sight.servers.contains_key(name));
        self.secondaries.retain(|name| sight.servers.contains_key(name));
        self.emptied.retain(|name, _| sight.servers.contains_key(name));
        self.silent.retain(|name, _| sight.servers.contains_key(name));
        self.wants.retain(|name, _| sight.servers.contains_key(name));
        self.spreader.see(now, sight);
    }
}

/// For how long something has held.
pub(super) fn lasts<Of: Clone + Ord>(
    since: &mut BTreeMap<Of, Instant>,
    of: &Of,
    holds: bool,
    now: Instant,
) -> Option<Duration> {
    if !holds {
        since.remove(of);
        return None;
    }
    let began = *since.entry(of.clone()).or_insert(now);
    Some(now.saturating_duration_since(began))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::testing::{name, sight};

    #[test]
    fn quiet_is_counted_from_the_last_moment_that_a_register_named_the_server() {
        let mut memory = Memory::new(Duration::from_secs(10));
        let mut pool = sight(&[("s1", Role::Draining, 1), ("s2", Role::Free, 0)]);
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let quiet = |pool: &Sight, server| pool.servers[&name(server)].quiet_for;
        memory.see(at(0), &mut pool);
        assert_eq!(quiet(&pool, "s1"), None);
        memory.see(at(7), &mut pool);
        assert_eq!(quiet(&pool, "s2"), Some(Duration::from_secs(7)));
        pool.servers.get_mut(&name("s1")).unwrap().named = 0;
        memory.see(at(8), &mut pool);
        assert_eq!(quiet(&pool, "s1"), Some(Duration::ZERO));
        memory.see(at(12), &mut pool);
        assert_eq!(quiet(&pool, "s1"), Some(Duration::from_secs(4)));
        // A new process knows nothing of it.
        Memory::new(Duration::from_secs(10)).see(at(13), &mut pool);
        assert_eq!(quiet(&pool, "s1"), Some(Duration::ZERO));
    }

    #[test]
    fn want_that_says_something_else_of_copies_alone_is_no_other_step() {
        let mut memory = Memory::new(Duration::from_secs(10));
        let mut pool = sight(&[("s1", Role::Cordoned, 1)]);
        let begin = Instant::now();
        let mut after = |seconds, change: fn(&mut Want)| {
            let want = &mut pool.servers.get_mut(&name("s1")).unwrap().want;
            change(want);
            want.step += 1;
            memory.see(begin + Duration::from_secs(seconds), &mut pool);
            let seen = &pool.servers[&name("s1")];
            (seen.step_for.as_secs(), seen.keep_for.as_secs())
        };
        assert_eq!(after(0, |_| ()), (0, 0));
        assert_eq!(after(5, |want| want.errand.keep.copies = 2), (5, 0));
        // The same once more is a step that was written on purpose, such as another try to install.
        assert_eq!(after(7, |_| ()), (0, 2));
        assert_eq!(after(9, |want| want.role = Role::Draining), (0, 4));
        assert_eq!(
            after(11, |want| (want.role, want.errand.keep.copies) = (Role::Serving, 3)),
            (0, 0)
        );
    }

    #[test]
    fn silence_is_counted_from_the_first_look_that_did_not_hear_the_server() {
        let mut memory = Memory::new(Duration::from_secs(10));
        let mut pool = sight(&[("s1", Role::Serving, 1)]);
        let begin = Instant::now();
        let mut after = |seconds, alive| {
            pool.servers.get_mut(&name("s1")).unwrap().alive = alive;
            memory.see(begin + Duration::from_secs(seconds), &mut pool);
            pool.servers[&name("s1")].silent_for.map(|silent| silent.as_secs())
        };
        assert_eq!(
            [after(0, true), after(2, false), after(9, false)],
            [None, Some(0), Some(7)]
        );
        assert_eq!([after(10, true), after(11, false)], [None, Some(0)]);
    }

    #[test]
    fn copies_are_gone_before_a_server_counts_as_emptied() {
        let mut memory = Memory::new(Duration::from_secs(10));
        let mut pool = sight(&[("s1", Role::Draining, 0)]);
        let emptied = |pool: &Sight| pool.servers[&name("s1")].emptied_for.is_some();
        let held = |pool: &mut Sight, held| {
            let has = pool.servers.get_mut(&name("s1")).unwrap().has.as_mut().unwrap();
            has.kept = Some(zones::Kept {
                held,
                ..zones::Kept::default()
            });
        };
        held(&mut pool, 1);
        memory.see(Instant::now(), &mut pool);
        assert!(!emptied(&pool));
        held(&mut pool, 0);
        memory.see(Instant::now(), &mut pool);
        assert!(emptied(&pool));
    }

    #[test]
    fn server_that_takes_objects_is_never_quiet() {
        let mut memory = Memory::new(Duration::from_secs(10));
        let mut pool = sight(&[("s1", Role::Serving, 0)]);
        memory.see(Instant::now(), &mut pool);
        assert_eq!(pool.servers[&name("s1")].quiet_for, None);
    }
}
