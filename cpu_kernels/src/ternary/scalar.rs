//! The reference.

use super::Tile;
use crate::format::ternary;

/// D of each token and row, `sums` (tokens, rows).
pub fn sums(tile: Tile, sums: &mut [i32]) {
    let row_bytes = tile.stride / 4;
    for t in 0..tile.tokens {
        let values = &tile.values[t * tile.stride..][..tile.stride];
        for row in 0..tile.rows {
            let codes = &tile.codes[row * row_bytes..][..row_bytes];
            let code = |col| i32::from(ternary::code_at(codes, col));
            sums[t * tile.rows + row] = values.iter().enumerate().map(|(col, &q)| code(col) * i32::from(q)).sum();
        }
    }
}
