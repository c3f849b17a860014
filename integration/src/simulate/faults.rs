//! What goes wrong, and where.
//!
//! A run asks at every *site* (a message, a durable step, a moment) what becomes of it. Sites are numbered in the order in
//! which they are met; a random run answers from the seed and the number, a scripted one from a list. So the faults of a
//! random run, written down, are a script that gives the same run, and a script can be made shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::dice;

/// Where something can go wrong.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Site {
    /// A message between agents.
    Peer,
    /// A copy between agents.
    Copy,
    /// A question to the librarian.
    Question,
    /// An update on its way to the librarian.
    Update,
    /// An answer of the librarian.
    Answer,
    /// What a server tells and asks every second, and the answers to it.
    Control,
    /// The librarian's commit.
    Commit,
    /// A client's request, also when it is handed on.
    Request,
    /// Its answer.
    Reply,
    /// A durable step of an agent.
    Disk,
    /// A copy on its way in is written.
    Staging,
    /// A moment.
    Moment,
    /// An install.
    Install,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// Nothing goes wrong.
    Pass,
    /// It is lost; a connection that carries it breaks.
    Lost,
    /// It comes twice.
    Twice,
    /// It comes late, and others overtake it.
    Late(Duration),
    /// It arrives damaged.
    Damaged,
    /// Whoever sends it crashes right after.
    SenderCrashes,
    /// Whoever gets it crashes before.
    ReceiverCrashes,
    /// The power goes before the step.
    CrashBefore,
    /// The power goes in the midst of it, after so many syncs.
    CrashWithin(u32),
    /// The power goes when it is durable and nobody was told.
    CrashAfter,
    /// The disk is full.
    Full,
    /// The disk writes something else than it was given, and says that it did well.
    Miswritten,
    /// It is kept back until the script lets it go: on no list but the script's.
    Held,
    /// It passes, and once more when the script lets it go.
    Kept,
    /// An agent crashes.
    Crash(usize),
    /// An agent is suspended for so long.
    Suspend(usize, Duration),
    /// An agent's calendar jumps by so many seconds.
    Jump(usize, i64),
    /// The librarian restarts.
    Librarian(Duration),
    /// Nothing passes from one to another for so long; number 0 is the librarian, agents follow, then the clients.
    Partition(usize, usize, Duration),
    /// An agent reaches neither librarian nor agents for so long, nor they it; clients do.
    Isolate(usize, Duration),
    /// A copy on disk rots.
    Rot(usize),
    /// An agent's guardian of keys does not answer for so long: on no list but the script's.
    Silent(usize, Duration),
    /// The new release does not come up, and the one before is put back.
    InstallFails,
    /// The new release is not on the server's list.
    InstallRefused,
    /// Neither the new release nor the one before comes up, until a person repairs it.
    NeverBack,
}

/// A kind of fault, for choosing and counting.
pub const KINDS: [&str; 16] = [
    "loss",
    "duplication",
    "delay",
    "damage",
    "crash",
    "torn",
    "full",
    "suspend",
    "jump",
    "librarian",
    "partition",
    "slow",
    "rot",
    "miswrite",
    KEYS,
    "install",
];

/// The kind of a guardian of keys that does not answer.
pub(super) const KEYS: &str = "keys";

impl Fate {
    /// Its kind; `None` if nothing goes wrong.
    #[must_use]
    pub fn kind(self, site: Site) -> Option<&'static str> {
        Some(match self {
            Fate::Pass => return None,
            Fate::Lost => "loss",
            Fate::Twice | Fate::Kept => "duplication",
            Fate::Late(_) if site == Site::Disk => "slow",
            Fate::Late(_) | Fate::Held => "delay",
            Fate::Damaged => "damage",
            Fate::CrashBefore | Fate::CrashAfter if site == Site::Commit => "librarian",
            Fate::SenderCrashes | Fate::ReceiverCrashes | Fate::CrashBefore | Fate::CrashAfter | Fate::Crash(_) => {
                "crash"
            }
            Fate::CrashWithin(_) => "torn",
            Fate::Full => "full",
            Fate::Suspend(..) => "suspend",
            Fate::Jump(..) => "jump",
            Fate::Librarian(_) => "librarian",
            Fate::Partition(..) | Fate::Isolate(..) => "partition",
            Fate::Rot(_) => "rot",
            Fate::Miswritten => "miswrite",
            Fate::Silent(..) => KEYS,
            Fate::InstallFails | Fate::InstallRefused | Fate::NeverBack => "install",
        })
    }
}

impl Site {
    /// Everything that can go wrong here, for an enumeration.
    #[must_use]
    pub fn fates(self) -> Vec<Fate> {
        let late = |ms| Fate::Late(Duration::from_millis(ms));
        let alone = |agent| Fate::Isolate(agent, Duration::from_secs(9));
        let mut fates = self.own_fates(late);
        match self {
            Site::Peer | Site::Update | Site::Answer | Site::Disk => fates.extend([alone(0), alone(1)]),
            Site::Copy
            | Site::Question
            | Site::Control
            | Site::Commit
            | Site::Request
            | Site::Reply
            | Site::Staging
            | Site::Moment
            | Site::Install => {}
        }
        fates
    }

    fn own_fates(self, late: impl Fn(u64) -> Fate) -> Vec<Fate> {
        match self {
            Site::Peer => vec![
                Fate::Lost,
                Fate::Twice,
                late(300),
                late(4_000),
                Fate::SenderCrashes,
                Fate::ReceiverCrashes,
            ],
            Site::Copy => vec![
                Fate::Lost,
                Fate::Twice,
                late(4_000),
                Fate::Damaged,
                Fate::SenderCrashes,
                Fate::ReceiverCrashes,
            ],
            Site::Question | Site::Answer => vec![Fate::Lost, Fate::Twice, late(700), late(9_000)],
            Site::Control => vec![Fate::Lost, late(1_500)],
            Site::Update => vec![Fate::Lost, Fate::Twice, late(3_000), late(60_000), Fate::SenderCrashes],
            Site::Commit => vec![Fate::CrashBefore, Fate::CrashAfter],
            Site::Request | Site::Reply => vec![Fate::Lost, Fate::Twice, late(2_000)],
            Site::Disk => vec![
                Fate::CrashBefore,
                Fate::CrashWithin(0),
                Fate::CrashWithin(1),
                Fate::CrashWithin(2),
                Fate::CrashAfter,
                Fate::Full,
                late(2_500),
            ],
            Site::Staging => vec![Fate::Miswritten],
            Site::Moment => Vec::new(),
            Site::Install => vec![Fate::InstallFails, Fate::InstallRefused, Fate::NeverBack],
        }
    }
}

/// What is common in some runs: two rare things meet only where one of them is not rare. The times are drawn anew.
pub(super) const OFTEN: [(Site, Fate); 13] = [
    (Site::Disk, Fate::Late(Duration::ZERO)),
    (Site::Disk, Fate::Full),
    (Site::Peer, Fate::Late(Duration::ZERO)),
    (Site::Peer, Fate::Twice),
    (Site::Peer, Fate::Lost),
    (Site::Copy, Fate::Late(Duration::ZERO)),
    (Site::Copy, Fate::Twice),
    (Site::Copy, Fate::Damaged),
    (Site::Question, Fate::Late(Duration::ZERO)),
    (Site::Answer, Fate::Late(Duration::ZERO)),
    (Site::Answer, Fate::Lost),
    (Site::Update, Fate::Late(Duration::ZERO)),
    (Site::Update, Fate::Twice),
];

/// Where faults come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The seed, at this many of ten thousand sites; only these kinds.
    Random {
        /// Of ten thousand sites.
        rate: u64,
        /// Kinds by name.
        kinds: BTreeSet<&'static str>,
        /// What happens at one in six of these sites besides.
        often: Option<(Site, Fate)>,
    },
    /// A list by site number.
    Script(BTreeMap<u64, Fate>),
}

/// Decides.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    seed: u64,
    source: Source,
    agents: usize,
    met: u64,
    calm: bool,
    /// Agents' crashes so far: a bound keeps runs short.
    pub(super) crashes: u32,
    pub(super) fired: BTreeMap<u64, Fate>,
    pub(super) sites: Vec<Site>,
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// What the script lets happen at the next site of a kind.
    armed: Vec<(Site, Fate)>,
}

impl Faults {
    pub(super) fn new(seed: u64, source: Source, agents: usize) -> Faults {
        Faults {
            seed,
            source,
            agents,
            met: 0,
            calm: false,
            crashes: 0,
            fired: BTreeMap::new(),
            sites: Vec::new(),
            counts: BTreeMap::new(),
            armed: Vec::new(),
        }
    }

    /// Lets this happen at the next site of the kind. It is the script's doing, so the list of a run's faults is without it.
    pub(super) fn arm(&mut self, site: Site, fate: Fate) {
        self.armed.push((site, fate));
    }

    /// From now on nothing goes wrong.
    pub(super) fn stop(&mut self) {
        self.calm = true;
    }

    /// Random octets for this site and purpose.
    pub(super) fn roll(&self, purpose: u64) -> u64 {
        dice(self.seed, self.met, purpose)
    }

    /// What becomes of the next site.
    pub(super) fn decide(&mut self, site: Site) -> Fate {
        self.met += 1;
        if self.calm {
            return Fate::Pass;
        }
        self.sites.push(site);
        if let Some(at) = self.armed.iter().position(|(kind, _)| *kind == site) {
            return self.armed.remove(at).1;
        }
        let fate = match &self.source {
            Source::Script(script) => script.get(&self.met).copied().unwrap_or(Fate::Pass),
            Source::Random { rate, kinds, often } => {
                // Moments are few and messages many.
                let rate = match site {
                    Site::Moment => rate * 12,
                    Site::Install if *rate > 0 => 2_000,
                    _ => *rate,
                };
                let fate = match often {
                    Some((at, fate)) if *at == site && self.roll(108).is_multiple_of(6) => self.drawn(*fate),
                    Some(_) | None if self.roll(100) % 10_000 < rate => self.random(site),
                    Some(_) | None => Fate::Pass,
                };
                match fate.kind(site) {
                    Some(kind) if kinds.contains(kind) => fate,
                    Some(_) | None => Fate::Pass,
                }
            }
        };
        if let Some(kind) = fate.kind(site) {
            *self.counts.entry(kind).or_default() += 1;
            self.fired.insert(self.met, fate);
        }
        fate
    }

    /// A common fault, for as long as this time's dice say.
    fn drawn(&self, fate: Fate) -> Fate {
        match fate {
            Fate::Late(_) => Fate::Late(Duration::from_millis(5 + self.roll(109) % 900)),
            fate => fate,
        }
    }

    fn random(&self, site: Site) -> Fate {
        let agent = usize::try_from(self.roll(102)).unwrap_or(0) % self.agents;
        let ms = |low: u64, high: u64| Duration::from_millis(low + self.roll(103) % (high - low));
        if site == Site::Moment {
            return match self.roll(101) % 12 {
                0 | 1 => Fate::Crash(agent),
                2 => Fate::Suspend(agent, ms(200, 6_000)),
                3 => Fate::Jump(agent, i64::try_from(self.roll(104) % 400).unwrap_or(0) - 200),
                4 | 5 => Fate::Librarian(ms(50, 4_000)),
                6 => Fate::Rot(agent),
                7 => Fate::Isolate(agent, ms(500, 7_000)),
                _ => {
                    let parties = self.agents + 2;
                    let one = usize::try_from(self.roll(105)).unwrap_or(0) % parties;
                    let other = usize::try_from(self.roll(106)).unwrap_or(0) % parties;
                    Fate::Partition(one, other, ms(100, 9_000))
                }
            };
        }
        let fates = site.fates();
        let fate = fates[usize::try_from(self.roll(101)).unwrap_or(0) % fates.len()];
        match fate {
            Fate::Late(_) if site == Site::Update && self.roll(107).is_multiple_of(3) => {
                Fate::Late(ms(10_000, 200_000))
            }
            Fate::Late(_) => Fate::Late(ms(20, 6_000)),
            fate => fate,
        }
    }
}
