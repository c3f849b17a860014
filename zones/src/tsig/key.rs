//! TSIG keys and the text of the key files that BIND's tools read.

use std::fmt;
use std::sync::Arc;

use data_encoding::BASE64;
use hickory_proto::rr::Name;
use hmac::{Hmac, KeyInit as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Fewest octets of a secret: half a digest, as with the MAC itself (RFC 8945 section 5.2.2.1).
pub const SECRET_OCTETS_MIN: usize = 16;
/// Most octets of a secret; more than a block of SHA-256 would be hashed down anyway (RFC 2104 section 3).
pub const SECRET_OCTETS_MAX: usize = 64;
/// The one algorithm of a pool, as its name in a TSIG record without the root label's octet.
pub(super) const ALGORITHM: &str = "hmac-sha256";

/// A shared secret and its name: who holds it can sign as that name.
///
/// Only hmac-sha256. Cloning is cheap and shares the secret, which is wiped when the last clone is dropped; `Debug`
/// shows the name alone.
///
/// # Examples
///
/// ```
/// use zones::TsigKey;
///
/// let key = TsigKey::from_bind_file(r#"key "s2" { algorithm hmac-sha256; secret "MDEyMzQ1Njc4OWFiY2RlZg=="; };"#)?;
/// assert_eq!(key.name().to_string(), "s2.");
/// assert_eq!(TsigKey::from_bind_file(&key.to_bind_file())?, key);
/// # Ok::<(), zones::tsig::KeyError>(())
/// ```
#[derive(Clone)]
pub struct TsigKey {
    inner: Arc<Inner>,
}

struct Inner {
    name: Name,
    /// The name as it is digested and written: lower case, not compressed.
    name_wire: Vec<u8>,
    secret: Zeroizing<Vec<u8>>,
}

/// Why a name and a secret, or a file, make no key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The name is no domain name.
    #[error("{name:?} is no name for a key: use a domain name such as s2")]
    Name {
        /// What was given.
        name: String,
    },
    /// The secret is too short or too long.
    #[error("the secret of key {name} has {octets} octets: {SECRET_OCTETS_MIN} to {SECRET_OCTETS_MAX} are allowed")]
    Secret {
        /// The key.
        name: String,
        /// Its length.
        octets: usize,
    },
    /// Another algorithm.
    #[error("key {name} is for {algorithm}: only hmac-sha256 is used here, make one by tsig-keygen -a hmac-sha256")]
    Algorithm {
        /// The key.
        name: String,
        /// What the file says.
        algorithm: String,
    },
    /// The file is not of the form `key "s2" { algorithm hmac-sha256; secret "..."; };`.
    #[error(
        "the key file has no {expected} where one belongs: it holds key \"NAME\" {{ algorithm hmac-sha256; secret \"BASE64\"; }};"
    )]
    File {
        /// What belongs there.
        expected: &'static str,
    },
}

impl TsigKey {
    /// A key of a name, such as `s2`, and a secret.
    ///
    /// # Errors
    ///
    /// [`KeyError::Name`], [`KeyError::Secret`].
    pub fn new(name: &str, secret: &[u8]) -> Result<TsigKey, KeyError> {
        let bad = || KeyError::Name { name: name.to_owned() };
        let mut parsed = Name::from_ascii(name).map_err(|_| bad())?.to_lowercase();
        parsed.set_fqdn(true);
        let plain = |label: &[u8]| {
            label
                .iter()
                .all(|octet| octet.is_ascii_graphic() && !b"\"\\;.".contains(octet))
        };
        if parsed.is_root() || !parsed.iter().all(plain) {
            return Err(bad());
        }
        if !(SECRET_OCTETS_MIN..=SECRET_OCTETS_MAX).contains(&secret.len()) {
            return Err(KeyError::Secret {
                name: name.to_owned(),
                octets: secret.len(),
            });
        }
        let mut name_wire = Vec::with_capacity(parsed.len() + 1);
        for label in parsed.iter() {
            name_wire.push(u8::try_from(label.len()).expect("a label has at most 63 octets"));
            name_wire.extend_from_slice(label);
        }
        name_wire.push(0);
        Ok(TsigKey {
            inner: Arc::new(Inner {
                name: parsed,
                name_wire,
                secret: Zeroizing::new(secret.to_vec()),
            }),
        })
    }

    /// Reads the text of a BIND key file: one `key` statement, comments allowed.
    ///
    /// # Errors
    ///
    /// [`KeyError`].
    pub fn from_bind_file(text: &str) -> Result<TsigKey, KeyError> {
        let mut tokens = Tokens { rest: text };
        tokens.word("key")?;
        let name = tokens.value("name of the key")?;
        tokens.word("{")?;
        let (mut algorithm, mut secret) = (None, None);
        loop {
            match tokens.next() {
                Some("algorithm") if algorithm.is_none() => algorithm = Some(tokens.value("algorithm")?),
                Some("secret") if secret.is_none() => secret = Some(tokens.value("secret")?),
                Some("}") => break,
                Some(_) | None => {
                    return Err(KeyError::File {
                        expected: "algorithm, secret or }",
                    });
                }
            }
            tokens.word(";")?;
        }
        tokens.word(";")?;
        if tokens.next().is_some() {
            return Err(KeyError::File {
                expected: "end of the file",
            });
        }
        let algorithm = algorithm.ok_or(KeyError::File { expected: "algorithm" })?;
        if !algorithm.trim_end_matches('.').eq_ignore_ascii_case(ALGORITHM) {
            return Err(KeyError::Algorithm {
                name: name.to_owned(),
                algorithm: algorithm.to_owned(),
            });
        }
        let secret = secret.ok_or(KeyError::File { expected: "secret" })?;
        let secret = BASE64.decode(secret.as_bytes()).map(Zeroizing::new);
        TsigKey::new(
            name,
            &secret.map_err(|_| KeyError::File {
                expected: "secret in base64",
            })?,
        )
    }

    /// The text of a BIND key file, for `nsupdate -k` and `dig -k`. It holds the secret: it is wiped when dropped.
    #[must_use]
    pub fn to_bind_file(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(BASE64.encode(&self.inner.secret));
        let name = self.inner.name.to_ascii();
        Zeroizing::new(format!(
            "key \"{}\" {{\n\talgorithm {ALGORITHM};\n\tsecret \"{}\";\n}};\n",
            name.trim_end_matches('.'),
            *secret
        ))
    }

    /// The name of the key, in lower case.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.inner.name
    }

    /// Octets that a signature by this key adds to a message. A BADTIME answer takes 6 more.
    #[must_use]
    pub fn record_octets(&self) -> usize {
        super::wire::record_octets(&self.inner.name_wire)
    }

    pub(super) fn name_wire(&self) -> &[u8] {
        &self.inner.name_wire
    }

    pub(super) fn hmac(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.inner.secret).expect("HMAC takes a key of any length")
    }
}

impl PartialEq for TsigKey {
    /// Compares in a time that tells the length of the secret alone.
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.inner.secret, &other.inner.secret);
        let differing = ours.iter().zip(theirs.iter()).fold(0, |acc, (a, b)| acc | (a ^ b));
        self.inner.name == other.inner.name && ours.len() == theirs.len() && differing == 0
    }
}

impl Eq for TsigKey {}

impl fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TsigKey({})", self.inner.name)
    }
}

/// Words of a key file: `{`, `}`, `;`, bare words and quoted strings, without comments.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn word(&mut self, word: &'static str) -> Result<(), KeyError> {
        match self.next() {
            Some(found) if found == word => Ok(()),
            Some(_) | None => Err(KeyError::File { expected: word }),
        }
    }

    fn value(&mut self, expected: &'static str) -> Result<&'a str, KeyError> {
        match self.next() {
            Some(found) if !matches!(found, "{" | "}" | ";" | "") => Ok(found),
            Some(_) | None => Err(KeyError::File { expected }),
        }
    }

    fn skip_blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            let end = if self.rest.starts_with('#') || self.rest.starts_with("//") {
                self.rest.find('\n')
            } else if self.rest.starts_with("/*") {
                self.rest.find("*/").map(|at| at + 2)
            } else {
                return;
            };
            self.rest = &self.rest[end.unwrap_or(self.rest.len())..];
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.skip_blanks();
        let first = self.rest.chars().next()?;
        if first == '"' {
            let (quoted, rest) = self.rest[1..].split_once('"')?;
            self.rest = rest;
            return Some(quoted);
        }
        let end = match first {
            '{' | '}' | ';' => 1,
            _ => self
                .rest
                .find(|c: char| c.is_whitespace() || "{};\"".contains(c))
                .unwrap_or(self.rest.len()),
        };
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_file_in_any_layout_gives_the_same_key() {
        let key = TsigKey::new("s2", b"0123456789abcdef").unwrap();
        let secret = BASE64.encode(b"0123456789abcdef");
        for text in [
            format!("key \"s2\" {{ algorithm hmac-sha256; secret \"{secret}\"; }};"),
            format!(
                "# made by tsig-keygen\nkey S2. {{\n secret {secret}; /* first */ algorithm HMAC-SHA256.;\n}} ; // end"
            ),
            key.to_bind_file().to_string(),
        ] {
            assert_eq!(TsigKey::from_bind_file(&text).unwrap(), key, "{text}");
        }
    }

    #[test]
    fn broken_key_file_is_refused_with_what_belongs_there() {
        let file = |text: &str| TsigKey::from_bind_file(text).unwrap_err();
        assert_eq!(file(""), KeyError::File { expected: "key" });
        assert_eq!(
            file("key s2 { algorithm hmac-sha256; };"),
            KeyError::File { expected: "secret" }
        );
        assert_eq!(
            file("key s2 { secret \"AAAA\"; };"),
            KeyError::File { expected: "algorithm" }
        );
        assert!(matches!(
            file("key s2 { algorithm hmac-sha1; secret \"AAAA\"; };"),
            KeyError::Algorithm { .. }
        ));
        assert!(matches!(
            file("key s2 { algorithm hmac-sha256; secret \"AAAA\"; };"),
            KeyError::Secret { octets: 3, .. }
        ));
        assert_eq!(
            file("key s2 { algorithm hmac-sha256; secret \"never closed"),
            KeyError::File { expected: "secret" }
        );
    }

    #[test]
    fn debug_of_a_key_shows_no_secret() {
        let key = TsigKey::new("s2", b"0123456789abcdef").unwrap();
        assert_eq!(format!("{key:?}"), "TsigKey(s2.)");
    }
}
