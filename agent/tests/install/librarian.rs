//! A librarian that tells one server what it wants, and remembers what that server says of itself: real sockets and signatures.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use zones::want::PoolName;
use zones::{Change, Domain, Errand, Has, Incarnation, Policy, Role, Standing, Told, TsigKey, Want, read_update, tsig};

/// Of every server here.
pub(super) const SECRET: [u8; 32] = [7; 32];

/// What it knows.
#[derive(Default)]
struct Known {
    want: Option<Want>,
    /// Everything that the server has said, the last at the end.
    said: Vec<Has>,
}

/// A running librarian of one server.
pub(super) struct Librarian {
    pub(super) address: SocketAddr,
    known: Arc<Mutex<Known>>,
}

impl Librarian {
    pub(super) fn start() -> Librarian {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let librarian = Librarian {
            address: socket.local_addr().unwrap(),
            known: Arc::default(),
        };
        let known = Arc::clone(&librarian.known);
        std::thread::spawn(move || {
            let mut octets = [0; 8192];
            loop {
                let (count, from) = socket.recv_from(&mut octets).unwrap();
                let answer = answer(&mut known.lock(), &octets[..count]);
                // Who asked may be gone.
                drop(socket.send_to(&answer, from));
            }
        });
        librarian
    }

    pub(super) fn want(&self, role: Role, (plan, step): (u64, u64), release: Option<&str>) {
        self.known.lock().want = Some(Want {
            role,
            targets: Vec::new(),
            plan,
            step,
            policy: Policy::default(),
            errand: Errand {
                release: release.map(str::to_owned),
                ..Errand::default()
            },
        });
    }

    /// All that the server has said so far.
    pub(super) fn said(&self) -> Vec<Has> {
        self.known.lock().said.clone()
    }
}

fn answer(known: &mut Known, octets: &[u8]) -> Vec<u8> {
    let domain: Domain = "hypernet.internal".parse().unwrap();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let key = |name: &Name| TsigKey::new(name.to_string().trim_end_matches('.'), &SECRET).ok();
    let signed = tsig::verify_request(octets, key, now_s).unwrap().expect("agents sign");
    let request = Message::from_vec(octets).unwrap();
    let mut answer = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    answer.add_queries(request.queries.clone());
    match request.metadata.op_code {
        OpCode::Query => {
            let question = &request.queries[0];
            let strings = match PoolName::of(&domain, question.name()) {
                Some(PoolName::Want(_)) => known.want.as_ref().map(Want::strings),
                Some(PoolName::Server(_)) => known.said.last().map(Has::answered),
                _ => None,
            };
            match strings {
                Some(strings) if question.query_type() == RecordType::TXT => {
                    let data = RData::TXT(TXT::new(strings));
                    answer.add_answer(Record::from_rdata(question.name().clone(), 5, data));
                }
                Some(_) | None => answer.metadata.response_code = ResponseCode::NXDomain,
            }
        }
        OpCode::Update => {
            for change in read_update(&request).unwrap().changes {
                if let Change::Add(record) = change
                    && let RData::TXT(text) = &record.data
                {
                    known.said.push(Has::from_strings(&text.txt_data).unwrap());
                }
            }
        }
        other => panic!("{other:?}"),
    }
    let told = Told {
        incarnation: Incarnation([1; 16]),
        standing: Standing::Open,
    };
    let edns = answer.edns.get_or_insert_with(hickory_proto::op::Edns::new);
    edns.options_mut().insert(told.to_option());
    let mut octets = answer.to_vec().unwrap();
    tsig::sign_response(&mut octets, &signed.key, &signed.mac, now_s);
    octets
}
