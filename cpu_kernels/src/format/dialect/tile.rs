//! Tile sizes of TL1 and TL2. Files of bitnet.cpp do not hold them: they come from the `kernel_config.ini` that the
//! converter and the kernels were generated with, and who reads the file must know them.

/// How a TL1 or TL2 matrix is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows of a tile (`BM`).
    pub rows: usize,
    /// Columns of a tile (`BK`; the converter calls it `BY`).
    pub cols: usize,
    /// Rows that one pass of the kernel takes (`bm`, in the file `bmm`).
    pub lanes: usize,
}

const fn tile(rows: usize, cols: usize, lanes: usize) -> Tile {
    Tile { rows, cols, lanes }
}

/// Which of bitnet.cpp's tables a file was made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TileTable {
    /// The values in `setup_env.py`, which nearly every file has.
    #[default]
    SetupEnv,
    /// The values in `preset_kernels`, which `setup_env.py -p` takes.
    Preset,
}

/// The tiles of a shape.
struct Known {
    rows: usize,
    cols: usize,
    tl1: Tile,
    tl2: Tile,
    /// Where `preset_kernels` has another TL1 tile. Its TL2 tiles are the same; the one that is not, 4096 x 1536 with
    /// bm = 64, cannot be packed.
    tl1_preset: Option<Tile>,
}

const fn known(rows: usize, cols: usize, tl1: Tile, tl2: Tile, tl1_preset: Option<Tile>) -> Known {
    Known { rows, cols, tl1, tl2, tl1_preset }
}

/// Source: bitnet.cpp, setup_env.py and preset_kernels/*/kernel_config_*.ini.
const KNOWN: &[Known] = &[
    // bitnet_b1_58-large
    known(1536, 4096, tile(256, 128, 32), tile(256, 96, 32), None),
    known(1536, 1536, tile(128, 64, 64), tile(128, 192, 32), None),
    known(4096, 1536, tile(256, 128, 32), tile(256, 96, 32), None),
    // bitnet_b1_58-3B
    known(3200, 8640, tile(160, 64, 32), tile(160, 96, 32), None),
    known(3200, 3200, tile(320, 128, 64), tile(320, 96, 32), None),
    known(8640, 3200, tile(320, 64, 32), tile(320, 96, 32), None),
    // Llama3-8B-1.58-100B-tokens
    known(14336, 4096, tile(256, 128, 32), tile(256, 96, 32), Some(tile(256, 128, 64))),
    known(4096, 14336, tile(128, 64, 64), tile(128, 96, 32), Some(tile(256, 128, 32))),
    known(1024, 4096, tile(256, 128, 32), tile(256, 96, 32), Some(tile(128, 64, 64))),
    known(4096, 4096, tile(128, 64, 64), tile(128, 96, 32), Some(tile(128, 64, 32))),
];

/// Row tiles that bitnet.cpp's table uses, largest first; 64 and 32 for small matrices.
const ROWS: [usize; 6] = [320, 256, 160, 128, 64, 32];

impl Tile {
    /// The TL1 tile that bitnet.cpp uses for a shape.
    pub fn known_tl1(rows: usize, cols: usize, table: TileTable) -> Option<Self> {
        let known = find(rows, cols)?;
        Some(match table {
            TileTable::SetupEnv => known.tl1,
            TileTable::Preset => known.tl1_preset.unwrap_or(known.tl1),
        })
    }

    /// The TL2 tile that bitnet.cpp uses for a shape.
    pub fn known_tl2(rows: usize, cols: usize) -> Option<Self> {
        find(rows, cols).map(|known| known.tl2)
    }

    /// The TL1 tile to write a shape with: bitnet.cpp's, or the largest that fits. `None` where none does.
    pub fn for_tl1(rows: usize, cols: usize) -> Option<Self> {
        Self::known_tl1(rows, cols, TileTable::SetupEnv)
            .or_else(|| Some(tile(divisor(rows, &ROWS)?, divisor(cols, &[128, 64, 32])?, 32)))
    }

    /// The TL2 tile to write a shape with: bitnet.cpp's, or the largest that fits. `None` where none does.
    pub fn for_tl2(rows: usize, cols: usize) -> Option<Self> {
        // The columns left by tiles of 96 are a multiple of 32 wherever there are whole 32s.
        let fits = cols >= super::tl2::MIN_COLS && cols.is_multiple_of(32);
        Self::known_tl2(rows, cols).or_else(|| Some(tile(divisor(rows, &ROWS)?, 96, 32)).filter(|_| fits))
    }
}

fn find(rows: usize, cols: usize) -> Option<&'static Known> {
    KNOWN.iter().find(|known| (known.rows, known.cols) == (rows, cols))
}

/// The first of `candidates` that divides `value`.
fn divisor(value: usize, candidates: &[usize]) -> Option<usize> {
    candidates.iter().copied().find(|&candidate| value.is_multiple_of(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dialect::{Codec, Dialect};

    #[test]
    fn every_known_tile_fits_its_shape() {
        for Known { rows, cols, tl1, tl2, tl1_preset } in KNOWN {
            for tile in [Some(*tl1), *tl1_preset].into_iter().flatten() {
                Codec::new(Dialect::TL1(tile), *rows, *cols).unwrap();
            }
            Codec::new(Dialect::TL2(*tl2), *rows, *cols).unwrap();
        }
    }

    #[test]
    fn the_table_comes_first_and_the_preset_where_it_differs() {
        assert_eq!(Tile::known_tl1(4096, 14336, TileTable::SetupEnv), Some(tile(128, 64, 64)));
        assert_eq!(Tile::known_tl1(4096, 14336, TileTable::Preset), Some(tile(256, 128, 32)));
        assert_eq!(Tile::known_tl1(1536, 1536, TileTable::Preset), Some(tile(128, 64, 64)));
        assert_eq!(Tile::known_tl1(14336, 4097, TileTable::SetupEnv), None);
        assert_eq!(Tile::for_tl1(1536, 1536), Some(tile(128, 64, 64)));
        assert_eq!(Tile::for_tl2(1536, 1536), Some(tile(128, 192, 32)));
    }

    #[test]
    fn other_shapes_get_the_largest_tile_that_fits() {
        // BitNet-b1.58-2B-4T, Falcon3 and the smallest shapes.
        assert_eq!(Tile::for_tl1(2560, 6912), Some(tile(320, 128, 32)));
        assert_eq!(Tile::for_tl1(640, 2560), Some(tile(320, 128, 32)));
        assert_eq!(Tile::for_tl1(23040, 3072), Some(tile(320, 128, 32)));
        assert_eq!(Tile::for_tl1(96, 224), Some(tile(32, 32, 32)));
        assert_eq!(Tile::for_tl2(6912, 2560), Some(tile(256, 96, 32)));
        assert_eq!(Tile::for_tl2(96, 256), Some(tile(32, 96, 32)));
        for (rows, cols) in [(48, 256), (64, 272)] {
            assert_eq!((Tile::for_tl1(rows, cols), Tile::for_tl2(rows, cols)), (None, None), "{rows} x {cols}");
        }
        assert_eq!(Tile::for_tl2(64, 224), None, "TL2 has no room for fewer than 256 columns");
    }
}
