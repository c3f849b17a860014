//! What becomes of a request, and of whoever is killed on the way.

use agent::install::Outcome;

use super::fake::{Fake, inode};

#[test]
fn wanted_release_is_installed_and_the_agent_runs_at_it() {
    let mut fake = Fake::new();
    assert_eq!(fake.start(), "ready {\"release\":\"1.0\"}");
    let request = fake.ask("2.0");
    assert_eq!(fake.result(&request).outcome, Outcome::Installed {});
    assert_eq!(fake.read("ran"), "install 2.0 of 2.0\n");
    assert!(fake.agent("2.0").is_some());
    assert!(fake.stop().success());
    assert!(fake.agent("2.0").is_none(), "the agent ends before its supervisor");
}

#[test]
fn command_that_fails_is_undone_and_the_old_release_runs() {
    let mut fake = Fake::new();
    fake.start();
    fake.set("fail.install");
    let request = fake.ask("2.0");
    let Outcome::Failed { failure } = fake.result(&request).outcome else {
        panic!("it failed");
    };
    assert_eq!(failure.why, "it ended with status 3");
    assert_eq!(failure.said, ["install 2.0 of 2.0", "no space for 2.0"]);
    assert_eq!(fake.read("ran"), "install 2.0 of 2.0\nrollback 1.0 of 1.0\n");
    assert!(fake.agent("1.0").is_some());
    fake.unset("fail.install");
    let again = fake.ask("2.0");
    assert_eq!(
        fake.result(&again).outcome,
        Outcome::Installed {},
        "a later want tries again"
    );
}

#[test]
fn release_that_never_becomes_healthy_is_rolled_back_within_its_time() {
    for sign in ["sick.2.0", "dies.2.0"] {
        let mut fake = Fake::new();
        fake.start();
        fake.set(sign);
        let request = fake.ask("2.0");
        let Outcome::Failed { failure } = fake.result(&request).outcome else {
            panic!("it failed");
        };
        let expected = match sign {
            "sick.2.0" => "did not serve at 2.0 in 2s",
            _ => "it ended with status 7",
        };
        assert!(failure.why.contains(expected), "{failure}");
        assert!(fake.agent("1.0").is_some() && fake.agent("2.0").is_none());
    }
}

#[test]
fn server_that_works_at_neither_release_ends_with_failure_and_says_so() {
    for sign in ["fail.rollback", "sick.1.0"] {
        let mut fake = Fake::new();
        fake.start();
        fake.set("sick.2.0");
        fake.set(sign);
        let request = fake.ask("2.0");
        let status = fake.ended();
        assert_eq!(status.code(), Some(1));
        let Outcome::Broken { failure, back } = fake.result(&request).outcome else {
            panic!("it is broken");
        };
        assert!(failure.why.contains("at 2.0"), "{failure}");
        assert!(back.why.contains("status 3") || back.why.contains("at 1.0"), "{back}");
        let log = fake.read("log");
        assert!(log.contains("works neither at 2.0 nor, again, at 1.0"), "{log}");
        assert!(fake.agent("1.0").is_none() && fake.agent("2.0").is_none());
    }
}

#[test]
fn release_that_is_not_allowed_is_refused_and_the_old_one_runs() {
    let mut fake = Fake::new();
    fake.start();
    let request = fake.ask("2.1");
    assert!(matches!(fake.result(&request).outcome, Outcome::Refused { why } if why.contains("2.1")));
    fake.until("the old agent", || fake.agent("1.0"));
    assert_eq!(fake.read("ran"), "");
}

#[test]
fn lower_release_is_put_back_only_where_it_was_recorded() {
    let mut fake = Fake::new();
    fake.start();
    let request = fake.ask("0.9");
    assert!(matches!(fake.result(&request).outcome, Outcome::Refused { why } if why.contains("no rollback is open")));
    let request = fake.ask("2.0");
    assert_eq!(fake.result(&request).outcome, Outcome::Installed {});
    assert!(fake.has("upgrade/open.json"));
    let request = fake.ask("0.9");
    assert!(matches!(fake.result(&request).outcome, Outcome::Refused { .. }));
    let request = fake.ask("1.0");
    assert_eq!(fake.result(&request).outcome, Outcome::Installed {});
    assert!(!fake.has("upgrade/open.json"), "the record is used up");
    assert!(fake.read("ran").ends_with("rollback 1.0 of 1.0\n"));
}

#[test]
fn request_for_the_same_step_of_a_plan_is_not_obeyed_twice() {
    let mut fake = Fake::new();
    fake.start();
    fake.set("fail.install");
    let request = fake.ask("2.0");
    fake.result(&request);
    fake.unset("fail.install");
    let again = agent::install::Request {
        id: agent::install::words::RequestId::fresh(),
        ..request
    };
    fake.hand_over(&again);
    assert!(matches!(fake.result(&again).outcome, Outcome::Refused { why } if why.contains("not newer")));
    assert_eq!(fake.read("ran"), "install 2.0 of 2.0\nrollback 1.0 of 1.0\n");
}

#[test]
fn killed_supervisor_goes_on_where_it_was() {
    // What is held at the kill, what makes the install fail, and where it ends.
    for (held, sign, at, left) in [
        ("install", None, "2.0", "install 2.0 of 2.0\ninstall 2.0 of 2.0\n"),
        ("2.0", None, "2.0", "install 2.0 of 2.0\n"),
        (
            "rollback",
            Some("sick.2.0"),
            "1.0",
            "install 2.0 of 2.0\nrollback 1.0 of 1.0\nrollback 1.0 of 1.0\n",
        ),
        (
            "1.0",
            Some("sick.2.0"),
            "1.0",
            "install 2.0 of 2.0\nrollback 1.0 of 1.0\n",
        ),
    ] {
        let mut fake = Fake::new();
        fake.start();
        if let Some(sign) = sign {
            fake.set(sign);
        }
        fake.set(&format!("hold.{held}"));
        let request = fake.ask("2.0");
        fake.wait_for(&format!("held.{held}"));
        fake.kill();
        assert!(fake.agent("1.0").is_none() && fake.agent("2.0").is_none(), "{held}");
        fake.unset(&format!("hold.{held}"));
        fake.begin();
        let outcome = fake.result(&request).outcome;
        assert_eq!(outcome == (Outcome::Installed {}), at == "2.0", "{held}: {outcome:?}");
        fake.until("the agent", || fake.agent(at));
        assert_eq!(fake.read("release"), at, "{held}");
        assert_eq!(fake.read("ran"), left, "{held}");
    }
}

#[test]
fn agent_that_crashes_ends_its_supervisor_with_its_status() {
    let mut fake = Fake::new();
    fake.start();
    fake.write("crash", "9");
    assert_eq!(fake.ended().code(), Some(9));
}

#[test]
fn killed_supervisor_takes_the_agent_along() {
    let mut fake = Fake::new();
    fake.start();
    assert!(fake.agent("1.0").is_some());
    fake.kill();
    assert!(fake.agent("1.0").is_none());
}

#[test]
fn closing_removes_the_record_and_leaves_the_agent_alone() {
    let mut fake = Fake::new();
    fake.start();
    let request = fake.ask("2.0");
    fake.result(&request);
    let agent = fake.agent("2.0").unwrap();
    let close = agent::install::Request {
        direction: agent::install::Direction::Close,
        ..fake.request("2.0", 20)
    };
    fake.leave(&close);
    assert_eq!(fake.result(&close).outcome, Outcome::Closed {});
    assert!(!fake.has("upgrade/open.json"));
    assert_eq!(fake.agent("2.0"), Some(agent));
    let request = fake.ask("1.0");
    assert!(matches!(fake.result(&request).outcome, Outcome::Refused { .. }));
}

/// The way of systemd: the agent is not the installer's child.
#[test]
fn one_shot_installer_restarts_by_command_and_ends_with_the_result() {
    let fake = Fake::new();
    let restart = "dir=$(dirname \"$0\"); cd \"$dir\"; echo restart $HYPERNET_RELEASE >> ran\n\
                   [ -e pid.now ] && kill $(cat pid.now) 2>/dev/null\n\
                   sh agent.sh > /dev/null 2>&1 & echo $! > pid.now";
    // The command's group is killed at its end, so the service manager has to be somebody else: here, a process of its own group.
    fake.write("restart.sh", &restart.replace("sh agent.sh", "setsid sh agent.sh"));
    let request = fake.request("2.0", 7);
    fake.leave(&request);
    let done = fake.install();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(String::from_utf8_lossy(&done.stdout), "the agent serves at 2.0\n");
    assert_eq!(fake.read("ran"), "install 2.0 of 2.0\nrestart 2.0\n");
    let result = inode(&fake.path("upgrade/result.json"));
    let idle = fake.install();
    assert_eq!(String::from_utf8_lossy(&idle.stdout), "nothing to install\n");
    assert_eq!(inode(&fake.path("upgrade/result.json")), result);

    fake.set("sick.1.0");
    fake.set("sick.2.0");
    let request = fake.request("2.0", 8);
    fake.leave(&request);
    let broken = fake.install();
    assert_eq!(broken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("works neither at 2.0"));
    let pid: i32 = fake.read("pid.now").trim().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}
