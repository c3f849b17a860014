//! What the parts of a move cost at best on this machine, measured now: opening and sealing, transport, disk and index.
//!
//! A whole move on one machine cannot be faster than its processors divided by the processor time its parts need.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use certs::{Authority, Serial, Who};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::seq::SliceRandom;
use redb::{Database, TableDefinition};
use rustls::pki_types::UnixTime;

use super::cpu::cpu_seconds;

/// Octets of a chunk, as agents seal them.
const CHUNK: usize = 64 * 1024;
const BLOCK: usize = 4096;
/// Objects of 4 KiB in one commit.
const GROUP: usize = 256;
const INDEX: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("index");

/// The parts' costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceilings {
    /// Seconds of processor for an octet, large objects: open, digest, seal.
    pub(super) crypto_large: f64,
    /// The same in pieces of 4 KiB.
    pub(super) crypto_small: f64,
    /// Seconds of processor for an octet over QUIC, both sides.
    pub(super) transport: f64,
    /// Octets a second that one QUIC stream carries when nothing else runs.
    pub(super) transport_rate: f64,
    /// Objects of 4 KiB a second that the disk takes with their index entries.
    pub(super) disk_small: f64,
    /// Octets a second that the disk takes in pieces of 1 MiB.
    pub(super) disk_large: f64,
    /// Processors.
    pub(super) processors: f64,
}

impl Ceilings {
    /// Measures every part; takes some ten seconds.
    pub(super) fn measure(dir: &Path) -> Result<Ceilings> {
        let (transport, transport_rate) = transport()?;
        Ok(Ceilings {
            crypto_large: crypto(CHUNK)?,
            crypto_small: crypto(BLOCK)?,
            transport,
            transport_rate,
            disk_small: disk_small(dir)?,
            disk_large: disk_large(dir)?,
            processors: std::thread::available_parallelism()?.get() as f64,
        })
    }

    /// Octets a second of a whole move of large objects.
    pub(super) fn large(&self) -> f64 {
        (self.processors / (self.crypto_large + self.transport)).min(self.disk_large)
    }

    /// Objects of 4 KiB a second of a whole move, registers left out.
    pub(super) fn small(&self) -> f64 {
        let each = BLOCK as f64 * (self.crypto_small + self.transport);
        // The disk's part waits rather than computes, but one after the other with the rest on two processors.
        1.0 / (each / self.processors + 1.0 / self.disk_small)
    }

    pub(super) fn print(&self) {
        let rate = |cost: f64| 1.0 / cost / 1e9;
        println!("Ceilings, measured now, on {} processors:", self.processors);
        println!(
            "  open, digest and seal    {:.2} GB/s of one processor (pieces of 4 KiB: {:.2})",
            rate(self.crypto_large),
            rate(self.crypto_small)
        );
        println!(
            "  QUIC on loopback         {:.2} GB/s, {:.2} s of processor a GB for both sides",
            self.transport_rate / 1e9,
            self.transport * 1e9
        );
        println!("  disk, 1 MiB at random    {:.2} GB/s", self.disk_large / 1e9);
        println!(
            "  disk and index, 4 KiB    {:.0} objects/s in groups of {GROUP}",
            self.disk_small
        );
        println!(
            "  so a whole move at best  {:.2} GB/s, or {:.0} objects/s of 4 KiB without registers",
            self.large() / 1e9,
            self.small()
        );
    }
}

/// Seconds for an octet to open, digest and seal again in pieces.
fn crypto(piece: usize) -> Result<f64> {
    let (old, new) = (
        XChaCha20Poly1305::new(&[1; 32].into()),
        XChaCha20Poly1305::new(&[2; 32].into()),
    );
    let nonce = XNonce::from([3; 24]);
    let mut sealed = vec![7_u8; piece];
    let tag = old
        .encrypt_inout_detached(&nonce, b"", sealed.as_mut_slice().into())
        .context("seal")?;
    let mut buffer = vec![0; piece];
    let start = Instant::now();
    let mut octets = 0;
    while start.elapsed() < Duration::from_millis(1500) {
        for _ in 0..16 {
            buffer.copy_from_slice(&sealed);
            old.decrypt_inout_detached(&nonce, b"", buffer.as_mut_slice().into(), &tag)
                .context("open")?;
            std::hint::black_box(blake3::keyed_hash(&[4; 32], &buffer));
            let tag = new
                .encrypt_inout_detached(&nonce, b"", buffer.as_mut_slice().into())
                .context("seal")?;
            std::hint::black_box(tag);
            octets += piece;
        }
    }
    Ok(start.elapsed().as_secs_f64() / octets as f64)
}

/// Seconds of processor for an octet over one QUIC stream with certificates on both sides, and octets a second.
fn transport() -> Result<(f64, f64)> {
    const OCTETS: usize = 1 << 30;
    let domain: zones::Domain = "hypernet.internal.".parse().context("read a domain")?;
    let now = UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?);
    let serial = || Serial::new(rand::random());
    let authority = Authority::create(&domain, serial(), now).context("make an authority")?;
    let identity = |name: &str| {
        let who = Who::Server(name.parse().context("read a name")?);
        authority.issue(&who, serial(), now).context("issue a certificate")
    };
    let mut server = certs::tls::server_config(&identity("s1")?, authority.anchor())?;
    let mut client = certs::tls::client_config(&identity("s2")?, authority.anchor())?;
    server.alpn_protocols = vec![b"ceiling".to_vec()];
    client.alpn_protocols = vec![b"ceiling".to_vec()];
    let server = quinn::crypto::rustls::QuicServerConfig::try_from(server).context("make a QUIC server")?;
    let client = quinn::crypto::rustls::QuicClientConfig::try_from(client).context("make a QUIC client")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    runtime.block_on(async move {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let taking = quinn::Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(server)), local)?;
        let mut sending = quinn::Endpoint::client(local)?;
        sending.set_default_client_config(quinn::ClientConfig::new(Arc::new(client)));
        let address = taking.local_addr()?;
        let name = certs::tls_name(&domain, "s1");
        let receiver = tokio::spawn(async move {
            let connection = taking.accept().await.context("accept")?.await.context("shake hands")?;
            let mut stream = connection.accept_uni().await.context("accept a stream")?;
            let mut octets = 0;
            while let Some(chunk) = stream.read_chunk(1 << 20, true).await.context("read")? {
                octets += chunk.bytes.len();
            }
            anyhow::Ok((octets, connection))
        });
        let connection = sending.connect(address, &name)?.await.context("shake hands")?;
        let before = cpu_seconds(std::process::id())?;
        let start = Instant::now();
        let mut stream = connection.open_uni().await.context("open a stream")?;
        let piece = vec![5_u8; 1 << 20];
        for _ in 0..OCTETS / piece.len() {
            stream.write_all(&piece).await.context("write")?;
        }
        stream.finish().context("finish a stream")?;
        let (octets, _connection) = receiver.await.context("receive")??;
        let seconds = start.elapsed().as_secs_f64();
        let processor = cpu_seconds(std::process::id())? - before;
        anyhow::ensure!(octets == OCTETS, "{octets} octets came");
        Ok((processor / OCTETS as f64, OCTETS as f64 / seconds))
    })
}

/// Objects a second of 4 KiB: shuffled inside random extents of 1 MiB that were written before, then one fdatasync and
/// one index transaction for a group.
fn disk_small(dir: &Path) -> Result<f64> {
    let file = written_file(dir, 256 << 20)?;
    let database = Database::create(dir.join("ceiling.redb")).context("make an index")?;
    let mut places: Vec<u64> = (0..256).collect();
    let mut sequence = 0_u64;
    let group = vec![9_u8; GROUP * BLOCK];
    let record = [8_u8; 200];
    let start = Instant::now();
    let mut objects = 0;
    while start.elapsed() < Duration::from_secs(3) {
        places.shuffle(&mut rand::rng());
        file.write_all_at(&group, places[0] << 20).context("write")?;
        file.sync_data().context("sync")?;
        let transaction = database.begin_write().context("begin")?;
        {
            let mut table = transaction.open_table(INDEX).context("open the index")?;
            for _ in 0..GROUP {
                table.insert(sequence, record.as_slice()).context("insert")?;
                sequence += 1;
            }
        }
        transaction.commit().context("commit")?;
        objects += GROUP;
    }
    Ok(objects as f64 / start.elapsed().as_secs_f64())
}

/// Octets a second in pieces of 1 MiB at random places that were written before, synced every 16.
fn disk_large(dir: &Path) -> Result<f64> {
    let file = written_file(dir, 512 << 20)?;
    let mut places: Vec<u64> = (0..512).collect();
    places.shuffle(&mut rand::rng());
    let piece = vec![6_u8; 1 << 20];
    let start = Instant::now();
    for (number, place) in places.iter().enumerate() {
        file.write_all_at(&piece, place << 20).context("write")?;
        if number % 16 == 15 {
            file.sync_data().context("sync")?;
        }
    }
    Ok((places.len() << 20) as f64 / start.elapsed().as_secs_f64())
}

fn written_file(dir: &Path, octets: usize) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(dir.join("ceiling"))
        .context("make a file")?;
    let piece = vec![1_u8; 1 << 20];
    for number in 0..octets >> 20 {
        file.write_all_at(&piece, (number as u64) << 20)
            .context("fill a file")?;
    }
    file.sync_all().context("sync a file")?;
    Ok(file)
}
