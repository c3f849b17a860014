//! `librarian secondary add`, `remove`, `list` and `config`: name servers that take zones.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::bail;
use certs::ClientName;
use clap::{Subcommand, ValueEnum};
use serde_json::json;
use zones::{Domain, ServerName, TsigKey};

use super::client::{dns_address, reload};
use super::text::columns;
use crate::config::Config;
use crate::control;
use crate::control::words::Request;
use crate::invite::member_path;
use crate::transfer::book::Status;
use crate::transfer::secondary::{self, Secondary, TransferredZone};
use crate::{files, keys, random};

#[derive(Debug, Subcommand)]
pub(super) enum SecondaryCommand {
    /// Make a key for a name server that takes zones.
    #[command(after_help = "Example:
  librarian secondary add ns2 --address 192.0.2.7:53
  librarian secondary add ns3 --zone obj --zone tree --json
  librarian secondary config ns2 knot >> /etc/knot/knot.conf

A key is one server's: the librarian tells by it what that server has. Who may take obj or tree sees where every object is, and
answers whom its own operator lets it.")]
    Add {
        /// Its name, such as ns2.
        name: ClientName,
        /// Where it is told of changes, IP:PORT; may be given several times. Without one it asks by itself, every 5 s.
        #[arg(long = "address", value_name = "IP:PORT")]
        addresses: Vec<SocketAddr>,
        /// A zone that it may take; may be given several times. All three unless said.
        #[arg(long = "zone", value_enum)]
        zones: Vec<TransferredZone>,
        /// Replace addresses, zones and key of one that was added before.
        #[arg(long)]
        replace: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Take the key of a secondary away: it takes no zone any more. What it has it tells until that expires, after a minute;
    /// an upgrade does not wait for that.
    #[command(after_help = "Example:
  librarian secondary remove ns2")]
    Remove {
        /// Its name.
        name: ClientName,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Secondaries, what they have, and how far they are behind.
    #[command(after_help = "Example:
  librarian secondary list
  librarian secondary list --json | jq '.[].zones[] | select(.behind != 0)'

HAS is the serial that a secondary is known to have: told by its own questions, so it may have more.")]
    List {
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Lines for a secondary's own settings, its key among them.
    #[command(after_help = "Example:
  librarian secondary config ns2 bind > /etc/bind/hypernet.conf")]
    Config {
        /// Its name.
        name: ClientName,
        /// Which program it is.
        #[arg(value_enum)]
        kind: Kind,
    },
}

/// Which name server.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Kind {
    /// Knot DNS.
    Knot,
    /// NSD.
    Nsd,
    /// BIND's named.
    Bind,
}

pub(super) fn run(dir: &Path, command: SecondaryCommand) -> anyhow::Result<()> {
    match command {
        SecondaryCommand::Add {
            name,
            addresses,
            zones,
            replace,
            json,
        } => {
            let secondary = Secondary {
                name,
                zones: if zones.is_empty() {
                    TransferredZone::ALL.into()
                } else {
                    zones
                },
                notify: addresses,
            };
            add(dir, &secondary, replace, json)
        }
        SecondaryCommand::Remove { name, json } => remove(dir, &name, json),
        SecondaryCommand::List { json } => list(dir, json),
        SecondaryCommand::Config { name, kind } => config(dir, &name, kind),
    }
}

fn add(dir: &Path, secondary: &Secondary, replace: bool, json: bool) -> anyhow::Result<()> {
    Config::read(dir)?;
    let name = &secondary.name;
    let is_server = name
        .as_str()
        .parse::<ServerName>()
        .is_ok_and(|server| member_path(dir, &server).exists());
    if is_server || name.as_str() == keys::ADMIN || keys::grants_path(dir, name).exists() {
        bail!(
            "{name} is the name of another key: keys are told apart by their names, so choose another one for the secondary"
        );
    }
    if secondary::path_of(dir, name).exists() && !replace {
        bail!(
            "secondary {name} was added before: choose another name, or replace its key, zones and addresses with --replace"
        );
    }
    keys::create(dir, name.as_str(), &random::octets())?;
    // Only now the key is anybody's.
    secondary::write(dir, secondary)?;
    reload(dir)?;
    let zones: Vec<&str> = secondary.zones.iter().map(|zone| zone.word()).collect();
    if json {
        return super::say_json(&json!({
            "name": name.to_string(),
            "zones": zones,
            "notify": secondary.notify,
            "key": keys::path_of(dir, name.as_str()),
        }));
    }
    super::say(&format!(
        "secondary {name} may take {zones}; its key is {key}
lines for its settings:
  librarian secondary config {name} knot|nsd|bind",
        zones = zones.join(", "),
        key = keys::path_of(dir, name.as_str()).display(),
    ))
}

fn known(dir: &Path, name: &ClientName) -> anyhow::Result<Secondary> {
    match secondary::read(dir, name)? {
        Some(secondary) => Ok(secondary),
        None => bail!("there is no secondary {name}: `librarian secondary list` shows them"),
    }
}

fn remove(dir: &Path, name: &ClientName, json: bool) -> anyhow::Result<()> {
    known(dir, name)?;
    for path in [secondary::path_of(dir, name), keys::path_of(dir, name.as_str())] {
        if path.exists() {
            files::remove(&path)?;
        }
    }
    reload(dir)?;
    if json {
        return super::say_json(&json!({ "removed": name.to_string() }));
    }
    super::say(&format!(
        "secondary {name} takes no zone any more; what it has expires within a minute"
    ))
}

fn list(dir: &Path, json: bool) -> anyhow::Result<()> {
    let all: Vec<Status> = control::ask(dir, &Request::Secondaries)?;
    if json {
        return super::say_json(&all);
    }
    if all.is_empty() {
        return super::say("no zone is transferred to anybody: `librarian secondary add` makes a key");
    }
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let rows = all.iter().flat_map(|one| {
        one.zones.iter().map(move |zone| {
            [
                one.name.clone(),
                zone.zone.clone(),
                zone.ours.to_string(),
                number(zone.has.map(u64::from)),
                number(zone.behind.map(u64::from)),
                zone.seen_s
                    .map_or_else(|| "never".to_owned(), |seen| format!("{seen} s ago")),
                zone.state.clone(),
            ]
        })
    });
    let head = ["SECONDARY", "ZONE", "SERIAL", "HAS", "BEHIND", "SEEN", "STATE"];
    super::say(&columns(head, rows).join("\n"))
}

fn config(dir: &Path, name: &ClientName, kind: Kind) -> anyhow::Result<()> {
    let settings = Config::read(dir)?;
    let secondary = known(dir, name)?;
    let key = keys::read_key(&keys::path_of(dir, name.as_str()), name.as_str())?;
    let dns = dns_address(dir, &settings)?;
    super::say(lines(kind, &secondary, &settings.domain, dns, &key).trim_end())
}

fn lines(kind: Kind, secondary: &Secondary, domain: &Domain, dns: SocketAddr, key: &TsigKey) -> String {
    let (ip, port, name) = (dns.ip(), dns.port(), &secondary.name);
    let file = key.to_bind_file();
    let secret = file.split('"').nth(3).unwrap_or_default();
    let zones = secondary.zones.iter().map(|zone| {
        let zone = domain.zone(zone.zone()).to_string();
        zone.trim_end_matches('.').to_owned()
    });
    match kind {
        Kind::Knot => {
            let mut text = format!(
                "# Holds a key: readable by Knot alone.
key:
  - id: {name}
    algorithm: hmac-sha256
    secret: {secret}
remote:
  - id: librarian
    address: {ip}@{port}
    key: {name}
acl:
  - id: librarian
    address: {ip}
    key: {name}
    action: notify
zone:
"
            );
            for zone in zones {
                text.push_str(&format!(
                    "  - domain: {zone}\n    master: librarian\n    acl: librarian\n"
                ));
            }
            text
        }
        Kind::Nsd => {
            let mut text = format!(
                "# Holds a key: readable by NSD alone.
# Debian's NSD answers 200 questions a second to one network unless rrl-ratelimit is 0.
key:
    name: \"{name}\"
    algorithm: hmac-sha256
    secret: \"{secret}\"
"
            );
            for zone in zones {
                text.push_str(&format!(
                    "zone:\n    name: \"{zone}\"\n    request-xfr: {ip}@{port} {name}\n    allow-notify: {ip} {name}\n"
                ));
            }
            text
        }
        Kind::Bind => {
            let mut text = format!("// Holds a key: readable by named alone.\n{}", *file);
            for zone in zones {
                text.push_str(&format!(
                    "zone \"{zone}\" {{
    type secondary;
    primaries {{ {ip} port {port} key \"{name}\"; }};
    file \"{zone}.secondary\";
    // By itself named asks every five minutes and tells what it has for a quarter of an hour. The librarian counts on the
    // times of the zone: a server that is stopped is waited for one minute.
    min-refresh-time 1; max-refresh-time 5; min-retry-time 1; max-retry-time 5;
}};
"
                ));
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_names_the_key_its_secret_each_zone_and_where_to_ask() {
        let domain: Domain = "hypernet.internal".parse().unwrap();
        let key = TsigKey::new("ns2", &[7; 32]).unwrap();
        let secondary = Secondary {
            name: "ns2".parse().unwrap(),
            zones: vec![TransferredZone::Obj, TransferredZone::Domain],
            notify: Vec::new(),
        };
        for kind in Kind::value_variants() {
            let text = lines(*kind, &secondary, &domain, "192.0.2.1:5300".parse().unwrap(), &key);
            for part in [
                "ns2",
                "BwcHBwcH",
                "obj.hypernet.internal",
                "192.0.2.1",
                "5300",
                "hmac-sha256",
            ] {
                assert!(text.contains(part), "{part} in {text}");
            }
            assert!(!text.contains("tree.") && !text.contains("internal.\""), "{text}");
        }
    }
}
