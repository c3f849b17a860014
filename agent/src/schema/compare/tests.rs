//! What is judged compatible, and that it is.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn judged(giver: &Value, taker: &Value) -> Verdict {
    verdict(&refused(giver, taker))
}

#[test]
fn wider_schema_takes_all_and_narrower_one_does_not() {
    for (narrow, wide) in [
        (json!({"type": "integer"}), json!({"type": "number"})),
        (json!({"type": "string"}), json!({"type": ["string", "null"]})),
        (
            json!({"type": "string", "maxLength": 5}),
            json!({"type": "string", "maxLength": 6}),
        ),
        (json!({"type": "string", "minLength": 1}), json!({"type": "string"})),
        (
            json!({"type": "number", "exclusiveMinimum": 1}),
            json!({"type": "number", "minimum": 1}),
        ),
        (
            json!({"type": "integer", "maximum": 9}),
            json!({"type": "integer", "exclusiveMaximum": 10}),
        ),
        (json!({"enum": ["a", "b"]}), json!({"enum": ["a", "b", "c"]})),
        (json!({"enum": ["a", 1]}), json!({"type": ["string", "integer"]})),
        (json!({"const": 3}), json!({"minimum": 3})),
        (json!({"type": "object", "required": ["a"]}), json!({"type": "object"})),
        (
            json!({"type": "object", "additionalProperties": false}),
            json!({"type": "object"}),
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            json!({"type": "array"}),
        ),
        (
            json!({"properties": {"a": {"type": "integer"}}}),
            json!({"properties": {"a": {"type": "number"}}}),
        ),
        (json!(false), json!({"type": "string"})),
        (json!({"type": "string"}), json!(true)),
    ] {
        assert_eq!(
            judged(&narrow, &wide),
            Verdict::Yes,
            "{narrow} {wide}: {:?}",
            refused(&narrow, &wide)
        );
        assert_eq!(judged(&wide, &narrow), Verdict::No, "{wide} {narrow}");
    }
}

#[test]
fn difference_names_the_property() {
    let giver = json!({"properties": {"a": {"properties": {"b": {"type": "string"}}}}});
    let taker = json!({"properties": {"a": {"properties": {"b": {"type": "integer"}}}}});
    assert_eq!(refused(&giver, &taker)[0].property, "/a/b");
    let lists = |kind: &str| json!({"type": "array", "items": {"type": kind}});
    assert_eq!(refused(&lists("string"), &lists("integer"))[0].property, "/*");
    let required = refused(
        &json!({"type": "object"}),
        &json!({"type": "object", "required": ["size"]}),
    );
    assert_eq!(required[0].property, "/size");
}

#[test]
fn required_property_that_is_typed_only_now_cannot_be_judged_from_schemas() {
    let old = json!({"required": ["a"]});
    let new = json!({"required": ["a"], "properties": {"a": {"type": "string"}}});
    assert_eq!(judged(&old, &new), Verdict::Unjudged);
}

#[test]
fn new_property_of_an_open_object_cannot_be_judged_from_schemas() {
    let old = json!({"type": "object"});
    let new = json!({"type": "object", "properties": {"size": {"type": "integer"}}});
    assert_eq!(judged(&old, &new), Verdict::Unjudged);
    assert_eq!(judged(&new, &old), Verdict::Yes);
    let closed = json!({"type": "object", "additionalProperties": false});
    assert_eq!(judged(&closed, &new), Verdict::Yes);
    assert_eq!(judged(&new, &closed), Verdict::No);
}

#[test]
fn keyword_that_is_not_judged_is_never_passed_over() {
    for (key, one, two) in [
        ("pattern", json!("^a"), json!("^b")),
        ("anyOf", json!([{"type": "string"}]), json!([{"type": "number"}])),
        ("not", json!({"type": "string"}), json!({"type": "number"})),
        ("multipleOf", json!(2), json!(3)),
        ("propertyNames", json!({"maxLength": 3}), json!({"maxLength": 2})),
        ("somethingNew", json!(1), json!(2)),
    ] {
        let (one, two, open) = (json!({key: one}), json!({key: two}), json!({"title": "any"}));
        assert_eq!(judged(&one, &two), Verdict::Unjudged, "{key}");
        assert_eq!(judged(&open, &two), Verdict::Unjudged, "{key}");
        assert_eq!(judged(&one, &one), Verdict::Yes, "{key}");
        assert_eq!(judged(&one, &open), Verdict::Yes, "{key}");
    }
}

#[test]
fn equal_references_to_unequal_definitions_cannot_be_judged() {
    let of = |kind: &str| json!({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": kind}}});
    assert_eq!(judged(&of("string"), &of("integer")), Verdict::Unjudged);
    assert_eq!(judged(&of("string"), &of("string")), Verdict::Yes);
}

fn schema() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![
        Just(json!("string")),
        Just(json!("integer")),
        Just(json!("number")),
        Just(json!("null")),
        Just(json!(["string", "null"])),
        Just(json!(["integer", "array", "object"])),
        Just(json!(["array", "object"])),
    ];
    let bounds = proptest::collection::btree_map(
        prop_oneof![
            Just("minimum"),
            Just("maximum"),
            Just("exclusiveMinimum"),
            Just("exclusiveMaximum"),
            Just("minLength"),
            Just("maxLength"),
            Just("minItems"),
            Just("maxItems"),
            Just("minProperties"),
            Just("maxProperties"),
        ],
        0_u32..3,
        0..2,
    );
    let listed = proptest::option::weighted(0.2, proptest::collection::vec(value(), 1..3));
    let leaf = (kind, bounds, listed).prop_map(|(kind, bounds, listed)| {
        let mut schema = Map::from_iter([("type".to_owned(), kind)]);
        schema.extend(bounds.into_iter().map(|(key, bound)| (key.to_owned(), json!(bound))));
        schema.extend(listed.map(|listed| ("enum".to_owned(), Value::Array(listed))));
        Value::Object(schema)
    });
    let leaf = prop_oneof![8 => leaf, 1 => any::<bool>().prop_map(Value::Bool)];
    leaf.prop_recursive(2, 12, 3, |inner| {
        let required = proptest::collection::btree_set(prop_oneof![Just("a"), Just("b")], 0..2);
        (
            proptest::collection::btree_map(prop_oneof![Just("a"), Just("b")], inner.clone(), 0..3),
            required,
            proptest::option::of(inner.clone()),
            proptest::option::of(inner),
        )
            .prop_map(|(properties, required, rest, items)| {
                let mut schema = Map::from_iter([
                    ("properties".to_owned(), json!(properties)),
                    ("required".to_owned(), json!(required)),
                ]);
                schema.extend(rest.map(|rest| ("additionalProperties".to_owned(), rest)));
                schema.extend(items.map(|items| ("items".to_owned(), items)));
                Value::Object(schema)
            })
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        (-1_i32..5).prop_map(|number| json!(number)),
        Just(json!(1.5)),
        "[ab]{0,3}".prop_map(Value::String),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            proptest::collection::btree_map("[abc]", inner, 0..3).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The answer "yes" is the one that must never be wrong.
    #[test]
    fn no_value_is_taken_by_the_giver_and_refused_by_a_taker_of_all(
        giver in schema(), taker in schema(), values in proptest::collection::vec(value(), 16),
    ) {
        if judged(&giver, &taker) == Verdict::Yes {
            let (gives, takes) = (validator(&giver).unwrap(), validator(&taker).unwrap());
            for value in values {
                prop_assert!(!gives.is_valid(&value) || takes.is_valid(&value), "{value}");
            }
        }
    }

    #[test]
    fn schema_takes_all_of_itself(schema in schema()) {
        prop_assert_eq!(judged(&schema, &schema), Verdict::Yes);
    }
}
