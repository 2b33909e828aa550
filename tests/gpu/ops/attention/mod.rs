//! Rotation, cache writes, attention in both phases, and the merge of its splits.

mod append;
mod few;
mod many;

use std::slice;

use bitnet_cpu_kernels::{
    attention::{self, KvCache, KvRows, KvType, Placed},
    norm,
    rope::{self, RopeTable, Style},
    testing::Rng,
};

use super::CLOSE;
use crate::common::gpu::{bytes, floats, scalar, worst};

/// Types of keys and values.
const TYPES: [(KvType, KvType); 4] =
    [(KvType::F16, KvType::F16), (KvType::F32, KvType::Q8_0), (KvType::Q8_0, KvType::F32), (KvType::Q8_0, KvType::F16)];

fn exact(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

/// The constant of kv_cache.wgsl.
fn cache_constant(ty: KvType) -> f64 {
    match ty {
        KvType::F16 => 0.0,
        KvType::F32 => 1.0,
        KvType::Q8_0 => 2.0,
    }
}

/// The heads of a step, and what is done to queries and keys before attention.
#[derive(Clone, Copy, Debug)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Rotated part of a head.
    dims: usize,
    style: Style,
    norms: bool,
    /// Positions before the step.
    start: usize,
    tokens: usize,
}

impl Heads {
    /// f32 of a token: q, k, v, and two that belong to nothing.
    fn stride(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim + 2
    }

    /// Values of a cache at a position.
    fn kv(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Bytes of a cache at a position.
    fn kv_bytes(&self, ty: KvType) -> usize {
        self.kv_heads * head_bytes(ty, self.head_dim)
    }
}

/// The eps of the norms of heads.
const EPS: f32 = 1e-6;

/// Inputs of the kernels that norm and rotate heads, and the results of the reference.
struct Prepared {
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    /// Cosines, then sines.
    rope: Vec<f32>,
    /// f32 before the sines.
    sines: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Prepared {
    /// Prepares `x`, (tokens, stride), with random norms and the rotations of `capacity` positions.
    fn new(of: &Heads, x: &[f32], capacity: usize, rng: &mut Rng) -> Self {
        let &Heads { heads, kv_heads, head_dim, .. } = of;
        let part = |first: usize, heads: usize| -> Vec<f32> {
            x.chunks_exact(of.stride())
                .flat_map(|token| &token[first * head_dim..][..heads * head_dim])
                .copied()
                .collect()
        };
        let (mut q, mut k, v) = (part(0, heads), part(heads, kv_heads), part(heads + kv_heads, kv_heads));
        let (q_norm, k_norm) = (rng.floats(head_dim), rng.floats(head_dim));
        let cpu = scalar();
        if of.norms {
            norm::rms_norm_in_place(&cpu, &mut q, head_dim, &q_norm, EPS);
            norm::rms_norm_in_place(&cpu, &mut k, head_dim, &k_norm, EPS);
        }
        let table = RopeTable::new(of.dims, 10000.0, 1.0, None, capacity);
        if of.dims > 0 {
            let mut step = table.clone();
            step.fill(of.start..of.start + of.tokens);
            rope::apply(&cpu, &mut q, heads, head_dim, &step, of.style);
            rope::apply(&cpu, &mut k, kv_heads, head_dim, &step, of.style);
        }
        let (cos, sin) = table.data();
        let rope = if cos.is_empty() { vec![0.0] } else { [cos, sin].concat() };
        Self { q_norm, k_norm, rope, sines: cos.len(), q, k, v }
    }
}

/// Constants of the kernels that rotate heads and write the cache.
fn constants(of: &Heads, (k_type, v_type): (KvType, KvType)) -> Vec<(&'static str, f64)> {
    let flag = |on: bool| f64::from(u8::from(on));
    vec![
        ("HEAD_DIM", of.head_dim as f64),
        ("Q_NORM", flag(of.norms)),
        ("K_NORM", flag(of.norms)),
        ("INTERLEAVED", flag(of.style == Style::Interleaved)),
        ("K_TYPE", cache_constant(k_type)),
        ("V_TYPE", cache_constant(v_type)),
    ]
}

/// Asserts that a cache holds the `expected` values at the positions of the step, and elsewhere what it held `before`.
#[track_caller]
fn assert_appended(what: &str, of: &Heads, ty: KvType, (before, found): (&[u8], &[u8]), expected: &[f32]) {
    let own = of.start * of.kv_bytes(ty)..(of.start + of.tokens) * of.kv_bytes(ty);
    let values = cache_values(&found[own.clone()], ty, of.head_dim);
    assert!(worst(&values, expected) < stored_close(ty), "{what}: {}", worst(&values, expected));
    assert_eq!(found.len(), before.len(), "{what}: bytes");
    assert!(found[..own.start] == before[..own.start], "{what}: before the new positions");
    assert!(found[own.end..] == before[own.end..], "{what}: after the new positions");
}

/// How far a cached value may be from the reference, relative to a typical one: rounding and the largest ones decide.
fn stored_close(ty: KvType) -> f64 {
    match ty {
        KvType::F16 => 2e-2,
        KvType::F32 => CLOSE,
        // Half of 1/127 of values 20 times a typical one.
        KvType::Q8_0 => 0.1,
    }
}

/// Bytes of a head at a position: of q8_0 the codes, then an f16 a block, both to whole words.
fn head_bytes(ty: KvType, head_dim: usize) -> usize {
    match ty {
        KvType::F16 => 2 * head_dim,
        KvType::F32 => 4 * head_dim,
        KvType::Q8_0 => head_dim.next_multiple_of(4) + (2 * head_dim.div_ceil(32)).next_multiple_of(4),
    }
}

fn f16_at(bytes: &[u8], i: usize) -> f32 {
    half::f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32()
}

fn cache_values(bytes: &[u8], ty: KvType, head_dim: usize) -> Vec<f32> {
    match ty {
        KvType::F32 => floats(bytes),
        KvType::F16 => (0..bytes.len() / 2).map(|i| f16_at(bytes, i)).collect(),
        KvType::Q8_0 => {
            let heads = bytes.chunks_exact(head_bytes(ty, head_dim));
            let value = |head: &[u8], i: usize| {
                f16_at(&head[head_dim.next_multiple_of(4)..], i / 32) * f32::from(head[i].cast_signed())
            };
            heads.flat_map(|head| (0..head_dim).map(move |i| value(head, i))).collect()
        }
    }
}

/// [`attention::append`] of one sequence's tokens, by the reference.
fn append(cache: &mut KvCache, start: usize, tokens: usize, k: &[f32], v: &[f32]) {
    attention::append(&scalar(), slice::from_mut(cache), &[Placed { cache: 0, start, tokens, is_prompt: false }], k, v);
}

/// [`attention::attend`] of one sequence's tokens from `start` on, by the reference.
fn attend(q: &[f32], heads: usize, cache: &KvCache, start: usize, scale: f32, out: &mut [f32]) {
    let rows = [Placed { cache: 0, start, tokens: q.len() / (heads * cache.head_dim()), is_prompt: false }];
    attention::attend(&scalar(), q, heads, slice::from_ref(cache), &rows, scale, out);
}

/// Heads of `head_dim` as the CPU's cache keeps them.
fn cache_bytes(values: &[f32], ty: KvType, head_dim: usize) -> Vec<u8> {
    let heads = values.len() / head_dim;
    let mut cache = KvCache::new(1, head_dim, heads, ty, ty);
    append(&mut cache, 0, heads, values, values);
    let [rows, _] = cache.read(0..heads);
    match rows {
        KvRows::Floats(values) => bytes(&values).to_vec(),
        KvRows::F16 { bits } => bytemuck::cast_slice(&bits).to_vec(),
        KvRows::Q8_0 { codes, scales } => {
            let mut bytes = vec![0; heads * head_bytes(ty, head_dim)];
            let blocks = head_dim.div_ceil(32);
            for (head, bytes) in bytes.chunks_exact_mut(head_bytes(ty, head_dim)).enumerate() {
                bytes[..head_dim].copy_from_slice(bytemuck::cast_slice(&codes[head * head_dim..][..head_dim]));
                let scales = scales[head * blocks..][..blocks].iter().flat_map(|scale| scale.to_le_bytes());
                bytes[head_dim.next_multiple_of(4)..].iter_mut().zip(scales).for_each(|(to, from)| *to = from);
            }
            bytes
        }
    }
}
