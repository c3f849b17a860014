//! Addresses on the command line: `3.1`, `3.1@latest`, `3.1:part`.

use std::str::FromStr;

use zones::Address;

use crate::access::target::{self, TargetError};

/// An address as a person writes it; what a client strips is stripped.
#[derive(Clone, Debug)]
pub(super) struct Target(pub(super) Address);

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        target::strip(text).map(Target)
    }
}
