//! Parts of the tree that other pools answer for: what an answer says of them, and which pool it is.
//!
//! Below a delegated prefix `obj` answers a CNAME to the name in `tree`, and `tree` a referral. The pool that serves the zone
//! below the cut is named by that zone: the targets of its SRV records are `<server>.pool.<domain>`, and the MNAME of its SOA
//! is `ns.pool.<domain>`, with the domain of the pool that has the objects.
//!
//! Specifications: RFC 1034 sections 4.2 and 4.3.2 (cuts, referrals), RFC 9471 (glue), PROTOCOL.md section 16.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RData, RecordType};

use crate::name::{Domain, Zone};
use crate::query::Answer;
use crate::server::ServerName;

/// Most pools that one question is followed to, one after another.
pub const POOLS_MAX: usize = 4;

/// A part of the tree that is another pool's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Delegation {
    /// The zone of that part, or a name in it where the answer does not tell more.
    pub zone: Name,
    /// The pool, where the answer itself names it.
    pub pool: Option<Domain>,
    /// Who answers for the zone.
    pub servers: Vec<NameServer>,
}

/// One name server of a delegation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NameServer {
    /// Its name.
    pub name: Name,
    /// Its addresses, where the answer has them.
    pub addresses: Vec<IpAddr>,
}

/// Where an answer for an object leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Leads {
    /// Nowhere: the pool that was asked has the object, or none is there.
    Here,
    /// To another name of the same zones, which is to be asked for.
    On(Name),
    /// To another pool.
    Away(Box<Delegation>),
}

/// Reads where the answer to a question for `name` leads. `domain` is that of the pool whose DNS was asked, itself or through
/// a resolver.
#[must_use]
pub fn leads(domain: &Domain, name: &Name, answer: &Answer) -> Leads {
    let end = end_of_aliases(name, answer);
    if domain.zone_of(end) != Some(Zone::Tree) {
        return Leads::Here;
    }
    if let Some(target) = answer.srv().next().map(|srv| &srv.target) {
        return match pool_of_server(target) {
            Some(pool) if pool != *domain => Leads::Away(Box::new(Delegation {
                zone: end.clone(),
                pool: Some(pool),
                servers: Vec::new(),
            })),
            Some(_) | None => Leads::Here,
        };
    }
    if let Some(referral) = referral(domain, end, answer) {
        return Leads::Away(Box::new(referral));
    }
    let soa = answer
        .authorities
        .iter()
        .find(|record| record.record_type() == RecordType::SOA);
    match soa {
        Some(soa) if soa.name == *domain.zone(Zone::Tree) => Leads::Here,
        // A resolver went there, and says that there is nothing.
        Some(soa) => match pool_of_zone(answer) {
            Some(pool) if pool != *domain => Leads::Away(Box::new(Delegation {
                zone: soa.name.clone(),
                pool: Some(pool),
                servers: Vec::new(),
            })),
            Some(_) | None => Leads::Here,
        },
        None if end != name => Leads::On(end.clone()),
        None => Leads::Here,
    }
}

/// The pool that serves a zone, as the SOA record in an answer says: its MNAME is `ns.pool.<domain>`.
#[must_use]
pub fn pool_of_zone(answer: &Answer) -> Option<Domain> {
    let sections = answer.answers.iter().chain(&answer.authorities);
    sections
        .filter_map(|record| match &record.data {
            RData::SOA(soa) => Some(&soa.mname),
            _ => None,
        })
        .find_map(pool_of_name_server)
}

/// The pool of a server, such as `s1.pool.other.example.internal.`
#[must_use]
pub fn pool_of_server(name: &Name) -> Option<Domain> {
    let label = std::str::from_utf8(name.iter().next()?).ok()?;
    label.to_ascii_lowercase().parse::<ServerName>().ok()?;
    pool_of(name)
}

/// The pool whose librarian is called `ns.pool.<domain>`.
#[must_use]
pub fn pool_of_name_server(name: &Name) -> Option<Domain> {
    name.iter().next().filter(|label| label.eq_ignore_ascii_case(b"ns"))?;
    pool_of(name)
}

/// The domain in `<label>.pool.<domain>`.
fn pool_of(name: &Name) -> Option<Domain> {
    let pool = name.base_name();
    pool.iter().next().filter(|label| label.eq_ignore_ascii_case(b"pool"))?;
    pool.base_name().to_ascii().parse().ok()
}

/// The last name that aliases in the answer section lead to. Each record is used at most once, so a loop ends.
fn end_of_aliases<'a>(name: &'a Name, answer: &'a Answer) -> &'a Name {
    let mut end = name;
    for _ in 0..answer.answers.len() {
        let next = answer.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *end => Some(&target.0),
            _ => None,
        });
        match next {
            Some(next) => end = next,
            None => break,
        }
    }
    end
}

/// A referral to a part of `tree` that `end` lies in, with the addresses that come with it.
fn referral(domain: &Domain, end: &Name, answer: &Answer) -> Option<Delegation> {
    let tree = domain.zone(Zone::Tree);
    // Only downwards: away from the apex, and towards the name.
    let leads_there = |owner: &Name| owner != tree && tree.zone_of(owner) && owner.zone_of(end);
    let cut = answer
        .authorities
        .iter()
        .find(|record| record.record_type() == RecordType::NS && leads_there(&record.name))?;
    let servers: Vec<NameServer> = answer
        .authorities
        .iter()
        .filter(|record| record.name == cut.name)
        .filter_map(|record| match &record.data {
            RData::NS(target) => Some(&target.0),
            _ => None,
        })
        .map(|target| NameServer {
            name: target.clone(),
            addresses: answer
                .additionals
                .iter()
                .filter(|record| record.name == *target)
                .filter_map(|record| record.data.ip_addr())
                .collect(),
        })
        .collect();
    let pool = servers.iter().find_map(|server| pool_of_name_server(&server.name));
    Some(Delegation {
        zone: cut.name.clone(),
        pool: pool.filter(|pool| pool != domain),
        servers,
    })
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::ResponseCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, CNAME, NS, SOA, SRV};

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn record(owner: &str, data: RData) -> Record {
        Record::from_rdata(name(owner), 5, data)
    }

    fn answer(answers: Vec<Record>, authorities: Vec<Record>, additionals: Vec<Record>) -> Answer {
        Answer {
            id: 1,
            code: ResponseCode::NoError,
            authoritative: true,
            truncated: false,
            question: None,
            answers,
            authorities,
            additionals,
            extended_errors: Vec::new(),
            told: None,
        }
    }

    fn alias() -> Record {
        let target = CNAME(name("1.7.0.tree.hypernet.internal."));
        record("0.7.1.obj.hypernet.internal.", RData::CNAME(target))
    }

    fn soa(owner: &str, mname: &str) -> Record {
        let data = SOA::new(name(mname), name("hostmaster.x."), 1, 5, 5, 60, 2);
        record(owner, RData::SOA(data))
    }

    fn ns(owner: &str, target: &str) -> Record {
        record(owner, RData::NS(NS(name(target))))
    }

    fn srv(owner: &str, target: &str) -> Record {
        record(owner, RData::SRV(SRV::new(0, 1, 9001, name(target))))
    }

    fn leads_of(answer: &Answer) -> Leads {
        let domain = "hypernet.internal".parse().unwrap();
        leads(&domain, &name("0.7.1.obj.hypernet.internal."), answer)
    }

    fn pool(text: &str) -> Option<Domain> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn referral_behind_an_alias_names_zone_servers_and_glue() {
        let glue = record("NS.7.0.tree.hypernet.internal.", RData::A(A::new(192, 0, 2, 7)));
        let away = answer(
            vec![alias()],
            vec![
                ns("7.0.tree.hypernet.internal.", "ns.7.0.tree.hypernet.internal."),
                ns("7.0.tree.hypernet.internal.", "ns.pool.other.example.internal."),
            ],
            vec![glue],
        );
        let Leads::Away(found) = leads_of(&away) else {
            panic!("not away")
        };
        assert_eq!(found.zone, name("7.0.tree.hypernet.internal."));
        assert_eq!(found.pool, pool("other.example.internal"));
        let addresses: Vec<usize> = found.servers.iter().map(|server| server.addresses.len()).collect();
        assert_eq!(addresses, [1, 0]);
    }

    #[test]
    fn answer_of_a_resolver_that_went_there_names_the_pool_by_its_server_or_by_its_zone() {
        let tree_name = "1.7.0.tree.hypernet.internal.";
        let found = answer(
            vec![alias(), srv(tree_name, "s1.pool.other.example.internal.")],
            vec![],
            vec![],
        );
        let absent = answer(
            vec![alias()],
            vec![soa("7.0.tree.hypernet.internal.", "ns.pool.other.example.internal.")],
            vec![],
        );
        for answer in [found, absent] {
            match leads_of(&answer) {
                Leads::Away(away) => assert_eq!(away.pool, pool("other.example.internal")),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn alias_alone_is_asked_for_and_what_the_pool_has_itself_leads_nowhere() {
        let tree_name = "1.7.0.tree.hypernet.internal.";
        let alone = answer(vec![alias()], vec![], vec![]);
        assert_eq!(leads_of(&alone), Leads::On(name(tree_name)));
        for own in [
            answer(
                vec![srv("0.7.1.obj.hypernet.internal.", "s1.pool.hypernet.internal.")],
                vec![],
                vec![],
            ),
            answer(
                vec![],
                vec![soa("obj.hypernet.internal.", "ns.pool.hypernet.internal.")],
                vec![],
            ),
            // The delegation was taken back between two answers.
            answer(
                vec![alias()],
                vec![soa("tree.hypernet.internal.", "ns.pool.hypernet.internal.")],
                vec![],
            ),
            // An alias that leads out of the pool's zones is none of the librarian's.
            answer(
                vec![record(
                    "0.7.1.obj.hypernet.internal.",
                    RData::CNAME(CNAME(name("1.7.0.tree.evil.example."))),
                )],
                vec![],
                vec![],
            ),
            // Servers that are no servers of a pool.
            answer(vec![alias(), srv(tree_name, "www.example.org.")], vec![], vec![]),
        ] {
            assert_eq!(leads_of(&own), Leads::Here, "{own:?}");
        }
    }

    #[test]
    fn referral_upwards_or_sideways_is_none_and_a_loop_of_aliases_ends() {
        let up = answer(vec![alias()], vec![ns("tree.hypernet.internal.", "ns.x.")], vec![]);
        let aside = answer(vec![alias()], vec![ns("8.0.tree.hypernet.internal.", "ns.x.")], vec![]);
        for answer in [up, aside] {
            assert_eq!(leads_of(&answer), Leads::On(name("1.7.0.tree.hypernet.internal.")));
        }
        let back = CNAME(name("0.7.1.obj.hypernet.internal."));
        let round = record("1.7.0.tree.hypernet.internal.", RData::CNAME(back));
        assert_eq!(leads_of(&answer(vec![alias(), round], vec![], vec![])), Leads::Here);
    }

    #[test]
    fn only_names_of_the_pools_own_form_name_a_pool() {
        assert_eq!(pool_of_server(&name("S1.pool.other.example.")), pool("other.example"));
        assert_eq!(pool_of_server(&name("s1.poll.other.example.")), None);
        assert_eq!(pool_of_server(&name("ns.pool.other.example.")), None);
        assert_eq!(pool_of_server(&name("pool.")), None);
        assert_eq!(
            pool_of_name_server(&name("ns.pool.other.example.")),
            pool("other.example")
        );
        assert_eq!(pool_of_name_server(&name("ns.7.0.tree.hypernet.internal.")), None);
    }
}
