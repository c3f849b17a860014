//! Keys of the simulated servers: a guardian with generations, their rotation, and that a guardian does not answer.
//!
//! The guardian is beside the disk, as an HSM is: what it did is durable at once, and a cut of the power takes nothing back.
//! The rotation is the production one; its steps are work for the disk like any other, so faults meet each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use agent::store::Entry;
use agent::store::rotation::Step;
use agent::vault::{Generation, Kek, KeyProvider, Known, ProviderError, StreamId};
use parking_lot::Mutex;

use super::clock::{MS, S, Time};
use super::dice;
use super::faults::{Fate, KEYS};
use super::script::Deed;
use super::world::{Event, Work, World};

/// In one of so many runs keys are rotated.
const ROTATED_OF: u64 = 4;
/// In one of so many a guardian does not answer for some time.
const SILENT_OF: u64 = 5;
/// Time between two looks at the keys.
const LOOK_EVERY: Time = S / 2;
/// The same when there is more to do at once.
const NEXT: Time = 5 * MS;
/// Octets of the nonce that a wrapped data key begins with.
const NONCE_OCTETS: usize = 24;

#[derive(Debug)]
struct State {
    known: BTreeSet<u32>,
    last: u32,
    answers: bool,
}

/// A server's guardian of keys; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Guardian {
    server: u8,
    state: Arc<Mutex<State>>,
}

impl Guardian {
    pub(super) fn new(server: u8) -> Guardian {
        let state = State {
            known: BTreeSet::from([1]),
            last: 1,
            answers: true,
        };
        Guardian {
            server,
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(super) fn set_answers(&self, answers: bool) {
        self.state.lock().answers = answers;
    }

    /// Whether this generation's key exists.
    pub(super) fn keeps(&self, generation: Generation) -> bool {
        self.state.lock().known.contains(&generation.0)
    }

    fn count(&self) -> usize {
        self.state.lock().known.len()
    }

    fn asked(&self) -> Result<parking_lot::MutexGuard<'_, State>, ProviderError> {
        let state = self.state.lock();
        match state.answers {
            true => Ok(state),
            false => Err(ProviderError::Unavailable {
                provider: self.name(),
                source: "it is made to be silent".into(),
            }),
        }
    }

    fn key(&self, generation: u32) -> Kek {
        let mut octets = [self.server; 32];
        octets[..4].copy_from_slice(&generation.to_be_bytes());
        Kek::new(octets)
    }
}

impl KeyProvider for Guardian {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn current(&self) -> Result<(Generation, Kek), ProviderError> {
        let current = self.asked()?.last;
        Ok((Generation(current), self.key(current)))
    }

    fn kek(&self, generation: Generation) -> Result<Kek, ProviderError> {
        match self.asked()?.known.contains(&generation.0) {
            true => Ok(self.key(generation.0)),
            false => Err(ProviderError::NoGeneration { generation }),
        }
    }

    fn generations(&self) -> Result<Vec<Known>, ProviderError> {
        let known = |generation: &u32| Known {
            generation: Generation(*generation),
            made_unix_s: 0,
        };
        Ok(self.asked()?.known.iter().map(known).collect())
    }

    fn begin_generation(&self) -> Result<Generation, ProviderError> {
        let mut state = self.asked()?;
        state.last += 1;
        let fresh = state.last;
        state.known.insert(fresh);
        Ok(Generation(fresh))
    }

    fn destroy(&self, generation: Generation) -> Result<(), ProviderError> {
        let mut state = self.asked()?;
        if generation.0 == state.last {
            return Err(ProviderError::Current { generation });
        }
        match state.known.remove(&generation.0) {
            true => Ok(()),
            false => Err(ProviderError::NoGeneration { generation }),
        }
    }

    fn is_up(&self) -> bool {
        self.state.lock().answers
    }
}

/// Rotations and silences of a random run; drawn apart from everything else, so that the other deeds stay what they are.
pub(super) fn deeds(seed: u64, ends: Time, agents: usize, kinds: &BTreeSet<&'static str>) -> Vec<(Time, Deed)> {
    let agent = |number, purpose| usize::try_from(dice(seed, number, purpose)).unwrap_or(0) % agents;
    let mut added = Vec::new();
    // Seeds of old finds have other remainders.
    if dice(seed, 0, 200) % ROTATED_OF == 1 {
        for number in 1..=1 + dice(seed, 1, 200) % 5 {
            added.push((dice(seed, number, 202) % ends, Deed::Rotate(agent(number, 203))));
        }
    }
    if kinds.contains(KEYS) && dice(seed, 0, 201) % SILENT_OF == 3 {
        for number in 1..=1 + dice(seed, 1, 201) % 3 {
            let pause = Duration::from_millis(200 + dice(seed, number, 206) % 8_000);
            let silent = Fate::Silent(agent(number, 205), pause);
            added.push((dice(seed, number, 204) % ends, Deed::Befall(silent)));
        }
    }
    added
}

/// Every use of a key that was seen.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// Wrapped data keys by server, generation and nonce.
    wrapped: BTreeMap<(usize, Generation, Vec<u8>), Vec<u8>>,
    /// Streams by the nonce prefix of their chunks.
    prefixes: BTreeMap<Vec<u8>, StreamId>,
}

impl Uses {
    /// I5, I6: what a row names exists, and no key meets a nonce twice.
    pub(super) fn row(&mut self, agent: usize, guardian: &Guardian, entry: &Entry) -> Result<(), String> {
        for (part, stream) in entry.streams() {
            let generation = stream.kek_generation;
            if !guardian.keeps(generation) {
                return Err(format!(
                    "I5: {part:?} of {} at s{} is under generation {generation}, which was destroyed",
                    entry.address,
                    agent + 1
                ));
            }
            let wrapped = &stream.wrapped_dek.0;
            let nonce = wrapped.get(..NONCE_OCTETS).unwrap_or_default().to_vec();
            let known = (self.wrapped.entry((agent, generation, nonce))).or_insert_with(|| wrapped.clone());
            if known != wrapped {
                return Err(format!(
                    "I6: generation {generation} of s{} wraps two data keys with one nonce, one of {}",
                    agent + 1,
                    entry.address
                ));
            }
            let known = *(self.prefixes.entry(stream.nonce_prefix.to_vec())).or_insert(stream.id);
            if known != stream.id {
                return Err(format!(
                    "I6: streams {known:?} and {:?} have one nonce prefix",
                    stream.id
                ));
            }
        }
        Ok(())
    }
}

impl World {
    /// The operator asks for a new generation.
    pub(super) fn rotate(&mut self, agent: usize) {
        self.machines[agent].wants_generation = true;
    }

    /// A guardian does not answer for so long.
    pub(super) fn silence(&mut self, agent: usize, pause: Time) {
        *self.faults.counts.entry(KEYS).or_default() += 1;
        let machine = &mut self.machines[agent];
        machine.guardian.set_answers(false);
        machine.silent_until = machine.silent_until.max(self.now + pause);
        let until = machine.silent_until;
        self.push(until, Event::Answers(agent));
    }

    /// The end of a silence.
    pub(super) fn answers(&mut self, agent: usize) {
        if self.machines[agent].silent_until <= self.now {
            self.machines[agent].guardian.set_answers(true);
            self.note(|| format!("the guardian of s{} answers again", agent + 1));
        }
    }

    /// Every guardian answers from now on.
    pub(super) fn end_silences(&mut self) {
        for machine in &mut self.machines {
            machine.silent_until = 0;
            machine.guardian.set_answers(true);
        }
    }

    /// An agent looks whether its keys have to change.
    pub(super) fn look_at_keys(&mut self, agent: usize, life: u32) {
        match self.keys_wait(agent) {
            true => self.submit(agent, Work::Keys),
            false => self.push(self.now + LOOK_EVERY, Event::Keys(agent, life)),
        }
    }

    /// Whether a rotation is asked for, or under way.
    pub(super) fn keys_wait(&self, agent: usize) -> bool {
        self.machines[agent].wants_generation || self.machines[agent].guardian.count() > 1
    }

    /// One step of the rotation.
    pub(super) fn rotation_step(&mut self, agent: usize) {
        let machine = &mut self.machines[agent];
        let (life, begin) = (machine.life, machine.wants_generation);
        let now_s = machine.clocks.unix_ms(self.now) / 1000;
        let process = &mut machine.process;
        let step = process.rotation.step(process.local.store(), now_s, begin);
        let (name, pause) = match &step {
            Ok(Step::Idle) => ("keys rest", LOOK_EVERY),
            Ok(Step::Waiting) => ("keys wait", LOOK_EVERY),
            Ok(Step::Held(by)) => {
                let why = format!("I6: older generations are held by {by:?}, and no row was damaged");
                return self.fail(why);
            }
            Ok(Step::Begun(_)) => {
                machine.wants_generation = false;
                ("keys begun", NEXT)
            }
            Ok(Step::Rewrapped { .. }) => ("keys rewrapped", NEXT),
            Ok(Step::Destroyed(_)) => ("keys destroyed", NEXT),
            Err(_) => ("keys refused", LOOK_EVERY),
        };
        *self.steps.entry(name).or_default() += 1;
        self.note(|| format!("s{} rotates: {step:?}", agent + 1));
        self.push(self.now + pause, Event::Keys(agent, life));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guardian_keeps_the_rules_of_a_provider() {
        let guardian = Guardian::new(1);
        agent::vault::conformance::check(|| Box::new(guardian.clone()));
    }

    #[test]
    fn numbers_are_never_given_again_and_what_was_destroyed_stays_so() {
        let guardian = Guardian::new(1);
        assert_eq!(guardian.begin_generation().unwrap(), Generation(2));
        guardian.destroy(Generation(1)).unwrap();
        assert!(matches!(
            guardian.kek(Generation(1)),
            Err(ProviderError::NoGeneration { .. })
        ));
        assert!(matches!(
            guardian.destroy(Generation(2)),
            Err(ProviderError::Current { .. })
        ));
        assert_eq!(guardian.clone().begin_generation().unwrap(), Generation(3));
    }

    #[test]
    fn silent_guardian_gives_no_key_and_forgets_none() {
        let guardian = Guardian::new(1);
        guardian.set_answers(false);
        assert!(matches!(guardian.current(), Err(ProviderError::Unavailable { .. })));
        assert!(matches!(
            guardian.begin_generation(),
            Err(ProviderError::Unavailable { .. })
        ));
        guardian.set_answers(true);
        assert_eq!(guardian.current().unwrap().0, Generation(1));
    }
}
