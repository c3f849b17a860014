//! Who was revoked, whose grants have changed and whose certificate was renewed, on connections that are open meanwhile.

mod web;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use certs::tls::Current;
use certs::{Anchor, Identity};
use integration::harness::{Pool, dig};
use web::{DEMO, host, origin};

/// How soon a change counts everywhere (issue: within 10 s).
const SOON: Duration = Duration::from_secs(10);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

fn identity(dir: &Path, name: &str) -> Result<(Identity, Anchor)> {
    let read = |file: String| std::fs::read_to_string(dir.join(file));
    let identity = Identity::from_pem(&read(format!("{name}.pem"))?, &read(format!("{name}.key"))?)?;
    Ok((identity, Anchor::from_pem(&read("ca.pem".to_owned())?)?))
}

/// A client that keeps its one connection to s1.
fn client(pool: &Pool, name: &str, protocol: &[u8]) -> Result<reqwest::Client> {
    let (identity, anchor) = identity(&pool.client_dir(name), "client")?;
    let mut tls = certs::tls::client_config(&identity, &anchor)?;
    tls.alpn_protocols = vec![protocol.to_vec()];
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .resolve(&host(pool, "s1"), pool.server("s1")?.ready.https)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()?)
}

async fn get(http: &reqwest::Client, url: &str) -> Result<u16> {
    Ok(http.get(url).send().await?.status().as_u16())
}

/// Looks until it is so; how long that took.
async fn soon(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<Duration> {
    let began = Instant::now();
    while !is_so().await? {
        ensure!(began.elapsed() < SOON, "{what}: not within {SOON:?}");
        tokio::time::sleep(PAUSE).await;
    }
    Ok(began.elapsed())
}

fn put(pool: &Pool, client: &str, address: &str, body: &[u8]) -> Result<()> {
    let dir = pool.client_dir(client).display().to_string();
    pool.agent(&["put", address, "--client", &dir, "--type", "note", "-"], body)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_client_is_refused_on_open_connections_and_others_are_not() -> Result<()> {
    let pool = Pool::builder(DEMO).servers(1).free(0).start()?;
    for name in ["alice", "bob"] {
        pool.add_client(name, &["read:*", "write:*"])?;
    }
    put(&pool, "alice", "1.1", &vec![7; 48 << 20])?;
    let url = format!("{}/objects/1.1", origin(&pool, "s1")?);
    let (h1, h2) = (client(&pool, "alice", b"http/1.1")?, client(&pool, "alice", b"h2")?);
    let bob = client(&pool, "bob", b"h2")?;
    for http in [&h1, &h2, &bob] {
        ensure!(get(http, &url).await? == 200);
    }
    let key = pool.client_dir("alice").join("tsig.key");
    let lookup = |key: &Path| dig(pool.dns(), &["-k", &key.display().to_string(), &pool.obj("1.1"), "SRV"]);
    ensure!(lookup(&key)?.stdout.contains("status: NOERROR"));
    // A download that has begun, whose reader takes its time.
    let mut download = h1.get(format!("{url}/body")).send().await?.error_for_status()?;
    ensure!(download.chunk().await?.is_some());

    pool.librarian(&["revoke", "alice"])?;
    ensure!(
        !lookup(&key)?.stdout.contains("status: NOERROR"),
        "its DNS key counts no more at once"
    );
    for (name, http) in [("HTTP/1.1", &h1), ("HTTP/2", &h2)] {
        let took = soon(name, async || Ok(get(http, &url).await.unwrap_or(403) == 403)).await?;
        println!("revoked client on an open {name} connection: refused after {took:?}");
        ensure!(get(http, &url).await.unwrap_or(403) == 403, "and it stays so");
    }
    // The connection below it is cut: what was not sent yet does not come.
    let rest = async {
        let mut octets = 0;
        while let Some(piece) = download.chunk().await? {
            octets += piece.len();
            tokio::time::sleep(PAUSE).await;
        }
        Ok::<usize, reqwest::Error>(octets)
    };
    let rest = tokio::time::timeout(SOON, rest).await?;
    ensure!(rest.is_err(), "the download went on to its end: {rest:?}");
    ensure!(get(&bob, &url).await? == 200, "bob was not revoked");
    // Let in again under the same name.
    pool.librarian(&["client", "add", "alice", "--grant", "read:*", "--replace"])?;
    let again = client(&pool, "alice", b"h2")?;
    soon("a new certificate", async || {
        Ok(get(&again, &url).await.unwrap_or(0) == 200)
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_grants_count_on_open_connections() -> Result<()> {
    let pool = Pool::builder(DEMO).servers(1).free(0).start()?;
    pool.add_client("alice", &["read:*", "write:*"])?;
    for address in ["1.1", "2.1"] {
        put(&pool, "alice", address, b"text")?;
    }
    let http = client(&pool, "alice", b"h2")?;
    let [one, two] =
        ["1.1", "2.1"].map(|address| format!("{}/objects/{address}", origin(&pool, "s1").unwrap_or_default()));
    ensure!((get(&http, &one).await?, get(&http, &two).await?) == (200, 200));
    pool.librarian(&["client", "grant", "alice", "--grant", "read:1"])?;
    let took = soon("fewer grants", async || Ok(get(&http, &two).await? == 404)).await?;
    println!("fewer grants on an open connection: after {took:?}");
    ensure!(get(&http, &one).await? == 200);
    pool.librarian(&["client", "grant", "alice", "--grant", "read:2"])?;
    soon("other grants", async || {
        Ok((get(&http, &one).await?, get(&http, &two).await?) == (404, 200))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_server_is_cut_off_from_its_peers() -> Result<()> {
    let pool = Pool::builder(DEMO).servers(3).free(1).start()?;
    let (identity, anchor) = identity(&pool.server("s3")?.dir.join("identity"), "server")?;
    let local = "127.0.0.1:0".parse()?;
    let mtu = agent::transfer::quic::MTU_DEFAULT;
    let dial = async || -> Result<quinn::Connection> {
        let endpoint = agent::transfer::quic::open(local, mtu, &Current::new(&identity)?, &anchor)?;
        let name = certs::tls_name(&pool.domain().parse()?, "s1");
        Ok(endpoint.connect(pool.server("s1")?.ready.peer, &name)?.await?)
    };
    let connection = dial().await?;
    ensure!(connection.close_reason().is_none());
    let began = Instant::now();
    pool.librarian(&["revoke", "s3"])?;
    tokio::time::timeout(SOON, connection.closed())
        .await
        .context("it stays open")?;
    println!("revoked server on an open connection: cut after {:?}", began.elapsed());
    // The client's side of a handshake is done before the other has looked at its certificate.
    match dial().await {
        Ok(again) => drop(
            tokio::time::timeout(SOON, again.closed())
                .await
                .context("it is let in again")?,
        ),
        Err(error) => println!("refused: {error:#}"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_is_renewed_under_load_and_after_a_restart() -> Result<()> {
    let mut pool = Pool::builder(DEMO)
        .servers(1)
        .free(0)
        .agent_setting("certificates.renew_after", "1s")
        .agent_setting("certificates.revocations_every", "200ms")
        .start()?;
    pool.add_client("alice", &["read:*", "write:*"])?;
    put(&pool, "alice", "1.1", b"text")?;
    let url = format!("{}/objects/1.1", origin(&pool, "s1")?);
    let file = pool.server("s1")?.dir.join("identity/server.pem");
    let serial = || -> Result<String> { Ok(std::fs::read_to_string(&file)?) };
    let kept = client(&pool, "alice", b"h2")?;
    let first = serial()?;
    let (mut renewals, mut last, mut asked) = (0, first.clone(), 0_u32);
    let began = Instant::now();
    while renewals < 3 {
        // On the connection that is kept, and on a new one: both go on.
        ensure!(get(&kept, &url).await? == 200);
        ensure!(get(&client(&pool, "alice", b"http/1.1")?, &url).await? == 200);
        asked += 2;
        let now = serial()?;
        if now != last {
            (renewals, last) = (renewals + 1, now);
        }
        if began.elapsed() > 3 * SOON {
            bail!("{renewals} renewals in {:?}", began.elapsed());
        }
    }
    println!("{renewals} renewals while {asked} requests were answered");
    pool.stop_server("s1")?;
    pool.start_server("s1")?;
    let url = format!("{}/objects/1.1", origin(&pool, "s1")?);
    ensure!(get(&client(&pool, "alice", b"h2")?, &url).await? == 200);
    // Heads of the log are signed by the renewed key.
    pool.librarian(&["audit", "verify"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificate_has_the_present_grants_and_a_revoked_one_is_not_renewed() -> Result<()> {
    let pool = Pool::builder(DEMO).servers(1).free(0).start()?;
    pool.add_client("alice", &["read:*", "write:*"])?;
    let (old, anchor) = identity(&pool.client_dir("alice"), "client")?;
    let ns = host(&pool, "ns");
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(certs::tls::client_config(&old, &anchor)?)
        .resolve(&ns, pool.https())
        .no_proxy()
        .build()?;
    let url = |path: &str| format!("https://{ns}:{}{path}", pool.https().port());
    let renew = async || -> Result<(u16, String, certs::Request)> {
        let request = certs::Request::new()?;
        let message = serde_json::json!({"request": request.pem()});
        let answer = http.post(url("/renew")).json(&message).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?, request))
    };
    pool.librarian(&["client", "grant", "alice", "--grant", "read:3.1"])?;
    let (status, text, request) = renew().await?;
    ensure!(status == 200, "{status}: {text}");
    let answer: certs::RenewAnswer = serde_json::from_str(&text)?;
    let renewed = request.complete(&answer.certificate)?;
    let list = certs::Revocations::default();
    let peer = certs::Peer::read(renewed.certificate(), certs::UnixTime::now(), &list)?;
    let certs::Who::Client { name, grants } = peer.who else {
        bail!("it is another's: {:?}", peer.who);
    };
    let grants: Vec<String> = grants.iter().map(ToString::to_string).collect();
    ensure!((name.as_str(), grants) == ("alice", vec!["read:3.1".to_owned()]));
    // The same by command, on the application's files.
    let dir = pool.client_dir("alice").display().to_string();
    let before = std::fs::read_to_string(pool.client_dir("alice").join("client.key"))?;
    let librarian = pool.https().to_string();
    pool.agent(&["renew", "--client", &dir, "--librarian", &librarian], b"")?;
    ensure!(
        std::fs::read_to_string(pool.client_dir("alice").join("client.key"))? != before,
        "its key is a fresh one"
    );
    pool.agent(&["ls", "--client", &dir], b"")?;
    // The list is for servers.
    ensure!(http.get(url("/revocations")).send().await?.status() == 403);
    pool.librarian(&["revoke", "alice"])?;
    let (status, text, _) = renew().await?;
    ensure!(status == 403 && text.contains("revoked"), "{status}: {text}");
    Ok(())
}
