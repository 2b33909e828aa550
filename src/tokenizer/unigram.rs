//! SentencePiece's Unigram model (`tokenizer.ggml.model` = `t5`): of all ways to cut a text into tokens, the one whose scores
//! have the highest sum.
//!
//! This is written out here, and not left to the `tokenizers` crate, because that one replaces other stretches of characters
//! than SentencePiece does and knows no user-defined tokens; for a `tokenizer.json`, whose ids are those of the crate, `hf`
//! runs it. Source: `unigram_model.cc` and `normalizer.cc` of SentencePiece.

use crate::error::{Error, Result, shown};

use super::{
    special::Finder,
    vocab::{Kind, SPACE_MARK, Vocab, parse_byte},
};

/// Longer tokens are never made from text, as the time goes with their length. Real ones stay below 200 bytes.
const MAX_TOKEN_BYTES: usize = 1024;

/// How much less than the least probable token a character without one scores (`kUnkPenalty`).
const UNKNOWN_PENALTY: f32 = 10.0;

/// A Unigram vocabulary ready for encoding.
#[derive(Debug)]
pub(super) struct Unigram {
    /// Words that text is made of.
    words: Finder,
    scores: Vec<f32>,
    /// By id: whether it is always one token where it stands.
    is_user_defined: Vec<bool>,
    /// The token for each byte.
    bytes: Box<[Option<u32>; 256]>,
    unknown: Option<u32>,
    unknown_score: f32,
    highest_score: f32,
    normalizer: Normalizer,
}

/// Changes to a text before it is cut.
#[derive(Debug)]
pub(super) struct Normalizer {
    charsmap: Charsmap,
    /// User-defined tokens, which stay as they are.
    kept: Finder,
    /// Spaces at both ends vanish, and of several in a row one stays.
    trims_spaces: bool,
}

/// The best way to a place of the text.
#[derive(Clone, Copy, Debug)]
struct Best {
    score: f32,
    start: usize,
    id: Option<u32>,
}

impl Unigram {
    pub fn new(
        vocab: &Vocab,
        scores: Vec<f32>,
        unknown: Option<u32>,
        charsmap: Charsmap,
        trims_spaces: bool,
    ) -> Result<Self> {
        let mut bytes = Box::new([None; 256]);
        for (id, text, kind) in vocab.iter() {
            if let (Kind::Byte, Some(byte)) = (kind, parse_byte(text)) {
                bytes[usize::from(byte)] = Some(id);
            }
        }
        let normal = || vocab.iter().filter(|(_, _, kind)| *kind == Kind::Normal).map(|(id, ..)| scores[id as usize]);
        if let Some(score) = normal().find(|score| !score.is_finite()) {
            return Err(Error::malformed("scores of the tokenizer", "finite numbers", score));
        }
        let lowest = normal().fold(f32::INFINITY, f32::min);
        let highest_score = normal().fold(f32::NEG_INFINITY, f32::max);
        let words = |kinds: &[Kind]| {
            let words = vocab.iter().filter(|(_, text, kind)| kinds.contains(kind) && text.len() <= MAX_TOKEN_BYTES);
            Finder::new(words.map(|(id, text, _)| (text.to_owned(), id)).collect())
        };
        let mut is_user_defined = vec![false; vocab.len()];
        for (id, ..) in vocab.iter().filter(|(_, _, kind)| *kind == Kind::UserDefined) {
            is_user_defined[id as usize] = true;
        }
        Ok(Self {
            words: words(&[Kind::Normal, Kind::UserDefined]),
            scores,
            is_user_defined,
            bytes,
            unknown,
            unknown_score: if lowest.is_finite() { lowest - UNKNOWN_PENALTY } else { 0.0 },
            highest_score: if highest_score.is_finite() { highest_score } else { 0.0 },
            normalizer: Normalizer { charsmap, kept: words(&[Kind::UserDefined]), trims_spaces },
        })
    }

    /// Appends the ids of `text`; `space_first` puts a space before it.
    pub fn encode(&self, text: &str, space_first: bool, out: &mut Vec<u32>) -> Result<()> {
        let text = self.normalizer.apply(text, space_first);
        let best = self.best_ways(&text);
        let mut cuts = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Best { start, id, .. } = best[end];
            cuts.push((start..end, id));
            end = start;
        }
        let mut was_unknown = false;
        for (range, id) in cuts.into_iter().rev() {
            let is_unknown = id.is_none();
            match id {
                Some(id) => out.push(id),
                None => self.push_unknown(&text[range], was_unknown, out)?,
            }
            was_unknown = is_unknown;
        }
        Ok(())
    }

    /// The best way to each place where a character begins, and to the end.
    fn best_ways(&self, text: &str) -> Vec<Best> {
        let nowhere = Best { score: f32::NEG_INFINITY, start: usize::MAX, id: None };
        let mut best = vec![nowhere; text.len() + 1];
        best[0].score = 0.0;
        for (start, c) in text.char_indices() {
            let until_here = best[start].score;
            let mut has_character = false;
            let mut offer = |len: usize, score: f32, id: Option<u32>| {
                let place = &mut best[start + len];
                let score = until_here + score;
                if place.start == usize::MAX || score > place.score {
                    *place = Best { score, start, id };
                }
            };
            self.words.each_at(&text.as_bytes()[start..], |len, id| {
                let score = if self.is_user_defined[id as usize] {
                    (f64::from(len as f32 * self.highest_score) - 0.1) as f32
                } else {
                    self.scores[id as usize]
                };
                offer(len, score, Some(id));
                has_character |= len == c.len_utf8();
            });
            if !has_character {
                offer(c.len_utf8(), self.unknown_score, None);
            }
        }
        best
    }

    /// A character that no token has: its bytes, or the unknown token, of which several in a row are one.
    fn push_unknown(&self, text: &str, was_unknown: bool, out: &mut Vec<u32>) -> Result<()> {
        let bytes: Option<Vec<u32>> = text.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        match (bytes, self.unknown) {
            (Some(bytes), _) => out.extend(bytes),
            (None, Some(_)) if was_unknown => {}
            (None, Some(unknown)) => out.push(unknown),
            (None, None) => {
                return Err(Error::missing("an unknown token", format!("the character \"{}\"", shown(text))));
            }
        }
        Ok(())
    }
}

impl Normalizer {
    fn apply(&self, text: &str, space_first: bool) -> String {
        let mut rest = text;
        if self.trims_spaces {
            while let (" ", len) = self.prefix(rest) {
                rest = &rest[len..];
            }
        }
        let mut out = String::with_capacity(rest.len() + 3);
        if rest.is_empty() {
            return out;
        }
        out.extend(space_first.then_some(SPACE_MARK));
        let mut was_space = self.trims_spaces;
        while !rest.is_empty() {
            let (mut piece, len) = self.prefix(rest);
            if was_space {
                piece = piece.trim_start_matches(' ');
            }
            if !piece.is_empty() {
                out.extend(piece.chars().map(|c| if c == ' ' { SPACE_MARK } else { c }));
                was_space = self.trims_spaces && piece.ends_with(' ');
            }
            rest = &rest[len..];
        }
        if self.trims_spaces {
            out.truncate(out.trim_end_matches(SPACE_MARK).len());
        }
        out
    }

    /// The replacement for the beginning of a text, and the length of that; nothing of nothing.
    fn prefix<'t>(&'t self, text: &'t str) -> (&'t str, usize) {
        let Some(first) = text.chars().next() else { return ("", 0) };
        match self.kept.longest_at(text.as_bytes()) {
            Some((len, _)) => (&text[..len], len),
            None => self.charsmap.longest_at(text).unwrap_or((&text[..first.len_utf8()], first.len_utf8())),
        }
    }
}

/// Stretches of characters and what stands for them: NFKC and the like, as SentencePiece has it in
/// `normalizer_spec.precompiled_charsmap`. A double array (Darts-clone) whose values are places in a list of texts, each of
/// which ends with a zero; the size of the array in bytes stands first.
#[derive(Debug, Default)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    texts: String,
}

/// A bound on what a character becomes: the longest of NFKC has 33 bytes.
const MAX_REPLACEMENT_BYTES: usize = 64;

/// A bound on the array where each way through it is checked; that of NFKC has 60 thousand numbers.
const MAX_CHECKED_UNITS: usize = 1 << 20;

/// Distance from a unit to its children; a bit says that it is in units of 256.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

/// Whether the unit is the child for that byte.
fn is_child(unit: u32, byte: u8) -> bool {
    unit & (1 << 31 | 0xff) == u32::from(byte)
}

fn has_value(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

/// Where the replacement begins that a unit stands for.
fn place(unit: u32) -> usize {
    (unit & 0x7fff_ffff) as usize
}

impl Charsmap {
    /// # Errors
    /// If the bytes are no such map.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let wrong = |found: &str| Error::malformed("map of characters of the tokenizer", "an array and texts", found);
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| wrong("less than its size"))?;
        let size = u32::from_le_bytes(*size) as usize;
        if size > rest.len() || !size.is_multiple_of(4) {
            return Err(wrong(&format!("{size} bytes of {}", rest.len())));
        }
        let (units, texts) = rest.split_at(size);
        let units = units.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let texts = String::from_utf8(texts.to_vec()).map_err(|_| wrong("texts that are not UTF-8"))?;
        if texts.split('\0').any(|text| text.len() > MAX_REPLACEMENT_BYTES) {
            return Err(wrong(&format!("a text of more than {MAX_REPLACEMENT_BYTES} bytes")));
        }
        Ok(Self { units, texts })
    }

    /// Follows every way through the array, for a reader that takes them all to lead somewhere.
    ///
    /// # Errors
    /// If one leads out of the array or of the texts.
    pub fn check(&self) -> Result<()> {
        let wrong =
            |expected: &str, found: usize| Error::malformed("map of characters of the tokenizer", expected, found);
        if self.units.len() > MAX_CHECKED_UNITS {
            return Err(wrong(&format!("at most {MAX_CHECKED_UNITS} numbers"), self.units.len()));
        }
        let mut seen = vec![false; self.units.len()];
        let mut open = Vec::new();
        let mut enter = |children: usize, open: &mut Vec<usize>| {
            // Any byte may come next.
            if children | 0xff >= seen.len() {
                return Err(wrong("places inside the array", children));
            }
            if !std::mem::replace(&mut seen[children], true) {
                open.push(children);
            }
            Ok(())
        };
        enter(offset(self.units.first().copied().unwrap_or(0)), &mut open)?;
        while let Some(children) = open.pop() {
            for byte in 1..=u8::MAX {
                let at = children ^ usize::from(byte);
                let unit = self.units[at];
                if !is_child(unit, byte) {
                    continue;
                }
                let next = at ^ offset(unit);
                enter(next, &mut open)?;
                if has_value(unit) && !self.texts.is_char_boundary(place(self.units[next])) {
                    return Err(wrong("places inside the texts", place(self.units[next])));
                }
            }
        }
        Ok(())
    }

    /// What the longest known beginning of a text becomes, and its length.
    fn longest_at(&self, text: &str) -> Option<(&str, usize)> {
        let unit = |at: usize| self.units.get(at).copied();
        let mut at = offset(unit(0)?);
        let mut found = None;
        for (before, byte) in text.bytes().enumerate() {
            at ^= usize::from(byte);
            let Some(node) = unit(at).filter(|node| is_child(*node, byte)) else { break };
            at ^= offset(node);
            if has_value(node) {
                found = unit(at).map(|value| (place(value), before + 1));
            }
        }
        let (start, len) = found.filter(|(_, len)| text.is_char_boundary(*len))?;
        let text = self.texts.get(start..)?;
        Some((text.split('\0').next().unwrap_or(text), len))
    }
}
