//! Facts about the suites: published vectors, octets made by another implementation, and what nobody may change.

use aes_gcm_siv::Aes256GcmSiv;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.replace(' ', "").as_bytes()).unwrap()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().unwrap()
}

/// Rising octets from `first` on.
fn rising<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|at| first + u8::try_from(at).unwrap())
}

const SUITES: [Suite; 3] = [Suite::XChaCha20Poly1305, Suite::Committed, Suite::Cascade];

/// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
#[test]
fn xchacha20_poly1305_answers_as_its_draft_says() {
    let text =
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen \
                 would be it.";
    let associated: [u8; 12] = array("50515253c0c1c2c3c4c5c6c7");
    let nonce: [u8; 24] = rising(0x40);
    let cipher = XChaCha::new(&rising(0x80), nonce.first_chunk().unwrap());
    let mut sealed = text.to_vec();
    let tag = cipher.seal(&nonce, &associated, &mut sealed);
    assert_eq!(
        sealed,
        hex(
            "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39
             ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9
             21f9664c97637da9768812f615c68b13b52e"
                .replace(['\n', ' '], "")
                .as_str()
        )
    );
    assert_eq!(tag, array::<16>("c0875924c1c7987947deafd8780acf49"));
    sealed.extend_from_slice(&tag);
    assert!(cipher.open(&nonce, &associated, &mut sealed));
    assert_eq!(&sealed[..text.len()], text);
}

/// draft-irtf-cfrg-xchacha-03, section 2.2.1.
#[test]
fn hchacha20_answers_as_its_draft_says() {
    let subkey = hchacha::<R20>(
        &rising::<32>(0).into(),
        &array::<16>("000000090000004a0000000031415927").into(),
    );
    assert_eq!(
        subkey.as_slice(),
        hex("82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc")
    );
}

/// RFC 8452, appendix C.2, six of its cases: without and with associated data, in whole and cut blocks.
#[test]
fn aes_256_gcm_siv_answers_as_its_rfc_says() {
    let counting = ("01".to_owned() + &"00".repeat(31), "03".to_owned() + &"00".repeat(11));
    let cases = [
        (&*counting.0, &*counting.1, "", "", "07f5f4169bbf55a8400cd47ea6fd400f"),
        (
            &*counting.0,
            &*counting.1,
            "",
            "0100000000000000",
            "c2ef328e5c71c83b843122130f7364b761e0b97427e3df28",
        ),
        (
            &*counting.0,
            &*counting.1,
            "01",
            "0200000000000000",
            "1de22967237a813291213f267e3b452f02d01ae33e4ec854",
        ),
        (
            &*counting.0,
            &*counting.1,
            "010000000000000000000000000000000200",
            "0300000000000000000000000000000004000000",
            "43dd0163cdb48f9fe3212bf61b201976067f342bb879ad976d8242acc188ab59cabfe307",
        ),
        (
            "e66021d5eb8e4f4066d4adb9c33560e4f46e44bb3da0015c94f7088736864200",
            "e0eaf5284d884a0e77d31646",
            "",
            "",
            "169fbb2fbf389a995f6390af22228a62",
        ),
        (
            "bae8e37fc83441b16034566b7a806c46bb91c3c5aedb64a6c590bc84d1a5e269",
            "e4b47801afc0577e34699b9e",
            "4fbdc66f14",
            "671fdd",
            "0eaccb93da9bb81333aee0c785b240d319719d",
        ),
    ];
    for (key, nonce, associated, text, sealed) in cases {
        let mut octets = hex(text);
        let tag = Aes256GcmSiv::new(&array::<32>(key).into())
            .encrypt_inout_detached(
                &array::<12>(nonce).into(),
                &hex(associated),
                octets.as_mut_slice().into(),
            )
            .unwrap();
        octets.extend_from_slice(&tag);
        assert_eq!(octets, hex(sealed));
    }
}

proptest! {
    #[test]
    fn octets_are_those_of_xchacha20_poly1305(
        key: [u8; 32],
        prefix: [u8; PREFIX_OCTETS],
        chunk: u32,
        last: bool,
        associated in prop::collection::vec(any::<u8>(), 0..80),
        text in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let cipher = Cipher::new(Suite::XChaCha20Poly1305, &Dek::from_octets(key), prefix, b"");
        let mut ours = text.clone();
        cipher.seal(chunk, last, &associated, &mut ours, 0);
        let mut theirs = text.clone();
        let nonce = XNonce::from(cipher.nonce(chunk, last));
        let tag = XChaCha20Poly1305::new(&key.into())
            .encrypt_inout_detached(&nonce, &associated, theirs.as_mut_slice().into())
            .unwrap();
        theirs.extend_from_slice(&tag);
        prop_assert_eq!(&ours, &theirs);
        prop_assert!(cipher.open(chunk, last, &associated, &mut ours));
        prop_assert_eq!(&ours[..text.len()], &text[..]);
    }

    /// The cascade is the two ciphers one around the other, and the keys are those that the document says.
    #[test]
    fn cascade_is_gcm_siv_within_xchacha20_poly1305(
        key: [u8; 32],
        prefix: [u8; PREFIX_OCTETS],
        chunk: u32,
        last: bool,
        stream in prop::collection::vec(any::<u8>(), 0..80),
        text in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let cipher = Cipher::new(Suite::Cascade, &Dek::from_octets(key), prefix, &stream);
        let mut ours = text.clone();
        cipher.seal(chunk, last, &stream, &mut ours, 0);
        let mut keys = [0; 96];
        blake3::Hasher::new_derive_key("hypernet agent suite 3: commitment and keys of one stream")
            .update(&key)
            .update(&prefix)
            .update(&stream)
            .finalize_xof()
            .fill(&mut keys);
        let nonce = cipher.nonce(chunk, last);
        let mut theirs = text;
        let inner: [u8; 32] = keys[64..].try_into().unwrap();
        let short: [u8; 12] = nonce[12..].try_into().unwrap();
        let tag = Aes256GcmSiv::new(&inner.into())
            .encrypt_inout_detached(&short.into(), &stream, theirs.as_mut_slice().into())
            .unwrap();
        theirs.extend_from_slice(&tag);
        let outer: [u8; 32] = keys[32..64].try_into().unwrap();
        let tag = XChaCha20Poly1305::new(&outer.into())
            .encrypt_inout_detached(&XNonce::from(nonce), &stream, theirs.as_mut_slice().into())
            .unwrap();
        theirs.extend_from_slice(&tag);
        prop_assert_eq!(ours, theirs);
        prop_assert_eq!(&cipher.commitment().unwrap().0[..], &keys[..32]);
    }

    /// Nikitin et al.: at most 12 % longer, never shorter, and the same again when padded again.
    #[test]
    fn padding_adds_at_most_an_eighth(bits in 0_u32..=48, octets: u64) {
        let octets = octets & ((1 << bits) - 1);
        let padded = padme(octets);
        prop_assert!(padded >= octets && padded - octets <= octets / 8, "{octets} {padded}");
        prop_assert_eq!(padme(padded), padded);
        // A later length never becomes the shorter one, so rooms that are set aside are enough.
        prop_assert!(padme(octets + 1) >= padded);
    }

    #[test]
    fn room_is_enough_for_two_padded_streams(one in 0_u64..1 << 40, other in 0_u64..1 << 40) {
        for suite in SUITES {
            let both = [one, other].map(|octets| suite.sealed_octets(suite.padded_octets(octets)));
            // What the second rounds up to a chunk of its own lies in the block that the store adds.
            prop_assert!(both[0] + both[1] <= suite.sealed_octets_max(one + other) + 2 * suite.tag_octets() as u64);
        }
    }
}

/// The lengths that the authors' algorithm gives: E bits, of which S are kept.
#[test]
fn padded_lengths_are_those_of_padme() {
    let formula = |octets: u64| {
        let exponent = (octets as f64).log2().floor() as u32;
        let kept = f64::from(exponent).log2().floor() as u32 + 1;
        let mask = (1_u64 << (exponent - kept)) - 1;
        (octets + mask) & !mask
    };
    for octets in 2..100_000 {
        assert_eq!(padme(octets), formula(octets), "{octets}");
    }
    let known = [
        (0, 0),
        (1, 1),
        (8, 8),
        (9, 10),
        (100, 104),
        (65_537, 67_584),
        (1 << 48, 1 << 48),
    ];
    for (octets, padded) in known {
        assert_eq!(padme(octets), padded);
    }
    let lengths: std::collections::BTreeSet<u64> = (0..1 << 20).map(padme).collect();
    assert!(
        lengths.len() < 400,
        "{} lengths are told apart below 1 MiB",
        lengths.len()
    );
}

/// Level 1 and 2 seal by a cipher for which a ciphertext with two keys is easily made (Albertini et al. 2022, section 3). The
/// commitment lets only one of the keys through.
#[test]
fn stream_commits_to_key_prefix_and_binding() {
    for suite in [Suite::Committed, Suite::Cascade] {
        let of = |key: u8, prefix: u8, stream: &[u8]| {
            Cipher::new(suite, &Dek::from_octets([key; 32]), [prefix; PREFIX_OCTETS], stream).commitment()
        };
        let right = of(1, 2, b"3.1");
        assert!(right.is_some());
        assert_eq!(right, of(1, 2, b"3.1"));
        for wrong in [of(9, 2, b"3.1"), of(1, 9, b"3.1"), of(1, 2, b"3.2"), of(1, 2, b"3.10")] {
            assert_ne!(right, wrong);
        }
    }
    let other = Cipher::new(Suite::Committed, &Dek::from_octets([1; 32]), [2; PREFIX_OCTETS], b"3.1");
    let cascade = Cipher::new(Suite::Cascade, &Dek::from_octets([1; 32]), [2; PREFIX_OCTETS], b"3.1");
    assert_ne!(other.commitment(), cascade.commitment());
}

/// If one cipher is broken, which here means that its key is known, the other still keeps the text.
#[test]
fn either_cipher_of_the_cascade_hides_the_text_alone() {
    let text = [0x5a; 1000];
    let nonce = [7; NONCE_OCTETS];
    let first = nonce.first_chunk().unwrap();
    let mut sealed = text.to_vec();
    Cascade::new(&[1; 32], &[2; 32], first).seal(&nonce, b"", &mut sealed, 0);
    let within = |octets: &[u8]| octets.windows(4).any(|window| window == &text[..4]);
    // The outer key is known: under it lies the other's ciphertext.
    let mut outer_open = sealed.clone();
    assert!(XChaCha::new(&[2; 32], first).open(&nonce, b"", &mut outer_open));
    assert!(!within(&outer_open[..text.len()]));
    // Each tag is checked: with one key wrong, nothing opens.
    for (inner, outer) in [([1; 32], [9; 32]), ([9; 32], [2; 32])] {
        assert!(!Cascade::new(&inner, &outer, first).open(&nonce, b"", &mut sealed.clone()));
    }
    assert!(Cascade::new(&[1; 32], &[2; 32], first).open(&nonce, b"", &mut sealed));
}

#[test]
fn every_level_has_its_suite_and_every_suite_its_number() {
    for (level, suite) in (1..).zip(SUITES) {
        assert_eq!(Suite::of_level(Level(level)).unwrap(), suite);
        assert_eq!(suite.number(), level);
        assert_eq!(Suite::from_number(level).unwrap(), suite);
    }
    assert_eq!(LEVELS, Level(1)..=Level(3));
}

#[test]
fn unknown_suites_and_levels_are_refused_and_the_release_is_named() {
    for number in [4, 255] {
        let suite = Suite::from_number(number).unwrap_err();
        assert!(matches!(suite, VaultError::Suite { suite } if suite == number));
        let level = Suite::of_level(Level(number)).unwrap_err();
        assert!(matches!(level, VaultError::Level { level } if level == Level(number)));
        for text in [suite.to_string(), level.to_string()] {
            assert!(
                text.contains(env!("CARGO_PKG_VERSION")) && text.contains("1 to 3"),
                "{text}"
            );
        }
    }
    assert!(matches!(Suite::of_level(Level(0)), Err(VaultError::Level { .. })));
}

/// Tests run without the variable, as every agent does outside the control run.
#[test]
fn without_the_variable_nothing_is_written_in_the_clear_and_nothing_in_the_clear_is_taken() {
    assert!(!is_control_run());
    assert!(matches!(Suite::of_level(Level(1)), Ok(Suite::XChaCha20Poly1305)));
    assert!(matches!(Suite::from_number(0), Err(VaultError::Suite { suite: 0 })));
}
