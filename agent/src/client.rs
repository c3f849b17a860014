//! The client of a pool: finds objects by DNS and talks to the agents that hold them.
//!
//! A [`Client`] is cheap to clone and shares its connections, its cache of DNS answers and its counts. Reads and writes are
//! repeated while that can help, for [`Settings::patience`]; a write is repeated under one write id, so it is applied once.
//!
//! ```text
//!  address --SRV--> holders, or NXDOMAIN --> any.pool        (reads, deletes: any agent asks the register)
//!                                       `--> _place.pool     (creations: where the librarian wants new objects)
//!  answer: 307 --> the owner, who is remembered for writes    421, 503, broken connection --> wait, look up anew, repeat
//! ```
//!
//! Where the address lies in a part of the tree that is delegated to another pool, a client of that pool is asked (`elsewhere`).
//!
//! What DNS says is a hint; what counts is the certificate of the agent, checked by name, and the agent's own look at the
//! register. Specifications: RFC 2782 (SRV), RFC 2308 (negative answers), DESIGN.md sections 4, 5 and 12.

mod body;
mod calls;
mod counts;
mod elsewhere;
mod error;
mod list;
mod locate;
pub(crate) mod multipart;
mod request;
mod settings;
mod stub;
mod words;

use std::collections::HashMap;
use std::sync::Arc;

pub use body::{BodyReader, Upload};
pub use counts::Counts;
pub use error::ClientError;
pub use settings::{OtherPool, Settings, SettingsError};
pub use stub::{Resolver, StubError};
pub use words::{Expect, Object, PutObject, Stat, Summary, WriteOptions, Written};

use locate::Locator;
use parking_lot::Mutex;
use zones::Domain;

/// A client of one pool, as one application.
///
/// # Examples
///
/// ```no_run
/// use agent::client::{Client, PutObject, Settings, Upload, WriteOptions};
/// use serde_json::json;
///
/// # async fn example() -> anyhow::Result<()> {
/// let client = Client::new(Settings::read("clients/shop".as_ref())?)?;
/// let address = "3.1.2.1.023".parse()?;
/// let object = PutObject { kind: Some("photo".parse()?), properties: Some(json!({"title": "Sea"})), ..PutObject::default() };
/// client.put(&address, &object, &WriteOptions::default()).await?;
/// client.put_body(&address, Upload::from("octets"), &WriteOptions::default()).await?;
/// let mut body = client.get_body(&address, None).await?;
/// while let Some(octets) = body.next().await? {
///     println!("{} octets", octets.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    locator: Arc<Locator>,
    settings: Settings,
    counts: Arc<counts::Counters>,
    /// Clients of other pools, by their domains.
    others: Mutex<HashMap<Domain, elsewhere::Other>>,
    /// The pools that led here, one after another, this one not included.
    passed: Vec<Domain>,
}

impl Client {
    /// A client with these settings. Asks nobody anything yet.
    ///
    /// # Errors
    ///
    /// [`ClientError::Setup`] when the identity cannot be used for TLS.
    pub fn new(settings: Settings) -> Result<Client, ClientError> {
        Client::behind(settings, Vec::new(), Arc::default())
    }

    /// A client of a pool that others led to.
    fn behind(settings: Settings, passed: Vec<Domain>, counts: Arc<counts::Counters>) -> Result<Client, ClientError> {
        let setup = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Setup { source };
        let mut tls =
            certs::tls::client_config(&settings.identity, &settings.anchor).map_err(|error| setup(error.into()))?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let locator = Arc::new(Locator::new(
            settings.domain.clone(),
            Resolver::new(settings.dns.clone(), settings.tsig.clone()),
        ));
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(locate::Hosts(Arc::clone(&locator)))
            .no_proxy()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(request::CONNECT_WAIT)
            .pool_idle_timeout(request::IDLE_KEEP)
            .tcp_nodelay(true)
            .tcp_keepalive(request::KEEPALIVE)
            .http2_initial_stream_window_size(2 << 20)
            .http2_initial_connection_window_size(8 << 20)
            .http2_keep_alive_interval(request::KEEPALIVE)
            .http2_keep_alive_timeout(request::KEEPALIVE)
            .build()
            .map_err(|error| setup(error.into()))?;
        Ok(Client {
            inner: Arc::new(Inner {
                http,
                locator,
                settings,
                counts,
                others: Mutex::default(),
                passed,
            }),
        })
    }

    /// What this client and its clones have done so far, at other pools too.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.inner.counts.read(self.questions())
    }

    fn questions(&self) -> u64 {
        let others = self.inner.others.lock();
        let there = others.values().map(|other| other.client.questions());
        self.inner.locator.questions() + there.sum::<u64>()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}
