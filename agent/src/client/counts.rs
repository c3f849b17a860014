//! What a client counts: how often the pool made it try again.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a client and its clones have done so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// HTTP requests sent, repetitions included.
    pub requests: u64,
    /// Requests repeated after a broken connection, a 421 or a 503.
    pub retries: u64,
    /// Redirects followed.
    pub redirects: u64,
    /// Bodies taken up again after the stream broke.
    pub resumes: u64,
    /// Questions sent to DNS.
    pub questions: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) requests: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) redirects: AtomicU64,
    pub(super) resumes: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, questions: u64) -> Counts {
        Counts {
            requests: self.requests.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            redirects: self.redirects.load(Ordering::Relaxed),
            resumes: self.resumes.load(Ordering::Relaxed),
            questions,
        }
    }
}
