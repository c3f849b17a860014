//! Copies: how many an object is to have and where, at the end of a server's *want*, and what servers say of them, at the end of
//! their *has*.
//!
//! Owners make copies and take them away by themselves, towards what [`Keep`] says. Here are the words alone.
//!
//! Specification: DESIGN.md section 14, PROTOCOL.md section 4.

use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::address::Address;
use crate::register::{HOLDERS_MAX, STRING_OCTETS_MAX};
use crate::server::ServerName;
use crate::strings::{Strings, StringsError, illegal, none_twice, plain};

/// How many copies an object may be given: the owner's, and one on each server that may be named as a holder to be. A register names
/// one more, for a copy that is asked for by its heat.
pub const COPIES: RangeInclusive<u8> = 1..=13;
/// Most prefixes with a number of their own.
pub const PREFIXES_MAX: usize = 16;
/// Longest such prefix, in octets: `under=`, the prefix and `:13` fill one character-string.
pub const PREFIX_OCTETS_MAX: usize = STRING_OCTETS_MAX - "under=:13".len();
/// Most servers that are named as holders to be.
pub const SPREAD_MAX: usize = 12;
/// Most objects that a server is told to have more copies of, for their heat.
pub const HOT_MAX: usize = 16;
/// Most servers that one such object is to have them on: beside the owner and one other holder, as many as a register names.
pub const HOT_SERVERS_MAX: usize = HOLDERS_MAX - 2;
/// Weight of a holder to be.
pub const WEIGHTS: RangeInclusive<u16> = 1..=999;
/// Most servers that copies leave, and most that are lost.
pub const NAMES_MAX: usize = HOLDERS_MAX;

const _: () = assert!(*COPIES.end() as usize == SPREAD_MAX + 1 && SPREAD_MAX < HOLDERS_MAX);

/// What a server is to do for the copies of its objects. Empty, it has no text: so a release that does not know it reads the want.
///
/// Text, each string only where it says something: `copies=2` `under=3.1:3` (one for each prefix) `spread=s2:500,s3:120`
/// `leave=s4` `lost=s1` `hot=3.1.2.1.023:s2,s5` (one for each object).
///
/// Within the bounds here no string is over 255 octets: `under=` is bounded by [`PREFIX_OCTETS_MAX`], `hot=` by
/// [`Keep::hot_octets`], 12 names of 15 octets with weights of 3 digits make a `spread=` of 246, and 14 names a `leave=` of 229.
/// All of them together take at most [`Keep::OCTETS_MAX`] octets of a record.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Keep {
    /// Copies that each object is to have, the owner's among them, in [`COPIES`]; 0 says nothing: it is one copy.
    pub copies: u8,
    /// Other numbers, in [`COPIES`], for what a prefix covers; the longest prefix decides. In the order of the prefixes, none twice,
    /// at most [`PREFIXES_MAX`].
    pub under: Vec<(Address, u8)>,
    /// Who may be given copies, with weights in [`WEIGHTS`]; none twice, at most [`SPREAD_MAX`].
    pub spread: Vec<(ServerName, u16)>,
    /// Servers whose copies go elsewhere; none twice, at most [`NAMES_MAX`].
    pub leave: Vec<ServerName>,
    /// Servers that are lost for good: a holder takes what they own. None twice, at most [`NAMES_MAX`].
    pub lost: Vec<ServerName>,
    /// Objects that are asked for so often that they are to have copies on these servers besides the wanted number; such copies
    /// of an object that is named no more are too many, and go. One that the server does not own is passed over: it may be on
    /// its way here. In the order of the addresses, none twice, at most [`HOT_MAX`]; of servers 1 to [`HOT_SERVERS_MAX`], none
    /// twice, and no more than a string holds ([`Keep::hot_octets`]).
    pub hot: Vec<(Address, Vec<ServerName>)>,
}

/// What a server says of copies.
///
/// Text, in this order: `held=` `kept=` `short=` `leaving=`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Kept {
    /// Copies here of objects that others own.
    pub held: u64,
    /// Octets of disk that these take.
    pub octets: u64,
    /// Objects that it owns and that have fewer in-sync copies than they are to have.
    pub short: u64,
    /// Objects that it owns and that have a copy on a server which copies leave.
    pub leaving: u64,
}

impl Keep {
    pub(crate) const KEYS: [&'static str; 6] = ["copies", "under", "spread", "leave", "lost", "hot"];

    /// Most octets of a record that the strings take, each with the one that says how long it is: 32 of the longest and the
    /// four that cannot be as long.
    pub const OCTETS_MAX: usize = (PREFIXES_MAX + HOT_MAX) * (1 + STRING_OCTETS_MAX) + 10 + 247 + 230 + 229;

    /// Octets of the string that names an object with these servers: at most 255 fit. So 12 servers with the longest names
    /// leave 59 octets for the address, and the longest address leaves room for one server with a name of 2.
    #[must_use]
    pub fn hot_octets(address: &Address, servers: &[ServerName]) -> usize {
        let names: usize = servers.iter().map(|server| server.as_str().len()).sum();
        "hot=:".len() + address.as_str().len() + names + servers.len().saturating_sub(1)
    }

    /// Copies that an object is to have, the owner's among them: 1 to 13, and 1 where nothing is said.
    #[must_use]
    pub fn wanted(&self, address: &Address) -> usize {
        let covering = self.under.iter().filter(|(prefix, _)| prefix.covers(address));
        let longest = covering.max_by_key(|(prefix, _)| prefix.as_str().len());
        let copies = longest.map_or(self.copies, |(_, copies)| *copies);
        usize::from(copies.clamp(*COPIES.start(), *COPIES.end()))
    }

    /// Servers beside its owner that are to hold an object, heat apart: as many as are wanted, or as there are places for.
    #[must_use]
    pub fn others_needed(&self, address: &Address, owner: &ServerName) -> usize {
        let places = self.spread.iter().filter(|(server, _)| server != owner).count();
        places.min(self.wanted(address) - 1)
    }

    /// Servers that are to hold an object besides for its heat.
    #[must_use]
    pub fn hot_on(&self, address: &Address) -> &[ServerName] {
        let found = self.hot.binary_search_by(|(hot, _)| hot.cmp(address));
        found.map_or(&[], |at| &self.hot[at].1)
    }

    pub(crate) fn strings(&self) -> Vec<String> {
        let mut strings = Vec::new();
        if self.copies > 0 {
            strings.push(format!("copies={}", self.copies));
        }
        let under = self.under.iter();
        strings.extend(under.map(|(prefix, copies)| format!("under={prefix}:{copies}")));
        let spread = self.spread.iter().map(|(server, weight)| format!("{server}:{weight}"));
        let names = |servers: &[ServerName]| servers.iter().map(ToString::to_string).collect();
        let lists: [(&str, Vec<String>); 3] = [
            ("spread", spread.collect()),
            ("leave", names(&self.leave)),
            ("lost", names(&self.lost)),
        ];
        let said = lists.into_iter().filter(|(_, list)| !list.is_empty());
        strings.extend(said.map(|(key, list)| format!("{key}={}", list.join(","))));
        let hot = self.hot.iter();
        strings.extend(hot.map(|(address, servers)| {
            let servers: Vec<&str> = servers.iter().map(ServerName::as_str).collect();
            format!("hot={address}:{}", servers.join(","))
        }));
        strings
    }

    /// Reads the strings that are there. What follows is not looked at: [`Strings::later`] refuses those of [`Keep::KEYS`].
    pub(crate) fn from_rest<S: AsRef<[u8]>>(strings: &mut Strings<'_, S>) -> Result<Keep, StringsError> {
        let mut keep = Keep::default();
        if strings.has("copies") {
            let text = strings.take("copies")?;
            keep.copies = number_in(text, &COPIES).ok_or_else(|| illegal("copies", text))?;
        }
        while strings.has("under") {
            let text = strings.take("under")?;
            let next = pair(text, &COPIES).filter(|next| may_follow(&keep.under, next));
            keep.under.push(next.ok_or_else(|| illegal("under", text))?);
        }
        if strings.has("spread") {
            let text = strings.take("spread")?;
            keep.spread = read_spread(text).ok_or_else(|| illegal("spread", text))?;
        }
        for (key, list) in [("leave", &mut keep.leave), ("lost", &mut keep.lost)] {
            if strings.has(key) {
                *list = strings.servers(key, NAMES_MAX)?;
                if list.is_empty() {
                    return Err(illegal(key, ""));
                }
            }
        }
        while strings.has("hot") {
            let text = strings.take("hot")?;
            let next = read_hot(text).filter(|(address, _)| {
                let in_order = keep.hot.last().is_none_or(|(last, _)| last < address);
                in_order && keep.hot.len() < HOT_MAX
            });
            keep.hot.push(next.ok_or_else(|| illegal("hot", text))?);
        }
        Ok(keep)
    }
}

impl Kept {
    pub(crate) const KEYS: [&'static str; 4] = ["held", "kept", "short", "leaving"];

    pub(crate) fn strings(&self) -> [String; 4] {
        [
            format!("held={}", self.held),
            format!("kept={}", self.octets),
            format!("short={}", self.short),
            format!("leaving={}", self.leaving),
        ]
    }

    /// Reads the strings if they are there: a release before copies does not say them.
    pub(crate) fn from_rest<S: AsRef<[u8]>>(strings: &mut Strings<'_, S>) -> Result<Option<Kept>, StringsError> {
        if !strings.has("held") {
            return Ok(None);
        }
        Ok(Some(Kept {
            held: strings.number("held")?,
            octets: strings.number("kept")?,
            short: strings.number("short")?,
            leaving: strings.number("leaving")?,
        }))
    }
}

/// Whether one more prefix keeps the order and the bounds.
fn may_follow(under: &[(Address, u8)], (prefix, _): &(Address, u8)) -> bool {
    let in_order = under.last().is_none_or(|(last, _)| last < prefix);
    in_order && under.len() < PREFIXES_MAX && prefix.as_str().len() <= PREFIX_OCTETS_MAX
}

/// An object and the servers that are to have copies of it.
fn read_hot(text: &str) -> Option<(Address, Vec<ServerName>)> {
    let (address, names) = text.split_once(':')?;
    let address = address.parse().ok()?;
    let servers: Vec<ServerName> = names.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
    let fits = servers.len() <= HOT_SERVERS_MAX && Keep::hot_octets(&address, &servers) <= STRING_OCTETS_MAX;
    (fits && none_twice(&servers, |server| server)).then_some((address, servers))
}

fn read_spread(text: &str) -> Option<Vec<(ServerName, u16)>> {
    let spread: Vec<(ServerName, u16)> = text.split(',').map(|one| pair(one, &WEIGHTS)).collect::<Option<_>>()?;
    (spread.len() <= SPREAD_MAX && none_twice(&spread, |(server, _)| server)).then_some(spread)
}

/// Something and a number, joined by `:`.
fn pair<T: FromStr, N: FromStr + ToString + PartialOrd>(text: &str, range: &RangeInclusive<N>) -> Option<(T, N)> {
    let (what, number) = text.split_once(':')?;
    Some((what.parse().ok()?, number_in(number, range)?))
}

fn number_in<N: FromStr + ToString + PartialOrd>(text: &str, range: &RangeInclusive<N>) -> Option<N> {
    plain(text).filter(|number| range.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(strings: &[String]) -> Result<Keep, StringsError> {
        let mut rest = Strings::new(strings);
        let keep = Keep::from_rest(&mut rest)?;
        rest.later(&Keep::KEYS)?;
        Ok(keep)
    }

    fn read_text(text: &str) -> Result<Keep, StringsError> {
        read(&text.split_terminator(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    fn read_kept(text: &str) -> Result<Option<Kept>, StringsError> {
        let strings: Vec<&str> = text.split_terminator(' ').collect();
        let mut rest = Strings::new(&strings);
        let kept = Kept::from_rest(&mut rest)?;
        rest.later(&Kept::KEYS)?;
        Ok(kept)
    }

    fn address(text: &str) -> Address {
        text.parse().expect("an address")
    }

    fn server(text: &str) -> ServerName {
        text.parse().expect("a name")
    }

    /// Names of 15 octets.
    fn long_names(count: usize) -> Vec<ServerName> {
        (0..count).map(|at| server(&format!("server-of-15-{at:02}"))).collect()
    }

    /// An address of so many octets, the greater the greater `at`.
    fn long_address(octets: usize, at: usize) -> Address {
        address(&format!("{at:02}{}.{}", "a".repeat(118), "b".repeat(octets - 121)))
    }

    #[test]
    fn what_is_wanted_is_spelled_as_the_protocol_says() {
        let keep = Keep {
            copies: 2,
            under: vec![(address("3.1"), 3), (address("3.1.9"), 1)],
            spread: vec![(server("s2"), 500), (server("s3"), 120)],
            leave: vec![server("s4")],
            lost: vec![server("s1"), server("s5")],
            hot: vec![
                (address("3.1.2.1.023"), vec![server("s2"), server("s5")]),
                (address("3.2"), vec![server("s3")]),
            ],
        };
        let text = "copies=2 under=3.1:3 under=3.1.9:1 spread=s2:500,s3:120 leave=s4 lost=s1,s5 hot=3.1.2.1.023:s2,s5 hot=3.2:s3";
        assert_eq!(keep.strings().join(" "), text);
        assert_eq!(read_text(text), Ok(keep));
        for part in [
            "",
            "copies=1",
            "copies=13",
            "under=3:13",
            "spread=s2:999",
            "leave=s4,s1",
            "lost=s1",
            "hot=3.1:s4,s1",
        ] {
            let keep = read_text(part).expect("each string may stand alone");
            assert_eq!(keep.strings().join(" "), part);
        }
        assert!(Keep::default().strings().is_empty());
    }

    #[test]
    fn the_longest_prefix_says_how_many_copies_there_are_to_be() {
        let keep = read_text("copies=2 under=3.1:3 under=3.1.9:1 under=4:13").unwrap();
        for (of, copies) in [
            ("3", 2),
            ("3.1", 3),
            ("3.1.9", 1),
            ("3.1.9.x", 1),
            ("3.1.90", 3),
            ("3.10", 2),
            ("4.2", 13),
        ] {
            assert_eq!(keep.wanted(&address(of)), copies, "{of}");
        }
        let unordered = Keep {
            under: keep.under.iter().rev().cloned().collect(),
            ..keep
        };
        assert_eq!(unordered.wanted(&address("3.1.9.x")), 1);
    }

    #[test]
    fn an_object_has_at_least_one_copy_and_at_most_thirteen() {
        let object = address("3.1");
        assert_eq!(Keep::default().wanted(&object), 1, "nothing is said");
        for (said, copies) in [(0, 1), (u8::MAX, 13)] {
            let keep = Keep {
                under: vec![(object.clone(), said)],
                ..Keep::default()
            };
            assert_eq!(keep.wanted(&object), copies);
        }
    }

    #[test]
    fn the_longest_want_is_one_of_character_strings() {
        let prefix = |at| (long_address(PREFIX_OCTETS_MAX, at), *COPIES.end());
        // Each has as many servers as leave room for an address of 124 octets, and that address fills the string.
        let hot = |at| {
            (
                long_address(124, at),
                [long_names(7), vec![server("server-of-14-x")]].concat(),
            )
        };
        let keep = Keep {
            copies: *COPIES.end(),
            under: (0..PREFIXES_MAX).map(prefix).collect(),
            spread: long_names(SPREAD_MAX)
                .into_iter()
                .map(|name| (name, *WEIGHTS.end()))
                .collect(),
            leave: long_names(NAMES_MAX),
            lost: long_names(NAMES_MAX),
            hot: (0..HOT_MAX).map(hot).collect(),
        };
        let strings = keep.strings();
        let longest = strings.iter().map(String::len).max();
        assert_eq!(longest, Some(STRING_OCTETS_MAX));
        assert_eq!(strings[17].len(), 246);
        assert_eq!(strings[18].len(), 229);
        assert_eq!(strings[20..].iter().map(String::len).min(), Some(STRING_OCTETS_MAX));
        let octets: usize = strings.iter().map(|string| 1 + string.len()).sum();
        assert_eq!(octets, Keep::OCTETS_MAX);
        // The whole record of a want stays far below what a message of DNS holds.
        assert!(octets < 9_000, "{octets}");
        assert_eq!(read(&strings), Ok(keep));
    }

    #[test]
    fn what_is_over_the_bounds_is_refused() {
        let full = Keep {
            under: (0..PREFIXES_MAX).map(|at| (long_address(150, at), 2)).collect(),
            spread: long_names(SPREAD_MAX).into_iter().map(|name| (name, 1)).collect(),
            leave: long_names(NAMES_MAX),
            lost: long_names(NAMES_MAX),
            copies: 2,
            hot: (0..HOT_MAX)
                .map(|at| (address(&format!("3.{at:02}")), long_names(HOT_SERVERS_MAX)))
                .collect(),
        };
        assert_eq!(read(&full.strings()), Ok(full.clone()));
        let with = |change: fn(&mut Keep)| {
            let mut keep = full.clone();
            change(&mut keep);
            keep
        };
        let too_long = with(|keep| keep.under[0].0 = long_address(PREFIX_OCTETS_MAX + 1, 0));
        for (what, over) in [
            (
                "under",
                with(|keep| keep.under.push((long_address(150, PREFIXES_MAX), 2))),
            ),
            ("under", too_long),
            ("spread", with(|keep| keep.spread.push((server("s1"), 1)))),
            ("leave", with(|keep| keep.leave.push(server("s1")))),
            ("lost", with(|keep| keep.lost.push(server("s1")))),
            ("hot", with(|keep| keep.hot.push((address("3.99"), vec![server("s1")])))),
            ("hot", with(|keep| keep.hot[0].1.push(server("s1")))),
        ] {
            let refused = read(&over.strings());
            assert!(
                matches!(refused, Err(StringsError::Value { key, .. }) if key == what),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn address_and_servers_of_a_hot_object_fit_one_string() {
        for (octets, servers, fits) in [
            (59, long_names(HOT_SERVERS_MAX), true),
            (60, long_names(HOT_SERVERS_MAX), false),
            (247, vec![server("s10")], true),
            (247, vec![server("s100")], false),
        ] {
            let object = match octets {
                ..=128 => address(&"a".repeat(octets)),
                _ => long_address(octets, 0),
            };
            let keep = Keep {
                hot: vec![(object.clone(), servers.clone())],
                ..Keep::default()
            };
            let strings = keep.strings();
            assert_eq!(Keep::hot_octets(&object, &servers), strings[0].len());
            assert_eq!(read(&strings).is_ok(), fits, "{octets}");
            assert_eq!(strings[0].len() <= STRING_OCTETS_MAX, fits);
        }
    }

    #[test]
    fn what_no_writer_makes_is_refused() {
        for broken in [
            "copies=0",
            "copies=14",
            "copies=02",
            "copies=",
            "copies=2 copies=2",
            "under=3.1:0",
            "under=3.1:14",
            "under=3.1:+3",
            "under=3.1",
            "under=:3",
            "under=3.1:3:3",
            "under=3..1:3",
            "under=3.1:3 under=3.1:2",
            "under=3.2:3 under=3.1:2",
            "under=3.1:3 copies=2",
            "spread=",
            "spread=s2",
            "spread=s2:0",
            "spread=s2:1000",
            "spread=s2:07",
            "spread=s2:5,",
            "spread=s2:5,s2:6",
            "spread=s2:5 spread=s3:5",
            "spread=s2:5 under=3.1:3",
            "spread=any:5",
            "leave=",
            "leave=s4,s4",
            "leave=s4,",
            "leave=S4",
            "leave=s4 leave=s5",
            "leave=s4 spread=s2:5",
            "lost=",
            "lost=s1,s1",
            "lost=s1 leave=s4",
            "lost=s1 lost=s1",
            "lost=s1 more=1 copies=2",
            "hot=",
            "hot=3.1",
            "hot=3.1:",
            "hot=:s1",
            "hot=3..1:s1",
            "hot=3.1:s1,",
            "hot=3.1:s1,s1",
            "hot=3.1:any",
            "hot=3.1:s1:s2",
            "hot=3.1:s1 hot=3.1:s2",
            "hot=3.2:s1 hot=3.1:s2",
            "hot=3.1:s1 lost=s1",
            "hot=3.1:s1 more=1 hot=3.2:s1",
        ] {
            assert!(read_text(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn what_is_kept_is_spelled_as_the_protocol_says() {
        let kept = Kept {
            held: 12,
            octets: 3400,
            short: 2,
            leaving: 1,
        };
        assert_eq!(kept.strings().join(" "), "held=12 kept=3400 short=2 leaving=1");
        assert_eq!(read_kept("held=12 kept=3400 short=2 leaving=1"), Ok(Some(kept)));
        assert_eq!(read_kept(""), Ok(None), "a release before copies");
        for broken in [
            "held=12",
            "kept=3400",
            "held=12 kept=3400 short=2",
            "held=12 short=2 kept=3400 leaving=1",
            "held=012 kept=3400 short=2 leaving=1",
            "held=12 kept=3400 short=2 leaving=1 leaving=1",
            "held=18446744073709551616 kept=3400 short=2 leaving=1",
        ] {
            assert!(read_kept(broken).is_err(), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn any_strings_are_read_or_refused(
            strings in proptest::collection::vec(
                prop_oneof![
                    "(copies|under|spread|leave|lost|hot)=[0-9a-c,:.]{0,8}",
                    "copies=[0-9]{1,2}",
                    "under=[0-9](\\.[0-9]){0,2}:[0-9]{1,2}",
                    "spread=s[0-9]:[0-9]{1,4}(,s[0-9]:[0-9]{1,3}){0,2}",
                    "(leave|lost)=s[0-9](,s[0-9]){0,2}",
                    "hot=[0-9](\\.[0-9]){0,2}:s[0-9](,s[0-9]){0,2}",
                ],
                0..6,
            ),
        ) {
            if let Ok(keep) = read(&strings) {
                // What is read has one spelling.
                prop_assert_eq!(keep.strings(), strings);
            }
        }

        #[test]
        fn any_strings_of_what_is_kept_are_read_or_refused(
            strings in proptest::collection::vec("(held|kept|short|leaving)=[0-9a]{0,3}", 0..6),
        ) {
            if let Ok(kept) = read_kept(&strings.join(" ")) {
                let written = kept.iter().flat_map(Kept::strings).collect::<Vec<_>>();
                prop_assert_eq!(written, strings);
            }
        }

        #[test]
        fn what_is_kept_comes_back([held, octets, short, leaving] in any::<[u64; 4]>()) {
            let kept = Kept { held, octets, short, leaving };
            prop_assert_eq!(read_kept(&kept.strings().join(" ")), Ok(Some(kept)));
        }
    }
}
