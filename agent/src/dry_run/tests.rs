//! Facts about the dry run of a running agent, against the same over a store at rest.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};
use zones::{Level, Upkeep};

use super::*;
use crate::objects::Settings;
use crate::schema::finals::Finals;
use crate::schema::{InProcess, Step, StepError, Stepper};
use crate::store::tests::{address, new_entry, settings, vault};
use crate::store::{Change, Content, Disk, Journal, NewEntry, RealDisk, StreamSpec, Work as StoreWork};
use crate::testing::{PATIENCE, block_until};

/// The object whose step fails.
const UNLUCKY: u64 = 13;
/// The object that has no way back.
const STRANDED: u64 = 14;
/// Objects that take seconds at the pace of a dry run.
const MANY: u64 = 20_000;

/// Writes versions of type `file`: 2 says the number in another word as well, 3 in that word alone. The step to 2 fails for one
/// number.
fn write_schemas(dir: &Path, unlucky: u64) {
    let file = dir.join("file");
    fs::create_dir_all(&file).unwrap();
    let write = |name: &str, text: &str| fs::write(file.join(name), text).unwrap();
    for version in 1..=3 {
        write(
            &format!("{version}.schema.json"),
            r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}"#,
        );
    }
    let forward = format!("# expand\nif .n == {unlucky} then error(\"unlucky\") else .number = .n end");
    write("1-to-2.jq", &forward);
    let back = format!("# exact\nif .n == {STRANDED} then del(.n) else . end | del(.number)");
    write("2-to-1.jq", &back);
    write("2-to-3.jq", "# contract\ndel(.n)");
}

/// Runs steps in this process, and can be held or fail.
#[derive(Clone, Debug, Default)]
struct Native {
    runs: Arc<AtomicU64>,
    is_held: Arc<AtomicBool>,
    fails: Arc<AtomicBool>,
}

impl RunStep for Native {
    fn run(&self, step: &Step, properties: &[u8]) -> Result<Vec<u8>, StepError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        // A test that fails meanwhile waits for the thread.
        let end = Instant::now() + PATIENCE;
        while self.is_held.load(Ordering::Relaxed) && Instant::now() < end {
            std::thread::yield_now();
        }
        match self.fails.load(Ordering::Relaxed) {
            true => Err(StepError::Child(io::ErrorKind::OutOfMemory.into())),
            false => InProcess::default().run(step, properties),
        }
    }

    fn compile(&self, _: &Step) -> Result<(), StepError> {
        Ok(())
    }
}

/// One agent's directory, what is in it, and the schemas of the next release.
struct Place {
    dir: tempfile::TempDir,
    schemas: tempfile::TempDir,
    local: Arc<Local>,
    board: Arc<Board>,
    native: Native,
}

impl Place {
    fn new() -> Place {
        Place::with_finals(Finals::new())
    }

    fn with_finals(finals: Finals) -> Place {
        let (dir, schemas) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_schemas(schemas.path(), UNLUCKY);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
        let vault = vault(&disk, 1);
        // Nothing is written but by whoever asks for it.
        let settings = crate::store::Settings {
            work: StoreWork::Caller,
            ..settings(64)
        };
        let (store, entries) = Store::open(disk, vault, &settings).unwrap();
        let stepper = Stepper::default().with_finals(finals);
        Place {
            dir,
            schemas,
            local: Local::new(Arc::new(store), entries, Arc::new(stepper), Settings::default()),
            board: Arc::default(),
            native: Native::default(),
        }
    }

    /// Makes an object at version 1.
    fn make(&self, at: &str, kind: &str, properties: &[u8], journal: Journal) {
        let at = address(at);
        let spec = StreamSpec {
            address: at.clone(),
            part: Part::Properties,
            level: Level(1),
            octets_hint: None,
            reservation: None,
        };
        let mut writer = self.local.store().writer(spec).unwrap();
        writer.write(properties).unwrap();
        let entry = NewEntry {
            kind: kind.parse().unwrap(),
            properties: Content::Staged(writer.finish().unwrap()),
            journal,
            ..new_entry(&at, 1, Content::Absent)
        };
        self.local.commit_now(vec![(at, Change::Insert(entry))]).unwrap();
    }

    fn make_number(&self, n: u64) {
        let properties = json!({"n": n}).to_string();
        let active = Journal::Active { wait: None };
        self.make(&format!("1.{n}"), "file", properties.as_bytes(), active);
    }

    /// Twenty numbers, with the one that fails and the one without way back, and one object each that cannot be read, whose
    /// type has no schemas, that was made without properties, that went to another server, and that another one owns.
    fn fill(&self) {
        (0..20).for_each(|n| self.make_number(n));
        let active = Journal::Active { wait: None };
        self.make("2.1", "file", b"{\"n\": 1", active.clone());
        self.make("2.2", "poem", b"{}", active.clone());
        let bare = new_entry(&address("2.3"), 1, Content::Absent);
        self.local
            .commit_now(vec![(address("2.3"), Change::Insert(bare))])
            .unwrap();
        let moved = Journal::Moved {
            to: "s9".parse().unwrap(),
            epoch: zones::Epoch(2),
        };
        self.make("2.4", "file", br#"{"n": 13}"#, moved);
        let held = Journal::Held {
            owner: "s9".parse().unwrap(),
            tx: zones::Tx([1; 16]),
            refused: None,
        };
        self.make("2.5", "file", br#"{"n": 13}"#, held);
    }

    /// Makes many objects without properties.
    fn fill_with_many(&self) {
        let insert = |n: u64| {
            let at = address(&format!("1.{n}"));
            (at.clone(), Change::Insert(new_entry(&at, 1, Content::Absent)))
        };
        self.local.commit_now((0..MANY).map(insert).collect()).unwrap();
    }

    fn start(&self, look: Duration, again: Duration) -> Trier {
        let native = self.native.clone();
        Trier::start(
            self.dir.path(),
            self.schemas.path().to_owned(),
            Arc::clone(&self.local),
            Arc::clone(&self.board),
            Pauses { look, again },
            move || Box::new(native.clone()),
            || 0,
        )
        .unwrap()
    }

    /// Starts it with looks that a test need not wait for, and one pass over a set.
    fn start_looking(&self) -> Trier {
        self.start(Duration::from_millis(1), PATIENCE * 60)
    }

    fn told(&self) -> Option<Tried> {
        self.board.over(Upkeep::default(), 0).dry
    }

    fn set(&self) -> SchemaSet {
        Schemas::load(self.schemas.path()).unwrap().set()
    }

    fn report(&self) -> Value {
        let text = fs::read(self.dir.path().join(FILE)).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// What the command finds in a store at rest.
    fn at_rest(&self) -> DryRun {
        let schemas = Schemas::load(self.schemas.path()).unwrap();
        let mut dry = DryRunner {
            schemas: &schemas,
            runner: &Native::default(),
            through: Through::Expand,
            finals: Finals::new(),
            listed_max: usize::MAX,
            report: DryRun::default(),
        };
        all(&mut dry, self.local.store(), &self.local.entries(), || {}).unwrap();
        dry.report
    }

    /// Every file of the agent but the report.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false if path.ends_with(FILE) => {}
                    false => drop(files.insert(path.clone(), fs::read(&path).unwrap())),
                }
            }
        }
        files
    }
}

/// Waits for a value.
fn until<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    block_until(what, || {
        found = is();
        found.is_some()
    });
    found.expect("it was waited for")
}

#[test]
fn running_agent_finds_what_the_command_finds_in_its_store_and_tells_it() {
    let place = Place::new();
    place.fill();
    let _trier = place.start_looking();
    let told = until("a result", || place.told());
    let at_rest = place.at_rest();
    let expected = Tried {
        set: place.set(),
        objects: 23,
        quarantined: 1,
        stuck: 2,
    };
    assert_eq!(told, expected);
    let report = place.report();
    assert_eq!(report["set"], place.set().to_string());
    assert!(report["finished"].as_u64().unwrap() > 0);
    let Value::Object(at_rest) = serde_json::to_value(&at_rest).unwrap() else {
        panic!("a report is an object")
    };
    for (name, found) in &at_rest {
        assert_eq!(&report[name], found, "{name}");
    }
    assert_eq!(report["quarantined"][0]["address"], format!("1.{UNLUCKY}"));
    assert_eq!(report["no_way_back"][0]["address"], format!("1.{STRANDED}"));
    assert_eq!(report["unreadable"][0]["address"], "2.1");
    assert_eq!(
        report["by_versions"],
        json!({"file 1 to 2": 20}),
        "contract steps wait for finalize"
    );
    let mode = fs::metadata(place.dir.path().join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn dry_run_changes_no_row_and_no_octet_on_disk() {
    let place = Place::new();
    place.fill();
    let rows = |place: &Place| {
        let entries = place.local.entries();
        entries.iter().map(|entry| format!("{entry:?}")).collect::<Vec<_>>()
    };
    let before = (rows(&place), place.files(), place.local.store().commits());
    // Several passes.
    let trier = place.start(Duration::from_millis(1), Duration::ZERO);
    until("a second pass", || {
        (place.native.runs.load(Ordering::Relaxed) > 200).then_some(())
    });
    drop(trier);
    assert!(place.told().is_some());
    assert_eq!(rows(&place), before.0);
    assert!(place.files() == before.1, "files have changed");
    assert_eq!(place.local.store().commits(), before.2);
}

#[test]
fn another_set_is_tried_from_the_beginning_and_what_was_told_of_the_one_before_ends() {
    let place = Place::new();
    place.fill();
    let _trier = place.start_looking();
    let first = until("a result", || place.told());
    // The next pass waits for us.
    place.native.is_held.store(true, Ordering::Relaxed);
    write_schemas(place.schemas.path(), 1000);
    until("the end of the old result", || place.told().is_none().then_some(()));
    place.native.is_held.store(false, Ordering::Relaxed);
    let second = until("another result", || place.told());
    assert_ne!(second.set, first.set);
    assert_eq!(second.set, place.set());
    assert_eq!((second.quarantined, second.stuck), (0, 2));
    assert_eq!(place.report()["set"], second.set.to_string());
}

#[test]
fn pass_is_dropped_when_the_set_changes_under_it() {
    let place = Place::new();
    place.fill();
    place.native.is_held.store(true, Ordering::Relaxed);
    let _trier = place.start_looking();
    until("a pass", || {
        (place.native.runs.load(Ordering::Relaxed) > 0).then_some(())
    });
    write_schemas(place.schemas.path(), 1000);
    place.native.is_held.store(false, Ordering::Relaxed);
    let told = until("a result", || place.told());
    assert_eq!((told.set, told.quarantined), (place.set(), 0));
}

#[test]
fn set_that_does_not_load_is_told_as_not_tried_until_it_does() {
    let place = Place::new();
    place.fill();
    let _trier = place.start_looking();
    until("a result", || place.told());
    let step = place.schemas.path().join("file/1-to-2.jq");
    let text = fs::read_to_string(&step).unwrap();
    fs::write(&step, "no mark").unwrap();
    until("the end of the result", || place.told().is_none().then_some(()));
    fs::write(&step, text).unwrap();
    assert_eq!(until("a result", || place.told()).objects, 23);
}

#[test]
fn object_that_comes_after_a_pass_is_tried_in_the_next() {
    let place = Place::new();
    let _trier = place.start(Duration::from_millis(1), Duration::ZERO);
    assert_eq!(until("a result", || place.told()).objects, 0);
    place.make_number(UNLUCKY);
    let told = until("another result", || place.told().filter(|told| told.objects == 1));
    assert_eq!(told.quarantined, 1);
}

#[test]
fn server_that_cannot_run_steps_says_nothing_of_its_objects_and_tries_again() {
    let place = Place::new();
    place.fill();
    place.native.fails.store(true, Ordering::Relaxed);
    let _trier = place.start_looking();
    until("tries", || {
        (place.native.runs.load(Ordering::Relaxed) > 3).then_some(())
    });
    assert_eq!(place.told(), None);
    assert!(!place.dir.path().join(FILE).exists());
    place.native.fails.store(false, Ordering::Relaxed);
    assert_eq!(until("a result", || place.told()).quarantined, 1);
}

#[test]
fn keys_that_are_away_say_nothing_of_an_object() {
    let schemas = Schemas::default();
    let mut dry = DryRunner {
        schemas: &schemas,
        runner: &Native::default(),
        through: Through::Expand,
        finals: Finals::new(),
        listed_max: usize::MAX,
        report: DryRun::default(),
    };
    let place = Place::new();
    place.make_number(1);
    let entry = place.local.owned_row(&address("1.1")).unwrap();
    let away = ProviderError::Unavailable {
        provider: "pkcs11",
        source: "gone".into(),
    };
    let read = Err(ReadError::Vault(VaultError::Provider(away)));
    assert!(matches!(judge(&mut dry, &entry, read), Err(TryError::Keys { .. })));
    assert_eq!(dry.report.objects, 0);
}

#[test]
fn contract_steps_that_are_final_are_tried_as_an_upgrade_runs_them() {
    let place = Place::with_finals(Finals::from([("file".parse().unwrap(), 3)]));
    place.make_number(1);
    let _trier = place.start_looking();
    until("a result", || place.told());
    assert_eq!(place.report()["by_versions"], json!({"file 1 to 3": 1}));
}

#[test]
fn report_lists_the_first_objects_of_each_kind_and_counts_all() {
    let place = Place::new();
    let insert = |n: usize| {
        let at = address(&format!("1.{n}"));
        let of_unknown_version = NewEntry {
            schema: 9,
            ..new_entry(&at, 1, Content::Absent)
        };
        (at, Change::Insert(of_unknown_version))
    };
    let objects = LISTED_MAX + 5;
    place.local.commit_now((0..objects).map(insert).collect()).unwrap();
    let _trier = place.start_looking();
    let told = until("a result", || place.told());
    assert_eq!(told.quarantined, objects as u64);
    let report = place.report();
    assert_eq!(report["counts"]["quarantined"], json!(objects));
    assert_eq!(report["quarantined"].as_array().unwrap().len(), LISTED_MAX);
}

#[test]
fn dry_run_stops_in_the_midst_of_a_pass_and_of_a_wait() {
    let place = Place::new();
    place.fill_with_many();
    let hour = Duration::from_secs(3600);
    let trier = place.start(hour, hour);
    until("a pass", || {
        (place.native.runs.load(Ordering::Relaxed) > 0).then_some(())
    });
    drop(trier);
    assert!(
        place.native.runs.load(Ordering::Relaxed) < MANY,
        "it went on to the end"
    );
    assert_eq!(place.told(), None);

    let place = Place::new();
    let trier = place.start(hour, hour);
    until("a result", || place.told());
    let begun = Instant::now();
    drop(trier);
    assert!(begun.elapsed() < PATIENCE, "it waited for its next look");
}
