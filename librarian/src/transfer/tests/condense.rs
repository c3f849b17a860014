//! Many differences as one.

use super::*;

/// Records of an answer that are those of an object.
fn of_object(answer: &[Record], name: &str) -> usize {
    answer.iter().filter(|record| record.name.to_string() == name).count()
}

#[tokio::test]
async fn object_that_changed_ten_times_goes_and_comes_once_and_one_that_came_and_went_is_not_told_of() {
    let primary = Primary::new(JournalBounds::default()).await;
    let pool = &primary.pool;
    let mut register = pool.create("s1", &["3.1"]).await.remove(0);
    let mut copy = Copy::default();
    copy.take(&primary.take(ZONES[0], None));
    let before = copy.soa.split_whitespace().nth(6).unwrap().parse().unwrap();
    for _ in 0..10 {
        let new = Register {
            tx: pool.tx(),
            ..register.clone()
        };
        pool.change(Some(&register), &new).await.unwrap();
        register = new;
    }
    let gone = pool.create("s1", &["3.2"]).await.remove(0);
    let deleted = Register {
        state: State::Deleted,
        epoch: Epoch(2),
        holders: Vec::new(),
        tx: pool.tx(),
        ..gone.clone()
    };
    pool.change(Some(&gone), &deleted).await.unwrap();
    let difference = primary.take(ZONES[0], Some(before));
    assert_eq!(of_object(&difference, "3.1.obj.hypernet.internal."), 2);
    assert_eq!(of_object(&difference, "3.2.obj.hypernet.internal."), 0);
    let soas: Vec<u32> = difference.iter().filter(|record| is_soa(record)).map(serial).collect();
    let now = before + 12;
    assert_eq!(soas, [now, before, now, now]);
    copy.take(&difference);
    let mut end = Copy::default();
    end.take(&primary.take(ZONES[0], None));
    assert_eq!(copy, end);
}

#[tokio::test]
async fn condensed_difference_leads_to_the_serial_it_began_at_while_changes_go_on() {
    for seed in 1_u64..=8 {
        let mut dice = Dice(0x2545_f491_4f6c_dd1d_u64.wrapping_mul(seed));
        let primary = Primary::new(JournalBounds::default()).await;
        let pool = &primary.pool;
        let mut objects = Vec::new();
        let mut often = pool.create("s1", &["6.1"]).await.remove(0);
        for _ in 0..30 {
            change(pool, &mut objects, &mut dice).await;
        }
        for zone in ZONES {
            let mut copy = Copy::default();
            copy.take(&primary.take(zone, None));
            for number in 0..40 {
                change(pool, &mut objects, &mut dice).await;
                // Most of it changes the same again.
                for _ in 0..2 {
                    let new = Register {
                        tx: pool.tx(),
                        ..often.clone()
                    };
                    pool.change(Some(&often), &new).await.unwrap();
                    often = new;
                }
                let lines = [
                    "- often.hypernet.internal.".to_owned(),
                    format!("often.hypernet.internal. 60 A 192.0.2.{number}"),
                ];
                pool.nsupdate(ZONES[2], &[&lines[0], &lines[1]]).await.unwrap();
            }
            let mut expected = Copy::default();
            expected.take(&primary.take(zone, None));
            let from = copy.soa.split_whitespace().nth(6).unwrap().parse().unwrap();
            let (mut transfer, _) = primary.open(zone, Some(from));
            let mut answer = Vec::new();
            loop {
                let name = zones::name::canonical(&Name::from_ascii(zone).unwrap());
                let mut packer = Packer::new(&request(zone, None), name, 1232);
                let stream = &mut transfer.stream;
                if !stream.next(&pool.registry, &transfer.form, &mut packer).unwrap() {
                    break;
                }
                answer.extend(Message::from_vec(&one(packer)).unwrap().answers);
                for _ in 0..dice.roll(3) {
                    change(pool, &mut objects, &mut dice).await;
                }
            }
            assert_eq!(
                answer.iter().filter(|record| is_soa(record)).count(),
                4,
                "seed {seed}, zone {zone}"
            );
            copy.take(&answer);
            assert!(copy == expected, "seed {seed}, zone {zone}");
        }
    }
}

#[tokio::test]
async fn difference_from_what_the_journal_is_about_to_drop_follows_step_by_step() {
    let primary = Primary::new(JournalBounds {
        changes: 200,
        octets: 1 << 20,
    })
    .await;
    let mut register = primary.pool.create("s1", &["3.1"]).await.remove(0);
    for _ in 1..130 {
        let new = Register {
            tx: primary.pool.tx(),
            ..register.clone()
        };
        primary.pool.change(Some(&register), &new).await.unwrap();
        register = new;
    }
    let now = serial(&primary.take(ZONES[0], None)[0]);
    let soas = |behind| {
        let answer = primary.take(ZONES[0], Some(now - behind));
        answer.iter().filter(|record| is_soa(record)).count()
    };
    // One pair of SOA records for each step, or for all.
    assert_eq!([soas(90), soas(50)], [2 + 2 * 90, 4]);
}

#[tokio::test]
async fn server_that_is_elsewhere_when_it_holds_an_object_again_goes_from_there_and_comes_here() {
    let primary = Primary::new(JournalBounds::default()).await;
    let pool = &primary.pool;
    let alone = pool.create("s1", &["3.1"]).await.remove(0);
    let held_by = |holders: &[&str]| Register {
        holders: holders.iter().map(|name| server(name)).collect(),
        tx: pool.tx(),
        ..alone.clone()
    };
    let (both, again) = (held_by(&["s1", "s2"]), held_by(&["s1", "s2"]));
    pool.change(Some(&alone), &both).await.unwrap();
    let mut copy = Copy::default();
    copy.take(&primary.take(ZONES[0], None));
    let before = copy.soa.split_whitespace().nth(6).unwrap().parse().unwrap();
    let left = held_by(&["s1"]);
    pool.change(Some(&both), &left).await.unwrap();
    // Nothing is at s2 now: no difference is cut off where it moves.
    pool.speak(&server("s2"), 22).await.unwrap();
    pool.change(Some(&left), &again).await.unwrap();
    let difference = primary.take(ZONES[0], Some(before));
    assert_eq!(difference.iter().filter(|record| is_soa(record)).count(), 4);
    copy.take(&difference);
    let mut end = Copy::default();
    end.take(&primary.take(ZONES[0], None));
    assert_eq!(copy, end);
}

#[tokio::test]
async fn differences_of_many_objects_follow_step_by_step() {
    let primary = Primary::new(JournalBounds::default()).await;
    let first = serial(&primary.take(ZONES[0], None)[0]);
    for number in 0..10 {
        primary.pool.create("s1", &[&format!("3.{number}")]).await;
    }
    let answer = primary.take(ZONES[0], Some(first));
    assert_eq!(answer.iter().filter(|record| is_soa(record)).count(), 2 + 2 * 10);
}
