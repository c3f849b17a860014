//! A key provider that may be away, or hang, without taking the agent along.
//!
//! Every call runs on one thread of its own, and callers wait for a bounded time. Keys that were used stay in memory for a
//! bounded time after the last contact: so long reads go on. New data keys are wrapped only while the provider answers, so
//! writes fail at once when it does not.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;

use super::provider::{Generation, Kek, KeyProvider, Known, ProviderError};
use crate::clock::BootInstant;

/// Calls that may wait for the provider at once.
const CALLS_MAX: usize = 64;

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long keys are used after the last contact.
    pub cache_for: Duration,
    /// Longest wait for one call.
    pub call_max: Duration,
    /// Time between two contacts when nobody calls.
    pub probe_every: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            cache_for: Duration::from_secs(600),
            call_max: Duration::from_secs(3),
            probe_every: Duration::from_secs(2),
        }
    }
}

type Clock = Arc<dyn Fn() -> BootInstant + Send + Sync>;
type Call = Box<dyn FnOnce(&dyn KeyProvider) + Send>;

/// What is known of the provider.
#[derive(Debug)]
struct Contact {
    keks: HashMap<Generation, Kek>,
    current: Option<Generation>,
    at: BootInstant,
    /// Whether the last call was answered.
    answers: bool,
}

/// The guarded provider.
pub struct Guarded {
    name: &'static str,
    bounds: Bounds,
    clock: Clock,
    contact: Arc<Mutex<Contact>>,
    /// `None` only while it is dropped.
    calls: Option<SyncSender<Call>>,
    ended: Mutex<Receiver<()>>,
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Why nothing was heard.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("no answer within {}: look at the provider's own log and connection", humantime_serde::re::humantime::format_duration(*.0))]
    Late(Duration),
    #[error("its last call failed or hangs; it is asked again every few seconds")]
    Down,
    #[error("{CALLS_MAX} calls wait for it already")]
    Crowded,
    #[error("its thread cannot be started, or has ended")]
    Thread,
}

impl Guarded {
    /// Guards a provider and asks it for its current key.
    ///
    /// # Errors
    ///
    /// [`ProviderError`] where it does not answer now.
    pub fn start(inner: Box<dyn KeyProvider>, bounds: Bounds) -> Result<Guarded, ProviderError> {
        Guarded::with_clock(inner, bounds, Arc::new(BootInstant::now))
    }

    fn with_clock(inner: Box<dyn KeyProvider>, bounds: Bounds, clock: Clock) -> Result<Guarded, ProviderError> {
        let name = inner.name();
        let contact = Arc::new(Mutex::new(Contact {
            keks: HashMap::new(),
            current: None,
            at: clock(),
            answers: true,
        }));
        let (calls, queue) = sync_channel::<Call>(CALLS_MAX);
        let (end, ended) = sync_channel(1);
        let worker = {
            let (contact, clock) = (Arc::clone(&contact), Arc::clone(&clock));
            move || {
                loop {
                    match queue.recv_timeout(bounds.probe_every) {
                        Ok(call) => call(inner.as_ref()),
                        Err(RecvTimeoutError::Timeout) => drop(ask_current(inner.as_ref(), &contact, &clock)),
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
                drop(inner);
                let _ = end.try_send(());
            }
        };
        let unavailable = |source| ProviderError::Unavailable {
            provider: name,
            source: Box::new(source),
        };
        std::thread::Builder::new()
            .name("key-provider".to_owned())
            .spawn(worker)
            .map_err(|_| unavailable(Silence::Thread))?;
        let guarded = Guarded {
            name,
            bounds,
            clock,
            contact,
            calls: Some(calls),
            ended: Mutex::new(ended),
        };
        guarded.current()?;
        Ok(guarded)
    }

    fn silent(&self, source: Silence) -> ProviderError {
        ProviderError::Unavailable {
            provider: self.name,
            source: Box::new(source),
        }
    }

    /// Makes a call on the provider's thread; what it learns is noted there, even when nobody waits for it any more.
    fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn KeyProvider, &Mutex<Contact>, &Clock) -> Result<T, ProviderError> + Send + 'static,
    ) -> Result<T, ProviderError> {
        let (reply, answer) = sync_channel(1);
        let (contact, clock) = (Arc::clone(&self.contact), Arc::clone(&self.clock));
        let job: Call = Box::new(move |inner| {
            let outcome = call(inner, &contact, &clock);
            note(&outcome, &contact, &clock);
            drop(reply.try_send(outcome));
        });
        let calls = self.calls.as_ref().expect("it lives");
        calls.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => self.silent(Silence::Crowded),
            TrySendError::Disconnected(_) => self.silent(Silence::Thread),
        })?;
        match answer.recv_timeout(self.bounds.call_max) {
            Ok(outcome) => outcome,
            Err(_) => {
                self.contact.lock().answers = false;
                Err(self.silent(Silence::Late(self.bounds.call_max)))
            }
        }
    }

    /// How long ago it was heard last; keys that are too old by then are wiped.
    fn silence(&self) -> Duration {
        let mut contact = self.contact.lock();
        let silence = (self.clock)() - contact.at;
        if silence >= self.bounds.cache_for {
            contact.keks.clear();
        }
        silence
    }
}

/// Notes whether a call was answered: a key that is not there is an answer too.
fn note<T>(outcome: &Result<T, ProviderError>, contact: &Mutex<Contact>, clock: &Clock) {
    let mut contact = contact.lock();
    match outcome {
        Ok(_) | Err(ProviderError::NoGeneration { .. } | ProviderError::Current { .. }) => {
            contact.at = clock();
            contact.answers = true;
        }
        Err(ProviderError::Unavailable { source, .. }) => {
            if contact.answers {
                tracing::warn!(
                    error = source.as_ref() as &dyn std::error::Error,
                    "the key provider does not answer"
                );
            }
            contact.answers = false;
        }
    }
}

fn ask_current(
    inner: &dyn KeyProvider,
    contact: &Mutex<Contact>,
    clock: &Clock,
) -> Result<(Generation, Kek), ProviderError> {
    let asked = inner.current();
    note(&asked, contact, clock);
    if let Ok((generation, kek)) = &asked {
        let mut contact = contact.lock();
        contact.current = Some(*generation);
        contact.keks.insert(*generation, kek.clone());
    }
    asked
}

impl KeyProvider for Guarded {
    fn name(&self) -> &'static str {
        self.name
    }

    fn current(&self) -> Result<(Generation, Kek), ProviderError> {
        if !self.is_up() {
            return Err(self.silent(Silence::Down));
        }
        {
            let contact = self.contact.lock();
            if let Some(generation) = contact.current
                && let Some(kek) = contact.keks.get(&generation)
            {
                return Ok((generation, kek.clone()));
            }
        }
        self.call(ask_current)
    }

    fn kek(&self, generation: Generation) -> Result<Kek, ProviderError> {
        if self.silence() < self.bounds.cache_for
            && let Some(kek) = self.contact.lock().keks.get(&generation)
        {
            return Ok(kek.clone());
        }
        if !self.is_up() {
            return Err(self.silent(Silence::Down));
        }
        self.call(move |inner, contact, _| {
            let kek = inner.kek(generation)?;
            contact.lock().keks.insert(generation, kek.clone());
            Ok(kek)
        })
    }

    fn generations(&self) -> Result<Vec<Known>, ProviderError> {
        self.call(|inner, contact, _| {
            let known = inner.generations()?;
            let mut contact = contact.lock();
            // Before anybody acts on the list: nothing is wrapped any more under what is not the current one.
            let current = known.last().map(|known| known.generation);
            if contact.current != current {
                contact.current = None;
            }
            let exists = |generation: &Generation| known.iter().any(|known| known.generation == *generation);
            contact.keks.retain(|generation, _| exists(generation));
            drop(contact);
            Ok(known)
        })
    }

    fn begin_generation(&self) -> Result<Generation, ProviderError> {
        self.call(|inner, contact, _| {
            let begun = inner.begin_generation();
            // Whatever came of it: who wraps next asks which is the current one.
            contact.lock().current = None;
            begun
        })
    }

    fn destroy(&self, generation: Generation) -> Result<(), ProviderError> {
        self.call(move |inner, contact, _| {
            inner.destroy(generation)?;
            contact.lock().keks.remove(&generation);
            Ok(())
        })
    }

    fn is_up(&self) -> bool {
        let silence = self.silence();
        // Two probes may be late, and one may hang for as long as a call may.
        silence < self.bounds.probe_every * 2 + self.bounds.call_max && self.contact.lock().answers
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.calls = None;
        // What the provider holds, such as the directory's lock, is free afterwards, unless it hangs.
        let _ = self.ended.lock().recv_timeout(self.bounds.call_max);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::testing::block_until;
    use crate::vault::provider::tests::OneKey;

    /// A provider that can be away, or hang until it is let go.
    #[derive(Debug, Default)]
    pub(crate) struct Moody {
        pub(crate) away: AtomicBool,
        hangs: Mutex<Option<Receiver<()>>>,
    }

    #[derive(Debug)]
    pub(crate) struct Shared(pub(crate) Arc<Moody>);

    impl Shared {
        fn asked(&self) -> Result<(), ProviderError> {
            if let Some(held) = self.0.hangs.lock().take() {
                let _ = held.recv();
            }
            if self.0.away.load(Ordering::Relaxed) {
                return Err(ProviderError::Unavailable {
                    provider: "pkcs11",
                    source: "away".into(),
                });
            }
            Ok(())
        }
    }

    impl KeyProvider for Shared {
        fn name(&self) -> &'static str {
            "pkcs11"
        }

        fn current(&self) -> Result<(Generation, Kek), ProviderError> {
            self.asked()?;
            OneKey.current()
        }

        fn kek(&self, generation: Generation) -> Result<Kek, ProviderError> {
            self.asked()?;
            OneKey.kek(generation)
        }

        fn generations(&self) -> Result<Vec<Known>, ProviderError> {
            self.asked()?;
            OneKey.generations()
        }

        fn begin_generation(&self) -> Result<Generation, ProviderError> {
            self.asked()?;
            OneKey.begin_generation()
        }

        fn destroy(&self, generation: Generation) -> Result<(), ProviderError> {
            self.asked()?;
            OneKey.destroy(generation)
        }
    }

    /// A guarded provider, the hand on it, and a clock that stands; probes never come by themselves.
    fn guarded(call_max: Duration) -> (Guarded, Arc<Moody>, Arc<AtomicU64>) {
        let moody = Arc::new(Moody::default());
        let (start, passed) = (BootInstant::now(), Arc::new(AtomicU64::new(0)));
        let clock: Clock = {
            let passed = Arc::clone(&passed);
            Arc::new(move || start + Duration::from_secs(passed.load(Ordering::Relaxed)))
        };
        let bounds = Bounds {
            call_max,
            probe_every: Duration::from_secs(3600 * 24),
            ..Bounds::default()
        };
        let guarded = Guarded::with_clock(Box::new(Shared(Arc::clone(&moody))), bounds, clock).unwrap();
        (guarded, moody, passed)
    }

    #[test]
    fn provider_that_is_away_stops_writes_at_once_and_reads_after_the_bound() {
        let (guarded, moody, passed) = guarded(Duration::from_secs(60));
        moody.away.store(true, Ordering::Relaxed);
        assert!(guarded.generations().is_err());
        assert!(!guarded.is_up());
        let error = guarded.current().unwrap_err();
        assert!(error.to_string().contains("pkcs11"), "{error}");
        passed.store(599, Ordering::Relaxed);
        assert!(guarded.kek(Generation(1)).is_ok());
        passed.store(600, Ordering::Relaxed);
        assert!(matches!(
            guarded.kek(Generation(1)),
            Err(ProviderError::Unavailable { provider: "pkcs11", .. })
        ));
        assert!(guarded.contact.lock().keks.is_empty());
        moody.away.store(false, Ordering::Relaxed);
        assert!(guarded.generations().is_ok());
        assert!(guarded.current().is_ok() && guarded.kek(Generation(1)).is_ok());
    }

    #[test]
    fn provider_that_hangs_holds_nobody_up_and_comes_back() {
        let (guarded, moody, _) = guarded(Duration::from_millis(20));
        let (let_go, held): (Sender<()>, _) = channel();
        *moody.hangs.lock() = Some(held);
        assert!(guarded.generations().is_err());
        assert!(guarded.current().is_err(), "nothing is wrapped meanwhile");
        assert!(guarded.kek(Generation(1)).is_ok(), "what is cached is read");
        drop(let_go);
        // The late answer is noted by the provider's thread; the next call waits behind it.
        block_until("the provider answers again", || guarded.generations().is_ok());
        assert!(guarded.current().is_ok());
    }

    #[test]
    fn key_that_is_not_there_is_an_answer() {
        let (guarded, _, _) = guarded(Duration::from_secs(60));
        assert!(matches!(
            guarded.kek(Generation(7)),
            Err(ProviderError::NoGeneration { .. })
        ));
        assert!(guarded.is_up());
    }
}
