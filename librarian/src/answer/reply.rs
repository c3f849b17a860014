//! The message around an answer.
//!
//! Specifications: RFC 1035 section 4.1, RFC 6891 (EDNS), RFC 2181 section 9 (truncation), RFC 8914, RFC 9471 (glue).

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use zones::ExtendedError;

use super::Response;

/// Largest answer over UDP unless said otherwise: passes IPv6 paths whole (DNS flag day 2020).
pub const UDP_OCTETS_MAX: u16 = 1232;
/// Largest answer over UDP to an asker without EDNS (RFC 1035 section 4.2.1).
pub(crate) const PLAIN_UDP_OCTETS_MAX: u16 = 512;

/// How a message came, and so how large its answer may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// As one datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// How large messages may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    /// Octets of this answer.
    pub octets_max: usize,
    /// Octets of any message over UDP, as the answer's OPT record tells (RFC 6891 section 6.2.3).
    pub udp_octets_max: u16,
}

impl Transport {
    /// The room for the answer to a message with this OPT record, where no datagram is larger than `udp_octets_max`.
    #[must_use]
    pub fn room(self, edns: Option<&Edns>, udp_octets_max: u16) -> Room {
        let octets_max = match (self, edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, Some(edns)) => udp_octets(Some(edns.max_payload()), udp_octets_max),
            (Transport::Udp, None) => udp_octets(None, udp_octets_max),
        };
        Room {
            octets_max: usize::from(octets_max),
            udp_octets_max,
        }
    }
}

/// Octets of a datagram to an asker who says that it takes so many, or nothing.
pub(super) fn udp_octets(takes: Option<u16>, most: u16) -> u16 {
    takes
        .unwrap_or(0)
        .clamp(PLAIN_UDP_OCTETS_MAX, most.max(PLAIN_UDP_OCTETS_MAX))
}

/// Encodes the answer to a request in the room that it has: without additional records if they do not fit, and with nothing but
/// TC if the rest does not fit either, or would be a referral without glue.
#[must_use]
pub fn encode(request: &Message, response: Response, room: Room) -> Vec<u8> {
    let octets_max = room.octets_max;
    let head = |response: &Response, error| head(request, response, error, room.udp_octets_max);
    let mut message = head(&response, response.error.as_ref());
    let bare = Response {
        rcode: response.rcode,
        told: response.told,
        ..Response::default()
    };
    message.metadata.authoritative = response.authoritative;
    message.answers = response.answers;
    message.authorities = response.authorities;
    message.additionals = response.additionals;
    if let Some(octets) = fitting(&message, octets_max) {
        return octets;
    }
    // A referral without its glue may lead nowhere, so that one is truncated instead (RFC 9471 section 3.1), also behind an
    // alias. No other answer has NS records in its authority section.
    let is_referral = message
        .authorities
        .iter()
        .any(|record| record.record_type() == RecordType::NS);
    message.additionals.clear();
    if let (Some(octets), false) = (fitting(&message, octets_max), is_referral) {
        return octets;
    }
    message.answers.clear();
    message.authorities.clear();
    message.metadata.truncation = true;
    fitting(&message, octets_max).unwrap_or_else(|| {
        // One question and an OPT record with a text of at most 200 octets: the text has to go.
        let mut shortest = head(&bare, None);
        shortest.metadata.truncation = true;
        fitting(&shortest, octets_max)
            .unwrap_or_else(|| header(request.metadata.id, request.metadata.op_code, bare.rcode))
    })
}

/// Encodes if it fits. hickory would cut at 65,535 octets and set TC itself, which counts as not fitting.
fn fitting(message: &Message, octets_max: usize) -> Option<Vec<u8>> {
    let octets = message.to_vec().ok()?;
    let cut = octets[2] & 0x02 != 0 && !message.metadata.truncation;
    (octets.len() <= octets_max && !cut).then_some(octets)
}

/// A response without records: id, opcode, flags and question of the request, and OPT if the request has it.
fn head(request: &Message, response: &Response, error: Option<&ExtendedError>, udp_octets_max: u16) -> Message {
    let mut message = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.checking_disabled = request.metadata.checking_disabled;
    message.metadata.response_code = response.rcode;
    message.queries.clone_from(&request.queries);
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(udp_octets_max);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        if let Some(error) = error {
            edns.options_mut().insert(error.to_option());
        }
        if let Some(told) = response.told {
            edns.options_mut().insert(told.to_option());
        }
        message.edns = Some(edns);
    }
    message
}

/// A response that is a header alone, for requests that cannot be read.
#[must_use]
pub fn header(id: u16, op_code: OpCode, rcode: ResponseCode) -> Vec<u8> {
    let mut octets = vec![0; 12];
    octets[..2].copy_from_slice(&id.to_be_bytes());
    octets[2] = 0x80 | (u8::from(op_code) << 3);
    octets[3] = rcode.low();
    octets
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use zones::query::{build_question, read_answer};

    use super::*;
    use crate::answer::{Asker, Settings, answer};
    use crate::testing::Pool;

    #[tokio::test]
    async fn referral_whose_glue_does_not_fit_is_truncated_with_and_without_an_alias() {
        let pool = Pool::new().await;
        let mut lines = vec!["9.tree.hypernet.internal. 60 NS ns.9.tree.hypernet.internal.".to_owned()];
        lines.extend((1..=32).map(|host| format!("ns.9.tree.hypernet.internal. 60 AAAA 2001:db8::{host}")));
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        pool.nsupdate("tree.hypernet.internal.", &lines).await.unwrap();
        for name in ["1.9.tree.hypernet.internal.", "9.1.obj.hypernet.internal."] {
            let name = Name::from_ascii(name).unwrap();
            let request = build_question(7, &name, RecordType::SRV, None);
            let request = Message::from_vec(&request).unwrap();
            let response = answer(
                &pool.registry.view(),
                &Settings::default(),
                &request.queries[0],
                &Asker::Admin,
                0,
            );
            let read = |octets_max| {
                let room = Room {
                    octets_max,
                    udp_octets_max: 1232,
                };
                let octets = encode(&request, response.clone(), room);
                assert!(octets.len() <= octets_max);
                read_answer(&octets).unwrap()
            };
            // 32 addresses of 28 octets do not fit 512, and do fit what goes over TCP.
            let short = read(512);
            assert!(short.truncated && short.authorities.is_empty(), "{name}");
            let whole = read(65_535);
            assert_eq!(
                (whole.truncated, whole.authorities.len(), whole.additionals.len()),
                (false, 1, 32)
            );
        }
    }
}
