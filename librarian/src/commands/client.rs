//! `librarian client add` and `grant`, `librarian revoke`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use certs::{ClientName, Grant, Grants, UnixTime, Who};
use serde::Serialize;
use serde_json::json;
use zones::{Domain, ServerName};

use crate::config::Config;
use crate::control::words::{Addresses, Request};
use crate::control::{self, AskError};
use crate::files::{self, Readable};
use crate::invite::member_path;
use crate::transfer::secondary;
use crate::{keys, random, revoke, trust};

/// What is asked for.
pub(super) struct Wish {
    pub(super) name: ClientName,
    pub(super) grants: Vec<Grant>,
    pub(super) out: Option<PathBuf>,
    pub(super) replace: bool,
    pub(super) json: bool,
}

/// `client.toml`, as the client library reads it.
#[derive(Serialize)]
struct ClientFile {
    name: String,
    domain: String,
    dns: Vec<SocketAddr>,
    tsig_key: &'static str,
}

pub(super) fn add(dir: &Path, wish: Wish) -> anyhow::Result<()> {
    let config = Config::read(dir)?;
    let name = &wish.name;
    if let Ok(server) = name.as_str().parse::<ServerName>()
        && member_path(dir, &server).exists()
    {
        bail!("a server is named {server}: keys are told apart by their names, so choose another name for the client");
    }
    if secondary::path_of(dir, name).exists() {
        bail!("a secondary is named {name}: keys are told apart by their names, so choose another name for the client");
    }
    if keys::grants_path(dir, name).exists() && !wish.replace {
        bail!(
            "client {name} was added before: choose another name, or replace its certificate, key and grants with --replace"
        );
    }
    let grants = Grants::new(wish.grants)?;
    let authority = trust::authority(dir, &config.domain)?;
    let who = Who::Client {
        name: name.clone(),
        grants: grants.clone(),
    };
    let identity = authority
        .issue(
            &who,
            trust::new_serial(),
            revoke::issue_from(dir, &who, UnixTime::now())?,
        )
        .context("make the client's certificate")?;
    let dns = dns_address(dir, &config)?;
    let own = dir.join("clients").join(name.as_str());
    let out = wish.out.unwrap_or_else(|| own.clone());
    files::make_dir(&own)?;
    files::make_dir(&out)?;
    let settings = toml::to_string(&ClientFile {
        name: name.to_string(),
        domain: config.domain.to_string(),
        dns: vec![dns],
        tsig_key: "tsig.key",
    })?;
    let tsig = keys::create(dir, name.as_str(), &random::octets())?;
    files::write(&out.join("client.key"), identity.key_pem().as_bytes(), Readable::Owner)?;
    files::write(
        &out.join("client.pem"),
        identity.certificate_pem().as_bytes(),
        Readable::Owner,
    )?;
    files::write(
        &out.join("ca.pem"),
        authority.anchor().pem().as_bytes(),
        Readable::Owner,
    )?;
    files::write(&out.join("tsig.key"), tsig.to_bind_file().as_bytes(), Readable::Owner)?;
    files::write(&out.join("client.toml"), settings.as_bytes(), Readable::Owner)?;
    super::resolver::write_all(&out.join("resolver"), &config.domain, dns)?;
    // Only now the key is anybody's: the files of a client that is known are complete.
    keys::write_grants(dir, name, &grants)?;
    if wish.replace {
        // The old certificate lives on, with the new grants: whoever uses it has time to take the new one.
        revoke::change(dir, &who, Some(grants.clone()), UnixTime::now())?;
    }
    reload(dir)?;
    if wish.json {
        return super::say_json(&json!({
            "name": name.to_string(),
            "grants": grants.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "dir": out,
            "dns": dns,
        }));
    }
    super::say(&report(name, &grants, &out, &config.domain, dns))
}

/// Changes what a client may do, with the certificate that it has.
pub(super) fn grant(dir: &Path, name: &ClientName, grants: Vec<Grant>, json: bool) -> anyhow::Result<()> {
    if keys::read_grants(dir, name)?.is_none() {
        bail!("there is no client {name}: `librarian client add {name}` makes one");
    }
    let grants = Grants::new(grants)?;
    let who = Who::Client {
        name: name.clone(),
        grants: grants.clone(),
    };
    keys::write_grants(dir, name, &grants)?;
    let list = revoke::change(dir, &who, Some(grants.clone()), UnixTime::now())?;
    reload(dir)?;
    let grants: Vec<String> = grants.iter().map(ToString::to_string).collect();
    if json {
        return super::say_json(&json!({"name": name.to_string(), "grants": grants, "number": list.number}));
    }
    super::say(&format!(
        "client {name} may {} from now on; servers hear of it within seconds",
        grants.join(", ")
    ))
}

/// Makes void whatever a client or a server has: certificates and TSIG key.
pub(super) fn revoke(dir: &Path, name: &str, json: bool) -> anyhow::Result<()> {
    let server = name
        .parse::<ServerName>()
        .ok()
        .filter(|server| member_path(dir, server).exists());
    let who = match server {
        Some(server) => Who::Server(server),
        None => {
            let name: ClientName = name.parse()?;
            let Some(grants) = keys::read_grants(dir, &name)? else {
                bail!(
                    "there is neither a server nor a client {name}: `librarian pool` lists servers, clients/ in {} clients",
                    dir.display()
                );
            };
            Who::Client { name, grants }
        }
    };
    let list = revoke::change(dir, &who, None, UnixTime::now())?;
    let mut paths = vec![keys::path_of(dir, name)];
    match &who {
        Who::Client { name, .. } => paths.push(keys::grants_path(dir, name)),
        Who::Server(server) => paths.push(member_path(dir, server)),
        Who::Librarian => {}
    }
    for path in paths.iter().filter(|path| path.exists()) {
        files::remove(path)?;
    }
    reload(dir)?;
    let owner = who.owner();
    if json {
        return super::say_json(&json!({"revoked": owner, "number": list.number}));
    }
    super::say(&format!(
        "{owner} is revoked: its DNS key counts no more, and servers refuse it within seconds"
    ))
}

/// Has the running librarian, if there is one, read the keys anew.
pub(super) fn reload(dir: &Path) -> anyhow::Result<()> {
    match control::ask::<serde_json::Value>(dir, &Request::Reload) {
        Ok(_) | Err(AskError::NotRunning { .. }) => Ok(()),
        Err(error) => Err(anyhow::Error::from(error).context("tell the running librarian of the changed keys")),
    }
}

fn report(name: &ClientName, grants: &Grants, out: &Path, domain: &Domain, dns: SocketAddr) -> String {
    let grants: Vec<String> = grants.iter().map(ToString::to_string).collect();
    let out = out.display();
    format!(
        "client {name} may {grants}; its files are in {out}:
  client.pem, client.key   certificate (7 days) and private key
  ca.pem                   the pool's authority
  tsig.key                 signs questions, so that they are answered for what the grants show
  client.toml              settings of the client library and of `agent get|put|stat|rm|ls`
  resolver/                lines for a resolver in front: unbound, BIND, systemd-resolved, dnsmasq
try:
  dig @{ip} -p {port} -k {out}/tsig.key ADDRESS.obj.{domain} SRV
  agent ls --client {out}",
        grants = grants.join(", "),
        ip = dns.ip(),
        port = dns.port(),
    )
}

/// Where clients ask: what the running librarian says, else the settings.
pub(super) fn dns_address(dir: &Path, config: &Config) -> anyhow::Result<SocketAddr> {
    let address = match control::ask::<Addresses>(dir, &Request::Addresses) {
        Ok(addresses) => addresses.dns,
        Err(AskError::NotRunning { .. }) => config.advertise_dns.unwrap_or(config.listen_dns),
        Err(error) => return Err(error.into()),
    };
    if address.ip().is_unspecified() || address.port() == 0 {
        bail!(
            "clients cannot ask at {address}: set advertise_dns in librarian.toml to an address that they reach, or start the \
             librarian first"
        );
    }
    Ok(address)
}
