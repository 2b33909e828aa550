//! Against the reference, called directly: on processors where multiplying alone is faster it is never chosen.

use super::*;
use crate::{
    format::{Layout, pack},
    quantize::QuantizedActs,
    ternary::scalar,
    testing::Rng,
};

const LAYOUT: Layout = Layout::I2sP128;

/// A matrix of packed `codes` times tokens.
fn check(what: &str, (rows, cols): (usize, usize), codes: &[u8], values: &[i8]) {
    let Some(vbmi) = Avx512Vnni::detect().and_then(Avx512Vnni::vbmi) else {
        return eprintln!("not run: avx512vbmi (this processor does not have it)");
    };
    let tokens = values.len() / cols;
    let mut acts = QuantizedActs::new(tokens, cols);
    acts.set_raw(cols, values, &vec![1.0; tokens]);
    let tile = Tile { codes, rows, values: acts.all_values(), tokens, stride: acts.stride() };
    let (mut found, mut expected) = (vec![i32::MIN; tokens * rows], vec![0; tokens * rows]);
    sums(vbmi, tile, &mut found);
    scalar::sums(tile, &mut expected);
    let first = found.iter().zip(&expected).position(|(found, expected)| found != expected);
    assert_eq!(first.map(|at| (at / rows, at % rows)), None, "{what}, {rows} x {cols}: token and row that differ");
}

#[test]
fn all_shapes_are_exact() {
    let mut rng = Rng::new(61);
    // Whole and broken panels of rows, ranges of columns and groups of tokens.
    for (rows, cols, tokens) in [
        (64, 128, 4),
        (63, 128, 4),
        (130, 100, 1),
        (64, 512, 2),
        (147, 640, 3),
        (256, 1024, 9),
        (81, 1300, 7),
        (128, 6912, 5),
    ] {
        let codes = pack(LAYOUT, rows, cols, &rng.codes(rows * cols));
        check("random", (rows, cols), &codes, &rng.i8s(tokens * cols));
    }
}

#[test]
fn extreme_values_do_not_overflow() {
    let (rows, cols, tokens) = (64, 1280, 4);
    for value in [i8::MIN, i8::MAX] {
        for code in [0, 2] {
            let codes = pack(LAYOUT, rows, cols, &vec![code; rows * cols]);
            check("extreme", (rows, cols), &codes, &vec![value; tokens * cols]);
        }
    }
}

#[test]
fn one_code_3_anywhere_is_plus_two() {
    let (rows, cols, tokens) = (64, 256, 5);
    let mut rng = Rng::new(62);
    let (codes, values) = (pack(LAYOUT, rows, cols, &rng.codes(rows * cols)), rng.i8s(tokens * cols));
    for (at, field) in [(0, 0x03), (0, 0xC0), (31, 0x30), (32, 0x0C), (1300, 0x03), (codes.len() - 1, 0xC0)] {
        let mut codes = codes.clone();
        codes[at] |= field;
        check("code 3", (rows, cols), &codes, &values);
    }
}

#[test]
fn tiles_are_whole_panels_that_cover_the_rows() {
    let Some(vnni) = Avx512Vnni::detect() else {
        return eprintln!("not run: avx512vnni (this processor does not have it)");
    };
    assert_eq!(tile(vnni, 2560, 8, 1), None, "too few tokens");
    assert_eq!(tile(vnni, 2560, 512, 16), None, "too few rows for a thread");
    for (rows, tokens, threads, expected) in [
        (2560, 512, 1, (2560, 64)),
        (6912, 512, 1, (2304, 64)),
        (6912, 512, 2, (1728, 64)),
        (640, 16, 2, (320, 16)),
        (1000, 65, 2, (512, 36)),
    ] {
        let found = tile(vnni, rows, tokens, threads);
        // Or multiplying alone is faster here.
        assert!(
            found.is_none_or(|found| found == expected),
            "{rows} rows, {tokens} tokens, {threads} threads: {found:?}"
        );
    }
}
