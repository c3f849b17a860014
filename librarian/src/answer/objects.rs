//! Objects: `obj.<domain>`, `tree.<domain>` and the bare form.

use hickory_proto::rr::rdata::{CNAME, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use zones::name::label_count;
use zones::{Register, State, Zone};

use super::{Negative, Question, Response, rotate};
use crate::place::{self, Weights, weight};
use crate::registry::key::key_of_name;
use crate::registry::zone::Node;
use crate::registry::{Host, Server};

/// Priority of servers that hold the object.
pub(crate) const HOLDS: u16 = 0;
/// Priority of the other party of an open move, which forwards.
pub(crate) const FORWARDS: u16 = 10;
/// Highest weight given.
pub(crate) const WEIGHT_MAX: u16 = 1000;

/// A server that a client may ask, and how gladly.
pub(super) struct Choice<'v> {
    pub(super) server: &'v Server,
    pub(super) host: &'v Host,
    pub(super) priority: u16,
    pub(super) weight: u16,
}

impl Question<'_> {
    /// A name below the apex of `obj` or `tree`.
    pub(super) fn object(&self, zone: Zone) -> Response {
        if let Some(response) = self.delegated(zone) {
            return response;
        }
        let Some(key) = key_of_name(self.view.domain(), self.name) else {
            return self.negative(zone, Negative::NxDomain);
        };
        if let Some(register) = self.visible(&key) {
            return self.compose(zone, &register);
        }
        if zone == Zone::Obj
            && let Some(register) = self.deleted(&key)
        {
            return match self.kind {
                RecordType::TXT => self.positive(vec![self.text(&register.strings())]),
                _ => self.negative(zone, Negative::NoData),
            };
        }
        let below = match zone {
            Zone::Obj => self.sight.any_ending(self.view, &key) || self.delegates_anything(),
            Zone::Tree | Zone::Pool | Zone::Apex => self.sight.any_below(self.view, &key) || self.delegates_below(&key),
        };
        self.negative(zone, if below { Negative::NoData } else { Negative::NxDomain })
    }

    /// A name outside the domain: an object that may be seen, else nothing of ours.
    pub(super) fn bare(&self) -> Response {
        let key = key_of_name(self.view.domain(), self.name);
        match key.and_then(|key| self.visible(&key)) {
            Some(register) => {
                let mut response = self.compose(Zone::Obj, &register);
                // There is no zone whose SOA could be told.
                response.authorities.clear();
                response
            }
            None => Response::outside(),
        }
    }

    fn visible(&self, key: &str) -> Option<Register> {
        let registers = &self.view.index().registers;
        let id = registers.find(key).filter(|id| registers.is_live(*id))?;
        let register = registers.register(id);
        self.sight.sees(&register.address).then_some(register)
    }

    /// The register of a deleted object, for those who may see it.
    fn deleted(&self, key: &str) -> Option<Register> {
        let registers = &self.view.index().registers;
        let id = registers.find(key).filter(|_| self.sight.deleted)?;
        Some(registers.register(id))
    }

    fn compose(&self, zone: Zone, register: &Register) -> Response {
        match self.kind {
            RecordType::TXT if self.sight.texts => self.positive(vec![self.text(&register.strings())]),
            // One RRset is enough of an answer to ANY (RFC 8482 section 4.1).
            RecordType::SRV | RecordType::ANY => self.services(zone, &self.choices(register)),
            RecordType::A | RecordType::AAAA => self.addresses(zone, &self.choices(register)),
            _ => self.negative(zone, Negative::NoData),
        }
    }

    /// The servers that a client may ask for an object.
    fn choices(&self, register: &Register) -> Vec<Choice<'_>> {
        let known = |name, priority| {
            let server = self.view.server(name)?;
            let host = server.host.as_ref()?;
            Some(Choice {
                server,
                host,
                priority,
                weight: 0,
            })
        };
        let mut choices: Vec<_> = register.holders.iter().filter_map(|name| known(name, HOLDS)).collect();
        let lives = |choice: &Choice<'_>| self.view.is_alive(choice.server);
        let serves = |choice: &Choice<'_>| lives(choice) && !choice.server.lost;
        let (one_lives, one_serves) = (choices.iter().any(lives), choices.iter().any(serves));
        if let State::Moving { to } = &register.state {
            choices.extend(known(to, FORWARDS));
        }
        if one_serves {
            // One that is marked lost and heard again may be refused by the others at any moment.
            choices.retain(serves);
        } else if one_lives {
            choices.retain(lives);
        }
        self.weigh(&mut choices, place::Server::ease);
        choices
    }

    /// Gives weights by how gladly a server is asked; the one that is asked most gladly gets the highest, none gets 0.
    pub(super) fn weigh(&self, choices: &mut [Choice<'_>], worth: fn(&place::Server, Weights) -> f64) {
        let terms = &self.settings.terms;
        let worth = |choice: &Choice<'_>| {
            let server = terms.server(&choice.server.name, &choice.host.has);
            worth(&server, terms.placement.weights())
        };
        let best = choices.iter().map(worth).fold(0.0, f64::max);
        for choice in choices {
            choice.weight = weight(worth(choice), best, WEIGHT_MAX);
        }
    }

    /// SRV records for servers, with their addresses besides.
    pub(super) fn services(&self, zone: Zone, choices: &[Choice<'_>]) -> Response {
        let domain = self.view.domain();
        let mut additionals = Vec::new();
        let mut answers = Vec::with_capacity(choices.len());
        for choice in choices {
            let target = domain.in_pool(choice.server.name.as_str());
            for address in &choice.host.addresses {
                let data = RData::from(*address);
                additionals.push(Record::from_rdata(target.clone(), self.settings.ttl_s, data));
            }
            let srv = SRV::new(choice.priority, choice.weight, choice.host.https_port, target);
            answers.push(self.record(RData::SRV(srv)));
        }
        let mut response = self.records(zone, answers);
        response.additionals = additionals;
        response
    }

    /// Addresses of the servers of the first priority.
    pub(super) fn addresses(&self, zone: Zone, choices: &[Choice<'_>]) -> Response {
        let first = choices.iter().filter(|choice| choice.priority == HOLDS);
        let all = first.flat_map(|choice| choice.host.addresses.iter().copied().map(RData::from));
        let mut data: Vec<RData> = Vec::new();
        for address in all.filter(|data| data.record_type() == self.kind) {
            // Several servers may share an address; an RRset holds no record twice.
            if !data.contains(&address) {
                data.push(address);
            }
        }
        rotate(&mut data, self.seed);
        self.records(zone, data.into_iter().map(|data| self.record(data)).collect())
    }

    /// What a name at or below a delegated prefix gets: a referral in `tree`, a CNAME to there in `obj`.
    fn delegated(&self, zone: Zone) -> Option<Response> {
        let index = self.view.index();
        if index.tree.len() == 0 {
            return None;
        }
        let domain = self.view.domain();
        let tree = domain.zone(Zone::Tree);
        let tree_name = match zone {
            Zone::Obj => {
                let own = label_count(self.name) - label_count(domain.zone(Zone::Obj));
                let labels: Vec<&[u8]> = self.name.iter().take(own).collect();
                let below = Name::from_labels(labels.into_iter().rev()).ok()?;
                below.append_domain(tree).ok()?
            }
            Zone::Tree => self.name.clone(),
            Zone::Pool | Zone::Apex => return None,
        };
        let cut = index.tree.highest_above(tree, &tree_name, RecordType::NS)?;
        if !self.sees_cut(cut) {
            return None;
        }
        if zone == Zone::Obj {
            let mut response = self.positive(vec![self.record(RData::CNAME(CNAME(tree_name)))]);
            // RFC 1034 section 4.3.2 step 3a: the search goes on at the name that the alias leads to, and ends at the cut.
            if !matches!(self.kind, RecordType::CNAME | RecordType::ANY) {
                let referral = referral(cut, &index.tree);
                response.authorities = referral.authorities;
                response.additionals = referral.additionals;
            }
            return Some(response);
        }
        // The parent answers for what its side of the cut says of signatures: nothing.
        if self.kind == RecordType::DS && *self.name == cut.name {
            return Some(self.negative(Zone::Tree, Negative::NoData));
        }
        Some(referral(cut, &index.tree))
    }

    fn sees_cut(&self, cut: &Node) -> bool {
        let prefix = self.view.domain().address_of(&cut.name).ok().flatten();
        prefix.is_some_and(|prefix| self.sight.sees_delegation(&prefix))
    }

    /// Whether any delegation may be seen: then every name in `obj` may have a CNAME below it.
    fn delegates_anything(&self) -> bool {
        let cuts = self.view.index().tree.iter();
        cuts.filter(|node| node.set(RecordType::NS).is_some())
            .any(|cut| self.sees_cut(cut))
    }

    fn delegates_below(&self, key: &str) -> bool {
        let domain = self.view.domain();
        let cuts = self.view.index().tree.iter();
        cuts.filter(|node| node.set(RecordType::NS).is_some())
            .filter(|cut| {
                let found = key_of_name(domain, &cut.name);
                found.is_some_and(|found| found.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
            })
            .any(|cut| self.sees_cut(cut))
    }
}

/// Who to ask instead: NS records of a cut and the addresses that lie at or below it.
pub(super) fn referral(cut: &Node, records: &crate::registry::zone::Records) -> Response {
    let mut response = Response::default();
    let Some(set) = cut.set(RecordType::NS) else {
        return response;
    };
    for data in &set.records {
        response
            .authorities
            .push(Record::from_rdata(cut.name.clone(), set.ttl, data.clone()));
        let RData::NS(target) = data else { continue };
        let Some(glue) = records.node(&target.0) else { continue };
        for set in [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| glue.set(kind))
        {
            let glue = set.records.iter();
            let glue = glue.map(|data| Record::from_rdata(target.0.clone(), set.ttl, data.clone()));
            response.additionals.extend(glue);
        }
    }
    response
}
