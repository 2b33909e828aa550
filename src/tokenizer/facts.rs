//! The files that stand beside a `tokenizer.json`: which tokens begin and end a text, and the chat template.

use serde_json::Value;

use crate::error::{Error, Result, shown};

use super::json::Json;

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
    pub chat_template: Option<String>,
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
        let (before, after) = &json.around;
        let single = |side: &[u32]| if let [id] = side { Some(*id) } else { None };
        let bos = named("bos_token").or(single(before)).or(bos_of_generation);
        let eos = named("eos_token").or(single(after)).or(generation_ends.first().copied());
        if before.len() > 1 || after.len() > 1 {
            notes.push("tokenizer.json puts several tokens around a text; only BOS and EOS are added".to_string());
        }
        let flag = |key: &str| config[key].as_bool();
        let add_bos = flag("add_bos_token").unwrap_or(!before.is_empty());
        let add_eos = flag("add_eos_token").unwrap_or(!after.is_empty());
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
        Ok(Self { bos, eos, pad, add_bos, add_eos, ends, chat_template: template(&config["chat_template"]), notes })
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

/// The template, or of several the one called "default".
fn template(value: &Value) -> Option<String> {
    let named =
        |list: &Vec<Value>| list.iter().find(|entry| entry["name"] == "default").map(|entry| entry["template"].clone());
    let value = value.as_array().and_then(named).unwrap_or_else(|| value.clone());
    value.as_str().map(str::to_string)
}
