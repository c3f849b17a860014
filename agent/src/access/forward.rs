//! What is done with a request for an object that is not here: told where it is, or handed on.
//!
//! A redirect says where the register puts the object. A request is handed on only by a party of the object's move: this
//! agent gave the object away, and has seen the commit (DESIGN.md section 11, step 8). Whoever takes it checks that.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, LOCATION,
    RANGE, RETRY_AFTER,
};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use parking_lot::Mutex;
use zones::ServerName;

use crate::access::caller::{CLIENT_CERT, Caller, HOPS, HOPS_MAX};
use crate::access::problem::Problem;
use crate::access::target;
use crate::access::{Access, HYPERNET_EPOCH, HYPERNET_SIZE, HYPERNET_TYPE, IDEMPOTENCY_KEY, chain};
use crate::objects::{Miss, StagedBody, WriteError, steps};
use crate::register::PeerError;

/// Longest wait for a connection to the other party.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// When asking again makes sense after the other party was not reached.
const RETRY: Duration = Duration::from_secs(1);

/// Headers of a request that are handed on.
const TO_PARTY: [HeaderName; 9] = [
    CONTENT_LENGTH,
    CONTENT_TYPE,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_RANGE,
    RANGE,
    http::header::CONTENT_ENCODING,
    IDEMPOTENCY_KEY,
    HYPERNET_TYPE,
];

/// Headers of an answer that are handed back.
const FROM_PARTY: [HeaderName; 10] = [
    ACCEPT_RANGES,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    ETAG,
    LOCATION,
    RETRY_AFTER,
    HYPERNET_EPOCH,
    HYPERNET_SIZE,
    HYPERNET_TYPE,
];

/// A request as it can be handed on.
pub(super) struct Outgoing {
    method: Method,
    uri: Uri,
    tail: &'static str,
    headers: HeaderMap,
    payload: Payload,
}

/// The body of a request that is handed on.
pub(super) enum Payload {
    /// Not read yet.
    Unread(Body),
    /// In memory.
    Whole(Bytes),
    /// On this server's disk.
    Staged(StagedBody),
    /// Both parts of a multipart write.
    Both { object: Bytes, body: Option<StagedBody> },
}

impl Outgoing {
    /// A request whose body was not read. `tail` is what follows the address in its path.
    pub(super) fn of(request: Request, tail: &'static str) -> Outgoing {
        let (parts, body) = request.into_parts();
        Outgoing::again(parts, tail, Payload::Unread(body))
    }

    /// A request whose body was taken.
    pub(super) fn again(parts: http::request::Parts, tail: &'static str, payload: Payload) -> Outgoing {
        Outgoing {
            method: parts.method,
            uri: parts.uri,
            tail,
            headers: parts.headers,
            payload,
        }
    }

    /// Path and query.
    fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// The address, as the path has it: it was read before.
    fn address(&self) -> &str {
        let path = self.uri.path();
        let path = path.strip_prefix("/objects/").unwrap_or(path);
        path.strip_suffix(self.tail).unwrap_or(path)
    }
}

/// The way to other agents: our own identity, and addresses as the librarian gives them.
#[derive(Clone)]
pub(super) struct Parties {
    http: reqwest::Client,
    addresses: Arc<Addresses>,
}

#[derive(Debug, Default)]
struct Addresses {
    known: Mutex<HashMap<String, Vec<IpAddr>>>,
}

impl reqwest::dns::Resolve for Addresses {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let known = self.known.lock().get(name.as_str()).cloned();
        Box::pin(async move {
            let ips = known.ok_or("the librarian gave no address for this server")?;
            let addresses: Vec<SocketAddr> = ips.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

impl Parties {
    /// Speaks to other agents with this TLS configuration.
    pub(super) fn new(tls: rustls::ClientConfig) -> Result<Parties, reqwest::Error> {
        let addresses = Arc::new(Addresses::default());
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::clone(&addresses))
            .no_proxy()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_WAIT)
            .tcp_nodelay(true)
            .http2_initial_stream_window_size(1 << 20)
            .http2_initial_connection_window_size(8 << 20)
            .build()?;
        Ok(Parties { http, addresses })
    }
}

impl Access {
    /// Host and port of a server, as the librarian knows it.
    async fn authority(&self, server: &ServerName) -> Result<String, Problem> {
        // Four questions at once make a large future; few requests come this way.
        match Box::pin(self.objects.registers().peer(server)).await {
            Ok(peer) => {
                let host = certs::tls_name(self.objects.registers().domain(), server.as_str());
                let authority = format!("{host}:{}", peer.https_port);
                self.parties.addresses.known.lock().insert(host, peer.addresses);
                Ok(authority)
            }
            Err(PeerError::Absent { .. }) => Err(Problem::unavailable(
                format!("the object is on {server}, which is not in DNS now: ask again, or see to {server}"),
                RETRY,
            )),
            Err(PeerError::Unreachable(_)) => Err(self.missed_here(&Miss::unreachable())),
        }
    }

    /// The answer to a read that found no copy here.
    pub(super) async fn missed(&self, caller: &Caller, miss: Miss, outgoing: Outgoing) -> Result<Response, Problem> {
        match miss {
            Miss::Elsewhere { owner, .. } => Err(self.redirect(caller, &owner, outgoing.path()).await?),
            Miss::Party { to } => self.hand_on(caller, &to, outgoing).await,
            miss => Err(self.missed_here(&miss)),
        }
    }

    /// The problem of a read that is not handed on.
    pub(super) fn missed_here(&self, miss: &Miss) -> Problem {
        let detail = format!("{miss}");
        match miss {
            Miss::Absent => Problem::absent(),
            Miss::Deleted => Problem::new(StatusCode::GONE, detail),
            Miss::Unavailable { retry_after, .. } => Problem::unavailable(detail, *retry_after),
            Miss::Damaged { .. } => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail),
            Miss::Elsewhere { owner, .. } | Miss::Party { to: owner } => Problem::misdirected(owner),
        }
    }

    /// The answer to a write that was not applied here.
    pub(super) async fn unwritten(
        &self,
        caller: &Caller,
        error: WriteError,
        outgoing: Outgoing,
    ) -> Result<Response, Problem> {
        match error {
            WriteError::Elsewhere { owner, .. } => Err(self.redirect(caller, &owner, outgoing.path()).await?),
            WriteError::Party { to } => self.hand_on(caller, &to, outgoing).await,
            error => Err(self.unwritten_here(&error)),
        }
    }

    /// The problem of a write that is not handed on.
    pub(super) fn unwritten_here(&self, error: &WriteError) -> Problem {
        let status = match error {
            WriteError::Absent => return Problem::absent(),
            WriteError::Unavailable { retry_after, .. } => {
                return Problem::unavailable(error.to_string(), *retry_after);
            }
            WriteError::Precondition { revision } => return Problem::precondition(error.to_string(), *revision),
            WriteError::Elsewhere { owner, .. } | WriteError::Party { to: owner } => {
                return Problem::misdirected(owner);
            }
            WriteError::Deleted => StatusCode::GONE,
            WriteError::WriteIdReused | WriteError::WriteIdRefused { .. } | WriteError::Schema { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            WriteError::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
            WriteError::NotServing { .. } => StatusCode::MISDIRECTED_REQUEST,
            WriteError::CaseClash { .. } => StatusCode::CONFLICT,
            WriteError::Address { .. } | WriteError::Body { .. } => StatusCode::BAD_REQUEST,
            WriteError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            WriteError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error.to_string())
    }

    /// 307 to the owner; 421 if the request was forwarded as often as may be.
    async fn redirect(&self, caller: &Caller, owner: &ServerName, path: &str) -> Result<Problem, Problem> {
        if caller.hops() >= HOPS_MAX {
            return Ok(Problem::misdirected(owner));
        }
        let authority = self.authority(owner).await?;
        let location = format!("https://{authority}{path}");
        Ok(Problem::elsewhere(owner, &location))
    }

    /// Hands a request on to the other party of the object's move, and its answer back.
    async fn hand_on(&self, caller: &Caller, to: &ServerName, outgoing: Outgoing) -> Result<Response, Problem> {
        if caller.hops() >= HOPS_MAX {
            return Err(Problem::misdirected(to));
        }
        let authority = self.authority(to).await?;
        let (address, path) = (outgoing.address().to_owned(), outgoing.path().to_owned());
        let query = outgoing
            .uri
            .query()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let url = format!("https://{authority}/objects/{address}{}{query}", outgoing.tail);
        let mut headers = HeaderMap::new();
        for name in TO_PARTY {
            if let Some(value) = outgoing.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(CLIENT_CERT, super::serve::ascii(&caller.client_cert()));
        headers.insert(HOPS, u16::from(caller.hops() + 1).into());
        let mut request = self.parties.http.request(outgoing.method.clone(), url);
        match outgoing.payload {
            Payload::Unread(body) if outgoing.method == Method::PUT => {
                let incoming = super::counted::Incoming::new(body, Arc::clone(&self.metrics), self.bounds.idle_timeout);
                request = request.body(reqwest::Body::wrap_stream(incoming));
            }
            // Reads and deletions have no body; what came with one is not looked at anywhere.
            Payload::Unread(_) => drop(headers.remove(CONTENT_LENGTH)),
            Payload::Whole(whole) => request = request.body(whole),
            Payload::Staged(staged) => {
                headers.insert(CONTENT_LENGTH, staged.octets().into());
                request = request.body(reqwest::Body::wrap_stream(self.objects.staged_octets(&staged)));
            }
            Payload::Both { object, body } => {
                let boundary = format!("{:032x}", rand::random::<u128>());
                headers.remove(CONTENT_LENGTH);
                headers.insert(
                    CONTENT_TYPE,
                    super::serve::ascii(&format!("multipart/form-data; boundary={boundary}")),
                );
                request = request.body(reqwest::Body::wrap_stream(self.both(&boundary, &object, body)));
            }
        }
        self.metrics.forwarded.fetch_add(1, Ordering::Relaxed);
        let answer = request.headers(headers).send().await.map_err(|error| {
            let why = chain(&error);
            tracing::warn!(%to, why, "the other party of a move is not reached");
            self.objects.registers().forget_peer(to);
            Problem::unavailable(
                format!("the object moved to {to}, which is not reached now: repeat the request, a write with the same Idempotency-Key"),
                RETRY,
            )
        })?;
        // The entry that says where the object went may be older than its last moves: whoever has it now may have it from
        // another server, and takes nothing from this one. The register knows.
        if matches!(answer.status(), StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST)
            && let Some(owner) = self.owner_elsewhere(&address).await
        {
            return Err(self.redirect(caller, &owner, &path).await?);
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        for name in FROM_PARTY {
            if let Some(value) = answer.headers().get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        *response.body_mut() = Body::from_stream(answer.bytes_stream());
        Ok(response)
    }

    /// The server that the register names for an object now, if it is another one.
    async fn owner_elsewhere(&self, address: &str) -> Option<ServerName> {
        let address = target::bare(address).ok()?;
        let registers = self.objects.registers();
        let read = registers.read(&address).await.ok()?;
        if let Some(register) = &read.register {
            self.objects.shorten_way(register);
        }
        let lost = self.objects.keep().lost;
        steps::elsewhere(registers.me(), &lost, &address, read.register).map(|(owner, _)| owner)
    }

    /// Both parts of a multipart write as octets.
    fn both(
        &self,
        boundary: &str,
        object: &Bytes,
        body: Option<StagedBody>,
    ) -> BoxStream<'static, Result<Bytes, std::io::Error>> {
        let (head, tail) = crate::client::multipart::frame(boundary, object, body.is_some());
        let one = |bytes: Bytes| stream::once(std::future::ready(Ok(bytes)));
        match body {
            None => one(head).chain(one(tail)).boxed(),
            Some(staged) => {
                let octets = self
                    .objects
                    .staged_octets(&staged)
                    .map(|piece| piece.map_err(std::io::Error::other));
                one(head).chain(octets).chain(one(tail)).boxed()
            }
        }
    }
}
