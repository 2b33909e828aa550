//! Which template a model is talked to with.

use super::{
    Format, Message, Variables,
    jinja::Jinja,
    variables::{REASONING, TOOLS},
};
use crate::{
    error::{Error, Remedy, Result, shown},
    tokenizer::Tokenizer,
};

/// A word in the template that bitnet.cpp's converter puts into files. It is no template but a mark (bitnet.cpp
/// looks for this word and uses its own format); the model was not trained on what it writes.
const BITNET_MARK: &str = "BITNET";

/// Name that transformers gives to templates for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// Where a template comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file's own Jinja template.
    File,
    /// The file has bitnet.cpp's mark in its place.
    Mark,
    /// The file has none: ChatML is a guess, and the model may never have seen a conversation.
    Guess,
    /// The user chose it.
    User,
}

/// Writes conversations as prompts.
#[derive(Debug)]
pub struct Template {
    kind: Kind,
    /// For conversations with tools, where the model has one for them.
    with_tools: Option<Box<Jinja>>,
    origin: Origin,
    bos: String,
    eos: String,
}

#[derive(Debug)]
enum Kind {
    BuiltIn(Format),
    Jinja(Box<Jinja>),
    /// Templates with other names only.
    Absent(Vec<String>),
}

impl Template {
    /// The one that fits a model file.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let named = tokenizer.named_chat_templates();
        let mut template = match tokenizer.chat_template() {
            None if named.is_empty() => Self::new(Kind::BuiltIn(Format::ChatMl), Origin::Guess, tokenizer),
            None => {
                let names = named.iter().map(|(name, _)| name.clone()).collect();
                Self::new(Kind::Absent(names), Origin::File, tokenizer)
            }
            Some(source) if source.contains(BITNET_MARK) => {
                Self::new(Kind::BuiltIn(Format::BitNet), Origin::Mark, tokenizer)
            }
            Some(source) => Self::new(Kind::Jinja(Box::new(Jinja::compile(source)?)), Origin::File, tokenizer),
        };
        if let Some((_, source)) = named.iter().find(|(name, _)| name == TOOL_USE) {
            template.with_tools = Some(Box::new(Jinja::compile(source)?));
        }
        Ok(template)
    }

    /// A built-in one.
    pub fn built_in(format: Format, tokenizer: &Tokenizer) -> Self {
        Self::new(Kind::BuiltIn(format), Origin::User, tokenizer)
    }

    /// A Jinja template that the user gave.
    pub fn jinja(source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        Ok(Self::new(Kind::Jinja(Box::new(Jinja::compile(source)?)), Origin::User, tokenizer))
    }

    fn new(kind: Kind, origin: Origin, tokenizer: &Tokenizer) -> Self {
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or_default().to_owned();
        Self { kind, with_tools: None, origin, bos: text(tokenizer.bos()), eos: text(tokenizer.eos()) }
    }

    /// Where it comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Texts that end an answer, where the markup of the format is ordinary text and not one token.
    pub fn stops(&self) -> Vec<String> {
        self.format().into_iter().flat_map(Format::stops).map(|&stop| stop.to_owned()).collect()
    }

    /// The name of a built-in format; `None` for Jinja.
    pub fn format(&self) -> Option<Format> {
        match self.kind {
            Kind::BuiltIn(format) => Some(format),
            Kind::Jinja(_) | Kind::Absent(_) => None,
        }
    }

    /// The text of `messages` and of the beginning of the answer to them.
    ///
    /// Text that looks like markup in a message becomes markup: as with Hugging Face and llama.cpp, the text is all
    /// there is.
    pub fn render(&self, messages: &[Message], variables: &Variables) -> Result<String> {
        self.render_with(messages, variables, true)
    }

    /// As [`render`](Self::render), without the beginning of the answer where it is not wanted.
    pub fn render_with(&self, messages: &[Message], variables: &Variables, with_answer: bool) -> Result<String> {
        if let Some(jinja) = self.with_tools.as_ref().filter(|_| variables.has_tools()) {
            return jinja.render(messages, variables, &self.bos, &self.eos, with_answer);
        }
        match &self.kind {
            Kind::Absent(names) => {
                let found = format!("only {}", names.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", "));
                let error = Error::malformed("chat template", "one called default", found);
                Err(error.with_remedy(Remedy::ChatTemplate))
            }
            Kind::BuiltIn(format) => Ok(format.render(messages, variables, &self.bos, &self.eos, with_answer)),
            Kind::Jinja(jinja) => jinja.render(messages, variables, &self.bos, &self.eos, with_answer),
        }
    }

    /// The Jinja source; `None` for a built-in format.
    pub fn source(&self) -> Option<&str> {
        match &self.kind {
            Kind::BuiltIn(_) | Kind::Absent(_) => None,
            Kind::Jinja(jinja) => Some(jinja.source()),
        }
    }

    /// Whether it looks at [`Variables::set_tools`], so that the model may call them.
    pub fn knows_tools(&self) -> bool {
        match &self.kind {
            _ if self.with_tools.is_some() => true,
            Kind::BuiltIn(_) | Kind::Absent(_) => false,
            Kind::Jinja(jinja) => jinja.reads(TOOLS),
        }
    }

    /// Whether it looks at [`Variables::set_reasoning`].
    pub fn knows_reasoning(&self) -> bool {
        match &self.kind {
            Kind::BuiltIn(format) => format.knows_reasoning(),
            Kind::Jinja(jinja) => jinja.reads(REASONING),
            Kind::Absent(_) => false,
        }
    }
}
