//! The choice of the highest logits against a plain sort.

use bitnet_cpu_kernels::testing::Rng;
use bitnet_gpu::backend::gpu::{
    Gpu, Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Choices, Shader, Variant},
};

use super::{batch, lane_choices};
use crate::common::gpu::{bytes, open_gpu};

const LIST: usize = 256;

/// All ids, highest logit first, lowest id first among equals; zero and minus zero are equal.
fn sorted(logits: &[f32]) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    all
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(bytes)
}

/// Pairs of a row of results.
const PAIRS: usize = 1 + LIST;

/// The pairs and the sum that come out of blocks of `per_block`, of each of two rows: the logits, and they in reverse.
fn top(gpu: &Gpu, choices: Choices, logits: &[f32], per_block: usize) -> [(Vec<(u32, f32)>, f32); 2] {
    let blocks = logits.len().div_ceil(per_block);
    let params = params::TopLogits {
        vocab: logits.len() as u32,
        per_block: per_block as u32,
        blocks: blocks as u32,
        ..Default::default()
    };
    let rows = both(logits);
    let run = Run {
        variant: Variant::new(Shader::TopLogits, choices, None),
        constants: &[],
        params: params.into(),
        dynamic: Dynamic::default(),
        buffers: &[bytes(&rows), &vec![0xff; 2 * blocks * LIST * 8], &vec![0xff; 2 * blocks * 4]],
        grid: [blocks, 2, 1],
    };
    let lists = debug::run(gpu, &run).unwrap();
    let run = Run {
        variant: Variant::new(Shader::MergeTop, choices, None),
        constants: &[],
        params: params::MergeTop { blocks: blocks as u32, ..Default::default() }.into(),
        dynamic: Dynamic::default(),
        buffers: &[&lists[1], &lists[2], &vec![0xff; 2 * PAIRS * 8]],
        grid: [1, 2, 1],
    };
    let result = words(&debug::run(gpu, &run).unwrap()[2]);
    [&result[..2 * PAIRS], &result[2 * PAIRS..]].map(|result| {
        let pairs = result[2..].chunks_exact(2).take(logits.len().min(LIST));
        (pairs.map(|pair| (pair[0], f32::from_bits(pair[1]))).collect(), f32::from_bits(result[0]))
    })
}

/// Logits, and they in reverse.
fn both(logits: &[f32]) -> Vec<f32> {
    logits.iter().chain(logits.iter().rev()).copied().collect()
}

/// The id and the logit of a row alone, with the token that it makes the next one, and of two rows, which make none.
fn argmax(gpu: &Gpu, choices: Choices, logits: &[f32]) -> (u32, f32) {
    let all = both(logits);
    let run = |rows: usize| {
        // Of one row, it is the second token of its step.
        let first = u32::from(rows == 1);
        let run = Run {
            variant: Variant::new(Shader::Argmax, choices, None),
            constants: &[],
            params: params::Argmax { vocab: logits.len() as u32, ..Default::default() }.into(),
            dynamic: Dynamic { tokens: rows as u32, first, ..Dynamic::default() },
            buffers: &[bytes(&all), &vec![0xff; 8 * rows * PAIRS], &batch(&[7, 8, 9], 20, 300)],
            grid: [1, rows, 1],
        };
        let contents = debug::run(gpu, &run).unwrap();
        (words(&contents[1]), words(&contents[2]))
    };
    let (result, tokens) = run(1);
    assert_eq!(tokens[4..12], [result[2], 22, 0, 300, 8, 21, 0, 300], "the token that follows, in the first place");
    let (two, unchanged) = run(2);
    assert_eq!(unchanged, words(&batch(&[7, 8, 9], 20, 300)), "several rows leave the step as it is");
    assert_eq!(two[..4], result[..4]);
    // Of equals, the last one is the first from behind.
    let last = logits.len() - 1 - two[2 * PAIRS + 2] as usize;
    assert_eq!(logits[last].to_bits() << 1, result[3] << 1, "the second row");
    (result[2], f32::from_bits(result[3]))
}

#[test]
fn the_highest_logits_are_those_of_a_sort() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(30);
    for choices in lane_choices(&gpu) {
        for (vocab, per_block) in [
            (1, 256),
            (2, 256),
            (255, 256),
            (256, 256),
            (257, 256),
            (1000, 256),
            (1025, 1024),
            (5000, 512),
            (9000, 9216),
        ] {
            // Few levels, so that most are equal to others; and none equal.
            for levels in [1, 3, 1 << 20] {
                let logits: Vec<f32> =
                    (0..vocab).map(|_| (rng.below(levels) as f32 / levels as f32 - 0.5) * 30.0).collect();
                let expected = sorted(&logits);
                let what = format!("{vocab} logits of {levels} levels in blocks of {per_block}, {choices:?}");
                let exact: f64 = logits.iter().map(|&l| f64::from(l - expected[0].1).exp()).sum();
                let reversed = sorted(&both(&logits)[vocab..]);
                for ((found, sum), expected) in
                    top(&gpu, choices, &logits, per_block).iter().zip([&expected, &reversed])
                {
                    assert_eq!(*found, expected[..vocab.min(LIST)], "{what}");
                    assert!((f64::from(*sum) / exact - 1.0).abs() < 3e-5, "{what}: sum {sum}, exactly {exact}");
                }
                assert_eq!(argmax(&gpu, choices, &logits), expected[0], "{what}");
            }
        }
    }
}

#[test]
fn extreme_logits_and_zeros_of_both_signs_are_in_order() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let tiny = f32::from_bits(1);
    let logits =
        [f32::MIN, -0.0, 0.0, f32::MAX, -tiny, tiny, -1.0, 0.0, -0.0, f32::MIN_POSITIVE, f32::MAX, f32::MIN, 1.0];
    for choices in lane_choices(&gpu) {
        let [(found, _), _] = top(&gpu, choices, &logits, 256);
        // Compared as numbers: which zero comes out does not matter.
        assert_eq!(found, sorted(&logits), "{choices:?}");
        assert_eq!(argmax(&gpu, choices, &logits), (3, f32::MAX));
        assert_eq!(argmax(&gpu, choices, &[-1.0, -0.0, 0.0]).0, 1, "the first zero");
        assert_eq!(argmax(&gpu, choices, &[f32::MIN; 300]), (0, f32::MIN));
    }
}
