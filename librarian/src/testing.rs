//! A registry with servers and objects, for tests.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
use zones::update::{build_has_update, build_register_update};
use zones::{
    Address, Change, Domain, Epoch, Has, Level, Register, RegisterChange, Role, ServerName, State, Tx, Update,
    read_update,
};

use crate::registry::{By, JournalBounds, Proposal, Received, Registry, ServerChange, Settings, SubmitError};

pub(crate) fn domain() -> Domain {
    "hypernet.internal".parse().unwrap()
}

pub(crate) fn address(text: &str) -> Address {
    text.parse().unwrap()
}

pub(crate) fn server(text: &str) -> ServerName {
    text.parse().unwrap()
}

/// A pool's registry in a temporary directory.
pub(crate) struct Pool {
    pub(crate) registry: Registry,
    pub(crate) dir: tempfile::TempDir,
    next_tx: std::cell::Cell<u64>,
}

pub(crate) fn settings() -> Settings {
    Settings {
        lease: Duration::from_secs(3600),
        ..Settings::default()
    }
}

impl Pool {
    /// An empty registry.
    pub(crate) fn empty() -> Pool {
        Pool::with(settings())
    }

    fn with(settings: Settings) -> Pool {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("registry.redb"), &domain(), settings).unwrap();
        Pool {
            registry,
            dir,
            next_tx: std::cell::Cell::new(1),
        }
    }

    /// Four servers that serve and are alive, `s1` to `s4` at 192.0.2.1 to 192.0.2.4, and `s5`, which is free.
    pub(crate) async fn new() -> Pool {
        Pool::fill(Pool::empty()).await
    }

    /// The same with a journal of this size.
    pub(crate) async fn with_journal(journal: JournalBounds) -> Pool {
        let settings = Settings { journal, ..settings() };
        Pool::fill(Pool::with(settings)).await
    }

    /// The same once more, after its registry was closed.
    pub(crate) fn opened_again(self, journal: JournalBounds) -> Pool {
        let settings = Settings { journal, ..settings() };
        let registry = Registry::open(&self.path(), &domain(), settings).unwrap();
        Pool { registry, ..self }
    }

    async fn fill(pool: Pool) -> Pool {
        for number in 1..=5_u8 {
            let name = server(&format!("s{number}"));
            let role = if number == 5 { Role::Free } else { Role::Serving };
            let add = ServerChange::Add {
                name: name.clone(),
                role,
            };
            pool.registry.submit(Proposal::Server(add)).await.unwrap();
            pool.speak(&name, number).await.unwrap();
        }
        pool
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("registry.redb")
    }

    /// A server says what it has.
    pub(crate) async fn speak(&self, name: &ServerName, number: u8) -> Result<(), SubmitError> {
        self.tell(name, number, &has()).await
    }

    /// A server says that it has this.
    pub(crate) async fn tell(&self, name: &ServerName, number: u8, has: &Has) -> Result<(), SubmitError> {
        let addresses = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))];
        let update = build_has_update(&domain(), 1, name, has, 9000 + u16::from(number), &addresses).unwrap();
        let by = By::Agent(name.clone());
        self.registry.submit(proposal(by, &update)).await
    }

    pub(crate) fn tx(&self) -> Tx {
        let number = self.next_tx.get();
        self.next_tx.set(number + 1);
        Tx(u128::from(number).to_be_bytes())
    }

    /// A first register of an object at a server.
    pub(crate) fn first(&self, text: &str, owner: &str) -> Register {
        Pool::first_with(text, owner, self.tx())
    }

    /// The same with this tx.
    pub(crate) fn first_with(text: &str, owner: &str, tx: Tx) -> Register {
        Register {
            address: address(text),
            epoch: Epoch::FIRST,
            owner: server(owner),
            state: State::Stable,
            tx,
            holders: vec![server(owner)],
            kind: "photo".parse().unwrap(),
            schema: 3,
            level: Level(1),
        }
    }

    /// Changes a register by its owner's key.
    pub(crate) async fn change(&self, old: Option<&Register>, new: &Register) -> Result<(), SubmitError> {
        let by = By::Agent(new.owner.clone());
        self.change_by(by, old, new).await
    }

    pub(crate) async fn change_by(&self, by: By, old: Option<&Register>, new: &Register) -> Result<(), SubmitError> {
        let change = RegisterChange {
            old: old.cloned(),
            new: new.clone(),
        };
        let message = build_register_update(&domain(), 1, &[change]).unwrap();
        self.registry.submit(proposal(by, &message)).await
    }

    /// Creates objects at a server.
    pub(crate) async fn create(&self, owner: &str, addresses: &[&str]) -> Vec<Register> {
        let registers: Vec<Register> = addresses.iter().map(|text| self.first(text, owner)).collect();
        for part in registers.chunks(80) {
            let changes: Vec<RegisterChange> = part
                .iter()
                .map(|new| RegisterChange {
                    old: None,
                    new: new.clone(),
                })
                .collect();
            let message = build_register_update(&domain(), 1, &changes).unwrap();
            let by = By::Agent(server(owner));
            self.registry.submit(proposal(by, &message)).await.unwrap();
        }
        registers
    }

    /// Changes ordinary records as `nsupdate` with the admin key does; a line is `NAME TTL TYPE DATA` to add, or begins
    /// with `-` to delete a name, an RRset or a record.
    pub(crate) async fn nsupdate(&self, zone: &str, lines: &[&str]) -> Result<(), SubmitError> {
        let update = Update {
            zone: Name::from_ascii(zone).unwrap(),
            prerequisites: Vec::new(),
            changes: lines.iter().map(|line| change(line)).collect(),
        };
        let proposal = Proposal::Update {
            by: By::Admin,
            update,
            malformed: None,
            received: received(),
        };
        self.registry.submit(proposal).await
    }
}

/// One line of [`Pool::nsupdate`].
fn change(line: &str) -> Change {
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = |text: &str| Name::from_ascii(text).unwrap();
    match words[..] {
        ["-", owner] => Change::DeleteName { name: name(owner) },
        ["-", owner, kind] => Change::DeleteRrset {
            name: name(owner),
            kind: kind.parse().unwrap(),
        },
        ["-", owner, kind, ref words @ ..] => Change::DeleteRecord {
            name: name(owner),
            data: data(kind, words),
        },
        [owner, ttl, kind, ref words @ ..] => {
            Change::Add(Record::from_rdata(name(owner), ttl.parse().unwrap(), data(kind, words)))
        }
        _ => panic!("{line}"),
    }
}

fn data(kind: &str, words: &[&str]) -> RData {
    let name = |text: &str| Name::from_ascii(text).unwrap();
    match (kind, words) {
        ("A" | "AAAA", [address]) => RData::from(address.parse::<IpAddr>().unwrap()),
        ("NS", [target]) => RData::NS(rdata::NS(name(target))),
        ("CNAME", [target]) => RData::CNAME(rdata::CNAME(name(target))),
        ("MX", [preference, target]) => RData::MX(rdata::MX::new(preference.parse().unwrap(), name(target))),
        ("TXT", words) => RData::TXT(rdata::TXT::new(words.iter().map(ToString::to_string).collect())),
        ("SOA", [serial]) => RData::SOA(rdata::SOA::new(
            name("ns.example."),
            name("x.example."),
            serial.parse().unwrap(),
            1,
            2,
            3,
            4,
        )),
        (other, _) => RData::Unknown {
            code: RecordType::Unknown(other.strip_prefix("TYPE").unwrap().parse().unwrap()),
            rdata: rdata::NULL::with(words.concat().into_bytes()),
        },
    }
}

pub(crate) fn has() -> Has {
    Has {
        release: "0.1.0".to_owned(),
        role: Role::Serving,
        objects: 0,
        bytes: 0,
        capacity: 1 << 30,
        load: 0,
        heat: 0,
        errors: 0,
        unreadable: 0,
        plan: 0,
        commits: 7,
        peer_port: 9100,
        quarantined: 0,
        audit: None,
        upkeep: None,
        hot: None,
        kept: None,
    }
}

/// An update message as the registry takes it.
pub(crate) fn proposal(by: By, message: &[u8]) -> Proposal {
    Proposal::Update {
        by,
        update: read(message),
        malformed: None,
        received: received(),
    }
}

/// Now, from somebody whose clock is ours.
pub(crate) fn received() -> Received {
    Received {
        at: Instant::now(),
        ahead_s: 0,
    }
}

pub(crate) fn read(message: &[u8]) -> Update {
    read_update(&Message::from_vec(message).unwrap()).unwrap()
}
