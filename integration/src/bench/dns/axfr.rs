//! Takes a whole zone by AXFR (RFC 5936), or what changed in it by IXFR (RFC 1995), as fast as it comes, and counts.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use zones::{Domain, TsigKey, Zone, tsig};

use super::updates::now_s;

/// Longest wait for the next octets: some servers prepare a zone first.
const READ_WAIT: Duration = Duration::from_secs(60);
/// Longest time of a whole transfer.
const TRANSFER_WAIT: Duration = Duration::from_secs(300);
const AXFR: u16 = 252;
const IXFR: u16 = 251;
const SOA: u16 = 6;

/// What came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    /// Records, all SOA among them.
    pub(super) records: u64,
    /// SOA records: two in a whole zone, four or more in a difference.
    pub(super) soas: u64,
    /// Octets of all messages.
    pub(super) octets: u64,
    /// Messages.
    pub(super) messages: u64,
    /// From the connection to the last record.
    pub(super) elapsed: Duration,
}

impl Transfer {
    /// Records a second.
    #[must_use]
    pub(super) fn rate(&self) -> f64 {
        self.records as f64 / self.elapsed.as_secs_f64()
    }
}

/// Transfers the `obj` zone, or its changes since a serial, signed with `key` if one is given; signatures of the answers are not
/// checked. `None` when the server refuses.
///
/// # Errors
///
/// When what comes is no zone: it does not begin and end with the SOA, or stops between.
pub(super) fn transfer(
    server: SocketAddr,
    domain: &Domain,
    key: Option<&TsigKey>,
    since: Option<u32>,
) -> Result<Option<Transfer>> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, READ_WAIT).context("connect")?;
    stream.set_read_timeout(Some(READ_WAIT)).context("set a socket")?;
    let mut question = question(domain, since)?;
    if let Some(key) = key {
        tsig::sign_request(&mut question, key, now_s());
    }
    let octets = u16::try_from(question.len()).context("measure a question")?;
    stream.write_all(&octets.to_be_bytes()).context("send a question")?;
    stream.write_all(&question).context("send a question")?;
    let mut stream = BufReader::with_capacity(1 << 20, stream);
    let mut message = vec![0_u8; usize::from(u16::MAX)];
    let mut came = Transfer {
        records: 0,
        soas: 0,
        octets: 0,
        messages: 0,
        elapsed: Duration::ZERO,
    };
    let (mut first, mut over) = (None, false);
    while !over {
        ensure!(start.elapsed() < TRANSFER_WAIT, "a transfer takes too long");
        let mut octets = [0; 2];
        stream.read_exact(&mut octets).context("read a transfer")?;
        let message = &mut message[..usize::from(u16::from_be_bytes(octets))];
        stream.read_exact(message).context("read a transfer")?;
        let code = message.get(3).context("read a header")? & 0x0f;
        if came.messages == 0 && code != 0 {
            return Ok(None);
        }
        ensure!(code == 0, "a transfer broke off with code {code}");
        came.messages += 1;
        came.octets += message.len() as u64;
        let serials = serials(message).context("a message of a transfer is cut short")?;
        for serial in serials {
            ensure!(!over, "a transfer goes on after its last SOA");
            ensure!(
                came.records > 0 || serial.is_some(),
                "a transfer begins without the SOA"
            );
            came.records += 1;
            if let Some(serial) = serial {
                came.soas += 1;
                // At the other even places are the serials that a difference leads away from.
                over = serial == *first.get_or_insert(serial) && came.soas.is_multiple_of(2);
            }
        }
    }
    came.elapsed = start.elapsed();
    if came.records < 2 {
        bail!("a transfer holds nothing");
    }
    Ok(Some(came))
}

/// The question for the whole zone, or for what changed since a serial.
fn question(domain: &Domain, since: Option<u32>) -> Result<Vec<u8>> {
    let kind = if since.is_some() { IXFR } else { AXFR };
    let mut question = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, u8::from(since.is_some()), 0, 0];
    for label in domain.zone(Zone::Obj).iter() {
        question.push(u8::try_from(label.len()).context("measure a label")?);
        question.extend_from_slice(label);
    }
    question.push(0);
    question.extend_from_slice(&kind.to_be_bytes());
    question.extend_from_slice(&[0, 1]);
    if let Some(serial) = since {
        // The zone's SOA record, of which only the serial counts: its names are the root.
        question.extend_from_slice(&[0xc0, 12, 0, SOA as u8, 0, 1, 0, 0, 0, 0, 0, 22, 0, 0]);
        question.extend_from_slice(&serial.to_be_bytes());
        question.extend_from_slice(&[0; 16]);
    }
    Ok(question)
}

/// For each of a message's answers, in their order, the serial that it has if it is a SOA record.
pub(super) fn serials(message: &[u8]) -> Option<Vec<Option<u32>>> {
    let number = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let mut at = 12;
    for _ in 0..number(4)? {
        at = past_name(message, at)? + 4;
    }
    let answers = number(6)?;
    let mut serials = Vec::with_capacity(usize::from(answers));
    for _ in 0..answers {
        at = past_name(message, at)?;
        let is_soa = number(at)? == SOA;
        at += 10 + usize::from(number(at + 8)?);
        // Behind two names five numbers, the serial first.
        let serial = message.get(at.checked_sub(20)?..at)?.first_chunk()?;
        serials.push(is_soa.then(|| u32::from_be_bytes(*serial)));
    }
    Some(serials)
}

/// Where a name that begins at `at` ends.
fn past_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            octet if octet & 0xc0 == 0xc0 => return Some(at + 2),
            octet => at += 1 + usize::from(octet),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_read_past_names_whole_and_compressed() {
        let mut message = vec![0, 1, 0x84, 0, 0, 1, 0, 2, 0, 0, 0, 0];
        message.extend_from_slice(b"\x03obj\x01d\x00\x00\xfc\x00\x01");
        message.extend_from_slice(b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x05\x00\x18\x01m\x00\x00");
        message.extend_from_slice(&[[0, 0, 1, 2], [0, 0, 0, 5], [0, 0, 0, 5], [0, 0, 0, 60], [0, 0, 0, 2]].concat());
        message.extend_from_slice(b"\x01a\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x05\x00\x03\x02hi");
        assert_eq!(serials(&message), Some(vec![Some(258), None]));
        assert_eq!(serials(&message[..message.len() - 1]), None);
    }
}
