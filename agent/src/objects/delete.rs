//! Ending one object: the register of a copy that its owner gives up for ever (DESIGN.md section 11, deleting).
//!
//! Specification: DESIGN.md section 7: an update that was sent is never treated as failed, and a refusal settles nothing.

use std::time::Duration;

use zones::{Epoch, Register, ServerName, State as Doing, Tx};

use crate::clock::BootInstant;
use crate::migration::guard::{Guard, stands};
use crate::register::{Changed, RegisterRead};

/// First pause before the register is asked again.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause before the register is asked again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// One deletion, from the moment on when delete-sent is durable.
///
/// It begins with a read, since the change names the present text: stable, or moving before the seal. A fresh deletion and
/// one found in the journal after a restart are the same.
///
/// ```text
///  Ask --ours, stable or moving--> Send --done--> Deleted
///   |`---deleted by us at e+1--------------------> Deleted
///   |`---another epoch or owner------------------> Superseded
///   |                               `--refused, no reply--> Ask, from the second time on Pause
///   `--older, none, unreachable--> Pause --> Ask
/// ```
///
/// Invariant: an end is entered only on a reply that says done, or on a read that was asked after the last sending.
#[derive(Debug)]
pub struct Delete {
    me: ServerName,
    epoch: Epoch,
    tx: Tx,
    state: State,
    /// Whether it was sent in vain: then it is not sent again at once.
    refused: bool,
    pause: Duration,
}

/// What the driver is to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Read the register. Answer with [`Delete::read`] or [`Delete::unreachable`].
    Ask,
    /// Send the change. Answer with [`Delete::changed`].
    Send {
        /// The register as read.
        old: Box<Register>,
        /// The deleted one.
        new: Box<Register>,
    },
    /// Wait until this moment, then call [`Delete::timeout`].
    Sleep(BootInstant),
    /// It is settled.
    End(Deleted),
}

/// How a deletion ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Deleted {
    /// The object is gone, at this epoch.
    Deleted(Epoch),
    /// This agent was not its owner any more.
    Superseded(Box<Register>),
}

#[derive(Clone, Debug)]
enum State {
    Asking { since: BootInstant },
    Sending { old: Box<Register> },
    Pausing { until: BootInstant },
    Ended(Deleted),
}

impl Delete {
    /// The deletion of an object that `me` owns at `epoch`; `tx` is the one in the journal.
    pub fn new(now: BootInstant, me: ServerName, epoch: Epoch, tx: Tx) -> Delete {
        Delete {
            me,
            epoch,
            tx,
            state: State::Asking { since: now },
            refused: false,
            pause: PAUSE_FIRST,
        }
    }

    /// What is to be done now.
    pub fn action(&self) -> Action {
        match &self.state {
            State::Asking { .. } => Action::Ask,
            State::Sending { old } => Action::Send {
                old: old.clone(),
                new: Box::new(self.deleted(old)),
            },
            State::Pausing { until } => Action::Sleep(*until),
            State::Ended(deleted) => Action::End(deleted.clone()),
        }
    }

    /// The register was read.
    pub fn read(&mut self, now: BootInstant, read: &RegisterRead) {
        let since = match &self.state {
            State::Asking { since } => *since,
            State::Sending { .. } | State::Pausing { .. } | State::Ended(_) => return,
        };
        if read.asked_at < since && stands(Guard::OldAnswers) {
            return; // An answer to an older question never counts.
        }
        let register = match &read.register {
            Some(register) if register.epoch >= self.epoch => register,
            // Below the epoch that this agent knows: an old answer, or a registry that lost something.
            Some(_) | None => return self.pause(now),
        };
        let ours = register.owner == self.me;
        self.state = match &register.state {
            Doing::Stable | Doing::Moving { .. } if ours && register.epoch == self.epoch => State::Sending {
                old: Box::new(register.clone()),
            },
            // Nobody but the owner at e takes e+1 by a deletion.
            Doing::Deleted if ours && register.epoch == self.epoch.next() => {
                State::Ended(Deleted::Deleted(register.epoch))
            }
            Doing::Stable | Doing::Moving { .. } | Doing::Deleted => {
                State::Ended(Deleted::Superseded(Box::new(register.clone())))
            }
        };
    }

    /// The register could not be read.
    pub fn unreachable(&mut self, now: BootInstant) {
        match &self.state {
            State::Asking { .. } => self.pause(now),
            State::Sending { .. } | State::Pausing { .. } | State::Ended(_) => {}
        }
    }

    /// The change was answered, or its answer is no longer waited for.
    pub fn changed(&mut self, now: BootInstant, changed: &Changed) {
        match &self.state {
            State::Sending { .. } => {}
            State::Asking { .. } | State::Pausing { .. } | State::Ended(_) => return,
        }
        self.state = match changed {
            Changed::Done => State::Ended(Deleted::Deleted(self.epoch.next())),
            // Refused for another reason than the text that it names, such as a server that is marked lost: not time and again.
            Changed::Refused { .. } | Changed::Unknown if self.refused => return self.pause(now),
            Changed::Refused { .. } | Changed::Unknown => State::Asking { since: now },
        };
        self.refused = true;
    }

    /// The moment of [`Action::Sleep`] has come; called early, this changes nothing.
    pub fn timeout(&mut self, now: BootInstant) {
        match &self.state {
            State::Pausing { until } if now >= *until => self.state = State::Asking { since: now },
            State::Pausing { .. } | State::Sending { .. } | State::Asking { .. } | State::Ended(_) => {}
        }
    }

    fn deleted(&self, old: &Register) -> Register {
        Register {
            epoch: self.epoch.next(),
            state: Doing::Deleted,
            tx: self.tx,
            holders: Vec::new(),
            ..old.clone()
        }
    }

    fn pause(&mut self, now: BootInstant) {
        self.state = State::Pausing {
            until: now + self.pause,
        };
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use zones::Level;

    use super::*;

    fn at(ms: u64) -> BootInstant {
        BootInstant::since_boot(Duration::from_millis(ms))
    }

    fn server(name: &str) -> ServerName {
        name.parse().unwrap()
    }

    fn register(epoch: u64, tx: u8) -> Register {
        Register {
            address: "1.2".parse().unwrap(),
            epoch: Epoch(epoch),
            owner: server("s1"),
            state: Doing::Stable,
            tx: Tx([tx; 16]),
            holders: vec![server("s1")],
            kind: "file".parse().unwrap(),
            schema: 1,
            level: Level(1),
        }
    }

    fn read(ms: u64, register: Register) -> RegisterRead {
        RegisterRead {
            asked_at: at(ms),
            register: Some(register),
        }
    }

    fn refused() -> Changed {
        Changed::Refused {
            rcode: hickory_proto::op::ResponseCode::NXRRSet,
            why: "the register is another one".to_owned(),
            unanswered: 0,
        }
    }

    /// Every sequence of four fates of a sending (applied or not, answered or not, applied late), with the move of the
    /// object set open before any of them.
    #[test]
    fn deletion_ends_only_when_the_register_says_so_in_every_order_of_events() {
        const FATES: usize = 5;
        for walk in 0..FATES.pow(4) {
            for moving_at in 0..5 {
                let mut librarian = register(7, 1);
                let mut late: Vec<(Register, Register)> = Vec::new();
                let mut delete = Delete::new(at(0), server("s1"), Epoch(7), Tx([9; 16]));
                let (mut rest, mut sendings, mut now) = (walk, 0, 0);
                let end = loop {
                    now += 1;
                    match delete.action() {
                        Action::Ask => {
                            let shown = librarian.clone();
                            for (old, new) in late.drain(..) {
                                if librarian == old {
                                    librarian = new;
                                }
                            }
                            delete.read(at(now), &read(now, shown));
                        }
                        Action::Send { old, new } => {
                            if sendings == moving_at && librarian.state == Doing::Stable {
                                librarian.state = Doing::Moving { to: server("s2") };
                                librarian.tx = Tx([2; 16]);
                            }
                            let fate = if sendings < 4 { rest % FATES } else { 0 };
                            rest /= FATES;
                            sendings += 1;
                            let applies = librarian == *old;
                            let answer = match fate {
                                0 | 1 if applies => {
                                    librarian = *new;
                                    if fate == 0 { Changed::Done } else { Changed::Unknown }
                                }
                                0 | 3 => refused(),
                                2 => {
                                    late.push((*old, *new));
                                    Changed::Unknown
                                }
                                _ => Changed::Unknown,
                            };
                            delete.changed(at(now), &answer);
                        }
                        Action::Sleep(until) => {
                            now += (until - at(now)).as_millis() as u64;
                            delete.timeout(at(now));
                        }
                        Action::End(end) => break end,
                    }
                };
                assert_eq!(end, Deleted::Deleted(Epoch(8)));
                assert_eq!(librarian.state, Doing::Deleted);
                assert_eq!(librarian.epoch, Epoch(8));
            }
        }
    }

    #[test]
    fn register_of_a_later_owner_supersedes_the_deletion() {
        let mut delete = Delete::new(at(0), server("s1"), Epoch(7), Tx([9; 16]));
        let mut later = register(8, 3);
        later.owner = server("s2");
        later.holders = vec![server("s2")];
        delete.read(at(1), &read(1, later.clone()));
        assert_eq!(delete.action(), Action::End(Deleted::Superseded(Box::new(later))));
    }

    #[test]
    fn register_below_the_known_epoch_never_counts() {
        let mut delete = Delete::new(at(0), server("s1"), Epoch(7), Tx([9; 16]));
        delete.read(at(1), &read(1, register(6, 3)));
        assert!(matches!(delete.action(), Action::Sleep(_)));
    }

    #[test]
    fn deletion_that_is_refused_again_is_not_sent_again_at_once() {
        let mut deletion = Delete::new(at(0), server("s1"), Epoch(1), Tx([9; 16]));
        for waits in [false, true] {
            deletion.read(at(1), &read(1, register(1, 1)));
            assert!(matches!(deletion.action(), Action::Send { .. }));
            deletion.changed(at(1), &refused());
            assert_eq!(matches!(deletion.action(), Action::Sleep(_)), waits);
        }
    }
}
