//! Options of sampling, and the bounds of each number.

use super::Dry;
use crate::error::{Error, Result};

/// Options of sampling; the defaults are llama.cpp's. Change the fields of [`SampleOptions::default`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SampleOptions {
    /// Divides the logits before the draw; 0 takes the highest logit (greedy).
    pub temperature: f32,
    /// Keep this many of the highest logits; 0 keeps all.
    pub top_k: usize,
    /// Keep the ids whose surprise is nearest to the expected one and whose probabilities sum to this; 1 keeps all.
    /// (Locally typical sampling, Meister et al. 2022.)
    pub typical_p: f32,
    /// Keep the smallest set of the most probable ids whose probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Drop ids less probable than this share of the most probable one; 0 drops none.
    pub min_p: f32,
    /// Keep the ids whose logits are within so many standard deviations, of all logits, of the highest one; 0 or less
    /// keeps all. (Top-n-sigma, Tang et al. 2024.)
    pub top_n_sigma: f32,
    /// How often the most probable ids make way; 0: never.
    pub xtc: Xtc,
    /// Instead of top-k, typical-p, top-p and min-p: keeps the surprise of the text near a target.
    pub mirostat: Option<Mirostat>,
    /// Added to the logits of these ids; minus infinity bans an id.
    pub logit_bias: Vec<(u32, f32)>,
    /// Divides positive and multiplies negative logits of ids in the window; 1 does nothing.
    pub repeat_penalty: f32,
    /// Subtracted once per occurrence in the window; 0 does nothing.
    pub frequency_penalty: f32,
    /// Subtracted once from each id in the window; 0 does nothing.
    pub presence_penalty: f32,
    /// Ids the penalties look back on, prompt included; 0 = none, `None` = the whole context.
    pub repeat_last_n: Option<usize>,
    /// Lowers what would go on with a sequence that was there before.
    pub dry: Dry,
    /// Seed of the draws: equal seeds, logits and positions give equal ids; `None` draws a seed, see
    /// [`super::Sampler::seed`].
    pub seed: Option<u32>,
}

/// "Exclude top choices": at some draws all ids of at least a probability are dropped but the least probable of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xtc {
    /// How often it happens; 0: never.
    pub probability: f32,
    /// The least probability of a top choice; above 0.5 there is one at most, and nothing is dropped.
    pub threshold: f32,
}

impl Default for Xtc {
    fn default() -> Self {
        Self { probability: 0.0, threshold: 0.1 }
    }
}

/// Mirostat 2 (Basu et al. 2021): ids more surprising than a bound are dropped, and each drawn id moves the bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// The surprise to aim at, in bits ("tau").
    pub entropy: f32,
    /// How far a draw moves the bound ("eta").
    pub learning_rate: f32,
}

impl Default for Mirostat {
    fn default() -> Self {
        Self { entropy: 5.0, learning_rate: 0.1 }
    }
}

impl Default for SampleOptions {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            typical_p: 1.0,
            top_p: 0.95,
            min_p: 0.05,
            top_n_sigma: -1.0,
            xtc: Xtc::default(),
            mirostat: None,
            logit_bias: Vec::new(),
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: Some(64),
            dry: Dry::default(),
            seed: None,
        }
    }
}

impl SampleOptions {
    /// The highest logit at each step, no penalties.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Refuses numbers that make no sense, by llama.cpp's name of the option.
    pub(super) fn validate(&self) -> Result<()> {
        let check = |name: &str, value: f32, good: bool, range: &str| {
            if good {
                Ok(())
            } else {
                Err(Error::BadOption { name: name.into(), reason: format!("must be {range}, not {value}") })
            }
        };
        let finite = |name, value: f32| check(name, value, value.is_finite(), "a finite number");
        let share = |name, value: f32| check(name, value, (0.0..=1.0).contains(&value), "between 0 and 1");
        let positive = |name, value: f32| check(name, value, value.is_finite() && value > 0.0, "above 0");
        let temperature = self.temperature;
        check("temp", temperature, temperature.is_finite() && temperature >= 0.0, "0 or more")?;
        share("typical", self.typical_p)?;
        share("top-p", self.top_p)?;
        share("min-p", self.min_p)?;
        finite("top-n-sigma", self.top_n_sigma)?;
        share("xtc-probability", self.xtc.probability)?;
        share("xtc-threshold", self.xtc.threshold)?;
        positive("repeat-penalty", self.repeat_penalty)?;
        finite("frequency-penalty", self.frequency_penalty)?;
        finite("presence-penalty", self.presence_penalty)?;
        let Dry { multiplier, base, .. } = self.dry;
        check("dry-multiplier", multiplier, multiplier.is_finite() && multiplier >= 0.0, "0 or more")?;
        check("dry-base", base, base.is_finite() && base >= 1.0, "1 or more")?;
        if let Some(Mirostat { entropy, learning_rate }) = self.mirostat {
            check("mirostat-ent", entropy, entropy.is_finite() && entropy >= 0.0, "0 or more")?;
            share("mirostat-lr", learning_rate)?;
        }
        for &(id, bias) in &self.logit_bias {
            let good = bias.is_finite() || bias == f32::NEG_INFINITY;
            check(&format!("logit-bias {id}"), bias, good, "a finite number or -inf")?;
        }
        Ok(())
    }

    /// True where a draw looks at all logits.
    pub(super) fn takes_all(&self) -> bool {
        self.mirostat.is_some() || self.top_n_sigma > 0.0
    }

    pub(super) fn penalises(&self) -> bool {
        self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    /// Most candidates that a draw asks for in place of all logits, bans aside; 0 where it takes all of them, or their
    /// sum.
    pub fn most_top(&self, context_tokens: usize) -> usize {
        let is_greedy = self.temperature <= 0.0;
        if self.may_raise() || !is_greedy && (self.takes_all() || self.top_k == 0) {
            return 0;
        }
        // An id that is lowered may fall behind the last of the top: one more for each.
        let window = self.repeat_last_n.unwrap_or(context_tokens).min(context_tokens);
        let repeated = self.dry.last_n.unwrap_or(context_tokens).min(context_tokens);
        let lowered = self.logit_bias.len()
            + if self.penalises() { window } else { 0 }
            + if self.dry.is_on() { repeated } else { 0 };
        lowered.saturating_add(if is_greedy { 1 } else { self.top_k })
    }

    /// True where an id outside the highest ones may be lifted among them.
    pub(super) fn may_raise(&self) -> bool {
        self.logit_bias.iter().any(|&(_, bias)| bias > 0.0)
            || self.repeat_penalty < 1.0
            || self.frequency_penalty < 0.0
            || self.presence_penalty < 0.0
    }
}
