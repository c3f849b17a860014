//! Names of releases, and which of two is the lower one.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zones::has::{RELEASE_OCTETS_MAX, is_release};

/// Name of a release: `[0-9A-Za-z.+-]{1,32}`.
///
/// Two names are equal as texts. What is lower is told by [`Release::is_lower_than`], which sees more names as alike.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Release(String);

/// A text is no name of a release.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} names no release: use 1 to {RELEASE_OCTETS_MAX} of letters, digits, '.', '+' and '-'")]
pub struct ReleaseError {
    /// What was given.
    pub text: String,
}

impl Release {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether another release comes after this one, by the rules of semantic versions: numbers by value, `2.0-rc.1` before
    /// `2.0`, what follows a `+` counts for nothing. A missing number counts as 0.
    ///
    /// Specification: Semantic Versioning 2.0.0 section 11, for any count of numbers.
    #[must_use]
    pub fn is_lower_than(&self, other: &Release) -> bool {
        order(&self.0, &other.0) == Ordering::Less
    }
}

fn order(one: &str, other: &str) -> Ordering {
    let parts = |text: &str| -> (String, Option<String>) {
        let text = text.split('+').next().unwrap_or_default();
        match text.split_once('-') {
            Some((core, before)) => (core.to_owned(), Some(before.to_owned())),
            None => (text.to_owned(), None),
        }
    };
    let ((core, before), (other_core, other_before)) = (parts(one), parts(other));
    dotted(&core, &other_core, true).then_with(|| match (&before, &other_before) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(before), Some(other)) => dotted(before, other, false),
    })
}

/// Compares part by part. What is missing counts as 0, or comes first.
fn dotted(one: &str, other: &str, missing_is_zero: bool) -> Ordering {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        let (left, right) = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) if !missing_is_zero => return Ordering::Less,
            (Some(_), None) if !missing_is_zero => return Ordering::Greater,
            (left, right) => (left.unwrap_or("0"), right.unwrap_or("0")),
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
        let compared = match (is_number(left), is_number(right)) {
            (true, true) => {
                let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
                left.len().cmp(&right.len()).then_with(|| left.cmp(right))
            }
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => left.cmp(right),
        };
        if compared != Ordering::Equal {
            return compared;
        }
    }
}

impl FromStr for Release {
    type Err = ReleaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match is_release(text) {
            true => Ok(Release(text.to_owned())),
            false => Err(ReleaseError { text: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for Release {
    type Error = ReleaseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Release> for String {
    fn from(release: Release) -> String {
        release.0
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn release(text: &str) -> Release {
        text.parse().unwrap()
    }

    #[test]
    fn releases_are_ordered_by_the_value_of_their_numbers() {
        let rising = [
            "0.9",
            "1.0-alpha",
            "1.0-alpha.1",
            "1.0-alpha.beta",
            "1.0-beta.2",
            "1.0-beta.11",
            "1.0-rc.1",
            "1.0",
            "1.0.1",
            "1.2",
            "1.10",
            "2.0",
        ];
        for (at, lower) in rising.iter().enumerate() {
            for higher in &rising[at + 1..] {
                assert!(release(lower).is_lower_than(&release(higher)), "{lower} {higher}");
                assert!(!release(higher).is_lower_than(&release(lower)), "{higher} {lower}");
            }
        }
        for (one, other) in [("1.0", "1.0.0"), ("1.0+b1", "1.0+b2"), ("1.01", "1.1")] {
            assert!(!release(one).is_lower_than(&release(other)) && !release(other).is_lower_than(&release(one)));
        }
    }

    #[test]
    fn text_that_would_leave_its_word_is_no_release() {
        for text in ["", "2 0", "2;rm", "../2", "{release}", "2\n", &"1".repeat(33)] {
            assert!(text.parse::<Release>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn of_two_releases_at_most_one_is_lower(one in "[0-9A-Za-z.+-]{1,32}", other in "[0-9A-Za-z.+-]{1,32}") {
            let (one, other) = (release(&one), release(&other));
            prop_assert!(!(one.is_lower_than(&other) && other.is_lower_than(&one)));
            prop_assert!(!one.is_lower_than(&one));
        }

        #[test]
        fn lower_than_a_lower_one_is_lower(mut three in prop::collection::vec("[0-2]([.+-][0-2a]){0,3}", 3)) {
            three.sort_by(|one, other| order(one, other));
            prop_assert!(order(&three[0], &three[2]) != Ordering::Greater);
            prop_assert!(order(&three[0], &three[1]) != Ordering::Greater);
        }
    }
}
