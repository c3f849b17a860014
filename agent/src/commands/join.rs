//! `agent join`: makes this server's key, has it certified, and writes the directory that `agent run` starts from.
//!
//! The key never leaves this server. The librarian is known by the fingerprint of the pool's authority in the token, and
//! proves that it is the librarian by its name. `agent.toml` is written last: a directory with it is whole.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use certs::join::{JOIN_PATH, Joined, MESSAGE_OCTETS_MAX};
use certs::{JoinAnswer, JoinRequest, JoinToken, Request, UnixTime, tls_name};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::files;
use crate::config::{self, Octets};

/// Longest wait for the librarian.
const WAIT: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  librarian invite s2 --dir /var/lib/hypernet/librarian | agent join --token-file - --dir /var/lib/hypernet/s2
  agent join --token-file s2.token --dir /var/lib/hypernet/s2 --https 192.0.2.12:9443 --peer 192.0.2.12:9444 --capacity 500GiB")]
pub(super) struct Join {
    /// File with the token that `librarian invite` gave; - reads standard input
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Directory to make; it may exist and be empty
    #[arg(long)]
    dir: PathBuf,
    /// Where to serve clients by HTTPS; port 0 takes a free one at every start
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    https: SocketAddr,
    /// Where to serve other agents by QUIC (UDP)
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    peer: SocketAddr,
    /// Most disk for objects, such as 500GiB
    #[arg(long, value_name = "SIZE", default_value_t = config::Store::default().capacity)]
    capacity: Octets,
}

impl Join {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let settings = self.dir.join(config::FILE);
        if settings.exists() {
            bail!(
                "{} has joined a pool already: start it with `agent run --dir {}`, or choose another directory",
                self.dir.display(),
                self.dir.display()
            );
        }
        let token: JoinToken = self.token()?.parse()?;
        token.check(UnixTime::now())?;
        // The directory first: a token counts once, and must not be spent where nothing can be written.
        files::make_directory(&self.dir)?;
        let request = Request::new()?;
        let answer = ask(&token, &request).await?;
        let joined = answer.accept(&token, request, UnixTime::now())?;
        self.write(&joined)?;
        println!(
            "{} has joined {}: start it with `agent run --dir {}`",
            joined.server,
            joined.domain,
            self.dir.display()
        );
        Ok(())
    }

    fn token(&self) -> anyhow::Result<Zeroizing<String>> {
        let mut text = Zeroizing::new(String::new());
        if self.token_file == Path::new("-") {
            std::io::stdin()
                .lock()
                .take(4096)
                .read_to_string(&mut text)
                .context("read the token from standard input")?;
        } else {
            let mut file = std::fs::File::open(&self.token_file)
                .with_context(|| format!("open the token file {}", self.token_file.display()))?;
            (&mut file)
                .take(4096)
                .read_to_string(&mut text)
                .context("read the token file")?;
        }
        Ok(text)
    }

    fn write(&self, joined: &Joined) -> anyhow::Result<()> {
        let Joined {
            identity,
            anchor,
            server,
            domain,
            answer,
        } = joined;
        let (identity_dir, keys) = (self.dir.join("identity"), self.dir.join("keys"));
        files::make_directory(&identity_dir)?;
        files::make_directory(&keys)?;
        files::write(&identity_dir.join("server.key"), identity.key_pem())?;
        files::write(&identity_dir.join("server.pem"), identity.certificate_pem())?;
        files::write(&identity_dir.join("ca.pem"), anchor.pem())?;
        files::write(&keys.join(format!("{server}.key")), &answer.tsig_key)?;
        files::write(&self.dir.join("pool.key"), &answer.pool_key)?;
        let settings = config::template(&config::Joined {
            name: server.clone(),
            domain: domain.clone(),
            librarian_dns: answer.dns,
            librarian_https: answer.https,
            listen_https: self.https,
            listen_peer: self.peer,
            capacity: self.capacity,
        });
        files::write(&self.dir.join(config::FILE), &settings)?;
        Ok(())
    }
}

/// What of the librarian's problem is shown.
#[derive(Deserialize)]
struct Refusal {
    detail: String,
}

async fn ask(token: &JoinToken, request: &Request) -> anyhow::Result<JoinAnswer> {
    let tls = certs::tls::client_config_pinned(token.authority)?;
    let host = tls_name(&token.domain, "ns");
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .resolve(&host, token.join)
        .no_proxy()
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(WAIT)
        .build()
        .context("make a TLS client")?;
    let message = JoinRequest::new(token, request);
    let message = Zeroizing::new(serde_json::to_vec(&message).context("write the request")?);
    let mut response = http
        .post(format!("https://{host}:{}{JOIN_PATH}", token.join.port()))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(message.to_vec())
        .send()
        .await
        .with_context(|| {
            format!(
                "ask the librarian at {} to let this server in: check that it runs and is reached from here, then try again with the same token",
                token.join
            )
        })?;
    let status = response.status();
    let mut answer = Zeroizing::new(Vec::new());
    while let Some(piece) = response.chunk().await.context(
        "the connection broke while the librarian answered: the token may be spent, so ask for a new one with `librarian invite`",
    )? {
        if answer.len() + piece.len() > MESSAGE_OCTETS_MAX {
            bail!("the librarian's answer is too long: is there another service at {}?", token.join);
        }
        answer.extend_from_slice(&piece);
    }
    if !status.is_success() {
        let detail =
            serde_json::from_slice::<Refusal>(&answer).map_or_else(|_| status.to_string(), |refusal| refusal.detail);
        bail!("the librarian refuses: {detail}");
    }
    Ok(JoinAnswer::from_json(&answer)?)
}
