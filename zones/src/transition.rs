//! Who may change which key of a register: the one table that the librarian judges every change by.
//!
//! | from            | to              | epoch | who             | what else changes                                     |
//! |-----------------|-----------------|-------|-----------------|-------------------------------------------------------|
//! | nothing         | `stable`        | 1     | the owner to be | all; the owner is the one holder, its server serves,  |
//! |                 |                 |       |                 | the level is not below the pool's floor               |
//! | `stable`        | `moving`        | +0    | owner           | `to`, which a want or a wish names                    |
//! | `moving`        | `stable`        | +0    | owner           | nothing: the move is given up                         |
//! | `moving`        | `stable`        | +1    | `to`            | owner is `to`, which replaces the old one in holders  |
//! | `stable/moving` | the same        | +0    | owner           | holders shrink, or grow by servers that take new ones |
//! | `stable/moving` | the same        | +0    | owner           | nothing: a fresh tx                                   |
//! | `stable/moving` | `deleted`       | +1    | owner           | no holders                                            |
//! | `stable/moving` | `stable`        | +1    | another holder  | owner, which leaves the holders; it is marked lost    |
//!
//! In every row the address keeps its spelling, tx is fresh, and the level does not fall. Type, schema and level change
//! only with the epoch. Nothing leads out of `deleted`. Whom a text newly names must not be cordoned or further on, nor marked lost.
//! A holder is added only where new objects go: a free server and a reserve hold none. A server that is marked lost changes
//! nothing. Everything else is refused.
//!
//! The admin key may do what each row lets its server do, for a person who repairs by hand: it is bound by the same
//! rows, by roles and by who is lost, not by wants and wishes.
//!
//! Specification: DESIGN.md sections 7, 11 and 14, PROTOCOL.md section 7.

use crate::address::Address;
use crate::register::{Epoch, Level, Register, RegisterError, State};
use crate::server::{Role, ServerName};

/// Who signed a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Actor<'a> {
    /// The agent of a server.
    Agent(&'a ServerName),
    /// A person with the admin key.
    Admin,
}

/// What the table needs to know of the pool.
pub trait PoolView {
    /// The role of a server; `None` if the pool has no such server.
    fn role(&self, server: &ServerName) -> Option<Role>;
    /// Whether a want or a wish lets `from` move the object to `to`.
    fn may_move(&self, address: &Address, from: &ServerName, to: &ServerName) -> bool;
    /// Lowest level that a server may make an object at.
    fn floor(&self, server: &ServerName) -> Level;
    /// Whether a server was marked lost for good.
    fn is_lost(&self, server: &ServerName) -> bool;
}

/// Why a change of a register is refused. The text goes into an Extended DNS Error.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The new text contradicts itself.
    #[error("the register is malformed: {0}")]
    Malformed(RegisterError),
    /// The address belonged to an object that was deleted.
    #[error("this address was used, it is never used again")]
    AddressUsed,
    /// The address is registered, in another spelling or with a prerequisite left out.
    #[error("this name belongs to the address {registered}, spelled so")]
    Spelling {
        /// As it is registered.
        registered: Address,
    },
    /// The same tx again.
    #[error("tx must be fresh at every change")]
    StaleTx,
    /// The epoch is neither the same nor one more, or does not fit the state.
    #[error("epoch {found} does not follow from epoch {registered} this way")]
    Epoch {
        /// As it is registered.
        registered: Epoch,
        /// As it was sent.
        found: Epoch,
    },
    /// The level falls.
    #[error("level {found} is below {registered}: an object's level never falls")]
    LevelFalls {
        /// As it is registered.
        registered: Level,
        /// As it was sent.
        found: Level,
    },
    /// Type, schema or level change without the epoch.
    #[error("type, schema and level change only with the epoch")]
    HintsChanged,
    /// A new register is not stable at epoch 1 with its owner as the one holder.
    #[error("a new register is stable at epoch 1 and its owner holds the only copy")]
    Creation,
    /// The new object could never move.
    #[error("level {found} is below the pool's floor {floor}")]
    BelowFloor {
        /// The floor.
        floor: Level,
        /// As it was sent.
        found: Level,
    },
    /// The server does not take new objects.
    #[error("server {server} takes no new objects, its role is {role}")]
    TakesNoNew {
        /// The server.
        server: ServerName,
        /// Its role.
        role: Role,
    },
    /// The pool has no such server.
    #[error("the pool has no server {server}")]
    UnknownServer {
        /// The server.
        server: ServerName,
    },
    /// The server may not be newly named.
    #[error("nothing may newly name server {server}, its role is {role}")]
    MayNotName {
        /// The server.
        server: ServerName,
        /// Its role.
        role: Role,
    },
    /// The server takes no copies of objects that others own.
    #[error("server {server} takes no copies, its role is {role}")]
    TakesNoCopies {
        /// The server.
        server: ServerName,
        /// Its role.
        role: Role,
    },
    /// Neither a want nor a wish lets the object move there.
    #[error("no want and no wish lets this object move to server {to}")]
    NoSuchMove {
        /// The destination.
        to: ServerName,
    },
    /// The change is a row of the table, for another server.
    #[error("only server {by} may change the register so")]
    NotYours {
        /// Who may.
        by: ServerName,
    },
    /// The server is marked lost: others take over what it owned, and nothing that it says may hold them up.
    #[error("server {server} is marked lost: it changes no register until a person takes that back")]
    Lost {
        /// The server.
        server: ServerName,
    },
    /// The server that is newly named is marked lost.
    #[error("nothing may newly name server {server}, it is marked lost")]
    NamesLost {
        /// The server.
        server: ServerName,
    },
    /// The owner is not marked lost.
    #[error("owner {owner} is not marked lost: its holders may not take the object")]
    NotLost {
        /// The owner.
        owner: ServerName,
    },
    /// No row of the table.
    #[error("no such change: {0}")]
    NoSuchChange(&'static str),
}

/// Judges one change of a register.
///
/// # Errors
///
/// [`Refusal`], which the librarian answers with REFUSED.
pub fn judge(old: Option<&Register>, new: &Register, actor: Actor<'_>, pool: &dyn PoolView) -> Result<(), Refusal> {
    new.check().map_err(Refusal::Malformed)?;
    if let Actor::Agent(server) = actor
        && pool.is_lost(server)
    {
        return Err(Refusal::Lost { server: server.clone() });
    }
    match old {
        None => create(new, actor, pool),
        Some(old) => change(old, new, actor, pool),
    }
}

fn create(new: &Register, actor: Actor<'_>, pool: &dyn PoolView) -> Result<(), Refusal> {
    let alone = new.holders.iter().eq([&new.owner]);
    if new.state != State::Stable || new.epoch != Epoch::FIRST || !alone {
        return Err(Refusal::Creation);
    }
    by(actor, &new.owner)?;
    let role = newly_named(pool, &new.owner)?;
    if !role.takes_new_objects() {
        return Err(Refusal::TakesNoNew {
            server: new.owner.clone(),
            role,
        });
    }
    let floor = pool.floor(&new.owner);
    if new.level < floor {
        return Err(Refusal::BelowFloor {
            floor,
            found: new.level,
        });
    }
    Ok(())
}

fn change(old: &Register, new: &Register, actor: Actor<'_>, pool: &dyn PoolView) -> Result<(), Refusal> {
    if old.state == State::Deleted {
        return Err(Refusal::AddressUsed);
    }
    if old.address != new.address {
        return Err(Refusal::Spelling {
            registered: old.address.clone(),
        });
    }
    if old.tx == new.tx {
        return Err(Refusal::StaleTx);
    }
    if new.level < old.level {
        return Err(Refusal::LevelFalls {
            registered: old.level,
            found: new.level,
        });
    }
    if new.epoch == old.epoch {
        same_epoch(old, new, actor, pool)
    } else if new.epoch == old.epoch.next() {
        next_epoch(old, new, actor, pool)
    } else {
        Err(wrong_epoch(old, new))
    }
}

/// The owner stays the owner, and only it may speak.
fn same_epoch(old: &Register, new: &Register, actor: Actor<'_>, pool: &dyn PoolView) -> Result<(), Refusal> {
    if old.owner != new.owner {
        return Err(wrong_epoch(old, new));
    }
    if (&old.kind, old.schema, old.level) != (&new.kind, new.schema, new.level) {
        return Err(Refusal::HintsChanged);
    }
    match (&old.state, &new.state) {
        (State::Stable, State::Moving { to }) => {
            unchanged_holders(old, new)?;
            by(actor, &old.owner)?;
            may_be_named(pool, to)?;
            match actor {
                Actor::Agent(from) if !pool.may_move(&old.address, from, to) => {
                    Err(Refusal::NoSuchMove { to: to.clone() })
                }
                Actor::Agent(_) | Actor::Admin => Ok(()),
            }
        }
        (State::Moving { .. }, State::Stable) => {
            unchanged_holders(old, new)?;
            by(actor, &old.owner)
        }
        (State::Moving { to: before }, State::Moving { to: after }) if before != after => Err(Refusal::NoSuchChange(
            "a move must be given up before the object moves elsewhere",
        )),
        (State::Stable, State::Stable) | (State::Moving { .. }, State::Moving { .. }) => {
            by(actor, &old.owner)?;
            holders(old, new, pool)
        }
        (State::Stable | State::Moving { .. }, State::Deleted) => Err(wrong_epoch(old, new)),
        (State::Deleted, State::Stable | State::Moving { .. } | State::Deleted) => Err(Refusal::AddressUsed),
    }
}

/// Another owner, or none.
fn next_epoch(old: &Register, new: &Register, actor: Actor<'_>, pool: &dyn PoolView) -> Result<(), Refusal> {
    match &new.state {
        State::Deleted => {
            if old.owner != new.owner {
                return Err(Refusal::NoSuchChange("a deleted register keeps its owner"));
            }
            by(actor, &old.owner)
        }
        State::Moving { .. } => Err(wrong_epoch(old, new)),
        State::Stable if new.owner == old.owner => Err(wrong_epoch(old, new)),
        State::Stable => match &old.state {
            State::Moving { to } if *to == new.owner => {
                if !same_set(
                    &new.holders,
                    old.holders.iter().map(|h| if *h == old.owner { to } else { h }),
                ) {
                    return Err(Refusal::NoSuchChange(
                        "the destination replaces the old owner in holders, nothing else",
                    ));
                }
                by(actor, to)
            }
            State::Stable | State::Moving { .. } if old.holders.contains(&new.owner) => {
                if !same_set(&new.holders, old.holders.iter().filter(|h| **h != old.owner)) {
                    return Err(Refusal::NoSuchChange(
                        "who takes a lost owner's object removes that owner from holders, nothing else",
                    ));
                }
                by(actor, &new.owner)?;
                if pool.is_lost(&old.owner) {
                    Ok(())
                } else {
                    Err(Refusal::NotLost {
                        owner: old.owner.clone(),
                    })
                }
            }
            State::Stable | State::Moving { .. } => Err(Refusal::NoSuchChange(
                "the new owner is neither the destination of a move nor a holder",
            )),
            State::Deleted => Err(Refusal::AddressUsed),
        },
    }
}

/// Holders stay, grow or shrink; each new one takes copies.
fn holders(old: &Register, new: &Register, pool: &dyn PoolView) -> Result<(), Refusal> {
    let grows = old.holders.iter().all(|holder| new.holders.contains(holder));
    let shrinks = new.holders.iter().all(|holder| old.holders.contains(holder));
    if !grows && !shrinks {
        return Err(Refusal::NoSuchChange("holders grow or shrink, not both at once"));
    }
    let mut added = new.holders.iter().filter(|holder| !old.holders.contains(holder));
    added.try_for_each(|holder| may_hold(pool, holder))
}

fn unchanged_holders(old: &Register, new: &Register) -> Result<(), Refusal> {
    if same_set(&new.holders, old.holders.iter()) {
        Ok(())
    } else {
        Err(Refusal::NoSuchChange(
            "holders change by themselves, not with the state",
        ))
    }
}

/// Whether the holders are these, in any order. No list names one twice.
fn same_set<'a>(holders: &[ServerName], others: impl Iterator<Item = &'a ServerName>) -> bool {
    let mut count = 0;
    for other in others {
        if !holders.contains(other) {
            return false;
        }
        count += 1;
    }
    count == holders.len()
}

fn by(actor: Actor<'_>, server: &ServerName) -> Result<(), Refusal> {
    match actor {
        Actor::Admin => Ok(()),
        Actor::Agent(name) if name == server => Ok(()),
        Actor::Agent(_) => Err(Refusal::NotYours { by: server.clone() }),
    }
}

fn role(pool: &dyn PoolView, server: &ServerName) -> Result<Role, Refusal> {
    pool.role(server)
        .ok_or_else(|| Refusal::UnknownServer { server: server.clone() })
}

/// The role of a server that a text newly names: what is given to one that is lost would be lost with it.
fn newly_named(pool: &dyn PoolView, server: &ServerName) -> Result<Role, Refusal> {
    let role = role(pool, server)?;
    if pool.is_lost(server) {
        return Err(Refusal::NamesLost { server: server.clone() });
    }
    Ok(role)
}

fn may_be_named(pool: &dyn PoolView, server: &ServerName) -> Result<(), Refusal> {
    let role = newly_named(pool, server)?;
    if role.may_be_newly_named() {
        return Ok(());
    }
    Err(Refusal::MayNotName {
        server: server.clone(),
        role,
    })
}

/// Whether a server may be given a copy of what another one owns: only where new objects go, since a free server and a reserve are to
/// hold nothing.
fn may_hold(pool: &dyn PoolView, server: &ServerName) -> Result<(), Refusal> {
    let role = newly_named(pool, server)?;
    if role.takes_new_objects() {
        return Ok(());
    }
    Err(Refusal::TakesNoCopies {
        server: server.clone(),
        role,
    })
}

fn wrong_epoch(old: &Register, new: &Register) -> Refusal {
    Refusal::Epoch {
        registered: old.epoch,
        found: new.epoch,
    }
}
