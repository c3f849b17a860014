//! The shared language of a pool: addresses, DNS names, registers, server records and update messages.
//!
//! Pure: this crate knows no sockets, disks, clocks or randomness; whoever needs time or random bits hands them in.
//! The byte-level description is `zones/PROTOCOL.md`.

pub mod address;
pub mod name;
pub mod register;
pub mod server;

pub use address::{Address, AddressError};
pub use name::{Domain, NameError, Zone};
pub use register::{Epoch, Level, ObjectType, Register, RegisterError, State, Tx};
pub use server::{Role, ServerName};
