//! The `Range` header of a body: which octets a client asks for, and which of them exist.
//!
//! One range is served; a header in another unit, with several ranges or with a broken grammar is ignored, as RFC 9110
//! section 14.2 allows, and the whole body is answered. Nothing here knows of objects or connections.
//!
//! Specifications: RFC 9110 sections 14.1.2 (`bytes`), 14.4 (`Content-Range`), 15.5.17 (416).

use std::fmt;

/// What a client asks for, before the length of the body is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RangeRequest {
    /// `bytes=5-` or `bytes=5-9`: from an offset to the end, or to an octet (both counted from 0 and included).
    From {
        /// First octet.
        first: u64,
        /// Last octet, if it was named.
        last: Option<u64>,
    },
    /// `bytes=-5`: the last octets.
    Suffix {
        /// How many.
        octets: u64,
    },
}

/// Octets of a body that exist: never empty.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ByteRange {
    /// First octet, counted from 0.
    pub first: u64,
    /// Last octet, included.
    pub last: u64,
    /// Octets of the whole body.
    pub total: u64,
}

/// No octet of the range exists; the body has `total`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the range lies outside the body's {total} octets")]
pub struct Unsatisfiable {
    /// Octets of the whole body.
    pub total: u64,
}

impl RangeRequest {
    /// Reads the value of a `Range` header. `None` where it is to be ignored.
    #[must_use]
    pub fn read(header: &[u8]) -> Option<RangeRequest> {
        let text = std::str::from_utf8(header).ok()?;
        let (unit, set) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        // An empty element is legal in a list (RFC 9110 section 5.6.1); two ranges are not served.
        let mut ranges = set.split(',').map(str::trim).filter(|range| !range.is_empty());
        let range = ranges.next()?;
        if ranges.next().is_some() {
            return None;
        }
        match range.split_once('-')? {
            ("", octets) => Some(RangeRequest::Suffix {
                octets: position(octets)?,
            }),
            (first, "") => Some(RangeRequest::From {
                first: position(first)?,
                last: None,
            }),
            (first, last) => {
                let (first, last) = (position(first)?, position(last)?);
                (first <= last).then_some(RangeRequest::From {
                    first,
                    last: Some(last),
                })
            }
        }
    }

    /// The octets that exist of what was asked for.
    ///
    /// # Errors
    ///
    /// [`Unsatisfiable`] where there are none: answered with 416.
    pub fn within(self, total: u64) -> Result<ByteRange, Unsatisfiable> {
        let end = total.checked_sub(1).ok_or(Unsatisfiable { total })?;
        match self {
            RangeRequest::From { first, last } if first <= end => Ok(ByteRange {
                first,
                last: last.unwrap_or(end).min(end),
                total,
            }),
            RangeRequest::Suffix { octets } if octets > 0 => Ok(ByteRange {
                first: total.saturating_sub(octets),
                last: end,
                total,
            }),
            RangeRequest::From { .. } | RangeRequest::Suffix { .. } => Err(Unsatisfiable { total }),
        }
    }
}

impl fmt::Display for RangeRequest {
    /// The value of a `Range` header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RangeRequest::From { first, last: None } => write!(f, "bytes={first}-"),
            RangeRequest::From {
                first,
                last: Some(last),
            } => write!(f, "bytes={first}-{last}"),
            RangeRequest::Suffix { octets } => write!(f, "bytes=-{octets}"),
        }
    }
}

impl ByteRange {
    /// How many octets it has, 1 or more.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Reads the value of a `Content-Range` header of a 206.
    #[must_use]
    pub fn read(header: &[u8]) -> Option<ByteRange> {
        let text = std::str::from_utf8(header).ok()?;
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let range = ByteRange {
            first: position(first)?,
            last: position(last)?,
            total: position(total)?,
        };
        (range.first <= range.last && range.last < range.total).then_some(range)
    }
}

impl fmt::Display for ByteRange {
    /// The value of a `Content-Range` header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}-{}/{}", self.first, self.last, self.total)
    }
}

impl fmt::Display for RangeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A range as a person writes it on a command line: `0-99`, `100-` or `-100`, or the same behind `bytes=`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RangeText(pub RangeRequest);

impl std::str::FromStr for RangeText {
    type Err = RangeTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix("bytes=").unwrap_or(text);
        RangeRequest::read(format!("bytes={bare}").as_bytes())
            .map(RangeText)
            .ok_or_else(|| RangeTextError { text: text.to_owned() })
    }
}

/// A text is not a range.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a range of octets: write 0-99, 100- or -100")]
pub struct RangeTextError {
    /// What was given.
    pub text: String,
}

/// A number of digits only: `str::parse` would also take a sign. Past 64 bits it means "beyond every body".
fn position(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn within(header: &str, total: u64) -> Option<Result<(u64, u64), u64>> {
        RangeRequest::read(header.as_bytes()).map(|range| {
            range
                .within(total)
                .map(|range| (range.first, range.last))
                .map_err(|none| none.total)
        })
    }

    #[test]
    fn examples_of_rfc_9110_give_their_octets() {
        assert_eq!(within("bytes=0-499", 10_000), Some(Ok((0, 499))));
        assert_eq!(within("bytes=500-999", 10_000), Some(Ok((500, 999))));
        assert_eq!(within("bytes=-500", 10_000), Some(Ok((9_500, 9_999))));
        assert_eq!(within("bytes=9500-", 10_000), Some(Ok((9_500, 9_999))));
        assert_eq!(within("Bytes = 0-0", 10_000), Some(Ok((0, 0))));
        assert_eq!(within("bytes=-20000", 10_000), Some(Ok((0, 9_999))));
        assert_eq!(within("bytes=0-18446744073709551616", 10_000), Some(Ok((0, 9_999))));
    }

    #[test]
    fn range_without_an_existing_octet_is_unsatisfiable() {
        assert_eq!(within("bytes=10-", 10), Some(Err(10)));
        assert_eq!(within("bytes=-0", 10), Some(Err(10)));
        assert_eq!(within("bytes=0-", 0), Some(Err(0)));
        assert_eq!(within("bytes=-5", 0), Some(Err(0)));
    }

    #[test]
    fn header_that_is_not_one_range_of_bytes_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=a-",
            "bytes=+1-2",
            "items=0-1",
            "bytes=0-1,3-4",
        ] {
            assert_eq!(RangeRequest::read(header.as_bytes()), None, "{header}");
        }
        assert_eq!(RangeRequest::read(b"bytes=\xff-1"), None);
    }

    proptest! {
        #[test]
        fn header_of_a_range_reads_back(first in any::<u64>(), last in proptest::option::of(any::<u64>()), suffix in any::<bool>()) {
            let range = match (suffix, last) {
                (true, _) => RangeRequest::Suffix { octets: first },
                (false, last) => RangeRequest::From { first, last: last.map(|last| last.max(first)) },
            };
            prop_assert_eq!(RangeRequest::read(range.to_string().as_bytes()), Some(range));
        }

        #[test]
        fn octets_within_always_exist_and_read_back(header in "bytes=[0-9]{0,4}-[0-9]{0,4}", total in 0_u64..3_000) {
            if let Some(range) = RangeRequest::read(header.as_bytes())
                && let Ok(found) = range.within(total) {
                prop_assert!(found.first <= found.last && found.last < total);
                prop_assert_eq!(ByteRange::read(found.to_string().as_bytes()), Some(found));
            }
        }

        #[test]
        fn any_octets_are_read_without_panic(header in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = RangeRequest::read(&header);
            let _ = ByteRange::read(&header);
        }
    }
}
