//! The screened head, kernel by kernel: its bounds hold, and what it leaves is what a sort of all logits gives.

use bitnet_cpu_kernels::{
    format::{DenseType, DenseView, dense::decode_row},
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    Gpu, Tuning,
    debug::{self, Run},
    params::{self, Dynamic, Params},
    pipelines::{Choices, Product, Shader, Variant},
};

use super::lane_choices;
use crate::common::gpu::{bytes, floats, model::dense_bytes, open_gpu, scalar};

const CHUNK: usize = 64;
const EPS: f32 = 1e-5;

fn words(bytes: &[u8]) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(bytes)
}

/// Key of a float, which sorts as the float does.
fn key(value: f32) -> u32 {
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn value(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// A head and the token it is multiplied with.
struct Case<'a> {
    head: DenseView<'a>,
    /// (cols), before the norm, whose weight is 1
    x: &'a [f32],
    /// Logits wanted.
    count: usize,
    /// Rows of a window.
    window: usize,
}

/// Results of the kernels for a token.
#[derive(Debug, PartialEq)]
struct Found {
    normed: Vec<f32>,
    uppers: Vec<u32>,
    logits: Vec<f32>,
    exact: usize,
    threshold: f32,
}

/// Runs a kernel for `tokens` with a grid of `groups`, and in y as many as `per_token` says.
fn run(
    gpu: &Gpu,
    variant: Variant,
    params: impl Into<Params>,
    buffers: &[&[u8]],
    (groups, tokens, per_token): (usize, usize, bool),
) -> Vec<Vec<u8>> {
    let dynamic = Dynamic { tokens: tokens as u32, normed: NORMED as u32, ..Dynamic::default() };
    let grid = [groups, if per_token { tokens } else { 1 }, 1];
    debug::run(gpu, &Run { variant, constants: &[], params: params.into(), dynamic, buffers, grid }).unwrap()
}

/// Rows of the head's input that belong to other steps.
const NORMED: usize = 1;

fn screened(gpu: &Gpu, choices: Choices, case: &Case<'_>) -> Found {
    screened_together(gpu, choices, case, &[case.x]).swap_remove(0)
}

/// Buffers that screen_query leaves for these tokens.
fn query(gpu: &Gpu, variant: Variant, cols: usize, xs: &[&[f32]]) -> Vec<Vec<u8>> {
    let (tokens, blocks) = (xs.len(), cols.div_ceil(256));
    let params = params::ScreenQuery {
        cols: cols as u32,
        stride: cols as u32,
        eps: EPS,
        words: 64 * blocks as u32,
        gamma: debug::gamma(cols),
        ..Default::default()
    };
    let (x, ones) = (xs.concat(), vec![1.0f32; cols]);
    let (normed, planes) = (vec![0xff; 4 * (NORMED + tokens) * cols], vec![0xff; 512 * blocks * tokens]);
    let (queries, states) = (vec![0xff; 28 * tokens], vec![0; 12 * tokens]);
    let buffers: [&[u8]; 7] = [bytes(&x), bytes(&ones), &normed, &[0; 4], &planes, &queries, &states];
    let query = run(gpu, variant, params, &buffers, (1, tokens, true));
    assert_eq!(query[3], [0; 4], "damage");
    query
}

/// The kernels one after the other, as a step runs them, for several tokens in place of that of `case`.
fn screened_together(gpu: &Gpu, choices: Choices, case: &Case<'_>, xs: &[&[f32]]) -> Vec<Found> {
    let &Case { head, count, window, .. } = case;
    let tokens = xs.len();
    let (rows, cols) = (head.rows, head.cols);
    let blocks = cols.div_ceil(256);
    let of = |shader| Variant::new(shader, choices, Some(head.ty));
    let query = query(gpu, of(Shader::ScreenQuery), cols, xs);

    let row_bytes = 192 * blocks + 16;
    let mut copy = vec![0; rows * row_bytes];
    debug::copy_rows(&scalar(), &head, 0..rows, &mut copy);
    let windows: Vec<_> = (0..rows).step_by(window).map(|row| row..rows.min(row + window)).collect();
    let chunk_count: usize = windows.iter().map(|rows| rows.len().div_ceil(CHUNK)).sum();
    let mut uppers = vec![0; 4 * rows * tokens];
    let mut chunks = vec![0; 8 * chunk_count * tokens];
    let mut state = query[6].clone();
    let mut chunk0 = 0;
    for rows in &windows {
        let groups = rows.len().div_ceil(CHUNK);
        let params = params::HeadScreen {
            rows: rows.len() as u32,
            row0: rows.start as u32,
            blocks: blocks as u32,
            copy0: 2,
            chunk0: chunk0 as u32,
            chunks: chunk_count as u32,
            vocab: head.rows as u32,
            least: debug::least(cols),
            ..Default::default()
        };
        // Two vectors of the binding lie before the window.
        let own = [&[0xee; 32], &copy[rows.start * row_bytes..rows.end * row_bytes]].concat();
        let buffers: [&[u8]; 6] = [&own, &query[4], &query[5], &uppers, &chunks, &state];
        let shader = if tokens == 1 { Shader::HeadScreen } else { Shader::HeadScreenFew };
        let found = run(gpu, of(shader), params, &buffers, (groups, tokens, false));
        (uppers, chunks, state) = (found[3].clone(), found[4].clone(), found[5].clone());
        chunk0 += groups;
    }
    let best: Vec<u32> = words(&chunks).chunks(2).map(|pair| pair[0]).collect();
    let best_of = |state: &[u8], token: usize| words(state)[3 * token + 1];
    for (token, best) in best.chunks(chunk_count).enumerate() {
        assert_eq!(best_of(&state, token), *best.iter().max().unwrap());
    }
    if count > 1 {
        let params = params::ScreenCut { chunks: chunk_count as u32, count: count as u32, ..Default::default() };
        state = run(gpu, of(Shader::ScreenCut), params, &[&chunks, &state], (1, tokens, true))[1].clone();
        for (token, best) in best.chunks(chunk_count).enumerate() {
            let mut sorted = best.to_vec();
            sorted.sort_unstable();
            assert_eq!(best_of(&state, token), sorted[sorted.len() - count], "of {sorted:?}");
        }
    }
    let table = |rows: &std::ops::Range<usize>| {
        let size = head.ty.row_bytes(cols);
        [&[0xee; 16], &head.data[rows.start * size..rows.end * size]].concat()
    };
    let params = |rows: &std::ops::Range<usize>| params::ScreenExact {
        rows: rows.len() as u32,
        row0: rows.start as u32,
        cols: cols as u32,
        row_bytes: head.ty.row_bytes(cols) as u32,
        table0: 16,
        chunks: chunk_count as u32,
        vocab: head.rows as u32,
        ..Default::default()
    };
    for rows in &windows {
        let buffers: [&[u8]; 4] = [&query[2], &table(rows), &chunks, &state];
        state = run(gpu, of(Shader::ScreenProbe), params(rows), &buffers, (chunk_count, tokens, true))[3].clone();
    }
    let mut logits = vec![0xff; 4 * rows * tokens];
    for rows in &windows {
        let buffers: [&[u8]; 6] = [&query[2], &table(rows), &uppers, &logits, &state, &[0; 4]];
        let groups = rows.len().div_ceil(CHUNK);
        let found = run(gpu, of(Shader::ScreenRescore), params(rows), &buffers, (groups, tokens, true));
        (logits, state) = (found[3].clone(), found[4].clone());
    }
    let (normed, uppers, logits, state) = (floats(&query[2]), words(&uppers), floats(&logits), words(&state));
    let found = |token: usize| Found {
        normed: normed[(NORMED + token) * cols..][..cols].to_vec(),
        uppers: uppers[token * rows..][..rows].to_vec(),
        logits: logits[token * rows..][..rows].to_vec(),
        exact: state[3 * token] as usize,
        threshold: value(state[3 * token + 2]),
    };
    (0..tokens).map(found).collect()
}

/// All logits by the kernel of the full head.
fn full(gpu: &Gpu, choices: Choices, head: DenseView<'_>, normed: &[f32]) -> Vec<f32> {
    let params = params::Head {
        rows: head.rows as u32,
        cols: head.cols as u32,
        row_bytes: head.ty.row_bytes(head.cols) as u32,
        vocab: head.rows as u32,
        ..Default::default()
    };
    let run = Run {
        variant: Variant::new(Shader::Head, choices, Some(head.ty)),
        constants: &[("TILE", 1.0)],
        params: params.into(),
        dynamic: Dynamic { tokens: 1, ..Dynamic::default() },
        buffers: &[bytes(normed), head.data, &vec![0xff; 4 * head.rows], &[0; 4]],
        grid: [head.rows.div_ceil(4), 1, 1],
    };
    floats(&debug::run(gpu, &run).unwrap()[2])
}

/// Every way to compute: int8 and f32, with and without subgroups.
fn all_choices(gpu: &Gpu) -> Vec<Choices> {
    let lanes = lane_choices(gpu);
    Product::ALL.into_iter().flat_map(|product| lanes.iter().map(move |&c| Choices { product, ..c })).collect()
}

/// Runs a case in every way. Returns the rows computed in full, which are the same in all.
#[track_caller]
fn check(gpu: &Gpu, what: &str, case: &Case<'_>) -> usize {
    let mut uppers: Option<(Vec<u32>, usize)> = None;
    for choices in all_choices(gpu) {
        let what =
            format!("{what}, {:?}, {} of {} x {}, {choices}", case.head.ty, case.count, case.head.rows, case.head.cols);
        let found = screened(gpu, choices, case);
        let expected = full(gpu, choices, case.head, &found.normed);
        // The bound holds for the kernel's own logits and for the product as it is in f64.
        let mut row = vec![0.0; case.head.cols];
        for (r, (&upper, &logit)) in found.uppers.iter().zip(&expected).enumerate() {
            decode_row(case.head.ty, case.head.row(r), &mut row);
            let product: f64 = row.iter().zip(&found.normed).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            assert!(upper >= key(logit) && upper >= key(product as f32), "{what}: row {r}, {} < {logit}", value(upper));
        }
        // No more are left out than those below the threshold, which the wanted ones reach.
        let mut sorted = expected.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        assert!(found.threshold <= sorted[case.count - 1], "{what}: threshold {}", found.threshold);
        let mut remaining = 0;
        for (r, (&logit, &all)) in found.logits.iter().zip(&expected).enumerate() {
            let remains = found.uppers[r] >= key(found.threshold);
            remaining += usize::from(remains);
            assert_eq!(logit.to_bits(), if remains { all } else { f32::MIN }.to_bits(), "{what}: row {r}");
        }
        assert_eq!(found.exact, remaining, "{what}: counted");
        // All ways give the same bounds, but for the norm, whose sums subgroups take in another order.
        match &uppers {
            Some((seen, exact)) if choices.product == Product::F32 => {
                assert!(remaining.abs_diff(*exact) <= 1 + exact / 20, "{what}: {remaining} and {exact} rows");
                assert_eq!(seen.len(), found.uppers.len());
            }
            Some(_) => {}
            None => uppers = Some((found.uppers, remaining)),
        }
    }
    uppers.unwrap().1
}

#[test]
fn what_remains_holds_the_highest_of_random_heads() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(50);
    for ty in [DenseType::F16, DenseType::BF16, DenseType::F32, DenseType::Q8_0, DenseType::Q6K] {
        for (rows, cols, count, window) in [
            (1, 256, 1, 1),
            (63, 2, 1, 63),
            (65, 34, 1, 65),
            (500, 256, 1, 500),
            (500, 510, 1, 130),
            (1000, 768, 8, 1000),
            (700, 256, 3, 333),
        ] {
            let cols = usize::next_multiple_of(cols, ty.block_len());
            let data = dense_bytes(&mut rng, ty, rows * cols);
            let head = DenseView::new(rows, cols, &data, ty).unwrap();
            let x: Vec<f32> = (0..cols).map(|i| rng.f32() * if i % 50 == 7 { 20.0 } else { 1.0 }).collect();
            let exact = check(&gpu, "random", &Case { head, x: &x, count, window });
            assert!((count..=rows).contains(&exact), "{exact} rows");
            if rows >= 500 && cols >= 500 && ty != DenseType::Q6K {
                assert!(exact < rows / 2, "{ty:?}: {exact} of {rows} rows remain");
            }
        }
    }
}

/// Tokens of several sequences read the copy together: each gets what it gets alone.
#[test]
fn tokens_together_get_what_each_gets_alone() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(53);
    let (rows, cols) = (700, 510);
    let data = f16_head(&(0..rows).map(|_| rng.floats(cols)).collect::<Vec<_>>());
    let head = DenseView::new(rows, cols, &data, DenseType::F16).unwrap();
    let mut xs: Vec<Vec<f32>> = (0..8).map(|_| rng.floats(cols)).collect();
    // One that the bounds are of no use for keeps all rows, and is of no concern to the others.
    xs[2] = vec![1e-20; cols];
    let xs: Vec<&[f32]> = xs.iter().map(Vec::as_slice).collect();
    for choices in all_choices(&gpu) {
        for count in [1, 3] {
            let case = |x| Case { head, x, count, window: 333 };
            let alone: Vec<Found> = xs.iter().map(|x| screened(&gpu, choices, &case(x))).collect();
            assert_eq!(alone[2].exact, rows);
            for tokens in 2..=8 {
                let together = screened_together(&gpu, choices, &case(xs[0]), &xs[..tokens]);
                assert!(together == alone[..tokens], "{tokens} tokens, {count} wanted, {choices}");
            }
        }
    }
}

/// f16 rows of `cols` numbers.
fn f16_head(rows: &[Vec<f32>]) -> Vec<u8> {
    rows.iter().flatten().flat_map(|&w| half::f16::from_f32(w).to_le_bytes()).collect()
}

/// Rows that differ by a single last bit, or not at all: far closer than the copy can tell apart.
#[test]
fn near_ties_and_extremes() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(51);
    let cols = 512;
    let best: Vec<f32> = (0..cols).map(|_| half::f16::from_f32(rng.f32() / 8.0).to_f32()).collect();
    let mut rows: Vec<Vec<f32>> = (0..400).map(|_| rng.floats(cols).iter().map(|w| w / 16.0).collect()).collect();
    for (at, i) in [17, 80, 81, 200, 399].into_iter().zip(0..) {
        rows[at] = best.clone();
        let bits = half::f16::from_f32(best[i]).to_bits();
        rows[at][i] = half::f16::from_bits(bits ^ (i & 1) as u16).to_f32();
    }
    // One weight far above the others: its row's copy knows nothing of them. Zeros, and numbers below f16's normal ones.
    rows[5][3] = -60_000.0 * best[3].signum();
    rows[6] = vec![0.0; cols];
    rows[7].iter_mut().for_each(|w| *w = 3e-7 * w.signum());
    let data = f16_head(&rows);
    let head = DenseView::new(rows.len(), cols, &data, DenseType::F16).unwrap();
    for count in [1, 5] {
        let exact = check(&gpu, "near ties", &Case { head, x: &best, count, window: 400 });
        assert!((5..200).contains(&exact), "{exact} rows");
    }
    // All rows alike: all remain.
    let data = f16_head(&vec![best.clone(); 130]);
    let same = DenseView::new(130, cols, &data, DenseType::F16).unwrap();
    assert_eq!(check(&gpu, "all alike", &Case { head: same, x: &best, count: 1, window: 130 }), 130);
    // Tokens that the norm leaves too small for 16 bits, or with one value alone.
    let tiny = vec![1e-20; cols];
    assert_eq!(check(&gpu, "tiny", &Case { head, x: &tiny, count: 1, window: 400 }), 400);
    let mut one = vec![0.0; cols];
    one[3] = best[3].signum();
    check(&gpu, "one value", &Case { head, x: &one, count: 1, window: 400 });
    one[3] *= -1.0;
    assert_eq!(check(&gpu, "a clear winner", &Case { head, x: &one, count: 1, window: 100 }), 1);
}

/// A weight that is not finite keeps its row, so that it is met as the full head meets it.
#[test]
fn damaged_rows_remain() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(52);
    let (rows, cols) = (200, 256);
    let mut data = f16_head(&(0..rows).map(|_| rng.floats(cols)).collect::<Vec<_>>());
    for (row, wrong) in [(20, half::f16::NAN), (30, half::f16::INFINITY)] {
        data[2 * (row * cols + 9)..][..2].copy_from_slice(&wrong.to_le_bytes());
    }
    let head = DenseView::new(rows, cols, &data, DenseType::F16).unwrap();
    let x = rng.floats(cols);
    for choices in all_choices(&gpu) {
        let found = screened(&gpu, choices, &Case { head, x: &x, count: 1, window: rows });
        for row in [20, 30] {
            assert_eq!(found.uppers[row], u32::MAX, "{choices}");
            assert!(!found.logits[row].is_finite(), "{choices}");
        }
    }
}
