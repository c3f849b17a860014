//! The operator's own zone: ordinary records, as any authoritative server answers them.
//!
//! Specifications: RFC 1034 section 4.3.2 with RFC 2181 and RFC 4592 (wildcards), RFC 6604 (the rcode after a CNAME).

use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use zones::Zone;

use super::objects::referral;
use super::{Negative, Question, Response};
use crate::registry::index::soa;
use crate::registry::zone::{Node, RrSet};

/// CNAME records followed in one answer.
const CHAIN_MAX: usize = 8;

/// What there is at a name.
enum Found {
    /// Records at this very name, or those of the wildcard that stands for it.
    Node(Arc<Node>),
    /// Names below only.
    Empty,
    Nothing,
}

impl Question<'_> {
    /// A name of the operator's zone.
    pub(super) fn operators(&self) -> Response {
        let mut response = Response {
            authoritative: true,
            ..Response::default()
        };
        self.follow(self.name.clone(), &mut response, CHAIN_MAX);
        self.add_addresses(&mut response);
        response
    }

    /// Answers for a name that the question or a CNAME leads to.
    fn follow(&self, name: Name, response: &mut Response, left: usize) {
        let records = &self.view.index().apex;
        let apex = self.view.domain().apex();
        if let Some(cut) = records.highest_above(apex, &name, RecordType::NS)
            && (self.kind != RecordType::DS || name != cut.name)
        {
            let referral = referral(cut, records);
            response.authoritative = !response.answers.is_empty();
            response.authorities = referral.authorities;
            response.additionals = referral.additionals;
            return;
        }
        let negative = match self.find(&name) {
            Found::Nothing => Negative::NxDomain,
            Found::Empty => Negative::NoData,
            Found::Node(node) => {
                let alias = node.set(RecordType::CNAME).filter(|_| self.kind != RecordType::CNAME);
                // One RRset is enough of an answer to ANY (RFC 8482 section 4.1).
                let set = match self.kind {
                    RecordType::ANY => node.sets.first(),
                    kind => node.set(kind).or(alias),
                };
                match set {
                    Some(set) => {
                        response.answers.extend(records_of(&name, set));
                        let asks_for_it = matches!(self.kind, RecordType::CNAME | RecordType::ANY);
                        if let Some(RData::CNAME(target)) = set.records.first().filter(|_| !asks_for_it) {
                            self.follow_alias(&target.0, response, left);
                        }
                        return;
                    }
                    None => Negative::NoData,
                }
            }
        };
        let negative = self.negative(Zone::Apex, negative);
        response.rcode = negative.rcode;
        response.authorities = negative.authorities;
    }

    fn follow_alias(&self, target: &Name, response: &mut Response, left: usize) {
        let visited = response.answers.iter().any(|record| record.name == *target);
        match self.view.domain().zone_of(target) {
            // Whoever asks goes on elsewhere.
            None => {}
            Some(_) if visited || left == 0 => {
                response.rcode = ResponseCode::ServFail;
            }
            Some(Zone::Apex) => self.follow(target.clone(), response, left - 1),
            Some(Zone::Obj | Zone::Tree | Zone::Pool) => {
                let onward = Question {
                    name: target,
                    sight: self.sight.clone(),
                    ..*self
                };
                let end = onward.answer();
                response.rcode = end.rcode;
                response.answers.extend(end.answers);
                response.authorities = end.authorities;
                response.additionals = end.additionals;
            }
        }
    }

    fn find(&self, name: &Name) -> Found {
        let records = &self.view.index().apex;
        if let Some(node) = records.node(name) {
            return Found::Node(Arc::clone(node));
        }
        if records.any_below(name) {
            return Found::Empty;
        }
        let apex = self.view.domain().apex();
        let mut encloser = name.base_name();
        while encloser != *apex && records.node(&encloser).is_none() && !records.any_below(&encloser) {
            encloser = encloser.base_name();
        }
        let wildcard = encloser.prepend_label("*").ok();
        match wildcard.and_then(|wildcard| records.node(&wildcard).cloned()) {
            Some(node) => Found::Node(node),
            None => Found::Nothing,
        }
    }

    /// The zone's SOA record.
    pub(super) fn operators_soa(&self, ttl_s: u32) -> Record {
        let apex = self.view.domain().apex();
        let node = self.view.index().apex.node(apex);
        let set = node.and_then(|node| node.set(RecordType::SOA));
        let data = set.and_then(|set| set.records.first()).cloned();
        let data = data.unwrap_or_else(|| RData::SOA(soa(self.view.domain(), 1)));
        let ttl_s = match &data {
            RData::SOA(soa) => soa.minimum.min(ttl_s),
            _ => ttl_s,
        };
        Record::from_rdata(apex.clone(), ttl_s, data)
    }

    /// Addresses of the servers that MX, NS and SRV records name, where they lie in this zone.
    fn add_addresses(&self, response: &mut Response) {
        let domain = self.view.domain();
        let mut targets: Vec<&Name> = Vec::new();
        for record in &response.answers {
            let target = match &record.data {
                RData::MX(mx) => &mx.exchange,
                RData::NS(ns) => &ns.0,
                RData::SRV(srv) => &srv.target,
                _ => continue,
            };
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        let mut additionals = Vec::new();
        for target in targets {
            if *target == domain.in_pool("ns") {
                additionals.extend(self.ns_addresses(target));
            }
            let Some(node) = self.view.index().apex.node(target) else {
                continue;
            };
            for kind in [RecordType::A, RecordType::AAAA] {
                additionals.extend(node.set(kind).into_iter().flat_map(|set| records_of(target, set)));
            }
        }
        response.additionals.extend(additionals);
    }
}

fn records_of<'a>(name: &'a Name, set: &'a RrSet) -> impl Iterator<Item = Record> + 'a {
    let data = set.records.iter().cloned();
    data.map(|data| Record::from_rdata(name.clone(), set.ttl, data))
}
