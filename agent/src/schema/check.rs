//! What can be said of schemas and steps before any object meets them: `agent schema check`.
//!
//! Faults are what would strand or spoil objects. What schemas alone do not tell is a finding too, of its own class: the examples,
//! or a dry run over the objects, say more.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};
use zones::ObjectType;

use super::compare::{self, Difference, Verdict};
use super::read::LoadError;
use super::step::{RunStep, StepError};
use super::r#type::{Phase, Schemas, Step, Type, Version, unequal};
use super::upgrade::step;

/// A property that no schema knows; examples get it, and steps must keep it.
const UNKNOWN: &str = "unknown to every schema";

/// What a check found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Each type and how its versions fit each other.
    pub types: Vec<TypeReport>,
    /// Everything worth a look, in the order of the files.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether there is no fault.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.class != Class::Fault)
    }
}

/// How the versions of a type fit each other.
#[derive(Debug, Serialize)]
pub struct TypeReport {
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its versions.
    pub versions: Vec<u32>,
    /// Every pair of versions.
    pub pairs: Vec<Pair>,
    /// Whether all pairs are backward compatible, not only neighbours.
    pub backward_transitive: Verdict,
    /// Whether all pairs are forward compatible.
    pub forward_transitive: Verdict,
    /// Both.
    pub full_transitive: Verdict,
}

/// How two versions fit, judged from the schemas without any step.
#[derive(Debug, Serialize)]
pub struct Pair {
    /// The older.
    pub from: u32,
    /// The newer.
    pub to: u32,
    /// Whether the newer schema takes every object of the older.
    pub backward: Verdict,
    /// Whether the older schema takes every object of the newer.
    pub forward: Verdict,
    /// Both.
    pub full: Verdict,
}

/// One thing that was found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub class: Class,
    /// What was looked at, one word.
    pub about: &'static str,
    /// Below the directory of all types.
    pub file: PathBuf,
    /// Where, as a JSON pointer; empty for the whole.
    pub property: String,
    /// What.
    pub what: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Objects would be stranded or spoiled; the check fails.
    Fault,
    /// Schemas and examples do not tell.
    Unjudged,
    /// So it is, and it may be meant so.
    Note,
}

/// Checks the directory of all types.
///
/// # Errors
///
/// [`LoadError::Directory`], and [`StepError::Child`] where steps cannot be run at all.
pub fn check(dir: &Path, runner: &impl RunStep) -> Result<Report, CheckError> {
    let (schemas, faults) = Schemas::read(dir)?;
    let mut report = Report::default();
    report.findings.extend(faults.into_iter().map(|fault| Finding {
        class: Class::Fault,
        about: "file",
        file: fault.file,
        property: fault.property,
        what: fault.what.to_string(),
    }));
    for (kind, one) in schemas.iter() {
        let mut check = Check {
            kind,
            one,
            runner,
            findings: &mut report.findings,
        };
        check.schemas();
        check.steps()?;
        report.types.push(pairs(kind, one));
    }
    Ok(report)
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The directory.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Steps.
    #[error("try the steps")]
    Steps(#[source] StepError),
}

fn pairs(kind: &ObjectType, one: &Type) -> TypeReport {
    let mut pairs = Vec::new();
    for (from, older) in one.versions() {
        for (to, newer) in one.versions().filter(|(to, _)| *to > from) {
            let backward = compare::verdict(&compare::refused(&older.schema, &newer.schema));
            let forward = compare::verdict(&compare::refused(&newer.schema, &older.schema));
            let full = backward.max(forward);
            pairs.push(Pair {
                from,
                to,
                backward,
                forward,
                full,
            });
        }
    }
    let worst = |of: fn(&Pair) -> Verdict| pairs.iter().map(of).max().unwrap_or(Verdict::Yes);
    TypeReport {
        kind: kind.to_string(),
        versions: one.versions().map(|(number, _)| number).collect(),
        backward_transitive: worst(|pair| pair.backward),
        forward_transitive: worst(|pair| pair.forward),
        full_transitive: worst(|pair| pair.full),
        pairs,
    }
}

struct Check<'a, R> {
    kind: &'a ObjectType,
    one: &'a Type,
    runner: &'a R,
    findings: &'a mut Vec<Finding>,
}

impl<R: RunStep> Check<'_, R> {
    fn add(&mut self, class: Class, about: &'static str, file: &Path, property: &str, what: impl Into<String>) {
        self.findings.push(Finding {
            class,
            about,
            file: file.to_owned(),
            property: property.to_owned(),
            what: what.into(),
        });
    }

    /// What each schema says by itself, and beside its neighbours.
    fn schemas(&mut self) {
        for (_, version) in self.one.versions() {
            if version
                .schema
                .get("additionalProperties")
                .is_some_and(|rest| rest != &json!(true))
            {
                let what = "properties that the schema does not name are kept by every step, so it has to take them";
                self.add(Class::Fault, "unknown", &version.file, "/additionalProperties", what);
            }
            for (at, example) in version.examples.iter().enumerate() {
                if let Err((property, why)) = version.validate(example.clone()) {
                    let file = version.file.with_file_name(examples_name(version));
                    self.add(Class::Fault, "example", &file, &format!("/{at}{property}"), why);
                }
            }
        }
        let neighbours: Vec<_> = self.one.versions().zip(self.one.versions().skip(1)).collect();
        for ((from, older), (to, newer)) in neighbours {
            let phase = self.one.step(from, to).and_then(|step| step.phase);
            for difference in compare::refused(&newer.schema, &older.schema) {
                let class = match (difference.verdict, phase) {
                    (Verdict::No, Some(Phase::Expand)) => Class::Fault,
                    (Verdict::Unjudged, _) => Class::Unjudged,
                    (Verdict::No | Verdict::Yes, _) => Class::Note,
                };
                let Difference { property, what, .. } = difference;
                self.add(
                    class,
                    "forward",
                    &newer.file,
                    &property,
                    format!("by version {from}: {what}"),
                );
            }
            for difference in compare::refused(&older.schema, &newer.schema) {
                // The step is there to mend this.
                let class = match difference.verdict {
                    Verdict::Unjudged => Class::Unjudged,
                    Verdict::No | Verdict::Yes => Class::Note,
                };
                let Difference { property, what, .. } = difference;
                self.add(
                    class,
                    "backward",
                    &newer.file,
                    &property,
                    format!("of version {from}: {what}"),
                );
            }
            if phase == Some(Phase::Contract) && self.one.step(to, from).is_none() {
                let what = format!("there is no way back to version {from}");
                self.add(Class::Note, "reverse", &newer.file, "", what);
            }
        }
    }

    /// Whether steps are programs, and what they make of the examples.
    fn steps(&mut self) -> Result<(), CheckError> {
        let steps: Vec<_> = self
            .one
            .steps()
            .map(|(between, step)| (between, step.clone()))
            .collect();
        for ((from, to), program) in steps {
            match self.runner.compile(&program) {
                Ok(()) => {}
                Err(error @ StepError::Child(_)) => return Err(CheckError::Steps(error)),
                Err(error) => {
                    self.add(Class::Fault, "step", &program.file, "", error.to_string());
                    continue;
                }
            }
            let (Some(before), Some(_)) = (self.one.version(from), self.one.version(to)) else {
                continue; // A fault of its own.
            };
            if before.examples.is_empty() {
                let what = format!("not tried: version {from} has no examples");
                self.add(Class::Unjudged, "step", &program.file, "", what);
            }
            for (at, example) in before.examples.iter().enumerate() {
                self.example((from, to), &program, before, at, example)?;
            }
        }
        Ok(())
    }

    /// What one step makes of one example.
    fn example(
        &mut self,
        (from, to): (u32, u32),
        program: &Step,
        before: &Version,
        at: usize,
        example: &Map<String, Value>,
    ) -> Result<(), CheckError> {
        let kept = json!({"kept": [1, "two", null]});
        let mut example = example.clone();
        example.insert(UNKNOWN.to_owned(), kept.clone());
        if before.validate(example.clone()).is_err() {
            return Ok(()); // A fault of its own.
        }
        let said = |what: String| format!("example {at} of version {from}: {what}");
        let Some(result) = self.run((from, to), program, &example, &said)? else {
            return Ok(());
        };
        if result.get(UNKNOWN) != Some(&kept) {
            let what = "a property that no schema names is lost or changed: a step keeps what it does not know";
            self.add(Class::Fault, "unknown", &program.file, "", said(what.to_owned()));
        }
        let again = |what: String| said(format!("run on its own result: {what}"));
        if let Some(twice) = self.run((from, to), program, &result, &again)? {
            for property in unequal(&result, &twice) {
                let what = "a second run changes this: a step leaves its own result alone";
                self.add(
                    Class::Fault,
                    "idempotent",
                    &program.file,
                    &property,
                    said(what.to_owned()),
                );
            }
        }
        if program.phase == Some(Phase::Expand)
            && let Err((property, why)) = before.validate(result.clone())
        {
            let what = format!("version {from} cannot read the result of this expand step: {why}");
            self.add(Class::Fault, "forward", &program.file, &property, said(what));
        }
        if from < to
            && let Some(back) = self.one.step(to, from).cloned()
            && let Some(returned) = self.run((to, from), &back, &result, &said)?
        {
            for property in back.exact.iter().flat_map(|exact| exact.broken(&example, &returned)) {
                let what = "is another after the way there and back, which promises that it is exact";
                self.add(Class::Fault, "reverse", &back.file, &property, said(what.to_owned()));
            }
            // What the step added and the way back left is no loss.
            for property in unequal(&example, &returned)
                .into_iter()
                .filter(|at| back.exact.is_none() && example.contains_key(&at[1..]))
            {
                let what = "is another after the way there and back";
                self.add(Class::Note, "reverse", &back.file, &property, said(what.to_owned()));
            }
            if let Some(forth) = self.run((from, to), program, &returned, &said)? {
                for property in unequal(&result, &forth) {
                    let what = "is another after the way back and there again: aborted upgrades would change it";
                    self.add(Class::Note, "reverse", &back.file, &property, said(what.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Runs a step; one that fails is a fault.
    fn run(
        &mut self,
        between: (u32, u32),
        program: &Step,
        properties: &Map<String, Value>,
        said: &dyn Fn(String) -> String,
    ) -> Result<Option<Map<String, Value>>, CheckError> {
        use super::upgrade::MigrateError;
        match step(self.one, self.runner, self.kind, between, properties) {
            Ok(result) => Ok(Some(result)),
            Err(MigrateError::Step {
                source: source @ StepError::Child(_),
                ..
            }) => Err(CheckError::Steps(source)),
            Err(MigrateError::Invalid { property, why, .. }) => {
                let what = said(format!("the result does not fit version {}: {why}", between.1));
                self.add(Class::Fault, "step", &program.file, &property, what);
                Ok(None)
            }
            Err(error) => {
                self.add(Class::Fault, "step", &program.file, "", said(error.reason()));
                Ok(None)
            }
        }
    }
}

fn examples_name(version: &Version) -> String {
    let name = version.file.file_name().unwrap_or_default().to_string_lossy();
    name.replace(".schema.json", ".examples.json")
}

#[cfg(test)]
mod tests;
