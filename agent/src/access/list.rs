//! Listings of what this agent owns and the caller may see.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use certs::Verb;
use http::StatusCode;
use percent_encoding::percent_decode_str;
use zones::Address;

use crate::access::Access;
use crate::access::problem::Problem;
use crate::access::{serve, target};

/// Most objects in one answer, and how many there are if the caller does not say.
const LIMIT_MAX: usize = 1000;
/// Objects looked at before others get a turn.
const LOOK: usize = 4096;

/// What a listing asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ListQuery {
    /// This address and all below it.
    pub under: Option<Address>,
    /// Only what sorts behind this address.
    pub after: Option<Address>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// Why a query of a listing is not understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ListQueryError {
    /// Not UTF-8 behind its percent signs.
    #[error("the query is not UTF-8")]
    Encoding,
    /// Another parameter, or one twice.
    #[error("the query has {name:?}: it knows under=ADDRESS, after=ADDRESS and limit=NUMBER, each once")]
    Parameter {
        /// Its name.
        name: String,
    },
    /// An address that is none.
    #[error("{name}: {source}")]
    Address {
        /// The parameter.
        name: &'static str,
        /// What is wrong.
        source: target::TargetError,
    },
    /// A limit that is none.
    #[error("limit is a number between 1 and {LIMIT_MAX}")]
    Limit,
}

impl ListQuery {
    /// Reads the query of a URI.
    ///
    /// # Errors
    ///
    /// [`ListQueryError`]: a misspelt parameter must not list everything.
    pub fn read(query: &str) -> Result<ListQuery, ListQueryError> {
        let mut read = ListQuery::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // No address has a '+', so form encoding and percent encoding are the same here.
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| ListQueryError::Encoding)?;
            let address = |name| target::bare(&value).map_err(|source| ListQueryError::Address { name, source });
            match name {
                "under" if read.under.is_none() => read.under = Some(address("under")?),
                "after" if read.after.is_none() => read.after = Some(address("after")?),
                "limit" if read.limit.is_none() => match value.parse() {
                    Ok(limit) if limit > 0 => read.limit = Some(limit),
                    Ok(_) | Err(_) => return Err(ListQueryError::Limit),
                },
                other => return Err(ListQueryError::Parameter { name: other.to_owned() }),
            }
        }
        Ok(read)
    }
}

pub(super) async fn list(State(access): State<Arc<Access>>, request: Request) -> Result<Response, Problem> {
    let caller = access.caller(&request)?;
    if caller.via.is_some() {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "listings are not forwarded: ask each server itself",
        ));
    }
    let query = ListQuery::read(request.uri().query().unwrap_or_default())
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let limit = query.limit.unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
    let mut seen = Vec::new();
    let mut after = query.after.clone();
    // One more than asked for tells whether a next page has anything to show. `next` is always an object that the caller
    // may see: the place where the search stopped would tell of others.
    loop {
        let found = access.objects.list(query.under.as_ref(), after.as_ref(), LOOK);
        let last = found.last().map(|object| object.address.clone());
        let whole = found.len() < LOOK;
        seen.extend(
            found
                .into_iter()
                .filter(|object| caller.may(Verb::Read, &object.address)),
        );
        if whole || seen.len() > limit {
            break;
        }
        after = last;
        tokio::task::yield_now().await;
    }
    let more = seen.len() > limit;
    seen.truncate(limit);
    let next = seen.last().filter(|_| more).map(|object| object.address.clone());
    Ok(serve::page(&seen, next.as_ref()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn query_is_read_as_it_is_written() {
        let query = ListQuery::read("under=3.1&after=3%2E1.4&limit=10").unwrap();
        assert_eq!(query.under.unwrap().as_str(), "3.1");
        assert_eq!(query.after.unwrap().as_str(), "3.1.4");
        assert_eq!(query.limit, Some(10));
        assert_eq!(ListQuery::read("").unwrap(), ListQuery::default());
    }

    #[test]
    fn misspelt_query_lists_nothing() {
        for query in [
            "undr=3.1",
            "under=3.1&under=4",
            "under=",
            "under=3..1",
            "limit=0",
            "limit=-1",
            "limit=x",
            "under=%ff",
        ] {
            assert!(ListQuery::read(query).is_err(), "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_without_panic(query in "[a-z0-9=&%.]{0,40}") {
            let _ = ListQuery::read(&query);
        }
    }
}
