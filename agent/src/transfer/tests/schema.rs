//! Real agents of two releases, whose schemas differ.

use std::sync::atomic::{AtomicBool, Ordering};

use zones::{Policy, Steps};

use super::*;
use crate::schema::stepper::Runner;
use crate::schema::{InProcess, RunStep, Schemas, Step, StepError};

/// The object whose step fails.
const UNLUCKY: usize = 13;

/// Runs steps as long as its process does.
struct Mortal(Arc<AtomicBool>);

impl RunStep for Mortal {
    fn run(&self, step: &Step, properties: &[u8]) -> Result<Vec<u8>, StepError> {
        match self.0.load(Ordering::Relaxed) {
            true => InProcess::default().run(step, properties),
            false => Err(StepError::Child(std::io::Error::other("out of memory"))),
        }
    }

    fn compile(&self, step: &Step) -> Result<(), StepError> {
        InProcess::default().compile(step)
    }
}

/// Versions of type `file` up to `newest`: 2 says the number in another word as well, 3 in that word alone.
pub(super) fn release(newest: u32) -> Arc<Stepper> {
    release_run_by(newest, Box::new(InProcess::default()))
}

fn release_run_by(newest: u32, runner: Runner) -> Arc<Stepper> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::create_dir(&file).unwrap();
    let write = |name: String, text: &str| std::fs::write(file.join(name), text).unwrap();
    let required = [r#"["n"]"#, r#"["n", "number"]"#, r#"["number"]"#];
    for version in 1..=newest {
        let required = required[version as usize - 1];
        write(
            format!("{version}.schema.json"),
            &format!(
                r#"{{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "required": {required}}}"#
            ),
        );
    }
    if newest >= 2 {
        let forward = format!("# expand\nif .n == {UNLUCKY} then error(\"unlucky\") else .number = .n end");
        write("1-to-2.jq".to_owned(), &forward);
        write("2-to-1.jq".to_owned(), "del(.number)");
    }
    if newest >= 3 {
        write("2-to-3.jq".to_owned(), "# contract\ndel(.n)");
        write("3-to-2.jq".to_owned(), ".n = .number");
    }
    let schemas = Schemas::load(dir.path()).unwrap();
    Arc::new(Stepper::new(schemas, runner))
}

fn contract_steps() -> Policy {
    Policy {
        steps: Steps::All,
        ..Policy::default()
    }
}

async fn drain(from: &Agent, to: &Agent, objects: u64) {
    from.want(Role::Draining, &[to.name]);
    to.want(Role::Serving, &[]);
    to.until_owned(objects).await;
    from.until_owned(0).await;
}

async fn assert_schemas(agent: &Agent, stub: &Stub, schema: u32, properties: impl Fn(usize) -> serde_json::Value) {
    for n in 0..40 {
        let (schema, properties) = match n {
            UNLUCKY => (1, json!({"n": n})),
            _ => (schema, properties(n)),
        };
        let entry = agent.objects.entry(&address(n)).unwrap();
        let read = agent.read(&address(n)).await.unwrap();
        assert_eq!((entry.schema, entry.revision), (schema, 1), "{}", entry.address);
        assert_eq!(read, (properties, body(n).unwrap_or_default()), "{}", entry.address);
        assert_eq!(stub.register(&address(n)).unwrap().schema, schema, "{}", entry.address);
        assert_eq!(entry.received, None);
    }
}

fn quarantined(agent: &Agent) -> Vec<Address> {
    let entries = agent.objects.entries();
    let quarantined = entries.iter().filter(|entry| entry.quarantined.is_some());
    quarantined.map(|entry| entry.address.clone()).collect()
}

/// Small objects, with a body and without, and large ones on streams of their own.
#[tokio::test(flavor = "multi_thread")]
async fn object_is_stepped_where_it_arrives_and_back_where_it_leaves_for_an_older_release() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::of_release(&pool, &stub, "s1", release(1)).await;
    let s2 = Agent::of_release(&pool, &stub, "s2", release(3)).await;
    let s3 = Agent::of_release(&pool, &stub, "s3", release(3)).await;
    fill(&s1, 40).await;
    let first: Vec<_> = (0..40)
        .map(|n| s1.objects.entry(&address(n)).unwrap().digests())
        .collect();
    // Before finalize: up to the contract step.
    drain(&s1, &s2, 40).await;
    assert_schemas(&s2, &stub, 2, |n| json!({"n": n, "number": n})).await;
    let entry = s2.objects.entry(&address(UNLUCKY)).unwrap();
    let reason = entry.quarantined.clone().expect("its step fails");
    assert!(reason.starts_with("file 1 to 2: the step raised an error"), "{reason}");
    assert_eq!(entry.digests(), first[UNLUCKY], "it moved as it was");
    // It holds the places of its copy, and with them the disk.
    drop(entry);
    assert_eq!((s2.stepper.counts().stepped, s2.stepper.counts().quarantined), (39, 1));
    let s2 = s2.restart(&pool, &stub).await;
    assert_eq!(quarantined(&s2), [address(UNLUCKY)]);
    // After it: all.
    s3.objects.obey(&contract_steps());
    drain(&s2, &s3, 40).await;
    assert_schemas(&s3, &stub, 3, |n| json!({"number": n})).await;
    assert_eq!(quarantined(&s3), [address(UNLUCKY)]);
    // Back to the first release, which reads what it once wrote, bit for bit.
    drain(&s3, &s1, 40).await;
    assert_schemas(&s1, &stub, 1, |n| json!({"n": n})).await;
    for (n, first) in first.iter().enumerate() {
        assert_eq!(s1.objects.entry(&address(n)).unwrap().digests(), *first, "{n}");
    }
    assert_eq!(quarantined(&s1), [], "it reads all of them");
}

/// What cannot be stepped back goes as it is, and is listed where nobody can read it.
#[tokio::test(flavor = "multi_thread")]
async fn object_of_a_later_version_does_not_hold_up_a_drain_to_an_older_release() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::of_release(&pool, &stub, "s1", release(2)).await;
    let s2 = Agent::of_release(&pool, &stub, "s2", release(1)).await;
    s1.put_in(Some(2), &address(1), 1, None).await.unwrap();
    // Its number is missing, so it is no properties of version 2; a step back does not mind.
    s1.put_in(Some(2), &address(2), 2, None).await.unwrap();
    let lost = Agent::of_release(&pool, &stub, "s3", Arc::default()).await;
    drain(&s1, &lost, 2).await;
    // A release that has no schemas of the type keeps it as it is, and steps nothing back.
    drain(&lost, &s2, 2).await;
    for n in [1, 2] {
        let entry = s2.objects.entry(&address(n)).unwrap();
        assert_eq!(entry.schema, 2);
        let reason = entry.quarantined.clone().expect("version 2 is not known");
        assert_eq!(reason, "file has no version 2 in this release's schemas");
        assert_eq!(s2.read(&address(n)).await.unwrap().0, json!({"n": n}));
    }
    // Where it is known again, it is in no quarantine.
    drain(&s2, &s1, 2).await;
    assert_eq!(quarantined(&s1), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_in_the_older_version_go_on_while_releases_change() {
    const OBJECTS: usize = 12;
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Arc::new(Agent::of_release(&pool, &stub, "s1", release(1)).await);
    let s2 = Arc::new(Agent::of_release(&pool, &stub, "s2", release(2)).await);
    let numbers = |n: usize| (100..).step_by(1000).map(move |thousand| thousand + n);
    for n in 0..OBJECTS {
        s1.put_in(Some(1), &address(n), 0, None).await.unwrap();
    }
    let (stop, stopped) = watch::channel(false);
    let writers: Vec<_> = (0..OBJECTS)
        .map(|n| {
            let agents = [Arc::clone(&s1), Arc::clone(&s2)];
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let (mut at, mut last, mut writes) = (0, 0, 0);
                for number in numbers(n).take_while(|_| !*stopped.borrow()) {
                    // A client of the old release, which follows its object.
                    loop {
                        match agents[at].put_in(Some(1), &address(n), number, None).await {
                            Ok(_) => break,
                            Err(WriteError::Party { .. } | WriteError::Elsewhere { .. }) => at = 1 - at,
                            Err(WriteError::Unavailable { .. }) => tokio::task::yield_now().await,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    (last, writes) = (number, writes + 1);
                }
                (last, writes)
            })
        })
        .collect();
    let objects = OBJECTS as u64;
    for _ in 0..3 {
        drain(&s1, &s2, objects).await;
        drain(&s2, &s1, objects).await;
    }
    drain(&s1, &s2, objects).await;
    stop.send_replace(true);
    for (n, writer) in writers.into_iter().enumerate() {
        let (last, writes) = timeout(PATIENCE, writer).await.unwrap().unwrap();
        assert_eq!(
            s2.read(&address(n)).await.unwrap().0,
            json!({"n": last, "number": last})
        );
        let entry = s2.objects.entry(&address(n)).unwrap();
        assert_eq!(
            (entry.schema, entry.revision),
            (2, writes + 1),
            "every write was applied once"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn write_is_kept_in_the_version_of_its_object() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::of_release(&pool, &stub, "s1", release(3)).await;
    let at = address(1);
    // A new object comes to the newest version that may be written; where its step fails it stays as it came.
    s1.put_in(Some(1), &at, 1, None).await.unwrap();
    assert_eq!(s1.read(&at).await.unwrap().0, json!({"n": 1, "number": 1}));
    s1.put_in(Some(1), &address(2), UNLUCKY, None).await.unwrap();
    assert_eq!(s1.objects.entry(&address(2)).unwrap().schema, 1);
    // A write in an older one is stepped forward, or refused.
    s1.put_in(Some(1), &at, 2, None).await.unwrap();
    assert_eq!(s1.read(&at).await.unwrap().0, json!({"n": 2, "number": 2}));
    let refused = s1.put_in(Some(1), &at, UNLUCKY, None).await.unwrap_err();
    assert!(
        refused.to_string().contains("cannot be stepped forward: file 1 to 2"),
        "{refused}"
    );
    // Before finalize nothing is written that the old release cannot read.
    let refused = s1.put_in(Some(3), &at, 3, None).await.unwrap_err();
    assert!(refused.to_string().contains("the pool writes up to 2"), "{refused}");
    assert_eq!(s1.read(&at).await.unwrap().0, json!({"n": 2, "number": 2}));
    s1.objects.obey(&contract_steps());
    s1.put_in(Some(3), &at, 3, None).await.unwrap();
    assert_eq!(s1.objects.entry(&at).unwrap().schema, 3);
    // Without a version it is that of the object.
    s1.put(&at, 4, None).await.unwrap();
    assert_eq!(s1.objects.entry(&at).unwrap().schema, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn owner_without_steps_merges_an_older_write_over_what_is_there() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::of_release(&pool, &stub, "s1", release(2)).await;
    let s2 = Agent::of_release(&pool, &stub, "s2", Arc::default()).await;
    s1.put_in(Some(1), &address(1), 1, None).await.unwrap();
    drain(&s1, &s2, 1).await;
    s2.put_in(Some(1), &address(1), 5, None).await.unwrap();
    assert_eq!(s2.read(&address(1)).await.unwrap().0, json!({"n": 5, "number": 1}));
    assert_eq!(s2.objects.entry(&address(1)).unwrap().schema, 2);
    s2.put_in(Some(7), &address(1), 6, None).await.unwrap();
    assert_eq!(s2.read(&address(1)).await.unwrap().0, json!({"n": 6}));
    assert_eq!(s2.objects.entry(&address(1)).unwrap().schema, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn object_that_gets_another_type_is_in_a_version_of_that_type() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::of_release(&pool, &stub, "s1", release(2)).await;
    let (at, bare) = (address(1), address(2));
    s1.put(&at, 1, None).await.unwrap();
    assert_eq!(s1.objects.entry(&at).unwrap().schema, 2);
    let put = async |at: &Address, kind: &str, properties: Option<serde_json::Value>| {
        let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"body"))]);
        let body = Some(s1.objects.stage_body(at, None, stream).await?);
        let properties = properties.map(|properties| properties.as_object().unwrap().clone());
        let (client, condition) = ("app".to_owned(), Condition::Any);
        let (kind, write_id, schema) = (Some(kind.parse().unwrap()), None, None);
        s1.objects
            .put(
                at,
                Put {
                    client,
                    write_id,
                    condition,
                    kind,
                    schema,
                    properties,
                    body,
                },
            )
            .await
    };
    let refused = put(&at, "photo", None).await.unwrap_err();
    assert!(matches!(refused, WriteError::Schema { .. }), "{refused}");
    put(&at, "photo", Some(json!({"n": 2}))).await.unwrap();
    assert_eq!(s1.objects.entry(&at).unwrap().schema, 1);
    put(&at, "file", Some(json!({"n": 3}))).await.unwrap();
    assert_eq!(
        s1.objects.entry(&at).unwrap().schema,
        2,
        "it is stepped as a new one is"
    );
    // The same type again is no change, and without properties there is nothing in a wrong version.
    put(&at, "file", None).await.unwrap();
    for kind in ["photo", "file"] {
        put(&bare, kind, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn write_in_a_version_that_only_the_owner_knows_is_sent_on_to_it() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::of_release(&pool, &stub, "s1", release(1)).await;
    let s2 = Agent::of_release(&pool, &stub, "s2", release(2)).await;
    let at = address(1);
    s2.put(&at, 1, None).await.unwrap();
    assert_eq!(s2.objects.entry(&at).unwrap().schema, 2);
    let sent_on = s1.put_in(Some(2), &at, 2, None).await.unwrap_err();
    assert!(matches!(sent_on, WriteError::Elsewhere { .. }), "{sent_on}");
    let new = s1.put_in(Some(2), &address(2), 2, None).await.unwrap_err();
    assert!(matches!(new, WriteError::Schema { .. }), "{new}");
}

#[tokio::test(flavor = "multi_thread")]
async fn write_is_not_the_clients_fault_while_the_server_cannot_run_steps() {
    let (pool, stub) = (pool(), Stub::start().await);
    let lives = Arc::new(AtomicBool::new(true));
    let stepper = release_run_by(2, Box::new(Mortal(Arc::clone(&lives))));
    let s1 = Agent::of_release(&pool, &stub, "s1", stepper).await;
    let at = address(1);
    s1.put(&at, 1, None).await.unwrap();
    lives.store(false, Ordering::Relaxed);
    let waits = s1.put_in(Some(1), &at, 2, None).await.unwrap_err();
    assert!(matches!(waits, WriteError::Unavailable { .. }), "{waits}");
    lives.store(true, Ordering::Relaxed);
    s1.put_in(Some(1), &at, 2, None).await.unwrap();
    let unlucky = s1.put_in(Some(1), &at, UNLUCKY, None).await.unwrap_err();
    assert!(matches!(unlucky, WriteError::Schema { .. }), "{unlucky}");
}

/// Every way in, while the plan lets expand steps run alone: what is refused says what to do, and what is taken counts as
/// nothing that the release before could not read.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_before_finalize_that_the_release_before_does_not_read() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::of_release(&pool, &stub, "s1", release(3)).await;
    let put = async |at: usize, kind: Option<&str>, schema: Option<u32>| {
        let put = Put {
            client: "app".to_owned(),
            write_id: None,
            condition: Condition::Any,
            kind: kind.map(|kind| kind.parse().unwrap()),
            schema,
            properties: Some(json!({"n": at, "number": at}).as_object().unwrap().clone()),
            body: None,
        };
        s1.objects.put(&address(at), put).await
    };
    let to_do = "a newer version comes with its contract step after finalize, so write schema 2 until then";
    // A new object, one that is there, and one that gets this type; a version that nobody knows, too.
    put(1, None, Some(2)).await.unwrap();
    put(2, Some("poem"), None).await.unwrap();
    for (at, kind) in [(1, None), (2, Some("file")), (3, None), (3, Some("file"))] {
        for beyond in [3, 4, u32::MAX] {
            let refused = put(at, kind, Some(beyond)).await.unwrap_err();
            assert!(matches!(refused, WriteError::Schema { .. }), "{refused}");
            assert!(refused.to_string().contains(to_do), "{refused}");
        }
    }
    // What may be written is written in a version that the release before reads, however old it came.
    for (at, kind, schema) in [
        (1, None, None),
        (2, Some("file"), None),
        (3, None, Some(1)),
        (4, Some("file"), Some(2)),
    ] {
        put(at, kind, schema).await.unwrap();
        assert_eq!(s1.objects.entry(&address(at)).unwrap().schema, 2, "{at}");
    }
    // That release keeps a type as it is that this one brings no schemas of.
    put(5, Some("poem"), Some(40)).await.unwrap();
    // A reader who asks for a version beyond gets it, and nothing is written.
    let reading = s1.objects.read(&address(1)).await.unwrap();
    let octets = reading.properties().await.unwrap();
    let kind = reading.entry().kind.clone();
    s1.objects.stepper().bring(&kind, 2, 3, &octets).unwrap();
    assert_eq!(s1.objects.standing().newer, 0);
    assert!(s1.objects.entries().iter().all(|entry| entry.level == zones::Level(1)));
    // After finalize the same is taken, and a version that no release knows is told apart.
    s1.objects.obey(&contract_steps());
    put(3, None, Some(3)).await.unwrap();
    let refused = put(3, None, Some(4)).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("is not known to this server's release, which writes up to 3"),
        "{refused}"
    );
}

/// An agent whose peer is under another plan already takes its object as it is, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn object_that_comes_in_a_version_beyond_finalize_is_counted() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::of_release(&pool, &stub, "s1", release(3)).await;
    let s2 = Agent::of_release(&pool, &stub, "s2", release(3)).await;
    s1.objects.obey(&contract_steps());
    s1.put_in(Some(3), &address(1), 1, None).await.unwrap();
    assert_eq!(s1.objects.standing().newer, 0, "it is not counted any more");
    drain(&s1, &s2, 1).await;
    assert_eq!(s2.objects.standing().newer, 1);
    s2.objects.obey(&contract_steps());
    assert_eq!(s2.objects.standing().newer, 0);
}
