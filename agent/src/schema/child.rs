//! Processes that run steps, with limits that hold whatever a step does.
//!
//! ```text
//!  agent --spawn--> agent schema-step      standard input: a socket for both ways
//!        --[0, program's number, text]-->  compiles     --[0] or error-->
//!        --[1, program's number, JSON]-->  runs         --[0, JSON] or error-->
//! ```
//!
//! Why a process: a loop, a deep recursion and a huge value happen inside one call of the interpreter. A thread cannot be ended
//! from outside, an overflowing stack ends the whole process, and so does a failed allocation. A value type that counts fuel sees
//! none of them (`def f: f; f` touches no value). What the system limits is limited whatever the interpreter does:
//!
//! | bound          | by                                                | ends the child with |
//! |----------------|---------------------------------------------------|---------------------|
//! | processor time | `ITIMER_PROF`, set before each run                | SIGPROF             |
//! | memory         | `RLIMIT_AS`, what it had at its start and so much | SIGABRT             |
//! | stack          | the system's limit, guard page                    | SIGABRT             |
//! | the clock      | the parent, which waits so long                   | SIGKILL             |
//!
//! A child takes one request at a time and lives for many, since its start costs far more than a request. When its parent is
//! gone it reads the end of its input and ends; in a loop, the timer ends it.
//!
//! A frame is its length (4 octets, big-endian) and that many octets. The child has an empty environment, leaves no core dump,
//! and writes no files (`RLIMIT_FSIZE` 0).

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::step::{Limits, Program, RunStep, StepError};
use super::r#type::Step;

/// Name of the command that a child is started with.
pub const COMMAND: &str = "schema-step";
/// Longest frame: properties and a result are far shorter.
const FRAME_OCTETS_MAX: usize = 64 << 20;
/// What is kept of a dying child's last words.
const LAST_WORDS_OCTETS: u64 = 4096;
/// Programs that one child keeps compiled; past it a fresh child begins.
const PROGRAMS_MAX: usize = 1024;

const COMPILE: u8 = 0;
const RUN: u8 = 1;

/// The first octet of a reply.
mod reply {
    pub(super) const DONE: u8 = 0;
    pub(super) const COMPILE: u8 = 1;
    pub(super) const RAISED: u8 = 2;
    pub(super) const NONE: u8 = 3;
    pub(super) const MANY: u8 = 4;
    pub(super) const LONG: u8 = 5;
    pub(super) const NO_OBJECT: u8 = 6;
    pub(super) const PANICKED: u8 = 7;
}

/// A bounded number of children, started when they are needed; shared by all who run steps.
#[derive(Debug)]
pub struct Children {
    program: PathBuf,
    limits: Limits,
    idle: Mutex<Idle>,
    freed: Condvar,
}

#[derive(Debug)]
struct Idle {
    children: Vec<Child>,
    /// Children that may still be taken or started.
    places: usize,
}

impl Children {
    /// At most so many children of this very program.
    #[must_use]
    pub fn new(children_max: usize, limits: Limits) -> Children {
        // The link still leads to the running program when an upgrade has replaced its file.
        Children::of_program("/proc/self/exe".into(), children_max, limits)
    }

    /// The same of another agent's program.
    #[must_use]
    pub fn of_program(program: PathBuf, children_max: usize, limits: Limits) -> Children {
        Children {
            program,
            limits,
            idle: Mutex::new(Idle {
                children: Vec::new(),
                places: children_max.max(1),
            }),
            freed: Condvar::new(),
        }
    }

    /// Lends a child to `work`. One that failed is not used again: it may be dead, or in the middle of a reply.
    fn with_child<T>(&self, work: impl FnOnce(&mut Child) -> Result<T, Failure>) -> Result<T, StepError> {
        let _place = Place::take(self);
        let idle = self.idle.lock().children.pop();
        let mut child = match idle {
            Some(child) if child.known.len() < PROGRAMS_MAX => child,
            Some(_) | None => Child::start(&self.program, &self.limits).map_err(StepError::Child)?,
        };
        let done = match work(&mut child) {
            Ok(done) => Ok(done),
            Err(Failure::Step(error)) => Err(error),
            Err(Failure::Gone(source)) => return Err(child.end(&self.limits, source)),
        };
        self.idle.lock().children.push(child);
        done
    }
}

impl RunStep for Children {
    fn run(&self, step: &Step, properties: &[u8]) -> Result<Vec<u8>, StepError> {
        self.with_child(|child| child.run(&step.text, properties, &self.limits))
    }

    fn compile(&self, step: &Step) -> Result<(), StepError> {
        self.with_child(|child| child.compile(&step.text, &self.limits).map(drop))
    }
}

/// The right to one child; given back when dropped.
struct Place<'a>(&'a Children);

impl<'a> Place<'a> {
    fn take(children: &'a Children) -> Self {
        let mut idle = children.idle.lock();
        while idle.places == 0 {
            children.freed.wait(&mut idle);
        }
        idle.places -= 1;
        Place(children)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.idle.lock().places += 1;
        self.0.freed.notify_one();
    }
}

enum Failure {
    /// The child said so, and takes the next request.
    Step(StepError),
    /// The child is dead or does not answer.
    Gone(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Gone(error)
    }
}

#[derive(Debug)]
struct Child {
    process: process::Child,
    socket: UnixStream,
    known: HashMap<Arc<str>, u32>,
}

impl Child {
    fn start(program: &Path, limits: &Limits) -> io::Result<Child> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_read_timeout(Some(limits.clock))?;
        socket.set_write_timeout(Some(limits.clock))?;
        let process = Command::new(program)
            .arg(COMMAND)
            .args(["--processor-ms", &limits.processor.as_millis().to_string()])
            .args(["--memory-octets", &limits.memory_octets.to_string()])
            .args(["--output-octets", &limits.output_octets.to_string()])
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Child {
            process,
            socket,
            known: HashMap::new(),
        })
    }

    fn compile(&mut self, text: &Arc<str>, limits: &Limits) -> Result<u32, Failure> {
        if let Some(number) = self.known.get(text) {
            return Ok(*number);
        }
        let number = u32::try_from(self.known.len()).expect("a child knows few programs");
        self.ask(COMPILE, number, text.as_bytes(), limits)?;
        self.known.insert(Arc::clone(text), number);
        Ok(number)
    }

    fn run(&mut self, text: &Arc<str>, properties: &[u8], limits: &Limits) -> Result<Vec<u8>, Failure> {
        let number = self.compile(text, limits)?;
        self.ask(RUN, number, properties, limits)
    }

    fn ask(&mut self, verb: u8, number: u32, octets: &[u8], limits: &Limits) -> Result<Vec<u8>, Failure> {
        write_frame(&mut self.socket, &[&[verb], &number.to_be_bytes(), octets])?;
        let mut answer = read_frame(&mut self.socket)?.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        if answer.is_empty() {
            return Err(Failure::Gone(io::ErrorKind::InvalidData.into()));
        }
        let code = answer.remove(0);
        let why = || String::from_utf8_lossy(&answer).into_owned();
        Err(Failure::Step(match code {
            reply::DONE => return Ok(answer),
            reply::COMPILE => StepError::Compile { why: why() },
            reply::RAISED => StepError::Raised { why: why() },
            reply::NONE => StepError::Results { many: false },
            reply::MANY => StepError::Results { many: true },
            reply::LONG => StepError::Long {
                octets_max: limits.output_octets,
            },
            reply::NO_OBJECT => StepError::NoObject { why: why() },
            reply::PANICKED => StepError::Panicked { why: why() },
            _ => return Err(Failure::Gone(io::ErrorKind::InvalidData.into())),
        }))
    }

    /// Ends the process, and says what it ended of.
    fn end(mut self, limits: &Limits, source: io::Error) -> StepError {
        let timed_out = matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        if timed_out || source.kind() == io::ErrorKind::InvalidData {
            drop(self.process.kill());
        }
        // A child that still lives reads the end of its input.
        drop(self.socket.shutdown(std::net::Shutdown::Both));
        let mut words = String::new();
        if let Some(errors) = self.process.stderr.take() {
            drop(errors.take(LAST_WORDS_OCTETS).read_to_string(&mut words));
        }
        let status = match self.process.wait() {
            Ok(status) => status,
            Err(error) => return StepError::Child(error),
        };
        match status.signal() {
            _ if timed_out => StepError::Time { limit: limits.clock },
            Some(libc::SIGPROF) => StepError::Time {
                limit: limits.processor,
            },
            // Somebody else ended it, such as a kernel that was out of memory: nothing is said of the step.
            Some(libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP) => {
                StepError::Child(io::Error::other(format!("it was ended from outside, {status}")))
            }
            Some(_) if words.contains("overflowed its stack") => StepError::Depth,
            Some(_) if words.contains("memory allocation of") => StepError::Memory {
                octets_max: limits.memory_octets,
            },
            Some(_) | None => StepError::Ended {
                how: status.to_string(),
            },
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn write_frame(to: &mut impl Write, parts: &[&[u8]]) -> io::Result<()> {
    let octets: usize = parts.iter().map(|part| part.len()).sum();
    if octets > FRAME_OCTETS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // One system call: a frame's length alone would wake the reader for nothing.
    let mut frame = Vec::with_capacity(4 + octets);
    frame.extend_from_slice(&u32::try_from(octets).expect("within the bound").to_be_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    to.write_all(&frame)
}

/// The next frame; none at the end.
fn read_frame(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read(&mut length)? {
        0 => return Ok(None),
        some => from.read_exact(&mut length[some..])?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_OCTETS_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut octets = vec![0; length];
    from.read_exact(&mut octets)?;
    Ok(Some(octets))
}

/// The child: runs steps for the process that holds the other end of standard input, until that is gone.
///
/// # Errors
///
/// The system's, when a limit cannot be set or the socket breaks.
pub fn serve(processor: Duration, memory_octets: u64, output_octets: u64) -> io::Result<()> {
    crate::vault::harden::forbid_core_dumps()?;
    let bound = |resource, octets| {
        let limit = Rlimit {
            current: Some(octets),
            maximum: Some(octets),
        };
        setrlimit(resource, limit)
    };
    bound(Resource::As, mapped_octets()?.saturating_add(memory_octets))?;
    bound(Resource::Fsize, 0)?;
    // The words of a panic could hold values; the reply has them without.
    std::panic::set_hook(Box::new(|_| ()));
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut programs = Vec::new();
    while let Some(request) = read_frame(&mut socket)? {
        set_timer(processor)?;
        let (code, octets) = answer(&mut programs, &request, output_octets);
        set_timer(Duration::ZERO)?;
        write_frame(&mut socket, &[&[code], &octets])?;
    }
    Ok(())
}

fn answer(programs: &mut Vec<Program>, request: &[u8], output_octets: u64) -> (u8, Vec<u8>) {
    let unknown = |what: &str| {
        Err(StepError::Compile {
            why: format!("{what} is not known in this process"),
        })
    };
    let done = match request.split_first_chunk::<5>() {
        Some(([COMPILE, ..], text)) => std::str::from_utf8(text)
            .map_err(|error| StepError::Compile { why: error.to_string() })
            .and_then(Program::compile)
            .map(|program| {
                programs.push(program);
                Vec::new()
            }),
        Some(([RUN, a, b, c, d], properties)) => match programs.get(u32::from_be_bytes([*a, *b, *c, *d]) as usize) {
            Some(program) => program.run(properties, output_octets),
            None => unknown("the program"),
        },
        Some(_) | None => unknown("the request"),
    };
    let error = match done {
        Ok(octets) => return (reply::DONE, octets),
        Err(error) => error,
    };
    match error {
        StepError::Compile { why } => (reply::COMPILE, why.into_bytes()),
        StepError::Raised { why } => (reply::RAISED, why.into_bytes()),
        StepError::Results { many: false } => (reply::NONE, Vec::new()),
        StepError::Results { many: true } => (reply::MANY, Vec::new()),
        StepError::Long { .. } => (reply::LONG, Vec::new()),
        StepError::NoObject { why } => (reply::NO_OBJECT, why.into_bytes()),
        StepError::Panicked { why } => (reply::PANICKED, why.into_bytes()),
        StepError::Time { .. }
        | StepError::Memory { .. }
        | StepError::Depth
        | StepError::Ended { .. }
        | StepError::Child(_) => unreachable!("only a parent says so"),
    }
}

/// Octets of this process's address space.
fn mapped_octets() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').next().and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Ends this process by SIGPROF after so much more processor time; zero takes that back.
fn set_timer(after: Duration) -> io::Result<()> {
    let timer = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval {
            tv_sec: after.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_usec: after.subsec_micros().into(),
        },
    };
    // SAFETY: the timer is valid for the call, and the old one is not asked for.
    match unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
