//! Zone transfers over real sockets.

use super::*;
use crate::registry::JournalBounds;
use crate::transfer::secondary::{Secondary, TransferredZone};
use crate::transfer::{self, Transfers};

/// Objects of a zone that is larger than what the system keeps of a connection that nobody reads.
const MANY: usize = 40_000;

/// A librarian with one secondary, `ns2`, that may run one transfer.
async fn primary(pool: &Pool, slow: Duration) -> (Served, Arc<Transfers>) {
    let mut keys = Keys::default();
    keys.insert(Key {
        tsig: key("ns2", 5),
        holder: Holder::Secondary(Arc::new(Secondary {
            name: "ns2".parse().unwrap(),
            zones: vec![TransferredZone::Obj],
            notify: Vec::new(),
        })),
    });
    let ring = Arc::new(KeyRing::fixed(keys));
    let answers = answer::Settings::default();
    let bounds = transfer::Settings {
        at_once_each: 1,
        ..transfer::Settings::default()
    };
    let transfers = Transfers::new(None, pool.registry.clone(), Arc::clone(&ring), &answers, bounds);
    let transfers = Arc::new(transfers);
    let service = Service::new(pool.registry.clone(), answers, Vec::new(), ring, RateLimit::default());
    let service = Arc::new(service.with_transfers(Arc::clone(&transfers)));
    let settings = Settings {
        tcp_slow: slow,
        ..Settings::default()
    };
    (serve_on_loopback(service, settings), transfers)
}

fn whole_zone() -> (Vec<u8>, Mac) {
    let mut octets = question("obj.hypernet.internal.", RecordType::AXFR).to_vec().unwrap();
    let mac = sign_request(&mut octets, &key("ns2", 5), now_s());
    (octets, mac)
}

async fn fill(pool: &Pool) {
    let addresses: Vec<String> = (0..MANY).map(|number| format!("3.{number}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    pool.create("s1", &addresses).await;
}

#[tokio::test]
async fn secondary_that_does_not_read_is_cut_and_gives_its_place_back() {
    let pool = Pool::with_journal(JournalBounds::default()).await;
    fill(&pool).await;
    let (served, transfers) = primary(&pool, Duration::from_millis(300)).await;
    let counts = || transfers.status()[0].zones[0].counts;
    let mut stuck = TcpStream::connect(served.address).await.unwrap();
    send(&mut stuck, &whole_zone().0).await;
    let cut = async {
        while counts().failed == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), cut).await.unwrap();
    // Its place is free for one that reads, and this one is cut in no transfer that goes on.
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let (octets, mac) = whole_zone();
    send(&mut stream, &octets).await;
    let mut verifier = zones::tsig::SequenceVerifier::new(key("ns2", 5), mac);
    let (mut names, mut soas) = (0, 0);
    while soas < 2 {
        let octets = receive(&mut stream).await;
        verifier.verify(&octets, now_s()).unwrap();
        let answers = Message::from_vec(&octets).unwrap().answers;
        soas += answers
            .iter()
            .filter(|one| one.record_type() == RecordType::SOA)
            .count();
        names += answers
            .iter()
            .filter(|one| one.record_type() == RecordType::TXT)
            .count();
    }
    assert_eq!(names, MANY);
    let written = async {
        while counts().whole == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
    assert_eq!((counts().failed, counts().refused), (1, 0));
}
