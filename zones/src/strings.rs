//! Character-strings `key=value` in a fixed order, as TXT records of the pool hold them (RFC 6763 section 6 style).

use std::str::FromStr;

use crate::server::ServerName;

/// Why character-strings are not those of a record of the pool.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StringsError {
    /// A key is missing, unknown, twice there or out of order.
    #[error("the record has {found:?} where {expected}= belongs")]
    Key {
        /// The key that belongs there.
        expected: &'static str,
        /// The string found there; empty at the end.
        found: String,
    },
    /// A value breaks its grammar.
    #[error("the record has an illegal value {value:?} for {key}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value as found.
        value: String,
    },
}

/// Reads strings one key after another.
pub(crate) struct Strings<'a, S> {
    rest: std::slice::Iter<'a, S>,
}

impl<'a, S: AsRef<[u8]>> Strings<'a, S> {
    pub(crate) fn new(strings: &'a [S]) -> Self {
        Strings { rest: strings.iter() }
    }

    /// The value of `key`, which has to be next.
    pub(crate) fn take(&mut self, key: &'static str) -> Result<&'a str, StringsError> {
        let string = self.bare(key)?;
        string
            .strip_prefix(key)
            .and_then(|rest| rest.strip_prefix('='))
            .ok_or_else(|| StringsError::Key {
                expected: key,
                found: string.to_owned(),
            })
    }

    /// The next string, whatever it is; `what` names it in the error.
    pub(crate) fn bare(&mut self, what: &'static str) -> Result<&'a str, StringsError> {
        let string = self.rest.next().map(AsRef::as_ref).unwrap_or_default();
        std::str::from_utf8(string).map_err(|_| StringsError::Key {
            expected: what,
            found: String::from_utf8_lossy(string).into_owned(),
        })
    }

    /// A value that its own type reads.
    pub(crate) fn parse<T: FromStr>(&mut self, key: &'static str) -> Result<T, StringsError> {
        let value = self.take(key)?;
        value.parse().map_err(|_| illegal(key, value))
    }

    /// A decimal number spelled the one way it is made: no sign, no leading zero.
    pub(crate) fn number<T: FromStr + ToString>(&mut self, key: &'static str) -> Result<T, StringsError> {
        let value = self.take(key)?;
        plain(value).ok_or_else(|| illegal(key, value))
    }

    /// Names of servers joined by `,`, none twice and at most so many; perhaps none at all.
    pub(crate) fn servers(&mut self, key: &'static str, at_most: usize) -> Result<Vec<ServerName>, StringsError> {
        let text = self.take(key)?;
        let servers: Vec<ServerName> = match text {
            "" => Vec::new(),
            list => list
                .split(',')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map_err(|_| illegal(key, text))?,
        };
        if !none_twice(&servers, |server| server) || servers.len() > at_most {
            return Err(illegal(key, text));
        }
        Ok(servers)
    }

    /// The version, which every record of `key=value` strings begins with.
    pub(crate) fn version(&mut self) -> Result<(), StringsError> {
        match self.take("v")? {
            "hn1" => Ok(()),
            other => Err(illegal("v", other)),
        }
    }

    /// Whether nothing follows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.len() == 0
    }

    /// Whether `key` is next.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        let next = self.rest.as_slice().first().map(AsRef::as_ref);
        next.and_then(|string| string.strip_prefix(key.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&b'='))
    }

    /// Passes over what a later release says: `[a-z]+=` and anything, but none of the keys that this release reads further up.
    pub(crate) fn later(&mut self, known: &[&str]) -> Result<(), StringsError> {
        for string in self.rest.by_ref() {
            let string = string.as_ref();
            let key = string.iter().take_while(|c| c.is_ascii_lowercase()).count();
            let is_known = known.iter().any(|known| known.as_bytes() == &string[..key]);
            if key == 0 || string.get(key) != Some(&b'=') || is_known {
                return Err(StringsError::Key {
                    expected: "a later key",
                    found: String::from_utf8_lossy(string).into_owned(),
                });
            }
        }
        Ok(())
    }

    /// Nothing more may follow.
    pub(crate) fn end(&mut self) -> Result<(), StringsError> {
        match self.rest.next() {
            None => Ok(()),
            Some(more) => Err(StringsError::Key {
                expected: "nothing",
                found: String::from_utf8_lossy(more.as_ref()).into_owned(),
            }),
        }
    }
}

/// A decimal number spelled the one way it is made: no sign, no leading zero.
pub(crate) fn plain<T: FromStr + ToString>(text: &str) -> Option<T> {
    let number: T = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Whether no two of these are the same by what is taken of them. For lists as short as a record's.
pub(crate) fn none_twice<T, K: PartialEq>(list: &[T], of: impl Fn(&T) -> &K) -> bool {
    (1..list.len()).all(|at| list[..at].iter().all(|before| of(before) != of(&list[at])))
}

pub(crate) fn illegal(key: &'static str, value: &str) -> StringsError {
    StringsError::Value {
        key,
        value: value.to_owned(),
    }
}
