//! Only a stream's own chunk opens, at its own number.
#![no_main]

use std::sync::LazyLock;

use agent::vault::envelope::{CHUNK_OCTETS, Sealed};
use agent::vault::provider::{Generation, Kek, KeyProvider, Known, ProviderError};
use agent::vault::{Opener, Part, PoolKey, Vault};
use libfuzzer_sys::fuzz_target;
use zones::{Address, Level};

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
        Ok(Generation(1))
    }

    fn destroy(&self, generation: Generation) -> Result<(), ProviderError> {
        Err(ProviderError::NoGeneration { generation })
    }
}

static ADDRESS: LazyLock<Address> = LazyLock::new(|| "1.2".parse().expect("an address"));

static STREAM: LazyLock<(Sealed, Vec<Vec<u8>>)> = LazyLock::new(|| {
    let vault = Vault::new(Box::new(NoKey), PoolKey::new([9; 32]));
    let mut sealer = vault.seal(&ADDRESS, Part::Body, Level(1)).expect("level 1 is known");
    let (mut first, mut last) = (Vec::new(), Vec::new());
    sealer.seal_chunk(&[1; CHUNK_OCTETS], &mut first);
    let sealed = sealer.seal_last(b"the end", &mut last);
    (sealed, vec![first, last])
});

// The first octet says which chunk is tried, the second how the rest changes it: put in its place, or laid over it.
fuzz_target!(|octets: &[u8]| {
    let [number, how, rest @ ..] = octets else { return };
    let (sealed, chunks) = &*STREAM;
    let number = u64::from(*number % 4);
    let own = chunks.get(usize::try_from(number).expect("below 4"));
    let mut tried = match (how % 2, own) {
        (1, Some(own)) => {
            let mut tried = own.clone();
            tried.iter_mut().zip(rest).for_each(|(octet, mask)| *octet ^= mask);
            tried
        }
        _ => rest.to_vec(),
    };
    let is_own = own.is_some_and(|own| *own == tried);
    let opener = Opener::new(sealed, &ADDRESS, Part::Body, Level(1)).expect("a suite of level 1");
    assert_eq!(opener.open_chunk(number, &mut tried).is_ok(), is_own);
});
