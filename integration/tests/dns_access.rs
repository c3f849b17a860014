//! Who can do what over DNS: every holder of a key, and nobody's, with every kind of question and of update.

mod dns;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dns::{Client, fresh_id, fresh_tx, name, now_s, read_key, server, touched};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use integration::harness::Pool;
use socket2::{Domain as SocketDomain, Socket, Type};
use zones::query::{build_question, read_answer};
use zones::tsig::{AnswerSignatureError, sign_request, verify_response};
use zones::update::build_register_update;
use zones::{Answer, Register, RegisterChange, TsigKey};

/// How long one answer may take.
const WAIT: Duration = Duration::from_secs(20);

/// A network that librarian.toml lists, and one that it does not.
const LISTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const UNLISTED: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The object is 9.N, owned by s1. `absent` is 9.N.absent, which is not there. `has` is what s1 says of itself, `want` what it
/// should do. `create` makes an object on the asker's own server, or on s1; `change` gives the register a fresh tx, `take`
/// makes s2 its owner. `www` is a record of the operator's zone, `www+` adds one. AXFR and IXFR are asked of all four zones,
/// over TCP and UDP.
const WHO_CAN_DO_WHAT: &str = "\
who                            SRV      TXT      absent   has      want     www      create   change   take     www+     AXFR     IXFR
stranger                       NXDOMAIN NXDOMAIN NXDOMAIN NXDOMAIN NXDOMAIN answer   REFUSED  REFUSED  REFUSED  REFUSED  REFUSED  REFUSED
stranger of a listed network   answer   answer   NXDOMAIN nodata   NXDOMAIN answer   REFUSED  REFUSED  REFUSED  REFUSED  REFUSED  REFUSED
client read:9                  answer   nodata   NXDOMAIN nodata   NXDOMAIN answer   REFUSED  REFUSED  REFUSED  REFUSED  REFUSED  REFUSED
client read:8 write:9          NXDOMAIN NXDOMAIN NXDOMAIN nodata   NXDOMAIN answer   REFUSED  REFUSED  REFUSED  REFUSED  REFUSED  REFUSED
agent s1, the owner            answer   answer   NXDOMAIN answer   answer   answer   done     done     REFUSED  REFUSED  REFUSED  REFUSED
agent s2                       answer   answer   NXDOMAIN answer   answer   answer   done     REFUSED  REFUSED  REFUSED  REFUSED  REFUSED
agent s3, free                 answer   answer   NXDOMAIN answer   answer   answer   REFUSED  REFUSED  REFUSED  REFUSED  REFUSED  REFUSED
admin                          answer   answer   NXDOMAIN answer   answer   answer   done     done     REFUSED  done     REFUSED  REFUSED
a key of no name here          BADKEY   BADKEY   BADKEY   BADKEY   BADKEY   BADKEY   BADKEY   BADKEY   BADKEY   BADKEY   BADKEY   BADKEY
s1 of another pool             BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG
admin of another pool          BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG   BADSIG
s1, an hour ago                BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME
admin, an hour ago             BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME  BADTIME
";

/// Who asks.
struct Asker {
    server: SocketAddr,
    from: Ipv4Addr,
    key: Option<TsigKey>,
    /// By how much its clock is slow.
    slow_s: u64,
}

/// What was said.
enum Said {
    Answer(Answer),
    /// The signature was not taken, by the error of RFC 8945.
    Unsigned(&'static str),
}

impl Said {
    /// Its word in the table.
    fn cell(&self) -> String {
        match self {
            Said::Unsigned(error) => (*error).to_owned(),
            Said::Answer(answer) => match answer.code {
                ResponseCode::NoError if answer.answers.is_empty() => "nodata".to_owned(),
                ResponseCode::NoError => "answer".to_owned(),
                code => short(code),
            },
        }
    }

    /// The word of an update.
    fn outcome(&self) -> String {
        match self {
            Said::Unsigned(error) => (*error).to_owned(),
            Said::Answer(answer) => short(answer.code),
        }
    }
}

fn short(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "done".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotAuth => "NOTAUTH".to_owned(),
        code => code.to_string(),
    }
}

impl Asker {
    fn say(&self, mut message: Vec<u8>, tcp: bool) -> Result<Said> {
        let now_s = now_s() - self.slow_s;
        let mac = self
            .key
            .as_ref()
            .map(|key| (key, sign_request(&mut message, key, now_s)));
        let octets = if tcp { self.tcp(&message)? } else { self.udp(&message)? };
        let Some((key, mac)) = mac else {
            return Ok(Said::Answer(read_answer(&octets)?));
        };
        let error = match verify_response(&octets, key, &mac, now_s) {
            Ok(()) => return Ok(Said::Answer(read_answer(&octets)?)),
            Err(AnswerSignatureError::Rejected { error: 16 }) => "BADSIG",
            Err(AnswerSignatureError::Rejected { error: 17 }) => "BADKEY",
            Err(AnswerSignatureError::ClockRefused { .. }) => "BADTIME",
            Err(error) => bail!("an answer that does not verify: {error}"),
        };
        ensure!(octets[3] & 0x0f == 9, "the rcode beside {error} is NOTAUTH");
        ensure!(octets[6..10] == [0; 4], "an answer beside {error}");
        Ok(Said::Unsigned(error))
    }

    fn udp(&self, message: &[u8]) -> Result<Vec<u8>> {
        let socket = UdpSocket::bind((self.from, 0))?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.connect(self.server)?;
        socket.send(message)?;
        let mut octets = vec![0; 65_535];
        let length = socket.recv(&mut octets).context("receive a datagram")?;
        octets.truncate(length);
        Ok(octets)
    }

    fn tcp(&self, message: &[u8]) -> Result<Vec<u8>> {
        let socket = Socket::new(SocketDomain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((self.from, 0)).into())?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.connect(&self.server.into()).context("connect")?;
        let mut framed = u16::try_from(message.len())?.to_be_bytes().to_vec();
        framed.extend_from_slice(message);
        (&socket).write_all(&framed)?;
        let mut length = [0; 2];
        (&socket).read_exact(&mut length).context("read a length")?;
        let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
        (&socket).read_exact(&mut octets).context("read a message")?;
        Ok(octets)
    }

    fn ask(&self, of: &Name, kind: RecordType) -> Result<String> {
        let said = self.say(build_question(fresh_id(), of, kind, Some(1232)), false)?;
        Ok(said.cell())
    }

    fn change(&self, change: &RegisterChange) -> Result<String> {
        let domain = "hypernet.internal.".parse()?;
        let message = build_register_update(&domain, fresh_id(), std::slice::from_ref(change))?;
        Ok(self.say(message, true)?.outcome())
    }

    /// Asks for a transfer of every zone over both transports; all must be answered alike, and hand out nothing.
    fn transfer(&self, kind: RecordType) -> Result<String> {
        let mut cells = BTreeSet::new();
        for zone in ["", "obj.", "tree.", "pool."] {
            for tcp in [true, false] {
                let mut message = build_question(fresh_id(), &name(&format!("{zone}hypernet.internal.")), kind, None);
                if kind == RecordType::IXFR {
                    with_serial(&mut message, 1);
                }
                let said = self.say(message, tcp)?;
                if let Said::Answer(answer) = &said {
                    ensure!(answer.answers.is_empty(), "{kind} of {zone}: {answer:?}");
                }
                cells.insert(said.cell());
            }
        }
        Ok(Vec::from_iter(cells).join("/"))
    }
}

/// Adds the SOA with the serial that an asker for IXFR has (RFC 1995 section 3) to a question.
fn with_serial(message: &mut Vec<u8>, serial: u32) {
    // NSCOUNT.
    message[9] = 1;
    // The name of the question; SOA, IN, TTL 0, 22 octets: two root names, then the serial and four times.
    message.extend_from_slice(&[0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 22, 0, 0]);
    message.extend_from_slice(&serial.to_be_bytes());
    message.extend_from_slice(&[0; 16]);
}

/// An update that adds an address to the operator's zone.
fn operators_update(label: &str) -> Vec<u8> {
    let mut message = fresh_id().to_be_bytes().to_vec();
    // Opcode 5; one zone, one change.
    message.extend_from_slice(&[0x28, 0, 0, 1, 0, 0, 0, 1, 0, 0]);
    message.extend_from_slice(b"\x08hypernet\x08internal\0\0\x06\0\x01");
    message.push(u8::try_from(label.len()).expect("a short label"));
    message.extend_from_slice(label.as_bytes());
    // Below the zone's name; A, IN, TTL 60, four octets.
    message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    message
}

#[test]
fn everyone_asks_and_changes_what_the_table_says_and_no_more() -> Result<()> {
    let builder = Pool::builder(env!("CARGO_BIN_EXE_demo")).servers(3);
    let pool = builder
        .librarian_setting("networks", vec![format!("{LISTED}/32")])
        .start()?;
    for (name, grants) in [("reader", &["read:9"][..]), ("other", &["read:8", "write:9"])] {
        pool.add_client(name, grants)?;
    }
    let asker = |key: Option<TsigKey>| Asker {
        server: pool.dns(),
        from: UNLISTED,
        key,
        slow_s: 0,
    };
    let held = |name: &str| asker(Some(read_key(&pool, name)));
    let askers = [
        ("stranger", asker(None)),
        (
            "stranger of a listed network",
            Asker {
                from: LISTED,
                ..asker(None)
            },
        ),
        ("client read:9", held("reader")),
        ("client read:8 write:9", held("other")),
        ("agent s1, the owner", held("s1")),
        ("agent s2", held("s2")),
        ("agent s3, free", held("s3")),
        ("admin", held("admin")),
        ("a key of no name here", asker(Some(TsigKey::new("nobody", &[7; 32])?))),
        ("s1 of another pool", asker(Some(TsigKey::new("s1", &[7; 32])?))),
        ("admin of another pool", asker(Some(TsigKey::new("admin", &[7; 32])?))),
        (
            "s1, an hour ago",
            Asker {
                slow_s: 3600,
                ..held("s1")
            },
        ),
        (
            "admin, an hour ago",
            Asker {
                slow_s: 3600,
                ..held("admin")
            },
        ),
    ];
    let (owner, admin) = (Client::new(&pool, "s1"), Client::new(&pool, "admin"));
    let www = name("www.hypernet.internal.");
    ensure!(held("admin").say(operators_update("www"), true)?.outcome() == "done");
    let header = WHO_CAN_DO_WHAT.lines().next().unwrap_or_default();
    let mut table = format!("{header}\n");
    for (number, (who, asker)) in askers.iter().enumerate() {
        let address = format!("9.{number}");
        let old = owner.create(&address, "s1")?;
        let obj = |address: &str| name(&format!("{address}.obj.hypernet.internal."));
        let mut cells = vec![
            asker.ask(&obj(&address), RecordType::SRV)?,
            asker.ask(&obj(&address), RecordType::TXT)?,
            asker.ask(&obj(&format!("{address}.absent")), RecordType::SRV)?,
            asker.ask(&name("s1.pool.hypernet.internal."), RecordType::TXT)?,
            asker.ask(&name("_want.s1.pool.hypernet.internal."), RecordType::TXT)?,
            asker.ask(&www, RecordType::A)?,
        ];
        // An agent creates on its own server.
        let of_key = |server: &&str| (asker.key.as_ref()).is_some_and(|key| *key.name() == name(&format!("{server}.")));
        let own = ["s2", "s3"].into_iter().find(of_key).unwrap_or("s1");
        let created = dns::creation(&format!("{address}.new"), own);
        cells.push(asker.change(&created)?);
        let kept = admin.register(created.new.address.as_str())?;
        let expected = (cells[6] == "done").then_some(created.new);
        ensure!(kept == expected, "{who} was told {} and left {kept:?}", cells[6]);
        let changed = touched(&old);
        cells.push(asker.change(&changed)?);
        let expected = if cells[7] == "done" { changed.new } else { old };
        let kept = admin.register(&address)?;
        ensure!(
            kept.as_ref() == Some(&expected),
            "{who} was told {} and left {kept:?}",
            cells[7]
        );
        let taken = RegisterChange {
            new: Register {
                epoch: expected.epoch.next(),
                owner: server("s2"),
                holders: vec![server("s2")],
                tx: fresh_tx(),
                ..expected.clone()
            },
            old: Some(expected.clone()),
        };
        cells.push(asker.change(&taken)?);
        let kept = admin.register(&address)?;
        ensure!(kept == Some(expected), "{who} was told {} and left {kept:?}", cells[8]);
        let label = format!("row-{number}");
        cells.push(asker.say(operators_update(&label), true)?.outcome());
        let kept = held("admin").ask(&name(&format!("{label}.hypernet.internal.")), RecordType::A)?;
        let expected = if cells[9] == "done" { "answer" } else { "NXDOMAIN" };
        ensure!(kept == expected, "{who} was told {} and left {kept}", cells[9]);
        cells.push(asker.transfer(RecordType::AXFR)?);
        cells.push(asker.transfer(RecordType::IXFR)?);
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:8}")).collect();
        table.push_str(format!("{who:30} {}", cells.join(" ")).trim_end());
        table.push('\n');
    }
    print!("{table}");
    ensure!(table == WHO_CAN_DO_WHAT, "the table differs:\n{table}");
    Ok(())
}
