//! Metrics: Prometheus text over plain HTTP, at a local port.
//!
//! Labels take few values: roles and rcodes, never addresses or names of objects.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::header;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zones::Role;

use crate::listen::Counters;
use crate::losses::Losses;
use crate::pool::sight::is_given_up;
use crate::pool::spread::told_to_owners;
use crate::reconcile::Desk;
use crate::registry::{Registry, Server, View};
use crate::transfer::Transfers;
use crate::transfer::book::{Status, ZoneStatus};

/// Content type of Prometheus' text format.
const TEXT: &str = "text/plain; version=0.0.4";

/// How long a request may go on when the librarian stops.
const GRACE: Duration = Duration::from_secs(1);

/// What metrics are made of.
#[derive(Clone)]
pub struct Metrics {
    /// What is lost of the registry's objects.
    pub losses: Arc<Losses>,
    /// Who takes zones.
    pub transfers: Arc<Transfers>,
    /// Who is waited for, if the registry is reconciled.
    pub reconcile: Arc<Desk>,
    /// Objects and servers.
    pub registry: Registry,
    /// What the listeners count.
    pub counters: Arc<Counters>,
}

/// A socket that is bound but not served yet.
pub struct Listener {
    socket: TcpListener,
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
        Ok(Listener {
            socket: TcpListener::bind(address).await?,
        })
    }

    /// Takes a socket that somebody else bound.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn adopt(socket: std::net::TcpListener) -> io::Result<Listener> {
        Ok(Listener {
            socket: TcpListener::from_std(socket)?,
        })
    }

    /// The same socket once more, to be handed on.
    ///
    /// # Errors
    ///
    /// What the system says, such as that the process may open no more.
    pub fn handle(&self) -> io::Result<std::net::TcpListener> {
        Ok(self.socket.as_fd().try_clone_to_owned()?.into())
    }

    /// The address, with the port that was taken.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until stopped.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub async fn serve(self, metrics: Metrics, stop: CancellationToken) -> io::Result<()> {
        let router = Router::new().route("/metrics", get(text)).with_state(metrics);
        let serving = axum::serve(self.socket, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::select! {
            served = serving.into_future() => served,
            // Who reads slowly does not hold the librarian up.
            () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
        }
    }
}

async fn text(State(metrics): State<Metrics>) -> impl IntoResponse {
    let mut text = metrics.counters.to_prometheus();
    let lost = metrics.losses.by_owner(&metrics.registry).await;
    let view = metrics.registry.view();
    gauges(&view, &mut text);
    copy_gauges(&view, lost.values().sum(), &mut text);
    let waits_for = metrics.reconcile.waits_for(&view);
    drop(view);
    reconcile_gauges(waits_for.map(|servers| servers.len()), &mut text);
    secondary_lines(&metrics.transfers.status(), &mut text);
    ([(header::CONTENT_TYPE, TEXT)], text)
}

/// Secondaries are few and named by the operator, so their names may be labels.
fn secondary_lines(secondaries: &[Status], text: &mut String) {
    type Of = fn(&ZoneStatus) -> Vec<(&'static str, u64)>;
    let families: [(&str, &str, &str, Of); 4] = [
        (
            "librarian_transfers_total",
            "counter",
            "Transfers to secondaries, by kind.",
            |zone| {
                vec![
                    (",kind=\"whole\"", zone.counts.whole),
                    (",kind=\"difference\"", zone.counts.difference),
                    (",kind=\"current\"", zone.counts.current),
                    (",kind=\"failed\"", zone.counts.failed),
                    (",kind=\"refused\"", zone.counts.refused),
                ]
            },
        ),
        (
            "librarian_notifies_total",
            "counter",
            "NOTIFY messages sent to secondaries.",
            |zone| vec![("", zone.counts.notifies)],
        ),
        (
            "librarian_notifies_unheard_total",
            "counter",
            "NOTIFY messages given up without an answer.",
            |zone| vec![("", zone.counts.unheard)],
        ),
        (
            "librarian_secondary_behind",
            "gauge",
            "Serials that a secondary is known to be behind; absent while nothing is known of it.",
            |zone| zone.behind.map(|behind| ("", u64::from(behind))).into_iter().collect(),
        ),
    ];
    for (name, kind, help, of) in families {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to a string");
        for (secondary, zone) in secondaries
            .iter()
            .flat_map(|one| one.zones.iter().map(move |zone| (one, zone)))
        {
            for (label, value) in of(zone) {
                let (secondary, zone) = (&secondary.name, &zone.zone);
                writeln!(
                    text,
                    "{name}{{secondary=\"{secondary}\",zone=\"{zone}\"{label}}} {value}"
                )
                .expect("writing to a string");
            }
        }
    }
}

fn reconcile_gauges(waits_for: Option<usize>, text: &mut String) {
    let lines = [
        (
            "librarian_registry_reconciling",
            "1 while the registry is reconciled and no register changes.",
            u64::from(waits_for.is_some()),
        ),
        (
            "librarian_reconcile_servers_waited_for",
            "Servers that have not reported to the reconcile yet.",
            waits_for.unwrap_or(0) as u64,
        ),
    ];
    plain_gauges(&lines, text);
}

fn copy_gauges(view: &View<'_>, lost_objects: u64, text: &mut String) {
    let part = |server: &&Server| view.is_alive(server) && !server.lost && !is_given_up(server.role());
    let told = || view.servers().filter(part).filter_map(|server| server.has()?.kept);
    let sum = |of: fn(&zones::Kept) -> u64| told().map(|kept| of(&kept)).fold(0u64, u64::saturating_add);
    let lines = [
        (
            "librarian_copies_short",
            "Objects that have fewer copies than they are to have, as servers say that are heard.",
            sum(|kept| kept.short),
        ),
        (
            "librarian_copies_leaving",
            "Objects with a copy on a server that copies are to leave, as servers say that are heard.",
            sum(|kept| kept.leaving),
        ),
        (
            "librarian_servers_lost",
            "Servers that are marked lost.",
            view.servers().filter(|server| server.lost).count() as u64,
        ),
        (
            "librarian_objects_lost",
            "Objects of which nobody has a copy but servers that are marked lost.",
            lost_objects,
        ),
    ];
    plain_gauges(&lines, text);
}

fn plain_gauges(lines: &[(&str, &str, u64)], text: &mut String) {
    for (name, help, value) in lines {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}").expect("writing to a string");
    }
}

fn gauges(view: &View<'_>, text: &mut String) {
    let mut gauge = |name: &str, help: &str, lines: &[(String, u64)]| {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge").expect("writing to a string");
        for (labels, value) in lines {
            writeln!(text, "{name}{labels} {value}").expect("writing to a string");
        }
    };
    gauge(
        "librarian_objects",
        "Objects that are not deleted.",
        &[(String::new(), view.objects() as u64)],
    );
    let number = view.plan().map_or(0, |plan| plan.number);
    gauge(
        "librarian_plan",
        "Number of the current plan.",
        &[(String::new(), number)],
    );
    let roles: Vec<(String, u64)> = Role::ALL
        .iter()
        .map(|(role, name)| {
            let count = view.servers().filter(|server| server.role() == *role).count();
            (format!("{{role=\"{name}\"}}"), count as u64)
        })
        .collect();
    gauge("librarian_servers", "Servers, by role.", &roles);
    let hot = told_to_owners(view);
    gauge(
        "librarian_hot_objects",
        "Objects that are to have more copies for their heat.",
        &[(String::new(), hot.len() as u64)],
    );
    gauge(
        "librarian_hot_copies",
        "Copies that objects are to have for their heat, besides the wanted number.",
        &[(String::new(), hot.values().map(Vec::len).sum::<usize>() as u64)],
    );
    let alive = view.servers().filter(|server| view.is_alive(server)).count() as u64;
    gauge(
        "librarian_servers_alive",
        "Servers whose lease runs.",
        &[(String::new(), alive)],
    );
}
