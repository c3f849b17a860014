//! Gates: what must be true before an emptied server may lose its retired copies, and before the next one has its turn.
//!
//! Pure, over what servers say of themselves. A server of a release that says nothing of itself is judged by registers and
//! its count of objects alone.

use zones::upkeep::Arrivals;
use zones::{ServerName, Upkeep};

use super::decide::Wait;
use super::sight::{Seen, Sight};
use super::upgrade::Upgrade;

/// Slowest time of clients that is never too slow, in microseconds.
const SLOW_FLOOR_US: u64 = 50_000;

/// What a gate says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Gate {
    /// Go on.
    Passed,
    /// Not yet.
    Waits(Wait),
    /// No: why, and what to do.
    Failed(String),
}

/// Whether what one server gave is what the other took, and all of it can be read there (DESIGN.md section 13: the sets of
/// sealed and prepared copies are equal, and every moved copy was scrubbed at its destination).
pub(super) fn evidence(
    (source, gave): (&ServerName, &Seen),
    (target, took): (&ServerName, &Seen),
    arrivals: &Arrivals,
    patience: std::time::Duration,
) -> Gate {
    let (Some(gave_upkeep), Some(took_upkeep)) = (gave.upkeep(), took.upkeep()) else {
        return Gate::Passed;
    };
    let counts = Wait::Counts {
        server: target.clone(),
        from: source.clone(),
    };
    let Some(taken) = took_upkeep.taken.as_ref().filter(|taken| taken.arrivals == *arrivals) else {
        return Gate::Waits(counts);
    };
    if taken.bad > 0 {
        return Gate::Failed(format!(
            "{} copies that {target} took from {source} cannot be read there; {source} still keeps its own: `agent check` on {target} \
             says which and why, then abort, or repair its disk and resume",
            taken.bad
        ));
    }
    if taken.sum != gave_upkeep.moved {
        // Each tells once a second, at its own time.
        if gave.emptied_for.is_none_or(|waited| waited < patience) {
            return Gate::Waits(counts);
        }
        return Gate::Failed(format!(
            "{source} gave away {} objects and {target} took {}, or their digests differ; {source} still keeps its copies: \
             compare `librarian audit export` with what is missing, then abort",
            gave_upkeep.moved.count, taken.sum.count
        ));
    }
    match taken.sum.count.saturating_sub(taken.verified) {
        0 => Gate::Passed,
        left => Gate::Waits(Wait::ReadsBack {
            server: target.clone(),
            left,
        }),
    }
}

/// Whether clients are served as before: no more failed requests than a step may add, and not much slower.
pub(super) fn clients(sight: &Sight, upgrade: &Upgrade) -> Gate {
    let failed: u64 = sight
        .servers
        .iter()
        .filter_map(|(name, seen)| {
            let now = seen.has.as_ref()?.errors;
            let before = upgrade.baseline.errors.get(name).copied().unwrap_or(0);
            // A server that was started anew counts from nothing.
            Some(if now >= before { now - before } else { now })
        })
        .sum();
    if failed > upgrade.ask.errors_max {
        return Gate::Failed(format!(
            "{failed} requests of clients failed by the servers' fault since the last step (at most {} may): see their logs, then \
             resume or abort",
            upgrade.ask.errors_max
        ));
    }
    let limit_us = (upgrade.baseline.p99_us.saturating_mul(upgrade.ask.slow_percent) / 100).max(SLOW_FLOOR_US);
    let slowest = sight
        .servers
        .iter()
        .filter(|(_, seen)| seen.alive)
        .filter_map(|(name, seen)| Some((seen.upkeep()?.p99_us, name)))
        .max();
    match slowest {
        Some((p99_us, server)) if upgrade.baseline.p99_us > 0 && p99_us > limit_us => Gate::Waits(Wait::Slow {
            server: server.clone(),
            p99_us,
            limit_us,
        }),
        Some(_) | None => Gate::Passed,
    }
}

/// Rows and copies that an emptied server still has.
pub(super) fn left(server: &ServerName, upkeep: Option<&Upkeep>) -> Option<Wait> {
    let upkeep = upkeep?;
    match (upkeep.open, upkeep.retired) {
        (0, 0) => None,
        (0, copies) => Some(Wait::Retired {
            server: server.clone(),
            copies,
        }),
        (rows, _) => Some(Wait::Open {
            server: server.clone(),
            rows,
        }),
    }
}

/// How the pool does now, to compare the next step with; the time that clients wait stays that from before the upgrade.
pub(super) fn errors(sight: &Sight) -> std::collections::BTreeMap<ServerName, u64> {
    sight
        .servers
        .iter()
        .filter_map(|(name, seen)| Some((name.clone(), seen.has.as_ref()?.errors)))
        .collect()
}
