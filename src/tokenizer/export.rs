//! Turns a `tokenizer.json` into the metadata of a GGUF file.
//!
//! The metadata can say less than the JSON. Where reading it back would not give exactly the same ids, the whole
//! JSON goes into the file as well (`tokenizer.huggingface.json`), which is then read first.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Part;

use crate::{
    error::{Error, Result},
    gguf::{Array, Value},
};

use super::{
    alphabet::ALPHABET,
    facts::{Facts, JsonOptions},
    json::{Json, charsmap_bytes, flatten, type_of},
    pre::{FALCON_PUNCTUATION, GPT2, ONE_NUMBER, TABLE, THREE_DIGITS},
    templates::Templates,
    vocab::{Kind, Spelling, is_end_text},
};

/// Score of ids that no text has, as in llama.cpp's files.
const UNUSED_SCORE: f32 = -10_000.0;

/// Vocabularies with longer words are not checked for equal merging (time goes with the square of the length).
const MAX_CHECKED_BYTES: usize = 256;

/// The entries for `chat_template` of a `tokenizer_config.json`.
pub fn templates_to_gguf(chat_template: &Part) -> Vec<(String, Value)> {
    Templates::of_config(chat_template).into_pairs()
}

/// The `tokenizer.*` entries for a GGUF file, from `tokenizer.json` and the files that may stand beside it.
///
/// `vocab_size` is the number of rows of the model's embedding; ids without a token become unused `[PADn]` tokens.
/// If the metadata alone cannot express the tokenizer, `tokenizer.huggingface.json` is among the entries.
pub fn to_gguf(json: &[u8], options: &JsonOptions<'_>, vocab_size: usize) -> Result<Vec<(String, Value)>> {
    let parsed = Json::parse(json)?;
    let facts = Facts::read(&parsed, options)?;
    if parsed.texts.len() > vocab_size {
        let expected = format!("ids below {vocab_size}, the size of the model's vocabulary");
        return Err(Error::malformed("tokenizer.json: vocabulary", expected, parsed.texts.len() - 1));
    }
    let mut entries = Vec::new();
    let mut put = |key: &str, value| entries.push((format!("tokenizer.{key}"), value));
    let exact = match (&parsed.model.scores, parsed.spelling) {
        (Some(scores), _) => {
            unigram(&parsed, scores, vocab_size, &mut put)?;
            false
        }
        (None, Spelling::Bytes) => {
            let pre = find_pre(&parsed)?;
            put("ggml.model", Value::String("gpt2".into()));
            if let Some(pre) = pre {
                put("ggml.pre", Value::String(pre.into()));
            }
            put("ggml.merges", Value::Array(Array::String(merge_lines(&parsed))));
            pre.is_some()
        }
        (None, Spelling::Marks) => {
            let space_first = sentence_piece(&parsed)?;
            put("ggml.model", Value::String("llama".into()));
            put("ggml.pre", Value::String("default".into()));
            put("ggml.scores", Value::Array(Array::F32(scores(&parsed, vocab_size))));
            put("ggml.add_space_prefix", Value::Bool(space_first.unwrap_or(parsed.space_first)));
            space_first.is_some()
        }
    };
    let exact = exact && is_sayable(&parsed, &facts)?;
    let (texts, kinds) = padded(&parsed, vocab_size);
    put("ggml.tokens", Value::Array(Array::String(texts)));
    put("ggml.token_type", Value::Array(Array::I32(kinds)));
    let unknown = parsed.model.unknown.as_ref().and_then(|text| parsed.id(text));
    // Further tokens that end an answer, unless their text already says so.
    let is_end = |id: u32| is_end_text(&parsed.texts[id as usize]) && parsed.kinds[id as usize] != Kind::Normal;
    let said = |id: &&u32| Some(**id) == facts.eos || is_end(**id);
    let mut more = facts.ends.iter().filter(|id| !said(id)).copied();
    let (eot, eom) = (more.next(), more.next());
    if more.next().is_some() {
        let all = facts.ends.iter().map(|&id| id as i32).collect();
        put("end_token_ids", Value::Array(Array::I32(all)));
    }
    let ids = [
        ("bos", facts.bos),
        ("eos", facts.eos),
        ("unknown", unknown),
        ("padding", facts.pad),
        ("eot", eot),
        ("eom", eom),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            put(&format!("ggml.{name}_token_id"), Value::U32(id));
        }
    }
    put("ggml.add_bos_token", Value::Bool(facts.add_bos));
    put("ggml.add_eos_token", Value::Bool(facts.add_eos));
    entries.extend(facts.templates.into_pairs());
    if !exact {
        let text = std::str::from_utf8(json).map_err(|e| Error::malformed("tokenizer.json", "UTF-8", e))?;
        entries.push(("tokenizer.huggingface.json".to_owned(), Value::String(text.to_string())));
    }
    Ok(entries)
}

/// The keys of a Unigram model. Programs that read these, and not the JSON, replace characters and trim spaces by
/// SentencePiece's rules instead of the file's.
fn unigram(json: &Json, scores: &[f64], len: usize, put: &mut impl FnMut(&str, Value)) -> Result<()> {
    let steps = flatten(json.normalizer.as_ref(), "normalizers")?;
    let mut padded: Vec<f32> = scores.iter().map(|score| *score as f32).collect();
    padded.resize(len, UNUSED_SCORE);
    put("ggml.model", Value::String("t5".into()));
    put("ggml.pre", Value::String("default".into()));
    put("ggml.scores", Value::Array(Array::F32(padded)));
    put("ggml.add_space_prefix", Value::Bool(json.space_first));
    let trims_spaces = steps.iter().any(|step| type_of(step) == "Replace" && step["pattern"]["Regex"].is_string());
    put("ggml.remove_extra_whitespaces", Value::Bool(trims_spaces));
    if let Some(step) = steps.into_iter().find(|step| type_of(step) == "Precompiled") {
        put("ggml.precompiled_charsmap", Value::Array(Array::U8(charsmap_bytes(step)?)));
    }
    Ok(())
}

/// Whether metadata can say what is around the words: readers of it take tokens for markup by their texts, find added tokens
/// wherever they stand, know BOS and EOS only, and normalize nothing.
fn is_sayable(json: &Json, facts: &Facts) -> Result<bool> {
    let is_marked = |(text, kind): (&String, &Kind)| *kind != Kind::Control && is_end_text(text);
    let single = |side: &[u32], token: Option<u32>| side.is_empty() || (side.len() == 1 && Some(side[0]) == token);
    let around = json.around.as_ref();
    Ok(!json.texts.iter().zip(&json.kinds).any(is_marked)
        && !json.added.iter().any(|token| token.lstrip || token.rstrip || token.single_word)
        && around.is_none_or(|(before, after)| single(before, facts.bos) && single(after, facts.eos))
        && (json.spelling == Spelling::Marks || flatten(json.normalizer.as_ref(), "normalizers")?.is_empty()))
}

/// Texts and types of all ids, holes filled.
fn padded(json: &Json, len: usize) -> (Vec<String>, Vec<i32>) {
    let (mut texts, mut kinds) = (json.texts.clone(), json.kinds.clone());
    texts.resize(len, String::new());
    kinds.resize(len, Kind::Unused);
    for (id, text) in texts.iter_mut().enumerate().filter(|(_, text)| text.is_empty()) {
        *text = format!("[PAD{id}]");
        while json.id(text).is_some() {
            text.push('_');
        }
    }
    (texts, kinds.into_iter().map(|kind| kind as i32).collect())
}

/// "left right" lines. Of a pair listed twice the crate takes the last rank and GGUF readers the first, so only
/// the last is kept.
fn merge_lines(json: &Json) -> Vec<String> {
    let last: HashMap<_, _> = json.model.merges.iter().enumerate().map(|(rank, pair)| (pair, rank)).collect();
    let kept = json.model.merges.iter().enumerate().filter(|(rank, pair)| last[pair] == *rank);
    kept.map(|(_, (left, right))| format!("{left} {right}")).collect()
}

/// The name of the pre-tokenizer that does exactly what this byte-level pipeline does.
fn find_pre(json: &Json) -> Result<Option<&'static str>> {
    let normalizers = flatten(json.normalizer.as_ref(), "normalizers")?;
    let complete = ALPHABET.iter().all(|c| json.model.ids.contains_key(c.encode_utf8(&mut [0; 4])));
    let plain = normalizers.iter().all(|part| type_of(part) == "NFC")
        && (complete || (json.model.unknown.is_none() && !json.model.byte_fallback));
    let Some(patterns) = patterns(&json.steps).filter(|_| plain) else { return Ok(None) };
    // A last alternative `\s+` makes no difference where what no pattern matches is a piece anyway.
    let core = |pattern: &str| pattern.strip_suffix(r"|\s+").unwrap_or(pattern).to_string();
    let found = TABLE.iter().find(|pre| {
        pre.ignore_merges == json.model.ignore_merges
            && pre.patterns.len() == patterns.len()
            && pre.patterns.iter().zip(&patterns).all(|(a, b)| core(a) == core(b))
    });
    Ok(found.map(|pre| pre.names[0]))
}

/// The pre-tokenizers as patterns, all isolating; `None` when one of them does something else.
fn patterns(steps: &[Part]) -> Option<Vec<&str>> {
    let (bytes, cuts) = steps.split_last()?;
    if is_falcon(steps) {
        return Some(vec![FALCON_PUNCTUATION, GPT2, THREE_DIGITS]);
    }
    if type_of(bytes) != "ByteLevel" || bytes["add_prefix_space"] == true {
        return None;
    }
    let mut patterns = Vec::new();
    for step in cuts {
        patterns.push(match type_of(step) {
            "Split" if step["behavior"] == "Isolated" && step["invert"] == false => {
                step["pattern"]["Regex"].as_str()?
            }
            "Digits" if step["individual_digits"] == true => ONE_NUMBER,
            _ => return None,
        });
    }
    // Older files do not say, and mean yes.
    if bytes["use_regex"] != false {
        patterns.push(GPT2);
    }
    Some(patterns)
}

/// Falcon's own pipeline. Its step that isolates numbers is missing in GGUF readers; it changes nothing for a
/// vocabulary trained with it, which has no token of a space and digits.
fn is_falcon(steps: &[Part]) -> bool {
    let [punctuation, bytes, digits, split] = steps else { return false };
    let types = ["Punctuation", "ByteLevel", "Digits", "Split"];
    steps.iter().map(type_of).eq(types)
        && punctuation["behavior"] == "Contiguous"
        && bytes["add_prefix_space"] != true
        && bytes["use_regex"] != false
        && digits["individual_digits"] != true
        && split["pattern"]["Regex"] == THREE_DIGITS
        && split["behavior"] == "Isolated"
        && split["invert"] == false
}

/// Whether merging by score does exactly what this pipeline does, and if so whether a space comes first.
fn sentence_piece(json: &Json) -> Result<Option<bool>> {
    let parts = flatten(json.normalizer.as_ref(), "normalizers")?;
    let is_replace =
        |part: &Part| type_of(part) == "Replace" && part["pattern"]["String"] == " " && part["content"] == "▁";
    let is_prepend = |part: &Part| type_of(part) == "Prepend" && part["prepend"] == "▁";
    let space_first = match (parts.as_slice(), json.steps.as_slice()) {
        ([prepend, replace], []) if is_prepend(prepend) && is_replace(replace) => true,
        ([replace], []) if is_replace(replace) => false,
        ([], [step]) if type_of(step) == "Metaspace" && step["prepend_scheme"] == "never" && step["split"] == false => {
            false
        }
        _ => return Ok(None),
    };
    let bytes = (0..=255).all(|byte: u8| json.model.ids.contains_key(&format!("<0x{byte:02X}>")));
    let same = bytes
        && json.model.byte_fallback
        && !json.model.ignore_merges
        && space_first == json.space_first
        && merges_follow_scores(json);
    Ok(same.then_some(space_first))
}

/// True if the merge list is what scores would say: it has every way to make each word from two parts, and the
/// ways to make one word stand together, so that the order of words is the order of merges.
fn merges_follow_scores(json: &Json) -> bool {
    let kind = |text: &str| json.model.ids.get(text).map(|&id| json.kinds[id as usize]);
    let is_word = |text: &str| kind(text) == Some(Kind::Normal);
    let pairs: HashSet<_> = json.model.merges.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
    let mut seen = HashSet::new();
    let mut last = String::new();
    for (left, right) in &json.model.merges {
        let word = [left.as_str(), right.as_str()].concat();
        if !(is_word(left) && is_word(right) && is_word(&word)) || (word != last && !seen.insert(word.clone())) {
            return false;
        }
        last = word;
    }
    // A character stands for itself in merging by score even if it is no token.
    let is_part = |text: &str| is_word(text) || text.chars().nth(1).is_none();
    json.model.ids.keys().filter(|text| is_word(text)).all(|text| {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        text.len() <= MAX_CHECKED_BYTES
            && cuts.into_iter().all(|(left, right)| !is_part(left) || !is_part(right) || pairs.contains(&(left, right)))
    })
}

/// Scores in the order of the merges: the earlier a word can be made, the higher. Added tokens and holes are below
/// all words, as in llama.cpp's files.
fn scores(json: &Json, len: usize) -> Vec<f32> {
    let mut scores = vec![UNUSED_SCORE; len];
    for (score, kind) in scores.iter_mut().zip(&json.kinds) {
        match kind {
            Kind::Unused => {}
            Kind::UserDefined => *score = -1000.0,
            _ => *score = 0.0,
        }
    }
    for (rank, (left, right)) in json.model.merges.iter().enumerate().rev() {
        if let Some(&id) = json.model.ids.get(&[left.as_str(), right.as_str()].concat()) {
            scores[id as usize] = -(rank as f32);
        }
    }
    scores
}
