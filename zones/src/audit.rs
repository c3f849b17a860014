//! The audit log of moves: what an entry says, and the chain that binds them.
//!
//! Every server has a log of its own: an entry for each object that it became the owner of by a move, numbered from 1. An entry
//! is one line of JSON, kept as the octets that were written, so that later releases may add members and an export is the log
//! itself. The chain is SHA-256:
//!
//! ```text
//!  hash(0) = SHA-256("hypernet audit" LF server LF)
//!  hash(n) = SHA-256(hash(n-1) || n as u64, big-endian || line n)
//! ```
//!
//! The server signs its head with each commit that adds entries, and the librarian keeps the last head that it was told. So a
//! line that was removed, changed, moved or added breaks the chain; a log that was cut back, or made anew, has a head that is
//! not the kept one.
//!
//! Specification: DESIGN.md sections 11 (row 7) and 16, PROTOCOL.md section 14.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::address::Address;
use crate::register::Epoch;
use crate::server::ServerName;
use crate::upkeep::Given;

/// Longest line of an entry: an address of 255 octets and all the rest stay far below.
pub const LINE_OCTETS_MAX: usize = 4096;

/// The end of a chain: how many entries it has had, and the hash of the last.
///
/// Text: `12:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Number of the last entry; 0 for a log without any.
    pub count: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl Head {
    /// The head of a server's log before its first entry.
    #[must_use]
    pub fn first(server: &ServerName) -> Head {
        let mut hash = Sha256::new();
        hash.update(b"hypernet audit\n");
        hash.update(server.as_str().as_bytes());
        hash.update(b"\n");
        Head {
            count: 0,
            hash: hash.finalize().into(),
        }
    }

    /// The head after one more line.
    #[must_use]
    pub fn next(&self, line: &[u8]) -> Head {
        let count = self.count + 1;
        let mut hash = Sha256::new();
        hash.update(self.hash);
        hash.update(count.to_be_bytes());
        hash.update(line);
        Head {
            count,
            hash: hash.finalize().into(),
        }
    }

    /// The octets that a server signs for this head, of a log whose entries up to `anchor` were cut off by age.
    #[must_use]
    pub fn signed_octets(&self, server: &ServerName, anchor: &Head) -> Vec<u8> {
        format!("hypernet audit head\n{server}\n{anchor}\n{self}\n").into_bytes()
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.count, HEXLOWER.encode(&self.hash))
    }
}

/// A text is no head.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the head of an audit log is its count, a colon and 64 lower-case hexadecimal digits")]
pub struct HeadError;

impl FromStr for Head {
    type Err = HeadError;

    /// Reads the text form, in the one spelling that it has.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (count, hash) = text.split_once(':').ok_or(HeadError)?;
        let number: u64 = count.parse().map_err(|_| HeadError)?;
        let octets = HEXLOWER.decode(hash.as_bytes()).map_err(|_| HeadError)?;
        let hash = octets.try_into().map_err(|_| HeadError)?;
        match number.to_string() == count {
            true => Ok(Head { count: number, hash }),
            false => Err(HeadError),
        }
    }
}

/// One move, as its destination knows it. Digests are keyed by the pool's key: they confirm no guesses.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// When the destination became the owner, milliseconds since 1970.
    pub time_ms: u64,
    /// The object.
    #[serde(with = "text")]
    pub address: Address,
    /// The owner before.
    #[serde(with = "text")]
    pub from: ServerName,
    /// The owner after.
    #[serde(with = "text")]
    pub to: ServerName,
    /// The epoch at which it owns.
    pub epoch: u64,
    /// Client writes that the object had.
    pub revision: u64,
    /// The object's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Version of its properties before.
    pub schema_from: u32,
    /// And after.
    pub schema_to: u32,
    /// Suite of its streams before.
    pub level_from: u8,
    /// And after.
    pub level_to: u8,
    /// Generation of the key-encryption key before, if the source told.
    pub key_from: Option<u64>,
    /// And after; absent for an object without streams.
    pub key_to: Option<u64>,
    /// Digest of the properties that came, hexadecimal.
    pub properties_from: Option<String>,
    /// And of those that are kept.
    pub properties_to: Option<String>,
    /// Digest of the body, which no step changes.
    pub body: Option<String>,
    /// What asked for the move, such as `plan 7`.
    pub actor: String,
    /// `moved`, or `moved as it was: ` and why a schema step failed.
    pub result: String,
}

impl Entry {
    /// Its line, without a line feed.
    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// Reads a line; members that are not known are passed over.
    ///
    /// # Errors
    ///
    /// [`EntryError`].
    pub fn read(line: &[u8]) -> Result<Entry, EntryError> {
        if line.len() > LINE_OCTETS_MAX {
            return Err(EntryError::Long { octets: line.len() });
        }
        Ok(serde_json::from_slice(line)?)
    }

    /// The plan that asked for the move, where the actor names one: `drain, plan 7`.
    #[must_use]
    pub fn plan(&self) -> Option<u64> {
        self.actor.rsplit_once("plan ")?.1.parse().ok()
    }

    /// The move as the server before knows it; `None` where a digest is none.
    #[must_use]
    pub fn given(&self) -> Option<Given> {
        let digest = |hex: &Option<String>| match hex {
            None => Some(None),
            Some(hex) => Some(Some(HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()?)),
        };
        Some(Given {
            address: self.address.clone(),
            epoch: Epoch(self.epoch),
            revision: self.revision,
            properties: digest(&self.properties_from)?,
            body: digest(&self.body)?,
        })
    }
}

/// A line is no entry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// It is longer than any entry.
    #[error("it has {octets} octets, an entry at most {LINE_OCTETS_MAX}")]
    Long {
        /// Its octets.
        octets: usize,
    },
    /// Not the JSON of an entry.
    #[error("it is not the JSON of an entry")]
    Json(#[from] serde_json::Error),
}

/// Where a log is not what its head says.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainFault {
    /// The lines lead to another head: one of them was removed, changed, moved or added.
    #[error("the entries lead to {found}, and the head says {head}: entries were removed, changed or reordered")]
    Broken {
        /// What the lines lead to.
        found: Head,
        /// What the server says.
        head: Head,
    },
    /// The kept head is further on.
    #[error("{found} entries are there, and there were {kept}: the log was cut back")]
    CutBack {
        /// How many the librarian was told of.
        kept: u64,
        /// How many there are.
        found: u64,
    },
    /// The entry that the librarian was told of last is another one.
    #[error("entry {count} is not the one that was told: the log was rewritten")]
    Rewritten {
        /// Its number.
        count: u64,
    },
    /// A number is not the one that follows.
    #[error("entry {found} follows where {expected} belongs: entries are missing")]
    Number {
        /// The number that belongs there.
        expected: u64,
        /// The number found.
        found: u64,
    },
}

/// Follows a chain line by line.
#[derive(Clone, Debug)]
pub struct Verifier {
    at: Head,
    kept: Option<Head>,
    fault: Option<ChainFault>,
}

impl Verifier {
    /// Begins after `anchor`, the last entry that was cut off by age; `kept` is the head that the librarian keeps.
    #[must_use]
    pub fn new(anchor: Head, kept: Option<Head>) -> Verifier {
        let mut verifier = Verifier {
            at: anchor,
            kept,
            fault: None,
        };
        verifier.compare();
        verifier
    }

    /// Takes the next line.
    pub fn line(&mut self, number: u64, line: &[u8]) {
        let expected = self.at.count + 1;
        if number != expected && self.fault.is_none() {
            self.fault = Some(ChainFault::Number {
                expected,
                found: number,
            });
        }
        self.at = self.at.next(line);
        self.compare();
    }

    fn compare(&mut self) {
        if let Some(kept) = self.kept
            && kept.count == self.at.count
            && kept != self.at
            && self.fault.is_none()
        {
            self.fault = Some(ChainFault::Rewritten { count: kept.count });
        }
    }

    /// The end of the log: it must be the server's head, and not before the kept one.
    ///
    /// # Errors
    ///
    /// [`ChainFault`], the first that was found.
    pub fn end(self, head: Head) -> Result<(), ChainFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.at != head {
            return Err(ChainFault::Broken { found: self.at, head });
        }
        match self.kept {
            Some(kept) if kept.count > head.count => Err(ChainFault::CutBack {
                kept: kept.count,
                found: head.count,
            }),
            Some(_) | None => Ok(()),
        }
    }
}

/// Values by their text form.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server() -> ServerName {
        "s2".parse().unwrap()
    }

    fn lines(count: u64) -> Vec<Vec<u8>> {
        (1..=count).map(|n| format!("{{\"n\":{n}}}").into_bytes()).collect()
    }

    fn head(lines: &[Vec<u8>]) -> Head {
        lines.iter().fold(Head::first(&server()), |head, line| head.next(line))
    }

    fn verify(numbered: &[(u64, Vec<u8>)], head: Head, kept: Option<Head>) -> Result<(), ChainFault> {
        let mut verifier = Verifier::new(Head::first(&server()), kept);
        for (number, line) in numbered {
            verifier.line(*number, line);
        }
        verifier.end(head)
    }

    fn numbered(lines: Vec<Vec<u8>>) -> Vec<(u64, Vec<u8>)> {
        (1..).zip(lines).collect()
    }

    #[test]
    fn head_of_a_server_without_moves_is_the_digest_of_its_name() {
        // `printf 'hypernet audit\ns2\n' | sha256sum`, and `(printf ...; printf '\0\0\0\0\0\0\0\1{"n":1}') | sha256sum` behind it.
        let first = Head::first(&server());
        assert_eq!(
            first.to_string(),
            "0:a678dcb0d1d2efbde04beb185e23197a9ba267043ef2f43b0e47599f2532543f"
        );
        assert_eq!(
            first.next(b"{\"n\":1}").to_string(),
            "1:c4caa17d561629517778e5e2542a39623d287e98d3ce522d54a71b6e07a3f9b3"
        );
    }

    #[test]
    fn whole_log_is_sound_and_so_is_one_that_begins_at_its_anchor() {
        let all = lines(9);
        let end = head(&all);
        for kept in [None, Some(end), Some(head(&all[..4])), Some(Head::first(&server()))] {
            assert_eq!(verify(&numbered(all.clone()), end, kept), Ok(()));
        }
        let mut verifier = Verifier::new(head(&all[..5]), Some(head(&all[..7])));
        for (number, line) in (6..).zip(&all[5..]) {
            verifier.line(number, line);
        }
        assert_eq!(verifier.end(end), Ok(()));
    }

    #[test]
    fn log_that_was_cut_back_or_made_anew_is_found_by_the_kept_head() {
        let all = lines(9);
        let kept = head(&all);
        let cut = numbered(all[..6].to_vec());
        assert_eq!(
            verify(&cut, head(&all[..6]), Some(kept)),
            Err(ChainFault::CutBack { kept: 9, found: 6 })
        );
        let mut other = all.clone();
        other[3] = b"{\"n\":44}".to_vec();
        assert_eq!(
            verify(&numbered(other.clone()), head(&other), Some(kept)),
            Err(ChainFault::Rewritten { count: 9 })
        );
        // Without it a log that was made anew, and signed, is as good as another.
        assert_eq!(verify(&numbered(other.clone()), head(&other), None), Ok(()));
    }

    proptest! {
        #[test]
        fn removed_changed_and_reordered_entries_are_found(count in 2_u64..20, at in any::<prop::sample::Index>(), how in 0..4, octet: u8) {
            let all = lines(count);
            let end = head(&all);
            let mut log = numbered(all);
            let place = at.index(log.len() - 1);
            match how {
                0 => drop(log.remove(place)),
                1 => log.swap(place, place + 1),
                2 => {
                    // The numbers are put right again.
                    let line = log.remove(place).1;
                    log.push((count, line));
                    for (number, (kept, _)) in (1..).zip(&mut log) { *kept = number; }
                    prop_assume!(head(&log.iter().map(|(_, line)| line.clone()).collect::<Vec<_>>()) != end);
                }
                _ => {
                    let line = &mut log[place].1;
                    let last = line.len() - 1;
                    prop_assume!(line[last] != octet);
                    line[last] = octet;
                }
            }
            prop_assert!(verify(&log, end, None).is_err());
        }

        #[test]
        fn head_reads_back_as_it_was_written(count: u64, hash: [u8; 32]) {
            let head = Head { count, hash };
            prop_assert_eq!(head.to_string().parse(), Ok(head));
        }

        #[test]
        fn any_text_is_no_head_or_its_own(text in "[0-9a-fA-F:+]{0,70}") {
            if let Ok(head) = text.parse::<Head>() {
                prop_assert_eq!(head.to_string(), text);
            }
        }

        #[test]
        fn any_line_is_read_or_refused(line in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Entry::read(&line);
        }
    }

    #[test]
    fn entry_reads_back_and_members_of_later_releases_are_passed_over() {
        let entry = Entry {
            time_ms: 1_764_300_000_000,
            address: "3.1.2.1.023".parse().unwrap(),
            from: "s1".parse().unwrap(),
            to: server(),
            epoch: 7,
            revision: 3,
            kind: "photo".to_owned(),
            schema_from: 2,
            schema_to: 3,
            level_from: 1,
            level_to: 2,
            key_from: Some(4),
            key_to: Some(9),
            properties_from: Some("00".repeat(32)),
            properties_to: Some("11".repeat(32)),
            body: None,
            actor: "plan 7".to_owned(),
            result: "moved".to_owned(),
        };
        let line = entry.line();
        assert_eq!(Entry::read(line.as_bytes()).unwrap(), entry);
        let later = line.replace("{\"time_ms\"", "{\"later\":[1],\"time_ms\"");
        assert_eq!(Entry::read(later.as_bytes()).unwrap(), entry);
        for broken in ["", "{}", "[]", &line.replace("3.1.2.1.023", "3..1"), &"x".repeat(5000)] {
            assert!(Entry::read(broken.as_bytes()).is_err(), "{broken}");
        }
    }
}
