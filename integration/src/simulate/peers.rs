//! Messages and connections between agents, as the world carries them.

use agent::copies::wire::Word;
use agent::migration::wire::{Either, Request as MoveRequest, read_frame, take_frame};
use agent::transfer::ShipFault;
use bytes::{Bytes, BytesMut};

use super::clock::{MS, S, micros};
use super::faults::{Fate, Site};
use super::network::Network;
use super::world::{Event, World};

impl World {
    pub(super) fn send_frames(&mut self, from: usize, to: usize, octets: Bytes, copy: bool) {
        let fate = self.decide(if copy { Site::Copy } else { Site::Peer });
        self.note(|| format!("s{} -> s{}: {} {fate:?}", from + 1, to + 1, describe(&octets)));
        let link = self.network.link(from, to).number;
        self.tricks.say(from, to, link, &octets);
        let at = self.now + Network::latency(self.faults.roll(140));
        let frames = |octets| Event::Frames { from, to, link, octets };
        match fate {
            Fate::Lost => self.break_link(from, to),
            Fate::Late(pause) => self.push(self.now + micros(pause), frames(octets)),
            Fate::Held => self.held.push(frames(octets)),
            Fate::Damaged => {
                let mut damaged = BytesMut::from(&octets[..]);
                if let Some(last) = damaged.last_mut() {
                    *last ^= 1;
                }
                let at = self.network.in_order(from, to, at);
                self.push(at, frames(damaged.freeze()));
            }
            fate => {
                let at = self.network.in_order(from, to, at);
                match fate {
                    Fate::Twice => {
                        self.push(at + 1 + self.faults.roll(141) % (200 * MS), frames(octets.clone()));
                    }
                    Fate::SenderCrashes => {
                        let life = self.machines[from].life;
                        self.push(self.now, Event::Crash(from, life));
                    }
                    Fate::ReceiverCrashes => {
                        let life = self.machines[to].life;
                        self.push(at, Event::Crash(to, life));
                    }
                    _ => {}
                }
                self.push(at, frames(octets));
            }
        }
    }

    pub(super) fn frames(&mut self, from: usize, to: usize, link: u64, octets: Bytes) {
        if !self.network.passes(from + 1, to + 1, self.now) {
            // It is sent again until the way is whole, or the connection is given up.
            let at = self.network.whole_at(from + 1, to + 1, self.now);
            self.push(at, Event::Frames { from, to, link, octets });
            return;
        }
        let known = *self.network.link(from, to);
        if !known.up || known.number != link || !self.machines[to].started {
            return;
        }
        let mut received = BytesMut::from(&octets[..]);
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = take_frame(&mut received) {
            match read_frame::<Either>(&frame) {
                Ok(frame) => frames.push(frame),
                Err(error) => return self.fail(format!("a frame of ours is malformed: {error}")),
            }
        }
        let peer = self.machines[from].name.clone();
        self.machines[to].tick(self.now);
        self.machines[to].process.engine.frames(&peer, frames);
        self.settle(to);
    }

    pub(super) fn send_large(&mut self, from: usize, to: usize, mut event: Event) {
        let fate = self.decide(Site::Copy);
        self.note(|| format!("s{} -> s{}: large copy {fate:?}", from + 1, to + 1));
        let mut at = self.now + 5 * MS + Network::latency(self.faults.roll(140));
        let life = self.machines[from].life;
        match fate {
            Fate::Lost => {
                if let Event::Large { from, id, .. } = &event {
                    let (from, life, id) = (from.0, from.1, *id);
                    self.push(at, Event::LargeEnd(from, life, id, Err(ShipFault::Broken)));
                }
                return;
            }
            Fate::Late(pause) => at = self.now + micros(pause),
            Fate::Held => {
                self.held.push(event);
                return;
            }
            Fate::Damaged => {
                if let Event::Large { payload, .. } = &mut event
                    && let Some(last) = payload.last_mut()
                {
                    let mut damaged = BytesMut::from(&last[..]);
                    if let Some(octet) = damaged.last_mut() {
                        *octet ^= 1;
                    }
                    *last = damaged.freeze();
                }
            }
            Fate::SenderCrashes => self.push(self.now, Event::Crash(from, life)),
            Fate::ReceiverCrashes => {
                let life = self.machines[to].life;
                self.push(at, Event::Crash(to, life));
            }
            _ => {}
        }
        self.push(at, event);
    }

    pub(super) fn large(&mut self, event: Event) {
        let Event::Large {
            from: (from, life),
            to,
            link,
            id,
            shipped,
            address,
            copy,
            kept,
            payload,
        } = event
        else {
            return;
        };
        let known = *self.network.link(from, to);
        let passes = self.network.passes(from + 1, to + 1, self.now) && known.up && known.number == link;
        let taken = passes && self.machines[to].started;
        let mut whole = false;
        if taken {
            let peer = self.machines[from].name.clone();
            self.machines[to].tick(self.now);
            let process = &mut self.machines[to].process;
            if let Some(leave) = process.engine.large_offered(&peer, &address, &copy, kept) {
                let staging = self.decide(Site::Staging);
                let life = self.machines[to].life;
                let machine = &mut self.machines[to];
                machine.disk.miswrite(staging == Fate::Miswritten);
                machine.disk.set_full(staging == Fate::Full);
                // It may break off on its way.
                whole = staging != Fate::Lost;
                let done = match whole {
                    true => leave.write(&address, &copy, &payload),
                    false => leave.broken(),
                };
                machine.disk.miswrite(false);
                machine.disk.set_full(false);
                // The stream of a large copy may last; only a script has it do so.
                let mut lasts = Fate::Pass;
                if self.tricks.are_on() {
                    self.comes_to(to, "write large copy");
                    lasts = self.decide(Site::Disk);
                }
                let event = Event::Written { agent: to, life, done };
                match (lasts, event) {
                    (Fate::Held, event) => self.held.push(event),
                    (Fate::Late(pause), event) => self.push(self.now + micros(pause), event),
                    (_, Event::Written { done, .. }) => self.machines[to].process.engine.done(done),
                    (_, _) => unreachable!("it was made above"),
                }
            }
            self.check.touched(to);
            self.settle(to);
        }
        self.push(
            self.now + MS,
            Event::LargeEnd(from, life, id, whole.then_some(shipped).ok_or(ShipFault::Broken)),
        );
    }

    pub(super) fn dial(&mut self, from: usize, to: usize) {
        let pair = (from.min(to), from.max(to));
        let again = self.dials.get(&pair).copied().unwrap_or(0);
        let link = self.network.link(from, to);
        if link.dialing || again > self.now {
            return;
        }
        link.dialing = true;
        self.dials.insert(pair, self.now + S / 2);
        self.push(self.now + 4 * MS, Event::LinkUp(from, to));
    }

    pub(super) fn link_up(&mut self, one: usize, other: usize) {
        let reach = |from: usize, to: usize| self.network.passes(from + 1, to + 1, self.now);
        let whole = reach(one, other) && reach(other, one);
        let both = self.machines[one].started && self.machines[other].started;
        let awake = self.machines[other].suspended_until <= self.now;
        let link = self.network.link(one, other);
        link.dialing = false;
        if !whole || !both || !awake {
            return;
        }
        link.number += 1;
        link.up = true;
        for (me, peer) in [(one, other), (other, one)] {
            let name = self.machines[peer].name.clone();
            self.machines[me].tick(self.now);
            let engine = &mut self.machines[me].process.engine;
            engine.outside().linked.insert(name.clone());
            engine.renew(&name);
            self.settle(me);
        }
    }

    pub(super) fn break_link(&mut self, one: usize, other: usize) {
        let link = self.network.link(one, other);
        link.up = false;
        let number = link.number;
        self.push(self.now + MS, Event::LinkDown(one, other, number));
    }

    pub(super) fn link_down(&mut self, one: usize, other: usize, number: u64) {
        let link = self.network.link(one, other);
        if link.number != number {
            return;
        }
        link.up = false;
        for (me, peer) in [(one, other), (other, one)] {
            let name = self.machines[peer].name.clone();
            if self.machines[me].started && self.machines[me].process.engine.outside().linked.remove(&name) {
                self.machines[me].tick(self.now);
                self.machines[me].process.engine.renew(&name);
                self.settle(me);
            }
        }
    }
}

/// What is in a frame, for the trace and for choosing what goes wrong.
fn describe(octets: &Bytes) -> String {
    let mut received = BytesMut::from(&octets[..]);
    let Ok(Some(frame)) = take_frame(&mut received) else {
        return "octets".to_owned();
    };
    match read_frame::<Either>(&frame) {
        Ok((address, Either::Request(MoveRequest::Copy(copy)), _)) => format!("Copy {address} r{}", copy.revision),
        Ok((address, Either::Request(request), _)) => format!("{address} {request:?}"),
        Ok((address, Either::Reply(reply), _)) => format!("{address} {reply:?}"),
        Ok((address, Either::Copies(Word::Keep(copy)), _)) => {
            format!("Keep {address} e{} r{}", copy.epoch, copy.revision)
        }
        Ok((address, Either::Copies(word), _)) => format!("{address} {word:?}"),
        Err(_) => "octets".to_owned(),
    }
}
