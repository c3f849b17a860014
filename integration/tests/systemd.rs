//! The units that are shipped, judged by systemd's own tools, and what the programs ask of the kernel held against them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration::harness::{Pool, run};
use librarian::config::{LISTEN_DNS, LISTEN_HTTPS};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// Where the units expect the programs.
const PROGRAMS: &str = "/usr/local/bin/";
/// Highest exposure of a service that the world speaks to, in tenths, of 0 to 100. What remains is that it has a network.
const EXPOSURE_MAX: &str = "15";
/// Highest exposure of the one that installs: it must be root, and write where programs are.
const EXPOSURE_OF_ROOT_MAX: &str = "35";

/// The shipped units by name.
fn units() -> Result<BTreeMap<String, String>> {
    let mut units = BTreeMap::new();
    for part in ["librarian", "agent"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(part)
            .join("systemd");
        for entry in dir.read_dir().with_context(|| format!("read {}", dir.display()))? {
            let path = entry?.path();
            // The installer's settings lie beside its units.
            if path.extension().is_some_and(|extension| extension == "toml") {
                continue;
            }
            let name = path.file_name().context("a unit has a name")?;
            units.insert(name.to_string_lossy().into_owned(), std::fs::read_to_string(&path)?);
        }
    }
    Ok(units)
}

/// The units in a directory, with programs that exist.
fn installed() -> Result<(tempfile::TempDir, Vec<PathBuf>)> {
    let dir = tempfile::tempdir()?;
    for program in ["librarian", "agent"] {
        let path = dir.path().join(program);
        std::fs::write(&path, "#!/bin/sh\n")?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    let here = format!("{}/", dir.path().display());
    let mut paths = Vec::new();
    for (name, text) in units()? {
        let path = dir.path().join(name);
        std::fs::write(&path, text.replace(PROGRAMS, &here))?;
        paths.push(path);
    }
    Ok((dir, paths))
}

/// The values of a setting in a unit, in their order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value).collect()
}

#[test]
fn systemd_finds_nothing_to_say_about_the_units() -> Result<()> {
    let (_dir, paths) = installed()?;
    assert_eq!(paths.len(), 6);
    let mut args = vec!["verify".to_owned(), "--man=no".to_owned()];
    args.extend(paths.iter().map(|path| path.display().to_string()));
    let told = run("systemd-analyze", &args)?.success()?;
    // A misspelt setting is only a line here: systemd goes on without it.
    ensure!(
        told.stdout.is_empty() && told.stderr.is_empty(),
        "{}{}",
        told.stdout,
        told.stderr
    );
    Ok(())
}

#[test]
fn services_are_no_more_exposed_than_their_work_needs() -> Result<()> {
    let (dir, _) = installed()?;
    for (name, most) in [
        ("librarian.service", EXPOSURE_MAX),
        ("agent.service", EXPOSURE_MAX),
        ("agent-install.service", EXPOSURE_OF_ROOT_MAX),
    ] {
        let unit = dir.path().join(name).display().to_string();
        let threshold = format!("--threshold={most}");
        let args = ["security", "--no-pager", "--offline=yes", &threshold, &unit];
        run("systemd-analyze", &args)?.success()?;
    }
    Ok(())
}

#[test]
fn units_listen_where_a_new_pool_does_and_hand_on_what_the_librarian_takes() -> Result<()> {
    let units = units()?;
    let (dns, join) = (&units["librarian-dns.socket"], &units["librarian-join.socket"]);
    let (dns_address, join_address) = (LISTEN_DNS.to_string(), LISTEN_HTTPS.to_string());
    assert_eq!(values(dns, "ListenDatagram"), [&dns_address]);
    assert_eq!(values(dns, "ListenStream"), [&dns_address]);
    assert_eq!(values(join, "ListenStream"), [&join_address]);
    // The names are those that `librarian run` knows.
    assert_eq!(values(dns, "FileDescriptorName"), ["dns"]);
    assert_eq!(values(join, "FileDescriptorName"), ["join"]);
    let service = &units["librarian.service"];
    assert_eq!(
        values(service, "Sockets"),
        ["librarian-dns.socket librarian-join.socket"]
    );
    Ok(())
}

#[test]
fn the_agent_writes_only_its_own_directory_and_root_looks_there_for_its_wish() -> Result<()> {
    let units = units()?;
    let agent = &units["agent.service"];
    for (key, value) in [
        ("ProtectSystem", "strict"),
        ("StateDirectory", "agent"),
        ("DynamicUser", "yes"),
        ("ExecStart", "/usr/local/bin/agent run --dir %S/agent"),
    ] {
        assert_eq!(values(agent, key), [value]);
    }
    assert!(values(agent, "ReadWritePaths").is_empty());
    assert_eq!(
        values(&units["agent-install.path"], "PathExists"),
        ["%S/agent/upgrade/request.json"]
    );
    assert_eq!(
        values(&units["agent-install.service"], "ExecStart"),
        ["/usr/local/bin/agent install --dir %S/agent --config /etc/hypernet/agent-install.toml"]
    );
    Ok(())
}

/// Runs a pool under strace through writes, a move, a read, a backup and its end.
#[test]
fn programs_make_no_system_call_that_their_units_forbid() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let traced = dir.path().join("traced");
    // What runs keeps its process; strace is a process beside it. Commands of a person run in no unit.
    let script = format!(
        "#!/bin/sh\ncase \"$2\" in\nrun) exec strace -D -f -qq -o {}/$1.$$.trace {DEMO} \"$@\" ;;\n*) exec {DEMO} \"$@\" ;;\nesac\n",
        dir.path().display()
    );
    std::fs::write(&traced, script)?;
    std::fs::set_permissions(&traced, std::fs::Permissions::from_mode(0o755))?;
    let mut pool = Pool::builder(&traced).servers(2).free(1).start()?;
    pool.wait_for_servers()?;
    let client = pool.add_client("shop", &["read:3", "write:3"])?.display().to_string();
    for address in ["3.1", "3.2"] {
        pool.agent(&["put", address, "-", "--client", &client], b"body")?
            .success()?;
    }
    pool.librarian(&["drain", "s1"])?.success()?;
    pool.agent(&["get", "3.1", "--client", &client], b"")?.success()?;
    let backup = pool.dir().display().to_string();
    pool.librarian(&["backup", &backup])?.success()?;
    pool.stop_librarian()?;
    drop(pool);

    let units = units()?;
    let sets = Sets::read()?;
    for program in ["librarian", "agent"] {
        let allowed = sets.allowed(&units[&format!("{program}.service")])?;
        let used = used(dir.path(), program)?;
        // A trace that ended early would prove nothing.
        ensure!(
            used.contains("fsync") || used.contains("fdatasync"),
            "{program} was not traced: {used:?}"
        );
        let forbidden: Vec<_> = used.difference(&allowed).collect();
        ensure!(forbidden.is_empty(), "{program}.service does not allow {forbidden:?}");
    }
    Ok(())
}

/// The system calls in all traces of a program.
fn used(dir: &Path, program: &str) -> Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    for entry in dir.read_dir()? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with(program) || !name.ends_with(".trace") {
            continue;
        }
        // `PID name(...`, or the end of a call that was interrupted: `PID <... name resumed>`.
        for line in String::from_utf8_lossy(&std::fs::read(&path)?).lines() {
            let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
            let call = call.strip_prefix("<... ").unwrap_or(call);
            let name: String = call
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            let rest = &call[name.len()..];
            if !name.is_empty() && (rest.starts_with('(') || rest.starts_with(" resumed")) {
                used.insert(name);
            }
        }
    }
    Ok(used)
}

/// systemd's sets of system calls.
struct Sets(BTreeMap<String, Vec<String>>);

impl Sets {
    fn read() -> Result<Sets> {
        let told = run("systemd-analyze", &["syscall-filter", "--no-pager"])?.success()?;
        let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut current = None;
        for line in told.stdout.lines() {
            match line.trim() {
                "" => {}
                text if text.starts_with('#') => {}
                // Names of sets stand at the left.
                text if text.starts_with('@') && !line.starts_with(' ') => current = Some(text.to_owned()),
                text => {
                    if let Some(set) = &current {
                        sets.entry(set.clone()).or_default().push(text.to_owned());
                    }
                }
            }
        }
        Ok(Sets(sets))
    }

    /// The calls of a name: of a set, or the one of this name.
    fn calls(&self, name: &str) -> Result<BTreeSet<String>> {
        if !name.starts_with('@') {
            return Ok([name.to_owned()].into());
        }
        let mut calls = BTreeSet::new();
        for one in self.0.get(name).with_context(|| format!("systemd knows no {name}"))? {
            calls.extend(self.calls(one)?);
        }
        Ok(calls)
    }

    /// What a unit allows: the first line says what there is, later ones add or, with `~`, take away.
    fn allowed(&self, unit: &str) -> Result<BTreeSet<String>> {
        let mut allowed = BTreeSet::new();
        let lines = values(unit, "SystemCallFilter");
        ensure!(!lines.is_empty(), "the unit has no filter");
        for line in lines {
            let (taken_away, names) = line.strip_prefix('~').map_or((false, line), |names| (true, names));
            for name in names.split_whitespace() {
                for call in self.calls(name)? {
                    if taken_away {
                        allowed.remove(&call);
                    } else {
                        allowed.insert(call);
                    }
                }
            }
        }
        Ok(allowed)
    }
}
