//! The vocabulary: the text and the kind of every token, and the bytes each one prints.

use crate::{
    error::{Error, Result, shown},
    gguf::{Array, Metadata, Value},
};

use super::alphabet::byte_of;

/// The mark SentencePiece vocabularies use for a space.
pub(super) const SPACE_MARK: char = '\u{2581}';

/// Texts of tokens that end an answer, whatever id they have: those of bitnet.cpp and of llama.cpp.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<EOT>",
    "<|eom_id|>",
    "<｜end▁of▁sentence｜>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_utterance>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
];

/// True for the text of a token that ends an answer.
pub(super) fn is_end_text(text: &str) -> bool {
    text.starts_with(['<', '[', '_']) && END_TEXTS.contains(&text)
}

/// Kind of a token; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Part of ordinary text.
    Normal = 1,
    /// Stands for what cannot be spelled; printed only on request.
    Unknown = 2,
    /// Markup such as BOS; printed only on request and found in text only on request.
    Control = 3,
    /// Text that is always one token.
    UserDefined = 4,
    /// A hole in the numbering: prints nothing.
    Unused = 5,
    /// One byte, spelled `<0xHH>`.
    Byte = 6,
}

impl Kind {
    fn from_gguf(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            // llama.cpp knows an "undefined" type 0, which prints nothing as well.
            0 | 5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// How normal tokens are spelled in the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's: one character per byte (see [`byte_of`]).
    Bytes,
    /// SentencePiece's: plain text with [`SPACE_MARK`] for the space, and `<0xHH>` tokens.
    Marks,
}

/// Texts, kinds and printed bytes of all tokens; the index is the token id.
#[derive(Debug)]
pub(super) struct Vocab {
    texts: Vec<String>,
    kinds: Vec<Kind>,
    printed: Vec<u8>,
    /// Where each token's bytes end in `printed`.
    printed_ends: Vec<usize>,
}

impl Vocab {
    pub fn new(texts: Vec<String>, kinds: Vec<Kind>, spelling: Spelling) -> Result<Self> {
        assert_eq!(texts.len(), kinds.len(), "a kind per token");
        if texts.is_empty() {
            return Err(Error::malformed("vocabulary", "at least one token", "none"));
        }
        let mut printed = Vec::new();
        let mut printed_ends = Vec::with_capacity(texts.len());
        for (id, (text, kind)) in texts.iter().zip(&kinds).enumerate() {
            print(id, text, *kind, spelling, &mut printed)?;
            printed_ends.push(printed.len());
        }
        Ok(Self { texts, kinds, printed, printed_ends })
    }

    /// Reads `tokenizer.ggml.tokens` and `tokenizer.ggml.token_type`.
    pub fn from_metadata(metadata: &Metadata, spelling: Spelling) -> Result<Self> {
        let texts = metadata
            .strings("tokenizer.ggml.tokens")?
            .ok_or_else(|| Error::missing("key tokenizer.ggml.tokens", "turning text into token ids"))?;
        let mut kinds = match metadata.ints("tokenizer.ggml.token_type")? {
            Some(numbers) => read_kinds(numbers, texts.len())?,
            None => texts.iter().map(|text| guess_kind(text, spelling)).collect(),
        };
        mark_ends(texts, &mut kinds);
        Self::new(texts.to_vec(), kinds, spelling)
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Adds unused tokens up to `len`, which is not below the present length.
    pub fn pad(&mut self, len: usize) {
        self.texts.resize(len, String::new());
        self.kinds.resize(len, Kind::Unused);
        self.printed_ends.resize(len, self.printed.len());
    }

    pub fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize).map(String::as_str)
    }

    /// Id, text and kind of each token that has a text.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str, Kind)> {
        let tokens = self.texts.iter().zip(&self.kinds).enumerate();
        tokens.filter(|(_, (text, _))| !text.is_empty()).map(|(id, (text, &kind))| (id as u32, text.as_str(), kind))
    }

    /// The bytes a token prints; none for an id out of range, and none for markup unless `special`.
    pub fn printed(&self, id: u32, special: bool) -> &[u8] {
        let id = id as usize;
        match self.kinds.get(id) {
            None => &[],
            Some(Kind::Control | Kind::Unknown) if !special => &[],
            Some(_) => {
                let start = if id == 0 { 0 } else { self.printed_ends[id - 1] };
                &self.printed[start..self.printed_ends[id]]
            }
        }
    }

    /// The id of the token with this text; a search through all of them, for use while loading.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.texts.iter().position(|other| other == text).map(|id| id as u32)
    }

    /// Ids of the tokens whose text says that they end an answer, in ascending order. An ordinary word that looks like
    /// one is none.
    pub fn ends_by_text(&self) -> Vec<u32> {
        let is_end = |(_, text, kind): &(u32, &str, Kind)| *kind != Kind::Normal && is_end_text(text);
        self.iter().filter(is_end).map(|(id, ..)| id).collect()
    }

    /// A token id from the metadata; out of range is an error.
    pub fn id_from(&self, metadata: &Metadata, key: &str) -> Result<Option<u32>> {
        match metadata.uint(key)? {
            Some(id) if id >= self.len() as u64 => {
                Err(Error::malformed(format!("key {key}"), format!("a token id below {}", self.len()), id))
            }
            id => Ok(id.map(|id| id as u32)),
        }
    }
}

fn read_kinds(numbers: &[i32], tokens: usize) -> Result<Vec<Kind>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    if numbers.len() != tokens {
        return Err(Error::malformed(format!("key {KEY}"), format!("{tokens} elements, one per token"), numbers.len()));
    }
    let read = |(id, &number): (usize, &i32)| {
        Kind::from_gguf(number).ok_or_else(|| Error::malformed(format!("{KEY}[{id}]"), "a token type 0 to 6", number))
    };
    numbers.iter().enumerate().map(read).collect()
}

/// Makes markup of the tokens that end an answer by their text, as llama.cpp does: converters forget to mark some. A
/// `tokenizer.json` says itself which tokens are markup.
fn mark_ends(texts: &[String], kinds: &mut [Kind]) {
    for (kind, _) in kinds.iter_mut().zip(texts).filter(|(_, text)| is_end_text(text)) {
        *kind = Kind::Control;
    }
}

/// A file without token types: only byte tokens can be told by their text.
fn guess_kind(text: &str, spelling: Spelling) -> Kind {
    if spelling == Spelling::Marks && parse_byte(text).is_some() { Kind::Byte } else { Kind::Normal }
}

/// The scores of a SentencePiece vocabulary.
pub(super) fn scores(metadata: &Metadata, tokens: usize) -> Result<Vec<f32>> {
    const KEY: &str = "tokenizer.ggml.scores";
    let scores = match metadata.get(KEY) {
        None => return Err(Error::missing(format!("key {KEY}"), "tokenizer.ggml.model \"llama\"")),
        Some(Value::Array(Array::I32(scores))) => scores.iter().map(|&score| score as f32).collect(),
        Some(_) => metadata.floats(KEY)?.unwrap_or_default().to_vec(),
    };
    if scores.len() != tokens {
        return Err(Error::malformed(format!("key {KEY}"), format!("{tokens} elements, one per token"), scores.len()));
    }
    match scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(Error::malformed(format!("{KEY}[{id}]"), "a number", "NaN")),
        None => Ok(scores),
    }
}

/// The value of `<0xHH>`.
pub(super) fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = digits.len() == 2 && digits.bytes().all(|c| c.is_ascii_hexdigit());
    if hex { u8::from_str_radix(digits, 16).ok() } else { None }
}

fn print(id: usize, text: &str, kind: Kind, spelling: Spelling, out: &mut Vec<u8>) -> Result<()> {
    match (kind, spelling) {
        (Kind::Unused, _) => {}
        (Kind::Unknown | Kind::Control | Kind::UserDefined, _) => out.extend_from_slice(text.as_bytes()),
        (Kind::Byte, _) => out.push(parse_byte(text).ok_or_else(|| {
            Error::malformed(format!("byte token {id}"), "a text of the form <0xHH>", format!("\"{}\"", shown(text)))
        })?),
        (Kind::Normal, Spelling::Marks) => {
            let mut utf8 = [0; 4];
            for c in text.chars() {
                out.extend_from_slice(if c == SPACE_MARK { b" " } else { c.encode_utf8(&mut utf8).as_bytes() });
            }
        }
        (Kind::Normal, Spelling::Bytes) => {
            let start = out.len();
            for c in text.chars() {
                match byte_of(c) {
                    Some(byte) => out.push(byte),
                    // A token with a character outside the alphabet was added as plain text.
                    None => {
                        out.truncate(start);
                        out.extend_from_slice(text.as_bytes());
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab(tokens: &[(&str, Kind)], spelling: Spelling) -> Result<Vocab> {
        let (texts, kinds) = tokens.iter().map(|&(text, kind)| (text.to_string(), kind)).unzip();
        Vocab::new(texts, kinds, spelling)
    }

    #[test]
    fn each_kind_prints_as_it_should() {
        use Kind::*;
        let tokens = [("Ġa", Normal), ("<b>", Control), ("Ġ", UserDefined), ("c", Unused), ("x y", Normal)];
        let bytes = vocab(&tokens, Spelling::Bytes).unwrap();
        let printed: Vec<_> = (0..6).map(|id| bytes.printed(id, true)).collect();
        assert_eq!(printed, [&b" a"[..], b"<b>", "Ġ".as_bytes(), b"", b"x y", b""]);
        assert_eq!(bytes.printed(1, false), b"");
        let marks = vocab(&[("▁a▁", Normal), ("<0xE2>", Byte), ("<unk>", Unknown)], Spelling::Marks).unwrap();
        let printed: Vec<_> = (0..3).map(|id| marks.printed(id, false)).collect();
        assert_eq!(printed, [&b" a "[..], b"\xe2", b""]);
    }

    #[test]
    fn byte_tokens_must_name_a_byte() {
        for text in ["<0x-1>", "<0xZZ>", "<0x1FF>", "<0x>", "<0x+1>", "0x41", ""] {
            let error = vocab(&[("a", Kind::Normal), (text, Kind::Byte)], Spelling::Marks).unwrap_err().to_string();
            assert!(error.starts_with("byte token 1: expected a text of the form <0xHH>"), "{error}");
        }
        assert_eq!(parse_byte("<0x0a>"), Some(10));
    }

    #[test]
    fn end_texts_become_control_tokens() {
        let texts = ["a", "<|im_end|>", "</s>"].map(str::to_owned);
        let mut kinds = [Kind::Normal, Kind::UserDefined, Kind::Normal];
        mark_ends(&texts, &mut kinds);
        assert_eq!(kinds, [Kind::Normal, Kind::Control, Kind::Control]);
        let as_stated = [("a", Kind::Normal), ("<|im_end|>", Kind::UserDefined), ("</s>", Kind::Normal)];
        assert_eq!(vocab(&as_stated, Spelling::Bytes).unwrap().ends_by_text(), [1]);
    }
}
