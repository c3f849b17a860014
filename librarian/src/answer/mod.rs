//! Answers: a pure function of (what is durable, question, asker, seed).
//!
//! | file | names |
//! |---|---|
//! | `objects` | `obj.<domain>`, `tree.<domain>` and the bare form |
//! | `pool` | `pool.<domain>`: servers, `any`, `ns`, `_place`, `_want`, `_todo` |
//! | `apex` | the operator's own zone |
//! | `served` | parts of other pools' trees that are delegated to this librarian |
//! | `sight` | who may see what |
//! | `common`, `wire`, `faces` | the common question without taking it apart: the same octets for about half of the work |
//! | `reply` | the message around an answer: EDNS, truncation, encoding |
//!
//! An answer is that of a zone that holds only what the asker may see: rcode, SOA and Extended DNS Error are equal for
//! what is absent and what is forbidden. Nothing here reads a clock, a socket or random bits.
//!
//! Specifications: RFC 1034 section 4.3.2, RFC 2308 (negative answers), RFC 2782 (SRV), RFC 4592 (wildcards), RFC 6891
//! (EDNS), RFC 8482 (ANY), RFC 8914 (Extended DNS Errors), DESIGN.md sections 4 and 5.

mod apex;
pub(crate) mod common;
pub(crate) mod faces;
mod network;
mod objects;
mod pool;
pub mod reply;
mod served;
mod sight;
mod wire;

use std::net::IpAddr;

use certs::Prefix;
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{NS, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use zones::{ExtendedError, Told, Zone};

use crate::place::Terms;
use crate::registry::View;
use crate::registry::index::{MINIMUM_S, soa};
use crate::transfer;
pub use network::{Network, NetworkError};
pub(crate) use objects::{FORWARDS, HOLDS, WEIGHT_MAX};
pub use served::Served;
pub use sight::Asker;
use sight::Sight;

/// What answers are made of besides the registry.
#[derive(Clone, Debug)]
pub struct Settings {
    /// TTL of an object's and a server's records, in seconds; at least 1.
    pub ttl_s: u32,
    /// Addresses of `ns.pool.<domain>`: where this librarian is asked.
    pub ns_addresses: Vec<IpAddr>,
    /// Prefixes that everybody may resolve (SRV, A, AAAA).
    pub public: Vec<Prefix>,
    /// Parts of other pools' trees that are delegated to this librarian.
    pub serves: Vec<Served>,
    /// What costs of servers depend on, where new objects are placed and holders are named.
    pub terms: Terms,
    /// Largest answer over UDP, whatever the asker would take: 512 or more.
    pub udp_octets_max: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            ttl_s: 5,
            ns_addresses: Vec::new(),
            public: Vec::new(),
            serves: Vec::new(),
            terms: Terms::default(),
            udp_octets_max: reply::UDP_OCTETS_MAX,
        }
    }
}

/// The sections of one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    /// The rcode.
    pub rcode: ResponseCode,
    /// Whether this server is authoritative for the name.
    pub authoritative: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// SOA of a negative answer, NS of a referral.
    pub authorities: Vec<Record>,
    /// Addresses of names in the other sections; may be left out where they do not fit.
    pub additionals: Vec<Record>,
    /// Why, for people.
    pub error: Option<ExtendedError>,
    /// Which registry this is, for whoever signed.
    pub told: Option<Told>,
}

impl Response {
    /// An answer that says no more than an rcode and why.
    #[must_use]
    pub fn error(rcode: ResponseCode, code: u16, text: impl Into<String>) -> Response {
        Response {
            rcode,
            error: Some(ExtendedError {
                code,
                text: text.into(),
            }),
            ..Response::default()
        }
    }

    /// What a name outside the zones served gets.
    fn outside() -> Response {
        Response::error(
            ResponseCode::Refused,
            ExtendedError::NOT_AUTHORITATIVE,
            "not a name of this pool",
        )
    }
}

/// One question with all that its answer depends on.
struct Question<'q> {
    view: &'q View<'q>,
    settings: &'q Settings,
    sight: Sight<'q>,
    name: &'q Name,
    kind: RecordType,
    seed: u64,
}

/// Answers one question.
#[must_use]
pub fn answer(view: &View<'_>, settings: &Settings, question: &Query, asker: &Asker, seed: u64) -> Response {
    if question.query_class() != DNSClass::IN {
        let text = "only class IN is served";
        return Response::error(ResponseCode::Refused, ExtendedError::NOT_SUPPORTED, text);
    }
    let question = Question {
        view,
        settings,
        sight: Sight::new(asker, settings),
        name: question.name(),
        kind: question.query_type(),
        seed,
    };
    match question.kind {
        // Those that may be answered never come here.
        RecordType::AXFR | RecordType::IXFR => transfer::refuse(),
        kind if is_meta(kind) => {
            let text = format!("type {kind} cannot be asked for");
            Response::error(ResponseCode::NotImp, ExtendedError::NOT_SUPPORTED, text)
        }
        _ => question.answer(),
    }
}

/// Types that stand for no record (RFC 6895 section 3.1), but for ANY.
fn is_meta(kind: RecordType) -> bool {
    kind == RecordType::OPT || (kind != RecordType::ANY && (128..=255).contains(&u16::from(kind)))
}

/// Which SOA record a negative answer carries, and whether the name exists.
enum Negative {
    /// The name exists, for this asker.
    NoData,
    /// Neither the name nor any below it exists, for this asker.
    NxDomain,
}

impl Question<'_> {
    fn answer(&self) -> Response {
        if let Some(served) = self.served() {
            return self.in_served(served);
        }
        let domain = self.view.domain();
        let zone = domain.zone_of(self.name);
        // What a zone's parent says of its signatures is the parent's (RFC 4035 section 3.1.4.1).
        let is_cut = zone.is_some_and(|zone| zone != Zone::Apex && domain.zone(zone) == self.name);
        if self.kind == RecordType::DS && is_cut {
            return self.negative(Zone::Apex, Negative::NoData);
        }
        match zone {
            Some(Zone::Apex) => self.operators(),
            Some(zone) if is_cut => self.apex(zone),
            Some(zone @ (Zone::Obj | Zone::Tree)) => self.object(zone),
            Some(Zone::Pool) => self.pool(),
            None => self.bare(),
        }
    }

    /// The apex of a zone that is composed.
    fn apex(&self, zone: Zone) -> Response {
        match self.kind {
            RecordType::SOA | RecordType::ANY => self.positive(vec![self.soa(zone, self.settings.ttl_s)]),
            RecordType::NS => {
                let ns = self.view.domain().in_pool("ns");
                let mut response = self.positive(vec![self.record(RData::NS(NS(ns.clone())))]);
                response.additionals = self.ns_addresses(&ns);
                response
            }
            _ => self.negative(zone, Negative::NoData),
        }
    }

    fn soa(&self, zone: Zone, ttl_s: u32) -> Record {
        let domain = self.view.domain();
        let serials = self.view.serials();
        let serial = match zone {
            Zone::Obj => serials.obj,
            Zone::Tree => serials.tree,
            Zone::Pool => serials.pool,
            Zone::Apex => return self.operators_soa(ttl_s),
        };
        Record::from_rdata(domain.zone(zone).clone(), ttl_s, RData::SOA(soa(domain, serial)))
    }

    fn ns_addresses(&self, ns: &Name) -> Vec<Record> {
        let addresses = self.settings.ns_addresses.iter();
        addresses
            .map(|address| Record::from_rdata(ns.clone(), self.settings.ttl_s, RData::from(*address)))
            .collect()
    }

    /// A record at the name asked for, spelled as it was asked.
    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), self.settings.ttl_s, data)
    }

    fn text(&self, strings: &[String]) -> Record {
        self.record(RData::TXT(TXT::from_bytes(
            strings.iter().map(String::as_bytes).collect(),
        )))
    }

    fn positive(&self, answers: Vec<Record>) -> Response {
        Response {
            authoritative: true,
            answers,
            ..Response::default()
        }
    }

    /// Records if there are any, else NODATA.
    fn records(&self, zone: Zone, answers: Vec<Record>) -> Response {
        if answers.is_empty() {
            self.negative(zone, Negative::NoData)
        } else {
            self.positive(answers)
        }
    }

    /// A negative answer; its SOA bears the time that it may be cached for (RFC 2308 section 3).
    fn negative(&self, zone: Zone, negative: Negative) -> Response {
        Response {
            rcode: match negative {
                Negative::NoData => ResponseCode::NoError,
                Negative::NxDomain => ResponseCode::NXDomain,
            },
            authoritative: true,
            authorities: vec![self.soa(zone, MINIMUM_S.min(self.settings.ttl_s))],
            ..Response::default()
        }
    }
}

/// Begins a list somewhere else for each seed, so that clients that take the first spread.
fn rotate<T>(list: &mut [T], seed: u64) {
    if !list.is_empty() {
        let by = seed % list.len() as u64;
        list.rotate_left(usize::try_from(by).expect("less than a length"));
    }
}

#[cfg(test)]
mod common_tests;
#[cfg(test)]
mod tests;
