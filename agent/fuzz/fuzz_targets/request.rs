//! What a request says in headers, paths, queries and JSON: anything may come, and what is understood reads back.
#![no_main]

use agent::access::condition::{Preconditions, Tag};
use agent::access::range::{ByteRange, RangeRequest};
use agent::access::{ListQuery, ObjectWrite, byte_sequence, ijson, read_write_id, target};
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    if let Some(range) = RangeRequest::read(octets) {
        assert_eq!(RangeRequest::read(range.to_string().as_bytes()), Some(range));
        for total in [0, 1, 4096, u64::MAX] {
            if let Ok(found) = range.within(total) {
                assert!(found.first <= found.last && found.last < total);
            }
        }
    }
    if let Some(range) = ByteRange::read(octets) {
        assert_eq!(ByteRange::read(range.to_string().as_bytes()), Some(range));
    }
    let _ = byte_sequence(octets);
    let _ = ijson::read(octets);
    let _ = ObjectWrite::read(octets);
    if let Ok(value) = HeaderValue::from_bytes(octets) {
        for name in [IF_MATCH, IF_NONE_MATCH] {
            let headers = HeaderMap::from_iter([(name, value.clone())]);
            let _ = Preconditions::read(&headers).map(|preconditions| preconditions.of_write());
        }
    }
    let Ok(text) = std::str::from_utf8(octets) else {
        return;
    };
    if let Some(tag) = Tag::read(text) {
        assert_eq!(tag.to_string(), text);
    }
    if let Ok(address) = target::strip(text) {
        assert!(text.starts_with(address.as_str()));
    }
    let _ = target::bare(text);
    let _ = ListQuery::read(text);
    let _ = read_write_id(text);
});
