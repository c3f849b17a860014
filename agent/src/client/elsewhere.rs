//! Objects of other pools, which parts of the tree are delegated to.
//!
//! The other pool is asked by a client of its own: its librarian, its authority, and the identity that its operator gave us. It
//! must be configured by its domain. Neither certificate nor key of this pool is ever shown there.
//!
//! ```text
//!  3.1.obj --CNAME--> 1.3.tree --NS--> zone 3.tree --SOA--> pool other.example. --configured?--> client of that pool
//! ```
//!
//! What DNS says here is a hint as everywhere: what counts is that a server proves its name by the authority that is configured for
//! the domain. A false answer can lead to another configured pool at most, and only where it is not signed.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::RecordType;
use zones::delegation::{POOLS_MAX, pool_of_zone};
use zones::{Address, Delegation, Domain};

use crate::client::Client;
use crate::client::error::ClientError;
use crate::client::settings::{OtherPool, Settings};
use crate::client::stub::Resolver;

/// Port of DNS where nothing else is configured: a delegation tells none.
const DNS_PORT: u16 = 53;

/// A client of another pool, and the DNS servers that it asks.
pub(super) struct Other {
    pub(super) client: Client,
    dns: Vec<SocketAddr>,
}

impl Client {
    /// The client of the pool that has what is delegated.
    pub(super) async fn elsewhere(&self, address: &Address, to: &Delegation) -> Result<Client, ClientError> {
        let pool = match &to.pool {
            Some(pool) => pool.clone(),
            None => self.ask_which(address, to).await?,
        };
        let own = &self.inner.settings.domain;
        if pool == *own || self.inner.passed.contains(&pool) {
            return Err(ClientError::Circle {
                address: address.clone(),
                pool: pool.to_string(),
            });
        }
        let Some(known) = self.inner.settings.pools.get(&pool) else {
            return Err(unknown(address, to, Some(pool)));
        };
        if self.inner.passed.len() >= POOLS_MAX {
            return Err(ClientError::TooFar {
                address: address.clone(),
                pool: pool.to_string(),
            });
        }
        let mut dns = known.dns.clone();
        if dns.is_empty() {
            dns = self.places(to).await;
        }
        if dns.is_empty() && to.servers.is_empty() {
            // A resolver in front went there itself.
            dns.clone_from(&self.inner.settings.dns);
        }
        if dns.is_empty() {
            return Err(ClientError::NoLibrarian {
                address: address.clone(),
                zone: to.zone.to_string(),
                pool: pool.to_string(),
            });
        }
        self.client_of(pool, known, dns)
    }

    fn client_of(&self, pool: Domain, known: &OtherPool, dns: Vec<SocketAddr>) -> Result<Client, ClientError> {
        let mut others = self.inner.others.lock();
        if let Some(other) = others.get(&pool)
            && other.dns == dns
        {
            return Ok(other.client.clone());
        }
        let mut passed = self.inner.passed.clone();
        passed.push(self.inner.settings.domain.clone());
        let settings = Settings {
            domain: pool.clone(),
            dns: dns.clone(),
            tsig: known.tsig.clone(),
            identity: known.identity.clone(),
            anchor: known.anchor.clone(),
            patience: self.inner.settings.patience,
            pools: self.inner.settings.pools.clone(),
        };
        let client = Client::behind(settings, passed, self.inner.counts.clone())?;
        let other = Other {
            client: client.clone(),
            dns,
        };
        others.insert(pool, other);
        Ok(client)
    }

    /// Which pool it is, as the zone itself says.
    async fn ask_which(&self, address: &Address, to: &Delegation) -> Result<Domain, ClientError> {
        let resolver = Resolver::new(self.places(to).await, None);
        match resolver.ask(&to.zone, RecordType::SOA).await {
            Ok(answer) => pool_of_zone(&answer).ok_or_else(|| unknown(address, to, None)),
            // Whatever it would say, no pool is configured.
            Err(_) if self.inner.settings.pools.is_empty() => Err(unknown(address, to, None)),
            Err(source) => Err(ClientError::OtherLibrarian {
                address: address.clone(),
                zone: to.zone.to_string(),
                servers: names(to),
                source,
            }),
        }
    }

    /// Where the name servers of a delegation answer.
    async fn places(&self, to: &Delegation) -> Vec<SocketAddr> {
        let mut places = Vec::new();
        for server in &to.servers {
            let name = server.name.to_ascii();
            let addresses = match &server.addresses[..] {
                // No glue: its name is in a zone that this client's own DNS may know.
                [] => match self.inner.locator.addresses(name.trim_end_matches('.')).await {
                    Ok(found) => found.to_vec(),
                    Err(_) => Vec::new(),
                },
                glue => glue.to_vec(),
            };
            places.extend(addresses.into_iter().map(|address| self.place(address)));
        }
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The port is that of a librarian configured at this address.
    fn place(&self, address: IpAddr) -> SocketAddr {
        let mut configured = self.inner.settings.pools.values().flat_map(|pool| &pool.dns);
        let found = configured.find(|place| place.ip() == address).copied();
        found.unwrap_or_else(|| SocketAddr::new(address, DNS_PORT))
    }
}

fn unknown(address: &Address, to: &Delegation, pool: Option<Domain>) -> ClientError {
    match pool {
        Some(pool) => ClientError::UnknownPool {
            address: address.clone(),
            zone: to.zone.to_string(),
            pool: pool.to_string(),
        },
        None => ClientError::NamelessPool {
            address: address.clone(),
            zone: to.zone.to_string(),
            servers: names(to),
        },
    }
}

fn names(to: &Delegation) -> String {
    let names: Vec<String> = to.servers.iter().map(|server| server.name.to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use certs::{Authority, ClientName, Grants, UnixTime, Who};
    use hickory_proto::op::{Message, MessageType, ResponseCode};
    use hickory_proto::rr::rdata::{A, CNAME, NS, SOA, SRV};
    use hickory_proto::rr::{Name, RData, Record};
    use tokio::net::UdpSocket;

    use super::*;
    use crate::client::WriteOptions;

    const ALIAS: &str = "0.7.1.obj.hypernet.internal.";
    const ZONE: &str = "7.0.tree.hypernet.internal.";

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn record(owner: &str, data: RData) -> Record {
        Record::from_rdata(name(owner), 5, data)
    }

    fn soa(owner: &str, mname: &str) -> Record {
        let soa = SOA::new(name(mname), name("hostmaster.x."), 1, 5, 5, 60, 2);
        record(owner, RData::SOA(soa))
    }

    /// The answer to a referral of `0.7` to a name server at loopback.
    fn referral(ns: &str) -> (Vec<Record>, Vec<Record>, Vec<Record>) {
        (
            vec![record(
                ALIAS,
                RData::CNAME(CNAME(name("1.7.0.tree.hypernet.internal."))),
            )],
            vec![record(ZONE, RData::NS(NS(name(ns))))],
            vec![record(ns, RData::A(A::from(Ipv4Addr::LOCALHOST)))],
        )
    }

    type Sections = (Vec<Record>, Vec<Record>, Vec<Record>);

    /// A DNS server that gives the answer set for a name, and REFUSED for every other.
    async fn dns(answers: Vec<(&str, Sections)>) -> SocketAddr {
        let answers: HashMap<Name, Sections> = answers.into_iter().map(|(owner, set)| (name(owner), set)).collect();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let place = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut octets = vec![0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut octets).await {
                let question = Message::from_vec(&octets[..length]).unwrap();
                let mut message = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
                message.queries.clone_from(&question.queries);
                match answers.get(question.queries[0].name()) {
                    Some((answer, authority, additional)) => {
                        message.answers.clone_from(answer);
                        message.authorities.clone_from(authority);
                        message.additionals.clone_from(additional);
                    }
                    None => message.metadata.response_code = ResponseCode::Refused,
                }
                socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        });
        place
    }

    /// What one pool's operator gave the client.
    fn given(domain: &str, dns: Vec<SocketAddr>) -> OtherPool {
        let domain = domain.parse().unwrap();
        let now = UnixTime::now();
        let authority = Authority::create(&domain, certs::Serial::new([1; 16]), now).unwrap();
        let grants = Grants::new(["read:*".parse().unwrap()]).unwrap();
        let who = Who::Client {
            name: "alice".parse::<ClientName>().unwrap(),
            grants,
        };
        OtherPool {
            dns,
            tsig: None,
            identity: authority.issue(&who, certs::Serial::new([2; 16]), now).unwrap(),
            anchor: authority.anchor().clone(),
        }
    }

    fn client(dns: SocketAddr, pools: Vec<(&str, OtherPool)>) -> Client {
        let own = given("hypernet.internal", vec![dns]);
        let pools = pools.into_iter().map(|(domain, pool)| (domain.parse().unwrap(), pool));
        Client::new(Settings {
            domain: "hypernet.internal".parse().unwrap(),
            dns: own.dns,
            tsig: None,
            identity: own.identity,
            anchor: own.anchor,
            patience: Duration::from_millis(300),
            pools: pools.collect(),
        })
        .unwrap()
    }

    async fn error_of(client: &Client) -> ClientError {
        client.get(&"0.7.1".parse().unwrap()).await.unwrap_err()
    }

    #[tokio::test]
    async fn pool_that_is_not_configured_is_named_with_what_to_configure() {
        let ours = dns(vec![(ALIAS, referral("ns.pool.other.example."))]).await;
        for pools in [vec![], vec![("third.example", given("third.example", vec![]))]] {
            let client = client(ours, pools);
            let error = error_of(&client).await;
            assert!(matches!(error, ClientError::UnknownPool { .. }), "{error:?}");
            for told in ["0.7.1", ZONE, "[pools.\"other.example.\"]", "ca", "certificate"] {
                assert!(error.to_string().contains(told), "{error}");
            }
            assert_eq!(client.counts().requests, 0, "a server was connected to");
            let writes = client.delete(&"0.7.1".parse().unwrap(), &WriteOptions::default()).await;
            assert!(matches!(writes, Err(ClientError::UnknownPool { .. })), "{writes:?}");
            let lists = client.list(Some(&"0.7.1".parse().unwrap())).await;
            assert!(matches!(lists, Err(ClientError::UnknownPool { .. })), "{lists:?}");
        }
    }

    #[tokio::test]
    async fn pool_is_named_by_the_zone_itself_where_its_name_server_does_not() {
        let theirs = dns(vec![(
            ZONE,
            (vec![soa(ZONE, "ns.pool.other.example.")], vec![], vec![]),
        )])
        .await;
        let ours = dns(vec![(ALIAS, referral("ns.7.0.tree.hypernet.internal."))]).await;
        // The port of the librarian at that address is known by another pool's table.
        let client = client(ours, vec![("third.example", given("third.example", vec![theirs]))]);
        match error_of(&client).await {
            ClientError::UnknownPool { pool, .. } => assert_eq!(pool, "other.example."),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn zone_that_names_no_pool_is_told_with_its_name_servers() {
        let theirs = dns(vec![(ZONE, (vec![soa(ZONE, "ns.example.net.")], vec![], vec![]))]).await;
        let ours = dns(vec![(ALIAS, referral("ns.7.0.tree.hypernet.internal."))]).await;
        let client = client(ours, vec![("other.example", given("other.example", vec![theirs]))]);
        let error = error_of(&client).await;
        assert!(matches!(error, ClientError::NamelessPool { .. }), "{error:?}");
        assert!(error.to_string().contains("ns.7.0.tree.hypernet.internal."), "{error}");
    }

    #[tokio::test]
    async fn other_librarian_that_refuses_is_told_by_zone_and_reason() {
        let theirs = dns(vec![]).await;
        let ours = dns(vec![(ALIAS, referral("ns.7.0.tree.hypernet.internal."))]).await;
        let client = client(ours, vec![("other.example", given("other.example", vec![theirs]))]);
        let error = error_of(&client).await;
        match &error {
            ClientError::OtherLibrarian { zone, .. } => assert_eq!(zone, ZONE),
            other => panic!("{other:?}"),
        }
        assert!(
            crate::access::chain(&error).contains("Refused"),
            "{}",
            crate::access::chain(&error)
        );
    }

    #[tokio::test]
    async fn librarian_without_an_address_is_told_to_be_configured() {
        let mut lame = referral("ns.pool.other.example.");
        lame.2.clear();
        let ours = dns(vec![(ALIAS, lame)]).await;
        let client = client(ours, vec![("other.example", given("other.example", vec![]))]);
        let error = error_of(&client).await;
        assert!(matches!(error, ClientError::NoLibrarian { .. }), "{error:?}");
        assert!(
            error.to_string().contains("dns in [pools.\"other.example.\"]"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn circle_of_delegations_ends_with_an_error_that_says_so() {
        let theirs = dns(vec![(
            "0.7.1.obj.other.example.",
            (
                vec![
                    record(
                        "0.7.1.obj.other.example.",
                        RData::CNAME(CNAME(name("1.7.0.tree.other.example."))),
                    ),
                    // A resolver went on, and came back to a server of the first pool.
                    record(
                        "1.7.0.tree.other.example.",
                        RData::SRV(SRV::new(0, 1, 9001, name("s1.pool.hypernet.internal."))),
                    ),
                ],
                vec![],
                vec![],
            ),
        )])
        .await;
        let ours = dns(vec![(ALIAS, referral("ns.pool.other.example."))]).await;
        let client = client(ours, vec![("other.example", given("other.example", vec![theirs]))]);
        match error_of(&client).await {
            ClientError::Circle { pool, .. } => assert_eq!(pool, "hypernet.internal."),
            other => panic!("{other:?}"),
        }
        assert_eq!(client.counts().requests, 0);
    }
}
