//! The librarian's answer to a question or a change comes in a later state.

use super::super::clock::{MS, S as SECOND};
use super::super::dice;
use super::super::directed::{D, LIBRARIAN, READER, S, WRITER, after, agent, cut, late as slow};
use super::super::faults::{Fate, Site};
use super::super::script::{After, Deed, Script};
use super::super::tricks::{Trick, Which};
use super::{LARGE, LOCAL, SMALL, again, arm, mute, one_move, slowly, there_and_back};

/// For so long no question gets through: the third sending is answered, or none.
const ONCE: u64 = 2_300;
const NEVER: u64 = 6_000;

pub(super) fn runs(seed: u64) -> Vec<(String, Script)> {
    let mut runs = vec![
        ("copying source hears no answer", copying(seed)),
        ("closing source hears a late answer", closing(seed, 500)),
        ("closing source hears no answer", closing(seed, 3_500)),
        ("sealing source hears a late answer", sealing(seed, 1_200)),
        ("sealing source hears no answer", sealing(seed, 3_500)),
        ("gate closes again before it is heard that it closed", reopened(seed)),
        ("return is done unheard", return_unheard(seed, slow(1_500))),
        ("return is refused unheard", return_unheard(seed, Fate::Lost)),
        ("return is never answered", return_unanswered(seed)),
        ("return is done before its questions end", return_questions(seed)),
        ("return is overtaken", return_overtaken(seed, false)),
        ("return is overtaken and never answered", return_overtaken(seed, true)),
    ]
    .into_iter()
    .map(|(name, script)| (name.to_owned(), script))
    .collect::<Vec<_>>();
    for at in ["prepared", "commit sent", "taken", "waiting", "open", "dropped"] {
        runs.push((format!("late answer comes at {at}"), question_open(seed, at, ONCE)));
        runs.push((format!("no answer comes at {at}"), question_open(seed, at, NEVER)));
    }
    runs
}

/// The question that D asks about a copy that does not come is still open in a later state.
fn question_open(seed: u64, at: &'static str, muted: u64) -> Script {
    let (object, written) = match at {
        "prepared" | "dropped" => (LARGE, "write large copy"),
        _ => (SMALL, "write copies"),
    };
    let mut deeds = vec![
        slowly(written, 1, 10_500),
        after(written, 1, 9_500 * MS, mute(D, muted)),
    ];
    match at {
        "waiting" => {
            deeds.push(slowly("taken", 1, 800));
            deeds.push(after("taken", 1, 0, cut(agent(S), agent(D), 2_900)));
        }
        step => deeds.push(slowly(step, 1, 3_500)),
    }
    if at == "dropped" {
        deeds.push(after("moving", 1, 0, arm(Site::Staging, Fate::Full)));
    }
    one_move(seed, object, 20, deeds)
}

/// A third move, in which S is told again of the fence of the first and asks the librarian, while its copy is written.
fn fenced_again(seed: u64, written: u64, mut deeds: Vec<After>) -> Script {
    deeds.extend(there_and_back());
    deeds.extend([
        slowly("write copies", 4, written),
        after("write copies", 4, 20 * MS, again(S, Which::Kind("Fenced"))),
    ]);
    one_move(seed, SMALL, 20, deeds)
}

fn copying(seed: u64) -> Script {
    fenced_again(seed, 3_800, vec![after("write copies", 4, 0, mute(S, 9_000))])
}

/// A slow write keeps the gate from closing, and meanwhile everything comes again.
fn closing(seed: u64, muted: u64) -> Script {
    let mut deeds = vec![
        after("write copies", 4, 0, mute(S, muted)),
        after("write copies", 4, 5 * MS, Deed::Put(LOCAL, 0)),
        slowly("commit", 1, 4_200),
        after("commit", 1, 3_900 * MS, Deed::Trick(Trick::Break(S, D))),
    ];
    for number in 1..4 {
        deeds.push(after("commit", 1, number * 150 * MS, again(S, Which::All)));
    }
    fenced_again(seed, 100, deeds)
}

fn sealing(seed: u64, muted: u64) -> Script {
    let deeds = vec![after("write copies", 4, 0, mute(S, muted)), slowly("sealed", 3, 3_900)];
    fenced_again(seed, 60, deeds)
}

/// A slow write keeps the gate from closing and a second one waits, so it opens again; both end in the pause. In every other
/// run S sleeps until the pause is over.
fn reopened(seed: u64) -> Script {
    let mut deeds = vec![
        slowly("write copies", 1, 40),
        after("write copies", 1, 5 * MS, Deed::Put(WRITER, 0)),
        after("write copies", 1, 60 * MS, Deed::Put(READER, 0)),
        slowly("commit", 1, 150 + dice(seed, 1, 91) % 400),
    ];
    if dice(seed, 2, 91).is_multiple_of(2) {
        let sleeps = Fate::Suspend(S, std::time::Duration::from_millis(200));
        deeds.push(after("commit", 2, 0, Deed::Befall(sleeps)));
    }
    one_move(seed, SMALL, 10, deeds)
}

/// A writer waits for a commit that is held, so S returns; the answer to that meets this.
fn return_unheard(seed: u64, answer: Fate) -> Script {
    let deeds = vec![
        after("commit sent", 1, 0, arm(Site::Update, Fate::Held)),
        after("commit sent", 1, 20 * MS, Deed::Put(WRITER, 0)),
        after("commit sent", 1, 30 * MS, mute(S, 600)),
        after("commit sent", 1, 30 * MS, arm(Site::Answer, answer)),
        slowly("active", 1, 3_000),
    ];
    one_move(seed, SMALL, 14, deeds)
}

/// S learns of its return by a question, and of no update ever again.
fn return_unanswered(seed: u64) -> Script {
    let mut script = return_unheard(seed, Fate::Lost);
    script.after.pop();
    script.after.push(slowly("active", 1, 10_000));
    script
        .after
        .push(after("active", 1, 0, cut(LIBRARIAN, agent(S), 9_900)));
    script.ends += 6 * SECOND;
    script
}

/// The return is slow, and done while questions are open that nobody answers.
fn return_questions(seed: u64) -> Script {
    let deeds = vec![
        after("commit sent", 1, 0, arm(Site::Update, Fate::Held)),
        after("commit sent", 1, 20 * MS, Deed::Put(WRITER, 0)),
        after("commit sent", 1, 30 * MS, mute(S, NEVER)),
        after("commit sent", 1, 30 * MS, arm(Site::Update, slow(900))),
        slowly("active", 1, 4_500),
    ];
    one_move(seed, SMALL, 14, deeds)
}

/// The commit lands before the return; S hears what became of that when it has learned of the commit.
fn return_overtaken(seed: u64, unanswered: bool) -> Script {
    let mut deeds = vec![
        after("commit sent", 1, 0, arm(Site::Update, Fate::Held)),
        after("commit sent", 1, 20 * MS, Deed::Put(WRITER, 0)),
        after("commit sent", 1, 40 * MS, arm(Site::Update, slow(1_000))),
        after("commit sent", 1, 300 * MS, Deed::Release),
    ];
    match unanswered {
        true => deeds.extend([
            after("commit sent", 1, 50 * MS, cut(agent(S), LIBRARIAN, 11_000)),
            slowly("moved", 1, 10_500),
        ]),
        false => deeds.push(slowly("moved", 1, 3_500)),
    }
    one_move(seed, SMALL, 18, deeds)
}
