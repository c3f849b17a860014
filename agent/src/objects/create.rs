//! Making one object known: the register of a copy that is already on disk (DESIGN.md section 11, creating).
//!
//! Specification: DESIGN.md section 7: an update that was sent is never treated as failed, and a refusal settles nothing.

use std::time::Duration;

use zones::{Epoch, Register};

use crate::clock::BootInstant;
use crate::migration::guard::{Guard, stands};
use crate::register::{Changed, RegisterRead};

/// First pause before an update is sent again.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause before an update is sent again: an unreachable librarian is asked this often for each open object.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long after its sending an update may still land. Its signature holds for 300 s (RFC 8945 section 5.2.3) by the librarian's
/// clock, from a time that this server's clock says, which may be as far ahead; the rest is for clocks that differ in speed.
const LANDS_WITHIN: Duration = Duration::from_secs(2 * zones::tsig::FUDGE_S as u64 + 60);

/// One creation, from the moment on when copy and create-sent are durable in one commit.
///
/// Holds no socket, clock or task: feed it answers and the time, do what [`Create::action`] says.
///
/// ```text
///  Send --done--------------------------------------> Made
///   | `---refused, no reply--> Ask --ours-----------> Made
///   |                           | `---another's-----> Lost
///   |                           |---nothing, refused, and no sending can still land --> Refused
///   `------ Pause <--nothing, or no answer
/// ```
///
/// Invariant: `Lost` and `Refused` are entered only after a register read that was asked after the last sending, and
/// `Refused` only if no sending is left that could still land.
#[derive(Debug)]
pub struct Create {
    new: Register,
    state: State,
    /// A sending got no reply, so it may still land until then.
    open_until: Option<BootInstant>,
    /// The librarian's words at the last refusal.
    why: String,
    pause: Duration,
}

/// What the driver is to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Send the change: nothing there before, this register after. Answer with [`Create::changed`].
    Send(Register),
    /// Read the register. Answer with [`Create::read`] or [`Create::unreachable`].
    Ask,
    /// Wait until this moment, then call [`Create::timeout`].
    Sleep(BootInstant),
    /// It is settled.
    End(Created),
}

/// How a creation ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Created {
    /// The register names this agent.
    Made,
    /// Another object has the address, or an address that differs only by case. The copy here is nothing any more.
    Lost(Register),
    /// The librarian refused, and nothing is under way that could land. The copy here is nothing any more.
    Refused(String),
}

#[derive(Clone, Debug)]
enum State {
    Sending,
    Asking { since: BootInstant },
    Pausing { until: BootInstant },
    Ended(Created),
}

impl Create {
    /// A creation that nothing was sent for yet.
    pub fn new(new: Register) -> Create {
        assert!(new.epoch == Epoch::FIRST, "a new object is at the first epoch");
        Create {
            new,
            state: State::Sending,
            open_until: None,
            why: String::new(),
            pause: PAUSE_FIRST,
        }
    }

    /// A creation found in the journal after a restart: something may have been sent.
    pub fn recover(now: BootInstant, new: Register) -> Create {
        Create {
            open_until: Some(now + LANDS_WITHIN),
            state: State::Asking { since: now },
            ..Create::new(new)
        }
    }

    /// What is to be done now.
    pub fn action(&self) -> Action {
        match &self.state {
            State::Sending => Action::Send(self.new.clone()),
            State::Asking { .. } => Action::Ask,
            State::Pausing { until } => Action::Sleep(*until),
            State::Ended(created) => Action::End(created.clone()),
        }
    }

    /// The change was answered, or its answer is no longer waited for.
    pub fn changed(&mut self, now: BootInstant, changed: Changed) {
        match &self.state {
            State::Sending => {}
            // A late answer of an earlier sending: the register read decides.
            State::Asking { .. } | State::Pausing { .. } | State::Ended(_) => return,
        }
        match changed {
            Changed::Done => self.state = State::Ended(Created::Made),
            Changed::Refused { why, .. } if !stands(Guard::RefusedCreation) => {
                self.state = State::Ended(Created::Refused(why));
            }
            Changed::Refused { why, unanswered, .. } => {
                if unanswered > 0 {
                    self.open_until = Some(now + LANDS_WITHIN);
                }
                self.why = why;
                self.state = State::Asking { since: now };
            }
            Changed::Unknown => {
                self.open_until = Some(now + LANDS_WITHIN);
                self.state = State::Asking { since: now };
            }
        }
    }

    /// The register was read.
    pub fn read(&mut self, now: BootInstant, read: &RegisterRead) {
        let since = match &self.state {
            State::Asking { since } => *since,
            State::Sending | State::Pausing { .. } | State::Ended(_) => return,
        };
        if read.asked_at < since && stands(Guard::OldAnswers) {
            return; // An answer to an older question never counts.
        }
        match &read.register {
            Some(register) if self.is_ours(register) => self.state = State::Ended(Created::Made),
            Some(register) => self.state = State::Ended(Created::Lost(register.clone())),
            None if self.why.is_empty() || self.open_until.is_some_and(|until| now < until) => self.pause(now),
            None => self.state = State::Ended(Created::Refused(std::mem::take(&mut self.why))),
        }
    }

    /// The register could not be read.
    pub fn unreachable(&mut self, now: BootInstant) {
        match &self.state {
            State::Asking { .. } => self.pause(now),
            State::Sending | State::Pausing { .. } | State::Ended(_) => {}
        }
    }

    /// The moment of [`Action::Sleep`] has come; called early, this changes nothing.
    pub fn timeout(&mut self, now: BootInstant) {
        match &self.state {
            State::Pausing { until } if now >= *until => self.state = State::Sending,
            State::Pausing { .. } | State::Sending | State::Asking { .. } | State::Ended(_) => {}
        }
    }

    /// Only this agent makes a register that names it, and it has one creation of an address open at a time; so the
    /// first epoch under its name is this creation, also when a reconcile gave the register a fresh tx.
    fn is_ours(&self, register: &Register) -> bool {
        register.address == self.new.address && register.epoch == Epoch::FIRST && register.owner == self.new.owner
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
    use zones::{Level, State as Doing, Tx};

    use super::*;

    fn at(ms: u64) -> BootInstant {
        BootInstant::since_boot(Duration::from_millis(ms))
    }

    fn register(owner: &str, tx: u8) -> Register {
        let owner: zones::ServerName = owner.parse().unwrap();
        Register {
            address: "1.2".parse().unwrap(),
            epoch: Epoch::FIRST,
            owner: owner.clone(),
            state: Doing::Stable,
            tx: Tx([tx; 16]),
            holders: vec![owner],
            kind: "file".parse().unwrap(),
            schema: 1,
            level: Level(1),
        }
    }

    fn refused(unanswered: u32) -> Changed {
        Changed::Refused {
            rcode: hickory_proto::op::ResponseCode::NXRRSet,
            why: "there is a register".to_owned(),
            unanswered,
        }
    }

    fn read(ms: u64, register: Option<Register>) -> RegisterRead {
        RegisterRead {
            asked_at: at(ms),
            register,
        }
    }

    /// What the librarian does with one sending: applies it or not, and its reply arrives or not.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Applied,
        AppliedNoReply,
        LostOnTheWay,
        /// It arrives only after the next sending or read.
        Late,
        Refused,
    }

    const FATES: [Fate; 5] = [
        Fate::Applied,
        Fate::AppliedNoReply,
        Fate::LostOnTheWay,
        Fate::Late,
        Fate::Refused,
    ];

    /// A librarian of one register.
    struct Librarian {
        register: Option<Register>,
        late: Vec<Register>,
    }

    impl Librarian {
        fn apply(&mut self, new: Register) -> bool {
            let free = self.register.is_none();
            self.register.get_or_insert(new);
            free
        }

        fn deliver_late(&mut self) {
            for new in std::mem::take(&mut self.late) {
                self.apply(new);
            }
        }
    }

    /// Walks every sequence of four fates, with another agent's create before each of them or never.
    #[test]
    fn creation_ends_as_the_register_says_in_every_order_of_events() {
        let mut ends = [0_u32; 3];
        for walk in 0..FATES.len().pow(4) {
            for rival_at in 0..5 {
                let mut create = Create::new(register("s1", 1));
                let mut librarian = Librarian {
                    register: None,
                    late: Vec::new(),
                };
                let mut rest = walk;
                let mut sendings = 0;
                let mut now = 0;
                let end = loop {
                    now += 1;
                    match create.action() {
                        Action::Send(new) => {
                            if sendings == rival_at {
                                librarian.apply(register("s2", 2));
                            }
                            // After four sendings the network is whole.
                            let fate = if sendings < 4 {
                                FATES[rest % FATES.len()]
                            } else {
                                Fate::Applied
                            };
                            rest /= FATES.len();
                            sendings += 1;
                            let answer = match fate {
                                Fate::Applied => match librarian.apply(new) {
                                    true => Changed::Done,
                                    false => refused(0),
                                },
                                Fate::AppliedNoReply => {
                                    librarian.apply(new);
                                    Changed::Unknown
                                }
                                Fate::LostOnTheWay => Changed::Unknown,
                                Fate::Late => {
                                    librarian.late.push(new);
                                    Changed::Unknown
                                }
                                Fate::Refused => refused(0),
                            };
                            create.changed(at(now), answer);
                        }
                        Action::Ask => {
                            let shown = librarian.register.clone();
                            librarian.deliver_late();
                            // An older answer comes first and must not count.
                            create.read(at(now), &read(0, None));
                            assert_eq!(create.action(), Action::Ask);
                            create.read(at(now), &read(now, shown));
                        }
                        Action::Sleep(until) => {
                            let before = create.action();
                            create.timeout(at(now));
                            assert_eq!(create.action(), before, "an early timeout changes nothing");
                            now += (until - at(now)).as_millis() as u64;
                            create.timeout(at(now));
                        }
                        Action::End(end) => break end,
                    }
                };
                librarian.deliver_late();
                let owner = librarian.register.as_ref().map(|register| register.owner.as_str());
                match end {
                    Created::Made => {
                        ends[0] += 1;
                        assert_eq!(owner, Some("s1"));
                    }
                    Created::Lost(_) => {
                        ends[1] += 1;
                        assert_eq!(owner, Some("s2"));
                    }
                    Created::Refused(_) => {
                        ends[2] += 1;
                        assert_ne!(owner, Some("s1"), "a refused creation must never land");
                    }
                }
            }
        }
        assert!(ends.iter().all(|count| *count > 0), "{ends:?}");
    }

    #[test]
    fn refusal_after_an_unanswered_sending_settles_nothing() {
        let mut create = Create::new(register("s1", 1));
        create.changed(at(1), refused(1));
        create.read(at(2), &read(2, None));
        assert!(matches!(create.action(), Action::Sleep(_)));
    }

    /// Without this the server would try for ever to make an object that it may not have, and nobody waits for.
    #[test]
    fn refusal_settles_a_creation_once_no_earlier_sending_can_land() {
        let mut create = Create::recover(at(0), register("s1", 1));
        let mut now = 0;
        while now < 2_000_000 {
            match create.action() {
                Action::Ask => create.read(at(now), &read(now, None)),
                Action::Send(_) => create.changed(at(now), refused(0)),
                Action::Sleep(until) => {
                    now += (until - at(now)).as_millis() as u64;
                    create.timeout(at(now));
                }
                Action::End(end) => {
                    assert_eq!(end, Created::Refused("there is a register".to_owned()));
                    break;
                }
            }
        }
        assert!((660_000..670_000).contains(&now), "{now} ms");
    }

    #[test]
    fn restarted_creation_reads_before_it_sends() {
        let mut create = Create::recover(at(5), register("s1", 1));
        assert_eq!(create.action(), Action::Ask);
        create.read(at(6), &read(6, Some(register("s1", 9))));
        assert_eq!(create.action(), Action::End(Created::Made));
    }

    #[test]
    fn address_that_differs_by_case_is_lost() {
        let mut create = Create::recover(at(5), register("s1", 1));
        let mut other = register("s1", 2);
        other.address = "1.2A".parse().unwrap();
        create.read(at(6), &read(6, Some(other.clone())));
        assert_eq!(create.action(), Action::End(Created::Lost(other)));
    }
}
