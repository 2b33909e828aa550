//! Keys and values are streamed from memory once for a few rows, or for all rows of a tile, block by block.
//!
//! A block's values are fetched into the cache while its keys are multiplied, and the next block's keys while its values
//! are: memory is read in whole stretches, whatever the order in which the kernels go through a block. Without that, 32
//! rows of values were read 32 bytes at a time, and a cache that is in no processor cache at a third of the speed of
//! plain reading.

use super::{Tile, avx2::BLOCK, cache::Store};
use crate::x86::prefetch_at;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Memory to fetch during some steps.
pub struct Fetch<'a> {
    left: &'a [u8],
    bytes_per_step: usize,
}

impl<'a> Fetch<'a> {
    /// Positions `start` .. `end` of one of the cache's arrays, at most a block of them, in `steps` steps; nothing where `start`
    /// is behind them.
    pub fn new(tile: &Tile, store: &'a Store, start: usize, end: usize, steps: usize) -> Self {
        let (stride, head) = (tile.cache.stride, tile.kv_head * tile.cache.capacity);
        let start = start.min(end);
        let end = end.min(start + BLOCK);
        let left = store.raw((head + start) * stride..(head + end) * stride);
        let lines = left.len().div_ceil(LINE);
        Self { left, bytes_per_step: lines.div_ceil(steps.max(1)) * LINE }
    }

    /// Asks for the share of a step.
    #[inline]
    pub fn step(&mut self) {
        let (now, left) = self.left.split_at(self.bytes_per_step.min(self.left.len()));
        now.chunks(LINE).for_each(|line| prefetch_at(line.as_ptr().cast(), 0));
        self.left = left;
    }
}

/// `attend(tile, results, softmaxes)` for the instructions `$features`, from functions that stand where the macro is
/// used: `scores(queries, keys, scores, fetch, load)`, with a step of fetching for each key;
/// `mix(weights, values, stride, results, fetch, load)`, with one for each key in each of `mix_passes(stride)` passes; and
/// the method `Softmax::$weigh`. `$most` rows share what is loaded, or one of the `$fewer`: as many as have room in registers.
macro_rules! few_rows {
    ($features:literal, $weigh:ident, $($fewer:literal)*, $most:literal) => {
        /// Mixes the values of a tile's keys for each row, `results` (rows, stride), which is zero.
        #[target_feature(enable = $features)]
        pub fn attend(tile: &Tile, results: &mut [f32], softmaxes: &mut [Softmax]) {
            let stride = tile.cache.stride;
            let rows = tile.rows();
            for first in (0..rows).step_by($most) {
                let last = rows.min(first + $most);
                let (results, softmaxes) = (&mut results[first * stride..last * stride], &mut softmaxes[first..last]);
                match last - first {
                    $($fewer => attend_rows::<$fewer>(tile, first, results, softmaxes),)*
                    _ => attend_rows::<$most>(tile, first, results, softmaxes),
                }
            }
        }

        /// `R` rows from `first` on, `results` (R, stride).
        #[target_feature(enable = $features)]
        fn attend_rows<const R: usize>(tile: &Tile, first: usize, results: &mut [f32], softmaxes: &mut [Softmax]) {
            let (cache, stride) = (tile.cache, tile.cache.stride);
            let mut queries: [&[[f32; UNIT]]; R] = [&[]; R];
            for r in 0..R {
                queries[r] = tile.query(first + r).as_chunks().0;
            }
            // Positions rise with the row: the last one sees the most keys.
            let end = tile.end(first + R - 1);
            for start in (tile.keys.start..end).step_by(BLOCK) {
                let keys = BLOCK.min(end - start);
                let mut weights = [[0.0; BLOCK]; R];
                let mut fetch = Fetch::new(tile, &cache.v, start, end, keys);
                with_rows!(tile, &cache.k, start, keys, |rows, load| scores(
                    &queries,
                    rows,
                    &mut weights,
                    &mut fetch,
                    load
                ));
                for r in 0..R {
                    let visible = tile.end(first + r).saturating_sub(start).min(keys);
                    if visible == 0 {
                        weights[r] = [0.0; BLOCK];
                    } else if let Some(shrink) = softmaxes[r].$weigh(&mut weights[r], visible) {
                        scale(&mut results[r * stride..][..stride], shrink);
                    }
                }
                let mut fetch = Fetch::new(tile, &cache.k, start + keys, end, mix_passes(stride) * keys);
                with_rows!(tile, &cache.v, start, keys, |rows, load| mix(
                    &weights, rows, stride, results, &mut fetch, load
                ));
            }
        }
    };
}

pub(super) use few_rows;
