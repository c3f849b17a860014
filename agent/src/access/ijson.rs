//! JSON from clients: I-JSON (RFC 7493) or refused.
//!
//! Properties are hashed and compared in their canonical form (RFC 8785), so two readers must never see two things in one
//! text: a name twice in an object, and integers that a double cannot hold, are refused here, where the client still learns
//! of it. serde_json keeps the last of two names silently, and its numbers are wider than RFC 8785's.
//!
//! Specifications: RFC 8259, RFC 7493 sections 2.1 to 2.3.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Greatest integer that every reader of I-JSON holds exactly (RFC 7493 section 2.2).
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// A JSON value that is I-JSON all through.
#[derive(Clone, Debug, PartialEq)]
pub struct Strict(pub Value);

/// Why a text is not I-JSON: what, line and column.
#[derive(Debug, thiserror::Error)]
#[error("the JSON is refused: {source}")]
pub struct IJsonError {
    #[from]
    source: serde_json::Error,
}

/// Reads an I-JSON text.
///
/// # Errors
///
/// [`IJsonError`] names the line and column.
pub fn read(text: &[u8]) -> Result<Value, IJsonError> {
    let Strict(value) = serde_json::from_slice(text)?;
    Ok(value)
}

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Strict)
    }
}

struct AnyValue;

impl<'de> DeserializeSeed<'de> for AnyValue {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        text(&value)?;
        Ok(Value::String(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        integer(value)?;
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        integer(value.unsigned_abs())?;
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        // An integer past 64 bits comes as a float too. One within 2^53 is the integer that it looks like.
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that no double holds"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(AnyValue)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            text(&name)?;
            if map.contains_key(&name) {
                return Err(de::Error::custom(format!(
                    "the name {name:?} is there twice: keep one of them"
                )));
            }
            let value = entries.next_value_seed(AnyValue)?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

fn integer<E: de::Error>(magnitude: u64) -> Result<(), E> {
    if magnitude <= INTEGER_MAX {
        Ok(())
    } else {
        Err(E::custom(
            "an integer past 2^53 - 1, which not every reader holds exactly: write it as a string",
        ))
    }
}

/// RFC 7493 section 2.1: no noncharacters. (Lone surrogates never get this far: serde_json refuses them.)
fn text<E: de::Error>(text: &str) -> Result<(), E> {
    let noncharacter = |c: char| matches!(u32::from(c), 0xFDD0..=0xFDEF) || u32::from(c) & 0xFFFE == 0xFFFE;
    match text.chars().find(|c| noncharacter(*c)) {
        None => Ok(()),
        Some(found) => Err(E::custom(format!("a Unicode noncharacter U+{:04X}", u32::from(found)))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn name_twice_is_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#] {
            let refused = read(text.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains("\"a\" is there twice"), "{refused}");
        }
        assert!(read(br#"{"a":{"a":1},"b":{"a":1}}"#).is_ok());
    }

    #[test]
    fn integer_that_a_double_cannot_hold_is_refused() {
        assert!(read(b"[9007199254740991, -9007199254740991, 1.5, 1e300]").is_ok());
        for text in ["9007199254740992", "-9007199254740992", "18446744073709551615", "1e400"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_utf_8_or_holds_noncharacters_is_refused() {
        assert!(read(b"\"\xff\"").is_err());
        assert!(read(br#""\ud800""#).is_err());
        assert!(read(br#""\uffff""#).is_err());
        assert!(read(br#"{"\ufdd0":1}"#).is_err());
        assert!(read("\"ä😀\"".as_bytes()).is_ok());
    }

    #[test]
    fn depth_has_a_bound() {
        let deep = "[".repeat(10_000);
        assert!(read(deep.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_serde_json_reads(text in r#"[\[\]{}:,"a01e.\- ]{0,24}"#) {
            if let Ok(value) = read(text.as_bytes()) {
                prop_assert_eq!(value, serde_json::from_str::<Value>(&text).unwrap());
            }
        }

        #[test]
        fn any_octets_are_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&text);
        }
    }
}
