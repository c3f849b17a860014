//! One message in, one answer out.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use parking_lot::RwLock;
use zones::report::{ReportError, read_report, reporter};
use zones::tsig::{sign_response, verify_request};
use zones::update::{Swaps, read_changes, read_prerequisites, read_zone};
use zones::{Domain, ExtendedError, Report, ServerName, Signed, Told, Update, UpdateFormatError};

use super::batch::Batch;
use super::counters::{Counters, Tally};
use super::questions::{Questions, is_counted};
use super::rate::{RateLimit, Rates};
use crate::answer::common::{Common, Key, Names};
use crate::answer::faces::Faces;
use crate::answer::reply::{Room, Transport, encode, header};
use crate::answer::{self, Asker, Network, Response, answer};
use crate::guard::{self, Guard};
use crate::keys::{Holder, KeyRing};
use crate::reconcile::{Desk, Findings, Step};
use crate::registry::table::KeyHash;
use crate::registry::{By, Proposal, Proposed, Received, Refused, Registry, SubmitError, Waiting, Writer};
use crate::transfer::{self, Transfer, Transfers};

/// Octets of a DNS header.
const HEADER_OCTETS: usize = 12;
/// Octets of a TSIG record besides the name of its key.
const SIGNATURE_OCTETS: usize = 84;

/// What time it is.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For leases and rates.
    pub instant: Instant,
    /// For signatures: seconds since 1970.
    pub unix_s: u64,
}

/// Where the time comes from, so that a simulation can make its own.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Moment;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Moment {
            instant: Instant::now(),
            unix_s: since.map_or(0, |since| since.as_secs()),
        }
    }
}

/// Answers messages; knows no sockets.
pub struct Service {
    registry: Registry,
    domain: Domain,
    answers: answer::Settings,
    names: Names,
    networks: Vec<Network>,
    keys: Arc<KeyRing>,
    rates: Rates,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    questions: Arc<Questions>,
    /// Absent where no zone is transferred.
    transfers: Option<Arc<Transfers>>,
    seed: AtomicU64,
    /// Updates that the registry has or had.
    proposed: AtomicU64,
    reconcile: Arc<Desk>,
    /// Whether the registry is another process's. Held while an answer is made that only the registry's holder may give.
    retired: RwLock<bool>,
}

/// What one who answers many questions keeps from batch to batch.
#[derive(Default)]
pub(super) struct Batched {
    faces: Faces,
    /// Of the datagrams of a batch, those that are common questions: which one, and the object's key.
    keys: Vec<(usize, Key)>,
    hashes: Vec<KeyHash>,
}

/// What is to be done with a message.
pub(crate) enum Handled {
    /// Nothing is sent.
    Silent,
    /// This is sent.
    Reply(Vec<u8>),
    /// This is sent to somebody whose signature held, and who therefore is where the message says.
    Proven(Vec<u8>),
    /// An update is to be proposed to the registry.
    Update(Box<Asked>),
    /// These messages are sent, over the connection that they were asked for on.
    Transfer(Box<Transfer>),
}

/// An update that was read and may be judged.
pub(crate) struct Asked {
    by: By,
    says: Says,
    received: Received,
    answer: Envelope,
}

/// What an update says.
enum Says {
    /// It swaps registers and does nothing else.
    Swaps(Swaps),
    /// Anything else.
    Any(Box<AnyUpdate>),
}

/// An update that was read as records.
struct AnyUpdate {
    update: Update,
    malformed: Option<UpdateFormatError>,
    /// Whose report it is, if it is one.
    reporter: Option<ServerName>,
}

impl Says {
    /// How many changes, as RFC 2136 counts them.
    fn changes(&self) -> usize {
        match self {
            Says::Swaps(swaps) => swaps.changes(),
            Says::Any(any) => any.update.changes.len(),
        }
    }
}

/// What is needed to send an answer back.
pub(crate) struct Envelope {
    clock: Arc<dyn Clock>,
    request: Message,
    signed: Option<Signed>,
    /// What the answer tells of the registry; settled before the answer is made.
    told: Option<Told>,
    room: Room,
}

/// An update that the registry has.
pub(crate) struct Judging {
    proposed: Result<Proposed, SubmitError>,
    key: String,
    changes: usize,
    report: Option<(Box<Report>, Findings)>,
    answer: Envelope,
}

impl Service {
    /// Puts together what answers need. `networks` may resolve everything.
    #[must_use]
    pub fn new(
        registry: Registry,
        answers: answer::Settings,
        networks: Vec<Network>,
        keys: Arc<KeyRing>,
        rate: RateLimit,
    ) -> Service {
        let domain = registry.view().domain().clone();
        Service {
            reconcile: Arc::new(Desk::new(registry.clone())),
            names: Names::new(&domain),
            registry,
            domain,
            answers,
            networks,
            keys,
            rates: Rates::new(rate),
            clock: Arc::new(SystemClock),
            counters: Arc::new(Counters::default()),
            questions: Arc::default(),
            transfers: None,
            seed: AtomicU64::new(0),
            proposed: AtomicU64::new(0),
            retired: RwLock::new(false),
        }
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Service {
        Service { clock, ..self }
    }

    /// The same with transfers to secondaries.
    #[must_use]
    pub fn with_transfers(self, transfers: Arc<Transfers>) -> Service {
        Service {
            transfers: Some(transfers),
            ..self
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Which objects are looked up most.
    #[must_use]
    pub fn questions(&self) -> &Arc<Questions> {
        &self.questions
    }

    /// Where servers report when the registry is reconciled.
    #[must_use]
    pub fn reconcile(&self) -> &Arc<Desk> {
        &self.reconcile
    }

    /// Gives agents and updates no answer any more; everybody else is answered from memory.
    ///
    /// When this returns no such answer is being made: the registry can be let go of.
    pub fn retire(&self) {
        *self.retired.write() = true;
    }

    /// Updates handed to the registry so far.
    #[must_use]
    pub fn proposed(&self) -> u64 {
        self.proposed.load(Ordering::Relaxed)
    }

    /// Answers one message to its end, as the loops do.
    pub async fn respond(&self, octets: &[u8], from: IpAddr, transport: Transport) -> Option<Vec<u8>> {
        match self.handle(octets, from, transport) {
            Handled::Silent => None,
            Handled::Reply(reply) | Handled::Proven(reply) => Some(reply),
            // Many messages, which the loop over TCP sends.
            Handled::Transfer(_) => None,
            Handled::Update(asked) => {
                let judging = self.propose(*asked).await;
                Some(self.conclude(judging).await)
            }
        }
    }

    /// Answers one message with a writer run by hand; what the registry has waiting is committed with it.
    pub fn respond_by_hand(
        &self,
        octets: &[u8],
        from: IpAddr,
        transport: Transport,
        writer: &mut Writer,
        waiting: &mut Waiting,
    ) -> Option<Vec<u8>> {
        match self.handle(octets, from, transport) {
            Handled::Silent => None,
            Handled::Reply(reply) | Handled::Proven(reply) => Some(reply),
            Handled::Transfer(_) => None,
            Handled::Update(asked) => {
                let judging = self.propose(*asked).now_or_never()?;
                writer.step(waiting);
                self.conclude(judging).now_or_never()
            }
        }
    }

    /// Answers the common questions among so many datagrams of a batch; the others keep an empty answer.
    pub(super) fn answer_batch(&self, batched: &mut Batched, count: usize, batch: &mut Batch) {
        let now = self.clock.now().instant;
        let seed = self.seed.fetch_add(count as u64, Ordering::Relaxed);
        let glance = self.registry.glance();
        let table = glance.table();
        let Some(table) = table.as_deref() else { return };
        if !batched.faces.fit((glance.servers_version(), table.server_count()), now) {
            batched.faces.refresh(&self.registry.view().at(now), &self.answers);
        }
        let common = Common {
            registry: &self.registry,
            table,
            settings: &self.answers,
            names: &self.names,
            faces: &batched.faces,
        };
        let (keys, hashes) = (&mut batched.keys, &mut batched.hashes);
        keys.clear();
        keys.extend((0..count).filter_map(|place| Some((place, common.key(batch.octets(place))?))));
        table.approach(keys.iter().map(|(_, key)| key.octets()), hashes);
        let mut tally = Tally::default();
        for ((place, key), hash) in keys.iter().zip(&*hashes) {
            let (octets, answer, from) = batch.datagram(*place);
            let seed = seed + *place as u64;
            match common.answer((octets, key, *hash), &self.unsigned(from), seed, answer) {
                Some(answered) => {
                    tally.count(answered.rcode);
                    let counted = answered.object.filter(|_| is_counted(seed));
                    if let Some(address) = counted.and_then(|row| table.address(row)) {
                        self.questions.note(&address, now);
                    }
                }
                None => answer.clear(),
            }
        }
        self.counters.queries(&tally);
    }

    /// Answers one unsigned message over UDP in both ways from one view: straight from the table and by the general path. They must
    /// be the same; `None` if the question is not common. For tests and fuzzing.
    #[must_use]
    pub fn compare(&self, octets: &[u8], from: IpAddr) -> Option<(Vec<u8>, Vec<u8>)> {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        let (now, asker) = (self.clock.now().instant, self.unsigned(from));
        let mut faces = Faces::default();
        faces.refresh(&self.registry.view().at(now), &self.answers);
        let table = self.registry.glance().table();
        let common = Common {
            registry: &self.registry,
            table: table.as_deref()?,
            settings: &self.answers,
            names: &self.names,
            faces: &faces,
        };
        let key = common.key(octets)?;
        let hash = common.table.hash(key.octets());
        let mut straight = Vec::new();
        common.answer((octets, &key, hash), &asker, seed, &mut straight)?;
        let view = self.registry.view().at(now);
        let general = match Message::from_vec(octets) {
            Ok(request) => {
                let response = match &request.queries[..] {
                    [question] => answer(&view, &self.answers, question, &asker, seed),
                    _ => with_rcode(ResponseCode::FormErr),
                };
                let room = Transport::Udp.room(request.edns.as_ref(), self.answers.udp_octets_max);
                encode(&request, response, room)
            }
            Err(_) => Vec::new(),
        };
        Some((straight, general))
    }

    /// Whether somebody's answers are limited in number: of whoever is neither in a listed network nor has signed.
    pub(super) fn is_stranger(&self, from: IpAddr) -> bool {
        !self.networks.iter().any(|network| network.contains(from))
    }

    /// Who asks without a signature.
    fn unsigned(&self, from: IpAddr) -> Asker {
        if self.is_stranger(from) {
            Asker::Stranger
        } else {
            Asker::Network
        }
    }

    /// Answers a question at once; reads an update so far that it can be proposed.
    pub(crate) fn handle(&self, octets: &[u8], from: IpAddr, transport: Transport) -> Handled {
        // Too short for an id, or an answer: sending anything back could go round for ever.
        if octets.len() < HEADER_OCTETS || octets[2] & 0x80 != 0 {
            Counters::count(&self.counters.dropped);
            return Handled::Silent;
        }
        let id = u16::from_be_bytes([octets[0], octets[1]]);
        let op_code = OpCode::from_u8(octets[2] >> 3 & 0x0f);
        let is_update = op_code == OpCode::Update;
        let count = |rcode| {
            if is_update {
                self.counters.update(rcode)
            } else {
                self.counters.query(rcode)
            }
        };
        if !matches!(op_code, OpCode::Query | OpCode::Update) {
            count(ResponseCode::NotImp);
            return Handled::Reply(header(id, op_code, ResponseCode::NotImp));
        }
        let now_s = self.clock.now().unix_s;
        let keys = self.keys.current();
        let find = |name: &_| keys.find(name).map(|key| key.tsig.clone());
        let signed = match verify_request(octets, find, now_s) {
            Ok(signed) => signed,
            Err(failure) => {
                tracing::info!(%from, reason = %failure, "signature refused");
                let rcode = failure.response_code();
                count(rcode);
                let mut reply = match Message::from_vec(octets) {
                    Ok(request) => {
                        let room = transport.room(request.edns.as_ref(), self.answers.udp_octets_max);
                        encode(&request, with_rcode(rcode), room)
                    }
                    Err(_) => header(id, op_code, rcode),
                };
                failure.sign_answer(&mut reply, now_s);
                return Handled::Reply(reply);
            }
        };
        // Only the signed are let in as far as that.
        let before_signature = signed
            .as_ref()
            .filter(|_| is_update)
            .map(|signed| signed.message_octets);
        let swaps = before_signature.and_then(|octets_before| Swaps::read(&self.domain, &octets[..octets_before]));
        let (swaps, read) = match swaps {
            Some((swaps, frame)) => (Some(swaps), Ok(frame)),
            None => (None, Message::from_vec(octets)),
        };
        let request = match read {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(%from, %error, "malformed message");
                count(ResponseCode::FormErr);
                let mut reply = header(id, op_code, ResponseCode::FormErr);
                if let Some(signed) = &signed {
                    sign_response(&mut reply, &signed.key, &signed.mac, now_s);
                }
                return Handled::Reply(reply);
            }
        };
        let key = signed.as_ref().and_then(|signed| keys.find(signed.key.name()));
        let holder = key.map(|key| &key.holder);
        let retired =
            (is_update || matches!(holder, Some(Holder::Agent(_) | Holder::Secondary(_)))).then(|| self.retired.read());
        if retired.as_ref().is_some_and(|retired| **retired) && guard::stands(Guard::OneProcess) {
            // Who asked asks again, and the new process answers.
            Counters::count(&self.counters.dropped);
            return Handled::Silent;
        }
        let told = holder.map(|holder| match holder {
            Holder::Agent(server) => self.reconcile.told(Some(server)),
            Holder::Admin | Holder::Client { .. } | Holder::Secondary(_) => self.reconcile.told(None),
        });
        let answer = Envelope {
            clock: Arc::clone(&self.clock),
            room: transport.room(request.edns.as_ref(), self.answers.udp_octets_max),
            request,
            signed,
            told,
        };
        if answer.request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            count(ResponseCode::BADVERS);
            return answer.reply(with_rcode(ResponseCode::BADVERS));
        }
        if is_update {
            self.open_update(answer, swaps, holder, from)
        } else if is_transfer(&answer.request) {
            self.transfer(answer, holder, (from, transport))
        } else {
            let response = self.answer(&answer.request, holder, from);
            if let (Some(Holder::Secondary(secondary)), Some(transfers)) = (holder, &self.transfers) {
                transfers.told_soa(secondary, &response, self.clock.now().instant);
            }
            count(response.rcode);
            answer.reply(response)
        }
    }

    /// A question for the transfer of a zone.
    fn transfer(&self, answer: Envelope, holder: Option<&Holder>, (from, transport): (IpAddr, Transport)) -> Handled {
        let Some(transfers) = &self.transfers else {
            let text = "no zone is transferred from here";
            self.counters.query(ResponseCode::Refused);
            return answer.reply(Response::error(ResponseCode::Refused, ExtendedError::PROHIBITED, text));
        };
        let now = self.clock.now();
        let asked = transfer::Asked {
            from,
            transport,
            octets_max: answer.octets_left(),
            now: now.instant,
            unix_s: now.unix_s,
        };
        match transfers.ask(&answer.request, (holder, answer.signed.as_ref()), asked) {
            transfer::Outcome::Reply(response) => {
                self.counters.query(response.rcode);
                answer.reply(response)
            }
            transfer::Outcome::Octets(octets) => {
                self.counters.query(ResponseCode::NoError);
                // Only who signed is given a zone.
                Handled::Proven(octets)
            }
            transfer::Outcome::Messages(transfer) => {
                self.counters.query(ResponseCode::NoError);
                Handled::Transfer(transfer)
            }
        }
    }

    /// The time, for signatures: seconds since 1970.
    pub(crate) fn unix_s(&self) -> u64 {
        self.clock.now().unix_s
    }

    fn answer(&self, request: &Message, holder: Option<&Holder>, from: IpAddr) -> Response {
        let [question] = &request.queries[..] else {
            let text = "a message holds one question";
            return Response::error(ResponseCode::FormErr, ExtendedError::OTHER, text);
        };
        let asker = match holder {
            Some(Holder::Admin) => Asker::Admin,
            Some(Holder::Agent(server)) => Asker::Agent(server.clone()),
            Some(Holder::Client { grants, .. }) => Asker::Client(Arc::clone(grants)),
            // It sees whole zones, by transfer; to a question it is nobody in particular.
            Some(Holder::Secondary(_)) => Asker::Stranger,
            None => self.unsigned(from),
        };
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        let now = self.clock.now().instant;
        let view = self.registry.view().at(now);
        let response = answer(&view, &self.answers, question, &asker, seed);
        // What agents ask is no demand for the object.
        let counts = is_counted(seed) && !matches!(asker, Asker::Agent(_));
        if counts
            && !response.answers.is_empty()
            && matches!(
                question.query_type(),
                RecordType::SRV | RecordType::A | RecordType::AAAA
            )
            && let Some(address) = view.object_named(question.name())
        {
            self.questions.note(&address, now);
        }
        response
    }

    fn open_update(&self, answer: Envelope, swaps: Option<Swaps>, holder: Option<&Holder>, from: IpAddr) -> Handled {
        let now = self.clock.now();
        let key = answer.key();
        let refuse = |answer: Envelope, refused: &Refused| {
            self.counters.update(refused.rcode);
            tracing::info!(%from, key, rcode = ?refused.rcode, why = refused.why, "update refused");
            answer.reply(refusal(refused))
        };
        let by = match holder {
            Some(Holder::Admin) => By::Admin,
            Some(Holder::Agent(server)) => By::Agent(server.clone()),
            Some(Holder::Secondary(_)) => {
                let why = "a secondary's key takes zones and changes nothing";
                return refuse(answer, &Refused::prohibited(why));
            }
            Some(Holder::Client { .. }) => {
                let why = "an application's key changes nothing here: objects are written at the agents";
                return refuse(answer, &Refused::prohibited(why));
            }
            None => {
                let why = "updates must be signed: use the key of an agent or of the admin";
                return refuse(answer, &Refused::prohibited(why));
            }
        };
        let says = match swaps {
            Some(swaps) => Says::Swaps(swaps),
            None => match self.read_any(&answer.request) {
                Ok(says) => says,
                Err(error) => return refuse(answer, &Refused::with(error.response_code(), error.to_string())),
            },
        };
        let weight = match &says {
            // A report changes only what the registry lost, so it is not held up.
            Says::Any(any) if any.reporter.is_some() => 1,
            Says::Swaps(_) | Says::Any(_) => says.changes(),
        };
        if let Some(signed) = &answer.signed
            && let Err(wait) = self.rates.take(signed.key.name(), weight, now.instant)
        {
            let why = format!("too many changes by this key: wait {} ms", wait.as_millis());
            return refuse(answer, &Refused::prohibited(why));
        }
        let signed_s = answer.signed.as_ref().map_or(now.unix_s, |signed| signed.time_s);
        let ahead_s = signed_s.cast_signed() - now.unix_s.cast_signed();
        Handled::Update(Box::new(Asked {
            by,
            says,
            received: Received {
                at: now.instant,
                ahead_s,
            },
            answer,
        }))
    }

    /// Reads an update of any form. What is malformed in its changes is told only where its prerequisites hold.
    fn read_any(&self, request: &Message) -> Result<Says, UpdateFormatError> {
        let zone = read_zone(request)?;
        let prerequisites = read_prerequisites(request, &zone)?;
        let (changes, malformed) = match read_changes(request, &zone) {
            Ok(changes) => (changes, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let first = changes.first();
        let reporter = first.and_then(|change| reporter(&self.domain, change.name()));
        let update = Update {
            zone,
            prerequisites,
            changes,
        };
        Ok(Says::Any(Box::new(AnyUpdate {
            update,
            malformed,
            reporter,
        })))
    }

    /// The report in an update, if it is one and may be taken.
    fn report(&self, asked: &Asked) -> Result<Option<Report>, Refused> {
        let Says::Any(any) = &asked.says else { return Ok(None) };
        let Some(server) = &any.reporter else { return Ok(None) };
        if asked.by != By::Agent(server.clone()) {
            return Err(Refused::prohibited(format!(
                "only server {server} reports what it knows"
            )));
        }
        let report = read_report(&self.domain, &any.update).map_err(|error| match error {
            ReportError::Head(_) | ReportError::Claim { .. } => {
                Refused::with(ResponseCode::FormErr, crate::chain(&error))
            }
            error => Refused::prohibited(error.to_string()),
        })?;
        self.reconcile.admit(&report)?;
        Ok(Some(report))
    }

    /// Hands an update to the registry; waits only for a place in its queue.
    pub(crate) async fn propose(&self, asked: Asked) -> Judging {
        let key = asked.answer.key();
        let changes = asked.says.changes();
        let mut report = None;
        let proposal = match self.report(&asked) {
            Ok(None) => match asked.says {
                Says::Swaps(swaps) => Proposal::Swaps {
                    by: asked.by,
                    swaps,
                    received: asked.received,
                },
                Says::Any(any) => Proposal::Update {
                    by: asked.by,
                    update: any.update,
                    malformed: any.malformed,
                    received: asked.received,
                },
            },
            Ok(Some(read)) => {
                let (read, findings) = (Box::new(read), Findings::default());
                report = Some((read.clone(), Arc::clone(&findings)));
                Proposal::Reconcile(Step::Merge { report: read, findings })
            }
            Err(refused) => {
                return Judging {
                    proposed: Err(SubmitError::Refused(refused)),
                    key,
                    changes,
                    report,
                    answer: asked.answer,
                };
            }
        };
        let proposed = self.registry.propose(proposal).await;
        self.proposed.fetch_add(1, Ordering::Relaxed);
        Judging {
            proposed,
            key,
            changes,
            report,
            answer: asked.answer,
        }
    }

    /// Waits for the registry's verdict and makes the answer.
    pub(crate) async fn conclude(&self, judging: Judging) -> Vec<u8> {
        let Judging {
            proposed,
            key,
            changes,
            report,
            answer,
        } = judging;
        let result = match proposed {
            Ok(proposed) => proposed.verdict().await,
            Err(error) => Err(error),
        };
        let response = match &result {
            Ok(()) => {
                tracing::debug!(key, changes, "update made");
                if let Some((report, findings)) = &report {
                    self.reconcile.took(report, findings);
                }
                Response::default()
            }
            Err(SubmitError::Refused(refused)) => {
                // An unmet prerequisite is how a compare-and-swap ends for all but one.
                if refused.rcode == ResponseCode::Refused {
                    tracing::info!(key, why = refused.why, "update refused");
                } else {
                    tracing::debug!(key, rcode = ?refused.rcode, why = refused.why, "update not made");
                }
                refusal(refused)
            }
            Err(error) => Response::error(error.rcode(), ExtendedError::NOT_READY, error.to_string()),
        };
        self.counters.update(response.rcode);
        answer.seal(response)
    }
}

impl Envelope {
    /// The answer, to be sent.
    fn reply(self, response: Response) -> Handled {
        let octets = self.seal(response);
        match self.signed {
            Some(_) => Handled::Proven(octets),
            None => Handled::Reply(octets),
        }
    }

    /// The answer's octets, signed if the request was.
    fn seal(&self, mut response: Response) -> Vec<u8> {
        response.told = self.told;
        let Some(signed) = &self.signed else {
            return encode(&self.request, response, self.room);
        };
        let room = Room {
            octets_max: self.octets_left(),
            ..self.room
        };
        let mut octets = encode(&self.request, response, room);
        sign_response(&mut octets, &signed.key, &signed.mac, self.clock.now().unix_s);
        octets
    }

    /// Octets that an answer may have besides its signature.
    fn octets_left(&self) -> usize {
        let signature = |signed: &Signed| SIGNATURE_OCTETS + signed.key.name().len();
        let signature = self.signed.as_ref().map_or(0, signature);
        self.room.octets_max.saturating_sub(signature)
    }

    fn key(&self) -> String {
        self.signed
            .as_ref()
            .map_or_else(|| "none".to_owned(), |signed| signed.key.name().to_string())
    }
}

fn is_transfer(request: &Message) -> bool {
    let mut questions = request.queries.iter();
    questions.any(|question| matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR))
}

fn refusal(refused: &Refused) -> Response {
    Response::error(refused.rcode, refused.info_code, refused.why.clone())
}

fn with_rcode(rcode: ResponseCode) -> Response {
    Response {
        rcode,
        ..Response::default()
    }
}
