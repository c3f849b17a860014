//! Knot, NSD and BIND take zones from a running librarian and follow it.
//!
//! `HYPERNET_TRANSFER_CHANGES` says how many changes they follow; 300 unless said.

mod dns;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dns::Client;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use integration::harness::{Pool, Secondary, SecondaryKind, all_current, dig, nsupdate, until};
use zones::{Epoch, Register, RegisterChange, State};

const ZONES: [&str; 3] = ["obj.hypernet.internal", "tree.hypernet.internal", "hypernet.internal"];
const WAIT: Duration = Duration::from_secs(60);

fn changes() -> u64 {
    let said = std::env::var("HYPERNET_TRANSFER_CHANGES").ok();
    said.and_then(|said| said.parse().ok()).unwrap_or(300)
}

fn pool() -> Result<Pool> {
    let pool = Pool::builder(env!("CARGO_BIN_EXE_demo"))
        .servers(2)
        .free(0)
        .librarian_setting("networks", Vec::<String>::new())
        .start()?;
    pool.wait_for_servers()?;
    Ok(pool)
}

/// Changes zones as a pool in use does, from one number of changes to another.
struct Work<'p> {
    pool: &'p Pool,
    s1: Client,
    objects: Vec<Register>,
}

impl<'p> Work<'p> {
    fn new(pool: &'p Pool) -> Work<'p> {
        Work {
            pool,
            s1: Client::new(pool, "s1"),
            objects: Vec::new(),
        }
    }

    fn update(&self, change: RegisterChange) -> Result<()> {
        let answer = self.s1.update(&[change])?;
        ensure!(
            answer.code == ResponseCode::NoError,
            "{} {:?}",
            answer.code,
            answer.why()
        );
        Ok(())
    }

    fn run(&mut self, numbers: std::ops::Range<u64>) -> Result<()> {
        for number in numbers {
            match number % 6 {
                0 | 1 => self.objects.push(self.s1.create(&format!("7.{number}.x"), "s1")?),
                2 | 3 => {
                    let place = usize::try_from(number * 7)? % self.objects.len();
                    let change = dns::touched(&self.objects[place]);
                    self.objects[place] = change.new.clone();
                    self.update(change)?;
                }
                4 if number % 4 == 0 => {
                    let old = self
                        .objects
                        .swap_remove(usize::try_from(number * 5)? % self.objects.len());
                    let new = Register {
                        state: State::Deleted,
                        epoch: Epoch(old.epoch.0 + 1),
                        holders: Vec::new(),
                        tx: dns::fresh_tx(),
                        ..old.clone()
                    };
                    self.update(RegisterChange { old: Some(old), new })?;
                }
                _ if number % 10 < 2 => self.records(number)?,
                _ => self.objects.push(self.s1.create(&format!("8.{number}"), "s1")?),
            }
        }
        Ok(())
    }

    /// The operator's records, and delegations of prefixes.
    fn records(&self, number: u64) -> Result<()> {
        let key = self.pool.admin_key();
        let small = number % 40;
        let scripts = [
            format!(
                "zone hypernet.internal.\nupdate delete w{small}.hypernet.internal. A\n\
                 update add w{small}.hypernet.internal. 60 A 192.0.2.{}\n\
                 update delete t.hypernet.internal. TXT\nupdate add t.hypernet.internal. 60 TXT \"number {number}\"\nsend\n",
                number % 250
            ),
            format!(
                "zone tree.hypernet.internal.\nupdate add {small}.9.tree.hypernet.internal. 60 NS ns.{small}.9.tree.hypernet.internal.\n\
                 update add ns.{small}.9.tree.hypernet.internal. 60 A 192.0.2.{}\nsend\n",
                number % 250
            ),
        ];
        for script in scripts {
            nsupdate(self.pool.dns(), Some(&key), &script)?.success()?;
        }
        Ok(())
    }
}

#[test]
fn knot_nsd_and_bind_hold_what_the_librarian_does_and_follow_it_by_differences() -> Result<()> {
    let mut pool = pool()?;
    let all = changes();
    {
        let mut work = Work::new(&pool);
        work.run(0..40)?;
    }
    let start = |kind| Secondary::start(&pool, kind);
    let mut secondaries = SecondaryKind::ALL.map(start).into_iter().collect::<Result<Vec<_>>>()?;
    let follow =
        |pool: &Pool, secondaries: &[Secondary]| secondaries.iter().try_for_each(|one| one.follows(pool, &ZONES));
    follow(&pool, &secondaries)?;
    let objects = {
        let mut work = Work::new(&pool);
        work.objects.push(work.s1.create("7.begin", "s1")?);
        work.run(40..40 + all)?;
        work.objects
    };
    follow(&pool, &secondaries)?;
    let log = who_asks_for_differences_gets_them(&pool)?;
    for secondary in &secondaries {
        for zone in secondary.standing(&pool)? {
            let counts = zone.counts;
            ensure!(
                (counts.whole == 1 || may_ask_for_whole_zones(secondary))
                    && counts.difference > 0
                    && counts.failed == 0,
                "{} of {}: {counts:?}; the librarian said:\n{log}\nthe secondary said:\n{}",
                zone.zone,
                secondary.kind().name(),
                secondary.log_end()
            );
        }
    }
    until("all to be known as current", WAIT, || all_current(&pool, &secondaries))?;

    // A secondary that was away follows what it missed.
    for secondary in &mut secondaries {
        secondary.stop()?;
    }
    {
        let mut work = Work::new(&pool);
        work.objects.clone_from(&objects);
        work.run(1000 + all..1020 + all)?;
    }
    for secondary in &mut secondaries {
        secondary.run()?;
    }
    follow(&pool, &secondaries)?;

    // A librarian that was away goes on with its serials.
    pool.stop_librarian()?;
    pool.start_librarian()?;
    pool.wait_for_servers()?;
    {
        let work = Work::new(&pool);
        work.records(2001)?;
        work.s1.create("7.end", "s1")?;
    }
    follow(&pool, &secondaries)?;
    for secondary in &secondaries {
        for zone in secondary.standing(&pool)? {
            let counts = zone.counts;
            ensure!(
                (counts.whole == 0 || may_ask_for_whole_zones(secondary)) && counts.difference > 0,
                "after a restart, {} of {}: {counts:?}",
                zone.zone,
                secondary.kind().name()
            );
        }
    }
    who_asks_for_differences_gets_them(&pool)?;
    let answer = dig(
        secondaries[2].address(),
        &["7.end.obj.hypernet.internal.", "SRV", "+short"],
    )?;
    ensure!(
        answer.stdout.contains("s1.pool.hypernet.internal."),
        "{}",
        answer.stdout
    );
    Ok(())
}

/// No secondary asked for differences and got a whole zone instead, as the librarian's log says, which is given back.
fn who_asks_for_differences_gets_them(pool: &Pool) -> Result<String> {
    let log = std::fs::read_to_string(pool.dir().join("logs/librarian.log"))?;
    let instead = |line: &&str| line.contains("whole zone is sent") && line.contains("from=Some");
    let instead: Vec<&str> = log.lines().filter(instead).collect();
    ensure!(instead.is_empty(), "whole zones instead of differences: {instead:#?}");
    Ok(log)
}

/// NSD asks for a whole zone although it has one when a transfer seems to have failed; it tells by the second at which it came, so
/// that two within one second seem so now and then.
fn may_ask_for_whole_zones(secondary: &Secondary) -> bool {
    secondary.kind() == SecondaryKind::Nsd
}

#[test]
fn secondary_that_the_journal_does_not_reach_back_to_takes_whole_zones_again() -> Result<()> {
    let mut pool = pool()?;
    pool.set_librarian("transfers.journal_changes", 30)?;
    pool.stop_librarian()?;
    pool.start_librarian()?;
    pool.wait_for_servers()?;
    let mut work = Work::new(&pool);
    work.run(0..20)?;
    let mut secondaries = SecondaryKind::ALL
        .map(|kind| Secondary::start(&pool, kind))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for secondary in &mut secondaries {
        secondary.follows(&pool, &ZONES)?;
        secondary.stop()?;
    }
    work.run(20..200)?;
    for secondary in &mut secondaries {
        let whole = |secondary: &Secondary| -> Result<u64> {
            let standing = secondary.standing(&pool)?;
            let obj = standing.iter().find(|zone| zone.zone == "obj").context("obj")?;
            Ok(obj.counts.whole)
        };
        let before = whole(secondary)?;
        secondary.run()?;
        secondary.follows(&pool, &ZONES)?;
        ensure!(whole(secondary)? > before, "{}", secondary.kind().name());
    }
    // They asked for differences: that check is worth something.
    ensure!(who_asks_for_differences_gets_them(&pool).is_err());
    Ok(())
}

#[test]
fn stolen_secondary_key_takes_its_own_zones_and_does_nothing_else() -> Result<()> {
    let pool = pool()?;
    let s1 = Client::new(&pool, "s1");
    let register = s1.create("3.1.secret", "s1")?;
    pool.librarian(&["secondary", "add", "ns2", "--zone", "obj"])?;
    let path = pool.key("ns2");
    let key = path.to_str().context("a path in UTF-8")?;
    let transfer = |zone: &str| dig(pool.dns(), &["-k", key, zone, "AXFR"]);
    // Of its zone it sees all, and it may ask for the SOA record.
    let taken = transfer("obj.hypernet.internal.")?.stdout;
    ensure!(taken.contains("3.1.secret.obj.hypernet.internal."), "{taken}");
    let ns2 = Client::new(&pool, "ns2");
    let ask = |text: &str, kind| ns2.ask(&dns::name(text), kind);
    assert_eq!(
        ask("obj.hypernet.internal.", RecordType::SOA)?.code,
        ResponseCode::NoError
    );
    // Other zones it does not get, least of all that of the servers.
    for zone in [
        "tree.hypernet.internal.",
        "hypernet.internal.",
        "pool.hypernet.internal.",
    ] {
        let refused = transfer(zone)?.stdout;
        ensure!(refused.contains("Transfer failed"), "{refused}");
    }
    // To a question it is a stranger.
    for hidden in ["3.1.secret.obj.hypernet.internal.", "s1.pool.hypernet.internal."] {
        assert_eq!(ask(hidden, RecordType::SRV)?.code, ResponseCode::NXDomain, "{hidden}");
    }
    assert_eq!(ask("3.1.secret.", RecordType::A)?.code, ResponseCode::Refused);
    // It changes nothing.
    for change in [dns::touched(&register), dns::creation("3.2", "s1")] {
        assert_eq!(ns2.update(&[change])?.code, ResponseCode::Refused);
    }
    let script = "zone hypernet.internal.\nupdate add x.hypernet.internal. 60 A 192.0.2.1\nsend\n";
    let refused = nsupdate(pool.dns(), Some(&path), script)?;
    ensure!(refused.stderr.contains("REFUSED"), "{}", refused.stderr);
    assert_eq!(s1.register("3.1.secret")?, Some(register));
    // Taken away it is no key any more.
    let kept = std::fs::read(&path)?;
    pool.librarian(&["secondary", "remove", "ns2"])?;
    std::fs::write(&path, kept)?;
    let refused = transfer("obj.hypernet.internal.")?.stdout;
    ensure!(refused.contains("Transfer failed"), "{refused}");
    Ok(())
}

#[test]
fn keys_of_agents_applications_and_the_admin_transfer_nothing() -> Result<()> {
    let pool = pool()?;
    pool.add_client("alice", &["read:*"])?;
    pool.librarian(&["secondary", "add", "ns2"])?;
    for holder in ["s1", "admin", "alice"] {
        let path = pool.key(holder);
        let key = path.to_str().context("a path in UTF-8")?;
        for zone in ZONES {
            let refused = dig(pool.dns(), &["-k", key, zone, "AXFR"])?.stdout;
            ensure!(refused.contains("Transfer failed"), "{holder} {zone}: {refused}");
        }
    }
    Ok(())
}

#[test]
fn registry_made_anew_is_taken_by_secondaries_that_had_later_serials() -> Result<()> {
    let mut pool = pool()?;
    {
        let mut work = Work::new(&pool);
        work.run(0..60)?;
    }
    let secondaries = SecondaryKind::ALL
        .map(|kind| Secondary::start(&pool, kind))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for secondary in &secondaries {
        secondary.follows(&pool, &ZONES)?;
    }
    pool.stop_librarian()?;
    pool.librarian(&["rebuild", "--yes"])?;
    pool.start_librarian()?;
    for secondary in &secondaries {
        secondary.follows(&pool, &ZONES)?;
        let gone = dig(secondary.address(), &["7.1.x.obj.hypernet.internal.", "TXT"])?;
        ensure!(gone.rcode() == Some("NXDOMAIN"), "{}", gone.stdout);
    }
    Ok(())
}
