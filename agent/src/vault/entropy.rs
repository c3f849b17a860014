//! Where random octets come from: keys, nonces, places on disk.
//!
//! One seam, so that a simulation can replay a run from its seed.

use std::fmt;

use rand::Rng;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// A cryptographically secure source of random octets.
pub trait Entropy: fmt::Debug + Send + Sync {
    /// Fills `octets`.
    fn fill(&self, octets: &mut [u8]);

    /// Fills `octets` that are to be a key: nothing of them stays behind in a buffer of the source.
    fn fill_key(&self, octets: &mut [u8]) {
        self.fill(octets);
    }
}

/// The operating system's randomness, stretched per thread by ChaCha12 and renewed every 64 KiB (`rand::rng`).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, octets: &mut [u8]) {
        rand::rng().fill_bytes(octets);
    }

    /// From the operating system itself: the stretched octets lie in the thread's buffer until later ones take their place.
    fn fill_key(&self, octets: &mut [u8]) {
        getrandom::fill(octets).expect("the operating system gives randomness once it is up");
    }
}

/// An array of random octets.
pub fn array<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut octets = [0; N];
    entropy.fill(&mut octets);
    octets
}

/// A number below `bound`, each with the same chance. `bound` must not be 0.
pub fn below(entropy: &dyn Entropy, bound: u64) -> u64 {
    assert!(bound > 0, "nothing is below 0");
    // Numbers past the last whole multiple of `bound` would favour small remainders.
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let number = u64::from_le_bytes(array(entropy));
        if number < limit {
            return number % bound;
        }
    }
}

/// Random octets in bulk, for blocks that hold nothing: the key stream of ChaCha20 under a key that is then forgotten,
/// so nobody can tell them from a sealed chunk.
#[derive(Debug)]
pub struct Noise {
    key: LessSafeKey,
    pieces: u64,
}

impl Noise {
    /// A stream of its own.
    #[must_use]
    pub fn new(entropy: &dyn Entropy) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &array::<32>(entropy)).expect("a key has 32 octets");
        Noise {
            key: LessSafeKey::new(key),
            pieces: 0,
        }
    }

    /// Fills `octets` with the next ones.
    pub fn fill(&mut self, octets: &mut [u8]) {
        // ring gives no bare key stream; sealed zeros are one.
        for piece in octets.chunks_mut(1 << 20) {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&self.pieces.to_be_bytes());
            self.pieces += 1;
            piece.fill(0);
            let _tag = self
                .key
                .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), piece)
                .expect("a piece is far below the limit of 256 GiB");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use parking_lot::Mutex;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// Randomness that a seed replays.
    #[derive(Debug)]
    pub(crate) struct SeededEntropy(Mutex<StdRng>);

    impl SeededEntropy {
        pub(crate) fn new(seed: u64) -> Self {
            SeededEntropy(Mutex::new(StdRng::seed_from_u64(seed)))
        }
    }

    impl Entropy for SeededEntropy {
        fn fill(&self, octets: &mut [u8]) {
            self.0.lock().fill_bytes(octets);
        }
    }

    #[test]
    fn every_number_below_the_bound_comes_up() {
        let entropy = SeededEntropy::new(1);
        let mut seen = [0_u32; 5];
        for _ in 0..5000 {
            seen[usize::try_from(below(&entropy, 5)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
    }
}
