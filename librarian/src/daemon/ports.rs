//! The sockets that a librarian serves: bound here, or handed on.

use std::io;

use super::RunError;
use crate::config::Config;
use crate::handover::{Passed, Wanted};
use crate::listen::{self, Sockets};
use crate::{join, metrics};

/// All sockets of a librarian, not served yet.
pub(super) struct Ports {
    pub(super) dns: Sockets,
    pub(super) join: join::Listener,
    pub(super) metrics: Option<metrics::Listener>,
}

impl Ports {
    /// Takes what was handed on, if it is where the settings say, and binds the rest.
    pub(super) async fn open(config: &Config, settings: &listen::Settings, passed: Passed) -> Result<Ports, RunError> {
        passed.check(&Wanted {
            dns: config.listen_dns,
            join: config.listen_https,
            metrics: config.listen_metrics,
        })?;
        let dns = match passed.dns_tcp {
            Some(tcp) => Sockets::adopt(passed.dns_udp, tcp),
            None => Sockets::bind(config.listen_dns, settings),
        };
        let dns = dns.map_err(|source| RunError::Dns {
            address: config.listen_dns,
            source,
        })?;
        let join = match passed.join {
            Some(socket) => join::Listener::adopt(socket)?,
            None => join::Listener::bind(config.listen_https).await?,
        };
        let metrics = match config.listen_metrics {
            Some(address) => {
                let listener = match passed.metrics {
                    Some(socket) => metrics::Listener::adopt(socket),
                    None => metrics::Listener::bind(address).await,
                };
                Some(listener.map_err(|source| RunError::Metrics { address, source })?)
            }
            None => None,
        };
        Ok(Ports { dns, join, metrics })
    }

    /// The same sockets once more, to be handed on.
    pub(super) fn handles(&self) -> io::Result<Passed> {
        let (dns_udp, dns_tcp) = self.dns.handles()?;
        Ok(Passed {
            dns_udp,
            dns_tcp: Some(dns_tcp),
            join: Some(self.join.handle()?),
            metrics: self.metrics.as_ref().map(metrics::Listener::handle).transpose()?,
        })
    }
}
