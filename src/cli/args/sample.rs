//! How the next token is chosen.

use clap::{ArgAction, Args};

use crate::{
    error::Error,
    generate::{Dry, Mirostat, Recommended, SampleOptions, Xtc},
    tokenizer::Tokenizer,
};

/// How the next token is chosen.
#[derive(Args, Clone, Debug)]
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

    /// Temperature; 0 = always the most probable token [default: the model file's, else 0.8; with --bench: 0]
    #[arg(long, alias = "temperature", value_name = "T", allow_negative_numbers = true, env = "LLAMA_ARG_TEMP")]
    pub temp: Option<f32>,

    /// Choose among this many most probable tokens; 0 = among all [default: the model file's, else 40]
    #[arg(long, value_name = "K", allow_negative_numbers = true, env = "LLAMA_ARG_TOP_K")]
    pub top_k: Option<i32>,

    /// Choose among the most probable tokens that make up this probability; 1 = among all [default: the model file's, else
    /// 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true, env = "LLAMA_ARG_TOP_P")]
    pub top_p: Option<f32>,

    /// Drop tokens less probable than this share of the most probable one; 0 = none [default: the model file's, else 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true, env = "LLAMA_ARG_MIN_P")]
    pub min_p: Option<f32>,

    /// Choose among the tokens about as probable as is to be expected, up to this probability; 1 = among all
    #[arg(
        long,
        visible_alias = "typical-p",
        value_name = "P",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_TYPICAL"
    )]
    pub typical: f32,

    /// Choose among the tokens whose logits are within N standard deviations of the highest; -1 = among all
    #[arg(long, value_name = "N", default_value_t = -1.0, allow_negative_numbers = true)]
    pub top_n_sigma: f32,

    /// How often the most probable tokens make way for the next, from 0 (never) to 1
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub xtc_probability: f32,

    /// How probable tokens are that make way; the least probable of them stays
    #[arg(long, value_name = "P", default_value_t = 0.1, allow_negative_numbers = true)]
    pub xtc_threshold: f32,

    /// 2 = keep the surprise of the text near --mirostat-ent, instead of top-k, typical, top-p and min-p; 0 = off
    /// [default: the model file's, else 0]
    #[arg(
        long,
        value_name = "N",
        value_parser = mirostat,
        action = ArgAction::Set,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_MIROSTAT"
    )]
    pub mirostat: Option<bool>,

    /// How far each token moves the bound of Mirostat ("eta") [default: the model file's, else 0.1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LLAMA_ARG_MIROSTAT_LR")]
    pub mirostat_lr: Option<f32>,

    /// The surprise Mirostat aims at, in bits a token ("tau") [default: the model file's, else 5]
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LLAMA_ARG_MIROSTAT_ENT")]
    pub mirostat_ent: Option<f32>,

    /// Make a token more or less probable: 15043+1, 15043-2.5; 15043-inf = never. Can be given several times
    #[arg(short, long, value_name = "TOKEN_ID(+/-)BIAS", value_parser = logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,

    /// Lowers what would repeat a sequence of tokens, by this for one token more than allowed; 0 = off
    #[arg(long, value_name = "N", default_value_t = 0.0, allow_negative_numbers = true)]
    pub dry_multiplier: f32,

    /// Factor of that for each token more
    #[arg(long, value_name = "N", default_value_t = 1.75, allow_negative_numbers = true)]
    pub dry_base: f32,

    /// How many tokens may come again
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub dry_allowed_length: usize,

    /// How many tokens are looked through for sequences that come again; 0 = none, -1 = the whole context
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    pub dry_penalty_last_n: i64,

    /// Text at which a sequence begins anew, instead of line breaks, ":", "\"" and "*"; "none" = nowhere. Can be given
    /// several times
    #[arg(long, value_name = "TEXT")]
    pub dry_sequence_breaker: Vec<String>,

    /// Divides the logits of tokens seen lately; 1 = off [default: the model file's, else 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true, env = "LLAMA_ARG_REPEAT_PENALTY")]
    pub repeat_penalty: Option<f32>,

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

    /// How many tokens the penalties look back; 0 = none, -1 = the whole context [default: the model file's, else 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LLAMA_ARG_REPEAT_LAST_N")]
    pub repeat_last_n: Option<i32>,
}

/// llama.cpp's numbers of the versions.
fn mirostat(text: &str) -> Result<bool, String> {
    match text {
        "0" => Ok(false),
        "2" => Ok(true),
        "1" => Err("Mirostat 1 is not supported; 2 is its simpler successor".into()),
        _ => Err("expected 0 (off) or 2".into()),
    }
}

/// "15043+1" or "15043-inf": the sign parts the id from the number.
fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let expected = "expected a token id, a sign and a number, as in 15043+1, 15043-2.5 or 15043-inf";
    let (id, bias) = text.find(['+', '-']).map(|at| text.split_at(at)).ok_or(expected)?;
    let id = id.parse().map_err(|_| expected)?;
    match bias.parse::<f32>() {
        Ok(bias) if bias.is_finite() || bias == f32::NEG_INFINITY => Ok((id, bias)),
        _ => Err(expected.into()),
    }
}

/// A number of sampling, and who gave it.
#[derive(Debug, PartialEq)]
pub struct Setting {
    /// The flag without its dashes.
    pub name: &'static str,
    pub value: f32,
    pub source: &'static str,
}

impl SampleArgs {
    /// Options by the flags, else by the file, else the defaults. `vocab` is the number of tokens there are.
    pub fn options(&self, file: &Recommended, tokenizer: &Tokenizer, vocab: usize) -> Result<SampleOptions, Error> {
        if let Some((id, _)) = self.logit_bias.iter().find(|&&(id, _)| id as usize >= vocab) {
            return Err(Error::Usage(format!("--logit-bias is for a token below {vocab} (the vocabulary), not {id}")));
        }
        let default = file.options();
        let of_file = default.mirostat.unwrap_or_default();
        let mirostat = Mirostat {
            entropy: self.mirostat_ent.unwrap_or(of_file.entropy),
            learning_rate: self.mirostat_lr.unwrap_or(of_file.learning_rate),
        };
        Ok(SampleOptions {
            temperature: self.temp.unwrap_or(default.temperature),
            top_k: self.top_k.map_or(default.top_k, |k| usize::try_from(k).unwrap_or(0)),
            typical_p: self.typical,
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            top_n_sigma: self.top_n_sigma,
            xtc: Xtc { probability: self.xtc_probability, threshold: self.xtc_threshold },
            mirostat: self.mirostat.unwrap_or(default.mirostat.is_some()).then_some(mirostat),
            logit_bias: self.logit_bias.clone(),
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            repeat_last_n: self.repeat_last_n.map_or(default.repeat_last_n, |n| usize::try_from(n).ok()),
            dry: self.dry(tokenizer)?,
            seed: u32::try_from(self.seed).ok(),
        })
    }

    fn dry(&self, tokenizer: &Tokenizer) -> Result<Dry, Error> {
        let given: Vec<&str> = self.dry_sequence_breaker.iter().map(String::as_str).collect();
        let texts = match &given[..] {
            [] => &Dry::BREAKERS[..],
            ["none"] => &[],
            texts => texts,
        };
        let is_on = self.dry_multiplier > 0.0;
        Ok(Dry {
            multiplier: self.dry_multiplier,
            base: self.dry_base,
            allowed_length: self.dry_allowed_length,
            last_n: usize::try_from(self.dry_penalty_last_n).ok(),
            breakers: if is_on { Dry::breakers(texts, tokenizer)? } else { Vec::new() },
        })
    }

    /// The numbers of `options` that a file may recommend, and where each is from.
    pub fn settings(&self, file: &Recommended, options: &SampleOptions) -> Vec<Setting> {
        let setting = |name, value, is_flag: bool, is_of_file: bool| {
            let source = match (is_flag, is_of_file) {
                (true, _) => "flag",
                (false, true) => "file",
                (false, false) => "default",
            };
            Setting { name, value, source }
        };
        let top_k = options.top_k as f32;
        vec![
            setting("temp", options.temperature, self.temp.is_some(), file.temperature.is_some()),
            setting("top-k", top_k, self.top_k.is_some(), file.top_k.is_some()),
            setting("top-p", options.top_p, self.top_p.is_some(), file.top_p.is_some()),
            setting("min-p", options.min_p, self.min_p.is_some(), file.min_p.is_some()),
            setting(
                "repeat-penalty",
                options.repeat_penalty,
                self.repeat_penalty.is_some(),
                file.repeat_penalty.is_some(),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_are_an_id_and_a_signed_number() {
        assert_eq!(logit_bias("15043+1"), Ok((15043, 1.0)));
        assert_eq!(logit_bias("0-2.5"), Ok((0, -2.5)));
        assert_eq!(logit_bias("7-1e-3"), Ok((7, -1e-3)));
        assert_eq!(logit_bias("7-inf"), Ok((7, f32::NEG_INFINITY)));
        for bad in ["", "7", "+1", "-1", "7+", "7+inf", "7+nan", "7-x", "-7+1", "4294967296+1", "7+-1", "7++1"] {
            assert!(logit_bias(bad).is_err(), "{bad}");
        }
    }
}
