//! Every dialect against the closed form of its format, written down a second time here: one weight at a time, from
//! row and column to byte and digit.

use half::f16;

use super::{Codec, Dialect, I2sPacking, Tile, TileTable};
use crate::{
    format::{
        FormatError, Layout, pack,
        scales::{MatrixScales, ScaleKind},
        unpack,
    },
    testing::Rng,
};

/// The bytes of a matrix of codes.
pub(super) fn encoded(dialect: Dialect, rows: usize, cols: usize, codes: &[u8], scales: &MatrixScales) -> Vec<u8> {
    let codec = Codec::new(dialect, rows, cols).unwrap();
    codec.encode(&pack(Layout::I2sP128, rows, cols, codes), scales).unwrap()
}

/// The codes and scales of the bytes of a matrix.
pub(super) fn decoded(dialect: Dialect, rows: usize, cols: usize, bytes: &[u8]) -> (Vec<u8>, MatrixScales) {
    let codec = Codec::new(dialect, rows, cols).unwrap();
    let packed = codec.decode(bytes).unwrap();
    (unpack(Layout::I2sP128, rows, cols, &packed), codec.scales(bytes).unwrap())
}

/// Both ways between a matrix of zeros with these weights, and these bytes.
pub(super) fn check_by_hand(
    dialect: Dialect,
    (rows, cols): (usize, usize),
    weights: &[(usize, usize, i8)],
    scales: MatrixScales,
    bytes: &[u8],
) {
    let mut codes = vec![1; rows * cols];
    for &(row, col, weight) in weights {
        codes[row * cols + col] = (weight + 1) as u8;
    }
    assert_eq!(encoded(dialect, rows, cols, &codes, &scales), bytes);
    let (found, found_scales) = decoded(dialect, rows, cols, bytes);
    assert_eq!(found_scales, scales);
    if let Some(at) = (0..codes.len()).find(|&at| found[at] != codes[at]) {
        panic!("row {}, column {}: code {}, expected {}", at / cols, at % cols, found[at], codes[at]);
    }
}

/// Digit `n` of a fixed-point byte by its definition: the largest v with ceil(256 v / 243) <= byte, taken apart.
fn digit(byte: u8, n: u32) -> u8 {
    let v = (0..243_u32).rev().find(|v| (256 * v).div_ceil(243) <= u32::from(byte)).unwrap();
    (v / 3_u32.pow(4 - n) % 3) as u8
}

fn pair(nibble: u8, second: bool) -> u8 {
    let (first_code, second_code) = (nibble / 3, nibble % 3);
    if second { second_code } else { first_code }
}

/// The code of a weight.
fn formula(dialect: Dialect, (rows, cols): (usize, usize), bytes: &[u8], r: usize, c: usize) -> u8 {
    let two_bits = |byte: usize, shift: usize| bytes[byte] >> shift & 3;
    let nibble = |byte: usize, high: bool| if high { bytes[byte] >> 4 } else { bytes[byte] & 15 };
    let e = r * cols + c;
    match dialect {
        Dialect::I2S(I2sPacking::P128) => two_bits(32 * (e / 128) + e % 32, 6 - 2 * (e % 128 / 32)),
        Dialect::I2S(I2sPacking::P64) => two_bits(16 * (e / 64) + e % 16, 6 - 2 * (e % 64 / 16)),
        Dialect::I2S(I2sPacking::R4) => two_bits(r / 4 * cols + c, 6 - 2 * (r % 4)),
        Dialect::I2S(I2sPacking::Seq) => two_bits(e / 4, 6 - 2 * (e % 4)),
        Dialect::TL1(Tile { rows: bm_rows, cols: bk, lanes: bm }) => {
            let (p, by) = (c / 2, 256 / bm);
            let (mt, rb, r16, rl) = (r / bm_rows, r % bm_rows / bm, r % bm / 16, r % 16);
            let (kt, pb, pi) = (p / (bk / 2), p % (bk / 2) / (by / 2), p % (by / 2));
            let at = ((((mt * (cols / bk) + kt) * (bm_rows / bm) + rb) * (bk / by) + pb) * (bm / 16) + r16) * (by / 4);
            pair(nibble((at + pi / 2) * 16 + rl, pi % 2 == 0), c % 2 == 1)
        }
        Dialect::TL2(Tile { rows: bm_rows, cols: bk, .. }) => {
            let k3 = cols / bk * bk;
            let (mt, rb, i) = (r / bm_rows, r % bm_rows / 32, r % 32);
            let pos = match i {
                8..16 => i + 8,
                16..24 => i - 8,
                _ => i,
            };
            if c < k3 {
                let g = c / 3;
                let (kt, gin) = (g / (bk / 3), g % (bk / 3));
                let group = (mt * (k3 / bk) + kt) * (bm_rows / 32) + rb;
                let size = nibble((group * (bk / 6) + gin / 2) * 32 + pos, gin % 2 == 0);
                let word = (group * (bk / 24) + gin / 8) * 16 + i % 16;
                let at = rows * k3 / 6 + 2 * word;
                let word = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
                let negative = word >> (15 - (2 * (gin % 8) + i / 16)) & 1 == 1;
                let v = if negative { -i32::from(size) } else { i32::from(size) };
                let weights = (0..27).map(|n| [n / 9 - 1, n / 3 % 3 - 1, n % 3 - 1]);
                let [found] = weights.filter(|w| 9 * w[0] + 3 * w[1] + w[2] == v).collect::<Vec<_>>()[..] else {
                    panic!("value {v} at row {r}, column {c}");
                };
                (found[c % 3] + 1) as u8
            } else {
                let p = (c - k3) / 2;
                let (kt, pin) = (p / 16, p % 16);
                let group = (mt * ((cols - k3) / 32) + kt) * (bm_rows / 32) + rb;
                let at = rows * k3 / 6 + rows * k3 / 24 + (group * 8 + pin / 2) * 32 + pos;
                pair(nibble(at, pin % 2 == 0), (c - k3) % 2 == 1)
            }
        }
        Dialect::TQ1_0 => {
            let (block, i) = (54 * (e / 256), e % 256);
            match i {
                0..160 => digit(bytes[block + i % 32], i as u32 / 32),
                160..240 => digit(bytes[block + 32 + i % 16], (i as u32 - 160) / 16),
                _ => digit(bytes[block + 48 + i % 4], (i as u32 - 240) / 4),
            }
        }
        Dialect::TQ2_0 => two_bits(66 * (e / 256) + 32 * (e % 256 / 128) + e % 32, 2 * (e % 128 / 32)),
        Dialect::Q2_0 => two_bits(18 * (e / 64) + 2 + e % 64 / 4, 2 * (e % 4)),
        Dialect::Q2_0G128 => two_bits(34 * (e / 128) + 2 + e % 128 / 4, 2 * (e % 4)),
        Dialect::PTQ1_0 => {
            let (block, i) = (28 * (e / 128), e % 128);
            match i {
                0..80 => digit(bytes[block + i % 16], i as u32 / 16),
                80..120 => digit(bytes[block + 16 + i % 8], (i as u32 - 80) / 8),
                _ => digit(bytes[block + 24 + i % 2], (i as u32 - 120) / 2),
            }
        }
        Dialect::IQ1BN => {
            let block = r * (2 + cols / 64 * 13) + 2 + c / 64 * 13;
            let (g, j) = (c % 64 / 16, c % 16);
            // As ik_llama.cpp computes it: first digit least significant.
            let (byte, n) = if j == 15 { (bytes[block + 12], g) } else { (bytes[block + 3 * g + j / 5], j % 5) };
            let q = u32::from(byte) * [81, 27, 9, 3, 1][n] % 256;
            ((q + q / 2) >> 7) as u8
        }
        Dialect::IQ2BN => two_bits(r * (4 + cols / 64 * 16) + 4 + c / 64 * 16 + c % 16, 2 * (c % 64 / 16)),
        Dialect::IQ2BNR4 => {
            let group = r / 4 * (16 + cols / 64 * 64) + 16 + c / 64 * 64;
            two_bits(group + 16 * (c % 64 / 16) + 4 * (r % 4) + c % 4, 2 * (c % 16 / 4))
        }
    }
}

/// Each dialect with the smallest shape, edges of its blocks, and shapes of real models cut down in the other direction.
fn cases() -> Vec<(Dialect, usize, usize)> {
    let tile = |rows, cols, lanes| Tile { rows, cols, lanes };
    let mut cases = Vec::new();
    let mut add = |dialect, shapes: &[(usize, usize)]| {
        cases.extend(shapes.iter().map(|&(rows, cols)| (dialect, rows, cols)));
    };
    // Rows that are not whole blocks: 8640 = 67.5 * 128; 96 columns share blocks among three rows.
    add(Dialect::I2S(I2sPacking::P128), &[(1, 128), (128, 1), (4, 96), (2, 8640), (3, 2560), (64, 6)]);
    add(Dialect::I2S(I2sPacking::P64), &[(1, 64), (64, 1), (2, 96), (3, 8640), (3, 2560), (16, 20)]);
    add(Dialect::I2S(I2sPacking::R4), &[(4, 1), (4, 130), (8, 2560)]);
    add(Dialect::I2S(I2sPacking::Seq), &[(1, 4), (4, 1), (2, 6), (5, 8640)]);
    for t in [tile(32, 32, 32), tile(64, 64, 64), tile(64, 32, 32), tile(128, 128, 32), tile(320, 128, 64)] {
        add(Dialect::TL1(t), &[(t.rows, t.cols), (2 * t.rows, 3 * t.cols)]);
    }
    for (rows, cols) in [(1536, 1536), (160, 8640), (320, 3200), (320, 640), (96, 320)] {
        add(Dialect::TL1(Tile::for_tl1(rows, cols).unwrap()), &[(rows, cols)]);
        add(Dialect::TL2(Tile::for_tl2(rows, cols).unwrap()), &[(rows, cols)]);
    }
    // Leftovers of 64, 32 and 0 columns, of all columns, and of more than one pair tile.
    add(Dialect::TL2(tile(64, 96, 32)), &[(64, 256), (128, 512), (64, 768)]);
    add(Dialect::TL2(tile(32, 480, 32)), &[(32, 256), (64, 672)]);
    for dialect in [Dialect::TQ1_0, Dialect::TQ2_0] {
        add(dialect, &[(1, 256), (3, 512), (5, 2560)]);
    }
    add(Dialect::Q2_0, &[(1, 64), (3, 192), (2, 2560)]);
    for dialect in [Dialect::Q2_0G128, Dialect::PTQ1_0] {
        add(dialect, &[(1, 128), (3, 384), (2, 2560)]);
    }
    for dialect in [Dialect::IQ1BN, Dialect::IQ2BN] {
        add(dialect, &[(1, 64), (3, 192), (2, 8640)]);
    }
    add(Dialect::IQ2BNR4, &[(4, 64), (8, 192), (4, 8640)]);
    cases
}

fn random_scales(codec: &Codec, rng: &mut Rng) -> MatrixScales {
    let mut half = || f16::from_f32(rng.f32());
    match codec.scale_kind() {
        ScaleKind::PerTensor => MatrixScales::PerTensor(rng.f32()),
        ScaleKind::PerRow => MatrixScales::PerRow(rng.floats(codec.rows()).into()),
        ScaleKind::PerRowF16 => MatrixScales::PerRow((0..codec.rows()).map(|_| half().to_f32()).collect()),
        ScaleKind::PerGroup(size) => {
            MatrixScales::PerGroup { size, values: (0..codec.rows() * (codec.cols() / size)).map(|_| half()).collect() }
        }
    }
}

#[test]
fn what_is_written_obeys_the_formula_and_is_read_back() {
    let mut rng = Rng::new(7);
    for (dialect, rows, cols) in cases() {
        let what = format!("{dialect:?} {rows} x {cols}");
        let codec = Codec::new(dialect, rows, cols).unwrap();
        let codes = rng.codes(rows * cols);
        let scales = random_scales(&codec, &mut rng);
        let bytes = encoded(dialect, rows, cols, &codes, &scales);
        assert_eq!(bytes.len(), codec.bytes(), "{what}");
        for (at, &code) in codes.iter().enumerate() {
            let (row, col) = (at / cols, at % cols);
            assert_eq!(formula(dialect, (rows, cols), &bytes, row, col), code, "{what}, row {row}, column {col}");
        }
        let (found, found_scales) = decoded(dialect, rows, cols, &bytes);
        assert!(found == codes, "{what}");
        assert_eq!(found_scales, scales, "{what}");
    }
}

#[test]
fn rows_can_be_read_apart() {
    let mut rng = Rng::new(8);
    for (dialect, rows, cols) in cases() {
        let codec = Codec::new(dialect, rows, cols).unwrap();
        let packed = pack(Layout::I2sP128, rows, cols, &rng.codes(rows * cols));
        let bytes = codec.encode(&packed, &random_scales(&codec, &mut rng)).unwrap();
        let (step, row_bytes) = (codec.row_step(), packed.len() / rows);
        let mut out = vec![0; packed.len()];
        for (at, part) in out.chunks_mut(step * row_bytes).enumerate().collect::<Vec<_>>().into_iter().rev() {
            codec.decode_rows(&bytes, at * step..(at + 1) * step, part).unwrap();
        }
        assert!(out == packed, "{dialect:?} {rows} x {cols}");
        if let MatrixScales::PerGroup { values, .. } = codec.scales(&bytes).unwrap() {
            let of_row = |row| codec.group_scales(&bytes, row..row + 1).unwrap();
            assert_eq!((0..rows).flat_map(of_row).collect::<Vec<_>>(), values[..], "{dialect:?} {rows} x {cols}");
        }
    }
}

#[test]
fn what_is_always_ternary_has_codes_in_any_bytes() {
    let mut rng = Rng::new(9);
    let mut seen = Vec::new();
    for (dialect, rows, cols) in cases() {
        let codec = Codec::new(dialect, rows, cols).unwrap();
        if !codec.is_always_ternary() {
            continue;
        }
        seen.push(dialect);
        for _ in 0..20 {
            let bytes: Vec<u8> = rng.i8s(codec.bytes()).iter().map(|&byte| byte as u8).collect();
            let mut out = vec![0; crate::format::ternary_bytes(Layout::I2sP128, rows, cols)];
            codec.decode_rows(&bytes, 0..rows, &mut out).unwrap();
            assert!(out.iter().all(|byte| byte & byte >> 1 & 0x55 == 0), "{dialect:?} {rows} x {cols}");
        }
    }
    assert!(seen.contains(&Dialect::TQ1_0) && seen.contains(&Dialect::PTQ1_0), "{seen:?}");
}

#[test]
fn every_byte_of_a_base_3_dialect_has_five_digits() {
    for byte in 0..=255 {
        let block = [byte; 54];
        let mut codes = [9; 256];
        (super::tq1_0::coding(256).unpack)(&block, &mut codes);
        for (i, code) in codes.into_iter().enumerate() {
            let n = [i / 32, (i.max(160) - 160) / 16, (i.max(240) - 240) / 4]
                [usize::from(i >= 160) + usize::from(i >= 240)];
            // As ggml computes it.
            let expected = (u16::from(byte.wrapping_mul(3_u8.pow(n as u32))) * 3) >> 8;
            assert_eq!(u16::from(code), expected, "byte {byte}, weight {i}");
        }
    }
}

#[test]
fn codes_that_mean_nothing_are_found_at_their_place() {
    let tl1 = Dialect::TL1(Tile { rows: 32, cols: 32, lanes: 32 });
    let tl2 = Dialect::TL2(Tile { rows: 32, cols: 96, lanes: 32 });
    // Dialect, shape, byte and what to set in it, the weight that it is.
    let cases = [
        (Dialect::I2S(I2sPacking::P128), (2, 192), 32 + 31, 0b11, 255),
        (Dialect::I2S(I2sPacking::P64), (2, 96), 16 + 3, 0b11 << 2, 64 + 32 + 3),
        (Dialect::I2S(I2sPacking::R4), (8, 5), 5 + 2, 0b11 << 4, 5 * 5 + 2),
        (Dialect::I2S(I2sPacking::Seq), (2, 6), 1, 0b11, 7),
        (Dialect::TQ2_0, (2, 256), 66 + 33, 0b11, 256 + 128 + 1),
        (Dialect::Q2_0, (2, 64), 18 + 2, 0b11 << 6, 64 + 3),
        (Dialect::Q2_0G128, (1, 256), 34 + 33, 0b11, 128 + 124),
        (Dialect::IQ2BN, (2, 64), 20 + 4 + 15, 0b11 << 2, 64 + 31),
        (Dialect::IQ2BNR4, (4, 64), 16 + 16 + 4 + 1, 0b11 << 4, 64 + 16 + 1 + 8),
        // Vector 2 of the column tile: rows 0 to 15, columns 8 to 11.
        (tl1, (32, 32), 64 + 5, 0x90, 5 * 32 + 8),
        (tl1, (32, 32), 64 + 5, 0x0f, 5 * 32 + 10),
        // The second vector, byte 8: row 16; columns 6 to 8 and 9 to 11.
        (tl2, (32, 256), 32 + 8, 0xe0, 16 * 256 + 6),
        (tl2, (32, 256), 32 + 8, 0x0f, 16 * 256 + 9),
        // The pairs begin at 1280: row 0, columns 192 and 194.
        (tl2, (32, 256), 1280, 0x90, 192),
    ];
    for (dialect, (rows, cols), byte, bits, element) in cases {
        let codec = Codec::new(dialect, rows, cols).unwrap();
        let zeros = pack(Layout::I2sP128, rows, cols, &vec![0; rows * cols]);
        let mut rng = Rng::new(9);
        let mut bytes = codec.encode(&zeros, &random_scales(&codec, &mut rng)).unwrap();
        codec.decode(&bytes).unwrap();
        if let Dialect::TL2(_) = dialect {
            bytes[byte] = 0;
        }
        bytes[byte] |= bits;
        assert_eq!(codec.decode(&bytes), Err(FormatError::Code { element }), "{dialect:?}");
    }
    let error = FormatError::Code { element: 7 }.to_string();
    assert_eq!(error, "weight 7: expected -1, 0 or +1, found another code");
}

#[test]
fn a_code_3_is_not_written() {
    let codec = Codec::new(Dialect::TQ2_0, 2, 256).unwrap();
    let mut packed = pack(Layout::I2sP128, 2, 256, &[1; 512]);
    packed[64 + 7] |= 0b11;
    let scales = MatrixScales::PerGroup { size: 256, values: [f16::ONE; 2].into() };
    assert_eq!(codec.encode(&packed, &scales), Err(FormatError::Code { element: 256 + 96 + 7 }));
}

#[test]
fn scales_that_are_not_finite_are_found_at_their_place() {
    let nan_f16 = &[0x01, 0x7e][..];
    let inf_f32 = &[0, 0, 0x80, 0x7f][..];
    let tile = Tile { rows: 32, cols: 96, lanes: 32 };
    for (dialect, (rows, cols), at, scale, element, found) in [
        (Dialect::I2S(I2sPacking::P128), (2, 128), 64, inf_f32, None, "inf"),
        (Dialect::TL2(tile), (32, 256), 2048, inf_f32, None, "inf"),
        (Dialect::TQ1_0, (2, 256), 54 + 52, nan_f16, Some(256), "NaN"),
        (Dialect::TQ2_0, (2, 256), 66 + 64, nan_f16, Some(256), "NaN"),
        (Dialect::Q2_0, (2, 128), 3 * 18, nan_f16, Some(192), "NaN"),
        (Dialect::Q2_0G128, (2, 128), 34, nan_f16, Some(128), "NaN"),
        (Dialect::PTQ1_0, (2, 128), 28 + 26, nan_f16, Some(128), "NaN"),
        (Dialect::IQ1BN, (2, 128), 28, nan_f16, Some(128), "NaN"),
        (Dialect::IQ2BN, (2, 128), 36, inf_f32, Some(128), "inf"),
        (Dialect::IQ2BNR4, (8, 64), 80 + 4, inf_f32, Some(5 * 64), "inf"),
    ] {
        let codec = Codec::new(dialect, rows, cols).unwrap();
        let mut bytes = vec![0; codec.bytes()];
        codec.scales(&bytes).unwrap();
        bytes[at..][..scale.len()].copy_from_slice(scale);
        assert_eq!(codec.scales(&bytes), Err(FormatError::Scale { element, found: found.into() }), "{dialect:?}");
    }
}

#[test]
fn shapes_that_a_dialect_cannot_have_are_refused() {
    let tile = |rows, cols, lanes| Tile { rows, cols, lanes };
    for (dialect, rows, cols) in [
        (Dialect::I2S(I2sPacking::P128), 1, 64),
        (Dialect::I2S(I2sPacking::P64), 1, 32),
        (Dialect::I2S(I2sPacking::R4), 6, 128),
        (Dialect::I2S(I2sPacking::Seq), 1, 3),
        (Dialect::I2S(I2sPacking::Seq), 0, 4),
        (Dialect::I2S(I2sPacking::Seq), usize::MAX, 4),
        (Dialect::TQ1_0, 1, 128),
        (Dialect::TQ2_0, 1, 384),
        (Dialect::Q2_0, 1, 96),
        (Dialect::Q2_0G128, 1, 64),
        (Dialect::PTQ1_0, 1, 192),
        (Dialect::IQ1BN, 1, 32),
        (Dialect::IQ2BN, 1, 0),
        (Dialect::IQ2BNR4, 3, 64),
        (Dialect::TL1(tile(64, 64, 32)), 96, 64),
        (Dialect::TL1(tile(64, 64, 32)), 64, 96),
        (Dialect::TL1(tile(64, 64, 16)), 64, 64),
        (Dialect::TL1(tile(32, 64, 64)), 64, 64),
        (Dialect::TL1(tile(0, 64, 64)), 64, 64),
        (Dialect::TL1(tile(64, 4, 32)), 64, 64),
        (Dialect::TL1(tile(64, 0, 32)), 64, 64),
        (Dialect::TL2(tile(64, 96, 64)), 64, 256),
        (Dialect::TL2(tile(64, 100, 32)), 64, 300),
        (Dialect::TL2(tile(64, 96, 32)), 64, 224),
        (Dialect::TL2(tile(64, 96, 32)), 64, 272),
        (Dialect::TL2(tile(64, 0, 32)), 64, 256),
        // 288 columns of pairs need more room than there is for 256.
        (Dialect::TL2(tile(64, 480, 32)), 64, 288),
    ] {
        let error = Codec::new(dialect, rows, cols).unwrap_err().to_string();
        assert!(error.contains(dialect.name()) || error.contains("too many"), "{dialect:?} {rows} x {cols}: {error}");
    }
    let error = Codec::new(Dialect::TQ1_0, 1, 128).unwrap_err().to_string();
    assert_eq!(error, "columns of TQ1_0: expected a multiple of 256, found 128");
    let error = Codec::new(Dialect::TL1(tile(64, 64, 32)), 96, 64).unwrap_err().to_string();
    assert_eq!(error, "a 96 x 64 matrix: TL1 tiles of BM 64, BK 64, bm 32 do not fit it");
}

#[test]
fn the_tables_tiles_give_the_sizes_of_real_files() {
    // ggml: rows * cols / 4 + 32, and for TL2 the sum in the format's description, worked out by hand.
    let tile = Tile::known_tl1(3200, 8640, TileTable::SetupEnv).unwrap();
    assert_eq!(Codec::new(Dialect::TL1(tile), 3200, 8640).unwrap().bytes(), 6_912_032);
    // (3200 - 256) * 3200 / 3 = 3140266; * 5 / 8 = 1962666; 256 * 3200 / 2 * 4 / 8 = 204800; the sum padded to 32.
    let tile = Tile::known_tl2(3200, 3200).unwrap();
    assert_eq!(Codec::new(Dialect::TL2(tile), 3200, 3200).unwrap().bytes(), 2_167_488 + 32);
}
