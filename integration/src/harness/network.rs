//! A network of hosts on this machine, one for each process of a pool, whose links can be cut one way.
//!
//! Every host is a network namespace with one link to a router, a namespace too. A cut is a rule of the router that drops
//! what one host sends to another: silently, as a broken link does, and in that direction alone. A route that dropped it at the
//! sender would answer with an error. Needs root.
//!
//! Nothing of it has a name on this machine: a namespace is there as long as a descriptor or a process is in it, so all of it
//! is gone with this process, however that ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// All hosts of a network, for settings that list who may ask.
pub const NETWORK: &str = "10.77.0.0/16";

/// Hosts, by name, and the router between them.
#[derive(Debug)]
pub struct Network {
    router: Arc<File>,
    hosts: BTreeMap<String, Host>,
}

#[derive(Debug)]
struct Host {
    namespace: Arc<File>,
    address: Ipv4Addr,
}

impl Network {
    /// Makes a network of hosts of these names.
    ///
    /// # Errors
    ///
    /// Where network namespaces and links between them cannot be made: that needs root, and `ip` of iproute2.
    pub fn new(names: &[&str]) -> Result<Network> {
        make(names)
            .context("make network namespaces: this needs root (or CAP_SYS_ADMIN and CAP_NET_ADMIN), veth and iproute2")
    }

    /// A host's only address.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn address(&self, host: &str) -> Result<IpAddr> {
        Ok(self.host(host)?.address.into())
    }

    /// Lets a command run on a host.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn place(&self, command: &mut Command, host: &str) -> Result<()> {
        let namespace = Arc::clone(&self.host(host)?.namespace);
        // SAFETY: the closure runs in the child between fork and exec and makes one system call, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(Into::into)
            });
        }
        Ok(())
    }

    /// Puts the calling thread, and every thread that it starts from here on, on a host.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn enter(&self, host: &str) -> Result<()> {
        enter(&self.host(host)?.namespace)
    }

    /// Drops what `from` sends to `to`; what `to` sends arrives.
    ///
    /// # Errors
    ///
    /// When the router does not take it.
    pub fn cut(&self, from: &str, to: &str) -> Result<()> {
        self.rule("add", from, to)
    }

    /// Takes a cut away.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn mend(&self, from: &str, to: &str) -> Result<()> {
        self.rule("del", from, to)
    }

    fn rule(&self, verb: &str, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.host(from)?.address, self.host(to)?.address);
        inside(&self.router, || {
            ip(&format!("rule {verb} from {from} to {to} blackhole"))
        })
    }

    fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .get(name)
            .with_context(|| format!("the network has no host {name}"))
    }
}

fn make(names: &[&str]) -> Result<Network> {
    let router = namespace(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("let the router forward")?;
        // The check of a packet's source would look its answer's way up, and so cut both ways.
        for interfaces in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{interfaces}/rp_filter"), "0")
                .context("let the router take any source")?;
        }
        Ok(())
    })?;
    let mut hosts = BTreeMap::new();
    for (number, name) in (1_u8..).zip(names) {
        let (gate, address) = (Ipv4Addr::new(10, 77, number, 1), Ipv4Addr::new(10, 77, number, 2));
        let namespace = namespace(|| ip("link set lo up"))?;
        inside(&router, || {
            let theirs = namespace.as_raw_fd();
            let us = std::process::id();
            ip(&format!(
                "link add h{number} type veth peer name eth0 netns /proc/{us}/fd/{theirs}"
            ))?;
            ip(&format!("addr add {gate}/30 dev h{number}"))?;
            ip(&format!("link set h{number} up"))
        })?;
        inside(&namespace, || {
            ip(&format!("addr add {address}/30 dev eth0"))?;
            ip("link set eth0 up")?;
            ip(&format!("route add default via {gate}"))
        })?;
        hosts.insert((*name).to_owned(), Host { namespace, address });
    }
    Ok(Network { router, hosts })
}

/// A new namespace, prepared from within.
fn namespace(prepare: impl FnOnce() -> Result<()> + Send) -> Result<Arc<File>> {
    on_a_thread(|| {
        // SAFETY: this thread alone gets a network namespace; descriptors, memory and paths stay shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("make a network namespace")?;
        let namespace = File::open("/proc/thread-self/ns/net").context("open a network namespace")?;
        prepare()?;
        Ok(Arc::new(namespace))
    })
}

/// Does something on a thread in a network namespace.
pub(super) fn inside<T: Send>(namespace: &File, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_a_thread(|| {
        enter(namespace)?;
        act()
    })
}

fn enter(namespace: &File) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context("enter a network namespace")
}

/// A thread of its own, so that the caller stays where it is.
fn on_a_thread<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(act).join()).map_err(|_| anyhow!("a thread in a network namespace panicked"))?
}

/// `ip ...`, where the calling thread is.
fn ip(words: &str) -> Result<()> {
    let told = Command::new("ip")
        .args(words.split(' '))
        .output()
        .with_context(|| format!("run ip {words}"))?;
    let why = String::from_utf8_lossy(&told.stderr);
    ensure!(
        told.status.success(),
        "ip {words} ended with {}: {}",
        told.status,
        why.trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    #[test]
    fn cut_drops_what_one_host_sends_and_nothing_else() -> Result<()> {
        let network = Network::new(&["a", "b"])?;
        let socket = |host: &str| -> Result<UdpSocket> {
            let namespace = &network.host(host)?.namespace;
            let socket = inside(namespace, || Ok(UdpSocket::bind((network.address(host)?, 9000))?))?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(socket)
        };
        let (a, b) = (socket("a")?, socket("b")?);
        let heard = |by: &UdpSocket| -> Result<u8> {
            let mut octet = [0];
            by.recv(&mut octet)?;
            Ok(octet[0])
        };
        let (to_a, to_b) = ((network.address("a")?, 9000), (network.address("b")?, 9000));
        a.send_to(&[1], to_b)?;
        assert_eq!(heard(&b)?, 1);
        network.cut("a", "b")?;
        a.send_to(&[2], to_b)?;
        b.send_to(&[3], to_a)?;
        assert_eq!(heard(&a)?, 3, "the other direction");
        network.mend("a", "b")?;
        a.send_to(&[4], to_b)?;
        assert_eq!(heard(&b)?, 4, "what was sent meanwhile is lost, not late");
        Ok(())
    }
}
