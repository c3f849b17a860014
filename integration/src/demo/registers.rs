//! Reads the register of every object, as the admin, to count what moved.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use hickory_proto::rr::RecordType;
use tokio::task::JoinSet;
use zones::{Address, Domain, Register, TsigKey};

use super::book::Book;
use crate::harness::Pool;
use agent::client::Resolver;

/// Questions on their way at once.
const WINDOW: usize = 64;

/// Registers by address.
pub(super) type Registers = HashMap<Address, Register>;

/// What changed between two readings.
pub(super) struct Changes {
    /// Objects with another owner.
    pub(super) objects: u64,
    /// Their properties and bodies.
    pub(super) octets: u64,
    /// Registers that are not settled.
    pub(super) unsettled: u64,
}

/// Reads all registers of the book's objects.
pub(super) async fn read_all(pool: &Pool, book: &Arc<Book>) -> Result<Registers> {
    let domain: Domain = pool.domain().parse().context("read the domain")?;
    let key = std::fs::read_to_string(pool.admin_key()).context("read the admin's key")?;
    let key = TsigKey::from_bind_file(&key).context("read the admin's key")?;
    let resolver = Arc::new(Resolver::new(vec![pool.dns()], Some(key)));
    let mut running: JoinSet<Result<Register>> = JoinSet::new();
    let mut registers = Registers::new();
    for entry in book.entries() {
        if running.len() >= WINDOW {
            let register = running
                .join_next()
                .await
                .context("wait for a register")?
                .context("read a register")??;
            registers.insert(register.address.clone(), register);
        }
        let (resolver, name, address) = (
            Arc::clone(&resolver),
            domain.obj_name(entry.address())?,
            entry.address().clone(),
        );
        running.spawn(async move {
            let answer = resolver
                .ask(&name, RecordType::TXT)
                .await
                .with_context(|| format!("ask for {address}"))?;
            let Some(text) = answer.txt().next() else {
                bail!("object {address} has no register");
            };
            Register::from_strings(&text.txt_data).with_context(|| format!("read the register of {address}"))
        });
    }
    while let Some(register) = running.join_next().await {
        let register = register.context("read a register")??;
        registers.insert(register.address.clone(), register);
    }
    Ok(registers)
}

/// Compares two readings.
pub(super) fn changes(book: &Book, before: &Registers, after: &Registers) -> Result<Changes> {
    let mut changes = Changes {
        objects: 0,
        octets: 0,
        unsettled: 0,
    };
    for entry in book.entries() {
        let (Some(was), Some(is)) = (before.get(entry.address()), after.get(entry.address())) else {
            bail!("object {} has no register", entry.address());
        };
        if was.owner != is.owner {
            changes.objects += 1;
            changes.octets += entry.sample.octets()?;
        }
        if is.state != zones::State::Stable {
            changes.unsettled += 1;
        }
    }
    Ok(changes)
}
