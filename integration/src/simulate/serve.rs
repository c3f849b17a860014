//! Requests at an agent, as the world carries them on.

use std::sync::Arc;

use agent::copies::WAIT;
use agent::objects::create::{self, Create};
use agent::objects::delete::{self, Delete};
use agent::objects::steps::{self, Asked, Step};
use agent::objects::{AskedTurn, Condition, Confirmation, Local, Look, Miss, Prepared, Turn, WriteError};
use agent::register::RegisterRead;
use agent::store::{Change, CommitError, Entry, ReadError, StreamError, StreamSpec};
use agent::vault::Part;
use bytes::Bytes;
use zones::{Address, RegisterChange, Tx};

use super::clock::{MS, S, Time};
use super::desk::{Call, Changed, Reply, ReplyTo, Request, Stage, Then, Verb};
use super::dice;
use super::faults::{Fate, Site};
use super::line::{Heard, Waits, What};
use super::linear::Object;
use super::network::Network;
use super::releases;
use super::script::{body_octets, object_of};
use super::world::{Event, QUEUE_WAIT, Work, World};

/// Most times that a request is handed on.
const HOPS_MAX: u8 = 2;

/// The octets of one write's body.
pub(super) fn body(write: u64, octets: usize) -> Bytes {
    let mut body = vec![0; octets];
    for (at, piece) in body.chunks_mut(8).enumerate() {
        let word = dice(write, at as u64, 9).to_le_bytes();
        piece.copy_from_slice(&word[..piece.len()]);
    }
    Bytes::from(body)
}

impl World {
    pub(super) fn new_request(&mut self, agent: usize) -> u64 {
        let line = &mut self.machines[agent].process.line;
        line.next += 1;
        line.next
    }

    /// A request, or one that is handed on, arrives.
    pub(super) fn call(&mut self, agent: usize, call: Call) {
        let from = call.via.map_or(self.machines.len() + 1, |via| via + 1);
        if !self.machines[agent].started || !self.network.passes(from, agent + 1, self.now) {
            // Nobody answers; who asked notices by itself.
            return;
        }
        if let Some(via) = call.via {
            let server = self.machines[via].name.clone();
            if !self.machines[agent].process.local.came_from(&call.address, &server) {
                return self.send_reply(agent, call.reply_to, Reply::Misdirected);
            }
        }
        self.note(|| {
            format!(
                "s{} is asked: {:?} {} hops {}",
                agent + 1,
                call.verb,
                call.address,
                call.hops
            )
        });
        let prepared = match call.verb {
            Verb::Put(write) => match self.prepare(agent, &call, write) {
                Ok(prepared) => Some(prepared),
                Err(reply) => return self.send_reply(agent, call.reply_to, reply),
            },
            Verb::Read | Verb::Delete => None,
        };
        let stage = match call.verb {
            Verb::Read => Stage::Looking,
            Verb::Put(_) | Verb::Delete => Stage::AskTurn,
        };
        let id = self.new_request(agent);
        let until = self.now + QUEUE_WAIT;
        let request = Request {
            call,
            waited_for: true,
            until,
            prepared,
            stage,
        };
        let life = self.machines[agent].life;
        self.machines[agent].process.requests.insert(id, request);
        self.push(until, Event::RequestTimer(agent, life, id));
        self.settle(agent);
    }

    fn prepare(&mut self, agent: usize, call: &Call, write: u64) -> Result<Prepared, Reply> {
        let local = &self.machines[agent].process.local;
        let object = object_of(&call.address);
        let spec = |part, octets: usize| StreamSpec {
            address: call.address.clone(),
            part,
            level: local.level_of(&call.address),
            octets_hint: Some(octets as u64),
            reservation: None,
        };
        let properties = Bytes::from(releases::properties(object, write));
        let octets_of_properties = properties.clone();
        let octets = body_octets(object);
        let staged = (|| {
            let small = vec![(spec(Part::Properties, properties.len()), properties.clone())];
            let properties = local.store().write_small(small)?.pop();
            let body = match octets {
                0 => None,
                octets => {
                    let mut writer = local.store().writer(spec(Part::Body, octets))?;
                    writer.write(&body(write, octets))?;
                    Some(writer.finish()?)
                }
            };
            Ok::<_, StreamError>((properties, body))
        })();
        let (properties, body) = staged.map_err(|_| Reply::Unavailable("no room"))?;
        let digest = |staged: &Option<agent::store::StagedStream>| staged.as_ref().map(|staged| staged.digest().0);
        let fields = [digest(&properties), digest(&body)];
        let request_hash = local.request_hash(
            "put",
            &[fields[0].as_ref().map(|d| &d[..]), fields[1].as_ref().map(|d| &d[..])],
        );
        Ok(Prepared {
            octets: Some(octets_of_properties),
            client: format!("client{}", call.client),
            write_id: Some(call.write_id),
            request_hash,
            condition: Condition::Any,
            kind: None,
            // Clients of the first release.
            schema: Some(1),
            properties,
            body,
        })
    }

    /// Takes every request of an agent as far as it goes now.
    pub(super) fn poll_requests(&mut self, agent: usize) -> bool {
        let ids: Vec<u64> = self.machines[agent].process.requests.keys().copied().collect();
        let mut busy = false;
        for id in ids {
            while self.poll_request(agent, id) {
                busy = true;
            }
        }
        busy
    }

    /// One step of a request; false if it waits.
    fn poll_request(&mut self, agent: usize, id: u64) -> bool {
        let (now, boot) = (self.now, self.machines[agent].clocks.boot(self.now));
        let local = Arc::clone(&self.machines[agent].process.local);
        let Some(request) = self.machines[agent].process.requests.get_mut(&id) else {
            return false;
        };
        let address = request.call.address.clone();
        let stage = std::mem::replace(&mut request.stage, Stage::Over);
        match stage {
            Stage::Over => {
                self.machines[agent].process.requests.remove(&id);
                local.tidy(&address);
                false
            }
            Stage::Looking => match local.look(&address, || boot) {
                Look::Shown(entry) => {
                    let reply = show(&local, &entry);
                    if reply == Reply::Damaged && !self.check.is_rotten(agent, &entry) {
                        let why = format!("I5: {address} is damaged at s{}, and nothing damaged it", agent + 1);
                        self.fail(why);
                        return false;
                    }
                    let name = self.machines[agent].name.clone();
                    if let (Reply::Seen(_), Err(why)) = (&reply, self.holders_have(&name, &entry, entry.revision)) {
                        self.fail(why);
                        return false;
                    }
                    if entry.journal.is_held() {
                        *self.steps.entry("read at a holder").or_default() += 1;
                    }
                    self.end_request(agent, id, reply)
                }
                Look::Missed(miss) => self.missed(agent, id, miss),
                Look::Wait(changed) => {
                    request.stage = Stage::Waiting(changed.into());
                    true
                }
                Look::Unknown => {
                    request.stage = Stage::AskedForRead;
                    self.ask_register(agent, id);
                    true
                }
            },
            Stage::Waiting(mut changed) => {
                let has_come = changed.has_come();
                request.stage = match has_come {
                    true => Stage::Looking,
                    false => Stage::Waiting(changed),
                };
                has_come
            }
            Stage::Arriving => match local.look(&address, || boot) {
                Look::Unknown => {
                    request.stage = Stage::Arriving;
                    false
                }
                Look::Shown(_) | Look::Missed(_) | Look::Wait(_) => {
                    request.stage = Stage::Looking;
                    true
                }
            },
            Stage::AskTurn => match local.ask_turn(&address, boot) {
                AskedTurn::Taken(turn) => self.has_turn(agent, id, turn, None),
                AskedTurn::InLine(receiver) => {
                    request.stage = Stage::InLine(receiver);
                    true
                }
                AskedTurn::Full => self.end_request(agent, id, Reply::Unavailable("too many writes wait")),
            },
            Stage::InLine(mut receiver) => match receiver.try_recv() {
                Ok(turn) => self.has_turn(agent, id, turn, None),
                Err(_) => {
                    request.stage = Stage::InLine(receiver);
                    false
                }
            },
            Stage::Permitting {
                turn,
                mut changed,
                mut resumes,
                until,
            } => {
                if resumes && !changed.has_come() || !resumes && now < until && !changed.has_come() {
                    request.stage = Stage::Permitting {
                        turn,
                        changed,
                        resumes,
                        until,
                    };
                    return false;
                }
                resumes = true;
                match turn.resume_now() {
                    Err(changed) => {
                        request.stage = Stage::Permitting {
                            turn,
                            changed: changed.into(),
                            resumes,
                            until,
                        };
                        true
                    }
                    Ok(()) => self.has_turn(agent, id, turn, Some(until)),
                }
            }
            Stage::Confirming {
                turn,
                entry,
                revision,
                copies,
                changed,
            } => self.confirm(agent, id, (turn, entry), revision, (copies, changed)),
            Stage::Quieting {
                turn,
                entry,
                change,
                reply,
                until,
            } => {
                if boot < until {
                    request.stage = Stage::Quieting {
                        turn,
                        entry,
                        change,
                        reply,
                        until,
                    };
                    return false;
                }
                self.commit(agent, id, turn, *change, Then::Ended(reply, entry))
            }
            Stage::Creating {
                turn,
                entry,
                mut machine,
                waits,
            } => {
                if waits {
                    if let create::Action::Sleep(until) = machine.action()
                        && until <= boot
                    {
                        machine.timeout(boot);
                        request.stage = Stage::Creating {
                            turn,
                            entry,
                            machine,
                            waits: false,
                        };
                        return true;
                    }
                    request.stage = Stage::Creating {
                        turn,
                        entry,
                        machine,
                        waits,
                    };
                    return false;
                }
                let action = machine.action();
                if let create::Action::End(created) = action {
                    let (change, told) = steps::created(&entry, created);
                    let is_awaited = !request.call.is_of_restart();
                    let then = match told {
                        Ok(written) if is_awaited => Then::Made(written.revision),
                        Ok(written) => Then::Tell(Reply::Written(written.revision)),
                        Err(error) => Then::Tell(write_error(error)),
                    };
                    return self.commit(agent, id, turn, change, then);
                }
                request.stage = Stage::Creating {
                    turn,
                    entry,
                    machine,
                    waits: true,
                };
                match action {
                    create::Action::Send(new) => {
                        let change = RegisterChange { old: None, new };
                        self.want_change(agent, change, Waits::Request(id));
                    }
                    create::Action::Ask => self.ask_register(agent, id),
                    create::Action::Sleep(until) => self.wake_request(agent, id, until),
                    create::Action::End(_) => unreachable!("taken above"),
                }
                true
            }
            Stage::Deleting {
                turn,
                entry,
                tx,
                mut machine,
                waits,
            } => {
                if waits {
                    let due = matches!(machine.action(), delete::Action::Sleep(until) if until <= boot);
                    if due {
                        machine.timeout(boot);
                    }
                    request.stage = Stage::Deleting {
                        turn,
                        entry,
                        tx,
                        machine,
                        waits: !due,
                    };
                    return due;
                }
                let action = machine.action();
                if let delete::Action::End(deleted) = action {
                    let (change, told) = steps::deleted(&entry, tx, deleted);
                    let reply = told.map_or_else(write_error, |_| Reply::Deleted);
                    if !entry.is_shared() {
                        return self.commit(agent, id, turn, change, Then::Tell(reply));
                    }
                    // After a restart nobody knows who was granted reads.
                    let until = local.quiet_at(&address).unwrap_or(boot + WAIT);
                    request.stage = Stage::Quieting {
                        turn,
                        entry,
                        change: Box::new(change),
                        reply,
                        until,
                    };
                    self.wake_request(agent, id, until);
                    return true;
                }
                request.stage = Stage::Deleting {
                    turn,
                    entry,
                    tx,
                    machine,
                    waits: true,
                };
                match action {
                    delete::Action::Ask => self.ask_register(agent, id),
                    delete::Action::Send { old, new } => {
                        let change = RegisterChange {
                            old: Some(*old),
                            new: *new,
                        };
                        self.want_change(agent, change, Waits::Request(id));
                    }
                    delete::Action::Sleep(until) => self.wake_request(agent, id, until),
                    delete::Action::End(_) => unreachable!("taken above"),
                }
                true
            }
            waiting @ (Stage::AskedForRead
            | Stage::AskedForMake(_)
            | Stage::AskedForDelete(..)
            | Stage::Committing { .. }
            | Stage::HandedOn
            | Stage::AskedForOwner) => {
                request.stage = waiting;
                let _ = now;
                false
            }
        }
    }

    fn wake_request(&mut self, agent: usize, id: u64, until: agent::clock::BootInstant) {
        let machine = &self.machines[agent];
        let (at, life) = (machine.clocks.when(until), machine.life);
        self.push(at, Event::RequestTimer(agent, life, id));
    }

    fn ask_register(&mut self, agent: usize, id: u64) {
        let Some(request) = self.machines[agent].process.requests.get(&id) else {
            return;
        };
        let address = request.call.address.clone();
        let waits = Waits::Request(id);
        self.line_send(
            agent,
            What::Read {
                address,
                waits,
                tries: 0,
            },
        );
    }

    /// The turn is this request's; `until` says how long it waits for permission, if it does already.
    fn has_turn(&mut self, agent: usize, id: u64, turn: Turn, until: Option<Time>) -> bool {
        let (now, boot) = (self.now, self.machines[agent].clocks.boot(self.now));
        let unix_ms = self.machines[agent].clocks.unix_ms(self.now);
        let tx = self.fresh_tx(agent);
        let local = Arc::clone(&self.machines[agent].process.local);
        let Some(request) = self.machines[agent].process.requests.get_mut(&id) else {
            return false;
        };
        if !turn.is_open() {
            // It has just arrived; its gate will say when.
            drop(turn);
            request.stage = Stage::AskTurn;
            let life = self.machines[agent].life;
            self.push(self.now + 2 * MS, Event::RequestTimer(agent, life, id));
            return false;
        }
        let address = request.call.address.clone();
        let owned = turn.current().filter(|entry| agent::objects::owns(entry));
        if let Some(entry) = owned
            && let Err(changed) = local.may_write(&entry, boot)
        {
            if until.is_some_and(|until| now >= until) {
                return self.end_request(agent, id, Reply::Unavailable("another holder does not answer"));
            }
            turn.rest();
            let until = until.unwrap_or(now + QUEUE_WAIT);
            request.stage = Stage::Permitting {
                turn,
                changed: changed.into(),
                resumes: false,
                until,
            };
            let life = self.machines[agent].life;
            self.push(until, Event::RequestTimer(agent, life, id));
            return true;
        }
        match (request.call.verb, turn.current()) {
            (Verb::Put(_), None) => {
                request.stage = Stage::AskedForMake(turn);
                self.ask_register(agent, id);
                true
            }
            (Verb::Put(_), Some(entry)) => {
                let prepared = request.prepared.take().expect("a write is prepared");
                let fitted = match local.fits(Some(&entry), &prepared) {
                    true => Ok(prepared),
                    false => local.fit(&address, Some(&entry), prepared),
                };
                let prepared = match fitted {
                    Ok(prepared) => prepared,
                    Err(error) => return self.unwritten(agent, id, error),
                };
                match steps::write(&entry, prepared, unix_ms) {
                    Ok(Step::Known(written)) => {
                        turn.rest();
                        request.stage = Stage::Confirming {
                            turn,
                            entry,
                            revision: written.revision,
                            copies: written.created,
                            changed: None,
                        };
                        true
                    }
                    Ok(Step::Row(new)) => {
                        let change = Change::Replace {
                            seq: entry.seq,
                            entry: *new,
                        };
                        self.commit(agent, id, turn, change, Then::Acknowledge)
                    }
                    // Who deleted it knows under which write ids it was changed.
                    Err(WriteError::Deleted) => {
                        request.stage = Stage::AskedForDelete(turn, true);
                        self.ask_register(agent, id);
                        true
                    }
                    Err(error) => self.unwritten(agent, id, error),
                }
            }
            (Verb::Delete | Verb::Read, None) => {
                request.stage = Stage::AskedForDelete(turn, false);
                self.ask_register(agent, id);
                true
            }
            (Verb::Delete | Verb::Read, Some(entry)) => {
                let request_hash = local.request_hash("delete", &[]);
                let delete = agent::objects::Delete {
                    client: format!("client{}", request.call.client),
                    write_id: Some(request.call.write_id),
                    condition: Condition::Any,
                };
                match steps::delete(&entry, &delete, request_hash, tx, unix_ms) {
                    Ok(Step::Known(_)) => self.end_request(agent, id, Reply::Deleted),
                    Ok(Step::Row(new)) => {
                        let change = Change::Replace {
                            seq: entry.seq,
                            entry: *new,
                        };
                        self.commit(agent, id, turn, change, Then::Delete(tx))
                    }
                    // Who deleted it knows under which write ids it was changed.
                    Err(WriteError::Deleted) => {
                        request.stage = Stage::AskedForDelete(turn, true);
                        self.ask_register(agent, id);
                        true
                    }
                    Err(error) => self.unwritten(agent, id, error),
                }
            }
        }
    }

    fn fresh_tx(&mut self, agent: usize) -> Tx {
        let seed = agent::transfer::engine::Outside::seed(self.machines[agent].process.engine.outside());
        let mut tx = [0; 16];
        tx.copy_from_slice(&seed[..16]);
        Tx(tx)
    }

    fn commit(&mut self, agent: usize, id: u64, turn: Turn, change: Change, then: Then) -> bool {
        if let Some(request) = self.machines[agent].process.requests.get_mut(&id) {
            request.stage = Stage::Committing {
                turn,
                change: Box::new(change),
                then,
            };
            self.submit(agent, Work::Request(id));
        }
        true
    }

    /// The disk comes to a request's row. `lost` if the power is gone.
    pub(super) fn commit_of_request(&mut self, agent: usize, id: u64, lost: bool) {
        let local = Arc::clone(&self.machines[agent].process.local);
        let boot = self.machines[agent].clocks.boot(self.now);
        let me = self.machines[agent].name.clone();
        let Some(request) = self.machines[agent].process.requests.get_mut(&id) else {
            return;
        };
        let address = request.call.address.clone();
        let Stage::Committing { turn, change, then } = std::mem::replace(&mut request.stage, Stage::Over) else {
            return;
        };
        let outcome = local.commit_now(vec![(address.clone(), (*change).clone())]);
        if let Ok(entries) = &outcome
            && let Then::Acknowledge = &then
            && let Some(entry) = entries.first()
            && !lost
            // What other servers hold, too, counts when it is acknowledged.
            && !entry.is_shared()
            && let Err(why) = self.check.write_applied(&me, entry)
        {
            self.fail(why);
            return;
        }
        let Some(request) = self.machines[agent].process.requests.get_mut(&id) else {
            return;
        };
        match (outcome, then) {
            (Ok(entries), Then::Acknowledge) => {
                let entry = entries.into_iter().next().expect("a replacement gives one entry");
                turn.rest();
                request.stage = Stage::Confirming {
                    turn,
                    revision: entry.revision,
                    entry,
                    copies: false,
                    changed: None,
                };
            }
            (Ok(entries), Then::Made(revision)) => {
                let entry = entries.into_iter().next().expect("a replacement gives one entry");
                turn.rest();
                request.stage = Stage::Confirming {
                    turn,
                    entry,
                    revision,
                    copies: true,
                    changed: None,
                };
            }
            (Ok(_), Then::Ended(reply, entry)) => {
                local.released(&entry);
                self.end_request(agent, id, reply);
            }
            (Ok(entries), Then::Create(tx)) => {
                let entry = entries.into_iter().next().expect("an insertion gives one entry");
                request.stage = Stage::Creating {
                    machine: Box::new(Create::new(steps::register_of(&me, &entry, tx))),
                    turn,
                    entry,
                    waits: false,
                };
            }
            (Ok(entries), Then::Delete(tx)) => {
                let entry = entries.into_iter().next().expect("a replacement gives one entry");
                turn.cancel_move();
                request.stage = Stage::Deleting {
                    machine: Box::new(Delete::new(boot, me, entry.epoch, tx)),
                    turn,
                    entry,
                    tx,
                    waits: false,
                };
            }
            (Ok(_), Then::Tell(reply)) => {
                self.end_request(agent, id, reply);
            }
            // The register stands, so the row is written again.
            (Err(error), then @ (Then::Tell(_) | Then::Made(_) | Then::Ended(..))) => {
                request.stage = Stage::Committing { turn, change, then };
                let life = self.machines[agent].life;
                let again = Event::Disk {
                    agent,
                    life,
                    work: Work::Request(id),
                    fate: Fate::Pass,
                };
                self.push(self.now + S, again);
                self.restart_after(agent, &error);
            }
            (Err(error), Then::Acknowledge | Then::Create(_) | Then::Delete(_)) => {
                self.end_request(agent, id, Reply::Unavailable("the disk refuses"));
                self.restart_after(agent, &error);
            }
        }
    }

    fn restart_after(&mut self, agent: usize, error: &CommitError) {
        if let CommitError::Failed(_) = error {
            let life = self.machines[agent].life;
            self.push(self.now + S, Event::Crash(agent, life));
        }
    }

    /// An agent is told something else of copies: writes that wait for some look again.
    pub(super) fn look_at_copies_again(&mut self, agent: usize) {
        for request in self.machines[agent].process.requests.values_mut() {
            if let Stage::Confirming { changed, .. } = &mut request.stage {
                *changed = None;
            }
        }
    }

    /// A write is durable: it is acknowledged when every in-sync holder has it.
    fn confirm(
        &mut self,
        agent: usize,
        id: u64,
        (turn, entry): (Turn, Arc<Entry>),
        revision: u64,
        (copies, mut changed): (bool, Option<Changed>),
    ) -> bool {
        let boot = self.machines[agent].clocks.boot(self.now);
        let machine = &mut self.machines[agent];
        let local = Arc::clone(&machine.process.local);
        let address = entry.address.clone();
        let mut wait = match changed.as_mut().is_some_and(|changed| !changed.has_come()) {
            true => changed,
            false => None,
        };
        let news = wait.is_none();
        if news {
            let lacking = match copies {
                true => local
                    .has_copies(&address, entry.epoch, &machine.process.keep(), &machine.name)
                    .err(),
                false => None,
            };
            let confirmation = match lacking {
                Some(lacking) => {
                    local.ask_for(&address);
                    Confirmation::Wait(lacking)
                }
                None => local.confirmation(&address, entry.epoch, revision, boot),
            };
            match confirmation {
                Confirmation::Given => {
                    if let Err(why) = self.may_acknowledge(agent, &entry, revision, copies) {
                        self.fail(why);
                        return false;
                    }
                    drop(turn);
                    return self.end_request(agent, id, Reply::Written(revision));
                }
                Confirmation::Wait(changed) => wait = Some(changed.into()),
                Confirmation::Lost => {
                    drop(turn);
                    let reply = Reply::Unavailable("another server has taken the object over");
                    return self.end_request(agent, id, reply);
                }
            }
        }
        if let Some(request) = self.machines[agent].process.requests.get_mut(&id) {
            request.stage = Stage::Confirming {
                turn,
                entry,
                revision,
                copies,
                changed: wait,
            };
        }
        news
    }

    /// The librarian said something to a request.
    pub(super) fn request_heard(&mut self, agent: usize, id: u64, heard: Heard) {
        let boot = self.machines[agent].clocks.boot(self.now);
        let unix_ms = self.machines[agent].clocks.unix_ms(self.now);
        let me = self.machines[agent].name.clone();
        let local = Arc::clone(&self.machines[agent].process.local);
        let role = self.machines[agent].process.engine.outside().wanted.role();
        let lost = self.machines[agent].process.keep().lost;
        let tx = self.fresh_tx(agent);
        let Some(request) = self.machines[agent].process.requests.get_mut(&id) else {
            return;
        };
        let address = request.call.address.clone();
        let stage = std::mem::replace(&mut request.stage, Stage::Over);
        match (stage, heard) {
            (
                Stage::Creating {
                    turn,
                    entry,
                    mut machine,
                    ..
                },
                heard,
            ) => {
                match heard {
                    Heard::Changed(changed) => machine.changed(boot, changed),
                    Heard::Register { asked_at, register } => {
                        machine.read(boot, &RegisterRead { asked_at, register });
                    }
                    Heard::Nothing => machine.unreachable(boot),
                }
                request.stage = Stage::Creating {
                    turn,
                    entry,
                    machine,
                    waits: false,
                };
            }
            (
                Stage::Deleting {
                    turn,
                    entry,
                    tx,
                    mut machine,
                    ..
                },
                heard,
            ) => {
                match heard {
                    Heard::Changed(changed) => machine.changed(boot, &changed),
                    Heard::Register { asked_at, register } => {
                        machine.read(boot, &RegisterRead { asked_at, register });
                    }
                    Heard::Nothing => machine.unreachable(boot),
                }
                request.stage = Stage::Deleting {
                    turn,
                    entry,
                    tx,
                    machine,
                    waits: false,
                };
            }
            (Stage::AskedForRead, Heard::Register { register, .. }) => match steps::judge(&me, &address, register) {
                Ok(Asked::Here) => request.stage = Stage::Arriving,
                Ok(Asked::Free | Asked::Clash(_)) => {
                    self.end_request(agent, id, Reply::Absent);
                }
                Err(miss) => {
                    self.missed(agent, id, miss);
                }
            },
            (Stage::AskedForMake(turn), Heard::Register { register, .. }) => {
                match steps::judge(&me, &address, register.clone()) {
                    Ok(Asked::Free) => {
                        if role.is_some_and(|role| !role.takes_new_objects()) {
                            self.end_request(agent, id, Reply::NotServing);
                            return;
                        }
                        let prepared = request.prepared.take().expect("a write is prepared");
                        if let Err(error) = steps::may_make(&prepared, unix_ms) {
                            self.unwritten(agent, id, error);
                            return;
                        }
                        let prepared = match local.fit(&address, None, prepared) {
                            Ok(prepared) => prepared,
                            Err(error) => {
                                self.unwritten(agent, id, error);
                                return;
                            }
                        };
                        let new = steps::make(&address, prepared, local.level_of(&address), tx, unix_ms);
                        self.commit(agent, id, turn, Change::Insert(new), Then::Create(tx));
                    }
                    Ok(Asked::Here) => {
                        self.end_request(agent, id, Reply::Unavailable("its register is being settled"));
                    }
                    Ok(Asked::Clash(_)) => {
                        self.end_request(agent, id, Reply::Refused("differs by case".to_owned()));
                    }
                    // Who deleted it knows under which write ids it was changed.
                    Err(Miss::Deleted) => {
                        let elsewhere = steps::elsewhere(&me, &lost, &address, register);
                        let reply = elsewhere.map_or(Reply::Gone, |(owner, _)| Reply::Elsewhere(owner));
                        self.end_request(agent, id, reply);
                    }
                    Err(miss) => {
                        self.missed(agent, id, miss);
                    }
                }
            }
            (Stage::AskedForDelete(turn, by), Heard::Register { register, .. }) => {
                match steps::judge(&me, &address, register.clone()) {
                    // Who deleted it knows under which write id.
                    Err(Miss::Deleted) if !by => {
                        request.stage = Stage::AskedForDelete(turn, true);
                        self.ask_register(agent, id);
                    }
                    Err(Miss::Deleted) => {
                        let elsewhere = steps::elsewhere(&me, &lost, &address, register);
                        let reply = elsewhere.map_or(Reply::Gone, |(owner, _)| Reply::Elsewhere(owner));
                        self.end_request(agent, id, reply);
                    }
                    Err(miss) => {
                        self.missed(agent, id, miss);
                    }
                    Ok(Asked::Here) => {
                        self.end_request(agent, id, Reply::Unavailable("its register is being settled"));
                    }
                    Ok(Asked::Free | Asked::Clash(_)) => {
                        self.end_request(agent, id, Reply::Absent);
                    }
                }
            }
            (Stage::AskedForOwner, Heard::Register { register, .. }) => {
                if let Some(step) = register.as_ref().and_then(|register| local.shorter_way(&me, register)) {
                    // It fails only with the disk, and then the entry stays as it was.
                    drop(local.batch_now(vec![step]));
                    *self.steps.entry("way shortened").or_default() += 1;
                    self.check.touched(agent);
                }
                let reply = match steps::elsewhere(&me, &lost, &address, register) {
                    Some((owner, _)) => Reply::Elsewhere(owner),
                    None => Reply::Unavailable("its owner is being settled"),
                };
                self.end_request(agent, id, reply);
            }
            (
                Stage::AskedForRead | Stage::AskedForMake(_) | Stage::AskedForDelete(..) | Stage::AskedForOwner,
                Heard::Nothing | Heard::Changed(_),
            ) => {
                self.end_request(agent, id, Reply::Unavailable("the librarian does not answer"));
            }
            (stage, _) => request.stage = stage,
        }
    }

    fn missed(&mut self, agent: usize, id: u64, miss: Miss) -> bool {
        match miss {
            Miss::Party { to } => self.hand_on(agent, id, &to),
            miss => self.end_request(agent, id, miss_reply(miss)),
        }
    }

    fn unwritten(&mut self, agent: usize, id: u64, error: WriteError) -> bool {
        match error {
            WriteError::Party { to } => self.hand_on(agent, id, &to),
            error => self.end_request(agent, id, write_error(error)),
        }
    }

    /// Hands a request on to the other party of a move.
    fn hand_on(&mut self, agent: usize, id: u64, to: &zones::ServerName) -> bool {
        let other: usize = to.as_str()[1..].parse::<usize>().expect("a name of this pool") - 1;
        let life = self.machines[agent].life;
        let Some(request) = self.machines[agent].process.requests.get_mut(&id) else {
            return false;
        };
        if request.call.hops >= HOPS_MAX {
            return self.end_request(agent, id, Reply::Elsewhere(to.clone()));
        }
        let mut call = request.call.clone();
        call.hops += 1;
        call.via = Some(agent);
        call.reply_to = ReplyTo::Agent {
            agent,
            life,
            request: id,
        };
        request.stage = Stage::HandedOn;
        self.send_call(agent + 1, other, call);
        true
    }

    /// Sends a request to an agent.
    pub(super) fn send_call(&mut self, _from: usize, to: usize, call: Call) {
        let fate = self.decide(Site::Request);
        let at = self.now + Network::latency(self.faults.roll(170));
        match fate {
            Fate::Lost => {}
            Fate::Late(pause) => self.push(self.now + super::clock::micros(pause), Event::Call(to, Box::new(call))),
            Fate::Twice => {
                self.push(at, Event::Call(to, Box::new(call.clone())));
                self.push(at + 100 * MS, Event::Call(to, Box::new(call)));
            }
            _ => self.push(at, Event::Call(to, Box::new(call))),
        }
    }

    fn end_request(&mut self, agent: usize, id: u64, reply: Reply) -> bool {
        let now = self.now;
        if let Some(request) = self.machines[agent].process.requests.get_mut(&id) {
            let was = std::mem::replace(&mut request.stage, Stage::Over);
            if std::mem::take(&mut request.waited_for) && now <= request.until {
                let (reply_to, address) = (request.call.reply_to, request.call.address.clone());
                self.check.answered(&address, &reply);
                if !matches!(was, Stage::HandedOn) {
                    self.counted(agent, &address, &reply);
                }
                self.send_reply(agent, reply_to, reply);
            }
        }
        true
    }

    /// Counts a request that was answered here, as the production code does: what was done, not what was refused.
    fn counted(&mut self, agent: usize, address: &Address, reply: &Reply) {
        let octets = match reply {
            Reply::Seen(_) | Reply::Written(_) => body_octets(object_of(address)) as u64,
            Reply::Deleted => 0,
            Reply::Absent
            | Reply::Gone
            | Reply::Elsewhere(_)
            | Reply::Unavailable(_)
            | Reply::NotServing
            | Reply::Damaged
            | Reply::Misdirected
            | Reply::Refused(_) => return,
        };
        let boot = self.machines[agent].clocks.boot(self.now);
        let process = &mut self.machines[agent].process;
        process.meter.note(address, boot);
        process.carried += octets;
    }

    /// The answer of a request that was handed on.
    pub(super) fn reply(&mut self, agent: usize, id: u64, reply: Reply) {
        if reply == Reply::Misdirected {
            // Our forward entry led astray: the register knows.
            if let Some(request) = self.machines[agent].process.requests.get_mut(&id) {
                request.stage = Stage::AskedForOwner;
                self.ask_register(agent, id);
            }
            return;
        }
        self.end_request(agent, id, reply);
    }

    fn send_reply(&mut self, agent: usize, reply_to: ReplyTo, reply: Reply) {
        self.note(|| format!("s{} answers {reply:?}", agent + 1));
        let fate = self.decide(Site::Reply);
        let to = match reply_to {
            ReplyTo::Client { .. } => self.machines.len() + 1,
            ReplyTo::Agent { agent, .. } => agent + 1,
        };
        if fate == Fate::Lost || !self.network.passes(agent + 1, to, self.now) {
            return;
        }
        let mut at = self.now + Network::latency(self.faults.roll(171));
        if let Fate::Late(pause) = fate {
            at = self.now + super::clock::micros(pause);
        }
        self.push(at, Event::Replied(reply_to, reply));
    }

    /// A moment that a request waits for: its end, or a pause's.
    pub(super) fn request_timer(&mut self, agent: usize, id: u64) {
        let now: Time = self.now;
        let Some(request) = self.machines[agent].process.requests.get_mut(&id) else {
            return;
        };
        if now < request.until || !request.waited_for {
            return;
        }
        request.waited_for = false;
        let reply_to = request.call.reply_to;
        match &request.stage {
            // What has begun goes on when its client is gone.
            Stage::Permitting { .. }
            | Stage::Confirming { .. }
            | Stage::Quieting { .. }
            | Stage::Committing { .. }
            | Stage::Creating { .. }
            | Stage::Deleting { .. }
            | Stage::AskedForMake(_)
            | Stage::AskedForDelete(..) => {}
            Stage::Looking
            | Stage::Waiting(_)
            | Stage::AskedForRead
            | Stage::Arriving
            | Stage::AskTurn
            | Stage::InLine(_)
            | Stage::HandedOn
            | Stage::AskedForOwner
            | Stage::Over => request.stage = Stage::Over,
        }
        self.send_reply(agent, reply_to, Reply::Unavailable("it had to wait too long"));
    }
}

fn miss_reply(miss: Miss) -> Reply {
    match miss {
        Miss::Elsewhere { owner, .. } => Reply::Elsewhere(owner),
        Miss::Party { to } => Reply::Elsewhere(to),
        Miss::Absent => Reply::Absent,
        Miss::Deleted => Reply::Gone,
        Miss::Damaged { .. } => Reply::Damaged,
        _ => Reply::Unavailable("not now"),
    }
}

fn write_error(error: WriteError) -> Reply {
    match error {
        WriteError::Elsewhere { owner, .. } => Reply::Elsewhere(owner),
        WriteError::Party { to } => Reply::Elsewhere(to),
        WriteError::Absent => Reply::Absent,
        WriteError::Deleted => Reply::Gone,
        WriteError::NotServing { .. } => Reply::NotServing,
        WriteError::Unavailable { why, .. } => Reply::Unavailable(why),
        error => Reply::Refused(error.to_string()),
    }
}

/// What a reader is told of a copy that cannot be read.
fn unread(error: &ReadError) -> Reply {
    match error {
        ReadError::Vault(error) if error.outage().is_some() => {
            Reply::Unavailable("no answer from the guardian of keys")
        }
        _ => Reply::Damaged,
    }
}

/// What a reader gets of a copy.
pub(super) fn show(local: &Local, entry: &Entry) -> Reply {
    let read = |part| local.store().read_all(entry, part).map_err(|error| unread(&error));
    let properties = match read(Part::Properties) {
        Ok(properties) => properties,
        Err(reply) => return reply,
    };
    let Some(write) = releases::write_of(entry.schema, &properties) else {
        let text = String::from_utf8_lossy(&properties);
        return Reply::Refused(format!("I16: properties are {text:?} in schema {}", entry.schema));
    };
    if entry.body.is_some() {
        match read(Part::Body) {
            Ok(octets) if octets == body(write, octets.len()) => {}
            Ok(_) => return Reply::Refused("I16: the body is of another write than the properties".to_owned()),
            Err(reply) => return reply,
        }
    }
    Reply::Seen(Object::Is {
        write,
        revision: entry.revision,
    })
}
