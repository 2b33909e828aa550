//! The choice of the highest logits against a plain sort.

use bitnet_cpu_kernels::testing::Rng;
use bitnet_gpu::backend::gpu::{
    Gpu, Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Choices, Shader, Variant},
};

use super::lane_choices;
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

/// The pairs and the sum that come out of blocks of `per_block`.
fn top(gpu: &Gpu, choices: Choices, logits: &[f32], per_block: usize) -> (Vec<(u32, f32)>, f32) {
    let blocks = logits.len().div_ceil(per_block);
    let params = params::TopLogits { vocab: logits.len() as u32, per_block: per_block as u32, ..Default::default() };
    let run = Run {
        variant: Variant::new(Shader::TopLogits, choices, None),
        constants: &[],
        params: params.into(),
        dynamic: Dynamic::default(),
        buffers: &[bytes(logits), &vec![0xff; blocks * LIST * 8], &vec![0xff; blocks * 4]],
        grid: [blocks, 1, 1],
    };
    let lists = debug::run(gpu, &run).unwrap();
    let run = Run {
        variant: Variant::new(Shader::MergeTop, choices, None),
        constants: &[],
        params: params::MergeTop { blocks: blocks as u32, ..Default::default() }.into(),
        dynamic: Dynamic::default(),
        buffers: &[&lists[1], &lists[2], &vec![0xff; 8 + LIST * 8]],
        grid: [1, 1, 1],
    };
    let result = words(&debug::run(gpu, &run).unwrap()[2]);
    let pairs = result[2..].chunks_exact(2).take(logits.len().min(LIST));
    (pairs.map(|pair| (pair[0], f32::from_bits(pair[1]))).collect(), f32::from_bits(result[0]))
}

fn argmax(gpu: &Gpu, choices: Choices, logits: &[f32]) -> (u32, f32, u32) {
    let run = Run {
        variant: Variant::new(Shader::Argmax, choices, None),
        constants: &[],
        params: params::Argmax { vocab: logits.len() as u32, ..Default::default() }.into(),
        dynamic: Dynamic::default(),
        buffers: &[bytes(logits), &[0xff; 16], &[0xff; 8]],
        grid: [1, 1, 1],
    };
    let contents = debug::run(gpu, &run).unwrap();
    let (result, ids) = (words(&contents[1]), words(&contents[2]));
    assert_eq!(ids[1], u32::MAX, "one id is written");
    (result[2], f32::from_bits(result[3]), ids[0])
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
                let (found, sum) = top(&gpu, choices, &logits, per_block);
                assert_eq!(found, expected[..vocab.min(LIST)], "{what}");
                let exact: f64 = logits.iter().map(|&l| f64::from(l - expected[0].1).exp()).sum();
                assert!((f64::from(sum) / exact - 1.0).abs() < 3e-5, "{what}: sum {sum}, exactly {exact}");
                let (id, logit) = expected[0];
                assert_eq!(argmax(&gpu, choices, &logits), (id, logit, id), "{what}");
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
        let (found, _) = top(&gpu, choices, &logits, 256);
        // Compared as numbers: which zero comes out does not matter.
        assert_eq!(found, sorted(&logits), "{choices:?}");
        assert_eq!(argmax(&gpu, choices, &logits), (3, f32::MAX, 3));
        assert_eq!(argmax(&gpu, choices, &[-1.0, -0.0, 0.0]).0, 1, "the first zero");
        assert_eq!(argmax(&gpu, choices, &[f32::MIN; 300]), (0, f32::MIN, 0));
    }
}
