//! Swaps of registers: the usual update, judged without its records.

use hickory_proto::op::{Message, ResponseCode};
use zones::update::Swaps;
use zones::{Update, Zone, read_update};

use super::{objects, permit, stand};
use crate::registry::draft::Draft;
use crate::registry::{By, Received, Refused};

/// Judges swaps on a draft, which has no changes yet, and makes them there. After a refusal it is to be thrown away.
pub(crate) fn apply(draft: &mut Draft<'_>, by: &By, swaps: &Swaps, received: Received) -> Result<(), Refused> {
    if swap(draft, by, swaps) {
        return Ok(());
    }
    // Refused, or it says more than one thing: with which rcode, and why, is decided in one place.
    draft.begin_anew();
    super::apply(draft, by, &general(swaps)?, None, received)
}

/// Makes the swaps as long as each is allowed and changes something: then the general way comes to the same.
fn swap(draft: &mut Draft<'_>, by: &By, swaps: &Swaps) -> bool {
    if stand(draft, by, Zone::Obj).is_err() || permit(by, Zone::Obj).is_err() {
        return false;
    }
    let mut text = Vec::new();
    swaps.iter().all(|(expected, new)| {
        // The parts of its address are its labels, so that this is its key.
        let key = new.address.folded();
        let old = draft.register(key.as_str());
        text.clear();
        if let Some(old) = &old {
            old.write_rdata(&mut text);
        }
        let holds = old.as_ref().map(|_| &text[..]) == expected && old.as_ref() != Some(new);
        // What is there already of this message is another swap of the object, whose prerequisite saw the state before.
        holds
            && objects::judge_one(draft, by, old.as_ref(), new).is_ok()
            && draft.put_register(key.as_str().to_owned(), new.clone()).is_none()
    })
}

/// The same message, read as any other.
fn general(swaps: &Swaps) -> Result<Update, Refused> {
    let message = Message::from_vec(swaps.message());
    let message = message.map_err(|error| Refused::with(ResponseCode::FormErr, error.to_string()))?;
    read_update(&message).map_err(|error| Refused::with(error.response_code(), error.to_string()))
}
