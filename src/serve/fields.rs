//! The fields of requests: names, types and limits in one table. `null` is as absent, unknown fields are nobody's concern.

use serde_json::{Map, Value};

use super::error::{ApiError, ApiResult};

/// A number in a request.
struct Number {
    name: &'static str,
    /// Other names, which count where the ones before are absent.
    aliases: &'static [&'static str],
    is_integer: bool,
    /// Outside of these a request is refused.
    hard: (f64, f64),
    /// Outside of these the nearest value counts.
    soft: (f64, f64),
}

/// Far within single precision; products of two such numbers are beyond it.
const ANY: (f64, f64) = (-1e30, 1e30);
const SHARE: (f64, f64) = (0.0, 1.0);
const AT_LEAST_0: (f64, f64) = (0.0, f64::INFINITY);

const fn real(name: &'static str, hard: (f64, f64), soft: (f64, f64)) -> Number {
    Number { name, aliases: &[], is_integer: false, hard, soft }
}

const fn whole(name: &'static str, hard: (f64, f64), soft: (f64, f64)) -> Number {
    Number { name, aliases: &[], is_integer: true, hard, soft }
}

const NUMBERS: &[Number] = &[
    Number {
        aliases: &["max_completion_tokens", "max_tokens", "max_output_tokens"],
        ..whole("n_predict", (-1.0, f64::INFINITY), (-1.0, 1e9))
    },
    real("temperature", ANY, AT_LEAST_0),
    real("top_p", ANY, SHARE),
    whole("top_k", ANY, (0.0, 1e9)),
    real("min_p", ANY, SHARE),
    Number { aliases: &["typical"], ..real("typical_p", ANY, SHARE) },
    real("repeat_penalty", (1e-6, 100.0), ANY),
    whole("repeat_last_n", (-1.0, f64::INFINITY), (-1.0, 1e9)),
    real("presence_penalty", (-100.0, 100.0), ANY),
    real("frequency_penalty", (-100.0, 100.0), ANY),
    real("top_n_sigma", ANY, ANY),
    real("xtc_probability", ANY, SHARE),
    real("xtc_threshold", ANY, SHARE),
    real("dry_multiplier", ANY, AT_LEAST_0),
    real("dry_base", ANY, ANY),
    whole("dry_allowed_length", ANY, (0.0, 1e9)),
    whole("dry_penalty_last_n", (-1.0, f64::INFINITY), (-1.0, 1e9)),
    real("dynatemp_range", ANY, ANY),
    whole("t_max_predict_ms", ANY, ANY),
    Number {
        aliases: &["thinking_budget_tokens"],
        ..whole("reasoning_budget_tokens", (-1.0, f64::INFINITY), (-1.0, 1e9))
    },
    whole("id_slot", (-1.0, 1e6), ANY),
    whole("mirostat", (0.0, 2.0), ANY),
    real("mirostat_tau", (0.0, 1e30), ANY),
    real("mirostat_eta", SHARE, ANY),
    whole("seed", (i64::MIN as f64, u64::MAX as f64), ANY),
    Number { aliases: &["n_cmpl"], ..whole("n", (1.0, 1024.0), ANY) },
    whole("top_logprobs", (0.0, 20.0), ANY),
    whole("n_probs", (0.0, 1000.0), ANY),
];

/// The fields of one request.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a Map<String, Value>);

/// Numbers above 0 that ask for what the server cannot do. To ignore them would give another text than was asked for.
const REFUSED: [(&str, &str); 2] = [
    ("dynatemp_range", "dynamic temperature is not supported"),
    ("t_max_predict_ms", "answers are limited in tokens, not in time"),
];

impl<'a> Fields<'a> {
    /// The field's value; `None` where it is absent or `null`.
    pub fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A number of the table, within its limits.
    pub fn number(self, name: &str) -> ApiResult<Option<f64>> {
        let number = NUMBERS.iter().find(|number| number.name == name);
        let number = number.ok_or_else(|| ApiError::internal(format!("no field {name} in the table")))?;
        let names = std::iter::once(&number.name).chain(number.aliases);
        let Some((name, value)) = names.filter_map(|name| Some((*name, self.get(name)?))).next() else {
            return Ok(None);
        };
        let kind = if number.is_integer { "an integer" } else { "a number" };
        let found = value.as_f64().filter(|found| found.is_finite() && (!number.is_integer || found.fract() == 0.0));
        let found = found.ok_or_else(|| wrong_type(name, kind, value))?;
        let (least, most) = number.hard;
        if !(least..=most).contains(&found) {
            let message = format!("Field '{name}': Value must be between {least} <= value <= {most}, but got {found}");
            return Err(ApiError::bad_field(name, message));
        }
        Ok(Some(found.clamp(number.soft.0, number.soft.1)))
    }

    /// A number of the table that counts something.
    pub fn integer(self, name: &str) -> ApiResult<Option<i64>> {
        Ok(self.number(name)?.map(|number| number as i64))
    }

    /// A small number that is no count.
    pub fn real(self, name: &str) -> ApiResult<Option<f32>> {
        Ok(self.number(name)?.map(|number| number as f32))
    }

    /// Refuses what the server knows and cannot do.
    pub fn refuse_unsupported(self) -> ApiResult<()> {
        for (name, reason) in REFUSED {
            if self.number(name)?.is_some_and(|number| number > 0.0) {
                return Err(ApiError::bad_field(name, format!("Field '{name}': {reason}")));
            }
        }
        Ok(())
    }

    /// Refuses probabilities of the draw, for which a form has no words.
    pub fn refuse_drawn_probabilities(self) -> ApiResult<()> {
        if self.bool("post_sampling_probs")?.unwrap_or(false) {
            let message = "Field 'post_sampling_probs': logprobs are those before sampling; /completion has both";
            return Err(ApiError::bad_field("post_sampling_probs", message));
        }
        Ok(())
    }

    pub fn bool(self, name: &str) -> ApiResult<Option<bool>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| wrong_type(name, "true or false", value))
    }

    pub fn text(self, name: &str) -> ApiResult<Option<&'a str>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| wrong_type(name, "a string", value))
    }

    pub fn object(self, name: &str) -> ApiResult<Option<Fields<'a>>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_object().map(|object| Some(Fields(object))).ok_or_else(|| wrong_type(name, "an object", value))
    }

    pub fn array(self, name: &str) -> ApiResult<Option<&'a [Value]>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_array().map(|array| Some(array.as_slice())).ok_or_else(|| wrong_type(name, "an array", value))
    }
}

/// A field of another type than it should have.
pub fn wrong_type(name: &str, expected: &str, found: &Value) -> ApiError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    ApiError::bad_field(name, format!("Field '{name}': expected {expected}, found {found}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check<T>(body: Value, read: impl Fn(Fields<'_>) -> ApiResult<T>) -> Result<T, String> {
        read(Fields(body.as_object().unwrap())).map_err(|error| error.message)
    }

    #[test]
    fn numbers_keep_to_their_limits() {
        let temperature = |value: Value| check(json!({ "temperature": value }), |f| f.real("temperature"));
        assert_eq!(temperature(json!(-1)), Ok(Some(0.0)));
        assert_eq!(temperature(json!(null)), Ok(None));
        assert!(temperature(json!(1e300)).unwrap_err().starts_with("Field 'temperature': Value must be between"));
        assert!(temperature(json!("hot")).unwrap_err().contains("'temperature': expected a number, found a string"));
        let n = |value: Value| check(json!({ "n": value }), |f| f.integer("n"));
        assert_eq!(n(json!(2.0)), Ok(Some(2)));
        assert!(n(json!(0)).unwrap_err().contains("Value must be between 1 <= value <= 1024, but got 0"));
        assert!(n(json!(1.5)).unwrap_err().contains("an integer"));
    }

    #[test]
    fn the_first_of_several_names_counts() {
        let most = |body: Value| check(body, |f| f.integer("n_predict"));
        assert_eq!(most(json!({ "max_tokens": 1, "max_completion_tokens": 2, "n_predict": 3 })), Ok(Some(3)));
        assert_eq!(most(json!({ "max_tokens": 1, "max_completion_tokens": 2, "n_predict": null })), Ok(Some(2)));
        assert_eq!(most(json!({ "max_tokens": 1e300 })), Ok(Some(1_000_000_000)));
        assert!(most(json!({ "max_tokens": -2 })).unwrap_err().contains("'max_tokens'"));
        assert_eq!(most(json!({})), Ok(None));
    }
}
