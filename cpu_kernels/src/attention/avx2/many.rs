//! Many rows: a block of keys and values is converted to f32 once, and two small matrix products serve all rows.
//!
//! Scores stand as (keys, rows): the queries are transposed once for all blocks, so that no key has to be, and a vector
//! holds the scores of a key for as many rows, each of which has its own maximum and sum.

use std::arch::x86_64::*;

use super::{BLOCK, Unit, load_f16s, load_f32s, load_q8s, scale};
use crate::{
    attention::{
        Softmax, TILE_ROWS, TILE_VALUES, Tile,
        cache::{Store, UNIT, with_rows},
        stream::Fetch,
    },
    x86::{self, LANES, exp::exp, load, store},
};

/// Rows of a step of one token above which converting a block for all of them pays.
const FEW_ROWS: usize = 8;

/// Widest head whose converted block is small enough to keep on the stack and in the second-level cache.
const MOST_DIMS: usize = 256;

/// A block as f32, at most 32 KiB.
#[repr(align(64))]
struct Converted([f32; BLOCK * MOST_DIMS]);

/// The queries of a tile, (stride, columns): a column for each row, in whole units.
#[repr(align(64))]
struct Queries([f32; TILE_VALUES + (UNIT - 1) * MOST_DIMS]);

/// Scores of a block, then weights, (BLOCK, columns).
#[repr(align(64))]
struct Scores([f32; BLOCK * TILE_ROWS]);

/// [`Softmax`] of the rows of a tile, a lane each.
#[repr(align(64))]
pub struct Rows {
    /// Largest scores so far.
    pub max: [f32; TILE_ROWS],
    /// Sums so far.
    pub sum: [f32; TILE_ROWS],
    /// Keys of the block at hand that a row sees.
    pub visible: [i32; TILE_ROWS],
    /// Factors that the block at hand asks of the sums before it.
    pub shrink: [f32; TILE_ROWS],
}

/// Whether this is the way for a tile.
pub fn pays(tile: &Tile) -> bool {
    (tile.is_prompt || tile.group > FEW_ROWS) && tile.cache.stride <= MOST_DIMS
}

/// [`weigh`].
pub type Weigh = unsafe fn(&mut Rows, &mut [f32], usize);

/// [`multiply_add`].
pub type MultiplyAdd = unsafe fn(Factors, &[f32], &mut [f32], usize);

/// The left matrix of a product, (rows, n), and where its element (row, i) lies.
#[derive(Clone, Copy)]
pub enum Factors<'a> {
    /// At row * stride + i.
    ByRow(&'a [f32], usize),
    /// At i * stride + row.
    ByColumn(&'a [f32], usize),
}

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
    let columns = rows.next_multiple_of(UNIT);
    let mut queries = Queries([0.0; _]);
    let queries = &mut queries.0[..stride * columns];
    for row in 0..rows {
        queries.iter_mut().skip(row).step_by(columns).zip(tile.query(row)).for_each(|(to, x)| *to = *x);
    }
    let mut of_rows = Rows {
        max: [f32::NEG_INFINITY; TILE_ROWS],
        sum: [0.0; TILE_ROWS],
        visible: [0; TILE_ROWS],
        shrink: [1.0; TILE_ROWS],
    };
    let mut scores = Scores([0.0; _]);
    let mut converted = Converted([0.0; _]);
    let end = tile.end(rows - 1);
    for start in (tile.keys.start..end).step_by(BLOCK) {
        let keys = BLOCK.min(end - start);
        let block = &mut converted.0[..keys * stride];
        let scores = &mut scores.0[..keys * columns];
        scores.fill(0.0);
        let mut fetch = Fetch::new(tile, &tile.cache.v, start, end, keys);
        with_rows!(tile, &tile.cache.k, start, keys, |rows, load| convert(rows, stride, block, &mut fetch, load));
        // SAFETY: the caller's promise.
        unsafe { multiply_add(Factors::ByRow(block, stride), queries, scores, columns) };
        for (row, visible) in of_rows.visible[..rows].iter_mut().enumerate() {
            *visible = tile.end(row).saturating_sub(start).min(keys) as i32;
        }
        // SAFETY: the caller's promise.
        unsafe { weigh(&mut of_rows, scores, columns) };
        for (shrink, result) in of_rows.shrink[..rows].iter().zip(results.chunks_exact_mut(stride)) {
            if *shrink != 1.0 {
                scale(result, *shrink);
            }
        }
        let mut fetch = Fetch::new(tile, &tile.cache.k, start + BLOCK, end, keys);
        with_rows!(tile, &tile.cache.v, start, keys, |rows, load| convert(rows, stride, block, &mut fetch, load));
        // SAFETY: the caller's promise.
        unsafe { multiply_add(Factors::ByColumn(scores, columns), block, results, stride) };
    }
    for (row, softmax) in softmaxes.iter_mut().enumerate() {
        *softmax = Softmax { max: of_rows.max[row], sum: of_rows.sum[row] };
    }
}

/// Turns the scores of a block, (keys, columns), into weights e^(score - m), and those of keys that a row does not see into
/// 0; the factors for what went before are left in `rows.shrink`.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn weigh(rows: &mut Rows, scores: &mut [f32], columns: usize) {
    let keys = scores.len() / columns;
    for first in (0..columns).step_by(LANES) {
        let at = |key: usize| key * columns + first..key * columns + first + LANES;
        let visible = x86::load_i32(rows.visible[first..].first_chunk().expect("whole vectors of rows"));
        let sees = |key: usize| _mm256_castsi256_ps(_mm256_cmpgt_epi32(visible, _mm256_set1_epi32(key as i32)));
        let [max, sum, shrink] = [&mut rows.max, &mut rows.sum, &mut rows.shrink]
            .map(|all| all[first..].first_chunk_mut::<LANES>().expect("whole vectors of rows"));
        let lowest = _mm256_set1_ps(f32::NEG_INFINITY);
        let before = load(max);
        let mut largest = before;
        for key in 0..keys {
            // The second operand is the result where one is NaN: NaN is skipped.
            let score = load(scores[at(key)].as_chunks().0.first().expect("a vector of scores"));
            largest = _mm256_max_ps(_mm256_blendv_ps(lowest, score, sees(key)), largest);
        }
        let grown = _mm256_cmp_ps::<_CMP_GT_OQ>(largest, before);
        let factor = _mm256_blendv_ps(_mm256_set1_ps(1.0), exp(_mm256_sub_ps(before, largest)), grown);
        store(max, largest);
        store(shrink, factor);
        let mut total = _mm256_mul_ps(load(sum), factor);
        for key in 0..keys {
            let scores = scores[at(key)].first_chunk_mut().expect("a vector of scores");
            let (score, sees) = (load(scores), sees(key));
            let weight = _mm256_and_ps(sees, exp(_mm256_sub_ps(score, largest)));
            store(scores, weight);
            // score * 0 is 0 for a number and NaN for -infinity, which must not pass as a weight of 0.
            let poison = _mm256_and_ps(sees, _mm256_mul_ps(score, _mm256_setzero_ps()));
            total = _mm256_add_ps(total, _mm256_add_ps(weight, poison));
        }
        store(sum, total);
    }
}

/// `from` (keys, stride) as f32; each key is a step of `fetch`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn convert<T>(
    from: &[T],
    stride: usize,
    to: &mut [f32],
    fetch: &mut Fetch,
    load: impl Fn(&[T; UNIT], usize, usize) -> Unit,
) {
    for (key, (from, to)) in from.chunks_exact(stride).zip(to.chunks_exact_mut(stride)).enumerate() {
        fetch.step();
        for (unit, (from, to)) in from.as_chunks().0.iter().zip(to.as_chunks_mut::<UNIT>().0).enumerate() {
            let vectors = load(from, key, unit);
            for (to, vector) in to.as_chunks_mut().0.iter_mut().zip(vectors) {
                store(to, vector);
            }
        }
    }
}

/// `c` (rows, cols) += `a` (rows, n) * `b` (n, cols); `cols` is a multiple of two vectors.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn multiply_add(a: Factors, b: &[f32], c: &mut [f32], cols: usize) {
    /// Rows that share a load of `b`: with four vectors of columns 12 of the 16 registers are accumulators.
    const ROWS: usize = 3;
    let rows = c.len() / cols;
    let wide = cols / (4 * LANES) * (4 * LANES);
    for row in (0..rows).step_by(ROWS) {
        let c = &mut c[row * cols..rows.min(row + ROWS) * cols];
        let a = a.skip_rows(row);
        for col in (0..wide).step_by(4 * LANES) {
            match rows - row {
                1 => multiply_add_block::<1, 4>(a, b, c, cols, col),
                2 => multiply_add_block::<2, 4>(a, b, c, cols, col),
                _ => multiply_add_block::<ROWS, 4>(a, b, c, cols, col),
            }
        }
        for col in (wide..cols).step_by(2 * LANES) {
            match rows - row {
                1 => multiply_add_block::<1, 2>(a, b, c, cols, col),
                2 => multiply_add_block::<2, 2>(a, b, c, cols, col),
                _ => multiply_add_block::<ROWS, 2>(a, b, c, cols, col),
            }
        }
    }
}

impl<'a> Factors<'a> {
    /// Without the first `row` rows.
    #[inline]
    pub fn skip_rows(self, row: usize) -> Self {
        match self {
            Self::ByRow(values, stride) => Self::ByRow(&values[row * stride..], stride),
            Self::ByColumn(values, stride) => Self::ByColumn(&values[row..], stride),
        }
    }

    /// Calls `each` with the numbers from 0 to `n` - 1 and the first `R` elements of those columns.
    #[inline(always)]
    pub fn columns<const R: usize>(self, n: usize, mut each: impl FnMut(usize, [f32; R])) {
        match self {
            Self::ByRow(values, stride) => {
                let mut rows: [&[f32]; R] = [&[]; R];
                for r in 0..R {
                    rows[r] = &values[r * stride..][..n];
                }
                for i in 0..n {
                    let mut column = [0.0; R];
                    for r in 0..R {
                        column[r] = rows[r][i];
                    }
                    each(i, column);
                }
            }
            Self::ByColumn(values, stride) => {
                for i in 0..n {
                    each(i, *values[i * stride..].first_chunk().expect("a column has all rows"));
                }
            }
        }
    }
}

/// `R` rows and `V` vectors of columns from `col` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_add_block<const R: usize, const V: usize>(a: Factors, b: &[f32], c: &mut [f32], cols: usize, col: usize) {
    let mut sums = [[_mm256_setzero_ps(); V]; R];
    a.columns::<R>(b.len() / cols, |i, column| {
        let b = &b[i * cols + col..][..V * LANES].as_chunks::<LANES>().0;
        let mut factors = [_mm256_setzero_ps(); R];
        for r in 0..R {
            factors[r] = _mm256_set1_ps(column[r]);
        }
        for v in 0..V {
            let b = load(&b[v]);
            for r in 0..R {
                sums[r][v] = _mm256_fmadd_ps(factors[r], b, sums[r][v]);
            }
        }
    });
    for r in 0..R {
        let c = c[r * cols + col..][..V * LANES].as_chunks_mut().0;
        for v in 0..V {
            x86::add_to(&mut c[v], sums[r][v]);
        }
    }
}
