//! `samplers`: which stages of llama.cpp's chain run. Their order is fixed here, so others are refused.

use serde_json::Value;

use super::{
    error::{ApiError, ApiResult},
    fields::wrong_type,
};
use crate::generate::{SampleOptions, Xtc};

/// A stage: its names, llama.cpp's letter, and how it is left out.
struct Stage {
    names: &'static [&'static str],
    letter: char,
    leave_out: fn(&mut SampleOptions),
}

/// In their order.
const STAGES: [Stage; 9] = [
    Stage {
        names: &["penalties"],
        letter: 'e',
        leave_out: |sample| {
            sample.repeat_penalty = 1.0;
            sample.frequency_penalty = 0.0;
            sample.presence_penalty = 0.0;
        },
    },
    Stage { names: &["dry"], letter: 'd', leave_out: |sample| sample.dry.multiplier = 0.0 },
    Stage { names: &["top_n_sigma"], letter: 's', leave_out: |sample| sample.top_n_sigma = -1.0 },
    Stage { names: &["top_k"], letter: 'k', leave_out: |sample| sample.top_k = 0 },
    Stage { names: &["typ_p", "typical_p", "typical"], letter: 'y', leave_out: |sample| sample.typical_p = 1.0 },
    Stage { names: &["top_p"], letter: 'p', leave_out: |sample| sample.top_p = 1.0 },
    Stage { names: &["min_p"], letter: 'm', leave_out: |sample| sample.min_p = 0.0 },
    Stage { names: &["xtc"], letter: 'x', leave_out: |sample| sample.xtc = Xtc::default() },
    Stage { names: &["temperature"], letter: 't', leave_out: |sample| sample.temperature = 1.0 },
];

/// Leaves out the stages that `chain`, a list of names or a text of letters, has not.
///
/// # Errors
/// If it has one that is not known, or another order.
pub fn keep(chain: &Value, sample: &mut SampleOptions) -> ApiResult<()> {
    const NAME: &str = "samplers";
    let find = |text: &str, found: Option<usize>| {
        found.ok_or_else(|| ApiError::bad_field(NAME, format!("Field 'samplers': there is no sampler {text:?}")))
    };
    let by_name = |name: &Value| {
        let name = name.as_str().ok_or_else(|| wrong_type(NAME, "names", name))?;
        find(name, STAGES.iter().position(|stage| stage.names.contains(&name)))
    };
    let by_letter = |letter: char| find(&letter.to_string(), STAGES.iter().position(|stage| stage.letter == letter));
    let kept: Vec<usize> = match chain {
        Value::Array(names) => names.iter().map(by_name).collect::<ApiResult<_>>()?,
        Value::String(letters) => letters.chars().map(by_letter).collect::<ApiResult<_>>()?,
        other => return Err(wrong_type(NAME, "a list of names or a text of letters", other)),
    };
    if !kept.is_sorted() {
        let order = STAGES.map(|stage| stage.names[0]).join(", ");
        return Err(ApiError::bad_field(NAME, format!("Field 'samplers': their order here is always {order}")));
    }
    for (at, stage) in STAGES.iter().enumerate() {
        if !kept.contains(&at) {
            (stage.leave_out)(sample);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stages_that_are_not_named_are_left_out() {
        let kept = |chain: Value| {
            let mut sample = SampleOptions { repeat_penalty: 1.5, temperature: 0.3, ..SampleOptions::default() };
            keep(&chain, &mut sample).map(|()| sample).map_err(|error| error.message)
        };
        for chain in [json!(["top_k", "temperature"]), json!("kt")] {
            let sample = kept(chain).unwrap();
            assert_eq!((sample.top_k, sample.temperature), (40, 0.3));
            assert_eq!((sample.repeat_penalty, sample.top_p, sample.min_p), (1.0, 1.0, 0.0));
        }
        let none = kept(json!([])).unwrap();
        assert_eq!((none.top_k, none.temperature), (0, 1.0));
        assert!(kept(json!(["temperature", "top_k"])).unwrap_err().contains("order"));
        assert!(kept(json!(["magic"])).unwrap_err().contains("\"magic\""));
        assert!(kept(json!("q")).unwrap_err().contains("\"q\""));
        assert!(kept(json!(5)).is_err());
    }
}
