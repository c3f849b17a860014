//! Messages between an agent and the librarian, as the world carries them.

use agent::migration::guard::{Guard, stands};
use agent::register::{Changed, Wishes};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use zones::query::{Answer, UDP_PAYLOAD_OCTETS, build_question, read_answer};
use zones::report::build_report;
use zones::tsig::{AnswerSignatureError, sign_request, verify_response};
use zones::update::{build_has_update, build_register_update};
use zones::want::PoolName;
use zones::{Address, Has, Register, RegisterChange, Role, Want, Wish};

use super::clock::{MS, micros};
use super::faults::{Fate, Site};
use super::line::{CHANGES_MAX, Heard, READS_MAX, REPORTS_MAX, Sent, Wanted, What};
use super::network::Network;
use super::world::{Event, World};

/// Most changes in one message.
const BATCH_MAX: usize = 128;

impl World {
    /// Sends a message to the librarian.
    pub(super) fn line_send(&mut self, agent: usize, what: What) {
        let now = self.now;
        let domain = self.domain.clone();
        let machine = &mut self.machines[agent];
        let (me, unix_s, boot) = (
            machine.name.clone(),
            machine.clocks.unix_ms(now) / 1000,
            machine.clocks.boot(now),
        );
        let token = machine.process.line.next;
        machine.process.line.next += 1;
        let id = u16::try_from(token % 65_536).unwrap_or(0);
        let mut question = None;
        let mut ask = |name, kind| {
            let octets = build_question(id, &name, kind, Some(UDP_PAYLOAD_OCTETS));
            question = Some((name, kind));
            octets
        };
        let (built, described) = match &what {
            What::Read { address, .. } => match domain.obj_name(address) {
                Ok(name) => (Some(ask(name, RecordType::TXT)), format!("asks for {address}")),
                Err(_) => (None, String::new()),
            },
            What::Want => (
                Some(ask(PoolName::Want(me).name(&domain), RecordType::TXT)),
                String::new(),
            ),
            What::Todo => (
                Some(ask(PoolName::Todo(me).name(&domain), RecordType::TXT)),
                String::new(),
            ),
            What::Remembered => (Some(ask(domain.in_pool(me.as_str()), RecordType::TXT)), String::new()),
            What::Tell => {
                let upkeep = self.script.tells.then(|| machine.upkeep());
                let hot = machine.heat(now);
                let local = &machine.process.local;
                let totals = local.totals();
                let wanted = machine.process.engine.outside().wanted.clone();
                let has = Has {
                    release: machine.release_name().to_string(),
                    role: wanted.role().unwrap_or(Role::Serving),
                    objects: totals.objects,
                    bytes: totals.octets,
                    capacity: local.store().usage().capacity,
                    load: 0,
                    heat: 0,
                    errors: 0,
                    unreadable: local.unreadable(),
                    plan: wanted.plan,
                    commits: local.store().commits(),
                    peer_port: 9101,
                    quarantined: totals.quarantined,
                    audit: Some(local.store().audit_head()),
                    upkeep,
                    hot: Some(hot),
                    kept: self.script.copies.map(|_| zones::Kept {
                        held: totals.held,
                        octets: totals.held_octets,
                        short: local.kept().short,
                        leaving: local.kept().leaving,
                    }),
                };
                let addresses = [std::net::IpAddr::from([192, 0, 2, agent as u8 + 1])];
                (
                    build_has_update(&domain, id, &me, &has, 9001 + agent as u16, &addresses).ok(),
                    String::new(),
                )
            }
            What::Report { message, .. } => {
                let described = format!("reports {} claims from {}", message.claims.len(), message.from);
                (build_report(&domain, id, message).ok(), described)
            }
            What::Changes(wanted) => {
                let changes: Vec<RegisterChange> = wanted.iter().map(|wanted| wanted.change.clone()).collect();
                let described = changes
                    .iter()
                    .map(|change| {
                        let new = &change.new;
                        format!("{} -> {:?} e{} {}", new.address, new.state, new.epoch, new.owner)
                    })
                    .collect::<Vec<_>>()
                    .join(", ");
                (build_register_update(&domain, id, &changes).ok(), described)
            }
        };
        let Some(mut octets) = built else {
            return self.fail(format!("a message of ours cannot be built: {what:?}"));
        };
        let mac = sign_request(&mut octets, &self.machines[agent].key, unix_s);
        let patience = what.patience();
        let of_registers = matches!(what, What::Read { .. } | What::Changes(_));
        let site = match &what {
            What::Read { .. } => Site::Question,
            What::Changes(_) | What::Report { .. } => Site::Update,
            What::Tell | What::Want | What::Todo | What::Remembered => Site::Control,
        };
        let sent = Sent {
            what,
            id,
            mac,
            asked_at: boot,
            question,
        };
        self.machines[agent].process.line.sent.insert(token, sent);
        let life = self.machines[agent].life;
        self.push(now + patience, Event::LineLate(agent, life, token));
        if of_registers && !self.machines[agent].process.trust.is_trusted() {
            // A registry that is not believed is asked nothing.
            return;
        }
        let fate = match site == Site::Question && self.tricks.is_muted(agent, now) {
            true => Fate::Lost,
            false => self.decide(site),
        };
        if !described.is_empty() {
            self.note(|| format!("s{} -> librarian: {described} {fate:?}", agent + 1));
        }
        let at = now + Network::latency(self.faults.roll(160));
        let message = |octets| Event::Ask {
            from: agent,
            life,
            token,
            octets,
            site,
        };
        match fate {
            Fate::Lost => {}
            Fate::Late(pause) => self.push(now + micros(pause), message(octets)),
            Fate::Held => self.held.push(message(octets)),
            Fate::Twice => {
                let again = at + 1 + self.faults.roll(161) % (30_000 * MS);
                self.push(at, message(octets.clone()));
                self.push(again, message(octets));
            }
            Fate::Kept => {
                self.push(at, message(octets.clone()));
                self.held.push(message(octets));
            }
            Fate::SenderCrashes => {
                self.push(at, message(octets));
                self.push(now, Event::Crash(agent, life));
            }
            _ => self.push(at, message(octets)),
        }
    }

    /// Sends the changes that gathered, in one message; no object twice.
    pub(super) fn flush_changes(&mut self, agent: usize) {
        let waiting = std::mem::take(&mut self.machines[agent].process.line.changes);
        let mut batch: Vec<Wanted> = Vec::new();
        for wanted in waiting {
            let same = |known: &Wanted| known.change.new.address == wanted.change.new.address;
            if batch.len() >= BATCH_MAX || batch.iter().any(same) {
                let full = std::mem::take(&mut batch);
                self.line_send(agent, What::Changes(count(full)));
            }
            batch.push(wanted);
        }
        if !batch.is_empty() {
            self.line_send(agent, What::Changes(count(batch)));
        }
    }

    /// Tells what the server has, and asks what it should do.
    pub(super) fn tell(&mut self, agent: usize) {
        self.owe(agent);
        self.line_send(agent, What::Tell);
        self.line_send(agent, What::Want);
        self.line_send(agent, What::Todo);
    }

    /// An answer has come.
    pub(super) fn answered(&mut self, agent: usize, token: u64, octets: &[u8]) {
        let machine = &self.machines[agent];
        let Some(sent) = machine.process.line.sent.get(&token) else {
            return;
        };
        let unix_s = machine.clocks.unix_ms(self.now) / 1000;
        let verified = verify_response(octets, &machine.key, &sent.mac, unix_s);
        match &verified {
            Ok(()) => {}
            Err(
                AnswerSignatureError::BadTime { .. }
                | AnswerSignatureError::ClockRefused { .. }
                | AnswerSignatureError::Refused { .. },
            ) => {}
            Err(_) => return,
        }
        let Ok(answer) = read_answer(octets) else { return };
        let ours = match &sent.question {
            Some((name, kind)) => answer.answers_to(sent.id, name, *kind),
            None => answer.id == sent.id,
        };
        if verified.is_ok() && !ours {
            return;
        }
        let sent = self.machines[agent]
            .process
            .line
            .sent
            .remove(&token)
            .expect("it was just there");
        if let Err(error) = verified {
            let why = error.to_string();
            return self.unverified(agent, sent, &why);
        }
        let counts = self.machines[agent].process.trust.hear(answer.told);
        match sent.what {
            What::Read { waits, .. } if !counts => self.hear(agent, waits, Heard::Nothing),
            What::Read {
                ref address, ref waits, ..
            } => {
                let heard = register_of(&answer, address).map_or(Heard::Nothing, |register| Heard::Register {
                    asked_at: sent.asked_at,
                    register,
                });
                self.hear(agent, waits.clone(), heard);
            }
            // Of a registry that is not believed no word counts, neither yes nor no.
            What::Changes(wanted) if !counts => self.changes_unanswered(agent, wanted),
            What::Changes(wanted) => self.changes_answered(agent, wanted, &answer),
            What::Report { .. } => self.reported(agent, &answer),
            What::Tell => {}
            What::Remembered => {
                let has = answer
                    .txt()
                    .next()
                    .and_then(|txt| Has::from_strings(&txt.txt_data).ok());
                let commits = self.machines[agent].process.local.store().commits();
                if let Some(has) = has
                    && has.commits > commits
                {
                    self.fail(format!(
                        "s{} has {commits} commits and reported {} before: its disk lost what was durable",
                        agent + 1,
                        has.commits
                    ));
                }
            }
            What::Want | What::Todo if !counts => self.machines[agent].process.line.want = None,
            What::Want => {
                let want = match answer.code {
                    ResponseCode::NoError | ResponseCode::NXDomain => {
                        answer.txt().next().map(|txt| Want::from_strings(&txt.txt_data))
                    }
                    _ => return,
                };
                if let Some(Err(_)) = want {
                    return self.fail("a want cannot be read".to_owned());
                }
                let want = want.and_then(Result::ok);
                self.machines[agent].process.line.want = Some((sent.asked_at, want));
            }
            What::Todo => {
                let Some((asked_at, want)) = self.machines[agent].process.line.want.take() else {
                    return;
                };
                let todos = answer
                    .txt()
                    .filter_map(|txt| Wish::from_strings(&txt.txt_data).ok())
                    .collect();
                self.obey(agent, Wishes { asked_at, want, todos });
            }
        }
    }

    /// The librarian, or our own clock, refuses the signature.
    fn unverified(&mut self, agent: usize, sent: Sent, why: &str) {
        match sent.what {
            What::Read { waits, .. } => self.hear(agent, waits, Heard::Nothing),
            What::Changes(wanted) => {
                for wanted in wanted {
                    let changed = Changed::Refused {
                        rcode: ResponseCode::NotAuth,
                        why: why.to_owned(),
                        unanswered: wanted.unanswered,
                    };
                    self.hear(agent, wanted.waits, Heard::Changed(changed));
                }
            }
            What::Report { .. } => self.machines[agent].process.line.report = None,
            What::Tell | What::Want | What::Todo | What::Remembered => {}
        }
    }

    fn changes_answered(&mut self, agent: usize, mut wanted: Vec<Wanted>, answer: &Answer) {
        self.note(|| format!("librarian -> s{}: {} {:?}", agent + 1, answer.code, answer.why()));
        match answer.code {
            ResponseCode::NoError => {
                for wanted in wanted {
                    self.hear(agent, wanted.waits, Heard::Changed(Changed::Done));
                }
            }
            // It does not know how it ended.
            ResponseCode::ServFail => self.changes_unanswered(agent, wanted),
            _ if wanted.len() > 1 => {
                let second = wanted.split_off(wanted.len() / 2);
                self.line_send(agent, What::Changes(count(wanted)));
                self.line_send(agent, What::Changes(count(second)));
            }
            rcode => {
                let wanted = wanted.pop().expect("a message has a change");
                let changed = Changed::Refused {
                    rcode,
                    why: answer.why().unwrap_or("refused").to_owned(),
                    unanswered: wanted.unanswered,
                };
                self.hear(agent, wanted.waits, Heard::Changed(changed));
            }
        }
    }

    fn changes_unanswered(&mut self, agent: usize, wanted: Vec<Wanted>) {
        let mut again = Vec::new();
        for mut wanted in wanted {
            wanted.unanswered += 1;
            if wanted.tries >= CHANGES_MAX {
                self.hear(agent, wanted.waits, Heard::Changed(Changed::Unknown));
            } else {
                again.push(wanted);
            }
        }
        if !again.is_empty() {
            self.line_send(agent, What::Changes(count(again)));
        }
    }

    /// No answer came in time.
    pub(super) fn line_late(&mut self, agent: usize, token: u64) {
        let line = &mut self.machines[agent].process.line;
        let Some(sent) = line.sent.remove(&token) else {
            return;
        };
        let of_round = matches!(sent.what, What::Want | What::Todo);
        if !stands(Guard::OldAnswers) || of_round && !stands(Guard::LowerPlan) {
            // The question is not forgotten: its answer is heard whenever it comes.
            line.sent.insert(token, sent.clone());
        }
        match sent.what {
            What::Read { address, waits, tries } if tries + 1 < READS_MAX => {
                let tries = tries + 1;
                self.line_send(agent, What::Read { address, waits, tries });
            }
            What::Read { waits, .. } => self.hear(agent, waits, Heard::Nothing),
            What::Changes(wanted) => self.changes_unanswered(agent, wanted),
            What::Remembered => self.line_send(agent, What::Remembered),
            What::Report { message, tries } if tries + 1 < REPORTS_MAX => {
                let tries = tries + 1;
                self.line_send(agent, What::Report { message, tries });
            }
            What::Report { .. } => self.machines[agent].process.line.report = None,
            What::Tell | What::Want | What::Todo => {}
        }
    }
}

/// They are sent once more.
fn count(mut wanted: Vec<Wanted>) -> Vec<Wanted> {
    for wanted in &mut wanted {
        wanted.tries += 1;
    }
    wanted
}

/// The register in an answer: of that very spelling; `None` if the answer says neither yes nor no.
fn register_of(answer: &Answer, address: &Address) -> Option<Option<Register>> {
    match answer.code {
        ResponseCode::NoError | ResponseCode::NXDomain => match answer.txt().next() {
            None => Some(None),
            Some(txt) => Register::from_strings(&txt.txt_data)
                .ok()
                .map(|register| Some(register).filter(|register| register.address == *address)),
        },
        _ => None,
    }
}
