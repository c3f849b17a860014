//! What a server that a pool can upgrade says beside the rest: the last strings of its *has* record.
//!
//! Gates are judged by it (UPGRADE.md): whether nothing is left on a server that is to be stopped, whether what it gave away
//! is what another took, whether the new release works.
//!
//! Specification: DESIGN.md section 13, PROTOCOL.md section 4.

use std::fmt;
use std::str::FromStr;

use crate::address::Address;
use crate::has::is_release;
use crate::register::Epoch;
use crate::server::ServerName;
use crate::strings::{Strings, StringsError};

/// What an agent says of itself that knows upgrades.
///
/// Text, in this order: `suite=` `schemas=` `open=` `retired=` `running=` `p99=` `newer=` `resting=` `used=` `scrubbed=` `keys=`
/// `tested=` `install=` `moved=` `taken=` `dry=`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Upkeep {
    /// Highest level whose suite it knows.
    pub suite: u8,
    /// Names its set of schemas: the first 8 octets of a digest over them, 0 without any.
    pub schemas: SchemaSet,
    /// Rows of its journal that are open: copies that arrive, moves, creates and deletes that are not settled, waits.
    pub open: u64,
    /// Copies on its disk of objects that it gave away.
    pub retired: u64,
    /// Requests of clients that run now.
    pub running: u64,
    /// The 99th percentile of the time that clients waited lately, in microseconds; 0 when there were too few.
    pub p99_us: u64,
    /// Objects that the old release could not read, were it put back now. Counts until contract steps are asked for.
    pub newer: u64,
    /// Objects that are not yet what the plan asks for, and that a sweep would bring there.
    pub resting: u64,
    /// Octets of disk that the copies of its objects take, with all that goes with them.
    pub used: u64,
    /// When its last whole scrub ended, seconds since 1970; 0 for never.
    pub scrubbed_unix_s: u64,
    /// Whether its key provider answers.
    pub keys: KeysAre,
    /// The highest plan under which its self-test passed since it started, 0 for none.
    pub tested: u64,
    /// How the installing of another release stands.
    pub install: Install,
    /// What it has given away and still keeps a retired copy of.
    pub moved: Sum,
    /// What it has taken of what its want tells it to count.
    pub taken: Option<Taken>,
    /// What became of its objects when the schemas of the next release were tried on them; `None` while they are not tried, and
    /// from a release that does not try them.
    pub dry: Option<Tried>,
}

/// Names a set of schemas.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SchemaSet(pub u64);

/// A set of moves: how many, and the exclusive or of their digests, so that two servers can compare what one gave and
/// the other took.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// Of all of them, the first 16 octets each.
    pub digest: u128,
}

impl Sum {
    /// Adds a move.
    #[must_use]
    pub fn with(self, digest: u128) -> Sum {
        Sum {
            count: self.count + 1,
            digest: self.digest ^ digest,
        }
    }

    /// Takes a move away again.
    ///
    /// # Panics
    ///
    /// When none is left: it was never added.
    #[must_use]
    pub fn without(self, digest: u128) -> Sum {
        Sum {
            count: self.count.checked_sub(1).expect("a move that was added"),
            digest: self.digest ^ digest,
        }
    }
}

/// One move, as giver and taker both know it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Given {
    /// The object.
    pub address: Address,
    /// The epoch at which the taker owns it.
    pub epoch: Epoch,
    /// Client writes that it had.
    pub revision: u64,
    /// Digest of its properties in the form in which they were given.
    pub properties: Option<[u8; 32]>,
    /// Digest of its body.
    pub body: Option<[u8; 32]>,
}

impl Given {
    /// The octets whose keyed BLAKE3 digest stands for the move.
    #[must_use]
    pub fn octets(&self) -> Vec<u8> {
        let mut octets = self.address.as_str().as_bytes().to_vec();
        octets.push(0);
        octets.extend(self.epoch.0.to_be_bytes());
        octets.extend(self.revision.to_be_bytes());
        for digest in [&self.properties, &self.body] {
            match digest {
                Some(digest) => {
                    octets.push(1);
                    octets.extend(digest);
                }
                None => octets.push(0),
            }
        }
        octets
    }

    /// What stands for the move in a [`Sum`]: the first 16 of the 32 octets of that digest.
    #[must_use]
    pub fn element(digest: &[u8; 32]) -> u128 {
        u128::from_be_bytes(digest[..16].try_into().expect("16 of 32"))
    }
}

/// What a server took, and what was looked after.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Taken {
    /// What is counted.
    pub arrivals: Arrivals,
    /// What came, in the form in which it was given.
    pub sum: Sum,
    /// How many of these copies were read back since they came, or are gone since.
    pub verified: u64,
    /// How many could not be read.
    pub bad: u64,
}

/// What a dry run found that went over every object of a server. Text `00000000000000ff:1200:3:0`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tried {
    /// What was tried.
    pub set: SchemaSet,
    /// Objects that it was tried on.
    pub objects: u64,
    /// Objects that would stay as they are since a step failed.
    pub quarantined: u64,
    /// Objects that an abort would strand or change since their way back does not keep its promise, and those that could not be
    /// read.
    pub stuck: u64,
}

/// Moves that a server is to count: those from one server, under the plans from one on. Text `s2:7`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Arrivals {
    /// Whence.
    pub from: ServerName,
    /// The first plan that counts.
    pub since: u64,
}

/// How the installing of another release stands.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Install {
    /// No command is configured: a person installs.
    #[default]
    ByHand,
    /// Nothing is asked for.
    Ready,
    /// It was asked for.
    Asked(String),
    /// It did not work under the plan that it knows now, and the release before is back.
    Failed(String),
    /// It is not on this server's list of releases that may be installed.
    Refused(String),
}

/// Whether a key provider answers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeysAre {
    /// It does.
    #[default]
    Up,
    /// It does not: writes are refused, and nothing can be moved there.
    Down,
}

impl fmt::Display for KeysAre {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeysAre::Up => "up",
            KeysAre::Down => "down",
        })
    }
}

impl FromStr for KeysAre {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "up" => Ok(KeysAre::Up),
            "down" => Ok(KeysAre::Down),
            _ => Err(Malformed),
        }
    }
}

impl Upkeep {
    pub(crate) fn strings(&self) -> Vec<String> {
        vec![
            format!("suite={}", self.suite),
            format!("schemas={}", self.schemas),
            format!("open={}", self.open),
            format!("retired={}", self.retired),
            format!("running={}", self.running),
            format!("p99={}", self.p99_us),
            format!("newer={}", self.newer),
            format!("resting={}", self.resting),
            format!("used={}", self.used),
            format!("scrubbed={}", self.scrubbed_unix_s),
            format!("keys={}", self.keys),
            format!("tested={}", self.tested),
            format!("install={}", self.install),
            format!("moved={}", self.moved),
            match &self.taken {
                None => "taken=".to_owned(),
                Some(taken) => format!("taken={taken}"),
            },
            match &self.dry {
                None => "dry=".to_owned(),
                Some(tried) => format!("dry={tried}"),
            },
        ]
    }

    pub(crate) fn from_rest<S: AsRef<[u8]>>(strings: &mut Strings<'_, S>) -> Result<Upkeep, StringsError> {
        Ok(Upkeep {
            suite: strings.number("suite")?,
            schemas: strings.parse("schemas")?,
            open: strings.number("open")?,
            retired: strings.number("retired")?,
            running: strings.number("running")?,
            p99_us: strings.number("p99")?,
            newer: strings.number("newer")?,
            resting: strings.number("resting")?,
            used: strings.number("used")?,
            scrubbed_unix_s: strings.number("scrubbed")?,
            keys: strings.parse("keys")?,
            tested: strings.number("tested")?,
            install: strings.parse("install")?,
            moved: strings.parse("moved")?,
            taken: strings.parse::<Maybe<Taken>>("taken")?.0,
            // Servers of the release before dry runs do not say it.
            dry: match strings.is_empty() {
                true => None,
                false => strings.parse::<Maybe<Tried>>("dry")?.0,
            },
        })
    }
}

/// A value that may be empty.
struct Maybe<T>(Option<T>);

impl<T: FromStr> FromStr for Maybe<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Ok(Maybe(None)),
            some => some.parse().map(|value| Maybe(Some(value))),
        }
    }
}

/// A text is not what it should be; the key says what that is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed")]
pub struct Malformed;

/// A number spelled the one way it is made.
fn number(text: &str) -> Result<u64, Malformed> {
    let number: u64 = text.parse().map_err(|_| Malformed)?;
    (number.to_string() == text).then_some(number).ok_or(Malformed)
}

/// Hexadecimal digits, lower case and of a fixed count.
fn hex(text: &str, digits: usize) -> Result<u128, Malformed> {
    let legal = text.len() == digits && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    if !legal {
        return Err(Malformed);
    }
    u128::from_str_radix(text, 16).map_err(|_| Malformed)
}

impl fmt::Display for SchemaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for SchemaSet {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let value = hex(text, 16)?;
        Ok(SchemaSet(u64::try_from(value).map_err(|_| Malformed)?))
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:032x}", self.count, self.digest)
    }
}

impl FromStr for Sum {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (count, digest) = text.split_once(':').ok_or(Malformed)?;
        Ok(Sum {
            count: number(count)?,
            digest: hex(digest, 32)?,
        })
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.from, self.since)
    }
}

impl FromStr for Arrivals {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (from, since) = text.split_once(':').ok_or(Malformed)?;
        Ok(Arrivals {
            from: from.parse().map_err(|_| Malformed)?,
            since: number(since)?,
        })
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.arrivals, self.sum, self.verified, self.bad)
    }
}

impl FromStr for Taken {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        let [from, since, count, digest, verified, bad] = parts[..] else {
            return Err(Malformed);
        };
        Ok(Taken {
            arrivals: Arrivals {
                from: from.parse().map_err(|_| Malformed)?,
                since: number(since)?,
            },
            sum: Sum {
                count: number(count)?,
                digest: hex(digest, 32)?,
            },
            verified: number(verified)?,
            bad: number(bad)?,
        })
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.set, self.objects, self.quarantined, self.stuck)
    }
}

impl FromStr for Tried {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        let [set, objects, quarantined, stuck] = parts[..] else {
            return Err(Malformed);
        };
        Ok(Tried {
            set: set.parse()?,
            objects: number(objects)?,
            quarantined: number(quarantined)?,
            stuck: number(stuck)?,
        })
    }
}

impl fmt::Display for Install {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Install::ByHand => write!(f, "by-hand"),
            Install::Ready => write!(f, "ready"),
            Install::Asked(release) => write!(f, "asked:{release}"),
            Install::Failed(release) => write!(f, "failed:{release}"),
            Install::Refused(release) => write!(f, "refused:{release}"),
        }
    }
}

impl FromStr for Install {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "by-hand" => Ok(Install::ByHand),
            None if text == "ready" => Ok(Install::Ready),
            Some((how, release)) if is_release(release) => match how {
                "asked" => Ok(Install::Asked(release.to_owned())),
                "failed" => Ok(Install::Failed(release.to_owned())),
                "refused" => Ok(Install::Refused(release.to_owned())),
                _ => Err(Malformed),
            },
            None | Some(_) => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "suite=3 schemas=00000000000000ff open=1 retired=2 running=3 p99=4500 newer=0 resting=6 used=8192 scrubbed=0 keys=up tested=7 \
                        install=asked:2.0 moved=2:000000000000000000000000000000aa \
                        taken=s2:7:2:000000000000000000000000000000aa:1:0 dry=00000000000000fe:1200:3:1";

    fn read(text: &str) -> Result<Upkeep, StringsError> {
        let strings: Vec<&str> = text.split(' ').collect();
        let mut strings = Strings::new(&strings);
        let read = Upkeep::from_rest(&mut strings)?;
        strings.end()?;
        Ok(read)
    }

    #[test]
    fn upkeep_reads_back_as_it_was_written() {
        for install in ["by-hand", "ready", "asked:2.0", "failed:2.0", "refused:2.0-rc.1"] {
            let text = TEXT.replace("asked:2.0", install);
            assert_eq!(read(&text).unwrap().strings().join(" "), text);
        }
        let none = TEXT.split(" taken=").next().unwrap().to_owned() + " taken= dry=";
        let read_back = read(&none).unwrap();
        assert_eq!((&read_back.taken, read_back.dry), (&None, None));
        assert_eq!(read_back.strings().join(" "), none);
        let tried = Tried {
            set: SchemaSet(0xfe),
            objects: 1200,
            quarantined: 3,
            stuck: 1,
        };
        assert_eq!(read(TEXT).unwrap().dry, Some(tried));
    }

    #[test]
    fn upkeep_of_the_release_before_dry_runs_is_read() {
        let (before, _) = TEXT.split_once(" dry=").unwrap();
        let now = read(TEXT).unwrap();
        assert_eq!(read(before), Ok(Upkeep { dry: None, ..now }));
    }

    #[test]
    fn upkeep_of_another_spelling_is_refused() {
        for (right, wrong) in [
            ("00000000000000ff", "00000000000000FF"),
            ("00000000000000ff", "ff"),
            ("open=1", "open=01"),
            ("keys=up", "keys=UP"),
            ("asked:2.0", "asked:2;0"),
            ("asked:2.0", "asked:"),
            ("moved=2:", "moved=+2:"),
            ("s2:7:2", "s2:7"),
            ("s2:7:2", "-:7:2"),
            ("dry=00000000000000fe", "dry=fe"),
            (":1200:3:1", ":1200:3"),
            (":1200:3:1", ":1200:3:1:0"),
            (":1200:3:1", ":1200:03:1"),
            (" dry=", " dri="),
        ] {
            assert!(read(&TEXT.replace(right, wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sum_is_the_same_in_any_order() {
        let moves = [7, 9, 1 << 100];
        let sum = |order: [usize; 3]| order.into_iter().fold(Sum::default(), |sum, at| sum.with(moves[at]));
        assert_eq!(sum([0, 1, 2]), sum([2, 0, 1]));
        assert_ne!(sum([0, 1, 2]), sum([0, 1, 1]));
        assert_eq!(sum([0, 1, 2]).without(9).without(7), Sum::default().with(1 << 100));
    }

    #[test]
    fn octets_of_a_move_are_those_of_the_protocol() {
        let mut given = Given {
            address: "3.1".parse().unwrap(),
            epoch: Epoch(2),
            revision: 0x0103,
            properties: Some([7; 32]),
            body: None,
        };
        let mut octets = b"3.1\0".to_vec();
        octets.extend([0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 3, 1]);
        octets.extend([7; 32]);
        octets.push(0);
        assert_eq!(given.octets(), octets);
        (given.properties, given.body) = (None, Some([7; 32]));
        assert_ne!(given.octets(), octets, "properties and body are told apart");
        let mut digest = [0; 32];
        digest[15] = 1;
        assert_eq!(Given::element(&digest), 1);
    }
}
