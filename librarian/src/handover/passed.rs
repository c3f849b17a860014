//! Sockets that somebody else bound, told apart by name and kind.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use socket2::{SockRef, Type};

use super::wire::SOCKETS_MAX;

/// Name of the sockets that DNS is served on, UDP and TCP.
const DNS: &str = "dns";
/// Name of the socket that servers join on.
const JOIN: &str = "join";
/// Name of the socket that metrics are served on.
const METRICS: &str = "metrics";

/// Sockets that were handed on; what is absent has to be bound.
#[derive(Debug, Default)]
pub struct Passed {
    /// DNS over UDP; several share one address.
    pub dns_udp: Vec<UdpSocket>,
    /// DNS over TCP, at the same address.
    pub dns_tcp: Option<TcpListener>,
    /// Joining.
    pub join: Option<TcpListener>,
    /// Metrics.
    pub metrics: Option<TcpListener>,
}

/// Where the settings want to listen; port 0 is any port.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// DNS.
    pub dns: SocketAddr,
    /// Joining.
    pub join: SocketAddr,
    /// Metrics; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
}

/// Why sockets that were handed on cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassedError {
    /// The name is none of ours.
    #[error(
        "a socket named {name:?} was handed on, which nothing listens on: name it dns, join or metrics \
         (FileDescriptorName= in its socket unit)"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Neither UDP nor a TCP listener, or too many of them.
    #[error(
        "the sockets named {name} are not what is served there: dns needs ListenDatagram= and one ListenStream=, join and \
         metrics one ListenStream= each"
    )]
    Kind {
        /// Their name.
        name: &'static str,
    },
    /// The settings want another address.
    #[error(
        "a socket at {found} was handed on, but {key} in librarian.toml is {wanted}: make both the same; to change the address \
         of a librarian that runs, restart it without --take-over"
    )]
    Address {
        /// The setting.
        key: &'static str,
        /// Where the socket is.
        found: SocketAddr,
        /// Where it should be.
        wanted: SocketAddr,
    },
    /// The system refuses.
    #[error("cannot take the sockets that were handed on")]
    System(#[from] io::Error),
}

impl Passed {
    /// Takes the sockets that systemd hands on; none if it does not.
    ///
    /// Call it once in the life of a process: the second call would have two owners of one socket.
    ///
    /// # Errors
    ///
    /// [`PassedError`].
    pub fn from_systemd() -> Result<Passed, PassedError> {
        let passed = sd_notify::listen_fds_with_names()?;
        if passed.len() > SOCKETS_MAX {
            return Err(io::Error::other(format!("more than {SOCKETS_MAX} sockets")).into());
        }
        let sockets = passed.map(|(fd, name)| {
            // SAFETY: systemd opened this descriptor for this very process (LISTEN_PID is compared), setting its flags has just
            // shown that it is open, and nobody else in the process knows of it.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            (name, socket)
        });
        Passed::sort(sockets)
    }

    /// Tells sockets apart.
    ///
    /// # Errors
    ///
    /// [`PassedError::Name`] and [`PassedError::Kind`].
    pub(super) fn sort(sockets: impl IntoIterator<Item = (String, OwnedFd)>) -> Result<Passed, PassedError> {
        let mut passed = Passed::default();
        for (name, socket) in sockets {
            let about = SockRef::from(&socket);
            about.set_nonblocking(true)?;
            let is_udp = about.r#type()? == Type::DGRAM;
            let is_listener = about.r#type()? == Type::STREAM && about.is_listener()?;
            let (name, place) = match name.as_str() {
                DNS if is_udp => {
                    passed.dns_udp.push(socket.into());
                    continue;
                }
                DNS => (DNS, &mut passed.dns_tcp),
                JOIN => (JOIN, &mut passed.join),
                METRICS => (METRICS, &mut passed.metrics),
                _ => return Err(PassedError::Name { name }),
            };
            if !is_listener || place.replace(socket.into()).is_some() {
                return Err(PassedError::Kind { name });
            }
        }
        if passed.dns_udp.is_empty() != passed.dns_tcp.is_none() {
            return Err(PassedError::Kind { name: DNS });
        }
        Ok(passed)
    }

    /// All of them with their names.
    pub(super) fn named(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        let mut named: Vec<_> = self.dns_udp.iter().map(|socket| (DNS, socket.as_fd())).collect();
        for (name, listener) in [(DNS, &self.dns_tcp), (JOIN, &self.join), (METRICS, &self.metrics)] {
            named.extend(listener.iter().map(|listener| (name, listener.as_fd())));
        }
        named
    }

    /// Whether all are where the settings want to listen.
    ///
    /// # Errors
    ///
    /// [`PassedError::Address`] at the first that is not.
    pub fn check(&self, wanted: &Wanted) -> Result<(), PassedError> {
        let one = |key, found: io::Result<SocketAddr>, wanted: SocketAddr| {
            let found = found?;
            if found.ip() == wanted.ip() && (wanted.port() == 0 || found.port() == wanted.port()) {
                return Ok(());
            }
            Err(PassedError::Address { key, found, wanted })
        };
        // Port 0 is one port for UDP and TCP.
        let mut dns = wanted.dns;
        if let Some(listener) = &self.dns_tcp {
            one("listen_dns", listener.local_addr(), wanted.dns)?;
            dns = listener.local_addr()?;
        }
        for socket in &self.dns_udp {
            one("listen_dns", socket.local_addr(), dns)?;
        }
        if let Some(listener) = &self.join {
            one("listen_https", listener.local_addr(), wanted.join)?;
        }
        if let (Some(listener), Some(wanted)) = (&self.metrics, wanted.metrics) {
            one("listen_metrics", listener.local_addr(), wanted)?;
        }
        Ok(())
    }

    /// The same sockets once more.
    ///
    /// # Errors
    ///
    /// What the system says, such as that the process may open no more.
    pub fn try_clone(&self) -> io::Result<Passed> {
        let listener = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::try_clone).transpose();
        Ok(Passed {
            dns_udp: self
                .dns_udp
                .iter()
                .map(UdpSocket::try_clone)
                .collect::<io::Result<_>>()?,
            dns_tcp: listener(&self.dns_tcp)?,
            join: listener(&self.join)?,
            metrics: listener(&self.metrics)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").unwrap()
    }

    fn tcp() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn sort(sockets: Vec<(&str, OwnedFd)>) -> Result<Passed, PassedError> {
        Passed::sort(sockets.into_iter().map(|(name, socket)| (name.to_owned(), socket)))
    }

    fn wanted(dns: SocketAddr) -> Wanted {
        Wanted {
            dns,
            join: "127.0.0.1:0".parse().unwrap(),
            metrics: None,
        }
    }

    #[test]
    fn sockets_are_told_apart_by_name_and_kind() {
        let (datagrams, listener, join) = (udp(), tcp(), tcp());
        let places = [&listener, &join].map(|listener| listener.local_addr().unwrap());
        let passed = sort(vec![
            ("join", join.into()),
            ("dns", listener.into()),
            ("dns", datagrams.into()),
            ("dns", udp().into()),
        ])
        .unwrap();
        assert_eq!(passed.dns_udp.len(), 2);
        assert_eq!(passed.dns_tcp.as_ref().unwrap().local_addr().unwrap(), places[0]);
        assert_eq!(passed.join.as_ref().unwrap().local_addr().unwrap(), places[1]);
        assert!(passed.metrics.is_none());
        let names: Vec<_> = passed.named().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["dns", "dns", "dns", "join"]);
    }

    #[test]
    fn sockets_of_other_names_and_kinds_are_refused() {
        let refused = |sockets| sort(sockets).unwrap_err();
        let unknown = refused(vec![("unknown", udp().into())]);
        assert!(matches!(unknown, PassedError::Name { .. }), "{unknown}");
        for sockets in [
            vec![("join", udp().into())],
            vec![("join", tcp().into()), ("join", tcp().into())],
            vec![("dns", udp().into())],
            vec![("dns", tcp().into())],
        ] {
            let kind = refused(sockets);
            assert!(matches!(kind, PassedError::Kind { .. }), "{kind}");
        }
    }

    #[test]
    fn sockets_elsewhere_than_the_settings_say_are_refused_by_setting() {
        let listener = tcp();
        let here = listener.local_addr().unwrap();
        let datagrams = UdpSocket::bind(here).unwrap();
        let passed = sort(vec![("dns", listener.into()), ("dns", datagrams.into())]).unwrap();
        passed.check(&wanted(here)).unwrap();
        passed.check(&wanted("127.0.0.1:0".parse().unwrap())).unwrap();
        let refused = passed.check(&wanted("127.0.0.1:1".parse().unwrap())).unwrap_err();
        assert!(refused.to_string().contains("listen_dns"), "{refused}");
        let elsewhere = sort(vec![("dns", tcp().into()), ("dns", udp().into())]).unwrap();
        let refused = elsewhere.check(&wanted("127.0.0.1:0".parse().unwrap()));
        assert!(
            matches!(refused, Err(PassedError::Address { .. })),
            "UDP and TCP at two ports"
        );
    }
}
