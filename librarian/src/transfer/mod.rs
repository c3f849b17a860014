//! Zone transfers to secondaries: AXFR (RFC 5936), IXFR (RFC 1995) and NOTIFY (RFC 1996), all signed (RFC 8945).
//!
//! | file | what |
//! |---|---|
//! | `secondary` | who may take which zones |
//! | `content` | what a zone holds: pure |
//! | `compose` | the same for objects as they lie in the registry, without a copy: what a whole zone is made of |
//! | `condense` | many differences as one |
//! | `stream` | the records of one transfer in their order, a chunk at a time |
//! | `message` | records packed into messages: pure |
//! | `book` | what each secondary is known to have |
//! | `notify` | tells secondaries of changes |
//! | `serials` | serials that are later than any that a secondary may have, whatever happened to the registry |
//!
//! Nothing here holds a zone or a whole answer: a transfer is a place in the registry's rows or in its journal, and the
//! connection takes a message when it has room for one. `pool.<domain>` is never transferred: its records are soft.
//!
//! Specification: DESIGN.md section 6, PROTOCOL.md section 17.

pub mod book;
mod compose;
mod condense;
pub(crate) mod content;
mod message;
mod notify;
pub mod secondary;
mod serials;
mod stream;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, RecordType};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zones::tsig::{SequenceSigner, sign_response};
use zones::{ExtendedError, Signed, Zone};

use crate::answer::Response;
use crate::answer::reply::Transport;
use crate::keys::{Holder, KeyRing};
use crate::registry::{JournalBounds, Registry};
use book::{Book, Running, Status};
use content::Form;
use message::Packer;
use secondary::{Secondary, TransferredZone};
use stream::{Kind, Outrun, Stream};

/// What every question for a transfer gets that is not signed by a secondary's key.
const FOREIGN: &str = "zones are transferred to secondaries alone, by their own keys: `librarian secondary add`";
/// What a question for the transfer of `pool` gets.
const SOFT: &str = "the records of this zone are soft and are never transferred: ask the librarian for them";

/// What a question for a transfer gets from whoever is no secondary.
pub(crate) fn refuse() -> Response {
    Response::error(ResponseCode::Refused, ExtendedError::PROHIBITED, FOREIGN)
}

/// Bounds of transfers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Transfers that run at once.
    pub at_once: usize,
    /// Those of one secondary.
    pub at_once_each: usize,
    /// Changes that are kept for differences, of `obj` and `tree` together, and of the operator's zone.
    pub journal_changes: usize,
    /// Octets of memory that these take, about.
    pub journal_octets: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let JournalBounds { changes, octets } = JournalBounds::default();
        Settings {
            at_once: 12,
            at_once_each: 4,
            journal_changes: changes,
            journal_octets: octets,
        }
    }
}

impl Settings {
    /// The first setting with a value that does not work, and what it may be.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, &'static str)> {
        let checks = [
            ((1..=1000).contains(&self.at_once), "at_once", "1 to 1000"),
            ((1..=1000).contains(&self.at_once_each), "at_once_each", "1 to 1000"),
            (self.journal_changes <= 100_000_000, "journal_changes", "0 to 100000000"),
        ];
        checks
            .into_iter()
            .find(|(holds, ..)| !holds)
            .map(|(_, key, range)| (key, range))
    }

    /// Bounds of the journals.
    #[must_use]
    pub fn journal(&self) -> JournalBounds {
        JournalBounds {
            changes: self.journal_changes,
            octets: self.journal_octets,
        }
    }
}

/// What is transferred to whom.
pub struct Transfers {
    dir: Option<PathBuf>,
    registry: Registry,
    form: Form,
    keys: Arc<KeyRing>,
    book: Arc<Book>,
    places: Arc<Semaphore>,
    at_once_each: usize,
    udp_octets_max: u16,
}

/// What is to be done about a question for a transfer.
pub(crate) enum Outcome {
    /// This is answered.
    Reply(Response),
    /// These octets are answered; they are signed already.
    Octets(Vec<u8>),
    /// These messages are answered.
    Messages(Box<Transfer>),
}

/// A transfer over a connection, message by message.
pub(crate) struct Transfer {
    registry: Registry,
    form: Form,
    stream: Stream,
    /// Until all is written into messages.
    packer: Option<Packer>,
    last: VecDeque<Vec<u8>>,
    signer: SequenceSigner,
    running: Running,
    _place: OwnedSemaphorePermit,
}

impl Transfers {
    /// Transfers out of a registry. `dir` keeps what serials were told, if there is one.
    #[must_use]
    pub fn new(
        dir: Option<&Path>,
        registry: Registry,
        keys: Arc<KeyRing>,
        answers: &crate::answer::Settings,
        settings: Settings,
    ) -> Transfers {
        let form = Form {
            domain: registry.view().domain().clone(),
            ttl_s: answers.ttl_s,
            ns_addresses: answers.ns_addresses.clone(),
        };
        let transfers = Transfers {
            dir: dir.map(Path::to_owned),
            registry,
            form,
            keys,
            book: Arc::default(),
            places: Arc::new(Semaphore::new(settings.at_once)),
            at_once_each: settings.at_once_each,
            udp_octets_max: answers.udp_octets_max,
        };
        transfers.read_keys(true);
        transfers
    }

    /// Looks at the keys anew: secondaries came or went.
    pub fn refresh(&self) {
        self.read_keys(false);
    }

    fn read_keys(&self, from_start: bool) {
        let secondaries: Vec<Arc<Secondary>> = self.keys.current().secondaries().map(Arc::clone).collect();
        if secondaries.is_empty() {
            self.registry.drop_journals();
        } else {
            self.registry.keep_journals();
        }
        self.book.set(secondaries, Instant::now(), from_start);
    }

    /// What each secondary is known to have.
    #[must_use]
    pub fn book(&self) -> &Arc<Book> {
        &self.book
    }

    /// How secondaries stand.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        let view = self.registry.view();
        self.book
            .status(Instant::now(), |zone| stream::serial(view.index(), zone.zone()))
    }

    /// A secondary asked for a SOA record, and this is the answer.
    pub(crate) fn told_soa(&self, secondary: &Secondary, response: &Response, now: Instant) {
        for record in &response.answers {
            let zone = self.form.domain.zone_of(&record.name);
            let is_apex = |zone: &Zone| *self.form.domain.zone(*zone) == record.name;
            let zone = zone.filter(is_apex).and_then(TransferredZone::of);
            if let (Some(zone), RData::SOA(soa)) = (zone, &record.data) {
                self.book.asked_soa(&secondary.name, zone, soa.serial, now);
            }
        }
    }

    /// Answers a question for a transfer.
    pub(crate) fn ask(&self, request: &Message, by: (Option<&Holder>, Option<&Signed>), asked: Asked) -> Outcome {
        let refuse = |rcode, code, text: &str| Outcome::Reply(Response::error(rcode, code, text));
        let [question] = &request.queries[..] else {
            return refuse(
                ResponseCode::FormErr,
                ExtendedError::OTHER,
                "a message holds one question",
            );
        };
        let (Some(Holder::Secondary(secondary)), Some(signed)) = by else {
            tracing::info!(from = %asked.from, zone = %question.name(), "transfer refused: not signed by a secondary's key");
            return Outcome::Reply(self::refuse());
        };
        let domain = &self.form.domain;
        let zone = domain.zone_of(question.name());
        let zone = zone.filter(|zone| domain.zone(*zone) == question.name() && question.query_class() == DNSClass::IN);
        let Some(zone) = zone else {
            return refuse(
                ResponseCode::NotAuth,
                ExtendedError::NOT_AUTHORITATIVE,
                "not a zone of this pool",
            );
        };
        let Some(known) = TransferredZone::of(zone) else {
            return refuse(ResponseCode::Refused, ExtendedError::PROHIBITED, SOFT);
        };
        if !secondary.zones.contains(&known) {
            tracing::info!(from = %asked.from, secondary = %secondary.name, zone = known.word(), "transfer refused: not a zone of this secondary");
            let text = "not a zone of this secondary";
            return refuse(ResponseCode::Refused, ExtendedError::PROHIBITED, text);
        }
        let from_serial = match question.query_type() {
            RecordType::IXFR => match stream::serial_asked(request) {
                Some(serial) => Some(serial),
                None => {
                    let text = "a question for differences names the serial that there is (RFC 1995 section 3)";
                    return refuse(ResponseCode::FormErr, ExtendedError::OTHER, text);
                }
            },
            _ if asked.transport == Transport::Udp => {
                return refuse(ResponseCode::FormErr, ExtendedError::OTHER, "whole zones go over TCP");
            }
            _ => None,
        };
        self.book.asked(&secondary.name, known, from_serial);
        let stream = match Stream::open(&self.registry, &self.form, zone, from_serial) {
            Ok(stream) => stream,
            Err(error) => return refuse(ResponseCode::ServFail, ExtendedError::NOT_READY, &error.to_string()),
        };
        if asked.transport == Transport::Udp {
            let octets = self.one_message(request, stream, signed, &asked);
            self.book.told_current(&secondary.name, known, asked.now);
            return Outcome::Octets(octets);
        }
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        // Without a place of all, it has none of its own.
        let own = if place.is_some() { self.at_once_each } else { 0 };
        let running = self.book.begin(&secondary.name, known, stream.serial, own);
        let (Some(running), Some(place)) = (running, place) else {
            tracing::warn!(secondary = %secondary.name, zone = known.word(), "transfer put off: too many run");
            let text = "too many transfers run: ask again";
            return refuse(ResponseCode::ServFail, ExtendedError::NOT_READY, text);
        };
        if stream.kind == Kind::Whole {
            tracing::info!(secondary = %secondary.name, zone = known.word(), serial = stream.serial, from = ?from_serial, "whole zone is sent");
        } else {
            tracing::debug!(secondary = %secondary.name, zone = known.word(), serial = stream.serial, from = ?from_serial, "difference is sent");
        }
        Outcome::Messages(Box::new(Transfer {
            registry: self.registry.clone(),
            packer: Some(self.packer(request, zone)),
            form: self.form.clone(),
            stream,
            last: VecDeque::new(),
            signer: SequenceSigner::new(signed.key.clone(), signed.mac),
            running,
            _place: place,
        }))
    }

    /// The whole difference in one datagram, or else the SOA record alone, so that it is asked for over TCP (RFC 1995
    /// section 2).
    fn one_message(&self, request: &Message, mut stream: Stream, signed: &Signed, asked: &Asked) -> Vec<u8> {
        let soa = stream.soa_alone();
        let mut octets = self.fitting(request, &mut stream, asked.octets_max).unwrap_or_else(|| {
            let mut packer = self.packer(request, stream.zone);
            for rec in &soa.records {
                packer.push(&soa.owner, rec);
            }
            one(packer)
        });
        sign_response(&mut octets, &signed.key, &signed.mac, asked.unix_s);
        octets
    }

    fn fitting(&self, request: &Message, stream: &mut Stream, most: usize) -> Option<Vec<u8>> {
        if stream.kind == Kind::Whole {
            return None;
        }
        let mut packer = self.packer(request, stream.zone);
        while stream.next(&self.registry, &self.form, &mut packer).ok()? {
            packer.len().filter(|octets| *octets <= most)?;
        }
        Some(one(packer))
    }

    fn packer(&self, request: &Message, zone: Zone) -> Packer {
        Packer::new(request, self.form.zone(zone), self.udp_octets_max)
    }
}

/// The one message of what is so short.
fn one(packer: Packer) -> Vec<u8> {
    let mut messages = packer.finish();
    messages.pop_front().expect("there is always a last message")
}

/// How a question for a transfer came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) from: IpAddr,
    pub(crate) transport: Transport,
    /// Octets that an answer may have, without its signature.
    pub(crate) octets_max: usize,
    pub(crate) now: Instant,
    pub(crate) unix_s: u64,
}

impl Transfer {
    /// The next message, signed; `None` after the last one.
    ///
    /// # Errors
    ///
    /// [`Outrun`]: the connection is to be closed, so that what was sent counts for nothing.
    pub(crate) fn next(&mut self, unix_s: u64) -> Result<Option<Vec<u8>>, Outrun> {
        let message = loop {
            let Some(packer) = &mut self.packer else {
                break self.last.pop_front();
            };
            if let Some(message) = packer.take() {
                break Some(message);
            }
            if !self.stream.next(&self.registry, &self.form, packer)? {
                self.last = self.packer.take().map(Packer::finish).unwrap_or_default();
            }
        };
        Ok(message.map(|mut octets| {
            self.signer.sign(&mut octets, unix_s);
            octets
        }))
    }

    /// All of it was written.
    pub(crate) fn finish(self: Box<Self>, now: Instant) {
        tracing::debug!(zone = ?self.stream.zone, serial = self.stream.serial, "transfer written");
        self.running.finish(self.stream.kind, now);
    }
}

#[cfg(test)]
mod tests;
