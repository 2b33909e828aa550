//! Fields that requests of all APIs have in common: sampling, length, stops, form.

use serde_json::{Value, json};

use super::{
    ServeOptions,
    error::{ApiError, ApiResult},
    fields::{Fields, wrong_type},
    model::Served,
    samplers,
};
use crate::generate::{AnswerOptions, Dry, Grammar, Mirostat, SampleOptions};

/// Stop strings of a request at most, and bytes of each: every piece of text is searched for all of them.
const MOST_STOPS: usize = 64;
const MOST_STOP_BYTES: usize = 1024;

/// Entries of `logit_bias` at most.
const MOST_BIASES: usize = 4096;

/// The value of `seed` that asks for any, beside -1.
const ANY_SEED: i64 = u32::MAX as i64;

/// Wishes of a request.
#[derive(Clone, Debug)]
pub struct Wishes {
    pub sample: SampleOptions,
    pub answer: AnswerOptions,
    /// With the field that asks for it.
    pub grammar: Option<(&'static str, Grammar)>,
    /// Answers to each prompt.
    pub n: usize,
    pub stream: bool,
    /// The slot that has to answer.
    pub place: Option<usize>,
    /// Progress of the prompt, in a stream.
    pub return_progress: bool,
    /// Times so far with each piece of a stream.
    pub timings_per_token: bool,
    /// Whether a stream ends with the usage.
    pub include_usage: bool,
}

impl Wishes {
    /// Reads all but `logprobs`, whose form differs.
    pub fn read(fields: Fields<'_>, model: &Served, options: &ServeOptions) -> ApiResult<Self> {
        let name = fields.text("model")?;
        if options.strict_model
            && let Some(name) = name.filter(|name| !model.is_called(name))
        {
            return Err(ApiError::no_model(name));
        }
        fields.refuse_unsupported()?;
        let n = fields.integer("n")?.unwrap_or(1) as usize;
        if n > model.slots {
            let message = format!("Field 'n': at most {} answers side by side, but got {n}", model.slots);
            return Err(ApiError::bad_field("n", message));
        }
        let max_tokens = match fields.integer("n_predict")? {
            Some(-1) => None,
            Some(most) => usize::try_from(most).ok(),
            None => Some(model.answer_limit(options)),
        };
        let stream_options = fields.object("stream_options")?;
        Ok(Self {
            sample: sample(fields, model)?,
            answer: AnswerOptions {
                max_tokens,
                end_ids: model.tokenizer.end_ids().to_vec(),
                ignore_end: fields.bool("ignore_eos")?.unwrap_or(false),
                stop: stops(fields)?,
                reasoning: None,
                logprobs: None,
                drawn_logprobs: false,
                reuse: fields.bool("cache_prompt")?.unwrap_or(true),
            },
            grammar: grammar(fields)?,
            n,
            stream: fields.bool("stream")?.unwrap_or(false),
            return_progress: fields.bool("return_progress")?.unwrap_or(false),
            timings_per_token: fields.bool("timings_per_token")?.unwrap_or(false),
            place: slot(fields, model)?,
            include_usage: match stream_options {
                Some(of_stream) => of_stream.bool("include_usage")?.unwrap_or(false),
                None => false,
            },
        })
    }
}

fn sample(fields: Fields<'_>, model: &Served) -> ApiResult<SampleOptions> {
    let mut sample = model.sample.clone();
    let set = |to: &mut f32, name| -> ApiResult<()> {
        *to = fields.real(name)?.unwrap_or(*to);
        Ok(())
    };
    set(&mut sample.temperature, "temperature")?;
    set(&mut sample.top_p, "top_p")?;
    set(&mut sample.min_p, "min_p")?;
    set(&mut sample.typical_p, "typical_p")?;
    set(&mut sample.top_n_sigma, "top_n_sigma")?;
    set(&mut sample.xtc.probability, "xtc_probability")?;
    set(&mut sample.xtc.threshold, "xtc_threshold")?;
    set(&mut sample.repeat_penalty, "repeat_penalty")?;
    set(&mut sample.presence_penalty, "presence_penalty")?;
    set(&mut sample.frequency_penalty, "frequency_penalty")?;
    if let Some(k) = fields.integer("top_k")? {
        sample.top_k = k as usize;
    }
    if let Some(n) = fields.integer("repeat_last_n")? {
        sample.repeat_last_n = usize::try_from(n).ok();
    }
    sample.dry = dry(fields, model, sample.dry)?;
    if let Some(seed) = fields.integer("seed")? {
        sample.seed = (seed != -1 && seed != ANY_SEED).then_some(seed as u32);
    }
    match fields.integer("mirostat")? {
        None => {}
        Some(0) => sample.mirostat = None,
        Some(2) => {
            let Mirostat { entropy, learning_rate } = Mirostat::default();
            sample.mirostat = Some(Mirostat {
                entropy: fields.real("mirostat_tau")?.unwrap_or(entropy),
                learning_rate: fields.real("mirostat_eta")?.unwrap_or(learning_rate),
            });
        }
        Some(_) => return Err(ApiError::bad_field("mirostat", "Field 'mirostat': 0 or 2; 2 is the successor of 1")),
    }
    if let Some(chain) = fields.get("samplers") {
        samplers::keep(chain, &mut sample)?;
    }
    if let Some(biases) = fields.get("logit_bias") {
        sample.logit_bias.extend(logit_bias(biases, model)?);
    }
    Ok(sample)
}

/// The options of DRY, on top of those of the server.
fn dry(fields: Fields<'_>, model: &Served, mut dry: Dry) -> ApiResult<Dry> {
    const NAME: &str = "dry_sequence_breakers";
    let was_on = dry.multiplier > 0.0;
    dry.multiplier = fields.real("dry_multiplier")?.unwrap_or(dry.multiplier);
    // Below 1 is llama.cpp's word for the default.
    dry.base = fields.real("dry_base")?.filter(|&base| base >= 1.0).unwrap_or(dry.base);
    if let Some(length) = fields.integer("dry_allowed_length")? {
        dry.allowed_length = length as usize;
    }
    if let Some(n) = fields.integer("dry_penalty_last_n")? {
        dry.last_n = usize::try_from(n).ok();
    }
    let given = fields.array(NAME)?;
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| wrong_type(NAME, "strings", value));
    let texts = given.map(|texts| texts.iter().map(text).collect::<ApiResult<Vec<_>>>()).transpose()?;
    if texts.as_ref().is_some_and(|texts| texts.len() > MOST_STOPS) {
        return Err(ApiError::bad_field(NAME, format!("Field '{NAME}': at most {MOST_STOPS} strings")));
    }
    // Each is a pass over the vocabulary.
    match texts {
        _ if dry.multiplier == 0.0 => {}
        Some(texts) => dry.breakers = Dry::breakers(&texts, &model.tokenizer)?,
        None if was_on => {}
        None => dry.breakers = Dry::breakers(&Dry::BREAKERS, &model.tokenizer)?,
    }
    Ok(dry)
}

/// `id_slot`; -1 is any.
fn slot(fields: Fields<'_>, model: &Served) -> ApiResult<Option<usize>> {
    let slot = fields.integer("id_slot")?.and_then(|slot| usize::try_from(slot).ok());
    if let Some(slot) = slot
        && slot >= model.slots
    {
        let message = format!("Field 'id_slot': one of the {} slots from 0, but got {slot}", model.slots);
        return Err(ApiError::bad_field("id_slot", message));
    }
    Ok(slot)
}

/// `{"id or text": bias}` or `[[id or text, bias]]`; `false` for a bias bans the token.
fn logit_bias(value: &Value, model: &Served) -> ApiResult<Vec<(u32, f32)>> {
    const NAME: &str = "logit_bias";
    let pairs: Vec<(Value, &Value)> = match value {
        Value::Object(entries) => entries.iter().map(|(key, bias)| (json!(key), bias)).collect(),
        Value::Array(entries) => {
            let pair = |entry: &'_ Value| entry.as_array().filter(|pair| pair.len() == 2).cloned();
            let pairs: Option<Vec<_>> = entries.iter().map(pair).collect();
            if pairs.is_none() {
                return Err(ApiError::bad_field(NAME, "Field 'logit_bias': each entry is [token, bias]"));
            }
            entries.iter().filter_map(Value::as_array).map(|pair| (pair[0].clone(), &pair[1])).collect()
        }
        other => return Err(wrong_type(NAME, "an object or an array", other)),
    };
    if pairs.len() > MOST_BIASES {
        let message = format!("Field 'logit_bias': at most {MOST_BIASES} entries, but got {}", pairs.len());
        return Err(ApiError::bad_field(NAME, message));
    }
    let mut biases = Vec::with_capacity(pairs.len());
    for (token, bias) in pairs {
        let bias = match bias {
            Value::Bool(false) => f32::NEG_INFINITY,
            other => other
                .as_f64()
                .map(|bias| bias as f32)
                .filter(|bias| bias.is_finite())
                .ok_or_else(|| wrong_type(NAME, "a number or false for each token", other))?,
        };
        let ids = match &token {
            Value::String(text) => match text.parse::<u32>() {
                Ok(id) => vec![id],
                Err(_) => model.encode(text, false)?,
            },
            number => number.as_u64().and_then(|id| u32::try_from(id).ok()).into_iter().collect(),
        };
        biases.extend(ids.into_iter().filter(|&id| (id as usize) < model.facts.vocab).map(|id| (id, bias)));
    }
    Ok(biases)
}

fn stops(fields: Fields<'_>) -> ApiResult<Vec<String>> {
    const NAME: &str = "stop";
    let stops: Vec<String> = match fields.get(NAME) {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) => {
            let text = |stop: &Value| stop.as_str().map(str::to_owned).ok_or_else(|| wrong_type(NAME, "strings", stop));
            stops.iter().map(text).collect::<ApiResult<_>>()?
        }
        Some(other) => return Err(wrong_type(NAME, "a string or an array of strings", other)),
    };
    if stops.len() > MOST_STOPS || stops.iter().any(|stop| stop.len() > MOST_STOP_BYTES) {
        let message = format!("Field 'stop': at most {MOST_STOPS} strings of at most {MOST_STOP_BYTES} bytes");
        return Err(ApiError::bad_field(NAME, message));
    }
    Ok(stops.into_iter().filter(|stop| !stop.is_empty()).collect())
}

/// `response_format`, `json_schema` or `grammar`.
fn grammar(fields: Fields<'_>) -> ApiResult<Option<(&'static str, Grammar)>> {
    let given = [
        ("response_format", response_format(fields)?),
        ("json_schema", fields.get("json_schema").map(schema)),
        ("grammar", fields.text("grammar")?.and_then(text)),
    ];
    let mut given = given.into_iter().filter_map(|(field, grammar)| Some((field, grammar?)));
    let first = given.next();
    if given.next().is_some() {
        let message = "only one of \"response_format\", \"json_schema\" and \"grammar\" can be given";
        return Err(ApiError::bad_field("grammar", message));
    }
    Ok(first)
}

fn text(grammar: &str) -> Option<Grammar> {
    (!grammar.is_empty()).then(|| Grammar::Text(grammar.to_owned()))
}

/// The grammar of JSON that `schema` describes.
pub fn schema(schema: &Value) -> Grammar {
    Grammar::JsonSchema(schema.to_string())
}

fn response_format(fields: Fields<'_>) -> ApiResult<Option<Grammar>> {
    const NAME: &str = "response_format";
    let Some(format) = fields.object(NAME)? else { return Ok(None) };
    match format.text("type")? {
        None | Some("text") => Ok(None),
        Some("json_object") => {
            Ok(Some(format.get("schema").map_or_else(|| schema(&json!({ "type": "object" })), schema)))
        }
        Some("json_schema") => {
            let inner = format.object("json_schema")?.unwrap_or(format);
            let found =
                inner.get("schema").ok_or_else(|| ApiError::bad_field(NAME, "json_schema.schema is missing"))?;
            Ok(Some(schema(found)))
        }
        Some(other) => {
            let message = format!(
                "response_format type must be one of \"text\", \"json_object\" and \"json_schema\", not {other:?}"
            );
            Err(ApiError::bad_field(NAME, message))
        }
    }
}
