//! Addresses as people and applications write them in requests: `A`, `A@latest`, `A:part`.
//!
//! Objects have one version, the present one, so `@latest` says nothing and is dropped; a number there asks for what the
//! pool does not keep, and gets an error rather than another version (DESIGN.md section 4). A client strips these before
//! it asks; an agent takes the bare address only and says so.

use zones::{Address, AddressError};

/// Why a text names no object.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The address breaks its grammar.
    #[error("{0}")]
    Address(#[from] AddressError),
    /// `A@v3` and the like.
    #[error("{text:?} asks for version {version:?}, and versions are not kept: ask for {address}, the present one")]
    Version {
        /// What was given.
        text: String,
        /// The version behind the `@`.
        version: String,
        /// The address without it.
        address: Address,
    },
    /// `A@latest` or `A:part` sent to an agent.
    #[error("{text:?} is more than an address: ask for {address}")]
    Suffix {
        /// What was given.
        text: String,
        /// The address without it.
        address: Address,
    },
}

/// The address of a request, without `@latest` and `:part`.
///
/// # Errors
///
/// [`TargetError::Address`] outside the grammar, [`TargetError::Version`] for any other version than `latest`.
pub fn strip(text: &str) -> Result<Address, TargetError> {
    let end = text.find(['@', ':']).unwrap_or(text.len());
    let (bare, mut rest) = text.split_at(end);
    let address: Address = bare.parse()?;
    while let Some(mark) = rest.chars().next() {
        let suffix = &rest[1..];
        let end = suffix.find(['@', ':']).unwrap_or(suffix.len());
        if mark == '@' && &suffix[..end] != "latest" {
            return Err(TargetError::Version {
                text: text.to_owned(),
                version: suffix[..end].to_owned(),
                address,
            });
        }
        rest = &suffix[end..];
    }
    Ok(address)
}

/// The address of a request to an agent: bare.
///
/// # Errors
///
/// As [`strip`], and [`TargetError::Suffix`] where there was something to strip.
pub fn bare(text: &str) -> Result<Address, TargetError> {
    let address = strip(text)?;
    if address.as_str() == text {
        Ok(address)
    } else {
        Err(TargetError::Suffix {
            text: text.to_owned(),
            address,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn latest_and_parts_are_stripped() {
        for text in [
            "3.1.023",
            "3.1.023@latest",
            "3.1.023:summary",
            "3.1.023:summary@latest",
            "3.1.023@latest:summary",
        ] {
            assert_eq!(strip(text).unwrap().as_str(), "3.1.023", "{text}");
        }
    }

    #[test]
    fn another_version_is_an_error_and_never_another_version() {
        for text in ["3.1@v2", "3.1@2", "3.1@", "3.1:part@v2", "3.1@latest@v2", "3.1@Latest"] {
            assert!(matches!(strip(text), Err(TargetError::Version { .. })), "{text}");
        }
    }

    #[test]
    fn agent_takes_the_bare_address_only() {
        assert_eq!(bare("3.1").unwrap().as_str(), "3.1");
        assert!(matches!(bare("3.1@latest"), Err(TargetError::Suffix { address, .. }) if address.as_str() == "3.1"));
        assert!(matches!(bare("3.1:a"), Err(TargetError::Suffix { .. })));
        assert!(matches!(bare("3..1"), Err(TargetError::Address(_))));
    }

    proptest! {
        #[test]
        fn stripped_address_is_a_prefix_of_the_text(text in "[0-9a-z.@:v]{0,24}") {
            if let Ok(address) = strip(&text) {
                prop_assert!(text.starts_with(address.as_str()));
            }
        }
    }
}
