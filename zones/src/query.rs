//! Questions and the reading of answers.
//!
//! Specifications: RFC 1035 section 4, RFC 6891 (EDNS), RFC 8914 (Extended DNS Errors), PROTOCOL.md section 3.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::DecodeError;

use crate::incarnation::{INCARNATION_OPTION, Told};

/// Largest answer that is asked for over UDP: what passes IPv6 paths whole (DNS flag day 2020).
pub const UDP_PAYLOAD_OCTETS: u16 = 1232;
/// Option code of an Extended DNS Error (RFC 8914 section 2).
pub const EXTENDED_ERROR_OPTION: u16 = 15;

/// What an Extended DNS Error says: a number for programs, a sentence for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExtendedError {
    /// INFO-CODE, of the constants below or any other.
    pub code: u16,
    /// EXTRA-TEXT; may be empty.
    pub text: String,
}

impl ExtendedError {
    /// Other: see the text (RFC 8914 section 4.1).
    pub const OTHER: u16 = 0;
    /// The server is not ready (section 4.15).
    pub const NOT_READY: u16 = 14;
    /// The asker may not do this (section 4.19).
    pub const PROHIBITED: u16 = 18;
    /// The server is not authoritative for the name (section 4.21).
    pub const NOT_AUTHORITATIVE: u16 = 20;
    /// Not supported (section 4.22).
    pub const NOT_SUPPORTED: u16 = 21;

    /// The option in wire form. A text over 200 octets is cut at a character, so that it never pushes an answer out
    /// of a packet.
    #[must_use]
    pub fn to_option(&self) -> EdnsOption {
        let mut end = self.text.len().min(200);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let mut octets = self.code.to_be_bytes().to_vec();
        octets.extend_from_slice(&self.text.as_bytes()[..end]);
        EdnsOption::Unknown(EXTENDED_ERROR_OPTION, octets)
    }

    fn from_option(option: &EdnsOption) -> Option<ExtendedError> {
        match option {
            EdnsOption::Unknown(EXTENDED_ERROR_OPTION, octets) if octets.len() >= 2 => Some(ExtendedError {
                code: u16::from_be_bytes([octets[0], octets[1]]),
                // Some servers end the text with a NUL (RFC 8914 section 2 warns of it).
                text: String::from_utf8_lossy(&octets[2..]).trim_end_matches('\0').to_owned(),
            }),
            _ => None,
        }
    }
}

/// An answer as read.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its id, which must be the question's.
    pub id: u16,
    /// The rcode, the upper bits from EDNS included.
    pub code: ResponseCode,
    /// Whether the server is authoritative.
    pub authoritative: bool,
    /// Whether it was cut short: ask again over TCP.
    pub truncated: bool,
    /// The question it repeats; none in some error answers. In the answer to an update: the zone.
    pub question: Option<Query>,
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section.
    pub authorities: Vec<Record>,
    /// Additional section without OPT and TSIG.
    pub additionals: Vec<Record>,
    /// Extended DNS Errors.
    pub extended_errors: Vec<ExtendedError>,
    /// What a librarian tells whoever signed: which registry this is.
    pub told: Option<Told>,
}

/// Why octets are no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// They are no DNS message.
    #[error("what came is no DNS message")]
    Malformed(#[from] DecodeError),
    /// They are a question.
    #[error("what came is a question, not an answer")]
    Question,
}

/// The octets of a question of class IN. Recursion is not desired: a librarian is asked itself. With `edns_octets`
/// larger answers than 512 octets may come over UDP, and Extended DNS Errors.
#[must_use]
pub fn build_question(id: u16, name: &Name, kind: RecordType, edns_octets: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name.clone(), kind));
    if let Some(octets) = edns_octets {
        let mut edns = Edns::new();
        edns.set_max_payload(octets);
        message.set_edns(edns);
    }
    message.to_vec().expect("a header, one name and OPT fit any message")
}

/// Reads an answer to a question or an update. A signature is verified elsewhere, over the octets.
///
/// # Errors
///
/// [`AnswerError`].
pub fn read_answer(octets: &[u8]) -> Result<Answer, AnswerError> {
    let message = Message::from_vec(octets)?;
    if message.metadata.message_type != MessageType::Response {
        return Err(AnswerError::Question);
    }
    let extended_errors = match &message.edns {
        Some(edns) => edns
            .options()
            .get_all(EdnsCode::Unknown(EXTENDED_ERROR_OPTION))
            .into_iter()
            .filter_map(ExtendedError::from_option)
            .collect(),
        None => Vec::new(),
    };
    let told = message.edns.as_ref().and_then(|edns| {
        let option = edns.option(EdnsCode::Unknown(INCARNATION_OPTION))?;
        Told::from_option(option)
    });
    Ok(Answer {
        id: message.metadata.id,
        code: message.metadata.response_code,
        authoritative: message.metadata.authoritative,
        truncated: message.metadata.truncation,
        question: message.queries.into_iter().next(),
        answers: message.answers,
        authorities: message.authorities,
        additionals: message
            .additionals
            .into_iter()
            .filter(|record| record.record_type() != RecordType::TSIG)
            .collect(),
        extended_errors,
        told,
    })
}

impl Answer {
    /// Whether this answers the question (id, name, type): what came to a socket may be anything.
    #[must_use]
    pub fn answers_to(&self, id: u16, name: &Name, kind: RecordType) -> bool {
        let same = |question: &Query| {
            question.name() == name && question.query_type() == kind && question.query_class() == DNSClass::IN
        };
        self.id == id && self.question.as_ref().is_some_and(same)
    }

    /// The TXT records of the answer section.
    pub fn txt(&self) -> impl Iterator<Item = &TXT> {
        self.answers.iter().filter_map(|record| match &record.data {
            RData::TXT(txt) => Some(txt),
            _ => None,
        })
    }

    /// The SRV records of the answer section.
    pub fn srv(&self) -> impl Iterator<Item = &SRV> {
        self.answers.iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv),
            _ => None,
        })
    }

    /// The addresses in the answer section.
    pub fn addresses(&self) -> impl Iterator<Item = std::net::IpAddr> {
        self.answers.iter().filter_map(|record| record.data.ip_addr())
    }

    /// The sentence of the first Extended DNS Error that has one.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        self.extended_errors
            .iter()
            .map(|error| error.text.as_str())
            .find(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_gives_back_rcode_records_and_the_sentence() {
        let name: Name = "1.obj.hypernet.internal.".parse().unwrap();
        let question = Message::from_vec(&build_question(7, &name, RecordType::TXT, Some(UDP_PAYLOAD_OCTETS))).unwrap();
        assert_eq!(question.max_payload(), UDP_PAYLOAD_OCTETS);
        let mut message = Message::response(7, OpCode::Query);
        message.metadata.response_code = ResponseCode::BADVERS;
        message.add_queries(question.queries);
        message.add_answer(Record::from_rdata(
            name.clone(),
            5,
            RData::TXT(TXT::new(vec!["v=hn1".to_owned()])),
        ));
        let mut edns = Edns::new();
        let error = ExtendedError {
            code: ExtendedError::PROHIBITED,
            text: "not yours".to_owned(),
        };
        edns.options_mut().insert(error.to_option());
        message.set_edns(edns);
        let answer = read_answer(&message.to_vec().unwrap()).unwrap();
        assert_eq!(u16::from(answer.code), 16);
        assert!(answer.answers_to(7, &name, RecordType::TXT));
        assert!(!answer.answers_to(7, &name, RecordType::SRV));
        assert!(!answer.answers_to(8, &name, RecordType::TXT));
        assert_eq!(answer.txt().count(), 1);
        assert_eq!(answer.extended_errors, [error]);
        assert_eq!(answer.why(), Some("not yours"));
    }

    #[test]
    fn sentence_is_cut_at_a_character() {
        let error = ExtendedError {
            code: 0,
            text: format!("{}ä", "a".repeat(199)),
        };
        match error.to_option() {
            EdnsOption::Unknown(15, octets) => assert_eq!(octets.len(), 2 + 199),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn question_is_no_answer() {
        let question = build_question(7, &Name::root(), RecordType::NS, None);
        assert!(matches!(read_answer(&question), Err(AnswerError::Question)));
    }
}
