//! How fast the suites are, each measured in turn with the others in one run, so that what else the machine does hits all alike.
//!
//! `cargo run --release -p agent --example suites [rounds]` prints, for small and full chunks, the median of gigabytes a second and the
//! median of each round's ratio to the crate chacha20poly1305, which gives the octets of level 1.

use std::hint::black_box;
use std::time::Instant;

use agent::vault::envelope::{CHUNK_OCTETS, Sealed};
use agent::vault::{Generation, Kek, KeyProvider, Known, Opener, Part, PoolKey, ProviderError, Vault};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zones::{Address, Level};

/// Octets that one measurement seals and opens.
const OCTETS: usize = 16 << 20;

/// No key: nothing is wrapped here.
#[derive(Debug)]
struct NoKey;

impl KeyProvider for NoKey {
    fn name(&self) -> &'static str {
        "no key"
    }

    fn current(&self) -> Result<(Generation, Kek), ProviderError> {
        self.kek(Generation(1)).map(|kek| (Generation(1), kek))
    }

    fn kek(&self, generation: Generation) -> Result<Kek, ProviderError> {
        Err(ProviderError::NoGeneration { generation })
    }

    fn generations(&self) -> Result<Vec<Known>, ProviderError> {
        Ok(Vec::new())
    }

    fn begin_generation(&self) -> Result<Generation, ProviderError> {
        Err(ProviderError::Unavailable {
            provider: self.name(),
            source: "there is no key".into(),
        })
    }

    fn destroy(&self, generation: Generation) -> Result<(), ProviderError> {
        Err(ProviderError::NoGeneration { generation })
    }
}

/// Seconds to seal (with the digest) and to open.
type Taken = (f64, f64);

/// The generic crate, with what the envelope does besides: the digest, and a nonce and associated data of the same lengths.
fn generic(vault: &Vault, plain: &[u8], count: usize) -> Taken {
    let cipher = XChaCha20Poly1305::new(&[1; 32].into());
    let associated = [7; 40];
    let nonce = |number: usize| {
        let mut nonce = [0; 24];
        nonce[16..].copy_from_slice(&(number as u64).to_be_bytes());
        XNonce::from(nonce)
    };
    let begun = Instant::now();
    let mut sealed: Vec<Vec<u8>> = Vec::with_capacity(count);
    for number in 0..count {
        let mut hasher = vault.hasher();
        hasher.update(plain);
        black_box(hasher.finish());
        let mut out = Vec::with_capacity(plain.len() + 16);
        out.extend_from_slice(plain);
        let tag = cipher
            .encrypt_inout_detached(&nonce(number), &associated, out.as_mut_slice().into())
            .expect("a chunk is short");
        out.extend_from_slice(&tag);
        sealed.push(out);
    }
    let sealing = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    for (number, chunk) in sealed.iter_mut().enumerate() {
        let (text, tag) = chunk.split_last_chunk_mut::<16>().expect("it has a tag");
        cipher
            .decrypt_inout_detached(&nonce(number), &associated, text.into(), &Tag::from(*tag))
            .expect("it was sealed above");
    }
    (sealing, begun.elapsed().as_secs_f64())
}

/// One stream for each small chunk, as small objects have; one stream of all full ones.
fn suite(vault: &Vault, level: Level, plain: &[u8], count: usize) -> Taken {
    let address: Address = "3.1.2.1.023".parse().expect("a legal address");
    let mut sealed: Vec<(Sealed, Vec<Vec<u8>>)> = Vec::new();
    let begun = Instant::now();
    if plain.len() == CHUNK_OCTETS {
        let mut sealer = vault.seal(&address, Part::Body, level).expect("a known level");
        let mut chunks = Vec::with_capacity(count);
        for _ in 1..count {
            let mut out = Vec::new();
            sealer.seal_chunk(plain, &mut out);
            chunks.push(out);
        }
        let mut out = Vec::new();
        let end = sealer.seal_last(plain, &mut out);
        chunks.push(out);
        sealed.push((end, chunks));
    } else {
        for _ in 0..count {
            let mut out = Vec::new();
            let sealer = vault.seal(&address, Part::Body, level).expect("a known level");
            sealed.push((sealer.seal_last(plain, &mut out), vec![out]));
        }
    }
    let sealing = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    for (sealed, chunks) in &mut sealed {
        let opener = Opener::new(sealed, &address, Part::Body, level).expect("its own key");
        for (number, chunk) in (0..).zip(chunks) {
            opener.open_chunk(number, chunk).expect("it was sealed above");
        }
    }
    (sealing, begun.elapsed().as_secs_f64())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let rounds: usize = std::env::args()
        .nth(1)
        .map_or(21, |text| text.parse().expect("a number of rounds"));
    let vault = Vault::new(Box::new(NoKey), PoolKey::new([9; 32]));
    println!(
        "{:<30} {:>8} {:>10} {:>6} {:>10} {:>6}",
        "", "octets", "seal GB/s", "ratio", "open GB/s", "ratio"
    );
    // Lengths that Padmé leaves as they are, so that all suites seal the same octets.
    for octets in [4096, CHUNK_OCTETS] {
        let plain = vec![0x5a; octets];
        let count = OCTETS / octets;
        let mut taken: [Vec<Taken>; 4] = Default::default();
        for _ in 0..rounds {
            taken[0].push(generic(&vault, &plain, count));
            for level in 1..=3 {
                taken[usize::from(level)].push(suite(&vault, Level(level), &plain, count));
            }
        }
        let names = [
            "crate chacha20poly1305",
            "level 1: HChaCha20 and ring",
            "level 2: committed, padded",
            "level 3: cascade",
        ];
        for (name, of) in names.iter().zip(&taken) {
            let speed =
                |seconds: fn(&Taken) -> f64| (count * octets) as f64 / median(of.iter().map(seconds).collect()) / 1e9;
            let ratio = |seconds: fn(&Taken) -> f64| {
                median(
                    of.iter()
                        .zip(&taken[0])
                        .map(|(one, base)| seconds(base) / seconds(one))
                        .collect(),
                )
            };
            println!(
                "{name:<30} {octets:>8} {:>10.2} {:>6.2} {:>10.2} {:>6.2}",
                speed(|taken| taken.0),
                ratio(|taken| taken.0),
                speed(|taken| taken.1),
                ratio(|taken| taken.1)
            );
        }
    }
}
