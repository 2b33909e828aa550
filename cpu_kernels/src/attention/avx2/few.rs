//! Few rows: each key and value is loaded once for up to four rows.

use std::arch::x86_64::*;

use super::{BLOCK, Unit, VECTORS, load_f16s, load_f32s, load_q8s, scale};
use crate::{
    attention::{
        Softmax, Tile,
        cache::{Store, UNIT, with_rows},
        stream::{Fetch, few_rows},
    },
    x86::{self, load},
};

few_rows!("avx2,fma,f16c", weigh, 1 2 3, 4);

/// Passes of [`mix`] over a block.
fn mix_passes(stride: usize) -> usize {
    stride / UNIT
}

/// scores\[r\]\[key\] = query r * key.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scores<const R: usize, T>(
    queries: &[&[[f32; UNIT]]; R],
    keys: &[T],
    scores: &mut [[f32; BLOCK]; R],
    fetch: &mut Fetch,
    load_key: impl Fn(&[T; UNIT], usize, usize) -> Unit,
) {
    /// Keys that share a load of the queries: with four rows half of the 16 registers are sums.
    const KEYS: usize = 2;
    let units = queries[0].len();
    let stride = units * UNIT;
    let count = keys.len() / stride;
    for first in (0..count).step_by(KEYS) {
        // The last key again for one past it; its scores are not looked at.
        let mut rows: [&[[T; UNIT]]; KEYS] = [&[]; KEYS];
        for j in 0..KEYS {
            rows[j] = keys[(first + j).min(count - 1) * stride..][..stride].as_chunks().0;
            fetch.step();
        }
        let mut sums = [[_mm256_setzero_ps(); 4]; KEYS];
        for unit in 0..units {
            let mut key = [[_mm256_setzero_ps(); VECTORS]; KEYS];
            for j in 0..KEYS {
                key[j] = load_key(&rows[j][unit], (first + j).min(count - 1), unit);
            }
            for r in 0..R {
                let query = queries[r][unit].as_chunks().0;
                for i in 0..VECTORS {
                    let query = load(&query[i]);
                    for j in 0..KEYS {
                        sums[j][r] = _mm256_fmadd_ps(query, key[j][i], sums[j][r]);
                    }
                }
            }
        }
        for j in 0..KEYS {
            let mut four = [0.0; 4];
            x86::store_four(&mut four, x86::sum_each(sums[j]));
            for r in 0..R {
                scores[r][first + j] = four[r];
            }
        }
    }
}

/// results\[r\] += sum over keys of weights\[r\]\[key\] * value, a unit of columns at a time.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mix<const R: usize, T>(
    weights: &[[f32; BLOCK]; R],
    values: &[T],
    stride: usize,
    results: &mut [f32],
    fetch: &mut Fetch,
    load_value: impl Fn(&[T; UNIT], usize, usize) -> Unit,
) {
    for unit in 0..stride / UNIT {
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; R];
        for (key, value) in values.chunks_exact(stride).enumerate() {
            fetch.step();
            let value = load_value(&value.as_chunks().0[unit], key, unit);
            for r in 0..R {
                let weight = _mm256_set1_ps(weights[r][key]);
                for i in 0..VECTORS {
                    sums[r][i] = _mm256_fmadd_ps(weight, value[i], sums[r][i]);
                }
            }
        }
        for r in 0..R {
            let result = results[r * stride + unit * UNIT..][..UNIT].as_chunks_mut().0;
            for i in 0..VECTORS {
                x86::add_to(&mut result[i], sums[r][i]);
            }
        }
    }
}
