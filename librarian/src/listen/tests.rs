//! Messages over real sockets, and what malformed ones do.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::DropGuard;
use zones::tsig::{sign_request, verify_response};
use zones::update::{build_has_update, build_register_update};
use zones::{Mac, Register, RegisterChange, TsigKey};

use super::*;
use crate::answer;
use crate::answer::Network;
use crate::answer::reply::{Room, Transport};
use crate::keys::{Holder, Key, KeyRing, Keys};
use crate::testing::{Pool, address, domain, server};

fn key(name: &str, octet: u8) -> TsigKey {
    TsigKey::new(name, &[octet; 32]).unwrap()
}

fn ring() -> Arc<KeyRing> {
    let mut keys = Keys::default();
    let grants = certs::Grants::new(["read:3".parse().unwrap()]).unwrap();
    for (tsig, holder) in [
        (key("admin", 1), Holder::Admin),
        (key("s1", 2), Holder::Agent(server("s1"))),
        (
            key("shop", 3),
            Holder::Client {
                name: "shop".parse().unwrap(),
                grants: Arc::new(grants),
            },
        ),
    ] {
        keys.insert(Key { tsig, holder });
    }
    Arc::new(KeyRing::fixed(keys))
}

fn service(pool: &Pool, networks: &[&str], rate: RateLimit) -> Arc<Service> {
    let networks: Vec<Network> = networks.iter().map(|text| text.parse().unwrap()).collect();
    let settings = answer::Settings {
        ns_addresses: vec!["127.0.0.1".parse().unwrap()],
        ..answer::Settings::default()
    };
    Arc::new(Service::new(pool.registry.clone(), settings, networks, ring(), rate))
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, octets: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(octets);
    message.edns = Some(edns);
    message
}

mod transfers;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What comes back, read.
async fn ask(service: &Service, octets: &[u8], transport: Transport) -> Message {
    let reply = service.respond(octets, LOCAL, transport).await.expect("an answer");
    Message::from_vec(&reply).unwrap()
}

#[tokio::test]
async fn questions_of_clients_for_objects_are_counted_and_those_of_agents_are_not() {
    let pool = Pool::new().await;
    pool.create("s1", &["3.1", "3.2"]).await;
    let service = service(&pool, &["127.0.0.0/8"], RateLimit::default());
    let mut asked = question("3.2.obj.hypernet.internal.", RecordType::SRV)
        .to_vec()
        .unwrap();
    sign_request(&mut asked, &key("s1", 2), now_s());
    for _ in 0..320 {
        service.respond(&asked, LOCAL, Transport::Udp).await.expect("an answer");
    }
    let hottest = || service.questions().hottest(4, std::time::Instant::now());
    assert!(hottest().is_empty(), "an agent asked");
    for name in [
        "3.1.obj.hypernet.internal.",
        "1.3.tree.hypernet.internal.",
        "3.1.",
        "3.7.",
    ] {
        let asked = question(name, RecordType::SRV).to_vec().unwrap();
        for _ in 0..160 {
            service.respond(&asked, LOCAL, Transport::Udp).await.expect("an answer");
        }
    }
    // About thirty of 480 questions, each for sixteen, in the window of five seconds: by chance six more or fewer.
    let hottest = hottest();
    assert_eq!(hottest.len(), 1, "{hottest:?}");
    assert!((70_000..=120_000).contains(&hottest[&address("3.1")]), "{hottest:?}");
}

/// A served pool.
struct Served {
    address: SocketAddr,
    service: Arc<Service>,
    _stop: DropGuard,
}

fn serve_on_loopback(service: Arc<Service>, settings: Settings) -> Served {
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap(), &settings).unwrap();
    let (address, stop) = (sockets.address(), CancellationToken::new());
    tokio::spawn(serve(
        sockets,
        Arc::clone(&service),
        settings,
        stop.clone(),
        CancellationToken::new(),
    ));
    Served {
        address,
        service,
        _stop: stop.drop_guard(),
    }
}

async fn send(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap();
    stream
        .write_all(&[&length.to_be_bytes(), message].concat())
        .await
        .unwrap();
}

async fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut message).await.unwrap();
    message
}

fn swap(id: u16, old: Option<&Register>, new: &Register, tsig: &TsigKey) -> (Vec<u8>, Mac) {
    let change = RegisterChange {
        old: old.cloned(),
        new: new.clone(),
    };
    let mut message = build_register_update(&domain(), id, &[change]).unwrap();
    let mac = sign_request(&mut message, tsig, now_s());
    (message, mac)
}

#[tokio::test]
async fn question_is_answered_over_udp_and_tcp_at_one_port() {
    let pool = Pool::new().await;
    pool.create("s1", &["3.1"]).await;
    let served = serve_on_loopback(
        service(&pool, &["127.0.0.0/8"], RateLimit::default()),
        Settings::default(),
    );
    let octets = question("3.1.obj.hypernet.internal.", RecordType::A).to_vec().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&octets, served.address).await.unwrap();
    let mut buffer = [0; 1500];
    let (length, _) = socket.recv_from(&mut buffer).await.unwrap();
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    send(&mut stream, &octets).await;
    for reply in [buffer[..length].to_vec(), receive(&mut stream).await] {
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!((reply.metadata.id, reply.answers.len()), (77, 1));
        assert!(reply.metadata.authoritative && !reply.metadata.recursion_available && reply.edns.is_none());
    }
    assert_eq!(served.service.counters().queries_total(), 2);
    assert!(
        served
            .service
            .counters()
            .to_prometheus()
            .contains("librarian_queries_total{rcode=\"NOERROR\"} 2\n")
    );
}

/// Asks the same thing over and over by UDP until each question was answered or dropped by the limit on responses; tells how many
/// answers came whole, and how many cut down.
async fn ask_often(served: &Served, octets: &[u8], times: u64) -> (u64, u64) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..times {
        socket.send_to(octets, served.address).await.unwrap();
    }
    let dropped = || served.service.counters().limited_dropped.load(Ordering::Relaxed);
    let (mut whole, mut cut) = (0, 0);
    let before = dropped();
    let until = Instant::now() + Duration::from_secs(30);
    while whole + cut + (dropped() - before) < times {
        assert!(
            Instant::now() < until,
            "{whole} whole, {cut} cut, {} dropped",
            dropped()
        );
        let mut buffer = [0; 1500];
        let Ok(received) = tokio::time::timeout(Duration::from_millis(20), socket.recv_from(&mut buffer)).await else {
            continue;
        };
        let reply = Message::from_vec(&buffer[..received.unwrap().0]).unwrap();
        assert_eq!(reply.metadata.id, 77);
        if reply.metadata.truncation {
            assert!(reply.answers.is_empty() && reply.queries.len() == 1);
            cut += 1;
        } else {
            whole += 1;
        }
    }
    (whole, cut)
}

#[tokio::test]
async fn strangers_get_few_answers_of_a_kind_and_listed_networks_and_who_signs_all() {
    let pool = Pool::new().await;
    pool.create("s1", &["3.1"]).await;
    let settings = Settings {
        responses_per_second: 1,
        ..Settings::default()
    };
    let mut octets = question("3.1.obj.hypernet.internal.", RecordType::A).to_vec().unwrap();
    let listed = serve_on_loopback(service(&pool, &["127.0.0.0/8"], RateLimit::default()), settings.clone());
    assert_eq!(ask_often(&listed, &octets, 50).await, (50, 0));
    let strange = serve_on_loopback(service(&pool, &[], RateLimit::default()), settings);
    let (whole, cut) = ask_often(&strange, &octets, 50).await;
    // One, and one more for each second that it took; of the others every second one.
    assert!(whole >= 1 && cut >= 1 && whole + cut < 50, "{whole} whole, {cut} cut");
    sign_request(&mut octets, &key("admin", 1), now_s());
    assert_eq!(ask_often(&strange, &octets, 50).await, (50, 0));
}

#[tokio::test]
async fn second_server_at_the_same_port_is_noticed() {
    let settings = Settings::default();
    let first = Sockets::bind("127.0.0.1:0".parse().unwrap(), &settings).unwrap();
    let second = Sockets::bind(first.address(), &settings);
    assert_eq!(second.err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
    // Its UDP port alone is noticed too.
    let socket = bind_udp("127.0.0.1:0".parse().unwrap()).unwrap();
    let third = Sockets::bind(socket.local_addr().unwrap(), &settings);
    assert_eq!(third.err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
}

#[tokio::test]
async fn pipelined_updates_of_one_connection_are_judged_in_their_order() {
    let pool = Pool::new().await;
    let served = serve_on_loopback(service(&pool, &[], RateLimit::default()), Settings::default());
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let tsig = key("s1", 2);
    let mut macs = Vec::new();
    let mut old = None;
    // Longer than any queue on the way.
    for id in 0..500 {
        let new = pool.first("3.1", "s1");
        let (message, mac) = swap(id, old.as_ref(), &new, &tsig);
        macs.push(mac);
        send(&mut stream, &message).await;
        old = Some(new);
    }
    for _ in 0..500 {
        let octets = receive(&mut stream).await;
        let reply = Message::from_vec(&octets).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        verify_response(&octets, &tsig, &macs[usize::from(reply.metadata.id)], now_s()).unwrap();
    }
    assert_eq!(pool.registry.view().register(&address("3.1")), old);
}

#[tokio::test]
async fn signature_tells_how_far_the_clock_of_a_server_is_off() {
    let pool = Pool::new().await;
    let served = serve_on_loopback(service(&pool, &[], RateLimit::default()), Settings::default());
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let tsig = key("s1", 2);
    for off_s in [-250_i64, 0, 120] {
        let has = crate::testing::has();
        let at = ["192.0.2.1".parse().unwrap()];
        let mut message = build_has_update(&domain(), 1, &server("s1"), &has, 9001, &at).unwrap();
        let before = now_s();
        sign_request(&mut message, &tsig, before.saturating_add_signed(off_s));
        send(&mut stream, &message).await;
        let reply = Message::from_vec(&receive(&mut stream).await).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        let told = pool.registry.view().server(&server("s1")).unwrap().clock_ahead_s;
        // The message took time, and the clock may have begun another second.
        let took = (now_s() - before).cast_signed();
        assert!((off_s - took..=off_s).contains(&told), "{off_s}: {told}");
    }
}

#[tokio::test]
async fn of_two_hundred_pipelined_updates_with_one_prerequisite_one_wins_and_the_rest_get_a_signed_nxrrset() {
    let pool = Pool::new().await;
    let old = pool.create("s1", &["3.1"]).await.remove(0);
    let served = serve_on_loopback(service(&pool, &[], RateLimit::default()), Settings::default());
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let tsig = key("s1", 2);
    let mut macs = Vec::new();
    for id in 0..200 {
        let (message, mac) = swap(id, Some(&old), &pool.first("3.1", "s1"), &tsig);
        macs.push(mac);
        send(&mut stream, &message).await;
    }
    let mut won = 0;
    for _ in 0..200 {
        let octets = receive(&mut stream).await;
        let reply = Message::from_vec(&octets).unwrap();
        verify_response(&octets, &tsig, &macs[usize::from(reply.metadata.id)], now_s()).unwrap();
        match reply.metadata.response_code {
            ResponseCode::NoError => won += 1,
            rcode => assert_eq!(rcode, ResponseCode::NXRRSet),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn update_whose_connection_closes_is_made_all_the_same() {
    let pool = Pool::new().await;
    let served = serve_on_loopback(service(&pool, &[], RateLimit::default()), Settings::default());
    let new = pool.first("3.1", "s1");
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    {
        // Nothing is published while a view is held: the connection is gone before the change is there.
        let view = pool.registry.view();
        send(&mut stream, &swap(1, None, &new, &key("s1", 2)).0).await;
        while served.service.proposed() == 0 {
            tokio::task::yield_now().await;
        }
        drop(stream);
        drop(view);
    }
    while pool.registry.view().register(&address("3.1")).is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connections_beyond_the_bounds_are_closed() {
    let pool = Pool::new().await;
    let settings = Settings {
        tcp_connections_max: 2,
        tcp_idle: Duration::from_millis(50),
        ..Settings::default()
    };
    let served = serve_on_loopback(service(&pool, &[], RateLimit::default()), settings);
    let octets = question("obj.hypernet.internal.", RecordType::SOA).to_vec().unwrap();
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        send(&mut stream, &octets).await;
        receive(&mut stream).await;
        open.push(stream);
    }
    let mut third = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0);
    // An idle one is closed, and makes room.
    assert_eq!(open[0].read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(open[1].read(&mut [0; 1]).await.unwrap(), 0);
    let mut again = TcpStream::connect(served.address).await.unwrap();
    send(&mut again, &octets).await;
    receive(&mut again).await;
}

#[tokio::test]
async fn slow_reader_is_cut() {
    let pool = Pool::new().await;
    let settings = Settings {
        tcp_slow: Duration::from_millis(50),
        ..Settings::default()
    };
    let served = serve_on_loopback(service(&pool, &[], RateLimit::default()), settings);
    let (mut reader, mut writer) = TcpStream::connect(served.address).await.unwrap().into_split();
    let octets = question("obj.hypernet.internal.", RecordType::SOA).to_vec().unwrap();
    let length = u16::try_from(octets.len()).unwrap().to_be_bytes();
    let many = [&length[..], &octets].concat().repeat(1000);
    // Sends and reads nothing, until the server has had enough.
    while writer.write_all(&many).await.is_ok() {}
    let mut rest = Vec::new();
    let _ = reader.read_to_end(&mut rest).await;
    assert!(
        served
            .service
            .counters()
            .to_prometheus()
            .contains("librarian_tcp_connections_slow_total 1\n")
    );
}

#[tokio::test]
async fn signatures_that_do_not_hold_get_the_answers_of_the_rfc_and_change_nothing() {
    let pool = Pool::new().await;
    let service = service(&pool, &[], RateLimit::default());
    let new = pool.first("3.1", "s1");
    let change = RegisterChange {
        old: None,
        new: new.clone(),
    };
    let unsigned = build_register_update(&domain(), 9, &[change]).unwrap();
    let signed = |tsig: &TsigKey, at_s| {
        let mut message = unsigned.clone();
        let mac = sign_request(&mut message, tsig, at_s);
        (message, mac)
    };
    // (message, rcode, TSIG error, whether the answer is signed)
    let (late, late_mac) = signed(&key("s1", 2), now_s() - 3600);
    let rows = [
        (unsigned.clone(), ResponseCode::Refused),
        (signed(&key("nobody", 2), now_s()).0, ResponseCode::NotAuth),
        (signed(&key("s1", 9), now_s()).0, ResponseCode::NotAuth),
        (late.clone(), ResponseCode::NotAuth),
        (signed(&key("shop", 3), now_s()).0, ResponseCode::Refused),
    ];
    for (message, rcode) in rows {
        let reply = ask(&service, &message, Transport::Tcp).await;
        assert_eq!((reply.metadata.response_code, reply.metadata.id), (rcode, 9));
    }
    let reply = service.respond(&late, LOCAL, Transport::Tcp).await.unwrap();
    let verdict = verify_response(&reply, &key("s1", 2), &late_mac, now_s());
    assert!(
        matches!(verdict, Err(zones::tsig::AnswerSignatureError::ClockRefused { .. })),
        "{verdict:?}"
    );
    assert_eq!(pool.registry.view().objects(), 0);
    let (message, mac) = signed(&key("s1", 2), now_s());
    let reply = service.respond(&message, LOCAL, Transport::Tcp).await.unwrap();
    verify_response(&reply, &key("s1", 2), &mac, now_s()).unwrap();
    assert_eq!(pool.registry.view().objects(), 1);
}

#[tokio::test]
async fn signed_question_is_answered_for_its_key_and_signed() {
    let pool = Pool::new().await;
    pool.create("s1", &["3.1", "4.1"]).await;
    let service = service(&pool, &[], RateLimit::default());
    let rows = [
        (Some(("s1", 2)), "4.1", ResponseCode::NoError),
        (Some(("shop", 3)), "3.1", ResponseCode::NoError),
        (Some(("shop", 3)), "4.1", ResponseCode::NXDomain),
        (None, "3.1", ResponseCode::NXDomain),
    ];
    for (signer, name, rcode) in rows {
        let mut message = question(&format!("{name}.obj.hypernet.internal."), RecordType::SRV)
            .to_vec()
            .unwrap();
        let signer = signer.map(|(name, octet)| key(name, octet));
        let mac = signer
            .as_ref()
            .map(|signer| sign_request(&mut message, signer, now_s()));
        let octets = service.respond(&message, LOCAL, Transport::Udp).await.unwrap();
        assert_eq!(
            Message::from_vec(&octets).unwrap().metadata.response_code,
            rcode,
            "{name}"
        );
        if let (Some(signer), Some(mac)) = (signer, mac) {
            verify_response(&octets, &signer, &mac, now_s()).unwrap();
        }
    }
}

#[tokio::test]
async fn refusal_says_why_where_the_asker_speaks_edns() {
    let pool = Pool::new().await;
    let service = service(&pool, &[], RateLimit::default());
    let message = with_edns(question("example.com.", RecordType::A), 1232)
        .to_vec()
        .unwrap();
    let octets = service.respond(&message, LOCAL, Transport::Udp).await.unwrap();
    let answer = zones::query::read_answer(&octets).unwrap();
    assert_eq!(answer.code, ResponseCode::Refused);
    assert_eq!(answer.why(), Some("not a name of this pool"));
    let message = question("example.com.", RecordType::A).to_vec().unwrap();
    assert!(ask(&service, &message, Transport::Udp).await.edns.is_none());
}

#[tokio::test]
async fn answer_too_large_for_udp_is_truncated_and_comes_whole_over_tcp() {
    let pool = Pool::new().await;
    let lines: Vec<String> = (0..100)
        .map(|n| format!("big.hypernet.internal. 60 TXT {n}-{}", "x".repeat(20)))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    pool.nsupdate("hypernet.internal.", &lines).await.unwrap();
    let service = service(&pool, &[], RateLimit::default());
    let name = "big.hypernet.internal.";
    for message in [
        question(name, RecordType::TXT),
        with_edns(question(name, RecordType::TXT), 4096),
    ] {
        let octets = message.to_vec().unwrap();
        let reply = ask(&service, &octets, Transport::Udp).await;
        assert!(reply.metadata.truncation && reply.answers.is_empty());
        assert_eq!(reply.edns.is_some(), message.edns.is_some());
        let reply = ask(&service, &octets, Transport::Tcp).await;
        assert_eq!((reply.metadata.truncation, reply.answers.len()), (false, 100));
    }
}

#[tokio::test]
async fn additional_addresses_leave_before_an_answer_is_truncated() {
    let pool = Pool::new().await;
    let mut old = pool.create("s1", &["3.1"]).await.remove(0);
    for count in 2..=4 {
        let holders = (1..=count).map(|n| server(&format!("s{n}"))).collect();
        let new = Register {
            holders,
            tx: pool.tx(),
            ..old.clone()
        };
        pool.change(Some(&old), &new).await.unwrap();
        old = new;
    }
    let service = service(&pool, &["127.0.0.1"], RateLimit::default());
    let padded = format!("3.1.obj.{}", "hypernet.internal.");
    let mut message = question(&padded, RecordType::SRV);
    let whole = ask(&service, &message.to_vec().unwrap(), Transport::Udp).await;
    assert_eq!(
        (whole.answers.len(), whole.additionals.len(), whole.metadata.truncation),
        (4, 4, false)
    );
    message.edns = None;
    let cut = answer::reply::encode(
        &message,
        answer::Response {
            answers: whole.answers.clone(),
            additionals: whole.additionals.clone(),
            authoritative: true,
            ..answer::Response::default()
        },
        Room {
            octets_max: 270,
            udp_octets_max: 1232,
        },
    );
    let cut = Message::from_vec(&cut).unwrap();
    assert_eq!(
        (cut.answers.len(), cut.additionals.len(), cut.metadata.truncation),
        (4, 0, false)
    );
}

#[tokio::test]
async fn odd_messages_get_the_rcodes_of_the_rfcs() {
    let pool = Pool::new().await;
    let service = service(&pool, &[], RateLimit::default());
    let plain = question("obj.hypernet.internal.", RecordType::SOA);
    let mut two = plain.clone();
    two.add_query(plain.queries[0].clone());
    let mut none = plain.clone();
    none.queries.clear();
    let mut version = with_edns(plain.clone(), 1232);
    version.edns.as_mut().unwrap().set_version(1);
    let mut notify = plain.clone();
    notify.metadata.op_code = OpCode::Notify;
    let mut status = plain.clone();
    status.metadata.op_code = OpCode::Status;
    let rows = [
        (two, ResponseCode::FormErr),
        (none, ResponseCode::FormErr),
        (version, ResponseCode::BADVERS),
        (notify, ResponseCode::NotImp),
        (status, ResponseCode::NotImp),
    ];
    for (message, rcode) in rows {
        let reply = ask(&service, &message.to_vec().unwrap(), Transport::Udp).await;
        // 16 is BADVERS as well as BADSIG; hickory-proto reads the latter.
        assert_eq!(u16::from(reply.metadata.response_code), u16::from(rcode));
        assert_eq!(reply.edns.is_some(), message.edns.is_some());
    }
    let mut cut = plain.to_vec().unwrap();
    cut.truncate(20);
    assert_eq!(
        ask(&service, &cut, Transport::Udp).await.metadata.response_code,
        ResponseCode::FormErr
    );
    let mut answer = plain.to_vec().unwrap();
    answer[2] |= 0x80;
    assert!(
        service.respond(&answer, LOCAL, Transport::Udp).await.is_none(),
        "an answer is not answered"
    );
    assert!(service.respond(&cut[..11], LOCAL, Transport::Udp).await.is_none());
}

#[tokio::test]
async fn key_over_its_rate_is_refused() {
    let pool = Pool::new().await;
    let limit = RateLimit {
        changes_per_second: 1,
        burst: 4,
    };
    let service = service(&pool, &[], limit);
    let mut codes = Vec::new();
    for n in 0..3 {
        // Two changes each: the old text's deletion is none here, but a creation is one; so three messages of two.
        let changes: Vec<RegisterChange> = (0..2)
            .map(|m| RegisterChange {
                old: None,
                new: pool.first(&format!("{n}.{m}"), "s1"),
            })
            .collect();
        let mut message = build_register_update(&domain(), 1, &changes).unwrap();
        sign_request(&mut message, &key("s1", 2), now_s());
        codes.push(ask(&service, &message, Transport::Tcp).await.metadata.response_code);
    }
    assert_eq!(
        codes,
        [ResponseCode::NoError, ResponseCode::NoError, ResponseCode::Refused]
    );
}

#[tokio::test]
async fn stopping_answers_what_was_taken() {
    let pool = Pool::new().await;
    let service = service(&pool, &[], RateLimit::default());
    let settings = Settings::default();
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap(), &settings).unwrap();
    let (address, stop) = (sockets.address(), CancellationToken::new());
    let serving = tokio::spawn(serve(
        sockets,
        service,
        settings,
        stop.clone(),
        CancellationToken::new(),
    ));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let message = swap(1, None, &pool.first("3.1", "s1"), &key("s1", 2)).0;
    send(&mut stream, &message).await;
    let first = receive(&mut stream).await;
    stop.cancel();
    serving.await.unwrap().unwrap();
    assert_eq!(
        Message::from_vec(&first).unwrap().metadata.response_code,
        ResponseCode::NoError
    );
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn connection_that_was_just_made_is_answered_its_first_question_when_the_librarian_stops() {
    let pool = Pool::new().await;
    pool.create("s1", &["3.1"]).await;
    let service = service(&pool, &["127.0.0.0/8"], RateLimit::default());
    let settings = Settings::default();
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap(), &settings).unwrap();
    let (address, stop, quiet) = (sockets.address(), CancellationToken::new(), CancellationToken::new());
    let serving = tokio::spawn(serve(
        sockets,
        Arc::clone(&service),
        settings,
        stop.clone(),
        quiet.clone(),
    ));
    let mut stream = TcpStream::connect(address).await.unwrap();
    while !service
        .counters()
        .to_prometheus()
        .contains("librarian_tcp_connections_total 1\n")
    {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    quiet.cancelled().await;
    // As long as a question may be on its way.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let octets = question("3.1.obj.hypernet.internal.", RecordType::A).to_vec().unwrap();
    send(&mut stream, &octets).await;
    assert_eq!(Message::from_vec(&receive(&mut stream).await).unwrap().answers.len(), 1);
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "one is enough");
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_has_no_registry_any_more_answers_all_but_agents_and_updates() {
    let pool = Pool::new().await;
    pool.create("s1", &["3.1"]).await;
    let service = service(&pool, &["127.0.0.0/8"], RateLimit::default());
    let plain = question("3.1.obj.hypernet.internal.", RecordType::A).to_vec().unwrap();
    let signed = |holder, number| {
        let mut octets = question("3.1.obj.hypernet.internal.", RecordType::TXT)
            .to_vec()
            .unwrap();
        sign_request(&mut octets, &key(holder, number), now_s());
        octets
    };
    let update = swap(1, None, &pool.first("3.2", "s1"), &key("s1", 2)).0;
    let answered = async |octets: &[u8]| service.respond(octets, LOCAL, Transport::Udp).await.is_some();
    assert!(answered(&signed("s1", 2)).await);
    service.retire();
    assert!(answered(&plain).await && answered(&signed("admin", 1)).await);
    assert!(!answered(&signed("s1", 2)).await && !answered(&update).await);
}

/// Messages that mean something, to be mutated.
fn seeds(pool: &Pool) -> Vec<Vec<u8>> {
    let new = pool.first("3.7", "s1");
    let mut signed = question("3.1.obj.hypernet.internal.", RecordType::TXT)
        .to_vec()
        .unwrap();
    sign_request(&mut signed, &key("admin", 1), now_s());
    let change = RegisterChange {
        old: None,
        new: new.clone(),
    };
    vec![
        question("3.1.obj.hypernet.internal.", RecordType::SRV)
            .to_vec()
            .unwrap(),
        with_edns(question("www.hypernet.internal.", RecordType::ANY), 4096)
            .to_vec()
            .unwrap(),
        signed,
        build_register_update(&domain(), 3, &[change]).unwrap(),
        swap(4, None, &new, &key("s1", 2)).0,
    ]
}

#[test]
fn mutated_messages_are_answered_or_dropped_and_never_panic() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let pool = runtime.block_on(Pool::new());
    runtime.block_on(pool.create("s1", &["3.1"]));
    let service = service(&pool, &["127.0.0.1"], RateLimit::default());
    let seeds = seeds(&pool);
    let mutations = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6);
    let strategy = (
        0..seeds.len(),
        mutations,
        any::<proptest::sample::Index>(),
        any::<[bool; 2]>(),
    );
    let config = ProptestConfig::with_cases(4000);
    proptest::test_runner::TestRunner::new(config)
        .run(&strategy, |(seed, mutations, cut, [cuts, signs])| {
            let mut octets = seeds[seed].clone();
            for (place, octet) in mutations {
                let place = place.index(octets.len());
                octets[place] = octet;
            }
            if cuts {
                octets.truncate(cut.index(octets.len()));
            }
            // So that what lies behind a signature that holds is reached as well.
            if signs && octets.len() >= 12 {
                sign_request(&mut octets, &key("s1", 2), now_s());
            }
            for transport in [Transport::Udp, Transport::Tcp] {
                let reply = runtime.block_on(service.respond(&octets, LOCAL, transport));
                if let Some(reply) = reply {
                    prop_assert!(reply.len() >= 12 && reply[..2] == octets[..2] && reply[2] & 0x80 != 0);
                    if transport == Transport::Udp {
                        prop_assert!(reply.len() <= 1232);
                    }
                }
            }
            Ok(())
        })
        .unwrap();
}
