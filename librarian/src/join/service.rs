//! Requests to the join port and their answers.
//!
//! Errors are `application/problem+json` (RFC 9457) with a sentence that says what to do.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use certs::join::{JOIN_PATH, MESSAGE_OCTETS_MAX, RENEW_PATH, REVOCATIONS_PATH};
use certs::{JoinRequest, Peer, RenewRequest, UnixTime};
use http::{StatusCode, header};
use parking_lot::Mutex;
use serde_json::json;

use super::admit::{AdmitError, Desk, RenewError};
use crate::invite::InviteError;

/// What requests share.
pub(super) struct Shared {
    pub(super) desk: Arc<Desk>,
    pub(super) allowance: Mutex<Allowance>,
}

/// How many requests may still come: a bucket that fills with time.
pub(super) struct Allowance {
    per_second: f64,
    left: f64,
    filled: Instant,
}

impl Allowance {
    /// A full bucket of one second's requests.
    pub(super) fn new(per_second: u32, now: Instant) -> Allowance {
        Allowance {
            per_second: f64::from(per_second),
            left: f64::from(per_second),
            filled: now,
        }
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.left = (self.left + passed * self.per_second).min(self.per_second);
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

/// The routes.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(JOIN_PATH, post(join))
        .route(RENEW_PATH, post(renew))
        .route(REVOCATIONS_PATH, get(revocations))
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MESSAGE_OCTETS_MAX))
        .with_state(shared)
}

async fn join(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    if !shared.allowance.lock().take(Instant::now()) {
        return problem(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests to join: try again in a second",
        );
    }
    let admitted = match JoinRequest::from_json(&body) {
        Ok(request) => shared.desk.admit(request, UnixTime::now()).await,
        Err(error) => Err(error.into()),
    };
    match admitted {
        Ok(answer) => {
            let body = serde_json::to_vec(&answer).expect("texts and addresses are JSON");
            (
                [
                    (header::CONTENT_TYPE, "application/json"),
                    (header::CACHE_CONTROL, "no-store"),
                ],
                body,
            )
                .into_response()
        }
        Err(error) => {
            let status = status(&error);
            if status.is_server_error() {
                tracing::error!(error = &error as &dyn std::error::Error, "server could not be let in");
                problem(
                    status,
                    "the librarian failed: see its log, then ask for a new token with `librarian invite`",
                )
            } else {
                tracing::warn!(why = %error, "server was not let in");
                problem(status, &error.to_string())
            }
        }
    }
}

fn status(error: &AdmitError) -> StatusCode {
    match error {
        AdmitError::Message(_) | AdmitError::Request(_) => StatusCode::BAD_REQUEST,
        AdmitError::Invite(InviteError::Unknown { .. } | InviteError::Expired { .. }) => StatusCode::FORBIDDEN,
        AdmitError::Invite(InviteError::File(_) | InviteError::Malformed { .. })
        | AdmitError::Keys(_)
        | AdmitError::Trust(_)
        | AdmitError::Revocations(_)
        | AdmitError::Registry(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Who has shown a certificate of this pool in the handshake.
pub(super) type Shown = Option<Arc<Peer>>;

fn nobody() -> Response {
    problem(
        StatusCode::FORBIDDEN,
        "show a good certificate of this pool in the handshake: a server whose time is over joins again",
    )
}

async fn renew(State(shared): State<Arc<Shared>>, Extension(shown): Extension<Shown>, body: Bytes) -> Response {
    if !shared.allowance.lock().take(Instant::now()) {
        return problem(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests: try again in a second",
        );
    }
    let Some(peer) = shown else { return nobody() };
    let renewed = match RenewRequest::from_json(&body) {
        Ok(request) => shared.desk.renew(peer, request, UnixTime::now()).await,
        Err(error) => Err(error.into()),
    };
    match renewed {
        Ok(answer) => ([(header::CACHE_CONTROL, "no-store")], axum::Json(answer)).into_response(),
        Err(error) => not_renewed(&error),
    }
}

async fn revocations(State(shared): State<Arc<Shared>>, Extension(shown): Extension<Shown>) -> Response {
    let Some(peer) = shown else { return nobody() };
    match shared.desk.revocations(peer, UnixTime::now()).await {
        Ok(document) => (
            [
                (header::CONTENT_TYPE, "application/json"),
                (header::CACHE_CONTROL, "no-store"),
            ],
            document,
        )
            .into_response(),
        Err(error) => not_renewed(&error),
    }
}

fn not_renewed(error: &RenewError) -> Response {
    let status = match error {
        RenewError::Message(_) | RenewError::Request(_) => StatusCode::BAD_REQUEST,
        RenewError::Peer(_) | RenewError::Unknown { .. } => StatusCode::FORBIDDEN,
        RenewError::Keys(_) | RenewError::Revocations(_) => {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "certificates cannot be looked after"
            );
            return problem(StatusCode::INTERNAL_SERVER_ERROR, "the librarian failed: see its log");
        }
    };
    tracing::warn!(why = %error, "a certificate was not renewed");
    problem(status, &error.to_string())
}

async fn nothing() -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "servers join here with POST /join: use `agent join`",
    )
}

async fn wrong_method() -> Response {
    problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "servers join here with POST /join: use `agent join`",
    )
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let body = json!({
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        body.to_string(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_allowance_fills_with_time_and_never_above_a_second() {
        let start = Instant::now();
        let mut allowance = Allowance::new(3, start);
        let takes = |allowance: &mut Allowance, now| (0..10).filter(|_| allowance.take(now)).count();
        assert_eq!(takes(&mut allowance, start), 3);
        assert_eq!(takes(&mut allowance, start + SECOND / 3 + Duration::from_millis(1)), 1);
        assert_eq!(takes(&mut allowance, start + 100 * SECOND), 3);
        assert_eq!(
            takes(&mut allowance, start),
            0,
            "a clock that stands still gives nothing"
        );
    }
}
