//! Flags about the reasoning of a model before it answers.

use clap::{Args, ValueEnum};

/// Flags about the reasoning of a model before it answers.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Reasoning")]
pub struct ReasoningArgs {
    /// Let the model think before it answers, where its chat template can ask for that; auto = as the template has it, in
    /// `serve` as on
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto", env = "LLAMA_ARG_REASONING")]
    pub reasoning: ReasoningChoice,

    /// Most tokens it may think, then its answer is begun; 0 = as --reasoning off, -1 = no limit
    #[arg(
        long,
        value_name = "N",
        default_value_t = -1,
        value_parser = clap::value_parser!(i64).range(-1..),
        allow_negative_numbers = true,
        env = "LLAMA_ARG_THINK_BUDGET"
    )]
    pub reasoning_budget: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReasoningChoice {
    On,
    Off,
    Auto,
}

impl ReasoningChoice {
    pub fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Auto => "auto",
        }
    }
}

impl ReasoningArgs {
    /// The wish for the chat template.
    pub fn wanted(&self) -> Option<bool> {
        match self.reasoning {
            _ if self.max_tokens() == Some(0) => Some(false),
            ReasoningChoice::On => Some(true),
            ReasoningChoice::Off | ReasoningChoice::Auto => None,
        }
    }

    /// The most tokens; `None` = no limit.
    pub fn max_tokens(&self) -> Option<usize> {
        match self.reasoning {
            ReasoningChoice::Off => Some(0),
            ReasoningChoice::On | ReasoningChoice::Auto => usize::try_from(self.reasoning_budget).ok(),
        }
    }
}
