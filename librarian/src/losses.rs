//! How many objects are lost with servers that are marked lost.
//!
//! Every register has to be looked at for it. That is done beside the threads that answer questions, and in pieces, so that none of them and no
//! commit waits for all of it; and once for each state of the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use tokio::sync::Mutex;
use zones::ServerName;

use crate::registry::{Registry, Serials, View};

/// Registers that are looked at under one view.
const PIECE: usize = 50_000;

/// What was counted last.
#[derive(Debug, Default)]
pub struct Losses {
    counted: Mutex<Option<Counted>>,
}

#[derive(Debug)]
struct Counted {
    /// They rise with every change of a register.
    serials: Serials,
    lost: BTreeSet<ServerName>,
    objects: BTreeMap<ServerName, u64>,
}

impl Losses {
    /// Objects, by owner, of which nobody has a copy but servers that are marked lost.
    pub async fn by_owner(&self, registry: &Registry) -> BTreeMap<ServerName, u64> {
        let (serials, lost) = {
            let view = registry.view();
            (view.serials(), lost(&view))
        };
        if lost.is_empty() {
            return BTreeMap::new();
        }
        // One counts at a time; whoever waited finds it counted.
        let mut counted = self.counted.lock().await;
        if let Some(known) = counted
            .as_ref()
            .filter(|known| known.serials == serials && known.lost == lost)
        {
            return known.objects.clone();
        }
        let (registry, such) = (registry.clone(), lost.clone());
        let objects = beside(move || {
            let mut objects: BTreeMap<ServerName, u64> = BTreeMap::new();
            in_pieces(&registry, |view, rows| {
                for (owner, more) in view.objects_held_only_by(rows, |server| such.contains(server)) {
                    *objects.entry(owner).or_default() += more;
                }
            });
            objects
        });
        let objects = objects.await;
        *counted = Some(Counted {
            serials,
            lost,
            objects: objects.clone(),
        });
        objects
    }
}

/// Objects that a server has and nobody else but servers that are marked lost: what is lost with it, if it is marked lost as well.
pub async fn with(registry: &Registry, server: &ServerName) -> u64 {
    let (registry, server) = (registry.clone(), server.clone());
    beside(move || {
        let lost = lost(&registry.view());
        let mut objects = 0;
        in_pieces(&registry, |view, rows| {
            objects += view.objects_lost_with(rows, &server, |other| lost.contains(other));
        });
        objects
    })
    .await
}

/// Servers that are marked lost.
fn lost(view: &View<'_>) -> BTreeSet<ServerName> {
    let lost = view.servers().filter(|server| server.lost);
    lost.map(|server| server.name.clone()).collect()
}

fn in_pieces(registry: &Registry, mut look: impl FnMut(&View<'_>, Range<usize>)) {
    let mut from = 0;
    loop {
        let view = registry.view();
        let to = view.rows().min(from + PIECE);
        look(&view, from..to);
        if to == view.rows() {
            return;
        }
        from = to;
    }
}

async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Proposal, ServerChange};
    use crate::testing::{Pool, server};

    #[tokio::test]
    async fn loss_is_counted_anew_when_registers_or_marks_have_changed() {
        let pool = Pool::new().await;
        pool.create("s1", &["3.1", "3.2"]).await;
        let losses = Losses::default();
        assert!(losses.by_owner(&pool.registry).await.is_empty());
        assert_eq!(with(&pool.registry, &server("s1")).await, 2);
        let mark = |name| {
            let change = ServerChange::Lost {
                name: server(name),
                lost: true,
                decided: None,
            };
            pool.registry.submit(Proposal::Server(change))
        };
        mark("s1").await.unwrap();
        let of = |objects: BTreeMap<ServerName, u64>, name| objects.get(&server(name)).copied();
        assert_eq!(of(losses.by_owner(&pool.registry).await, "s1"), Some(2));
        pool.create("s2", &["3.3"]).await;
        mark("s2").await.unwrap();
        let all = losses.by_owner(&pool.registry).await;
        assert_eq!((of(all.clone(), "s1"), of(all, "s2")), (Some(2), Some(1)));
        pool.create("s3", &["3.4"]).await;
        assert_eq!(of(losses.by_owner(&pool.registry).await, "s3"), None);
    }
}
