//! Whether this server works: tried at the real thing, after an install and while it is validated.
//!
//! | tried                 | how                                                                                        |
//! |-----------------------|--------------------------------------------------------------------------------------------|
//! | disk, keys, index     | a copy is sealed at a random place, read back past the cache, named by a row, opened by its |
//! |                       | wrapped key, and erased: rows and blocks are as before                                      |
//! | schemas               | a process for steps takes a step, if there is any                                           |
//! | librarian             | answers a signed question, signed                                                           |
//! | HTTPS, QUIC           | take a connection by this server's own name, certificates of both sides                     |
//!
//! The copy's address is one that no register names: a random name below [`PROBE`]. A row that a crash left of it is swept at
//! the next start.
//!
//! Specification: DESIGN.md section 13 (gate after every step: self-test).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use certs::Anchor;
use certs::tls::Current;
use quinn::ConnectionError;
use tokio::time::timeout;
use zones::{Address, Epoch, Level, ObjectType, ServerName, Tx};

use crate::objects::Objects;
use crate::store::{Change, Content, Entry, Journal, NewEntry, Store, StreamSpec};
use crate::transfer::{Close, quic};
use crate::vault::Part;

/// First part of the addresses of probes.
pub const PROBE: &str = "_self-test";
/// Octets of a probe: several chunks, the last one not whole.
const PROBE_OCTETS: usize = 200_000;
/// Longest wait for each of the listeners.
const WAIT: Duration = Duration::from_secs(10);

/// Tries this server.
#[derive(Debug)]
pub struct Prober {
    objects: Arc<Objects>,
    https: SocketAddr,
    peer: SocketAddr,
    current: Arc<Current>,
    anchor: Anchor,
    host: String,
    mtu: u16,
}

impl Prober {
    /// Tries this server, which listens there under its name.
    #[must_use]
    pub fn new(
        objects: Arc<Objects>,
        (https, peer): (SocketAddr, SocketAddr),
        (current, anchor): (Arc<Current>, Anchor),
        mtu: u16,
    ) -> Prober {
        let registers = objects.registers();
        let host = certs::tls_name(registers.domain(), registers.me().as_str());
        Prober {
            objects,
            https: reachable(https),
            peer: reachable(peer),
            current,
            anchor,
            host,
            mtu,
        }
    }

    /// Tries everything.
    ///
    /// # Errors
    ///
    /// The first that does not work, with its causes.
    pub async fn test(&self) -> Result<()> {
        let objects = Arc::clone(&self.objects);
        tokio::task::spawn_blocking(move || {
            probe(objects.store(), objects.registers().me(), objects.levels().wanted())
                .context("write, read and erase a probe copy")?;
            objects
                .stepper()
                .try_one()
                .context("run a schema step in its own process")
        })
        .await
        .context("run the self-test")??;
        let registers = self.objects.registers();
        registers.has(registers.me()).await.context("ask the librarian")?;
        self.https()
            .await
            .context("reach this server's own HTTPS port by its name")?;
        self.quic()
            .await
            .context("reach this server's own QUIC port by its name")
    }

    async fn https(&self) -> Result<()> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(certs::tls::renewed_client_config(&self.current, &self.anchor)?)
            .resolve(&self.host, self.https)
            .no_proxy()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(WAIT)
            .build()?;
        let url = format!("https://{}:{}/objects/{PROBE}", self.host, self.https.port());
        // Any answer will do: it came over TLS that both sides authenticated, from who has this name.
        client.head(url).send().await?;
        Ok(())
    }

    async fn quic(&self) -> Result<()> {
        let from = match self.peer.ip() {
            IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let endpoint = quic::open(from, self.mtu, &self.current, &self.anchor)?;
        let tried = async {
            let connection = endpoint.connect(self.peer, &self.host)?.await?;
            // The port closes on us as soon as it has checked our certificate and whose it is: anybody else gets another code.
            match connection.closed().await {
                ConnectionError::ApplicationClosed(close) if close.error_code == Close::Oneself.code() => Ok(()),
                error => Err(error.into()),
            }
        };
        let done = timeout(WAIT, tried).await;
        endpoint.close(0_u32.into(), b"self-test");
        endpoint.wait_idle().await;
        done.context("no answer in time")?
    }
}

/// How this machine reaches a listener of its own.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

/// Writes a copy the way every copy is written, reads it back, and erases it. Blocks.
///
/// # Errors
///
/// What did not work; nothing of the copy is left then either, unless the index does not take its removal.
pub fn probe(store: &Store, me: &ServerName, level: Level) -> Result<()> {
    let name = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>());
    let address: Address = format!("{PROBE}.{name}").parse().context("name the probe")?;
    let mut octets = vec![0; PROBE_OCTETS];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut octets);
    let mut writer = store.writer(StreamSpec {
        address: address.clone(),
        part: Part::Body,
        level,
        octets_hint: Some(PROBE_OCTETS as u64),
        reservation: None,
    })?;
    writer.write(&octets)?;
    let staged = writer.finish().context("write")?;
    store.verify(std::slice::from_ref(&staged)).context("read back")?;
    let entry = NewEntry {
        address,
        epoch: Epoch(0),
        revision: 0,
        kind: "self-test".parse::<ObjectType>().context("name its type")?,
        schema: 1,
        level,
        journal: Journal::Staged {
            from: me.clone(),
            tx: Tx([0; 16]),
        },
        properties: Content::Absent,
        body: Content::Staged(staged),
        writes: Vec::new(),
        tx: None,
        from: None,
        received: None,
        quarantined: None,
        migrated_from: None,
        leaving: None,
        keeping: None,
        audit: None,
    };
    let entries = store
        .commit(vec![Change::Insert(entry)])
        .context("wrap its key and name it")?;
    let row = entries.first().context("the index named it")?;
    let read = store.read_all(row, Part::Body).context("unwrap its key and read it");
    // Whatever was read, it does not stay.
    let erased = store.commit(vec![Change::Remove { seq: row.seq }]).context("erase it");
    ensure!(read? == octets, "another content came back");
    erased.map(drop)
}

/// Removes the rows of probes that a crash left; the rest is as it was. Blocks.
///
/// # Errors
///
/// Where the index does not take it.
pub fn sweep(
    store: &Store,
    me: &ServerName,
    entries: Vec<Arc<Entry>>,
) -> Result<Vec<Arc<Entry>>, crate::store::CommitError> {
    // No copy comes from this server itself: no object of a client is ever taken for a probe.
    let is_probe = |entry: &Entry| {
        matches!(&entry.journal, Journal::Staged { from, .. } if from == me)
            && entry.address.as_str().starts_with(PROBE)
    };
    let (probes, rest): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| is_probe(entry));
    if !probes.is_empty() {
        tracing::info!(rows = probes.len(), "rows of a self-test that did not end are removed");
        store.commit(probes.iter().map(|probe| Change::Remove { seq: probe.seq }).collect())?;
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{body, new_entry, octets, put, settings, vault, write};
    use crate::store::{Disk, RealDisk};

    fn store(dir: &std::path::Path) -> (Store, Vec<Arc<Entry>>) {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir).unwrap());
        let vault = vault(&disk, 1);
        Store::open(disk, vault, &settings(16)).unwrap()
    }

    #[test]
    fn probe_leaves_rows_and_blocks_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store(dir.path());
        let kept = put(&store, &"3.1".parse().unwrap(), 1, &octets(1, 90_000));
        let (rows, used, commits) = (store.entries(), store.usage().used, store.commits());
        let me = "s1".parse().unwrap();
        for level in 1..=3 {
            probe(&store, &me, Level(level)).unwrap();
        }
        assert_eq!(store.entries(), rows);
        assert_eq!(store.usage().used, used);
        assert!(store.commits() > commits, "it went through the index");
        assert_eq!(body(&store, &kept), octets(1, 90_000));
    }

    #[test]
    fn row_of_a_probe_that_a_crash_left_is_swept_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let me: ServerName = "s1".parse().unwrap();
        let (opened, _) = store(dir.path());
        let staged = |from: &str, address: &str| {
            let address: Address = address.parse().unwrap();
            let content = Content::Staged(write(&opened, &address, Part::Body, b"content").unwrap());
            let journal = Journal::Staged {
                from: from.parse().unwrap(),
                tx: Tx([0; 16]),
            };
            Change::Insert(NewEntry {
                journal,
                ..new_entry(&address, 1, content)
            })
        };
        let rows = vec![
            staged("s1", "_self-test.ab"),
            staged("s2", "_self-test.ab"),
            staged("s1", "3.1"),
        ];
        opened.commit(rows).unwrap();
        put(&opened, &"_self-test.cd".parse().unwrap(), 1, b"an object of a client");
        drop(opened);
        let (store, entries) = store(dir.path());
        assert_eq!(entries.len(), 4);
        let rest = sweep(&store, &me, entries).unwrap();
        assert_eq!(rest.len(), 3);
        assert_eq!(store.entries(), rest);
        assert!(rest.iter().all(|entry| !matches!(
            &entry.journal,
            Journal::Staged { from, .. } if *from == me && entry.address.as_str() != "3.1"
        )));
    }

    #[test]
    fn listener_on_every_address_is_tried_on_this_machine() {
        let at = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:9"), "127.0.0.1:9");
        assert_eq!(at("[::]:9"), "[::1]:9");
        assert_eq!(at("192.0.2.1:9"), "192.0.2.1:9");
    }
}
