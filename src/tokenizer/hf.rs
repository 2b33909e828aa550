//! The pipeline of a `tokenizer.json`, run by the `tokenizers` crate.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use tokenizers::{
    AddedToken, AddedVocabulary, Model, ModelWrapper, NormalizerWrapper, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper,
    models::{bpe::BPE, unigram::Unigram, wordlevel::WordLevel},
    pattern::{Invert, Pattern},
    utils::SysRegex,
};

use crate::error::{Error, Result, shown};

use super::{json::Json, pre::check_space_runs};

type Any<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Normalizer, pre-tokenizers and model, each built from a checked part of the file.
#[derive(Debug)]
pub(super) struct Hf {
    model: ModelWrapper,
    normalizer: Option<NormalizerWrapper>,
    steps: Vec<PreTokenizerWrapper>,
    /// Finds all added tokens.
    added: AddedVocabulary,
    /// Finds only those that are not special.
    added_plain: AddedVocabulary,
    /// Texts of added tokens that depend on what stands before them.
    looking_back: Vec<String>,
}

/// Bytes that may be looked at before added tokens in one text: the crate looks at all of the text before each match.
const MAX_LOOKED_AT_BYTES: usize = 1 << 28;

/// Longer tokens of a Unigram model are never made from text: the crate copies each word that a text may go on with, and frees
/// them by recursion. Real ones stay below 100.
const MAX_WORD_BYTES: usize = 256;

impl Hf {
    pub fn new(json: &Json) -> Result<Self> {
        let broken = |part: &str, e: &dyn std::fmt::Display| {
            Error::malformed(format!("tokenizer.json: {part}"), "a valid setting", shown(&e.to_string()))
        };
        let model = model(json).map_err(|e| broken("model", &e))?;
        let normalizer = json.normalizer.clone().map(serde_json::from_value).transpose();
        let normalizer: Option<NormalizerWrapper> = normalizer.map_err(|e| broken("normalizer", &e))?;
        let steps = json.steps.iter().cloned().map(serde_json::from_value).collect::<std::result::Result<_, _>>();
        let steps = steps.map_err(|e| broken("pre_tokenizer", &e))?;
        let mut added = AddedVocabulary::new();
        let tokens = json.added.iter().map(|token| {
            AddedToken::from(token.content.clone(), token.special)
                .normalized(token.normalized)
                .single_word(token.single_word)
                .lstrip(token.lstrip)
                .rstrip(token.rstrip)
        });
        // Of the model, only the ids matter here, and it may lack markup.
        let ids = WordLevel::builder().vocab(json.model.ids.clone()).build().map_err(|e| broken("model", &e))?;
        added.add_tokens(tokens, &ids, normalizer.as_ref()).map_err(|e| broken("added_tokens", &e))?;
        // The crate numbers tokens that the model does not know by itself, whatever the file says.
        for token in &json.added {
            let id = added.token_to_id(&token.content, &ids);
            if id != Some(token.id) {
                let expected = format!("id {} in the order of the file", id.unwrap_or_default());
                let thing = format!("tokenizer.json: added token \"{}\"", shown(&token.content));
                return Err(Error::malformed(thing, expected, token.id));
            }
        }
        let mut added_plain = added.clone();
        added_plain.set_encode_special_tokens(true);
        let looking = json.added.iter().filter(|token| token.lstrip || token.single_word);
        let looking_back = looking.map(|token| token.content.clone()).collect();
        Ok(Self { model, normalizer, steps, added, added_plain, looking_back })
    }

    pub fn encode(&self, text: &str, parse_special: bool, out: &mut Vec<u32>) -> Result<()> {
        check_space_runs(text)?;
        let looks: usize = self.looking_back.iter().map(|token| text.matches(token.as_str()).count()).sum();
        if looks.saturating_mul(text.len()) > MAX_LOOKED_AT_BYTES {
            let reason = "there are too many added tokens with lstrip or single_word in so long a text";
            return Err(Error::unsupported("text to tokenize", reason));
        }
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::malformed("text to tokenize", "text the tokenizer.json can cut", shown(&e.to_string()))
        };
        let added = if parse_special { &self.added } else { &self.added_plain };
        let mut pieces = added.extract_and_normalize(self.normalizer.as_ref(), text);
        let until = Instant::now() + Duration::from_secs(5) + Duration::from_micros(10) * text.len() as u32;
        for step in &self.steps {
            run_step(step, &mut pieces, until).map_err(failed)?;
        }
        pieces.tokenize(|piece| self.model.tokenize(piece.get())).map_err(failed)?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None).map_err(failed)?;
        out.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

fn model(json: &Json) -> Any<ModelWrapper> {
    let model = &json.model;
    let Some(scores) = &model.scores else {
        let mut bpe = BPE::builder()
            .vocab_and_merges(model.ids.clone(), model.merges.clone())
            .fuse_unk(model.fuse_unknown)
            .byte_fallback(model.byte_fallback)
            .ignore_merges(model.ignore_merges);
        if let Some(unknown) = &model.unknown {
            bpe = bpe.unk_token(unknown.clone());
        }
        return Ok(bpe.build()?.into());
    };
    // Markup is found before the model sees a text, and must not come out of plain text: it has no words here, only ids.
    let markup: HashSet<u32> = json.added.iter().filter(|token| token.special).map(|token| token.id).collect();
    let words = json.texts.iter().zip(scores).zip(0..).map(|((text, score), id)| {
        let is_word = text.len() <= MAX_WORD_BYTES && !markup.contains(&id);
        (if is_word { text.clone() } else { String::new() }, *score)
    });
    let unknown = model.unknown.as_ref().and_then(|text| model.ids.get(text)).map(|&id| id as usize);
    Ok(Unigram::from(words.collect(), unknown, model.byte_fallback)?.into())
}

/// Runs one pre-tokenizer; patterns from the file run against the clock.
fn run_step(step: &PreTokenizerWrapper, pieces: &mut PreTokenizedString, until: Instant) -> Any<()> {
    let PreTokenizerWrapper::Split(split) = step else { return step.pre_tokenize(pieces) };
    let timed = Timed { regex: &split.regex, until };
    if split.invert {
        pieces.split(|_, piece| piece.split(Invert(timed), split.behavior))
    } else {
        pieces.split(|_, piece| piece.split(timed, split.behavior))
    }
}

/// A pattern that gives up at a point in time. The regex engine bounds each single match (a million steps back);
/// this bounds their number.
#[derive(Clone, Copy)]
struct Timed<'r> {
    regex: &'r SysRegex,
    until: Instant,
}

impl Pattern for Timed<'_> {
    fn find_matches(&self, text: &str) -> Any<Vec<((usize, usize), bool)>> {
        let mut parts = Vec::new();
        let mut done = 0;
        for (start, end) in self.regex.find_iter(text) {
            if Instant::now() > self.until {
                return Err("a pattern of the pre-tokenizer takes too long".into());
            }
            if done < start {
                parts.push(((done, start), false));
            }
            parts.push(((start, end), true));
            done = end;
        }
        if done < text.len() || text.is_empty() {
            parts.push(((done, text.len()), false));
        }
        Ok(parts)
    }
}
