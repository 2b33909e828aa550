//! The files that stand beside a `tokenizer.json`: which tokens begin and end a text, and the chat template.

use serde_json::Value;

use crate::error::{Error, Result, shown};

use super::{json::Json, templates::Templates};

/// Files beside a `tokenizer.json`, as bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonOptions<'a> {
    /// `tokenizer_config.json`: BOS and EOS tokens, whether they are added, chat template.
    pub config: Option<&'a [u8]>,
    /// `generation_config.json`: tokens that end an answer.
    pub generation: Option<&'a [u8]>,
    /// `config.json`: the same, where there is no `generation_config.json`.
    pub model: Option<&'a [u8]>,
}

/// Facts in those files, with token ids of the vocabulary.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    /// Every token that ends an answer, EOS first.
    pub ends: Vec<u32>,
    pub templates: Templates,
    pub notes: Vec<String>,
}

impl Facts {
    pub fn read(json: &Json, options: &JsonOptions<'_>) -> Result<Self> {
        let config = parse("tokenizer_config.json", options.config)?;
        let (file, bytes) = match options.generation {
            Some(bytes) => ("generation_config.json", Some(bytes)),
            None => ("config.json", options.model),
        };
        let generation = Ends { file, values: parse(file, bytes)? };
        let mut notes = Vec::new();
        // A token's text, or an object with it; a text the vocabulary lacks means no such token.
        let named = |key: &str| {
            let value = &config[key];
            value.as_str().or(value["content"].as_str()).and_then(|text| json.id(text))
        };
        let bos_of_generation = generation.ids("bos_token_id", json, &mut notes)?.first().copied();
        let generation_ends = generation.ids("eos_token_id", json, &mut notes)?;
        let single = |side: Option<&Vec<u32>>| match side.map(Vec::as_slice) {
            Some(&[id]) => Some(id),
            _ => None,
        };
        let (before, after) = (json.around.as_ref().map(|(ids, _)| ids), json.around.as_ref().map(|(_, ids)| ids));
        let bos = named("bos_token").or(single(before)).or(bos_of_generation);
        let eos = named("eos_token").or(single(after)).or(generation_ends.first().copied());
        // The post-processor is what transformers runs; the flags hold where it says nothing, as in gguf-py.
        let adds = |side: Option<&Vec<u32>>, token: Option<u32>, flag: &str| match side {
            Some(_) => token.is_some() && single(side) == token,
            None => config[flag].as_bool().unwrap_or(false),
        };
        let (add_bos, add_eos) = (adds(before, bos, "add_bos_token"), adds(after, eos, "add_eos_token"));
        for (name, add, token) in [("bos", add_bos, bos), ("eos", add_eos, eos)] {
            if add && token.is_none() {
                let needed_for =
                    format!("add_{name}_token; tokenizer_config.json should name a token of the vocabulary");
                return Err(Error::missing(format!("{name}_token"), needed_for));
            }
        }
        let mut ends: Vec<_> = eos.into_iter().collect();
        ends.extend(generation_ends.into_iter().filter(|&id| Some(id) != eos));
        let pad = named("pad_token").or(generation.ids("pad_token_id", json, &mut notes)?.first().copied());
        let templates = Templates::of_config(&config["chat_template"]);
        Ok(Self { bos, eos, pad, add_bos, add_eos, ends, templates, notes })
    }
}

fn parse(name: &str, bytes: Option<&[u8]>) -> Result<Value> {
    let Some(bytes) = bytes else { return Ok(Value::Null) };
    let value: Value =
        serde_json::from_slice(bytes).map_err(|e| Error::malformed(name, "JSON", shown(&e.to_string())))?;
    if value.is_object() { Ok(value) } else { Err(Error::malformed(name, "a JSON object", "something else")) }
}

/// The file that says which tokens begin and end an answer.
struct Ends {
    file: &'static str,
    values: Value,
}

impl Ends {
    /// One id or a list of ids. Ids that are no token are left out with a note: configurations carry defaults of other
    /// models, and -1 for "none".
    fn ids(&self, key: &str, json: &Json, notes: &mut Vec<String>) -> Result<Vec<u32>> {
        let list = match &self.values[key] {
            Value::Null => return Ok(Vec::new()),
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut ids = Vec::new();
        for value in list {
            let Some(id) = value.as_i64() else {
                let thing = format!("{}: {key}", self.file);
                return Err(Error::malformed(thing, "token ids", shown(&value.to_string())));
            };
            match u32::try_from(id).ok().filter(|&id| json.texts.get(id as usize).is_some_and(|text| !text.is_empty()))
            {
                Some(id) => ids.push(id),
                None => notes.push(format!("{key} {id} of {} is no token and is left out", self.file)),
            }
        }
        Ok(ids)
    }
}
