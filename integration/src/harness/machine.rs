//! A machine of its own with a real systemd as its first process, for the units as they are shipped.
//!
//! It is a process in new namespaces (processes, mounts, control groups, names, IPC, network). It sees this machine's programs and
//! libraries, read-only, and nothing else of it: `/etc` is a copy, `/run`, `/tmp`, `/var`, `/dev` and `/usr/local/bin` are empty
//! file systems in memory, and no unit is there but those of the project and the few targets that they name. Needs root.
//!
//! All of it is gone with this process, however that ends, but for an empty control group, which the next machine removes.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::network::inside;
use super::process::{children, spawn};
use super::tools::{Captured, capture, run};
use super::until;

/// How long a machine may take to start, a command on it to end, and what is waited for to hold.
const WAIT: Duration = Duration::from_secs(120);
/// Time between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longest wait for the end of all that ran on a machine.
const END_WAIT: Duration = Duration::from_secs(20);
/// Control groups of machines, before this process's number and the machine's.
const GROUP: &str = "hypernet-machine-";
/// The namespaces, for unshare(1).
const NAMESPACES: [&str; 6] = ["--pid", "--mount", "--cgroup", "--uts", "--ipc", "--net"];

/// Enters the control group `$1` and goes on as the command that follows.
const ENTER: &str = r#"echo $$ > "$1/cgroup.procs" && shift && exec "$@""#;

/// Makes the machine and becomes its systemd: `$1` is the project, `$2` the program that can be a librarian and an agent.
const SETUP: &str = r#"
set -eu
mount --make-rprivate /
new=/mnt
mount -t tmpfs -o mode=755 tmpfs $new
mkdir $new/etc $new/bin $new/dev $new/run $new/var
cp -a /etc/. $new/etc
rm -rf $new/etc/systemd
mkdir -p $new/etc/systemd/system
for unit in "$1"/librarian/systemd/* "$1"/agent/systemd/*; do
    case $unit in *.service|*.socket|*.path) cp "$unit" $new/etc/systemd/system ;; esac
done
for unit in basic.target local-fs.target multi-user.target network-online.target paths.target shutdown.target slices.target \
    sockets.target swap.target sysinit.target timers.target umount.target \
    systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket; do
    ln -s /lib/systemd/system/$unit $new/etc/systemd/system
done
printf '[Unit]\nRequires=systemd-journald.service\nAfter=systemd-journald.service\n' > $new/etc/systemd/system/machine.target
for program in librarian agent; do
    printf '#!/bin/sh\nexec /usr/local/bin/pool %s "$@"\n' $program > $new/bin/$program
    chmod 755 $new/bin/$program
done
touch $new/bin/pool
mount --bind "$2" $new/bin/pool
for device in null zero full random urandom tty; do cp -a /dev/$device $new/dev; done
mkdir $new/dev/pts $new/dev/shm
mount -t tmpfs -o mode=1777 tmpfs $new/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts $new/dev/pts
ln -s pts/ptmx $new/dev/ptmx
ln -s /proc/self/fd $new/dev/fd
mkdir $new/var/lib $new/var/log $new/var/cache
ln -s /run $new/var/run
mkdir -m 1777 $new/var/tmp
umount -R /sys
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
[ ! -e /proc/sysrq-trigger ] || mount --bind $new/dev/null /proc/sysrq-trigger
mount --rbind $new/bin /usr/local/bin
for part in etc dev run var; do mount --rbind $new/$part /$part; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -o remount,bind,ro /
# Credentials are mounted by a process beside the first one.
mount --make-rshared /
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=hypernet SYSTEMD_UNIT_PATH=/etc/systemd/system \
    /lib/systemd/systemd --system --unit=machine.target --log-target=journal --show-status=no
"#;

/// How many machines this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A running machine. Dropping it ends all that runs on it.
#[derive(Debug)]
pub struct Machine {
    /// unshare(1), whose only child is systemd.
    parent: Child,
    /// systemd, by its number outside.
    first: u32,
    group: PathBuf,
}

impl Machine {
    /// Why no machine can be made here, if it is this machine that does not let us: where namespaces, or a control group, are refused.
    #[must_use]
    pub fn refusal() -> Option<String> {
        let tried = (|| {
            let mut args = NAMESPACES.to_vec();
            args.extend(["--fork", "mount", "--make-rprivate", "/"]);
            run("unshare", &args)?.success()?;
            let group = Group::make()?;
            group.remove()
        })();
        tried.err().map(|error| format!("{error:#}"))
    }

    /// Starts a machine on which `librarian` and `agent` are `program`, and no unit is started yet.
    ///
    /// # Errors
    ///
    /// When it does not come up in time; what was printed is in the message.
    pub fn start(program: &Path) -> Result<Machine> {
        let group = Group::make()?;
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", ENTER, "machine"]).arg(&group.0).arg("unshare");
        command.args(NAMESPACES).args(["--fork", "--kill-child"]);
        command
            .args(["/bin/sh", "-c", SETUP, "machine"])
            .arg(project)
            .arg(program);
        let printed = tempfile::tempfile().context("make a file for what is printed")?;
        command
            .stdin(Stdio::null())
            .stdout(printed.try_clone()?)
            .stderr(printed.try_clone()?);
        let mut machine = Machine {
            parent: spawn(command)?,
            first: 0,
            group: group.0,
        };
        machine.come_up().with_context(|| {
            let mut text = String::new();
            let mut printed = printed;
            // What can be read of it: the error itself is told in any case.
            let _ = std::io::Seek::rewind(&mut printed);
            let _ = std::io::Read::read_to_string(&mut printed, &mut text);
            format!("start a machine with systemd; it printed {text:?}")
        })?;
        Ok(machine)
    }

    fn come_up(&mut self) -> Result<()> {
        let until = Instant::now() + WAIT;
        loop {
            if let Some(status) = self.parent.try_wait()? {
                bail!("it ended with {status}");
            }
            ensure!(Instant::now() < until, "it is not up in {} s", WAIT.as_secs());
            // Nothing enters before it is systemd: until then its namespaces are half made.
            if let [first] = children(self.parent.id())[..]
                && std::fs::read_to_string(format!("/proc/{first}/comm")).is_ok_and(|name| name.trim() == "systemd")
            {
                self.first = first;
                if self.property("machine.target", "ActiveState")? == "active" {
                    return Ok(());
                }
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// A command that runs on the machine, as root.
    #[must_use]
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.first.to_string(), "--wd=/", "--"]);
        command.args(words).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Runs a command on the machine, as root.
    ///
    /// # Errors
    ///
    /// When it fails; the end of the journal is in the message.
    pub fn run(&self, words: &[&str]) -> Result<Captured> {
        let told = self.run_any(words)?.success();
        told.with_context(|| format!("a machine whose journal says\n{}", self.journal()))
    }

    /// As [`Machine::run`], whatever the exit status.
    ///
    /// # Errors
    ///
    /// When it cannot be started or does not end.
    pub fn run_any(&self, words: &[&str]) -> Result<Captured> {
        capture(self.command(words), b"", WAIT)
    }

    /// Writes a file on the machine, with all directories above it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, path: &str, mode: &str, content: &[u8]) -> Result<()> {
        let words = ["install", "-D", "-m", mode, "/dev/stdin", path];
        capture(self.command(&words), content, WAIT)?.success().map(drop)
    }

    /// A property of a unit, as systemd says it.
    ///
    /// # Errors
    ///
    /// When systemd gives no answer.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let told = self.run_any(&["systemctl", "show", "--value", "--property", name, unit])?;
        Ok(told.stdout.trim().to_owned())
    }

    /// Waits until something holds.
    ///
    /// # Errors
    ///
    /// When that takes too long; the end of the journal is in the message.
    pub fn until(&self, what: &str, holds: impl FnMut() -> Result<bool>) -> Result<()> {
        until(what, WAIT, holds).with_context(|| format!("a machine whose journal says\n{}", self.journal()))
    }

    /// Waits until a unit's property has a value.
    ///
    /// # Errors
    ///
    /// As [`Machine::until`].
    pub fn until_property(&self, unit: &str, name: &str, value: &str) -> Result<()> {
        self.until(&format!("{name} of {unit} is {value}"), || {
            Ok(self.property(unit, name)? == value)
        })
    }

    /// The last lines of the journal.
    #[must_use]
    pub fn journal(&self) -> String {
        let told = self.run_any(&["journalctl", "--no-pager", "--output=short-precise", "--lines=80"]);
        told.map_or_else(|error| format!("{error:#}"), |told| told.stdout)
    }

    /// Does something on a thread in the machine's network; sockets that it makes stay there.
    ///
    /// # Errors
    ///
    /// The closure's, and where the network cannot be entered.
    pub fn in_network<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let network = format!("/proc/{}/ns/net", self.first);
        inside(&File::open(&network).with_context(|| format!("open {network}"))?, act)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With the first process of a machine the kernel ends all others; it goes with its parent. What does not work here is done by
        // the next machine's sweep.
        let _ = self.parent.kill();
        let _ = self.parent.wait();
        let until = Instant::now() + END_WAIT;
        while populated(&self.group) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = remove(&self.group);
    }
}

/// A control group for one machine.
struct Group(PathBuf);

impl Group {
    fn make() -> Result<Group> {
        let root = groups()?;
        sweep(&root);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let group = root.join(format!("{GROUP}{}-{number}", std::process::id()));
        std::fs::create_dir(&group).with_context(|| format!("make control group {}", group.display()))?;
        Ok(Group(group))
    }

    fn remove(self) -> Result<()> {
        std::fs::remove_dir(&self.0).with_context(|| format!("remove control group {}", self.0.display()))
    }
}

/// Where control groups of version 2 are.
fn groups() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read the list of mounts")?;
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = mounts.find(|words| words.get(2) == Some(&"cgroup2"));
    let path = found.context("no file system of control groups (version 2) is mounted")?[1];
    Ok(PathBuf::from(path))
}

/// Removes what processes left that were killed.
fn sweep(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(GROUP).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            // One that is still in use stays for the next time.
            let _ = remove(&entry.path());
        }
    }
}

/// Removes a control group and all below it. One with a process in it stays.
fn remove(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    match std::fs::remove_dir(group) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn populated(group: &Path) -> bool {
    let events = std::fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}
