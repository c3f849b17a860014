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
    // Octet by octet, since millions are looked at before a librarian answers.
    let octets = text.as_bytes();
    let mut part_octets = 0;
    for (at, octet) in octets.iter().enumerate() {
        part_octets = match octet {
            b'.' if part_octets > 0 => 0,
            b'0'..=b'9' | b'a'..=b'z' | b'_' | b'-' if part_octets < 63 => part_octets + 1,
            _ => return false,
        };
        if part_octets == 4 && octets[at - 3..].starts_with(b"xh--") {
            return false;
        }
    }
    part_octets > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_its_own_key_where_its_parts_are_labels_in_lower_case() {
        let domain: Domain = "hypernet.internal".parse().unwrap();
        let (longest, too_long) = ("a".repeat(63), "a".repeat(64));
        let texts = ["1", "3.1.2.023", "a-b._", "axh--.1", "1.xh-", &longest];
        let others = [
            "", ".", "1.", ".1", "1..2", "A", "1.a.B", "1 2", "xh--00", "1.xh--", &too_long, "1.é",
        ];
        for text in texts {
            assert!(is_its_own_key(text), "{text}");
            assert_eq!(key_of(&domain, &text.parse().unwrap()).as_deref(), Some(text));
        }
        for text in others {
            assert!(!is_its_own_key(text), "{text}");
        }
    }
}
