//! `librarian where` for an object of another pool: its librarian is asked, and its servers are looked at.
//!
//! What another librarian says counts where the certificate of the server that it names is of that pool's authority, which the
//! settings hold. No certificate of this pool is shown there.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use certs::Anchor;
use hickory_proto::rr::{Name, RecordType};
use rustls::ClientConnection;
use rustls_pki_types::ServerName;
use serde::Serialize;
use zones::delegation::{POOLS_MAX, pool_of_name_server, pool_of_server, pool_of_zone};
use zones::{Address, Answer, Delegation, Domain, Leads, NameServer, delegation};

use super::lookup;
use crate::config::{Config, FILE};
use crate::control::words::Delegated;
use crate::delegation::OtherPool;

/// An object in another pool.
#[derive(Debug, Serialize)]
pub(super) struct Elsewhere {
    /// The address that was asked for.
    address: String,
    /// What is delegated.
    zone: String,
    /// The domain of the pool that has it.
    pool: String,
    /// Its name there.
    name: String,
    /// Servers that hold it.
    servers: Vec<Holder>,
}

/// A server of the other pool, whose certificate was verified where it has no fault.
#[derive(Debug, Serialize)]
struct Holder {
    name: String,
    https: Vec<SocketAddr>,
    /// Why its certificate could not be verified.
    fault: Option<String>,
}

/// Follows a delegation to the pool that has the object.
pub(super) fn find(dir: &Path, address: &Address, delegated: &Delegated) -> anyhow::Result<Elsewhere> {
    let config = Config::read(dir)?;
    let mut passed = vec![config.domain.clone()];
    let mut next = read(delegated)?;
    loop {
        let pool = pool_of(&config, address, &next)?;
        if passed.contains(&pool) {
            bail!(
                "{address} is delegated in a circle: from pool {pool} on and back to it. Ask their operators to end it"
            );
        }
        if passed.len() > POOLS_MAX {
            bail!("{address} is delegated on by more than {POOLS_MAX} pools, the last one is {pool}");
        }
        let settings = configured(dir, &config, address, &next.zone, &pool)?;
        let (anchor, key) = (settings.anchor(dir)?, settings.key(dir)?);
        let servers = match &settings.dns[..] {
            [] => places(&config, &next),
            set => set.to_vec(),
        };
        if servers.is_empty() {
            bail!(
                "{address} lies in {}, which is delegated to pool {pool}, and no address of its librarian is known: set dns in \
                 [pools.\"{pool}\"] of {FILE}",
                next.zone
            );
        }
        let mut name = pool.obj_name(address)?;
        let ask = |name: &Name| {
            lookup::ask(&servers, key.as_ref(), name, RecordType::SRV)
                .with_context(|| format!("ask the librarian of pool {pool} for {address}"))
        };
        let mut answer = ask(&name)?;
        let mut leads = delegation::leads(&pool, &name, &answer);
        if let Leads::On(onward) = leads {
            name = onward;
            answer = ask(&name)?;
            leads = delegation::leads(&pool, &name, &answer);
        }
        if let Leads::Away(onward) = leads {
            passed.push(pool);
            next = *onward;
            continue;
        }
        let holders = holders(&pool, &anchor, &answer);
        if holders.is_empty() {
            bail!(
                "{address} lies in {}, which is delegated to pool {pool}: there is no such object, or its librarian shows it not to \
                 this one (tsig_key in [pools.\"{pool}\"] of {FILE})",
                next.zone
            );
        }
        return Ok(Elsewhere {
            address: address.to_string(),
            zone: next.zone.to_string(),
            pool: pool.to_string(),
            name: name.to_string(),
            servers: holders,
        });
    }
}

fn read(delegated: &Delegated) -> anyhow::Result<Delegation> {
    let mut servers = Vec::new();
    for (name, addresses) in &delegated.servers {
        servers.push(NameServer {
            name: Name::from_ascii(name)?,
            addresses: addresses.clone(),
        });
    }
    Ok(Delegation {
        zone: Name::from_ascii(&delegated.zone)?,
        pool: servers.iter().find_map(|server| pool_of_name_server(&server.name)),
        servers,
    })
}

/// Where the librarians of a delegation answer.
fn places(config: &Config, delegation: &Delegation) -> Vec<SocketAddr> {
    let addresses = delegation.servers.iter().flat_map(|server| &server.addresses);
    addresses.map(|address| config.pools.place(*address)).collect()
}

/// Which pool a part is delegated to: as its name server is called, or as the zone itself says.
fn pool_of(config: &Config, address: &Address, delegation: &Delegation) -> anyhow::Result<Domain> {
    if let Some(pool) = &delegation.pool {
        return Ok(pool.clone());
    }
    let zone = &delegation.zone;
    let names: Vec<String> = delegation
        .servers
        .iter()
        .map(|server| server.name.to_string())
        .collect();
    let asked = lookup::ask(&places(config, delegation), None, zone, RecordType::SOA);
    let pool = asked.and_then(|soa| pool_of_zone(&soa).context("its SOA record names no pool"));
    pool.with_context(|| {
        format!(
            "{address} lies in {zone}, which is delegated to another pool (name servers: {}), and that does not say which one: does \
             its librarian serve the zone ([[serves]])? Where it answers is dns in [pools.\"DOMAIN OF THAT POOL\"] of {FILE}",
            names.join(", ")
        )
    })
}

fn configured<'c>(
    dir: &Path,
    config: &'c Config,
    address: &Address,
    zone: &Name,
    pool: &Domain,
) -> anyhow::Result<&'c OtherPool> {
    config.pools.get(pool).with_context(|| {
        format!(
            "{address} lies in {zone}, which is delegated to pool {pool}, whose authority is not known here. To follow there, write \
             into {}:\n[pools.\"{pool}\"]\nca = \"FILE\"    # the certificate of that pool's authority\ndns = [\"IP:PORT\"]    # its librarian",
            dir.join(FILE).display()
        )
    })
}

/// The servers that an answer names, each looked at.
fn holders(pool: &Domain, anchor: &Anchor, answer: &Answer) -> Vec<Holder> {
    let named = answer
        .srv()
        .filter(|srv| pool_of_server(&srv.target).as_ref() == Some(pool));
    named
        .map(|srv| {
            let beside = answer.additionals.iter().filter(|record| record.name == srv.target);
            let addresses: Vec<IpAddr> = beside.filter_map(|record| record.data.ip_addr()).collect();
            let https: Vec<SocketAddr> = addresses.iter().map(|ip| SocketAddr::new(*ip, srv.port)).collect();
            let host = srv.target.to_ascii().trim_end_matches('.').to_ascii_lowercase();
            let fault = verify(&host, &https, anchor).err().map(|error| format!("{error:#}"));
            Holder {
                name: srv.target.to_string(),
                https,
                fault,
            }
        })
        .collect()
}

/// Whether a server shows a certificate of its name by this authority. It is shown none.
fn verify(host: &str, places: &[SocketAddr], anchor: &Anchor) -> anyhow::Result<()> {
    let config = Arc::new(certs::tls::client_config_unidentified(anchor)?);
    let mut last = anyhow::anyhow!("its address is not told");
    for place in places {
        let shake = || -> anyhow::Result<()> {
            let mut connection = ClientConnection::new(Arc::clone(&config), ServerName::try_from(host.to_owned())?)?;
            let mut stream = lookup::connect(*place)?;
            // The server's certificate and its proof come before it can refuse us.
            while connection.is_handshaking() {
                connection.complete_io(&mut stream)?;
            }
            Ok(())
        };
        match shake() {
            Ok(()) => return Ok(()),
            Err(error) => last = error.context(format!("connect to {place}")),
        }
    }
    Err(last)
}

/// For people.
pub(super) fn describe(found: &Elsewhere) -> String {
    let mut lines = vec![
        format!(
            "{} is in pool {}, which {} is delegated to",
            found.address, found.pool, found.zone
        ),
        format!("  name     {}", found.name),
    ];
    for holder in &found.servers {
        let places: Vec<String> = holder.https.iter().map(|place| format!("https://{place}")).collect();
        let verified = match &holder.fault {
            None => "verified by that pool's authority".to_owned(),
            Some(fault) => format!("NOT VERIFIED: {fault}"),
        };
        lines.push(format!(
            "  holder   {} at {}, {verified}",
            holder.name,
            places.join(", ")
        ));
    }
    lines.join("\n")
}

/// The servers that were not verified.
pub(super) fn unverified(found: &Elsewhere) -> usize {
    found.servers.iter().filter(|holder| holder.fault.is_some()).count()
}
