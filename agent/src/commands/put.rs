//! `agent put`: writes an object, or makes it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use uuid::Uuid;
use zones::ObjectType;

use super::address::Target;
use super::objects::{print, print_json};
use super::{As, files, progress};
use crate::access::ijson;
use crate::client::{Expect, PutObject, Upload, WriteOptions};

/// Standard input up to this length is kept, so that the write can be repeated when a connection breaks.
const KEPT_OCTETS: usize = 8 << 20;
/// Octets read from standard input at once.
const PIECE_OCTETS: usize = 128 << 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  agent put 3.1.2.1.023 picture.jpg --client clients/shop --type photo --properties '{\"title\":\"Sea\"}'
  agent put 3.1.2.1.023 --client clients/shop --properties @properties.json --if-revision 7
  tar c docs | agent put 3.1.2.1.024 - --client clients/shop")]
#[command(group = clap::ArgGroup::new("condition").args(["if_revision", "if_absent", "if_exists"]))]
pub(super) struct Put {
    /// Address of the object
    address: Target,
    /// File with the body; - reads standard input. Without it the body stays as it is
    file: Option<PathBuf>,
    /// The same
    #[arg(long = "file", value_name = "FILE", conflicts_with = "file")]
    named_file: Option<PathBuf>,
    #[command(flatten)]
    who: As,
    /// Type of the object; a new one without is a file
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<ObjectType>,
    /// Version of the type's schema that the properties are in
    #[arg(long, value_name = "N", requires = "properties")]
    schema: Option<u32>,
    /// All properties: a JSON object, or @FILE with one. Without it they stay as they are
    #[arg(long, value_name = "JSON|@FILE")]
    properties: Option<Properties>,
    /// Only if the object is at this revision
    #[arg(long, value_name = "N")]
    if_revision: Option<u64>,
    /// Only if there is no such object yet
    #[arg(long)]
    if_absent: bool,
    /// Only if the object exists
    #[arg(long)]
    if_exists: bool,
    /// Write id (a UUIDv7) of an earlier try whose outcome is unknown
    #[arg(long, value_name = "UUID")]
    write_id: Option<Uuid>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A JSON object on the command line, or the file that holds it.
#[derive(Clone, Debug)]
enum Properties {
    Given(Value),
    File(PathBuf),
}

impl FromStr for Properties {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix('@') {
            Some(file) => Ok(Properties::File(file.into())),
            None => object(text.as_bytes()).map(Properties::Given),
        }
    }
}

impl Properties {
    fn read(self) -> anyhow::Result<Value> {
        match self {
            Properties::Given(value) => Ok(value),
            Properties::File(path) => {
                let text = std::fs::read(&path).with_context(|| format!("read the properties {}", path.display()))?;
                object(&text).with_context(|| format!("read the properties {}", path.display()))
            }
        }
    }
}

/// A JSON object; judged here as the agent would, so that a mistake shows before anything is sent.
fn object(text: &[u8]) -> anyhow::Result<Value> {
    match ijson::read(text)? {
        object @ Value::Object(_) => Ok(object),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            bail!("properties are a JSON object, such as {{\"title\":\"Sea\"}}")
        }
    }
}

impl Put {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = self.who.client()?;
        let address = &self.address.0;
        let options = WriteOptions {
            expect: match (self.if_revision, self.if_absent, self.if_exists) {
                (Some(revision), _, _) => Expect::Revision(revision),
                (None, true, _) => Expect::Absent,
                (None, false, true) => Expect::Existing,
                (None, false, false) => Expect::Anything,
            },
            write_id: self.write_id,
            kind: self.kind.clone(),
        };
        let object = PutObject {
            kind: self.kind,
            schema: self.schema,
            properties: self.properties.map(Properties::read).transpose()?,
        };
        let body = match self.file.or(self.named_file) {
            None => None,
            Some(path) if path == Path::new("-") => Some(standard_input().await?),
            Some(path) => Some(file(&path).await?),
        };
        let written = match body {
            None if object == PutObject::default() => {
                bail!("nothing to write: give a FILE, --properties or --type")
            }
            None => client.put(address, &object, &options).await?,
            Some(body) if object.properties.is_none() => client.put_body(address, body, &options).await?,
            Some(body) => client.put_both(address, &object, body, &options).await?,
        };
        if self.json {
            return print_json(&written);
        }
        let done = if written.created { "created" } else { "written" };
        print(format_args!(
            "{} {done}: revision {} on {}\n",
            written.address, written.revision, written.server
        ))
    }
}

async fn file(path: &Path) -> anyhow::Result<Upload> {
    let about = tokio::fs::metadata(path)
        .await
        .with_context(|| format!("read {}", path.display()))?;
    if about.is_dir() {
        bail!("{} is a directory: a body is a file", path.display());
    }
    if !about.is_file() {
        // A pipe or device has no length and cannot be read twice.
        let file = tokio::fs::File::open(path)
            .await
            .with_context(|| format!("open {}", path.display()))?;
        return input(file).await;
    }
    let bar = progress::octets(Some(about.len()));
    Ok(Upload::file(path).with_progress(move |sent| bar.set_position(sent)))
}

async fn standard_input() -> anyhow::Result<Upload> {
    input(files::standard(std::io::stdin())?).await
}

/// Octets of unknown length: in memory if they are few, a stream if they are many.
async fn input(from: impl tokio::io::AsyncRead + Unpin + Send + 'static) -> anyhow::Result<Upload> {
    let mut pieces = stream::try_unfold(from, |mut from| async move {
        let mut piece = BytesMut::with_capacity(PIECE_OCTETS);
        match from.read_buf(&mut piece).await? {
            0 => Ok(None),
            _ => Ok::<_, std::io::Error>(Some((piece.freeze(), from))),
        }
    })
    .boxed();
    let mut kept: Vec<Bytes> = Vec::new();
    let mut octets = 0;
    while octets <= KEPT_OCTETS {
        match pieces.next().await.transpose().context("read standard input")? {
            None => return Ok(Upload::from(kept.concat())),
            Some(piece) => {
                octets += piece.len();
                kept.push(piece);
            }
        }
    }
    let bar = progress::octets(None);
    let whole = stream::iter(kept.into_iter().map(Ok)).chain(pieces);
    Ok(Upload::stream(None, whole).with_progress(move |sent| bar.set_position(sent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_one_json_object() {
        assert!(matches!("{\"a\":1}".parse(), Ok(Properties::Given(_))));
        assert!(matches!("@a.json".parse(), Ok(Properties::File(_))));
        for text in ["[]", "1", "", "{\"a\":1,\"a\":2}"] {
            assert!(text.parse::<Properties>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn short_input_can_be_sent_again_and_long_input_cannot() {
        let short = input(std::io::Cursor::new(vec![7; 1000])).await.unwrap();
        assert_eq!(format!("{short:?}"), "Upload(1000 octets)");
        let long = input(std::io::Cursor::new(vec![7; KEPT_OCTETS + PIECE_OCTETS]))
            .await
            .unwrap();
        assert_eq!(format!("{long:?}"), "Upload(stream of None octets)");
    }
}
