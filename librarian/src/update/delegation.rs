//! Delegations of parts of the tree to other pools' librarians.

use hickory_proto::rr::{Name, RecordType};
use zones::{Update, Zone};

use super::apex;
use crate::registry::draft::Draft;
use crate::registry::registers::key_of_name;
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
    update.changes.iter().try_for_each(|change| check(draft, change.name()))
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
