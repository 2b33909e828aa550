//! How the products of a matrix are cut into the pieces of work that threads claim.

use super::{FEW_SUMS, PREFILL_ROWS, TILE_SUMS};

/// Pieces for one token or a few, and tiles for many. The products are the same with every choice; which is the fastest
/// depends on the processor and the shape. Where lookups run beside multiplications, the tiles for many are theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    few_bytes: usize,
    rows: usize,
    tokens: usize,
}

/// Claiming a piece of so many bytes (0.1 us) still does not show much: reading it takes 1 us.
const LEAST_BYTES: usize = 16 << 10;

impl Default for Tiling {
    /// For few tokens, pieces in which a thread can stream: where one takes over a piece of another's range, nothing was
    /// fetched ahead for it. When all pieces began so, two threads read 41 GB/s with 64 KiB, 60 with 256 (Zen 5). For
    /// many, rows are unpacked once for all tokens of the tile: with 128 instead of 512, unpacking took 6 % of the time of
    /// a prompt of 512 tokens (Zen 5).
    fn default() -> Self {
        Self { few_bytes: 256 << 10, rows: PREFILL_ROWS, tokens: TILE_SUMS / PREFILL_ROWS }
    }
}

impl Tiling {
    /// Packed weights of a piece for few tokens that are worth trying.
    pub const FEW_BYTES: [usize; 3] = [16 << 10, 64 << 10, 256 << 10];

    /// Rows and tokens of a tile that are worth trying.
    pub const TILES: [(usize, usize); 4] = [(32, 512), (32, 128), (64, 256), (128, 128)];

    /// Another choice.
    ///
    /// `None` if rows are no multiple of 32, tokens or weights none or the sums of a tile too many for a thread's stack.
    pub fn new(few_bytes: usize, rows: usize, tokens: usize) -> Option<Self> {
        let whole = rows > 0 && rows.is_multiple_of(PREFILL_ROWS);
        let fits = rows.checked_mul(tokens).is_some_and(|sums| (1..=TILE_SUMS).contains(&sums));
        (whole && fits && few_bytes > 0).then_some(Self { few_bytes, rows, tokens })
    }

    /// Bytes of packed weights of a piece for few tokens.
    pub fn few_bytes(self) -> usize {
        self.few_bytes
    }

    /// Rows of a tile of many tokens.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Tokens of a tile.
    pub fn tokens(self) -> usize {
        self.tokens
    }

    /// Rows of a piece for few tokens; a multiple, so that only the last one has rows that fill no panel. There are two
    /// pieces for each thread at least where that leaves [`LEAST_BYTES`], so that a slower one does not keep the others
    /// waiting for long.
    pub(super) fn few_rows(self, rows: usize, row_bytes: usize, threads: usize) -> usize {
        let share = rows.saturating_mul(row_bytes) / (2 * threads);
        let bytes = self.few_bytes.min(share.max(LEAST_BYTES));
        let fitting = bytes / row_bytes.max(1) / PREFILL_ROWS * PREFILL_ROWS;
        fitting.clamp(PREFILL_ROWS, FEW_SUMS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_can_be_made_and_what_has_no_room_cannot() {
        let default = Tiling::default();
        assert!(Tiling::FEW_BYTES.contains(&default.few_bytes));
        assert!(Tiling::TILES.contains(&(default.rows, default.tokens)));
        for (rows, tokens) in Tiling::TILES {
            assert!(Tiling::new(1, rows, tokens).is_some(), "{rows} x {tokens}");
        }
        for (bytes, rows, tokens) in
            [(0, 32, 32), (1, 0, 32), (1, 32, 0), (1, 33, 8), (1, 64, 257), (1, 32, usize::MAX)]
        {
            assert_eq!(Tiling::new(bytes, rows, tokens), None, "{bytes}, {rows} x {tokens}");
        }
    }

    #[test]
    fn pieces_are_whole_panels_within_the_room_for_sums() {
        let rows =
            |bytes, rows, row_bytes, threads| Tiling::new(bytes, 32, 1).unwrap().few_rows(rows, row_bytes, threads);
        assert_eq!(Tiling::default().few_rows(6912, 640, 2), 384);
        assert_eq!(rows(1, 6912, 640, 2), 32);
        assert_eq!(rows(usize::MAX, 6912, 640, 1), FEW_SUMS);
        assert_eq!(rows(usize::MAX, usize::MAX, 0, 1), FEW_SUMS);
        // Two pieces a thread: 640 rows of 512 bytes for two threads, and the least for 16.
        assert_eq!(rows(256 << 10, 640, 512, 2), 160);
        assert_eq!(rows(256 << 10, 640, 512, 16), 32);
    }
}
