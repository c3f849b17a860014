//! `GET /quarantine`: the objects that a schema step failed on, for the librarian alone.
//!
//! `after=ADDRESS` begins behind an object. Everybody else is told what an unknown path is told: a client sees the reasons of its own
//! objects in listings.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;
use zones::Address;

use super::Access;
use super::audit::is_librarian;
use super::problem::Problem;
use super::serve::no_path;
use crate::objects::Objects;

/// Most objects of one page.
const LIMIT_MAX: usize = 1000;
/// Objects that are looked at in one go.
const LOOKED_AT_MAX: usize = 4096;

pub(super) async fn page(State(access): State<Arc<Access>>, request: Request) -> Result<Response, Problem> {
    if !is_librarian(&access, &request) {
        return Err(no_path().await);
    }
    let after = read(request.uri().query().unwrap_or_default()).ok_or_else(|| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "the query is not understood: it knows after=ADDRESS",
        )
    })?;
    let objects = Arc::clone(&access.objects);
    let (listed, next) = tokio::task::spawn_blocking(move || list(&objects, after))
        .await
        .expect("looking through the index does not panic");
    Ok(axum::Json(json!({ "objects": listed, "next": next.map(|next| next.to_string()) })).into_response())
}

/// A page of the list, and the address behind which more may follow.
fn list(objects: &Objects, mut after: Option<Address>) -> (Vec<serde_json::Value>, Option<Address>) {
    let mut listed = Vec::new();
    loop {
        let looked_at = objects.local().list(None, after.as_ref(), LOOKED_AT_MAX);
        for object in &looked_at {
            after = Some(object.address.clone());
            if let Some(reason) = &object.quarantined {
                listed.push(json!({
                    "address": object.address.as_str(),
                    "type": object.kind.as_str(),
                    "schema": object.schema,
                    "reason": reason,
                }));
                if listed.len() == LIMIT_MAX {
                    return (listed, after);
                }
            }
        }
        if looked_at.len() < LOOKED_AT_MAX {
            return (listed, None);
        }
    }
}

fn read(query: &str) -> Option<Option<Address>> {
    match query {
        "" => Some(None),
        query => query.strip_prefix("after=")?.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_query_shows_nothing() {
        assert_eq!(read(""), Some(None));
        assert_eq!(read("after=3.1"), Some(Some("3.1".parse().unwrap())));
        for query in ["after=", "after=3..1", "before=3.1", "after"] {
            assert_eq!(read(query), None, "{query}");
        }
    }
}
