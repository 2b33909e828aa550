//! The keys and values of the positions so far, of one sequence in one layer.

#[cfg(target_arch = "x86_64")]
use std::ops::Range;

use bytemuck::{Zeroable, allocation::try_zeroed_vec};
use half::{f16, slice::HalfFloatSliceExt};

use super::{
    MAX_HEAD_DIM, Placed,
    placed::{self, Heads},
};
use crate::{ALIKE_TOKENS, Cpu, threads::Disjoint};

/// Values of a block of [`KvType::Q8_0`].
pub const Q8_BLOCK: usize = 32;

/// Element type of a key or value cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// IEEE binary16, rounded to nearest even when written.
    F16,
    /// IEEE binary32.
    F32,
    /// Blocks of 32 values of a head: an f16 d for all, and for each an i8 q, for q * d. Written with
    /// d = max|x| / 127, which leaves an error of at most half of d (`block_q8_0` in ggml-common.h).
    Q8_0,
}

impl KvType {
    /// Bytes of so many elements that follow each other, in whole blocks.
    pub fn bytes(self, elements: usize) -> usize {
        match self {
            Self::F16 => elements.saturating_mul(2),
            Self::F32 => elements.saturating_mul(4),
            Self::Q8_0 => elements.saturating_add(elements.div_ceil(Q8_BLOCK).saturating_mul(2)),
        }
    }
}

/// Keys and values of one sequence in one layer, allocated once; what position p holds is overwritten by an append at p.
#[derive(Clone, Debug)]
pub struct KvCache {
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Elements from one position to the next: `head_dim` rounded up to [`UNIT`], zero from `head_dim` on.
    pub(super) stride: usize,
    pub(super) capacity: usize,
    pub(super) k: Store,
    pub(super) v: Store,
}

/// Elements that the kernels load together: whole vectors of every width, and of one block of 8-bit values.
pub(super) const UNIT: usize = 16;

/// (kv_heads, capacity, stride): the positions of one head follow each other, which is how attention reads them.
#[derive(Clone, Debug)]
pub(super) enum Store {
    /// Bits of binary16.
    F16(Vec<u16>),
    F32(Vec<f32>),
    Q8_0 {
        codes: Vec<i8>,
        /// (kv_heads, capacity, stride / 32 rounded up), bits of binary16.
        scales: Vec<u16>,
    },
}

/// Blocks of 8-bit values of a head at one position.
pub(super) fn q8_blocks(stride: usize) -> usize {
    stride.div_ceil(Q8_BLOCK)
}

/// Zeroed by the system page by page as positions are written: unused context costs no memory.
fn zeroed<T: Zeroable>(len: usize) -> Option<Vec<T>> {
    try_zeroed_vec(len).ok()
}

impl Store {
    /// Zeros for so many positions of a head; `None` if there is not the memory.
    fn new(ty: KvType, positions: usize, stride: usize) -> Option<Self> {
        let len = positions.checked_mul(stride)?;
        Some(match ty {
            KvType::F16 => Self::F16(zeroed(len)?),
            KvType::F32 => Self::F32(zeroed(len)?),
            KvType::Q8_0 => Self::Q8_0 { codes: zeroed(len)?, scales: zeroed(positions * q8_blocks(stride))? },
        })
    }

    /// Element `i` of a position, counted through the heads.
    pub(super) fn element(&self, position: usize, stride: usize, i: usize) -> f32 {
        let at = position * stride + i;
        match self {
            Self::F16(bits) => f16::from_bits(bits[at]).to_f32(),
            Self::F32(values) => values[at],
            Self::Q8_0 { codes, scales } => {
                f16::from_bits(scales[position * q8_blocks(stride) + i / Q8_BLOCK]).to_f32() * f32::from(codes[at])
            }
        }
    }

    /// The codes or values of `range`, as they lie in memory.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn raw(&self, range: Range<usize>) -> &[u8] {
        match self {
            Self::F16(bits) => bytemuck::cast_slice(&bits[range]),
            Self::F32(values) => bytemuck::cast_slice(&values[range]),
            Self::Q8_0 { codes, .. } => bytemuck::cast_slice(&codes[range]),
        }
    }

    fn writer(&mut self) -> Writer<'_> {
        match self {
            Self::F16(bits) => Writer::F16(Disjoint::new(bits)),
            Self::F32(values) => Writer::F32(Disjoint::new(values)),
            Self::Q8_0 { codes, scales } => Writer::Q8_0 { codes: Disjoint::new(codes), scales: Disjoint::new(scales) },
        }
    }
}

enum Writer<'a> {
    F16(Disjoint<'a, u16>),
    F32(Disjoint<'a, f32>),
    Q8_0 { codes: Disjoint<'a, i8>, scales: Disjoint<'a, u16> },
}

impl Writer<'_> {
    /// Writes one position, counted through the heads.
    ///
    /// # Safety
    /// - No other thread writes the same position.
    unsafe fn write(&self, position: usize, stride: usize, head: &[f32]) {
        let range = position * stride..position * stride + head.len();
        match self {
            Self::F16(bits) => {
                // SAFETY: the caller's promise.
                let bits = unsafe { bits.part(range) };
                bytemuck::cast_slice_mut::<u16, f16>(bits).convert_from_f32_slice(head);
            }
            // SAFETY: the caller's promise.
            Self::F32(values) => unsafe { values.part(range) }.copy_from_slice(head),
            Self::Q8_0 { codes, scales } => {
                let blocks = q8_blocks(stride);
                // SAFETY: the caller's promise.
                let (codes, scales) =
                    unsafe { (codes.part(range), scales.part(position * blocks..(position + 1) * blocks)) };
                let values = head.chunks(Q8_BLOCK).zip(codes.chunks_mut(Q8_BLOCK));
                for ((values, codes), scale) in values.zip(scales) {
                    *scale = quantize(values, codes).to_bits();
                }
            }
        }
    }
}

/// Writes to one cache, from several threads.
struct CacheWriter<'a> {
    capacity: usize,
    stride: usize,
    k: Writer<'a>,
    v: Writer<'a>,
}

impl CacheWriter<'_> {
    /// Writes one head's key and value.
    ///
    /// # Safety
    /// - No other thread writes the same head and position.
    unsafe fn write(&self, head: usize, position: usize, key: &[f32], value: &[f32]) {
        let at = head * self.capacity + position;
        // SAFETY: the caller's promise.
        unsafe {
            self.k.write(at, self.stride, key);
            self.v.write(at, self.stride, value);
        }
    }
}

/// Quantises a block; returns d. Where a value is not finite, or too large, d is not finite either and the codes are 0:
/// every product with them is NaN.
fn quantize(values: &[f32], codes: &mut [i8]) -> f16 {
    // The maximum skips NaN.
    let largest = values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let mut d = if values.iter().any(|x| x.is_nan()) { f16::NAN } else { f16::from_f32(largest / 127.0) };
    // Among the smallest numbers of f16 a rounding down is large: the next one up.
    if d.to_f32() * 127.5 < largest {
        d = f16::from_bits(d.to_bits() + 1);
    }
    let inverse = if d == f16::ZERO || !d.is_finite() { 0.0 } else { 1.0 / d.to_f32() };
    for (code, x) in codes.iter_mut().zip(values) {
        *code = (x * inverse).round_ties_even() as i8;
    }
    d
}

impl KvCache {
    /// Room for `capacity` positions.
    ///
    /// # Panics
    /// If `head_dim` is 0 or above [`MAX_HEAD_DIM`], or there is not the memory.
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize, k_type: KvType, v_type: KvType) -> Self {
        Self::try_new(kv_heads, head_dim, capacity, k_type, v_type).unwrap_or_else(|| {
            panic!("KvCache: no memory for {} bytes", Self::bytes(kv_heads, head_dim, capacity, k_type, v_type))
        })
    }

    /// As [`Self::new`]; `None` if there is not the memory.
    ///
    /// # Panics
    /// If `head_dim` is 0 or above [`MAX_HEAD_DIM`].
    pub fn try_new(kv_heads: usize, head_dim: usize, capacity: usize, k_type: KvType, v_type: KvType) -> Option<Self> {
        assert!((1..=MAX_HEAD_DIM).contains(&head_dim), "KvCache: heads of {head_dim} (at most {MAX_HEAD_DIM})");
        let stride = head_dim.next_multiple_of(UNIT);
        let positions = kv_heads.checked_mul(capacity)?;
        let (k, v) = (Store::new(k_type, positions, stride)?, Store::new(v_type, positions, stride)?);
        Some(Self { kv_heads, head_dim, stride, capacity, k, v })
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

    fn writer(&mut self) -> CacheWriter<'_> {
        CacheWriter { capacity: self.capacity, stride: self.stride, k: self.k.writer(), v: self.v.writer() }
    }

    /// Bytes that [`Self::new`] reserves.
    pub fn bytes(kv_heads: usize, head_dim: usize, capacity: usize, k_type: KvType, v_type: KvType) -> usize {
        let stride = head_dim.next_multiple_of(UNIT);
        kv_heads.saturating_mul(capacity).saturating_mul(k_type.bytes(stride) + v_type.bytes(stride))
    }
}

/// Writes the keys and values of a step, each (T, kv_heads, head_dim), where `rows` say.
///
/// # Panics
/// If lengths differ or are not those of `rows`, caches have other heads, positions do not fit, or two rows have one cache.
pub fn append(cpu: &Cpu, caches: &mut [KvCache], rows: &[Placed], k: &[f32], v: &[f32]) {
    assert_eq!(k.len(), v.len(), "append: values of k and v");
    let Some(Heads { kv_heads, head_dim }) = placed::check("append", caches, rows) else {
        return assert!(k.is_empty(), "append: {} values of no token", k.len());
    };
    let tokens = crate::tokens_of("append", k, kv_heads * head_dim);
    assert_eq!(tokens, placed::tokens(rows), "append: tokens of the keys, and of the rows");
    assert!(placed::are_different(rows), "append: two rows of one cache in {rows:?}");
    let width = kv_heads * head_dim;
    for (of_group, rows) in placed::groups(rows) {
        let values = of_group.start * width..of_group.end * width;
        append_group(cpu, caches, rows, &k[values.clone()], &v[values]);
    }
}

/// As [`append`], for rows that run side by side.
fn append_group(cpu: &Cpu, caches: &mut [KvCache], rows: &[Placed], k: &[f32], v: &[f32]) {
    let KvCache { kv_heads, head_dim, .. } = caches[rows[0].cache];
    // By row. On the stack: a step allocates nothing.
    let mut writers: [Option<CacheWriter>; ALIKE_TOKENS] = Default::default();
    for (number, cache) in caches.iter_mut().enumerate() {
        if let Some(row) = rows.iter().position(|row| row.cache == number) {
            writers[row] = Some(cache.writer());
        }
    }
    cpu.pool().run(placed::tokens(rows), |t| {
        let (row, position) = placed::locate(rows, t);
        let Some(writer) = &writers[row] else { unreachable!("a writer for each row") };
        for head in 0..kv_heads {
            let from = (t * kv_heads + head) * head_dim;
            // SAFETY: rows have caches of their own, and chunk t alone writes this position of its cache.
            unsafe { writer.write(head, position, &k[from..from + head_dim], &v[from..from + head_dim]) };
        }
    });
}

/// Runs `$run` for `$keys` positions of a head from `$start` on, whatever the type of `$store`: `$rows` is
/// (keys, stride), and `$load(sixteen of them, key, number of the sixteen)` turns them into vectors of f32 by a
/// function `load_f16s`, `load_f32s` or `load_q8s` that stands where the macro is used.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! with_rows {
    ($tile:expr, $store:expr, $start:expr, $keys:expr, |$rows:ident, $load:ident| $run:expr) => {
        match $store {
            Store::F16(bits) => {
                let ($rows, $load) = ($tile.block(bits, $start, $keys), |x: &[u16; UNIT], _, _| load_f16s(x));
                $run
            }
            Store::F32(values) => {
                let ($rows, $load) = ($tile.block(values, $start, $keys), |x: &[f32; UNIT], _, _| load_f32s(x));
                $run
            }
            Store::Q8_0 { codes, scales } => {
                let scales = $tile.scales(scales, $start, $keys);
                let blocks = scales.len() / $keys;
                let ($rows, $load) = ($tile.block(codes, $start, $keys), |x: &[i8; UNIT], key: usize, unit: usize| {
                    load_q8s(x, scales[key * blocks + unit / 2])
                });
                $run
            }
        }
    };
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use with_rows;
