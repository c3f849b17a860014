//! A caller at the peer port of an agent: whoever it is, with the messages of a move.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent::migration::wire::{ALPN, Either, LANE, Reply, Request, read_frame, take_frame, write_frame};
use agent::transfer::quic;
use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::BytesMut;
use certs::{Anchor, Identity};
use integration::harness::Pool;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, SendStream};
use rustls::RootCertStore;
use tokio::sync::mpsc;
use tokio::time::timeout;
use zones::{Address, Tx};

/// How long anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Lanes that an agent opens.
const LANES: usize = 4;
/// Questions that are asked after a message: enough for their answers to use all lanes of the agent.
const PROBES: usize = 24;

/// What became of a call.
pub(crate) enum Call {
    /// The certificates were not taken.
    Handshake,
    /// The agent closed the connection, with this code.
    Closed(u64),
    /// It talks.
    Open(Caller),
}

/// A connection on which the agent talks.
pub(crate) struct Caller {
    pub(crate) connection: Connection,
    lane: SendStream,
    replies: mpsc::UnboundedReceiver<Heard>,
    _endpoint: Endpoint,
}

/// An answer, and the lane on which it came.
struct Heard {
    lane: usize,
    about: Address,
    reply: Reply,
}

/// An endpoint that shows `identity`, or nothing, and trusts `anchor`.
pub(crate) fn endpoint(identity: Option<&Identity>, anchor: &Anchor) -> Result<Endpoint> {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    if let Some(identity) = identity {
        return Ok(quic::open(
            local,
            quic::MTU_DEFAULT,
            &certs::tls::Current::new(identity)?,
            anchor,
        )?);
    }
    let mut roots = RootCertStore::empty();
    roots.add(anchor.certificate().clone())?;
    let mut tls = rustls::ClientConfig::builder_with_provider(certs::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut endpoint = Endpoint::client(local)?;
    let config = QuicClientConfig::try_from(tls)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    Ok(endpoint)
}

/// Connects to a server's peer port, sends `first` on a lane as early as it can be sent, and waits until the agent has said
/// something or has closed.
pub(crate) async fn call(
    pool: &Pool,
    server: &str,
    identity: Option<&Identity>,
    anchor: &Anchor,
    first: &[u8],
) -> Result<Call> {
    let endpoint = endpoint(identity, anchor)?;
    let name = certs::tls_name(&pool.domain().parse()?, server);
    let connecting = endpoint.connect(pool.server(server)?.ready.peer, &name)?;
    let connection = match timeout(PATIENCE, connecting).await.context("wait for a connection")? {
        Ok(connection) => connection,
        Err(error) => return ended(error),
    };
    // The client's side of a handshake is done before the agent has seen its certificate.
    match Caller::begin(connection.clone(), endpoint, first).await {
        Ok(caller) => Ok(Call::Open(caller)),
        Err(error) => match connection.close_reason() {
            Some(closed) => ended(closed),
            None => Err(error),
        },
    }
}

fn ended(error: ConnectionError) -> Result<Call> {
    match error {
        ConnectionError::ApplicationClosed(close) => Ok(Call::Closed(close.error_code.into_inner())),
        // An alert of TLS (RFC 9001 section 4.8).
        ConnectionError::ConnectionClosed(close) if (0x100..0x200).contains(&u64::from(close.error_code)) => {
            Ok(Call::Handshake)
        }
        error => Err(anyhow!(error).context("an end that nobody expected")),
    }
}

impl Caller {
    async fn begin(connection: Connection, endpoint: Endpoint, first: &[u8]) -> Result<Caller> {
        let (tell, replies) = mpsc::unbounded_channel();
        tokio::spawn(accept(connection.clone(), tell));
        let mut lane = connection.open_uni().await?;
        lane.write_all(&[&[LANE], first].concat()).await?;
        let mut caller = Caller {
            connection,
            lane,
            replies,
            _endpoint: endpoint,
        };
        caller.answers_so_far(&"none".parse()?).await?;
        Ok(caller)
    }

    pub(crate) async fn send(&mut self, address: &Address, request: &Request, payload: &[u8]) -> Result<()> {
        Ok(self.lane.write_all(&frame(address, request, payload)).await?)
    }

    /// The first answer about an address.
    pub(crate) async fn answer(&mut self, address: &Address) -> Result<Reply> {
        loop {
            let heard = self.next().await?;
            if heard.about == *address {
                return Ok(heard.reply);
            }
        }
    }

    /// All that the agent has said about an address by the time it has answered questions that came after everything sent so
    /// far. They are about objects that nobody has, and their answers use every lane: an answer given at once is in here.
    pub(crate) async fn answers_so_far(&mut self, address: &Address) -> Result<Vec<Reply>> {
        let tx = Tx([0xAA; 16]);
        for probe in 0..PROBES {
            let request = Request::Ask { tx, ask: 0 };
            self.send(&format!("probe.{probe}").parse()?, &request, &[]).await?;
        }
        let (mut answered, mut lanes, mut replies) = (0, BTreeSet::new(), Vec::new());
        while answered < PROBES {
            let heard = self.next().await?;
            if heard.about.as_str().starts_with("probe.") {
                ensure!(
                    heard.reply == Reply::Dropped { tx },
                    "{}: {:?}",
                    heard.about,
                    heard.reply
                );
                answered += 1;
                lanes.insert(heard.lane);
            } else if heard.about == *address {
                replies.push(heard.reply);
            }
        }
        ensure!(lanes.len() == LANES, "the questions were answered on {lanes:?} alone");
        Ok(replies)
    }

    async fn next(&mut self) -> Result<Heard> {
        match timeout(PATIENCE, self.replies.recv())
            .await
            .context("wait for an answer")?
        {
            Some(heard) => Ok(heard),
            None => bail!("the connection ended: {:?}", self.connection.close_reason()),
        }
    }
}

/// The octets of one message.
pub(crate) fn frame(address: &Address, request: &Request, payload: &[u8]) -> Vec<u8> {
    let mut octets = BytesMut::new();
    write_frame(&mut octets, address, &Either::Request(request.clone()), &[payload]);
    octets.to_vec()
}

/// Reads all lanes of the agent.
async fn accept(connection: Connection, tell: mpsc::UnboundedSender<Heard>) {
    for lane in 0..LANES {
        let Ok(mut stream) = connection.accept_uni().await else {
            return;
        };
        let tell = tell.clone();
        tokio::spawn(async move {
            let mut received = BytesMut::new();
            let mut kind = None;
            while let Ok(Some(chunk)) = stream.read_chunk(65_536, true).await {
                received.extend_from_slice(&chunk.bytes);
                if kind.is_none() {
                    kind = Some(received.split_to(1));
                }
                while let Some(frame) = take_frame(&mut received).expect("agents send frames") {
                    let (about, message, _) = read_frame::<Either>(&frame).expect("agents send messages");
                    if let Either::Reply(reply) = message {
                        // The test may have ended.
                        drop(tell.send(Heard { lane, about, reply }));
                    }
                }
            }
        });
    }
}
