//! The shape of a hybrid model's recurrent layers: which ones they are, and their heads.

use bitnet_cpu_kernels::delta;

use super::keys::Keys;
use crate::{
    error::{Error, Result},
    gguf::{Array, Value},
};

/// Layers between attention layers where the metadata does not say (llama.cpp's default for `qwen35`).
const INTERVAL: usize = 4;

/// Upper bound that no real model comes near.
const MAX_WIDTH: u64 = 1 << 20;

/// The gated DeltaNet layers of a hybrid model (Yang et al. 2024, arXiv:2412.06464); the others are attention.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaNet {
    /// One for each layer: true for a DeltaNet.
    pub layers: Vec<bool>,
    /// Taps of the causal convolution, the current token's included.
    pub kernel: usize,
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values and of the state; a multiple of `key_heads`. Head h goes with key head h % `key_heads`.
    pub value_heads: usize,
    /// Width of every head.
    pub head_dim: usize,
}

impl DeltaNet {
    /// Values of all key heads, and of all query heads.
    pub fn key_width(&self) -> usize {
        self.key_heads * self.head_dim
    }

    /// Values of all value heads.
    pub fn value_width(&self) -> usize {
        self.value_heads * self.head_dim
    }

    /// Channels of the convolution: queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.key_width() + self.value_width()
    }

    /// Reads the keys of `layers` layers.
    ///
    /// # Errors
    /// Names the key, what is allowed and what was found.
    pub(super) fn from_keys(keys: &Keys<'_>, layers: usize) -> Result<Self> {
        let kernel = keys.count("ssm.conv_kernel", None, delta::MAX_KERNEL as u64)?;
        let head_dim = keys.count("ssm.state_size", None, delta::MAX_DIM as u64)?;
        let key_heads = keys.count("ssm.group_count", None, MAX_WIDTH)?;
        let value_heads = keys.count("ssm.time_step_rank", None, MAX_WIDTH)?;
        if !value_heads.is_multiple_of(key_heads) {
            let expected = format!("a multiple of the {key_heads} key heads");
            return Err(keys.wrong("ssm.time_step_rank", expected, value_heads));
        }
        let width = value_heads.saturating_mul(head_dim);
        if width as u64 > MAX_WIDTH {
            return Err(keys.wrong("ssm.time_step_rank", format!("heads x width at most {MAX_WIDTH}"), value_heads));
        }
        let inner = keys.count("ssm.inner_size", Some(width), MAX_WIDTH)?;
        if inner != width {
            let expected = format!("{width}, {value_heads} heads of {head_dim}");
            return Err(keys.wrong("ssm.inner_size", expected, inner));
        }
        Ok(Self { layers: recurrent_layers(keys, layers)?, kernel, key_heads, value_heads, head_dim })
    }
}

/// The layers that `attention.recurrent_layers` names; without it, all but every `full_attention_interval`-th.
fn recurrent_layers(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>> {
    const KEY: &str = "attention.recurrent_layers";
    let wrong = |found: &dyn ToString| {
        keys.wrong(KEY, format!("a bool, or one for each of the {layers} layers"), found.to_string())
    };
    let flag = |n: i64| if n == 0 || n == 1 { Ok(n == 1) } else { Err(wrong(&n)) };
    let found = match keys.get(KEY) {
        None => {
            let interval = keys.count("full_attention_interval", Some(INTERVAL), MAX_WIDTH)?;
            return Ok((1..=layers).map(|number| number % interval != 0).collect());
        }
        Some(Value::Bool(all)) => return Ok(vec![*all; layers]),
        Some(Value::Array(Array::Bool(values))) => values.clone(),
        Some(Value::Array(Array::I32(values))) => values.iter().map(|&n| flag(n.into())).collect::<Result<_>>()?,
        Some(Value::Array(Array::U32(values))) => values.iter().map(|&n| flag(n.into())).collect::<Result<_>>()?,
        Some(other) => return Err(wrong(&other.type_name())),
    };
    // Those of MTP blocks may be listed too.
    if found.len() < layers {
        return Err(wrong(&format!("{} values", found.len())));
    }
    Ok(found[..layers].to_vec())
}

/// Blocks behind the last layer that predict further tokens ahead; below `blocks`, as a model has at least one layer.
///
/// # Errors
/// If there are more.
pub(super) fn mtp_blocks(keys: &Keys<'_>, blocks: usize) -> Result<usize> {
    const KEY: &str = "nextn_predict_layers";
    match keys.uint(KEY)? {
        None => Ok(0),
        Some(count) if count < blocks as u64 => Ok(count as usize),
        Some(count) => {
            Err(Error::malformed(format!("key {}", keys.name(KEY)), format!("fewer than the {blocks} blocks"), count))
        }
    }
}
