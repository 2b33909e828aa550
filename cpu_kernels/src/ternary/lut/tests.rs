use super::*;
use crate::{
    format::{Layout, Scales, Tile, ternary_bytes, unpack},
    testing::{Rng, cpus},
};

/// Tiles that files may have, beside those that this crate makes.
fn tiles() -> Vec<(Layout, usize, usize)> {
    let tile = |rows, cols| Tile { rows, cols, lanes: LOOKUP_ROWS };
    vec![
        (Layout::Tl1(tile(32, 32)), 64, 256),
        (Layout::Tl1(tile(96, 640)), 192, 1280),
        (Layout::Tl1(tile(64, 8)), 64, 288),
        (Layout::Tl2(tile(32, 24)), 64, 288),
        (Layout::Tl2(tile(64, 192)), 128, 1728),
        (Layout::Tl2(tile(96, 960)), 192, 1984),
        // No triples at all.
        (Layout::Tl2(tile(32, 960)), 32, 256),
    ]
}

fn product(cpu: &Cpu, weights: TernaryView, values: &[i8]) -> Vec<i32> {
    let mut acts = QuantizedActs::new(values.len() / weights.cols, weights.cols);
    acts.set_raw(weights.cols, values, &vec![1.0; values.len() / weights.cols]);
    let mut out = vec![0; acts.tokens() * weights.rows];
    super::super::matmul_i32(cpu, &acts, weights, &mut out);
    out
}

/// Any bytes have a meaning, the same for every variant and for the rows that many tokens meet unpacked.
#[test]
fn any_bytes_in_any_tile_mean_the_same_everywhere() {
    let mut rng = Rng::new(21);
    let cpus = cpus();
    for (layout, rows, cols) in tiles() {
        let codes: Vec<u8> = (0..ternary_bytes(layout, rows, cols)).map(|_| rng.below(256) as u8).collect();
        let plain = unpack(layout, rows, cols, &codes);
        let weights = TernaryView::new(rows, cols, &codes, layout, Scales::PerTensor(1.0)).unwrap();
        for tokens in [1, FEW, FEW + 1] {
            let values = [rng.i8s((tokens - 1) * cols), vec![-128; cols]].concat();
            let expected: Vec<i32> = values
                .chunks(cols)
                .flat_map(|values| {
                    plain.chunks(cols).map(move |row| {
                        row.iter().zip(values).map(|(&c, &q)| (i32::from(c) - 1) * i32::from(q)).sum::<i32>()
                    })
                })
                .collect();
            for cpu in &cpus {
                assert_eq!(product(cpu, weights, &values), expected, "{cpu:?}, {layout:?}, {tokens} tokens");
            }
        }
    }
}

#[test]
fn an_entry_is_what_its_weights_add() {
    // x = 1, 10, 100: 9 a + 3 b + d = 5 is a = 1, b = -1, d = -1.
    let mut acts = QuantizedActs::new(1, 256);
    let values: Vec<i8> = [1, 10, 100].into_iter().cycle().take(256).collect();
    acts.set_raw(256, &values, &[1.0]);
    let codes = [vec![0x50; 32], vec![0; 32 * 192 / 6 - 32], vec![0; 32 * 192 / 24], vec![0x44; 32 * 64 / 4]].concat();
    let layout = Layout::Tl2(Tile { rows: 32, cols: 96, lanes: 32 });
    let weights = TernaryView::new(32, 256, &codes, layout, Scales::PerTensor(1.0)).unwrap();
    for cpu in cpus() {
        let mut out = [0; 32];
        super::super::matmul_i32(&cpu, &acts, weights, &mut out);
        assert_eq!(out, [1 - 10 - 100; 32], "{cpu:?}");
    }
}

#[test]
#[should_panic(expected = "with scales in groups of")]
fn groups_are_not_looked_up() {
    let layout = Layout::tl1(32, 256, 32);
    let codes = vec![0x44; ternary_bytes(layout, 32, 256)];
    let scales = [half::f16::ONE; 32];
    let scales = Scales::PerGroup { size: 256, values: &scales };
    let weights = TernaryView::new(32, 256, &codes, layout, scales).unwrap();
    let mut acts = QuantizedActs::with_group(1, 256, Some(256));
    acts.set_raw(256, &[0; 256], &[1.0]);
    super::super::matmul_i32(&cpus()[0], &acts, weights, &mut [0; 32]);
}
