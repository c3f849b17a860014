//! A librarian of a few registers for tests: real sockets, real signatures, the real transition table, and faults at will.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::net::{TcpListener, UdpSocket};
use zones::query::ExtendedError;
use zones::tsig::{self, TsigKey};
use zones::want::PoolName;
use zones::{
    Actor, Address, Change, Domain, Has, Incarnation, PoolView, Prerequisite, Register, Report, Role, ServerName,
    Standing, Told, Want, judge, read_update,
};

use super::line::{read_message, write_message};
use crate::clock;

/// What the stub knows and how it misbehaves.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) registers: HashMap<Address, Register>,
    pub(crate) roles: HashMap<ServerName, Role>,
    pub(crate) want: Option<Want>,
    /// QUIC ports of servers on loopback.
    pub(crate) peers: HashMap<ServerName, u16>,
    /// Commits that these servers reported.
    pub(crate) commits: u64,
    /// Server updates taken.
    pub(crate) told: u32,
    /// Update messages taken, and changes in them.
    pub(crate) messages: u32,
    pub(crate) changes: u32,
    /// So many questions get no answer.
    pub(crate) lose_questions: u32,
    /// So many updates are lost before they are applied.
    pub(crate) lose_updates: u32,
    /// So many updates are applied, and their replies lost.
    pub(crate) lose_replies: u32,
    /// Answers over UDP are cut short.
    pub(crate) truncate: bool,
    /// Nothing is answered.
    pub(crate) silent: bool,
    /// What is told of the registry; unless said, that it is the first one and open.
    pub(crate) registry: Option<Told>,
    /// Servers that are lost for good.
    pub(crate) lost: Vec<ServerName>,
    /// Messages of reports that were taken.
    pub(crate) reports: Vec<Report>,
}

impl PoolView for Pool {
    fn role(&self, server: &ServerName) -> Option<Role> {
        Some(self.roles.get(server).copied().unwrap_or(Role::Serving))
    }

    fn may_move(&self, _: &Address, _: &ServerName, _: &ServerName) -> bool {
        true
    }

    fn floor(&self, _: &ServerName) -> zones::Level {
        zones::Level(1)
    }

    fn is_lost(&self, server: &ServerName) -> bool {
        self.lost.contains(server)
    }
}

/// A running stub.
#[derive(Clone, Debug)]
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    pub(crate) domain: Domain,
    pub(crate) pool: Arc<Mutex<Pool>>,
}

impl Stub {
    pub(crate) async fn start() -> Stub {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let stub = Stub {
            address: tcp.local_addr().unwrap(),
            domain: "hypernet.internal".parse().unwrap(),
            pool: Arc::default(),
        };
        let over_udp = stub.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (octets, from) = udp.recv_from(&mut buffer).await.unwrap();
                if let Some(answer) = over_udp.answer(&buffer[..octets], true) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let over_tcp = stub.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let stub = over_tcp.clone();
                tokio::spawn(async move {
                    while let Ok(message) = read_message(&mut stream).await {
                        if let Some(answer) = stub.answer(&message, false)
                            && write_message(&mut stream, &answer).await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
        stub
    }

    pub(crate) fn registers(&self) -> super::Registers {
        self.registers_of("s1")
    }

    /// The librarian as another server sees it.
    pub(crate) fn registers_of(&self, server: &str) -> super::Registers {
        let key = TsigKey::new(server, &[7; 32]).unwrap();
        let trust = Arc::new(super::Trust::forgetful());
        super::Registers::new(self.domain.clone(), server.parse().unwrap(), self.address, key, trust)
    }

    pub(crate) fn register(&self, address: &Address) -> Option<Register> {
        self.pool.lock().registers.get(&address.folded()).cloned()
    }

    fn answer(&self, octets: &[u8], udp: bool) -> Option<Vec<u8>> {
        let now_s = clock::unix_s();
        let key = |name: &Name| TsigKey::new(label(name).as_str(), &[7; 32]).ok();
        let signed = tsig::verify_request(octets, key, now_s).unwrap().expect("agents sign");
        let request = Message::from_vec(octets).unwrap();
        let mut answer = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
        answer.add_queries(request.queries.clone());
        let mut pool = self.pool.lock();
        if pool.silent {
            return None;
        }
        match request.metadata.op_code {
            OpCode::Query => {
                if pool.lose_questions > 0 {
                    pool.lose_questions -= 1;
                    return None;
                }
                if udp && pool.truncate {
                    answer.metadata.truncation = true;
                } else {
                    self.question(&pool, &request, &mut answer);
                }
            }
            OpCode::Update => {
                if pool.lose_updates > 0 {
                    pool.lose_updates -= 1;
                    return None;
                }
                if let Err((code, why)) = self.update(&mut pool, &request, &label(signed.key.name()).parse().unwrap()) {
                    answer.metadata.response_code = code;
                    let mut edns = hickory_proto::op::Edns::new();
                    let error = ExtendedError {
                        code: ExtendedError::PROHIBITED,
                        text: why,
                    };
                    edns.options_mut().insert(error.to_option());
                    answer.set_edns(edns);
                }
                if pool.lose_replies > 0 {
                    pool.lose_replies -= 1;
                    return None;
                }
            }
            other => panic!("{other:?}"),
        }
        let told = pool.registry.unwrap_or(Told {
            incarnation: Incarnation([1; 16]),
            standing: Standing::Open,
        });
        let edns = answer.edns.get_or_insert_with(hickory_proto::op::Edns::new);
        edns.options_mut().insert(told.to_option());
        let mut octets = answer.to_vec().unwrap();
        tsig::sign_response(&mut octets, &signed.key, &signed.mac, now_s);
        Some(octets)
    }

    fn question(&self, pool: &Pool, request: &Message, answer: &mut Message) {
        let question = &request.queries[0];
        if let Some(PoolName::Server(server)) = PoolName::of(&self.domain, question.name())
            && let Some(port) = pool.peers.get(&server)
        {
            let data = match question.query_type() {
                RecordType::TXT => RData::TXT(TXT::new(has(*port, pool.commits).strings())),
                RecordType::SRV => RData::SRV(SRV::new(0, 0, 443, question.name().clone())),
                RecordType::A => RData::A(Ipv4Addr::LOCALHOST.into()),
                _ => return,
            };
            answer.add_answer(Record::from_rdata(question.name().clone(), 5, data));
            return;
        }
        let strings = match self.domain.address_of(question.name()).unwrap() {
            Some(address) => pool.registers.get(&address).map(Register::strings),
            None => match PoolName::of(&self.domain, question.name()) {
                Some(PoolName::Want(_)) => pool.want.as_ref().map(Want::strings),
                _ => None,
            },
        };
        match strings {
            Some(strings) if question.query_type() == RecordType::TXT => {
                let txt = RData::TXT(TXT::new(strings));
                answer.add_answer(Record::from_rdata(question.name().clone(), 5, txt));
            }
            _ => answer.metadata.response_code = ResponseCode::NXDomain,
        }
    }

    fn update(&self, pool: &mut Pool, request: &Message, me: &ServerName) -> Result<(), (ResponseCode, String)> {
        let update = read_update(request).unwrap();
        if let Ok(report) = zones::report::read_report(&self.domain, &update) {
            pool.reports.push(report);
            return Ok(());
        }
        if update.zone != *self.domain.zone(zones::Zone::Obj) {
            pool.told += 1;
            return Ok(());
        }
        pool.messages += 1;
        let at = |name| self.domain.address_of(name).unwrap().unwrap();
        for prerequisite in &update.prerequisites {
            let register = pool.registers.get(&at(prerequisite.name()));
            let met = match prerequisite {
                Prerequisite::RrsetAbsent { .. } => register.is_none(),
                Prerequisite::RrsetEquals { data, .. } => {
                    let text = register.map(|register| RData::TXT(TXT::new(register.strings())));
                    data.len() == 1 && Some(&data[0]) == text.as_ref()
                }
                other => panic!("{other:?}"),
            };
            if !met {
                return Err((prerequisite.unmet(), "not as expected".to_owned()));
            }
        }
        let mut new = Vec::new();
        for change in &update.changes {
            if let Change::Add(record) = change
                && let RData::TXT(txt) = &record.data
            {
                let register = Register::from_strings(&txt.txt_data).unwrap();
                let old = pool.registers.get(&register.address.folded());
                judge(old, &register, Actor::Agent(me), pool)
                    .map_err(|refusal| (ResponseCode::Refused, refusal.to_string()))?;
                new.push(register);
            }
        }
        for register in new {
            pool.changes += 1;
            pool.registers.insert(register.address.folded(), register);
        }
        Ok(())
    }
}

/// A name of one label, as text.
fn label(name: &Name) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}

fn has(peer_port: u16, commits: u64) -> Has {
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
        commits,
        peer_port,
        quarantined: 0,
        audit: None,
        upkeep: None,
        hot: None,
        kept: None,
    }
}
