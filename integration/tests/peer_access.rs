//! Who can do what at the peer port of an agent: every certificate, and none, with every message of a move.

mod dns;
mod identity;
mod peer;
mod web;

use agent::migration::wire::{Copy, Part, Reply, Request};
use agent::migration::{Digest, Digests};
use anyhow::{Context, Result, ensure};
use certs::{Anchor, Identity, Who};
use dns::{Client, fresh_tx, new_register, server as server_name};
use identity::{WEEK_S, authority, client, foreign_authority, issue, now_s, server};
use integration::harness::Pool;
use peer::{Call, Caller, call, frame};
use web::{Asker, DEMO, ask};
use zones::{Address, Epoch, Level, Register, RegisterChange, State, Tx};

const MESSAGES: [&str; 7] = ["Reserve", "Open", "Copy", "Ask", "Seal", "FenceAnswered", "Abort"];
const PROPERTIES: &[u8] = br#"{"n":1}"#;

/// A move of the caller's own making, message by message: of an object whose register names s1 as its source and s2, who is
/// called, as its destination. The last column is another such object, for which space was reserved. `handshake`: the
/// certificate is not taken. `silence`: nothing is said, and the connection stays.
const ITS_OWN_MOVE: &str = "\
who                            Reserve       Open          Copy          Ask           Seal          FenceAnswered Abort
stranger                       handshake     handshake     handshake     handshake     handshake     handshake     handshake
client read:* write:*          closed 2      closed 2      closed 2      closed 2      closed 2      closed 2      closed 2
librarian                      closed 2      closed 2      closed 2      closed 2      closed 2      closed 2      closed 2
s1 of a foreign authority      handshake     handshake     handshake     handshake     handshake     handshake     handshake
s1, expired                    handshake     handshake     handshake     handshake     handshake     handshake     handshake
s1, not yet valid              handshake     handshake     handshake     handshake     handshake     handshake     handshake
s2, which is called            closed 6      closed 6      closed 6      closed 6      closed 6      closed 6      closed 6
s3, which no register names    Reserved      Dropped       Dropped       Dropped       Dropped       silence       Dropped
s1, under another tx           Reserved      Dropped       Dropped       Dropped       Dropped       silence       Dropped
s1, the source                 Reserved      Ready         Staged        NotCommitted  Fenced        silence       Dropped
";

/// In the midst of a move of s1: the copy is staged at s2, and the caller knows its tx. `*`: the move is not as it was. Only
/// its source can do that; one that comes with another tx has given the first one up.
const THE_MOVE_OF_ANOTHER: &str = "\
who                            Reserve       Open          Copy          Ask           Seal          FenceAnswered Abort
stranger                       handshake     handshake     handshake     handshake     handshake     handshake     handshake
client read:* write:*          closed 2      closed 2      closed 2      closed 2      closed 2      closed 2      closed 2
librarian                      closed 2      closed 2      closed 2      closed 2      closed 2      closed 2      closed 2
s1 of a foreign authority      handshake     handshake     handshake     handshake     handshake     handshake     handshake
s1, expired                    handshake     handshake     handshake     handshake     handshake     handshake     handshake
s1, not yet valid              handshake     handshake     handshake     handshake     handshake     handshake     handshake
s2, which is called            closed 6      closed 6      closed 6      closed 6      closed 6      closed 6      closed 6
s3, which no register names    Refused       Dropped       Dropped       Dropped       Dropped       silence       silence
s1, under another tx           Refused*      Dropped       Dropped       Dropped       Dropped       silence       silence
s1, the source                 silence       Ready         Staged        NotCommitted  Fenced*       silence       Dropped*
";

/// Who calls.
struct Party {
    name: &'static str,
    identity: Option<Identity>,
    /// Whether it names the tx of the register, or one of its own.
    knows_tx: bool,
}

/// A pool whose registers the test changes.
struct Stage {
    pool: Pool,
    anchor: Anchor,
    owner: Client,
    admin: Client,
    /// What every agent of this pool makes of the properties.
    digest: Digest,
}

/// A move from s1 to s2, as its register names it.
struct Move {
    address: Address,
    register: Register,
}

impl Stage {
    fn start() -> Result<Stage> {
        let pool = Pool::builder(DEMO).servers(3).start()?;
        let key = std::fs::read_to_string(pool.dir().join("pool.key"))?;
        let key: [u8; 32] = (data_encoding::HEXLOWER.decode(key.trim().as_bytes())?)
            .try_into()
            .ok()
            .context("a key of 32 octets")?;
        Ok(Stage {
            anchor: authority(&pool)?.anchor().clone(),
            owner: Client::new(&pool, "s1"),
            admin: Client::new(&pool, "admin"),
            digest: *blake3::keyed_hash(&key, PROPERTIES).as_bytes(),
            pool,
        })
    }

    /// Makes a register that says that s1 moves the object to s2. The agent s1 knows nothing of it: whoever has its
    /// certificate is s1 here.
    fn open_move(&self, address: &str) -> Result<Move> {
        let old = self.owner.create(address, "s1")?;
        let register = Register {
            state: State::Moving { to: server_name("s2") },
            tx: fresh_tx(),
            ..old.clone()
        };
        let change = RegisterChange {
            old: Some(old),
            new: register.clone(),
        };
        // The admin key needs no want for it.
        let answer = self.admin.update(&[change])?;
        ensure!(
            answer.code == hickory_proto::op::ResponseCode::NoError,
            "{:?}",
            answer.why()
        );
        Ok(Move {
            address: address.parse()?,
            register,
        })
    }

    fn request(&self, message: &str, tx: Tx) -> Request {
        let epoch = Epoch::FIRST;
        let new = new_register("1", "s1");
        let octets = PROPERTIES.len() as u64;
        match message {
            "Reserve" => Request::Reserve {
                epoch,
                tx,
                kind: new.kind,
                schema: new.schema,
                level: Level(1),
                revision: 1,
                octets,
            },
            "Open" => Request::Open { epoch, tx },
            "Copy" => Request::Copy(Copy {
                origin: None,
                epoch,
                tx,
                revision: 1,
                kind: new.kind,
                schema: new.schema,
                level: Level(1),
                properties: Some(Part {
                    octets,
                    digest: self.digest,
                    follows: true,
                }),
                body: None,
                writes: Vec::new(),
            }),
            "Ask" => Request::Ask { tx, ask: 7 },
            "Seal" => Request::Seal {
                tx,
                revision: 1,
                digests: Digests {
                    properties: Some(self.digest),
                    body: None,
                },
            },
            "FenceAnswered" => Request::FenceAnswered { epoch: epoch.next() },
            "Abort" => Request::Abort { tx },
            other => unreachable!("{other} is no message"),
        }
    }

    fn payload(message: &str) -> &'static [u8] {
        if message == "Copy" { PROPERTIES } else { b"" }
    }

    async fn call(&self, party: &Party, first: &[u8]) -> Result<Call> {
        call(&self.pool, "s2", party.identity.as_ref(), &self.anchor, first)
            .await
            .with_context(|| format!("call as {}", party.name))
    }

    /// Says one message and names the answer.
    async fn say(&self, caller: &mut Caller, about: &Address, message: &str, tx: Tx) -> Result<String> {
        caller
            .send(about, &self.request(message, tx), Self::payload(message))
            .await?;
        let reply = match message {
            // These wait for disk or librarian, and are always answered.
            "Open" | "Copy" | "Seal" => Some(caller.answer(about).await?),
            // The fence is repeated until it is answered: that is no answer to this one.
            "FenceAnswered" => {
                (caller.answers_so_far(about).await?.into_iter()).find(|reply| !matches!(reply, Reply::Fenced { .. }))
            }
            _ => caller.answers_so_far(about).await?.into_iter().next(),
        };
        Ok(reply.map_or("silence", |reply| name_of(&reply)).to_owned())
    }

    /// What a party without a connection meets: the message is on its way before the agent has seen the certificate.
    async fn refused(&self, party: &Party, about: &Address, message: &str, tx: Tx) -> Result<String> {
        let first = frame(about, &self.request(message, tx), Self::payload(message));
        match self.call(party, &first).await? {
            Call::Handshake => Ok("handshake".to_owned()),
            Call::Closed(code) => Ok(format!("closed {code}")),
            Call::Open(_) => anyhow::bail!("{} was talked to, at its second call", party.name),
        }
    }

    /// Brings a move to its staged copy, as s1.
    async fn staged_move(&self, source: &mut Caller, address: &str) -> Result<Move> {
        let of = self.open_move(address)?;
        for (message, expected) in [("Reserve", "Reserved"), ("Open", "Ready"), ("Copy", "Staged")] {
            let said = self.say(source, &of.address, message, of.register.tx).await?;
            ensure!(said == expected, "{message}: {said}");
        }
        Ok(of)
    }

    /// Whether a copy is still staged, and the register as it was.
    async fn is_untouched(&self, source: &mut Caller, of: &Move) -> Result<bool> {
        let tx = of.register.tx;
        source.send(&of.address, &Request::Ask { tx, ask: 9 }, &[]).await?;
        let staged = Reply::NotCommitted {
            tx,
            ask: 9,
            staged: Some(1),
            busy: false,
        };
        Ok(source.answer(&of.address).await? == staged && self.is_open(of)?)
    }

    fn is_open(&self, of: &Move) -> Result<bool> {
        Ok(self.admin.register(of.address.as_str())?.as_ref() == Some(&of.register))
    }
}

fn name_of(reply: &Reply) -> &'static str {
    match reply {
        Reply::Reserved { .. } => "Reserved",
        Reply::Refused { .. } => "Refused",
        Reply::Ready { .. } => "Ready",
        Reply::Staged { .. } => "Staged",
        Reply::Damaged { .. } => "Damaged",
        Reply::NotCommitted { .. } => "NotCommitted",
        Reply::Fenced { .. } => "Fenced",
        Reply::Dropped { .. } => "Dropped",
    }
}

/// Everybody, s1 itself last.
fn parties(pool: &Pool) -> Result<Vec<Party>> {
    let (ours, foreign, now) = (authority(pool)?, foreign_authority(pool)?, now_s());
    let party = |name, who: &Who, authority, from_s| -> Result<Party> {
        Ok(Party {
            name,
            identity: Some(issue(authority, who, from_s)?),
            knows_tx: true,
        })
    };
    let s1 = server("s1")?;
    Ok(vec![
        Party {
            name: "stranger",
            identity: None,
            knows_tx: true,
        },
        party(
            "client read:* write:*",
            &client("full", &["read:*", "write:*"])?,
            &ours,
            now,
        )?,
        party("librarian", &Who::Librarian, &ours, now)?,
        party("s1 of a foreign authority", &s1, &foreign, now)?,
        party("s1, expired", &s1, &ours, now - WEEK_S - 60)?,
        party("s1, not yet valid", &s1, &ours, now + 3600)?,
        party("s2, which is called", &server("s2")?, &ours, now)?,
        party("s3, which no register names", &server("s3")?, &ours, now)?,
        Party {
            knows_tx: false,
            ..party("s1, under another tx", &s1, &ours, now)?
        },
        party("s1, the source", &s1, &ours, now)?,
    ])
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

fn row(name: &str, cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:13}")).collect();
    format!("{name:30} {}", cells.join(" ")).trim_end().to_owned() + "\n"
}

/// Prints the table and compares it.
fn compare(rows: &str, expected: &str) -> Result<()> {
    let header = row("who", &MESSAGES.map(str::to_owned));
    let table = format!("{header}{rows}");
    print!("{table}");
    ensure!(table == expected, "the table differs:\n{table}");
    Ok(())
}

#[test]
fn a_move_is_made_by_the_source_that_the_register_names_and_by_nobody_else() -> Result<()> {
    let stage = Stage::start()?;
    let root = Asker::client(&stage.pool.add_client("root", &["read:*", "write:*"])?);
    let parties = parties(&stage.pool)?;
    let mut rows = String::new();
    for (number, party) in parties.iter().enumerate() {
        let whole = stage.open_move(&format!("8.{number}.1"))?;
        let aborted = stage.open_move(&format!("8.{number}.2"))?;
        let tx = |of: &Move| if party.knows_tx { of.register.tx } else { Tx([5; 16]) };
        let cells = runtime()?.block_on(async {
            let mut caller = match stage.call(party, &[]).await? {
                Call::Open(caller) => Some(caller),
                Call::Handshake | Call::Closed(_) => None,
            };
            let mut cells = Vec::new();
            for message in MESSAGES {
                let of = if message == "Abort" { &aborted } else { &whole };
                cells.push(match &mut caller {
                    Some(caller) if message == "Abort" => {
                        stage.say(caller, &of.address, "Reserve", tx(of)).await?;
                        stage.say(caller, &of.address, message, tx(of)).await?
                    }
                    Some(caller) => stage.say(caller, &of.address, message, tx(of)).await?,
                    None => stage.refused(party, &of.address, message, tx(of)).await?,
                });
            }
            if let Some(caller) = &caller {
                ensure!(caller.connection.close_reason().is_none(), "{} was cut off", party.name);
            }
            anyhow::Ok(cells)
        })?;
        rows.push_str(&row(party.name, &cells));
        // Nothing came of it, but for the true source: s2 has the object, and says so.
        ensure!(stage.is_open(&aborted)?, "{} changed a register", party.name);
        let read = ask(&stage.pool, &root, "s2", &format!("/objects/{}", whole.address), &[])?;
        if party.name == "s1, the source" {
            let register = stage.admin.register(whole.address.as_str())?.context("a register")?;
            ensure!(
                (register.epoch, register.owner.as_str()) == (Epoch(2), "s2"),
                "{register:?}"
            );
            ensure!(read.expect(200)?.json()?["properties"]["n"] == 1);
        } else {
            ensure!(stage.is_open(&whole)?, "{} changed a register", party.name);
            ensure!(read.status != 200, "{} brought an object to s2", party.name);
        }
    }
    compare(&rows, ITS_OWN_MOVE)
}

#[test]
fn nobody_disturbs_the_move_of_another() -> Result<()> {
    let stage = Stage::start()?;
    let parties = parties(&stage.pool)?;
    let source = parties.last().context("s1")?;
    let mut rows = String::new();
    for (number, party) in parties.iter().enumerate() {
        let cells = runtime()?.block_on(async {
            let Call::Open(mut source_caller) = stage.call(source, &[]).await? else {
                anyhow::bail!("s1 is not talked to");
            };
            // A second connection of s1 would take the place of the first.
            let is_source = std::ptr::eq(party, source) || !party.knows_tx;
            let mut own = match is_source {
                true => None,
                false => match stage.call(party, &[]).await? {
                    Call::Open(caller) => Some(caller),
                    Call::Handshake | Call::Closed(_) => None,
                },
            };
            let mut cells = Vec::new();
            for message in MESSAGES {
                let of = stage
                    .staged_move(&mut source_caller, &format!("8.{number}.{message}"))
                    .await?;
                let tx = if party.knows_tx { of.register.tx } else { Tx([5; 16]) };
                let caller = if is_source {
                    Some(&mut source_caller)
                } else {
                    own.as_mut()
                };
                let said = match caller {
                    Some(caller) => stage.say(caller, &of.address, message, tx).await?,
                    None => stage.refused(party, &of.address, message, tx).await?,
                };
                let untouched = stage.is_untouched(&mut source_caller, &of).await?;
                cells.push(if untouched { said } else { said + "*" });
            }
            anyhow::Ok(cells)
        })?;
        rows.push_str(&row(party.name, &cells));
    }
    compare(&rows, THE_MOVE_OF_ANOTHER)
}
