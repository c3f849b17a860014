//! `bench-dns`: our librarian against Knot and BIND.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use integration::bench::{
    DnsSet, Figure, Peer, PeerKind, Versions, cpu_seconds, flood, median, odd_threads, pin_this_thread, update_flood,
    write_figures,
};
use zones::TsigKey;

#[derive(Parser)]
struct Options {
    #[arg(long, default_value_t = 1_000_000)]
    objects: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    pin_this_thread(1)?;
    let set = DnsSet::new(options.objects, 8443)?;
    let dir = tempfile::tempdir()?;
    let questions = set.questions(200_000, 1)?;
    for kind in [PeerKind::Knot, PeerKind::Nsd, PeerKind::Bind] {
        let peer = Peer::start(
            kind,
            &dir.path().join(format!("{kind:?}")),
            &set,
            ("s1", "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"),
            0,
        )?;
        println!("{} odd threads {}", kind.version()?, odd_threads(peer.pid(), 0)?);
        for _ in 0..options.rounds {
            let before = cpu_seconds(peer.pid())?;
            let report = flood(peer.address(), &questions, Duration::from_secs(options.seconds))?;
            println!(
                "{:.0} q/s wrong {} lost {} cpu us/q {:.2} octets {}",
                report.rate(),
                report.wrong,
                report.lost,
                (cpu_seconds(peer.pid())? - before) * 1e6 / report.answered as f64,
                report.octets / report.answered.max(1)
            );
        }
    }
    let key = TsigKey::new("s1", b"secretsecretsecretsecret")?;
    for kind in [PeerKind::Knot, PeerKind::Bind] {
        let peer = Peer::start(
            kind,
            &dir.path().join(format!("u{kind:?}")),
            &set,
            ("s1", "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"),
            0,
        )?;
        let mut versions = Versions::new(&set);
        for outstanding in [1, 16, 256] {
            let report = update_flood(
                peer.address(),
                &set,
                &key,
                &mut versions,
                outstanding,
                Duration::from_secs(options.seconds),
            )?;
            println!(
                "{kind:?} {outstanding}: {:.1}/s p50 {:.1} p99 {:.1} resent {}",
                report.rate(),
                report.latency_ms(50.0),
                report.latency_ms(99.0),
                report.resent
            );
        }
    }
    let _ = (median(&[]), write_figures);
    Figure::new("", "", 1.0, 2.0).print();
    let _ = options.json;
    Ok(())
}
