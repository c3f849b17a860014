//! Tells secondaries that a zone changed (RFC 1996), signed.
//!
//! For each secondary, zone and address at most one message is outstanding, and at most one a second begins; what changes
//! meanwhile is told with the next. A message without an answer is sent again after 1, 2, 4 and 8 seconds, then given up
//! until the next change: the secondary asks by itself every 5 seconds.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use certs::ClientName;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use zones::Mac;
use zones::tsig::{sign_request, verify_response};

use super::secondary::TransferredZone;
use super::serials::{self, Told};
use super::{Transfers, stream};
use crate::random;
use crate::registry::Proposal;
use crate::registry::index::soa;

/// How often it is looked whether a serial has risen.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Least time between two messages about one zone to one address.
const GAP: Duration = Duration::from_secs(1);
/// Time to the first repetition; each further one takes twice as long.
const REPEAT: Duration = Duration::from_secs(1);
/// Messages before a secondary is left to ask by itself.
const TRIES: u32 = 5;
/// Least time between two writings of the serials that were told.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// What is told to one address of one zone.
#[derive(Debug, Default)]
struct Announcer {
    /// The serial that was answered for, or given up.
    heard: Option<u32>,
    flight: Option<Flight>,
    /// No message begins before this.
    next: Option<Instant>,
}

/// A message without an answer yet.
#[derive(Debug)]
struct Flight {
    id: u16,
    serial: u32,
    tries: u32,
    due: Instant,
    /// Of the signature.
    mac: Option<Mac>,
}

/// What is to be done.
#[derive(Debug, Eq, PartialEq)]
enum Step {
    Nothing,
    /// Send a message.
    Send,
    /// Nobody answers.
    GiveUp,
}

impl Announcer {
    fn poll(&mut self, now: Instant, serial: u32, id: impl FnOnce() -> u16) -> Step {
        match &mut self.flight {
            Some(flight) if now < flight.due => Step::Nothing,
            Some(flight) if flight.tries >= TRIES => {
                self.heard = Some(flight.serial);
                self.flight = None;
                Step::GiveUp
            }
            Some(flight) => {
                flight.due = now + REPEAT * (1 << flight.tries);
                flight.tries += 1;
                flight.serial = serial;
                Step::Send
            }
            None if self.heard == Some(serial) || self.next.is_some_and(|next| now < next) => Step::Nothing,
            None => {
                self.next = Some(now + GAP);
                self.flight = Some(Flight {
                    id: id(),
                    serial,
                    tries: 1,
                    due: now + REPEAT,
                    mac: None,
                });
                Step::Send
            }
        }
    }

    /// An answer came to the message that is outstanding.
    fn answered(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.heard = Some(flight.serial);
        }
    }
}

type Announcers = BTreeMap<(ClientName, TransferredZone, SocketAddr), Announcer>;

/// The sockets that messages leave by.
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Sockets {
    /// From the address that the librarian answers at: secondaries take messages from there alone.
    async fn bind(own: IpAddr) -> Sockets {
        let v4 = match own {
            IpAddr::V4(own) => own,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        let v6 = match own {
            IpAddr::V6(own) => own,
            IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
        };
        Sockets {
            v4: UdpSocket::bind((v4, 0)).await.ok(),
            // A machine without it tells nobody there.
            v6: UdpSocket::bind((v6, 0)).await.ok(),
        }
    }

    fn to(&self, address: SocketAddr) -> Option<&UdpSocket> {
        match address {
            SocketAddr::V4(_) => self.v4.as_ref(),
            SocketAddr::V6(_) => self.v6.as_ref(),
        }
    }
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

fn unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Transfers {
    /// Sees to it that serials are later than any that a secondary may have, before one is told.
    pub async fn begin(&self) {
        let Some(dir) = &self.dir else { return };
        if self.book.secondaries().is_empty() {
            return;
        }
        let before = serials::read(dir);
        if let Some(renumber) = serials::renumbered(&self.told(), before.as_ref(), unix_s()) {
            match self.registry.submit(Proposal::Renumber(renumber)).await {
                Ok(()) => tracing::info!(?renumber, "serials begin anew: secondaries take whole zones"),
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "serials could not be raised"),
            }
        }
        self.write_told();
    }

    /// What is told now.
    fn told(&self) -> Told {
        let view = self.registry.view();
        let incarnation = self.registry.incarnation();
        Told {
            incarnation: incarnation.iter().map(|octet| format!("{octet:02x}")).collect(),
            form: self.form.mark(),
            obj: view.serials().obj,
            tree: view.serials().tree,
            domain: view.index().apex_serial(),
        }
    }

    fn write_told(&self) {
        let Some(dir) = &self.dir else { return };
        if let Err(error) = serials::write(dir, &self.told()) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "serials that were told are not kept"
            );
        }
    }

    /// Tells secondaries of changes until stopped.
    pub async fn run(&self, own: IpAddr, stop: CancellationToken) {
        let sockets = Sockets::bind(own).await;
        let mut announcers = Announcers::new();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut v4, mut v6) = ([0; 1500], [0; 1500]);
        let mut written = (Instant::now(), None);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {
                    self.announce(&mut announcers, &sockets).await;
                    let serials = self.registry.view().serials();
                    if !announcers.is_empty() && written.1 != Some(serials) && written.0.elapsed() >= WRITE_EVERY {
                        self.write_told();
                        written = (Instant::now(), Some(serials));
                    }
                }
                Ok((length, from)) = receive(sockets.v4.as_ref(), &mut v4) => {
                    self.hear(&mut announcers, &v4[..length], from);
                }
                Ok((length, from)) = receive(sockets.v6.as_ref(), &mut v6) => {
                    self.hear(&mut announcers, &v6[..length], from);
                }
            }
        }
        if !self.book.secondaries().is_empty() {
            self.write_told();
        }
    }

    async fn announce(&self, announcers: &mut Announcers, sockets: &Sockets) {
        let secondaries = self.book.secondaries();
        announcers.retain(|(name, zone, address), _| {
            let same = secondaries.iter().find(|one| one.name == *name);
            same.is_some_and(|one| one.zones.contains(zone) && one.notify.contains(address))
        });
        let keys = self.keys.current();
        for secondary in &secondaries {
            let zones = secondary.zones.iter();
            let pairs = zones.flat_map(|zone| secondary.notify.iter().map(|address| (*zone, *address)));
            // Collected: a closure does not live across an await.
            for (zone, address) in pairs.collect::<Vec<_>>() {
                let announcer = announcers.entry((secondary.name.clone(), zone, address)).or_default();
                let serial = stream::serial(self.registry.view().index(), zone.zone());
                match announcer.poll(Instant::now(), serial, || u16::from_be_bytes(random::octets())) {
                    Step::Nothing => {}
                    Step::GiveUp => {
                        tracing::info!(secondary = %secondary.name, zone = zone.word(), %address, serial, "no answer to NOTIFY");
                        self.book.notified(&secondary.name, zone, false);
                    }
                    Step::Send => {
                        let key = keys.secondary_key(&secondary.name);
                        let (Some(flight), Some(key), Some(socket)) = (&mut announcer.flight, key, sockets.to(address))
                        else {
                            continue;
                        };
                        let mut octets = self.message(flight.id, zone, serial);
                        flight.mac = Some(sign_request(&mut octets, &key.tsig, unix_s()));
                        // Not sent is as good as lost: it is sent again.
                        let _ = socket.send_to(&octets, address).await;
                        self.book.notified(&secondary.name, zone, true);
                    }
                }
            }
        }
    }

    /// The message, with the SOA record as a hint (RFC 1996 section 3.7).
    fn message(&self, id: u16, zone: TransferredZone, serial: u32) -> Vec<u8> {
        let name = self.form.domain.zone(zone.zone()).clone();
        let mut message = Message::new(id, MessageType::Query, OpCode::Notify);
        message.metadata.authoritative = true;
        message.add_query(Query::query(name.clone(), RecordType::SOA));
        if zone != TransferredZone::Domain {
            let soa = RData::SOA(soa(&self.form.domain, serial));
            message.add_answer(Record::from_rdata(name, self.form.ttl_s, soa));
        }
        message.to_vec().expect("a question and one record fit a message")
    }

    fn hear(&self, announcers: &mut Announcers, octets: &[u8], from: SocketAddr) {
        let Some(id) = octets.get(..2).map(|id| u16::from_be_bytes([id[0], id[1]])) else {
            return;
        };
        let keys = self.keys.current();
        for ((name, zone, address), announcer) in announcers.iter_mut().filter(|((.., to), _)| *to == from) {
            let Some(flight) = announcer.flight.as_ref().filter(|flight| flight.id == id) else {
                continue;
            };
            let (Some(mac), Some(key)) = (&flight.mac, keys.secondary_key(name)) else {
                continue;
            };
            if let Err(error) = verify_response(octets, &key.tsig, mac, unix_s()) {
                // The real answer may still come.
                tracing::debug!(secondary = %name, %address, %error, "answer to NOTIFY does not count");
                continue;
            }
            let rcode = Message::from_vec(octets).map(|answer| answer.metadata.response_code);
            if rcode.as_ref().ok() != Some(&ResponseCode::NoError) {
                tracing::warn!(secondary = %name, zone = zone.word(), %address, ?rcode, "NOTIFY is refused: correct the secondary's settings");
            }
            announcer.answered();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_outstanding_is_repeated_ever_later_and_then_given_up() {
        let begin = Instant::now();
        let mut announcer = Announcer::default();
        let mut sent = Vec::new();
        let mut gave_up = None;
        for tenth in 0..600 {
            let now = begin + Duration::from_millis(100 * tenth);
            // The zone changes all the time.
            match announcer.poll(now, u32::try_from(tenth).unwrap(), || 7) {
                Step::Send => sent.push(tenth),
                Step::GiveUp => {
                    gave_up = Some(tenth);
                    break;
                }
                Step::Nothing => {}
            }
        }
        assert_eq!(sent, [0, 10, 30, 70, 150]);
        assert_eq!(gave_up, Some(310));
    }

    #[test]
    fn at_most_one_a_second_begins_and_it_tells_the_latest_serial() {
        let begin = Instant::now();
        let mut announcer = Announcer::default();
        let at = |tenth: u64| begin + Duration::from_millis(100 * tenth);
        assert_eq!(announcer.poll(at(0), 1, || 1), Step::Send);
        announcer.answered();
        assert_eq!(announcer.poll(at(1), 1, || 2), Step::Nothing, "it has been heard");
        assert_eq!(announcer.poll(at(2), 5, || 2), Step::Nothing, "too soon");
        assert_eq!(announcer.poll(at(10), 9, || 2), Step::Send);
        announcer.answered();
        assert_eq!(announcer.heard, Some(9));
        assert_eq!(announcer.poll(at(30), 9, || 3), Step::Nothing);
    }
}
