//! Bounds of grammars from strangers: what the compiler needs minutes or gigabytes for is refused before.

use serde_json::{Map, Number, Value};

use super::{
    beside::{Turn, Turns},
    error::{ApiError, ApiResult},
};
use crate::generate::Grammar;

/// Bytes of a grammar at most.
const MOST_BYTES: usize = 128 << 10;

/// Keys of `patternProperties` at most: each is compared with each. 100 take 0.2 s, 400 take 14 s (2.1 GHz).
const MOST_PATTERN_PROPERTIES: usize = 64;

/// Patterns at most where schemas are merged: the compiler looks for a text that fits all of them. 60 take minutes.
const MOST_MERGED_PATTERNS: usize = 8;

/// References at most, as each may lie in another.
const MOST_REFERENCES: usize = 1024;

/// Digits of all `multipleOf` together, as one number: the compiler makes a state for each remainder. 10 000 take 1 s,
/// 1 000 003 take 19 s.
const MOST_REMAINDERS: u64 = 10_000;

/// Grammars that are compiled at the same time: each may take some hundred megabytes and seconds.
const SIDE_BY_SIDE: usize = 2;

/// Fields of requests that may ask for a grammar, in all APIs.
const FIELDS: [&str; 6] = ["grammar", "json_schema", "response_format", "format", "tools", "text"];

/// Turns to compile grammars. The compiler cannot be interrupted, but ends in seconds within the bounds here.
pub fn turns() -> Turns {
    Turns::new(SIDE_BY_SIDE, usize::MAX)
}

/// A turn for a request that may need one, to be held until its grammar is compiled.
///
/// # Errors
/// If too many wait.
pub async fn turn(turns: &Turns, fields: &Map<String, Value>) -> ApiResult<Option<Turn>> {
    let needs_one = FIELDS.iter().any(|field| fields.contains_key(*field));
    Ok(if needs_one { Some(turns.next().await?) } else { None })
}

/// Refuses a grammar beyond the bounds.
pub fn check(grammar: &Grammar) -> ApiResult<()> {
    let (Grammar::Text(text) | Grammar::JsonSchema(text)) = grammar;
    refuse_above("bytes", text.len(), MOST_BYTES)?;
    let Grammar::JsonSchema(text) = grammar else { return Ok(()) };
    // What is no JSON is refused by the compiler, in its words.
    let Ok(schema) = serde_json::from_str::<Value>(text) else { return Ok(()) };
    let mut found = Found::default();
    found.look_at(&schema);
    refuse_above("keys of patternProperties", found.pattern_properties, MOST_PATTERN_PROPERTIES)?;
    let remainders = usize::try_from(found.remainders).unwrap_or(usize::MAX);
    refuse_above("remainders of multipleOf", remainders, MOST_REMAINDERS as usize)?;
    refuse_above("references", found.references, MOST_REFERENCES)?;
    if found.merges {
        refuse_above("patterns beside allOf or a reference", found.patterns, MOST_MERGED_PATTERNS)?;
    }
    Ok(())
}

fn refuse_above(what: &str, found: usize, most: usize) -> ApiResult<()> {
    if found <= most {
        return Ok(());
    }
    Err(ApiError::bad_request(format!("the grammar has {found} {what}, {most} at most")))
}

/// Counts of what is costly in a schema.
#[derive(Default)]
struct Found {
    pattern_properties: usize,
    patterns: usize,
    references: usize,
    remainders: u64,
    /// Whether several schemas hold for one value.
    merges: bool,
}

impl Found {
    /// Counts in `schema` and all that is in it. The depth of JSON is bounded where it is parsed.
    fn look_at(&mut self, schema: &Value) {
        match schema {
            Value::Array(parts) => parts.iter().for_each(|part| self.look_at(part)),
            Value::Object(fields) => {
                let has = |name: &str| fields.contains_key(name);
                self.references += usize::from(has("$ref"));
                self.patterns += usize::from(has("pattern")) + usize::from(has("format"));
                self.merges |= has("allOf") || (has("pattern") && ["$ref", "anyOf", "oneOf"].into_iter().any(has));
                if let Some(Value::Number(divisor)) = fields.get("multipleOf") {
                    self.remainders = self.remainders.saturating_add(digits(divisor));
                }
                if let Some(Value::Object(keys)) = fields.get("patternProperties") {
                    self.pattern_properties += keys.len();
                }
                fields.values().for_each(|value| self.look_at(value));
            }
            _ => {}
        }
    }
}

/// The digits of a number without the zeros at both ends: 25 for 2500 and for 0.025.
fn digits(number: &Number) -> u64 {
    let text = number.to_string();
    let digits: String =
        text.split(['e', 'E']).next().unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_matches('0');
    if digits.is_empty() { 0 } else { digits.parse().unwrap_or(u64::MAX) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(schema: &Value) -> Option<String> {
        check(&Grammar::JsonSchema(schema.to_string())).err().map(|error| error.message)
    }

    #[test]
    fn schemas_that_would_take_minutes_are_refused_by_name() {
        let patterns =
            |count: usize| -> Vec<Value> { (0..count).map(|i| json!({ "pattern": format!("a{i}") })).collect() };
        assert_eq!(refused(&json!({ "allOf": patterns(8) })), None);
        assert!(refused(&json!({ "allOf": patterns(9) })).unwrap().contains("9 patterns beside allOf"));
        assert_eq!(refused(&json!({ "anyOf": patterns(500) })), None, "each stands for itself");
        let keys =
            |count: usize| -> Value { (0..count).map(|i| (format!("^{i}"), json!({}))).collect::<Map<_, _>>().into() };
        assert_eq!(refused(&json!({ "patternProperties": keys(64) })), None);
        let halves = json!({ "items": { "patternProperties": keys(33) }, "patternProperties": keys(33) });
        assert!(refused(&halves).unwrap().contains("66 keys of patternProperties"));
        let multiple = |of: Value| refused(&json!({ "items": { "type": "number", "multipleOf": of } }));
        for few in [json!(7), json!(10_000), json!(1_000_000), json!(0.01), json!(2.5e-7), json!(-12)] {
            assert_eq!(multiple(few.clone()), None, "{few}");
        }
        for many in [json!(1_000_003), json!(0.123_456_789), json!(u64::MAX), json!(1.234_567e300)] {
            assert!(multiple(many.clone()).unwrap().contains("remainders of multipleOf"), "{many}");
        }
        let halves = json!({ "anyOf": [{ "multipleOf": 9973 }, { "multipleOf": 37 }] });
        assert!(refused(&halves).unwrap().contains("10010 remainders"));
        let references = vec![json!({ "$ref": "#" }); 1025];
        assert!(refused(&json!({ "anyOf": references })).unwrap().contains("1025 references"));
        assert!(check(&Grammar::Text("x".repeat(MOST_BYTES + 1))).is_err());
    }
}
