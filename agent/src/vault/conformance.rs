//! What every key provider has to do, as a test that its maker runs.
//!
//! Specification: [`KeyProvider`].

use super::provider::{Generation, KeyProvider, ProviderError};

/// Runs the rules over a provider that `open` opens, the first time a fresh one, then the same one anew: every call of it
/// stands for a restart of the agent.
///
/// # Panics
///
/// At the first rule that is broken.
pub fn check(mut open: impl FnMut() -> Box<dyn KeyProvider>) {
    let provider = open();
    let (first, kek) = provider.current().expect("a fresh provider has a current generation");
    let known = provider.generations().expect("it answers");
    assert_eq!(
        known.last().map(|known| known.generation),
        Some(first),
        "the current one is the highest"
    );
    assert_eq!(
        provider.kek(first).expect("it exists").octets(),
        kek.octets(),
        "a KEK is stable"
    );
    assert!(
        matches!(
            provider.kek(Generation(first.0 + 1000)),
            Err(ProviderError::NoGeneration { .. })
        ),
        "an unknown generation is an error of its own"
    );
    assert!(
        matches!(provider.destroy(first), Err(ProviderError::Current { .. })),
        "the current generation cannot be destroyed"
    );

    let second = provider.begin_generation().expect("it answers");
    assert!(second > first, "numbers rise");
    let (current, second_kek) = provider.current().expect("it answers");
    assert_eq!(current, second, "a generation that was begun is the current one");
    assert_ne!(
        second_kek.octets(),
        kek.octets(),
        "every generation has a key of its own"
    );
    drop(provider);

    let provider = open();
    assert_eq!(
        provider.current().expect("it answers").0,
        second,
        "it is so after reopening"
    );
    assert_eq!(
        provider.kek(first).expect("it exists").octets(),
        kek.octets(),
        "a KEK is stable after reopening"
    );
    provider.destroy(first).expect("an older generation can be destroyed");
    for again in [provider.kek(first).map(drop), provider.destroy(first)] {
        assert!(
            matches!(again, Err(ProviderError::NoGeneration { .. })),
            "what was destroyed is gone"
        );
    }
    drop(provider);

    let provider = open();
    assert!(
        matches!(provider.kek(first), Err(ProviderError::NoGeneration { .. })),
        "what was destroyed is gone after reopening"
    );
    let known = provider.generations().expect("it answers");
    assert_eq!(known.iter().map(|known| known.generation).collect::<Vec<_>>(), [second]);
    let third = provider.begin_generation().expect("it answers");
    assert!(third > second, "numbers are never given again");
    provider.destroy(second).expect("an older generation can be destroyed");
    drop(provider);
    assert!(
        open().begin_generation().expect("it answers") > third,
        "nor after reopening"
    );
}
