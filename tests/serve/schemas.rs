//! JSON schemas as libraries write them.

use serde_json::{Value, json};

use super::client::{Server, chat, content};

const CHAT: &str = "/v1/chat/completions";

fn asked(schema: &Value, seed: u32) -> Value {
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    chat("Hi", json!({ "response_format": format, "temperature": 1.0, "seed": seed, "max_tokens": 200 }))
}

/// An answer that ended by itself, as JSON.
fn answer(server: &Server, schema: &Value, seed: u32) -> Value {
    let response = server.post(CHAT, &asked(schema, seed));
    assert_eq!(response.json()["choices"][0]["finish_reason"], "stop", "{response:?}");
    serde_json::from_str(&content(&response)).unwrap()
}

#[test]
fn an_object_has_the_properties_that_its_schema_names() {
    let server = Server::start(&[]);
    // As pydantic writes a model: nothing says that there may be no others.
    let address = json!({ "type": "object", "title": "Address", "properties": { "number": { "enum": [1, 2] } } });
    let schema = json!({
        "$defs": { "Address": address },
        "type": "object",
        "properties": { "home": { "$ref": "#/$defs/Address" }, "old": { "type": "boolean", "default": false } },
        "required": ["home"],
    });
    for seed in 0..6 {
        let found = answer(&server, &schema, seed);
        let is_among = |object: &Value, names: &[&str]| {
            object.as_object().unwrap().keys().all(|name| names.contains(&name.as_str()))
        };
        assert!(is_among(&found, &["home", "old"]) && is_among(&found["home"], &["number"]), "{found}");
    }
}

#[test]
fn a_union_with_a_discriminator_is_one_of_its_models() {
    let server = Server::start(&[]);
    let pet = |kind: &str, name: &str| {
        json!({
            "type": "object",
            "properties": { "kind": { "const": kind, "default": kind, "type": "string" }, name: { "enum": [1, 2] } },
            "required": [name],
        })
    };
    let schema = json!({
        "$defs": { "Cat": pet("cat", "lives"), "Dog": pet("dog", "age") },
        "type": "object",
        "properties": { "pet": {
            "discriminator": { "mapping": { "cat": "#/$defs/Cat", "dog": "#/$defs/Dog" }, "propertyName": "kind" },
            "oneOf": [{ "$ref": "#/$defs/Cat" }, { "$ref": "#/$defs/Dog" }],
        } },
        "required": ["pet"],
    });
    for seed in 0..6 {
        let found = answer(&server, &schema, seed)["pet"].clone();
        let (kind, fields) = (found["kind"].as_str().unwrap(), found.as_object().unwrap());
        let own = if kind == "cat" { "lives" } else { "age" };
        assert!(["cat", "dog"].contains(&kind) && fields.len() == 2 && fields.contains_key(own), "{found}");
    }
}

#[test]
fn formats_without_a_meaning_here_are_comments_and_what_cannot_be_kept_is_refused() {
    let server = Server::start(&[]);
    let bytes = json!({ "type": "string", "format": "binary", "maxLength": 4 });
    assert!(answer(&server, &bytes, 1).is_string());
    let endless = server.post(CHAT, &asked(&json!({ "$ref": "#" }), 1)).error(400);
    assert!(endless.contains("refers only to itself"), "{endless}");
    let set = json!({ "type": "array", "items": { "enum": [1, 2] }, "uniqueItems": true });
    assert!(server.post(CHAT, &asked(&set, 1)).error(400).contains("uniqueItems"));
}
