//! Errors as clients see them: `application/problem+json` with a sentence that says what to do.
//!
//! A problem carries no `type`: its meaning is the status (RFC 9457 section 4.2.1) and the extra members here.
//!
//! | member     | is                                                            | with          |
//! |------------|---------------------------------------------------------------|---------------|
//! | `title`    | the status in words                                           | every problem |
//! | `status`   | its number                                                    | every problem |
//! | `detail`   | what is wrong and what to do                                  | every problem |
//! | `owner`    | the server that owns the object                               | 307, 421      |
//! | `revision` | the object's revision; `null` if there is no object           | 412           |
//!
//! Specifications: RFC 9457, RFC 9110 sections 10.2.3 (`Retry-After`) and 15.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use zones::ServerName;

/// Media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// One error answer.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of a status; `detail` says what is wrong and what to do.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        let mut members = Map::new();
        members.insert("title".to_owned(), json!(status.canonical_reason()));
        members.insert("status".to_owned(), json!(status.as_u16()));
        members.insert("detail".to_owned(), Value::String(detail.into()));
        Problem {
            status,
            members,
            headers: Vec::new(),
        }
    }

    /// The one answer for what does not exist and for what the client may not see.
    #[must_use]
    pub fn absent() -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "there is no such object, or this certificate has no grant to read it: check the address and the grants",
        )
    }

    /// 307 to the owner.
    #[must_use]
    pub fn elsewhere(owner: &ServerName, location: &str) -> Problem {
        let mut problem = Problem::new(
            StatusCode::TEMPORARY_REDIRECT,
            format!("the object is on {owner}: ask there, with the same method and headers"),
        );
        problem.members.insert("owner".to_owned(), json!(owner.as_str()));
        problem.with(LOCATION, location)
    }

    /// 421 after two hops.
    #[must_use]
    pub fn misdirected(owner: &ServerName) -> Problem {
        let mut problem = Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            format!("the request was passed on twice and the object is on {owner}: ask {owner} itself"),
        );
        problem.members.insert("owner".to_owned(), json!(owner.as_str()));
        problem
    }

    /// 412 with the present revision.
    #[must_use]
    pub fn precondition(detail: impl Into<String>, revision: Option<u64>) -> Problem {
        let mut problem = Problem::new(StatusCode::PRECONDITION_FAILED, detail);
        problem.members.insert("revision".to_owned(), json!(revision));
        problem
    }

    /// 416 with the length of the body.
    #[must_use]
    pub fn unsatisfiable(total: u64) -> Problem {
        let detail = match total.checked_sub(1) {
            Some(last) => format!("none of the octets asked for exists: ask within 0-{last}"),
            None => "the body is empty: ask without a range".to_owned(),
        };
        Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, detail).with(CONTENT_RANGE, &format!("bytes */{total}"))
    }

    /// 503: ask again after a while.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>, retry_after: Duration) -> Problem {
        // The header knows whole seconds only; 0 would be "at once".
        let seconds = retry_after.as_millis().div_ceil(1000).max(1);
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with(RETRY_AFTER, &seconds.to_string())
    }

    /// Adds a header.
    ///
    /// # Panics
    ///
    /// If `value` is no header value: ours are ASCII.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: &str) -> Problem {
        let value = HeaderValue::from_str(value).expect("our header values are visible ASCII");
        self.headers.push((name, value));
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The sentence.
    #[must_use]
    pub fn detail(&self) -> &str {
        self.members["detail"].as_str().unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Value::Object(self.members).to_string();
        let mut response = (
            self.status,
            [(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))],
            body,
        )
            .into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn problem_says_its_status_in_line_and_body() {
        let response = Problem::unavailable("wait", Duration::from_millis(1)).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.headers()[CONTENT_TYPE], MEDIA_TYPE);
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["status"], 503);
        assert_eq!(body["detail"], "wait");
    }

    #[test]
    fn redirect_is_absolute_and_names_the_owner() {
        let owner: ServerName = "s4".parse().unwrap();
        let problem = Problem::elsewhere(&owner, "https://s4.pool.hypernet.internal:9004/objects/3.1");
        assert_eq!(problem.members["owner"], "s4");
        assert_eq!(
            problem.headers,
            [(
                LOCATION,
                HeaderValue::from_static("https://s4.pool.hypernet.internal:9004/objects/3.1")
            )]
        );
    }
}
