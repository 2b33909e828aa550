//! `tokenizer.model`, SentencePiece's own file (a protobuf message), -> metadata pairs, for directories without a
//! `tokenizer.json`. Fields and their numbers are those of `sentencepiece_model.proto`.

use std::collections::HashMap;

use prost::Message;
use serde_json::Value as Json;

use crate::{
    error::{Error, Result, shown},
    gguf::{Array, Value},
};

const FILE: &str = "tokenizer.model";

/// `TrainerSpec.ModelType`: the scores of a text's tokens add up to the most (the default), or pairs are merged by them.
const UNIGRAM: i32 = 1;
const BPE: i32 = 2;
/// `SentencePiece.Type`; the numbers are those of `tokenizer.ggml.token_type` too.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Scores of tokens that text is never merged to, as llama.cpp's converter writes them.
const ADDED_SCORE: f32 = -1000.0;
const UNUSED_SCORE: f32 = -10_000.0;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(int32, optional, tag = "40")]
    unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    eos_id: Option<i32>,
    #[prost(int32, optional, tag = "43")]
    pad_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// Keys and values of a GGUF file.
type Pairs = Vec<(String, Value)>;

/// The files beside `tokenizer.model`; null where there is none.
pub(super) struct Beside {
    pub config: Json,
    /// `added_tokens.json`: ids by text.
    pub added: Json,
}

/// The `tokenizer.ggml.*` pairs for a model with `vocab` rows, and warnings.
///
/// # Errors
/// If the bytes are no such file, or hold another kind of model.
pub(super) fn read(bytes: &[u8], beside: &Beside, vocab: usize) -> Result<(Pairs, Vec<String>)> {
    let model = ModelProto::decode(bytes)
        .map_err(|e| Error::malformed(FILE, "a SentencePiece model", shown(&e.to_string())))?;
    // A file without the training's settings has nothing but pieces.
    let trainer = model.trainer_spec.clone();
    let is_unigram = match trainer.as_ref().map(|spec| spec.model_type.unwrap_or(UNIGRAM)) {
        None | Some(BPE) => false,
        Some(UNIGRAM) => true,
        Some(_) => {
            return Err(Error::unsupported(
                FILE,
                "it is a model of words or characters, and only BPE and Unigram are known",
            ));
        }
    };
    let suffix = trainer.as_ref().and_then(|spec| spec.treat_whitespace_as_suffix) == Some(true);
    let normalizer = model.normalizer_spec.clone().unwrap_or_default();
    if is_unigram && (suffix || normalizer.escape_whitespaces == Some(false)) {
        return Err(Error::unsupported(FILE, "its words do not begin with the mark of a space"));
    }
    let (mut texts, mut scores, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    for Piece { piece, score, kind } in &model.pieces {
        texts.push(piece.clone().unwrap_or_default());
        scores.push(score.unwrap_or(0.0));
        kinds.push(kind.unwrap_or(NORMAL));
    }
    if let Some(at) = kinds.iter().position(|kind| !(NORMAL..=BYTE).contains(kind)) {
        return Err(Error::malformed(format!("{FILE}: type of piece {at}"), "1 to 6", kinds[at]));
    }
    if texts.is_empty() || texts.len() > vocab {
        let expected = format!("1 to {vocab} pieces, as the model has rows");
        return Err(Error::malformed(FILE, expected, texts.len()));
    }
    for id in texts.len()..vocab {
        texts.push(format!("[PAD{id}]"));
        scores.push(UNUSED_SCORE);
        kinds.push(UNUSED);
    }
    for (id, text, special) in added(beside)? {
        if id >= vocab {
            let expected = format!("ids below {vocab}, the size of the model's vocabulary");
            return Err(Error::malformed(format!("added token \"{}\"", shown(&text)), expected, id));
        }
        // What the model has already keeps its score.
        if texts[id] != text {
            scores[id] = ADDED_SCORE;
            texts[id] = text;
        }
        kinds[id] = if special { CONTROL } else { USER_DEFINED };
    }

    let ids: HashMap<&str, u32> = texts.iter().enumerate().map(|(id, text)| (text.as_str(), id as u32)).collect();
    let named = |key: &str| {
        let value = &beside.config[key];
        value.as_str().or(value["content"].as_str()).and_then(|text| ids.get(text).copied())
    };
    let stated = |id: Option<i32>, usual: u32| match id {
        Some(id) => u32::try_from(id).ok().filter(|&id| (id as usize) < vocab),
        None if trainer.is_some() => Some(usual).filter(|&id| (id as usize) < vocab),
        None => None,
    };
    let spec = trainer.clone().unwrap_or_default();
    let bos = named("bos_token").or(stated(spec.bos_id, 1));
    let eos = named("eos_token").or(stated(spec.eos_id, 2));
    let pad = named("pad_token").or(spec.pad_id.and_then(|id| stated(Some(id), 0)));
    let unknown = kinds.iter().position(|&kind| kind == 2).map(|id| id as u32).or(stated(spec.unk_id, 0));
    let flag = |key: &str, usual: bool| beside.config[key].as_bool().unwrap_or(usual);
    let (add_bos, add_eos) =
        (flag("add_bos_token", true) && bos.is_some(), flag("add_eos_token", false) && eos.is_some());
    let mut warnings = Vec::new();
    let charsmap = normalizer.precompiled_charsmap.unwrap_or_default();
    if !is_unigram && !charsmap.is_empty() {
        warnings.push(format!("{FILE} normalizes characters (NFKC and the like), which is left out, as in llama.cpp"));
    }

    let mut pairs = vec![
        ("model", Value::String(if is_unigram { "t5" } else { "llama" }.into())),
        ("pre", Value::String("default".into())),
        ("tokens", Value::Array(Array::String(texts))),
        ("scores", Value::Array(Array::F32(scores))),
        ("token_type", Value::Array(Array::I32(kinds))),
        ("add_space_prefix", Value::Bool(normalizer.add_dummy_prefix.unwrap_or(true))),
        ("add_bos_token", Value::Bool(add_bos)),
        ("add_eos_token", Value::Bool(add_eos)),
    ];
    if is_unigram {
        let trims_spaces = normalizer.remove_extra_whitespaces.unwrap_or(true);
        pairs.push(("remove_extra_whitespaces", Value::Bool(trims_spaces)));
        pairs.push(("precompiled_charsmap", Value::Array(Array::U8(charsmap))));
    }
    let special =
        [("bos_token_id", bos), ("eos_token_id", eos), ("padding_token_id", pad), ("unknown_token_id", unknown)];
    pairs.extend(special.into_iter().filter_map(|(key, id)| Some((key, Value::U32(id?)))));
    Ok((pairs.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect(), warnings))
}

/// Id, text and whether it is markup, of each token added to the model's own.
fn added(beside: &Beside) -> Result<Vec<(usize, String, bool)>> {
    let id_of = |id: Option<u64>, text: &str| {
        let expected = "a token id";
        id.map(|id| id as usize)
            .ok_or_else(|| Error::malformed(format!("added token \"{}\"", shown(text)), expected, "something else"))
    };
    let mut tokens = Vec::new();
    for (text, id) in beside.added.as_object().into_iter().flatten() {
        tokens.push((id_of(id.as_u64(), text)?, text.clone(), false));
    }
    for (id, token) in beside.config["added_tokens_decoder"].as_object().into_iter().flatten() {
        let text = token["content"].as_str().unwrap_or_default();
        tokens.push((id_of(id.parse().ok(), text)?, text.to_owned(), token["special"] == true));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let score = [&[0x15], score.to_le_bytes().as_slice()].concat();
        field(1, &[field(1, text.as_bytes()), score, vec![0x18, kind]].concat())
    }

    /// Bytes by hand: pieces, `model_type` 2 (field 3) and `add_dummy_prefix` (field 3 of the normalizer).
    fn file(model_type: u8) -> Vec<u8> {
        let pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<0x41>", 0.0, 6), ("▁a", -1.5, 1)];
        let mut bytes: Vec<u8> = pieces.iter().flat_map(|&(text, score, kind)| piece(text, score, kind)).collect();
        bytes.extend(field(2, &[0x18, model_type]));
        bytes.extend(field(3, &[0x18, 0]));
        bytes
    }

    fn get<'a>(pairs: &'a [(String, Value)], key: &str) -> Option<&'a Value> {
        pairs.iter().find(|(name, _)| name == &format!("tokenizer.ggml.{key}")).map(|(_, value)| value)
    }

    #[test]
    fn pieces_become_tokens_scores_and_types() {
        let config = json!({"eos_token": {"content": "<end>"}, "add_eos_token": true,
            "added_tokens_decoder": {"5": {"content": "<end>", "special": true}}});
        let (pairs, warnings) = read(&file(2), &Beside { config, added: json!({"tool": 6}) }, 8).unwrap();
        let texts = ["<unk>", "<s>", "</s>", "<0x41>", "▁a", "<end>", "tool", "[PAD7]"].map(str::to_owned);
        assert_eq!(get(&pairs, "tokens"), Some(&Value::Array(Array::String(texts.to_vec()))));
        let scores = vec![0.0, 0.0, 0.0, 0.0, -1.5, -1000.0, -1000.0, -10_000.0];
        assert_eq!(get(&pairs, "scores"), Some(&Value::Array(Array::F32(scores))));
        assert_eq!(get(&pairs, "token_type"), Some(&Value::Array(Array::I32(vec![2, 3, 3, 6, 1, 3, 4, 5]))));
        for (key, value) in [("bos_token_id", 1), ("eos_token_id", 5), ("unknown_token_id", 0)] {
            assert_eq!(get(&pairs, key), Some(&Value::U32(value)), "{key}");
        }
        for (key, value) in [("add_bos_token", true), ("add_eos_token", true), ("add_space_prefix", false)] {
            assert_eq!(get(&pairs, key), Some(&Value::Bool(value)), "{key}");
        }
        assert!(warnings.is_empty());
    }

    #[test]
    fn other_models_and_other_files_are_refused() {
        let alone = || Beside { config: Json::Null, added: Json::Null };
        let error = |bytes: &[u8], vocab| read(bytes, &alone(), vocab).unwrap_err().to_string();
        assert!(error(&file(3), 8).contains("tokenizer.model is not supported: it is a model of words"));
        assert!(error(&file(2), 4).contains("expected 1 to 4 pieces, as the model has rows, found 5"));
        assert!(error(b"version https://git-lfs", 8).contains("expected a SentencePiece model"));
        assert!(error(b"", 8).contains("found 0"));
        let far = Beside { config: Json::Null, added: json!({"x": 9}) };
        assert!(read(&file(2), &far, 8).unwrap_err().to_string().contains("ids below 8"));
        assert!(error(&piece("a", 0.0, 9), 8).contains("type of piece 0: expected 1 to 6, found 9"));
        // Every cut of a file ends with an error or a shorter list of pieces.
        let whole = file(2);
        (0..whole.len()).for_each(|len| drop(read(&whole[..len], &alone(), 8)));
    }
}
