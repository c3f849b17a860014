//! What a start makes of a checkpoint is what it makes of the whole log, or it makes nothing of it.

use std::fmt::Write as _;

use super::*;

/// All that a registry keeps over a restart, in words.
fn all_of(registry: &Registry) -> String {
    let view = registry.view();
    let index = view.index();
    let registers = &index.registers;
    let mut said = String::new();
    let rows = 0..u32::try_from(view.rows()).unwrap();
    let every: BTreeMap<_, _> = rows
        .map(|row| (registers.address(row), registers.register(row)))
        .collect();
    for register in every.values() {
        let row = registers.find(registers.key(row_of(registers, register))).unwrap();
        assert_eq!(registers.register(row), *register);
        writeln!(said, "{register:?}").unwrap();
    }
    for order in [registers.below("").collect::<Vec<_>>(), registers.ending("").collect()] {
        let keys = order.iter().map(|row| registers.key(*row));
        writeln!(said, "{:?}", keys.collect::<Vec<_>>()).unwrap();
    }
    for one in index.servers() {
        let counts = [
            registers.owned(&one.name),
            registers.naming(&one.name),
            registers.held(&one.name),
        ];
        writeln!(said, "{one:?} {counts:?}").unwrap();
    }
    for records in [&index.apex, &index.tree] {
        for node in records.iter() {
            writeln!(said, "{node:?} {:?}", records.seq(&node.name)).unwrap();
        }
    }
    let others = (index.other_entries(), index.serials(), index.plan(), index.reconcile());
    writeln!(said, "{others:?} {}", index.glance().is_delegated()).unwrap();
    said
}

fn row_of(registers: &registers::Registers, register: &Register) -> u32 {
    let key = key::key_of(&domain(), &register.address).unwrap();
    registers.find(&key).unwrap()
}

fn checkpoint_of(pool: &Pool) -> PathBuf {
    pool.path().with_extension("checkpoint")
}

/// The registry as it is read from such files of a pool, and how many entries of its log were read.
async fn read_from(pool: &Pool, extensions: &[&str]) -> (String, u64) {
    let (_dir, path) = crashed(pool, extensions);
    let mut storage = RedbStorage::open(&path, &domain().to_string()).unwrap();
    let beside = commit::Beside::of(&path);
    let taken = super::super::checkpoint::read(&beside.checkpoint, storage.incarnation, &domain(), &storage);
    let mut entries = 0;
    let from = taken.map_or(0, |(_, seq)| seq);
    storage
        .load(from, &mut |chunk| {
            entries += chunk.len() as u64;
            Ok(())
        })
        .unwrap();
    drop(storage);
    let registry = Registry::open(&path, &domain(), settings()).unwrap();
    let said = all_of(&registry);
    registry.close().await;
    (said, entries)
}

/// Objects in every state with few and many holders, changed again and again; delegations and ordinary records, some taken back.
async fn work(pool: &Pool, numbers: std::ops::Range<u32>, objects: &mut Vec<Register>) {
    for number in numbers {
        match number % 7 {
            0..=2 => {
                let text = match number % 3 {
                    0 => format!("3.{}.{number}", number % 5),
                    1 => format!("{number}.Capital"),
                    _ => format!("7.{}.{number}", "Long-".repeat(20)),
                };
                objects.extend(pool.create(&format!("s{}", 1 + number % 4), &[&text]).await);
            }
            3 | 4 => {
                let at = number as usize * 7 % objects.len();
                let old = objects[at].clone();
                let mut holders = vec![old.owner.clone()];
                let others = ["s1", "s2", "s3", "s4"].map(server);
                holders.extend(
                    others
                        .into_iter()
                        .filter(|name| *name != old.owner)
                        .take(number as usize % 4),
                );
                let new = Register {
                    holders,
                    tx: pool.tx(),
                    ..old.clone()
                };
                pool.change(Some(&old), &new).await.unwrap();
                objects[at] = new;
            }
            5 => {
                let old = objects.swap_remove(number as usize * 5 % objects.len());
                let new = Register {
                    epoch: old.epoch.next(),
                    state: State::Deleted,
                    holders: Vec::new(),
                    tx: pool.tx(),
                    ..old.clone()
                };
                pool.change(Some(&old), &new).await.unwrap();
            }
            _ if number % 2 == 0 => {
                let name = format!("w{}.hypernet.internal.", number % 9);
                let add = format!("{name} 60 A 192.0.2.{}", number % 250);
                pool.nsupdate("hypernet.internal.", &[&format!("- {name}"), &add])
                    .await
                    .unwrap();
            }
            _ => {
                let name = format!("{}.8.tree.hypernet.internal.", number % 9);
                let change = match number % 4 {
                    1 => format!("{name} 60 NS ns.elsewhere.example."),
                    _ => format!("- {name}"),
                };
                pool.nsupdate("tree.hypernet.internal.", &[&change]).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn start_from_a_checkpoint_is_that_from_the_whole_log_however_much_came_after_it() {
    let mut pool = Pool::new().await;
    let mut objects = Vec::new();
    let mut from = 0;
    // So much is done between two stops: nothing, a little, and more than the orders are made anew for.
    for count in [100, 0, 1, 9, 300, 40] {
        work(&pool, from..from + count, &mut objects).await;
        from += count;
        pool.registry.close().await;
        let (whole, log) = read_from(&pool, &["redb"]).await;
        let (short, read) = read_from(&pool, &["redb", "checkpoint"]).await;
        assert_eq!(short, whole);
        assert!(read == 0 && log > 100, "{read} of {log} entries were read");
        pool = pool.opened_again(settings().journal);
        assert_eq!(all_of(&pool.registry), whole);
        // What is done now is behind the checkpoint: librarians are killed in between.
        for more in [0, 3, 200] {
            work(&pool, from..from + more, &mut objects).await;
            from += more;
            let (whole, log) = read_from(&pool, &["redb", "wal"]).await;
            let (short, read) = read_from(&pool, &["redb", "wal", "checkpoint"]).await;
            assert_eq!(short, whole);
            assert!(
                read < log && (read == 0) == (more == 0),
                "{read} of {log} entries were read"
            );
        }
    }
}

#[tokio::test]
async fn checkpoint_of_another_course_of_things_is_not_taken() {
    let pool = Pool::new().await;
    pool.registry.close().await;
    let before = std::fs::read(pool.path()).unwrap();
    let pool = pool.opened_again(settings().journal);
    pool.create("s1", &["1.1", "1.2", "1.3"]).await;
    pool.registry.close().await;
    // The registry of the day before is put back by hand, and goes another way: less far, then as far, then further.
    std::fs::write(pool.path(), before).unwrap();
    let checkpoint = std::fs::read(checkpoint_of(&pool)).unwrap();
    for address in ["2.1", "2.2", "2.3", "2.4", "2.5"] {
        let (whole, _) = read_from(&pool, &["redb"]).await;
        std::fs::write(checkpoint_of(&pool), &checkpoint).unwrap();
        let (found, _) = read_from(&pool, &["redb", "checkpoint"]).await;
        assert_eq!(found, whole);
        std::fs::remove_file(checkpoint_of(&pool)).unwrap();
        let again = Registry::open(&pool.path(), &domain(), settings()).unwrap();
        let by = By::Agent(server("s1"));
        let change = RegisterChange {
            old: None,
            new: pool.first(address, "s1"),
        };
        let message = build_register_update(&domain(), 1, &[change]).unwrap();
        again.submit(proposal(by, &message)).await.unwrap();
        again.close().await;
    }
}

#[tokio::test]
async fn checkpoint_of_another_registry_or_a_damaged_one_is_not_taken() {
    let pool = Pool::new().await;
    pool.create("s1", &["1.1", "1.2"]).await;
    pool.registry.close().await;
    let other = Pool::new().await;
    other.create("s1", &["2.1", "2.2"]).await;
    other.registry.close().await;
    let (whole, _) = read_from(&pool, &["redb"]).await;
    let good = std::fs::read(checkpoint_of(&pool)).unwrap();
    let mut files = vec![std::fs::read(checkpoint_of(&other)).unwrap(), Vec::new(), vec![0; 100]];
    for at in [0, 20, 40, 60, 100, good.len() / 2, good.len() - 1] {
        files.push(good[..at].to_vec());
        let mut changed = good.clone();
        changed[at] ^= 1;
        files.push(changed);
    }
    files.push([good, vec![7]].concat());
    for (number, file) in files.iter().enumerate() {
        std::fs::write(checkpoint_of(&pool), file).unwrap();
        let (found, _) = read_from(&pool, &["redb", "checkpoint"]).await;
        assert_eq!(found, whole, "{number}");
    }
}

#[test]
fn after_a_commit_that_failed_no_checkpoint_is_written() {
    for fails in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let beside = commit::Beside::of(&dir.path().join("registry.redb"));
        let path = beside.checkpoint.clone();
        let log = MemoryLog::default();
        let (registry, mut writer, waiting) =
            Registry::prepare(Box::new(log.clone()), [7; 16], &domain(), settings(), Some(beside)).unwrap();
        let mut waiting = Waiting(waiting);
        let mut add = |name: &str| {
            let add = ServerChange::Add {
                name: server(name),
                role: Role::Serving,
            };
            registry.submit_by_hand(Proposal::Server(add), &mut writer, &mut waiting)
        };
        add("s1").unwrap();
        log.cut(fails.then_some(Cut::After));
        assert_eq!(add("s2").is_err(), fails);
        log.cut(None);
        writer.keep_memory();
        assert_eq!(path.exists(), !fails);
        if !fails {
            let taken = super::super::checkpoint::read(&path, [7; 16], &domain(), &log);
            assert_eq!(taken.map(|(index, _)| index.servers().len()), Some(2));
        }
    }
}

/// Registers of every kind as a checkpoint has them.
static SAVED: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let pool = Pool::new().await;
        work(&pool, 0..40, &mut Vec::new()).await;
        pool.registry.saved()
    })
});

proptest::proptest! {
    #[test]
    fn registers_that_were_changed_behind_their_digest_are_refused_or_whole(
        changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0_u8..), 0..4),
        cut in proptest::option::weighted(0.2, proptest::prelude::any::<proptest::sample::Index>()),
    ) {
        let mut octets = SAVED.clone();
        for (at, octet) in changes {
            let at = at.index(octets.len());
            octets[at] = octet;
        }
        if let Some(at) = cut {
            octets.truncate(at.index(octets.len()));
        }
        read_files(&octets, &domain());
    }
}
