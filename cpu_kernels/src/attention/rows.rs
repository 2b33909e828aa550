//! Keys and values out of one cache and into another: between backends, and from a sequence to its fork.

use std::ops::Range;

use super::cache::{KvCache, Store, q8_blocks};

/// Keys or values of some positions out of a cache. Written to another cache of the same type, they give the same bits.
#[derive(Clone, Debug, PartialEq)]
pub enum KvRows {
    /// Rows of a cache of [`KvType::F32`](super::KvType::F32): (positions, kv_heads, head_dim).
    Floats(Vec<f32>),
    /// Rows of a cache of [`KvType::F16`](super::KvType::F16).
    F16 {
        /// (positions, kv_heads, head_dim), bits of binary16.
        bits: Vec<u16>,
    },
    /// Rows of a cache of [`KvType::Q8_0`](super::KvType::Q8_0).
    Q8_0 {
        /// (positions, kv_heads, head_dim)
        codes: Vec<i8>,
        /// (positions, kv_heads, blocks of a head), bits of binary16.
        scales: Vec<u16>,
    },
}

impl Default for KvRows {
    fn default() -> Self {
        Self::Floats(Vec::new())
    }
}

impl KvRows {
    fn values(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::F16 { bits } => bits.len(),
            Self::Q8_0 { codes, .. } => codes.len(),
        }
    }
}

impl KvCache {
    /// Keys and values of the cache at `positions`.
    ///
    /// # Panics
    /// If `positions` are past the capacity.
    pub fn read(&self, positions: Range<usize>) -> [KvRows; 2] {
        assert!(positions.end <= self.capacity, "KvCache: positions {positions:?} of {}", self.capacity);
        let (stride, head_dim) = (self.stride, self.head_dim);
        [&self.k, &self.v].map(|store| {
            let heads = heads_at(self.kv_heads, self.capacity, positions.clone());
            match store {
                Store::F16(bits) => KvRows::F16 { bits: gather(bits, heads, stride, head_dim) },
                Store::F32(values) => KvRows::Floats(gather(values, heads, stride, head_dim)),
                Store::Q8_0 { codes, scales } => {
                    let blocks = q8_blocks(stride);
                    KvRows::Q8_0 {
                        codes: gather(codes, heads.clone(), stride, head_dim),
                        scales: gather(scales, heads, blocks, blocks),
                    }
                }
            }
        })
    }

    /// Writes what [`Self::read`] gave of a cache of these types and heads at positions from `pos` on.
    ///
    /// # Panics
    /// If types or lengths differ, or the positions do not fit.
    pub fn write(&mut self, pos: usize, k: &KvRows, v: &KvRows) {
        let (stride, head_dim, width) = (self.stride, self.head_dim, self.kv_heads * self.head_dim);
        for (rows, store) in [(k, &mut self.k), (v, &mut self.v)] {
            let values = rows.values();
            let end = pos + values / width;
            assert!(values.is_multiple_of(width) && end <= self.capacity, "KvCache: {values} values at {pos}");
            let heads = heads_at(self.kv_heads, self.capacity, pos..end);
            match (rows, store) {
                (KvRows::F16 { bits }, Store::F16(to)) => scatter(bits, to, heads, stride, head_dim),
                (KvRows::Floats(values), Store::F32(to)) => scatter(values, to, heads, stride, head_dim),
                (KvRows::Q8_0 { codes, scales }, Store::Q8_0 { codes: to_codes, scales: to_scales }) => {
                    let blocks = q8_blocks(stride);
                    assert_eq!(scales.len(), values / head_dim * blocks, "KvCache: scales of {values} values");
                    scatter(codes, to_codes, heads.clone(), stride, head_dim);
                    scatter(scales, to_scales, heads, blocks, blocks);
                }
                _ => panic!("KvCache: rows of a cache of another type"),
            }
        }
    }

    /// Makes the first `len` positions those of `other`, which may have another capacity: the fork of a sequence.
    ///
    /// # Panics
    /// If heads or types differ, or a capacity is below `len`.
    pub fn copy_from(&mut self, other: &Self, len: usize) {
        assert_eq!((self.kv_heads, self.head_dim), (other.kv_heads, other.head_dim), "KvCache: heads of a fork");
        let capacities = [other.capacity, self.capacity];
        assert!(capacities.iter().all(|&capacity| len <= capacity), "KvCache: {len} positions of {capacities:?}");
        let stride = self.stride;
        for (from, to) in [(&other.k, &mut self.k), (&other.v, &mut self.v)] {
            match (from, to) {
                (Store::F16(from), Store::F16(to)) => copy(from, to, capacities, len, stride),
                (Store::F32(from), Store::F32(to)) => copy(from, to, capacities, len, stride),
                (Store::Q8_0 { codes, scales }, Store::Q8_0 { codes: to_codes, scales: to_scales }) => {
                    copy(codes, to_codes, capacities, len, stride);
                    copy(scales, to_scales, capacities, len, q8_blocks(stride));
                }
                _ => panic!("KvCache: a fork of another type"),
            }
        }
    }
}

/// The heads of `positions` as they lie in a [`Store`], position by position.
fn heads_at(kv_heads: usize, capacity: usize, positions: Range<usize>) -> impl Iterator<Item = usize> + Clone + use<> {
    positions.flat_map(move |position| (0..kv_heads).map(move |head| head * capacity + position))
}

/// The first `width` of the `stride` elements of each head.
fn gather<T: Copy>(from: &[T], heads: impl Iterator<Item = usize> + Clone, stride: usize, width: usize) -> Vec<T> {
    // Not element by element: the server keeps the caches of thousands of tokens while others wait for their next one.
    let mut rows = Vec::with_capacity(heads.clone().count() * width);
    heads.for_each(|at| rows.extend_from_slice(&from[at * stride..][..width]));
    rows
}

/// Puts the heads that [`gather`] gave where `heads` lie.
fn scatter<T: Copy>(from: &[T], to: &mut [T], heads: impl Iterator<Item = usize>, stride: usize, width: usize) {
    for (at, from) in heads.zip(from.chunks_exact(width)) {
        to[at * stride..][..width].copy_from_slice(from);
    }
}

/// The first `len` positions of every head from an array of (kv_heads, capacities\[0\], stride) to one of
/// (kv_heads, capacities\[1\], stride).
fn copy<T: Copy>(from: &[T], to: &mut [T], capacities: [usize; 2], len: usize, stride: usize) {
    // A capacity of 0 is no positions: nothing is copied.
    let [from_heads, to_heads] = capacities.map(|capacity| (capacity * stride).max(1));
    for (from, to) in from.chunks_exact(from_heads).zip(to.chunks_exact_mut(to_heads)) {
        to[..len * stride].copy_from_slice(&from[..len * stride]);
    }
}
