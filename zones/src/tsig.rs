//! Signatures of DNS messages by shared keys.
//!
//! Works over the bytes of a message as they are sent, because the MAC covers exactly these; time is an argument. The
//! signer of hickory-proto does not serve: it signs messages it encodes itself, no sequence of them, and its error
//! answers are not those of the RFC.
//!
//! Specification: RFC 8945, PROTOCOL.md section 6. Only hmac-sha256, and only whole MACs are accepted: a shorter one
//! that is right gets BADTRUNC (section 5.2.4).

mod key;
mod sequence;
mod wire;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

pub use key::{KeyError, SECRET_OCTETS_MAX, SECRET_OCTETS_MIN, TsigKey};
pub use sequence::{SequenceSigner, SequenceVerifier};
use wire::{Cut, Fields};

/// How far the clocks of signer and verifier may differ (RFC 8945 section 10 recommends it).
pub const FUDGE_S: u16 = 300;
/// Octets of a whole MAC.
pub const MAC_OCTETS: usize = 32;
/// Fewest octets that a truncated MAC may have to be looked at: half of it (RFC 8945 section 5.2.2.1).
const MAC_OCTETS_MIN: usize = MAC_OCTETS / 2;

const BADSIG: u16 = 16;
const BADKEY: u16 = 17;
const BADTIME: u16 = 18;
const BADTRUNC: u16 = 22;

/// The MAC of a request; its answer is signed over it (RFC 8945 section 5.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mac {
    octets: [u8; MAC_OCTETS],
    /// As it was sent: less than 32 only where BADTRUNC is the answer.
    length: u8,
}

impl Mac {
    fn whole(octets: [u8; MAC_OCTETS]) -> Mac {
        Mac { octets, length: 32 }
    }

    /// The octets that were sent.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.octets[..usize::from(self.length)]
    }
}

/// A message whose signature holds.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The key that signed it.
    pub key: TsigKey,
    /// Its MAC, for signing the answer.
    pub mac: Mac,
    /// When the signer says that it signed, in seconds since 1970.
    pub time_s: u64,
    /// Octets of the message before the TSIG record. The header still counts that record.
    pub message_octets: usize,
}

/// Why a request's signature does not hold, and which answer is due.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TsigFailure {
    /// The message or its TSIG record is malformed; FORMERR, unsigned, no TSIG record.
    #[error("the message or its TSIG record is malformed")]
    Format,
    /// Nobody has a key of this name, or it is for another algorithm; NOTAUTH with BADKEY, unsigned.
    #[error("no key {name} for the algorithm asked for is known here")]
    BadKey {
        /// Name of the key that was asked for.
        name: Name,
        /// The record that the answer repeats.
        echo: Echo,
    },
    /// The MAC is wrong; NOTAUTH with BADSIG, unsigned.
    #[error("the signature by key {name} is wrong")]
    BadSignature {
        /// Name of the key.
        name: Name,
        /// The record that the answer repeats.
        echo: Echo,
    },
    /// The MAC is right, the time is not; NOTAUTH with BADTIME, signed, with our time as other data.
    #[error("the request was signed by key {} at {}, too far from {now_s}: set the clock", .signed.key.name(), .signed.time_s)]
    BadTime {
        /// The request, whose signature is right.
        signed: Signed,
        /// The fudge that it gave.
        fudge_s: u16,
        /// Our time.
        now_s: u64,
    },
    /// The MAC is right, and shorter than we accept; NOTAUTH with BADTRUNC, signed.
    #[error("the signature by key {} is truncated: send all 32 octets", .signed.key.name())]
    BadTruncation {
        /// The request, whose signature is right as far as it goes.
        signed: Signed,
    },
}

/// What an unsigned error answer repeats of the request's TSIG record.
#[derive(Clone, Debug)]
pub struct Echo(Box<Fields>);

impl TsigFailure {
    /// The rcode of the answer.
    #[must_use]
    pub fn response_code(&self) -> ResponseCode {
        match self {
            TsigFailure::Format => ResponseCode::FormErr,
            TsigFailure::BadKey { .. }
            | TsigFailure::BadSignature { .. }
            | TsigFailure::BadTime { .. }
            | TsigFailure::BadTruncation { .. } => ResponseCode::NotAuth,
        }
    }

    /// Adds to an answer, which already bears [`TsigFailure::response_code`], the TSIG record that is due.
    pub fn sign_answer(&self, answer: &mut Vec<u8>, now_s: u64) {
        match self {
            TsigFailure::Format => {}
            TsigFailure::BadKey { echo, .. } => echo.append(answer, BADKEY, now_s),
            TsigFailure::BadSignature { echo, .. } => echo.append(answer, BADSIG, now_s),
            TsigFailure::BadTime {
                signed,
                fudge_s,
                now_s: seen_s,
            } => {
                // Signed with the client's own time, so that it can check the MAC (section 5.2.3).
                let mut fields = fields(&signed.key, answer, signed.time_s, *fudge_s);
                fields.error = BADTIME;
                fields.other = seen_s.to_be_bytes()[2..].to_vec();
                sign(answer, &signed.key, Some(&signed.mac), fields);
            }
            TsigFailure::BadTruncation { signed } => {
                let mut fields = fields(&signed.key, answer, now_s, FUDGE_S);
                fields.error = BADTRUNC;
                sign(answer, &signed.key, Some(&signed.mac), fields);
            }
        }
    }
}

impl Echo {
    fn append(&self, answer: &mut Vec<u8>, error: u16, now_s: u64) {
        let fields = Fields {
            time_s: now_s,
            fudge_s: FUDGE_S,
            mac: Vec::new(),
            original_id: wire::id(answer),
            error,
            other: Vec::new(),
            ..(*self.0).clone()
        };
        wire::append(answer, &fields);
    }
}

/// Why an answer does not count as the answer to a signed request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerSignatureError {
    /// There is no signature; go on waiting for the real answer.
    #[error("the answer is not signed")]
    Unsigned,
    /// The message or its TSIG record is malformed.
    #[error("the answer or its TSIG record is malformed")]
    Malformed,
    /// Another key, another algorithm, or a wrong MAC; go on waiting for the real answer.
    #[error("the answer's signature is wrong")]
    BadSignature,
    /// The MAC is right, the time is not.
    #[error("the answer was signed at {time_s}, too far from {now_s}: set the clock")]
    BadTime {
        /// When it says that it was signed.
        time_s: u64,
        /// Our time.
        now_s: u64,
    },
    /// The server says, unsigned, that it does not know the key (17), or that our signature is wrong (16). Anybody
    /// could have written this.
    #[error("the server refuses our signature without signing that, TSIG error {error}: check the key")]
    Rejected {
        /// The error of the TSIG record.
        error: u16,
    },
    /// The server says, signed, that our clock differs from its own.
    #[error("the server's clock says {server_time_s}, ours differs too much: set it")]
    ClockRefused {
        /// The server's time in seconds since 1970.
        server_time_s: u64,
    },
    /// The server says, signed, that it wants another MAC.
    #[error("the server refuses our signature, TSIG error {error}")]
    Refused {
        /// The error of the TSIG record.
        error: u16,
    },
}

/// Signs a request. Returns the MAC that its answer is verified with.
///
/// # Panics
///
/// If `message` is shorter than a header.
pub fn sign_request(message: &mut Vec<u8>, key: &TsigKey, now_s: u64) -> Mac {
    let fields = fields(key, message, now_s, FUDGE_S);
    sign(message, key, None, fields)
}

/// Signs the answer to a signed request.
///
/// # Panics
///
/// If `message` is shorter than a header.
pub fn sign_response(message: &mut Vec<u8>, key: &TsigKey, request_mac: &Mac, now_s: u64) {
    let fields = fields(key, message, now_s, FUDGE_S);
    sign(message, key, Some(request_mac), fields);
}

/// Verifies a request in the RFC's order: form, key, MAC, time, truncation. `Ok(None)` is an unsigned message.
///
/// # Errors
///
/// [`TsigFailure`], which also makes the answer.
pub fn verify_request(
    message: &[u8],
    find: impl FnOnce(&Name) -> Option<TsigKey>,
    now_s: u64,
) -> Result<Option<Signed>, TsigFailure> {
    let Some(Cut { before, fields }) = wire::cut(message).map_err(|_| TsigFailure::Format)? else {
        return Ok(None);
    };
    let name = fields.key.clone();
    let key = find(&name).filter(|key| fields.algorithm == wire::algorithm_wire() && *key.name() == name);
    let Some(key) = key else {
        return Err(TsigFailure::BadKey {
            name,
            echo: Echo(Box::new(fields)),
        });
    };
    let Some(mac) = received_mac(&fields) else {
        return Err(TsigFailure::Format);
    };
    let digest = digest(&key, None, before, &fields);
    if digest.verify_truncated_left(&fields.mac).is_err() {
        return Err(TsigFailure::BadSignature {
            name,
            echo: Echo(Box::new(fields)),
        });
    }
    let signed = Signed {
        key,
        mac,
        time_s: fields.time_s,
        message_octets: before.len(),
    };
    if !in_time(&fields, now_s) {
        return Err(TsigFailure::BadTime {
            signed,
            fudge_s: fields.fudge_s,
            now_s,
        });
    }
    if fields.mac.len() < MAC_OCTETS {
        return Err(TsigFailure::BadTruncation { signed });
    }
    Ok(Some(signed))
}

/// Verifies the answer to a request that [`sign_request`] signed.
///
/// # Errors
///
/// [`AnswerSignatureError`]. After `Unsigned`, `Malformed`, `BadSignature` and `Rejected` the real answer may still
/// come: whoever asked goes on waiting until its time is up (RFC 8945 section 5.4).
pub fn verify_response(
    message: &[u8],
    key: &TsigKey,
    request_mac: &Mac,
    now_s: u64,
) -> Result<(), AnswerSignatureError> {
    let Cut { before, fields } = wire::cut(message)
        .map_err(|_| AnswerSignatureError::Malformed)?
        .ok_or(AnswerSignatureError::Unsigned)?;
    if fields.key != *key.name() || fields.algorithm != wire::algorithm_wire() {
        return Err(AnswerSignatureError::BadSignature);
    }
    if fields.mac.is_empty() && matches!(fields.error, BADSIG | BADKEY) {
        return Err(AnswerSignatureError::Rejected { error: fields.error });
    }
    // A server of ours sends whole MACs only.
    if fields.mac.len() != MAC_OCTETS {
        return Err(AnswerSignatureError::BadSignature);
    }
    digest(key, Some(request_mac), before, &fields)
        .verify_slice(&fields.mac)
        .map_err(|_| AnswerSignatureError::BadSignature)?;
    match fields.error {
        0 if in_time(&fields, now_s) => Ok(()),
        0 => Err(AnswerSignatureError::BadTime {
            time_s: fields.time_s,
            now_s,
        }),
        BADTIME if fields.other.len() == 6 => Err(AnswerSignatureError::ClockRefused {
            server_time_s: fields.other.iter().fold(0, |acc, octet| acc << 8 | u64::from(*octet)),
        }),
        error => Err(AnswerSignatureError::Refused { error }),
    }
}

/// A record without a MAC for a message that is to be signed.
fn fields(key: &TsigKey, message: &[u8], time_s: u64, fudge_s: u16) -> Fields {
    Fields {
        key: key.name().clone(),
        key_wire: key.name_wire().to_vec(),
        algorithm: wire::algorithm_wire(),
        time_s,
        fudge_s,
        mac: Vec::new(),
        original_id: wire::id(message),
        error: 0,
        other: Vec::new(),
    }
}

fn sign(message: &mut Vec<u8>, key: &TsigKey, request: Option<&Mac>, mut fields: Fields) -> Mac {
    let mut hmac = begin(key, request);
    hmac.update(message);
    hmac.update(&variables(&fields));
    let mac: [u8; MAC_OCTETS] = hmac.finalize().into_bytes().into();
    fields.mac = mac.to_vec();
    wire::append(message, &fields);
    Mac::whole(mac)
}

/// The HMAC of a received message (RFC 8945 section 4.3).
fn digest(key: &TsigKey, request: Option<&Mac>, before: &[u8], fields: &Fields) -> Hmac<Sha256> {
    let mut hmac = begin(key, request);
    hmac.update(&wire::header_before(before, fields.original_id));
    hmac.update(&before[wire::HEADER_OCTETS..]);
    hmac.update(&variables(fields));
    hmac
}

fn begin(key: &TsigKey, request: Option<&Mac>) -> Hmac<Sha256> {
    let mut hmac = key.hmac();
    if let Some(mac) = request {
        hmac.update(&u16::from(mac.length).to_be_bytes());
        hmac.update(mac.as_slice());
    }
    hmac
}

/// The TSIG variables (RFC 8945 section 4.3.3).
fn variables(fields: &Fields) -> Vec<u8> {
    let mut variables = fields.key_wire.clone();
    variables.extend_from_slice(&255u16.to_be_bytes());
    variables.extend_from_slice(&0u32.to_be_bytes());
    variables.extend_from_slice(&fields.algorithm);
    variables.extend_from_slice(&wire::timers(fields.time_s, fields.fudge_s));
    variables.extend_from_slice(&fields.error.to_be_bytes());
    let other = u16::try_from(fields.other.len()).expect("read from or made for a 16 bit length");
    variables.extend_from_slice(&other.to_be_bytes());
    variables.extend_from_slice(&fields.other);
    variables
}

/// The MAC as received, if its length is one that is looked at.
fn received_mac(fields: &Fields) -> Option<Mac> {
    if !(MAC_OCTETS_MIN..=MAC_OCTETS).contains(&fields.mac.len()) {
        return None;
    }
    let mut octets = [0; MAC_OCTETS];
    octets[..fields.mac.len()].copy_from_slice(&fields.mac);
    Some(Mac {
        octets,
        length: u8::try_from(fields.mac.len()).expect("at most 32"),
    })
}

fn in_time(fields: &Fields, now_s: u64) -> bool {
    fields.time_s.abs_diff(now_s) <= u64::from(fields.fudge_s)
}
