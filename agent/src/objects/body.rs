//! A body on its way in: on disk, sealed, and part of no object yet.

/// A body that is on disk and part of no object yet. Dropped without a write, its blocks are free again.
#[derive(Debug)]
pub struct StagedBody {
    octets: u64,
}

impl StagedBody {
    /// Octets of the body.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.octets
    }
}
