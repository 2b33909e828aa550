//! JSON schemas as clients write them, brought to what `llguidance` takes: the documents that they mean, in other words.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// White space between the parts of JSON, once at each place: without a bound, small models write line breaks for ever.
/// A schema can say otherwise, under the key `x-guidance` of llguidance.
const WHITE_SPACE: &str = r"[ ]|\n[ \t]{0,20}";

/// Formats of strings that `llguidance` enforces. All others are comments, as the specification of JSON Schema has it
/// (2020-12, 7.2.1): `binary` and `password` of pydantic, `path`, and whatever a generator makes up.
const FORMATS: [&str; 11] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"];

/// Required properties that are tried as the tag of a choice: tags come first, and every one is looked up in every branch.
const MOST_TAGS: usize = 16;

/// Keywords under which there are schemas by names.
const BY_NAME: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// Keywords under which there are values, whatever they look like.
const VALUES: [&str; 4] = ["const", "enum", "default", "examples"];

/// A schema for the documents that `schema` means, or fewer where it leaves open what it means.
pub fn prepared(mut schema: Value) -> Value {
    let places = places(&schema);
    for place in &places {
        decide_by_tag(&mut schema, place);
    }
    let closes = !places.iter().any(|place| fields(&schema, place).is_some_and(intersects));
    for place in &places {
        let Some(Value::Object(fields)) = schema.pointer_mut(place) else { continue };
        if fields.get("format").is_some_and(|format| !FORMATS.iter().any(|known| format == known)) {
            fields.remove("format");
        }
        if closes && is_open_by_omission(fields) {
            fields.insert("additionalProperties".into(), json!(false));
        }
    }
    if let Value::Object(fields) = &mut schema {
        fields.entry("x-guidance").or_insert_with(|| json!({ "whitespace_pattern": WHITE_SPACE }));
    }
    schema
}

/// An object with named properties that does not say whether there may be others. Small models, left free, write others
/// without end; llama.cpp, ollama and xgrammar allow none.
fn is_open_by_omission(fields: &Map<String, Value>) -> bool {
    const SAY_SO: [&str; 4] = ["additionalProperties", "patternProperties", "unevaluatedProperties", "minProperties"];
    let Some(Value::Object(properties)) = fields.get("properties") else { return false };
    let all_named = required(fields).all(|name| properties.contains_key(name));
    all_named && !SAY_SO.iter().any(|key| fields.contains_key(*key))
}

/// Whether a document has to follow several schemas at once here: none of them can be closed to the others' properties.
fn intersects(fields: &Map<String, Value>) -> bool {
    let has = |keys: &[&str]| keys.iter().filter(|key| fields.contains_key(**key)).count();
    let several = fields.get("allOf").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
    several || has(&["$ref", "allOf", "anyOf", "oneOf"]) + has(&["properties", "required"]).min(1) > 1
}

/// Makes a choice by `oneOf` one by `anyOf` if no document can follow two of its schemas: a property that all of them
/// require, or that is called their `discriminator` (OpenAPI, pydantic), has another value in each. `llguidance` does not look
/// through references to see that.
fn decide_by_tag(schema: &mut Value, place: &str) {
    let Some(choice) = fields(schema, place) else { return };
    let Some(Value::Array(given)) = choice.get("oneOf") else { return };
    let branches: Vec<String> = (0..given.len()).map(|at| target(schema, format!("{place}/oneOf/{at}"))).collect();
    let discriminator = choice.get("discriminator").and_then(|by| by["propertyName"].as_str());
    let names: Vec<String> = match discriminator {
        Some(name) => vec![name.to_owned()],
        None => {
            let first = branches.first().and_then(|first| fields(schema, first));
            first.into_iter().flat_map(required).take(MOST_TAGS).map(str::to_owned).collect()
        }
    };
    let tag_of = |branch: &String, name: &str| {
        let branch = fields(schema, branch)?;
        let is_there = discriminator.is_some() || required(branch).any(|required| required == name);
        tag(branch, name).filter(|_| is_there)
    };
    let decides = |name: &String| {
        let mut tags = BTreeSet::new();
        branches.iter().all(|branch| tag_of(branch, name).is_some_and(|tag| tags.insert(tag)))
    };
    let Some(name) = names.into_iter().find(decides) else { return };
    for branch in branches {
        require(schema.pointer_mut(&branch), &name);
    }
    if let Some(Value::Object(choice)) = schema.pointer_mut(place)
        && !choice.contains_key("anyOf")
        && let Some(given) = choice.remove("oneOf")
    {
        choice.insert("anyOf".into(), given);
    }
}

/// The only text that a property may be.
fn tag<'a>(schema: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let property = schema.get("properties")?.get(name)?;
    match property.get("enum").and_then(Value::as_array).map(Vec::as_slice) {
        Some([only]) => only.as_str(),
        _ => property.get("const")?.as_str(),
    }
}

/// Names of the properties that a schema requires.
fn required(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn require(schema: Option<&mut Value>, name: &str) {
    if let Some(Value::Object(fields)) = schema
        && !required(fields).any(|given| given == name)
        && let Value::Array(required) = fields.entry("required").or_insert_with(|| json!([]))
    {
        required.push(json!(name));
    }
}

/// The place that a reference at `place` leads to; `place` itself if there is none.
fn target(schema: &Value, place: String) -> String {
    let reference = fields(schema, &place).and_then(|branch| branch.get("$ref")?.as_str()?.strip_prefix('#'));
    match reference {
        Some(to) if schema.pointer(to).is_some() => to.to_owned(),
        _ => place,
    }
}

fn fields<'a>(schema: &'a Value, place: &str) -> Option<&'a Map<String, Value>> {
    schema.pointer(place)?.as_object()
}

/// Places of all schemas in `schema`, itself included, as JSON pointers.
fn places(schema: &Value) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut at = 0;
    while let Some(place) = found.get(at).cloned() {
        at += 1;
        let Some(fields) = fields(schema, &place) else { continue };
        for (key, value) in fields.iter().filter(|(key, _)| !VALUES.contains(&key.as_str())) {
            let below = format!("{place}/{}", escaped(key));
            match value {
                Value::Object(named) if BY_NAME.contains(&key.as_str()) => {
                    found.extend(named.keys().map(|name| format!("{below}/{}", escaped(name))));
                }
                Value::Object(_) => found.push(below),
                Value::Array(parts) => found.extend((0..parts.len()).map(|part| format!("{below}/{part}"))),
                _ => {}
            }
        }
    }
    found
}

/// A key as a part of a JSON pointer (RFC 6901).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schema as prepared, without what tells of white space.
    fn plain(schema: Value) -> Value {
        let mut prepared = prepared(schema);
        prepared.as_object_mut().map(|fields| fields.remove("x-guidance"));
        prepared
    }

    #[test]
    fn objects_are_closed_unless_they_say_otherwise() {
        let inner = json!({ "type": "object", "properties": { "b": {} }, "required": ["b"] });
        let found = plain(json!({ "properties": { "a": { "anyOf": [inner, { "type": "null" }] } }, "default": inner }));
        assert_eq!(found["additionalProperties"], false);
        assert_eq!(found["properties"]["a"]["anyOf"][0]["additionalProperties"], false);
        assert_eq!(found["default"], inner, "a value");
        for open in [
            json!({ "type": "object" }),
            json!({ "properties": { "a": {} }, "additionalProperties": true }),
            json!({ "properties": { "a": {} }, "additionalProperties": { "type": "integer" } }),
            json!({ "properties": { "a": {} }, "patternProperties": { "^x": {} } }),
            json!({ "properties": { "a": {} }, "required": ["b"] }),
            json!({ "properties": { "a": {} }, "minProperties": 2 }),
            json!({ "allOf": [{ "properties": { "a": {} } }, { "properties": { "b": {} } }] }),
            json!({ "$ref": "#/$defs/a", "properties": { "b": {} }, "$defs": { "a": { "properties": { "a": {} } } } }),
        ] {
            assert_eq!(plain(open.clone()), open);
        }
        // A property may be called as a keyword is.
        let found = plain(json!({ "properties": { "properties": { "properties": { "default": inner } } } }));
        let inmost = &found["properties"]["properties"]["properties"]["default"];
        assert_eq!(inmost["additionalProperties"], false, "{found}");
    }

    #[test]
    fn formats_that_nothing_enforces_are_comments() {
        let format = |name: &str| plain(json!({ "type": "string", "format": name })).get("format").is_some();
        assert!(format("date-time") && format("uuid"));
        assert!(!format("binary") && !format("date-span"));
        assert_eq!(
            plain(json!({ "properties": { "format": {} }, "additionalProperties": true }))["properties"]["format"],
            json!({})
        );
    }

    #[test]
    fn a_tag_decides_between_branches() {
        let branch =
            |kind: &str| json!({ "type": "object", "properties": { "kind": { "const": kind, "default": kind } } });
        let pet = |of: Value| {
            json!({
                "properties": { "pet": { "oneOf": [{ "$ref": "#/$defs/A~1x" }, of], "discriminator": { "propertyName": "kind" } } },
                "$defs": { "A/x": branch("cat") },
            })
        };
        let found = plain(pet(branch("dog")));
        assert_eq!(found["properties"]["pet"]["anyOf"].as_array().map(Vec::len), Some(2), "{found}");
        assert_eq!(found["$defs"]["A/x"]["required"], json!(["kind"]));
        assert_eq!(found["properties"]["pet"]["anyOf"][1]["required"], json!(["kind"]));
        // Two of a kind, one without, and a tag that may be left out: both branches may be meant.
        let untagged = json!({ "type": "object", "properties": { "age": {} } });
        let optional = json!({ "oneOf": [branch("cat"), branch("dog")] });
        for open in [pet(branch("cat")), pet(untagged)] {
            assert!(plain(open)["properties"]["pet"].get("oneOf").is_some());
        }
        assert!(plain(optional).get("oneOf").is_some());
        let with = |kind: &str| json!({ "properties": { "kind": { "enum": [kind] } }, "required": ["kind"] });
        assert!(plain(json!({ "oneOf": [with("cat"), with("dog")] })).get("anyOf").is_some());
    }
}
