//! Writes messages octet by octet, names compressed as hickory's encoder does it.
//!
//! The same octets are the point: what is written here must be what the general path sends, so that the order of candidates and
//! the bounds on them are those of `hickory_proto` 0.26 (`serialize/binary/encoder.rs`, `rr/domain/name.rs`).
//!
//! Specification: RFC 1035 sections 4.1.3 and 4.1.4.

use hickory_proto::rr::RecordType;

/// Suffixes that a name may point to.
const CANDIDATES_MAX: usize = 64;
/// Names that are compressed; later ones are written out.
const COMPRESSED_MAX: usize = 120;
/// Where a pointer still reaches.
const POINTED_MAX: usize = 0x3fff;
/// Class IN.
const IN: u16 = 1;

/// A message being written. Names are in wire form with the root's octet at the end.
pub(super) struct Wire<'n, 'o> {
    out: &'o mut Vec<u8>,
    candidates: [(u16, &'n [u8]); CANDIDATES_MAX],
    candidate_count: usize,
    compressed: usize,
}

impl<'n, 'o> Wire<'n, 'o> {
    /// Begins with a header of zeros; what `out` had is gone.
    pub(super) fn new(out: &'o mut Vec<u8>) -> Wire<'n, 'o> {
        out.clear();
        out.extend_from_slice(&[0; 12]);
        Wire {
            out,
            candidates: [(0, &[]); CANDIDATES_MAX],
            candidate_count: 0,
            compressed: 0,
        }
    }

    /// The octets so far.
    pub(super) fn octets(&mut self) -> &mut Vec<u8> {
        self.out
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// A name that may point to an earlier one.
    pub(super) fn name(&mut self, name: &'n [u8]) {
        if self.compressed == COMPRESSED_MAX {
            self.whole_name(name);
            return;
        }
        self.compressed += 1;
        let (start, end) = (self.out.len(), self.out.len() + name.len() - 1);
        let mut label = 0;
        while name[label] != 0 {
            let suffix = &name[label..];
            if let Some(at) = self.candidate(suffix) {
                self.out.extend_from_slice(&name[..label]);
                self.u16(0xc000 | at);
                return;
            }
            self.add_candidate(start + label, end, suffix);
            label += 1 + usize::from(name[label]);
        }
        self.out.extend_from_slice(name);
    }

    /// A name that points nowhere; others may point to it.
    pub(super) fn whole_name(&mut self, name: &'n [u8]) {
        let (start, end) = (self.out.len(), self.out.len() + name.len() - 1);
        let mut label = 0;
        while name[label] != 0 {
            self.add_candidate(start + label, end, &name[label..]);
            label += 1 + usize::from(name[label]);
        }
        self.out.extend_from_slice(name);
    }

    fn candidate(&self, suffix: &[u8]) -> Option<u16> {
        let candidates = &self.candidates[..self.candidate_count];
        let found = candidates.iter().find(|(_, candidate)| *candidate == suffix);
        found.map(|(at, _)| *at)
    }

    fn add_candidate(&mut self, at: usize, end: usize, suffix: &'n [u8]) {
        if end < POINTED_MAX && self.candidate_count < CANDIDATES_MAX {
            self.candidates[self.candidate_count] = (at as u16, suffix);
            self.candidate_count += 1;
        }
    }

    /// A record; `data` writes its RDATA.
    pub(super) fn record(&mut self, name: &'n [u8], kind: RecordType, ttl_s: u32, data: impl FnOnce(&mut Self)) {
        self.name(name);
        self.u16(kind.into());
        self.u16(IN);
        self.u32(ttl_s);
        let length_at = self.out.len();
        self.u16(0);
        data(self);
        let length = (self.out.len() - length_at - 2) as u16;
        self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }
}
