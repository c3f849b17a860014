//! The register: the librarian's one durable statement on an object, kept as a TXT record at the object's name in `obj`.
//!
//! Specification: DESIGN.md section 5, PROTOCOL.md section 3.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::address::{Address, AddressError};
use crate::server::{ServerName, ServerNameError};

/// Most agents that may hold a copy.
pub const HOLDERS_MAX: usize = 14;
/// Longest type, in octets.
pub const TYPE_OCTETS_MAX: usize = 64;
/// Longest register: the RDATA of its TXT record, in octets.
pub const REGISTER_OCTETS_MAX: usize = 1000;
/// Most character-strings of a register.
const STRINGS_MAX: usize = 11;
/// Hexadecimal digits of a tx.
const TX_DIGITS: usize = 32;
/// Longest character-string (RFC 1035 section 3.3).
pub const STRING_OCTETS_MAX: usize = 255;

/// Number of the ownership of an object: +1 at every change of owner. The first is 1.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a new object.
    pub const FIRST: Epoch = Epoch(1);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 128 random bits, fresh at every change of a register, so that no register text occurs twice. Text: 32 lower-case
/// hexadecimal digits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tx(pub [u8; 16]);

impl fmt::Display for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Tx {
    type Err = RegisterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || RegisterError::Value {
            key: "tx",
            value: text.to_owned(),
        };
        let octets = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| bad())?;
        octets.try_into().map(Tx).map_err(|_| bad())
    }
}

/// Kind of an object, such as `photo`: 1 to 64 visible ASCII characters.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectType(Arc<str>);

impl ObjectType {
    /// The type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectType {
    type Err = RegisterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > TYPE_OCTETS_MAX || !text.bytes().all(|octet| octet.is_ascii_graphic()) {
            return Err(RegisterError::Value {
                key: "type",
                value: text.to_owned(),
            });
        }
        Ok(ObjectType(text.into()))
    }
}

impl fmt::Display for ObjectType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ObjectType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Rank of a suite; an object's level never falls. 1 is the lowest.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Level(pub u8);

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is happening to an object.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// Its owner serves it.
    Stable,
    /// Its owner is copying it to `to`.
    Moving {
        /// The destination.
        to: ServerName,
    },
    /// It is gone for ever; the address is not used again. The register still says who deleted it (`owner`) and has no
    /// holders; it places nothing, so it keeps no server from being empty.
    Deleted,
}

/// The librarian's one durable statement on an object.
///
/// Text, as character-strings of one TXT record, in this order:
/// `v=hn1` `address=` `epoch=` `owner=` `state=` (`to=` when moving) `tx=` `holders=` `type=` `schema=` `level=`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Register {
    /// As it was spelled when created.
    pub address: Address,
    /// +1 at every change of owner.
    pub epoch: Epoch,
    /// Who acknowledges writes; who deleted it, once deleted.
    pub owner: ServerName,
    /// What is happening to it.
    pub state: State,
    /// Fresh at every change.
    pub tx: Tx,
    /// Agents with an in-sync durable copy, the owner among them; empty once deleted.
    pub holders: Vec<ServerName>,
    /// At the last change of owner: a hint for reports.
    pub kind: ObjectType,
    /// At the last change of owner: a hint for reports.
    pub schema: u32,
    /// At the last change of owner: a hint for reports.
    pub level: Level,
}

/// Why character-strings are no register.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// A key is missing, unknown, twice there or out of order.
    #[error("register has {found:?} where {expected}= belongs")]
    Key {
        /// The key that belongs there.
        expected: &'static str,
        /// The string found there; empty at the end.
        found: String,
    },
    /// A value breaks its grammar.
    #[error("register has an illegal value {value:?} for {key}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value as found.
        value: String,
    },
    /// The address breaks its grammar.
    #[error("register has an illegal address")]
    Address(#[from] AddressError),
    /// A server's name breaks its grammar.
    #[error("register names an illegal server")]
    Server(#[from] ServerNameError),
    /// The keys contradict each other.
    #[error("register contradicts itself: {0}")]
    Contradiction(&'static str),
    /// Over 1,000 octets, or a string over 255.
    #[error("register has {octets} octets where at most {allowed} are allowed")]
    TooLong {
        /// Octets found.
        octets: usize,
        /// Octets allowed.
        allowed: usize,
    },
}

impl Register {
    /// The character-strings of the TXT record.
    #[must_use]
    pub fn strings(&self) -> Vec<String> {
        let rdata = self.rdata();
        let mut strings = Vec::with_capacity(STRINGS_MAX);
        let mut rest = &rdata[..];
        while let Some((octets, after)) = rest.split_first() {
            let (string, after) = after.split_at(usize::from(*octets));
            strings.push(String::from_utf8(string.to_vec()).expect("values are ASCII"));
            rest = after;
        }
        strings
    }

    /// The RDATA of the TXT record (RFC 1035 section 3.3.14): the character-strings, each behind the octet of its length.
    #[must_use]
    pub fn rdata(&self) -> Vec<u8> {
        let mut rdata = Vec::with_capacity(self.text_octets());
        self.write_rdata(&mut rdata);
        rdata
    }

    /// The values, to be spelled.
    fn values(&self) -> Values<'_, impl Iterator<Item = &str>> {
        Values {
            address: self.address.as_str(),
            epoch: self.epoch.0,
            owner: self.owner.as_str(),
            state: match &self.state {
                State::Stable => StateValue::Stable,
                State::Moving { to } => StateValue::Moving { to: to.as_str() },
                State::Deleted => StateValue::Deleted,
            },
            tx: &self.tx.0,
            holders: self.holders.iter().map(ServerName::as_str),
            kind: self.kind.as_str(),
            schema: self.schema,
            level: self.level.0,
        }
    }

    /// Octets of the RDATA that [`Register::strings`] makes: each string and the octet of its length.
    #[must_use]
    pub fn text_octets(&self) -> usize {
        let state = match &self.state {
            State::Stable => "state=stable".len(),
            State::Moving { to } => "state=moving".len() + 1 + "to=".len() + to.as_str().len(),
            State::Deleted => "state=deleted".len(),
        };
        let values = [
            "v=hn1".len(),
            "address=".len() + self.address.as_str().len(),
            "epoch=".len() + digits(self.epoch.0),
            "owner=".len() + self.owner.as_str().len(),
            state,
            "tx=".len() + TX_DIGITS,
            self.holders_octets(),
            "type=".len() + self.kind.as_str().len(),
            "schema=".len() + digits(u64::from(self.schema)),
            "level=".len() + digits(u64::from(self.level.0)),
        ];
        values.iter().map(|octets| octets + 1).sum()
    }

    fn holders_octets(&self) -> usize {
        let names: usize = self.holders.iter().map(|holder| holder.as_str().len()).sum();
        "holders=".len() + names + self.holders.len().saturating_sub(1)
    }

    /// Appends the RDATA of the TXT record, as [`Register::rdata`] makes it.
    pub fn write_rdata(&self, out: &mut Vec<u8>) {
        self.values().write_rdata(out);
    }

    /// Reads the RDATA of a TXT record, as [`Register::rdata`] makes it.
    ///
    /// # Errors
    ///
    /// [`RegisterError`].
    pub fn from_rdata(rdata: &[u8]) -> Result<Register, RegisterError> {
        let mut strings: [&[u8]; STRINGS_MAX + 1] = [&[]; STRINGS_MAX + 1];
        let (mut count, mut rest) = (0, rdata);
        // One more than there may be is read, and refused below.
        while let Some((length, after)) = rest.split_first()
            && count < strings.len()
        {
            let cut = RegisterError::Contradiction("a string is shorter than it says");
            (strings[count], rest) = after.split_at_checked(usize::from(*length)).ok_or(cut)?;
            count += 1;
        }
        Register::from_strings(&strings[..count])
    }

    /// Reads the character-strings of a TXT record. Reading accepts exactly what [`Register::strings`] makes.
    ///
    /// # Errors
    ///
    /// [`RegisterError`], which the librarian answers with FORMERR.
    pub fn from_strings<S: AsRef<[u8]>>(strings: &[S]) -> Result<Register, RegisterError> {
        let octets: usize = strings.iter().map(|string| string.as_ref().len() + 1).sum();
        if octets > REGISTER_OCTETS_MAX {
            return Err(RegisterError::TooLong {
                octets,
                allowed: REGISTER_OCTETS_MAX,
            });
        }
        let mut rest = strings.iter().map(AsRef::as_ref);
        let mut take = |key: &'static str| take(rest.next(), key);
        if take("v")? != "hn1" {
            return Err(RegisterError::Value {
                key: "v",
                value: "another version".to_owned(),
            });
        }
        let address = take("address")?.parse::<Address>()?;
        let epoch = Epoch(number(take("epoch")?, "epoch")?);
        let owner = take("owner")?.parse::<ServerName>()?;
        let state = match take("state")? {
            "stable" => State::Stable,
            "moving" => State::Moving {
                to: take("to")?.parse()?,
            },
            "deleted" => State::Deleted,
            other => {
                return Err(RegisterError::Value {
                    key: "state",
                    value: other.to_owned(),
                });
            }
        };
        let tx = take("tx")?.parse()?;
        let holders = take("holders")?;
        let holders: Vec<ServerName> = match holders {
            "" => Vec::new(),
            list => list.split(',').map(str::parse).collect::<Result<_, _>>()?,
        };
        let kind = take("type")?.parse()?;
        let schema = u32::try_from(number(take("schema")?, "schema")?).map_err(|_| RegisterError::Value {
            key: "schema",
            value: "over 4294967295".to_owned(),
        })?;
        let level = u8::try_from(number(take("level")?, "level")?).map_err(|_| RegisterError::Value {
            key: "level",
            value: "over 255".to_owned(),
        })?;
        if let Some(more) = rest.next() {
            return Err(RegisterError::Key {
                expected: "nothing",
                found: String::from_utf8_lossy(more).into_owned(),
            });
        }
        let register = Register {
            address,
            epoch,
            owner,
            state,
            tx,
            holders,
            kind,
            schema,
            level: Level(level),
        };
        register.check()?;
        Ok(register)
    }

    /// Whether the keys fit each other and the bounds.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Contradiction`], [`RegisterError::TooLong`].
    pub fn check(&self) -> Result<(), RegisterError> {
        let contradiction = |what| Err(RegisterError::Contradiction(what));
        if self.epoch < Epoch::FIRST {
            return contradiction("epochs begin at 1");
        }
        if self.level < Level(1) {
            return contradiction("levels begin at 1");
        }
        if self.holders.len() > HOLDERS_MAX {
            return contradiction("at most 14 holders are allowed");
        }
        let mut holders = self.holders.iter().enumerate();
        if holders.any(|(place, holder)| self.holders[..place].contains(holder)) {
            return contradiction("a holder is named twice");
        }
        match &self.state {
            State::Deleted if !self.holders.is_empty() => return contradiction("a deleted object has no holders"),
            State::Deleted => {}
            State::Stable | State::Moving { .. } if !self.holders.contains(&self.owner) => {
                return contradiction("the owner is not among the holders");
            }
            State::Moving { to } if self.holders.contains(to) => {
                return contradiction("the destination already holds a copy");
            }
            State::Stable | State::Moving { .. } => {}
        }
        // Every other string is bounded by its own type: an address has 247 octets, a type 64.
        let holders = self.holders_octets();
        if holders > STRING_OCTETS_MAX {
            return Err(RegisterError::TooLong {
                octets: holders,
                allowed: STRING_OCTETS_MAX,
            });
        }
        let octets = self.text_octets();
        if octets > REGISTER_OCTETS_MAX {
            return Err(RegisterError::TooLong {
                octets,
                allowed: REGISTER_OCTETS_MAX,
            });
        }
        Ok(())
    }

    /// The epoch in which its owner has the object, or had it last: a deletion is an epoch of its own.
    #[must_use]
    pub fn owned(&self) -> Epoch {
        match self.state {
            State::Stable | State::Moving { .. } => self.epoch,
            State::Deleted => Epoch(self.epoch.0.saturating_sub(1)),
        }
    }

    /// Whether the register places anything on `server`: as owner, holder or destination. A deleted register names
    /// nobody.
    #[must_use]
    pub fn names(&self, server: &ServerName) -> bool {
        match &self.state {
            State::Deleted => false,
            State::Stable => self.owner == *server || self.holders.contains(server),
            State::Moving { to } => self.owner == *server || to == server || self.holders.contains(server),
        }
    }
}

/// The values of a register wherever they lie, to be spelled without copying them first. `H` gives the holders.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a, H> {
    /// As it was spelled when created.
    pub address: &'a str,
    /// Of the ownership.
    pub epoch: u64,
    /// Who acknowledges writes.
    pub owner: &'a str,
    /// What is happening to it.
    pub state: StateValue<'a>,
    /// Of the last change.
    pub tx: &'a [u8; 16],
    /// Agents with an in-sync copy.
    pub holders: H,
    /// The type.
    pub kind: &'a str,
    /// The schema's version.
    pub schema: u32,
    /// The level.
    pub level: u8,
}

/// The state in [`Values`].
#[derive(Clone, Copy, Debug)]
pub enum StateValue<'a> {
    /// See [`State::Stable`].
    Stable,
    /// See [`State::Moving`].
    Moving {
        /// The destination.
        to: &'a str,
    },
    /// See [`State::Deleted`].
    Deleted,
}

impl<'a, H: Iterator<Item = &'a str>> Values<'a, H> {
    /// Appends the RDATA of the register's TXT record (RFC 1035 section 3.3.14): each character-string behind the octet of its
    /// length. This is the one place that spells a register.
    ///
    /// # Panics
    ///
    /// If a string has more than 255 octets, which [`Register::check`] refuses.
    pub fn write_rdata(self, out: &mut Vec<u8>) {
        string(out, &[b"v=hn1"]);
        string(out, &[b"address=", self.address.as_bytes()]);
        string(out, &[b"epoch=", decimal(self.epoch, &mut [0; DECIMAL_MAX])]);
        string(out, &[b"owner=", self.owner.as_bytes()]);
        match self.state {
            StateValue::Stable => string(out, &[b"state=stable"]),
            StateValue::Moving { to } => {
                string(out, &[b"state=moving"]);
                string(out, &[b"to=", to.as_bytes()]);
            }
            StateValue::Deleted => string(out, &[b"state=deleted"]),
        }
        let mut tx = [0; TX_DIGITS];
        data_encoding::HEXLOWER.encode_mut(self.tx, &mut tx);
        string(out, &[b"tx=", &tx]);
        let length_at = out.len();
        string(out, &[b"holders="]);
        for (place, holder) in self.holders.enumerate() {
            if place > 0 {
                out.push(b',');
            }
            out.extend_from_slice(holder.as_bytes());
        }
        out[length_at] = octet(out.len() - length_at - 1);
        string(out, &[b"type=", self.kind.as_bytes()]);
        string(
            out,
            &[b"schema=", decimal(u64::from(self.schema), &mut [0; DECIMAL_MAX])],
        );
        string(out, &[b"level=", decimal(u64::from(self.level), &mut [0; DECIMAL_MAX])]);
    }
}

/// One character-string of these pieces.
fn string(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    out.push(octet(pieces.iter().map(|piece| piece.len()).sum()));
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

fn octet(length: usize) -> u8 {
    u8::try_from(length).expect("a character-string has at most 255 octets")
}

/// Digits of the largest number.
const DECIMAL_MAX: usize = 20;

/// A number in decimal digits.
fn decimal(mut number: u64, digits: &mut [u8; DECIMAL_MAX]) -> &[u8] {
    let mut at = DECIMAL_MAX;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// Decimal digits of a number.
fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

fn take<'a>(string: Option<&'a [u8]>, key: &'static str) -> Result<&'a str, RegisterError> {
    let string = string.unwrap_or_default();
    let wrong = || RegisterError::Key {
        expected: key,
        found: String::from_utf8_lossy(string).into_owned(),
    };
    let text = std::str::from_utf8(string).map_err(|_| wrong())?;
    text.strip_prefix(key)
        .and_then(|rest| rest.strip_prefix('='))
        .ok_or_else(wrong)
}

/// Whether what reads as a number is spelled without sign and leading zero.
fn is_plain(text: &str) -> bool {
    text == "0" || !text.starts_with(['+', '0'])
}

/// A decimal number spelled the one way it is made: no sign, no leading zero.
fn number(text: &str, key: &'static str) -> Result<u64, RegisterError> {
    match text.parse::<u64>() {
        Ok(number) if is_plain(text) => Ok(number),
        Ok(_) | Err(_) => Err(RegisterError::Value {
            key,
            value: text.to_owned(),
        }),
    }
}
