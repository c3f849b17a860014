//! Where an object is, as DNS says, remembered as long as DNS says.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;
use zones::query::Answer;
use zones::{Address, Delegation, Domain, Leads, delegation};

use crate::client::error::ClientError;
use crate::client::stub::{Resolver, StubError};

/// Most names, hosts and owners remembered, each. A full memory forgets what is over, then everything.
const REMEMBERED_MAX: usize = 65_536;
/// Longest time that anything is remembered, whatever its TTL: a typing error there must not last for weeks.
const TTL_MAX: Duration = Duration::from_secs(600);
/// Negative answers without SOA are not to be cached (RFC 2308 section 5); a moment saves a burst.
const NEGATIVE_WITHOUT_SOA: Duration = Duration::from_millis(500);
/// How long a redirect is remembered: the TTL of an object's records.
const OWNER_TTL: Duration = Duration::from_secs(5);

/// A server that can be asked.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Target {
    /// Name, without a dot at its end: what TLS verifies.
    pub(super) host: Box<str>,
    pub(super) port: u16,
}

/// Whom a request is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    /// Whoever holds the object: all holders answer reads, and weights say how many each is to answer.
    Reading,
    /// The owner of an object that should exist: any agent knows better than a cached NXDOMAIN.
    Existing,
    /// The owner of an object that may have to be created: a server that takes new ones.
    Creating,
}

/// Where an object is looked for.
#[derive(Clone, Debug)]
pub(super) enum Located {
    /// At these servers, the best first, at least one.
    Here(Vec<Target>),
    /// In another pool.
    Away(Arc<Delegation>),
}

/// What DNS says of a name.
#[derive(Clone, Debug)]
enum Service {
    Servers(Arc<[SRV]>),
    Away(Arc<Delegation>),
}

/// Finds servers, and remembers what it found.
#[derive(Debug)]
pub(super) struct Locator {
    domain: Domain,
    resolver: Resolver,
    services: Memory<Name, Service>,
    hosts: Memory<Box<str>, Arc<[IpAddr]>>,
    owners: Memory<Address, Target>,
}

impl Locator {
    pub(super) fn new(domain: Domain, resolver: Resolver) -> Locator {
        Locator {
            domain,
            resolver,
            services: Memory::default(),
            hosts: Memory::default(),
            owners: Memory::default(),
        }
    }

    pub(super) fn questions(&self) -> u64 {
        self.resolver.asked()
    }

    /// Servers to ask for an object. With `fresh`, nothing remembered is used.
    pub(super) async fn locate(
        &self,
        address: &Address,
        purpose: Purpose,
        fresh: bool,
    ) -> Result<Located, ClientError> {
        let locate = |source| ClientError::Locate {
            address: address.clone(),
            source,
        };
        if fresh {
            self.owners.forget(address);
        }
        let owner = self.owners.get(address);
        if let Some(owner) = &owner
            && purpose != Purpose::Reading
        {
            return Ok(Located::Here(vec![owner.clone()]));
        }
        let name = self.domain.obj_name(address)?;
        let holders = match self.service(&name, fresh).await.map_err(locate)? {
            Service::Servers(holders) => holders,
            Service::Away(to) => return Ok(Located::Away(to)),
        };
        let mut targets = self.order(&holders);
        // An answer without the owner is older than the redirect that named it.
        if let Some(owner) = owner
            && !targets.contains(&owner)
        {
            return Ok(Located::Here(vec![owner]));
        }
        if targets.is_empty() && purpose == Purpose::Creating {
            targets = self.group("_place", fresh).await.map_err(locate)?;
        }
        if targets.is_empty() {
            targets = self.servers(fresh).await.map_err(locate)?;
        }
        if targets.is_empty() {
            return Err(ClientError::NoServer);
        }
        Ok(Located::Here(targets))
    }

    /// The other pool that has what lies at and below an address, if that part of the tree is delegated.
    pub(super) async fn delegation(&self, address: &Address) -> Result<Option<Arc<Delegation>>, ClientError> {
        let name = self.domain.obj_name(address)?;
        match self.service(&name, false).await {
            Ok(Service::Away(to)) => Ok(Some(to)),
            Ok(Service::Servers(_)) => Ok(None),
            Err(source) => Err(ClientError::Locate {
                address: address.clone(),
                source,
            }),
        }
    }

    /// Every server that serves now.
    pub(super) async fn servers(&self, fresh: bool) -> Result<Vec<Target>, StubError> {
        self.group("any", fresh).await
    }

    /// The servers that a name in `pool` stands for.
    async fn group(&self, label: &str, fresh: bool) -> Result<Vec<Target>, StubError> {
        match self.service(&self.domain.in_pool(label), fresh).await? {
            Service::Servers(records) => Ok(self.order(&records)),
            // Names of servers lie in no part that is delegated.
            Service::Away(_) => Ok(Vec::new()),
        }
    }

    /// Remembers whom a redirect named.
    pub(super) fn learn_owner(&self, address: &Address, owner: Target) {
        self.owners.put(address.clone(), owner, OWNER_TTL);
    }

    /// Whether a host is a server of this pool: `<server>.pool.<domain>`.
    pub(super) fn is_server(&self, host: &str) -> bool {
        let pool = self.domain.in_pool("any").base_name().to_lowercase();
        Name::from_ascii(host).is_ok_and(|mut name| {
            name.set_fqdn(true);
            name.base_name().to_lowercase() == pool
        })
    }

    /// The SRV records of a name, none for a name that has none; or who has it, where that is another pool.
    async fn service(&self, name: &Name, fresh: bool) -> Result<Service, StubError> {
        if !fresh && let Some(known) = self.services.get(name) {
            return Ok(known);
        }
        let mut answer = self.resolver.ask(name, RecordType::SRV).await?;
        let mut leads = delegation::leads(&self.domain, name, &answer);
        if let Leads::On(next) = leads {
            answer = self.resolver.ask(&next, RecordType::SRV).await?;
            leads = delegation::leads(&self.domain, &next, &answer);
        }
        let (service, ttl) = match leads {
            Leads::Away(to) => (Service::Away(Arc::from(to)), away_ttl(&answer)),
            Leads::Here | Leads::On(_) => {
                let records: Arc<[SRV]> = answer.srv().cloned().collect();
                self.learn_hosts(&answer);
                let ttl = match records.len() {
                    0 => negative_ttl(&answer),
                    _ => positive_ttl(&answer),
                };
                (Service::Servers(records), ttl)
            }
        };
        self.services.put(name.clone(), service.clone(), ttl);
        Ok(service)
    }

    /// Addresses that came beside SRV records.
    fn learn_hosts(&self, answer: &Answer) {
        let mut hosts: HashMap<Box<str>, (Vec<IpAddr>, u32)> = HashMap::new();
        for record in &answer.additionals {
            if let Some(ip) = record.data.ip_addr() {
                let (ips, ttl) = hosts.entry(host_of(&record.name)).or_insert((Vec::new(), record.ttl));
                ips.push(ip);
                *ttl = record.ttl.min(*ttl);
            }
        }
        for (host, (ips, ttl)) in hosts {
            self.hosts.put(host, ips.into(), Duration::from_secs(ttl.into()));
        }
    }

    /// The addresses of a server.
    pub(super) async fn addresses(&self, host: &str) -> Result<Arc<[IpAddr]>, StubError> {
        let host: Box<str> = host.to_ascii_lowercase().into();
        if let Some(known) = self.hosts.get(&host) {
            return Ok(known);
        }
        let refused = |why: &str| StubError::Refused {
            code: ResponseCode::NXDomain,
            why: format!("{host} {why}").into(),
        };
        let mut name = Name::from_ascii(&host).map_err(|_| refused("is no name"))?;
        name.set_fqdn(true);
        let (a, aaaa) = tokio::try_join!(
            self.resolver.ask(&name, RecordType::A),
            self.resolver.ask(&name, RecordType::AAAA)
        )?;
        let ips: Arc<[IpAddr]> = a.addresses().chain(aaaa.addresses()).collect();
        if ips.is_empty() {
            return Err(refused(
                "has no address: the server is not alive, or this client may not see it",
            ));
        }
        self.hosts
            .put(host, Arc::clone(&ips), positive_ttl(&a).min(positive_ttl(&aaaa)));
        Ok(ips)
    }

    /// Targets in the order of RFC 2782: by priority, then at random by weight.
    fn order(&self, records: &[SRV]) -> Vec<Target> {
        let mut rest: Vec<&SRV> = records
            .iter()
            .filter(|record| !record.target.is_root() && self.is_server(&host_of(&record.target)))
            .collect();
        let mut targets = Vec::with_capacity(rest.len());
        while let Some(next) = choose(&rest, rand::random()) {
            let record = rest.swap_remove(next);
            targets.push(Target {
                host: host_of(&record.target),
                port: record.port,
            });
        }
        targets
    }
}

/// Which of the records is asked next: one of the lowest priority, with a chance in proportion to its weight. A weight of 0
/// has the least chance, and not none (RFC 2782, "Weight").
fn choose(records: &[&SRV], random: u32) -> Option<usize> {
    let priority = records.iter().map(|record| record.priority).min()?;
    let candidates = || {
        records
            .iter()
            .enumerate()
            .filter(|(_, record)| record.priority == priority)
    };
    // Every weight counts 256-fold and one more, so that a sum is never 0.
    let weight = |record: &SRV| u64::from(record.weight) * 256 + 1;
    let sum: u64 = candidates().map(|(_, record)| weight(record)).sum();
    let mut point = (u64::from(random) * sum) >> 32;
    for (index, record) in candidates() {
        match point.checked_sub(weight(record)) {
            None => return Some(index),
            Some(left) => point = left,
        }
    }
    None
}

fn host_of(name: &Name) -> Box<str> {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase().into()
}

fn positive_ttl(answer: &Answer) -> Duration {
    let ttl = answer.answers.iter().map(|record| record.ttl).min();
    ttl.map_or(TTL_MAX, |ttl| Duration::from_secs(ttl.into()))
}

/// The alias and the referral, whichever ends first; an answer may hold one of them only.
fn away_ttl(answer: &Answer) -> Duration {
    let records = answer.answers.iter().chain(&answer.authorities);
    let ttl = records.map(|record| record.ttl).min();
    ttl.map_or(OWNER_TTL, |ttl| OWNER_TTL.min(Duration::from_secs(ttl.into())))
}

/// RFC 2308 section 5: the lesser of the SOA's TTL and its minimum.
fn negative_ttl(answer: &Answer) -> Duration {
    let soa = answer.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    soa.map_or(NEGATIVE_WITHOUT_SOA, |seconds| Duration::from_secs(seconds.into()))
}

/// The resolver that connections ask: the names in certificates and redirects are known to this pool's DNS only.
pub(super) struct Hosts(pub(super) Arc<Locator>);

impl reqwest::dns::Resolve for Hosts {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let locator = Arc::clone(&self.0);
        Box::pin(async move {
            let ips = locator.addresses(name.as_str()).await?;
            // The port of the URL takes the place of 0.
            let addresses: Vec<SocketAddr> = ips.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// A map that forgets by time, and has a bound.
#[derive(Debug)]
struct Memory<K, V> {
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Memory {
            entries: Mutex::new(HashMap::new()),
        }
    }
}

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let entries = self.entries.lock();
        let (until, value) = entries.get(key)?;
        (Instant::now() < *until).then(|| value.clone())
    }

    fn put(&self, key: K, value: V, ttl: Duration) {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        if entries.len() >= REMEMBERED_MAX {
            entries.retain(|_, (until, _)| now < *until);
        }
        if entries.len() >= REMEMBERED_MAX {
            entries.clear();
        }
        entries.insert(key, (now + ttl.min(TTL_MAX), value));
    }

    fn forget(&self, key: &K) {
        self.entries.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(priority: u16, weight: u16, host: &str) -> SRV {
        SRV::new(
            priority,
            weight,
            9001,
            format!("{host}.pool.hypernet.internal.").parse().unwrap(),
        )
    }

    fn locator() -> Locator {
        Locator::new("hypernet.internal.".parse().unwrap(), Resolver::new(Vec::new(), None))
    }

    #[test]
    fn lower_priority_comes_first_and_weight_decides_within_it() {
        let records = [record(10, 60_000, "s4"), record(0, 3, "s1"), record(0, 1, "s2")];
        let locator = locator();
        let mut first = HashMap::<String, u32>::new();
        for _ in 0..4_000 {
            let targets = locator.order(&records);
            assert_eq!(targets.len(), 3);
            assert_eq!(&*targets[2].host, "s4.pool.hypernet.internal");
            *first.entry(targets[0].host.to_string()).or_default() += 1;
        }
        let share = f64::from(first["s1.pool.hypernet.internal"]) / 4_000.0;
        assert!((0.70..0.80).contains(&share), "{share}");
    }

    /// A locator that remembers an answer of DNS for object 3.1, and that a redirect named its owner.
    fn redirected(holders: &[&str], owner: &str) -> (Locator, Address) {
        let (locator, address) = (locator(), "3.1".parse().unwrap());
        let name = locator.domain.obj_name(&address).unwrap();
        let records: Vec<SRV> = holders.iter().map(|host| record(0, 100, host)).collect();
        locator.services.put(name, Service::Servers(records.into()), TTL_MAX);
        locator.learn_owner(&address, target(owner));
        (locator, address)
    }

    async fn here(locator: &Locator, address: &Address, purpose: Purpose) -> Vec<Target> {
        match locator.locate(address, purpose, false).await.unwrap() {
            Located::Here(targets) => targets,
            Located::Away(to) => panic!("{to:?}"),
        }
    }

    fn target(host: &str) -> Target {
        Target {
            host: format!("{host}.pool.hypernet.internal").into(),
            port: 9001,
        }
    }

    #[tokio::test]
    async fn reads_go_by_weight_although_a_redirect_named_the_owner() {
        let (locator, address) = redirected(&["s1", "s2"], "s1");
        let mut first = HashMap::<Target, u32>::new();
        for _ in 0..1_000 {
            let targets = here(&locator, &address, Purpose::Reading).await;
            assert_eq!(targets.len(), 2);
            *first.entry(targets[0].clone()).or_default() += 1;
        }
        let share = f64::from(first[&target("s2")]) / 1_000.0;
        assert!((0.4..0.6).contains(&share), "{share}");
    }

    #[tokio::test]
    async fn writes_go_to_the_owner_that_a_redirect_named() {
        let (locator, address) = redirected(&["s1", "s2"], "s1");
        for purpose in [Purpose::Existing, Purpose::Creating] {
            for _ in 0..100 {
                let targets = here(&locator, &address, purpose).await;
                assert_eq!(targets, [target("s1")], "{purpose:?}");
            }
        }
    }

    #[tokio::test]
    async fn reads_follow_a_redirect_to_an_owner_that_dns_did_not_name() {
        let (locator, address) = redirected(&["s1", "s2"], "s3");
        let targets = here(&locator, &address, Purpose::Reading).await;
        assert_eq!(targets, [target("s3")]);
    }

    #[test]
    fn weight_of_zero_has_a_chance_when_all_are_zero() {
        let records = [record(0, 0, "s1"), record(0, 0, "s2")];
        let refs: Vec<&SRV> = records.iter().collect();
        assert_eq!(choose(&refs, 0), Some(0));
        assert_eq!(choose(&refs, u32::MAX), Some(1));
        assert_eq!(choose(&[], 7), None);
    }

    #[test]
    fn only_servers_of_this_pool_are_asked() {
        let locator = locator();
        assert!(locator.is_server("s2.pool.hypernet.internal"));
        assert!(locator.is_server("S2.pool.HYPERNET.internal."));
        for host in [
            "s2.pool.other.internal",
            "pool.hypernet.internal",
            "a.s2.pool.hypernet.internal",
            "127.0.0.1",
            "",
        ] {
            assert!(!locator.is_server(host), "{host}");
        }
        let foreign = SRV::new(0, 0, 9001, "www.example.org.".parse().unwrap());
        assert_eq!(locator.order(&[foreign]), []);
    }

    #[test]
    fn memory_forgets_by_time() {
        let memory = Memory::<u32, u32>::default();
        memory.put(1, 7, Duration::from_secs(60));
        memory.put(2, 8, Duration::ZERO);
        assert_eq!(memory.get(&1), Some(7));
        assert_eq!(memory.get(&2), None);
        memory.forget(&1);
        assert_eq!(memory.get(&1), None);
    }
}
