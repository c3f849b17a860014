//! Random octets from the operating system.

/// Octets that nobody can guess.
///
/// # Panics
///
/// If the operating system has none: nothing that needs a secret may go on then.
#[must_use]
pub fn octets<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).expect("the operating system gives random octets");
    octets
}
