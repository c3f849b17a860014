//! How long after its acknowledgement an update is seen by those who ask.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use zones::update::build_register_update;
use zones::{RegisterChange, TsigKey, tsig};

use super::paced::histogram;
use super::set::{DnsSet, LOCAL};
use super::updates::{Versions, now_s};

/// Longest wait for an acknowledgement, and for the new text after it.
const WAIT: Duration = Duration::from_secs(60);

/// Updates one object after the other, at most `count` and for at most `time`, and asks for each from its acknowledgement
/// on until the new text is answered. Times from acknowledgement to that answer, in nanoseconds; a question and its answer,
/// sent one after the other, are in every one.
///
/// # Errors
///
/// When an update is refused, or is not seen in a minute.
pub(super) fn visibility(
    server: SocketAddr,
    set: &DnsSet,
    key: &TsigKey,
    versions: &mut Versions,
    count: usize,
    time: Duration,
) -> Result<Histogram<u64>> {
    let socket = UdpSocket::bind((LOCAL, 0)).context("make a socket")?;
    socket.connect(server).context("connect a socket")?;
    let short = Some(Duration::from_millis(200));
    socket.set_read_timeout(short).context("set a socket")?;
    let mut times = histogram();
    let count = count.min(set.count);
    let start = Instant::now();
    for number in 0..count {
        if start.elapsed() >= time {
            break;
        }
        let index = number * (set.count / count);
        let new = set.register(index, versions.of(index) + 1);
        let text = new.strings().into_iter().find(|string| string.starts_with("tx="));
        let text = text.context("a register has a tx")?;
        let change = RegisterChange {
            old: Some(set.register(index, versions.of(index))),
            new,
        };
        let mut question = set.register_question(index)?;
        acknowledged(&socket, set, key, &change)?;
        let since = Instant::now();
        for id in 0_u16.. {
            ensure!(
                since.elapsed() < WAIT,
                "an acknowledged update is not seen after {} s",
                WAIT.as_secs()
            );
            question[..2].copy_from_slice(&id.to_be_bytes());
            socket.send(&question).context("send a question")?;
            let mut answer = [0; 2048];
            let Ok(octets @ 12..) = socket.recv(&mut answer) else {
                continue;
            };
            if answer[..2] == id.to_be_bytes() && contains(&answer[..octets], text.as_bytes()) {
                times.saturating_record(since.elapsed().as_nanos() as u64);
                break;
            }
        }
        versions.raise(index);
    }
    Ok(times)
}

/// Sends an update until it is acknowledged.
fn acknowledged(socket: &UdpSocket, set: &DnsSet, key: &TsigKey, change: &RegisterChange) -> Result<()> {
    // Whatever its id is: its answer is told by the signature.
    let mut message = build_register_update(&set.domain, 7, std::slice::from_ref(change)).context("build an update")?;
    let mac = tsig::sign_request(&mut message, key, now_s());
    socket.send(&message).context("send an update")?;
    let start = Instant::now();
    let mut answer = [0; 2048];
    while start.elapsed() < WAIT {
        let Ok(octets @ 12..) = socket.recv(&mut answer) else {
            continue;
        };
        if tsig::verify_response(&answer[..octets], key, &mac, now_s()).is_err() {
            continue;
        }
        let code = answer[3] & 0x0f;
        ensure!(
            code == 0,
            "an update of {} was refused with code {code}",
            change.new.address
        );
        return Ok(());
    }
    bail!("an update was not answered in {} s", WAIT.as_secs())
}

fn contains(answer: &[u8], text: &[u8]) -> bool {
    answer.windows(text.len()).any(|window| window == text)
}
