//! The shared language of a pool: addresses, DNS names, registers, server records and update messages.
//!
//! Pure: this crate knows no sockets, disks, clocks or randomness; whoever needs time or random bits hands them in.
//! The byte-level description is `zones/PROTOCOL.md`.

pub mod address;
pub mod audit;
pub mod copies;
pub mod delegation;
pub mod has;
pub mod heat;
pub mod incarnation;
pub mod name;
pub mod policy;
pub mod query;
pub mod register;
pub mod report;
pub mod server;
mod strings;
pub mod transition;
pub mod tsig;
pub mod update;
pub mod upkeep;
pub mod want;

pub use address::{Address, AddressError};
pub use copies::{Keep, Kept};
pub use delegation::{Delegation, Leads, NameServer};
pub use has::Has;
pub use heat::{Heat, Hot};
pub use incarnation::{Incarnation, Standing, Told};
pub use name::{Domain, NameError, Zone};
pub use policy::{Policy, Steps};
pub use query::{Answer, ExtendedError};
pub use register::{Epoch, Level, ObjectType, Register, RegisterError, State, Tx};
pub use report::{Claim, Claimed, Report};
pub use server::{Role, ServerName};
pub use strings::StringsError;
pub use transition::{Actor, PoolView, Refusal, judge};
pub use tsig::{Mac, Signed, TsigFailure, TsigKey};
pub use update::{Change, Prerequisite, RegisterChange, Update, UpdateFormatError, read_update};
pub use upkeep::{Given, Upkeep};
pub use want::{Errand, Want, Wish};
