//! Whether servers can follow each other: each fits into one that was emptied before it.
//!
//! Let each server that is to be drained be a node with what it needs and the room that it leaves, and each free server a node that needs
//! nothing. Server `b` can follow `a` if `b` needs no more than `a` leaves. All can be drained exactly if the nodes can be put in one
//! ring: cut before the free servers it falls into one chain for each of them, and chains that do not meet can be joined there,
//! since a free server needs nothing.
//!
//! Such a ring exists exactly if two things hold:
//!
//! 1. The k-th largest need is not above the k-th largest room, for every k: otherwise k servers need what fewer than k can leave.
//! 2. Where the k-th largest need is above the next room, the k needs above that gap can only follow the k rooms above it. So needs
//!    and rooms fall into blocks, and each node leads from the block of its need to the block of its room. All blocks must be joined
//!    by nodes: otherwise some servers only ever follow each other, and none of them is first.
//!
//! Within a block any two successors can be exchanged, which joins the rings that they lie on; so these two suffice (it is the free
//! case of Gilmore and Gomory, "Sequencing a one state-variable machine", 1964).

/// A server that is to be drained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Item {
    /// Its place among the hosts.
    pub(super) at: usize,
    /// Octets that must be free where it goes.
    pub(super) need: u64,
    /// Octets that it leaves free.
    pub(super) room: u64,
}

/// Why servers cannot follow each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    /// No server is free.
    NoFree,
    /// This one never fits.
    Item { at: usize, needed: u64 },
}

/// Whether all can be drained one after the other, each into one that is free by then.
pub(super) fn exists(items: &[Item], free: &[u64]) -> Result<(), Stop> {
    if items.is_empty() {
        return Ok(());
    }
    if free.is_empty() {
        return Err(Stop::NoFree);
    }
    // Nodes: the items, then the free servers, which need nothing.
    let need = |node: usize| items.get(node).map_or(0, |item| item.need);
    let room = |node: usize| {
        items
            .get(node)
            .map_or_else(|| free[node - items.len()], |item| item.room)
    };
    let count = items.len() + free.len();
    let mut needs: Vec<usize> = (0..count).collect();
    let mut rooms = needs.clone();
    needs.sort_by_key(|node| std::cmp::Reverse(need(*node)));
    rooms.sort_by_key(|node| std::cmp::Reverse(room(*node)));
    let stop = |node: usize| Stop::Item {
        at: items[node].at,
        needed: items[node].need,
    };
    for (wants, leaves) in needs.iter().zip(&rooms) {
        if need(*wants) > room(*leaves) {
            return Err(stop(*wants));
        }
    }
    // The block of each place in the two orders, and of each node in both of them.
    let (mut of_need, mut of_room) = (vec![0; count], vec![0; count]);
    let mut block = 0;
    for place in 0..count {
        of_need[needs[place]] = block;
        of_room[rooms[place]] = block;
        if place + 1 < count && need(needs[place]) > room(rooms[place + 1]) {
            block += 1;
        }
    }
    let mut joined: Vec<usize> = (0..=block).collect();
    for node in 0..count {
        let (a, b) = (root(&joined, of_need[node]), root(&joined, of_room[node]));
        joined[a] = b;
    }
    let free_block = root(&joined, of_need[items.len()]);
    match needs.iter().find(|node| root(&joined, of_need[**node]) != free_block) {
        // The one of them that needs most.
        Some(node) => Err(stop(*node)),
        None => Ok(()),
    }
}

fn root(joined: &[usize], mut block: usize) -> usize {
    while joined[block] != block {
        block = joined[block];
    }
    block
}

/// Whether each can be drained into a free server and filled again from there.
pub(super) fn each_fits(items: &[Item], free: &[u64]) -> Result<(), Stop> {
    if items.is_empty() {
        return Ok(());
    }
    let most = free.iter().max().ok_or(Stop::NoFree)?;
    let largest = items
        .iter()
        .filter(|item| item.need > *most)
        .max_by_key(|item| item.need);
    match largest {
        Some(item) => Err(Stop::Item {
            at: item.at,
            needed: item.need,
        }),
        None => Ok(()),
    }
}
