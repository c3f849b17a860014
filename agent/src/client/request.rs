//! One request, repeated until somebody answers it for good.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{ETAG, LOCATION, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use uuid::Uuid;
use zones::Address;

use crate::access::condition::Tag;
use crate::access::range::RangeRequest;
use crate::access::{IDEMPOTENCY_KEY, chain};
use crate::client::Client;
use crate::client::body::{Pulse, Upload};
use crate::client::counts::Counters;
use crate::client::error::ClientError;
use crate::client::locate::{Located, Purpose, Target};
use crate::client::words::ProblemText;

/// Longest wait for a connection.
pub(super) const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// How long an idle connection is kept: less than an agent keeps it, so that few requests meet a closing one.
pub(super) const IDLE_KEEP: Duration = Duration::from_secs(20);
/// How often a silent connection is asked whether it lives.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(10);
/// Longest standstill of a request or a body. An agent answers 503 long before.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// Most times that a body is taken up again without an octet between.
pub(super) const RESUMES_MAX: u32 = 8;
/// Most redirects in a row; two reach the owner (DESIGN.md I10).
const REDIRECTS_MAX: u32 = 4;
/// Longest wait between two rounds.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Shortest wait between two rounds.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Largest answer that is taken into memory: properties of 16 MiB, and what JSON adds.
const WHOLE_OCTETS_MAX: usize = 40 << 20;

/// What is asked.
pub(super) struct Call {
    method: Method,
    address: Address,
    /// What follows the address in the path.
    tail: Cow<'static, str>,
    headers: HeaderMap,
    payload: Option<Upload>,
    purpose: Purpose,
    /// Whether the answer's body is taken into memory.
    whole: bool,
}

/// An answer that is no error.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) server: Box<str>,
    pub(super) content: Content,
}

pub(super) enum Content {
    Whole(Bytes),
    Stream(reqwest::Response),
}

/// Whom a call is for.
enum Found {
    Here(Vec<Target>),
    /// The client of the pool that has the object.
    Other(Client),
}

/// What one attempt gave.
enum Attempt {
    Done(Reply),
    /// The owner is another.
    Elsewhere(Target),
    /// Repeating helps, at the next server or after a while.
    Again {
        why: String,
        wait: Option<Duration>,
    },
    /// Only another server can help.
    Next(ClientError),
    Failed(ClientError),
}

impl Call {
    pub(super) fn new(method: Method, address: &Address, tail: impl Into<Cow<'static, str>>, purpose: Purpose) -> Call {
        Call {
            method,
            address: address.clone(),
            tail: tail.into(),
            headers: HeaderMap::new(),
            payload: None,
            purpose,
            whole: true,
        }
    }

    pub(super) fn read_body(address: &Address, range: Option<RangeRequest>) -> Call {
        let mut call = Call::new(Method::GET, address, "/body", Purpose::Reading);
        call.whole = false;
        if let Some(range) = range {
            call = call.header(RANGE, &range.to_string());
        }
        call
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Call {
        let value = HeaderValue::from_str(value).expect("our header values are visible ASCII");
        self.headers.insert(name, value);
        self
    }

    pub(super) fn payload(mut self, payload: Upload) -> Call {
        self.payload = Some(payload);
        self
    }

    fn is_spent(&self) -> bool {
        self.payload.as_ref().is_some_and(Upload::is_spent)
    }

    pub(super) fn write_id(self, id: Option<Uuid>) -> Call {
        let id = id.unwrap_or_else(Uuid::now_v7);
        self.header(IDEMPOTENCY_KEY, &id.to_string())
    }
}

impl Client {
    /// Does a call: looks up, asks, follows redirects, repeats.
    pub(super) async fn call(&self, call: &Call) -> Result<Reply, ClientError> {
        let patience = self.inner.settings.patience;
        let start = Instant::now();
        let mut backoff = BACKOFF_MIN;
        let mut fresh = false;
        loop {
            let (why, wait) = match self.find(call, fresh).await {
                Ok(Found::Other(other)) => return Box::pin(other.call(call)).await,
                Ok(Found::Here(targets)) => match self.ask_in_turn(call, targets).await {
                    Ok(reply) => return Ok(reply),
                    Err(Attempt::Failed(error)) => return Err(error),
                    Err(Attempt::Again { why, wait }) => (why, wait),
                    Err(Attempt::Done(_) | Attempt::Elsewhere(_) | Attempt::Next(_)) => {
                        unreachable!("ask_in_turn ends these itself")
                    }
                },
                Err(
                    error @ (ClientError::Locate { .. } | ClientError::OtherLibrarian { .. } | ClientError::NoServer),
                ) => {
                    if start.elapsed() + backoff >= patience {
                        return Err(error);
                    }
                    (chain(&error), None)
                }
                Err(error) => return Err(error),
            };
            let wait = wait.unwrap_or_else(|| backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0));
            if start.elapsed() + wait >= patience {
                return Err(ClientError::Exhausted {
                    address: call.address.clone(),
                    patience,
                    last: why,
                });
            }
            tracing::debug!(address = %call.address, why, ?wait, "asking again");
            Counters::add(&self.inner.counts.retries);
            tokio::time::sleep(wait).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
            fresh = true;
        }
    }

    /// Whom to ask: servers of this pool, or another pool.
    async fn find(&self, call: &Call, fresh: bool) -> Result<Found, ClientError> {
        match self.inner.locator.locate(&call.address, call.purpose, fresh).await? {
            Located::Here(targets) => Ok(Found::Here(targets)),
            Located::Away(to) => self.elsewhere(&call.address, &to).await.map(Found::Other),
        }
    }

    /// Asks the targets in their order until one settles the call. The error is never `Done` or `Elsewhere`.
    async fn ask_in_turn(&self, call: &Call, targets: Vec<Target>) -> Result<Reply, Attempt> {
        let mut last = Attempt::Failed(ClientError::NoServer);
        for mut target in targets {
            let mut redirects = 0;
            loop {
                match self.attempt(call, &target).await {
                    // A stream that was sent, at least in part, is gone: what went wrong is the end of it.
                    Attempt::Again { why, .. } if call.is_spent() => {
                        return Err(Attempt::Failed(ClientError::Upload {
                            address: call.address.clone(),
                            why: format!("{why}; a stream cannot be sent twice, so repeat the command"),
                        }));
                    }
                    Attempt::Next(error) if call.is_spent() => return Err(Attempt::Failed(error)),
                    Attempt::Next(error) => {
                        last = Attempt::Failed(error);
                        break;
                    }
                    Attempt::Done(reply) => return Ok(reply),
                    Attempt::Elsewhere(owner) if redirects < REDIRECTS_MAX => {
                        redirects += 1;
                        Counters::add(&self.inner.counts.redirects);
                        self.inner.locator.learn_owner(&call.address, owner.clone());
                        target = owner;
                    }
                    Attempt::Elsewhere(owner) => {
                        last = Attempt::Again {
                            why: format!("redirected {REDIRECTS_MAX} times, at last to {}", owner.host),
                            wait: None,
                        };
                        break;
                    }
                    again @ Attempt::Again { wait: None, .. } => {
                        last = again;
                        break;
                    }
                    // Who says how long to wait is the right one to ask.
                    again @ (Attempt::Again { wait: Some(_), .. } | Attempt::Failed(_)) => return Err(again),
                }
            }
        }
        Err(last)
    }

    async fn attempt(&self, call: &Call, target: &Target) -> Attempt {
        let url = format!(
            "https://{}:{}/objects/{}{}",
            target.host, target.port, call.address, call.tail
        );
        let upload_error = |why: String| {
            Attempt::Failed(ClientError::Upload {
                address: call.address.clone(),
                why,
            })
        };
        let pulse = Arc::new(Pulse::new());
        let mut request = self
            .inner
            .http
            .request(call.method.clone(), &url)
            .headers(call.headers.clone());
        if let Some(payload) = &call.payload {
            if payload.is_spent() {
                return upload_error("the object is on another server, and a stream cannot be sent twice".to_owned());
            }
            match payload.open(&pulse).await {
                Ok(body) => request = request.body(body),
                Err(error) => return upload_error(error.to_string()),
            }
        }
        Counters::add(&self.inner.counts.requests);
        let work = async {
            let mut response = request.send().await?;
            let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
            // Errors are small and always taken whole. A redirect says all in its headers, and may not end before the upload.
            let content = if status == StatusCode::TEMPORARY_REDIRECT {
                Content::Whole(Bytes::new())
            } else if call.whole || !status.is_success() {
                let mut whole = BytesMut::new();
                while let Some(piece) = response.chunk().await? {
                    if whole.len() + piece.len() > WHOLE_OCTETS_MAX {
                        break;
                    }
                    whole.extend_from_slice(&piece);
                }
                Content::Whole(whole.freeze())
            } else {
                Content::Stream(response)
            };
            Ok::<_, reqwest::Error>(Reply {
                status,
                headers,
                server: target.host.clone(),
                content,
            })
        };
        match watched(work, &pulse).await {
            Ok(reply) => self.judge(call, reply),
            Err(why) => Attempt::Again {
                why: format!("{}: {why}", target.host),
                wait: None,
            },
        }
    }

    /// What an answer means for the call.
    fn judge(&self, call: &Call, reply: Reply) -> Attempt {
        let status = reply.status;
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Attempt::Done(reply);
        }
        let problem = reply.problem();
        let address = || call.address.clone();
        let detail = problem.detail.clone().unwrap_or_else(|| status.to_string());
        let failed = Attempt::Failed;
        match status {
            StatusCode::TEMPORARY_REDIRECT => match self.redirect(&reply) {
                Some(owner) => Attempt::Elsewhere(owner),
                None => failed(reply.strange("a redirect to no server of this pool")),
            },
            StatusCode::MISDIRECTED_REQUEST => Attempt::Again {
                why: match problem.owner() {
                    Some(owner) => format!("{}: the owner is {owner}", reply.server),
                    None => format!("{}: {detail}", reply.server),
                },
                wait: None,
            },
            StatusCode::SERVICE_UNAVAILABLE => Attempt::Again {
                why: format!("{}: {detail}", reply.server),
                wait: Some(reply.retry_after()),
            },
            // Another server may have room for a new object.
            StatusCode::INSUFFICIENT_STORAGE => Attempt::Next(ClientError::Refused {
                server: reply.server.to_string(),
                status: status.as_u16(),
                detail,
            }),
            // Another holder may have a good copy.
            StatusCode::INTERNAL_SERVER_ERROR => Attempt::Again {
                why: format!("{}: {detail}", reply.server),
                wait: None,
            },
            StatusCode::NOT_FOUND => failed(ClientError::Absent { address: address() }),
            StatusCode::GONE => failed(ClientError::Deleted { address: address() }),
            StatusCode::PRECONDITION_FAILED => failed(ClientError::Precondition {
                address: address(),
                revision: problem.revision,
                detail,
            }),
            StatusCode::RANGE_NOT_SATISFIABLE => match reply.unsatisfied() {
                Some(total) => failed(ClientError::Range {
                    address: address(),
                    total,
                }),
                None => failed(reply.strange("a 416 without Content-Range")),
            },
            other => failed(ClientError::Refused {
                server: reply.server.to_string(),
                status: other.as_u16(),
                detail,
            }),
        }
    }

    /// Host and port of a redirect; the path stays ours.
    fn redirect(&self, reply: &Reply) -> Option<Target> {
        let location = reply.headers.get(LOCATION)?.to_str().ok()?;
        let url = reqwest::Url::parse(location).ok()?;
        let host = url.host_str()?;
        (url.scheme() == "https" && self.inner.locator.is_server(host)).then(|| Target {
            host: host.to_ascii_lowercase().into(),
            port: url.port().unwrap_or(443),
        })
    }
}

impl Reply {
    /// The whole answer.
    pub(super) fn whole(&self) -> &[u8] {
        match &self.content {
            Content::Whole(octets) => octets,
            Content::Stream(_) => &[],
        }
    }

    /// The entity tag of the object.
    pub(super) fn tag(&self) -> Result<Tag, ClientError> {
        self.text(&ETAG)
            .and_then(Tag::read)
            .ok_or_else(|| self.strange("an object without an ETag of this pool"))
    }

    pub(super) fn text(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn strange(&self, what: &str) -> ClientError {
        ClientError::Answer {
            server: self.server.to_string(),
            what: what.to_owned(),
        }
    }

    pub(super) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(self.whole()).map_err(|error| self.strange(&error.to_string()))
    }

    fn problem(&self) -> ProblemText {
        serde_json::from_slice(self.whole()).unwrap_or_default()
    }

    fn retry_after(&self) -> Duration {
        let seconds = self.text(&RETRY_AFTER).and_then(|text| text.parse().ok()).unwrap_or(1);
        Duration::from_secs(seconds)
    }

    fn unsatisfied(&self) -> Option<u64> {
        self.text(&http::header::CONTENT_RANGE)?
            .strip_prefix("bytes */")?
            .parse()
            .ok()
    }
}

/// Waits for a request as long as it moves.
async fn watched<T>(work: impl Future<Output = Result<T, reqwest::Error>>, pulse: &Pulse) -> Result<T, String> {
    let mut work = std::pin::pin!(work);
    loop {
        let left = STALL.saturating_sub(pulse.silence());
        if left.is_zero() {
            return Err("the request stands still".to_owned());
        }
        match tokio::time::timeout(left, &mut work).await {
            Ok(done) => return done.map_err(|error| chain(&error)),
            Err(_) => continue,
        }
    }
}

/// The header of an expectation, on a call.
pub(super) fn with_expectation(call: Call, expect: crate::client::Expect) -> Call {
    match expect.header() {
        Some((name, value)) => call.header(name, &value),
        None => call,
    }
}
