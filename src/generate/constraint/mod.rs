//! Answers that have to follow a grammar or a JSON schema: which tokens may come next. The work is done by the crate
//! `llguidance`, on a tree of all tokens.

mod gbnf;
mod schema;

use std::{sync::Arc, thread};

use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};

use crate::{
    error::{Error, Result},
    tokenizer::Tokenizer,
};

/// Grammar that the text of an answer has to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// A grammar in llama.cpp's GBNF, or in the Lark dialect of llguidance. What has `::=` in it is GBNF.
    Text(String),
    /// JSON that a JSON schema describes.
    JsonSchema(String),
}

impl Grammar {
    fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "grammar",
            Self::JsonSchema(_) => "JSON schema",
        }
    }
}

/// A compiled [`Grammar`] and how far an answer has come in it. Clones share nothing that they change.
#[derive(Clone)]
pub struct Constraint {
    start: Matcher,
    now: Matcher,
    name: &'static str,
    warnings: Vec<String>,
}

/// The tokens of a model as grammars need them. Made once for many grammars: it takes a pass over the vocabulary.
#[derive(Clone)]
pub struct GrammarVocabulary(Arc<ParserFactory>);

impl GrammarVocabulary {
    /// The tokens of `tokenizer`.
    ///
    /// # Errors
    /// If they are of no use for grammars.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let mut factory = ParserFactory::new(&tokens(tokenizer), InferenceCapabilities::default(), &[])
            .map_err(|error| Error::unsupported("this vocabulary with grammars", one_line(&format!("{error:#}"))))?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Self(Arc::new(factory)))
    }
}

impl Constraint {
    /// Compiles `grammar` for the tokens of `tokenizer`.
    pub fn new(grammar: &Grammar, tokenizer: &Tokenizer) -> Result<Self> {
        Self::compile(grammar, &GrammarVocabulary::new(tokenizer)?)
    }

    /// As [`new`](Self::new), for tokens that were prepared.
    pub fn compile(grammar: &Grammar, vocabulary: &GrammarVocabulary) -> Result<Self> {
        let name = grammar.name();
        let wrong = |reason: String| Error::unsupported(format!("this {name}"), reason_of(&reason));
        let top = match grammar {
            Grammar::Text(text) if text.contains("::=") => TopLevelGrammar::from_lark(gbnf::to_lark(text)?),
            Grammar::Text(text) => TopLevelGrammar::from_lark(text.clone()),
            Grammar::JsonSchema(text) => {
                let schema = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
                TopLevelGrammar::from_json_schema(schema::prepared(schema))
            }
        };
        let compile = || -> std::result::Result<Matcher, String> {
            let matcher = Matcher::new(vocabulary.0.create_parser(top));
            match matcher.get_error() {
                Some(error) => Err(error),
                None => Ok(matcher),
            }
        };
        let mut start = on_deep_stack(compile)?.map_err(wrong)?;
        let warnings = start.grammar_warnings().iter().map(|text| format!("{name}: {}", one_line(text))).collect();
        Ok(Self { now: start.clone(), start, name, warnings })
    }

    /// Oddities of the grammar that do not keep it from working.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A new answer begins.
    pub fn begin(&mut self) {
        self.now = self.start.clone();
    }

    /// The ids that may come next, a bit each, the lowest first.
    pub fn allowed(&mut self) -> Result<Vec<u32>> {
        let allowed = self.now.compute_mask_or_eos().map_err(|error| self.broken(&error.to_string()))?;
        Ok(allowed.as_slice().to_vec())
    }

    /// The answer goes on with `id`. True when nothing can follow.
    pub fn accept(&mut self, id: u32) -> Result<bool> {
        self.now.consume_token(id).map_err(|error| self.broken(&error.to_string()))?;
        Ok(self.now.is_stopped())
    }

    /// There is no way on.
    pub(super) fn broken(&self, reason: &str) -> Error {
        Error::unsupported(format!("this {}", self.name), reason_of(reason))
    }
}

/// Stack of a compilation, of which pages are taken as they are used. Schemas are followed from reference to reference:
/// a chain of 300 overflows the 2 MB of a thread.
const DEEP_STACK: usize = 256 << 20;

/// Runs what recurses as deeply as a grammar says.
///
/// # Errors
/// If the system grants no thread with such a stack.
fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let started = thread::Builder::new().name("grammar".into()).stack_size(DEEP_STACK).spawn_scoped(scope, work);
        let done = started.map_err(|error| Error::io("start", "a thread that compiles a grammar", error))?.join();
        done.map_err(|_| Error::unsupported("this grammar", "its compiler met a bug"))
    })
}

/// The tokens as bytes. Markup has a mark in front that no text has, and so have end tokens: they are allowed where the
/// grammar is complete.
fn tokens(tokenizer: &Tokenizer) -> TokEnv {
    let ends = tokenizer.end_ids();
    let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as u32)
        .map(|id| match tokenizer.token_bytes(id) {
            bytes if bytes.is_empty() || ends.contains(&id) => {
                let text = tokenizer.token_text(id).unwrap_or_default();
                [&[TokTrie::SPECIAL_TOKEN_MARKER], text.as_bytes()].concat()
            }
            bytes => bytes.to_vec(),
        })
        .collect();
    // A vocabulary without an end has an id beyond all others for it, which no backend gives logits for.
    let first_end = ends.first().copied().unwrap_or(words.len() as u32);
    let mut words = words;
    if ends.is_empty() {
        words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], &b"end"[..]].concat());
    }
    let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, first_end), &words);
    let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(ends) };
    Arc::new(ApproximateTokEnv::new(trie))
}

/// llguidance's words for what went wrong, or plainer ones where those speak of its insides.
fn reason_of(text: &str) -> String {
    if text.contains("NoExtensionBias") {
        return "no text follows it: what it begins with refers only to itself".into();
    }
    let numbers = text.split_once("Current row has ").and_then(|(_, rest)| {
        let (items, rest) = rest.split_once(" items; max is ")?;
        let most = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some((items.parse::<usize>().ok()?, most.parse::<usize>().ok()?))
    });
    match numbers {
        Some((items, most)) => format!(
            "it has too many ways to go on at one place: {items} parts of rules, where {most} are the most (each \
             property that may be left out adds some: `required` takes them away)"
        ),
        None => one_line(text),
    }
}

/// Messages of several lines in one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
