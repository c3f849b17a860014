//! Requests for objects: what they ask, who may, and what is answered.
//!
//! | method and path                 | does                                             |
//! |---------------------------------|--------------------------------------------------|
//! | `GET`, `HEAD` `/objects/A`      | the object as JSON, without its body             |
//! | `PUT` `/objects/A`              | writes type and properties, or both parts        |
//! | `DELETE` `/objects/A`           | deletes it, for ever                             |
//! | `GET`, `HEAD` `/objects/A/body` | its octets, or a range of them                   |
//! | `PUT` `/objects/A/body`         | writes its octets                                |
//! | `GET` `/objects`                | what this agent owns and the caller may see      |
//! | `GET` `/healthz`                | whether this agent serves                        |
//!
//! Specifications: DESIGN.md section 12, RFC 9110, RFC 7578 (multipart).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use bytes::Bytes;
use certs::{Verb as Grant, Who};
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE,
    USER_AGENT, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use serde_json::json;
use zones::Address;

use crate::access::Access;
use crate::access::caller::{self, Caller, ConnectionPeer};
use crate::access::condition::{Preconditions, ReadVerdict, Tag, range_is_for};
use crate::access::counted::{Counted, Unwanted, throw_away};
use crate::access::forward::Outgoing;
use crate::access::metrics::Verb;
use crate::access::problem::Problem;
use crate::access::range::RangeRequest;
use crate::access::target;
use crate::access::{HYPERNET_EPOCH, HYPERNET_SIZE, HYPERNET_TYPE};
use crate::objects::{Delete, KEYS_RETRY, Miss, Reading, STEPS_RETRY};
use crate::store::{Entry, ReadError};

/// A write of more takes as long as its client sends.
const UPLOAD_OCTETS: u64 = 64 << 10;

/// Every path of client access.
pub(super) fn router(access: Arc<Access>) -> Router {
    Router::new()
        .route("/objects", get(super::list::list))
        .route(
            "/objects/{address}",
            get(get_object).put(super::write::put_object).delete(delete_object),
        )
        .route(
            "/objects/{address}/body",
            get(get_body).merge(put(super::write::put_body)),
        )
        .route("/audit", get(super::audit::page))
        .route("/quarantine", get(super::quarantine::page))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(no_path)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&access), watch))
        .with_state(access)
}

/// Around every request: its bound, its counts, its log line.
async fn watch(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, version) = (request.method().clone(), request.version());
    let path = request.uri().path().to_owned();
    let verb = verb(&method, &path);
    let is_foreground = is_foreground(verb, &request);
    let permit = Arc::clone(&access.requests).try_acquire_owned();
    let running = access.metrics.hold(|metrics| &metrics.running);
    let response = match permit {
        Ok(permit) => {
            let response = match version {
                Version::HTTP_2 => {
                    let stops_early = stops_early(request.headers());
                    let (parts, body) = request.into_parts();
                    let (body, mut rest) = Unwanted::new(body);
                    let response = next.run(Request::from_parts(parts, Body::new(body))).await;
                    if let Ok(rest) = rest.try_recv() {
                        throw_away(rest, stops_early).await;
                    }
                    response
                }
                _ => next.run(request).await,
            };
            // The bound and the count last until the body has left.
            response.map(|body| Body::new(Counted::new(body, Arc::clone(&access.metrics), (permit, running))))
        }
        Err(_) => {
            access.metrics.refused_busy.fetch_add(1, Ordering::Relaxed);
            Problem::unavailable(
                "this server has as many requests as it takes: ask again",
                std::time::Duration::from_secs(1),
            )
            .into_response()
        }
    };
    let took = start.elapsed();
    access.metrics.request(verb, response.status(), took);
    if is_foreground {
        access.objects.client_waited(took);
    }
    tracing::debug!(%method, path, ?version, status = response.status().as_u16(), ?took, "request");
    finish(response, version)
}

/// Whether a client waits for this server and not the other way round: reads and deletions of objects, and writes that are no
/// upload of any length. What another server passes on is counted where the client asked.
fn is_foreground(verb: Verb, request: &Request) -> bool {
    let peer = request.extensions().get::<Arc<ConnectionPeer>>();
    let by_client = peer.is_some_and(|peer| matches!(peer.peer.who, Who::Client { .. }));
    by_client
        && match verb {
            Verb::Get | Verb::GetBody | Verb::Head | Verb::Delete => true,
            Verb::Put => hyper::body::Body::size_hint(request.body())
                .exact()
                .is_some_and(|octets| octets <= UPLOAD_OCTETS),
            Verb::List | Verb::Other => false,
        }
}

/// Whether the client stops its upload when an answer comes before the end. curl before 8 does not, over HTTP/2.
fn stops_early(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    !agent.starts_with(b"curl/7.")
}

/// What every answer has.
fn finish(mut response: Response, version: Version) -> Response {
    let status = response.status();
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Whoever keeps an answer asks again before each use: grants end and objects change.
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("private, no-cache"));
    // A certificate that is over or false: nothing more is to be had on this connection.
    if status == StatusCode::FORBIDDEN && version < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn verb(method: &Method, path: &str) -> Verb {
    match (method, path) {
        (&Method::GET, "/objects") => Verb::List,
        (&Method::HEAD, _) => Verb::Head,
        (&Method::GET, path) if path.ends_with("/body") => Verb::GetBody,
        (&Method::GET, _) => Verb::Get,
        (&Method::PUT, _) => Verb::Put,
        (&Method::DELETE, _) => Verb::Delete,
        _ => Verb::Other,
    }
}

pub(super) async fn no_path() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "there is no such path: objects are at /objects/ADDRESS, their bodies at /objects/ADDRESS/body, lists at /objects",
    )
}

async fn no_method(uri: http::Uri) -> Problem {
    let allowed = match uri.path() {
        "/objects" | "/healthz" => "GET, HEAD",
        path if path.ends_with("/body") => "GET, HEAD, PUT",
        _ => "GET, HEAD, PUT, DELETE",
    };
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this path does not know the method: use {allowed}"),
    )
    .with(ALLOW, allowed)
}

impl Access {
    /// Whose request it is, of this moment.
    pub(super) fn caller(&self, request: &Request) -> Result<Caller, Problem> {
        let peer = request
            .extensions()
            .get::<Arc<ConnectionPeer>>()
            .expect("every connection has shown a certificate");
        Caller::of(
            peer,
            request.headers(),
            &self.anchor,
            &self.revoked.load(),
            caller::now(),
        )
    }

    /// Whose request for which object it is; checks that a forwarding server may forward for it, and that it has no query.
    pub(super) fn enter(&self, request: &Request, address: &str) -> Result<(Caller, Address), Problem> {
        let entered = self.enter_with_query(request, address)?;
        if let Some(query) = request.uri().query().filter(|query| !query.is_empty()) {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("the query {query:?} is not understood here: only a GET of an object has one, schema=N"),
            ));
        }
        Ok(entered)
    }

    /// Whose request for which object it is; checks that a forwarding server may forward for it.
    fn enter_with_query(&self, request: &Request, address: &str) -> Result<(Caller, Address), Problem> {
        let caller = self.caller(request)?;
        let address =
            target::bare(address).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
        if let Some((server, _)) = &caller.via
            && !self.objects.came_from(&address, server)
        {
            tracing::warn!(%server, %address, "a server forwards for an object that did not come from it");
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                format!("{server} is not where the object came from, so it forwards nothing for it"),
            ));
        }
        Ok((caller, address))
    }

    /// The properties of a copy in the version that was asked for.
    async fn properties(&self, reading: &Reading, asked: u32) -> Result<Bytes, Problem> {
        let (address, entry) = (&reading.entry().address, Arc::clone(reading.entry()));
        let properties = reading.properties().await.map_err(|error| damaged(address, &error))?;
        if asked == entry.schema {
            return Ok(properties);
        }
        let objects = Arc::clone(&self.objects);
        let brought =
            tokio::task::spawn_blocking(move || objects.stepper().bring(&entry.kind, entry.schema, asked, &properties));
        let brought = brought.await.expect("steps do not panic");
        brought.map_err(|error| {
            let (kind, schema) = (&reading.entry().kind, reading.entry().schema);
            let detail = format!(
                "the object is a {kind} in schema {schema}, and cannot be told in schema {asked}: {}",
                error.reason()
            );
            match error.is_of_server() {
                true => Problem::unavailable(detail, STEPS_RETRY),
                false => Problem::new(StatusCode::NOT_ACCEPTABLE, detail),
            }
        })
    }

    /// Refuses a read without a grant as if the object were absent: after the same question to the librarian.
    pub(super) async fn may_read(&self, caller: &Caller, address: &Address) -> Result<(), Problem> {
        if caller.may(Grant::Read, address) {
            return Ok(());
        }
        tracing::debug!(client = caller.name, %address, "no grant to read");
        match self.objects.registers().read(address).await {
            Ok(_) => Err(Problem::absent()),
            Err(_) => Err(self.missed_here(&Miss::unreachable())),
        }
    }
}

async fn get_object(
    State(access): State<Arc<Access>>,
    Path(address): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (caller, address) = access.enter_with_query(&request, &address)?;
    let asked = asked_schema(request.uri().query().unwrap_or_default())?;
    access.may_read(&caller, &address).await?;
    let preconditions = preconditions(request.headers())?;
    if asks_the_owner(request.headers())
        && let Some(miss) = access.objects.local().owner_of_copy(&address)
    {
        return access.missed(&caller, miss, Outgoing::of(request, "")).await;
    }
    let reading = match access.objects.read(&address).await {
        Ok(reading) => reading,
        Err(miss) => return access.missed(&caller, miss, Outgoing::of(request, "")).await,
    };
    let tag = Tag {
        schema: asked.unwrap_or(reading.entry().schema),
        ..tag(reading.entry())
    };
    let mut response = match judge(&preconditions, tag)? {
        Some(not_modified) => not_modified,
        None => {
            let properties = access.properties(&reading, tag.schema).await?;
            let json = json_of(reading.entry(), tag.schema, reading.size(), &properties);
            ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
        }
    };
    describe(response.headers_mut(), &reading, tag);
    Ok(response)
}

/// Whether a read is to be answered by the object's owner (`no-cache`, RFC 9111 section 5.2.1.4): who wants to send it a long write
/// finds it so.
fn asks_the_owner(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CACHE_CONTROL).iter();
    let mut directives = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    directives.any(|directive| directive.trim().eq_ignore_ascii_case("no-cache"))
}

/// The version of the schema that a query asks for.
fn asked_schema(query: &str) -> Result<Option<u32>, Problem> {
    if query.is_empty() {
        return Ok(None);
    }
    let number = query.strip_prefix("schema=").and_then(|number| number.parse().ok());
    match number {
        Some(number) if number > 0 => Ok(Some(number)),
        Some(_) | None => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            format!(
                "the query {query:?} is not understood here: an object is asked for in a version by schema=N, from 1 on"
            ),
        )),
    }
}

/// The JSON of an object. The properties are JSON already: they are not read to be written again.
fn json_of(entry: &Entry, schema: u32, size: u64, properties: &[u8]) -> Vec<u8> {
    let (address, kind) = (json!(entry.address.as_str()), json!(entry.kind.as_str()));
    let mut json = format!(
        r#"{{"address":{address},"type":{kind},"schema":{schema},"epoch":{},"revision":{},"size":{size},"properties":"#,
        entry.epoch, entry.revision,
    )
    .into_bytes();
    json.extend_from_slice(properties);
    json.push(b'}');
    json
}

async fn get_body(
    State(access): State<Arc<Access>>,
    Path(address): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (caller, address) = access.enter(&request, &address)?;
    access.may_read(&caller, &address).await?;
    let preconditions = preconditions(request.headers())?;
    let reading = match access.objects.read(&address).await {
        Ok(reading) => reading,
        Err(miss) => return access.missed(&caller, miss, Outgoing::of(request, "/body")).await,
    };
    let tag = tag(reading.entry());
    if let Some(mut not_modified) = judge(&preconditions, tag)? {
        describe(not_modified.headers_mut(), &reading, tag);
        return Ok(not_modified);
    }
    let total = reading.size();
    // A range is defined for GET alone (RFC 9110 section 14.2).
    let range = match request.headers().get(RANGE) {
        Some(range) if request.method() == Method::GET && range_is_for(request.headers(), tag) => {
            RangeRequest::read(range.as_bytes())
        }
        Some(_) | None => None,
    };
    let range = range.map(|range| range.within(total)).transpose();
    let range = range.map_err(|none| Problem::unsatisfiable(none.total).with(ETAG, &tag.to_string()))?;
    let octets = range.map_or(0..total, |range| range.first..range.last + 1);
    let length = octets.end - octets.start;
    let body = match *request.method() == Method::HEAD {
        true => Body::empty(),
        false => {
            let stream = reading.body(octets).await.map_err(|error| damaged(&address, &error))?;
            Body::from_stream(stream)
        }
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    describe(headers, &reading, tag);
    if let Some(range) = range {
        headers.insert(CONTENT_RANGE, ascii(&range.to_string()));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

async fn delete_object(
    State(access): State<Arc<Access>>,
    Path(address): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (caller, address) = access.enter(&request, &address)?;
    if !caller.may(Grant::Write, &address) {
        // Only who may see the object learns that it lacks another grant.
        access.may_read(&caller, &address).await?;
        return Err(no_write_grant(&address));
    }
    let delete = Delete {
        client: caller.name.clone(),
        write_id: super::write::write_id(request.headers())?,
        condition: super::write::condition(request.headers())?,
    };
    match access.objects.delete(&address, delete).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(error) => access.unwritten(&caller, error, Outgoing::of(request, "")).await,
    }
}

/// The answer to a write without its grant.
pub(super) fn no_write_grant(address: &Address) -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        format!("this certificate has no grant to write {address}: ask for one with write:{address}"),
    )
}

/// The answer for a copy that cannot be read.
pub(super) fn damaged(address: &Address, error: &(dyn std::error::Error + 'static)) -> Problem {
    if let Some(ReadError::Vault(vault)) = error.downcast_ref()
        && let Some(why) = vault.outage()
    {
        return Problem::unavailable(
            format!("the object cannot be read at this moment: {why}; ask again"),
            KEYS_RETRY,
        );
    }
    tracing::error!(%address, error, "a copy cannot be read");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the copy of the object on this server is damaged or cannot be read, and is not served until it is repaired or the whole \
         object is written anew: tell the operator, who finds it in the log and by `agent check`",
    )
}

fn preconditions(headers: &HeaderMap) -> Result<Preconditions, Problem> {
    Preconditions::read(headers).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))
}

/// The answer that a precondition of a read gives, if it gives one.
fn judge(preconditions: &Preconditions, tag: Tag) -> Result<Option<Response>, Problem> {
    match preconditions.judge_read(tag) {
        ReadVerdict::Go => Ok(None),
        ReadVerdict::NotModified => Ok(Some(StatusCode::NOT_MODIFIED.into_response())),
        ReadVerdict::Failed => Err(Problem::precondition(
            format!("the object is at {tag}: If-Match names another copy"),
            Some(tag.revision),
        )),
    }
}

fn tag(entry: &Entry) -> Tag {
    Tag {
        revision: entry.revision,
        schema: entry.schema,
    }
}

/// The headers that say what an object is.
fn describe(headers: &mut HeaderMap, reading: &Reading, tag: Tag) {
    let entry = reading.entry();
    headers.insert(ETAG, ascii(&tag.to_string()));
    headers.insert(HYPERNET_TYPE, ascii(entry.kind.as_str()));
    headers.insert(HYPERNET_EPOCH, entry.epoch.0.into());
    headers.insert(HYPERNET_SIZE, reading.size().into());
}

/// A header value of ours.
pub(super) fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("our header values are visible ASCII")
}

/// The JSON of a listing.
pub(super) fn page(objects: &[crate::objects::Summary], next: Option<&Address>) -> Response {
    let objects: Vec<_> = objects
        .iter()
        .map(|object| {
            let mut one = json!({
                "address": object.address.as_str(),
                "type": object.kind.as_str(),
                "schema": object.schema,
                "level": object.level.0,
                "epoch": object.epoch.0,
                "revision": object.revision,
                "size": object.size,
            });
            if let Some(reason) = &object.quarantined {
                one["quarantined"] = json!(reason);
            }
            one
        })
        .collect();
    axum::Json(json!({ "objects": objects, "next": next.map(Address::as_str) })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::{ProviderError, VaultError};

    #[test]
    fn read_that_waits_for_the_key_provider_is_503_and_names_it() {
        let away = ProviderError::Unavailable {
            provider: "pkcs11",
            source: "pulled out".into(),
        };
        let problem = damaged(&"1.1".parse().unwrap(), &ReadError::Vault(VaultError::Provider(away)));
        assert_eq!(problem.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(format!("{problem:?}").contains("pkcs11"), "{problem:?}");
        assert!(format!("{problem:?}").contains("retry-after"), "{problem:?}");
        let lost = ProviderError::NoGeneration {
            generation: crate::vault::Generation(1),
        };
        let problem = damaged(&"1.1".parse().unwrap(), &ReadError::Vault(VaultError::Provider(lost)));
        assert_eq!(problem.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn read_that_asks_for_the_origin_is_for_the_owner() {
        for (value, expected) in [
            ("no-cache", true),
            ("max-age=0, No-Cache", true),
            ("no-store", false),
            ("x-no-cache", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, value.parse().unwrap());
            assert_eq!(asks_the_owner(&headers), expected, "{value}");
        }
        assert!(!asks_the_owner(&HeaderMap::new()));
    }
}
