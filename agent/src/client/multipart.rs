//! The frame of a multipart write: what stands before and behind the body.
//!
//! Specifications: RFC 7578, RFC 2046 section 5.1.

use bytes::Bytes;

/// What comes before the octets of the body, and what comes behind them.
pub(crate) fn frame(boundary: &str, object: &[u8], with_body: bool) -> (Bytes, Bytes) {
    let mut head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"object\"\r\nContent-Type: application/json\r\n\r\n"
    )
    .into_bytes();
    head.extend_from_slice(object);
    if with_body {
        let body = format!(
            "\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"body\"; filename=\"body\"\r\nContent-Type: \
             application/octet-stream\r\n\r\n"
        );
        head.extend_from_slice(body.as_bytes());
    }
    (head.into(), format!("\r\n--{boundary}--\r\n").into_bytes().into())
}
