//! Delegations of parts of the tree to other pools' librarians.
//!
//! Specifications: RFC 2136 section 3.4, RFC 1034 section 4.2.1 (glue), PROTOCOL.md section 16.

use hickory_proto::rr::{Name, RecordType};
use zones::{Update, Zone};

use super::apex;
use crate::registry::draft::Draft;
use crate::registry::key::key_of_name;
use crate::registry::zone::Node;
use crate::registry::{RecordZone, Refused};

/// Makes the changes of an update of `tree`: NS records at a prefix, and addresses at or below it as glue.
pub(super) fn apply(draft: &mut Draft<'_>, update: &Update) -> Result<(), Refused> {
    for change in &update.changes {
        let name = change.name();
        if name == draft.domain().zone(Zone::Tree) {
            return Err(Refused::prohibited(
                "the librarian itself makes the records at the apex of this zone",
            ));
        }
        match change.kind() {
            Some(RecordType::NS | RecordType::A | RecordType::AAAA) | None => {}
            Some(kind) => {
                return Err(Refused::prohibited(format!(
                    "{name} {kind}: in tree only NS records and their addresses can be changed, registers are changed in obj"
                )));
            }
        }
        let mut node = (*draft.node(RecordZone::Tree, name)).clone();
        apex::change_node(&mut node, change, false)?;
        draft.put_node(RecordZone::Tree, node);
    }
    for change in &update.changes {
        drop_orphans(draft, change.name());
    }
    update.changes.iter().try_for_each(|change| check(draft, change.name()))
}

/// Glue goes with its delegation: it would be answered to nobody, and come back to life with the next one.
fn drop_orphans(draft: &mut Draft<'_>, name: &Name) {
    if draft.is_delegated(name) {
        return;
    }
    for below in draft.names_below(RecordZone::Tree, name) {
        if !draft.is_delegated(&below) {
            draft.put_node(RecordZone::Tree, Node::empty(&below));
        }
    }
}

/// What is left at a name after the whole message must be a delegation, or glue of one.
fn check(draft: &Draft<'_>, name: &Name) -> Result<(), Refused> {
    let node = draft.node(RecordZone::Tree, name);
    if node.sets.is_empty() {
        return Ok(());
    }
    if !draft.is_delegated(name) {
        return Err(Refused::prohibited(format!(
            "{name} is not delegated: add its NS records in the same message"
        )));
    }
    if node.set(RecordType::NS).is_some() {
        let Some(key) = key_of_name(draft.domain(), name) else {
            return Err(Refused::prohibited(format!("{name} is the name of no address prefix")));
        };
        if draft.any_object_under(&key) {
            let why = format!(
                "objects are registered at or below {key}: a part of the tree with objects cannot be delegated"
            );
            return Err(Refused::prohibited(why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Pool;

    #[tokio::test]
    async fn glue_goes_with_its_delegation_and_stays_with_another_one() {
        let pool = Pool::new().await;
        let zone = "tree.hypernet.internal.";
        let lines = [
            "8.tree.hypernet.internal. 60 NS ns.8.tree.hypernet.internal.",
            "ns.8.tree.hypernet.internal. 60 A 192.0.2.1",
            "ns.2.8.tree.hypernet.internal. 60 A 192.0.2.2",
            "2.8.tree.hypernet.internal. 60 NS ns.2.8.tree.hypernet.internal.",
            "88.tree.hypernet.internal. 60 NS ns.88.tree.hypernet.internal.",
            "ns.88.tree.hypernet.internal. 60 A 192.0.2.3",
        ];
        pool.nsupdate(zone, &lines).await.unwrap();
        let kept = || {
            let view = pool.registry.view();
            let names = view.index().tree.iter().map(|node| node.name.to_string());
            names.collect::<Vec<_>>()
        };
        assert_eq!(kept().len(), 6);
        pool.nsupdate(zone, &["- 8.tree.hypernet.internal. NS"]).await.unwrap();
        assert_eq!(
            kept(),
            [
                "2.8.tree.hypernet.internal.",
                "ns.2.8.tree.hypernet.internal.",
                "88.tree.hypernet.internal.",
                "ns.88.tree.hypernet.internal."
            ]
        );
        // One name server of two: the delegation stays, and all its glue.
        let lines = [
            "9.tree.hypernet.internal. 60 NS ns.9.tree.hypernet.internal.",
            "9.tree.hypernet.internal. 60 NS ns.example.",
            "ns.9.tree.hypernet.internal. 60 A 192.0.2.4",
        ];
        pool.nsupdate(zone, &lines).await.unwrap();
        pool.nsupdate(zone, &["- 9.tree.hypernet.internal. NS ns.example."])
            .await
            .unwrap();
        assert_eq!(kept().len(), 6);
        // All of a name, and glue within the same message.
        pool.nsupdate(
            zone,
            &[
                "- 9.tree.hypernet.internal.",
                "ns.88.tree.hypernet.internal. 60 A 192.0.2.5",
            ],
        )
        .await
        .unwrap();
        assert_eq!(kept().len(), 4);
    }
}
