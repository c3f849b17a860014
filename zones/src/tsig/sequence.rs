//! Signatures of an answer that takes many messages, such as a zone transfer (RFC 8945 section 5.3.1).

use hmac::Mac as _;

use super::wire::{self, Cut};
use super::{AnswerSignatureError, FUDGE_S, MAC_OCTETS, Mac, TsigKey, begin, fields, in_time, sign};

/// Signs every message of an answer: the first over the request's MAC, each further one over the MAC before it.
pub struct SequenceSigner {
    key: TsigKey,
    prior: Mac,
    first: bool,
}

impl SequenceSigner {
    /// For the answer to the request with this MAC.
    #[must_use]
    pub fn new(key: TsigKey, request_mac: Mac) -> SequenceSigner {
        SequenceSigner {
            key,
            prior: request_mac,
            first: true,
        }
    }

    /// Signs the next message.
    ///
    /// # Panics
    ///
    /// If `message` is shorter than a header.
    pub fn sign(&mut self, message: &mut Vec<u8>, now_s: u64) {
        let mut fields = fields(&self.key, message, now_s, FUDGE_S);
        if std::mem::take(&mut self.first) {
            self.prior = sign(message, &self.key, Some(&self.prior), fields);
            return;
        }
        let mut hmac = begin(&self.key, Some(&self.prior));
        hmac.update(message);
        hmac.update(&wire::timers(fields.time_s, fields.fudge_s));
        let mac: [u8; MAC_OCTETS] = hmac.finalize().into_bytes().into();
        fields.mac = mac.to_vec();
        wire::append(message, &fields);
        self.prior = Mac::whole(mac);
    }
}

/// Verifies the messages of an answer in their order. Every one must be signed.
///
/// The RFC lets a server sign only every hundredth; ours signs all.
pub struct SequenceVerifier {
    key: TsigKey,
    prior: Mac,
    first: bool,
}

impl SequenceVerifier {
    /// For the answer to the request with this MAC.
    #[must_use]
    pub fn new(key: TsigKey, request_mac: Mac) -> SequenceVerifier {
        SequenceVerifier {
            key,
            prior: request_mac,
            first: true,
        }
    }

    /// Verifies the next message.
    ///
    /// # Errors
    ///
    /// [`AnswerSignatureError`]; the whole answer is void.
    pub fn verify(&mut self, message: &[u8], now_s: u64) -> Result<(), AnswerSignatureError> {
        let cut = wire::cut(message).map_err(|_| AnswerSignatureError::Malformed)?;
        let Cut { before, fields } = cut.ok_or(AnswerSignatureError::Unsigned)?;
        if std::mem::take(&mut self.first) {
            super::verify_response(message, &self.key, &self.prior, now_s)?;
        } else {
            let known = fields.key == *self.key.name() && fields.algorithm == wire::algorithm_wire();
            if !known || fields.mac.len() != MAC_OCTETS || fields.error != 0 {
                return Err(AnswerSignatureError::BadSignature);
            }
            let mut hmac = begin(&self.key, Some(&self.prior));
            hmac.update(&wire::header_before(before, fields.original_id));
            hmac.update(&before[wire::HEADER_OCTETS..]);
            hmac.update(&wire::timers(fields.time_s, fields.fudge_s));
            hmac.verify_slice(&fields.mac)
                .map_err(|_| AnswerSignatureError::BadSignature)?;
            if !in_time(&fields, now_s) {
                return Err(AnswerSignatureError::BadTime {
                    time_s: fields.time_s,
                    now_s,
                });
            }
        }
        let octets = fields.mac.try_into().map_err(|_| AnswerSignatureError::BadSignature)?;
        self.prior = Mac::whole(octets);
        Ok(())
    }
}
