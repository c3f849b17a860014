//! One step: a jq program that makes one JSON object of another.
//!
//! A program sees its input and nothing else: no time, environment, files, modules, logs. So equal properties give equal results
//! on every server. Bounds of time and memory are the child's (`child.rs`): the interpreter can loop without ever coming back
//! (`def f: f; f`), overflow its stack (`def f: 1 + f; f`) or fill memory in one call (`[range(1e12)]`), and none of these can be
//! stopped from inside the process.

use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use jaq_core::load::{self, Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, data, unwrap_valr};
use jaq_json::{Val, read};

use super::r#type::Step;

/// Definitions and filters of jq that a step does not have: they end the process, tell of the machine, or write.
const WITHHELD: [&str; 10] = [
    "halt",
    "halt_error",
    "env",
    "now",
    "localtime",
    "strflocaltime",
    "debug",
    "stderr",
    "debug_empty",
    "stderr_empty",
];
/// Longest reason of a step that is kept.
const REASON_OCTETS_MAX: usize = 400;

/// What one run of a step may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Time on a processor. Waiting does not count, so a busy server stops no step that a calm one lets through.
    pub processor: Duration,
    /// Time by the clock, for a child that is stopped or swapped out: far more than `processor`.
    pub clock: Duration,
    /// Memory beyond what the child has when it begins.
    pub memory_octets: u64,
    /// Length of the result as JSON.
    pub output_octets: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            processor: Duration::from_secs(1),
            clock: Duration::from_secs(60),
            memory_octets: 256 << 20,
            output_octets: 4 << 20,
        }
    }
}

/// Why a step gave no result.
///
/// Reasons go to reports and logs, so values of properties are left out of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The program is no jq.
    #[error("the step is no jq program: {why}")]
    Compile {
        /// What and where.
        why: String,
    },
    /// It raised an error.
    #[error("the step raised an error: {why}")]
    Raised {
        /// Its words; quoted text and numbers are left out.
        why: String,
    },
    /// Not one result.
    #[error("the step gave {} results, a step gives one", if *.many { "several" } else { "no" })]
    Results {
        /// More than one, or none.
        many: bool,
    },
    /// The result is too long.
    #[error("the step's result is over {octets_max} octets")]
    Long {
        /// The limit.
        octets_max: u64,
    },
    /// The result is no object of I-JSON.
    #[error("the step's result is no object of I-JSON (RFC 7493): {why}")]
    NoObject {
        /// What and where.
        why: String,
    },
    /// It took too long.
    #[error("the step took over {limit:?} and was ended")]
    Time {
        /// The limit.
        limit: Duration,
    },
    /// It took too much memory.
    #[error("the step took over {octets_max} octets of memory and was ended")]
    Memory {
        /// The limit.
        octets_max: u64,
    },
    /// It called itself too deeply.
    #[error("the step called itself too deeply and was ended")]
    Depth,
    /// The interpreter panicked: a bug of the interpreter that these properties meet.
    #[error("the interpreter of steps panicked: {why}")]
    Panicked {
        /// Its words.
        why: String,
    },
    /// The child ended by itself.
    #[error("the process that runs steps ended: {how}")]
    Ended {
        /// Its status.
        how: String,
    },
    /// No child can be started or spoken to: nothing is said of the step, try again.
    #[error("run steps in a process of their own")]
    Child(#[source] std::io::Error),
}

impl StepError {
    /// Whether this server is at fault, and the same step may do on another try.
    #[must_use]
    pub fn is_of_server(&self) -> bool {
        matches!(self, StepError::Child(_))
    }
}

/// Who runs steps.
pub trait RunStep {
    /// Runs a step on JSON text and returns JSON text.
    ///
    /// # Errors
    ///
    /// [`StepError`].
    fn run(&self, step: &Step, properties: &[u8]) -> Result<Vec<u8>, StepError>;

    /// Whether a step is a program.
    ///
    /// # Errors
    ///
    /// [`StepError::Compile`].
    fn compile(&self, step: &Step) -> Result<(), StepError>;
}

/// Runs steps in this very thread, without bounds of time and memory: for simulation and for steps of our own.
#[derive(Debug, Default)]
pub struct InProcess {
    /// Only that of the output counts.
    pub limits: Limits,
}

impl RunStep for InProcess {
    fn run(&self, step: &Step, properties: &[u8]) -> Result<Vec<u8>, StepError> {
        Program::compile(&step.text)?.run(properties, self.limits.output_octets)
    }

    fn compile(&self, step: &Step) -> Result<(), StepError> {
        Program::compile(&step.text).map(drop)
    }
}

type Data = data::JustLut<Val>;

/// A compiled step.
pub struct Program(jaq_core::compile::Filter<jaq_core::Native<Data>>);

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Program(..)")
    }
}

impl Program {
    /// Compiles a program; takes about a millisecond.
    ///
    /// # Errors
    ///
    /// [`StepError::Compile`], [`StepError::Panicked`].
    pub fn compile(text: &str) -> Result<Program, StepError> {
        guarded(|| {
            let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
            let funs = jaq_core::funs::<Data>().chain(jaq_std::funs()).chain(jaq_json::funs());
            let loader = Loader::new(defs.filter(|def| !WITHHELD.contains(&def.name)));
            let arena = Arena::default();
            let modules = loader
                .load(&arena, File { code: text, path: () })
                .map_err(|errors| refused(errors.into_iter().flat_map(|(_, error)| syntax(text, error))))?;
            let filter =
                Compiler::default()
                    .with_funs(funs.filter(|fun| !WITHHELD.contains(&fun.0)))
                    .compile(modules)
                    .map_err(|errors| {
                        let undefined = errors.into_iter().flat_map(|(_, undefined)| undefined);
                        refused(undefined.map(|(name, what)| {
                            format!("{} {name:?} is not known{}", what.as_str(), place(text, name))
                        }))
                    })?;
            Ok(Program(filter))
        })
    }

    /// Runs it on JSON text.
    ///
    /// # Errors
    ///
    /// [`StepError`], those of time and memory excepted.
    pub fn run(&self, properties: &[u8], octets_max: u64) -> Result<Vec<u8>, StepError> {
        guarded(|| {
            let input = read::parse_single(properties).map_err(|error| StepError::NoObject {
                why: masked(&error.to_string()),
            })?;
            let context = Ctx::<Data>::new(&self.0.lut, Vars::new([]));
            let mut results = self.0.id.run((context, input)).map(unwrap_valr);
            let result = match results.next() {
                None => return Err(StepError::Results { many: false }),
                Some(Err(error)) => {
                    let why = match error.into_val() {
                        // The words of `error("no size")`, without the quotes that they have as JSON.
                        Val::TStr(text) => masked(&String::from_utf8_lossy(&text)),
                        other => masked(&other.to_string()),
                    };
                    return Err(StepError::Raised { why });
                }
                Some(Ok(result)) => result,
            };
            if results.next().is_some() {
                return Err(StepError::Results { many: true });
            }
            let mut text = Bounded {
                text: String::new(),
                octets_max,
            };
            // Writing fails in no other way.
            write!(text, "{result}").map_err(|fmt::Error| StepError::Long { octets_max })?;
            Ok(text.text.into_bytes())
        })
    }
}

/// A panic of the interpreter is the step's failure, not the process's.
fn guarded<T>(work: impl FnOnce() -> Result<T, StepError>) -> Result<T, StepError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let why = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => text,
            (None, Some(text)) => text.as_str(),
            (None, None) => "without words",
        };
        Err(StepError::Panicked { why: masked(why) })
    })
}

struct Bounded {
    text: String,
    octets_max: u64,
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if (self.text.len() + more.len()) as u64 > self.octets_max {
            return Err(fmt::Error);
        }
        self.text.push_str(more);
        Ok(())
    }
}

fn refused(why: impl Iterator<Item = String>) -> StepError {
    StepError::Compile {
        why: why.collect::<Vec<_>>().join("; "),
    }
}

fn syntax(text: &str, error: load::Error<&str>) -> Vec<String> {
    let expected = |what: &str, found: &str| format!("expected {what}{}", place(text, found));
    match error {
        load::Error::Io(modules) => modules
            .into_iter()
            .map(|(path, _)| format!("module {path:?}: a step is one file"))
            .collect(),
        load::Error::Lex(errors) => errors
            .iter()
            .map(|(what, found)| expected(what.as_str(), found))
            .collect(),
        load::Error::Parse(errors) => errors
            .iter()
            .map(|(what, found)| expected(what.as_str(), found))
            .collect(),
    }
}

/// Line of a part of a text; nothing for text from elsewhere.
fn place(text: &str, part: &str) -> String {
    let offset = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    match text.get(..offset) {
        Some(before) => format!(" in line {}", before.matches('\n').count() + 1),
        None => String::new(),
    }
}

/// The words of an error without the values in it: what is quoted becomes `"…"`, a number `0`.
pub(super) fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if masked.len() > REASON_OCTETS_MAX {
            masked.push('…');
            break;
        }
        match letter {
            '"' => {
                let mut escaped = false;
                for inner in letters.by_ref() {
                    match inner {
                        '"' if !escaped => break,
                        '\\' => escaped = !escaped,
                        _ => escaped = false,
                    }
                }
                masked.push_str("\"…\"");
            }
            digit if digit.is_ascii_digit() => {
                while letters.next_if(char::is_ascii_digit).is_some() {}
                masked.push('0');
            }
            other => masked.push(other),
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vault::properties;

    fn run(program: &str, properties: &str) -> Result<String, StepError> {
        let octets = Program::compile(program)?.run(properties.as_bytes(), 1000)?;
        Ok(String::from_utf8(octets).unwrap())
    }

    #[test]
    fn step_gives_exactly_one_result() {
        assert_eq!(run("# expand\n.b = .a | del(.a)", "{\"a\":1}").unwrap(), "{\"b\":1}");
        assert!(matches!(run("empty", "{}"), Err(StepError::Results { many: false })));
        assert!(matches!(run("., .", "{}"), Err(StepError::Results { many: true })));
        // The second result is not waited for to its end.
        assert!(matches!(
            run("range(infinite)", "{}"),
            Err(StepError::Results { many: true })
        ));
    }

    #[test]
    fn step_sees_nothing_but_its_input() {
        for program in [
            "now",
            "env",
            "$ENV",
            "input",
            "halt",
            "debug",
            "stderr",
            "localtime",
            "import \"a\" as a; .",
        ] {
            let refused = run(program, "{}").unwrap_err();
            assert!(matches!(refused, StepError::Compile { .. }), "{program}: {refused}");
        }
    }

    #[test]
    fn mistake_in_a_program_tells_its_line() {
        for (program, line) in [
            ("# expand\n.a |\n(.b", "line 3"),
            ("# expand\n\n\n nosuch(1)", "line 4"),
            (". as", "line 1"),
        ] {
            let refused = run(program, "{}").unwrap_err().to_string();
            assert!(refused.contains(line), "{refused}");
        }
    }

    #[test]
    fn reason_holds_no_values() {
        let raised = run(".a.b", "{\"a\":\"se\\\"cret 12\"}").unwrap_err().to_string();
        assert!(raised.contains("cannot index"), "{raised}");
        assert!(!raised.contains("cret") && !raised.contains("12"), "{raised}");
        let own = run("error(\"no size\")", "{}").unwrap_err().to_string();
        assert!(own.ends_with("no size"), "{own}");
    }

    #[test]
    fn result_past_its_limit_is_an_error_and_at_its_limit_is_none() {
        // {"a":"…"} takes 8 octets around the text.
        assert_eq!(run("{a: (\"x\" * 992)}", "{}").unwrap().len(), 1000);
        assert!(matches!(
            run("{a: (\"x\" * 993)}", "{}"),
            Err(StepError::Long { octets_max: 1000 })
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_program_text_is_compiled_or_refused(text in "[.|()\\[\\]{}a\"$,;:#0-9 \n]{0,24}") {
            let _ = Program::compile(&text);
        }

        /// What a step does not touch comes out as it went in, octet for octet.
        #[test]
        fn untouched_properties_keep_their_canonical_octets(
            numbers in proptest::collection::vec(prop_oneof![
                any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| serde_json::json!(number)),
                (-(1_i64 << 53) + 1..1 << 53).prop_map(|number| serde_json::json!(number)),
            ], 0..6),
            texts in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..6),
        ) {
            let all = serde_json::json!({"numbers": numbers, "texts": texts, "rest": [null, true, {}, []]});
            let before = properties::canonical(all.as_object().unwrap()).unwrap();
            let result = Program::compile(".").unwrap().run(&before, 1 << 20).unwrap();
            let after = properties::canonical(&properties::read(&result).unwrap()).unwrap();
            prop_assert_eq!(String::from_utf8(after), String::from_utf8(before));
        }

        #[test]
        fn one_of_n_results_is_the_only_number_that_passes(count in 0_usize..6) {
            let done = run(&format!("range({count}) | {{a: .}}"), "{}");
            prop_assert_eq!(done.is_ok(), count == 1);
        }
    }
}
