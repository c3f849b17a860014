//! Who asks: the certificate of the connection, or the one that a forwarding server carries for its client.
//!
//! A server that is the source of an object's move hands requests on to the destination (DESIGN.md section 11, step 8). It
//! speaks with its own certificate and carries the client's in `Client-Cert` (RFC 9440). That header is a claim: it is taken
//! from a server only, the certificate in it is checked against the pool's authority at that moment, and whether this server
//! may forward for this very object is asked of the journal by whoever knows the object.
//!
//! Specifications: RFC 9440 (`Client-Cert`), RFC 8941 section 3.3.5 (byte sequences).

use std::sync::Arc;
use std::time::SystemTime;

use certs::{Anchor, Grants, Peer, Revocations, Standing, UnixTime, Who};
use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, StatusCode};
use rustls_pki_types::CertificateDer;
use zones::{Address, ServerName};

use crate::access::problem::Problem;

/// The client's certificate, carried by a forwarding server.
pub(super) const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// How often a request was forwarded.
pub(super) const HOPS: HeaderName = HeaderName::from_static("hypernet-hops");
/// Most times that a request may be forwarded (DESIGN.md section 12).
pub(super) const HOPS_MAX: u8 = 2;

/// Who is at the other end of a connection, as its handshake showed.
#[derive(Clone, Debug)]
pub(super) struct ConnectionPeer {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) peer: Peer,
}

/// Whose request it is.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Name of the application.
    pub(super) name: String,
    grants: Grants,
    /// Its certificate, to be carried on.
    pub(super) certificate: CertificateDer<'static>,
    /// The server that forwarded it, and how often it was forwarded.
    pub(super) via: Option<(ServerName, u8)>,
}

/// What a client may do now: grants may have changed since its certificate was issued.
fn grants_now(revoked: &Revocations, peer: &Peer, said: &Grants) -> Grants {
    match revoked.standing(peer) {
        Standing::Granted(grants) => grants.clone(),
        Standing::Good | Standing::Revoked => said.clone(),
    }
}

impl Caller {
    /// Finds out whose request it is.
    ///
    /// # Errors
    ///
    /// A problem for expired and revoked certificates, for identities that are no client, and for false forwarding.
    pub(super) fn of(
        connection: &Arc<ConnectionPeer>,
        headers: &HeaderMap,
        anchor: &Anchor,
        revoked: &Revocations,
        now: UnixTime,
    ) -> Result<Caller, Problem> {
        let refused = |detail: String| Problem::new(StatusCode::FORBIDDEN, detail);
        connection
            .peer
            .check(now, revoked)
            .map_err(|error| refused(format!("this connection's {error}")))?;
        let carried = headers.get_all(&CLIENT_CERT).iter().collect::<Vec<_>>();
        let forwarding = !carried.is_empty() || headers.contains_key(&HOPS);
        match &connection.peer.who {
            Who::Client { .. } if forwarding => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "Client-Cert and Hypernet-Hops are for servers that forward: send the request without them",
            )),
            Who::Client { name, grants } => Ok(Caller {
                name: name.to_string(),
                grants: grants_now(revoked, &connection.peer, grants),
                certificate: connection.certificate.clone(),
                via: None,
            }),
            Who::Server(server) => {
                let [carried] = carried.as_slice() else {
                    return Err(refused(format!(
                        "{server} is a server: objects are for applications, so use a certificate made by `librarian client add`"
                    )));
                };
                let false_client = || {
                    refused(format!(
                        "{server} carries no good certificate of a client in Client-Cert: nothing is done for it"
                    ))
                };
                let certificate = byte_sequence(carried.as_bytes()).ok_or_else(false_client)?;
                let peer = anchor.verify(&certificate, now, revoked).map_err(|_| false_client())?;
                let Who::Client { name, grants } = &peer.who else {
                    return Err(false_client());
                };
                let grants = grants_now(revoked, &peer, grants);
                let hops = hops(headers).ok_or_else(|| {
                    Problem::new(
                        StatusCode::BAD_REQUEST,
                        format!("Hypernet-Hops of a forwarded request is 1 to {HOPS_MAX}"),
                    )
                })?;
                Ok(Caller {
                    name: name.to_string(),
                    grants,
                    certificate: certificate.into(),
                    via: Some((server.clone(), hops)),
                })
            }
            Who::Librarian => Err(refused(
                "the librarian's certificate is for joining: use one made by `librarian client add`".to_owned(),
            )),
        }
    }

    /// Whether the client may do this to the object.
    pub(super) fn may(&self, verb: certs::Verb, address: &Address) -> bool {
        self.grants.allows(verb, address)
    }

    /// How often the request was forwarded so far.
    pub(super) fn hops(&self) -> u8 {
        self.via.as_ref().map_or(0, |(_, hops)| *hops)
    }

    /// The value of `Client-Cert` for the next server.
    pub(super) fn client_cert(&self) -> String {
        format!(":{}:", BASE64.encode(&self.certificate))
    }
}

/// The time that certificates are judged by.
pub(super) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or_default())
}

/// Reads a byte sequence of a structured field (RFC 8941 section 3.3.5): base64 between colons.
pub fn byte_sequence(value: &[u8]) -> Option<Vec<u8>> {
    let inner = value.trim_ascii().strip_prefix(b":")?.strip_suffix(b":")?;
    BASE64.decode(inner).ok()
}

fn hops(headers: &HeaderMap) -> Option<u8> {
    let mut values = headers.get_all(&HOPS).iter();
    let hops: u8 = values.next()?.to_str().ok()?.parse().ok()?;
    (values.next().is_none() && (1..=HOPS_MAX).contains(&hops)).then_some(hops)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use certs::{Authority, ClientName, Identity, Serial};
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    struct Pool {
        authority: Authority,
    }

    fn at(day: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000 + day * 86_400))
    }

    impl Pool {
        fn new() -> Pool {
            let domain = "hypernet.internal.".parse().unwrap();
            Pool {
                authority: Authority::create(&domain, Serial::new(rand::random()), at(0)).unwrap(),
            }
        }

        fn issue(&self, who: &Who) -> Identity {
            self.authority.issue(who, Serial::new(rand::random()), at(0)).unwrap()
        }

        fn client(&self, grant: &str) -> Identity {
            let name: ClientName = "shop".parse().unwrap();
            let grants = Grants::new([grant.parse().unwrap()]).unwrap();
            self.issue(&Who::Client { name, grants })
        }

        fn server(&self) -> Identity {
            self.issue(&Who::Server("s2".parse().unwrap()))
        }

        fn connection(identity: &Identity) -> Arc<ConnectionPeer> {
            Arc::new(ConnectionPeer {
                certificate: identity.certificate().clone(),
                peer: Peer::read(identity.certificate(), at(1), &Revocations::default()).unwrap(),
            })
        }

        fn ask(&self, connection: &Identity, headers: &HeaderMap, day: u64) -> Result<Caller, StatusCode> {
            let connection = Pool::connection(connection);
            Caller::of(
                &connection,
                headers,
                self.authority.anchor(),
                &Revocations::default(),
                at(day),
            )
            .map_err(|problem| problem.status())
        }
    }

    fn carrying(certificate: &[u8], hops: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = format!(":{}:", BASE64.encode(certificate));
        headers.insert(CLIENT_CERT, HeaderValue::from_str(&value).unwrap());
        headers.insert(HOPS, HeaderValue::from_str(hops).unwrap());
        headers
    }

    #[test]
    fn client_is_who_its_certificate_says_until_it_expires() {
        let pool = Pool::new();
        let client = pool.client("read:3.1");
        let caller = pool.ask(&client, &HeaderMap::new(), 1).unwrap();
        assert_eq!(caller.name, "shop");
        assert!(caller.may(certs::Verb::Read, &"3.1.4".parse().unwrap()));
        assert!(!caller.may(certs::Verb::Write, &"3.1.4".parse().unwrap()));
        assert_eq!(
            pool.ask(&client, &HeaderMap::new(), 8).unwrap_err(),
            StatusCode::FORBIDDEN
        );
    }

    #[test]
    fn client_that_claims_to_forward_is_refused() {
        let pool = Pool::new();
        let (client, victim) = (pool.client("read:3.1"), pool.client("write:*"));
        let both = carrying(victim.certificate(), "1");
        for header in [CLIENT_CERT, HOPS] {
            let mut one = both.clone();
            one.remove(&header);
            assert_eq!(pool.ask(&client, &one, 1).unwrap_err(), StatusCode::BAD_REQUEST);
        }
        assert_eq!(pool.ask(&client, &both, 1).unwrap_err(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn server_speaks_for_a_client_with_a_good_certificate_only() {
        let (pool, foreign) = (Pool::new(), Pool::new());
        let server = pool.server();
        let client = pool.client("read:3.1");
        let good = carrying(client.certificate(), "1");
        let caller = pool.ask(&server, &good, 1).unwrap();
        assert_eq!((caller.name.as_str(), caller.hops()), ("shop", 1));
        assert_eq!(
            byte_sequence(caller.client_cert().as_bytes()).unwrap(),
            client.certificate().to_vec()
        );
        assert_eq!(
            pool.ask(&server, &good, 8).unwrap_err(),
            StatusCode::FORBIDDEN,
            "expired"
        );
        let forbidden = [
            ("no client", HeaderMap::new()),
            ("foreign client", carrying(foreign.client("read:*").certificate(), "1")),
            ("a server as client", carrying(pool.server().certificate(), "1")),
            ("no certificate", carrying(b"x", "1")),
        ];
        for (what, headers) in forbidden {
            assert_eq!(
                pool.ask(&server, &headers, 1).unwrap_err(),
                StatusCode::FORBIDDEN,
                "{what}"
            );
        }
        let mut twice = good.clone();
        twice.append(CLIENT_CERT, good[CLIENT_CERT].clone());
        assert_eq!(
            pool.ask(&server, &twice, 1).unwrap_err(),
            StatusCode::FORBIDDEN,
            "two clients"
        );
        for hops in ["0", "3", "x", ""] {
            let headers = carrying(client.certificate(), hops);
            assert_eq!(
                pool.ask(&server, &headers, 1).unwrap_err(),
                StatusCode::BAD_REQUEST,
                "{hops}"
            );
        }
    }

    #[test]
    fn librarian_has_no_objects() {
        let pool = Pool::new();
        let librarian = pool.issue(&Who::Librarian);
        assert_eq!(
            pool.ask(&librarian, &HeaderMap::new(), 1).unwrap_err(),
            StatusCode::FORBIDDEN
        );
    }

    proptest! {
        #[test]
        fn byte_sequence_reads_back(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = format!(":{}:", BASE64.encode(&octets));
            prop_assert_eq!(byte_sequence(text.as_bytes()), Some(octets));
        }

        #[test]
        fn any_header_is_read_without_panic(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = byte_sequence(&value);
        }
    }
}
