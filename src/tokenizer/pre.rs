//! Pre-tokenizers: the patterns that cut text into words before byte-pair merging.
//!
//! A pre-tokenizer is a list of patterns applied one after the other. Each pattern is applied to every piece
//! the one before it left, and both its matches and the gaps between them become pieces. The patterns are the
//! ones the models were trained with (their `tokenizer.json`); the names are those of `tokenizer.ggml.pre`.

use std::ops::Range;

use tokenizers::utils::SysRegex;

use crate::error::{Error, Result, shown};

/// The longest run of white space a pattern is run over. `\s+(?!\S)` keeps one backtracking state per
/// character, and the regex engine gives up, silently, at a million.
const MAX_SPACE_RUN_CHARS: usize = 500_000;

/// GPT-2's words. White space at the end of a text is left over by the pattern and becomes a piece as a gap.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words that end where a lower-case letter meets an upper-case one. A number is cut into its digits.
const CASED: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Runs of punctuation; the backtick belongs to Falcon's class and not to that of `default`.
pub(super) const FALCON_PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|`]+";
const DEFAULT_PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";
pub(super) const THREE_DIGITS: &str = "[0-9][0-9][0-9]";
pub(super) const ONE_NUMBER: &str = r"\p{N}";
/// Han, kana and Hangul as the DeepSeek tokenizers list them.
const DEEPSEEK_HAN: &str = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
/// Cased letters as the DeepSeek LLM tokenizer lists them: Unicode's of the time, without Georgian Mkhedruli.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}",
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}",
    r"\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}",
    r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}",
    r"\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}",
    r"\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}",
    r"\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}",
    r"\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}",
    r"\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}",
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}",
    r"\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}",
    r"\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}",
    r"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+",
);

/// One way of cutting text, with the settings that go with its name.
#[derive(Debug)]
pub(super) struct Pre {
    /// Values of `tokenizer.ggml.pre` that mean it; the first one is written to new files.
    pub names: &'static [&'static str],
    /// Applied in this order.
    pub patterns: &'static [&'static str],
    /// A word that is a token as a whole is taken as it is, even where merging would not find it.
    pub ignore_merges: bool,
    /// Whether BOS comes first when the file does not say.
    pub add_bos: bool,
}

/// Every pre-tokenizer known here.
///
/// `falcon3`: bitnet.cpp, which made the ternary files that carry this name, cuts like Falcon with single digits;
/// llama.cpp reads it as `llama-bpe` (three digits, whole words first, BOS). No published test vector decides between
/// them. bitnet.cpp is followed, being the source of those files; a file that embeds its `tokenizer.json` is read by that
/// instead.
///
/// `falcon_e`: bitnet.cpp takes the same as for `falcon3`, but the model was trained with another. A port of bitnet.cpp
/// (lateralblast/birman, patch 0008) gives the patterns of its `tokenizer.json`: runs of punctuation, [`CASED`], single
/// digits. A second engine (Aefinity-AI/alice-aegis) found its ids to differ at line breaks between spaces until it cut
/// at `\s*[\r\n]+`, which GPT-2's pattern has not.
pub(super) const TABLE: &[Pre] = &[
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    Pre {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        patterns: &[LLAMA3],
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan", "megrez", "solar-open"],
        patterns: &[QWEN2],
        ignore_merges: false,
        add_bos: false,
    },
    Pre { names: &["qwen35"], patterns: &[QWEN35], ignore_merges: false, add_bos: false },
    Pre {
        names: &[
            "gpt-2",
            "mpt",
            "olmo",
            "phi-2",
            "jais",
            "trillion",
            "exaone4",
            "mellum",
            "gigachat",
            "granite-docling",
        ],
        patterns: &[GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["falcon"],
        patterns: &[FALCON_PUNCTUATION, GPT2, THREE_DIGITS],
        ignore_merges: false,
        add_bos: false,
    },
    Pre { names: &["falcon3"], patterns: &[FALCON_PUNCTUATION, GPT2, "[0-9]"], ignore_merges: false, add_bos: false },
    Pre {
        names: &["falcon_e", "falcon-e"],
        patterns: &[FALCON_PUNCTUATION, CASED],
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        patterns: &[ONE_NUMBER, GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["deepseek-llm"],
        patterns: &[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
            r"\s+$",
            DEEPSEEK_HAN,
            r"\p{N}+",
        ],
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["deepseek-coder"],
        patterns: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_HAN, ONE_NUMBER],
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["default"],
        patterns: &[DEFAULT_PUNCTUATION, GPT2, r"\p{N}+", THREE_DIGITS],
        ignore_merges: false,
        add_bos: false,
    },
];

impl Pre {
    /// The pre-tokenizer with this name. An unknown name is an error: any guess would give wrong ids silently.
    pub fn by_name(name: &str) -> Result<&'static Self> {
        TABLE.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
            let known: Vec<_> = TABLE.iter().map(|pre| pre.names[0]).collect();
            Error::unsupported(
                format!("tokenizer.ggml.pre \"{}\"", shown(name)),
                format!("known pre-tokenizers are {} and other names of these", known.join(", ")),
            )
        })
    }
}

/// The compiled patterns of a [`Pre`].
#[derive(Debug)]
pub(super) struct Splitter {
    patterns: Vec<SysRegex>,
}

impl Splitter {
    pub fn new(pre: &Pre) -> Result<Self> {
        let compile = |pattern: &&str| {
            SysRegex::new(pattern).map_err(|e| Error::malformed("pre-tokenizer pattern", "a regular expression", e))
        };
        Ok(Self { patterns: pre.patterns.iter().map(compile).collect::<Result<_>>()? })
    }

    /// The words of `text`, in order and without gaps.
    pub fn split(&self, text: &str) -> Result<Vec<Range<usize>>> {
        check_space_runs(text)?;
        let mut pieces = Vec::new();
        if !text.is_empty() {
            pieces.push(0..text.len());
        }
        for pattern in &self.patterns {
            let mut cut = Vec::with_capacity(pieces.len());
            for piece in pieces {
                let mut done = piece.start;
                for (start, end) in pattern.find_iter(&text[piece.clone()]) {
                    let (start, end) = (piece.start + start, piece.start + end);
                    cut.extend((done < start).then_some(done..start));
                    cut.extend((start < end).then_some(start..end));
                    done = end;
                }
                cut.extend((done < piece.end).then_some(done..piece.end));
            }
            pieces = cut;
        }
        Ok(pieces)
    }
}

/// Refuses runs of white space the regex engine cannot handle.
pub(super) fn check_space_runs(text: &str) -> Result<()> {
    if text.len() <= MAX_SPACE_RUN_CHARS {
        return Ok(());
    }
    let mut run = 0;
    for c in text.chars() {
        run = if c.is_whitespace() { run + 1 } else { 0 };
        if run > MAX_SPACE_RUN_CHARS {
            let expected = format!("at most {MAX_SPACE_RUN_CHARS} white-space characters in a row");
            return Err(Error::malformed("text to tokenize", expected, "more"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let splitter = Splitter::new(Pre::by_name(name).unwrap()).unwrap();
        splitter.split(text).unwrap().into_iter().map(|range| &text[range]).collect()
    }

    // Expected words are worked out by hand from the patterns.
    #[test]
    fn each_pre_tokenizer_cuts_as_its_patterns_say() {
        let text = "I'LL pay  $12345, ok?\n\n ";
        let cases: &[(&str, &[&str])] = &[
            ("llama-bpe", &["I", "'LL", " pay", " ", " $", "123", "45", ",", " ok", "?\n\n", " "]),
            ("qwen2", &["I", "'LL", " pay", " ", " $", "1", "2", "3", "4", "5", ",", " ok", "?\n\n", " "]),
            ("gpt-2", &["I", "'", "LL", " pay", " ", " $", "12345", ",", " ok", "?", "\n\n "]),
            ("starcoder", &["I", "'", "LL", " pay", " ", " $", "1", "2", "3", "4", "5", ",", " ok", "?", "\n\n "]),
            ("falcon", &["I", "'", "LL", " pay", "  ", "$", "123", "45", ",", " ok", "?", "\n\n "]),
            ("falcon3", &["I", "'", "LL", " pay", "  ", "$", "1", "2", "3", "4", "5", ",", " ok", "?", "\n\n "]),
            ("falcon_e", &["I", "'", "LL", " pay", "  ", "$", "1", "2", "3", "4", "5", ",", " ok", "?", "\n\n", " "]),
            ("default", &["I", "'", "LL", " pay", "  ", "$", "123", "45", ",", " ok", "?", "\n\n "]),
            (
                "deepseek-coder",
                &["I", "'", "LL", " pay", "  $", "1", "2", "3", "4", "5", ",", " ok", "?", "\n", "\n", " "],
            ),
        ];
        for (name, expected) in cases {
            assert_eq!(&words(name, text), expected, "{name}");
        }
    }

    #[test]
    fn unicode_classes_and_case_folding() {
        // U+017F folds to s; U+00A0 and U+3000 are white space; ² and Ⅷ are numbers; combining marks are no letters.
        assert_eq!(words("llama-bpe", "it'ſx"), ["it", "'ſ", "x"]);
        assert_eq!(words("llama-bpe", "a\u{a0}b\u{3000}\u{3000}c"), ["a", "\u{a0}b", "\u{3000}", "\u{3000}c"]);
        assert_eq!(words("llama-bpe", "x²Ⅷ３4"), ["x", "²Ⅷ３", "4"]);
        assert_eq!(words("llama-bpe", "កា"), ["ក", "ា"]);
        assert_eq!(words("qwen35", "កា"), ["កា"]);
        assert_eq!(words("gpt-2", "日本 語です"), ["日本", " 語です"]);
    }

    #[test]
    fn falcon_e_cuts_at_capitals_and_keeps_line_breaks_together() {
        assert_eq!(words("falcon_e", "myHTTPServer"), ["my", "HTTPServer"]);
        assert_eq!(words("falcon_e", "iPhoneÉté x²٣"), ["i", "Phone", "Été", " x", "²", "٣"]);
        assert_eq!(words("falcon_e", "a \n \n b"), ["a", " \n \n", " b"]);
        assert_eq!(words("falcon3", "a \n \n b"), ["a", " \n \n", " b"]);
        assert_eq!(words("falcon_e", "a \n \nb"), ["a", " \n \n", "b"]);
        assert_eq!(words("falcon3", "a \n \nb"), ["a", " \n ", "\n", "b"]);
    }

    #[test]
    fn only_falcon_takes_the_backtick_as_punctuation_of_its_own() {
        assert_eq!(words("falcon", "a ``b"), ["a", " ", "``", "b"]);
        assert_eq!(words("default", "a ``b"), ["a", " ``", "b"]);
    }

    #[test]
    fn trailing_and_inner_white_space() {
        assert_eq!(words("gpt-2", "a   b  "), ["a", "  ", " b", "  "]);
        assert_eq!(words("llama-bpe", "a \n b"), ["a", " \n", " b"]);
        assert!(words("gpt-2", "").is_empty());
    }

    #[test]
    fn unknown_names_are_refused_with_the_list() {
        let error = Pre::by_name("no-such").unwrap_err().to_string();
        assert!(error.contains("\"no-such\" is not supported") && error.contains("llama-bpe"), "{error}");
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TABLE.iter().flat_map(|pre| pre.names).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn white_space_runs_beyond_the_engine_are_an_error_and_shorter_ones_exact() {
        let run = " ".repeat(MAX_SPACE_RUN_CHARS);
        let text = format!("{run}a");
        let lengths: Vec<_> = words("llama-bpe", &text).iter().map(|word| word.len()).collect();
        assert_eq!(lengths, [MAX_SPACE_RUN_CHARS - 1, 2]);
        let splitter = Splitter::new(Pre::by_name("gpt-2").unwrap()).unwrap();
        assert!(splitter.split(&format!("{run} ")).is_err());
    }
}
