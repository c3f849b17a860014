//! Changes of registers.

use std::collections::BTreeMap;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, RecordType};
use zones::{Actor, Change, Domain, Register, Update, Zone, judge};

use super::chain;
use crate::registry::draft::Draft;
use crate::registry::key::{key_of, key_of_name};
use crate::registry::{By, Refused};

/// One object's TXT RRset while the message's changes go over it.
struct Object {
    name: Name,
    old: Option<Register>,
    texts: Vec<TXT>,
}

/// Makes the changes of an update of `obj`. What counts is what each object's RRset is after the last of them.
pub(super) fn apply(draft: &mut Draft<'_>, by: &By, update: &Update) -> Result<(), Refused> {
    let mut objects: BTreeMap<String, Object> = BTreeMap::new();
    for change in &update.changes {
        let key = object_key(draft, change.name())?;
        let object = objects.entry(key).or_insert_with_key(|key| {
            let old = draft.register(key);
            Object {
                name: change.name().clone(),
                texts: old.iter().map(text).collect(),
                old,
            }
        });
        change_texts(&mut object.texts, change)?;
    }
    for (key, object) in objects {
        if let Some(new) = outcome(draft.domain(), &key, &object)? {
            judge_one(draft, by, object.old.as_ref(), &new)?;
            draft.put_register(key, new);
        }
    }
    Ok(())
}

fn object_key(draft: &Draft<'_>, name: &Name) -> Result<String, Refused> {
    if name == draft.domain().zone(Zone::Obj) {
        return Err(Refused::prohibited(
            "the librarian itself makes the records at the apex of this zone",
        ));
    }
    key_of_name(draft.domain(), name).ok_or_else(|| Refused::prohibited(format!("{name} is the name of no address")))
}

fn change_texts(texts: &mut Vec<TXT>, change: &Change) -> Result<(), Refused> {
    let other = || {
        Refused::prohibited(format!(
            "at {} only the TXT record can be changed, the librarian makes the others",
            change.name()
        ))
    };
    match change {
        Change::Add(record) => match &record.data {
            RData::TXT(text) if !texts.contains(text) => texts.push(text.clone()),
            RData::TXT(_) => {}
            _ => return Err(other()),
        },
        Change::DeleteRecord { data, .. } => match data {
            RData::TXT(text) => texts.retain(|kept| kept != text),
            _ => return Err(other()),
        },
        Change::DeleteRrset { kind, .. } if *kind != RecordType::TXT => return Err(other()),
        Change::DeleteRrset { .. } | Change::DeleteName { .. } => texts.clear(),
    }
    Ok(())
}

/// The register after all changes; `None` if it is the one before.
fn outcome(domain: &Domain, key: &str, object: &Object) -> Result<Option<Register>, Refused> {
    let name = &object.name;
    let text = match (&object.texts[..], &object.old) {
        ([], None) => return Ok(None),
        ([], Some(_)) => {
            let why = format!("the register at {name} cannot be removed: add the new text in the same message");
            return Err(Refused::prohibited(why));
        }
        ([same], Some(old)) if *same == self::text(old) => return Ok(None),
        ([text], _) => text,
        ([_, _, ..], _) => {
            let why = format!("{name} has one register: delete the old text in the same message");
            return Err(Refused::prohibited(why));
        }
    };
    let malformed = |why: String| Refused::with(ResponseCode::FormErr, format!("at {name}: {why}"));
    let register = Register::from_strings(&text.txt_data).map_err(|error| malformed(chain(&error)))?;
    domain
        .check(&register.address)
        .map_err(|error| Refused::prohibited(error.to_string()))?;
    if key_of(domain, &register.address).as_deref() != Some(key) {
        return Err(malformed(format!("the register says address={}", register.address)));
    }
    Ok(Some(register))
}

/// Whether one register may follow another.
pub(super) fn judge_one(draft: &Draft<'_>, by: &By, old: Option<&Register>, new: &Register) -> Result<(), Refused> {
    if old.is_none() {
        let tree_name = draft
            .domain()
            .tree_name(&new.address)
            .expect("the address was just checked");
        if draft.is_delegated(&tree_name) {
            let why = format!(
                "{} lies in a part of the tree that is delegated to another pool",
                new.address
            );
            return Err(Refused::prohibited(why));
        }
    }
    let actor = match by {
        By::Agent(server) => Actor::Agent(server),
        By::Admin => Actor::Admin,
    };
    judge(old, new, actor, draft).map_err(|refusal| Refused::prohibited(format!("{}: {refusal}", new.address)))
}

fn text(register: &Register) -> TXT {
    TXT::from_bytes(register.strings().iter().map(String::as_bytes).collect())
}
