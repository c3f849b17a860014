//! `librarian invite`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::bail;
use certs::{ClientName, JoinToken, Secret, UnixTime};
use serde_json::json;
use zones::{Role, ServerName};

use crate::config::Config;
use crate::control::words::{Addresses, Request};
use crate::control::{self, AskError};
use crate::files::{self, Readable};
use crate::invite::{Invite, member_path};
use crate::{keys, random, trust};

/// What is asked for.
pub(super) struct Wish {
    pub(super) server: ServerName,
    pub(super) role: Role,
    pub(super) out: Option<PathBuf>,
    pub(super) again: bool,
    pub(super) json: bool,
}

pub(super) fn invite(dir: &Path, wish: &Wish) -> anyhow::Result<()> {
    let config = Config::read(dir)?;
    let server = &wish.server;
    if member_path(dir, server).exists() && !wish.again {
        bail!(
            "{server} joined already: choose another name, or invite it anew with --again (its old key ends when it joins)"
        );
    }
    if let Ok(client) = server.as_str().parse::<ClientName>()
        && keys::grants_path(dir, &client).exists()
    {
        bail!("a client is named {client}: keys are told apart by their names, so choose another name for the server");
    }
    let authority = trust::authority(dir, &config.domain)?;
    let secret = Secret::new(random::octets());
    let now = UnixTime::now();
    let expires = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        now.as_secs().saturating_add(config.invite_lifetime.as_secs()),
    ));
    let token = JoinToken {
        server: server.clone(),
        domain: config.domain.clone(),
        join: join_address(dir, &config)?,
        expires,
        authority: authority.anchor().fingerprint(),
        secret,
    };
    let invite = Invite {
        server: server.clone(),
        role: wish.role,
        secret: token.secret.hash(),
        expires,
    };
    // The token goes out only after the invitation is durable.
    invite.write(dir)?;
    let text = token.expose();
    if let Some(out) = &wish.out {
        files::write(out, format!("{text}\n").as_bytes(), Readable::Owner)?;
    }
    if wish.json {
        return super::say_json(&json!({
            "server": server.to_string(),
            "role": wish.role.to_string(),
            "join": token.join,
            "expires_unix_s": expires.as_secs(),
            "authority": token.authority.to_string(),
            "file": wish.out,
            "token": wish.out.is_none().then_some(&text),
        }));
    }
    let hours = config.invite_lifetime.as_secs_f64() / 3600.0;
    match &wish.out {
        Some(out) => eprintln!(
            "the token for {server} is in {}; it lets in once, within {hours:.1} h: agent join --token-file FILE --dir DIR",
            out.display()
        ),
        None => {
            super::say(&text)?;
            eprintln!("lets {server} in once, within {hours:.1} h: agent join --token-file FILE --dir DIR");
        }
    }
    Ok(())
}

/// Where the server is to join: what the running librarian says, else the settings.
fn join_address(dir: &Path, config: &Config) -> anyhow::Result<SocketAddr> {
    let address = match control::ask::<Addresses>(dir, &Request::Addresses) {
        Ok(addresses) => addresses.https,
        Err(AskError::NotRunning { .. }) => config.advertise_https.unwrap_or(config.listen_https),
        Err(error) => return Err(error.into()),
    };
    if address.ip().is_unspecified() || address.port() == 0 {
        bail!(
            "servers cannot join at {address}: set advertise_https in librarian.toml to an address that they reach, or start \
             the librarian first"
        );
    }
    Ok(address)
}
