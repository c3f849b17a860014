//! Since when things are as they are: what a controller knows only from having looked before.
//!
//! All of it may be forgotten: a controller that was killed counts anew from its start, so that it waits too long and never too
//! short (DESIGN.md section 13, "counted from the end of the old process").

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use zones::{Role, ServerName};

use super::balance::{self, Balancer};
use super::sight::Sight;

/// What was seen before.
#[derive(Debug)]
pub struct Memory {
    linger: Duration,
    prices: BTreeMap<ServerName, u32>,
    plan: Option<(u64, Instant)>,
    quiet: BTreeMap<ServerName, Instant>,
    emptied: BTreeMap<ServerName, Instant>,
    steps: BTreeMap<ServerName, ((u64, u64), Instant)>,
    /// What balancing remembers.
    pub balancer: Balancer,
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
            emptied: BTreeMap::new(),
            steps: BTreeMap::new(),
            balancer: Balancer::default(),
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
        for (name, seen) in &mut sight.servers {
            // Out of placements and of `any.pool` by its role, and out of the answers for objects by their registers.
            let is_quiet = seen.named == 0 && !seen.want.role.takes_new_objects();
            seen.quiet_for = lasts(&mut self.quiet, name, is_quiet, now);
            let is_emptied = seen.want.role == Role::Draining && seen.named == 0 && seen.objects() == 0;
            seen.emptied_for = lasts(&mut self.emptied, name, is_emptied, now);
            seen.price_percent = self.prices.get(name).copied().unwrap_or(100);
            let step = (seen.want.plan, seen.want.step);
            let (_, since) = self
                .steps
                .entry(name.clone())
                .and_modify(|(known, since)| {
                    if *known != step {
                        (*known, *since) = (step, now);
                    }
                })
                .or_insert((step, now));
            seen.step_for = now.saturating_duration_since(*since);
        }
        self.quiet.retain(|name, _| sight.servers.contains_key(name));
        self.emptied.retain(|name, _| sight.servers.contains_key(name));
        self.steps.retain(|name, _| sight.servers.contains_key(name));
    }
}

/// For how long something has held.
fn lasts(since: &mut BTreeMap<ServerName, Instant>, name: &ServerName, holds: bool, now: Instant) -> Option<Duration> {
    if !holds {
        since.remove(name);
        return None;
    }
    let began = *since.entry(name.clone()).or_insert(now);
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
    fn server_that_takes_objects_is_never_quiet() {
        let mut memory = Memory::new(Duration::from_secs(10));
        let mut pool = sight(&[("s1", Role::Serving, 0)]);
        memory.see(Instant::now(), &mut pool);
        assert_eq!(pool.servers[&name("s1")].quiet_for, None);
    }
}
