//! The keys and values of the positions so far, of one layer.

use std::ops::Range;

use half::{f16, slice::HalfFloatSliceExt};

use super::MAX_HEAD_DIM;
use crate::{Cpu, threads::Disjoint};

/// Element type of a key or value cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// IEEE binary16, rounded to nearest even when written.
    F16,
    /// IEEE binary32.
    F32,
}

impl KvType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Keys and values of one layer, allocated once; what position p holds is overwritten by an append at p.
#[derive(Clone, Debug)]
pub struct KvCache {
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Elements from one position to the next: `head_dim` rounded up to [`LANES`], zero from `head_dim` on.
    pub(super) stride: usize,
    pub(super) capacity: usize,
    pub(super) k: Store,
    pub(super) v: Store,
}

/// Elements of the widest vector that the kernels read a head by.
pub(super) const LANES: usize = 16;

/// (kv_heads, capacity, stride): the positions of one head follow each other, which is how attention reads them.
#[derive(Clone, Debug)]
pub(super) enum Store {
    /// Bits of binary16.
    F16(Vec<u16>),
    F32(Vec<f32>),
}

impl Store {
    fn new(ty: KvType, len: usize) -> Self {
        // Zeroed by the system page by page as positions are written: unused context costs no memory.
        match ty {
            KvType::F16 => Self::F16(vec![0; len]),
            KvType::F32 => Self::F32(vec![0.0; len]),
        }
    }

    /// Appends `len` elements from `at` on to `out`.
    fn push(&self, at: usize, len: usize, out: &mut Vec<f32>) {
        match self {
            Self::F16(bits) => out.extend(bits[at..at + len].iter().map(|&b| f16::from_bits(b).to_f32())),
            Self::F32(values) => out.extend_from_slice(&values[at..at + len]),
        }
    }

    fn writer(&mut self) -> Writer<'_> {
        match self {
            Self::F16(bits) => Writer::F16(Disjoint::new(bits)),
            Self::F32(values) => Writer::F32(Disjoint::new(values)),
        }
    }
}

enum Writer<'a> {
    F16(Disjoint<'a, u16>),
    F32(Disjoint<'a, f32>),
}

impl Writer<'_> {
    /// Writes one position of one head.
    ///
    /// # Safety
    /// - No other thread writes the same elements.
    unsafe fn write(&self, at: usize, head: &[f32]) {
        let range = at..at + head.len();
        match self {
            Self::F16(bits) => {
                // SAFETY: the caller's promise.
                let bits = unsafe { bits.part(range) };
                bytemuck::cast_slice_mut::<u16, f16>(bits).convert_from_f32_slice(head);
            }
            // SAFETY: the caller's promise.
            Self::F32(values) => unsafe { values.part(range) }.copy_from_slice(head),
        }
    }
}

impl KvCache {
    /// Room for `capacity` positions.
    ///
    /// # Panics
    /// If `head_dim` is 0 or above [`MAX_HEAD_DIM`].
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize, k_type: KvType, v_type: KvType) -> Self {
        assert!((1..=MAX_HEAD_DIM).contains(&head_dim), "KvCache: heads of {head_dim} (at most {MAX_HEAD_DIM})");
        let stride = head_dim.next_multiple_of(LANES);
        let len = kv_heads * capacity * stride;
        Self { kv_heads, head_dim, stride, capacity, k: Store::new(k_type, len), v: Store::new(v_type, len) }
    }

    /// Key/value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Positions it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that [`Self::new`] reserves.
    pub fn bytes(kv_heads: usize, head_dim: usize, capacity: usize, k_type: KvType, v_type: KvType) -> usize {
        let elements = kv_heads.saturating_mul(head_dim.next_multiple_of(LANES)).saturating_mul(capacity);
        elements.saturating_mul(k_type.bytes() + v_type.bytes())
    }

    /// Writes keys and values, each (T, kv_heads, head_dim), at positions `pos` .. `pos` + T.
    ///
    /// # Panics
    /// If the lengths differ, are not whole tokens, or do not fit.
    pub fn append(&mut self, cpu: &Cpu, pos: usize, k: &[f32], v: &[f32]) {
        assert_eq!(k.len(), v.len(), "KvCache: values of k and v");
        let (kv_heads, head_dim, stride, capacity) = (self.kv_heads, self.head_dim, self.stride, self.capacity);
        let tokens = crate::tokens_of("KvCache", k, kv_heads * head_dim);
        assert!(pos + tokens <= capacity, "KvCache: positions {pos} .. {} of {capacity}", pos + tokens);
        let (k_out, v_out) = (self.k.writer(), self.v.writer());
        cpu.pool().run(tokens, |t| {
            for head in 0..kv_heads {
                let from = (t * kv_heads + head) * head_dim;
                let to = (head * capacity + pos + t) * stride;
                // SAFETY: chunk t alone writes position `pos` + t.
                unsafe {
                    k_out.write(to, &k[from..from + head_dim]);
                    v_out.write(to, &v[from..from + head_dim]);
                }
            }
        });
    }

    /// Replaces `k` and `v` by what the cache holds at `positions`, each (T, kv_heads, head_dim).
    ///
    /// # Panics
    /// If `positions` are past the capacity.
    pub fn read(&self, positions: Range<usize>, k: &mut Vec<f32>, v: &mut Vec<f32>) {
        assert!(positions.end <= self.capacity, "KvCache: positions {positions:?} of {}", self.capacity);
        for (store, out) in [(&self.k, k), (&self.v, v)] {
            out.clear();
            for position in positions.clone() {
                for head in 0..self.kv_heads {
                    store.push(((head * self.capacity) + position) * self.stride, self.head_dim, out);
                }
            }
        }
    }
}
