//! Heat: how often objects are asked for, and what a server says of it at the end of its *has* record.
//!
//! Counting is [`Counters`]; here are the words. A rate is in thousandths of a request a second, so that objects which are
//! asked for once in a minute still differ.
//!
//! Specification: DESIGN.md section 14, PROTOCOL.md section 4.

mod counters;
mod recent;

use crate::address::Address;
use crate::strings::{Strings, StringsError, illegal, plain};

pub use counters::{Counted, Counters};
pub use recent::{Recent, WINDOW};

/// Most objects that a report names: with the longest addresses it stays below 4.5 KB.
pub const HOTTEST_MAX: usize = 16;

/// What a server says of the heat of its objects.
///
/// Text, in this order: `asked=` `served=` `doubt=` `rates=` (numbers joined by `,`, as many as objects are named), then `hot=` and an
/// address for each, the hottest first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Heat {
    /// Requests for all its objects that it answered lately, in thousandths a second.
    pub asked_milli: u64,
    /// Octets a second that clients were sent and sent lately.
    pub served: u64,
    /// Most by which a rate below may be too high: what the counters of a bounded memory cannot tell apart.
    pub doubt_milli: u64,
    /// The objects that were asked for most, at most [`HOTTEST_MAX`] of them, the hottest first.
    pub hottest: Vec<Hot>,
}

/// An object that is asked for often.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hot {
    /// Which.
    pub address: Address,
    /// Requests, in thousandths a second.
    pub rate_milli: u64,
}

impl Heat {
    pub(crate) fn strings(&self) -> Vec<String> {
        let rates: Vec<String> = self.hottest.iter().map(|hot| hot.rate_milli.to_string()).collect();
        let mut strings = vec![
            format!("asked={}", self.asked_milli),
            format!("served={}", self.served),
            format!("doubt={}", self.doubt_milli),
            format!("rates={}", rates.join(",")),
        ];
        strings.extend(self.hottest.iter().map(|hot| format!("hot={}", hot.address)));
        strings
    }

    /// Reads the strings if they are there: a release before heat does not say them.
    pub(crate) fn from_rest<S: AsRef<[u8]>>(strings: &mut Strings<'_, S>) -> Result<Option<Heat>, StringsError> {
        if !strings.has("asked") {
            return Ok(None);
        }
        let asked_milli = strings.number("asked")?;
        let (served, doubt_milli) = (strings.number("served")?, strings.number("doubt")?);
        let rates = read_rates(strings.take("rates")?)?;
        let hottest = rates
            .into_iter()
            .map(|rate_milli| {
                let address = strings.parse("hot")?;
                Ok(Hot { address, rate_milli })
            })
            .collect::<Result<_, StringsError>>()?;
        Ok(Some(Heat {
            asked_milli,
            served,
            doubt_milli,
            hottest,
        }))
    }
}

/// Numbers joined by `,`, each spelled the one way, none greater than the one before it.
fn read_rates(text: &str) -> Result<Vec<u64>, StringsError> {
    let refuse = || illegal("rates", text);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rates: Option<Vec<u64>> = text.split(',').map(plain).collect();
    rates
        .filter(|rates| rates.len() <= HOTTEST_MAX && rates.is_sorted_by(|a, b| a >= b))
        .ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(strings: &[String]) -> Result<Option<Heat>, StringsError> {
        let mut rest = Strings::new(strings);
        let heat = Heat::from_rest(&mut rest)?;
        rest.end()?;
        Ok(heat)
    }

    fn heat(rates: &[u64]) -> Heat {
        let named = rates.iter().enumerate().map(|(at, rate_milli)| Hot {
            address: format!("3.{at}").parse().expect("an address"),
            rate_milli: *rate_milli,
        });
        Heat {
            asked_milli: 5_000,
            served: 12_000,
            doubt_milli: 40,
            hottest: named.collect(),
        }
    }

    #[test]
    fn a_report_is_spelled_as_the_protocol_says() {
        assert_eq!(
            heat(&[1200, 7]).strings(),
            [
                "asked=5000",
                "served=12000",
                "doubt=40",
                "rates=1200,7",
                "hot=3.0",
                "hot=3.1"
            ]
        );
        assert_eq!(
            heat(&[]).strings(),
            ["asked=5000", "served=12000", "doubt=40", "rates="]
        );
    }

    #[test]
    fn the_longest_report_is_one_of_character_strings() {
        let longest = |octets: usize| "a".repeat(120) + "." + &"b".repeat(octets - 121);
        let report = Heat {
            asked_milli: u64::MAX,
            served: u64::MAX,
            doubt_milli: u64::MAX,
            hottest: (0..HOTTEST_MAX)
                .map(|_| Hot {
                    address: longest(crate::address::ADDRESS_OCTETS_MAX).parse().expect("an address"),
                    // Four billion requests a second.
                    rate_milli: 4_000_000_000_000,
                })
                .collect(),
        };
        let strings = report.strings();
        assert!(strings.iter().all(|string| string.len() <= 255));
        assert_eq!(read(&strings), Ok(Some(report)));
    }

    #[test]
    fn what_is_not_such_a_report_is_refused() {
        for broken in [
            &["asked=1", "served=1", "doubt=0", "rates=1"][..],
            &["asked=1", "served=1", "doubt=0", "rates=1,2", "hot=3", "hot=4"],
            &["asked=1", "served=1", "doubt=0", "rates=01", "hot=3"],
            &["asked=1", "served=1", "doubt=0", "rates=,", "hot=3", "hot=4"],
            &["asked=1", "served=1", "rates=", "doubt=0"],
            &["asked=1", "served=1", "doubt=0", "rates=1", "hot=3..4"],
        ] {
            let strings: Vec<String> = broken.iter().map(ToString::to_string).collect();
            assert!(read(&strings).is_err(), "{broken:?}");
        }
        let many = heat(&[5; HOTTEST_MAX + 1]).strings();
        assert!(read(&many).is_err());
        assert_eq!(read(&[]), Ok(None), "a release before heat");
    }

    proptest! {
        #[test]
        fn a_report_comes_back(mut rates in proptest::collection::vec(0u64..1_000_000_000_000, 0..=HOTTEST_MAX)) {
            rates.sort_unstable_by(|a, b| b.cmp(a));
            prop_assert_eq!(read(&heat(&rates).strings()), Ok(Some(heat(&rates))));
        }

        #[test]
        fn any_strings_are_read_or_refused(strings in proptest::collection::vec("(asked|served|doubt|rates|hot)=[0-9,.a]{0,12}", 0..6)) {
            let _ = read(&strings);
        }
    }
}
