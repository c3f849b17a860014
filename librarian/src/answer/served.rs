//! Parts of other pools' trees that are delegated to this librarian: zones such as `7.0.tree.hypernet.internal.`, served by the
//! pool of another domain.
//!
//! A name there is that of the object with the same address here: its answer is that of this pool's own `tree`, under the name
//! that was asked for. Views are this pool's own. At the apex are SOA (whose MNAME names this pool) and NS.
//!
//! Specifications: RFC 1034 section 4.2.2 (what a parent and its child say of a cut), RFC 4035 section 3.1.4.1 (DS),
//! PROTOCOL.md section 16.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::NS;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use zones::name::label_count;
use zones::{Address, Domain, ExtendedError, NameError, Zone};

use super::{Negative, Question, Response};
use crate::registry::index::{MINIMUM_S, soa};

/// A part of another pool's tree that this librarian answers for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Served {
    domain: Domain,
    zone: Name,
    ns: Name,
}

impl Served {
    /// What lies at or below `prefix` in the tree of `domain`. `ns` is what the delegation calls this librarian; unless said,
    /// `ns` right below the prefix.
    ///
    /// # Errors
    ///
    /// [`NameError`] where the prefix has no name in that tree.
    pub fn new(domain: Domain, prefix: &Address, ns: Option<Name>) -> Result<Served, NameError> {
        let zone = domain.tree_name(prefix)?;
        let ns = match ns {
            Some(ns) => ns,
            None => zone.prepend_label("ns").map_err(|_| NameError::NameTooLong {
                address: prefix.clone(),
                octets: zone.len() + 1,
            })?,
        };
        Ok(Served { domain, zone, ns })
    }

    /// The apex of the zone.
    #[must_use]
    pub fn zone(&self) -> &Name {
        &self.zone
    }

    /// Whether the name server's name can be answered: outside of the zone, or right below its apex.
    #[must_use]
    pub fn has_usable_ns(&self) -> bool {
        !self.zone.zone_of(&self.ns) || label_count(&self.ns) == label_count(&self.zone) + 1
    }

    /// A name of one domain's tree in another's; `None` if it would be too long.
    fn moved(name: &Name, from: &Domain, to: &Domain) -> Option<Name> {
        let from = from.zone(Zone::Tree);
        let own = label_count(name).checked_sub(label_count(from))?;
        let below = Name::from_labels(name.iter().take(own)).ok()?;
        below.append_domain(to.zone(Zone::Tree)).ok()
    }
}

impl Question<'_> {
    /// The part of another pool's tree that the name lies in: the longest one.
    pub(super) fn served(&self) -> Option<&Served> {
        let around = self
            .settings
            .serves
            .iter()
            .filter(|served| served.zone.zone_of(self.name));
        around.max_by_key(|served| label_count(&served.zone))
    }

    /// A name at or below the apex of a part that is served for another pool.
    pub(super) fn in_served(&self, served: &Served) -> Response {
        let at_apex = *self.name == served.zone;
        match self.kind {
            RecordType::SOA | RecordType::ANY if at_apex => {
                return self.positive(vec![self.served_soa(served, self.settings.ttl_s)]);
            }
            RecordType::NS if at_apex => {
                let mut response = self.positive(vec![self.record(RData::NS(NS(served.ns.clone())))]);
                response.additionals = self.ns_addresses(&served.ns);
                return response;
            }
            // Only the parent has one.
            RecordType::DS if at_apex => return self.served_negative(served, Negative::NoData),
            _ => {}
        }
        if *self.name == served.ns {
            let mut records = self.ns_addresses(self.name);
            records.retain(|record| self.kind == RecordType::ANY || record.record_type() == self.kind);
            return match records.is_empty() {
                true => self.served_negative(served, Negative::NoData),
                false => self.positive(records),
            };
        }
        let domain = self.view.domain();
        let Some(own) = Served::moved(self.name, &served.domain, domain) else {
            return self.served_negative(served, Negative::NxDomain);
        };
        let here = Question {
            name: &own,
            sight: self.sight.clone(),
            ..*self
        };
        let found = here.object(Zone::Tree);
        self.as_served(served, found, at_apex)
    }

    /// The answer of this pool's own tree, as that of the zone that is served.
    fn as_served(&self, served: &Served, mut found: Response, at_apex: bool) -> Response {
        for record in &mut found.answers {
            record.name = self.name.clone();
        }
        if found
            .authorities
            .iter()
            .any(|record| record.record_type() == RecordType::SOA)
        {
            // The name server's name is there, and so is the apex.
            let negative = match found.rcode {
                ResponseCode::NXDomain if !at_apex => Negative::NxDomain,
                _ => Negative::NoData,
            };
            return self.served_negative(served, negative);
        }
        for record in &mut found.authorities {
            let name = Served::moved(&record.name, self.view.domain(), &served.domain);
            match name.filter(|name| served.zone.zone_of(name) && *name != served.zone) {
                Some(name) => record.name = name,
                // A referral upwards would send whoever asks round in a circle.
                None => {
                    let why = "this part of the tree is delegated on, and to be served there";
                    return Response::error(ResponseCode::ServFail, ExtendedError::OTHER, why);
                }
            }
        }
        found
    }

    fn served_soa(&self, served: &Served, ttl_s: u32) -> Record {
        let soa = soa(self.view.domain(), self.view.serials().tree);
        Record::from_rdata(served.zone.clone(), ttl_s, RData::SOA(soa))
    }

    fn served_negative(&self, served: &Served, negative: Negative) -> Response {
        let mut response = self.negative(Zone::Tree, negative);
        response.authorities = vec![self.served_soa(served, MINIMUM_S.min(self.settings.ttl_s))];
        response
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;
    use crate::answer::{Asker, Settings, answer};
    use crate::testing::{Pool, address};

    /// Settings of a pool that serves `0.7` of another pool's tree, which is called `far.example.`
    fn settings(ns: Option<&str>) -> Settings {
        let ns = ns.map(|ns| Name::from_ascii(ns).unwrap());
        let served = Served::new("far.example".parse().unwrap(), &address("0.7"), ns).unwrap();
        Settings {
            ns_addresses: vec!["192.0.2.53".parse().unwrap()],
            serves: vec![served],
            ..Settings::default()
        }
    }

    fn ask(pool: &Pool, settings: &Settings, name: &str, kind: &str, asker: &Asker) -> Response {
        let kind = match kind {
            "DS" => RecordType::DS,
            kind => kind.parse().unwrap(),
        };
        let question = Query::query(Name::from_ascii(name).unwrap(), kind);
        answer(&pool.registry.view(), settings, &question, asker, 0)
    }

    fn brief(response: &Response) -> String {
        let all = |records: &[Record]| {
            let records = records.iter();
            let records = records.map(|record| match &record.data {
                RData::SOA(soa) => format!("{} SOA {}", record.name, soa.mname),
                data => format!("{} {} {data}", record.name, record.record_type()),
            });
            records.collect::<Vec<_>>().join(", ")
        };
        let authority = if response.authoritative { "AA" } else { "--" };
        format!(
            "{authority} {:?} [{}] [{}] [{}]",
            response.rcode,
            all(&response.answers),
            all(&response.authorities),
            all(&response.additionals)
        )
    }

    #[tokio::test]
    async fn object_is_answered_under_its_name_in_the_other_pools_tree() {
        let pool = Pool::new().await;
        pool.create("s2", &["0.7.1", "0.7.2.5", "0.8"]).await;
        let soa = "7.0.tree.far.example. SOA ns.pool.hypernet.internal.";
        let ns = "ns.7.0.tree.far.example.";
        let table = [
            (
                "1.7.0.tree.far.example.",
                "SRV",
                "AA NoError [1.7.0.tree.far.example. SRV 0 1000 9002 s2.pool.hypernet.internal.] [] \
                 [s2.pool.hypernet.internal. A 192.0.2.2]"
                    .to_owned(),
            ),
            (
                "1.7.0.TREE.far.example.",
                "A",
                "AA NoError [1.7.0.TREE.far.example. A 192.0.2.2] [] []".to_owned(),
            ),
            ("1.7.0.tree.far.example.", "AAAA", format!("AA NoError [] [{soa}] []")),
            ("2.7.0.tree.far.example.", "SRV", format!("AA NoError [] [{soa}] []")),
            ("3.7.0.tree.far.example.", "SRV", format!("AA NXDomain [] [{soa}] []")),
            ("7.0.tree.far.example.", "SOA", format!("AA NoError [{soa}] [] []")),
            (
                "7.0.tree.far.example.",
                "NS",
                format!("AA NoError [7.0.tree.far.example. NS {ns}] [] [{ns} A 192.0.2.53]"),
            ),
            ("7.0.tree.far.example.", "DS", format!("AA NoError [] [{soa}] []")),
            ("7.0.tree.far.example.", "SRV", format!("AA NoError [] [{soa}] []")),
            (ns, "A", format!("AA NoError [{ns} A 192.0.2.53] [] []")),
            (ns, "SRV", format!("AA NoError [] [{soa}] []")),
            // Beside the part that is served, and above it, this librarian answers for nothing.
            ("8.0.tree.far.example.", "SRV", "-- Refused [] [] []".to_owned()),
            ("0.tree.far.example.", "SOA", "-- Refused [] [] []".to_owned()),
            ("0.7.1.obj.far.example.", "SRV", "-- Refused [] [] []".to_owned()),
        ];
        for (name, kind, expected) in table {
            let found = ask(&pool, &settings(None), name, kind, &Asker::Admin);
            assert_eq!(brief(&found), expected, "{name} {kind}");
        }
        let elsewhere = settings(Some("ns.example.net."));
        let apex = ask(&pool, &elsewhere, "7.0.tree.far.example.", "NS", &Asker::Admin);
        assert!(brief(&apex).contains("NS ns.example.net."), "{apex:?}");
        let none = ask(&pool, &elsewhere, ns, "A", &Asker::Admin);
        assert_eq!(none.rcode, ResponseCode::NXDomain);
    }

    #[tokio::test]
    async fn whoever_may_not_see_an_object_gets_the_answer_of_an_absent_one() {
        let pool = Pool::new().await;
        pool.create("s2", &["0.7.1"]).await;
        let of = |name: &str| {
            let found = ask(&pool, &settings(None), name, "SRV", &Asker::Stranger);
            assert_eq!(found.rcode, ResponseCode::NXDomain, "{name}");
            found.authorities
        };
        assert_eq!(of("1.7.0.tree.far.example."), of("2.7.0.tree.far.example."));
        // The apex of a zone is no secret.
        let apex = ask(&pool, &settings(None), "7.0.tree.far.example.", "SRV", &Asker::Stranger);
        assert_eq!(apex.rcode, ResponseCode::NoError);
    }

    #[tokio::test]
    async fn part_that_is_delegated_on_is_a_referral_and_never_one_upwards() {
        let pool = Pool::new().await;
        let lines = ["5.7.0.tree.hypernet.internal. 60 NS ns.third.example."];
        pool.nsupdate("tree.hypernet.internal.", &lines).await.unwrap();
        let name = "1.5.7.0.tree.far.example.";
        let referral = ask(&pool, &settings(None), name, "SRV", &Asker::Admin);
        assert_eq!(
            brief(&referral),
            "-- NoError [] [5.7.0.tree.far.example. NS ns.third.example.] []"
        );
        let lines = ["0.tree.hypernet.internal. 60 NS ns.third.example."];
        pool.nsupdate("tree.hypernet.internal.", &lines).await.unwrap();
        let round = ask(&pool, &settings(None), name, "SRV", &Asker::Admin);
        assert_eq!((round.rcode, round.authorities.len()), (ResponseCode::ServFail, 0));
    }

    #[test]
    fn name_server_lies_outside_of_the_zone_or_right_below_its_apex() {
        for (ns, usable) in [
            (None, true),
            (Some("ns.pool.hypernet.internal."), true),
            (Some("dns.7.0.tree.far.example."), true),
            (Some("7.0.tree.far.example."), false),
            (Some("a.b.7.0.tree.far.example."), false),
        ] {
            assert_eq!(settings(ns).serves[0].has_usable_ns(), usable, "{ns:?}");
        }
    }
}
