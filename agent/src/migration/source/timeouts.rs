//! What follows from time passing.

use super::super::wire::Request;
use super::{Action, Asking, BootInstant, Phase, Reading, Settling, Source, State, Step, Why};

impl Source {
    /// The moment at which [`Source::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootInstant> {
        match &self.state {
            State::Reserving {
                reading,
                reserved,
                resend_at,
                give_up_at,
                ..
            } => {
                let resend_at = (!reserved).then_some(*resend_at);
                earliest([resend_at, reading_at(*reading), Some(*give_up_at)])
            }
            State::Opening { settling, .. } => settling_at(*settling),
            State::Copying { phase, give_up_at, .. } => match phase {
                Phase::Asking { resend_at } => earliest([Some(*resend_at), Some(*give_up_at), None]),
                Phase::Shipping => None,
                Phase::Shipped { ask_at } => earliest([Some(*ask_at), Some(*give_up_at), None]),
                Phase::Pausing { until, .. } => Some(*until),
            },
            State::Closing { budget, .. } => budget.map(|budget| budget.look_at),
            State::Sealed {
                told,
                asking,
                budget,
                resend_at,
                ..
            } => earliest([Some(asking.ask_at), Some(budget.look_at), told.then_some(*resend_at)]),
            State::Aborting { settling, sealed, .. } => {
                let ask_at = sealed.as_ref().map(|asking| asking.ask_at);
                earliest([settling_at(*settling), ask_at, None])
            }
            State::NotingSeal { retry_at, .. }
            | State::NotingStable { retry_at, .. }
            | State::NotingMoved { retry_at, .. }
            | State::NotingDeleted { retry_at, .. }
            | State::NotingForward { retry_at, .. } => *retry_at,
            State::Moved { reading, .. } | State::Recovering { reading, .. } => reading_at(*reading),
            State::NotingMove { .. } | State::Ended => None,
        }
    }

    /// Does what is due. Called early it changes nothing.
    pub fn handle_timeout(&mut self, now: BootInstant) {
        let due = |at: BootInstant| at <= now;
        let resend_after = self.settings.resend_after;
        match &mut self.state {
            State::Reserving {
                reading,
                reserved,
                resend_at,
                give_up_at,
                ..
            } => {
                if due(*give_up_at) {
                    let why = if *reserved { Why::Register } else { Why::Silent };
                    self.cancel(now, why);
                    return;
                }
                let mut read = false;
                if reading_at(*reading).is_some_and(due) {
                    *reading = Reading::Open;
                    read = true;
                }
                let mut resend = false;
                if !*reserved && due(*resend_at) {
                    *resend_at = now + resend_after;
                    resend = true;
                }
                if read {
                    self.read();
                }
                if resend {
                    self.send_reserve();
                }
            }
            State::Opening { settling, old, .. } => match *settling {
                Settling::ReadAt(at) if due(at) => {
                    *settling = Settling::Reading;
                    self.read();
                }
                Settling::ChangeAt(at) if due(at) => {
                    *settling = Settling::Changing;
                    let old = old.clone();
                    let new = self.moving_text(&old);
                    self.change(old, new);
                }
                Settling::Changing | Settling::Reading | Settling::ReadAt(_) | Settling::ChangeAt(_) => {}
            },
            State::Copying { phase, give_up_at, .. } => match phase {
                Phase::Asking { resend_at } => {
                    if due(*give_up_at) {
                        self.cancel(now, Why::Silent);
                    } else if due(*resend_at) {
                        *resend_at = now + resend_after;
                        self.send_open();
                    }
                }
                Phase::Shipping => {}
                Phase::Shipped { ask_at } => {
                    if due(*give_up_at) {
                        self.cancel(now, Why::Silent);
                    } else if due(*ask_at) {
                        *ask_at = now + resend_after;
                        let tx = self.tx;
                        self.send(Request::Ask { tx, ask: 0 });
                    }
                }
                Phase::Pausing { until, staged } => {
                    if due(*until) {
                        let staged = *staged;
                        self.close(staged);
                    }
                }
            },
            State::Closing { budget, .. } => {
                if budget.is_some_and(|budget| due(budget.look_at)) {
                    self.look_at_writers(now);
                }
            }
            State::Sealed {
                told,
                seal,
                asking,
                budget,
                resend_at,
                ..
            } => {
                let ask = due(asking.ask_at).then(|| asking.ask(now));
                let resend = *told && due(*resend_at);
                if resend {
                    *resend_at = now + resend_after;
                }
                let (seal, look) = (*seal, due(budget.look_at));
                if let Some(number) = ask {
                    self.ask(number);
                }
                if resend {
                    self.send_seal(seal);
                }
                if look {
                    self.look_at_writers(now);
                }
            }
            State::Aborting {
                old,
                tx,
                settling,
                sealed,
                ..
            } => {
                let ask = sealed.as_mut().and_then(|asking| {
                    let due = due(asking.ask_at);
                    due.then(|| Asking::ask(asking, now))
                });
                let step = *settling;
                let (old, tx) = (old.clone(), *tx);
                match step {
                    Settling::ReadAt(at) if due(at) => {
                        *settling = Settling::Reading;
                        self.read();
                    }
                    Settling::ChangeAt(at) if due(at) => {
                        *settling = Settling::Changing;
                        let new = self.stable_text(&old, tx);
                        self.change(old, new);
                    }
                    Settling::Changing | Settling::Reading | Settling::ReadAt(_) | Settling::ChangeAt(_) => {}
                }
                if let Some(number) = ask {
                    self.ask(number);
                }
            }
            State::NotingSeal { seal, retry_at, .. } => {
                if retry_at.is_some_and(due) {
                    *retry_at = None;
                    let seal = *seal;
                    self.persist(self.sealed_step(seal));
                }
            }
            State::NotingStable { tx, retry_at, .. } => {
                if retry_at.is_some_and(due) {
                    *retry_at = None;
                    let tx = *tx;
                    self.persist(Step::Active { tx });
                }
            }
            State::NotingMoved {
                owner, epoch, retry_at, ..
            } => {
                if retry_at.is_some_and(due) {
                    *retry_at = None;
                    let (owner, epoch) = (owner.clone(), *epoch);
                    self.persist(Step::Moved { owner, epoch });
                }
            }
            State::NotingDeleted { epoch, tx, retry_at } => {
                if retry_at.is_some_and(due) {
                    *retry_at = None;
                    let (epoch, tx) = (*epoch, *tx);
                    self.persist(Step::Deleted { epoch, tx });
                }
            }
            State::NotingForward { owner, epoch, retry_at } => {
                if retry_at.is_some_and(due) {
                    *retry_at = None;
                    let (owner, epoch) = (owner.clone(), *epoch);
                    self.persist(Step::Forward { owner, epoch });
                }
            }
            State::Moved { reading, .. } | State::Recovering { reading, .. } => {
                if reading_at(*reading).is_some_and(due) {
                    *reading = Reading::Open;
                    self.read();
                }
            }
            State::NotingMove { .. } | State::Ended => {}
        }
    }

    /// Asks both who could know of a commit.
    fn ask(&mut self, number: u32) {
        let tx = self.tx;
        self.send(Request::Ask { tx, ask: number });
        self.actions.push_back(Action::Read {
            question: self.question,
        });
    }
}

fn reading_at(reading: Reading) -> Option<BootInstant> {
    match reading {
        Reading::At(at) => Some(at),
        Reading::Idle | Reading::Open => None,
    }
}

fn settling_at(settling: Settling) -> Option<BootInstant> {
    match settling {
        Settling::ReadAt(at) | Settling::ChangeAt(at) => Some(at),
        Settling::Changing | Settling::Reading => None,
    }
}

fn earliest(times: [Option<BootInstant>; 3]) -> Option<BootInstant> {
    times.into_iter().flatten().min()
}
