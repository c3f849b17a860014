//! Servers as answers about objects need them: by their numbers in registers, with names in wire form and costs worked out.
//!
//! Worked out anew when a server said something or was told something, or a lease ends; kept by whoever answers many questions.

use std::net::IpAddr;
use std::time::Instant;

use super::Settings;
use crate::place;
use crate::registry::{Server, View};

/// What answers say of one server.
#[derive(Debug)]
pub(super) struct Face {
    /// Its name in `pool`, in wire form.
    pub(super) name: Vec<u8>,
    /// Whether its lease runs.
    pub(super) lives: bool,
    /// Whether it is marked as lost.
    pub(super) lost: bool,
    pub(super) https_port: u16,
    pub(super) addresses: Vec<IpAddr>,
    /// How gladly it is asked.
    pub(super) worth: f64,
}

/// All servers that registers name.
#[derive(Debug, Default)]
pub(crate) struct Faces {
    /// By number; `None` for a server that is not known or has not said where it is.
    by_number: Vec<Option<Face>>,
    /// What they were made of, and until when they hold.
    made_of: Option<(u64, usize)>,
    until: Option<Instant>,
}

impl Faces {
    /// Makes them fit a view. What costs depend on in the settings must stay the same from call to call.
    pub(crate) fn refresh(&mut self, view: &View<'_>, settings: &Settings) {
        let registers = &view.index().registers;
        let made_of = (view.index().glance().servers_version(), registers.server_count());
        if self.fit(made_of, view.now()) {
            return;
        }
        self.made_of = Some(made_of);
        let alive = view.servers().filter(|server| view.is_alive(server));
        self.until = alive.filter_map(|server| Some(server.seen? + view.lease())).min();
        self.by_number.clear();
        let numbers = 0..u16::try_from(registers.server_count()).expect("servers are numbered by u16");
        self.by_number.extend(numbers.map(|number| {
            let server = view.server(registers.server(number))?;
            face(view, settings, server)
        }));
    }

    /// Whether they are what they would be made anew: from servers that changed so often, of which so many are named.
    pub(crate) fn fit(&self, made_of: (u64, usize), now: Instant) -> bool {
        self.made_of == Some(made_of) && self.until.is_none_or(|until| now < until)
    }

    /// Whether servers changed this often when they were made.
    pub(super) fn are_of(&self, servers_version: u64) -> bool {
        self.made_of.is_some_and(|(version, _)| version == servers_version)
    }

    /// The server of a number.
    pub(super) fn get(&self, number: u16) -> Option<&Face> {
        self.by_number.get(usize::from(number))?.as_ref()
    }
}

fn face(view: &View<'_>, settings: &Settings, server: &Server) -> Option<Face> {
    let host = server.host.as_ref()?;
    let terms = &settings.terms;
    let costs = terms.server(&server.name, &host.has);
    Some(Face {
        name: zones::name::canonical(&view.domain().in_pool(server.name.as_str())),
        lives: view.is_alive(server),
        lost: server.lost,
        https_port: host.https_port,
        addresses: host.addresses.clone(),
        worth: place::Server::ease(&costs, terms.placement.weights()),
    })
}
