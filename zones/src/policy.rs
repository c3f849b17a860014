//! What a plan asks of every object, beside where it is.
//!
//! Specification: DESIGN.md sections 9 (levels), 10 (steps) and 13 (finalize), PROTOCOL.md section 4.

use crate::register::Level;
use crate::strings::{Strings, StringsError, illegal};

/// Highest level that servers of this release know.
pub const LEVEL_MAX: Level = Level(3);

/// What a plan asks of objects as they are written and moved. It only ever rises from one plan to the next, but for
/// the steps: while a pool is upgraded, contract steps wait for the new release to be final.
///
/// Text, as character-strings behind those of a want: `level=2` `floor=1` `steps=expand`. The first policy, which every pool
/// begins with, has no text at all: so an agent of a release without policies reads the wants of a pool that asks for nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Level of new objects, and the one that an object rises to when it moves.
    pub level: Level,
    /// Lowest level that an agent takes from another.
    pub floor: Level,
    /// Which schema steps run.
    pub steps: Steps,
}

/// Which schema steps run when an object moves.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Steps {
    /// Those whose result the release before can read: until an upgrade is finalized.
    #[default]
    Expand,
    /// All.
    All,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            level: Level(1),
            floor: Level(1),
            steps: Steps::Expand,
        }
    }
}

impl Policy {
    /// Whether its parts go together.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        Level(1) <= self.floor && self.floor <= self.level
    }

    /// Whether it asks for nothing less than the one before.
    #[must_use]
    pub fn follows(&self, before: &Policy) -> bool {
        self.level >= before.level
            && self.floor >= before.floor
            && (self.steps == Steps::All || before.steps == Steps::Expand)
    }

    /// Its text; none for the first policy.
    #[must_use]
    pub fn strings(&self) -> Vec<String> {
        if *self == Policy::default() {
            return Vec::new();
        }
        vec![
            format!("level={}", self.level),
            format!("floor={}", self.floor),
            format!("steps={}", self.steps),
        ]
    }

    /// Reads its text.
    ///
    /// # Errors
    ///
    /// [`StringsError`]. Reading accepts exactly what [`Policy::strings`] makes.
    pub fn from_strings<S: AsRef<[u8]>>(strings: &[S]) -> Result<Policy, StringsError> {
        let mut strings = Strings::new(strings);
        let policy = Policy::from_rest(&mut strings)?;
        strings.end()?;
        Ok(policy)
    }

    /// Reads what is left of a want's strings.
    pub(crate) fn from_rest<S: AsRef<[u8]>>(strings: &mut Strings<'_, S>) -> Result<Policy, StringsError> {
        if !strings.has("level") {
            return Ok(Policy::default());
        }
        let policy = Policy {
            level: Level(strings.number("level")?),
            floor: Level(strings.number("floor")?),
            steps: match strings.take("steps")? {
                "expand" => Steps::Expand,
                "all" => Steps::All,
                other => return Err(illegal("steps", other)),
            },
        };
        // One spelling for each policy; the first one has none.
        if !policy.is_sound() || policy == Policy::default() {
            return Err(illegal("floor", &policy.floor.to_string()));
        }
        Ok(policy)
    }
}

impl std::fmt::Display for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Steps::Expand => "expand",
            Steps::All => "all",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_falls_in_no_part() {
        let first = Policy::default();
        let next = Policy {
            level: Level(2),
            floor: Level(2),
            steps: Steps::All,
        };
        assert!(next.follows(&first) && first.follows(&first) && next.follows(&next));
        for lower in [
            Policy {
                level: Level(1),
                floor: Level(1),
                ..next
            },
            Policy {
                floor: Level(1),
                ..next
            },
            Policy {
                steps: Steps::Expand,
                ..next
            },
        ] {
            assert!(!lower.follows(&next), "{lower:?}");
        }
        assert!(
            !Policy {
                floor: Level(3),
                ..next
            }
            .is_sound(),
            "a floor above the level refuses what is written"
        );
    }
}
