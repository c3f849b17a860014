//! This server as a member of its pool: its certificate is renewed in time, and who was revoked is known within seconds.
//!
//! Every few seconds the librarian is asked for the list of revocations, over TLS that both sides authenticate. The last one
//! stays on disk, so that a restart beside a silent librarian lets nobody in again; one with a lower number is never taken.
//! From a quarter of its life on the certificate is renewed with a fresh key; the next handshakes show it, connections that are
//! open go on.
//!
//! Specification: DESIGN.md section 8, PROTOCOL.md section 10.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use certs::join::{MESSAGE_OCTETS_MAX, RENEW_PATH, REVOCATIONS_PATH};
use certs::revocation::DOCUMENT_OCTETS_MAX;
use certs::tls::Current;
use certs::{Identity, Peer, RenewAnswer, RenewRequest, Request, Revocations, Signer, UnixTime};
use tokio::time::MissedTickBehavior;
use zeroize::Zeroizing;

use crate::access::metrics;
use crate::client::Settings;
use crate::commands::files;
use crate::config;
use crate::home::Home;
use crate::store::Auditor;

/// The list that was heard last.
const FILE: &str = "revocations.json";
/// Longest wait for an answer.
const WAIT: Duration = Duration::from_secs(4);
/// First pause after a renewal that failed; doubled up to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(30);
/// Longest pause after a renewal that failed.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// A list as old as this is told to the operator.
const STALE: Duration = Duration::from_secs(60);
/// A certificate with less life than this is told to the operator.
const SHORT: Duration = Duration::from_secs(2 * 24 * 3600);

/// Who was revoked, as far as this server knows.
pub type Revoked = Arc<ArcSwap<Revocations>>;

/// What is told of it.
#[derive(Debug, Default)]
struct Told {
    expires: AtomicU64,
    heard: AtomicU64,
    number: AtomicU64,
}

/// Keeps this server a member.
pub struct Membership {
    dir: PathBuf,
    settings: config::Certificates,
    http: reqwest::Client,
    base: String,
    current: Arc<Current>,
    revoked: Revoked,
    auditor: Arc<Auditor>,
    peer: Peer,
    told: Arc<Told>,
    next_try: UnixTime,
    pause: Duration,
}

/// Why this server cannot be kept a member.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The identity cannot be used.
    #[error("use this server's identity for TLS: join the pool again if its files are damaged")]
    Tls(#[from] certs::TlsError),
    /// The way to the librarian cannot be made.
    #[error("make the client that asks the librarian")]
    Http(#[from] reqwest::Error),
    /// The certificate cannot be read.
    #[error("read this server's certificate")]
    Peer(#[from] certs::PeerError),
    /// The list of revocations cannot be read or written.
    #[error("use {FILE}: remove it only if the librarian is reached, which tells it anew")]
    List(#[source] io::Error),
    /// The list of revocations is malformed.
    #[error("read {FILE}: remove it only if the librarian is reached, which tells it anew")]
    Malformed(#[from] certs::RevocationError),
}

/// Why the librarian gave nothing.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the librarian is not reached")]
    Http(#[from] reqwest::Error),
    #[error("the librarian refuses with {0}: {1}")]
    Refused(http::StatusCode, String),
    #[error("its answer is longer than any")]
    Long,
    #[error("its list is malformed")]
    List(#[from] certs::RevocationError),
    #[error("its list has number {told}, and {known} was heard before: an old list is not taken")]
    Older { told: u64, known: u64 },
    #[error("its answer is malformed")]
    Answer(#[from] serde_json::Error),
    #[error("its certificate does not serve")]
    Identity(#[from] certs::IdentityError),
    #[error("its certificate is not this server's")]
    Peer(#[from] certs::PeerError),
    #[error("its certificate is for {0}")]
    Another(String),
    #[error("its certificate cannot be used")]
    Tls(#[from] certs::TlsError),
    #[error("its certificate signs nothing")]
    Sign(#[from] certs::SignError),
    #[error("it cannot be written: {0}")]
    Write(String),
}

impl Membership {
    /// Begins with what is on disk.
    ///
    /// # Errors
    ///
    /// [`MembershipError`].
    pub fn new(home: &Home) -> Result<Membership, MembershipError> {
        let current = Current::new(&home.identity)?;
        let list = match std::fs::read(home.dir.join(FILE)) {
            Ok(text) => Revocations::read(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Revocations::default(),
            Err(error) => return Err(MembershipError::List(error)),
        };
        let librarian = home.config.librarian.https;
        let host = certs::tls_name(&home.config.domain, "ns");
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(certs::tls::renewed_client_config(&current, &home.anchor)?)
            .resolve(&host, librarian)
            .no_proxy()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(WAIT)
            .build()?;
        let peer = Peer::read(home.identity.certificate(), UnixTime::now(), &Revocations::default())?;
        let told = Arc::new(Told::default());
        told.expires.store(peer.not_after.as_secs(), Ordering::Relaxed);
        told.number.store(list.number, Ordering::Relaxed);
        Ok(Membership {
            dir: home.dir.clone(),
            settings: home.config.certificates.clone(),
            http,
            base: format!("https://{host}:{}", librarian.port()),
            current,
            revoked: Arc::new(ArcSwap::from_pointee(list)),
            auditor: Arc::clone(&home.auditor),
            peer,
            told,
            next_try: UnixTime::since_unix_epoch(Duration::ZERO),
            pause: PAUSE_FIRST,
        })
    }

    /// The identity that handshakes show.
    #[must_use]
    pub fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current)
    }

    /// Who was revoked.
    #[must_use]
    pub fn revoked(&self) -> Revoked {
        Arc::clone(&self.revoked)
    }

    /// Prometheus text of it.
    pub fn metrics(&self) -> impl Fn(&mut String) + Send + Sync + use<> {
        let told = Arc::clone(&self.told);
        move |out| {
            let now = UnixTime::now().as_secs();
            let mut gauge = |name: &str, help: &str, value: u64| {
                metrics::head(out, name, "gauge", help);
                metrics::line(out, name, value);
            };
            gauge(
                "agent_certificate_expires_seconds",
                "Seconds until this server's certificate expires.",
                told.expires.load(Ordering::Relaxed).saturating_sub(now),
            );
            gauge(
                "agent_revocations_number",
                "Number of the list of revocations that counts here.",
                told.number.load(Ordering::Relaxed),
            );
            let heard = told.heard.load(Ordering::Relaxed);
            let mut age = String::new();
            match heard {
                0 => age.push_str("+Inf"),
                heard => age = now.saturating_sub(heard).to_string(),
            }
            metrics::head(
                out,
                "agent_revocations_age_seconds",
                "gauge",
                "Seconds since the librarian last told the list of revocations.",
            );
            // A text takes all.
            let _ = writeln!(out, "agent_revocations_age_seconds {age}");
        }
    }

    /// Asks and renews, until dropped.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.settings.revocations_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_since: Option<UnixTime> = None;
        let mut told_stale = false;
        loop {
            ticks.tick().await;
            let now = UnixTime::now();
            match self.ask_revoked().await {
                Ok(()) => {
                    if std::mem::take(&mut told_stale) {
                        tracing::info!("the list of revocations is heard again");
                    }
                    silent_since = None;
                }
                Err(error) => {
                    let since = *silent_since.get_or_insert(now);
                    let error = &error as &dyn std::error::Error;
                    if now.as_secs().saturating_sub(since.as_secs()) > STALE.as_secs() && !told_stale {
                        told_stale = true;
                        tracing::warn!(error, "the list of revocations is not heard: the last one counts on");
                    } else {
                        tracing::debug!(error, "the list of revocations is not heard");
                    }
                }
            }
            if self.is_due(now) {
                self.renew(now).await;
            }
        }
    }

    fn is_due(&self, now: UnixTime) -> bool {
        let issued = self
            .peer
            .not_after
            .as_secs()
            .saturating_sub(certs::authority::LIFETIME.as_secs());
        now.as_secs().saturating_sub(issued) >= self.settings.renew_after.as_secs() && now >= self.next_try
    }

    async fn renew(&mut self, now: UnixTime) {
        match self.ask_renewal(now).await {
            Ok(()) => {
                self.pause = PAUSE_FIRST;
                tracing::info!(serial = %self.peer.serial, expires_unix_s = self.peer.not_after.as_secs(), "certificate renewed");
            }
            Err(error) => {
                let left = self.peer.not_after.as_secs().saturating_sub(now.as_secs());
                let error = &error as &dyn std::error::Error;
                if left < SHORT.as_secs() {
                    tracing::error!(
                        error,
                        seconds_left = left,
                        "the certificate is not renewed, and runs out"
                    );
                } else {
                    tracing::warn!(error, "the certificate is not renewed yet");
                }
                self.next_try = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + self.pause);
                self.pause = (self.pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Asks who was revoked; durable before it counts, so that a restart does not forget it.
    async fn ask_revoked(&self) -> Result<(), AskError> {
        let answer = self.http.get(format!("{}{REVOCATIONS_PATH}", self.base)).send().await?;
        let text = body(answer, DOCUMENT_OCTETS_MAX).await?;
        let list = Revocations::read(&text)?;
        let known = self.revoked.load().number;
        if list.number < known {
            return Err(AskError::Older {
                told: list.number,
                known,
            });
        }
        if list.number > known {
            let path = self.dir.join(FILE);
            let text = list.to_json();
            let written = tokio::task::spawn_blocking(move || files::write(&path, &text)).await;
            let written = written.expect("writing a file does not panic");
            written.map_err(|error| AskError::Write(format!("{error:#}")))?;
            tracing::info!(number = list.number, "the list of revocations has changed");
            self.told.number.store(list.number, Ordering::Relaxed);
            self.revoked.store(Arc::new(list));
        }
        self.told.heard.store(UnixTime::now().as_secs(), Ordering::Relaxed);
        Ok(())
    }

    /// Gets a certificate for a fresh key and shows it from now on.
    async fn ask_renewal(&mut self, now: UnixTime) -> Result<(), AskError> {
        let (identity, peer) = fresh(&self.http, &self.base, &self.peer, now).await?;
        let signer = Signer::new(&identity)?;
        let (folder, kept) = (self.dir.join("identity"), identity.clone());
        let written = tokio::task::spawn_blocking(move || keep(&folder, "server", &kept)).await;
        let written = written.expect("writing files does not panic");
        written.map_err(|error| AskError::Write(format!("{error:#}")))?;
        self.current.renew(&identity)?;
        self.auditor.sign_with(signer);
        self.told.expires.store(peer.not_after.as_secs(), Ordering::Relaxed);
        self.peer = peer;
        Ok(())
    }
}

/// Asks for a certificate for a fresh key, in the name of whoever `http` shows the certificate of.
async fn fresh(http: &reqwest::Client, base: &str, asking: &Peer, now: UnixTime) -> Result<(Identity, Peer), AskError> {
    let request = Request::new()?;
    let message = RenewRequest {
        request: request.pem().to_owned(),
    };
    let answer = http.post(format!("{base}{RENEW_PATH}")).json(&message).send().await?;
    let answer: RenewAnswer = serde_json::from_slice(&body(answer, MESSAGE_OCTETS_MAX).await?)?;
    let identity = request.complete(&answer.certificate)?;
    let peer = Peer::read(identity.certificate(), now, &Revocations::default())?;
    match peer.who.owner() == asking.who.owner() {
        true => Ok((identity, peer)),
        false => Err(AskError::Another(peer.who.owner())),
    }
}

/// Renews the certificate of an application, whose files are in `dir`; returns the last second of the new one.
///
/// # Errors
///
/// Why not, in words that say what to do; the old certificate stays as it is.
pub async fn renew_client(dir: &Path, librarian: SocketAddr) -> anyhow::Result<UnixTime> {
    let settings = Settings::read(dir)?;
    let now = UnixTime::now();
    let peer = Peer::read(settings.identity.certificate(), now, &Revocations::default())
        .context("the certificate cannot renew itself any more: `librarian client add --replace` makes a new one")?;
    let host = certs::tls_name(&settings.domain, "ns");
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(certs::tls::client_config(&settings.identity, &settings.anchor)?)
        .resolve(&host, librarian)
        .no_proxy()
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(WAIT)
        .build()?;
    let base = format!("https://{host}:{}", librarian.port());
    let (identity, peer) = fresh(&http, &base, &peer, now).await?;
    keep(dir, "client", &identity)?;
    Ok(peer.not_after)
}

async fn body(mut answer: reqwest::Response, octets_max: usize) -> Result<Vec<u8>, AskError> {
    let status = answer.status();
    let mut text = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        if text.len() + piece.len() > octets_max {
            return Err(AskError::Long);
        }
        text.extend_from_slice(&piece);
    }
    match status.is_success() {
        true => Ok(text),
        false => {
            let detail = serde_json::from_slice::<serde_json::Value>(&text).ok();
            let detail = detail.and_then(|problem| Some(problem.get("detail")?.as_str()?.to_owned()));
            Err(AskError::Refused(status, detail.unwrap_or_default()))
        }
    }
}

/// A key or certificate that is to take the place of the old one, and that place.
fn place(folder: &Path, stem: &str, kind: &str) -> (PathBuf, PathBuf) {
    let place = folder.join(format!("{stem}.{kind}"));
    (folder.join(format!("{stem}.{kind}.next")), place)
}

/// Puts key and certificate in the place of the old ones: after a crash at any moment [`settle`] leaves a pair.
fn keep(folder: &Path, stem: &str, identity: &Identity) -> anyhow::Result<()> {
    let key = Zeroizing::new(identity.key_pem().to_owned());
    files::write(&place(folder, stem, "key").0, &key)?;
    files::write(&place(folder, stem, "pem").0, identity.certificate_pem())?;
    Ok(settle(folder, stem)?)
}

/// Ends a renewal that a crash left half done: from the moment on when the new certificate is whole, the new pair counts.
///
/// # Errors
///
/// The system's.
pub fn settle(folder: &Path, stem: &str) -> io::Result<()> {
    let [key, certificate] = ["key", "pem"].map(|kind| place(folder, stem, kind));
    if certificate.0.exists() {
        if key.0.exists() {
            std::fs::rename(&key.0, &key.1)?;
            std::fs::File::open(folder)?.sync_all()?;
        }
        std::fs::rename(&certificate.0, &certificate.1)?;
    } else if key.0.exists() {
        std::fs::remove_file(&key.0)?;
    } else {
        return Ok(());
    }
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(dir: &Path) -> (String, String) {
        let read = |name: &str| std::fs::read_to_string(dir.join("identity").join(name)).unwrap();
        (read("server.key"), read("server.pem"))
    }

    #[test]
    fn crash_in_the_midst_of_a_renewal_leaves_a_key_and_its_certificate() {
        // What is on disk at each moment: the old pair, and which of the new files.
        for (key, certificate, renamed, expected) in [
            (false, false, false, "old"),
            (true, false, false, "old"),
            (true, true, false, "new"),
            (false, true, true, "new"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("identity");
            std::fs::create_dir(&folder).unwrap();
            let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
            write("server.key", if renamed { "new" } else { "old" });
            write("server.pem", "old");
            if key {
                write("server.key.next", "new");
            }
            if certificate {
                write("server.pem.next", "new");
            }
            settle(&folder, "server").unwrap();
            assert_eq!(pair(dir.path()), (expected.to_owned(), expected.to_owned()));
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
        }
    }
}
