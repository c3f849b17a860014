//! Registers and the operator's zone changed by signed updates: what wins, what is refused and how, what survives.

mod dns;

use std::collections::{BTreeMap, HashMap};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dns::{Client, closed_pool, creation, fresh_id, fresh_tx, id_of, name, now_s, open_pool, quoted, server, touched};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use integration::harness::{Pool, dig, nsupdate, resident_memory};
use zones::query::build_question;
use zones::tsig::{sign_request, verify_response};
use zones::update::{build_has_update, build_register_update};
use zones::{Epoch, Register, RegisterChange, Role, State};

/// The nsupdate script of a change of one register.
fn script(change: &RegisterChange) -> String {
    let name = format!("{}.obj.hypernet.internal.", change.new.address);
    let mut script = String::from("zone obj.hypernet.internal\n");
    match &change.old {
        Some(old) => {
            script.push_str(&format!("prereq yxrrset {name} IN TXT {}\n", quoted(old)));
            script.push_str(&format!("update delete {name} TXT\n"));
        }
        None => script.push_str(&format!("prereq nxrrset {name} TXT\n")),
    }
    script.push_str(&format!("update add {name} 5 TXT {}\nsend\n", quoted(&change.new)));
    script
}

/// The rcode that nsupdate prints: NOERROR, NXRRSET and so on.
fn rcode(pool: &Pool, key: Option<&str>, script: &str) -> Result<String> {
    let key = key.map(|key| pool.key(key));
    let sent = nsupdate(pool.dns(), key.as_deref(), script)?;
    if sent.status.success() {
        return Ok("NOERROR".to_owned());
    }
    let said = format!("{}{}", sent.stdout, sent.stderr);
    let (_, rcode) = said.split_once("update failed: ").with_context(|| said.clone())?;
    Ok(rcode.lines().next().unwrap_or_default().to_owned())
}

fn committed(old: &Register, owner: &str) -> Register {
    Register {
        epoch: old.epoch.next(),
        owner: server(owner),
        state: State::Stable,
        tx: fresh_tx(),
        holders: vec![server(owner)],
        ..old.clone()
    }
}

#[test]
fn nsupdate_creates_an_object_and_changes_it_under_a_prerequisite() -> Result<()> {
    let pool = open_pool();
    let created = creation("4.1.Made.1", "s1");
    assert_eq!(rcode(&pool, Some("s1"), &script(&created))?, "NOERROR");
    let shown = dig(pool.dns(), &["+short", "4.1.made.1.obj.hypernet.internal.", "TXT"])?;
    assert_eq!(shown.stdout.trim(), quoted(&created.new));
    let changed = touched(&created.new);
    assert_eq!(rcode(&pool, Some("s1"), &script(&changed))?, "NOERROR");
    let shown = dig(pool.dns(), &["+short", "1.made.1.4.tree.hypernet.internal.", "TXT"])?;
    assert_eq!(shown.stdout.trim(), quoted(&changed.new));
    // The admin key may do what the owner may.
    let again = touched(&changed.new);
    assert_eq!(rcode(&pool, Some("admin"), &script(&again))?, "NOERROR");
    Ok(())
}

#[test]
fn nsupdate_is_refused_with_the_rcode_that_is_due() -> Result<()> {
    let pool = open_pool();
    let agent = Client::new(&pool, "s1");
    let old = agent.create("4.2.Refused.1", "s1")?;
    let other = dns::new_register("4.2.Refused.1", "s1");
    let stale = RegisterChange {
        old: Some(other),
        new: Register {
            tx: fresh_tx(),
            ..old.clone()
        },
    };
    let obj = "zone obj.hypernet.internal\n";
    let own = "4.2.refused.1.obj.hypernet.internal.";
    let moved = RegisterChange {
        old: Some(old.clone()),
        new: Register {
            state: State::Moving { to: server("s2") },
            tx: fresh_tx(),
            ..old.clone()
        },
    };
    let taken = RegisterChange {
        old: Some(old.clone()),
        new: committed(&old, "s2"),
    };
    for (what, key, script, expected) in [
        ("wrong prerequisite", Some("s1"), script(&stale), "NXRRSET"),
        (
            "exists already",
            Some("s1"),
            script(&creation("4.2.Refused.1", "s1")),
            "YXRRSET",
        ),
        (
            "exists already, in another spelling",
            Some("s1"),
            script(&creation("4.2.refused.1", "s1")),
            "YXRRSET",
        ),
        ("not the owner", Some("s2"), script(&touched(&old)), "REFUSED"),
        ("takes over", Some("s2"), script(&taken), "REFUSED"),
        ("moves where nothing points", Some("s1"), script(&moved), "REFUSED"),
        (
            "creates for another server",
            Some("s1"),
            script(&creation("4.2.x", "s2")),
            "REFUSED",
        ),
        (
            "creates on the free server",
            Some("s3"),
            script(&creation("4.2.x", "s3")),
            "REFUSED",
        ),
        ("unsigned", None, script(&touched(&old)), "REFUSED"),
        (
            "removes",
            Some("s1"),
            format!("{obj}update delete {own} TXT\nsend\n"),
            "REFUSED",
        ),
        (
            "another type",
            Some("s1"),
            format!("{obj}update add {own} 5 A 192.0.2.1\nsend\n"),
            "REFUSED",
        ),
        (
            "no register",
            Some("s1"),
            format!("{obj}update add 4.2.y.obj.hypernet.internal. 5 TXT \"v=hn1\"\nsend\n"),
            "FORMERR",
        ),
        (
            "out of zone",
            Some("s1"),
            format!("{obj}update add 4.2.z.tree.hypernet.internal. 5 TXT \"x\"\nsend\n"),
            "NOTZONE",
        ),
        (
            "out of zone in a prerequisite",
            Some("s1"),
            format!("{obj}prereq yxdomain example.com.\nupdate delete {own} TXT\nsend\n"),
            "NOTZONE",
        ),
        (
            "another zone",
            Some("s1"),
            "zone example.com\nupdate add a.example.com. 5 A 192.0.2.1\nsend\n".to_owned(),
            "NOTAUTH",
        ),
        (
            "the operator's zone by an agent",
            Some("s1"),
            "zone hypernet.internal\nupdate add a.hypernet.internal. 5 A 192.0.2.1\nsend\n".to_owned(),
            "REFUSED",
        ),
    ] {
        assert_eq!(rcode(&pool, key, &script)?, expected, "{what}");
    }
    assert_eq!(agent.register("4.2.Refused.1")?, Some(old));
    Ok(())
}

#[test]
fn refused_update_is_signed_and_says_why() -> Result<()> {
    let pool = open_pool();
    let owner = Client::new(&pool, "s1");
    let other = Client::new(&pool, "s2");
    let old = owner.create("4.3.why.1", "s1")?;
    for (client, change, code, why) in [
        (&other, touched(&old), ResponseCode::Refused, "only server s1"),
        (
            &owner,
            RegisterChange {
                old: Some(old.clone()),
                new: Register {
                    epoch: Epoch(7),
                    ..touched(&old).new
                },
            },
            ResponseCode::Refused,
            "epoch 7",
        ),
        (
            &owner,
            creation("4.3.new", "s2"),
            ResponseCode::Refused,
            "only server s2",
        ),
        (
            &owner,
            RegisterChange {
                old: Some(dns::new_register("4.3.why.1", "s1")),
                new: touched(&old).new,
            },
            ResponseCode::NXRRSet,
            "",
        ),
    ] {
        // `update` verifies the answer's signature.
        let answer = client.update(&[change])?;
        assert_eq!(answer.code, code, "{:?}", answer.why());
        ensure!(answer.why().unwrap_or_default().contains(why), "{:?}", answer.why());
    }
    Ok(())
}

#[test]
fn register_cannot_be_removed_by_any_key() -> Result<()> {
    let pool = open_pool();
    let agent = Client::new(&pool, "s1");
    let old = agent.create("4.4.kept.1", "s1")?;
    let own = "4.4.kept.1.obj.hypernet.internal.";
    for key in ["s1", "s2", "admin"] {
        for delete in [
            format!("update delete {own} TXT"),
            format!("update delete {own}"),
            format!("update delete {own} TXT {}", quoted(&old)),
        ] {
            let sent = rcode(
                &pool,
                Some(key),
                &format!("zone obj.hypernet.internal\n{delete}\nsend\n"),
            )?;
            assert_eq!(sent, "REFUSED", "{key}: {delete}");
        }
    }
    // Deleted by its owner, it is answered as absent to all but agents, and the address is never used again.
    let deleted = RegisterChange {
        new: Register {
            epoch: old.epoch.next(),
            state: State::Deleted,
            holders: Vec::new(),
            tx: fresh_tx(),
            ..old.clone()
        },
        old: Some(old),
    };
    assert_eq!(
        agent.update(std::slice::from_ref(&deleted))?.code,
        ResponseCode::NoError
    );
    assert_eq!(agent.register("4.4.kept.1")?.as_ref(), Some(&deleted.new));
    assert_eq!(Client::new(&pool, "admin").register("4.4.kept.1")?, None);
    for key in ["s1", "admin"] {
        assert_eq!(
            rcode(&pool, Some(key), &script(&creation("4.4.kept.1", "s1")))?,
            "YXRRSET"
        );
        let blind = creation("4.4.kept.1", "s1").new;
        let blind = format!(
            "zone obj.hypernet.internal\nupdate delete {own} TXT\nupdate add {own} 5 TXT {}\nsend\n",
            quoted(&blind)
        );
        assert_eq!(rcode(&pool, Some(key), &blind)?, "REFUSED");
        let removed = format!("zone obj.hypernet.internal\nupdate delete {own}\nsend\n");
        assert_eq!(rcode(&pool, Some(key), &removed)?, "REFUSED");
    }
    // Prerequisites still see the text.
    let seen = format!(
        "zone obj.hypernet.internal\nprereq yxrrset {own} IN TXT {}\nsend\n",
        quoted(&deleted.new)
    );
    assert_eq!(rcode(&pool, Some("admin"), &seen)?, "NOERROR");
    Ok(())
}

#[test]
fn every_form_of_prerequisite_and_change_works_in_the_operators_zone() -> Result<()> {
    let pool = open_pool();
    let admin = |script: &str| {
        rcode(
            &pool,
            Some("admin"),
            &format!("zone hypernet.internal\n{script}\nsend\n"),
        )
    };
    let short = |name: &str, kind: &str| -> Result<Vec<String>> {
        let shown = dig(pool.dns(), &["+short", name, kind])?;
        let mut lines: Vec<String> = shown.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    };
    let name = "forms.hypernet.internal.";
    let add = "update add forms.hypernet.internal. 60";
    assert_eq!(
        admin(&format!("prereq nxdomain {name}\n{add} A 192.0.2.1\n{add} A 192.0.2.2"))?,
        "NOERROR"
    );
    assert_eq!(
        admin(&format!("prereq nxdomain {name}\n{add} A 192.0.2.3"))?,
        "YXDOMAIN"
    );
    assert_eq!(admin(&format!("prereq yxdomain {name}\n{add} TXT \"a\""))?, "NOERROR");
    assert_eq!(admin("prereq yxdomain no.forms.hypernet.internal.\n")?, "NXDOMAIN");
    assert_eq!(admin(&format!("prereq yxrrset {name} A\n{add} TXT \"b\""))?, "NOERROR");
    assert_eq!(admin(&format!("prereq yxrrset {name} MX\n{add} TXT \"c\""))?, "NXRRSET");
    assert_eq!(
        admin(&format!("prereq nxrrset {name} MX\n{add} MX 1 {name}"))?,
        "NOERROR"
    );
    assert_eq!(admin(&format!("prereq nxrrset {name} MX\n{add} TXT \"c\""))?, "YXRRSET");
    // Equality of sets: in any order, and never a part of one.
    let equal = |records: &[&str]| -> String {
        records
            .iter()
            .map(|record| format!("prereq yxrrset {name} IN A {record}\n"))
            .collect()
    };
    assert_eq!(
        admin(&format!("{}{add} TXT \"d\"", equal(&["192.0.2.2", "192.0.2.1"])))?,
        "NOERROR"
    );
    assert_eq!(admin(&format!("{}{add} TXT \"e\"", equal(&["192.0.2.1"])))?, "NXRRSET");
    assert_eq!(
        admin(&format!(
            "{}{add} TXT \"e\"",
            equal(&["192.0.2.1", "192.0.2.2", "192.0.2.3"])
        ))?,
        "NXRRSET"
    );
    assert_eq!(short(name, "A")?, ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(short(name, "TXT")?, ["\"a\"", "\"b\"", "\"d\""]);
    // One record, an RRset, a whole name.
    assert_eq!(admin(&format!("update delete {name} A 192.0.2.1"))?, "NOERROR");
    assert_eq!(short(name, "A")?, ["192.0.2.2"]);
    assert_eq!(admin(&format!("update delete {name} TXT"))?, "NOERROR");
    assert_eq!(short(name, "TXT")?, Vec::<String>::new());
    assert_eq!(admin(&format!("update delete {name}"))?, "NOERROR");
    assert_eq!(dig(pool.dns(), &[name, "ANY"])?.rcode(), Some("NXDOMAIN"));
    // The apex keeps its SOA and its NS whatever is deleted, and the cuts are the librarian's own.
    assert_eq!(admin("update delete hypernet.internal.")?, "NOERROR");
    assert_eq!(admin("update delete hypernet.internal. NS")?, "NOERROR");
    assert_eq!(short("hypernet.internal.", "NS")?, ["ns.pool.hypernet.internal."]);
    assert_eq!(short("hypernet.internal.", "SOA")?.len(), 1);
    for cut in ["obj", "tree", "pool", "x.obj"] {
        let sent = admin(&format!("update add {cut}.hypernet.internal. 60 NS elsewhere.example."))?;
        ensure!(sent == "REFUSED" || sent == "NOTZONE", "{cut}: {sent}");
    }
    Ok(())
}

#[test]
fn operators_serial_rises_with_every_change_and_not_without_one() -> Result<()> {
    let pool = open_pool();
    let serial = || -> Result<u32> {
        let shown = dig(pool.dns(), &["+short", "hypernet.internal.", "SOA"])?;
        Ok(shown.stdout.split(' ').nth(2).context("a serial")?.parse()?)
    };
    let send = |script: &str| {
        rcode(
            &pool,
            Some("admin"),
            &format!("zone hypernet.internal\n{script}\nsend\n"),
        )
    };
    // Other tests change this zone at the same time: compare around a change of ours only.
    let before = serial()?;
    assert_eq!(send("update add serial.hypernet.internal. 60 A 192.0.2.1")?, "NOERROR");
    ensure!(serial()? > before);
    Ok(())
}

#[test]
fn agent_key_speaks_for_its_own_server_alone() -> Result<()> {
    let pool = open_pool();
    let domain = dns::domain(&pool);
    let agent = Client::new(&pool, "s1");
    let text = agent.ask(&name("s2.pool.hypernet.internal."), RecordType::TXT)?;
    let has = zones::Has::from_strings(&text.txt().next().context("what s2 has")?.txt_data)?;
    let lie = build_has_update(&domain, fresh_id(), &server("s2"), &has, 1, &["192.0.2.66".parse()?])?;
    let answer = agent.exchange_tcp(lie)?;
    assert_eq!(answer.code, ResponseCode::Refused);
    ensure!(
        answer.why().is_some_and(|why| why.contains("only server s2")),
        "{:?}",
        answer.why()
    );
    for script in [
        "zone pool.hypernet.internal\nupdate add _want.s1.pool.hypernet.internal. 5 TXT \"v=hn1\" \"role=serving\" \
         \"targets=\" \"plan=99\" \"step=1\"\nsend\n",
        "zone pool.hypernet.internal\nupdate add _todo.s1.pool.hypernet.internal. 5 TXT \"move\" \"1\" \"s2\"\nsend\n",
        "zone pool.hypernet.internal\nupdate delete s2.pool.hypernet.internal.\nsend\n",
        "zone pool.hypernet.internal\nupdate add any.pool.hypernet.internal. 5 A 192.0.2.66\nsend\n",
        "zone pool.hypernet.internal\nupdate add evil.pool.hypernet.internal. 5 A 192.0.2.66\nsend\n",
        "zone tree.hypernet.internal\nupdate add 1.tree.hypernet.internal. 5 NS evil.example.\nsend\n",
        "zone hypernet.internal\nupdate add www.hypernet.internal. 5 A 192.0.2.66\nsend\n",
    ] {
        assert_eq!(rcode(&pool, Some("s1"), script)?, "REFUSED", "{script}");
    }
    for name in ["s2.pool", "any.pool", "evil.pool"] {
        let shown = dig(pool.dns(), &["+short", &format!("{name}.hypernet.internal."), "A"])?;
        ensure!(!shown.stdout.contains("192.0.2.66"), "{}", shown.stdout);
    }
    // An agent sees what it should do; its own want stays the controller's.
    let seen = agent.ask(&name("_want.s1.pool.hypernet.internal."), RecordType::TXT)?;
    if let Some(txt) = seen.txt().next() {
        ensure!(zones::Want::from_strings(&txt.txt_data)?.role == Role::Serving);
    }
    Ok(())
}

#[test]
fn wrong_key_wrong_secret_and_wrong_clock_get_the_answers_of_the_rfc() -> Result<()> {
    let pool = open_pool();
    let question = || build_question(fresh_id(), &name("hypernet.internal."), RecordType::SOA, Some(1232));
    let exchange = |message: &[u8]| -> Result<Vec<u8>> {
        let socket = dns::udp(pool.dns())?;
        socket.send(message)?;
        let mut octets = vec![0; 65_535];
        let length = socket.recv(&mut octets)?;
        octets.truncate(length);
        Ok(octets)
    };
    let good = dns::read_key(&pool, "s1");
    let unknown = zones::TsigKey::new("nobody", &[7; 32])?;
    let wrong = zones::TsigKey::new("s1", &[7; 32])?;
    for (key, error) in [(&unknown, 17), (&wrong, 16)] {
        let mut message = question();
        let mac = sign_request(&mut message, key, now_s());
        let answer = exchange(&message)?;
        assert_eq!(answer[3] & 0x0f, 9, "NOTAUTH");
        assert_eq!(
            verify_response(&answer, key, &mac, now_s()),
            Err(zones::tsig::AnswerSignatureError::Rejected { error })
        );
    }
    let mut message = question();
    let mac = sign_request(&mut message, &good, now_s() - 3600);
    let answer = exchange(&message)?;
    match verify_response(&answer, &good, &mac, now_s()) {
        Err(zones::tsig::AnswerSignatureError::ClockRefused { server_time_s }) => {
            ensure!(server_time_s.abs_diff(now_s()) < 60);
        }
        other => anyhow::bail!("{other:?}"),
    }
    // dig says the same of a wrong secret.
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("wrong.key");
    std::fs::write(&path, wrong.to_bind_file().as_bytes())?;
    let path = path.to_str().context("a path in UTF-8")?;
    let asked = dig(pool.dns(), &["-k", path, "hypernet.internal.", "SOA"])?;
    ensure!(
        format!("{}{}", asked.stdout, asked.stderr).contains("BADSIG"),
        "{}",
        asked.stdout
    );
    Ok(())
}

/// Two hundred who all saw the same register: half over sockets of their own, half pipelined on one connection, all
/// let go at once.
#[test]
fn of_two_hundred_updates_with_one_prerequisite_exactly_one_wins() -> Result<()> {
    const EACH: usize = 100;
    let pool = open_pool();
    let agent = Arc::new(Client::new(&pool, "s1"));
    for round in 0..5 {
        let address = format!("4.6.race.{round}");
        let old = agent.create(&address, "s1")?;
        let message = || -> Result<(Vec<u8>, zones::Mac, Register)> {
            let change = touched(&old);
            let mut message = build_register_update(&agent.domain, fresh_id(), std::slice::from_ref(&change))?;
            let mac = agent.sign(&mut message).context("a key")?;
            Ok((message, mac, change.new))
        };
        let start = Arc::new(Barrier::new(EACH + 2));
        let mut threads = Vec::new();
        for _ in 0..EACH {
            let (message, mac, new) = message()?;
            let (start, agent) = (Arc::clone(&start), Arc::clone(&agent));
            let socket = dns::udp(agent.server)?;
            threads.push(thread::spawn(move || -> Result<(ResponseCode, Register)> {
                start.wait();
                socket.send(&message)?;
                let mut octets = [0; 4096];
                let length = socket.recv(&mut octets).context("a datagram")?;
                let answer = agent.verified(&octets[..length], Some(&mac))?;
                ensure!(answer.id == id_of(&message));
                Ok((answer.code, new))
            }));
        }
        let pipelined: Vec<_> = (0..EACH).map(|_| message()).collect::<Result<_>>()?;
        let piped = {
            let (start, agent) = (Arc::clone(&start), Arc::clone(&agent));
            thread::spawn(move || -> Result<Vec<(ResponseCode, Register)>> {
                let mut connection = agent.connect()?;
                start.wait();
                for (message, ..) in &pipelined {
                    connection.send(message)?;
                }
                // Answers may come in any order; the id tells which is which.
                let mut waiting: HashMap<u16, Vec<_>> = HashMap::new();
                for (message, mac, new) in pipelined {
                    waiting.entry(id_of(&message)).or_default().push((mac, new));
                }
                let mut outcomes = Vec::new();
                for _ in 0..EACH {
                    let octets = connection.receive()?;
                    let candidates = waiting.get_mut(&id_of(&octets)).context("an answer to nothing")?;
                    let signed = |(mac, _): &(zones::Mac, Register)| agent.verified(&octets, Some(mac)).is_ok();
                    let at = candidates.iter().position(signed).context("a signed answer")?;
                    let (mac, new) = candidates.remove(at);
                    outcomes.push((agent.verified(&octets, Some(&mac))?.code, new));
                }
                Ok(outcomes)
            })
        };
        start.wait();
        let mut outcomes = Vec::new();
        for thread in threads {
            outcomes.push(thread.join().expect("no panic")?);
        }
        outcomes.extend(piped.join().expect("no panic")?);
        assert_eq!(outcomes.len(), 2 * EACH);
        let (won, lost): (Vec<_>, Vec<_>) = outcomes
            .into_iter()
            .partition(|(code, _)| *code == ResponseCode::NoError);
        assert_eq!(won.len(), 1, "round {round}");
        assert!(lost.iter().all(|(code, _)| *code == ResponseCode::NXRRSet));
        assert_eq!(
            agent.register(&address)?.as_ref(),
            Some(&won[0].1),
            "the winner is what is there"
        );
    }
    Ok(())
}

/// What one sender of the test below knows of its own updates.
#[derive(Default)]
struct Sent {
    /// Registers of messages that were acknowledged.
    acknowledged: Vec<Vec<Register>>,
    /// Registers of messages without an answer: there as a whole, or not at all.
    open: Vec<Vec<Register>>,
}

/// Sends creations, up to 32 messages at a time, until the connection breaks.
fn send_until_killed(agent: &Client, sender: usize, acknowledged: &AtomicUsize) -> Result<Sent> {
    const MESSAGES: usize = 2500;
    const WINDOW: usize = 32;
    let mut sent = Sent::default();
    let mut open: BTreeMap<u16, (zones::Mac, Vec<Register>)> = BTreeMap::new();
    let mut connection = agent.connect()?;
    let mut next = 0;
    'alive: while next < MESSAGES || !open.is_empty() {
        while next < MESSAGES && open.len() < WINDOW {
            // Every fourth message has five objects.
            let objects = if next % 4 == 0 { 5 } else { 1 };
            let changes: Vec<_> = (0..objects)
                .map(|object| creation(&format!("4.7.{sender}.{next}.{object}"), "s1"))
                .collect();
            let id = u16::try_from(next)?;
            let mut message = build_register_update(&agent.domain, id, &changes)?;
            let mac = agent.sign(&mut message).context("a key")?;
            open.insert(id, (mac, changes.into_iter().map(|change| change.new).collect()));
            next += 1;
            if connection.send(&message).is_err() {
                break 'alive;
            }
        }
        let Ok(octets) = connection.receive() else { break };
        let (mac, registers) = open.remove(&id_of(&octets)).context("an answer to nothing")?;
        let answer = agent.verified(&octets, Some(&mac))?;
        ensure!(
            answer.code == ResponseCode::NoError,
            "{} {:?}",
            answer.code,
            answer.why()
        );
        sent.acknowledged.push(registers);
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
    sent.open = open.into_values().map(|(_, registers)| registers).collect();
    Ok(sent)
}

#[test]
fn killed_librarian_has_every_acknowledged_update_and_no_half_of_a_message() -> Result<()> {
    const SENDERS: usize = 4;
    let mut pool = closed_pool();
    let agent = Arc::new(Client::new(&pool, "s1"));
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (agent, acknowledged) = (Arc::clone(&agent), Arc::clone(&acknowledged));
            thread::spawn(move || send_until_killed(&agent, sender, &acknowledged))
        })
        .collect();
    // In the midst of ten thousand: the senders are heard while the process dies.
    while acknowledged.load(Ordering::SeqCst) < 4000 {
        ensure!(
            !senders.iter().all(thread::JoinHandle::is_finished),
            "the senders ended early"
        );
        thread::yield_now();
    }
    pool.kill_librarian()?;
    let mut sent = Sent::default();
    for sender in senders {
        let one = sender.join().expect("no panic")?;
        sent.acknowledged.extend(one.acknowledged);
        sent.open.extend(one.open);
    }
    ensure!(
        !sent.open.is_empty(),
        "nothing was open when the librarian died: kill it earlier"
    );
    ensure!(
        sent.acknowledged.len() < SENDERS * 2500,
        "all was acknowledged: kill it earlier"
    );
    pool.start_librarian()?;
    let agent = Client::new(&pool, "s1");
    for registers in &sent.acknowledged {
        for register in registers {
            let kept = agent.register(register.address.as_str())?;
            assert_eq!(kept.as_ref(), Some(register), "acknowledged and lost");
        }
    }
    let (mut whole, mut none) = (0, 0);
    for registers in &sent.open {
        let mut there = 0;
        for register in registers {
            if let Some(kept) = agent.register(register.address.as_str())? {
                assert_eq!(&kept, register);
                there += 1;
            }
        }
        assert!(
            there == 0 || there == registers.len(),
            "half of a message: {registers:?}"
        );
        if there == 0 { none += 1 } else { whole += 1 }
    }
    println!(
        "{} messages acknowledged, all there; {} without an answer: {whole} there, {none} not",
        sent.acknowledged.len(),
        sent.open.len()
    );
    // It goes on as before.
    agent.create("4.7.afterwards", "s1")?;
    Ok(())
}

/// Valid messages of every kind, to be spoiled.
fn messages(agent: &Client, register: &Register) -> Result<Vec<Vec<u8>>> {
    let mut messages = Vec::new();
    for text in [
        "4.8.spoiled.1.obj.hypernet.internal.",
        "1.spoiled.8.4.tree.hypernet.internal.",
        "4.8.spoiled.1.",
        "s1.pool.hypernet.internal.",
        "_place.pool.hypernet.internal.",
        "hypernet.internal.",
        "absent.hypernet.internal.",
    ] {
        for kind in [
            RecordType::SRV,
            RecordType::TXT,
            RecordType::A,
            RecordType::SOA,
            RecordType::ANY,
            RecordType::AXFR,
            RecordType::IXFR,
        ] {
            messages.push(build_question(fresh_id(), &name(text), kind, Some(1232)));
            let mut signed = build_question(fresh_id(), &name(text), kind, Some(4096));
            agent.sign(&mut signed);
            messages.push(signed);
        }
    }
    for changes in [
        vec![touched(register)],
        (0..20).map(|n| creation(&format!("4.8.many.{n}"), "s1")).collect(),
    ] {
        let message = build_register_update(&agent.domain, fresh_id(), &changes)?;
        messages.push(message.clone());
        let mut signed = message;
        // Spoiled before it is signed, see below; signed here it dies at the MAC.
        agent.sign(&mut signed);
        messages.push(signed);
    }
    Ok(messages)
}

/// Changes a message at random: octets, its length, counts in the header, opcodes, pieces of itself.
fn spoil(message: &mut Vec<u8>, random: &mut impl FnMut() -> usize) {
    for _ in 0..=random() % 4 {
        if message.is_empty() {
            return;
        }
        let at = random() % message.len();
        match random() % 8 {
            0 => message[at] = u8::try_from(random() % 256).unwrap_or_default(),
            1 => message[at] ^= 1 << (random() % 8),
            2 => message.truncate(at),
            3 => message.extend_from_within(at..),
            4 if message.len() > 11 => message[4 + random() % 8] = u8::try_from(random() % 256).unwrap_or_default(),
            5 if message.len() > 2 => message[2] = u8::try_from(random() % 256).unwrap_or_default(),
            6 => message[at] = 0xc0,
            _ => message.insert(at, 0),
        }
        message.truncate(4096);
    }
}

#[test]
fn twenty_thousand_spoiled_messages_over_udp_and_tcp_stop_nothing() -> Result<()> {
    const EACH: usize = 10_000;
    let pool = closed_pool();
    let agent = Client::new(&pool, "s1");
    let register = agent.create("4.8.spoiled.1", "s1")?;
    let before = resident_memory(pool.librarian_process()?.pid())?;
    let messages = messages(&agent, &register)?;
    let seed = std::env::var("HYPERNET_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(fresh_id()) << 16 | u64::from(fresh_id()));
    println!("seed {seed}: set HYPERNET_SEED to repeat it");
    let mut state = seed | 1;
    let mut random = move || {
        // xorshift64*, so that a run can be repeated.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        usize::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).expect("31 bits")
    };
    let mut spoiled = |index: usize| {
        let mut message = messages[index % messages.len()].clone();
        let sign_again = index.is_multiple_of(3);
        spoil(&mut message, &mut random);
        // Some are signed as they are now, so that they get past the MAC.
        if sign_again && message.len() >= 12 && message[11] < 255 {
            agent.sign(&mut message);
        }
        message
    };
    let answers = |what: &str| -> Result<()> {
        let found = agent.register("4.8.spoiled.1").with_context(|| what.to_owned())?;
        ensure!(found.is_some_and(|found| found.address == register.address), "{what}");
        Ok(())
    };
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(pool.dns())?;
    socket.set_nonblocking(true)?;
    let (mut replies, mut buffer) = (0, [0; 65_535]);
    for index in 0..EACH {
        let _ = socket.send(&spoiled(index));
        while socket.recv(&mut buffer).is_ok() {
            replies += 1;
        }
        if index % 500 == 0 {
            answers("after spoiled datagrams")?;
        }
    }
    println!("{replies} of {EACH} datagrams got an answer");
    let mut connections = 0;
    let mut connection: Option<dns::Connection> = None;
    for index in 0..EACH {
        let mut message = spoiled(index);
        let length = if index % 50 == 0 {
            message.len() + 7
        } else {
            message.len()
        };
        let mut framed = u16::try_from(length)?.to_be_bytes().to_vec();
        framed.append(&mut message);
        // A connection is given up after some messages, in their midst or because the librarian closed it.
        if connection.is_none() || index % 40 == 0 {
            connection = Some(agent.connect().context("connect after spoiled messages")?);
            connections += 1;
        }
        if let Some(open) = &mut connection
            && open.send_raw(&framed).is_err()
        {
            connection = None;
        }
        if index % 500 == 0 {
            answers("after spoiled messages over TCP")?;
            // And over a connection of its own, while the spoiled one is still open.
            let own = name("4.8.spoiled.1.obj.hypernet.internal.");
            let answer = agent.exchange_tcp(build_question(fresh_id(), &own, RecordType::SRV, Some(1232)))?;
            assert_eq!(answer.code, ResponseCode::NoError);
        }
    }
    println!("{connections} connections were used for {EACH} messages over TCP");
    drop(connection);
    answers("at the end")?;
    let after = resident_memory(pool.librarian_process()?.pid())?;
    println!(
        "resident memory {} KiB before, {} KiB after",
        before / 1024,
        after / 1024
    );
    ensure!(
        after < before + (64 << 20),
        "memory grew from {before} to {after} octets"
    );
    Ok(())
}

/// Connections that send nothing, or half a message, do not keep others out.
#[test]
fn idle_and_half_sent_connections_keep_nobody_out() -> Result<()> {
    let pool = closed_pool();
    let agent = Client::new(&pool, "s1");
    agent.create("4.9.idle.1", "s1")?;
    let mut idle = Vec::new();
    // As many as a process may have open by default, with room for the rest.
    for index in 0..800 {
        let Ok(mut connection) = dns::Connection::new(pool.dns()) else {
            break;
        };
        if index % 2 == 0 {
            let _ = connection.send_raw(&[0, 200, 1]);
        }
        idle.push(connection);
    }
    println!("{} connections were open", idle.len());
    for _ in 0..20 {
        ensure!(agent.register("4.9.idle.1")?.is_some());
    }
    // A new connection takes the place of the most silent one, once that has been silent for a second.
    let own = agent.domain.obj_name(&"4.9.idle.1".parse()?)?;
    let question = build_question(fresh_id(), &own, RecordType::SRV, Some(1232));
    let until = Instant::now() + Duration::from_secs(5);
    let answer = loop {
        match agent.exchange_tcp(question.clone()) {
            Ok(answer) => break answer,
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    };
    assert_eq!(answer.code, ResponseCode::NoError);
    // From now on at once.
    for _ in 0..20 {
        assert_eq!(agent.exchange_tcp(question.clone())?.code, ResponseCode::NoError);
    }
    Ok(())
}
