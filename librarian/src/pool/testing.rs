//! A pool for tests of the controller: what its registry would keep, and agents that obey and report when they like.

use std::collections::BTreeMap;

use zones::audit::Head;
use zones::{Has, Kept, Role, ServerName, Want};

use super::plan::Plan;
use super::sight::{Seen, Sight};

pub(super) fn name(text: &str) -> ServerName {
    text.parse().expect(text)
}

pub(super) fn has(plan: u64, objects: u64) -> Has {
    Has {
        release: "0.1.0".to_owned(),
        role: Role::Serving,
        objects,
        bytes: objects * 100,
        capacity: 10_000,
        load: 0,
        heat: 0,
        errors: 0,
        unreadable: 0,
        plan,
        commits: 0,
        peer_port: 1,
        quarantined: 0,
        audit: Some(Head::first(&name("s1"))),
        upkeep: None,
        hot: None,
        kept: None,
    }
}

pub(super) fn seen(role: Role, objects: u64) -> Seen {
    Seen {
        want: Want {
            role,
            targets: Vec::new(),
            plan: 0,
            step: 0,
            policy: zones::Policy::default(),
            errand: zones::Errand::default(),
        },
        has: Some(has(0, objects)),
        alive: true,
        lost: false,
        clock_ahead_s: 0,
        named: objects,
        owned: objects,
        held: 0,
        price_percent: 100,
        quiet_for: None,
        lagging: Vec::new(),
        told_for: None,
        emptied_for: None,
        step_for: std::time::Duration::ZERO,
        keep_for: std::time::Duration::ZERO,
        silent_for: None,
    }
}

/// Servers by name, role and objects.
pub(super) fn sight(servers: &[(&str, Role, u64)]) -> Sight {
    Sight {
        plan: None,
        servers: servers
            .iter()
            .map(|(server, role, objects)| (name(server), seen(*role, *objects)))
            .collect::<BTreeMap<_, _>>(),
        ..Sight::default()
    }
}

/// Makes every server say that it knows copies, and holds none.
pub(super) fn knows_copies(sight: &mut Sight) {
    for seen in sight.servers.values_mut() {
        let has = seen.has.as_mut().expect("it has said what it has");
        has.kept.get_or_insert_with(Kept::default);
    }
}

impl Sight {
    /// Does what the registry does with a new plan, its checks included.
    pub(super) fn apply_plan(&mut self, plan: Plan) {
        assert_eq!(
            self.number(),
            plan.parent,
            "a plan is made current by compare-and-swap on its parent"
        );
        self.plan = Some(plan);
    }

    /// Does what the registry does with wants.
    pub(super) fn write(&mut self, server: &ServerName, want: Want) {
        let seen = self.servers.get_mut(server).expect("a known server");
        assert!(
            want.supersedes(&seen.want),
            "wants rise by plan and step: {want:?} after {:?}",
            seen.want
        );
        seen.want = want;
    }

    pub(super) fn report(&mut self, server: &str, plan: u64, objects: u64) {
        self.servers.get_mut(&name(server)).expect("a known server").has = Some(has(plan, objects));
    }

    pub(super) fn role(&self, server: &str) -> Role {
        self.servers[&name(server)].want.role
    }
}
