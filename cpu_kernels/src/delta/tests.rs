use std::ops::Range;

use super::*;
use crate::testing::{Rng, assert_close, cpus, norm};

const SHAPES: [Shape; 6] = [
    Shape { key_heads: 1, value_heads: 1, dim: 1, kernel: 1 },
    Shape { key_heads: 2, value_heads: 2, dim: 16, kernel: 4 },
    Shape { key_heads: 1, value_heads: 3, dim: 20, kernel: 2 },
    Shape { key_heads: 2, value_heads: 6, dim: 32, kernel: 4 },
    Shape { key_heads: 2, value_heads: 4, dim: 64, kernel: 3 },
    Shape { key_heads: 1, value_heads: 3, dim: 128, kernel: 4 },
];

const LENGTHS: [usize; 9] = [1, 2, 7, 8, 9, 63, 64, 65, 200];

/// The parameters of a layer, and the inputs of some tokens.
struct Case {
    shape: Shape,
    weight: Vec<f32>,
    rate: Vec<f32>,
    bias: Vec<f32>,
    m: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Case {
    fn new(rng: &mut Rng, shape: Shape, tokens: usize) -> Self {
        let heads = shape.value_heads;
        Self {
            shape,
            weight: rng.floats(shape.channels() * shape.kernel),
            // Trained decays forget within some to thousands of tokens.
            rate: (0..heads).map(|_| -(4.0 * rng.f32() - 3.0).exp()).collect(),
            bias: rng.floats(heads),
            m: rng.floats(tokens * shape.channels()).into_iter().map(|m| 3.0 * m).collect(),
            a: rng.floats(tokens * heads).into_iter().map(|a| 4.0 * a).collect(),
            b: rng.floats(tokens * heads).into_iter().map(|b| 4.0 * b).collect(),
        }
    }

    fn decay(&self) -> Decay<'_> {
        Decay { rate: &self.rate, bias: &self.bias }
    }

    /// Convolution and delta rule of tokens `range`, which stand where `rows` say.
    fn run(&self, cpu: &Cpu, states: &mut [State], rows: &[Placed], range: Range<usize>) -> Vec<f32> {
        let part = |x: &[f32], width: usize| x[range.start * width..range.end * width].to_vec();
        let (mut c, heads) = (part(&self.m, self.shape.channels()), self.shape.value_heads);
        conv(cpu, &self.shape, &Taps::new(&self.shape, &self.weight), states, rows, &mut c);
        let (mut a, mut b) = (part(&self.a, heads), part(&self.b, heads));
        let mut out = vec![f32::NAN; range.len() * self.shape.width()];
        mix(cpu, &self.shape, &c, &mut a, &mut b, self.decay(), states, rows, &mut out);
        out
    }

    /// All of it for one sequence, by the formulas of the module in f64. Also S at the end, (value_heads, dim, dim) with
    /// keys first.
    fn expected(&self) -> (Vec<f32>, Vec<f64>) {
        let Shape { key_heads, value_heads, dim, kernel } = self.shape;
        let channels = self.shape.channels();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mut memory = vec![0.0; value_heads * dim * dim];
        let mut out = Vec::new();
        for t in 0..self.m.len() / channels {
            let c: Vec<f64> = (0..channels)
                .map(|ch| {
                    let tap = |j: usize| match (t + j + 1).checked_sub(kernel) {
                        Some(t) => f64::from(self.weight[ch * kernel + j]) * f64::from(self.m[t * channels + ch]),
                        None => 0.0,
                    };
                    let sum: f64 = (0..kernel).map(tap).sum();
                    sum * sigmoid(sum)
                })
                .collect();
            for h in 0..value_heads {
                let head = |first: usize, h: usize| &c[(first + h) * dim..][..dim];
                let unit = |x: &[f64]| {
                    let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                    x.iter().map(|x| x / length).collect::<Vec<_>>()
                };
                let (q, k) = (unit(head(0, h % key_heads)), unit(head(key_heads, h % key_heads)));
                let v = head(2 * key_heads, h);
                let at = t * value_heads + h;
                let beta = sigmoid(f64::from(self.b[at]));
                let softplus = (f64::from(self.a[at]) + f64::from(self.bias[h])).exp().ln_1p();
                let decay = (f64::from(self.rate[h]) * softplus).exp();
                let s = &mut memory[h * dim * dim..][..dim * dim];
                s.iter_mut().for_each(|s| *s *= decay);
                let d: Vec<f64> =
                    (0..dim).map(|j| beta * (v[j] - (0..dim).map(|i| s[i * dim + j] * k[i]).sum::<f64>())).collect();
                for i in 0..dim {
                    for j in 0..dim {
                        s[i * dim + j] += k[i] * d[j];
                    }
                }
                let scale = 1.0 / (dim as f64).sqrt();
                out.extend((0..dim).map(|j| ((0..dim).map(|i| s[i * dim + j] * q[i]).sum::<f64>() * scale) as f32));
            }
        }
        (out, memory)
    }
}

fn states(shape: Shape, count: usize) -> Vec<State> {
    (0..count).map(|_| State::try_new(shape).unwrap().unwrap()).collect()
}

fn one_row(start: usize, tokens: usize) -> [Placed; 1] {
    [Placed { cache: 0, start, tokens, is_prompt: false }]
}

/// Rounding errors of a few hundred steps, against values of the size of `x`.
fn tolerance(x: &[f32]) -> f32 {
    1e-5 * (norm(x) / (x.len() as f64).sqrt()) as f32 + 1e-6
}

#[test]
fn all_variants_follow_the_formulas() {
    let mut rng = Rng::new(41);
    let cpus = cpus();
    for shape in SHAPES {
        for tokens in LENGTHS {
            let case = Case::new(&mut rng, shape, tokens);
            let (expected, memory) = case.expected();
            for cpu in &cpus {
                let what = format!("{cpu:?}, {shape:?}, {tokens} tokens");
                let mut states = states(shape, 1);
                let actual = case.run(cpu, &mut states, &one_row(0, tokens), 0..tokens);
                assert_close(&what, &actual, &expected, tolerance(&expected));
                let Shape { value_heads, dim, .. } = shape;
                let by_values: Vec<f32> = (0..value_heads * dim * dim)
                    .map(|at| memory[at / (dim * dim) * dim * dim + at % dim * dim + at / dim % dim] as f32)
                    .collect();
                assert_close(&format!("{what}: S"), states[0].memory(), &by_values, tolerance(&by_values));
                let (reach, channels) = (shape.kernel - 1, shape.channels());
                let last = |i: usize| match (tokens * channels + i).checked_sub(reach * channels) {
                    Some(at) => case.m[at],
                    None => 0.0,
                };
                let inputs: Vec<f32> = (0..reach * channels).map(last).collect();
                assert_eq!(states[0].conv(), inputs, "{what}: last inputs");
            }
        }
    }
}

#[test]
fn tokens_give_the_same_bits_in_every_batch() {
    let mut rng = Rng::new(42);
    for shape in SHAPES {
        let tokens = 75;
        let case = Case::new(&mut rng, shape, tokens);
        for cpu in cpus() {
            let what = format!("{cpu:?}, {shape:?}");
            let mut alone = states(shape, 1);
            let singles: Vec<f32> =
                (0..tokens).flat_map(|t| case.run(&cpu, &mut alone, &one_row(t, 1), t..t + 1)).collect();
            for lengths in [&[75][..], &[8, 3, 64], &[1, 2, 7, 65], &[9, 66]] {
                let mut batched = states(shape, 1);
                let mut out = Vec::new();
                for &length in lengths {
                    let start = out.len() / shape.width();
                    out.extend(case.run(&cpu, &mut batched, &one_row(start, length), start..start + length));
                }
                assert!(out == singles, "{what}: in {lengths:?}");
                assert_eq!(batched[0].memory(), alone[0].memory(), "{what}: S after {lengths:?}");
                assert_eq!(batched[0].conv(), alone[0].conv(), "{what}: inputs after {lengths:?}");
            }
        }
    }
}

#[test]
fn sequences_do_not_meet() {
    let mut rng = Rng::new(43);
    let shape = SHAPES[3];
    // Token by token and side by side: sequences 2, 0 and 3 of four, of which one begins later.
    let cases: Vec<Case> = (0..3).map(|_| Case::new(&mut rng, shape, 20)).collect();
    for parts in
        [[(2, 0..3), (0, 2..3), (3, 0..4)], [(2, 0..3), (0, 2..20), (3, 0..1)], [(2, 0..9), (0, 2..4), (3, 0..7)]]
    {
        check_side_by_side(&mut rng, shape, &cases, &parts);
    }
}

fn check_side_by_side(rng: &mut Rng, shape: Shape, cases: &[Case], parts: &[(usize, Range<usize>); 3]) {
    for cpu in cpus() {
        let mut together = states(shape, 4);
        let mut alone: Vec<Vec<State>> = (0..3).map(|_| states(shape, 1)).collect();
        // Tokens that sequence 0 has already.
        let first = cases[1].run(&cpu, &mut together[..1], &one_row(0, 2), 0..2);
        assert!(first == cases[1].run(&cpu, &mut alone[1], &one_row(0, 2), 0..2), "{cpu:?}");
        let mut batch = Case::new(rng, shape, 0);
        let mut expected = Vec::new();
        let mut rows = Vec::new();
        for ((cache, range), (case, alone)) in parts.iter().zip(cases.iter().zip(&mut alone)) {
            // One layer: its weights are those of the first case.
            let case = &Case {
                m: case.m.clone(),
                a: case.a.clone(),
                b: case.b.clone(),
                ..Case::new(&mut Rng::new(7), shape, 0)
            };
            let of = |x: &[f32], width: usize| x[range.start * width..range.end * width].to_vec();
            batch.m.extend(of(&case.m, shape.channels()));
            batch.a.extend(of(&case.a, shape.value_heads));
            batch.b.extend(of(&case.b, shape.value_heads));
            rows.push(Placed { cache: *cache, start: range.start, tokens: range.len(), is_prompt: false });
            expected.extend(case.run(&cpu, alone, &one_row(range.start, range.len()), range.clone()));
        }
        let batch = Case { m: batch.m, a: batch.a, b: batch.b, ..Case::new(&mut Rng::new(7), shape, 0) };
        let out = batch.run(&cpu, &mut together, &rows, 0..parts.iter().map(|(_, range)| range.len()).sum());
        assert!(out == expected, "{cpu:?}");
        for (at, (cache, _)) in parts.iter().enumerate() {
            assert_eq!(together[*cache].memory(), alone[at][0].memory(), "{cpu:?}, sequence {cache}");
            assert_eq!(together[*cache].conv(), alone[at][0].conv(), "{cpu:?}, sequence {cache}");
        }
        assert!(together[1].memory().iter().chain(together[1].conv()).all(|&x| x == 0.0), "{cpu:?}: idle sequence");
    }
}

#[test]
fn a_copied_state_goes_on_as_the_first_one_did() {
    let mut rng = Rng::new(44);
    let shape = SHAPES[5];
    let case = Case::new(&mut rng, shape, 12);
    for cpu in cpus() {
        let mut states = states(shape, 1);
        case.run(&cpu, &mut states, &one_row(0, 5), 0..5);
        let mut kept = State::try_new(shape).unwrap().unwrap();
        kept.copy_from(&states[0]);
        let first = case.run(&cpu, &mut states, &one_row(5, 7), 5..12);
        states[0].copy_from(&kept);
        assert!(case.run(&cpu, &mut states, &one_row(5, 7), 5..12) == first, "{cpu:?}");
        states[0].clear();
        let (expected, _) = case.expected();
        let again = case.run(&cpu, &mut states, &one_row(0, 12), 0..12);
        assert_close(&format!("{cpu:?}, cleared"), &again, &expected, tolerance(&expected));
    }
}

#[test]
fn extreme_inputs_stay_finite() {
    for shape in SHAPES {
        for cpu in cpus() {
            let tokens = 9;
            let mut case = Case::new(&mut Rng::new(45), shape, tokens);
            let heads = shape.value_heads;
            // Decays to 0, to 1 and none, gates fully open and shut, a key and a query of zeros.
            case.rate[0] = -1e30;
            case.a = (0..tokens * heads).map(|i| [1e30, -1e30, 200.0, -200.0][i % 4]).collect();
            case.b = (0..tokens * heads).map(|i| [1e30, -1e30, 0.0][i % 3]).collect();
            let channels = shape.channels();
            for t in [2, 3, 4, 5, 6] {
                case.m[t * channels..][..2 * shape.key_heads * shape.dim].fill(0.0);
            }
            let mut states = states(shape, 1);
            let out = case.run(&cpu, &mut states, &one_row(0, tokens), 0..tokens);
            assert!(norm::all_finite(&out) && norm::all_finite(states[0].memory()), "{cpu:?}, {shape:?}");
            // A token of NaN shows from itself on, in all heads.
            case.m[4 * channels..5 * channels].fill(f32::NAN);
            states[0].clear();
            let out = case.run(&cpu, &mut states, &one_row(0, tokens), 0..tokens);
            let (before, from) = out.split_at(4 * shape.width());
            assert!(norm::all_finite(before) && from.iter().all(|x| x.is_nan()), "{cpu:?}, {shape:?}: NaN");
        }
    }
}

#[test]
fn the_gated_norm_puts_heads_where_they_belong() {
    let mut rng = Rng::new(46);
    for shape in SHAPES {
        for tokens in [0, 1, 3] {
            let Shape { key_heads, value_heads, dim, .. } = shape;
            let (o, z) = (rng.floats(tokens * shape.width()), rng.floats(tokens * shape.width()));
            let weight = rng.floats(dim);
            for to in [HeadOrder::Tiled, HeadOrder::Grouped] {
                let mut expected = vec![f32::NAN; o.len()];
                for t in 0..tokens {
                    for key_head in 0..key_heads {
                        for r in 0..value_heads / key_heads {
                            let old = (t * value_heads + r * key_heads + key_head) * dim;
                            let new = match to {
                                HeadOrder::Tiled => old,
                                HeadOrder::Grouped => {
                                    (t * value_heads + key_head * (value_heads / key_heads) + r) * dim
                                }
                            };
                            let head = &o[old..][..dim];
                            let mean = head.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / dim as f64;
                            for i in 0..dim {
                                let z = f64::from(z[old + i]);
                                let normed = f64::from(head[i]) / (mean + 1e-6).sqrt() * f64::from(weight[i]);
                                expected[new + i] = (normed * z / (1.0 + (-z).exp())) as f32;
                            }
                        }
                    }
                }
                for cpu in cpus() {
                    let (mut actual, mut gate) = (o.clone(), z.clone());
                    gated_norm(&cpu, &shape, &mut actual, &mut gate, &weight, 1e-6, to);
                    assert_close(&format!("{cpu:?}, {shape:?}, {to:?}"), &actual, &expected, 2e-6);
                }
            }
        }
    }
}

#[test]
fn shapes_that_kernels_cannot_run_are_refused() {
    let good = Shape { key_heads: 16, value_heads: 48, dim: 128, kernel: 4 };
    assert_eq!(good.check(), Ok(()));
    assert_eq!((good.channels(), good.width()), (10240, 6144));
    assert_eq!((good.conv_len(), good.memory_len()), (30720, 786_432));
    for bad in [
        Shape { key_heads: 0, ..good },
        Shape { value_heads: 0, ..good },
        Shape { value_heads: 40, ..good },
        Shape { value_heads: 8, ..good },
        Shape { dim: 0, ..good },
        Shape { dim: MAX_DIM + 1, ..good },
        Shape { dim: usize::MAX, ..good },
        Shape { kernel: 0, ..good },
        Shape { kernel: MAX_KERNEL + 1, ..good },
        Shape { key_heads: usize::MAX, value_heads: usize::MAX, ..good },
    ] {
        assert_eq!(bad.check(), Err(ShapeError(bad)));
        assert!(State::try_new(bad).is_err());
    }
    assert_eq!(
        ShapeError(Shape { value_heads: 40, ..good }).to_string(),
        "a gated delta net: expected value heads a multiple of the key heads, widths of 1 to 256 and a convolution over \
         1 to 8 tokens, found 40 over 16 heads of 128, and 4"
    );
}

fn run_rows(rows: &[Placed], tokens: usize) {
    let shape = SHAPES[1];
    Case::new(&mut Rng::new(1), shape, tokens).run(&cpus()[0], &mut states(shape, 2), rows, 0..tokens);
}

#[test]
#[should_panic(expected = "delta::conv: two rows of one sequence")]
fn a_sequence_cannot_stand_there_twice() {
    run_rows(&[1, 1].map(|cache| Placed { cache, start: 0, tokens: 1, is_prompt: false }), 2);
}

#[test]
#[should_panic(expected = "delta::conv: no state 2")]
fn a_sequence_without_a_state_panics() {
    run_rows(&[Placed { cache: 2, start: 0, tokens: 1, is_prompt: false }], 1);
}

#[test]
#[should_panic(expected = "delta::conv: tokens of the rows")]
fn tokens_that_stand_nowhere_panic() {
    run_rows(&[Placed { cache: 0, start: 0, tokens: 1, is_prompt: false }], 2);
}

#[test]
#[should_panic(expected = "shape of state 0")]
fn a_state_of_another_shape_panics() {
    let case = Case::new(&mut Rng::new(1), SHAPES[1], 1);
    case.run(&cpus()[0], &mut states(SHAPES[3], 1), &one_row(0, 1), 0..1);
}
