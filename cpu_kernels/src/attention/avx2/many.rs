//! Many rows: a block of keys and values is converted to f32 once, and two small matrix products serve all rows.

use std::arch::x86_64::*;

use super::{BLOCK, Unit, VECTORS, load_f16s, load_f32s, load_q8s, scale};
use crate::{
    attention::{
        Softmax, TILE_ROWS, Tile,
        cache::{Store, UNIT, with_rows},
    },
    x86::{self, LANES, load, store},
};

/// Rows of a step of one token above which converting a block for all of them pays.
const FEW_ROWS: usize = 8;

/// Widest head whose converted block is small enough to keep on the stack and in the second-level cache.
const MOST_DIMS: usize = 256;

/// A block as f32, at most 32 KiB.
#[repr(align(64))]
struct Converted([f32; BLOCK * MOST_DIMS]);

/// Whether this is the way for a tile.
pub fn pays(tile: &Tile) -> bool {
    (tile.is_prompt || tile.group > FEW_ROWS) && tile.cache.stride <= MOST_DIMS
}

/// [`Softmax::weigh`].
pub type Weigh = unsafe fn(&mut Softmax, &mut [f32; BLOCK], usize) -> Option<f32>;

/// [`multiply_add`].
pub type MultiplyAdd = unsafe fn(&[f32], usize, &[f32], &mut [f32], usize);

/// # Safety
/// - `weigh` and `multiply_add` run on this processor.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn attend(
    tile: &Tile,
    results: &mut [f32],
    softmaxes: &mut [Softmax],
    weigh: Weigh,
    multiply_add: MultiplyAdd,
) {
    let stride = tile.cache.stride;
    let rows = tile.rows();
    let mut weights = [[0.0; BLOCK]; TILE_ROWS];
    let (mut keys_t, mut values) = (Converted([0.0; _]), Converted([0.0; _]));
    let end = tile.end(rows - 1);
    for start in (tile.keys.start..end).step_by(BLOCK) {
        let keys = BLOCK.min(end - start);
        // (stride, BLOCK) and (keys, stride)
        let (keys_t, values) = (&mut keys_t.0[..stride * BLOCK], &mut values.0[..keys * stride]);
        with_rows!(tile, &tile.cache.k, start, keys, |rows, load| transpose(rows, stride, keys_t, load));
        with_rows!(tile, &tile.cache.v, start, keys, |rows, load| convert(rows, stride, values, load));
        // Positions rise with the row: rows that see none of the block's keys stand before all that do.
        let first = (0..rows).find(|&row| tile.end(row) > start).expect("the last row sees every block");
        let results = &mut results[first * stride..];
        let weights = &mut weights[first..rows];
        weights.fill([0.0; BLOCK]);
        // SAFETY: the caller's promise.
        unsafe { multiply_add(&tile.queries[first * stride..], stride, keys_t, weights.as_flattened_mut(), BLOCK) };
        for (i, weights) in weights.iter_mut().enumerate() {
            let visible = (tile.end(first + i) - start).min(keys);
            // SAFETY: the caller's promise.
            if let Some(shrink) = unsafe { weigh(&mut softmaxes[first + i], weights, visible) } {
                scale(&mut results[i * stride..][..stride], shrink);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { multiply_add(weights.as_flattened(), BLOCK, values, results, stride) };
    }
}

/// `from` (keys, stride) as f32, (stride, BLOCK) in `to`; columns past the keys are left as they are or zero.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose<T>(from: &[T], stride: usize, to: &mut [f32], load: impl Fn(&[T; UNIT], usize, usize) -> Unit) {
    let keys: usize = from.len() / stride;
    for first in (0..keys).step_by(LANES) {
        for unit in 0..stride / UNIT {
            let mut rows = [[_mm256_setzero_si256(); LANES]; VECTORS];
            for key in first..keys.min(first + LANES) {
                let vectors = load(&from[key * stride..].as_chunks().0[unit], key, unit);
                for i in 0..VECTORS {
                    rows[i][key - first] = _mm256_castps_si256(vectors[i]);
                }
            }
            for (rows, dim) in rows.into_iter().zip((unit * UNIT..).step_by(LANES)) {
                let columns = x86::transpose(rows);
                for i in 0..LANES {
                    let to = to[(dim + i) * BLOCK + first..].first_chunk_mut().expect("a block is whole vectors");
                    store(to, _mm256_castsi256_ps(columns[i]));
                }
            }
        }
    }
}

/// `from` (keys, stride) as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn convert<T>(from: &[T], stride: usize, to: &mut [f32], load: impl Fn(&[T; UNIT], usize, usize) -> Unit) {
    for (key, (from, to)) in from.chunks_exact(stride).zip(to.chunks_exact_mut(stride)).enumerate() {
        for (unit, (from, to)) in from.as_chunks().0.iter().zip(to.as_chunks_mut::<UNIT>().0).enumerate() {
            let vectors = load(from, key, unit);
            for (to, vector) in to.as_chunks_mut().0.iter_mut().zip(vectors) {
                store(to, vector);
            }
        }
    }
}

/// `c` (rows, cols) += `a` (rows, a_stride) * `b` (n, cols), with the first n columns of `a`; `cols` is a multiple of
/// two vectors.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn multiply_add(a: &[f32], a_stride: usize, b: &[f32], c: &mut [f32], cols: usize) {
    /// Rows that share a load of `b`: with four vectors of columns 12 of the 16 registers are accumulators.
    const ROWS: usize = 3;
    let rows = c.len() / cols;
    let wide = cols / (4 * LANES) * (4 * LANES);
    for row in (0..rows).step_by(ROWS) {
        let c = &mut c[row * cols..rows.min(row + ROWS) * cols];
        let a = &a[row * a_stride..];
        for col in (0..wide).step_by(4 * LANES) {
            match rows - row {
                1 => multiply_add_block::<1, 4>(a, a_stride, b, c, cols, col),
                2 => multiply_add_block::<2, 4>(a, a_stride, b, c, cols, col),
                _ => multiply_add_block::<ROWS, 4>(a, a_stride, b, c, cols, col),
            }
        }
        for col in (wide..cols).step_by(2 * LANES) {
            match rows - row {
                1 => multiply_add_block::<1, 2>(a, a_stride, b, c, cols, col),
                2 => multiply_add_block::<2, 2>(a, a_stride, b, c, cols, col),
                _ => multiply_add_block::<ROWS, 2>(a, a_stride, b, c, cols, col),
            }
        }
    }
}

/// `R` rows and `V` vectors of columns from `col` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_add_block<const R: usize, const V: usize>(
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    c: &mut [f32],
    cols: usize,
    col: usize,
) {
    let n = b.len() / cols;
    let mut rows: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        rows[r] = &a[r * a_stride..][..n];
    }
    let mut sums = [[_mm256_setzero_ps(); V]; R];
    for (i, b) in b.chunks_exact(cols).enumerate() {
        let b = &b[col..][..V * LANES].as_chunks::<LANES>().0;
        let mut factors = [_mm256_setzero_ps(); R];
        for r in 0..R {
            factors[r] = _mm256_set1_ps(rows[r][i]);
        }
        for v in 0..V {
            let b = load(&b[v]);
            for r in 0..R {
                sums[r][v] = _mm256_fmadd_ps(factors[r], b, sums[r][v]);
            }
        }
    }
    for r in 0..R {
        let c = c[r * cols + col..][..V * LANES].as_chunks_mut().0;
        for v in 0..V {
            x86::add_to(&mut c[v], sums[r][v]);
        }
    }
}
