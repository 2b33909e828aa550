//! Many tokens: the scales of the groups of a panel.

use std::{arch::x86_64::*, ops::Range};

use super::{
    super::panel::PANEL_COLS,
    Grouped,
    few::{GROUPS, ROWS, scales_by_group},
};
use crate::format::GROUP_SIZES;

/// Most groups of a panel.
const PANEL_GROUPS: usize = PANEL_COLS / GROUP_SIZES[0];

/// The scales of each of these groups of 16 rows from `row` on, in two vectors; unspecified past the last.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn panel_scales(tile: &Grouped, row: usize, groups: Range<usize>) -> [[__m256; 2]; PANEL_GROUPS] {
    let mut scales = [[_mm256_setzero_ps(); 2]; PANEL_GROUPS];
    for (scales, start) in scales.chunks_exact_mut(GROUPS).zip(groups.step_by(GROUPS)) {
        for half in 0..2 {
            let by_group = scales_by_group(tile, row + half * ROWS, ROWS, start);
            for i in 0..GROUPS {
                scales[i][half] = by_group[i];
            }
        }
    }
    scales
}
