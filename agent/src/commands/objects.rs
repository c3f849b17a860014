//! `agent get|stat|rm|ls`: objects as an application sees them.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use super::address::Target;
use super::{As, files, progress};
use crate::access::range::RangeText;
use crate::client::{BodyReader, Expect, WriteOptions};

/// Octets written at once.
const WRITE_OCTETS: usize = 256 << 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  agent get 3.1.2.1.023 --client clients/shop --output picture.jpg
  agent get 3.1.2.1.023 --client clients/shop --range 0-99
  agent get 3.1.2.1.023 --client clients/shop --json")]
pub(super) struct Get {
    /// Address of the object
    address: Target,
    #[command(flatten)]
    who: As,
    /// File for the body, which appears when it is whole; standard output if absent
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only these octets of the body: 0-99, 100- or -100
    #[arg(long, conflicts_with = "json")]
    range: Option<RangeText>,
    /// Print type, revision and properties as JSON, and not the body
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl Get {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = self.who.client()?;
        let address = &self.address.0;
        if self.json {
            return print_json(&client.get(address).await?);
        }
        let body = client.get_body(address, self.range.map(|range| range.0)).await?;
        match &self.output {
            None => copy(body, files::standard(std::io::stdout())?)
                .await
                .context("write to standard output"),
            Some(path) => {
                let new = beside(path);
                let file = tokio::fs::File::create(&new)
                    .await
                    .with_context(|| format!("make {}", new.display()))?;
                let done = async {
                    copy(body, file).await?;
                    tokio::fs::rename(&new, path)
                        .await
                        .with_context(|| format!("name {}", path.display()))
                };
                let done = done.await;
                if done.is_err() {
                    drop(tokio::fs::remove_file(&new).await);
                }
                done
            }
        }
    }
}

/// A name beside the file that is to appear.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

async fn copy(mut body: BodyReader, to: impl AsyncWrite + Unpin) -> anyhow::Result<()> {
    let mut to = tokio::io::BufWriter::with_capacity(WRITE_OCTETS, to);
    let bar = progress::octets(Some(body.left()));
    while let Some(octets) = body.next().await? {
        to.write_all(&octets).await.context("write the body")?;
        bar.inc(octets.len() as u64);
    }
    to.flush().await.context("write the body")?;
    bar.finish_and_clear();
    Ok(())
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent stat 3.1.2.1.023 --client clients/shop")]
pub(super) struct Stat {
    /// Address of the object
    address: Target,
    #[command(flatten)]
    who: As,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Stat {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let stat = self.who.client()?.stat(&self.address.0).await?;
        if self.json {
            return print_json(&stat);
        }
        print(format_args!(
            "address   {}\ntype      {}\nschema    {}\nrevision  {}\nsize      {}\nepoch     {}\nserver    {}\n",
            stat.address, stat.kind, stat.schema, stat.revision, stat.size, stat.epoch, stat.server
        ))
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  agent rm 3.1.2.1.023 --client clients/shop
  agent rm 3.1.2.1.023 --client clients/shop --if-revision 7")]
pub(super) struct Rm {
    /// Address of the object
    address: Target,
    #[command(flatten)]
    who: As,
    /// Only if the object is at this revision
    #[arg(long, value_name = "N")]
    if_revision: Option<u64>,
    /// Write id (a UUIDv7) of an earlier try whose outcome is unknown
    #[arg(long, value_name = "UUID")]
    write_id: Option<Uuid>,
}

impl Rm {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let options = WriteOptions {
            expect: self.if_revision.map_or(Expect::Anything, Expect::Revision),
            write_id: self.write_id,
            kind: None,
        };
        Ok(self.who.client()?.delete(&self.address.0, &options).await?)
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  agent ls --client clients/shop
  agent ls 3.1.2 --client clients/shop --json")]
pub(super) struct Ls {
    /// Only this address and all below it; of another pool, where it is delegated to one
    prefix: Option<Target>,
    #[command(flatten)]
    who: As,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Ls {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let prefix = self.prefix.map(|prefix| prefix.0);
        let all = self.who.client()?.list(prefix.as_ref()).await?;
        if self.json {
            return print_json(&all);
        }
        let wide = |text: &dyn Fn(&crate::client::Summary) -> String| all.iter().map(|one| text(one).len()).max();
        let address = wide(&|one| one.address.to_string()).unwrap_or(0);
        let kind = wide(&|one| one.kind.to_string()).unwrap_or(0);
        let size = wide(&|one| one.size.to_string()).unwrap_or(0);
        for one in &all {
            print(format_args!(
                "{:address$}  {:kind$}  {:>size$}  r{}\n",
                one.address.as_str(),
                one.kind.as_str(),
                one.size,
                one.revision
            ))?;
        }
        Ok(())
    }
}

/// Prints one JSON value and a line feed.
pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("write JSON")?;
    print(format_args!("{text}\n"))
}

/// Prints; a reader that has gone is no error of ours.
pub(super) fn print(text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_fmt(text) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        done => done.context("write to standard output"),
    }
}
