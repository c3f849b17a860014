//! One claim of one server against one register: which of them holds, and whether they contradict each other.
//!
//! | the claim, compared by epoch | the register | told |
//! |---|---|---|
//! | higher, or there is no register | becomes the claim | replaced |
//! | equal, same owner or both deleted | stays; takes what the owner says of type, schema, level and holders | agrees |
//! | equal, another owner, or one of them deleted | stays | conflict |
//! | lower | stays | older |
//! | of what may be (`made`, `arriving`, `heard`) | stays | may be |
//!
//! The order in which servers report does not matter unless they contradict each other, which no history of one registry
//! brings about: then what is known first stays, and a person is told.

use zones::{Claim, Claimed, Register, ServerName, State};

/// What a claim means for a register.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Merged {
    /// The register says the same. `text`: what it becomes if the owner knows its type, schema, level or holders better.
    Agrees {
        /// The new text, if it differs.
        text: Option<Box<Register>>,
        /// Whether its owner itself says that it has the object.
        holds: bool,
    },
    /// The register is older: it becomes this.
    Replaced {
        /// The new text.
        text: Box<Register>,
        /// Whether its owner itself says that it has the object.
        holds: bool,
    },
    /// The register is newer.
    Older,
    /// The claim says what may be: it counts when all have reported.
    MayBe,
    /// Both cannot be.
    Conflict,
}

/// Judges one claim.
pub(crate) fn merge(current: Option<&Register>, reporter: &ServerName, claim: &Claim) -> Merged {
    let Some(claimed) = claim.register(reporter) else {
        return Merged::MayBe;
    };
    let holds = match claim.what {
        Claimed::Owned { .. } => true,
        Claimed::Gone { .. } | Claimed::Heard { .. } | Claimed::Deleted | Claimed::Made | Claimed::Arriving { .. } => {
            false
        }
    };
    let Some(current) = current else {
        let text = Box::new(claimed);
        return Merged::Replaced { text, holds };
    };
    if current.address != claimed.address {
        // Two spellings of one name: only one of them was ever registered.
        return Merged::Conflict;
    }
    if claimed.epoch < current.epoch {
        return Merged::Older;
    }
    if claimed.epoch > current.epoch {
        let text = Box::new(claimed);
        return Merged::Replaced { text, holds };
    }
    match (&current.state, &claimed.state) {
        (State::Deleted, State::Deleted) => Merged::Agrees { text: None, holds },
        (State::Stable | State::Moving { .. }, State::Stable) if current.owner == claimed.owner => {
            // Holders that the owner does not name may lack what was shown since: none of them may take over.
            let better = Register {
                kind: claimed.kind,
                schema: claimed.schema,
                level: claimed.level,
                holders: claimed.holders,
                ..current.clone()
            };
            Merged::Agrees {
                text: (holds && better != *current).then(|| Box::new(better)),
                holds,
            }
        }
        (
            State::Stable | State::Moving { .. } | State::Deleted,
            State::Stable | State::Moving { .. } | State::Deleted,
        ) => Merged::Conflict,
    }
}

#[cfg(test)]
mod tests {
    use zones::{Epoch, Level, Tx};

    use super::*;

    fn server(name: &str) -> ServerName {
        name.parse().unwrap()
    }

    fn claim(epoch: u64, what: Claimed) -> Claim {
        Claim {
            address: "3.1".parse().unwrap(),
            epoch: Epoch(epoch),
            what,
            tx: Tx([u8::try_from(epoch).unwrap(); 16]),
            kind: "photo".parse().unwrap(),
            schema: 1,
            level: Level(1),
        }
    }

    fn owned(epoch: u64, others: &[&str]) -> Claim {
        let others = others.iter().map(|other| server(other)).collect();
        claim(epoch, Claimed::Owned { others })
    }

    /// Everything that two servers can say of one object in three epochs.
    fn claims() -> Vec<(ServerName, Claim)> {
        let mut all = Vec::new();
        for me in ["s1", "s2"] {
            let other = if me == "s1" { "s2" } else { "s1" };
            for epoch in 1..=3 {
                for what in [
                    Claimed::Owned { others: Vec::new() },
                    Claimed::Made,
                    Claimed::Arriving { from: server(other) },
                    Claimed::Gone { to: server(other) },
                    Claimed::Gone { to: server("s3") },
                    Claimed::Heard { to: server("s3") },
                    Claimed::Deleted,
                ] {
                    all.push((server(me), claim(epoch, what)));
                }
            }
        }
        all
    }

    fn apply(register: Option<Register>, (reporter, claim): &(ServerName, Claim)) -> (Option<Register>, Merged) {
        let merged = merge(register.as_ref(), reporter, claim);
        let register = match &merged {
            Merged::Replaced { text, .. } => Some((**text).clone()),
            Merged::Agrees { text: Some(text), .. } => Some((**text).clone()),
            Merged::Agrees { text: None, .. } | Merged::Older | Merged::MayBe | Merged::Conflict => register,
        };
        (register, merged)
    }

    fn said(register: Option<&Register>) -> Option<(Epoch, Option<ServerName>)> {
        register.map(|register| {
            let owner = (register.state != State::Deleted).then(|| register.owner.clone());
            (register.epoch, owner)
        })
    }

    /// The table of every pair of claims, from nothing and from each text of a backup, against a second telling of the rule.
    #[test]
    fn of_every_pair_of_claims_the_highest_epoch_wins_in_either_order() {
        let (mut conflicts, mut pairs) = (0, 0);
        let backups = std::iter::once(None).chain(claims().into_iter().map(|(who, claim)| claim.register(&who)));
        for backup in backups.collect::<std::collections::HashSet<_>>() {
            for a in claims() {
                for b in claims() {
                    pairs += 1;
                    let run = |first, second| {
                        let (between, one) = apply(backup.clone(), first);
                        let (end, two) = apply(between, second);
                        (end, one == Merged::Conflict || two == Merged::Conflict)
                    };
                    let ((there, conflict), (back, conflict_back)) = (run(&a, &b), run(&b, &a));
                    let texts = [&a, &b].map(|(who, claim)| claim.register(who));
                    let highest = texts.iter().flatten().chain(&backup).map(|text| text.epoch).max();
                    assert_eq!(there.as_ref().map(|text| text.epoch), highest, "{a:?} {b:?}");
                    let at_highest: Vec<_> = texts
                        .iter()
                        .flatten()
                        .chain(&backup)
                        .filter(|text| Some(text.epoch) == highest)
                        .map(|text| said(Some(text)))
                        .collect();
                    let contradict = at_highest.iter().any(|said| *said != at_highest[0]);
                    if !contradict {
                        assert_eq!(said(there.as_ref()), said(back.as_ref()), "{a:?} {b:?}");
                        assert_eq!(said(there.as_ref()), at_highest.first().cloned().flatten());
                    } else {
                        conflicts += 1;
                        assert!(conflict && conflict_back, "{backup:?} {a:?} {b:?}");
                    }
                }
            }
        }
        assert!(conflicts > 0 && pairs > 10_000, "{conflicts} of {pairs}");
    }

    #[test]
    fn claim_of_what_may_be_changes_no_register() {
        for (reporter, claim) in claims() {
            if claim.register(&reporter).is_none() {
                assert_eq!(merge(None, &reporter, &claim), Merged::MayBe);
            }
        }
    }

    #[test]
    fn repeated_report_changes_nothing() {
        for said in claims() {
            let (once, _) = apply(None, &said);
            let (twice, merged) = apply(once.clone(), &said);
            assert_eq!(once, twice);
            assert!(
                matches!(merged, Merged::Agrees { text: None, .. } | Merged::MayBe),
                "{merged:?}"
            );
        }
    }

    #[test]
    fn owner_knows_its_level_and_its_holders_best() {
        let mut current = owned(2, &[]).register(&server("s1")).unwrap();
        current.state = State::Moving { to: server("s2") };
        current.holders = vec![server("s1"), server("s3")];
        let mut own = owned(2, &["s4"]);
        own.level = Level(2);
        let Merged::Agrees { text: Some(text), .. } = merge(Some(&current), &server("s1"), &own) else {
            panic!("the owner knows better")
        };
        assert_eq!(
            (text.level, &text.holders[..]),
            (Level(2), &[server("s1"), server("s4")][..])
        );
        // Who gave the object away knows only what it was before.
        own.what = Claimed::Gone { to: server("s1") };
        assert!(matches!(
            merge(Some(&current), &server("s2"), &own),
            Merged::Agrees { text: None, .. }
        ));
    }

    #[test]
    fn another_spelling_of_a_registered_name_is_a_conflict() {
        let mut current = owned(1, &[]).register(&server("s1")).unwrap();
        current.address = "3.a".parse().unwrap();
        let mut other = owned(5, &[]);
        other.address = "3.A".parse().unwrap();
        assert_eq!(merge(Some(&current), &server("s1"), &other), Merged::Conflict);
    }
}
