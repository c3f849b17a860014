//! Properties as octets: I-JSON in, canonical JSON out, so that equal properties have equal digests.
//!
//! Specifications: RFC 7493 (I-JSON), RFC 8785 (canonical form).

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deepest nesting of arrays and objects: what the reader of clients' JSON takes is read here too.
pub const DEPTH_MAX: usize = 128;

/// Largest integer that every JSON reader keeps exactly (RFC 7493 section 2.2).
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Why octets are no properties.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PropertiesError {
    /// Not I-JSON: broken syntax, a key twice in one object, a number that does not survive, or too deep.
    #[error("properties are not I-JSON (RFC 7493)")]
    Json(#[from] serde_json::Error),
}

/// Reads one JSON object under the rules of I-JSON: UTF-8, no key twice, numbers finite, integers within 53 bits.
///
/// A larger integer is taken only if it is the canonical spelling of a double: `8e17` becomes `800000000000000000` in the store,
/// and has to be read from there. All that [`canonical`] gives is read.
///
/// # Errors
///
/// [`PropertiesError::Json`], with line and column.
pub fn read(octets: &[u8]) -> Result<Map<String, Value>, PropertiesError> {
    let mut reader = serde_json::Deserializer::from_slice(octets);
    let value = Strict { depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    match value {
        Value::Object(map) => Ok(map),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Err(
            PropertiesError::Json(serde_json::Error::custom("expected a JSON object")),
        ),
    }
}

/// The canonical octets (RFC 8785).
///
/// # Errors
///
/// [`PropertiesError::Json`] for a number that JSON cannot hold.
pub fn canonical(properties: &Map<String, Value>) -> Result<Vec<u8>, PropertiesError> {
    Ok(serde_json_canonicalizer::to_vec(properties)?)
}

struct Strict {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Strict {
    fn deeper<E: serde::de::Error>(&self) -> Result<Strict, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX}")));
        }
        Ok(Strict { depth: self.depth + 1 })
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("I-JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        if value > INTEGER_MAX {
            return double(value as f64, &value.to_string())
                .ok_or_else(|| E::custom(format_args!("{value} is over 2^53 - 1: write it as a string")));
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > INTEGER_MAX {
            return double(value as f64, &value.to_string())
                .ok_or_else(|| E::custom(format_args!("{value} is below -(2^53 - 1): write it as a string")));
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self.deeper()?)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self.deeper()?)?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("key {key:?} occurs twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// The double, if this is its canonical spelling.
fn double(value: f64, spelt: &str) -> Option<Value> {
    let canonical = serde_json_canonicalizer::to_string(&value).ok()?;
    (canonical == spelt).then(|| Number::from_f64(value).map(Value::Number))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-(1_i64 << 53) + 1..1 << 53).prop_map(|number| Value::Number(number.into())),
            any::<f64>()
                .prop_filter("finite", |number| number.is_finite())
                .prop_map(|number| Number::from_f64(number).map_or(Value::Null, Value::Number)),
            // Where the canonical spelling of a double is that of an integer.
            (-1e22_f64..1e22).prop_map(|number| Number::from_f64(number).map_or(Value::Null, Value::Number)),
            ".{0,12}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::hash_map(".{0,8}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn canonical_form_is_read_and_is_a_fixed_point(value in json()) {
            let map = Map::from_iter([("a".to_owned(), value)]);
            let first = canonical(&map).unwrap();
            // -0 and large floats may read as another number type; their canonical octets do not change any more.
            prop_assert_eq!(canonical(&read(&first).unwrap()).unwrap(), first);
        }

        #[test]
        fn any_octets_are_read_or_refused(octets: Vec<u8>) {
            let _ = read(&octets);
        }
    }

    #[test]
    fn order_and_spacing_do_not_change_the_octets() {
        let one = read(br#"{ "b": 1.0, "a": [1e2, "\u00e9"] }"#).unwrap();
        let two = read("{\"a\":[100,\"é\"],\"b\":1}".as_bytes()).unwrap();
        assert_eq!(canonical(&one).unwrap(), canonical(&two).unwrap());
        assert_eq!(canonical(&two).unwrap(), "{\"a\":[100,\"é\"],\"b\":1}".as_bytes());
    }

    #[test]
    fn what_other_readers_would_change_is_refused() {
        for text in [
            &br#"{"a":1,"a":2}"#[..],
            br#"{"a":{"b":1,"b":1}}"#,
            br#"{"a":9007199254740993}"#,
            br#"{"a":1e999}"#,
            br#"{"a":"\ud800"}"#,
            br"[1]",
            br#"{"a":1} x"#,
            b"{\"a\":\"\xff\"}",
        ] {
            assert!(read(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(150), "]".repeat(150));
        assert!(read(deep.as_bytes()).is_err());
    }
}
