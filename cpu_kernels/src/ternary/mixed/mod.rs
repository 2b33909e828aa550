//! Many tokens by lookups beside multiplications.
//!
//! `vpdpbusd` is bound by the two units that multiply, while those that shuffle and add stand idle. There, `vpermw` looks
//! up sums of 16 bits, of three weights -1, 0, +1 and three values of a token: 27 of the 32 that a register holds, for 32
//! rows at a time. With its addition that is 96 products in two instructions that do not multiply. So of each block of
//! 128 columns 48 are looked up, three at a time, and 80 multiplied, four at a time.
//!
//! In registers alone, G products/s on one core of Zen 4: multiplications 234, lookups 276, two multiplications to a
//! lookup 370; with the loads of weights, tables and values about 280.
//!
//! Tables are made of each token and three columns: 64 bytes of three values. All rows of a tile meet the tables of some
//! columns while those are in the second-level cache; a tile has therefore many rows.
//!
//! Weights of code 3 have no place in the tables: tiles where one would be looked up are multiplied throughout.

mod panel;
mod tables;

use std::{
    arch::x86_64::*,
    cell::RefCell,
    ops::Range,
    sync::OnceLock,
    time::{Duration, Instant},
};

use self::{
    panel::{Panel, ROWS, Step},
    tables::{Table, Tables},
};
use super::{Tile, avx512vnni};
use crate::{
    format::{I2S_BLOCK, I2S_BLOCK_BYTES},
    isa::{Avx512Vbmi, Avx512Vnni},
    x86::wide::{load_i16, load_i32, load_u8, store_i32},
};

/// Bytes of a block whose lower three codes are looked up.
const LOOKED_UP: usize = 16;

/// Steps of a block; each has [`LOOKUPS`] and [`QUADS`].
const STEPS: usize = 4;

/// Lookups of a step, of three columns each.
const LOOKUPS: usize = LOOKED_UP / STEPS;

/// Multiplications of a step, of four columns each.
const QUADS: usize = 5;

/// Where the quads of a step are among those of a block, less the number of the step: the columns of the upper two bits
/// of the bytes that are looked up, then all columns of the others.
const QUAD_AT: [usize; QUADS] = [0, 4, 12, 20, 28];

/// Tokens that meet a panel in registers: 24 sums, 4 vectors of codes and what is on the way fill 32 registers.
const TOKENS: usize = 4;

/// Blocks whose sums fit in 16 bits, at up to 384 for each lookup, and whose panels (6 KiB a block) stay in a first-level
/// cache of 32 KiB.
const BLOCKS: usize = 4;

/// Rows and tokens of a tile from which on making tables and unpacking leave something of the gain.
const LEAST: (usize, usize) = (256, 16);

/// Most rows and tokens of a tile: the tables of 64 tokens take 256 KiB of a second-level cache of 1 MiB.
const MOST: (usize, usize) = (2560, 64);

/// Rows and tokens of the tiles of a matrix; `None` where multiplying alone is as fast.
pub fn tile(vnni: Avx512Vnni, rows: usize, tokens: usize, threads: usize) -> Option<(usize, usize)> {
    choice(vnni, rows / threads, tokens)?;
    let pieces = rows.div_ceil(MOST.0).next_multiple_of(threads);
    let of_tokens = tokens.div_ceil(tokens.div_ceil(MOST.1));
    Some((rows.div_ceil(pieces).next_multiple_of(ROWS), of_tokens.next_multiple_of(TOKENS)))
}

/// The proof that it runs here, if it is faster than multiplying alone for so many rows and tokens. Whether it ever is
/// gets measured once, in 2 ms: no unit may stand idle, as where another program runs on the core's second thread.
pub fn choice(vnni: Avx512Vnni, rows: usize, tokens: usize) -> Option<Avx512Vbmi> {
    static FASTER: OnceLock<Option<Avx512Vbmi>> = OnceLock::new();
    let is_worth_it = rows >= LEAST.0 && tokens >= LEAST.1;
    is_worth_it.then(|| *FASTER.get_or_init(|| vnni.vbmi().filter(|&vbmi| is_faster(vbmi)))).flatten()
}

/// Measures both on a tile whose columns fill a panel.
fn is_faster(vbmi: Avx512Vbmi) -> bool {
    /// Error that a measurement may have, as a factor.
    const LEAST_GAIN: f64 = 1.03;
    const ROWS: usize = 1024;
    const STRIDE: usize = BLOCKS * I2S_BLOCK;
    let (codes, values) = (vec![0x55; ROWS * STRIDE / 4], vec![1; MOST.1 * STRIDE]);
    let tile = Tile { codes: &codes, rows: ROWS, values: &values, tokens: MOST.1, stride: STRIDE };
    let mut room = vec![0; MOST.1 * ROWS];
    let mut best = [Duration::MAX; 2];
    for _ in 0..5 {
        for (at, best) in best.iter_mut().enumerate() {
            let start = Instant::now();
            if at == 0 {
                avx512vnni::sums(vbmi.vnni(), tile, &mut room)
            } else {
                sums(vbmi, tile, &mut room)
            }
            *best = start.elapsed().min(*best);
        }
    }
    let gain = best[0].as_secs_f64() / best[1].as_secs_f64();
    log::debug!("prompts: lookups beside multiplications take 1/{gain:.2} of the time of multiplications alone");
    gain > LEAST_GAIN
}

/// D of each token and row, `sums` (tokens, rows).
pub fn sums(vbmi: Avx512Vbmi, tile: Tile, sums: &mut [i32]) {
    thread_local! {
        static TABLES: RefCell<Tables> = const { RefCell::new(Tables::new()) };
    }
    // SAFETY: the capability token proves the features.
    let all_found = TABLES.with_borrow_mut(|tables| unsafe { in_panels(tile, tables, sums) });
    if all_found {
        avx512vnni::rows(vbmi.vnni(), tile, tile.rows / ROWS * ROWS..tile.rows, sums);
    } else {
        avx512vnni::sums(vbmi.vnni(), tile, sums);
    }
}

/// All whole panels; false if a weight has no place in the tables, and then `sums` are anything.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn in_panels(tile: Tile, tables: &mut Tables, sums: &mut [i32]) -> bool {
    let mut panel = Panel::new();
    let blocks = tile.stride / I2S_BLOCK;
    for start in (0..blocks).step_by(BLOCKS) {
        let blocks = start..blocks.min(start + BLOCKS);
        tables.make(&tile, blocks.clone());
        for row in (0..tile.rows / ROWS * ROWS).step_by(ROWS) {
            let Some(steps) = panel.fill(&tile, row, blocks.clone()) else { return false };
            for first in (0..tile.tokens).step_by(TOKENS) {
                let at = At { row, first, blocks: blocks.clone() };
                match tile.tokens - first {
                    1 => multiply::<1>(&tile, at, steps, tables, sums),
                    2 => multiply::<2>(&tile, at, steps, tables, sums),
                    3 => multiply::<3>(&tile, at, steps, tables, sums),
                    _ => multiply::<TOKENS>(&tile, at, steps, tables, sums),
                }
            }
        }
    }
    true
}

/// Where a panel and some tokens stand in a tile.
struct At {
    /// First row of the panel.
    row: usize,
    /// First token.
    first: usize,
    /// Blocks of columns.
    blocks: Range<usize>,
}

/// A panel times `N` tokens, added to `sums` (or written there, by the first panel of the rows).
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn multiply<const N: usize>(tile: &Tile, at: At, steps: &[[Step; STEPS]], tables: &Tables, sums: &mut [i32]) {
    let cols = at.blocks.start * I2S_BLOCK..at.blocks.end * I2S_BLOCK;
    let mut values: [&[[i32; I2S_BLOCK_BYTES]]; N] = [&[]; N];
    let mut of_token: [&[[Table; LOOKED_UP]]; N] = [&[]; N];
    for n in 0..N {
        values[n] = &tile.quads(at.first + n, &cols).as_chunks().0[..steps.len()];
        of_token[n] = &tables.of(at.first + n)[..steps.len()];
    }
    // Of 16 rows each, and of 32 rows each.
    let mut lanes = [[_mm512_setzero_si512(); 4]; N];
    let mut words = [[_mm512_setzero_si512(); 2]; N];
    for (block, steps) in steps.iter().enumerate() {
        for (i, step) in steps.iter().enumerate() {
            for part in 0..LOOKUPS {
                let mut indices = [_mm512_setzero_si512(); 2];
                for pair in 0..2 {
                    // Two indices in a lane of 16 bits, of which the lowest 5 count.
                    let both = load_u8(&step.indices[part / 2][pair]);
                    indices[pair] = if part % 2 == 0 { both } else { _mm512_srli_epi16::<8>(both) };
                }
                for n in 0..N {
                    let table = load_i16(&of_token[n][block][LOOKUPS * i + part].0);
                    for pair in 0..2 {
                        let found = _mm512_permutexvar_epi16(indices[pair], table);
                        words[n][pair] = _mm512_add_epi16(words[n][pair], found);
                    }
                }
            }
            for part in 0..QUADS {
                let mut codes = [_mm512_setzero_si512(); 4];
                for set in 0..4 {
                    codes[set] = load_u8(&step.codes[part][set]);
                }
                for n in 0..N {
                    let values = _mm512_set1_epi32(values[n][block][i + QUAD_AT[part]]);
                    for set in 0..4 {
                        lanes[n][set] = _mm512_dpbusd_epi32(lanes[n][set], codes[set], values);
                    }
                }
            }
        }
    }
    for n in 0..N {
        let token = at.first + n;
        // D has codes where the tables have weights, which are 1 less.
        let offset = _mm512_set1_epi32(tables.offset(token));
        for (set, sums) in sums[token * tile.rows + at.row..][..ROWS].as_chunks_mut().0.iter_mut().enumerate() {
            // The lower halves of lanes are rows of the first 16 of 32, the upper ones of the second.
            let of_pair = words[n][set / 2];
            let half = if set % 2 == 0 { _mm512_slli_epi32::<16>(of_pair) } else { of_pair };
            let mut sum = _mm512_add_epi32(lanes[n][set], _mm512_srai_epi32::<16>(half));
            sum = _mm512_add_epi32(sum, offset);
            if at.blocks.start > 0 {
                sum = _mm512_add_epi32(sum, load_i32(sums));
            }
            store_i32(sums, sum);
        }
    }
}

#[cfg(test)]
mod tests;
