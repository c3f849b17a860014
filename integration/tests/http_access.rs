//! Who can do what over HTTPS: every identity with every verb, forwarded requests, certificates that end.

mod identity;
mod web;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use certs::{Identity, Who};
use identity::{WEEK_S, at, authority, client, foreign_authority, issue, now_s, random_serial};
use integration::harness::Pool;
use web::{Asker, DEMO, ask, host, origin, owner};

/// Writes an identity where curl finds it.
fn asker(home: &Path, name: &str, identity: &Identity, pool: &Pool) -> Result<Asker> {
    let (certificate, key): (PathBuf, PathBuf) = (home.join(format!("{name}.pem")), home.join(format!("{name}.key")));
    std::fs::write(&certificate, identity.certificate_pem())?;
    std::fs::write(&key, identity.key_pem())?;
    Ok(Asker {
        identity: Some((certificate, key)),
        authority: pool.ca(),
    })
}

/// `Client-Cert` of a certificate in a PEM file (RFC 9440).
fn client_cert(pem: &Path) -> Result<String> {
    let text = std::fs::read_to_string(pem)?;
    let base64: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    Ok(format!("Client-Cert: :{base64}:"))
}

fn certificate_of(asker: &Asker) -> Result<&Path> {
    asker
        .identity
        .as_ref()
        .map(|(certificate, _)| certificate.as_path())
        .context("an identity")
}

const WHO_CAN_DO_WHAT: &str = "\
who                            GET  HEAD GET-body PUT  PUT-body DELETE LIST healthz
stranger                       -    -    -        -    -        -      -    -
client read:1 write:1          200  200  200      200  200      204    200  200
client read:1                  200  200  200      403  403      403    200  200
client write:1                 404  404  404      200  200      204    200  200
client read:2 write:2          404  404  404      403  403      404    200  200
client read:* none:1           404  404  404      403  403      404    200  200
another agent                  403  403  403      403  403      403    403  200
the agent itself               403  403  403      403  403      403    403  200
librarian                      403  403  403      403  403      403    403  200
client of a foreign authority  -    -    -        -    -        -      -    -
agent of a foreign authority   -    -    -        -    -        -      -    -
expired client                 -    -    -        -    -        -      -    -
";

#[test]
fn everyone_can_do_what_the_table_says_and_no_more() -> Result<()> {
    let pool = Pool::builder(DEMO).servers(2).free(1).start()?;
    let root = Asker::client(&pool.add_client("root", &["read:*", "write:*"])?);
    let home = tempfile::tempdir()?;
    let ours = authority(&pool)?;
    let foreign = foreign_authority(&pool)?;
    let (now, server) = (now_s(), Who::Server("s2".parse()?));
    let full = client("full", &["read:1", "write:1"])?;
    let identities: Vec<(&str, Option<Identity>)> = vec![
        ("stranger", None),
        ("client read:1 write:1", Some(issue(&ours, &full, now)?)),
        (
            "client read:1",
            Some(issue(&ours, &client("reader", &["read:1"])?, now)?),
        ),
        (
            "client write:1",
            Some(issue(&ours, &client("writer", &["write:1"])?, now)?),
        ),
        (
            "client read:2 write:2",
            Some(issue(&ours, &client("other", &["read:2", "write:2"])?, now)?),
        ),
        (
            "client read:* none:1",
            Some(issue(&ours, &client("cut", &["read:*", "none:1"])?, now)?),
        ),
        ("another agent", Some(issue(&ours, &server, now)?)),
        (
            "the agent itself",
            Some(issue(&ours, &Who::Server("s1".parse()?), now)?),
        ),
        ("librarian", Some(issue(&ours, &Who::Librarian, now)?)),
        ("client of a foreign authority", Some(issue(&foreign, &full, now)?)),
        ("agent of a foreign authority", Some(issue(&foreign, &server, now)?)),
        ("expired client", Some(issue(&ours, &full, now - WEEK_S - 60)?)),
    ];
    let json = [
        "-H",
        "Content-Type: application/json",
        "-d",
        r#"{"properties":{"a":1}}"#,
    ];
    let put_json = [&["-X", "PUT"], &json[..]].concat();
    let verbs: [(&str, &str, Vec<&str>); 8] = [
        ("GET", "/objects/1.N", vec![]),
        ("HEAD", "/objects/1.N", vec!["-I"]),
        ("GET-body", "/objects/1.N/body", vec![]),
        ("PUT", "/objects/1.N", put_json),
        ("PUT-body", "/objects/1.N/body", vec!["-X", "PUT", "-d", "octets"]),
        ("DELETE", "/objects/1.N", vec!["-X", "DELETE"]),
        ("LIST", "/objects?under=1", vec![]),
        ("healthz", "/healthz", vec![]),
    ];
    let names: Vec<String> = verbs.iter().map(|(name, _, _)| format!("{name:4}")).collect();
    let mut table = format!("{:30} {}\n", "who", names.join(" "));
    for (number, (name, identity)) in identities.iter().enumerate() {
        let path = |path: &str| path.replace('N', &number.to_string());
        ask(
            &pool,
            &root,
            "s1",
            &path("/objects/1.N"),
            &[&["-X", "PUT"], &json[..]].concat(),
        )?
        .expect(201)?;
        let asker = match identity {
            None => Asker::stranger(&pool),
            Some(identity) => asker(home.path(), &format!("{number}"), identity, &pool)?,
        };
        let mut cells = Vec::new();
        for (verb, template, more) in &verbs {
            let answer = ask(&pool, &asker, "s1", &path(template), more)?;
            let cell = match answer.status {
                0 => "-".to_owned(),
                status => status.to_string(),
            };
            cells.push(format!("{cell:width$}", width = verb.len().max(4)));
            if *verb == "LIST" && answer.status == 200 {
                let sees = *name == "client read:1" || *name == "client read:1 write:1";
                let listed = answer.json()?["objects"].as_array().map_or(0, Vec::len);
                ensure!((listed > 0) == sees, "{name} sees {listed} objects");
            }
        }
        table.push_str(format!("{name:30} {}", cells.join(" ")).trim_end());
        table.push('\n');
        // Nothing was done for those who may not: the object is as it was made.
        let writes = name.contains("write:1");
        let now = ask(&pool, &root, "s1", &path("/objects/1.N"), &[])?;
        match writes {
            true => drop(now.expect(410)?),
            false => ensure!(now.expect(200)?.json()?["revision"] == 1, "{name} changed the object"),
        }
    }
    print!("{table}");
    let header = WHO_CAN_DO_WHAT.lines().next().unwrap_or_default();
    ensure!(table.lines().next().map(str::trim_end) == Some(header), "{table}");
    ensure!(table == WHO_CAN_DO_WHAT, "the table differs:\n{table}");
    Ok(())
}

#[test]
fn forbidden_object_is_answered_as_an_absent_one() -> Result<()> {
    let pool = Pool::builder(DEMO).servers(1).free(0).start()?;
    let root = Asker::client(&pool.add_client("root", &["read:*", "write:*"])?);
    let guest = Asker::client(&pool.add_client("guest", &["read:2"])?);
    ask(&pool, &root, "s1", "/objects/1.1/body", &["-X", "PUT", "-d", "secret"])?.expect(201)?;
    ask(&pool, &root, "s1", "/objects/1.2/body", &["-X", "PUT", "-d", "secret"])?.expect(201)?;
    ask(&pool, &root, "s1", "/objects/1.2", &["-X", "DELETE"])?.expect(204)?;
    let plain = |answer: web::Answer| {
        let kept = answer.headers.into_iter().filter(|(name, _)| name != "date");
        (answer.status, kept.collect::<Vec<_>>(), answer.body)
    };
    for (tail, more) in [
        ("", &[][..]),
        ("/body", &[]),
        ("/body", &["-r", "0-1"]),
        ("", &["-X", "DELETE"]),
    ] {
        let look = |address: &str| ask(&pool, &guest, "s1", &format!("/objects/{address}{tail}"), more).map(plain);
        let absent = look("1.9")?;
        ensure!(absent.0 == 404, "{absent:?}");
        ensure!(look("1.1")? == absent, "a forbidden object shows: {more:?}");
        ensure!(look("1.2")? == absent, "a deleted object shows: {more:?}");
    }
    Ok(())
}

/// s1 gave the object to s2, which gave it to s3 and got it back: what s1 remembers leads to s2, which takes nothing for it
/// from s1 any more.
#[test]
fn server_whose_memory_of_a_move_is_old_redirects_to_the_owner() -> Result<()> {
    let pool = Pool::builder(DEMO).servers(3).free(2).start()?;
    let dir = pool.add_client("alice", &["read:1", "write:1"])?;
    let alice = Asker::client(&dir);
    let dir_text = dir.to_str().context("the client's directory")?;
    pool.agent(&["put", "1.1", "-", "--client", dir_text], b"moved often")?;
    for (server, into) in [("s1", "s2"), ("s2", "s3"), ("s3", "s2")] {
        pool.librarian(&["drain", server, "--into", into])?;
    }
    ask(&pool, &alice, "s2", "/objects/1.1", &["-I"])?.expect(200)?;
    let read = ask(&pool, &alice, "s1", "/objects/1.1/body", &[])?;
    ensure!(read.status == 307, "{read:?}");
    let write = ask(&pool, &alice, "s1", "/objects/1.1/body", &["-X", "PUT", "-d", "new"])?;
    ensure!(write.status == 307, "{write:?}");
    // Who deleted it knows under which id: a repeated deletion succeeds there.
    pool.agent(&["rm", "1.1", "--client", dir_text], b"")?;
    let gone = ask(&pool, &alice, "s1", "/objects/1.1", &["-X", "DELETE"])?;
    ensure!(gone.status == 307, "{gone:?}");
    Ok(())
}

#[test]
fn forwarded_request_is_taken_from_the_source_of_the_move_only() -> Result<()> {
    let pool = Pool::builder(DEMO).servers(3).free(1).start()?;
    let alice_dir = pool.add_client("alice", &["read:1", "write:1"])?;
    let alice = Asker::client(&alice_dir);
    let guest = Asker::client(&pool.add_client("guest", &["read:2"])?);
    let home = tempfile::tempdir()?;
    let (ours, now) = (authority(&pool)?, now_s());
    let foreign = foreign_authority(&pool)?;
    let full = client("alice", &["read:*", "write:*"])?;
    let forged = asker(
        home.path(),
        "forged",
        &foreign.issue(&full, random_serial()?, at(now))?,
        &pool,
    )?;
    let past = asker(
        home.path(),
        "past",
        &ours.issue(&full, random_serial()?, at(now - WEEK_S - 60))?,
        &pool,
    )?;
    let dir_text = alice_dir.to_str().context("the client's directory")?;
    pool.agent(&["put", "1.1", "-", "--client", dir_text], b"before the move")?;
    let source = owner(&pool, &alice, "1.1")?;
    let bystander = if source == "s1" { "s2" } else { "s1" };
    pool.librarian(&["drain", &source])?;
    // The source answers too, through the destination: ask the free server, which took the drain, itself.
    ask(&pool, &alice, "s3", "/objects/1.1", &["-I"])?.expect(200)?;
    let agent = |name: &str| -> Result<Asker> { Ok(Asker::server(&pool.server(name)?.dir)) };
    let forward = |from: &Asker, carried: Option<&Asker>, hops: Option<&str>| -> Result<u16> {
        let mut more = Vec::new();
        if let Some(carried) = carried {
            more.extend(["-H".to_owned(), client_cert(certificate_of(carried)?)?]);
        }
        if let Some(hops) = hops {
            more.extend(["-H".to_owned(), format!("Hypernet-Hops: {hops}")]);
        }
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let answer = ask(&pool, from, "s3", "/objects/1.1/body", &more)?;
        if answer.status == 200 {
            ensure!(answer.text() == "before the move", "{answer:?}");
        }
        Ok(answer.status)
    };
    let (from_source, from_bystander) = (agent(&source)?, agent(bystander)?);
    let librarian = asker(
        home.path(),
        "librarian",
        &ours.issue(&Who::Librarian, random_serial()?, at(now))?,
        &pool,
    )?;
    type Case<'a> = (&'a str, &'a Asker, Option<&'a Asker>, Option<&'a str>, u16);
    let cases: [Case<'_>; 12] = [
        ("source for its client", &from_source, Some(&alice), Some("1"), 200),
        ("source, second hop", &from_source, Some(&alice), Some("2"), 200),
        ("source, third hop", &from_source, Some(&alice), Some("3"), 400),
        ("source without hops", &from_source, Some(&alice), None, 400),
        (
            "source for a client without grant",
            &from_source,
            Some(&guest),
            Some("1"),
            404,
        ),
        (
            "source for a client of a foreign authority",
            &from_source,
            Some(&forged),
            Some("1"),
            403,
        ),
        (
            "source for an expired client",
            &from_source,
            Some(&past),
            Some("1"),
            403,
        ),
        ("source for itself", &from_source, Some(&from_source), Some("1"), 403),
        ("source for nobody", &from_source, None, Some("1"), 403),
        (
            "another agent for a client",
            &from_bystander,
            Some(&alice),
            Some("1"),
            403,
        ),
        ("client that poses as a forwarder", &guest, Some(&alice), Some("1"), 400),
        ("librarian for a client", &librarian, Some(&alice), Some("1"), 403),
    ];
    for (what, from, carried, hops, expected) in cases {
        let status = forward(from, carried, hops)?;
        println!("{what:45} {status}");
        ensure!(status == expected, "{what}: {status} where {expected} belongs");
    }
    // And the whole way: a client that still asks the source gets its answer, by a redirect or through it.
    let read = ask(&pool, &alice, &source, "/objects/1.1/body", &["-L"])?.expect(200)?;
    ensure!(read.text() == "before the move", "{read:?}");
    let written = ask(
        &pool,
        &alice,
        &source,
        "/objects/1.1/body",
        &["-L", "-X", "PUT", "-d", "after"],
    )?
    .expect(200)?;
    ensure!(written.json()?["revision"] == 2, "{written:?}");
    let read = ask(&pool, &alice, "s3", "/objects/1.1/body", &[])?.expect(200)?;
    ensure!(read.text() == "after", "{read:?}");
    Ok(())
}

#[test]
fn certificate_that_ends_closes_its_open_connection() -> Result<()> {
    let pool = Pool::builder(DEMO).servers(1).free(0).start()?;
    let (ours, name) = (authority(&pool)?, host(&pool, "s1"));
    let url = format!("{}/objects?limit=1", origin(&pool, "s1")?);
    let address = pool.server("s1")?.ready.https;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for version in ["1.1", "2"] {
        // Good for some seconds more.
        let end = now_s() + 5;
        let identity = ours.issue(&client("brief", &["read:*"])?, random_serial()?, at(end - WEEK_S))?;
        let mut tls = certs::tls::client_config(&identity, ours.anchor())?;
        tls.alpn_protocols = vec![if version == "2" {
            b"h2".to_vec()
        } else {
            b"http/1.1".to_vec()
        }];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .resolve(&name, address)
            .no_proxy()
            .build()?;
        let refused = runtime.block_on(async {
            let until = Instant::now() + Duration::from_secs(30);
            let mut served = 0;
            while Instant::now() < until {
                match http.get(&url).send().await {
                    Ok(answer) if answer.status() == 200 => served += 1,
                    // A new connection would not have got through its handshake: this is the open one.
                    Ok(answer) => {
                        let (status, why) = (answer.status(), answer.text().await?);
                        ensure!(status == 403 && why.contains("expired"), "{status} {why}");
                        return Ok(served);
                    }
                    // The server looks at open connections by itself, too: it has cut this one, and the next was not let in.
                    Err(error) => {
                        ensure!(now_s() >= end, "before its end: {:#}", anyhow::Error::from(error));
                        return Ok(served);
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            bail!("the connection outlived its certificate")
        });
        ensure!(refused? > 0, "nothing was served on the connection");
        let again = runtime.block_on(async {
            let fresh = reqwest::Client::builder()
                .tls_backend_preconfigured(certs::tls::client_config(&identity, ours.anchor())?)
                .resolve(&name, address)
                .no_proxy()
                .build()?;
            anyhow::Ok(fresh.get(&url).send().await.is_err())
        });
        ensure!(again?, "an expired certificate opened a connection");
    }
    Ok(())
}
