//! A prefix of one pool's tree delegated to another pool's librarian: by hand with dig, by `librarian where`, by clients.

mod web;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration::harness::{Captured, Pool, Unbound, dig, free_port, nsupdate};
use web::DEMO;

const FAR: &str = "other.example.internal.";

/// Two pools: one that delegates `0.7` and `0.8`, by names of both kinds, and one that serves them and shows nothing to strangers.
struct Pools {
    near: Pool,
    far: Pool,
    /// Files of a client of the far pool.
    far_client: PathBuf,
}

fn part(prefix: &str, ns: Option<&str>) -> toml::Value {
    let mut part = toml::Table::new();
    part.insert("domain".to_owned(), "hypernet.internal.".into());
    part.insert("prefix".to_owned(), prefix.into());
    part.extend(ns.map(|ns| ("ns".to_owned(), ns.into())));
    part.into()
}

fn two_pools(near_servers: usize) -> Result<Pools> {
    let far = Pool::builder(DEMO)
        .domain(FAR)
        .servers(1)
        .free(0)
        .librarian_setting("networks", Vec::<String>::new())
        .librarian_setting(
            "serves",
            vec![part("0.7", None), part("0.8", Some("ns.pool.other.example.internal."))],
        )
        .start()?;
    let near = Pool::builder(DEMO).servers(near_servers).free(0).start()?;
    let far_client = far.add_client("alice", &["read:0", "write:0"])?;
    let dir = far_client.display().to_string();
    far.agent(&["put", "0.7.1", "-", "--client", &dir], b"far body")?;
    delegate(
        &near,
        "update add 7.0.tree.hypernet.internal. 60 NS ns.7.0.tree.hypernet.internal.
         update add ns.7.0.tree.hypernet.internal. 60 A 127.0.0.1
         update add 8.0.tree.hypernet.internal. 60 NS ns.pool.other.example.internal.",
    )?;
    Ok(Pools { near, far, far_client })
}

/// Changes the tree with the admin key.
fn delegate(pool: &Pool, changes: &str) -> Result<()> {
    let script = format!("zone tree.hypernet.internal.\n{changes}\nsend");
    nsupdate(pool.dns(), Some(&pool.admin_key()), &script)?.success()?;
    Ok(())
}

/// Adds a table for the far pool to a file of settings.
fn configure(file: &Path, lines: &[(&str, String)]) -> Result<()> {
    let mut text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    if let Some(before) = text.find("\n[pools.") {
        text.truncate(before);
    }
    write!(text, "\n[pools.\"{FAR}\"]\n")?;
    for (key, value) in lines {
        writeln!(text, "{key} = {value}")?;
    }
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// A command that must fail with status 1, and what it said.
fn failed(captured: &Captured) -> Result<&str> {
    ensure!(captured.status.code() == Some(1), "{captured:?}");
    Ok(&captured.stderr)
}

/// Records of a section of dig's answer, its fields separated by one space.
fn section(captured: &Captured, name: &str) -> Vec<String> {
    let lines = captured.stdout.lines();
    let lines = lines.skip_while(|line| !line.starts_with(&format!(";; {name} SECTION")));
    let lines = lines.skip(1).take_while(|line| !line.is_empty());
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

fn is_authoritative(captured: &Captured) -> bool {
    let flags = captured.stdout.lines().find(|line| line.starts_with(";; flags:"));
    flags.is_some_and(|flags| flags.split(';').nth(2).is_some_and(|flags| flags.contains(" aa")))
}

#[test]
fn prefix_delegated_by_nsupdate_is_followed_by_hand_with_dig() -> Result<()> {
    let Pools { near, far, far_client } = two_pools(0)?;
    let cut = ["7.0.tree.hypernet.internal. 60 IN NS ns.7.0.tree.hypernet.internal."];
    let glue = ["ns.7.0.tree.hypernet.internal. 60 IN A 127.0.0.1"];
    let alias = ["0.7.1.obj.hypernet.internal. 5 IN CNAME 1.7.0.tree.hypernet.internal."];
    // The first librarian: an alias in obj, with the referral it leads to; the referral alone in tree.
    let asked = dig(near.dns(), &["+norecurse", "0.7.1.obj.hypernet.internal.", "SRV"])?;
    ensure!(
        is_authoritative(&asked) && section(&asked, "ANSWER") == alias,
        "{asked:?}"
    );
    ensure!(
        section(&asked, "AUTHORITY") == cut && section(&asked, "ADDITIONAL") == glue,
        "{asked:?}"
    );
    let asked = dig(near.dns(), &["+norecurse", "1.7.0.tree.hypernet.internal.", "SRV"])?;
    ensure!(
        !is_authoritative(&asked) && section(&asked, "ANSWER").is_empty(),
        "{asked:?}"
    );
    ensure!(
        section(&asked, "AUTHORITY") == cut && section(&asked, "ADDITIONAL") == glue,
        "{asked:?}"
    );
    ensure!(asked.rcode() == Some("NOERROR"), "{asked:?}");
    // The second one: the object under that very name, for whom it shows it to.
    let key = far_client.join("tsig.key").display().to_string();
    let asked = dig(
        far.dns(),
        &["-k", &key, "+norecurse", "1.7.0.tree.hypernet.internal.", "SRV"],
    )?;
    ensure!(is_authoritative(&asked), "{asked:?}");
    let port = far.server("s1")?.ready.https.port();
    let answer = section(&asked, "ANSWER");
    ensure!(
        matches!(&answer[..], [one] if one.starts_with("1.7.0.tree.hypernet.internal. 5 IN SRV 0 ")
            && one.ends_with(&format!(" {port} s1.pool.{FAR}"))),
        "{asked:?}"
    );
    let stranger = dig(far.dns(), &["+norecurse", "1.7.0.tree.hypernet.internal.", "SRV"])?;
    ensure!(stranger.rcode() == Some("NXDOMAIN"), "{stranger:?}");
    // Parent and child say the same of the cut, and the child's SOA record names its pool.
    let asked = dig(far.dns(), &["+norecurse", "7.0.tree.hypernet.internal.", "NS"])?;
    ensure!(is_authoritative(&asked), "{asked:?}");
    let ns = section(&asked, "ANSWER");
    ensure!(
        matches!(&ns[..], [one] if one.ends_with(" IN NS ns.7.0.tree.hypernet.internal.")),
        "{asked:?}"
    );
    let soa = dig(far.dns(), &["+short", "7.0.tree.hypernet.internal.", "SOA"])?;
    ensure!(soa.stdout.starts_with(&format!("ns.pool.{FAR} ")), "{soa:?}");
    let outside = dig(far.dns(), &["1.9.0.tree.hypernet.internal.", "SRV"])?;
    ensure!(outside.rcode() == Some("REFUSED"), "{outside:?}");
    // Nobody but the admin delegates, and the end of a delegation is the end of its glue.
    let script = "zone tree.hypernet.internal.\nupdate add 9.0.tree.hypernet.internal. 60 NS ns.example.\nsend";
    let unsigned = nsupdate(near.dns(), None, script)?;
    ensure!(unsigned.stderr.contains("update failed: REFUSED"), "{unsigned:?}");
    delegate(&near, "update delete 7.0.tree.hypernet.internal. NS")?;
    for gone in [
        "1.7.0.tree.hypernet.internal.",
        "ns.7.0.tree.hypernet.internal.",
        "0.7.1.obj.hypernet.internal.",
    ] {
        let asked = dig(near.dns(), &["+norecurse", gone, "A"])?;
        // Another part of 0 is still delegated, so names of obj may lie above an alias.
        ensure!(
            section(&asked, "ANSWER").is_empty() && is_authoritative(&asked),
            "{asked:?}"
        );
        ensure!(section(&asked, "ADDITIONAL").is_empty(), "{asked:?}");
    }
    Ok(())
}

#[test]
fn where_follows_to_a_pool_whose_authority_is_configured_and_else_says_so() -> Result<()> {
    let Pools { near, far, far_client } = two_pools(0)?;
    // The name server's name tells the pool.
    let untold = near.librarian_any(&["where", "0.8.1"])?;
    let said = failed(&untold)?;
    for part in ["8.0.tree.hypernet.internal.", &format!("[pools.\"{FAR}\"]"), "ca ="] {
        ensure!(said.contains(part), "{part} is missing: {said}");
    }
    // It does not, and nobody else does.
    let untold = near.librarian_any(&["where", "0.7.1"])?;
    let said = failed(&untold)?;
    ensure!(
        said.contains("7.0.tree.hypernet.internal.") && said.contains("[pools."),
        "{said}"
    );
    let file = near.dir().join("librarian.toml");
    let dns = ("dns", format!("[\"{}\"]", far.dns()));
    let tsig = ("tsig_key", quoted(&far_client.join("tsig.key")));
    configure(&file, &[("ca", quoted(&far.ca())), dns.clone(), tsig.clone()])?;
    let found = near.librarian(&["where", "0.7.1"])?.stdout;
    let place = far.server("s1")?.ready.https;
    for part in [
        FAR,
        "7.0.tree.hypernet.internal.",
        &format!("s1.pool.{FAR} at https://{place}, verified"),
    ] {
        ensure!(found.contains(part), "{part} is missing: {found}");
    }
    let found = near.librarian(&["where", "0.7.1", "--json"])?.stdout;
    let found: serde_json::Value = serde_json::from_str(&found)?;
    ensure!(
        found["pool"] == FAR && found["servers"][0]["fault"].is_null(),
        "{found}"
    );
    // Without an address in the settings, that of the delegation is asked; a name server without one cannot be.
    configure(&file, &[("ca", quoted(&far.ca()))])?;
    let nowhere = near.librarian_any(&["where", "0.8.1"])?;
    ensure!(failed(&nowhere)?.contains("set dns in"), "{nowhere:?}");
    configure(&file, &[("ca", quoted(&far.ca())), dns.clone(), tsig.clone()])?;
    let absent = near.librarian_any(&["where", "0.7.9"])?;
    ensure!(failed(&absent)?.contains("no such object"), "{absent:?}");
    // Servers of another authority are strangers, whatever DNS says.
    configure(&file, &[("ca", quoted(&near.ca())), dns, tsig])?;
    let strange = near.librarian_any(&["where", "0.7.1"])?;
    failed(&strange)?;
    ensure!(strange.stdout.contains("NOT VERIFIED"), "{strange:?}");
    Ok(())
}

#[test]
fn client_follows_to_a_pool_that_is_configured_and_else_says_so() -> Result<()> {
    let Pools { near, far, far_client } = two_pools(1)?;
    let client = near.add_client("bob", &["read:*", "write:*"])?;
    let dir = client.display().to_string();
    let agent = |args: &[&str], input: &[u8]| near.agent_any(&[args, &["--client", &dir]].concat(), input);
    // Not configured: named, and what to do.
    for (command, zone, pool) in [
        (vec!["get", "0.8.1"], "8.0.tree.hypernet.internal.", FAR),
        (vec!["put", "0.8.1", "-"], "8.0.tree.hypernet.internal.", FAR),
        (vec!["rm", "0.8.1"], "8.0.tree.hypernet.internal.", FAR),
        (vec!["ls", "0.8"], "8.0.tree.hypernet.internal.", FAR),
        (vec!["stat", "0.7.1"], "7.0.tree.hypernet.internal.", ""),
    ] {
        let refused = agent(&command, b"")?;
        let said = failed(&refused)?;
        ensure!(said.contains(zone) && said.contains("[pools.\""), "{command:?}: {said}");
        ensure!(
            said.contains(pool) && said.contains("client.toml"),
            "{command:?}: {said}"
        );
    }
    let file = client.join("client.toml");
    let with_authority = |authority: PathBuf| {
        [
            ("ca", quoted(&authority)),
            ("certificate", quoted(&far_client.join("client.pem"))),
            ("key", quoted(&far_client.join("client.key"))),
            ("tsig_key", quoted(&far_client.join("tsig.key"))),
            ("dns", format!("[\"{}\"]", far.dns())),
        ]
    };
    configure(&file, &with_authority(far.ca()))?;
    let got = agent(&["get", "0.7.1"], b"")?.success()?;
    ensure!(got.stdout == "far body", "{got:?}");
    let put = agent(&["put", "0.7.2", "-"], b"from afar")?.success()?;
    ensure!(
        put.stdout.contains(&format!("s1.pool.{}", FAR.trim_end_matches('.'))),
        "{put:?}"
    );
    let by_name = agent(&["put", "0.8.3", "-"], b"by the other name")?.success()?;
    ensure!(by_name.stdout.contains("created"), "{by_name:?}");
    let stat = agent(&["stat", "0.7.2"], b"")?.success()?;
    ensure!(stat.stdout.contains("size      9"), "{stat:?}");
    let list = agent(&["ls", "0.7"], b"")?.success()?;
    let listed: Vec<&str> = list.stdout.lines().filter_map(|line| line.split(' ').next()).collect();
    ensure!(listed == ["0.7.1", "0.7.2"], "{list:?}");
    agent(&["rm", "0.7.2"], b"")?.success()?;
    let gone = agent(&["get", "0.7.2"], b"")?;
    failed(&gone)?;
    // Its own pool is as before, and what the other pool refuses is refused.
    agent(&["put", "3.1", "-"], b"near body")?.success()?;
    ensure!(
        agent(&["get", "3.1"], b"")?.success()?.stdout == "near body",
        "the own pool"
    );
    let held = far.librarian(&["where", "0.8.3"])?;
    ensure!(held.stdout.contains("0.8.3 is on s1"), "{held:?}");
    ensure!(
        near.librarian_any(&["where", "0.8.3"])?.status.code() == Some(1),
        "the near pool has it"
    );
    // Who asks an agent of the near pool without looking in DNS hears that it has no such object, and may have none.
    let asker = web::Asker::client(&client);
    web::ask(&near, &asker, "any", "/objects/0.7.1/body", &["-L"])?.expect(404)?;
    let made = web::ask(
        &near,
        &asker,
        "s1",
        "/objects/0.7.4/body",
        &["-X", "PUT", "--data-binary", "x"],
    )?;
    let said = made.expect(421)?.text();
    ensure!(said.contains("delegated to another pool"), "{said}");
    // A server whose certificate is another authority's is not spoken to.
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("patience = \"1s\"\n{text}"))?;
    configure(&file, &with_authority(near.ca()))?;
    let strange = agent(&["get", "0.7.1"], b"")?;
    ensure!(failed(&strange)?.contains("certificate"), "{strange:?}");
    Ok(())
}

/// At the port that a delegation means, 53, on a loopback address that is this process's own.
#[test]
fn resolver_in_front_follows_the_referral_and_so_does_a_client_behind_it() -> Result<()> {
    let [.., high, low] = std::process::id().to_be_bytes();
    let librarian = SocketAddr::from((Ipv4Addr::new(127, 83, high, low.max(1)), 53));
    if std::net::UdpSocket::bind(librarian).is_err() {
        println!("skipped: needs the right to port 53");
        return Ok(());
    }
    let far = Pool::builder(DEMO)
        .domain(FAR)
        .servers(1)
        .free(0)
        .librarian_setting("listen_dns", librarian.to_string())
        .librarian_setting("serves", vec![part("0.7", None)])
        .start()?;
    let near = Pool::builder(DEMO).servers(0).free(0).start()?;
    delegate(
        &near,
        &format!(
            "update add 7.0.tree.hypernet.internal. 60 NS ns.7.0.tree.hypernet.internal.
             update add ns.7.0.tree.hypernet.internal. 60 A {}",
            librarian.ip()
        ),
    )?;
    // Directly first: nothing but the delegation says where the other librarian is.
    let far_client = far.add_client("alice", &["read:0", "write:0"])?;
    let client = near.add_client("bob", &["read:*", "write:*"])?;
    let dir = client.display().to_string();
    let file = client.join("client.toml");
    let known = [
        ("ca", quoted(&far.ca())),
        ("certificate", quoted(&far_client.join("client.pem"))),
        ("key", quoted(&far_client.join("client.key"))),
    ];
    configure(&file, &known)?;
    near.agent(&["put", "0.7.1", "-", "--client", &dir], b"far body")?;
    configure(&near.dir().join("librarian.toml"), &known[..1])?;
    let found = near.librarian(&["where", "0.7.1"])?;
    ensure!(found.stdout.contains("verified by that pool's authority"), "{found:?}");
    let unbound = Unbound::start(&near, SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))?;
    let asked = dig(unbound.address(), &["0.7.1.obj.hypernet.internal.", "SRV"])?;
    let answer = section(&asked, "ANSWER");
    ensure!(
        answer.len() == 2 && answer[1].ends_with(&format!(" s1.pool.{FAR}")),
        "{asked:?}"
    );
    // What is absent is told with the zone that names the pool, so a client behind the resolver makes it there.
    let absent = dig(unbound.address(), &["0.7.2.obj.hypernet.internal.", "SRV"])?;
    ensure!(absent.rcode() == Some("NXDOMAIN"), "{absent:?}");
    let text = format!("domain = \"hypernet.internal.\"\ndns = [\"{}\"]\n", unbound.address());
    std::fs::write(&file, text)?;
    let [ca, certificate, key] = known;
    configure(&file, &[ca, certificate, key, ("dns", format!("[\"{librarian}\"]"))])?;
    let got = near.agent(&["get", "0.7.1", "--client", &dir], b"")?;
    ensure!(got.stdout == "far body", "{got:?}");
    let made = near.agent(&["put", "0.7.2", "-", "--client", &dir], b"made")?;
    ensure!(made.stdout.contains("0.7.2 created"), "{made:?}");
    Ok(())
}
