//! The commands that write text: `run` and `chat`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{EngineArgs, GrammarArgs, ModelArgs, ModelWord, ReasoningArgs, SampleArgs, TextArgs};
use crate::{
    error::{Error, Result},
    generate::Drafter,
    hub::ModelName,
    model::Model,
};

#[derive(Args, Debug)]
#[command(after_help = "Example: bitnet-gpu run -m model.gguf -p \"Once upon a time\" -n 64")]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// The text to continue, as -p; before it a model of the Hub, as -m
    #[arg(value_name = "[MODEL] PROMPT", num_args = 0..)]
    pub words: Vec<String>,

    #[command(flatten)]
    pub given: TextArgs,

    /// Whether the prompt is a word, to which text on standard input belongs.
    #[arg(skip)]
    pub is_question: bool,

    #[command(flatten)]
    pub answer: AnswerArgs,

    /// Process \n, \r, \t, \', \", \\ and \xHH in -p and --stop, which is the default
    #[arg(short, long, overrides_with = "no_escape")]
    pub escape: bool,

    /// Talk with the model, as `chat` does; the prompt is then the system prompt [llama.cpp: -cnv]
    #[arg(long, overrides_with = "no_conversation", conflicts_with_all = ["json", "bench", "no_display_prompt"])]
    pub conversation: bool,

    /// No conversation, which is the default
    #[arg(long, overrides_with = "conversation")]
    pub no_conversation: bool,

    /// Print the answer without the prompt before it
    #[arg(long)]
    pub no_display_prompt: bool,

    /// Print what the model thinks as well, with its tags
    #[arg(long)]
    pub show_thinking: bool,

    /// Print one JSON object instead of the text
    #[arg(long)]
    pub json: bool,

    /// Say in full after the answer how fast it was
    ///
    /// And on which backend, how sampled, and why it ended, as -v does. On a terminal it is said in short without.
    #[arg(long)]
    pub stats: bool,

    /// Run the prompt on the CPU, on the GPU (with -ngl, that many layers of it) and as auto decides, and print a
    /// table of all three
    #[arg(long)]
    pub bench: bool,

    /// Draw the rates of --bench into a new SVG file
    #[arg(long, value_name = "FILE", requires = "bench")]
    pub plot: Option<PathBuf>,

    #[command(flatten)]
    pub chat: ConversationArgs,

    #[command(flatten)]
    pub reasoning: ReasoningArgs,

    #[command(flatten)]
    pub grammar: GrammarArgs,

    #[command(flatten)]
    pub draft: DraftArgs,

    #[command(flatten)]
    pub engine: EngineArgs,

    #[command(flatten)]
    pub sample: SampleArgs,
}

impl RunArgs {
    /// Puts the words where their flags are: `run org/name`, `run org/name TEXT` and `run TEXT`. A word wins over a
    /// model that the environment names, as a flag does.
    ///
    /// # Errors
    /// If there is a word too many.
    pub fn settle(&mut self, model_of_environment: bool) -> Result<()> {
        let mut words = std::mem::take(&mut self.words);
        let flag_given = self.model.model.is_some() && !model_of_environment;
        // A text is not written like the name of a model, and where it is, -p says that it is a text.
        let named = words.first().is_some_and(|word| !flag_given && is_model(word));
        let is_split = match &self.given.prompt {
            Some(_) => words.len() > usize::from(named),
            None => words.len() > 2 || (flag_given && words.len() > 1),
        };
        if is_split {
            let text: Vec<&str> = self.given.prompt.iter().chain(&words).map(String::as_str).collect();
            let text = text.join(" ");
            return Err(Error::Usage(format!("a PROMPT of several words needs quotes: -p \"{text}\"")));
        }
        if named || words.len() > 1 {
            self.model.take_word(Some(PathBuf::from(words.remove(0))), model_of_environment)?;
        }
        let Some(text) = words.pop() else { return Ok(()) };
        if self.given.prompt.is_some() || self.given.file.is_some() {
            return Err(Error::Usage(format!("the PROMPT {text:?} is one too many: -p or -f gives one already")));
        }
        self.given.prompt = Some(text);
        self.is_question = true;
        Ok(())
    }
}

/// org/name or an address of the Hub, which is no file.
fn is_model(word: &str) -> bool {
    ModelName::parse(word).is_ok()
}

/// Several tokens a pass.
#[derive(Args, Debug)]
#[command(next_help_heading = "Engine")]
pub struct DraftArgs {
    /// Most tokens to guess and check in one pass, which changes the speed and not the text; 0 = none, auto = while it
    /// pays
    #[arg(
        long,
        visible_aliases = ["draft", "draft-n"],
        value_name = "N",
        default_value = "auto",
        value_parser = draft_limit,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_DRAFT_MAX"
    )]
    pub draft_max: DraftLimit,

    /// Where guesses are from, with commas between: ngram-simple (the text so far), draft-mtp (the model's block of
    /// multi-token prediction); auto = both as far as the model has them, none = no guesses
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_value = "auto", env = "LLAMA_ARG_SPEC_TYPE")]
    pub spec_type: Vec<SpecType>,
}

/// Where guesses are from, by llama.cpp's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SpecType {
    Auto,
    None,
    #[value(alias = "ngram")]
    NgramSimple,
    DraftMtp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftLimit {
    Auto,
    Count(usize),
}

fn draft_limit(text: &str) -> Result<DraftLimit, String> {
    match text {
        "auto" => Ok(DraftLimit::Auto),
        number => number
            .parse::<u16>()
            .map(|n| DraftLimit::Count(n.into()))
            .map_err(|_| "expected a number of tokens or \"auto\"".to_owned()),
    }
}

impl DraftArgs {
    pub fn drafter(&self) -> Drafter {
        let limit = match self.draft_max {
            DraftLimit::Auto => None,
            DraftLimit::Count(n) => Some(n),
        };
        Drafter::new(limit).from_sources(self.is_from(SpecType::NgramSimple), self.is_from(SpecType::DraftMtp))
    }

    /// Whether the model's block of multi-token prediction is of use.
    ///
    /// # Errors
    /// If it was asked for by name and the model has none.
    pub fn uses_mtp(&self, model: &Model) -> Result<bool> {
        let has = model.weights.mtp.is_some();
        if self.spec_type.contains(&SpecType::DraftMtp) && !has {
            return Err(Error::missing("a block of multi-token prediction that runs", "--spec-type draft-mtp"));
        }
        Ok(has && self.draft_max != DraftLimit::Count(0) && self.is_from(SpecType::DraftMtp))
    }

    fn is_from(&self, source: SpecType) -> bool {
        self.spec_type.iter().any(|ty| [source, SpecType::Auto].contains(ty))
            && !self.spec_type.contains(&SpecType::None)
    }
}

/// How long an answer is, and where it ends.
#[derive(Args, Debug)]
pub struct AnswerArgs {
    /// Most tokens of an answer; -1 = until the model ends or the context is full [default: -1; with --bench: 128]
    #[arg(
        short,
        long,
        visible_alias = "predict",
        value_name = "N",
        allow_negative_numbers = true,
        env = "LLAMA_ARG_N_PREDICT"
    )]
    pub n_predict: Option<i64>,

    /// End the answer before this text; can be given several times
    #[arg(short = 'r', long, visible_alias = "reverse-prompt", value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,

    /// Go on where the model would end
    #[arg(long)]
    pub ignore_eos: bool,

    /// Take \n, \t, \" and the like in the prompt and in stop texts literally
    #[arg(long)]
    pub no_escape: bool,
}

/// How a conversation is held.
#[derive(Args, Debug)]
#[command(next_help_heading = "Conversation")]
pub struct ConversationArgs {
    /// Instructions to the model before the first question [llama.cpp: -sys]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system_prompt: Option<String>,

    /// Instead of the model's own: bitnet, llama3, falcon3, chatml, qwen3, one of the model's own by name, a file
    /// with a Jinja template, or its text
    #[arg(long, visible_alias = "chat-template-file", value_name = "NAME|FILE|TEXT")]
    pub chat_template: Option<String>,

    /// Variables for the chat template: a JSON object
    #[arg(long, value_name = "JSON", env = "LLAMA_CHAT_TEMPLATE_KWARGS")]
    pub chat_template_kwargs: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: bitnet-gpu chat -m model.gguf -sys \"Be brief.\"")]
pub struct ChatArgs {
    #[command(flatten)]
    pub word: ModelWord,

    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub answer: AnswerArgs,

    #[command(flatten)]
    pub chat: ConversationArgs,

    #[command(flatten)]
    pub reasoning: ReasoningArgs,

    #[command(flatten)]
    pub grammar: GrammarArgs,

    #[command(flatten)]
    pub draft: DraftArgs,

    #[command(flatten)]
    pub engine: EngineArgs,

    #[command(flatten)]
    pub sample: SampleArgs,
}
