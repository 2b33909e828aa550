//! Attention and what goes before it: heads normed and rotated, keys and values into the cache.

use super::{
    fuse::Heads,
    lowering::{Lowering, all, flag},
    weights::LayerWeights,
};
use crate::{
    backend::gpu::{
        buffers::{cache::CacheWindow, shape::qkv_width},
        kernels::{params, pipelines::Shader},
        record::encode::{Dispatch, Extent},
    },
    error::Result,
    graph::op::Slot,
    model::RopeStyle,
    plan::KvType,
};

fn cache_constant(ty: KvType) -> f64 {
    match ty {
        KvType::F16 => 0.0,
        KvType::F32 => 1.0,
        KvType::Q8_0 => 2.0,
    }
}

impl<'a> Lowering<'a> {
    /// Constants of the kernels that read or write a window of the caches.
    fn cache_constants(&self, window: &CacheWindow) -> Vec<(&'static str, f64)> {
        let mut constants = vec![
            ("HEAD_DIM", self.config.head_dim as f64),
            ("K_TYPE", cache_constant(self.sizes.k_type)),
            ("V_TYPE", cache_constant(self.sizes.v_type)),
        ];
        if window.slots.len() < self.sizes.sequences {
            let rows = |slots: usize| (slots * self.sizes.context_tokens) as f64;
            constants.extend([("WINDOW_BASE", rows(window.slots.start)), ("WINDOW_ROWS", rows(window.slots.len()))]);
        }
        constants
    }

    /// Constants of the kernels that rotate heads and write the cache.
    fn heads_constants(&self, heads: Heads, window: &CacheWindow) -> Vec<(&'static str, f64)> {
        let mut constants = self.cache_constants(window);
        constants.extend([
            ("Q_NORM", flag(heads.q_norm.is_some())),
            ("K_NORM", flag(heads.k_norm.is_some())),
            ("Q_STEP", self.query_step()),
            ("INTERLEAVED", flag(self.config.rope.style == RopeStyle::Interleaved)),
        ]);
        constants
    }

    /// From query to query in the buffer of projections, in heads.
    fn query_step(&self) -> f64 {
        if self.config.has_output_gate() { 2.0 } else { 1.0 }
    }

    /// f32 of the table of rotations before the sines, and rotated pairs of a head.
    fn rotated_pairs(&self, heads: Heads) -> (u32, u32) {
        let half = self.config.rope.dims / 2;
        ((self.sizes.context_tokens * half) as u32, if heads.rotate { half as u32 } else { 0 })
    }

    /// The bindings that follow x in the kernels that rotate heads and write the cache.
    fn heads_buffers(
        &self,
        heads: Heads,
        weights: &'a LayerWeights,
        window: &'a CacheWindow,
    ) -> Result<[wgpu::BufferBinding<'a>; 6]> {
        let rope = self.rotations()?;
        let (q_norm, k_norm) = (self.norm(heads.q_norm, weights)?, self.norm(heads.k_norm, weights)?);
        Ok([all(&window.k), all(&window.v), rope, q_norm, k_norm, all(&self.activations.batch)])
    }

    pub fn rope_append(
        &mut self,
        heads: Heads,
        weights: &'a LayerWeights,
        window: &'a CacheWindow,
        place: u32,
    ) -> Result<Dispatch> {
        let (config, activations) = (self.config, self.activations);
        let (sines, half) = self.rotated_pairs(heads);
        let params = params::RopeAppend {
            heads: config.heads as u32,
            kv_heads: config.kv_heads as u32,
            stride: qkv_width(config) as u32,
            q_offset: activations.place(config, Slot::Q).offset as u32,
            k_offset: activations.place(config, Slot::K).offset as u32,
            v_offset: activations.place(config, Slot::V).offset as u32,
            half,
            sines,
            eps: config.rms_eps,
            place,
            ..Default::default()
        };
        let mut buffers = vec![all(&activations.qkv)];
        buffers.extend(self.heads_buffers(heads, weights, window)?);
        let constants = self.heads_constants(heads, window);
        let grid = [Extent::Fixed(config.heads + 2 * config.kv_heads), Extent::PerTokens(1), Extent::Fixed(1)];
        let variant = self.builder.variant(Shader::RopeAppend);
        Ok(self.builder.dispatch(variant, &constants, params, &buffers, grid)?.in_window(window.index))
    }

    pub fn attention_decode(
        &mut self,
        heads: Heads,
        weights: &'a LayerWeights,
        window: &'a CacheWindow,
        place: u32,
    ) -> Result<Dispatch> {
        let (config, activations) = (self.config, self.activations);
        let (sines, half) = self.rotated_pairs(heads);
        let params = params::AttentionDecode {
            heads: config.heads as u32,
            kv_heads: config.kv_heads as u32,
            stride: qkv_width(config) as u32,
            q_offset: activations.place(config, Slot::Q).offset as u32,
            k_offset: activations.place(config, Slot::K).offset as u32,
            v_offset: activations.place(config, Slot::V).offset as u32,
            half,
            sines,
            eps: config.rms_eps,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            place,
            ..Default::default()
        };
        let mut buffers = vec![all(&activations.qkv)];
        buffers.extend(self.heads_buffers(heads, weights, window)?);
        buffers.push(all(&activations.parts));
        let mut constants = self.heads_constants(heads, window);
        constants
            .extend([("FRESH", (self.small_batch * config.head_dim) as f64), ("SPLIT_KEYS", self.split_keys as f64)]);
        let bundles = config.kv_heads * (config.heads / config.kv_heads).div_ceil(4);
        let grid = [Extent::Fixed(bundles), Extent::Splits, Extent::PerTokens(1)];
        let variant = self.builder.variant(Shader::AttentionDecode);
        Ok(self.builder.dispatch(variant, &constants, params, &buffers, grid)?.in_window(window.index))
    }

    pub fn merge(&mut self) -> Result<Dispatch> {
        let (heads, head_dim) = (self.config.heads, self.config.head_dim as u32);
        let params = params::AttentionMerge { heads: heads as u32, head_dim, ..Default::default() };
        let grid = [Extent::IfSplit(heads), Extent::PerTokens(1), Extent::Fixed(1)];
        let variant = self.builder.variant(Shader::AttentionMerge);
        self.builder.dispatch(variant, &[], params, &[all(&self.activations.parts)], grid)
    }

    pub fn attention_prefill(&mut self, window: &'a CacheWindow) -> Result<Dispatch> {
        let (config, activations) = (self.config, self.activations);
        let params = params::Attention {
            heads: config.heads as u32,
            kv_heads: config.kv_heads as u32,
            stride: qkv_width(config) as u32,
            q_offset: activations.place(config, Slot::Q).offset as u32,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            ..Default::default()
        };
        let buffers =
            [all(&activations.qkv), all(&window.k), all(&window.v), all(&activations.attn), all(&activations.batch)];
        let grid = [Extent::Fixed(config.heads), Extent::PerTokens(16), Extent::Fixed(1)];
        let mut constants = self.cache_constants(window);
        constants.push(("Q_STEP", self.query_step()));
        let variant = self.builder.variant(Shader::AttentionPrefill);
        Ok(self.builder.dispatch(variant, &constants, params, &buffers, grid)?.in_window(window.index))
    }
}
