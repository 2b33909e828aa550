//! Options for the form of an answer: a grammar or a JSON schema.

use std::path::PathBuf;

use clap::Args;

use crate::{
    cli::input,
    error::Result,
    generate::{Constraint, Grammar},
    tokenizer::Tokenizer,
};

/// Form that an answer must have.
#[derive(Args, Debug)]
#[command(next_help_heading = "Form of the answer")]
#[group(multiple = false)]
pub struct GrammarArgs {
    /// Write only what this grammar allows: GBNF as for llama.cpp, or Lark as for llguidance
    #[arg(long, value_name = "GRAMMAR", allow_hyphen_values = true)]
    pub grammar: Option<String>,

    /// As --grammar, from a file
    #[arg(long, value_name = "FILE")]
    pub grammar_file: Option<PathBuf>,

    /// Write JSON that this JSON schema allows; {} = any
    #[arg(short, long, value_name = "SCHEMA", allow_hyphen_values = true)]
    pub json_schema: Option<String>,

    /// As --json-schema, from a file [llama.cpp: -jf]
    #[arg(long, value_name = "FILE")]
    pub json_schema_file: Option<PathBuf>,
}

impl GrammarArgs {
    /// Compiled for the tokens of `tokenizer`; `None` where no flag is given.
    pub fn constraint(&self, tokenizer: &Tokenizer) -> Result<Option<Constraint>> {
        let given = |text: &Option<String>, file: &Option<PathBuf>| match (text, file) {
            (Some(text), _) => Ok(Some(text.clone())),
            (None, Some(file)) => input::small_file(file).map(Some),
            (None, None) => Ok(None),
        };
        let grammar = match given(&self.grammar, &self.grammar_file)? {
            Some(text) => Some(Grammar::Text(text)),
            None => given(&self.json_schema, &self.json_schema_file)?.map(Grammar::JsonSchema),
        };
        let file = self.grammar_file.as_ref().or(self.json_schema_file.as_ref());
        let compiled = grammar.map(|grammar| Constraint::new(&grammar, tokenizer)).transpose();
        let compiled = compiled.map_err(|error| match file {
            Some(file) => error.in_file(file.display().to_string()),
            None => error,
        })?;
        for warning in compiled.iter().flat_map(Constraint::warnings) {
            log::warn!("{warning}");
        }
        Ok(compiled)
    }
}
