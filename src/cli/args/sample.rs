//! How the next token is chosen.

use clap::Args;

use crate::generate::SampleOptions;

/// How the next token is chosen.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SampleArgs {
    /// Random seed; the same seed gives the same text; -1 = a new one each time
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = -1,
        value_parser = clap::value_parser!(i64).range(-1..=u32::MAX as i64),
        allow_negative_numbers = true,
        env = "LLAMA_ARG_SEED"
    )]
    pub seed: i64,

    /// Temperature; 0 = always the most probable token [default: 0.8; with --bench: 0]
    #[arg(long, alias = "temperature", value_name = "T", allow_negative_numbers = true, env = "LLAMA_ARG_TEMP")]
    pub temp: Option<f32>,

    /// Choose among this many most probable tokens; 0 = among all
    #[arg(long, value_name = "K", default_value_t = 40, allow_negative_numbers = true, env = "LLAMA_ARG_TOP_K")]
    pub top_k: i32,

    /// Choose among the most probable tokens that make up this probability; 1 = among all
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true, env = "LLAMA_ARG_TOP_P")]
    pub top_p: f32,

    /// Drop tokens less probable than this share of the most probable one; 0 = none
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true, env = "LLAMA_ARG_MIN_P")]
    pub min_p: f32,

    /// Divides the logits of tokens seen lately; 1 = off
    #[arg(
        long,
        value_name = "R",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_REPEAT_PENALTY"
    )]
    pub repeat_penalty: f32,

    /// Lowers the logits of tokens by how often they came; 0 = off
    #[arg(
        long,
        value_name = "R",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_FREQUENCY_PENALTY"
    )]
    pub frequency_penalty: f32,

    /// Lowers the logits of tokens that came at all; 0 = off
    #[arg(
        long,
        value_name = "R",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_PRESENCE_PENALTY"
    )]
    pub presence_penalty: f32,

    /// How many tokens the penalties look back; 0 = none, -1 = the whole context
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_REPEAT_LAST_N"
    )]
    pub repeat_last_n: i32,
}

impl SampleArgs {
    /// `default_temperature` counts where `--temp` is absent.
    pub fn options(&self, default_temperature: f32) -> SampleOptions {
        SampleOptions {
            temperature: self.temp.unwrap_or(default_temperature),
            top_k: usize::try_from(self.top_k).unwrap_or(0),
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            repeat_last_n: usize::try_from(self.repeat_last_n).ok(),
            seed: u32::try_from(self.seed).ok(),
        }
    }
}
