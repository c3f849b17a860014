//! Swaps of registers: the usual update, judged without its records.

use hickory_proto::op::{Message, ResponseCode};
use zones::update::Swaps;
use zones::{Address, Register, Update, Zone, read_update};

use super::{objects, permit, stand};
use crate::registry::draft::Draft;
use crate::registry::registers::TOGETHER;
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

/// Makes the swaps as long as each is allowed: then the general way comes to the same. One that changes nothing is not allowed here.
fn swap(draft: &mut Draft<'_>, by: &By, swaps: &Swaps) -> bool {
    if stand(draft, by, Zone::Obj).is_err() || permit(by, Zone::Obj).is_err() {
        return false;
    }
    let swaps: Vec<_> = swaps.iter().collect();
    swaps.chunks(TOGETHER).all(|swaps| {
        // The parts of an address are its labels here, so that this is its key.
        let keys: Vec<Address> = swaps.iter().map(|(_, new)| new.address.folded()).collect();
        draft.approach(keys.iter().map(Address::as_str));
        let mut swaps = swaps.iter().zip(keys);
        swaps.all(|((expected, new), key)| swap_one(draft, by, *expected, new, key.as_str()))
    })
}

fn swap_one(draft: &mut Draft<'_>, by: &By, expected: Option<&[u8]>, new: &Register, key: &str) -> bool {
    let old = draft.register(key);
    let text = old.as_ref().map(Register::rdata);
    // What is there already of this message is another swap of the object, whose prerequisite saw the state before.
    text.as_deref() == expected
        && objects::judge_one(draft, by, old.as_ref(), new).is_ok()
        && draft.put_register(key.to_owned(), new.clone()).is_none()
}

/// The same message, read as any other.
fn general(swaps: &Swaps) -> Result<Update, Refused> {
    let message = Message::from_vec(swaps.message());
    let message = message.map_err(|error| Refused::with(ResponseCode::FormErr, error.to_string()))?;
    read_update(&message).map_err(|error| Refused::with(error.response_code(), error.to_string()))
}
