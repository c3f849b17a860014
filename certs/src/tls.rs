//! TLS configurations: version 1.3 only, both sides authenticated, names verified, no resumption and no early data.
//!
//! Certificates are checked at every connection because nothing is resumed; [`crate::Peer::check`] is asked at every request
//! besides. ALPN is set by the caller. The only side without a certificate is a new server at the librarian's `/join`: it
//! knows the authority by the fingerprint in its token, and proves itself with the token's secret.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, version,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::fingerprint::Fingerprint;
use crate::identity::{Anchor, Identity};

/// Why a configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[error("make a TLS configuration")]
pub struct TlsError {
    /// What rustls said.
    #[from]
    source: rustls::Error,
}

/// An identity that may be renewed while connections are served: whoever has it shows the newest certificate from the next
/// handshake on.
#[derive(Debug)]
pub struct Current {
    key: RwLock<Arc<CertifiedKey>>,
}

impl Current {
    /// Begins with an identity.
    ///
    /// # Errors
    ///
    /// [`TlsError`] when rustls does not take it.
    pub fn new(identity: &Identity) -> Result<Arc<Current>, TlsError> {
        Ok(Arc::new(Current {
            key: RwLock::new(Arc::new(certified(identity, None)?)),
        }))
    }

    /// Shows another identity from now on.
    ///
    /// # Errors
    ///
    /// [`TlsError`] when rustls does not take it; the old one is shown on.
    pub fn renew(&self, identity: &Identity) -> Result<(), TlsError> {
        let key = Arc::new(certified(identity, None)?);
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(identity: &Identity, authority: Option<&Anchor>) -> Result<CertifiedKey, TlsError> {
    let mut chain = vec![identity.certificate().clone()];
    chain.extend(authority.map(|authority| authority.certificate().clone()));
    Ok(CertifiedKey::from_der(chain, identity.key(), &provider())?)
}

/// For agents: a certificate of this pool is demanded from whoever connects.
///
/// # Errors
///
/// [`TlsError`] when rustls does not take the identity.
pub fn server_config(identity: &Identity, anchor: &Anchor) -> Result<ServerConfig, TlsError> {
    renewed_server_config(&Current::new(identity)?, anchor)
}

/// The same with an identity that may be renewed.
///
/// # Errors
///
/// [`TlsError`] when the provider lacks TLS 1.3.
pub fn renewed_server_config(current: &Arc<Current>, anchor: &Anchor) -> Result<ServerConfig, TlsError> {
    server(Arc::clone(current), anchor, false)
}

/// For the librarian's own port: a certificate is checked where one is shown, and not demanded, since who joins has none yet.
/// The chain includes the authority, which new servers know by its fingerprint only.
///
/// # Errors
///
/// [`TlsError`] when rustls does not take the identity.
pub fn join_server_config(identity: &Identity, anchor: &Anchor) -> Result<ServerConfig, TlsError> {
    let key = RwLock::new(Arc::new(certified(identity, Some(anchor))?));
    server(Arc::new(Current { key }), anchor, true)
}

/// For everybody who connects: shows our certificate, and takes only a server of this pool with the name that was asked for.
///
/// # Errors
///
/// [`TlsError`] when rustls does not take the identity.
pub fn client_config(identity: &Identity, anchor: &Anchor) -> Result<ClientConfig, TlsError> {
    renewed_client_config(&Current::new(identity)?, anchor)
}

/// The same with an identity that may be renewed.
///
/// # Errors
///
/// [`TlsError`] when the provider lacks TLS 1.3.
pub fn renewed_client_config(current: &Arc<Current>, anchor: &Anchor) -> Result<ClientConfig, TlsError> {
    let mut config = client_builder()?
        .with_root_certificates(Arc::clone(anchor.roots()))
        .with_client_cert_resolver(Arc::clone(current) as Arc<dyn ResolvesClientCert>);
    forget_sessions(&mut config);
    Ok(config)
}

/// For whoever only looks who is there: takes only a server of this pool with the name that was asked for, and shows no
/// certificate. The other side ends such a connection once it is verified.
///
/// # Errors
///
/// [`TlsError`] when the provider lacks TLS 1.3.
pub fn client_config_unidentified(anchor: &Anchor) -> Result<ClientConfig, TlsError> {
    let mut config = client_builder()?
        .with_root_certificates(Arc::clone(anchor.roots()))
        .with_no_client_auth();
    forget_sessions(&mut config);
    Ok(config)
}

/// For a server that joins: no certificate of its own; the other side must be signed by the authority with this fingerprint,
/// and have the name that was asked for.
///
/// # Errors
///
/// [`TlsError`] when the provider lacks TLS 1.3.
pub fn client_config_pinned(authority: Fingerprint) -> Result<ClientConfig, TlsError> {
    let mut config = client_builder()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned {
            authority,
            provider: provider(),
        }))
        .with_no_client_auth();
    forget_sessions(&mut config);
    Ok(config)
}

/// The one provider of primitives.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Checks certificates of clients, which may be absent if `optional`.
pub(crate) fn client_verifier(anchor: &Anchor, optional: bool) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(anchor.roots()), provider());
    if optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(verifier_error)
}

fn server(current: Arc<Current>, anchor: &Anchor, join: bool) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(client_verifier(anchor, join)?)
        .with_cert_resolver(current);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

fn client_builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&version::TLS13])?)
}

fn forget_sessions(config: &mut ClientConfig) {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
}

fn verifier_error(error: VerifierBuilderError) -> rustls::Error {
    rustls::Error::General(error.to_string())
}

/// Takes a chain only if it holds the authority with the known fingerprint, and then checks the rest as usual against it.
#[derive(Debug)]
struct Pinned {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| Fingerprint::of(certificate) == self.authority)
            .ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(verifier_error)?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::peer::{Peer, Who};
    use crate::revocation::Revocations;
    use crate::testing::{Pool, client, server};

    /// Runs a handshake in memory and passes one octet each way; answers with what the server saw of the client.
    fn talk(
        client: ClientConfig,
        server: ServerConfig,
        name: &str,
    ) -> Result<Option<CertificateDer<'static>>, rustls::Error> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        for _ in 0..8 {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).expect("in memory");
            server.read_tls(&mut wire.as_slice()).expect("in memory");
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).expect("in memory");
            client.read_tls(&mut wire.as_slice()).expect("in memory");
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        server.writer().write_all(b"x").expect("in memory");
        let mut wire = Vec::new();
        server.write_tls(&mut wire).expect("in memory");
        client.read_tls(&mut wire.as_slice()).expect("in memory");
        client.process_new_packets()?;
        client.reader().read_exact(&mut [0]).expect("the octet");
        Ok(server
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|certificate| certificate.clone().into_owned()))
    }

    /// rustls asks the clock of the machine in a handshake, so these tests issue by it.
    #[expect(clippy::disallowed_methods, reason = "handshakes know no other clock")]
    fn now() -> UnixTime {
        UnixTime::now()
    }

    fn pool(seed: u8) -> Pool {
        Pool::at(seed, now())
    }

    const S2: &str = "s2.pool.hypernet.internal";

    #[test]
    fn both_sides_learn_who_the_other_is() {
        let pool = pool(1);
        let anchor = pool.authority.anchor();
        let shop = client("shop", &["read:3.1"]);
        let (s2, shop_identity) = (pool.issue_at(&server("s2"), now()), pool.issue_at(&shop, now()));
        for name in [S2, "any.pool.hypernet.internal"] {
            let seen = talk(
                client_config(&shop_identity, anchor).expect("config"),
                server_config(&s2, anchor).expect("config"),
                name,
            );
            let peer = Peer::read(&seen.expect("talks").expect("shown"), now(), &Revocations::default()).expect("ours");
            assert_eq!(peer.who, shop);
        }
    }

    #[test]
    fn wrong_names_foreign_authorities_and_expired_certificates_are_refused_on_either_side() {
        let (pool, foreign) = (pool(1), pool(2));
        let anchor = pool.authority.anchor();
        let s2 = pool.issue_at(&server("s2"), now());
        let shop = pool.issue_at(&client("shop", &[]), now());
        let long_ago = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now().as_secs() - 8 * 24 * 3600));
        let old_s2 = pool.issue_at(&server("s2"), long_ago);
        let old_shop = pool.issue_at(&client("shop", &[]), long_ago);
        let foreign_s2 = foreign.issue_at(&server("s2"), now());
        let foreign_shop = foreign.issue_at(&client("shop", &[]), now());
        let try_out = |client: &Identity, server: &Identity, name: &str| {
            talk(
                client_config(client, anchor).expect("config"),
                server_config(server, anchor).expect("config"),
                name,
            )
        };
        assert!(try_out(&shop, &s2, S2).is_ok());
        for (client, server, name, why) in [
            (&shop, &s2, "s3.pool.hypernet.internal", "another server's name"),
            (&shop, &s2, "s2.pool.other.internal", "another pool's name"),
            (&shop, &old_s2, S2, "expired server"),
            (&old_shop, &s2, S2, "expired client"),
            (&shop, &foreign_s2, S2, "foreign server"),
            (&foreign_shop, &s2, S2, "foreign client"),
            (&shop, &shop, S2, "client as server"),
        ] {
            assert!(try_out(client, server, name).is_err(), "{why}");
        }
    }

    #[test]
    fn the_authority_is_trusted_for_no_name_outside_its_pool() {
        let pool = pool(1);
        let anchor = pool.authority.anchor();
        let elsewhere = "other.internal".parse().expect("legal");
        let same_key = crate::Authority::load(&elsewhere, anchor.pem(), &pool.authority.key_pem()).expect("own");
        let serial = crate::Serial::new([9; 16]);
        let s2 = same_key.issue(&server("s2"), serial, now()).expect("issued");
        let shop = pool.issue_at(&client("shop", &[]), now());
        let seen = talk(
            client_config(&shop, anchor).expect("config"),
            server_config(&s2, anchor).expect("config"),
            "s2.pool.other.internal",
        );
        assert!(seen.is_err());
    }

    #[test]
    fn a_connection_without_a_certificate_is_refused() {
        let pool = pool(1);
        let anchor = pool.authority.anchor();
        let s2 = pool.issue_at(&server("s2"), now());
        let mut bare = client_builder()
            .expect("builder")
            .with_root_certificates(Arc::clone(anchor.roots()))
            .with_no_client_auth();
        forget_sessions(&mut bare);
        assert!(talk(bare, server_config(&s2, anchor).expect("config"), S2).is_err());
    }

    #[test]
    fn who_joins_knows_the_librarian_by_the_fingerprint() {
        let (pool, foreign) = (pool(1), pool(2));
        let librarian = |pool: &Pool| {
            let identity = pool.issue_at(&Who::Librarian, now());
            join_server_config(&identity, pool.authority.anchor()).expect("config")
        };
        let pinned = || client_config_pinned(pool.authority.anchor().fingerprint()).expect("config");
        const NS: &str = "ns.pool.hypernet.internal";
        assert_eq!(talk(pinned(), librarian(&pool), NS), Ok(None));
        assert!(talk(pinned(), librarian(&foreign), NS).is_err(), "another authority");
        assert!(talk(pinned(), librarian(&pool), S2).is_err(), "another name");
        // A server of this very pool that poses as the librarian has not its name.
        let s2 = pool.issue_at(&server("s2"), now());
        let posing = join_server_config(&s2, pool.authority.anchor()).expect("config");
        assert!(talk(pinned(), posing, NS).is_err(), "not the librarian");
        // A false chain: foreign leaf, right authority beside it.
        let foreign_librarian = foreign.issue_at(&Who::Librarian, now());
        let mixed = join_server_config(&foreign_librarian, pool.authority.anchor()).expect("config");
        assert!(talk(pinned(), mixed, NS).is_err(), "leaf not signed by the authority");
    }
}
