//! Keys of objects: the text of an object's DNS labels in written order, lower case, joined by dots.
//!
//! For nearly every address that is the folded address; parts that DNS cannot carry differ (PROTOCOL.md section 2).

use hickory_proto::rr::Name;
use zones::name::label_count;
use zones::{Address, Domain, Zone};

/// The key of an address: its labels in written order, lower case, joined by dots.
///
/// `None` for an address that has no name in this pool and so can have no register.
pub(crate) fn key_of(domain: &Domain, address: &Address) -> Option<String> {
    let plain = address.parts().all(|part| {
        part.len() <= 63
            && !part
                .as_bytes()
                .get(..4)
                .is_some_and(|start| start.eq_ignore_ascii_case(b"xh--"))
    });
    if plain {
        return Some(address.folded().as_str().to_owned());
    }
    let name = domain.bare_name(address).ok()?;
    let labels: Vec<String> = name
        .iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect();
    Some(labels.join("."))
}

/// The key that labels in written order spell; `None` where no address has such labels.
pub(crate) fn key_of_labels<'l>(labels: impl Iterator<Item = &'l [u8]>) -> Option<String> {
    let mut key = String::new();
    for label in labels {
        if !key.is_empty() {
            key.push('.');
        }
        for octet in label {
            match octet.to_ascii_lowercase() {
                octet @ (b'0'..=b'9' | b'a'..=b'z' | b'_' | b'-') => key.push(char::from(octet)),
                _ => return None,
            }
        }
    }
    Some(key)
}

/// The key that a name in `obj` or `tree`, or a bare name, stands for. It is empty at the apex of a zone and for the
/// root. `None` where no address has such labels, and in the other zones.
pub(crate) fn key_of_name(domain: &Domain, name: &Name) -> Option<String> {
    let own = |zone| label_count(name) - label_count(domain.zone(zone));
    match domain.zone_of(name) {
        Some(Zone::Obj) => key_of_labels(name.iter().take(own(Zone::Obj))),
        Some(Zone::Tree) => {
            let labels: Vec<&[u8]> = name.iter().take(own(Zone::Tree)).collect();
            key_of_labels(labels.into_iter().rev())
        }
        Some(Zone::Pool | Zone::Apex) => None,
        None => key_of_labels(name.iter()),
    }
}

/// Whether a text is an address whose key is the same text: parts that are labels, in lower case.
pub(super) fn is_its_own_key(text: &str) -> bool {
    text.split('.').all(|part| {
        (1..=63).contains(&part.len())
            && !part.starts_with("xh--")
            && part
                .bytes()
                .all(|octet| matches!(octet, b'0'..=b'9' | b'a'..=b'z' | b'_' | b'-'))
    })
}
