//! `librarian resolver-config`: what a resolver in front of the librarian needs.
//!
//! Every form names the four zones' parent and where to ask, and tells a validating resolver that the domain is not signed.

use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;
use zones::{Domain, Zone};

use crate::config::Config;
use crate::control;
use crate::control::words::{Addresses, Request};
use crate::files::{self, FileError, Readable};

/// Which resolver.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Kind {
    /// Unbound.
    Unbound,
    /// BIND's named.
    Bind,
    /// systemd-resolved.
    Resolved,
    /// dnsmasq.
    Dnsmasq,
}

pub(super) fn print(dir: &Path, kind: Kind) -> anyhow::Result<()> {
    let config = Config::read(dir)?;
    let dns = match control::ask::<Addresses>(dir, &Request::Addresses) {
        Ok(addresses) => addresses.dns,
        Err(_) => config.advertise_dns.unwrap_or(config.listen_dns),
    };
    super::say(lines(kind, &config.domain, dns).trim_end())
}

/// Writes the lines for every resolver into a folder, for whoever is handed a client's files.
pub(super) fn write_all(folder: &Path, domain: &Domain, dns: SocketAddr) -> Result<(), FileError> {
    files::make_dir(folder)?;
    for (kind, name) in [
        (Kind::Unbound, "unbound.conf"),
        (Kind::Bind, "named.conf"),
        (Kind::Resolved, "resolved.conf"),
        (Kind::Dnsmasq, "dnsmasq.conf"),
    ] {
        files::write(&folder.join(name), lines(kind, domain, dns).as_bytes(), Readable::All)?;
    }
    Ok(())
}

fn lines(kind: Kind, domain: &Domain, dns: SocketAddr) -> String {
    let (ip, port) = (dns.ip(), dns.port());
    let name = domain.to_string();
    let name = name.trim_end_matches('.');
    let warning = "List the resolver's address in `networks` of librarian.toml. It then shows everybody whom it serves where \
                   every object is: let it serve only whom you would tell.";
    match kind {
        Kind::Unbound => {
            let mut text = format!(
                "# {warning}
server:
    # The domain is not signed.
    domain-insecure: \"{name}\"
    # Its servers may have private addresses.
    private-domain: \"{name}\"
    local-zone: \"{name}\" transparent
"
            );
            if ip.is_loopback() {
                text.push_str("    do-not-query-localhost: no\n");
            }
            for zone in [Zone::Apex, Zone::Obj, Zone::Tree, Zone::Pool] {
                let zone = domain.zone(zone).to_string();
                let zone = zone.trim_end_matches('.');
                text.push_str(&format!(
                    "stub-zone:\n    name: \"{zone}\"\n    stub-addr: {ip}@{port}\n"
                ));
            }
            text
        }
        Kind::Bind => format!(
            "// {warning}
// Inside `options {{ ... }};`, since the domain is not signed:
//     validate-except {{ \"{name}\"; }};
zone \"{name}\" {{
    type forward;
    forward only;
    forwarders {{ {ip} port {port}; }};
}};
"
        ),
        Kind::Resolved => {
            let server = match dns {
                SocketAddr::V4(_) => format!("{ip}:{port}"),
                SocketAddr::V6(_) => format!("[{ip}]:{port}"),
            };
            format!(
                "# /etc/systemd/resolved.conf.d/{name}.conf, then `systemctl restart systemd-resolved`.
# {warning}
# With DNSSEC=yes, say that the domain is not signed: echo {name} > /etc/dnssec-trust-anchors.d/{name}.negative
# Ask for whole names, such as 3.1.obj.{name}: dotted names are not searched.
[Resolve]
DNS={server}
Domains=~{name}
"
            )
        }
        Kind::Dnsmasq => format!(
            "# {warning}
server=/{name}/{ip}#{port}
# Its servers may have private addresses.
rebind-domain-ok=/{name}/
"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_says_the_domain_where_to_ask_and_what_it_discloses() {
        let domain = "hypernet.internal".parse().unwrap();
        for kind in Kind::value_variants() {
            for dns in ["192.0.2.1:5300", "[2001:db8::1]:5300"] {
                let text = lines(*kind, &domain, dns.parse().unwrap());
                let ip = dns.rsplit_once(':').unwrap().0.trim_matches(['[', ']']);
                assert!(
                    text.contains("hypernet.internal") && text.contains(ip) && text.contains("5300"),
                    "{text}"
                );
                assert!(text.contains("networks") && !text.contains("internal.\""), "{text}");
            }
        }
    }
}
