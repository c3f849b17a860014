//! What a server says of itself: the TXT record at `s2.pool.<domain>`.
//!
//! Its agent writes it by its own updates, with a lease that the librarian keeps: soft state.
//!
//! Specification: DESIGN.md section 5, PROTOCOL.md section 4.

use std::str::FromStr;

use crate::audit::Head;
use crate::copies::Kept;
use crate::heat::Heat;
use crate::server::Role;
use crate::strings::{Strings, StringsError, illegal};
use crate::upkeep::Upkeep;

/// Longest name of a release, in octets.
pub const RELEASE_OCTETS_MAX: usize = 32;

/// What a server has, as its agent last said.
///
/// Text, as character-strings of one TXT record, in this order: `v=hn1` `release=` `role=` `objects=` `bytes=`
/// `capacity=` `load=` `heat=` `errors=` `unreadable=` `plan=` `commits=` `peer=` `quarantined=` `audit=`, then those of
/// [`Upkeep`], then those of [`Heat`], then those of [`Kept`]. Strings of a later release may follow: they are passed over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Has {
    /// Release of the software, `[0-9A-Za-z.+-]{1,32}`.
    pub release: String,
    /// The role that the agent acts in, which trails the one it should.
    pub role: Role,
    /// Objects that it owns.
    pub objects: u64,
    /// Octets of these.
    pub bytes: u64,
    /// Octets that its store can hold.
    pub capacity: u64,
    /// Share of its processors in use, in thousandths.
    pub load: u32,
    /// Requests for objects in the last minute.
    pub heat: u64,
    /// Requests that failed by its own fault since it started.
    pub errors: u64,
    /// Objects that no move can take away since their copies there cannot be read.
    pub unreadable: u64,
    /// Highest plan it has seen, stored durably before it is said.
    pub plan: u64,
    /// Commits of its index. Lower than before: its index is older than what it once said.
    pub commits: u64,
    /// UDP port where it takes objects from its peers.
    pub peer_port: u16,
    /// Objects that it owns and that a schema step failed on.
    pub quarantined: u64,
    /// The end of its log of moves; `None` from a release without one.
    pub audit: Option<Head>,
    /// What it says since pools upgrade themselves; `None` from a release before. It comes only after `audit`.
    pub upkeep: Option<Upkeep>,
    /// Which objects are asked for most; `None` from a release that does not count them. It comes only after `upkeep`.
    pub hot: Option<Heat>,
    /// What it says of copies; `None` from a release that knows none. It comes only after `hot`.
    pub kept: Option<Kept>,
}

impl Has {
    /// The character-strings of the TXT record as its agent sends it.
    #[must_use]
    pub fn strings(&self) -> Vec<String> {
        let mut strings = self.answered();
        strings.push(format!("quarantined={}", self.quarantined));
        if let Some(audit) = self.audit {
            strings.push(format!("audit={audit}"));
            if let Some(upkeep) = &self.upkeep {
                strings.extend(upkeep.strings());
                if let Some(hot) = &self.hot {
                    strings.extend(hot.strings());
                    strings.extend(self.kept.iter().flat_map(Kept::strings));
                }
            }
        }
        strings
    }

    /// The character-strings that the librarian answers with: those of the release before schemas, which reads exactly these
    /// and finds its peers by them. No agent has a use for the others.
    #[must_use]
    pub fn answered(&self) -> Vec<String> {
        vec![
            "v=hn1".to_owned(),
            format!("release={}", self.release),
            format!("role={}", self.role),
            format!("objects={}", self.objects),
            format!("bytes={}", self.bytes),
            format!("capacity={}", self.capacity),
            format!("load={}", self.load),
            format!("heat={}", self.heat),
            format!("errors={}", self.errors),
            format!("unreadable={}", self.unreadable),
            format!("plan={}", self.plan),
            format!("commits={}", self.commits),
            format!("peer={}", self.peer_port),
        ]
    }

    /// Reads the character-strings of a TXT record. Reading accepts what [`Has::strings`] makes of a legal release, and the
    /// same without its last strings.
    ///
    /// # Errors
    ///
    /// [`StringsError`], which the librarian answers with FORMERR.
    pub fn from_strings<S: AsRef<[u8]>>(strings: &[S]) -> Result<Has, StringsError> {
        let mut strings = Strings::new(strings);
        strings.version()?;
        let release = strings.take("release")?;
        if !is_release(release) {
            return Err(illegal("release", release));
        }
        let mut has = Has {
            release: release.to_owned(),
            role: strings.parse("role")?,
            objects: strings.number("objects")?,
            bytes: strings.number("bytes")?,
            capacity: strings.number("capacity")?,
            load: strings.number("load")?,
            heat: strings.number("heat")?,
            errors: strings.number("errors")?,
            unreadable: strings.number("unreadable")?,
            plan: strings.number("plan")?,
            commits: strings.number("commits")?,
            peer_port: strings.number("peer")?,
            // Servers of the release before schemas do not say it.
            quarantined: match strings.is_empty() {
                true => 0,
                false => strings.number("quarantined")?,
            },
            audit: match strings.is_empty() {
                true => None,
                false => Some(strings.parse("audit")?),
            },
            upkeep: match strings.is_empty() {
                true => None,
                false => Some(Upkeep::from_rest(&mut strings)?),
            },
            hot: Heat::from_rest(&mut strings)?,
            kept: None,
        };
        if has.hot.is_some() {
            has.kept = Kept::from_rest(&mut strings)?;
        }
        strings.later(&Kept::KEYS)?;
        Ok(has)
    }
}

/// Whether a text names a release: `[0-9A-Za-z.+-]{1,32}`.
#[must_use]
pub fn is_release(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || ".+-".contains(c);
    (1..=RELEASE_OCTETS_MAX).contains(&text.len()) && text.chars().all(legal)
}

impl FromStr for Has {
    type Err = StringsError;

    /// Reads the strings joined by blanks, as people write them: no value holds one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Has::from_strings(&text.split(' ').collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heat::Hot;

    const TEXT: &str = "v=hn1 release=0.1.0 role=serving objects=12 bytes=3400 capacity=1000000 load=35 heat=7 \
                        errors=0 unreadable=0 plan=4 commits=99 peer=9102 quarantined=3";

    #[test]
    fn has_record_reads_back_as_it_was_written() {
        let has: Has = TEXT.parse().unwrap();
        assert_eq!(has.peer_port, 9102);
        assert_eq!(has.strings().join(" "), TEXT);
    }

    #[test]
    fn has_record_of_the_release_before_schemas_is_read() {
        let before: Has = TEXT.replace(" quarantined=3", "").parse().unwrap();
        assert_eq!(
            before,
            Has {
                quarantined: 0,
                ..TEXT.parse().unwrap()
            }
        );
    }

    #[test]
    fn answer_is_what_the_release_before_schemas_reads() {
        let has = Has {
            audit: Some(Head::first(&"s2".parse().unwrap())),
            ..TEXT.parse().unwrap()
        };
        assert_eq!(has.answered().join(" "), TEXT.replace(" quarantined=3", ""));
    }

    #[test]
    fn strings_of_a_later_release_are_passed_over() {
        let has = Has {
            audit: Some(Head::first(&"s2".parse().unwrap())),
            upkeep: Some(Upkeep::default()),
            hot: Some(Heat {
                asked_milli: 2_000,
                served: 7,
                doubt_milli: 3,
                hottest: vec![Hot {
                    address: "3.1".parse().unwrap(),
                    rate_milli: 1500,
                }],
            }),
            kept: Some(Kept {
                held: 12,
                octets: 3400,
                short: 2,
                leaving: 1,
            }),
            ..TEXT.parse().unwrap()
        };
        let text = has.strings().join(" ");
        assert_eq!(text.parse(), Ok(has.clone()));
        let before_copies = Has {
            kept: None,
            ..has.clone()
        };
        let before_heat = Has {
            hot: None,
            ..before_copies.clone()
        };
        for before in [before_copies, before_heat] {
            let said = before.strings().join(" ");
            assert_eq!(said.parse(), Ok(before));
            assert!(text.starts_with(&said), "what it says comes first");
        }
        assert_eq!(format!("{text} more=1 most=").parse(), Ok(has));
        for broken in ["more", "=1", "More=1"] {
            let longer = format!("{text} {broken}");
            let refused = longer.parse::<Has>();
            assert!(
                matches!(
                    refused,
                    Err(StringsError::Key {
                        expected: "a later key",
                        ..
                    })
                ),
                "{broken}"
            );
        }
    }

    #[test]
    fn copies_are_said_once_and_after_heat() {
        let has = Has {
            audit: Some(Head::first(&"s2".parse().unwrap())),
            upkeep: Some(Upkeep::default()),
            hot: Some(Heat::default()),
            kept: None,
            ..TEXT.parse().unwrap()
        };
        let kept = Kept::default();
        let copies = kept.strings().join(" ");
        let text = has.strings().join(" ");
        let said = format!("{text} {copies}").parse();
        assert_eq!(
            said,
            Ok(Has {
                kept: Some(kept),
                ..has.clone()
            })
        );
        let no_heat = Has {
            hot: None,
            ..has.clone()
        }
        .strings()
        .join(" ");
        let heat = text.strip_prefix(&no_heat).unwrap();
        for broken in [
            format!("{text} {copies} {copies}"),
            format!("{text} more=1 {copies}"),
            format!("{no_heat} {copies}"),
            format!("{no_heat} {copies}{heat}"),
        ] {
            assert!(broken.parse::<Has>().is_err(), "{broken}");
        }
        let unheated = Has {
            hot: None,
            kept: Some(kept),
            ..has
        };
        assert_eq!(unheated.strings().join(" "), no_heat, "it comes only after heat");
    }

    #[test]
    fn has_record_in_another_order_or_spelling_is_refused() {
        let swapped = TEXT.replace("objects=12 bytes=3400", "bytes=3400 objects=12");
        assert!(matches!(
            swapped.parse::<Has>(),
            Err(StringsError::Key {
                expected: "objects",
                ..
            })
        ));
        let padded = TEXT.replace("objects=12", "objects=012");
        assert!(matches!(
            padded.parse::<Has>(),
            Err(StringsError::Value { key: "objects", .. })
        ));
        let release = TEXT.replace("release=0.1.0", "release=0.1.0;rm");
        assert!(matches!(
            release.parse::<Has>(),
            Err(StringsError::Value { key: "release", .. })
        ));
        let port = TEXT.replace("peer=9102", "peer=65536");
        assert!(matches!(
            port.parse::<Has>(),
            Err(StringsError::Value { key: "peer", .. })
        ));
    }
}
