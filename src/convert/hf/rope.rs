//! Rotary embeddings of `config.json`: base, rotated dimensions, and how they are stretched for long contexts.

use bitnet_cpu_kernels::rope::Yarn;

use super::json::Object;
use crate::{
    error::{Error, Result, shown},
    model::{Family, LongRope, Rope, RopeStyle},
};

/// RoPE, and divisors of its frequencies for short and for long contexts.
type Scaled = (Rope, Option<Vec<f32>>, Option<Vec<f32>>);

/// RoPE from `rope_parameters` (transformers 5), `rope_scaling` and `rope_theta`; the first wins.
pub(super) fn rope(top: &Object, arch: &str, family: Family, head_dim: usize, context: usize) -> Result<Scaled> {
    let parameters = top.object("rope_parameters")?;
    let scaling = match parameters {
        Some(parameters) => Some(parameters),
        None => top.object("rope_scaling")?,
    };
    let stated = match &scaling {
        Some(scaling) => scaling.positive("rope_theta")?,
        None => None,
    };
    // The defaults of the configuration classes in transformers.
    let default = match arch {
        "bitnet-b1.58" => 500_000.0,
        "qwen35" => 10_000_000.0,
        _ => 10_000.0,
    };
    let base = match stated {
        Some(base) => base,
        None => top.positive("rope_theta")?.unwrap_or(default),
    };
    let style = if family == Family::Llama { RopeStyle::Interleaved } else { RopeStyle::HalfSplit };
    let dims = rotated_dims(top, scaling.as_ref(), family, head_dim)?;
    let mut rope = Rope { dims, base, position_scale: 1.0, yarn: None, long: None, style };
    let Some(scaling) = scaling else { return Ok((rope, None, None)) };

    let kind = match scaling.str("rope_type")? {
        Some(kind) => kind,
        None => scaling.str("type")?.unwrap_or("default"),
    };
    let required = |key: &str| -> Result<f64> {
        let value = scaling.positive(key)?.ok_or_else(|| Error::missing(scaling.key(key), "RoPE scaling"))?;
        Ok(value.into())
    };
    match kind {
        "default" | "none" => Ok((rope, None, None)),
        "linear" => {
            rope.position_scale = (1.0 / required("factor")?) as f32;
            Ok((rope, None, None))
        }
        "llama3" => {
            let old_context = match scaling.positive("original_max_position_embeddings")? {
                Some(value) => value.into(),
                None => context as f64,
            };
            let [factor, low, high] =
                [required("factor")?, required("low_freq_factor")?, required("high_freq_factor")?];
            if high <= low {
                let expected = format!("more than low_freq_factor ({low})");
                return Err(Error::malformed(scaling.key("high_freq_factor"), expected, high));
            }
            let factors = llama3_factors(head_dim, base.into(), factor, low, high, old_context);
            Ok((rope, Some(factors), None))
        }
        Rope::LONG => {
            rope.long = long_rope(top, &scaling, context)?;
            let factors = |key| long_factors(&scaling, key, head_dim);
            let long = if rope.long.is_some() { Some(factors("long_factor")?) } else { None };
            Ok((rope, Some(factors("short_factor")?), long))
        }
        "yarn" => {
            rope.yarn = Some(yarn(&scaling, context)?);
            Ok((rope, None, None))
        }
        other => Err(Error::unsupported(
            format!("RoPE scaling {}", shown(other)),
            "only linear, llama3, yarn and longrope are; without the entry in config.json the model runs at its original context",
        )),
    }
}

/// The original context of LongRoPE and its factor of cos and sin (`_compute_longrope_parameters` in transformers'
/// `modeling_rope_utils.py`, `MiniCPMLongRoPE`); `None` where nothing is beyond that context, nor stretched.
fn long_rope(top: &Object, scaling: &Object, context: usize) -> Result<Option<LongRope>> {
    // Phi's and MiniCPM's configurations differ in where it stands.
    let original = match scaling.optional_count("original_max_position_embeddings")? {
        Some(original) => Some(original),
        None => top.optional_count("original_max_position_embeddings")?,
    };
    // Without an original context the factor says that there is one.
    let factor = match original {
        Some(original) => context as f64 / original as f64,
        None => scaling.positive("factor")?.map_or(1.0, f64::from),
    };
    let original_context = original.unwrap_or(context);
    let magnitude = match scaling.positive("attention_factor")? {
        Some(stated) => stated,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / (original_context as f64).ln()).sqrt() as f32,
    };
    if original_context >= context && magnitude == 1.0 {
        return Ok(None);
    }
    if !magnitude.is_normal() {
        return Err(Error::malformed(scaling.key("original_max_position_embeddings"), "at least 2", original_context));
    }
    Ok(Some(LongRope { original_context, magnitude }))
}

/// Divisors of LongRoPE.
fn long_factors(scaling: &Object, key: &str, head_dim: usize) -> Result<Vec<f32>> {
    let factors = scaling.floats(key)?;
    if factors.len() != head_dim / 2 {
        return Err(Error::malformed(scaling.key(key), format!("{} numbers", head_dim / 2), factors.len()));
    }
    match factors.iter().find(|factor| !(factor.is_normal() && **factor > 0.0)) {
        Some(bad) => Err(Error::malformed(scaling.key(key), "numbers above 0", bad)),
        None => Ok(factors),
    }
}

/// YaRN's parameters (`_compute_yarn_parameters` in transformers' `modeling_rope_utils.py`).
fn yarn(scaling: &Object, context: usize) -> Result<Yarn> {
    for key in ["mscale", "mscale_all_dim"] {
        if scaling.float(key)?.is_some_and(|value| value != 0.0) {
            return Err(Error::unsupported(scaling.key(key), "it belongs to the attention of DeepSeek's models"));
        }
    }
    if scaling.bool("truncate")? == Some(false) {
        return Err(Error::unsupported(format!("{} = false", scaling.key("truncate")), "only true is"));
    }
    let original_context = scaling.optional_count("original_max_position_embeddings")?;
    let factor = match (scaling.positive("factor")?, original_context) {
        (Some(factor), _) => factor,
        (None, Some(original)) => context as f32 / original as f32,
        (None, None) => return Err(Error::missing(scaling.key("factor"), "RoPE scaling")),
    };
    let mut yarn = Yarn {
        factor,
        original_context: original_context.unwrap_or(context),
        beta_fast: scaling.positive("beta_fast")?.unwrap_or(32.0),
        beta_slow: scaling.positive("beta_slow")?.unwrap_or(1.0),
        attention_factor: 1.0,
    };
    // Here it multiplies what the factor gives; there it stands for all of it.
    if let Some(stated) = scaling.positive("attention_factor")? {
        yarn.attention_factor = stated / yarn.magnitude();
    }
    Ok(yarn)
}

/// Leading elements of a head that rotate; all of them, but for Qwen3.5.
fn rotated_dims(top: &Object, scaling: Option<&Object>, family: Family, head_dim: usize) -> Result<usize> {
    const KEY: &str = "partial_rotary_factor";
    if family != Family::Qwen35 {
        return Ok(head_dim);
    }
    let of_scaling = scaling.map(|scaling| scaling.positive(KEY)).transpose()?.flatten();
    // The default of the configuration class in transformers.
    let share = of_scaling.or(top.positive(KEY)?).unwrap_or(0.25);
    let dims = (head_dim as f32 * share) as usize;
    if dims == 0 || dims > head_dim || !dims.is_multiple_of(2) {
        let expected = format!("an even part of a head of {head_dim}, at least 2");
        return Err(Error::malformed(top.key(KEY), expected, share));
    }
    Ok(dims)
}

/// The divisors of Llama 3.1's long-context scaling (`Llama3RotaryEmbedding`): long wavelengths are stretched by
/// `factor`, short ones are kept, and between the two the frequency is interpolated.
fn llama3_factors(head_dim: usize, base: f64, factor: f64, low: f64, high: f64, old_context: f64) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|i| {
            let wavelength = std::f64::consts::TAU * base.powf(2.0 * i as f64 / head_dim as f64);
            let divisor = if wavelength < old_context / high {
                1.0
            } else if wavelength > old_context / low {
                factor
            } else {
                let smooth = (old_context / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            };
            divisor as f32
        })
        .collect()
}
