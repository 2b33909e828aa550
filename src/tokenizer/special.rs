//! Finds special tokens in text.
//!
//! At each position the longest token that fits is taken, as Hugging Face does. (llama.cpp looks for the longest
//! token in the whole text first; the two differ only where one special token's end overlaps another's start.)

use super::vocab::{Kind, Vocab};

/// Longer special tokens are not looked for: the time is bounded by text length times this. Real ones stay below 100.
const MAX_TOKEN_BYTES: usize = 1024;

/// A stretch of text, or the special token found there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// The special tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct Specials {
    /// Control, unknown and user-defined tokens.
    all: Finder,
    /// User-defined tokens only. These are words of the model like any other, spelled as they print, and are found
    /// whether or not markup is parsed: llama.cpp's vectors for MPT need it (its runs of spaces are such tokens),
    /// and Hugging Face does the same.
    user_defined: Finder,
}

impl Specials {
    pub fn new(vocab: &Vocab) -> Self {
        let with = |kinds: &[Kind]| {
            let tokens = vocab.iter().filter(|(_, text, kind)| kinds.contains(kind) && text.len() <= MAX_TOKEN_BYTES);
            Finder::new(tokens.map(|(id, text, _)| (text.to_string(), id)).collect())
        };
        Self { all: with(&[Kind::Control, Kind::Unknown, Kind::UserDefined]), user_defined: with(&[Kind::UserDefined]) }
    }

    /// Without user-defined tokens, for engines that find these themselves.
    pub fn markup(vocab: &Vocab) -> Self {
        let tokens = vocab.iter().filter(|(_, text, kind)| *kind == Kind::Control && text.len() <= MAX_TOKEN_BYTES);
        let all = Finder::new(tokens.map(|(id, text, _)| (text.to_string(), id)).collect());
        Self { all, user_defined: Finder::new(Vec::new()) }
    }

    /// Cuts `text` at special tokens; markup counts only with `parse_special`.
    pub fn cut<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Part<'t>> {
        let finder = if parse_special { &self.all } else { &self.user_defined };
        let mut parts = Vec::new();
        let (mut done, mut at) = (0, 0);
        while at < text.len() {
            match finder.longest_at(&text.as_bytes()[at..]) {
                Some((len, id)) => {
                    parts.extend((done < at).then(|| Part::Text(&text[done..at])));
                    parts.push(Part::Token(id));
                    at += len;
                    done = at;
                }
                None => at += 1,
            }
        }
        parts.extend((done < text.len()).then(|| Part::Text(&text[done..])));
        parts
    }
}

/// Tokens in byte order, so that those with a common beginning stand together, the shortest first.
#[derive(Debug)]
pub(super) struct Finder {
    tokens: Vec<(String, u32)>,
    /// Where the tokens with each first byte start; one more entry for the end.
    starts: Vec<usize>,
}

impl Finder {
    /// Finds these tokens, none of which may be empty.
    pub fn new(mut tokens: Vec<(String, u32)>) -> Self {
        tokens.sort();
        let start = |byte: usize| tokens.partition_point(|(text, _)| usize::from(text.as_bytes()[0]) < byte);
        let starts = (0..=256).map(start).collect();
        Self { tokens, starts }
    }

    /// Length and id of the longest token at the start of `text`, which must not be empty.
    pub fn longest_at(&self, text: &[u8]) -> Option<(usize, u32)> {
        let mut longest = None;
        self.each_at(text, |len, id| longest = Some((len, id)));
        longest
    }

    /// Length and id of each token at the start of `text`, which must not be empty, the shortest first.
    pub fn each_at(&self, text: &[u8], mut take: impl FnMut(usize, u32)) {
        let first = usize::from(text[0]);
        let mut left = &self.tokens[self.starts[first]..self.starts[first + 1]];
        let mut depth = 1;
        // `left` holds the tokens that agree with the text in their first `depth` bytes.
        while let Some((token, id)) = left.first() {
            if token.len() == depth {
                take(depth, *id);
                left = &left[1..];
                continue;
            }
            let Some(&byte) = text.get(depth) else { break };
            let from = left.partition_point(|(token, _)| token.as_bytes()[depth] < byte);
            let to = left.partition_point(|(token, _)| token.as_bytes()[depth] <= byte);
            left = &left[from..to];
            depth += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::vocab::Spelling;

    #[test]
    fn the_longest_token_wins_and_markup_is_found_on_request() {
        use Kind::*;
        let tokens = [
            ("<s>", Control),
            ("<s>x", Control),
            ("  ", UserDefined),
            ("    ", UserDefined),
            ("a", Normal),
            ("<u>", Unknown),
        ];
        let (texts, kinds) = tokens.iter().map(|&(text, kind)| (text.to_string(), kind)).unzip();
        let specials = Specials::new(&Vocab::new(texts, kinds, Spelling::Bytes).unwrap());
        use Part::{Text, Token};
        assert_eq!(specials.cut("<s>a<s>xé", true), [Token(0), Text("a"), Token(1), Text("é")]);
        assert_eq!(specials.cut("<s", true), [Text("<s")]);
        assert_eq!(specials.cut("<u>", true), [Token(5)]);
        assert_eq!(specials.cut("<s>é       a", false), [Text("<s>é"), Token(3), Token(2), Text(" a")]);
        assert_eq!(specials.cut("", true), []);
    }
}
