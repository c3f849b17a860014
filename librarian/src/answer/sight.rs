//! Who may see what.
//!
//! | asker | objects | register text | servers' addresses | has, want, todo |
//! |---|---|---|---|---|
//! | stranger | public prefixes | no | if there are public prefixes | no |
//! | client | its grants and public prefixes | no | yes | no |
//! | listed network | all | yes | yes | no |
//! | agent, admin | all | yes | yes | yes |
//!
//! An agent also sees the register of a deleted object in `obj`: what it sent to delete it may be settled by nothing else.
//! Nobody keeps what an agent is answered, so no cache learns of a name that is absent to all others.

use std::collections::BTreeSet;
use std::sync::Arc;

use certs::{Grant, Grants, Prefix, Verb};
use zones::{Address, ServerName};

use super::Settings;
use crate::registry::View;
use crate::registry::key::key_of;
use crate::registry::registers::Registers;

/// Most registers looked at to learn whether something visible lies below a name.
const LOOKED_AT_MAX: usize = 512;

/// Who asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Asker {
    /// Anybody.
    Stranger,
    /// An address of a listed network.
    Network,
    /// An application, by its TSIG key.
    Client(Arc<Grants>),
    /// A server's agent, by its TSIG key.
    Agent(ServerName),
    /// Whoever holds the admin key.
    Admin,
}

/// What one asker may see.
#[derive(Clone)]
pub(super) struct Sight<'a> {
    /// Whether every object.
    all: bool,
    grants: Option<&'a Grants>,
    public: &'a [Prefix],
    pub(super) texts: bool,
    pub(super) servers: bool,
    pub(super) control: bool,
    /// Registers of deleted objects.
    pub(super) deleted: bool,
}

impl<'a> Sight<'a> {
    pub(super) fn new(asker: &'a Asker, settings: &'a Settings) -> Sight<'a> {
        let public = &settings.public[..];
        let (all, grants, servers, control) = match asker {
            Asker::Stranger => (false, None, !public.is_empty(), false),
            Asker::Client(grants) => (false, Some(&**grants), true, false),
            Asker::Network => (true, None, true, false),
            Asker::Agent(_) | Asker::Admin => (true, None, true, true),
        };
        // Everything, and nothing taken away.
        let granted_all = grants.is_some_and(|grants| {
            let reads = |grant: &Grant| grant.verb == Some(Verb::Read) && grant.prefix == Prefix::Everything;
            grants.iter().any(reads) && grants.iter().all(|grant| grant.verb.is_some())
        });
        Sight {
            all: all || granted_all || public.contains(&Prefix::Everything),
            grants,
            public,
            texts: all,
            servers,
            control,
            deleted: matches!(asker, Asker::Agent(_)),
        }
    }

    /// Whether the object may be seen; judged by the spelling in its register.
    pub(super) fn sees(&self, address: &Address) -> bool {
        self.all
            || self.public.iter().any(|prefix| prefix.covers(address))
            || self.grants.is_some_and(|grants| grants.allows(Verb::Read, address))
    }

    /// Whether the delegation of a prefix may be seen: it lies in what may be seen, or around some of it.
    pub(super) fn sees_delegation(&self, prefix: &Address) -> bool {
        self.all || self.sees(prefix) || self.prefixes().iter().any(|shown| covers_folded(prefix, shown))
    }

    /// Prefixes outside of which nothing is visible.
    fn prefixes(&self) -> BTreeSet<&Prefix> {
        let granted = self.grants.into_iter().flat_map(Grants::iter);
        let granted = granted.filter(|grant| matches!(grant.verb, Some(Verb::Read)));
        granted.map(|grant: &Grant| &grant.prefix).chain(self.public).collect()
    }

    /// Whether something visible lies below a name in `tree`: an address that is longer than `key`.
    pub(super) fn any_below(&self, view: &View<'_>, key: &str) -> bool {
        let registers = &view.index().registers;
        if self.all {
            return registers.any_below(key.as_bytes());
        }
        let mut left = LOOKED_AT_MAX;
        self.prefixes().into_iter().any(|prefix| {
            let Some(shown) = prefix_key(view, prefix) else {
                return false;
            };
            match (extends(key, &shown), extends(&shown, key)) {
                // All that lies below the name, as far as the prefix allows.
                (true, _) => self.any_visible(registers, key, false, &mut left, |_| true),
                // All of the prefix, which lies below the name.
                (false, true) => self.any_visible(registers, &shown, true, &mut left, |_| true),
                (false, false) => false,
            }
        })
    }

    /// Whether something visible lies below a name in `obj`: an address that ends in `key` and is longer.
    ///
    /// For an asker who sees a part only this is a question in two dimensions, so it looks along one and then the other.
    /// Where both hold more than a bound, the answer is yes: an asker who sees hundreds of objects could learn that
    /// hundreds of others end in these labels, and nothing else.
    pub(super) fn any_ending(&self, view: &View<'_>, key: &str) -> bool {
        let registers = &view.index().registers;
        if self.all {
            return registers.any_ending(key.as_bytes());
        }
        let mut ending = registers.ending(key);
        let looked_at = ending.by_ref().take(LOOKED_AT_MAX);
        if looked_at.into_iter().any(|id| self.sees(&registers.address(id))) {
            return true;
        }
        if ending.next().is_none() {
            return false;
        }
        let end = format!(".{key}");
        let mut left = LOOKED_AT_MAX;
        self.prefixes().into_iter().any(|prefix| {
            prefix_key(view, prefix).is_some_and(|shown| {
                self.any_visible(registers, &shown, true, &mut left, |found| found.ends_with(&end))
            })
        })
    }

    /// Whether one of the registers below `key` (and at it, if `with_it`) is visible and wanted; yes when the bound is
    /// reached first.
    fn any_visible(
        &self,
        registers: &Registers,
        key: &str,
        with_it: bool,
        left: &mut usize,
        wanted: impl Fn(&str) -> bool,
    ) -> bool {
        let visible = |id: u32| wanted(registers.key(id)) && self.sees(&registers.address(id));
        let own = registers.find(key).filter(|id| with_it && registers.is_live(*id));
        if own.is_some_and(visible) {
            return true;
        }
        let mut from = if key.is_empty() {
            String::new()
        } else {
            format!("{key}.")
        };
        let start = from.clone();
        loop {
            let mut skipped = None;
            for id in registers.from(&from) {
                let found = registers.key(id);
                if !found.starts_with(&start) {
                    return false;
                }
                if *left == 0 || visible(id) {
                    return true;
                }
                *left -= 1;
                // What is cut out is passed over as a whole.
                if let Some(end) = self.end_of_cut(registers, id) {
                    skipped = Some(end);
                    break;
                }
            }
            match skipped {
                Some(end) => from = end,
                None => return false,
            }
        }
    }

    /// Where the range ends that a `none` grant takes away around this register, if no grant gives a part of it back.
    fn end_of_cut(&self, registers: &Registers, id: u32) -> Option<String> {
        let address = registers.address(id);
        let grants = self.grants?;
        let cut = grants
            .iter()
            .filter(|grant| grant.verb.is_none() && grant.prefix.covers(&address))
            .filter_map(|grant| match &grant.prefix {
                Prefix::Under(prefix) => Some(prefix),
                Prefix::Everything => None,
            })
            .max_by_key(|prefix| prefix.depth())?;
        let given_back = self.prefixes().iter().any(|shown| covers_folded(cut, shown));
        if given_back || self.sees(&address) {
            return None;
        }
        // '/' comes right after '.': past every key that begins with the cut and a dot.
        let key = registers.key(id);
        let folded = cut.folded();
        key.strip_prefix(folded.as_str())
            .filter(|rest| rest.starts_with('.'))
            .map(|_| format!("{folded}/"))
    }
}

/// Whether `key` is `of` or longer than it.
fn extends(key: &str, of: &str) -> bool {
    of.is_empty()
        || key
            .strip_prefix(of)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The key that everything under a prefix begins with; empty for everything.
fn prefix_key(view: &View<'_>, prefix: &Prefix) -> Option<String> {
    match prefix {
        Prefix::Everything => Some(String::new()),
        Prefix::Under(address) => key_of(view.domain(), address),
    }
}

fn covers_folded(around: &Address, prefix: &Prefix) -> bool {
    match prefix {
        Prefix::Everything => false,
        Prefix::Under(prefix) => around.folded().covers(&prefix.folded()),
    }
}
