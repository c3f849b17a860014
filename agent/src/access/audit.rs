//! `GET /audit`: the log of moves, for the librarian alone.
//!
//! `after=NUMBER` begins behind an entry, `limit=NUMBER` bounds a page. Everybody else is told what an unknown path is told.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use certs::Who;
use http::StatusCode;
use serde_json::json;

use super::Access;
use super::caller::{self, ConnectionPeer};
use super::problem::Problem;
use super::serve::no_path;

/// Most entries of one page.
const LIMIT_MAX: usize = 1000;

/// What a query asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct AuditQuery {
    after: u64,
    limit: usize,
}

impl AuditQuery {
    fn read(query: &str) -> Option<AuditQuery> {
        let mut read = AuditQuery {
            after: 0,
            limit: LIMIT_MAX,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=')? {
                ("after", number) => read.after = number.parse().ok()?,
                ("limit", number) => read.limit = number.parse().ok().filter(|limit| *limit > 0)?,
                _ => return None,
            }
        }
        read.limit = read.limit.min(LIMIT_MAX);
        Some(read)
    }
}

/// Whether the librarian asks.
pub(super) fn is_librarian(access: &Access, request: &Request) -> bool {
    let peer = request
        .extensions()
        .get::<Arc<ConnectionPeer>>()
        .expect("every connection has shown a certificate");
    match &peer.peer.who {
        Who::Librarian => peer.peer.check(caller::now(), &access.revoked.load()).is_ok(),
        Who::Server(_) | Who::Client { .. } => false,
    }
}

pub(super) async fn page(State(access): State<Arc<Access>>, request: Request) -> Result<Response, Problem> {
    if !is_librarian(&access, &request) {
        return Err(no_path().await);
    }
    let query = AuditQuery::read(request.uri().query().unwrap_or_default()).ok_or_else(|| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "the query is not understood: it knows after=NUMBER and limit=NUMBER",
        )
    })?;
    let store = Arc::clone(access.objects.store());
    let page = tokio::task::spawn_blocking(move || store.audit(query.after, query.limit));
    let page = page.await.expect("reading the log does not panic").map_err(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the log of moves cannot be read"
        );
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the log of moves cannot be read: see this server's log",
        )
    })?;
    let entries: Vec<_> = page
        .entries
        .iter()
        .map(|(number, line)| json!({"number": number, "line": String::from_utf8_lossy(line)}))
        .collect();
    Ok(axum::Json(json!({"head": page.head, "entries": entries})).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_query_shows_nothing() {
        let read = AuditQuery::read("after=7&limit=5000").unwrap();
        assert_eq!(
            read,
            AuditQuery {
                after: 7,
                limit: LIMIT_MAX
            }
        );
        assert_eq!(AuditQuery::read("").unwrap().after, 0);
        for query in ["after", "after=-1", "limit=0", "before=3", "after=7&&x=1"] {
            assert_eq!(AuditQuery::read(query), None, "{query}");
        }
    }
}
