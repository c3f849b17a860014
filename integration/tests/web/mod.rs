//! curl against the agents of a pool: whoever asks, by whatever name, with the answer taken apart.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration::harness::{Pool, curl};

/// The program that is librarian and agent.
pub(crate) const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// The files of whoever asks.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    /// Certificate and key; none for a stranger.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// Whom it trusts.
    pub(crate) authority: PathBuf,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Status, 0 if there was none.
    pub(crate) status: u16,
    /// How many redirects were followed.
    pub(crate) redirects: u16,
    /// HTTP version, such as `2`.
    pub(crate) version: String,
    /// Headers of the last answer, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Octets of the last answer.
    pub(crate) body: Vec<u8>,
    /// What curl said on standard error.
    pub(crate) error: String,
}

impl Asker {
    /// A client that `librarian client add` made.
    pub(crate) fn client(dir: &Path) -> Asker {
        Asker {
            identity: Some((dir.join("client.pem"), dir.join("client.key"))),
            authority: dir.join("ca.pem"),
        }
    }

    /// An agent, as itself.
    pub(crate) fn server(dir: &Path) -> Asker {
        let identity = dir.join("identity");
        Asker {
            identity: Some((identity.join("server.pem"), identity.join("server.key"))),
            authority: identity.join("ca.pem"),
        }
    }

    /// Nobody.
    pub(crate) fn stranger(pool: &Pool) -> Asker {
        Asker {
            identity: None,
            authority: pool.ca(),
        }
    }
}

impl Answer {
    /// A header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {self:?}"))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Itself, if the status is the expected one.
    pub(crate) fn expect(self, status: u16) -> Result<Answer> {
        ensure!(
            self.status == status,
            "status {} where {status} belongs: {} {:?} {}",
            self.status,
            self.text(),
            self.headers,
            self.error
        );
        Ok(self)
    }
}

/// The name of a server, without the dot at its end.
pub(crate) fn host(pool: &Pool, server: &str) -> String {
    format!("{server}.pool.{}", pool.domain().trim_end_matches('.'))
}

/// `https://<server>:<port>`. `any` has the port of the first server.
pub(crate) fn origin(pool: &Pool, server: &str) -> Result<String> {
    let port = match server {
        "any" => pool.servers().first().context("a server")?.ready.https.port(),
        name => pool.server(name)?.ready.https.port(),
    };
    Ok(format!("https://{}:{port}", host(pool, server)))
}

/// Asks a server (or `any`) for a path, with more arguments of curl. Names resolve to this pool's servers.
pub(crate) fn ask(pool: &Pool, asker: &Asker, server: &str, path: &str, more: &[&str]) -> Result<Answer> {
    let home = tempfile::tempdir().context("make a directory for the answer")?;
    let (headers, body) = (home.path().join("headers"), home.path().join("body"));
    let text = |path: &Path| path.display().to_string();
    let mut args = vec!["--cacert".to_owned(), text(&asker.authority)];
    if let Some((certificate, key)) = &asker.identity {
        args.extend(["--cert".to_owned(), text(certificate), "--key".to_owned(), text(key)]);
    }
    for known in pool.servers() {
        let (ip, port) = (known.ready.https.ip(), known.ready.https.port());
        for name in [known.name.as_str(), "any"] {
            args.extend(["--resolve".to_owned(), format!("{}:{port}:{ip}", host(pool, name))]);
        }
    }
    args.extend(["-D".to_owned(), text(&headers), "-o".to_owned(), text(&body)]);
    args.extend([
        "-w".to_owned(),
        "%{http_code} %{num_redirects} %{http_version}".to_owned(),
    ]);
    args.extend(more.iter().map(|word| (*word).to_owned()));
    args.push(format!("{}{path}", origin(pool, server)?));
    let done = curl(&args)?;
    let mut told = done.stdout.split(' ');
    let mut number = || told.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let (status, redirects) = (number(), number());
    let version = told.next().unwrap_or_default().to_owned();
    let headers = std::fs::read_to_string(&headers).unwrap_or_default();
    // The last block: redirects and 100 Continue come before it.
    let last = headers.trim_end().rsplit("\r\n\r\n").next().unwrap_or_default();
    let headers = last
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Answer {
        status,
        redirects,
        version,
        headers,
        body: std::fs::read(&body).unwrap_or_default(),
        error: done.stderr,
    })
}

/// The server that has an object, as a client that may read it learns from a redirect or its absence.
pub(crate) fn owner(pool: &Pool, asker: &Asker, address: &str) -> Result<String> {
    for server in pool.servers() {
        let answer = ask(pool, asker, &server.name, &format!("/objects/{address}"), &["-I"])?;
        if answer.status == 200 {
            return Ok(server.name.clone());
        }
    }
    anyhow::bail!("no server has {address}")
}
