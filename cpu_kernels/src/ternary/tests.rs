use super::*;
use crate::{
    format::{pack, repack, unpack},
    testing::{MODEL_COLS, Rng, TOKEN_COUNTS, assert_close, cpus, edge_lengths},
};

const LAYOUT: Layout = Layout::I2sP128;

/// D - S from unpacked codes: independent of the packed layout's kernels and of the tiling.
fn expected_sums(codes: &[u8], values: &[i8], cols: usize, rows: usize) -> Vec<i32> {
    let dot = |token: &[i8], row: usize| {
        let row = &codes[row * cols..][..cols];
        row.iter().zip(token).map(|(&c, &q)| (i32::from(c) - 1) * i32::from(q)).sum()
    };
    values.chunks_exact(cols).flat_map(|token| (0..rows).map(move |row| dot(token, row))).collect()
}

fn acts(cols: usize, values: &[i8]) -> QuantizedActs {
    let tokens = values.len() / cols;
    let mut acts = QuantizedActs::new(tokens, cols);
    let steps: Vec<f32> = (0..tokens).map(|t| 0.01 + t as f32).collect();
    acts.set_raw(cols, values, &steps);
    acts
}

/// Every layout.
fn layouts(rows: usize, cols: usize) -> [Layout; 4] {
    [LAYOUT, Layout::tl1(rows, cols, 96), Layout::tl2(rows, cols, 64), Layout::Base3]
}

/// In every layout.
fn check_all(cpus: &[Cpu], rows: usize, cols: usize, packed: &[u8], values: &[i8], expected: &[i32], what: &str) {
    for layout in layouts(rows, cols) {
        let packed = repack(packed, rows, cols, layout).unwrap();
        for cpu in cpus {
            check(cpu, (rows, cols, layout), &packed, values, expected, what);
        }
    }
}

fn check(
    cpu: &Cpu,
    (rows, cols, layout): (usize, usize, Layout),
    packed: &[u8],
    values: &[i8],
    expected: &[i32],
    what: &str,
) {
    let weights = TernaryView::new(rows, cols, packed, layout, Scales::PerTensor(1.0)).unwrap();
    let acts = acts(cols, values);
    let mut sums = vec![i32::MIN; expected.len()];
    matmul_i32(cpu, &acts, weights, &mut sums);
    if let Some(at) = (0..sums.len()).find(|&i| sums[i] != expected[i]) {
        panic!(
            "{cpu:?}, {layout:?}, {what}, {rows} x {cols}, {} tokens: token {}, row {}: {} instead of {}",
            acts.tokens(),
            at / rows,
            at % rows,
            sums[at],
            expected[at]
        );
    }
}

#[test]
fn hand_computed() {
    // Weights [1, -1, 0], [0, 0, -1]; tokens [5, 3, 100], [-128, 127, 1].
    let packed = pack(LAYOUT, 2, 3, &[2, 0, 1, 1, 1, 0]);
    let values = [5, 3, 100, -128, 127, 1];
    check_all(&cpus(), 2, 3, &packed, &values, &[2, -100, -255, -1], "by hand");
    for cpu in cpus() {
        let weights = TernaryView::new(2, 3, &packed, LAYOUT, Scales::PerTensor(0.5)).unwrap();
        let mut acts = QuantizedActs::new(2, 3);
        acts.set_raw(3, &values, &[2.0, 0.25]);
        let mut out = [10.0; 4];
        matmul(&cpu, &acts, &mut [Part { weights, out: &mut out, add: true }]);
        assert_eq!(out, [12.0, -90.0, 10.0 - 255.0 * 0.125, 10.0 - 0.125]);
        matmul(&cpu, &acts, &mut [Part { weights, out: &mut out, add: false }]);
        assert_eq!(out, [2.0, -100.0, -255.0 * 0.125, -0.125]);
    }
}

#[test]
fn all_variants_are_exact_on_all_shapes() {
    let mut rng = Rng::new(7);
    for cols in edge_lengths(128).into_iter().chain(MODEL_COLS).filter(|&cols| cols > 0) {
        for rows in edge_lengths(8) {
            for tokens in TOKEN_COUNTS {
                // Every column count with few rows and tokens, and the wide shapes with few of each.
                if tokens * rows * cols > 1_500_000 {
                    continue;
                }
                let codes = rng.codes(rows * cols);
                let packed = pack(LAYOUT, rows, cols, &codes);
                let values = rng.i8s(tokens * cols);
                let expected = expected_sums(&codes, &values, cols, rows);
                check_all(cpus_once(), rows, cols, &packed, &values, &expected, "random");
            }
        }
    }
}

/// The suite calls kernels some thousand times: the pools are made once.
fn cpus_once() -> &'static [Cpu] {
    static CPUS: std::sync::OnceLock<Vec<Cpu>> = std::sync::OnceLock::new();
    CPUS.get_or_init(cpus)
}

#[test]
fn extreme_activations_do_not_overflow() {
    let mut rng = Rng::new(8);
    for cols in [128, 1280, 1408, 2560, 6912, 23040] {
        for tokens in [1, 2, 4, 8, 9, 17] {
            let rows = 9;
            for (name, value) in [("+127", 127), ("-128", -128), ("0", 0)] {
                for (weights, codes) in
                    [("-1", vec![0; rows * cols]), ("+1", vec![2; rows * cols]), ("random", rng.codes(rows * cols))]
                {
                    let packed = pack(LAYOUT, rows, cols, &codes);
                    let values = vec![value; tokens * cols];
                    let expected = expected_sums(&codes, &values, cols, rows);
                    let what = format!("all {name}, weights {weights}");
                    check_all(cpus_once(), rows, cols, &packed, &values, &expected, &what);
                }
            }
        }
    }
}

#[test]
fn code_3_is_plus_two_without_overflow() {
    let (rows, cols) = (5, 6912);
    let packed = vec![0xFF; rows * cols / 4];
    let codes = unpack(LAYOUT, rows, cols, &packed);
    for tokens in [1, 3, 9] {
        for value in [127, -128] {
            let values = vec![value; tokens * cols];
            let expected = vec![2 * i32::from(value) * cols as i32; tokens * rows];
            assert_eq!(expected_sums(&codes, &values, cols, rows), expected);
            for cpu in cpus_once() {
                check(cpu, (rows, cols, LAYOUT), &packed, &values, &expected, "all codes 3");
            }
        }
    }
}

#[test]
fn prefill_equals_decode() {
    let (rows, cols, tokens) = (45, 2560, 33);
    let mut rng = Rng::new(9);
    let packed = pack(LAYOUT, rows, cols, &rng.codes(rows * cols));
    let values = rng.i8s(tokens * cols);
    for (cpu, layout) in cpus_once().iter().flat_map(|cpu| layouts(rows, cols).map(|layout| (cpu, layout))) {
        let packed = repack(&packed, rows, cols, layout).unwrap();
        let weights = TernaryView::new(rows, cols, &packed, layout, Scales::PerTensor(0.037)).unwrap();
        let mut together = vec![0.0; tokens * rows];
        let all = acts(cols, &values);
        matmul(cpu, &all, &mut [Part { weights, out: &mut together, add: false }]);
        for t in 0..tokens {
            let mut one = QuantizedActs::new(1, cols);
            one.set_raw(cols, &values[t * cols..][..cols], &[all.step(t)]);
            let mut alone = vec![0.0; rows];
            matmul(cpu, &one, &mut [Part { weights, out: &mut alone, add: false }]);
            assert_eq!(alone, together[t * rows..][..rows], "{cpu:?}, {layout:?}, token {t}");
        }
    }
}

#[test]
fn every_tiling_gives_the_same_sums() {
    let (rows, cols) = (301, 640);
    let mut rng = Rng::new(19);
    let codes = rng.codes(rows * cols);
    let packed = pack(LAYOUT, rows, cols, &codes);
    let tilings = Tiling::FEW_BYTES.iter().flat_map(|&bytes| Tiling::TILES.map(|(rows, tokens)| (bytes, rows, tokens)));
    for (n, (bytes, tile_rows, tile_tokens)) in tilings.chain([(1, 32, 1), (1, 512, 32)]).enumerate() {
        let mut cpus = cpus();
        let tiling = Tiling::new(bytes, tile_rows, tile_tokens).unwrap();
        cpus.iter_mut().for_each(|cpu| cpu.set_tilings(vec![((1, cols), Tiling::default()), ((rows, cols), tiling)]));
        let values = rng.i8s([1, 5, 8, 9, 140][n % 5] * cols);
        let expected = expected_sums(&codes, &values, cols, rows);
        check_all(&cpus, rows, cols, &packed, &values, &expected, &format!("{tiling:?}"));
    }
}

#[test]
fn each_thread_fetches_the_rows_that_it_multiplies_first() {
    let mut cpu = Cpu::new(Isa::Scalar, 2);
    // Tiles of 32 rows of 64 bytes: three of the first matrix and two of the second, the first three for the caller.
    cpu.set_tilings([96, 64].map(|rows| ((rows, 256), Tiling::new(1, 32, 1).unwrap())).into());
    let codes = [vec![0_u8; 96 * 64], vec![0; 64 * 64]];
    let view = |codes, rows, layout| TernaryView { rows, cols: 256, codes, layout, scales: Scales::PerTensor(1.0) };
    let [first, second] = [view(&codes[0], 96, Layout::I2sP128), view(&codes[1], 64, Layout::I2sP128)];
    let ends = || [0, 1].map(|n| cpu.pool().left_ahead(n).end);
    let end = |codes: &[u8]| codes.as_ptr_range().end.addr();
    fetch_ahead(&cpu, 1, [first, second].into_iter());
    assert_eq!(cpu.pool().left_ahead(0).start, codes[0].as_ptr().addr());
    assert_eq!(ends(), [end(&codes[0]), end(&codes[1])]);
    fetch_ahead(&cpu, SMALL_BATCH, [second].into_iter());
    assert_eq!(ends(), [end(&codes[1]); 2]);
    for (tokens, parts) in [(SMALL_BATCH + 1, &[first][..]), (1, &[])] {
        fetch_ahead(&cpu, tokens, parts.iter().copied());
        assert!([0, 1].map(|n| cpu.pool().left_ahead(n)).iter().all(Range::is_empty), "{tokens} tokens");
    }
}

#[test]
fn parts_share_one_call() {
    let cols = 256;
    let mut rng = Rng::new(10);
    let shapes = [20, 0, 5, 700];
    let packed = shapes.map(|rows| pack(LAYOUT, rows, cols, &rng.codes(rows * cols)));
    // All of one layout, and two of each.
    let mixed: [Layout; 4] = std::array::from_fn(|i| layouts(shapes[i], cols)[i / 2 * 2]);
    let of = |at: usize| shapes.map(|rows| layouts(rows, cols)[at]);
    for (tokens, layouts) in [1, 3, 5, 20].into_iter().flat_map(|n| [of(0), of(1), of(2), of(3), mixed].map(|l| (n, l)))
    {
        let packed: [Vec<u8>; 4] = std::array::from_fn(|i| repack(&packed[i], shapes[i], cols, layouts[i]).unwrap());
        let acts = acts(cols, &rng.i8s(tokens * cols));
        for cpu in cpus_once() {
            let view = |i: usize| {
                TernaryView::new(shapes[i], cols, &packed[i], layouts[i], Scales::PerTensor(1.0 + i as f32)).unwrap()
            };
            let mut outs = shapes.map(|rows| vec![3.0; tokens * rows]);
            let mut i = 0;
            let mut parts = outs.each_mut().map(|out| {
                i += 1;
                Part { weights: view(i - 1), out, add: i % 2 == 0 }
            });
            matmul(cpu, &acts, &mut parts);
            for (i, out) in outs.iter().enumerate() {
                let mut sums = vec![0; tokens * shapes[i]];
                matmul_i32(cpu, &acts, view(i), &mut sums);
                let start = if i % 2 == 1 { 3.0 } else { 0.0 };
                let expected: Vec<f32> = sums
                    .iter()
                    .enumerate()
                    .map(|(at, &sum)| start + sum as f32 * ((1.0 + i as f32) * acts.step(at / shapes[i])))
                    .collect();
                assert_close(&format!("{cpu:?}, part {i}"), out, &expected, 0.0);
            }
        }
    }
}

#[test]
fn each_row_has_its_own_scale() {
    let (rows, cols, tokens) = (300, 256, 9);
    let mut rng = Rng::new(12);
    let codes = rng.codes(rows * cols);
    let packed = pack(LAYOUT, rows, cols, &codes);
    let values = rng.i8s(tokens * cols);
    let scales = rng.floats(rows);
    let acts = acts(cols, &values);
    let sums = expected_sums(&codes, &values, cols, rows);
    let expected: Vec<f32> =
        sums.iter().enumerate().map(|(at, &sum)| sum as f32 * (scales[at % rows] * acts.step(at / rows))).collect();
    for (cpu, layout) in cpus_once().iter().flat_map(|cpu| layouts(rows, cols).map(|layout| (cpu, layout))) {
        let packed = repack(&packed, rows, cols, layout).unwrap();
        let weights = TernaryView::new(rows, cols, &packed, layout, Scales::PerRow(&scales)).unwrap();
        let mut out = vec![0.0; tokens * rows];
        matmul(cpu, &acts, &mut [Part { weights, out: &mut out, add: false }]);
        assert_eq!(out, expected, "{cpu:?}");
    }
}

#[test]
fn a_nan_step_makes_every_product_nan() {
    let packed = pack(LAYOUT, 3, 128, &[1; 384]);
    let weights = TernaryView::new(3, 128, &packed, LAYOUT, Scales::PerTensor(1.0)).unwrap();
    let mut acts = QuantizedActs::new(2, 128);
    acts.set_raw(128, &[0; 256], &[f32::NAN, 1.0]);
    for cpu in cpus_once() {
        let mut out = [0.0; 6];
        matmul(cpu, &acts, &mut [Part { weights, out: &mut out, add: false }]);
        assert_eq!(out.map(f32::is_nan), [true, true, true, false, false, false], "{cpu:?}");
    }
}

#[test]
#[should_panic(expected = "columns of the matrix and of the activations")]
fn other_columns_panic() {
    let weights = TernaryView::new(1, 128, &[0; 32], LAYOUT, Scales::PerTensor(1.0)).unwrap();
    matmul_i32(&cpus_once()[0], &acts(256, &[0; 256]), weights, &mut [0]);
}

#[test]
#[should_panic(expected = "bytes of 2 x 128 codes")]
fn short_codes_panic() {
    let weights = TernaryView { rows: 2, cols: 128, codes: &[0; 63], layout: LAYOUT, scales: Scales::PerTensor(1.0) };
    matmul_i32(&cpus_once()[0], &acts(128, &[0; 128]), weights, &mut [0; 2]);
}
