//! The reference.

use super::Grouped;
use crate::format::ternary;

/// Products of each token and row, `out` (tokens, rows).
pub fn products(tile: &Grouped, out: &mut [f32]) {
    for t in 0..tile.tile.tokens {
        let token = tile.token(t);
        let values = token.values.as_flattened();
        for row in 0..tile.tile.rows {
            let (codes, scales) = (tile.tile.row(row).as_flattened(), tile.scales(row));
            let code = |col| i32::from(ternary::code_at(codes, col));
            let mut total = 0.0;
            for g in 0..tile.groups {
                let product = |col| code(col) * i32::from(values[col]);
                let dot: i32 = (g * tile.size..(g + 1) * tile.size).map(product).sum();
                total += (dot - token.sums[g]) as f32 * (scales[g].to_f32() * token.steps[g]);
            }
            out[t * tile.tile.rows + row] = total;
        }
    }
}
