//! `librarian client add`.

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
use crate::{keys, random, trust};

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
        .issue(&who, trust::new_serial(), UnixTime::now())
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
    match control::ask::<serde_json::Value>(dir, &Request::Reload) {
        Ok(_) | Err(AskError::NotRunning { .. }) => {}
        Err(error) => return Err(anyhow::Error::from(error).context("tell the running librarian of the new key")),
    }
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
fn dns_address(dir: &Path, config: &Config) -> anyhow::Result<SocketAddr> {
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
