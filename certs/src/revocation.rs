//! What has changed since certificates were issued: who was revoked, and whose grants are others now.
//!
//! The librarian publishes one document at `/revocations`, agents pull it every few seconds, and every request is checked
//! against it, on open connections as well. It speaks of owners, not of certificates: one that was issued before a moment is
//! void, or has other grants than it says. A certificate that is issued later is not spoken of, so that whoever was revoked by
//! mistake is let in again by a new certificate, and a row is needed no longer than certificates live.
//!
//! ```json
//! {"number": 1764300500, "changes": {"client:alice": {"issued_before": 1764300001, "grants": ["read:3.1"]},
//!                           "server:s3": {"issued_before": 1764300500}}}
//! ```
//!
//! A row with grants may also say `void_before`: certificates issued before that second were revoked, and what is granted to their
//! owner since is not for them.
//!
//! Numbers rise with every change, and are the time at least; an agent never goes back to a lower one. Specification: PROTOCOL.md section 10.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::authority::LIFETIME;
use crate::grant::{Grant, Grants};
use crate::peer::{Peer, Who};

/// Longest document: tens of thousands of changes within the life of a certificate.
pub const DOCUMENT_OCTETS_MAX: usize = 8 << 20;

/// What has changed since certificates were issued.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Revocations {
    /// Rises with every change, to the Unix time at least; 0 before the first.
    pub number: u64,
    changes: BTreeMap<String, Change>,
}

/// What has changed for one owner of certificates.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Change {
    /// It concerns certificates that were issued before this second.
    issued_before: u64,
    /// The grants that these have now; without any they are void.
    grants: Option<Grants>,
    /// Those that were issued before this second were revoked, and stay so whatever is granted since; 0 if none were.
    void_before: u64,
}

/// Why a document is not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// It is longer than any document.
    #[error("the list of revocations has {octets} octets, at most {DOCUMENT_OCTETS_MAX} are read")]
    TooLong {
        /// Its length.
        octets: usize,
    },
    /// Not the JSON of such a document.
    #[error("the list of revocations is malformed: use programs of releases that fit")]
    Json(#[from] serde_json::Error),
    /// A grant in it is none.
    #[error("the list of revocations has a bad grant for {owner}")]
    Grant {
        /// Whose.
        owner: String,
    },
}

#[derive(Deserialize, Serialize)]
struct Document {
    number: u64,
    changes: BTreeMap<String, Row>,
}

#[derive(Deserialize, Serialize)]
struct Row {
    issued_before: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grants: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_none")]
    void_before: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_none(second: &u64) -> bool {
    *second == 0
}

/// What a certificate is still good for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing<'a> {
    /// As it says.
    Good,
    /// It has these grants instead of those that it says.
    Granted(&'a Grants),
    /// It is void.
    Revoked,
}

impl Revocations {
    /// Reads a document.
    ///
    /// # Errors
    ///
    /// [`RevocationError`].
    pub fn read(text: &[u8]) -> Result<Revocations, RevocationError> {
        if text.len() > DOCUMENT_OCTETS_MAX {
            return Err(RevocationError::TooLong { octets: text.len() });
        }
        let document: Document = serde_json::from_slice(text)?;
        let changes = document.changes.into_iter().map(|(owner, row)| {
            let grants = row.grants.map(|grants| {
                let grants = grants.iter().map(|grant| Grant::from_str(grant));
                let grants = grants.collect::<Result<Vec<_>, _>>().ok()?;
                Grants::new(grants).ok()
            });
            let grants = match grants {
                Some(None) => return Err(RevocationError::Grant { owner }),
                Some(grants) => grants,
                None => None,
            };
            let change = Change {
                issued_before: row.issued_before,
                grants,
                void_before: row.void_before,
            };
            Ok((owner, change))
        });
        Ok(Revocations {
            number: document.number,
            changes: changes.collect::<Result<_, _>>()?,
        })
    }

    /// The document.
    #[must_use]
    pub fn to_json(&self) -> String {
        let changes = self.changes.iter().map(|(owner, change)| {
            let grants = change.grants.as_ref();
            let row = Row {
                issued_before: change.issued_before,
                grants: grants.map(|grants| grants.iter().map(ToString::to_string).collect()),
                void_before: change.void_before,
            };
            (owner.clone(), row)
        });
        let document = Document {
            number: self.number,
            changes: changes.collect(),
        };
        serde_json::to_string(&document).expect("texts and numbers are JSON")
    }

    /// Makes void what `who` has been issued so far, or gives it other grants. What no certificate that lives can need any
    /// more is forgotten.
    pub fn change(&mut self, who: &Who, grants: Option<Grants>, now: UnixTime) {
        // At least the time: a list that was lost and begun anew is not older than the one that servers have.
        self.number = self.number.saturating_add(1).max(now.as_secs());
        let lives = |second: u64| second.saturating_add(LIFETIME.as_secs()) > now.as_secs();
        self.changes.retain(|_, change| lives(change.issued_before));
        let before = self.changes.get(&who.owner());
        // Certificates may have been issued at the first second that was free; the clock may have been set back since.
        let issued_before = before.map_or(0, |before| before.issued_before);
        let issued_before = now.as_secs().max(issued_before).saturating_add(1);
        let void_before = match (&grants, before) {
            (None, _) | (Some(_), None) => 0,
            (Some(_), Some(before)) if before.grants.is_none() => before.issued_before,
            (Some(_), Some(before)) => before.void_before,
        };
        let change = Change {
            issued_before,
            grants,
            void_before,
        };
        self.changes.insert(who.owner(), change);
    }

    /// What a certificate is still good for.
    #[must_use]
    pub fn standing(&self, peer: &Peer) -> Standing<'_> {
        let issued = peer.not_after.as_secs().saturating_sub(LIFETIME.as_secs());
        match self.changes.get(&peer.who.owner()) {
            Some(change) if issued < change.void_before => Standing::Revoked,
            Some(change) if issued < change.issued_before => match &change.grants {
                Some(grants) => Standing::Granted(grants),
                None => Standing::Revoked,
            },
            Some(_) | None => Standing::Good,
        }
    }

    /// The first second at which a certificate may be issued to `who` that is not spoken of here.
    #[must_use]
    pub fn free_from(&self, who: &Who) -> UnixTime {
        let change = self.changes.get(&who.owner());
        UnixTime::since_unix_epoch(Duration::from_secs(change.map_or(0, |change| change.issued_before)))
    }
}

impl Who {
    /// Who this is, whatever its grants.
    #[must_use]
    pub fn owner(&self) -> String {
        match self {
            Who::Librarian => "librarian".to_owned(),
            Who::Server(name) => format!("server:{name}"),
            Who::Client { name, .. } => format!("client:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peer::PeerError;
    use crate::testing::{NOW_S, Pool, at, client, server};

    fn peer(pool: &Pool, who: &Who, issued: u64) -> Peer {
        let identity = pool.issue_at(who, at(issued));
        Peer::read(identity.certificate(), at(issued), &Revocations::default()).unwrap()
    }

    #[test]
    fn revoked_owner_is_refused_with_all_older_certificates_and_let_in_by_a_newer_one() {
        let pool = Pool::new(1);
        let (s1, s2) = (server("s1"), server("s2"));
        let mut list = Revocations::default();
        let old = peer(&pool, &s1, NOW_S);
        list.change(&s1, None, at(NOW_S + 5));
        assert!(matches!(
            old.check(at(NOW_S + 6), &list),
            Err(PeerError::Revoked { .. })
        ));
        assert!(peer(&pool, &s2, NOW_S).check(at(NOW_S + 6), &list).is_ok());
        assert_eq!(list.free_from(&s1), at(NOW_S + 6));
        assert!(peer(&pool, &s1, NOW_S + 6).check(at(NOW_S + 6), &list).is_ok());
        // A client of the same name is somebody else.
        assert!(
            peer(&pool, &client("s1", &["read:3"]), NOW_S)
                .check(at(NOW_S + 6), &list)
                .is_ok()
        );
    }

    #[test]
    fn changed_grants_count_in_the_place_of_those_in_the_certificate() {
        let pool = Pool::new(1);
        let alice = client("alice", &["read:3", "write:3"]);
        let old = peer(&pool, &alice, NOW_S);
        let fewer = Grants::new(vec!["read:3.1".parse().unwrap()]).unwrap();
        let mut list = Revocations::default();
        list.change(&alice, Some(fewer.clone()), at(NOW_S));
        assert_eq!(list.standing(&old), Standing::Granted(&fewer));
        assert!(old.check(at(NOW_S), &list).is_ok(), "it is not revoked");
        assert_eq!(list.standing(&peer(&pool, &alice, NOW_S + 1)), Standing::Good);
        list.change(&alice, None, at(NOW_S + 9));
        assert_eq!(list.standing(&old), Standing::Revoked);
        assert_eq!(list.number, NOW_S + 9);
    }

    #[test]
    fn what_was_revoked_stays_revoked_when_its_owner_is_let_in_again_and_gets_other_grants() {
        let pool = Pool::new(1);
        let alice = client("alice", &["read:3"]);
        let grants = Grants::new(vec!["read:3.1".parse().unwrap()]).unwrap();
        let mut list = Revocations::default();
        let stolen = peer(&pool, &alice, NOW_S);
        list.change(&alice, None, at(NOW_S + 5));
        let fresh = peer(&pool, &alice, NOW_S + 6);
        for at_s in [NOW_S + 9, NOW_S + 20] {
            list.change(&alice, Some(grants.clone()), at(at_s));
            let read = Revocations::read(list.to_json().as_bytes()).unwrap();
            assert_eq!(read.standing(&stolen), Standing::Revoked);
            assert_eq!(read.standing(&fresh), Standing::Granted(&grants));
        }
        list.change(&alice, None, at(NOW_S + 30));
        assert_eq!(list.standing(&fresh), Standing::Revoked);
    }

    #[test]
    fn certificate_of_the_first_free_second_is_revoked_by_a_later_change_though_the_clock_did_not_go_on() {
        let pool = Pool::new(1);
        let alice = client("alice", &["read:3"]);
        let mut list = Revocations::default();
        list.change(&alice, Some(Grants::new(Vec::new()).unwrap()), at(NOW_S));
        let fresh = peer(&pool, &alice, list.free_from(&alice).as_secs());
        for now_s in [NOW_S, NOW_S - 500] {
            list.change(&alice, None, at(now_s));
            assert_eq!(list.standing(&fresh), Standing::Revoked);
        }
    }

    #[test]
    fn row_is_kept_as_long_as_a_certificate_lives_that_needs_it() {
        let life = LIFETIME.as_secs();
        let mut list = Revocations::default();
        list.change(&server("s1"), None, at(NOW_S));
        list.change(&server("s2"), None, at(NOW_S + life));
        assert!(list.changes.contains_key("server:s1"));
        list.change(&server("s3"), None, at(NOW_S + life + 1));
        assert!(!list.changes.contains_key("server:s1"));
        assert_eq!((list.number, list.changes.len()), (NOW_S + life + 1, 2));
        list.change(&server("s4"), None, at(NOW_S));
        assert_eq!(
            list.number,
            NOW_S + life + 2,
            "a clock that was put back does not put the number back"
        );
    }

    #[test]
    fn broken_documents_are_refused() {
        for text in [
            "",
            "[]",
            "{\"number\":1}",
            "{\"number\":-1,\"changes\":{}}",
            "{\"number\":1,\"changes\":{\"client:a\":{}}}",
            "{\"number\":1,\"changes\":{\"client:a\":{\"issued_before\":1,\"grants\":[\"eat:3\"]}}}",
        ] {
            assert!(Revocations::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn document_comes_back(number: u64, names in proptest::collection::vec("[a-c]", 0..6), at_s in 0_u64..1 << 40) {
            let mut list = Revocations { number: number / 2, ..Revocations::default() };
            for (place, name) in names.iter().enumerate() {
                let grants = (place % 2 == 0).then(|| Grants::new(vec!["read:3.1".parse().unwrap()]).unwrap());
                list.change(&client(name, &["read:3"]), grants, at(at_s));
            }
            prop_assert_eq!(Revocations::read(list.to_json().as_bytes()).unwrap(), list);
        }

        #[test]
        fn any_octets_are_read_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Revocations::read(&octets);
        }
    }
}
