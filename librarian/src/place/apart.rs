//! Failure domains: which servers one fault may take at once, as the operator labels them.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};
use zones::ServerName;

/// Longest label, in octets.
const LABEL_OCTETS_MAX: usize = 63;

/// Name of a rack or a region: `[0-9A-Za-z._-]{1,63}`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Label(String);

/// A text is not a label.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a label: use 1 to 63 of 0-9, A-Z, a-z, '.', '_' and '-'")]
pub struct LabelError {
    /// What was given.
    pub text: String,
}

/// Where a server stands, as far as it is said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Labels<'a> {
    /// Its rack; racks of different regions may bear the same name.
    pub rack: Option<&'a Label>,
    /// Its region.
    pub region: Option<&'a Label>,
}

/// How far apart two servers stand, the nearest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Apart {
    /// In one rack.
    SameRack,
    /// In one region, and in no rack that both are said to be in.
    SameRegion,
    /// In nothing that both are said to be in.
    OtherRegion,
}

/// A server that may take a copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Site<'a> {
    /// Its name.
    pub name: &'a ServerName,
    /// Where it stands.
    pub labels: Labels<'a>,
    /// What it costs (`Server::cost`).
    pub cost: f64,
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = (1..=LABEL_OCTETS_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|octet| octet.is_ascii_alphanumeric() || b"._-".contains(&octet));
        if legal {
            Ok(Label(text.to_owned()))
        } else {
            Err(LabelError { text: text.to_owned() })
        }
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// How far apart two servers stand. One without a label shares it with none.
#[must_use]
pub fn apart(a: Labels<'_>, b: Labels<'_>) -> Apart {
    let same_region = a.region.is_some() && a.region == b.region;
    let may_share_a_rack = same_region || a.region.is_none() || b.region.is_none();
    if may_share_a_rack && a.rack.is_some() && a.rack == b.rack {
        Apart::SameRack
    } else if same_region {
        Apart::SameRegion
    } else {
        Apart::OtherRegion
    }
}

/// Orders servers for one more copy of something that others have: the farthest from the nearest of these first, then the least
/// costly, then by name.
#[must_use]
pub fn choose<'a>(mut sites: Vec<Site<'a>>, away_from: &[Labels<'_>]) -> Vec<Site<'a>> {
    let nearest = |site: &Site<'_>| away_from.iter().map(|other| apart(site.labels, *other)).min();
    sites.sort_by(|a, b| {
        let farther = nearest(b).cmp(&nearest(a));
        farther.then(a.cost.total_cmp(&b.cost)).then_with(|| a.name.cmp(b.name))
    });
    sites
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Option<Label> {
        (text != "-").then(|| text.parse().unwrap())
    }

    #[test]
    fn labels_are_short_and_plain() {
        for text in ["r1", "eu-west_1.a", &"x".repeat(63)] {
            assert_eq!(text.parse::<Label>(), Ok(Label(text.to_owned())));
        }
        for text in ["", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
    }

    #[test]
    fn servers_share_only_what_both_are_said_to_be_in() {
        for (rack_a, region_a, rack_b, region_b, expected) in [
            ("r1", "eu", "r1", "eu", Apart::SameRack),
            ("r1", "eu", "r2", "eu", Apart::SameRegion),
            ("r1", "eu", "r1", "us", Apart::OtherRegion),
            ("r1", "-", "r1", "-", Apart::SameRack),
            ("r1", "eu", "r1", "-", Apart::SameRack),
            ("-", "eu", "-", "eu", Apart::SameRegion),
            ("-", "eu", "r1", "-", Apart::OtherRegion),
            ("-", "-", "-", "-", Apart::OtherRegion),
        ] {
            let texts = [rack_a, region_a, rack_b, region_b].map(label);
            let [a, b] = [0, 2].map(|at| Labels {
                rack: texts[at].as_ref(),
                region: texts[at + 1].as_ref(),
            });
            assert_eq!(apart(a, b), expected, "{a:?} {b:?}");
            assert_eq!(apart(b, a), expected, "{b:?} {a:?}");
        }
        assert!(Apart::SameRack < Apart::SameRegion && Apart::SameRegion < Apart::OtherRegion);
    }

    #[test]
    fn copy_goes_farthest_from_the_nearest_other_copy_and_then_where_it_costs_least() {
        let [r1, r2, eu, us] = ["r1", "r2", "eu", "us"].map(|text| text.parse::<Label>().unwrap());
        let names = ["s1", "s2", "s3", "s4", "s5"].map(|name| name.parse::<ServerName>().unwrap());
        let at = |rack, region| Labels {
            rack: Some(rack),
            region: Some(region),
        };
        let sites = || {
            let labels = [at(&r1, &eu), at(&r2, &eu), at(&r1, &us), at(&r2, &us), at(&r2, &us)];
            let sites = names.iter().zip(labels).zip([1.0, 2.0, 9.0, 4.0, 4.0]);
            sites
                .map(|((name, labels), cost)| Site { name, labels, cost })
                .collect()
        };
        let order = |away_from: &[Labels<'_>]| {
            let chosen = choose(sites(), away_from);
            chosen.iter().map(|site| site.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(order(&[]), ["s1", "s2", "s4", "s5", "s3"]);
        assert_eq!(order(&[at(&r1, &eu)]), ["s4", "s5", "s3", "s2", "s1"]);
        assert_eq!(order(&[at(&r1, &eu), at(&r2, &us)]), ["s2", "s3", "s1", "s4", "s5"]);
    }
}
