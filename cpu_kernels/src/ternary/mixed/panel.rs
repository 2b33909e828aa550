//! Some blocks of 64 rows, unpacked for lookups and multiplications.

use std::{arch::x86_64::*, ops::Range};

use super::{BLOCKS, LOOKUPS, QUADS, STEPS, Tile, tables::NUMBERS};
use crate::x86::{
    self, prefetch_at,
    wide::{join, load_u8, store_u8},
};

/// Rows of a panel: four sets of 16, or two pairs of such sets.
pub const ROWS: usize = 64;

/// For each set of 16 rows, the codes of a step's quads of columns, as in the module `panel`; for each pair of sets,
/// the numbers of its lookups, two in a lane of 16 bits, the first set's rows in the even lanes.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Step {
    pub codes: [[[u8; 64]; 4]; QUADS],
    pub indices: [[[u8; 64]; 2]; LOOKUPS / 2],
}

/// See the module.
pub struct Panel([[Step; STEPS]; BLOCKS]);

impl Panel {
    pub fn new() -> Self {
        let step = Step { codes: [[[0; 64]; 4]; QUADS], indices: [[[0; 64]; 2]; LOOKUPS / 2] };
        Self([[step; STEPS]; BLOCKS])
    }

    /// Unpacks some blocks of the 64 rows of `tile` from `row` on. `None` if a code 3 would be looked up.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    pub fn fill(&mut self, tile: &Tile, row: usize, blocks: Range<usize>) -> Option<&[[Step; STEPS]]> {
        let steps = &mut self.0[..blocks.len()];
        let numbers = load_u8(&NUMBERS);
        let mut any = _mm512_setzero_si512();
        for (block, steps) in blocks.zip(steps.iter_mut()) {
            for pair in 0..2 {
                let row = row + 32 * pair;
                let sets = [packed(tile, row, block), packed(tile, row + 16, block)];
                for i in 0..STEPS {
                    for set in 0..2 {
                        let (upper, all) = (sets[set][i], sets[set][STEPS + i]);
                        let quads = [
                            _mm512_srli_epi16::<6>(upper),
                            _mm512_srli_epi16::<6>(all),
                            _mm512_srli_epi16::<4>(all),
                            _mm512_srli_epi16::<2>(all),
                            all,
                        ];
                        for quad in 0..QUADS {
                            let codes = _mm512_and_si512(quads[quad], _mm512_set1_epi8(3));
                            store_u8(&mut steps[i].codes[quad][2 * pair + set], codes);
                        }
                    }
                    // Of the lower six bits.
                    let low = _mm512_permutexvar_epi8(sets[0][i], numbers);
                    let high = _mm512_permutexvar_epi8(sets[1][i], numbers);
                    any = _mm512_or_si512(any, _mm512_or_si512(low, high));
                    let first = _mm512_mask_blend_epi16(ODD, low, _mm512_slli_epi32::<16>(high));
                    let second = _mm512_mask_blend_epi16(ODD, _mm512_srli_epi32::<16>(low), high);
                    store_u8(&mut steps[i].indices[0][pair], first);
                    store_u8(&mut steps[i].indices[1][pair], second);
                }
            }
        }
        // The highest bit of a number says that it is none.
        (_mm512_movepi8_mask(any) == 0).then_some(&*steps)
    }
}

/// Lanes of 16 bits that are the upper halves of lanes of 32.
const ODD: __mmask32 = 0xAAAA_AAAA;

/// A block of 16 rows from `row` on, row by row, four bytes a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn packed(tile: &Tile, row: usize, block: usize) -> [__m512i; 8] {
    let mut halves = [[_mm256_setzero_si256(); 8]; 2];
    for half in 0..2 {
        for r in 0..8 {
            let block = &tile.row(row + 8 * half + r)[block];
            // That of the panel that follows, while this one meets its tokens.
            prefetch_at(block.as_ptr(), ROWS * tile.stride / 4);
            halves[half][r] = x86::load_u8(block);
        }
    }
    let (low, high) = (x86::transpose(halves[0]), x86::transpose(halves[1]));
    let mut both = [_mm512_setzero_si512(); 8];
    for i in 0..8 {
        both[i] = join(low[i], high[i]);
    }
    both
}
