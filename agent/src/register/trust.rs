//! Which registry this agent believes.
//!
//! Every signed answer names the registry's incarnation. One that is new may be older than what this agent knows: from its
//! first answer on no register is read or changed, until this agent has told what it durably knows and the librarian says that
//! all is reconciled. An incarnation that was replaced never counts again, however late its answers come.
//!
//! ```text
//!  (nothing known) --open--> Trusted --another incarnation--> Held --reported, then open--> Trusted
//!                               any of them --written off--> WrittenOff
//! ```
//!
//! The file `incarnation` is a line for the present one, `<32 digits> open` or `<32 digits> reported`, then a line for each
//! that it replaced, the latest first.
//!
//! Specification: DESIGN.md section 6, PROTOCOL.md section 13.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard, watch};
use zones::{Incarnation, Standing, Told};

/// Name of the file.
const FILE: &str = "incarnation";
/// Most replaced incarnations that are remembered: an answer is not that late.
const PAST_MAX: usize = 64;

/// Whether registers may be read and changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// They may.
    Trusted,
    /// They may not: another registry answers.
    Held {
        /// Which.
        incarnation: Incarnation,
        /// What it expects.
        standing: Standing,
    },
    /// They may not, and nothing may be served: others own what this server had.
    WrittenOff,
}

/// What is durable.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Known {
    /// The registry that was believed last, or is being reported to; and whether it is reconciled.
    present: Option<(Incarnation, bool)>,
    past: Vec<Incarnation>,
}

#[derive(Debug)]
struct State {
    known: Known,
    told_of_past: bool,
}

/// Makes the text of the file durable in the place of the one before; a simulated agent has a disk of its own.
pub type Keep = Box<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// Which registry this agent believes; shared by all that speak to the librarian.
pub struct Trust {
    keep: Keep,
    state: Mutex<State>,
    phase: watch::Sender<Phase>,
    /// Raised whenever what was answered before stops counting.
    generation: AtomicU64,
    /// Held for reading from an answer on until what follows from it is durable.
    settling: RwLock<()>,
}

impl Trust {
    /// Reads which registry was believed last.
    ///
    /// # Errors
    ///
    /// The system's, or `InvalidData` for a file that says something else: without it an old registry could be believed.
    pub fn open(dir: &Path) -> io::Result<Trust> {
        let file = dir.join(FILE);
        let text = match fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let unreadable = format!(
            "{} does not say which registry was believed: restore it",
            file.display()
        );
        let keep = Box::new(move |text: &str| write(&file, text));
        Trust::kept(text.as_deref(), keep).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, unreadable))
    }

    /// The same with the file elsewhere: its text, if there is one. `None` if it says something else.
    #[must_use]
    pub fn kept(text: Option<&str>, keep: Keep) -> Option<Trust> {
        let known = match text {
            Some(text) => Known::read(text)?,
            None => Known::default(),
        };
        Some(Trust::new(keep, known))
    }

    /// Believes the first registry that answers, and remembers nothing.
    #[must_use]
    pub fn forgetful() -> Trust {
        Trust::new(Box::new(|_| Ok(())), Known::default())
    }

    fn new(keep: Keep, known: Known) -> Trust {
        let phase = match known.present {
            // Reported to, and not known to be reconciled: the next answer says more.
            Some((incarnation, false)) => Phase::Held {
                incarnation,
                standing: Standing::Reported,
            },
            Some((_, true)) | None => Phase::Trusted,
        };
        Trust {
            keep,
            state: Mutex::new(State {
                known,
                told_of_past: false,
            }),
            phase: watch::channel(phase).0,
            generation: AtomicU64::new(0),
            settling: RwLock::default(),
        }
    }

    /// Takes in what a signed answer tells; whether the answer counts.
    pub fn hear(&self, told: Option<Told>) -> bool {
        let Some(told) = told else { return false };
        let mut state = self.state.lock();
        if state.known.past.contains(&told.incarnation) {
            if !std::mem::replace(&mut state.told_of_past, true) {
                tracing::error!(
                    incarnation = %told.incarnation,
                    "a registry answers that was replaced: a second librarian runs, stop it"
                );
            }
            return false;
        }
        let held = Phase::Held {
            incarnation: told.incarnation,
            standing: told.standing,
        };
        match (told.standing, state.known.present) {
            (Standing::WrittenOff, _) => {
                self.enter(Phase::WrittenOff);
                false
            }
            (Standing::Open, Some((present, true))) if present == told.incarnation => self.is_trusted(),
            (Standing::Open, None) => {
                let present = Some((told.incarnation, true));
                let believed = Known {
                    present,
                    ..state.known.clone()
                };
                match (self.keep)(&believed.text()) {
                    Ok(()) => {
                        tracing::info!(incarnation = %told.incarnation, "the registry is known now");
                        state.known = believed;
                        self.is_trusted()
                    }
                    Err(error) => {
                        tracing::error!(%error, "which registry answers cannot be kept");
                        false
                    }
                }
            }
            (Standing::Open | Standing::Report | Standing::Reported, Some(_) | None) => {
                self.enter(held);
                false
            }
        }
    }

    /// Whether registers may be read and changed.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        *self.phase.borrow() == Phase::Trusted
    }

    /// Follows the phase.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// What was answered under another number does not count any more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// To be held from an answer on until what follows from it is durable.
    pub(crate) async fn settling(&self) -> RwLockReadGuard<'_, ()> {
        self.settling.read().await
    }

    /// Resolves when nothing is left that follows from an answer of before, but is not durable.
    pub(crate) async fn settled(&self) {
        drop(self.settling.write().await);
    }

    /// Whether this agent has begun to report to a registry, durably.
    #[must_use]
    pub fn reports_to(&self, incarnation: Incarnation) -> bool {
        self.state
            .lock()
            .known
            .present
            .is_some_and(|(present, _)| present == incarnation)
    }

    /// Notes durably that this agent reports to a registry: answers of those before it count for nothing from now on.
    ///
    /// # Errors
    ///
    /// Of the disk; nothing has changed then.
    pub fn report_to(&self, incarnation: Incarnation) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut next = state.known.clone();
        match next.present {
            Some((present, false)) if present == incarnation => return Ok(()),
            Some((present, _)) if present != incarnation => next.past.insert(0, present),
            Some(_) | None => {}
        }
        next.past.truncate(PAST_MAX);
        next.present = Some((incarnation, false));
        (self.keep)(&next.text())?;
        state.known = next;
        Ok(())
    }

    /// Notes durably that a registry that was reported to is open, and believes it.
    ///
    /// # Errors
    ///
    /// Of the disk; nothing has changed then.
    pub fn believe(&self, incarnation: Incarnation) -> io::Result<()> {
        let mut state = self.state.lock();
        let next = Known {
            present: Some((incarnation, true)),
            ..state.known.clone()
        };
        (self.keep)(&next.text())?;
        state.known = next;
        self.enter(Phase::Trusted);
        Ok(())
    }

    fn enter(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            if *phase == next || *phase == Phase::WrittenOff {
                return false;
            }
            if *phase == Phase::Trusted {
                self.generation.fetch_add(1, Ordering::SeqCst);
                tracing::warn!(now = ?next, "another registry answers: no register is read or changed until it is reconciled");
            }
            *phase = next;
            true
        });
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trust {
            state,
            phase,
            generation,
            ..
        } = self;
        let mut text = formatter.debug_struct("Trust");
        text.field("state", state).field("phase", &*phase.borrow());
        text.field("generation", generation).finish_non_exhaustive()
    }
}

/// Writes the file so that it is there after a power loss, or the one before it.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let fresh = file.with_extension("new");
    let mut new = File::create(&fresh)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    fs::rename(&fresh, file)?;
    match file.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

impl Known {
    fn text(&self) -> String {
        let mut text = String::new();
        if let Some((present, reconciled)) = &self.present {
            let word = if *reconciled { "open" } else { "reported" };
            text = format!("{present} {word}\n");
        }
        self.past.iter().for_each(|past| text.push_str(&format!("{past}\n")));
        text
    }

    fn read(text: &str) -> Option<Known> {
        let mut lines = text.lines();
        let (present, word) = lines.next()?.split_once(' ')?;
        let reconciled = match word {
            "open" => true,
            "reported" => false,
            _ => return None,
        };
        let known = Known {
            present: Some((present.parse().ok()?, reconciled)),
            past: lines.map(|line| line.parse().ok()).collect::<Option<_>>()?,
        };
        (known.text() == text).then_some(known)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(number: u8, standing: Standing) -> Option<Told> {
        Some(Told {
            incarnation: Incarnation([number; 16]),
            standing,
        })
    }

    fn incarnation(number: u8) -> Incarnation {
        Incarnation([number; 16])
    }

    #[test]
    fn new_registry_is_believed_only_after_it_was_reported_to_and_opened() {
        let dir = tempfile::tempdir().unwrap();
        let trust = Trust::open(dir.path()).unwrap();
        assert!(!trust.hear(None), "who tells nothing is not believed");
        assert!(trust.hear(told(1, Standing::Open)));
        let before = trust.generation();
        for standing in [Standing::Report, Standing::Reported, Standing::Open] {
            assert!(!trust.hear(told(2, standing)));
            assert!(!trust.is_trusted());
        }
        assert_ne!(trust.generation(), before);
        // An answer of the old one is none any more, even before the report.
        assert!(!trust.hear(told(1, Standing::Open)));
        trust.report_to(incarnation(2)).unwrap();
        assert!(!trust.hear(told(2, Standing::Open)), "not before it is durable");
        trust.believe(incarnation(2)).unwrap();
        assert!(trust.hear(told(2, Standing::Open)));
        assert!(!trust.hear(told(1, Standing::Open)));
        assert!(trust.is_trusted(), "a late answer of the old registry changes nothing");
    }

    #[test]
    fn replaced_registry_is_not_believed_after_a_restart_either() {
        let dir = tempfile::tempdir().unwrap();
        let trust = Trust::open(dir.path()).unwrap();
        trust.hear(told(1, Standing::Open));
        trust.hear(told(2, Standing::Report));
        trust.report_to(incarnation(2)).unwrap();
        // Killed while it reported.
        let trust = Trust::open(dir.path()).unwrap();
        assert!(!trust.is_trusted());
        assert!(!trust.hear(told(1, Standing::Open)));
        assert!(trust.reports_to(incarnation(2)) && !trust.reports_to(incarnation(1)));
        assert!(!trust.hear(told(2, Standing::Open)));
        trust.believe(incarnation(2)).unwrap();
        let trust = Trust::open(dir.path()).unwrap();
        assert!(trust.is_trusted() && trust.hear(told(2, Standing::Open)));
        assert!(!trust.hear(told(1, Standing::Open)));
        assert!(trust.is_trusted());
    }

    #[test]
    fn server_that_was_written_off_stays_so() {
        let trust = Trust::forgetful();
        assert!(trust.hear(told(1, Standing::Open)));
        assert!(!trust.hear(told(2, Standing::WrittenOff)));
        assert!(!trust.hear(told(1, Standing::Open)));
        trust.believe(incarnation(1)).unwrap();
        assert_eq!(*trust.watch().borrow(), Phase::WrittenOff);
    }

    #[test]
    fn librarian_that_collects_again_is_not_believed_meanwhile() {
        let trust = Trust::forgetful();
        trust.hear(told(1, Standing::Open));
        assert!(!trust.hear(told(1, Standing::Report)));
        assert!(!trust.is_trusted());
    }

    #[tokio::test]
    async fn report_waits_for_what_follows_from_an_answer() {
        let trust = Trust::forgetful();
        let settling = trust.settling().await;
        let settled = trust.settled();
        tokio::pin!(settled);
        assert!(futures_util::poll!(&mut settled).is_pending());
        drop(settling);
        settled.await;
    }

    proptest! {
        #[test]
        fn file_has_one_spelling(present: [u8; 16], reconciled: bool, past: Vec<[u8; 16]>, noise in "[0-9a-f open\n]{0,80}") {
            let known = Known {
                present: Some((Incarnation(present), reconciled)),
                past: past.into_iter().map(Incarnation).collect(),
            };
            prop_assert_eq!(Known::read(&known.text()), Some(known));
            if let Some(read) = Known::read(&noise) {
                prop_assert_eq!(read.text(), noise);
            }
        }
    }
}
