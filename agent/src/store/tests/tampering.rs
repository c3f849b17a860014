//! Every kind of octet that lies on a disk, changed by somebody who can write there: all is found, and nothing false is read.
//!
//! Three tables: what lies in the volumes, what a row says, and what a row says that nothing binds. An attacker who can write the
//! disk can always destroy, and can bring back an old row with its old blocks, whole: that is an old content of the same object, as
//! sealed then. Of a whole old index the count of commits tells (`daemon::check_index`).

use super::*;
use crate::store::index::{Applied, Group, Index};
use crate::store::scrub::{GoOn, ScrubReport, scrub};
use crate::store::simulated::SimulatedDisk;
use crate::vault::{Commitment, Digest, Generation};

/// Three chunks; the last one is short.
const BODY: usize = 2 * 65_536 + 5_000;
const LEVELS: [Level; 3] = [Level(1), Level(2), Level(3)];

fn open(disk: &SimulatedDisk) -> Result<(Store, Vec<Arc<Entry>>), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let vault = vault(&disk, 1);
    Store::open(disk, vault, &settings(64))
}

/// An object at its second revision, its first, which is retired but still there, and another object like it.
struct Scene {
    disk: SimulatedDisk,
    now: Entry,
    before: Entry,
    other: Entry,
}

impl Scene {
    fn new(level: Level) -> Scene {
        let disk = SimulatedDisk::default();
        let (store, _) = open(&disk).unwrap();
        let put = |at: &str, epoch: u64, revision: u64, seed: u64| {
            let address = address(at);
            let stream = |part, octets: &[u8]| {
                let spec = StreamSpec {
                    level,
                    ..spec(&address, part)
                };
                let mut writer = store.writer(spec).unwrap();
                writer.write(octets).unwrap();
                Content::Staged(writer.finish().unwrap())
            };
            let entry = NewEntry {
                level,
                epoch: Epoch(epoch),
                properties: stream(Part::Properties, &octets(seed + 100, 3000)),
                ..new_entry(&address, revision, stream(Part::Body, &octets(seed, BODY)))
            };
            let entry = store.commit(vec![Change::Insert(entry)]).unwrap().remove(0);
            (*entry).clone()
        };
        let before = put("3.1", 1, 1, 1);
        let now = put("3.1", 2, 2, 2);
        let other = put("3.2", 2, 2, 3);
        drop(store);
        Scene {
            disk,
            now,
            before,
            other,
        }
    }

    /// Reads or writes sealed octets of a stream, wherever they lie.
    fn each_place(entry: &Entry, part: Part, mut at: u64, mut octets: u64, mut take: impl FnMut(String, u64, u64)) {
        for extent in entry.stream(part).unwrap().extents.iter() {
            let count = extent.octets().saturating_sub(at).min(octets);
            if count > 0 {
                take(format!("volumes/{:04}", extent.volume), extent.offset() + at, count);
            }
            at = at.saturating_sub(extent.octets());
            octets -= count;
        }
        assert_eq!(octets, 0, "the stream has as many");
    }

    fn sealed(&self, entry: &Entry, part: Part, at: u64, octets: u64) -> Vec<u8> {
        let mut all = Vec::new();
        Scene::each_place(entry, part, at, octets, |name, offset, count| {
            let mut piece = vec![0; usize::try_from(count).unwrap()];
            let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
            disk.open(&name).unwrap().read_at(offset, &mut piece).unwrap();
            all.extend(piece);
        });
        all
    }

    fn put_sealed(&self, entry: &Entry, part: Part, at: u64, mut octets: &[u8]) {
        Scene::each_place(entry, part, at, octets.len() as u64, |name, offset, count| {
            let (now, later) = octets.split_at(usize::try_from(count).unwrap());
            let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
            disk.open(&name).unwrap().write_at(offset, now).unwrap();
            octets = later;
        });
    }

    /// Puts a row in the place of the object's.
    fn forge(&self, row: &Entry) {
        let (mut index, found) = Index::open(Arc::new(self.disk.clone()), 1 << 20, settings(1).auditor).unwrap();
        let next = index.next_seq;
        let row = row.encode_row();
        assert!(matches!(
            index.apply(&Group {
                removed: &[],
                added: &[(self.now.seq, row)],
                next_seq: next,
                grown: &found.grown,
                lines: &[],
                pledges: &[],
            }),
            Applied::Done
        ));
    }

    /// The addresses in which the scrub finds something; the object's own if the start is refused.
    fn found(&self) -> Vec<String> {
        let (store, _entries) = match open(&self.disk) {
            Ok(opened) => opened,
            Err(OpenError::Rows(_)) => return vec!["3.1".to_owned()],
            Err(error) => panic!("{error:?}"),
        };
        let mut report = ScrubReport::default();
        scrub(&store, &mut report, |_, _| GoOn::Yes);
        assert_eq!(
            store.damaged_count(),
            report.damaged.len() as u64,
            "what is found is set aside"
        );
        for entry in store.entries() {
            let damaged = report.damaged.iter().any(|damage| damage.seq == entry.seq);
            for (part, _) in entry.streams() {
                assert_eq!(
                    store.read_all(&entry, part).is_err(),
                    damaged,
                    "what is found is not served, the rest is"
                );
            }
        }
        let mut found: Vec<_> = report.damaged.into_iter().map(|damage| damage.address).collect();
        found.dedup();
        found
    }
}

#[test]
fn what_is_changed_in_the_volumes_is_found_in_every_object_that_it_touches_and_in_no_other() {
    type Change = fn(&Scene, u64, u64);
    fn flip(scene: &Scene, part: Part, at: u64) {
        let octet = scene.sealed(&scene.now, part, at, 1)[0];
        scene.put_sealed(&scene.now, part, at, &[octet ^ 0x10]);
    }
    /// Puts sealed octets of one stream in the place of another's.
    fn over(scene: &Scene, from: (&Entry, Part, u64), to: (&Entry, Part, u64), octets: u64) {
        let sealed = scene.sealed(from.0, from.1, from.2, octets);
        scene.put_sealed(to.0, to.1, to.2, &sealed);
    }
    // What is done, given the octets of a sealed chunk and of the whole sealed body; and in which objects it is to be found.
    let table: [(&str, Change, &[&str]); 14] = [
        ("nothing", |_, _, _| {}, &[]),
        (
            "first octet of a chunk",
            |scene, _, _| flip(scene, Part::Body, 0),
            &["3.1"],
        ),
        (
            "octet within a chunk",
            |scene, chunk, _| flip(scene, Part::Body, chunk + 777),
            &["3.1"],
        ),
        (
            "tag of a chunk",
            |scene, chunk, _| flip(scene, Part::Body, chunk - 1),
            &["3.1"],
        ),
        (
            "tag of the last chunk",
            |scene, _, end| flip(scene, Part::Body, end - 1),
            &["3.1"],
        ),
        ("properties", |scene, _, _| flip(scene, Part::Properties, 50), &["3.1"]),
        // Random octets that belong to nothing.
        ("behind the end", |scene, _, end| flip(scene, Part::Body, end), &[]),
        (
            "two chunks of a stream in each other's place",
            |scene, chunk, _| {
                let first = scene.sealed(&scene.now, Part::Body, 0, chunk);
                over(
                    scene,
                    (&scene.now, Part::Body, chunk),
                    (&scene.now, Part::Body, 0),
                    chunk,
                );
                scene.put_sealed(&scene.now, Part::Body, chunk, &first);
            },
            &["3.1"],
        ),
        (
            "a chunk twice",
            |scene, chunk, _| {
                over(
                    scene,
                    (&scene.now, Part::Body, 0),
                    (&scene.now, Part::Body, chunk),
                    chunk,
                )
            },
            &["3.1"],
        ),
        (
            "a stream of another object",
            |scene, _, end| over(scene, (&scene.other, Part::Body, 0), (&scene.now, Part::Body, 0), end),
            &["3.1"],
        ),
        (
            "two objects in each other's place",
            |scene, _, end| {
                let mine = scene.sealed(&scene.now, Part::Body, 0, end);
                over(scene, (&scene.other, Part::Body, 0), (&scene.now, Part::Body, 0), end);
                scene.put_sealed(&scene.other, Part::Body, 0, &mine);
            },
            &["3.1", "3.2"],
        ),
        (
            "the stream of an older epoch and revision",
            |scene, _, end| over(scene, (&scene.before, Part::Body, 0), (&scene.now, Part::Body, 0), end),
            &["3.1"],
        ),
        (
            "a chunk of an older epoch and revision",
            |scene, chunk, _| {
                over(
                    scene,
                    (&scene.before, Part::Body, chunk),
                    (&scene.now, Part::Body, chunk),
                    chunk,
                )
            },
            &["3.1"],
        ),
        (
            "octets of the properties as those of the body",
            |scene, _, _| {
                over(
                    scene,
                    (&scene.now, Part::Properties, 0),
                    (&scene.now, Part::Body, 0),
                    3000,
                )
            },
            &["3.1"],
        ),
    ];
    for level in LEVELS {
        for (what, change, expected) in &table {
            let scene = Scene::new(level);
            let suite = Suite::from_number(scene.now.body.as_ref().unwrap().suite).unwrap();
            let end = suite.sealed_octets(suite.padded_octets(BODY as u64));
            change(&scene, suite.sealed_chunk_octets() as u64, end);
            assert_eq!(scene.found(), *expected, "level {level}, {what}");
        }
    }
}

#[test]
fn what_is_changed_in_a_row_is_found() {
    type Change = fn(&mut Entry, &Scene);
    fn body(entry: &mut Entry) -> &mut Stream {
        entry.body.as_mut().unwrap()
    }
    /// Places that are nobody's: two rows that name one block are refused before anything else.
    fn with_own_places(mut stream: Stream, entry: &Entry, part: Part) -> Stream {
        stream.extents = entry.stream(part).unwrap().extents.clone();
        stream
    }
    let table: [(&str, Change); 27] = [
        ("address", |entry, _| entry.address = address("3.7")),
        ("address in other case", |entry, _| entry.address = address("3.1a")),
        ("higher epoch", |entry, _| entry.epoch = Epoch(3)),
        ("older epoch", |entry, _| entry.epoch = Epoch(1)),
        ("higher revision", |entry, _| entry.revision = 3),
        ("older revision", |entry, _| entry.revision = 1),
        ("schema", |entry, _| entry.schema += 1),
        ("level", |entry, _| entry.level = Level(entry.level.0 % 3 + 1)),
        ("no properties", |entry, _| entry.properties = None),
        ("no body", |entry, _| entry.body = None),
        ("stream id", |entry, _| body(entry).id.0[3] ^= 1),
        ("suite", |entry, _| body(entry).suite = body(entry).suite % 3 + 1),
        ("nonce prefix", |entry, _| body(entry).nonce_prefix[7] ^= 1),
        ("generation", |entry, _| {
            body(entry).kek_generation = Generation(body(entry).kek_generation.0 + 1)
        }),
        ("wrapped key, nonce", |entry, _| body(entry).wrapped_dek.0[0] ^= 1),
        ("wrapped key, key", |entry, _| body(entry).wrapped_dek.0[30] ^= 1),
        ("wrapped key, tag", |entry, _| {
            *body(entry).wrapped_dek.0.last_mut().unwrap() ^= 1
        }),
        ("wrapped key cut", |entry, _| body(entry).wrapped_dek.0.truncate(40)),
        ("longer", |entry, _| body(entry).padded_octets += 65_536),
        ("shorter by its last chunk", |entry, _| {
            body(entry).padded_octets = 2 * 65_536
        }),
        ("digest", |entry, _| body(entry).digest = Digest([7; 32])),
        ("commitment", |entry, _| match &mut body(entry).commitment {
            Some(Commitment(octets)) => octets[5] ^= 1,
            none @ None => *none = Some(Commitment([7; 32])),
        }),
        ("places in another order", |entry, _| {
            let mut list = entry.body.as_ref().unwrap().extents.to_vec();
            let first = list[0];
            list[0] = Extent {
                block: first.block + 1,
                blocks: first.blocks - 1,
                ..first
            };
            list.push(Extent { blocks: 1, ..first });
            body(entry).extents = Arc::new(Extents::told(list.into()));
        }),
        ("places cut", |entry, _| {
            let mut list = entry.body.as_ref().unwrap().extents.to_vec();
            list[0].blocks -= 1;
            body(entry).extents = Arc::new(Extents::told(list.into()));
        }),
        ("wrapped key of an older epoch and revision", |entry, scene| {
            body(entry).wrapped_dek = scene.before.body.as_ref().unwrap().wrapped_dek.clone();
        }),
        ("body of an older epoch and revision", |entry, scene| {
            entry.body = Some(with_own_places(scene.before.body.clone().unwrap(), entry, Part::Body));
        }),
        ("both parts of another object", |entry, scene| {
            entry.body = Some(with_own_places(scene.other.body.clone().unwrap(), entry, Part::Body));
            entry.properties = Some(with_own_places(
                scene.other.properties.clone().unwrap(),
                entry,
                Part::Properties,
            ));
        }),
    ];
    for level in LEVELS {
        let scene = Scene::new(level);
        for (what, change) in &table {
            let mut row = scene.now.clone();
            change(&mut row, &scene);
            assert_ne!(row.encode_row(), scene.now.encode_row(), "{what}");
            scene.forge(&row);
            let found = scene.found();
            assert_eq!(found.len(), 1, "level {level}, {what}: {found:?}");
            assert!(found[0].starts_with("3."), "{found:?}");
        }
        scene.forge(&scene.now);
        assert_eq!(scene.found(), [""; 0], "as it was");
    }
}

#[test]
fn turned_octet_of_a_wrapped_key_never_opens_wherever_it_is() {
    for level in LEVELS {
        let scene = Scene::new(level);
        let (store, _) = open(&scene.disk).unwrap();
        for part in [Part::Properties, Part::Body] {
            for octet in 0..scene.now.stream(part).unwrap().wrapped_dek.0.len() {
                let mut row = scene.now.clone();
                let stream = match part {
                    Part::Properties => row.properties.as_mut(),
                    Part::Body => row.body.as_mut(),
                };
                stream.unwrap().wrapped_dek.0[octet] ^= 0x80;
                let opened = store.reader_anyway(&row, part);
                assert!(
                    matches!(opened, Err(ReadError::Vault(_))),
                    "level {level}, {part}, octet {octet}"
                );
            }
        }
    }
}

/// STORE.md section 5 says which fields are bound to nothing: they change what the agent does with a copy, never what it reads.
#[test]
fn what_nothing_binds_changes_no_content() {
    let scene = Scene::new(Level(1));
    let mut row = scene.now.clone();
    row.kind = "other".parse().unwrap();
    row.tx = Some(Tx([9; 16]));
    row.from = Some("s9".parse().unwrap());
    row.writes.clear();
    row.journal = Journal::Moved {
        to: "s9".parse().unwrap(),
        epoch: Epoch(3),
    };
    scene.forge(&row);
    let (store, entries) = open(&scene.disk).unwrap();
    let entry = entries.iter().find(|entry| entry.seq == scene.now.seq).unwrap();
    assert_eq!(body(&store, entry), octets(2, BODY));
}

#[test]
fn old_row_whose_blocks_were_used_again_is_found() {
    let scene = Scene::new(Level(1));
    let (store, entries) = open(&scene.disk).unwrap();
    drop(entries);
    store.commit(vec![Change::Remove { seq: scene.before.seq }]).unwrap();
    // Fills what has become free with something else.
    let mut number = 0;
    while store.usage().used < store.usage().capacity / 32 {
        number += 1;
        put(&store, &address(&format!("9.{number}")), 1, &octets(number, 200_000));
    }
    for entry in store
        .entries()
        .iter()
        .filter(|entry| entry.address.as_str().starts_with("9."))
    {
        store.commit(vec![Change::Remove { seq: entry.seq }]).unwrap();
    }
    drop(store);
    let mut old = scene.before.clone();
    old.seq = scene.now.seq;
    scene.forge(&old);
    assert_eq!(scene.found(), ["3.1"]);
}
