//! Entity tags and conditional requests.
//!
//! The tag of an object is `"revision.schema"`. Revision counts client writes, so a write compares the revision alone: a
//! schema step or a move between reading and writing changes nothing that a client wrote (DESIGN.md section 10).
//!
//! Specifications: RFC 9110 sections 8.8.3 (entity tags), 13.1 (preconditions), 13.2 (their order).

use std::fmt;

use http::HeaderMap;
use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH, IF_RANGE};

use crate::objects::Condition;

/// Most tags in one header; a longer list is refused.
const TAGS_MAX: usize = 64;

/// The entity tag of an object, its properties and its body alike.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Tag {
    /// Client writes so far.
    pub revision: u64,
    /// Version of the schema that the properties are in.
    pub schema: u32,
}

/// The tags of one `If-Match` or `If-None-Match`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tags {
    /// `*`: any copy at all.
    Any,
    /// A list. A tag that this pool never made is kept out of it: it matches nothing.
    Listed(Vec<Tag>),
}

/// What must be true of the object for the request to be done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Preconditions {
    /// `If-Match`.
    pub if_match: Option<Tags>,
    /// `If-None-Match`.
    pub if_none_match: Option<Tags>,
}

/// A conditional header breaks its grammar.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{header} holds no entity tags: write them as the ETag header gave them, such as {header}: \"7.3\", or *")]
pub struct ConditionError {
    /// Which header.
    pub header: &'static str,
}

/// A write asks for a condition that is not served. Nothing is written then, never without the condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WriteConditionError {
    /// Several tags in `If-Match`.
    #[error("If-Match of a write names several revisions: name the one that you read")]
    Several,
    /// Tags in `If-None-Match`.
    #[error("If-None-Match of a write is * only: name the revision that you read in If-Match instead")]
    NoneOfSeveral,
    /// Both headers.
    #[error("a write has both If-Match and If-None-Match: give one of them")]
    Both,
}

/// How a read goes on after its preconditions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadVerdict {
    /// Answer it.
    Go,
    /// 304: the client has this copy.
    NotModified,
    /// 412: `If-Match` names other copies.
    Failed,
}

impl Tag {
    /// Reads one strong tag, quotes included. `None` for a tag that this pool never made.
    #[must_use]
    pub fn read(text: &str) -> Option<Tag> {
        let (revision, schema) = text.strip_prefix('"')?.strip_suffix('"')?.split_once('.')?;
        let tag = Tag {
            revision: revision.parse().ok()?,
            schema: schema.parse().ok()?,
        };
        // Only the one spelling that we make: no sign, no leading zero.
        (tag.to_string() == text).then_some(tag)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}.{}\"", self.revision, self.schema)
    }
}

impl Tags {
    fn holds(&self, tag: Tag) -> bool {
        match self {
            Tags::Any => true,
            Tags::Listed(tags) => tags.contains(&tag),
        }
    }
}

impl Preconditions {
    /// Reads both headers.
    ///
    /// # Errors
    ///
    /// [`ConditionError`], answered with 400: a write must not go on as if it had no condition.
    pub fn read(headers: &HeaderMap) -> Result<Preconditions, ConditionError> {
        Ok(Preconditions {
            if_match: tags(headers, IF_MATCH, "If-Match")?,
            if_none_match: tags(headers, IF_NONE_MATCH, "If-None-Match")?,
        })
    }

    /// Judges a read of a copy that exists, in the order of RFC 9110 section 13.2.2.
    #[must_use]
    pub fn judge_read(&self, tag: Tag) -> ReadVerdict {
        if self.if_match.as_ref().is_some_and(|tags| !tags.holds(tag)) {
            return ReadVerdict::Failed;
        }
        if self.if_none_match.as_ref().is_some_and(|tags| tags.holds(tag)) {
            return ReadVerdict::NotModified;
        }
        ReadVerdict::Go
    }

    /// The condition of a write, which looks at the revision alone.
    ///
    /// # Errors
    ///
    /// [`WriteConditionError`] for what no write of this pool can be asked to check.
    pub fn of_write(&self) -> Result<Condition, WriteConditionError> {
        match (&self.if_match, &self.if_none_match) {
            (None, None) => Ok(Condition::Any),
            (None, Some(Tags::Any)) => Ok(Condition::IfAbsent),
            (Some(Tags::Any), None) => Ok(Condition::IfExists),
            (Some(Tags::Listed(tags)), None) => match tags.as_slice() {
                [tag] => Ok(Condition::IfRevision(tag.revision)),
                // Tags that this pool never made: no copy has such a revision, for the first is 1.
                [] => Ok(Condition::IfRevision(0)),
                [_, _, ..] => Err(WriteConditionError::Several),
            },
            (None, Some(Tags::Listed(_))) => Err(WriteConditionError::NoneOfSeveral),
            (Some(_), Some(_)) => Err(WriteConditionError::Both),
        }
    }
}

/// Whether a `Range` is to be honoured: without `If-Range`, or if it names this very copy. A date never does, since no
/// object has a date.
#[must_use]
pub fn range_is_for(headers: &HeaderMap, tag: Tag) -> bool {
    match headers.get(IF_RANGE) {
        None => true,
        Some(value) => value.to_str().ok().and_then(Tag::read) == Some(tag),
    }
}

fn tags(headers: &HeaderMap, name: HeaderName, header: &'static str) -> Result<Option<Tags>, ConditionError> {
    let mut found: Option<Tags> = None;
    for value in headers.get_all(&name) {
        let text = value.to_str().map_err(|_| ConditionError { header })?;
        let more = list(text).ok_or(ConditionError { header })?;
        found = Some(match (found, more) {
            (None, more) => more,
            (Some(Tags::Listed(mut all)), Tags::Listed(more)) if all.len() + more.len() <= TAGS_MAX => {
                all.extend(more);
                Tags::Listed(all)
            }
            // `*` stands alone (RFC 9110 section 13.1.1), and the list has a bound.
            (Some(Tags::Any | Tags::Listed(_)), Tags::Any | Tags::Listed(_)) => return Err(ConditionError { header }),
        });
    }
    Ok(found)
}

/// Reads `*` or a list of tags; `W/` before a tag is allowed and ignored, since ours are strong and equal either way.
fn list(text: &str) -> Option<Tags> {
    let mut rest = text.trim();
    if rest == "*" {
        return Some(Tags::Any);
    }
    let mut tags = Vec::new();
    let mut seen = 0;
    while !rest.is_empty() {
        if let Some(next) = rest.strip_prefix(',') {
            rest = next.trim_start();
            continue;
        }
        let weak = rest.strip_prefix("W/");
        let quoted = weak.unwrap_or(rest);
        let end = quoted.strip_prefix('"')?.find('"')? + 2;
        let (tag, after) = quoted.split_at(end);
        seen += 1;
        if seen > TAGS_MAX {
            return None;
        }
        tags.extend(Tag::read(tag));
        rest = after.trim_start();
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
    (seen > 0).then_some(Tags::Listed(tags))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn preconditions(pairs: &[(HeaderName, &str)]) -> Preconditions {
        Preconditions::read(&headers(pairs)).unwrap()
    }

    const TAG: Tag = Tag { revision: 7, schema: 3 };

    #[test]
    fn reads_compare_the_whole_tag_and_writes_the_revision_alone() {
        let older_schema = preconditions(&[(IF_MATCH, "\"7.2\"")]);
        assert_eq!(older_schema.judge_read(TAG), ReadVerdict::Failed);
        assert_eq!(older_schema.of_write(), Ok(Condition::IfRevision(7)));
    }

    #[test]
    fn if_none_match_star_creates_and_never_overwrites() {
        let create = preconditions(&[(IF_NONE_MATCH, "*")]);
        assert_eq!(create.of_write(), Ok(Condition::IfAbsent));
        assert_eq!(create.judge_read(TAG), ReadVerdict::NotModified);
    }

    #[test]
    fn if_match_is_judged_before_if_none_match() {
        let both = preconditions(&[(IF_MATCH, "\"6.3\""), (IF_NONE_MATCH, "\"7.3\"")]);
        assert_eq!(both.judge_read(TAG), ReadVerdict::Failed);
    }

    #[test]
    fn tags_of_others_match_nothing_and_lists_join() {
        let listed = preconditions(&[(IF_NONE_MATCH, "\"abc\", W/\"7.3\" ,"), (IF_NONE_MATCH, "\"07.3\"")]);
        assert_eq!(listed.judge_read(TAG), ReadVerdict::NotModified);
        let others = preconditions(&[(IF_NONE_MATCH, "\"abc\", \"07.3\", \"a,b\"")]);
        assert_eq!(others.judge_read(TAG), ReadVerdict::Go);
    }

    #[test]
    fn broken_condition_is_an_error_and_never_no_condition() {
        for text in ["7.3", "\"7.3", "\"7.3\" \"7.4\"", "", ",", "*, \"7.3\"", "'7.3'"] {
            assert!(Preconditions::read(&headers(&[(IF_MATCH, text)])).is_err(), "{text}");
        }
        let many = vec!["\"7.3\""; TAGS_MAX + 1].join(",");
        assert!(Preconditions::read(&headers(&[(IF_MATCH, &many)])).is_err());
    }

    #[test]
    fn write_with_a_condition_that_is_not_served_is_never_without_condition() {
        assert_eq!(preconditions(&[]).of_write(), Ok(Condition::Any));
        assert_eq!(preconditions(&[(IF_MATCH, "*")]).of_write(), Ok(Condition::IfExists));
        assert_eq!(
            preconditions(&[(IF_MATCH, "\"other\"")]).of_write(),
            Ok(Condition::IfRevision(0))
        );
        let several = preconditions(&[(IF_MATCH, "\"1.1\", \"2.1\"")]).of_write();
        assert_eq!(several, Err(WriteConditionError::Several));
        let none_of = preconditions(&[(IF_NONE_MATCH, "\"1.1\"")]).of_write();
        assert_eq!(none_of, Err(WriteConditionError::NoneOfSeveral));
        let both = preconditions(&[(IF_MATCH, "\"1.1\""), (IF_NONE_MATCH, "*")]).of_write();
        assert_eq!(both, Err(WriteConditionError::Both));
    }

    #[test]
    fn range_goes_with_its_own_copy_only() {
        assert!(range_is_for(&headers(&[]), TAG));
        assert!(range_is_for(&headers(&[(IF_RANGE, "\"7.3\"")]), TAG));
        assert!(!range_is_for(&headers(&[(IF_RANGE, "W/\"7.3\"")]), TAG));
        assert!(!range_is_for(
            &headers(&[(IF_RANGE, "Sat, 29 Oct 1994 19:43:31 GMT")]),
            TAG
        ));
    }

    proptest! {
        #[test]
        fn tag_reads_back(revision in any::<u64>(), schema in any::<u32>()) {
            let tag = Tag { revision, schema };
            prop_assert_eq!(Tag::read(&tag.to_string()), Some(tag));
        }

        #[test]
        fn list_of_any_text_is_read_without_panic(text in "[ ,*W/\".0-9ä]{0,40}") {
            let _ = list(&text);
            let _ = Tag::read(&text);
        }
    }
}
