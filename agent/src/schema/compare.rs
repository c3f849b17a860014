//! Whether every object that one schema takes, another takes too: judged from the schemas alone.
//!
//! Judged are type, properties, required, additionalProperties, items, enum, const, and the bounds of numbers, lengths and
//! counts. Other keywords are judged only where both schemas say the same; where they do not, the answer is "cannot be judged",
//! never silence. Annotations (title, description, default, format and the like) decide nothing in this dialect.
//!
//! An open object needs a word. Where the first schema does not name a property, its objects may hold anything by that name, so
//! a second schema that names it with a type cannot be judged from schemas: a dry run over the objects tells.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use super::r#type::validator;

/// The answer for two schemas.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything is taken.
    Yes,
    /// Schemas alone do not tell.
    Unjudged,
    /// Something is refused.
    No,
}

/// One place at which not everything is taken, or that cannot be judged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// The property, as a JSON pointer into the object; `*` stands for each item or unnamed property.
    pub property: String,
    /// What.
    pub what: String,
    /// [`Verdict::No`] or [`Verdict::Unjudged`].
    pub verdict: Verdict,
}

/// The worst of some differences.
#[must_use]
pub fn verdict(differences: &[Difference]) -> Verdict {
    let verdicts = differences.iter().map(|difference| difference.verdict);
    verdicts.max().unwrap_or(Verdict::Yes)
}

/// Where `taker` may refuse what `giver` takes; nothing if it takes all.
#[must_use]
pub fn refused(giver: &Value, taker: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    // A reference means what the definitions say, so equal references are equal only with equal definitions.
    let definitions = giver.get("$defs") == taker.get("$defs");
    Compare {
        definitions,
        found: &mut found,
    }
    .schemas(giver, taker, "", false);
    found
}

/// Keywords that say nothing about what is taken.
const ANNOTATIONS: [&str; 13] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "$anchor",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "format",
];
/// Keywords that are judged below.
const JUDGED: [&str; 17] = [
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
];
/// Keywords that change what their neighbours mean; with one of them only equal schemas are judged.
const ENTANGLED: [&str; 12] = [
    "$ref",
    "$dynamicRef",
    "patternProperties",
    "prefixItems",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "minContains",
    "maxContains",
    "if",
    "then",
    "else",
];
/// The types of JSON; an integer is a number.
const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];

struct Compare<'a> {
    definitions: bool,
    found: &'a mut Vec<Difference>,
}

impl Compare<'_> {
    fn add(&mut self, verdict: Verdict, property: &str, what: String) {
        self.found.push(Difference {
            property: property.to_owned(),
            what,
            verdict,
        });
    }

    fn schemas(&mut self, giver: &Value, taker: &Value, property: &str, unnamed: bool) {
        let open = Map::new();
        let (giver, taker) = match (giver, taker) {
            (Value::Bool(false), _) | (_, Value::Bool(true)) => return,
            (_, Value::Bool(false)) => {
                // `{}` and `true` give anything, so something is refused; whether objects hold it is not said.
                let verdict = if unnamed { Verdict::Unjudged } else { Verdict::No };
                return self.add(verdict, property, "nothing is taken here any more".to_owned());
            }
            (Value::Bool(true), Value::Object(taker)) => (&open, taker),
            (Value::Object(giver), Value::Object(taker)) => (giver, taker),
            _ => return self.add(Verdict::Unjudged, property, "is no schema".to_owned()),
        };
        if giver == taker && (self.definitions || !mentions_reference(giver)) {
            return;
        }
        if taker.keys().all(|key| ANNOTATIONS.contains(&key.as_str())) {
            return;
        }
        if unnamed && giver.keys().all(|key| ANNOTATIONS.contains(&key.as_str())) {
            let what =
                "an object may hold anything by this name, which the other schema does not name: a dry run tells";
            return self.add(Verdict::Unjudged, property, what.to_owned());
        }
        if let Some(values) = listed(giver) {
            return self.listed(values, giver, taker, property);
        }
        for key in ENTANGLED {
            if giver.contains_key(key) || taker.contains_key(key) {
                return self.add(Verdict::Unjudged, property, format!("`{key}` cannot be compared"));
            }
        }
        for (key, value) in taker {
            let known = JUDGED.contains(&key.as_str()) || ANNOTATIONS.contains(&key.as_str());
            let same = giver.get(key) == Some(value) && (self.definitions || !value_mentions_reference(key, value));
            if !known && !same {
                self.add(Verdict::Unjudged, property, format!("`{key}` cannot be compared"));
            }
        }
        if let Some(values) = listed(taker) {
            let what = format!("only {} listed values are taken", values.len());
            self.add(Verdict::No, property, what);
        }
        let types = types(giver);
        let taken = self::types(taker);
        let lost: Vec<&str> = types
            .iter()
            .filter(|kind| !(taken.contains(*kind) || **kind == "integer" && taken.contains("number")))
            .copied()
            .collect();
        if !lost.is_empty() {
            let (is, are) = (lost.join(", "), taken.iter().copied().collect::<Vec<_>>().join(", "));
            self.add(Verdict::No, property, format!("{is} is not taken, only {are}"));
        }
        let both = |kinds: &[&str]| kinds.iter().any(|kind| types.contains(kind) && !lost.contains(kind));
        if both(&["number", "integer"]) {
            self.numbers(giver, taker, property);
        }
        for (kind, least, most) in [
            ("string", "minLength", "maxLength"),
            ("array", "minItems", "maxItems"),
            ("object", "minProperties", "maxProperties"),
        ] {
            if both(&[kind]) {
                self.bounds(giver, taker, property, least, most);
            }
        }
        if both(&["array"]) {
            let items = |schema: &Map<String, Value>| schema.get("items").cloned().unwrap_or(Value::Bool(true));
            let path = format!("{property}/*");
            self.schemas(&items(giver), &items(taker), &path, false);
        }
        if both(&["object"]) {
            self.objects(giver, taker, property);
        }
    }

    /// A giver of few values is judged by trying them.
    fn listed(&mut self, values: Vec<Value>, giver: &Map<String, Value>, taker: &Map<String, Value>, property: &str) {
        let compiled = |schema: &Map<String, Value>| validator(&Value::Object(schema.clone()));
        let (Ok(gives), Ok(takes)) = (compiled(giver), compiled(taker)) else {
            return self.add(
                Verdict::Unjudged,
                property,
                "the listed values cannot be tried".to_owned(),
            );
        };
        for value in values {
            if gives.is_valid(&value) && !takes.is_valid(&value) {
                self.add(Verdict::No, property, format!("the listed value {value} is not taken"));
            }
        }
    }

    fn numbers(&mut self, giver: &Map<String, Value>, taker: &Map<String, Value>, property: &str) {
        // The bound, and whether it is outside of what is taken.
        let lowest = |schema: &Map<String, Value>| {
            let at = |key: &str, open| Some((schema.get(key)?.as_f64()?, open));
            let bounds = [at("minimum", false), at("exclusiveMinimum", true)];
            bounds
                .into_iter()
                .flatten()
                .max_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
        };
        let highest = |schema: &Map<String, Value>| {
            let at = |key: &str, open: bool| Some((schema.get(key)?.as_f64()?, !open));
            let bounds = [at("maximum", false), at("exclusiveMaximum", true)];
            bounds
                .into_iter()
                .flatten()
                .min_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
        };
        if let Some(bound) = lowest(taker)
            && lowest(giver).is_none_or(|given| given < bound)
        {
            self.add(
                Verdict::No,
                property,
                format!("numbers below {} are not taken", bound.0),
            );
        }
        if let Some(bound) = highest(taker)
            && highest(giver).is_none_or(|given| given > bound)
        {
            self.add(
                Verdict::No,
                property,
                format!("numbers above {} are not taken", bound.0),
            );
        }
    }

    fn bounds(
        &mut self,
        giver: &Map<String, Value>,
        taker: &Map<String, Value>,
        property: &str,
        least: &str,
        most: &str,
    ) {
        let number = |schema: &Map<String, Value>, key: &str| schema.get(key).and_then(Value::as_f64);
        let (given, taken) = (number(giver, least).unwrap_or(0.0), number(taker, least).unwrap_or(0.0));
        if given < taken {
            self.add(
                Verdict::No,
                property,
                format!("`{least}` rises from {given} to {taken}"),
            );
        }
        if let Some(taken) = number(taker, most)
            && number(giver, most).is_none_or(|given| given > taken)
        {
            self.add(Verdict::No, property, format!("`{most}` falls to {taken}"));
        }
    }

    fn objects(&mut self, giver: &Map<String, Value>, taker: &Map<String, Value>, property: &str) {
        let always = names(giver);
        for name in names(taker).difference(&always) {
            let what = "is required, and objects without it were taken".to_owned();
            self.add(Verdict::No, &format!("{property}/{name}"), what);
        }
        let none = Map::new();
        let properties = |schema| match Map::get(schema, "properties") {
            Some(Value::Object(properties)) => properties.clone(),
            Some(_) | None => none.clone(),
        };
        let rest =
            |schema: &Map<String, Value>| schema.get("additionalProperties").cloned().unwrap_or(Value::Bool(true));
        let (given, taken) = (properties(giver), properties(taker));
        let (given_rest, taken_rest) = (rest(giver), rest(taker));
        for (name, takes) in &taken {
            let path = format!("{property}/{name}");
            match given.get(name) {
                Some(gives) => self.schemas(gives, takes, &path, false),
                // That it is required was said above.
                None if names(taker).contains(name.as_str()) && !always.contains(name.as_str()) => {}
                None => self.schemas(&given_rest, takes, &path, true),
            }
        }
        for (name, gives) in given.iter().filter(|(name, _)| !taken.contains_key(*name)) {
            self.schemas(gives, &taken_rest, &format!("{property}/{name}"), false);
        }
        self.schemas(&given_rest, &taken_rest, &format!("{property}/*"), false);
    }
}

fn names(schema: &Map<String, Value>) -> BTreeSet<&str> {
    match schema.get("required") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        Some(_) | None => BTreeSet::new(),
    }
}

fn types(schema: &Map<String, Value>) -> BTreeSet<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => BTreeSet::from([one.as_str()]),
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        Some(_) | None => BTreeSet::from_iter(TYPES),
    }
}

fn listed(schema: &Map<String, Value>) -> Option<Vec<Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(one), _) => Some(vec![one.clone()]),
        (None, Some(Value::Array(many))) => Some(many.clone()),
        (None, Some(_) | None) => None,
    }
}

fn mentions_reference(schema: &Map<String, Value>) -> bool {
    schema.iter().any(|(key, value)| value_mentions_reference(key, value))
}

fn value_mentions_reference(key: &str, value: &Value) -> bool {
    if key == "$ref" || key == "$dynamicRef" {
        return true;
    }
    match value {
        Value::Object(inner) => mentions_reference(inner),
        Value::Array(items) => items.iter().any(|item| value_mentions_reference("", item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests;
