//! Which life of the registry a librarian answers from, and what it expects of the server that asks.
//!
//! A restored or rebuilt registry may be older than what servers know, so it is another one: its *incarnation* is new, and
//! told in every signed answer. A server that meets a new one changes no register until the two are reconciled.
//!
//! Specification: DESIGN.md section 6, PROTOCOL.md section 13.

use std::fmt;
use std::str::FromStr;

use hickory_proto::rr::rdata::opt::EdnsOption;

/// Code of the EDNS option, of those for local use (RFC 6891 section 9).
pub const INCARNATION_OPTION: u16 = 65_311;
/// Octets of the option's data.
const OPTION_OCTETS: usize = 17;

/// 128 random bits, made with a registry and made anew by every restore and rebuild. Text: 32 lower-case hexadecimal
/// digits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Incarnation(pub [u8; 16]);

/// A text that is no incarnation.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an incarnation is 32 lower-case hexadecimal digits")]
pub struct IncarnationError;

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Incarnation {
    type Err = IncarnationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let octets = data_encoding::HEXLOWER
            .decode(text.as_bytes())
            .map_err(|_| IncarnationError)?;
        octets.try_into().map(Incarnation).map_err(|_| IncarnationError)
    }
}

/// What the librarian expects of whoever asked.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Standing {
    /// Nothing: registers are answered and changed.
    Open,
    /// A report of everything this server knows of registers; none changes meanwhile.
    Report,
    /// Nothing more: the report is complete, others are waited for.
    Reported,
    /// That it stops: it was written off, and other servers own what it had.
    WrittenOff,
}

impl Standing {
    const ALL: [(Standing, u8); 4] = [
        (Standing::Open, 0),
        (Standing::Report, 1),
        (Standing::Reported, 2),
        (Standing::WrittenOff, 3),
    ];
}

/// What the option of a signed answer says.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Told {
    /// The registry that was asked.
    pub incarnation: Incarnation,
    /// What it expects of the asker.
    pub standing: Standing,
}

impl Told {
    /// The option in wire form: the incarnation, then one octet for the standing.
    #[must_use]
    pub fn to_option(self) -> EdnsOption {
        let mut octets = self.incarnation.0.to_vec();
        let number = Standing::ALL.iter().find(|(standing, _)| *standing == self.standing);
        octets.push(number.expect("every standing has a number").1);
        EdnsOption::Unknown(INCARNATION_OPTION, octets)
    }

    /// Reads an option; `None` for every other one, and for this one malformed: then nothing was told.
    #[must_use]
    pub fn from_option(option: &EdnsOption) -> Option<Told> {
        let EdnsOption::Unknown(INCARNATION_OPTION, octets) = option else {
            return None;
        };
        let (number, incarnation) = octets.split_last().filter(|_| octets.len() == OPTION_OCTETS)?;
        let (standing, _) = Standing::ALL.iter().find(|(_, known)| known == number)?;
        Some(Told {
            incarnation: Incarnation(incarnation.try_into().ok()?),
            standing: *standing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_reads_back_and_a_malformed_one_tells_nothing() {
        for (standing, number) in Standing::ALL {
            let told = Told {
                incarnation: Incarnation([0xab; 16]),
                standing,
            };
            let EdnsOption::Unknown(code, octets) = told.to_option() else {
                panic!("an option without a name of its own")
            };
            assert_eq!((code, octets.len(), octets[16]), (65_311, 17, number));
            assert_eq!(Told::from_option(&told.to_option()), Some(told));
            for bad in [octets[..16].to_vec(), [&octets[..], &[0]].concat(), Vec::new()] {
                assert_eq!(Told::from_option(&EdnsOption::Unknown(code, bad)), None);
            }
            assert_eq!(Told::from_option(&EdnsOption::Unknown(15, octets)), None);
        }
        let unknown = [[1; 16].as_slice(), &[4]].concat();
        assert_eq!(
            Told::from_option(&EdnsOption::Unknown(INCARNATION_OPTION, unknown)),
            None
        );
    }

    #[test]
    fn incarnation_has_one_spelling() {
        let text = "00112233445566778899aabbccddeeff";
        assert_eq!(text.parse::<Incarnation>().unwrap().to_string(), text);
        for bad in ["", "00", &text.to_uppercase(), &format!("{text}00")] {
            assert!(bad.parse::<Incarnation>().is_err(), "{bad}");
        }
    }
}
