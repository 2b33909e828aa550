//! `chat` and `run -cnv`: a conversation.

mod command;

mod lines;

mod voice;

mod wrap;

use std::{path::Path, sync::Arc};

use clap::ValueEnum;

use self::{
    command::{Command, HELP},
    lines::Lines,
    voice::Voice,
    wrap::Wrap,
};
use super::{
    answering::{Answered, Said, answer, answer_options, purpose, settings_text, unescape},
    args::{
        AnswerArgs, ChatArgs, DraftArgs, EngineArgs, GrammarArgs, ModelArgs, ReasoningArgs, ReasoningChoice, RunArgs,
        SampleArgs,
    },
    engine::segment_line,
    format, input, interrupt, output, source, usage,
};
use crate::{
    chat::{Conversation, Format, Message, Origin, Role, Template, Variables},
    engine::{Engine, EngineOptions},
    error::{Error, Result, shown},
    generate::{AnswerOptions, Chooser, Finish, ReasoningLimit, SampleOptions, Sampler},
    session::Session,
    tokenizer::Tokenizer,
};

/// The flags of either command.
struct Wishes<'a> {
    model: &'a ModelArgs,
    engine: &'a EngineArgs,
    sample: &'a SampleArgs,
    grammar: &'a GrammarArgs,
    draft: &'a DraftArgs,
    answer: &'a AnswerArgs,
    system: Option<String>,
    template: Option<&'a str>,
    template_kwargs: Option<&'a str>,
    reasoning: ReasoningArgs,
    verbose: bool,
}

pub fn run(args: &ChatArgs, verbose: bool) -> Result<()> {
    let system = args.chat.system_prompt.as_ref().map(|text| unescape(args.answer.no_escape, text)).transpose()?;
    converse(&Wishes {
        model: &args.model,
        engine: &args.engine,
        sample: &args.sample,
        grammar: &args.grammar,
        draft: &args.draft,
        answer: &args.answer,
        system,
        template: args.chat.chat_template.as_deref(),
        template_kwargs: args.chat.chat_template_kwargs.as_deref(),
        reasoning: args.reasoning,
        verbose,
    })
}

/// bitnet.cpp's way: the prompt of `run` is the system prompt of the conversation.
pub fn run_conversation(args: &RunArgs, verbose: bool) -> Result<()> {
    converse(&Wishes {
        model: &args.model,
        engine: &args.engine,
        sample: &args.sample,
        grammar: &args.grammar,
        draft: &args.draft,
        answer: &args.answer,
        system: system_prompt(args)?,
        template: args.chat.chat_template.as_deref(),
        template_kwargs: args.chat.chat_template_kwargs.as_deref(),
        reasoning: args.reasoning,
        verbose,
    })
}

/// For `-cnv`: `-sys`, or the prompt as bitnet.cpp has it. Standard input is what the person says.
fn system_prompt(args: &RunArgs) -> Result<Option<String>> {
    let given = args.given.prompt.as_ref();
    match (&args.chat.system_prompt, given, &args.given.file) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(usage(
            "with -cnv the prompt is the system prompt: -sys is one too many",
            "bitnet-gpu run -cnv -p \"Be brief.\"",
        )),
        (Some(text), None, None) | (None, Some(text), _) => unescape(args.answer.no_escape, text).map(Some),
        (None, None, Some(file)) => Ok(input::text(None, Some(file))?.map(input::without_last_line_break)),
        (None, None, None) => Ok(None),
    }
}

fn converse(wishes: &Wishes<'_>) -> Result<()> {
    let source = source::open(wishes.model)?;
    let model = source.model()?;
    let mtp = wishes.draft.uses_mtp(model)?;
    let engine = Engine::new(&source, EngineOptions { mtp, ..EngineOptions::from(wishes.engine) });
    let tokenizer = Arc::clone(source.tokenizer()?);
    let template = template(wishes.template, &tokenizer, source.name())?;
    let variables = wishes.template_kwargs.map(Variables::from_json).transpose()?.unwrap_or_default();
    let mut options = answer_options(&tokenizer, wishes.answer)?;
    options.stop.extend(template.stops());
    let sample = wishes.sample.options(source.recommended(), &tokenizer, model.config.vocab)?;
    let sampler = Sampler::new(sample.clone(), engine.context_tokens()?)?;
    let constraint = wishes.grammar.constraint(&tokenizer)?;
    let chooser = Chooser { sampler, drafter: Some(wishes.draft.drafter()), constraint };
    let session = engine.load(&purpose(&sample, &chooser))?;
    if wishes.verbose {
        let settings = wishes.sample.settings(source.recommended(), &sample);
        output::note(format_args!("sampling {}", settings_text(&settings)));
    }
    let named = source.file().metadata().str("general.name").ok().flatten();
    let mut chat = Chat {
        name: named.unwrap_or(source.name()).to_owned(),
        tokenizer,
        template,
        variables,
        reasoning: wishes.reasoning,
        session,
        sample,
        chooser,
        options,
        conversation: Conversation::new(wishes.system.as_deref()),
        file: None,
        verbose: wishes.verbose,
    };
    chat.introduce(wishes.model.model.is_none());
    chat.talk()
}

/// The template of `--chat-template`, a name, a file or the text of one, or the model's own.
pub fn template(wish: Option<&str>, tokenizer: &Tokenizer, model: &str) -> Result<Template> {
    let Some(wish) = wish else { return Template::of(tokenizer).map_err(|e| e.in_file(model)) };
    if let Some(format) = Format::by_name(wish) {
        return Ok(Template::built_in(format, tokenizer));
    }
    if let Some((_, source)) = tokenizer.named_chat_templates().iter().find(|(name, _)| name == wish) {
        return Template::jinja(source, tokenizer).map_err(|e| e.in_file(model));
    }
    if wish.contains("{{") || wish.contains("{%") {
        return Template::jinja(wish, tokenizer);
    }
    if !Path::new(wish).exists() {
        let own = tokenizer.named_chat_templates().iter().map(|(name, _)| name.as_str());
        let names = Format::ALL.map(Format::name).into_iter().chain(own).collect::<Vec<_>>().join(", ");
        return Err(Error::Usage(format!("no chat template {wish:?}: it is none of {names}, and no file")));
    }
    let source = input::small_file(Path::new(wish))?;
    Template::jinja(&source, tokenizer).map_err(|e| e.in_file(wish))
}

struct Chat {
    name: String,
    tokenizer: Arc<Tokenizer>,
    template: Template,
    /// Those that the person gave.
    variables: Variables,
    reasoning: ReasoningArgs,
    session: Session,
    sample: SampleOptions,
    chooser: Chooser,
    options: AnswerOptions,
    conversation: Conversation,
    /// File that the conversation was last written to or read from.
    file: Option<String>,
    verbose: bool,
}

impl Chat {
    fn introduce(&self, built_in_model: bool) {
        if built_in_model {
            output::note("note: the built-in model tells stories and is no assistant (-m takes another)");
        } else if self.template.origin() == Origin::Guess {
            output::note(
                "note: the model has no chat template, so it may not be made for conversations; ChatML is used \
                 (--chat-template takes another)",
            );
        }
        self.check_reasoning();
        if self.verbose {
            for (segment, device) in self.session.segments() {
                output::note(segment_line(segment, device));
            }
        }
    }

    /// A word where the template cannot be told what is wanted.
    fn check_reasoning(&self) {
        let limited = match self.reasoning.wanted() {
            Some(_) if self.template.knows_reasoning() => return,
            Some(true) => "changes nothing",
            Some(false) => "ends it where the model begins it",
            None => return,
        };
        output::note(format_args!(
            "note: the chat template cannot ask for thinking or none (no enable_thinking in it): --reasoning {limited}"
        ));
    }

    fn talk(&mut self) -> Result<()> {
        let mut lines = Lines::new();
        if lines.interactive() {
            output::note(format_args!("{}: /help shows the commands, /bye ends", self.name.escape_debug()));
        }
        // From here on Ctrl-C stops an answer and not the program.
        interrupt::catch();
        while !interrupt::is_last()
            && let Some(text) = lines.next()?
        {
            let done = match Command::parse(&text) {
                Some(Ok(Command::Bye)) => break,
                Some(command) => command.and_then(|command| self.obey(&command, &mut lines)),
                None if text.trim().is_empty() => continue,
                None => self.say(&text),
            };
            match done {
                Ok(()) => {}
                // In a script, what follows a mistake was written for something else.
                Err(error) if !lines.interactive() || output::is_closed_pipe(&error) => return Err(error),
                Err(error) => output::error(super::one_line(&super::error_text(&error))),
            }
        }
        Ok(())
    }

    /// One turn.
    fn say(&mut self, text: &str) -> Result<()> {
        self.conversation.ask(text);
        let answered = self.prompt().and_then(|prompt| {
            interrupt::clear();
            let limit = ReasoningLimit::after(&prompt, self.reasoning.max_tokens(), &self.tokenizer)?;
            let options = AnswerOptions { reasoning: Some(limit), ..self.options.clone() };
            let (mut voice, mut wrap) = (Voice::of_stdout(), Wrap::of_stdout());
            let show = |said: &Said<'_>| output::print(&wrap.push(&voice.say(said)));
            let answered = answer(&self.tokenizer, &prompt, &mut self.session, &mut self.chooser, options, show);
            let last = wrap.push(voice.end()) + &wrap.end();
            output::print(&format!("{last}\n"))?;
            answered.map(|answered| (prompt, answered))
        });
        interrupt::clear();
        let (prompt, answered) = answered.inspect_err(|_| self.conversation.take_back())?;
        if answered.ids.is_empty() && answered.finish == Finish::Cancelled {
            self.conversation.take_back();
        } else {
            self.conversation.answer(&self.template, &self.variables(), prompt, &answered.ids, &answered.text)?;
        }
        self.report(&answered);
        Ok(())
    }

    /// A new answer to the last question; the old one stays where there is none.
    fn answer_again(&mut self) -> Result<()> {
        let turn = self.conversation.take_back_turn();
        let Some(question) = turn.first().map(|question| question.content.clone()) else {
            return Err(Error::Usage("there is no question to answer again".into()));
        };
        let before = self.conversation.messages().len();
        let said = self.say(&question);
        if self.conversation.messages().len() == before {
            self.conversation.put_back_turn(turn);
        }
        said
    }

    /// Variables for the template.
    fn variables(&self) -> Variables {
        let mut variables = self.variables.clone();
        if let Some(wanted) = self.reasoning.wanted() {
            variables.set_reasoning(Some(wanted));
        }
        variables
    }

    /// The ids for the next answer. Where they leave little room for it, the oldest turns are dropped.
    fn prompt(&mut self) -> Result<Vec<u32>> {
        let context = self.session.context_tokens();
        let room = (context / 4).min(self.options.max_tokens.unwrap_or(usize::MAX)).max(1);
        let variables = self.variables();
        let mut dropped = 0;
        loop {
            let ids = self.conversation.prompt(&self.template, &variables, &self.tokenizer)?;
            let needed = ids.len() + room;
            if needed > context && self.conversation.forget_oldest_turn() {
                dropped += 1;
                continue;
            }
            // The last question alone may take some of the room, but there has to be an answer.
            if ids.len() >= context {
                return Err(Error::ContextFull { needed: ids.len() + 1, context });
            }
            if dropped > 0 {
                let turns = format::count(dropped, "turn");
                output::note(format_args!("(the context is full: {turns} forgotten, the oldest; -c raises it)"));
            }
            return Ok(ids);
        }
    }

    fn report(&self, answered: &Answered) {
        match answered.finish {
            Finish::Cancelled => output::note("(stopped)"),
            Finish::MaxTokens => output::note("(ended by -n)"),
            Finish::ContextFull => output::note("(the context is full: ended; -c raises it)"),
            Finish::EndToken(_) | Finish::StopString(_) | Finish::Complete => {}
        }
        if self.verbose {
            let stats = &answered.stats;
            output::note(format_args!(
                "prompt   {} ({} reused), {} tok/s ({})\nanswer   {}, {} tok/s ({})",
                format::count(stats.prompt_tokens, "token"),
                stats.reused_tokens,
                format::rate(stats.prefill_rate()),
                format::duration(stats.prefill),
                format::count(stats.generated_tokens, "token"),
                format::rate(stats.decode_rate()),
                format::duration(stats.decode()),
            ));
            if stats.drafted_tokens > 0 {
                let drafts = format::count(stats.drafted_tokens, "token");
                output::note(format_args!("drafts   {drafts} guessed, {} right", stats.accepted_tokens));
            }
        }
    }

    fn obey(&mut self, command: &Command<'_>, lines: &mut Lines) -> Result<()> {
        match *command {
            Command::Set { name, value } => self.set(name, value),
            Command::Show => output::print(&self.description()),
            Command::Clear => {
                let system = self.conversation.system().map(str::to_owned);
                self.conversation = Conversation::new(system.as_deref());
                // Another conversation from here on.
                self.file = None;
                Ok(())
            }
            Command::Regenerate => self.answer_again(),
            Command::Undo => match self.conversation.take_back_turn().first() {
                Some(question) => {
                    output::note(format_args!("(taken back: {})", shown(&question.content)));
                    Ok(())
                }
                None => Err(Error::Usage("there is nothing to take back".into())),
            },
            Command::Save(file) => {
                let is_another = Path::new(file).exists() && self.file.as_deref() != Some(file);
                if is_another && !lines.confirms(&format!("{file} exists. Overwrite it?"))? {
                    return Err(Error::Usage(format!("{file} exists and was left as it is")));
                }
                self.conversation.save(file.as_ref(), &self.name)?;
                self.file = Some(file.to_owned());
                let messages = format::count(self.conversation.messages().len(), "message");
                output::note(format_args!("({messages} written to {file})"));
                Ok(())
            }
            Command::Load(file) => {
                self.conversation = Conversation::load(file.as_ref(), &self.name)?;
                self.file = Some(file.to_owned());
                let messages = format::count(self.conversation.messages().len(), "message");
                output::note(format_args!("({messages} read from {file})"));
                Ok(())
            }
            Command::Help => output::print(HELP),
            // Ends the loop before it comes here.
            Command::Bye => Ok(()),
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
            value.parse().map_err(|_| usage(&format!("{name} is not set to {value:?}"), "/set temp 0.5"))
        }
        let mut sample = self.sample.clone();
        match name {
            "temp" | "temperature" => sample.temperature = number(name, value)?,
            "top_k" => sample.top_k = number(name, value)?,
            "top_p" => sample.top_p = number(name, value)?,
            "min_p" => sample.min_p = number(name, value)?,
            "typical" => sample.typical_p = number(name, value)?,
            "frequency_penalty" => sample.frequency_penalty = number(name, value)?,
            "presence_penalty" => sample.presence_penalty = number(name, value)?,
            "repeat_penalty" => sample.repeat_penalty = number(name, value)?,
            "seed" => sample.seed = Some(number(name, value)?),
            "n" => self.options.max_tokens = usize::try_from(number::<i64>(name, value)?).ok(),
            "reasoning" => {
                self.reasoning.reasoning = ReasoningChoice::from_str(value, false)
                    .map_err(|_| usage("reasoning is on, off or auto", "/set reasoning off"))?;
                self.check_reasoning();
            }
            "reasoning_budget" => self.reasoning.reasoning_budget = number::<i64>(name, value)?.max(-1),
            "system" => self.conversation.set_system(Some(value)),
            "verbose" => {
                self.verbose = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(usage("verbose is on or off", "/set verbose on")),
                }
            }
            _ => return Err(Error::Usage(format!("there is nothing called {name:?} to set (/help lists the names)"))),
        }
        // Refuses what makes no sense, and then nothing changes.
        self.chooser.sampler = Sampler::new(sample.clone(), self.session.context_tokens())?;
        self.sample = sample;
        Ok(())
    }

    fn description(&self) -> String {
        let sample = &self.sample;
        let template = match (self.template.format(), self.template.origin()) {
            (Some(format), _) => format!("{} (built in)", format.name()),
            (None, Origin::User) => "Jinja from --chat-template".into(),
            (None, _) => "Jinja from the model file".into(),
        };
        let limit = self.options.max_tokens.map_or_else(|| "no limit".into(), |n| n.to_string());
        let mut text = format!(
            "model     {}\ntemplate  {template}\ncontext   {} of {} tokens\n\
             settings  temp {}, top_k {}, top_p {}, min_p {}, repeat_penalty {}, seed {}, reasoning {}, n {limit}\n",
            self.name.escape_debug(),
            self.session.tokens().len(),
            self.session.context_tokens(),
            sample.temperature,
            sample.top_k,
            sample.top_p,
            sample.min_p,
            sample.repeat_penalty,
            self.chooser.sampler.seed(),
            self.reasoning.reasoning.name(),
        );
        let remembered = self.conversation.remembered();
        let forgotten = self.conversation.messages().len() - remembered.len();
        for Message { role, content, .. } in remembered {
            let mark = if role == Role::User { ">" } else { role.name() };
            text += &format!("{mark} {}\n", shown(&content));
        }
        if forgotten > 0 {
            let messages = format::count(forgotten, "older message");
            text += &format!("({messages} that the model does not see any more; /save keeps all)\n");
        }
        text
    }
}
