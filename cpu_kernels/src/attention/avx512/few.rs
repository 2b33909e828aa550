//! Few rows: each key and value is loaded once for up to six rows, the queries of a head of keys in Qwen3.5.

use std::arch::x86_64::*;

use super::{load_f16s, load_f32s, load_q8s};
use crate::{
    attention::{
        Softmax, Tile,
        avx2::{BLOCK, scale},
        cache::{Store, UNIT, with_rows},
        stream::{Fetch, few_rows},
    },
    x86::{store_four, wide},
};

/// Units of a pass of [`mix`]: with six rows, 24 sums and 4 vectors of values in 32 registers.
const MIX_UNITS: usize = 4;

few_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl", weigh_wide, 1 2 3 4 5, 6);

/// Passes of [`mix`] over a block.
fn mix_passes(stride: usize) -> usize {
    let units = stride / UNIT;
    units / MIX_UNITS + units % MIX_UNITS
}

/// scores\[r\]\[key\] = query r * key.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn scores<const R: usize, T>(
    queries: &[&[[f32; UNIT]]; R],
    keys: &[T],
    scores: &mut [[f32; BLOCK]; R],
    fetch: &mut Fetch,
    load_key: impl Fn(&[T; UNIT], usize, usize) -> __m512,
) {
    /// Keys that share a load of the queries: with six rows 24 of the 32 registers are sums.
    const KEYS: usize = 4;
    let units = queries[0].len();
    let stride = units * UNIT;
    let count = keys.len() / stride;
    for first in (0..count).step_by(KEYS) {
        // The last key again for those past it; their scores are not looked at.
        let mut rows: [&[[T; UNIT]]; KEYS] = [&[]; KEYS];
        for j in 0..KEYS {
            rows[j] = &keys[(first + j).min(count - 1) * stride..][..stride].as_chunks().0[..units];
            fetch.step();
        }
        let mut sums = [[_mm512_setzero_ps(); KEYS]; R];
        for unit in 0..units {
            let mut key = [_mm512_setzero_ps(); KEYS];
            for j in 0..KEYS {
                key[j] = load_key(&rows[j][unit], (first + j).min(count - 1), unit);
            }
            for r in 0..R {
                let query = wide::load(&queries[r][unit]);
                for j in 0..KEYS {
                    sums[r][j] = _mm512_fmadd_ps(query, key[j], sums[r][j]);
                }
            }
        }
        for r in 0..R {
            let four = scores[r][first..].first_chunk_mut().expect("a block is whole steps of keys");
            store_four(four, wide::sum_each(sums[r]));
        }
    }
}

/// results\[r\] += sum over keys of weights\[r\]\[key\] * value.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn mix<const R: usize, T>(
    weights: &[[f32; BLOCK]; R],
    values: &[T],
    stride: usize,
    results: &mut [f32],
    fetch: &mut Fetch,
    load_value: impl Fn(&[T; UNIT], usize, usize) -> __m512,
) {
    let units = stride / UNIT;
    let wide = units / MIX_UNITS * MIX_UNITS;
    for unit in (0..wide).step_by(MIX_UNITS) {
        mix_units::<R, MIX_UNITS, T>(weights, values, stride, unit, results, fetch, &load_value);
    }
    for unit in wide..units {
        mix_units::<R, 1, T>(weights, values, stride, unit, results, fetch, &load_value);
    }
}

/// `U` units of columns from `unit` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn mix_units<const R: usize, const U: usize, T>(
    weights: &[[f32; BLOCK]; R],
    values: &[T],
    stride: usize,
    unit: usize,
    results: &mut [f32],
    fetch: &mut Fetch,
    load_value: &impl Fn(&[T; UNIT], usize, usize) -> __m512,
) {
    let mut sums = [[_mm512_setzero_ps(); U]; R];
    for (key, value) in values.chunks_exact(stride).enumerate() {
        fetch.step();
        let value: &[[T; UNIT]; U] = value.as_chunks().0[unit..].first_chunk().expect("units of a row");
        let mut vectors = [_mm512_setzero_ps(); U];
        for u in 0..U {
            vectors[u] = load_value(&value[u], key, unit + u);
        }
        for r in 0..R {
            let weight = _mm512_set1_ps(weights[r][key]);
            for u in 0..U {
                sums[r][u] = _mm512_fmadd_ps(weight, vectors[u], sums[r][u]);
            }
        }
    }
    for r in 0..R {
        let result = results[r * stride + unit * UNIT..][..U * UNIT].as_chunks_mut().0;
        for u in 0..U {
            wide::add_to(&mut result[u], sums[r][u]);
        }
    }
}
