//! Servers: `pool.<domain>`.

use hickory_proto::rr::RData;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::SRV;
use zones::want::PoolName;
use zones::{ServerName, Zone};

use super::objects::Choice;
use super::{Negative, Question, Response};
use crate::place::{Candidate, Work, rank};
use crate::registry::Server;

impl Question<'_> {
    /// A name in `pool`, below its apex.
    pub(super) fn pool(&self) -> Response {
        let absent = || self.negative(Zone::Pool, Negative::NxDomain);
        match PoolName::of(self.view.domain(), self.name) {
            Some(PoolName::Ns) => self.name_server(),
            Some(PoolName::Server(name)) => self
                .shown(&name, self.sight.servers)
                .map_or_else(absent, |s| self.server(s)),
            Some(PoolName::Want(name)) => {
                let server = self.shown(&name, self.sight.control);
                server.map_or_else(absent, |server| self.texts(vec![server.want.strings()]))
            }
            Some(PoolName::Todo(name)) => {
                let server = self.shown(&name, self.sight.control);
                server.map_or_else(absent, |server| {
                    self.texts(server.todos.iter().map(zones::Wish::strings).collect())
                })
            }
            Some(PoolName::Any) if self.sight.servers => self.any(),
            Some(PoolName::Place) if self.sight.servers => self.place(),
            Some(PoolName::Report(_) | PoolName::Any | PoolName::Place | PoolName::Apex) | None => absent(),
        }
    }

    fn shown(&self, name: &ServerName, may_see: bool) -> Option<&Server> {
        self.view.server(name).filter(|_| may_see)
    }

    fn name_server(&self) -> Response {
        let kind = match self.kind {
            RecordType::ANY => RecordType::A,
            kind => kind,
        };
        let addresses = self.ns_addresses(self.name);
        let asked = addresses.into_iter().filter(|record| record.record_type() == kind);
        self.records(Zone::Pool, asked.collect())
    }

    fn server(&self, server: &Server) -> Response {
        let Some(host) = &server.host else {
            return self.negative(Zone::Pool, Negative::NoData);
        };
        match self.kind {
            RecordType::TXT if self.sight.control => self.texts(vec![host.has.answered()]),
            RecordType::A | RecordType::AAAA => {
                let all = host.addresses.iter().copied().map(RData::from);
                let asked = all.filter(|data| data.record_type() == self.kind);
                self.records(Zone::Pool, asked.map(|data| self.record(data)).collect())
            }
            RecordType::SRV | RecordType::ANY => {
                let target = self.view.domain().in_pool(server.name.as_str());
                let srv = SRV::new(0, 0, host.https_port, target);
                self.positive(vec![self.record(RData::SRV(srv))])
            }
            _ => self.negative(Zone::Pool, Negative::NoData),
        }
    }

    fn texts(&self, texts: Vec<Vec<String>>) -> Response {
        if !matches!(self.kind, RecordType::TXT | RecordType::ANY) {
            return self.negative(Zone::Pool, Negative::NoData);
        }
        self.records(Zone::Pool, texts.iter().map(|strings| self.text(strings)).collect())
    }

    /// All agents that serve and live: any of them knows the way to any object.
    fn any(&self) -> Response {
        let mut choices = self.open_servers();
        self.weigh(&mut choices, |server, weights| server.worth(weights, Work::Serve));
        self.listed(&choices)
    }

    /// Where new objects go: servers that take them and live, ranked.
    fn place(&self) -> Response {
        let terms = &self.settings.terms;
        let candidates: Vec<Candidate<'_>> = self
            .view
            .servers()
            .filter_map(|server| {
                let has = server.has()?;
                Some(Candidate {
                    name: &server.name,
                    role: server.role(),
                    alive: self.view.is_alive(server) && !server.lost,
                    new_objects: terms.of(&server.name).new_objects,
                    server: terms.server(&server.name, has),
                })
            })
            .collect();
        let choices: Vec<Choice<'_>> = rank(&candidates, terms.placement.weights())
            .into_iter()
            .filter_map(|placed| {
                let server = self.view.server(&placed.name)?;
                Some(Choice {
                    server,
                    host: server.host.as_ref()?,
                    priority: placed.priority,
                    weight: placed.weight,
                })
            })
            .collect();
        match self.kind {
            RecordType::SRV | RecordType::ANY => self.services(Zone::Pool, &choices),
            _ => self.negative(Zone::Pool, Negative::NoData),
        }
    }

    fn listed(&self, choices: &[Choice<'_>]) -> Response {
        match self.kind {
            RecordType::A | RecordType::AAAA => self.addresses(Zone::Pool, choices),
            RecordType::SRV | RecordType::ANY => self.services(Zone::Pool, choices),
            _ => self.negative(Zone::Pool, Negative::NoData),
        }
    }

    /// Servers that may be sent new work: in a role that takes it, and alive.
    fn open_servers(&self) -> Vec<Choice<'_>> {
        let open = self
            .view
            .servers()
            .filter(|server| server.role().takes_new_objects() && !server.lost && self.view.is_alive(server));
        open.filter_map(|server| {
            Some(Choice {
                server,
                host: server.host.as_ref()?,
                priority: 0,
                weight: 0,
            })
        })
        .collect()
    }
}
