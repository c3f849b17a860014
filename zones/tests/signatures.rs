//! Signatures as RFC 8945 wants them: what verifies, what does not, and which answer is due.

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hmac::{Hmac, KeyInit as _, Mac as _};
use proptest::prelude::*;
use sha2::Sha256;
use zones::query::build_question;
use zones::tsig::{
    AnswerSignatureError, SequenceSigner, SequenceVerifier, sign_request, sign_response, verify_request,
    verify_response,
};
use zones::{Mac, TsigFailure, TsigKey};

const NOW_S: u64 = 1_700_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const ALGORITHM: &[u8] = b"\x0bhmac-sha256\x00";

fn key() -> TsigKey {
    TsigKey::new("S2", SECRET).unwrap()
}

fn find(name: &Name) -> Option<TsigKey> {
    Some(key()).filter(|key| key.name() == name)
}

fn question() -> Vec<u8> {
    let name: Name = "3.1.obj.hypernet.internal.".parse().unwrap();
    build_question(0x1234, &name, RecordType::TXT, Some(1232))
}

/// An answer with the rcode of a failure, and the TSIG record that is due.
fn answer_to(failure: &TsigFailure, now_s: u64) -> Vec<u8> {
    let mut message = Message::response(0x1234, OpCode::Query);
    message.metadata.response_code = failure.response_code();
    let mut octets = message.to_vec().unwrap();
    failure.sign_answer(&mut octets, now_s);
    octets
}

/// A request signed octet by octet, so that each field can be made wrong.
struct Made {
    key_name: Vec<u8>,
    class: u16,
    ttl: u32,
    algorithm: Vec<u8>,
    time_s: u64,
    fudge_s: u16,
    mac_octets: usize,
    secret: Vec<u8>,
    tail: Vec<u8>,
}

impl Default for Made {
    fn default() -> Made {
        Made {
            key_name: b"\x02s2\x00".to_vec(),
            class: 255,
            ttl: 0,
            algorithm: ALGORITHM.to_vec(),
            time_s: NOW_S,
            fudge_s: 300,
            mac_octets: 32,
            secret: SECRET.to_vec(),
            tail: Vec::new(),
        }
    }
}

impl Made {
    fn octets(&self) -> Vec<u8> {
        let mut message = question();
        let mut timers = self.time_s.to_be_bytes()[2..].to_vec();
        timers.extend_from_slice(&self.fudge_s.to_be_bytes());
        let mut hmac: Hmac<Sha256> = Hmac::new_from_slice(&self.secret).unwrap();
        hmac.update(&message);
        hmac.update(&self.key_name.to_ascii_lowercase());
        hmac.update(&[0, 255, 0, 0, 0, 0]);
        hmac.update(&self.algorithm.to_ascii_lowercase());
        hmac.update(&timers);
        hmac.update(&[0, 0, 0, 0]);
        let mut mac = hmac.finalize().into_bytes().to_vec();
        mac.resize(self.mac_octets, 0);
        let mut rdata = self.algorithm.clone();
        rdata.extend_from_slice(&timers);
        rdata.extend_from_slice(&u16::try_from(mac.len()).unwrap().to_be_bytes());
        rdata.extend_from_slice(&mac);
        rdata.extend_from_slice(&[0x12, 0x34, 0, 0, 0, 0]);
        message.extend_from_slice(&self.key_name);
        message.extend_from_slice(&250u16.to_be_bytes());
        message.extend_from_slice(&self.class.to_be_bytes());
        message.extend_from_slice(&self.ttl.to_be_bytes());
        message.extend_from_slice(&u16::try_from(rdata.len()).unwrap().to_be_bytes());
        message.extend_from_slice(&rdata);
        message.extend_from_slice(&self.tail);
        message[11] += 1;
        message
    }

    fn failure(&self) -> TsigFailure {
        verify_request(&self.octets(), find, NOW_S).expect_err("the request is wrong")
    }
}

/// The last octets of an unsigned error: MAC size 0, original id, the error, no other data.
fn unsigned_tail(error: u16) -> Vec<u8> {
    let mut tail = vec![0, 0, 0x12, 0x34];
    tail.extend_from_slice(&error.to_be_bytes());
    tail.extend_from_slice(&[0, 0]);
    tail
}

#[test]
fn request_made_octet_by_octet_verifies_in_any_case_of_its_names() {
    for made in [
        Made::default(),
        Made {
            key_name: b"\x02S2\x00".to_vec(),
            algorithm: b"\x0bHMAC-sha256\x00".to_vec(),
            ..Made::default()
        },
    ] {
        assert!(verify_request(&made.octets(), find, NOW_S).unwrap().is_some());
    }
    let mut ours = question();
    sign_request(&mut ours, &key(), NOW_S);
    assert_eq!(ours, Made::default().octets());
}

#[test]
fn unsigned_message_is_told_apart_from_a_malformed_one() {
    assert!(verify_request(&question(), find, NOW_S).unwrap().is_none());
    let mut longer = question();
    longer.push(0);
    assert!(matches!(verify_request(&longer, find, NOW_S), Err(TsigFailure::Format)));
    for end in 0..question().len() {
        let cut = verify_request(&question()[..end], find, NOW_S);
        assert!(matches!(cut, Err(TsigFailure::Format)), "{end}");
    }
    let mut request = question();
    let mac = sign_request(&mut request, &key(), NOW_S);
    assert_eq!(request.len(), question().len() + key().record_octets());
    let signed = verify_request(&request, find, NOW_S).unwrap().unwrap();
    assert_eq!((signed.mac, signed.message_octets), (mac, question().len()));
}

#[test]
fn malformed_signature_gets_a_bare_formerr() {
    for (what, made) in [
        (
            "class",
            Made {
                class: 1,
                ..Made::default()
            },
        ),
        (
            "TTL",
            Made {
                ttl: 1,
                ..Made::default()
            },
        ),
        (
            "MAC under half",
            Made {
                mac_octets: 15,
                ..Made::default()
            },
        ),
        (
            "MAC too long",
            Made {
                mac_octets: 33,
                ..Made::default()
            },
        ),
        (
            "no MAC",
            Made {
                mac_octets: 0,
                ..Made::default()
            },
        ),
        (
            "octets behind",
            Made {
                tail: vec![0],
                ..Made::default()
            },
        ),
    ] {
        let failure = made.failure();
        assert!(matches!(failure, TsigFailure::Format), "{what}: {failure}");
        let answer = Message::from_vec(&answer_to(&failure, NOW_S)).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
        assert!(answer.additionals.is_empty());
    }
}

#[test]
fn signature_that_is_not_the_last_record_or_not_the_only_one_is_malformed() {
    let signed = Made::default().octets();
    let record = signed[question().len()..].to_vec();
    let mut twice = signed.clone();
    twice.extend_from_slice(&record);
    twice[11] += 1;
    assert!(matches!(verify_request(&twice, find, NOW_S), Err(TsigFailure::Format)));
    // A record of no data behind it.
    let mut followed = signed.clone();
    followed.extend_from_slice(&[0, 0, 99, 0, 1, 0, 0, 0, 0, 0, 0]);
    followed[11] += 1;
    assert!(matches!(
        verify_request(&followed, find, NOW_S),
        Err(TsigFailure::Format)
    ));
    // In the answer section.
    let mut moved = build_question(1, &Name::root(), RecordType::NS, None);
    moved.extend_from_slice(&record);
    moved[7] += 1;
    assert!(matches!(verify_request(&moved, find, NOW_S), Err(TsigFailure::Format)));
}

#[test]
fn unknown_key_or_algorithm_gets_an_unsigned_badkey() {
    for made in [
        Made {
            key_name: b"\x02s3\x00".to_vec(),
            ..Made::default()
        },
        Made {
            algorithm: b"\x09hmac-sha1\x00".to_vec(),
            ..Made::default()
        },
        // Even when nothing else is right: the key comes first.
        Made {
            key_name: b"\x02s3\x00".to_vec(),
            mac_octets: 3,
            time_s: 0,
            ..Made::default()
        },
    ] {
        let failure = made.failure();
        assert!(matches!(failure, TsigFailure::BadKey { .. }), "{failure}");
        let answer = answer_to(&failure, NOW_S);
        assert!(answer.ends_with(&unsigned_tail(17)));
        assert_eq!(
            Message::from_vec(&answer).unwrap().metadata.response_code,
            ResponseCode::NotAuth
        );
    }
}

#[test]
fn wrong_mac_gets_an_unsigned_badsig_whatever_the_time() {
    let made = Made {
        secret: b"another secret of thirty-two oct".to_vec(),
        time_s: 0,
        ..Made::default()
    };
    let failure = made.failure();
    assert!(matches!(failure, TsigFailure::BadSignature { .. }), "{failure}");
    let answer = answer_to(&failure, NOW_S);
    assert!(answer.ends_with(&unsigned_tail(16)));
    let mac = sign_request(&mut question(), &key(), NOW_S);
    assert_eq!(
        verify_response(&answer, &key(), &mac, NOW_S),
        Err(AnswerSignatureError::Rejected { error: 16 })
    );
}

#[test]
fn wrong_time_gets_a_signed_badtime_with_the_servers_time() {
    for (time_s, now_s) in [(NOW_S, NOW_S + 301), (NOW_S + 301, NOW_S)] {
        let mut request = question();
        let mac = sign_request(&mut request, &key(), time_s);
        let failure = verify_request(&request, find, now_s).unwrap_err();
        assert!(matches!(failure, TsigFailure::BadTime { .. }), "{failure}");
        let answer = answer_to(&failure, now_s);
        assert_eq!(
            verify_response(&answer, &key(), &mac, time_s),
            Err(AnswerSignatureError::ClockRefused { server_time_s: now_s })
        );
        let message = Message::from_vec(&answer).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::NotAuth);
        // Time signed is the client's own (RFC 8945 section 5.2.3).
        let rdata = &answer[answer.len() - 6 - 2 - 2 - 2 - 32 - 2 - 8..];
        assert_eq!(rdata[..6], time_s.to_be_bytes()[2..]);
    }
    for time_s in [NOW_S - 300, NOW_S + 300] {
        let made = Made {
            time_s,
            ..Made::default()
        };
        assert!(verify_request(&made.octets(), find, NOW_S).unwrap().is_some());
    }
}

#[test]
fn truncated_mac_that_is_right_gets_a_signed_badtrunc_and_one_that_is_wrong_badsig() {
    let made = Made {
        mac_octets: 16,
        ..Made::default()
    };
    let failure = made.failure();
    let TsigFailure::BadTruncation { signed } = &failure else {
        panic!("{failure}");
    };
    assert_eq!(signed.mac.as_slice().len(), 16);
    assert_eq!(
        verify_response(&answer_to(&failure, NOW_S), &key(), &signed.mac, NOW_S),
        Err(AnswerSignatureError::Refused { error: 22 })
    );
    let made = Made {
        mac_octets: 16,
        secret: vec![1; 32],
        ..Made::default()
    };
    assert!(matches!(made.failure(), TsigFailure::BadSignature { .. }));
    // Time is told before truncation.
    let made = Made {
        mac_octets: 16,
        time_s: 0,
        ..Made::default()
    };
    assert!(matches!(made.failure(), TsigFailure::BadTime { .. }));
}

#[test]
fn answer_counts_only_with_the_right_key_request_and_time() {
    let mac = sign_request(&mut question(), &key(), NOW_S);
    let plain = Message::response(0x1234, OpCode::Query).to_vec().unwrap();
    assert_eq!(
        verify_response(&plain, &key(), &mac, NOW_S),
        Err(AnswerSignatureError::Unsigned)
    );
    assert_eq!(
        verify_response(&plain[..5], &key(), &mac, NOW_S),
        Err(AnswerSignatureError::Malformed)
    );
    let mut answer = plain.clone();
    sign_response(&mut answer, &key(), &mac, NOW_S);
    assert_eq!(verify_response(&answer, &key(), &mac, NOW_S), Ok(()));
    assert!(matches!(
        verify_response(&answer, &key(), &mac, NOW_S + 301),
        Err(AnswerSignatureError::BadTime { .. })
    ));
    let other = TsigKey::new("s3", SECRET).unwrap();
    assert_eq!(
        verify_response(&answer, &other, &mac, NOW_S),
        Err(AnswerSignatureError::BadSignature)
    );
    let mut another = build_question(1, &Name::root(), RecordType::NS, None);
    let another = sign_request(&mut another, &key(), NOW_S);
    assert_eq!(
        verify_response(&answer, &key(), &another, NOW_S),
        Err(AnswerSignatureError::BadSignature)
    );
}

fn sequence(count: usize) -> (Mac, Vec<Vec<u8>>) {
    let mac = sign_request(&mut question(), &key(), NOW_S);
    let mut signer = SequenceSigner::new(key(), mac);
    let messages = (0..count).map(|index| {
        let mut message = Message::new(0x1234, MessageType::Response, OpCode::Query);
        message.metadata.authoritative = index % 2 == 0;
        let mut octets = message.to_vec().unwrap();
        signer.sign(&mut octets, NOW_S);
        octets
    });
    (mac, messages.collect())
}

#[test]
fn sequence_verifies_whole_and_in_order_alone() {
    let (mac, messages) = sequence(4);
    let verify = |messages: &[&Vec<u8>]| {
        let mut verifier = SequenceVerifier::new(key(), mac);
        messages.iter().try_for_each(|message| verifier.verify(message, NOW_S))
    };
    let [a, b, c, d] = &messages[..] else { unreachable!() };
    assert_eq!(verify(&[a, b, c, d]), Ok(()));
    for wrong in [&[b, a][..], &[a, c], &[a, b, b], &[a, a]] {
        assert_eq!(verify(wrong), Err(AnswerSignatureError::BadSignature));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every bit of a signed message counts, but the id, which forwarders change and the record holds as well, and
    /// the case of the key's and the algorithm's name.
    #[test]
    fn any_flipped_bit_is_refused(label in "[a-z0-9]{1,20}", id in any::<u16>(), answer in any::<bool>()) {
        let name: Name = format!("{label}.obj.hypernet.internal.").parse().unwrap();
        let plain = build_question(id, &name, RecordType::TXT, Some(1232));
        let mut message = plain.clone();
        let request_mac = sign_request(&mut question(), &key(), NOW_S);
        if answer {
            sign_response(&mut message, &key(), &request_mac, NOW_S);
        } else {
            sign_request(&mut message, &key(), NOW_S);
        }
        let verifies = |message: &[u8]| if answer {
            verify_response(message, &key(), &request_mac, NOW_S).is_ok()
        } else {
            // A flipped bit may take the record away: an unsigned message is refused elsewhere.
            matches!(verify_request(message, find, NOW_S), Ok(Some(_)))
        };
        prop_assert!(verifies(&message));
        let key_at = plain.len() + 1;
        let algorithm_at = plain.len() + 4 + 10 + 1;
        for at in 2..message.len() {
            let in_a_name = (key_at..key_at + 2).contains(&at) || (algorithm_at..algorithm_at + 11).contains(&at);
            for bit in 0..8 {
                if in_a_name && message[at].is_ascii_alphabetic() && bit == 5 {
                    continue;
                }
                message[at] ^= 1 << bit;
                prop_assert!(!verifies(&message), "bit {} of octet {}", bit, at);
                message[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn key_file_reads_back(name in "[a-z][a-z0-9-]{0,14}", secret in proptest::collection::vec(any::<u8>(), 16..=64)) {
        prop_assume!(!name.ends_with('-'));
        let key = TsigKey::new(&name, &secret).unwrap();
        prop_assert_eq!(TsigKey::from_bind_file(&key.to_bind_file()).unwrap(), key);
    }

    #[test]
    fn key_file_from_outside_never_panics(text in "(key|\"s2\"|\\{|algorithm|hmac-sha256|secret|\"AAAA\"|;|\\}|#|/\\*|\\*/|\n| |\\PC){0,20}") {
        let _ = TsigKey::from_bind_file(&text);
    }
}
