//! The reference.

use half::f16;

use super::{Grouped, PANEL_ROWS};
use crate::format::ternary::place;

/// Products of each token and row, `out` (tokens, rows).
pub fn products(tile: &Grouped, out: &mut [f32]) {
    for t in 0..tile.tile.tokens {
        let token = tile.token(t);
        let values = token.values.as_flattened();
        for row in 0..tile.tile.rows {
            let r = row % PANEL_ROWS;
            let scales = tile.scales(row - r);
            let panel = tile.tile.panel(row - r).as_flattened().as_flattened();
            let code = |col| {
                let (byte, shift) = place(col);
                i32::from(panel[byte / 4 * 4 * PANEL_ROWS + 4 * r + byte % 4] >> shift & 3)
            };
            let mut total = 0.0;
            for g in 0..tile.groups {
                let product = |col| code(col) * i32::from(values[col]);
                let dot: i32 = (g * tile.size..(g + 1) * tile.size).map(product).sum();
                let exact = (dot - token.sums[g]) as f32;
                total = exact.mul_add(f16::from_bits(scales[g][r]).to_f32() * token.steps[g], total);
            }
            out[t * tile.tile.rows + row] = total;
        }
    }
}
