//! Reads a Hugging Face `tokenizer.json` and checks it.
//!
//! The `tokenizers` crate trusts its input: a merge of unknown texts panics, a pattern can run for hours, a
//! replacement can multiply the text. So the file is read here, and the crate gets only parts that passed.

use std::collections::HashMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokenizers::models::bpe::{Merges, Vocab as IdMap};

use crate::error::{Error, Result, shown};

use super::{
    bpe::check_merge,
    unigram::Charsmap,
    vocab::{Kind, Spelling, Vocab, parse_byte},
};

/// Limits far above any real file, so that time and memory stay in proportion to it.
const MAX_HOLES: usize = 1 << 20;
const MAX_ADDED_BYTES: usize = 1024;
const MAX_ADDED_BYTES_IN_ALL: usize = 1 << 20;
const MAX_STEPS: usize = 16;
const MAX_PATTERN_BYTES: usize = 4096;
const MAX_REPLACEMENT_BYTES: usize = 64;

/// Patterns whose matches a normalizer may replace: those of Hugging Face's converters, which take time in proportion.
const REPLACED_PATTERNS: [&str; 4] = [" {2,}", " +", r"\s+", r"\s{2,}"];

/// A checked `tokenizer.json`.
#[derive(Debug)]
pub(super) struct Json {
    /// Text of each token id; empty for a hole.
    pub texts: Vec<String>,
    pub kinds: Vec<Kind>,
    pub model: Model,
    pub added: Vec<Added>,
    pub normalizer: Option<Value>,
    /// Pre-tokenizers in order, sequences unpacked.
    pub steps: Vec<Value>,
    pub spelling: Spelling,
    /// Decoding takes away one space at the start.
    pub space_first: bool,
    /// Ids the post-processor puts before and after a text; `None` where it says nothing about them.
    pub around: Option<(Vec<u32>, Vec<u32>)>,
}

/// The part that cuts words into tokens: BPE, or SentencePiece's Unigram.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Its own vocabulary, without added tokens that it does not know.
    pub ids: IdMap,
    pub merges: Merges,
    /// Unigram instead of BPE: the score of each id.
    pub scores: Option<Vec<f64>>,
    pub unknown: Option<String>,
    pub fuse_unknown: bool,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
}

/// A token found in text before anything else.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Added {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub normalized: bool,
    #[serde(default)]
    pub special: bool,
}

#[derive(Deserialize)]
struct File<M> {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: M,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
struct Unigram {
    /// Texts and scores in the order of their ids.
    vocab: Vec<(String, f64)>,
    unk_id: Option<usize>,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// Just enough of the file to tell other models apart before their fields are misread.
#[derive(Deserialize)]
struct Probe {
    model: ProbeModel,
}

#[derive(Deserialize)]
struct ProbeModel {
    #[serde(rename = "type")]
    name: Option<String>,
}

impl Json {
    pub fn parse(json: &[u8]) -> Result<Self> {
        let probe: Probe = read(json)?;
        match probe.model.name.as_deref() {
            None | Some("BPE") => Self::check(read(json)?, Bpe::check),
            Some("Unigram") => Self::check(read(json)?, Unigram::check),
            Some(name) => Err(unsupported("model", name, "only BPE and Unigram models are")),
        }
    }

    fn check<M>(file: File<M>, check_model: impl FnOnce(M) -> Result<Model>) -> Result<Self> {
        let File { added_tokens: added, normalizer, pre_tokenizer, post_processor, decoder, model } = file;
        let model = check_model(model)?;
        let (texts, mut kinds) = number(&model.ids, &added)?;
        if let Some(text) = &model.unknown {
            let id =
                model.ids.get(text).ok_or_else(|| malformed("model.unk_token", "a token of the vocabulary", text))?;
            kinds[*id as usize] = Kind::Unknown;
        }
        if model.byte_fallback {
            for (kind, _) in kinds.iter_mut().zip(&texts).filter(|(_, text)| parse_byte(text).is_some()) {
                *kind = Kind::Byte;
            }
        }
        let normalizer = normalizer.filter(|value| !value.is_null());
        check_normalizers(normalizer.as_ref())?;
        let steps = flatten(pre_tokenizer.as_ref(), "pretokenizers")?;
        steps.iter().try_for_each(|step| check_step(step))?;
        let (spelling, space_first) = read_decoder(decoder.as_ref(), &steps)?;
        Ok(Self {
            around: read_template(post_processor.as_ref(), texts.len())?,
            texts,
            kinds,
            model,
            added,
            normalizer,
            steps: steps.into_iter().cloned().collect(),
            spelling,
            space_first,
        })
    }

    /// The id of a token by its text, added tokens included.
    pub fn id(&self, text: &str) -> Option<u32> {
        let added = self.added.iter().find(|token| token.content == text).map(|token| token.id);
        added.or_else(|| self.model.ids.get(text).copied())
    }

    pub fn into_vocab(self) -> Result<Vocab> {
        Vocab::new(self.texts, self.kinds, self.spelling)
    }
}

impl Bpe {
    fn check(self) -> Result<Model> {
        let affixes = [&self.continuing_subword_prefix, &self.end_of_word_suffix];
        if let Some(affix) = affixes.into_iter().flatten().find(|affix| !affix.is_empty()) {
            return Err(unsupported("model affix", affix, "sub-word prefixes and suffixes are not known here"));
        }
        let ids: IdMap = self.vocab.into_iter().collect();
        Ok(Model {
            merges: read_merges(self.merges, &ids)?,
            ids,
            scores: None,
            unknown: self.unk_token.filter(|text| !text.is_empty()),
            fuse_unknown: self.fuse_unk,
            byte_fallback: self.byte_fallback,
            ignore_merges: self.ignore_merges,
        })
    }
}

impl Unigram {
    fn check(self) -> Result<Model> {
        let text = |id: usize| self.vocab.get(id).map(|(text, _)| text.clone()).filter(|text| !text.is_empty());
        let unknown = self.unk_id.map(|id| {
            let expected = format!("a token of the {} of the vocabulary", self.vocab.len());
            text(id).ok_or_else(|| malformed("model.unk_id", &expected, &id.to_string()))
        });
        let unknown = unknown.transpose()?;
        let scores = self.vocab.iter().map(|(_, score)| *score).collect();
        let mut ids = IdMap::default();
        for (id, (text, _)) in self.vocab.into_iter().enumerate().filter(|(_, (text, _))| !text.is_empty()) {
            if let Some(other) = ids.insert(text.clone(), id as u32) {
                let expected = format!("a text that token {other} has not");
                return Err(malformed(&format!("model.vocab[{id}]"), &expected, &text));
            }
        }
        Ok(Model { ids, scores: Some(scores), unknown, byte_fallback: self.byte_fallback, ..Model::default() })
    }
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json)
        .map_err(|e| Error::malformed("tokenizer.json", "a Hugging Face tokenizer", shown(&e.to_string())))
}

/// Puts all tokens in the order of their ids.
fn number(ids: &IdMap, added: &[Added]) -> Result<(Vec<String>, Vec<Kind>)> {
    let highest = ids.values().copied().chain(added.iter().map(|token| token.id)).max();
    let len = highest.map_or(0, |id| id as usize + 1);
    if len > ids.len() + added.len() + MAX_HOLES {
        let expected = format!("ids without gaps for {} tokens", ids.len() + added.len());
        return Err(Error::malformed("tokenizer.json: vocabulary", expected, format!("id {}", len - 1)));
    }
    let (mut texts, mut kinds) = (vec![String::new(); len], vec![Kind::Unused; len]);
    let model = ids.iter().map(|(text, &id)| (text, id, Kind::Normal));
    let added_kind = |token: &Added| if token.special { Kind::Control } else { Kind::UserDefined };
    let more = added.iter().map(|token| (&token.content, token.id, added_kind(token)));
    for (text, id, kind) in model.chain(more) {
        let at = id as usize;
        if !texts[at].is_empty() && texts[at] != *text {
            return Err(malformed(&format!("token {id}"), &format!("one text, \"{}\"", shown(&texts[at])), text));
        }
        if kind != Kind::Normal && ids.get(text).is_some_and(|&other| other != id) {
            return Err(malformed(&format!("added_tokens id {id}"), "the id it has in the vocabulary", text));
        }
        texts[at].clone_from(text);
        kinds[at] = kind;
    }
    check_added(added)?;
    Ok((texts, kinds))
}

fn check_added(added: &[Added]) -> Result<()> {
    let mut ids = HashMap::new();
    let mut bytes = 0;
    for token in added {
        let thing = format!("added_tokens id {}", token.id);
        if token.content.is_empty() || token.content.len() > MAX_ADDED_BYTES {
            return Err(malformed(&thing, &format!("a text of 1 to {MAX_ADDED_BYTES} bytes"), &token.content));
        }
        if ids.insert(&token.content, token.id).is_some_and(|id| id != token.id) {
            return Err(malformed(&thing, "a text no other id has", &token.content));
        }
        bytes += token.content.len();
    }
    if bytes > MAX_ADDED_BYTES_IN_ALL {
        return Err(malformed("added_tokens", &format!("at most {MAX_ADDED_BYTES_IN_ALL} bytes"), &bytes.to_string()));
    }
    Ok(())
}

fn read_merges(entries: Vec<Merge>, ids: &IdMap) -> Result<Merges> {
    let mut merges = Vec::with_capacity(entries.len());
    let mut buffer = String::new();
    for (rank, entry) in entries.into_iter().enumerate() {
        let (left, right) = match entry {
            Merge::Pair(left, right) => (left, right),
            Merge::Line(line) if line.starts_with("#version") => continue,
            Merge::Line(line) => match line.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => (left.to_string(), right.to_string()),
                _ => return Err(malformed(&format!("model.merges[{rank}]"), "two texts with a space between", &line)),
            },
        };
        check_merge(&left, &right, ids, &mut buffer)
            .map_err(|expected| malformed(&format!("model.merges[{rank}]"), expected, &format!("{left} {right}")))?;
        merges.push((left, right));
    }
    Ok(merges)
}

/// The `type` of a part of the pipeline.
pub(super) fn type_of(part: &Value) -> &str {
    part["type"].as_str().unwrap_or("without a type")
}

/// Unpacks nested sequences.
pub(super) fn flatten<'v>(part: Option<&'v Value>, list: &str) -> Result<Vec<&'v Value>> {
    let mut steps = Vec::new();
    let mut open: Vec<_> = part.into_iter().filter(|part| !part.is_null()).collect();
    // Depth is limited by the JSON parser, the number of parts here.
    while let Some(part) = open.pop() {
        if type_of(part) == "Sequence" {
            let inner = part[list].as_array().ok_or_else(|| malformed("Sequence", list, "nothing"))?;
            open.extend(inner.iter().rev());
        } else {
            steps.push(part);
        }
        if open.len() + steps.len() > MAX_STEPS {
            return Err(malformed(list, &format!("at most {MAX_STEPS}"), "more"));
        }
    }
    Ok(steps)
}

fn check_normalizers(normalizer: Option<&Value>) -> Result<()> {
    for step in flatten(normalizer, "normalizers")? {
        let text = |key: &str| step[key].as_str().unwrap_or_default().len();
        match type_of(step) {
            "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "StripAccents" | "Strip" => {}
            "Prepend" if text("prepend") <= MAX_REPLACEMENT_BYTES => {}
            "Precompiled" => {
                Charsmap::read(&charsmap_bytes(step)?)?.check()?;
            }
            "Replace"
                if step["pattern"]["Regex"].as_str().is_some_and(|pattern| REPLACED_PATTERNS.contains(&pattern))
                    && text("content") <= MAX_REPLACEMENT_BYTES => {}
            "Replace" => {
                let pattern = step["pattern"]["String"].as_str().unwrap_or_default().len();
                if pattern == 0 || pattern > MAX_PATTERN_BYTES || text("content") > MAX_REPLACEMENT_BYTES {
                    return Err(unsupported("normalizer", "Replace", "only short plain texts can be replaced"));
                }
            }
            other => return Err(unsupported("normalizer", other, "it is not known here")),
        }
    }
    Ok(())
}

/// The map of a `Precompiled` normalizer.
pub(super) fn charsmap_bytes(step: &Value) -> Result<Vec<u8>> {
    let text = step["precompiled_charsmap"].as_str();
    let text = text.ok_or_else(|| malformed("normalizer Precompiled", "precompiled_charsmap", "nothing"))?;
    BASE64_STANDARD.decode(text).map_err(|e| malformed("normalizer Precompiled", "Base64", &e.to_string()))
}

fn check_step(step: &Value) -> Result<()> {
    match type_of(step) {
        "ByteLevel" | "Digits" | "Punctuation" | "Metaspace" | "Whitespace" | "WhitespaceSplit" => Ok(()),
        "Split" => {
            let pattern = step["pattern"]["Regex"].as_str().or(step["pattern"]["String"].as_str()).unwrap_or_default();
            if pattern.is_empty() || pattern.len() > MAX_PATTERN_BYTES {
                let expected = format!("a pattern of 1 to {MAX_PATTERN_BYTES} bytes");
                return Err(malformed("pre_tokenizer Split", &expected, pattern));
            }
            Ok(())
        }
        other => Err(unsupported("pre_tokenizer", other, "it is not known here")),
    }
}

/// How tokens are spelled, and whether decoding takes away a space at the start.
fn read_decoder(decoder: Option<&Value>, steps: &[&Value]) -> Result<(Spelling, bool)> {
    let parts = flatten(decoder, "decoders")?;
    let has = |name: &str| parts.iter().find(|part| type_of(part) == name);
    if has("ByteLevel").is_some() || (parts.is_empty() && steps.iter().any(|step| type_of(step) == "ByteLevel")) {
        return Ok((Spelling::Bytes, false));
    }
    if let Some(metaspace) = has("Metaspace") {
        let never = metaspace["prepend_scheme"] == "never" || metaspace["add_prefix_space"] == false;
        return Ok((Spelling::Marks, !never));
    }
    match has("Replace") {
        Some(replace) if replace["pattern"]["String"] == "▁" && replace["content"] == " " => {
            Ok((Spelling::Marks, has("Strip").is_some_and(|strip| strip["start"] == 1 && strip["content"] == " ")))
        }
        _ => Err(unsupported("decoder", parts.first().map_or("null", |part| type_of(part)), "it is not known here")),
    }
}

/// The ids a post-processor puts around a single text; `None` where none of its parts puts any.
fn read_template(processor: Option<&Value>, tokens: usize) -> Result<Option<(Vec<u32>, Vec<u32>)>> {
    let id = |id: &Value, name: &str| {
        let id = id.as_u64().filter(|&id| id < tokens as u64).map(|id| id as u32);
        id.ok_or_else(|| malformed("post_processor", "ids of the vocabulary", name))
    };
    let parts = flatten(processor, "processors")?;
    if let Some(pair) = parts.iter().find(|part| matches!(type_of(part), "RobertaProcessing" | "BertProcessing")) {
        // Each is a text and its id.
        return Ok(Some((vec![id(&pair["cls"][1], "cls")?], vec![id(&pair["sep"][1], "sep")?])));
    }
    let Some(template) = parts.iter().find(|part| type_of(part) == "TemplateProcessing") else { return Ok(None) };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut inside = false;
    for item in template["single"].as_array().into_iter().flatten() {
        if item.get("Sequence").is_some() {
            inside = true;
        }
        let Some(name) = item["SpecialToken"]["id"].as_str() else { continue };
        for one in template["special_tokens"][name]["ids"].as_array().into_iter().flatten() {
            if inside { &mut after } else { &mut before }.push(id(one, name)?);
        }
    }
    Ok(Some((before, after)))
}

fn malformed(thing: &str, expected: &str, found: &str) -> Error {
    Error::malformed(format!("tokenizer.json: {thing}"), expected, format!("\"{}\"", shown(found)))
}

fn unsupported(thing: &str, name: &str, reason: &str) -> Error {
    Error::unsupported(format!("tokenizer.json: {thing} \"{}\"", shown(name)), reason)
}
