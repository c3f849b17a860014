//! Objects found by the programs people use: dig, kdig, delv, unbound, getaddrinfo.

mod dns;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dns::{Client, closed_pool, name, open_pool};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use integration::harness::{Captured, Pool, Process, Unbound, delv, dig, kdig, nsupdate, run, until};
use rustix::process::Signal;
use zones::query::{build_question, read_answer};

/// The three names of an object.
fn forms(pool: &Pool, address: &str) -> [String; 3] {
    let domain = dns::domain(pool);
    let address = address.parse().expect("an address");
    [
        domain.obj_name(&address).expect("a name").to_string(),
        domain.tree_name(&address).expect("a name").to_string(),
        domain.bare_name(&address).expect("a name").to_string(),
    ]
}

/// The records of an answer section as dig and kdig print it: type and data, without owner and TTL.
fn records(captured: &Captured) -> BTreeSet<String> {
    let (_, rest) = captured.stdout.split_once("ANSWER SECTION").unwrap_or_default();
    rest.lines()
        .skip(1)
        .take_while(|line| !line.is_empty() && !line.starts_with(";;"))
        .map(record)
        .collect()
}

fn record(line: &str) -> String {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let data = fields.get(3..).unwrap_or_default();
    data.join(" ").to_ascii_lowercase()
}

#[test]
fn object_is_found_under_each_form_of_its_name_in_any_case_over_udp_and_tcp() -> Result<()> {
    let pool = open_pool();
    let agent = Client::new(&pool, "s1");
    let register = agent.create("3.1.Forms.023", "s1")?;
    let port = pool.server("s1")?.ready.https.port();
    let expected = [
        ("SRV", format!("srv 0 1000 {port} s1.pool.hypernet.internal.")),
        ("A", "a 127.0.0.1".to_owned()),
        ("TXT", format!("txt {}", dns::quoted(&register)).to_ascii_lowercase()),
    ];
    for form in forms(&pool, "3.1.forms.023") {
        for spelled in [form.clone(), form.to_ascii_uppercase(), mixed(&form)] {
            for (kind, data) in &expected {
                for transport in ["+notcp", "+tcp"] {
                    let asked = dig(pool.dns(), &[&spelled, kind, transport])?;
                    assert_eq!(asked.rcode(), Some("NOERROR"), "{}\n{}", asked.command, asked.stdout);
                    assert_eq!(records(&asked), BTreeSet::from([data.clone()]), "{}", asked.command);
                    ensure!(asked.stdout.contains("flags: qr aa"), "{}", asked.stdout);
                    // The owner name in the answer repeats the spelling of the question.
                    let (_, answer) = asked.stdout.split_once("ANSWER SECTION").context("an answer")?;
                    ensure!(
                        answer
                            .lines()
                            .nth(1)
                            .is_some_and(|line| line.starts_with(spelled.as_str())),
                        "{answer}"
                    );
                }
            }
        }
    }
    Ok(())
}

fn mixed(name: &str) -> String {
    let change = |(index, c): (usize, char)| if index % 2 == 0 { c.to_ascii_uppercase() } else { c };
    name.chars().enumerate().map(change).collect()
}

#[test]
fn absent_name_is_nxdomain_and_a_name_with_objects_below_it_nodata() -> Result<()> {
    let pool = open_pool();
    let agent = Client::new(&pool, "s1");
    agent.create("3.2.Below.5", "s1")?;
    let expect = |name: &str, kind: &str, rcode: &str| -> Result<()> {
        let asked = dig(pool.dns(), &[name, kind])?;
        assert_eq!(asked.rcode(), Some(rcode), "{}\n{}", asked.command, asked.stdout);
        ensure!(records(&asked).is_empty(), "{}", asked.stdout);
        if rcode != "REFUSED" {
            // The SOA with the negative TTL of 2 s.
            ensure!(asked.stdout.contains("\tSOA\t"), "{}", asked.stdout);
            let soa = asked.stdout.lines().find(|line| line.contains("\tSOA\t"));
            ensure!(soa.is_some_and(|line| line.ends_with(" 2")), "{soa:?}");
        }
        Ok(())
    };
    expect("3.2.below.obj.hypernet.internal.", "SRV", "NXDOMAIN")?;
    expect("below.5.obj.hypernet.internal.", "SRV", "NOERROR")?;
    expect("below.2.3.tree.hypernet.internal.", "SRV", "NOERROR")?;
    expect("5.2.3.tree.hypernet.internal.", "SRV", "NXDOMAIN")?;
    expect("3.2.below.5.obj.hypernet.internal.", "MX", "NOERROR")?;
    expect("3.2.below.5.obj.hypernet.internal.", "AAAA", "NOERROR")?;
    expect("3.2.below.", "SRV", "REFUSED")?;
    expect("example.com.", "A", "REFUSED")?;
    expect("nobody.pool.hypernet.internal.", "A", "NXDOMAIN")?;
    Ok(())
}

#[test]
fn answer_that_does_not_fit_is_truncated_and_whole_over_tcp() -> Result<()> {
    let pool = open_pool();
    let agent = Client::new(&pool, "s1");
    // A register of some 350 octets at a name of 180: with the question over 512.
    let part = "long-part-of-an-address-".repeat(2);
    let address = format!("3.3.{part}.{part}.{part}");
    let mut change = dns::creation(&address, "s1");
    change.new.kind = "t".repeat(64).parse()?;
    assert_eq!(agent.update(std::slice::from_ref(&change))?.code, ResponseCode::NoError);
    let register = change.new;
    let text = format!("txt {}", dns::quoted(&register)).to_ascii_lowercase();
    let [obj, ..] = forms(&pool, &address);
    for options in [&["+noedns"][..], &["+bufsize=512"], &["+edns=0", "+bufsize=100"]] {
        let ask = |more: &[&str]| dig(pool.dns(), &[&[obj.as_str(), "TXT"], options, more].concat());
        let cut = ask(&["+ignore"])?;
        ensure!(
            cut.stdout.contains("flags: qr aa tc"),
            "{}\n{}",
            cut.command,
            cut.stdout
        );
        ensure!(records(&cut).is_empty(), "{}", cut.stdout);
        // Without +ignore dig does what resolvers do: asks again over TCP.
        let whole = ask(&[])?;
        assert_eq!(records(&whole), BTreeSet::from([text.clone()]), "{}", whole.stdout);
    }
    let large = dig(pool.dns(), &[&obj, "TXT", "+bufsize=4096", "+notcp", "+ignore"])?;
    assert_eq!(records(&large), BTreeSet::from([text]), "{}", large.stdout);
    // No answer over UDP is larger than was said.
    for octets in [512u16, 600, 1232, 4096] {
        let socket = dns::udp(pool.dns())?;
        socket.send(&build_question(1, &name(&obj), RecordType::TXT, Some(octets)))?;
        let mut answer = [0; 65_535];
        let length = socket.recv(&mut answer)?;
        ensure!(
            length <= usize::from(octets),
            "{length} octets for a buffer of {octets}"
        );
        read_answer(&answer[..length])?;
    }
    Ok(())
}

#[test]
fn dig_kdig_and_delv_agree() -> Result<()> {
    let pool = open_pool();
    let agent = Client::new(&pool, "s2");
    agent.create("3.4.agree.1", "s2")?;
    let server = pool.dns();
    for name in [
        "3.4.agree.1.obj.hypernet.internal.",
        "1.agree.4.3.tree.hypernet.internal.",
        "3.4.agree.1.",
        "any.pool.hypernet.internal.",
        "s2.pool.hypernet.internal.",
        "_place.pool.hypernet.internal.",
        "hypernet.internal.",
        "obj.hypernet.internal.",
    ] {
        for kind in ["SRV", "A", "TXT", "SOA", "NS"] {
            let asked = dig(server, &[name, kind])?;
            let knot = kdig(server, &[name, kind])?;
            assert_eq!(asked.rcode(), knot.rcode(), "{name} {kind}");
            // Weights follow the load that servers tell every second; targets and ports do not.
            let weightless = |records: BTreeSet<String>| match kind {
                "SRV" => records.iter().map(|record| without_weight(record)).collect(),
                _ => records,
            };
            let dug = weightless(records(&asked));
            assert_eq!(dug, weightless(records(&knot)), "{name} {kind}");
            // delv asks with DO and CD set, needs an answer, and takes a name of one zone only.
            if dug.is_empty() {
                continue;
            }
            let delved = delv(server, &[name, kind])?;
            let lines: BTreeSet<String> = delved
                .stdout
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with(';'))
                .map(record)
                .collect();
            let lines = weightless(lines);
            assert_eq!(dug, lines, "{}\n{}{}", delved.command, delved.stdout, delved.stderr);
        }
    }
    Ok(())
}

fn without_weight(record: &str) -> String {
    let mut fields: Vec<&str> = record.split(' ').collect();
    if fields.len() == 5 {
        fields.remove(2);
    }
    fields.join(" ")
}

#[test]
fn records_of_the_operator_are_served_beside_the_pools() -> Result<()> {
    let pool = open_pool();
    let script = "zone hypernet.internal\n\
                  update add www.hypernet.internal 60 A 192.0.2.7\n\
                  update add www.hypernet.internal 60 TXT \"hello\"\n\
                  update add *.wild.hypernet.internal 60 A 192.0.2.8\n\
                  update add alias.hypernet.internal 60 CNAME www.hypernet.internal.\n\
                  update add hypernet.internal 60 MX 10 www.hypernet.internal.\n\
                  send\n";
    nsupdate(pool.dns(), Some(&pool.admin_key()), script)?.success()?;
    for (name, kind, expected) in [
        ("www.hypernet.internal.", "A", "192.0.2.7\n"),
        ("www.hypernet.internal.", "TXT", "\"hello\"\n"),
        ("a.wild.hypernet.internal.", "A", "192.0.2.8\n"),
        ("alias.hypernet.internal.", "A", "www.hypernet.internal.\n192.0.2.7\n"),
        ("hypernet.internal.", "MX", "10 www.hypernet.internal.\n"),
    ] {
        let asked = dig(pool.dns(), &["+short", name, kind])?;
        assert_eq!(asked.stdout, expected, "{}", asked.command);
    }
    Ok(())
}

#[test]
fn stranger_learns_nothing_and_changes_nothing() -> Result<()> {
    let pool = closed_pool();
    let agent = Client::new(&pool, "s1");
    let register = agent.create("3.5.secret.7", "s1")?;
    let stranger = Client::stranger(&pool);
    // What is there and what is not are the same octets but for the question.
    for (there, absent) in [
        ("3.5.secret.7.obj", "3.5.secret.8.obj"),
        ("7.secret.5.3.tree", "8.secret.5.3.tree"),
        ("secret.7.obj", "secret.8.obj"),
        ("secret.5.3.tree", "secres.5.3.tree"),
    ] {
        for kind in [
            RecordType::SRV,
            RecordType::TXT,
            RecordType::A,
            RecordType::ANY,
            RecordType::DS,
        ] {
            let answer_to = |name: &str| -> Result<Vec<u8>> {
                let name = dns::name(&format!("{name}.hypernet.internal."));
                let socket = dns::udp(pool.dns())?;
                let question = build_question(7, &name, kind, Some(1232));
                socket.send(&question)?;
                let mut octets = [0; 65_535];
                let length = socket.recv(&mut octets)?;
                let asked = 12 + name.len() + 1;
                Ok([&octets[..12], &octets[asked..length]].concat())
            };
            assert_eq!(answer_to(there)?, answer_to(absent)?, "{there} {kind}");
        }
    }
    assert_eq!(
        stranger.ask(&name("3.5.secret.7."), RecordType::SRV)?.code,
        ResponseCode::Refused
    );
    for server in ["s1", "_want.s1", "_todo.s1", "any", "_place"] {
        let answer = stranger.ask(&name(&format!("{server}.pool.hypernet.internal.")), RecordType::TXT)?;
        assert_eq!(answer.txt().count(), 0, "{server}");
    }
    // Updates: refused before a prerequisite could tell what exists.
    for change in [
        dns::touched(&register),
        dns::creation("3.5.secret.7", "s1"),
        dns::creation("3.5.x", "s1"),
    ] {
        let answer = stranger.update(&[change])?;
        assert_eq!(answer.code, ResponseCode::Refused, "{:?}", answer.why());
    }
    let transfer = dig(pool.dns(), &["obj.hypernet.internal.", "AXFR"])?;
    ensure!(transfer.stdout.contains("Transfer failed"), "{}", transfer.stdout);
    assert_eq!(agent.register("3.5.secret.7")?, Some(register));
    Ok(())
}

#[test]
fn client_key_reads_what_its_grants_show_and_changes_nothing() -> Result<()> {
    let pool = closed_pool();
    let agent = Client::new(&pool, "s1");
    let shown = agent.create("3.6.Shown.1", "s1")?;
    agent.create("3.7.Hidden.1", "s1")?;
    pool.add_client("alice", &["read:3.6"])?;
    let alice = Client::new(&pool, "alice");
    let ask = |text: &str, kind| alice.ask(&name(text), kind);
    assert_eq!(
        ask("3.6.shown.1.obj.hypernet.internal.", RecordType::SRV)?
            .srv()
            .count(),
        1
    );
    assert_eq!(ask("3.6.shown.1.", RecordType::A)?.addresses().count(), 1);
    assert_eq!(
        ask("shown.6.3.tree.hypernet.internal.", RecordType::SRV)?.code,
        ResponseCode::NoError
    );
    // The register's text is for agents, admin and listed networks.
    assert_eq!(
        ask("3.6.shown.1.obj.hypernet.internal.", RecordType::TXT)?
            .txt()
            .count(),
        0
    );
    for (hidden, code) in [
        ("3.7.hidden.1.obj.hypernet.internal.", ResponseCode::NXDomain),
        ("hidden.7.3.tree.hypernet.internal.", ResponseCode::NXDomain),
        ("3.7.hidden.1.", ResponseCode::Refused),
    ] {
        assert_eq!(ask(hidden, RecordType::SRV)?.code, code, "{hidden}");
    }
    for change in [
        dns::touched(&shown),
        dns::creation("3.6.new", "s1"),
        dns::creation("3.6.Shown.1", "s1"),
    ] {
        assert_eq!(alice.update(&[change])?.code, ResponseCode::Refused);
    }
    let key = pool.key("alice");
    let key = key.to_str().context("a path in UTF-8")?;
    let transfer = dig(pool.dns(), &["-k", key, "obj.hypernet.internal.", "AXFR"])?;
    ensure!(transfer.stdout.contains("Transfer failed"), "{}", transfer.stdout);
    Ok(())
}

#[test]
fn object_is_found_through_a_validating_resolver() -> Result<()> {
    let pool = open_pool();
    let agent = Client::new(&pool, "s1");
    agent.create("3.8.resolved.1", "s1")?;
    let unbound = Unbound::start(
        &pool,
        SocketAddr::from((Ipv4Addr::LOCALHOST, integration::harness::free_port()?)),
    )?;
    let port = pool.server("s1")?.ready.https.port();
    for (name, kind, expected) in [
        (
            "3.8.resolved.1.obj.hypernet.internal.",
            "SRV",
            format!("0 1000 {port} s1.pool.hypernet.internal.\n"),
        ),
        ("1.Resolved.8.3.tree.hypernet.internal.", "A", "127.0.0.1\n".to_owned()),
        ("s1.pool.hypernet.internal.", "A", "127.0.0.1\n".to_owned()),
    ] {
        let asked = dig(unbound.address(), &["+short", name, kind])?;
        assert_eq!(asked.stdout, expected, "{}\n{}", asked.command, asked.stderr);
    }
    let absent = dig(unbound.address(), &["3.8.resolved.2.obj.hypernet.internal.", "SRV"])?;
    assert_eq!(absent.rcode(), Some("NXDOMAIN"), "{}", absent.stdout);
    // A new object shows when the negative answer's 2 s are over: the TTL bounds it, nothing else.
    agent.create("3.8.resolved.2", "s1")?;
    until(
        "the new object to show through the resolver",
        Duration::from_secs(10),
        || {
            let asked = dig(unbound.address(), &["3.8.resolved.2.obj.hypernet.internal.", "SRV"])?;
            Ok(asked.rcode() == Some("NOERROR"))
        },
    )
}

/// A program that knows nothing of us: getaddrinfo, with unbound as the system's resolver in a mount namespace of its
/// own.
#[test]
fn object_is_found_by_plain_getaddrinfo() -> Result<()> {
    let pool = open_pool();
    let agent = Client::new(&pool, "s1");
    agent.create("3.9.plain.1", "s1")?;
    let dir = tempfile::tempdir()?;
    // resolv.conf knows no port; another address of loopback leaves a resolver of the machine alone.
    let address = Ipv4Addr::new(
        127,
        77,
        std::process::id().to_be_bytes()[2],
        std::process::id().to_be_bytes()[3] | 1,
    );
    std::fs::write(dir.path().join("resolv.conf"), format!("nameserver {address}\n"))?;
    std::fs::write(dir.path().join("nsswitch.conf"), "hosts: files dns\n")?;
    let script = format!(
        "mount --bind {dir}/resolv.conf /etc/resolv.conf && mount --bind {dir}/nsswitch.conf /etc/nsswitch.conf && \
         exec getent ahosts 3.9.plain.1.obj.hypernet.internal",
        dir = dir.path().display()
    );
    let unshared = run("unshare", &["-m", "true"])?.status.success();
    if !unshared || std::net::UdpSocket::bind((address, 53)).is_err() {
        println!("skipped: needs the right to a mount namespace and to port 53");
        return Ok(());
    }
    let _unbound = Unbound::start(&pool, SocketAddr::from((address, 53)))?;
    let found = run("unshare", &["-m", "sh", "-c", &script])?.success()?;
    ensure!(found.stdout.starts_with("127.0.0.1 "), "{}", found.stdout);
    Ok(())
}

/// An operator starts `librarian run`, and nothing else is needed: the process that was started is the one that answers.
#[test]
fn librarian_that_was_started_asks_for_huge_pages_and_keeps_its_name() -> Result<()> {
    let pool = open_pool();
    let pid = pool.librarian_process()?.pid();
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ"))?;
    let tunables = environment
        .split('\0')
        .find_map(|word| word.strip_prefix("GLIBC_TUNABLES="));
    let is_set = tunables.is_some_and(|tunables| tunables.split(':').any(|one| one == "glibc.malloc.hugetlb=1"));
    ensure!(is_set, "{tunables:?}");
    // As what lists processes shows it: the first 15 octets of the program's name (`proc(5)`).
    let program = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    let program = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let shown = std::fs::read_to_string(format!("/proc/{pid}/comm"))?;
    ensure!(
        !shown.trim().is_empty() && program.starts_with(shown.trim()),
        "{shown:?} for {program:?}"
    );
    Ok(())
}

/// It is slower, says so, and goes on; whoever closes a connection too early does not end it.
#[test]
fn librarian_that_cannot_be_begun_anew_runs_and_ignores_closed_connections() -> Result<()> {
    /// Longest string of a program's environment, its end included (`execve(2)`, with pages of 4 KiB).
    const STRING_OCTETS_MAX: usize = 32 * 4096;
    let mut pool = Pool::builder(env!("CARGO_BIN_EXE_demo")).servers(0).free(0).start()?;
    pool.stop_librarian()?;
    let mut command = pool.librarian_command(&["run"]);
    // What would be added is too much.
    command.env(
        "GLIBC_TUNABLES",
        "x".repeat(STRING_OCTETS_MAX - "GLIBC_TUNABLES=\0".len()),
    );
    let log = pool.dir().join("logs/librarian.log");
    let librarian = Process::start("librarian", command, &log)?;
    ensure!(std::fs::read_to_string(&log)?.contains("memory is not in huge pages"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", librarian.pid()))?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.context("signals that are ignored")?.trim(), 16)?;
    ensure!(ignored & 1 << (Signal::PIPE.as_raw() - 1) != 0, "{ignored:x}");
    librarian.stop()
}
