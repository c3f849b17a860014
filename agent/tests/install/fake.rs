//! An agent, an install command and a rollback command of a few lines of shell; and what a test asks of them.
//!
//! | file in the directory | means                                                                                     |
//! |-----------------------|-------------------------------------------------------------------------------------------|
//! | `release`             | what is installed                                                                         |
//! | `fail.install`, `fail.rollback` | that command fails                                                              |
//! | `sick.2.0`            | the agent of that release never says that it is healthy                                   |
//! | `dies.2.0`            | the agent of that release ends at once, with status 7                                     |
//! | `hold.X`              | X (install, rollback or a release) says `held.X` and waits until this is gone             |
//! | `next.json`           | the agent asks for this, and ends                                                         |
//! | `crash`               | the agent ends with what is in it as its status                                           |

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use agent::install::words::{RequestId, Version, load, store};
use agent::install::{Direction, FOLDER, Folder, REQUEST, RESULT, Report, Request};

/// Longest wait for anything.
const WAIT: Duration = Duration::from_secs(60);

const AGENT: &str = r#"
dir=$(dirname "$0"); cd "$dir"
release=$(cat release)
echo $$ > pid.new; mv pid.new pid.$release
trap 'exit 0' TERM
if [ -e dies.$release ]; then exit 7; fi
if [ -e hold.$release ]; then touch held.$release; fi
while [ -e hold.$release ]; do sleep 0.02; done
echo "ready {\"release\":\"$release\"}"
while :; do
    id=$(sed -n 's/.*"id": "\(.*\)".*/\1/p' upgrade/request.json 2>/dev/null)
    if [ -n "$id" ] && [ ! -e sick.$release ]; then
        printf '{"v":1,"id":"%s","release":"%s","pid":1,"boot":"b","unix_ms":0}' $id $release > upgrade/h.new
        mv upgrade/h.new upgrade/health.json
    fi
    if [ -e crash ]; then exit $(cat crash); fi
    if [ -e next.json ]; then mv next.json upgrade/request.json; exit 0; fi
    sleep 0.02
done
"#;

/// `$1` is the release, `$0` the command's own file.
const COMMAND: &str = r#"
dir=$(dirname "$0"); me=$(basename "$0" .sh); cd "$dir"
echo "$me $1 of $HYPERNET_RELEASE" | tee -a ran
if [ -e hold.$me ]; then touch held.$me; fi
while [ -e hold.$me ]; do sleep 0.02; done
if [ -e fail.$me ]; then echo "no space for $1"; exit 3; fi
printf %s "$1" > release
"#;

/// A server whose agent is a script.
pub(super) struct Fake {
    dir: tempfile::TempDir,
    pub(super) supervisor: Option<Child>,
    /// Kept open: a shell that writes into a closed pipe ends.
    out: Option<BufReader<ChildStdout>>,
    plan: u64,
}

impl Fake {
    /// At release 1.0, which may become 2.0.
    pub(super) fn new() -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at(FOLDER)).unwrap();
        fs::write(at("release"), "1.0").unwrap();
        fs::write(at("agent.sh"), AGENT).unwrap();
        for command in ["install.sh", "rollback.sh"] {
            fs::write(at(command), COMMAND).unwrap();
        }
        let script = |name: &str| format!("\"/bin/sh\", {:?}", at(name));
        let settings = format!(
            "allow = [\"2.0\"]\ninstall = [{}, \"{{release}}\"]\nrollback = [{}, \"{{release}}\"]\nprogram = [{}]\n\
             health_timeout = \"2s\"\nrestart = [{}]\n",
            script("install.sh"),
            script("rollback.sh"),
            script("agent.sh"),
            script("restart.sh"),
        );
        fs::write(at("install.toml"), settings).unwrap();
        Fake {
            dir,
            supervisor: None,
            out: None,
            plan: 7,
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub(super) fn set(&self, name: &str) {
        self.write(name, "");
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let new = self.path(".new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    pub(super) fn unset(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command(&self, word: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command
            .arg(word)
            .arg("--dir")
            .arg(self.dir.path())
            .arg("--config")
            .arg(self.path("install.toml"))
            .stdin(Stdio::null());
        command
    }

    /// Starts `agent supervise`; returns when the agent is ready, with its ready line.
    pub(super) fn start(&mut self) -> String {
        self.begin();
        let mut line = String::new();
        self.out.as_mut().unwrap().read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Starts `agent supervise`.
    pub(super) fn begin(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let mut command = self.command("supervise");
        command.stdout(Stdio::piped()).stderr(log).env("RUST_LOG", "info");
        let mut supervisor = command.spawn().unwrap();
        self.out = supervisor.stdout.take().map(BufReader::new);
        self.supervisor = Some(supervisor);
    }

    /// Runs `agent install` to its end.
    pub(super) fn install(&self) -> std::process::Output {
        self.command("install").output().unwrap()
    }

    /// The agent asks for a release, under a new plan.
    pub(super) fn ask(&mut self, release: &str) -> Request {
        self.plan += 1;
        let request = self.request(release, self.plan);
        self.hand_over(&request);
        request
    }

    /// The agent asks for this.
    pub(super) fn hand_over(&self, request: &Request) {
        let folder = Folder::open(self.dir.path()).unwrap();
        store(&folder, "next.json", request).unwrap();
    }

    /// What the installer finds, with no agent that asks for it.
    pub(super) fn leave(&self, request: &Request) {
        store(&self.folder(), REQUEST, request).unwrap();
    }

    pub(super) fn request(&self, release: &str, plan: u64) -> Request {
        let (release, present): (agent::install::Release, agent::install::Release) =
            (release.parse().unwrap(), self.read("release").parse().unwrap());
        Request {
            v: Version,
            id: RequestId::fresh(),
            direction: match release.is_lower_than(&present) {
                true => Direction::Rollback,
                false => Direction::Install,
            },
            release,
            present,
            plan,
            step: 1,
            contract: false,
            unix_ms: 0,
        }
    }

    fn folder(&self) -> Folder {
        Folder::open(&self.path(FOLDER)).unwrap()
    }

    /// Waits for the result of a request, and for the end of what led to it.
    pub(super) fn result(&self, request: &Request) -> Report {
        self.until("a result", || {
            let report: Option<Report> = load(&self.folder(), RESULT).unwrap();
            let open: Option<Request> = load(&self.folder(), REQUEST).unwrap();
            report.filter(|report| report.request.id == request.id && open.is_none())
        })
    }

    /// Waits until something is there.
    pub(super) fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + WAIT;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < until,
                "{what} never came; the log:\n{}",
                self.read("log")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn wait_for(&self, file: &str) {
        self.until(file, || self.has(file).then_some(()));
    }

    /// The process of the agent of a release, if it lives.
    pub(super) fn agent(&self, release: &str) -> Option<u32> {
        let pid = self.read(&format!("pid.{release}")).trim().parse().ok()?;
        lives(pid).then_some(pid)
    }

    /// SIGKILLs the supervisor; returns when agent and commands are gone with it.
    pub(super) fn kill(&mut self) {
        let mut supervisor = self.supervisor.take().unwrap();
        let children = children_of(supervisor.id());
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        self.until("the end of what the supervisor started", || {
            children.iter().all(|child| !lives(*child)).then_some(())
        });
    }

    /// SIGTERMs the supervisor and waits for its end.
    pub(super) fn stop(&mut self) -> std::process::ExitStatus {
        let supervisor = self.supervisor.as_ref().unwrap();
        let pid = rustix::process::Pid::from_child(supervisor);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.ended()
    }

    /// Waits for the supervisor's own end.
    pub(super) fn ended(&mut self) -> std::process::ExitStatus {
        let mut supervisor = self.supervisor.take().unwrap();
        self.until("the supervisor's end", || supervisor.try_wait().unwrap())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            drop(supervisor.kill());
            drop(supervisor.wait());
        }
    }
}

/// Whether a process runs: not one that only waits to be looked at.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn children_of(pid: u32) -> Vec<u32> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let task = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let texts: Vec<String> = fs::read_dir(tasks).unwrap().flatten().map(task).collect();
    let children = texts.iter().flat_map(|text| text.split_whitespace());
    children.map(|child| child.parse().unwrap()).collect()
}

/// So that a test can tell whether a file was written anew.
pub(super) fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}
