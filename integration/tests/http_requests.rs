//! Objects over HTTPS with curl, as DESIGN.md section 12 promises: any server is asked, the right one answers.

mod web;

use anyhow::{Context, Result, ensure};
use integration::harness::Pool;
use web::{Asker, DEMO, ask, origin, owner};

/// A pool of two serving servers and one object `1.2` of 100,000 octets, with its owner and the other server.
struct Stage {
    pool: Pool,
    alice: Asker,
    owner: String,
    other: String,
    body: Vec<u8>,
}

fn stage() -> Result<Stage> {
    let pool = Pool::builder(DEMO).servers(2).free(0).start()?;
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let alice = Asker::client(&dir);
    let body: Vec<u8> = (0..100_000_u32).map(|place| (place % 251) as u8).collect();
    let dir_text = dir.to_str().context("the client's directory")?;
    let properties = r#"{"title":"Sea"}"#;
    pool.agent(
        &[
            "put",
            "1.2",
            "-",
            "--client",
            dir_text,
            "--type",
            "photo",
            "--properties",
            properties,
        ],
        &body,
    )?;
    let owner = owner(&pool, &alice, "1.2")?;
    let other = if owner == "s1" { "s2" } else { "s1" }.to_owned();
    Ok(Stage {
        pool,
        alice,
        owner,
        other,
        body,
    })
}

impl Stage {
    fn ask(&self, server: &str, path: &str, more: &[&str]) -> Result<web::Answer> {
        ask(&self.pool, &self.alice, server, path, more)
    }
}

#[test]
fn any_server_answers_or_says_who_does() -> Result<()> {
    let stage = stage()?;
    let moved = stage.ask(&stage.other, "/objects/1.2", &[])?.expect(307)?;
    let location = format!("{}/objects/1.2", origin(&stage.pool, &stage.owner)?);
    ensure!(moved.header("location") == Some(location.as_str()), "{moved:?}");
    ensure!(moved.json()?["owner"] == stage.owner.as_str(), "{moved:?}");
    for version in ["--http1.1", "--http2"] {
        for server in ["any", "s1", "s2"] {
            let read = stage.ask(server, "/objects/1.2", &["-L", version])?.expect(200)?;
            ensure!(read.redirects <= 1, "{read:?}");
            let json = read.json()?;
            ensure!(
                json["address"] == "1.2" && json["type"] == "photo" && json["size"] == 100_000,
                "{json}"
            );
            ensure!(
                json["properties"]["title"] == "Sea" && json["revision"] == 1 && json["epoch"] == 1,
                "{json}"
            );
            ensure!(read.header("etag") == Some("\"1.1\""), "{read:?}");
            let whole = stage.ask(server, "/objects/1.2/body", &["-L", version])?.expect(200)?;
            ensure!(whole.body == stage.body, "the body differs");
            let head = stage
                .ask(server, "/objects/1.2/body", &["-L", "-I", version])?
                .expect(200)?;
            ensure!(head.header("content-length") == Some("100000"), "{head:?}");
        }
    }
    Ok(())
}

#[test]
fn ranges_give_their_octets_and_the_right_status() -> Result<()> {
    let stage = stage()?;
    let body = |more: &[&str]| stage.ask("any", "/objects/1.2/body", &[&["-L"], more].concat());
    for (range, first, last) in [
        ("0-0", 0, 0),
        ("65530-65545", 65_530, 65_545),
        ("99999-", 99_999, 99_999),
        ("-7", 99_993, 99_999),
        ("0-999999", 0, 99_999),
    ] {
        let part = body(&["-r", range])?.expect(206)?;
        ensure!(part.body == stage.body[first..=last], "range {range} differs");
        let told = format!("bytes {first}-{last}/100000");
        ensure!(part.header("content-range") == Some(told.as_str()), "{part:?}");
    }
    let none = body(&["-r", "100000-"])?.expect(416)?;
    ensure!(none.header("content-range") == Some("bytes */100000"), "{none:?}");
    for ignored in ["bytes=0-1,3-4", "lines=0-1", "bytes=5-4"] {
        let whole = body(&["-H", &format!("Range: {ignored}")])?.expect(200)?;
        ensure!(whole.body.len() == 100_000, "{ignored}");
    }
    body(&["-r", "0-1", "-H", "If-Range: \"1.1\""])?.expect(206)?;
    body(&["-r", "0-1", "-H", "If-Range: \"2.1\""])?.expect(200)?;
    Ok(())
}

#[test]
fn conditions_protect_writes_and_spare_reads() -> Result<()> {
    let stage = stage()?;
    let put = |condition: &str, text: &str| {
        let more = [
            "-L",
            "-X",
            "PUT",
            "-H",
            condition,
            "-H",
            "Content-Type: application/json",
            "-d",
            text,
        ];
        stage.ask("any", "/objects/1.2", &more)
    };
    stage
        .ask("any", "/objects/1.2", &["-L", "-H", "If-None-Match: \"1.1\""])?
        .expect(304)?;
    stage
        .ask("any", "/objects/1.2", &["-L", "-H", "If-Match: \"5.1\""])?
        .expect(412)?;
    let failed = put("If-Match: \"7.1\"", r#"{"properties":{}}"#)?.expect(412)?;
    ensure!(failed.json()?["revision"] == 1, "{failed:?}");
    put("If-None-Match: *", r#"{"properties":{}}"#)?.expect(412)?;
    let written = put("If-Match: \"1.9\"", r#"{"properties":{"title":"Land"}}"#)?.expect(200)?;
    ensure!(
        written.json()?["revision"] == 2 && written.header("etag") == Some("\"2.1\""),
        "{written:?}"
    );
    put("If-Match: \"2.1\", \"3.1\"", "{}")?.expect(400)?;
    put("If-Match: 2", "{}")?.expect(400)?;
    let json = stage.ask("any", "/objects/1.2", &["-L"])?.expect(200)?.json()?;
    ensure!(
        json["properties"]["title"] == "Land" && json["size"] == 100_000,
        "{json}"
    );
    Ok(())
}

#[test]
fn repeated_write_is_applied_once() -> Result<()> {
    let stage = stage()?;
    let key = "Idempotency-Key: ";
    let write = |id: &str, text: &str| {
        let header = format!("{key}{id}");
        let more = [
            "-L",
            "-X",
            "PUT",
            "-H",
            &header,
            "-H",
            "Content-Type: application/json",
            "-d",
            text,
        ];
        stage.ask("any", "/objects/1.2", &more)
    };
    let id = uuid_v7(now_ms(), 1);
    let first = write(&id, r#"{"properties":{"n":1}}"#)?.expect(200)?.json()?;
    let again = write(&id, r#"{"properties":{"n":1}}"#)?.expect(200)?.json()?;
    ensure!(first == again && first["revision"] == 2, "{first} {again}");
    write(&id, r#"{"properties":{"n":2}}"#)?.expect(422)?;
    write(&uuid_v7(now_ms() - 2 * 3_600_000, 2), "{}")?.expect(422)?;
    for bad in ["1", "a9f6f0f4-1e0b-4c1f-9d53-3d5f4f6f1c11"] {
        write(bad, "{}")?.expect(400)?;
    }
    let delete = uuid_v7(now_ms(), 3);
    for _ in 0..2 {
        stage
            .ask(
                "any",
                "/objects/1.2",
                &["-L", "-X", "DELETE", "-H", &format!("{key}{delete}")],
            )?
            .expect(204)?;
    }
    stage.ask("any", "/objects/1.2", &["-L", "-X", "DELETE"])?.expect(410)?;
    stage.ask("any", "/objects/1.2", &["-L"])?.expect(410)?;
    write(&uuid_v7(now_ms(), 4), "{}")?.expect(410)?;
    Ok(())
}

#[test]
fn upload_to_the_wrong_server_reaches_the_right_one() -> Result<()> {
    let stage = stage()?;
    let home = tempfile::tempdir()?;
    let file = home.path().join("upload");
    let upload: Vec<u8> = (0..5_000_000_u32).map(|place| (place % 241) as u8).collect();
    std::fs::write(&file, &upload)?;
    let file = file.to_str().context("name the file")?;
    for (number, how) in [&["--http1.1"][..], &["--http1.1", "-H", "Expect:"], &["--http2"]]
        .iter()
        .enumerate()
    {
        let more = [&["-L", "-T", file], *how].concat();
        let written = stage.ask(&stage.other, "/objects/1.2/body", &more)?.expect(200)?;
        ensure!(
            written.redirects == 1 && written.json()?["revision"] == number + 2,
            "{how:?} {written:?}"
        );
        let read = stage.ask("any", "/objects/1.2/body", &["-L"])?.expect(200)?;
        ensure!(read.body == upload, "{how:?}: the body differs");
    }
    let json = stage.ask("any", "/objects/1.2", &["-L"])?.expect(200)?.json()?;
    ensure!(
        json["properties"]["title"] == "Sea" && json["type"] == "photo",
        "{json}"
    );
    Ok(())
}

#[test]
fn early_answer_reaches_a_client_that_is_still_sending() -> Result<()> {
    let stage = stage()?;
    let dir = stage.pool.client_dir("alice");
    let read = |name: &str| std::fs::read_to_string(dir.join(name));
    let identity = certs::Identity::from_pem(&read("client.pem")?, &read("client.key")?)?;
    let anchor = certs::Anchor::from_pem(&read("ca.pem")?)?;
    let name = web::host(&stage.pool, &stage.other);
    let url = format!("{}/objects/1.2/body", origin(&stage.pool, &stage.other)?);
    let address = stage.pool.server(&stage.other)?.ready.https;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    for protocol in [b"h2".to_vec(), b"http/1.1".to_vec()] {
        let mut tls = certs::tls::client_config(&identity, &anchor)?;
        tls.alpn_protocols = vec![protocol];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .resolve(&name, address)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        for round in 0..20 {
            let answer = runtime.block_on(http.put(&url).body(vec![7; 20_000_000]).send())?;
            ensure!(answer.status() == 307, "round {round}: {answer:?}");
        }
    }
    Ok(())
}

#[test]
fn both_parts_are_written_in_one_step_in_any_order() -> Result<()> {
    let stage = stage()?;
    let object = r#"object={"type":"note","properties":{"n":1}};type=application/json"#;
    let body = "body=@-;type=application/octet-stream";
    let home = tempfile::tempdir()?;
    let file = home.path().join("body");
    std::fs::write(&file, "octets of the body")?;
    let body = body.replace("@-", &format!("@{}", file.display()));
    for (address, parts) in [("5.1", [object, body.as_str()]), ("5.2", [body.as_str(), object])] {
        let path = format!("/objects/{address}");
        let more = ["-L", "-X", "PUT", "-F", parts[0], "-F", parts[1]];
        let written = stage.ask("any", &path, &more)?.expect(201)?;
        ensure!(written.json()?["created"] == true, "{written:?}");
        let json = stage.ask("any", &path, &["-L"])?.expect(200)?.json()?;
        ensure!(
            json["type"] == "note" && json["properties"]["n"] == 1 && json["size"] == 18,
            "{json}"
        );
        let read = stage.ask("any", &format!("{path}/body"), &["-L"])?.expect(200)?;
        ensure!(read.text() == "octets of the body", "{read:?}");
    }
    let alone = ["-L", "-X", "PUT", "-F", body.as_str()];
    stage.ask("any", "/objects/5.3", &alone)?.expect(400)?;
    stage
        .ask(
            "any",
            "/objects/5.3",
            &["-L", "-X", "PUT", "-F", object, "-F", "more=1"],
        )?
        .expect(400)?;
    stage.ask("any", "/objects/5.3", &["-L"])?.expect(404)?;
    Ok(())
}

#[test]
fn refused_requests_say_what_to_do() -> Result<()> {
    let stage = stage()?;
    let json = ["-H", "Content-Type: application/json"];
    let put = |text: &'static str| [&["-L", "-X", "PUT", "-d", text], &json[..]].concat();
    let cases: [(&str, Vec<&str>, u16, &str); 16] = [
        ("/objects/1.2@v3", vec![], 400, "versions are not kept"),
        ("/objects/1.2@latest", vec![], 400, "ask for 1.2"),
        ("/objects/1..2", vec![], 400, "single dots"),
        ("/objects/9.9", vec!["-L"], 404, "check the address"),
        ("/other", vec![], 404, "/objects/ADDRESS"),
        ("/objects/1.2", vec!["-X", "POST", "-d", ""], 405, "PUT"),
        ("/objects/1.2?schema=2", vec!["-L"], 406, "schema"),
        ("/objects/1.2?schema=0", vec![], 400, "schema=N"),
        ("/objects/1.2/body?schema=1", vec![], 400, "schema=N"),
        ("/objects?undr=1", vec![], 400, "under="),
        ("/objects/6.1", put(r#"{"a":1}"#), 400, "properties"),
        ("/objects/6.1", put(r#"{"properties":{"a":1,"a":2}}"#), 400, "twice"),
        ("/objects/6.1", put("{"), 400, "JSON"),
        (
            "/objects/6.1",
            vec!["-L", "-X", "PUT", "-d", "x", "-H", "Content-Type: text/plain"],
            415,
            "application/json",
        ),
        (
            "/objects/6.1/body",
            vec!["-L", "-X", "PUT", "-d", "x", "-H", "Content-Encoding: gzip"],
            415,
            "decoded",
        ),
        (
            "/objects/6.1/body",
            vec!["-L", "-X", "PUT", "-d", "x", "-H", "Content-Range: bytes 0-0/9"],
            400,
            "whole",
        ),
    ];
    for (path, more, status, says) in cases {
        let answer = stage.ask("any", path, &more)?.expect(status)?;
        ensure!(
            answer.header("content-type") == Some("application/problem+json"),
            "{path} {answer:?}"
        );
        let problem = answer.json()?;
        ensure!(problem["status"] == status, "{problem}");
        let detail = problem["detail"].as_str().context("a detail")?;
        ensure!(detail.contains(says), "{path}: {detail}");
    }
    let large = tempfile::NamedTempFile::new()?;
    let text = format!(r#"{{"properties":{{"a":"{}"}}}}"#, "x".repeat(1 << 21));
    std::fs::write(large.path(), text)?;
    let data = format!("@{}", large.path().display());
    let more = [&["-L", "-X", "PUT", "--data-binary", &data], &json[..]].concat();
    stage.ask("any", "/objects/6.1", &more)?.expect(413)?;
    stage.ask("any", "/objects/6.1", &["-L"])?.expect(404)?;
    Ok(())
}

#[test]
fn lists_of_all_servers_make_the_whole_list() -> Result<()> {
    let stage = stage()?;
    let dir = stage.pool.client_dir("alice");
    let client = dir.to_str().context("the client's directory")?;
    let addresses = ["3.1", "3.1.4", "3.10", "3.1.04", "4"];
    for address in addresses {
        stage
            .pool
            .agent(&["put", address, "-", "--client", client], address.as_bytes())?;
    }
    let mut seen = Vec::new();
    for server in ["s1", "s2"] {
        let mut after = String::new();
        loop {
            let page = stage
                .ask(server, &format!("/objects?under=3.1&limit=1{after}"), &[])?
                .expect(200)?
                .json()?;
            let objects = page["objects"].as_array().context("objects")?;
            ensure!(objects.len() <= 1, "{page}");
            seen.extend(
                objects
                    .iter()
                    .filter_map(|object| object["address"].as_str().map(str::to_owned)),
            );
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
    }
    seen.sort();
    ensure!(seen == ["3.1", "3.1.04", "3.1.4"], "{seen:?}");
    let listed = stage.pool.agent(&["ls", "--client", client, "--json"], b"")?;
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout)?;
    let names: Vec<&str> = listed
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|one| one["address"].as_str())
        .collect();
    ensure!(names == ["1.2", "3.1", "3.1.04", "3.1.4", "3.10", "4"], "{names:?}");
    Ok(())
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// A UUIDv7 of a moment (RFC 9562 section 5.7), told apart by a number.
fn uuid_v7(ms: u64, number: u64) -> String {
    format!("{:08x}-{:04x}-7000-8000-{number:012x}", ms >> 16, ms & 0xffff,)
}
