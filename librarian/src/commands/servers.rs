//! The way to the servers for commands that read what lies there: HTTPS, with a certificate that the command makes for itself.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use certs::Anchor;
use serde::de::DeserializeOwned;
use zones::Domain;

use crate::config::Config;
use crate::control;
use crate::control::words::{Pool, Request, Server};
use crate::trust;

/// Longest wait for one answer.
const WAIT: Duration = Duration::from_secs(30);

/// Looks at every server of the pool, by name.
pub(super) fn each(dir: &Path, mut look: impl FnMut(&Servers, &Server, &Anchor)) -> anyhow::Result<()> {
    let config = Config::read(dir)?;
    let pool: Pool = control::ask(dir, &Request::Pool)?;
    let authority = trust::authority(dir, &config.domain)?;
    let identity = trust::librarian_identity(&authority, trust::now()).context("make a certificate")?;
    let servers = Servers {
        domain: config.domain,
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        tls: certs::tls::client_config(&identity, authority.anchor())?,
    };
    for server in &pool.servers {
        look(&servers, server, authority.anchor());
    }
    Ok(())
}

/// The way to all servers.
pub(super) struct Servers {
    domain: Domain,
    runtime: tokio::runtime::Runtime,
    tls: rustls::ClientConfig,
}

impl Servers {
    /// Reads JSON from a server.
    pub(super) fn get<T: DeserializeOwned>(&self, server: &Server, path: &str) -> anyhow::Result<T> {
        let host = certs::tls_name(&self.domain, &server.name);
        let port = server.https_port.context("it was never heard: start its agent")?;
        let addresses: Vec<SocketAddr> = server.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .resolve_to_addrs(&host, &addresses)
            .no_proxy()
            .https_only(true)
            .timeout(WAIT)
            .build()?;
        self.runtime.block_on(async {
            let answer = client.get(format!("https://{host}:{port}{path}")).send().await?;
            Ok(answer.error_for_status()?.json().await?)
        })
    }
}
