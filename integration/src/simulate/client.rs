//! Clients: they look an object up through a resolver that may be old, ask, follow redirects, and repeat under the same
//! write id until somebody answers for good.

use std::collections::{BTreeMap, VecDeque};

use hickory_proto::rr::{Name, RecordType};
use uuid::Uuid;
use zones::query::{build_question, read_answer};

use super::check_upgrade::CACHED;
use super::clock::{MS, S, Time, true_unix_ms};
use super::desk::{Call, Reply, ReplyTo, Verb};
use super::dice;
use super::linear::{Action, Object, Operation, Outcome};
use super::script::{Script, address};
use super::world::{Event, World};

/// How long a client repeats.
const PATIENCE: Time = 40 * S;
/// How long it waits for one answer.
const ATTEMPT: Time = 7 * S;
/// Most redirects in a row.
const REDIRECTS_MAX: u32 = 4;
/// Most redirects that lead to the owner when nothing moves: one from whoever is asked, and one where that one's way is old.
const HOPS_MAX: u32 = 2;

/// One client.
pub(super) struct Client {
    /// What it is to do; with the server that is asked first, if not its resolver says which.
    waiting: VecDeque<(usize, Verb, Option<usize>)>,
    busy: Option<Doing>,
    /// What its resolver remembers, and until when.
    cache: BTreeMap<usize, (Vec<usize>, Time)>,
    /// The resolver ignores every TTL.
    stubborn: bool,
    attempts: u64,
    writes: u64,
}

/// What it is about.
struct Doing {
    object: usize,
    verb: Verb,
    operation: usize,
    write_id: Uuid,
    targets: VecDeque<usize>,
    redirects: u32,
    until: Time,
    backoff: Time,
    fresh: bool,
    /// Whoever has it cannot read it.
    damaged: bool,
}

impl Client {
    pub(super) fn new(script: &Script, number: usize) -> Client {
        let roll = |purpose: u64, below: u64| dice(script.seed, number as u64 + 1000 * purpose, 80) % below;
        let stubborn = roll(1, 3) == 0;
        let mut cache = BTreeMap::new();
        // An answer of last week.
        if roll(2, 2) == 0 {
            for object in 0..script.objects {
                let server = usize::try_from(roll(3 + object as u64, script.agents as u64)).unwrap_or(0);
                cache.insert(object, (vec![server], Time::MAX));
            }
        }
        let mut stubborn = stubborn;
        if !script.knows.is_empty() {
            cache.clear();
            let known = script.knows.iter().find(|(client, _)| *client == number);
            stubborn = known.is_some();
            if let Some((_, server)) = known {
                cache.extend((0..script.objects).map(|object| (object, (vec![*server], Time::MAX))));
            }
        }
        Client {
            waiting: VecDeque::new(),
            busy: None,
            cache,
            stubborn,
            attempts: 0,
            writes: 0,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.busy.is_none() && self.waiting.is_empty()
    }

    /// The object of its open request.
    pub(super) fn asks_for(&self) -> Option<usize> {
        self.busy.as_ref().map(|doing| doing.object)
    }
}

impl World {
    pub(super) fn client_wants(&mut self, client: usize, object: usize, verb: Verb) {
        self.clients[client].waiting.push_back((object, verb, None));
        if self.clients[client].busy.is_none() {
            self.client_begins(client);
        }
    }

    fn client_begins(&mut self, client: usize) {
        let Some((object, verb, first)) = self.clients[client].waiting.pop_front() else {
            return;
        };
        let me = &mut self.clients[client];
        me.writes += 1;
        let number = client as u64 * 1_000_000 + me.writes;
        let verb = match verb {
            Verb::Put(_) => Verb::Put(number),
            verb => verb,
        };
        let random = [dice(self.script.seed, number, 90), dice(self.script.seed, number, 91)];
        let mut octets = [0; 10];
        octets[..8].copy_from_slice(&random[0].to_le_bytes());
        octets[8..].copy_from_slice(&random[1].to_le_bytes()[..2]);
        let write_id = uuid::Builder::from_unix_timestamp_millis(true_unix_ms(self.now), &octets).into_uuid();
        let action = match verb {
            Verb::Put(write) => Action::Put(write),
            Verb::Read => Action::Read,
            Verb::Delete => Action::Delete,
        };
        let operation = self.check.began(
            object,
            Operation {
                action,
                began: self.now,
                ended: None,
                outcome: Outcome::Unknown,
            },
        );
        let Some(operation) = operation else {
            return self.client_begins(client);
        };
        self.clients[client].busy = Some(Doing {
            object,
            verb,
            operation,
            write_id,
            targets: first.into_iter().collect(),
            redirects: 0,
            until: self.now + PATIENCE,
            backoff: 20 * MS,
            fresh: false,
            damaged: false,
        });
        self.client_asks(client);
    }

    /// Asks the next server, looking up anew where none is left.
    fn client_asks(&mut self, client: usize) {
        let now = self.now;
        self.clients[client].attempts += 1;
        let attempt = self.clients[client].attempts;
        let Some(doing) = &self.clients[client].busy else {
            return;
        };
        if now >= doing.until {
            // It gives up; the write may have happened.
            return self.client_ends(client, None);
        }
        if doing.targets.is_empty() {
            let (object, verb, fresh) = (doing.object, doing.verb, doing.fresh);
            let targets = self.locate(client, object, verb, fresh);
            let doing = self.clients[client].busy.as_mut().expect("it was just there");
            doing.targets = targets.into();
            doing.redirects = 0;
            let backoff = doing.backoff;
            doing.backoff = (doing.backoff * 2).min(S);
            doing.fresh = true;
            if doing.targets.is_empty() {
                self.push(now + backoff, Event::ClientTimer(client, attempt));
                return;
            }
        }
        let doing = self.clients[client].busy.as_mut().expect("it was just there");
        let target = doing.targets.pop_front().expect("not empty");
        let call = Call {
            address: address(doing.object),
            verb: doing.verb,
            client,
            write_id: doing.write_id,
            hops: 0,
            via: None,
            reply_to: ReplyTo::Client { client, attempt },
        };
        self.push(now + ATTEMPT, Event::ClientTimer(client, attempt));
        let party = self.machines.len() + 1;
        self.send_call(party, target, call);
    }

    pub(super) fn client_timer(&mut self, client: usize, attempt: u64) {
        if client < self.clients.len() && self.clients[client].attempts == attempt {
            match self.clients[client].busy {
                Some(_) => self.client_asks(client),
                None => self.client_begins(client),
            }
        }
    }

    pub(super) fn client_replied(&mut self, client: usize, attempt: u64, reply: Reply) {
        if client >= self.clients.len() || self.clients[client].attempts != attempt {
            return;
        }
        let Some(object) = self.clients[client].busy.as_ref().map(|doing| doing.object) else {
            return;
        };
        let ended_at_lost = self.is_deleted_at_lost(&address(object));
        // Nobody answers for it.
        let is_stuck = self.is_stuck(&address(object)) || self.check.is_beyond(&address(object));
        let Some(doing) = &mut self.clients[client].busy else {
            return;
        };
        let outcome = match reply {
            Reply::Seen(object) => Outcome::Seen(object),
            Reply::Written(revision) => Outcome::Written(revision),
            Reply::Deleted => Outcome::Done,
            Reply::Absent => match doing.verb {
                Verb::Read => Outcome::Seen(Object::Absent),
                Verb::Put(_) | Verb::Delete => Outcome::Nothing,
            },
            Reply::Gone => match doing.verb {
                Verb::Read => Outcome::Seen(Object::Deleted),
                // Who would know whether it was applied before the deletion is lost.
                Verb::Put(_) | Verb::Delete if ended_at_lost => Outcome::Unknown,
                Verb::Put(_) | Verb::Delete => Outcome::Gone,
            },
            Reply::Elsewhere(owner) => {
                let owner: usize = owner.as_str()[1..].parse::<usize>().expect("a name") - 1;
                if self.closing && !is_stuck && doing.redirects >= HOPS_MAX {
                    let address = address(doing.object);
                    return self.fail(format!(
                        "I10: {address} is not found by {HOPS_MAX} redirects in a quiet pool"
                    ));
                }
                if doing.redirects < REDIRECTS_MAX {
                    doing.redirects += 1;
                    doing.targets.push_front(owner);
                    return self.client_asks(client);
                }
                doing.targets.clear();
                return self.client_pauses(client);
            }
            Reply::Unavailable(_) | Reply::Misdirected => return self.client_pauses(client),
            Reply::NotServing => return self.client_pauses(client),
            Reply::Damaged => {
                doing.damaged = true;
                return self.client_ends(client, None);
            }
            Reply::Refused(why) => {
                return self.fail(format!("client {client} is refused: {why}"));
            }
        };
        self.client_ends(client, Some(outcome));
    }

    fn client_pauses(&mut self, client: usize) {
        let doing = self.clients[client].busy.as_mut().expect("it is busy");
        let backoff = doing.backoff;
        doing.backoff = (doing.backoff * 2).min(S);
        self.clients[client].attempts += 1;
        let attempt = self.clients[client].attempts;
        self.push(self.now + backoff, Event::ClientTimer(client, attempt));
    }

    fn client_ends(&mut self, client: usize, outcome: Option<Outcome>) {
        let doing = self.clients[client].busy.take().expect("it is busy");
        self.note(|| {
            format!(
                "client {client} has {:?} of {}: {outcome:?}",
                doing.verb,
                address(doing.object)
            )
        });
        if let Some(outcome) = outcome
            && let Err(why) = self.check.ended(doing.object, doing.operation, self.now, outcome)
        {
            return self.fail(why);
        }
        if outcome == Some(Outcome::Nothing) {
            // Another sending of it may still be on its way, and find something to delete: nothing was noted of this one.
            let again = Operation {
                action: Action::Delete,
                began: self.now,
                ended: None,
                outcome: Outcome::Unknown,
            };
            let _ = self.check.began(doing.object, again);
        }
        if self.script.is_calm && outcome.is_none() {
            return self.fail(format!(
                "I11: nothing goes wrong, and client {client} gets no answer of {}",
                address(doing.object)
            ));
        }
        // Whoever says that a copy cannot be read was looked at when it said so.
        if self.closing && outcome.is_none() && !doing.damaged && !self.is_stuck(&address(doing.object)) {
            return self.fail(format!(
                "I12: client {client} gets no answer of {} in a quiet pool",
                address(doing.object)
            ));
        }
        self.clients[client].attempts += 1;
        let attempt = self.clients[client].attempts;
        self.push(self.now + MS, Event::ClientTimer(client, attempt));
    }

    /// Servers to ask for an object, the best first.
    fn locate(&mut self, client: usize, object: usize, verb: Verb, fresh: bool) -> Vec<usize> {
        let now = self.now;
        let me = &self.clients[client];
        if let Some((targets, until)) = me.cache.get(&object)
            && (*until > now)
            && (!fresh || me.stubborn)
        {
            let mut targets = targets.clone();
            if fresh {
                // Whoever is asked in vain asks any other server.
                let any = self.service("any");
                targets.extend(any.unwrap_or_default());
            }
            if !targets.is_empty() {
                return targets;
            }
        }
        let Ok(name) = self.domain.obj_name(&address(object)) else {
            return Vec::new();
        };
        let Some(targets) = self.srv_weighed(&name) else {
            return Vec::new();
        };
        let mut targets = self.drawn(client, targets);
        let ttl = if targets.is_empty() { 2 * S } else { 5 * S };
        let until = if self.clients[client].stubborn {
            Time::MAX
        } else {
            now + ttl
        };
        self.clients[client].cache.insert(object, (targets.clone(), until));
        if targets.is_empty() && matches!(verb, Verb::Put(_)) {
            targets = self.service("_place").unwrap_or_default();
        }
        if targets.is_empty() {
            targets = self.service("any").unwrap_or_default();
        }
        targets
    }

    fn service(&mut self, name: &str) -> Option<Vec<usize>> {
        let name = self.domain.in_pool(name);
        self.srv(&name)
    }

    /// The servers of an SRV answer, by priority.
    fn srv(&mut self, name: &Name) -> Option<Vec<usize>> {
        let found = self.srv_weighed(name)?;
        Some(found.into_iter().map(|(.., server)| server).collect())
    }

    /// Servers by priority, and among equals drawn by weight, as the production client does: a weight of 0 has the least chance,
    /// and not none (RFC 2782).
    fn drawn(&self, client: usize, mut targets: Vec<(u16, u16, usize)>) -> Vec<usize> {
        let attempt = self.clients[client].attempts;
        let mut drawn = Vec::with_capacity(targets.len());
        while let Some(first) = targets.iter().map(|(priority, ..)| *priority).min() {
            let equals = targets.iter().filter(|(priority, ..)| *priority == first);
            let chance = |weight: u16| u64::from(weight) * 256 + 1;
            let sum: u64 = equals.clone().map(|(_, weight, _)| chance(*weight)).sum();
            let number = client as u64 * 1_000_000 + attempt * 100 + drawn.len() as u64;
            let mut left = dice(self.script.seed, number, 92) % sum;
            let mut chosen = None;
            for (_, weight, server) in equals {
                chosen = Some(*server);
                match left.checked_sub(chance(*weight)) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
            let chosen = chosen.expect("one has this priority");
            targets.retain(|(.., server)| *server != chosen);
            drawn.push(chosen);
        }
        drawn
    }

    /// The servers of an SRV answer with priority and weight, by priority.
    fn srv_weighed(&mut self, name: &Name) -> Option<Vec<(u16, u16, usize)>> {
        let question = build_question(7, name, RecordType::SRV, Some(1232));
        let octets = self.resolve(&question)?;
        let answer = read_answer(&octets).ok()?;
        let mut found: Vec<(u16, u16, usize)> = answer
            .srv()
            .filter_map(|srv| {
                let label = srv.target.iter().next()?;
                let number: usize = std::str::from_utf8(label).ok()?.strip_prefix('s')?.parse().ok()?;
                Some((srv.priority, srv.weight, number - 1))
            })
            .collect();
        found.sort_by_key(|(priority, ..)| *priority);
        // A registry that came back from before does not know whom the one that was lost had told to stop.
        if self.librarian.process.registry.view().reconcile().open {
            for (.., server) in &found {
                self.watched.named(*server, self.now + CACHED);
            }
        }
        Some(found)
    }

    /// When all is quiet every object is read, written and read once more, and read from wherever it may have been: a record
    /// that names any server may still be cached.
    pub(super) fn last_looks(&mut self) {
        self.clients[0].stubborn = false;
        self.clients[0].cache.clear();
        for object in 0..self.script.objects {
            if self.check.is_beyond(&address(object)) || self.is_deleted_at_lost(&address(object)) {
                continue;
            }
            for verb in [Verb::Read, Verb::Put(0), Verb::Read] {
                self.client_wants(0, object, verb);
            }
            let there = (0..self.machines.len()).filter(|server| !self.machines[*server].gone);
            let first: Vec<_> = there.map(|server| (object, Verb::Read, Some(server))).collect();
            self.clients[0].waiting.extend(first);
            if self.clients[0].busy.is_none() {
                self.client_begins(0);
            }
        }
    }
}
