//! What a step may not take, it does not get, and whoever asked goes on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent::schema::{Children, Limits, RunStep, Step, StepError};
use proptest::prelude::*;

fn limits() -> Limits {
    Limits {
        processor: Duration::from_millis(200),
        clock: Duration::from_secs(60),
        memory_octets: 64 << 20,
        output_octets: 100_000,
    }
}

fn children() -> Children {
    Children::of_program(env!("CARGO_BIN_EXE_agent").into(), 1, limits())
}

fn step(text: &str) -> Step {
    Step {
        file: PathBuf::from("test/1-to-2.jq"),
        phase: None,
        exact: None,
        text: text.into(),
    }
}

fn run(children: &Children, text: &str) -> Result<Vec<u8>, StepError> {
    children.run(&step(text), b"{\"a\":1}")
}

#[test]
fn step_that_loops_for_ever_is_ended_by_its_time() {
    let children = children();
    for text in [
        "def f: f; f",
        "last(repeat(.))",
        "reduce range(infinite) as $x (.; .a = $x)",
        "until(false; .a += 1)",
    ] {
        let began = Instant::now();
        let ended = run(&children, text).unwrap_err();
        assert!(matches!(ended, StepError::Time { .. }), "{text}: {ended}");
        assert!(began.elapsed() < Duration::from_secs(30), "{text}");
        assert_eq!(run(&children, ".").unwrap(), b"{\"a\":1}", "the next step runs");
    }
}

#[test]
fn step_that_explodes_is_ended_by_its_memory_depth_or_length() {
    let children = children();
    let ended = run(&children, "{a: [range(100000000)]}").unwrap_err();
    assert!(
        matches!(ended, StepError::Memory { .. } | StepError::Time { .. }),
        "{ended}"
    );
    let ended = run(&children, "{a: (\"x\" * 100000000)}").unwrap_err();
    assert!(matches!(ended, StepError::Memory { .. }), "{ended}");
    let ended = run(&children, "def f: 1 + f; f").unwrap_err();
    assert!(matches!(ended, StepError::Depth | StepError::Memory { .. }), "{ended}");
    let ended = run(&children, "{a: (\"x\" * 200000)}").unwrap_err();
    assert!(matches!(ended, StepError::Long { octets_max: 100_000 }), "{ended}");
    assert_eq!(run(&children, ".").unwrap(), b"{\"a\":1}", "the next step runs");
}

#[test]
fn step_that_raises_or_gives_no_single_result_says_so_and_the_child_goes_on() {
    let children = children();
    assert!(matches!(run(&children, "error(\"no size\")"), Err(StepError::Raised { why }) if why == "no size"));
    assert!(matches!(
        run(&children, "empty"),
        Err(StepError::Results { many: false })
    ));
    assert!(matches!(run(&children, "., ."), Err(StepError::Results { many: true })));
    assert!(matches!(run(&children, ". |"), Err(StepError::Compile { .. })));
    assert_eq!(run(&children, ".b = 2").unwrap(), b"{\"a\":1,\"b\":2}");
}

#[test]
fn missing_program_is_the_servers_fault_and_not_the_steps() {
    let children = Children::of_program("/nowhere/agent".into(), 1, limits());
    assert!(run(&children, ".").unwrap_err().is_of_server());
}

#[test]
fn children_are_shared_by_more_threads_than_there_are_children() {
    let children = Children::of_program(env!("CARGO_BIN_EXE_agent").into(), 2, limits());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let children = &children;
            scope.spawn(move || {
                for round in 0..20 {
                    let text = format!("{{a: ({number} * 100 + {round})}}");
                    let done = run(children, &text).unwrap();
                    assert_eq!(done, format!("{{\"a\":{}}}", number * 100 + round).as_bytes());
                }
            });
        }
    });
}

/// The kernel's way when memory runs out: the object is not to blame, so it must not be quarantined for it.
#[test]
fn child_that_is_killed_from_outside_is_the_servers_fault() {
    // A limit that no other test has, to know the child by.
    let limits = Limits {
        memory_octets: 67_108_863,
        ..limits()
    };
    let children = Children::of_program(env!("CARGO_BIN_EXE_agent").into(), 1, limits);
    assert_eq!(run(&children, ".").unwrap(), b"{\"a\":1}");
    let mine = std::process::id().to_string();
    let child = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok()?.parse::<i32>().ok())
        .find(|process| {
            let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
            // The parent is the second field after the name.
            let parent = read("stat")
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .nth(1)
                == Some(&mine);
            parent && read("cmdline").contains("--memory-octets\x0067108863\0")
        })
        .expect("the child is there");
    let process = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let ended = run(&children, ".").unwrap_err();
    assert!(ended.is_of_server(), "{ended}");
    assert_eq!(run(&children, ".").unwrap(), b"{\"a\":1}", "the next step runs");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever a program does, an answer comes, and the next step runs.
    #[test]
    fn any_small_program_ends(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("."), Just(".a"), Just("[.]"), Just("repeat(.)"), Just("range(1000000)"), Just("recurse"),
                Just("tojson"), Just("[limit(5; repeat(.))]"), Just("error"), Just("empty"), Just("first"), Just("last(range(100))"),
            ],
            1..4,
        ),
    ) {
        let children = children();
        let _ = run(&children, &parts.join(" | "));
        prop_assert_eq!(run(&children, ".").unwrap(), b"{\"a\":1}");
    }
}
