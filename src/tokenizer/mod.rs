//! Text <-> token ids: from the metadata of a GGUF file or from a Hugging Face `tokenizer.json`.
//!
//! In: [`Metadata`] or JSON bytes, and text. Out: ids, and text again, whole or as it comes ([`TokenStream`]).
//! Where a file leaves room, ids follow llama.cpp for GGUF metadata and Hugging Face for `tokenizer.json`.

mod alphabet;
mod bpe;
mod export;
mod facts;
mod hf;
mod json;
mod pre;
mod special;
mod spm;
mod stream;
mod templates;
mod unigram;
mod vocab;

pub use export::{templates_to_gguf, to_gguf};
pub use facts::JsonOptions;
pub use stream::TokenStream;

use crate::{
    error::{Error, Result, shown},
    gguf::{Array, Metadata, Value},
};

use bpe::Bpe;
use facts::Facts;
use hf::Hf;
use json::Json;
use pre::Pre;
use special::{Part, Specials};
use spm::Spm;
use stream::Start;
use templates::Templates;
use unigram::{Charsmap, Unigram};
use vocab::{Spelling, Vocab};

/// Tokens that end an answer, where a file has more than the keys of llama.cpp hold. A key of our own.
const END_IDS: &str = "tokenizer.end_token_ids";

/// Options of [`Tokenizer::encode`] besides splitting text; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put BOS before and EOS after the text where the file asks for it.
    pub add_special: bool,
    /// Read markup such as `<|eot_id|>` in the text as the token it names. Leave it off for text from outside.
    pub parse_special: bool,
}

/// A tokenizer: turns text into ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    engine: Engine,
    special: SpecialIds,
    /// Tokens before and after each text, where these are others than BOS and EOS.
    around: Option<(Vec<u32>, Vec<u32>)>,
    /// Encoding puts a space before the text, so decoding takes one away.
    space_first: bool,
    templates: Templates,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Engine {
    Bpe(Box<Bpe>, Specials),
    Spm(Spm, Specials),
    Unigram(Unigram, Specials),
    Hf(Box<Hf>),
}

/// Tokens with a role in generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SpecialIds {
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Tokens that end an answer, ascending.
    ends: Vec<u32>,
}

impl Tokenizer {
    /// Reads the tokenizer of a GGUF file. A complete `tokenizer.json` inside the metadata comes first.
    ///
    /// A file without a tokenizer gives [`Error::Missing`].
    #[doc(hidden)]
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        const JSON: &str = "tokenizer.huggingface.json";
        if let Some(json) = metadata.str(JSON)? {
            return Self::from_embedded_json(json, metadata).map_err(|e| e.in_file(format!("key {JSON}")));
        }
        let model = metadata
            .str("tokenizer.ggml.model")?
            .ok_or_else(|| Error::missing("key tokenizer.ggml.model", "turning text into token ids"))?;
        match model {
            "gpt2" => Self::from_gguf_bpe(metadata),
            "llama" => Self::from_gguf_spm(metadata),
            "t5" => Self::from_gguf_unigram(metadata),
            other => {
                let reason =
                    "known models are gpt2 (byte-level BPE), llama (SentencePiece BPE) and t5 (SentencePiece Unigram)";
                Err(Error::unsupported(format!("tokenizer.ggml.model \"{}\"", shown(other)), reason))
            }
        }
    }

    /// Reads a Hugging Face `tokenizer.json` alone; BOS and EOS are what its post-processor adds.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        Self::from_json_with(json, &JsonOptions::default())
    }

    /// Reads a Hugging Face `tokenizer.json` with the files that stand beside it.
    #[doc(hidden)]
    pub fn from_json_with(json: &[u8], options: &JsonOptions<'_>) -> Result<Self> {
        let json = Json::parse(json)?;
        let facts = Facts::read(&json, options)?;
        let hf = Hf::new(&json)?;
        let (space_first, around) = (json.space_first, json.around.clone());
        let vocab = json.into_vocab()?;
        let mut ends = vocab.ends_by_text();
        ends.extend(&facts.ends);
        let Facts { bos, eos, add_bos, add_eos, templates, notes, .. } = facts;
        let special = SpecialIds { bos, eos, add_bos, add_eos, ends: sorted(ends) };
        let around = around.filter(|around| special.cannot_say(around));
        Ok(Self { vocab, engine: Engine::Hf(Box::new(hf)), special, around, space_first, templates, notes })
    }

    fn from_embedded_json(json: &str, metadata: &Metadata) -> Result<Self> {
        let mut tokenizer = Self::from_json(json.as_bytes())?;
        let around = Json::parse(json.as_bytes())?.around;
        // The JSON may end before the model's last row, but not go on after it.
        if let Some(tokens) = metadata.strings("tokenizer.ggml.tokens")? {
            if tokenizer.vocab_size() > tokens.len() {
                let expected = format!("at most {} tokens, as in tokenizer.ggml.tokens", tokens.len());
                return Err(Error::malformed("vocabulary", expected, tokenizer.vocab_size()));
            }
            tokenizer.vocab.pad(tokens.len());
        }
        tokenizer.special = SpecialIds::read(metadata, &tokenizer.vocab, tokenizer.special)?;
        tokenizer.around = around.filter(|around| tokenizer.special.cannot_say(around));
        tokenizer.templates = Templates::of_metadata(metadata)?;
        tokenizer.notes.push("the tokenizer.json inside the file is used".to_string());
        Ok(tokenizer)
    }

    fn from_gguf_bpe(metadata: &Metadata) -> Result<Self> {
        let vocab = Vocab::from_metadata(metadata, Spelling::Bytes)?;
        let merges = metadata
            .strings("tokenizer.ggml.merges")?
            .ok_or_else(|| Error::missing("key tokenizer.ggml.merges", "tokenizer.ggml.model \"gpt2\""))?;
        let bos = vocab.id_from(metadata, "tokenizer.ggml.bos_token_id")?;
        let mut notes = Vec::new();
        let pre = match metadata.str("tokenizer.ggml.pre")? {
            Some(name) => Pre::by_name(name)?,
            None => guess_pre(&vocab, bos, &mut notes)?,
        };
        let mut default = SpecialIds { add_bos: pre.add_bos, ..SpecialIds::default() };
        if bos.is_none() && pre.add_bos {
            default.bos = vocab.find("<|begin_of_text|>");
            default.add_bos = default.bos.is_some();
        }
        let special = SpecialIds::read(metadata, &vocab, default)?;
        let engine = Engine::Bpe(Box::new(Bpe::new(&vocab, merges, pre)?), Specials::new(&vocab));
        let templates = Templates::of_metadata(metadata)?;
        Ok(Self { vocab, engine, special, around: None, space_first: false, templates, notes })
    }

    fn from_gguf_spm(metadata: &Metadata) -> Result<Self> {
        let vocab = Vocab::from_metadata(metadata, Spelling::Marks)?;
        let scores = vocab::scores(metadata, vocab.len())?;
        // SentencePiece's usual numbering, where the file does not say.
        let usual = |id: u32| vocab.text(id).map(|_| id);
        let unknown = vocab.id_from(metadata, "tokenizer.ggml.unknown_token_id")?.or(usual(0));
        let default = SpecialIds { bos: usual(1), eos: usual(2), add_bos: usual(1).is_some(), ..SpecialIds::default() };
        let special = SpecialIds::read(metadata, &vocab, default)?;
        let space_first = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let engine = Engine::Spm(Spm::new(&vocab, scores, unknown)?, Specials::new(&vocab));
        let templates = Templates::of_metadata(metadata)?;
        Ok(Self { vocab, engine, special, around: None, space_first, templates, notes: Vec::new() })
    }

    fn from_gguf_unigram(metadata: &Metadata) -> Result<Self> {
        const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
        let vocab = Vocab::from_metadata(metadata, Spelling::Marks)?;
        let scores = vocab::scores(metadata, vocab.len())?;
        // T5's numbering, where the file does not say.
        let usual = |id: u32| vocab.text(id).map(|_| id);
        let unknown = vocab.id_from(metadata, "tokenizer.ggml.unknown_token_id")?.or(usual(2));
        let default = SpecialIds { eos: usual(1), add_eos: usual(1).is_some(), ..SpecialIds::default() };
        let special = SpecialIds::read(metadata, &vocab, default)?;
        let space_first = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let trims_spaces = metadata.bool("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
        let charsmap = match metadata.get(CHARSMAP) {
            None => Charsmap::default(),
            Some(Value::Array(Array::U8(bytes))) => Charsmap::read(bytes)?,
            Some(Value::Array(Array::I8(bytes))) => Charsmap::read(bytemuck::cast_slice(bytes))?,
            Some(_) => return Err(Error::malformed(format!("key {CHARSMAP}"), "an array of bytes", "another type")),
        };
        let engine = Unigram::new(&vocab, scores, unknown, charsmap, trims_spaces)?;
        let engine = Engine::Unigram(engine, Specials::markup(&vocab));
        let templates = Templates::of_metadata(metadata)?;
        Ok(Self { vocab, engine, special, around: None, space_first, templates, notes: Vec::new() })
    }

    /// Turns text into token ids.
    pub fn encode(&self, text: &str, options: &EncodeOptions) -> Result<Vec<u32>> {
        let special = &self.special;
        let mut ids = Vec::new();
        let around = self.around.as_ref().filter(|_| options.add_special);
        match around {
            Some((before, _)) => ids.extend(before),
            None => ids.extend(special.bos.filter(|_| options.add_special && special.add_bos)),
        }
        match &self.engine {
            Engine::Hf(hf) => hf.encode(text, options.parse_special, &mut ids)?,
            Engine::Bpe(bpe, specials) => {
                for part in specials.cut(text, options.parse_special) {
                    match part {
                        Part::Token(id) => ids.push(id),
                        Part::Text(text) => bpe.encode(text, &mut ids)?,
                    }
                }
            }
            Engine::Unigram(unigram, specials) => {
                for part in specials.cut(text, options.parse_special) {
                    match part {
                        Part::Token(id) => ids.push(id),
                        Part::Text(text) => unigram.encode(text, self.space_first, &mut ids)?,
                    }
                }
            }
            Engine::Spm(spm, specials) => {
                // The space comes at the start of the text and again after each special token.
                let mut space_first = self.space_first;
                for part in specials.cut(text, options.parse_special) {
                    match part {
                        Part::Token(id) => ids.push(id),
                        Part::Text(text) => spm.encode(text, space_first, &mut ids)?,
                    }
                    space_first = self.space_first && matches!(part, Part::Token(_));
                }
            }
        }
        match around {
            Some((_, after)) => ids.extend(after),
            None => ids.extend(special.eos.filter(|_| options.add_special && special.add_eos)),
        }
        Ok(ids)
    }

    /// Turns a prompt with markup into token ids. One that begins with BOS itself gets no other.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, &EncodeOptions { add_special: true, parse_special: true })?;
        if let ([first, second, ..], Some(bos)) = (ids.as_slice(), self.special.bos)
            && *first == bos
            && *second == bos
        {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// Turns ids into text. Markup prints nothing unless `special`; bytes that are no UTF-8 become U+FFFD, and an
    /// id out of range prints nothing.
    pub fn decode(&self, ids: &[u32], special: bool) -> String {
        let mut start = Start { trim: self.space_first };
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(start.trim(self.vocab.printed(id, special)));
        }
        String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }

    /// Text from ids as they come, from the start of a text.
    pub fn stream(&self) -> TokenStream<&Self> {
        TokenStream::new(self)
    }

    /// Text from ids as they come, going on where `prompt` ended: a space between the two is kept.
    pub fn stream_after(&self, prompt: &[u32]) -> TokenStream<&Self> {
        TokenStream::after(self, prompt)
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// True where the file asks for that token before each text.
    pub fn adds_bos(&self) -> bool {
        self.special.add_bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// True for a token after which generation stops: EOS, end of turn, end of message.
    pub fn is_end(&self, id: u32) -> bool {
        self.special.ends.binary_search(&id).is_ok()
    }

    /// Every token after which generation stops, in ascending order.
    pub fn end_ids(&self) -> &[u32] {
        &self.special.ends
    }

    /// Number of token ids, holes included.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token as the vocabulary spells it (`Ġthe`, `▁the`, `<0x0A>`).
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocab.text(id)
    }

    /// The bytes the token prints; none for markup.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocab.printed(id, false)
    }

    /// Choices made while reading, for the user to know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The chat template, in Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        self.templates.usual.as_deref()
    }

    /// Chat templates besides the usual one, by name: `tool_use` is for conversations with tools.
    pub fn named_chat_templates(&self) -> &[(String, String)] {
        &self.templates.named
    }
}

impl SpecialIds {
    /// Whether a text gets other tokens around it than these ids and flags can express.
    fn cannot_say(&self, (before, after): &(Vec<u32>, Vec<u32>)) -> bool {
        let differs = |side: &[u32], token: Option<u32>| match side {
            [] => false,
            [id] => Some(*id) != token,
            _ => true,
        };
        differs(before, self.bos) || differs(after, self.eos)
    }

    /// Reads the ids and flags of the metadata; `default` holds where a key is absent.
    fn read(metadata: &Metadata, vocab: &Vocab, default: Self) -> Result<Self> {
        let id = |name: &str| vocab.id_from(metadata, &format!("tokenizer.ggml.{name}_token_id"));
        let flag = |name: &str| metadata.bool(&format!("tokenizer.ggml.add_{name}_token"));
        // Never used, but an id out of range means that the file is damaged.
        id("padding")?;
        id("unknown")?;
        let (bos, eos) = (id("bos")?.or(default.bos), id("eos")?.or(default.eos));
        let (add_bos, add_eos) = (flag("bos")?.unwrap_or(default.add_bos), flag("eos")?.unwrap_or(default.add_eos));
        for (name, add, token) in [("bos", add_bos, bos), ("eos", add_eos, eos)] {
            if add && token.is_none() {
                let needed_for = format!("tokenizer.ggml.add_{name}_token");
                return Err(Error::missing(format!("key tokenizer.ggml.{name}_token_id"), needed_for));
            }
        }
        let mut ends = vocab.ends_by_text();
        ends.extend(default.ends);
        ends.extend([eos, id("eot")?, id("eom")?].into_iter().flatten());
        for &end in metadata.ints(END_IDS)?.into_iter().flatten() {
            let known = u32::try_from(end).ok().filter(|&end| vocab.text(end).is_some());
            let expected = format!("token ids below {}", vocab.len());
            ends.push(known.ok_or_else(|| Error::malformed(format!("key {END_IDS}"), expected, end))?);
        }
        Ok(Self { bos, eos, add_bos, add_eos, ends: sorted(ends) })
    }
}

/// The pre-tokenizer of a file that names none, as the official BitNet b1.58 2B-4T file does.
fn guess_pre(vocab: &Vocab, bos: Option<u32>, notes: &mut Vec<String>) -> Result<&'static Pre> {
    /// Llama 3's.
    const VOCABULARY: usize = 128_256;
    let llama3 = vocab.len() == VOCABULARY || bos.and_then(|id| vocab.text(id)) == Some("<|begin_of_text|>");
    let name = if llama3 { "llama-bpe" } else { "default" };
    let why = if llama3 { ", as the vocabulary is Llama 3's" } else { "; ids may differ from the model's training" };
    notes.push(format!("the file has no tokenizer.ggml.pre: {name} is used{why}"));
    Pre::by_name(name)
}

fn sorted(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids.dedup();
    ids
}
