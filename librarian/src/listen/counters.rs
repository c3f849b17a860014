//! What metrics tell of the listeners.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::ResponseCode;

/// Rcodes that are counted by name; any other counts as the last.
const RCODES: [(ResponseCode, &str); 13] = [
    (ResponseCode::NoError, "NOERROR"),
    (ResponseCode::FormErr, "FORMERR"),
    (ResponseCode::ServFail, "SERVFAIL"),
    (ResponseCode::NXDomain, "NXDOMAIN"),
    (ResponseCode::NotImp, "NOTIMP"),
    (ResponseCode::Refused, "REFUSED"),
    (ResponseCode::YXDomain, "YXDOMAIN"),
    (ResponseCode::YXRRSet, "YXRRSET"),
    (ResponseCode::NXRRSet, "NXRRSET"),
    (ResponseCode::NotAuth, "NOTAUTH"),
    (ResponseCode::NotZone, "NOTZONE"),
    (ResponseCode::BADVERS, "BADVERS"),
    (ResponseCode::Unknown(0), "other"),
];

/// Counts since the process began.
#[derive(Debug, Default)]
pub struct Counters {
    queries: [AtomicU64; RCODES.len()],
    updates: [AtomicU64; RCODES.len()],
    /// Messages that got no answer: no DNS request, or more than we take.
    pub(super) dropped: AtomicU64,
    /// Answers to strangers that were cut down to their question, by the limit on responses.
    pub(super) limited_cut: AtomicU64,
    /// Answers to strangers that were dropped, by the limit on responses.
    pub(super) limited_dropped: AtomicU64,
    /// Connections accepted.
    pub(super) connections: AtomicU64,
    /// Connections closed at once because too many were open.
    pub(super) connections_refused: AtomicU64,
    /// Connections cut because they were too slow.
    pub(super) connections_slow: AtomicU64,
}

/// Answers of one batch, by rcode.
#[derive(Debug, Default)]
pub(super) struct Tally([u64; RCODES.len()]);

impl Tally {
    pub(super) fn count(&mut self, rcode: ResponseCode) {
        self.0[place(rcode)] += 1;
    }
}

impl Counters {
    pub(super) fn queries(&self, tally: &Tally) {
        for (all, new) in self.queries.iter().zip(tally.0).filter(|(_, new)| *new > 0) {
            all.fetch_add(new, Ordering::Relaxed);
        }
    }

    pub(super) fn query(&self, rcode: ResponseCode) {
        self.queries[place(rcode)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn update(&self, rcode: ResponseCode) {
        self.updates[place(rcode)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Questions answered so far.
    #[must_use]
    pub fn queries_total(&self) -> u64 {
        self.queries.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Updates answered with an rcode so far.
    #[must_use]
    pub fn updates_with(&self, rcode: ResponseCode) -> u64 {
        self.updates[place(rcode)].load(Ordering::Relaxed)
    }

    /// The counts as Prometheus text.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let mut text = String::new();
        let families = [
            (
                "librarian_queries_total",
                "Questions answered, by rcode.",
                &self.queries,
            ),
            ("librarian_updates_total", "Updates answered, by rcode.", &self.updates),
        ];
        for (name, help, counts) in families {
            header(&mut text, name, help);
            for (count, (_, rcode)) in counts.iter().zip(RCODES) {
                let count = count.load(Ordering::Relaxed);
                writeln!(text, "{name}{{rcode=\"{rcode}\"}} {count}").expect("writing to a string");
            }
        }
        let single = [
            ("librarian_dropped_total", "Messages that got no answer.", &self.dropped),
            (
                "librarian_responses_cut_total",
                "Answers to strangers cut down to their question with TC, by the limit on responses.",
                &self.limited_cut,
            ),
            (
                "librarian_responses_dropped_total",
                "Answers to strangers dropped, by the limit on responses.",
                &self.limited_dropped,
            ),
            (
                "librarian_tcp_connections_total",
                "Connections accepted.",
                &self.connections,
            ),
            (
                "librarian_tcp_connections_refused_total",
                "Connections closed at once because too many were open.",
                &self.connections_refused,
            ),
            (
                "librarian_tcp_connections_slow_total",
                "Connections cut because they were too slow.",
                &self.connections_slow,
            ),
        ];
        for (name, help, count) in single {
            header(&mut text, name, help);
            writeln!(text, "{name} {}", count.load(Ordering::Relaxed)).expect("writing to a string");
        }
        text
    }
}

fn header(text: &mut String, name: &str, help: &str) {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter").expect("writing to a string");
}

fn place(rcode: ResponseCode) -> usize {
    let named = RCODES.iter().position(|(known, _)| *known == rcode);
    named.unwrap_or(RCODES.len() - 1)
}
