//! The QUIC endpoint of an agent: one UDP socket for all that it dials and accepts, certificates of both sides, names verified.
//!
//! Specification: RFC 9000, RFC 9001; ALPN `hn-move/1`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use certs::tls::Current;
use certs::{Anchor, Peer, Who, tls};
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls_pki_types::{CertificateDer, UnixTime};
use socket2::{Domain as SocketDomain, Protocol, Socket, Type};
use zones::ServerName;

use crate::membership::Revoked;
use crate::migration::wire::ALPN;

/// Smallest UDP payload that QUIC allows (RFC 9000 section 14).
pub const MTU_MIN: u16 = 1200;
/// Largest UDP payload. The kernel takes ten segments at once, together at most 65,507 octets: a larger value hangs without a
/// word, and from 32,000 on the QUIC library panics.
pub const MTU_MAX: u16 = 6550;
/// What a connection begins with: fits Ethernet with IPv6 and a tunnel or two. What the path carries beyond that is found by
/// probing (RFC 8899), up to [`MTU_MAX`]: half of the processor time of a transfer is spent on each packet, whatever its size.
pub const MTU_DEFAULT: u16 = 1452;

/// What a connection may have under way before it has learned of the path, in octets: ten packets (RFC 9002 section 7.2), of
/// the largest size. With the RFC's bound of 14,720 octets two large packets fill the window, and a connection that is then
/// closed cannot say why: its last packet waits for acknowledgements that a closed connection does not take.
const INITIAL_WINDOW: u64 = 10 * MTU_MAX as u64;
/// What one stream may have under way, in octets.
const STREAM_WINDOW: u32 = 4 << 20;
/// What one connection may have under way, in octets: also the most that it keeps in memory for a slow disk.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Socket buffers, in octets.
const SOCKET_BUFFER: usize = 4 << 20;
/// A peer that is silent for so long is gone.
const IDLE: Duration = Duration::from_secs(10);
/// How often a connection without traffic says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Most streams that a peer may have open: its lanes and its large objects.
pub const STREAMS_MAX: u32 = 16;

/// Why an agent cannot talk to others.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuicError {
    /// The setting is outside the bounds.
    #[error("moves.mtu is {mtu}: use {MTU_MIN} to {MTU_MAX}, such as {MTU_DEFAULT}")]
    Mtu {
        /// The setting.
        mtu: u16,
    },
    /// The certificates do not serve.
    #[error("make the TLS configuration of the peer port")]
    Tls(#[from] tls::TlsError),
    /// The TLS configuration does not serve QUIC.
    #[error("make the QUIC configuration of the peer port")]
    Cipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The address cannot be taken.
    #[error("listen for other agents on {address}: is another agent running there?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// Opens the endpoint.
///
/// # Errors
///
/// [`QuicError`].
pub fn open(address: SocketAddr, mtu: u16, current: &Arc<Current>, anchor: &Anchor) -> Result<Endpoint, QuicError> {
    if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
        return Err(QuicError::Mtu { mtu });
    }
    let transport = Arc::new(transport(mtu));
    let mut server = tls::renewed_server_config(current, anchor)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?));
    server.transport_config(Arc::clone(&transport));
    let mut client = tls::renewed_client_config(current, anchor)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?));
    client.transport_config(transport);
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(MTU_MAX)
        .expect("it is within the bounds of QUIC");
    let bind = |source| QuicError::Bind { address, source };
    let socket = socket(address).map_err(bind)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint = Endpoint::new(config, Some(server), socket, runtime).map_err(bind)?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

fn transport(mtu: u16) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_MAX);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(mtu)
        .mtu_discovery_config(Some(discovery))
        .congestion_controller_factory(Arc::new(congestion))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE).expect("10 s fit")));
    transport
}

fn socket(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(SocketDomain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The system may grant less; that costs speed and nothing else.
    drop(socket.set_recv_buffer_size(SOCKET_BUFFER));
    drop(socket.set_send_buffer_size(SOCKET_BUFFER));
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Identified {
    pub(crate) name: ServerName,
    peer: Peer,
    revoked: Revoked,
}

impl Identified {
    /// Reads it from the certificate that the handshake has checked; `None` for anybody but a server of this pool.
    pub(crate) fn of(connection: &Connection, revoked: &Revoked) -> Option<Identified> {
        let chain = connection.peer_identity()?;
        let chain = chain.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        let peer = Peer::read(chain.first()?, UnixTime::now(), &revoked.load()).ok()?;
        match &peer.who {
            Who::Server(name) => Some(Identified {
                name: name.clone(),
                peer,
                revoked: Arc::clone(revoked),
            }),
            Who::Librarian | Who::Client { .. } => None,
        }
    }

    /// Whether the certificate is still good: asked for everything that arrives, not only at the handshake.
    pub(crate) fn is_good(&self) -> bool {
        self.peer.check(UnixTime::now(), &self.revoked.load()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn mtu_that_would_hang_or_panic_is_refused() {
        let pool = super::super::tests::pool();
        for mtu in [0, 1199, 6551, 32_000, u16::MAX] {
            let refused = open(
                "127.0.0.1:0".parse().unwrap(),
                mtu,
                &Current::new(&pool.identity("s1")).unwrap(),
                &pool.anchor(),
            );
            assert!(matches!(refused, Err(QuicError::Mtu { .. })), "{mtu}");
        }
        for mtu in [MTU_MIN, MTU_DEFAULT, MTU_MAX] {
            open(
                "127.0.0.1:0".parse().unwrap(),
                mtu,
                &Current::new(&pool.identity("s1")).unwrap(),
                &pool.anchor(),
            )
            .unwrap();
        }
    }
}
