use std::sync::OnceLock;

use half::f16;

use super::*;
use crate::{
    Cpu,
    format::{GROUP_SIZES, MatrixScales, pack, ternary_bytes, unpack},
    quantize::QuantizedActs,
    ternary::{self, Part},
    testing::{MODEL_COLS, Rng, TOKEN_COUNTS, cpus},
};

const LAYOUT: Layout = Layout::I2sR16;

/// All that have 16 rows side by side.
const LAYOUTS: [Layout; 2] = [LAYOUT, Layout::Base3R16];

/// The suite calls kernels some thousand times: the pools are made once.
fn cpus_once() -> &'static [Cpu] {
    static CPUS: OnceLock<Vec<Cpu>> = OnceLock::new();
    CPUS.get_or_init(cpus)
}

/// A matrix and tokens, unpacked.
struct Case {
    rows: usize,
    cols: usize,
    size: usize,
    /// (rows, cols)
    codes: Vec<u8>,
    /// (rows, groups)
    scales: Vec<f16>,
    /// (T, cols)
    values: Vec<i8>,
    /// (T, groups)
    steps: Vec<f32>,
}

impl Case {
    fn random(rng: &mut Rng, rows: usize, cols: usize, size: usize, tokens: usize) -> Self {
        let groups = cols / size;
        Self {
            rows,
            cols,
            size,
            codes: rng.codes(rows * cols),
            scales: (0..rows * groups).map(|_| f16::from_f32(rng.f32())).collect(),
            values: rng.i8s(tokens * cols),
            steps: rng.floats(tokens * groups),
        }
    }

    fn tokens(&self) -> usize {
        self.values.len() / self.cols
    }

    /// The sum over groups from the left, from unpacked codes: independent of packing, kernels and tiles.
    fn expected(&self) -> Vec<f32> {
        let groups = self.cols / self.size;
        let mut out = Vec::new();
        for t in 0..self.tokens() {
            for row in 0..self.rows {
                let mut total = 0.0;
                for g in 0..groups {
                    let weight = |c: usize| i32::from(self.codes[row * self.cols + c]) - 1;
                    let value = |c: usize| i32::from(self.values[t * self.cols + c]);
                    let exact: i32 = (g * self.size..(g + 1) * self.size).map(|c| weight(c) * value(c)).sum();
                    let scale = self.scales[row * groups + g].to_f32();
                    total = (exact as f32).mul_add(scale * self.steps[t * groups + g], total);
                }
                out.push(total);
            }
        }
        out
    }

    fn acts(&self) -> QuantizedActs {
        let mut acts = QuantizedActs::with_group(self.tokens(), self.cols, Some(self.size));
        acts.set_raw(self.cols, &self.values, &self.steps);
        acts
    }

    /// In the order of [`LAYOUT`].
    fn ordered_scales(&self) -> MatrixScales {
        let scales = MatrixScales::PerGroup { size: self.size, values: self.scales.clone().into() };
        scales.reordered(self.rows, self.cols, Layout::I2sP128, LAYOUT)
    }

    fn product(&self, cpu: &Cpu, layout: Layout, packed: &[u8]) -> Vec<f32> {
        let scales = self.ordered_scales();
        let weights = TernaryView::new(self.rows, self.cols, packed, layout, scales.view()).unwrap();
        let mut out = vec![f32::NAN; self.tokens() * self.rows];
        ternary::matmul(cpu, &self.acts(), &mut [Part { weights, out: &mut out, add: false }]);
        out
    }

    /// Every variant gives these bits.
    fn check(&self, what: &str) {
        for layout in LAYOUTS {
            self.check_packed(layout, &pack(layout, self.rows, self.cols, &self.codes), what);
        }
    }

    fn check_packed(&self, layout: Layout, packed: &[u8], what: &str) {
        let expected = self.expected();
        for cpu in cpus_once() {
            let found = self.product(cpu, layout, packed);
            if let Some(at) = (0..expected.len()).find(|&i| found[i].to_bits() != expected[i].to_bits()) {
                panic!(
                    "{cpu:?}, {layout:?}, {what}, {} x {} in groups of {}, {} tokens: token {}, row {}: {} instead of {}",
                    self.rows,
                    self.cols,
                    self.size,
                    self.tokens(),
                    at / self.rows,
                    at % self.rows,
                    found[at],
                    expected[at]
                );
            }
        }
    }
}

/// Row lengths for a group: one group, two, an octet and its neighbours, more than one panel, and those of models.
fn row_lengths(size: usize) -> Vec<usize> {
    let mut cols: Vec<usize> = [1, 2, 3, 7, 8, 9, 17].map(|groups| groups * size).to_vec();
    cols.extend([1024, 1024 + size, 2048 + size]);
    cols.extend(MODEL_COLS.into_iter().filter(|cols| cols.is_multiple_of(size)));
    cols.sort_unstable();
    cols.dedup();
    cols
}

#[test]
fn hand_computed() {
    // Weights +1 at columns 0, 63, 64; -1 at 127. Groups of 64: D - S is 5 + 7 and 11 - (-2).
    let mut codes = vec![1; 128];
    (codes[0], codes[63], codes[64], codes[127]) = (2, 2, 2, 0);
    let mut values = vec![100; 128];
    (values[0], values[63], values[64], values[127]) = (5, 7, 11, -2);
    let case = Case {
        rows: 1,
        cols: 128,
        size: 64,
        codes: codes.clone(),
        scales: vec![f16::from_f32(0.5), f16::from_f32(-2.0)],
        values,
        steps: vec![0.25, 3.0],
    };
    assert_eq!(case.expected(), [12.0 * 0.125 + 13.0 * -6.0]);
    case.check("by hand");
}

#[test]
fn all_variants_give_the_same_bits_on_all_shapes() {
    let mut rng = Rng::new(21);
    for size in GROUP_SIZES {
        for cols in row_lengths(size) {
            for rows in [0, 1, 7, 8, 9, 15, 16, 17, 24, 33, 45] {
                for tokens in TOKEN_COUNTS {
                    // Every row length with few rows and tokens, and long rows with few of each.
                    if tokens * rows * cols <= 500_000 {
                        Case::random(&mut rng, rows, cols, size, tokens).check("random");
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_activations_do_not_overflow() {
    let mut rng = Rng::new(22);
    for size in GROUP_SIZES {
        for tokens in [1, 2, 4, 9] {
            let (rows, cols) = (17, 10 * size);
            for (name, value) in [("+127", 127), ("-128", -128)] {
                for (weights, codes) in
                    [("-1", vec![0; rows * cols]), ("+1", vec![2; rows * cols]), ("random", rng.codes(rows * cols))]
                {
                    let values = vec![value; tokens * cols];
                    let case = Case { codes, values, ..Case::random(&mut rng, rows, cols, size, tokens) };
                    case.check(&format!("all {name}, weights {weights}"));
                }
            }
        }
    }
}

#[test]
fn code_3_is_plus_two_without_overflow() {
    let mut rng = Rng::new(23);
    for size in GROUP_SIZES {
        let (rows, cols) = (17, 6 * size);
        let packed = vec![0xFF; ternary_bytes(LAYOUT, rows, cols)];
        let codes = unpack(LAYOUT, rows, cols, &packed);
        for tokens in [1, 3, 9] {
            for value in [127, -128] {
                let values = vec![value; tokens * cols];
                let case = Case { codes: codes.clone(), values, ..Case::random(&mut rng, rows, cols, size, tokens) };
                case.check_packed(LAYOUT, &packed, "all codes 3");
            }
        }
    }
}

/// One group counts at a time: its product with a scale and a step of 1 is D - S, exactly.
#[test]
fn the_integers_of_each_group_are_exact() {
    let mut rng = Rng::new(24);
    for size in GROUP_SIZES {
        for tokens in [1, 2, 5, 19] {
            let (rows, groups) = (19, 9);
            let cols = groups * size;
            let mut case = Case::random(&mut rng, rows, cols, size, tokens);
            let packed = pack(LAYOUT, rows, cols, &case.codes);
            case.steps.fill(1.0);
            for only in 0..groups {
                case.scales = (0..rows * groups).map(|i| f16::from_f32(f32::from(i % groups == only))).collect();
                case.check(&format!("group {only}"));
            }
            case.scales.fill(f16::ONE);
            let whole: Vec<i32> = case.expected().into_iter().map(|sum| sum as i32).collect();
            case.steps = rng.floats(tokens * groups);
            case.scales = vec![f16::from_f32(0.3); rows * groups];
            let scales = case.ordered_scales();
            let weights = TernaryView::new(rows, cols, &packed, LAYOUT, scales.view()).unwrap();
            for cpu in cpus_once() {
                let mut sums = vec![0; whole.len()];
                ternary::matmul_i32(cpu, &case.acts(), weights, &mut sums);
                assert_eq!(sums, whole, "{cpu:?}, groups of {size}: the sums of whole rows");
            }
        }
    }
}

/// One scale everywhere is the product with that scale, but for the rounding of the sums.
#[test]
fn equal_scales_are_one_scale() {
    let mut rng = Rng::new(25);
    let (rows, cols, tokens) = (21, 1280, 3);
    let mut case = Case::random(&mut rng, rows, cols, 128, tokens);
    case.scales.fill(f16::from_f32(0.125));
    case.steps.fill(0.25);
    let packed = pack(LAYOUT, rows, cols, &case.codes);
    let mut acts = QuantizedActs::new(tokens, cols);
    acts.set_raw(cols, &case.values, &[0.25; 3]);
    for cpu in cpus_once() {
        let plain = pack(Layout::I2sP128, rows, cols, &case.codes);
        let weights = TernaryView::new(rows, cols, &plain, Layout::I2sP128, Scales::PerTensor(0.125)).unwrap();
        let mut expected = vec![0.0; tokens * rows];
        ternary::matmul(cpu, &acts, &mut [Part { weights, out: &mut expected, add: false }]);
        // Whole multiples of 2^-5 below 2^24: no rounding at all.
        assert_eq!(case.product(cpu, LAYOUT, &packed), expected, "{cpu:?}");
    }
}

#[test]
fn parts_share_one_call_and_add() {
    let mut rng = Rng::new(26);
    for tokens in [1, 6, 20] {
        let cases = [20, 0, 5, 300].map(|rows| Case::random(&mut rng, rows, 512, 64, tokens));
        let packed = cases.each_ref().map(|case| pack(LAYOUT, case.rows, 512, &case.codes));
        let scales = cases.each_ref().map(Case::ordered_scales);
        let mut acts = cases[0].acts();
        acts.set_raw(512, &cases[0].values, &cases[0].steps);
        for cpu in cpus_once() {
            let mut outs = cases.each_ref().map(|case| vec![3.0; tokens * case.rows]);
            let mut i = 0;
            let mut parts = outs.each_mut().map(|out| {
                i += 1;
                let (rows, scales) = (cases[i - 1].rows, scales[i - 1].view());
                let weights = TernaryView::new(rows, 512, &packed[i - 1], LAYOUT, scales).unwrap();
                Part { weights, out, add: i % 2 == 0 }
            });
            ternary::matmul(cpu, &acts, &mut parts);
            for (i, (out, case)) in outs.iter().zip(&cases).enumerate() {
                let same_tokens = Case {
                    values: cases[0].values.clone(),
                    steps: cases[0].steps.clone(),
                    codes: case.codes.clone(),
                    scales: case.scales.clone(),
                    ..*case
                };
                let start = if i % 2 == 1 { 3.0 } else { 0.0 };
                let expected: Vec<f32> = same_tokens.expected().into_iter().map(|y| start + y).collect();
                assert_eq!(*out, expected, "{cpu:?}, part {i}, {tokens} tokens");
            }
        }
    }
}

#[test]
fn a_nan_step_makes_every_product_of_its_token_nan() {
    let mut rng = Rng::new(27);
    for tokens in [3, 12] {
        let mut case = Case::random(&mut rng, 20, 512, 128, tokens);
        case.steps[4 + 2] = f32::NAN;
        let packed = pack(LAYOUT, 20, 512, &case.codes);
        for cpu in cpus_once() {
            let nan: Vec<bool> = case.product(cpu, LAYOUT, &packed).iter().map(|y| y.is_nan()).collect();
            let expected: Vec<bool> = (0..tokens * 20).map(|i| i / 20 == 1).collect();
            assert_eq!(nan, expected, "{cpu:?}");
        }
    }
}

#[test]
fn rows_one_after_the_other_give_the_same() {
    let mut rng = Rng::new(30);
    for (rows, tokens) in [(45, 1), (70, 3), (33, 20)] {
        let case = Case::random(&mut rng, rows, 640, 64, tokens);
        let plain = pack(Layout::I2sP128, rows, 640, &case.codes);
        let scales = Scales::PerGroup { size: 64, values: &case.scales };
        let weights = TernaryView::new(rows, 640, &plain, Layout::I2sP128, scales).unwrap();
        for cpu in cpus_once() {
            let mut out = vec![f32::NAN; tokens * rows];
            ternary::matmul(cpu, &case.acts(), &mut [Part { weights, out: &mut out, add: false }]);
            assert_eq!(out, case.expected(), "{cpu:?}, {rows} rows, {tokens} tokens");
        }
    }
}

#[test]
#[should_panic(expected = "groups of the matrix and of the activations")]
fn other_groups_panic() {
    let case = Case::random(&mut Rng::new(28), 1, 256, 64, 1);
    let scales = [f16::ONE; 2 * 16];
    let packed = pack(LAYOUT, 1, 256, &case.codes);
    let weights = TernaryView::new(1, 256, &packed, LAYOUT, Scales::PerGroup { size: 128, values: &scales }).unwrap();
    ternary::matmul(&cpus_once()[0], &case.acts(), &mut [Part { weights, out: &mut [0.0], add: false }]);
}

#[test]
#[should_panic(expected = "expected 64 scales, found 3")]
fn missing_scales_panic() {
    let case = Case::random(&mut Rng::new(29), 1, 256, 64, 1);
    let packed = pack(LAYOUT, 1, 256, &case.codes);
    let scales = Scales::PerGroup { size: 64, values: &[f16::ONE; 3] };
    let weights = TernaryView { rows: 1, cols: 256, codes: &packed, layout: LAYOUT, scales };
    ternary::matmul(&cpus_once()[0], &case.acts(), &mut [Part { weights, out: &mut [0.0], add: false }]);
}
