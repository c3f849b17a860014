//! Writes: what a client sends, read to the end before anything of it counts.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use certs::Verb;
use futures_util::StreamExt;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, EXPECT};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};
use uuid::Uuid;
use zones::{Address, ObjectType};

use crate::access::caller::Caller;
use crate::access::condition::{Preconditions, Tag};
use crate::access::counted::{EndApart, Incoming};
use crate::access::forward::{Outgoing, Payload};
use crate::access::problem::Problem;
use crate::access::serve::{ascii, no_write_grant};
use crate::access::{Access, HYPERNET_EPOCH, HYPERNET_TYPE, IDEMPOTENCY_KEY, ijson};
use crate::objects::{Condition, Put, StagedBody, WriteError, Written};

/// Octets of JSON around the properties: type, schema, and how they are spelled.
const AROUND_PROPERTIES: usize = 4096;
/// Longest boundary of a multipart body (RFC 2046 section 5.1.1).
const BOUNDARY_OCTETS_MAX: usize = 70;

/// The JSON of a write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectWrite {
    /// `type`.
    pub kind: Option<ObjectType>,
    /// `schema`.
    pub schema: Option<u32>,
    /// `properties`.
    pub properties: Option<Map<String, Value>>,
}

/// Why the JSON of a write is not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectWriteError {
    /// Not I-JSON.
    #[error(transparent)]
    Json(#[from] ijson::IJsonError),
    /// Not an object of the three members.
    #[error(
        "the JSON is an object with type (text), schema (number) and properties (an object), each optional: {what}"
    )]
    Shape {
        /// What is wrong.
        what: String,
    },
}

impl ObjectWrite {
    /// Reads the JSON of a write.
    ///
    /// # Errors
    ///
    /// [`ObjectWriteError`]. An unknown member is one: it would be lost silently.
    pub fn read(text: &[u8]) -> Result<ObjectWrite, ObjectWriteError> {
        let shape = |what: &str| ObjectWriteError::Shape { what: what.to_owned() };
        let Value::Object(members) = ijson::read(text)? else {
            return Err(shape("it is no object"));
        };
        let mut write = ObjectWrite::default();
        for (name, value) in members {
            match (name.as_str(), value) {
                ("type", Value::String(kind)) => {
                    let kind = kind
                        .parse()
                        .map_err(|error: zones::RegisterError| shape(&error.to_string()))?;
                    write.kind = Some(kind);
                }
                ("schema", Value::Number(number)) => {
                    let schema = number.as_u64().and_then(|schema| u32::try_from(schema).ok());
                    write.schema = Some(
                        schema
                            .filter(|schema| *schema > 0)
                            .ok_or_else(|| shape("schemas count from 1"))?,
                    );
                }
                ("properties", Value::Object(properties)) => write.properties = Some(properties),
                ("type" | "schema" | "properties", _) => return Err(shape(&format!("{name} is of another kind"))),
                _ => return Err(shape(&format!("{name:?} is not written"))),
            }
        }
        Ok(write)
    }
}

/// `PUT /objects/A`: JSON, or JSON and body as multipart.
pub(super) async fn put_object(
    State(access): State<Arc<Access>>,
    Path(address): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (caller, address) = access.enter(&request, &address)?;
    let mut put = allowed(&caller, &address, request.headers())?;
    if request.headers().contains_key(EXPECT)
        && let Err(error) = access.objects.admit(&address, &put).await
    {
        // The client waits before it sends: where it has to send to is told first.
        return access.unwritten(&caller, error, Outgoing::of(request, "")).await;
    }
    let form = match media(request.headers()) {
        Media::Json => Form::Json,
        Media::Multipart(boundary) => Form::Multipart(boundary),
        Media::Other(other) => {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!(
                    "{other:?} is not taken here: send application/json, or multipart/form-data with parts object and body; a body alone goes to /objects/{address}/body"
                ),
            ));
        }
    };
    let (write, body, payload, request) = match form {
        Form::Json => {
            let (parts, body) = request.into_parts();
            let text = access
                .whole(Incoming::new(
                    body,
                    Arc::clone(&access.metrics),
                    access.bounds.idle_timeout,
                ))
                .await?;
            let write = ObjectWrite::read(&text).map_err(|error| unreadable(&error))?;
            (write, None, Payload::Whole(text), parts)
        }
        Form::Multipart(boundary) => {
            // A body may be large: whose object it is, is asked before it is taken.
            if let Err(error) = access.objects.admit(&address, &put).await {
                return access.unwritten(&caller, error, Outgoing::of(request, "")).await;
            }
            let (parts, body) = request.into_parts();
            let incoming = Incoming::new(body, Arc::clone(&access.metrics), access.bounds.idle_timeout);
            let taken = access.multipart(&address, &boundary, incoming).await?;
            let payload = Payload::Both {
                object: taken.text,
                body: taken.body.clone(),
            };
            (taken.write, taken.body, payload, parts)
        }
    };
    put.kind = write.kind;
    put.schema = write.schema;
    put.properties = write.properties;
    put.body = body;
    let outgoing = Outgoing::again(request, "", payload);
    access.put(&caller, &address, put, outgoing).await
}

enum Form {
    Json,
    Multipart(String),
}

/// `PUT /objects/A/body`: octets.
pub(super) async fn put_body(
    State(access): State<Arc<Access>>,
    Path(address): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (caller, address) = access.enter(&request, &address)?;
    let mut put = allowed(&caller, &address, request.headers())?;
    put.kind = match request.headers().get(HYPERNET_TYPE) {
        None => None,
        Some(kind) => Some(kind.to_str().ok().and_then(|kind| kind.parse().ok()).ok_or_else(|| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "Hypernet-Type is no type: use 1 to 64 letters, digits, '_' and '-'",
            )
        })?),
    };
    if let Err(error) = access.objects.admit(&address, &put).await {
        return access.unwritten(&caller, error, Outgoing::of(request, "/body")).await;
    }
    let (parts, body) = request.into_parts();
    let length = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let incoming = Incoming::new(body, Arc::clone(&access.metrics), access.bounds.idle_timeout);
    let staged = match access.objects.stage_body(&address, length, incoming).await {
        Ok(staged) => staged,
        Err(error) => return Err(access.unwritten_here(&error)),
    };
    put.body = Some(staged.clone());
    let outgoing = Outgoing::again(parts, "/body", Payload::Staged(staged));
    access.put(&caller, &address, put, outgoing).await
}

/// What headers and grants say of a write, before anything of its body is read.
fn allowed(caller: &Caller, address: &Address, headers: &HeaderMap) -> Result<Put, Problem> {
    if !caller.may(Verb::Write, address) {
        return Err(no_write_grant(address));
    }
    if headers.contains_key(CONTENT_RANGE) {
        // RFC 9110 section 14.5: who does not know partial writes must not write the part as the whole.
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "a body is written whole: send it without Content-Range",
        ));
    }
    if let Some(coding) = headers.get(CONTENT_ENCODING)
        && coding != "identity"
    {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "nothing is decoded here: send the octets that are to be kept, without Content-Encoding",
        ));
    }
    Ok(Put {
        client: caller.name.clone(),
        write_id: write_id(headers)?,
        condition: condition(headers)?,
        kind: None,
        schema: None,
        properties: None,
        body: None,
    })
}

/// The write id; none for a client that gives none.
pub(super) fn write_id(headers: &HeaderMap) -> Result<Option<Uuid>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let id = value
        .to_str()
        .ok()
        .filter(|_| values.next().is_none())
        .and_then(read_write_id);
    id.map(Some).ok_or_else(|| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "Idempotency-Key is one UUIDv7 (RFC 9562), such as 018f3c1e-5b7a-7c3d-9a4e-1f2b3c4d5e6f: make a fresh one for each write, and repeat it only with that write",
        )
    })
}

/// Reads a UUIDv7, bare or as the string of a structured field (draft-ietf-httpapi-idempotency-key-header).
pub fn read_write_id(text: &str) -> Option<Uuid> {
    let text = text.trim();
    let bare = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    // One spelling only: `Uuid` would read braces and URNs too.
    let id = Uuid::try_parse(bare).ok().filter(|_| bare.len() == 36)?;
    (id.get_version_num() == 7).then_some(id)
}

/// The condition of a write.
pub(super) fn condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let preconditions = Preconditions::read(headers).map_err(|error| bad(error.to_string()))?;
    preconditions.of_write().map_err(|error| bad(error.to_string()))
}

enum Media {
    Json,
    Multipart(String),
    Other(String),
}

fn media(headers: &HeaderMap) -> Media {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Media::Json;
    };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Media::Json,
        "multipart/form-data" => match multer::parse_boundary(text) {
            Ok(boundary) if boundary.len() <= BOUNDARY_OCTETS_MAX => Media::Multipart(boundary),
            Ok(_) | Err(_) => Media::Other(text.to_owned()),
        },
        _ => Media::Other(text.to_owned()),
    }
}

/// Both parts of a multipart write.
struct Taken {
    write: ObjectWrite,
    /// The JSON as it came.
    text: Bytes,
    body: Option<StagedBody>,
}

impl Access {
    /// Takes a small body into memory.
    async fn whole(&self, mut incoming: Incoming) -> Result<Bytes, Problem> {
        let mut text = BytesMut::new();
        while let Some(piece) = incoming.next().await {
            let piece = piece.map_err(|error| broken(&error))?;
            self.room(text.len() + piece.len())?;
            text.extend_from_slice(&piece);
        }
        Ok(text.freeze())
    }

    fn room(&self, octets: usize) -> Result<(), Problem> {
        let max = usize::try_from(self.bounds.properties_max.0).unwrap_or(usize::MAX);
        if octets > max.saturating_add(AROUND_PROPERTIES) {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("properties have at most {max} octets: put what is large into the body"),
            ));
        }
        Ok(())
    }

    /// Takes both parts of a multipart write, in any order: the JSON into memory, the body to disk.
    async fn multipart(&self, address: &Address, boundary: &str, incoming: Incoming) -> Result<Taken, Problem> {
        let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
        let mut multipart = multer::Multipart::new(EndApart::new(incoming), boundary);
        let (mut object, mut body) = (None, None);
        while let Some(mut field) = multipart.next_field().await.map_err(|error| broken(&error))? {
            match field.name() {
                Some("object") if object.is_none() => {
                    let mut text = BytesMut::new();
                    while let Some(piece) = field.chunk().await.map_err(|error| broken(&error))? {
                        self.room(text.len() + piece.len())?;
                        text.extend_from_slice(&piece);
                    }
                    object = Some(text.freeze());
                }
                Some("body") if body.is_none() => {
                    let staged = self.objects.stage_body(address, None, field).await;
                    body = Some(staged.map_err(|error| self.unwritten_here(&error))?);
                }
                name => {
                    let name = name.unwrap_or_default().to_owned();
                    return Err(bad(format!(
                        "part {name:?} is not known here, or is there twice: send one part object (JSON) and one part body"
                    )));
                }
            }
        }
        let text = object.ok_or_else(|| bad("part object (JSON) is missing".to_owned()))?;
        let write = ObjectWrite::read(&text).map_err(|error| unreadable(&error))?;
        Ok(Taken { write, text, body })
    }

    async fn put(&self, caller: &Caller, address: &Address, put: Put, outgoing: Outgoing) -> Result<Response, Problem> {
        match self.objects.put(address, put).await {
            Ok(written) => Ok(told(address, written)),
            Err(error) => self.unwritten(caller, error, outgoing).await,
        }
    }
}

/// The answer to a write.
fn told(address: &Address, written: Written) -> Response {
    let Written {
        epoch,
        revision,
        schema,
        created,
    } = written;
    let json = json!({
        "address": address.as_str(),
        "epoch": epoch.0,
        "revision": revision,
        "schema": schema,
        "created": created,
    });
    let status = match created {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let mut response = (status, axum::Json(json)).into_response();
    let headers = response.headers_mut();
    headers.insert(ETAG, ascii(&Tag { revision, schema }.to_string()));
    headers.insert(HYPERNET_EPOCH, epoch.0.into());
    response
}

fn unreadable(error: &ObjectWriteError) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, error.to_string())
}

/// A body that broke off. Mostly nobody is there any more to read this.
fn broken(error: &dyn std::error::Error) -> Problem {
    let why = crate::access::chain(error);
    Problem::new(StatusCode::BAD_REQUEST, WriteError::Body { why }.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn write_is_read_member_by_member() {
        let write = ObjectWrite::read(br#"{"type":"photo","schema":3,"properties":{"a":1}}"#).unwrap();
        assert_eq!(write.kind.unwrap().as_str(), "photo");
        assert_eq!(write.schema, Some(3));
        assert_eq!(write.properties.unwrap()["a"], 1);
        assert_eq!(ObjectWrite::read(b"{}").unwrap(), ObjectWrite::default());
    }

    #[test]
    fn write_that_would_lose_something_is_refused() {
        for text in [
            "[]",
            "",
            "{\"revision\":7}",
            "{\"type\":1}",
            "{\"type\":\"\"}",
            "{\"schema\":0}",
            "{\"schema\":1.5}",
            "{\"schema\":4294967296}",
            "{\"properties\":[]}",
            "{\"properties\":null}",
            "{\"type\":\"a\",\"type\":\"b\"}",
        ] {
            assert!(ObjectWrite::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn write_id_is_a_uuid_of_version_7_in_one_spelling() {
        let id = Uuid::now_v7();
        assert_eq!(read_write_id(&id.to_string()), Some(id));
        assert_eq!(read_write_id(&format!("\"{id}\"")), Some(id));
        assert_eq!(read_write_id(&id.simple().to_string()), None);
        assert_eq!(read_write_id(&format!("{{{id}}}")), None);
        assert_eq!(read_write_id("a9f6f0f4-1e0b-4c1f-9d53-3d5f4f6f1c11"), None, "version 4");
    }

    #[test]
    fn media_types_are_told_apart() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().unwrap());
            media(&headers)
        };
        assert!(matches!(media(&HeaderMap::new()), Media::Json));
        assert!(matches!(of("Application/JSON; charset=utf-8"), Media::Json));
        assert!(matches!(of("multipart/form-data; boundary=abc"), Media::Multipart(boundary) if boundary == "abc"));
        assert!(matches!(of("multipart/form-data"), Media::Other(_)));
        assert!(matches!(
            of(&format!("multipart/form-data; boundary={}", "a".repeat(71))),
            Media::Other(_)
        ));
        assert!(matches!(of("text/plain"), Media::Other(_)));
    }

    proptest! {
        #[test]
        fn any_write_is_read_without_panic(text in r#"[{}\[\]:,"a-z0-9. ]{0,48}"#) {
            let _ = ObjectWrite::read(text.as_bytes());
            let _ = read_write_id(&text);
        }
    }
}
