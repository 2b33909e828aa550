use std::slice;

use half::f16;

use super::*;
use crate::testing::{Rng, assert_close, cpus};

const TYPES: [(KvType, KvType); 5] = [
    (KvType::F16, KvType::F16),
    (KvType::F32, KvType::F32),
    (KvType::F16, KvType::F32),
    (KvType::Q8_0, KvType::Q8_0),
    (KvType::F16, KvType::Q8_0),
];

/// Writes at positions from `start` on.
fn fill(cpu: &Cpu, cache: &mut KvCache, start: usize, k: &[f32], v: &[f32]) {
    let tokens = k.len() / (cache.kv_heads * cache.head_dim);
    append(cpu, slice::from_mut(cache), &[Placed { cache: 0, start, tokens, is_prompt: false }], k, v);
}

/// Attention of the tokens of one sequence from position `start` on.
fn attend_one(cpu: &Cpu, q: &[f32], heads: usize, cache: &KvCache, start: usize, scale: f32) -> Vec<f32> {
    let mut out = vec![f32::NAN; q.len()];
    let tokens = q.len() / (heads * cache.head_dim);
    attend(
        cpu,
        q,
        heads,
        slice::from_ref(cache),
        &[Placed { cache: 0, start, tokens, is_prompt: false }],
        scale,
        &mut out,
    );
    out
}

/// The values of some heads as a cache of this type holds them.
fn rounded(ty: KvType, head_dim: usize, values: &[f32]) -> Vec<f64> {
    match ty {
        KvType::F16 => values.iter().map(|&x| f16::from_f32(x).to_f64()).collect(),
        KvType::F32 => values.iter().map(|&x| f64::from(x)).collect(),
        // Tests below say what it holds.
        KvType::Q8_0 => stored(1, head_dim, values).into_iter().map(f64::from).collect(),
    }
}

/// The values read from a cache of 8-bit values into which these (T, kv_heads, head_dim) were written.
fn stored(kv_heads: usize, head_dim: usize, values: &[f32]) -> Vec<f32> {
    let positions = values.len() / (kv_heads * head_dim);
    let mut cache = KvCache::new(kv_heads, head_dim, positions, KvType::Q8_0, KvType::F32);
    fill(&Cpu::new(Isa::Scalar, 1), &mut cache, 0, values, values);
    assert_eq!(cache.read(0..positions)[1], KvRows::Floats(values.to_vec()));
    let heads = (0..positions).flat_map(|position| (0..kv_heads).map(move |head| head * positions + position));
    heads
        .flat_map(|at| (0..head_dim).map(move |i| (at, i)))
        .map(|(at, i)| cache.k.element(at, cache.stride, i))
        .collect()
}

struct Case {
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    start_pos: usize,
}

/// Two passes in f64, straight from the formula.
fn expected(case: &Case, types: (KvType, KvType), q: &[f32], k: &[f32], v: &[f32], scale: f32) -> Vec<f32> {
    let &Case { tokens, heads, kv_heads, head_dim, start_pos } = case;
    let (k, v) = (rounded(types.0, head_dim, k), rounded(types.1, head_dim, v));
    let mut out = Vec::new();
    for (t, head) in (0..tokens).flat_map(|t| (0..heads).map(move |head| (t, head))) {
        let at = |position: usize| (position * kv_heads + head / (heads / kv_heads)) * head_dim;
        let q = &q[(t * heads + head) * head_dim..][..head_dim];
        let score = |p: usize| -> f64 {
            let k = &k[at(p)..][..head_dim];
            f64::from(scale) * q.iter().zip(k).map(|(&q, &k)| f64::from(q) * k).sum::<f64>()
        };
        let scores: Vec<f64> = (0..=start_pos + t).map(score).collect();
        let max = scores.iter().fold(f64::NEG_INFINITY, |max, &score| max.max(score));
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        out.extend((0..head_dim).map(|i| {
            let mixed: f64 = weights.iter().enumerate().map(|(p, w)| w * v[at(p) + i]).sum();
            (mixed / sum) as f32
        }));
    }
    out
}

/// Appends everything before the tokens in uneven steps, then the tokens, then attends.
fn attend_all(
    cpu: &Cpu,
    case: &Case,
    types: (KvType, KvType),
    q: &[f32],
    k: &[f32],
    v: &[f32],
    scale: f32,
) -> Vec<f32> {
    let &Case { tokens, heads, kv_heads, head_dim, start_pos } = case;
    let width = kv_heads * head_dim;
    // One position more than is used, which holds infinities: nothing may read it into a result.
    let mut cache = KvCache::new(kv_heads, head_dim, start_pos + tokens + 1, types.0, types.1);
    fill(cpu, &mut cache, start_pos + tokens, &vec![f32::INFINITY; width], &vec![f32::INFINITY; width]);
    let middle = start_pos / 3;
    for (from, to) in [(0, middle), (middle, start_pos), (start_pos, start_pos + tokens)] {
        fill(cpu, &mut cache, from, &k[from * width..to * width], &v[from * width..to * width]);
    }
    attend_one(cpu, q, heads, &cache, start_pos, scale)
}

fn check(cpus: &[Cpu], rng: &mut Rng, case: Case, types: (KvType, KvType), sharpness: f32) {
    let &Case { tokens, heads, kv_heads, head_dim, start_pos } = &case;
    let positions = start_pos + tokens;
    let q = rng.floats(tokens * heads * head_dim);
    let (k, v) = (rng.floats(positions * kv_heads * head_dim), rng.floats(positions * kv_heads * head_dim));
    let scale = sharpness / (head_dim as f32).sqrt();
    let expected = expected(&case, types, &q, &k, &v, scale);
    // Relative errors of the weights: those of the scores (below sharpness * sqrt(head_dim)) and of e^x; the values
    // are below 1.
    let tolerance = 8.0 * f32::EPSILON * (4.0 + sharpness * (head_dim as f32).sqrt());
    for cpu in cpus {
        let actual = attend_all(cpu, &case, types, &q, &k, &v, scale);
        let what = format!(
            "{cpu:?}, {types:?}, {tokens} tokens at {start_pos}, {heads}/{kv_heads} heads of {head_dim}, x{sharpness}"
        );
        assert_close(&what, &actual, &expected, tolerance);
    }
}

#[test]
fn hand_computed() {
    // Head of 2, keys (0, 0), (ln 3, 0), (0, 5), values (4, 0), (0, 8), (1, 1). The query (1, 0) scores 0, ln 3, 0.
    let k = [0.0, 0.0, 3.0_f32.ln(), 0.0, 0.0, 5.0];
    let v = [4.0, 0.0, 0.0, 8.0, 1.0, 1.0];
    for cpu in cpus() {
        let mut cache = KvCache::new(1, 2, 3, KvType::F32, KvType::F32);
        fill(&cpu, &mut cache, 0, &k, &v);
        // Two heads at positions 1 and 2: weights 1/4, 3/4, then 1/5, 3/5, 1/5. The second head has a query of 0.
        let q = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
        let out = attend_one(&cpu, &q, 2, &cache, 1, 1.0);
        let expected = [1.0, 6.0, 2.0, 4.0, 1.0, 5.0, 5.0 / 3.0, 3.0];
        assert_close(&format!("{cpu:?}"), &out, &expected, 1e-5);
    }
}

#[test]
fn all_variants_are_right_for_all_head_widths_and_groups() {
    let mut rng = Rng::new(13);
    let cpus = cpus();
    for head_dim in [2, 6, 10, 14, 16, 18, 30, 64, 80, 96, 100, 128, 256, 320] {
        for (heads, kv_heads) in [(1, 1), (3, 3), (4, 1), (6, 2), (10, 2), (9, 1)] {
            for (tokens, start_pos) in [(1, 0), (1, 1), (1, 70), (2, 0), (5, 3), (33, 31)] {
                let case = Case { tokens, heads, kv_heads, head_dim, start_pos };
                check(&cpus, &mut rng, case, TYPES[(head_dim + tokens) % TYPES.len()], 1.0);
            }
        }
    }
}

#[test]
fn all_variants_are_right_for_all_lengths() {
    let mut rng = Rng::new(14);
    let cpus = cpus();
    for types in TYPES {
        for start_pos in
            [0, 6, 7, 8, 9, 15, 16, 30, 31, 32, 33, 63, 64, 65, 127, 128, 255, 300, 1000, 1023, 1024, 1540, 4500]
        {
            for tokens in [1, 2, 17] {
                check(&cpus, &mut rng, Case { tokens, heads: 4, kv_heads: 1, head_dim: 16, start_pos }, types, 1.0);
            }
        }
        check(&cpus, &mut rng, Case { tokens: 150, heads: 8, kv_heads: 2, head_dim: 128, start_pos: 20 }, types, 1.0);
    }
}

#[test]
fn sharp_and_flat_scores() {
    // Scores far apart: most weights underflow, and the maximum moves from block to block.
    let mut rng = Rng::new(15);
    let cpus = cpus();
    for sharpness in [0.0, 30.0, 300.0] {
        for tokens in [1, 20] {
            let case = Case { tokens, heads: 4, kv_heads: 2, head_dim: 64, start_pos: 200 };
            check(&cpus, &mut rng, case, (KvType::F32, KvType::F32), sharpness);
        }
    }
}

#[test]
fn rising_scores_move_the_maximum_at_every_key() {
    for cpu in cpus() {
        for tokens in [1, 20] {
            let positions = 100 + tokens;
            let k: Vec<f32> = (0..positions).flat_map(|p| [p as f32, 0.0]).collect();
            let v: Vec<f32> = (0..positions).flat_map(|p| [p as f32, 1.0]).collect();
            let mut cache = KvCache::new(1, 2, positions, KvType::F32, KvType::F32);
            fill(&cpu, &mut cache, 0, &k, &v);
            let out = attend_one(&cpu, &[1.0, 0.0].repeat(tokens), 1, &cache, 100, 50.0);
            // The newest key outweighs the next by e^50.
            let expected: Vec<f32> = (0..tokens).flat_map(|t| [(100 + t) as f32, 1.0]).collect();
            assert_close(&format!("{cpu:?}"), &out, &expected, 1e-4);
        }
    }
}

#[test]
fn f16_rounds_to_nearest_even_on_writing() {
    // One position: the output is the stored value. 2048 + 1 lies halfway between 2048 and 2050, 2050 + 1 between
    // 2050 and 2052; 65519.9 is below the halfway point to infinity.
    let v = [2049.0, 2051.0, 2049.001, -2049.0, 65519.9, 5.960_464_5e-8, 2.9e-8, 1.0];
    for cpu in cpus() {
        let mut cache = KvCache::new(1, 8, 1, KvType::F16, KvType::F16);
        fill(&cpu, &mut cache, 0, &[0.0; 8], &v);
        let out = attend_one(&cpu, &[0.0; 8], 1, &cache, 0, 1.0);
        assert_eq!(out, [2048.0, 2052.0, 2050.0, -2048.0, 65504.0, 5.960_464_5e-8, 0.0, 1.0], "{cpu:?}");
    }
}

#[test]
fn q8_0_by_hand() {
    // A block of 32 and the rest of the head, 2: d = 127 / 127 and d = 63.5 / 127; halves go to the even neighbour.
    let mut head = [0.0; 34];
    head[..6].copy_from_slice(&[127.0, -126.5, 0.5, 1.5, -2.5, 63.4]);
    head[32..].copy_from_slice(&[-63.5, 0.8]);
    let mut expected = [0.0; 34];
    expected[..6].copy_from_slice(&[127.0, -126.0, 0.0, 2.0, -2.0, 63.0]);
    expected[32..].copy_from_slice(&[-63.5, 1.0]);
    assert_eq!(stored(1, 34, &head), expected);
}

#[test]
fn q8_0_keeps_values_within_half_a_step() {
    let mut rng = Rng::new(16);
    for head_dim in [1, 16, 31, 32, 33, 64, 80, 128] {
        for magnitude in [0.0, 1e-9, 3e-8, 1e-6, 1e-4, 1.0, 1e3, 8e6] {
            let values: Vec<f32> = rng.floats(2 * 3 * head_dim).into_iter().map(|x| x * magnitude).collect();
            let found = stored(2, head_dim, &values);
            for (values, found) in values.chunks(head_dim).zip(found.chunks(head_dim)) {
                for (values, found) in values.chunks(Q8_BLOCK).zip(found.chunks(Q8_BLOCK)) {
                    let largest = values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                    // d is rounded to 11 bits, or up by less than the smallest f16.
                    let step = largest / 127.0 * (1.0 + 2.0_f32.powi(-11)) + 2.0_f32.powi(-24);
                    assert_close(&format!("heads of {head_dim} up to {largest}"), found, values, 0.501 * step);
                }
            }
            // The smallest numbers of f16 are too coarse for a d that is the same again.
            if magnitude >= 1.0 {
                assert!(stored(2, head_dim, &found) == found, "read and written again: heads of {head_dim}");
            }
        }
    }
}

/// With errors of at most s/2 in the keys, scores are off by at most e = scale * sum|q| * s/2, weights by a factor
/// within e^(2e), and so the mix by (e^(2e) - 1) * max|v| besides half a step of the values.
#[test]
fn q8_0_attention_is_as_close_to_floats_as_its_steps_allow() {
    let mut rng = Rng::new(17);
    for (tokens, start_pos) in [(1, 0), (1, 300), (2, 2000), (70, 10)] {
        let case = Case { tokens, heads: 4, kv_heads: 2, head_dim: 64, start_pos };
        let positions = start_pos + tokens;
        let q = rng.floats(tokens * 4 * 64);
        let (k, v) = (rng.floats(positions * 2 * 64), rng.floats(positions * 2 * 64));
        let scale = 0.125;
        let largest = |x: &[f32]| x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let half_step = |x: &[f32]| 0.501 * largest(x) / 127.0;
        let sum_q = q.chunks(64).map(|q| q.iter().map(|x| x.abs()).sum()).fold(0.0, f32::max);
        let score = scale * sum_q * half_step(&k);
        let bound = half_step(&v) + ((2.0 * score).exp() - 1.0) * largest(&v);
        let exact = expected(&case, (KvType::F32, KvType::F32), &q, &k, &v, scale);
        for cpu in cpus() {
            let found = attend_all(&cpu, &case, (KvType::Q8_0, KvType::Q8_0), &q, &k, &v, scale);
            assert_close(&format!("{cpu:?}, {tokens} tokens at {start_pos}"), &found, &exact, bound);
        }
    }
}

#[test]
fn nan_and_infinity_show() {
    let (kv_heads, head_dim, positions) = (1, 6, 40);
    for cpu in cpus() {
        for types in TYPES {
            // In a query, a key (of either sign of score), a value; also by overflow of f16.
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for (which, tokens) in [(0, 1), (1, 1), (2, 1), (0, 20), (1, 20), (2, 20)] {
                    for position in [0, 17, positions - tokens] {
                        let mut k = vec![0.5; positions * head_dim];
                        let mut v = vec![0.5; positions * head_dim];
                        let mut q = vec![0.5; tokens * head_dim];
                        let at = position * head_dim + 1;
                        match which {
                            0 => q[1] = bad,
                            1 => k[at] = bad,
                            _ => v[at] = bad,
                        }
                        let mut cache = KvCache::new(kv_heads, head_dim, positions, types.0, types.1);
                        fill(&cpu, &mut cache, 0, &k, &v);
                        let out = attend_one(&cpu, &q, 1, &cache, positions - tokens, 1.0);
                        assert!(
                            !crate::norm::all_finite(&out[..head_dim]),
                            "{cpu:?}, {types:?}: {bad} in {} at {position}, {tokens} tokens",
                            ["q", "k", "v"][which]
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn nan_and_infinity_show_through_a_merge() {
    // Enough keys for one tile to be split over the threads.
    let (head_dim, positions) = (2, 3 * SPLIT_KEYS);
    for cpu in cpus() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for position in [0, SPLIT_KEYS + 7, positions - 1] {
                let (mut k, v) = (vec![0.5; positions * head_dim], vec![0.5; positions * head_dim]);
                k[position * head_dim] = bad;
                let mut cache = KvCache::new(1, head_dim, positions, KvType::F32, KvType::F32);
                fill(&cpu, &mut cache, 0, &k, &v);
                let out = attend_one(&cpu, &[0.5; 2], 1, &cache, positions - 1, 1.0);
                assert!(!crate::norm::all_finite(&out), "{cpu:?}: {bad} at {position}");
            }
        }
    }
}

#[test]
fn keys_are_split_only_for_idle_threads() {
    assert_eq!(splits(1, 1, 100_000), 1);
    assert_eq!(splits(2, 5, 4096), 2);
    assert_eq!(splits(8, 5, 4096), 7);
    assert_eq!(splits(8, 5, 1024), 2);
    assert_eq!(splits(8, 5, 1023), 1);
    assert_eq!(splits(2, 40, 4096), 1);
    assert_eq!(splits(4, 0, 4096), 8);
}

#[test]
fn an_append_overwrites_and_the_size_is_as_told() {
    let cpu = &cpus()[0];
    let mut cache = KvCache::new(2, 4, 8, KvType::F16, KvType::F32);
    assert_eq!((cache.kv_heads(), cache.head_dim(), cache.capacity()), (2, 4, 8));
    assert_eq!(KvCache::bytes(2, 4, 8, KvType::F16, KvType::F32), 2 * 16 * 8 * 6);
    // 64 values in two blocks, 80 in three.
    assert_eq!(KvCache::bytes(2, 64, 8, KvType::Q8_0, KvType::F16), 2 * 8 * (64 + 4 + 128));
    assert_eq!(KvCache::bytes(1, 80, 1, KvType::Q8_0, KvType::Q8_0), 2 * (80 + 6));
    fill(cpu, &mut cache, 0, &[1.0; 24], &[1.0; 24]);
    fill(cpu, &mut cache, 1, &[1.0; 8], &[5.0; 8]);
    let out = attend_one(cpu, &[0.0; 8], 2, &cache, 1, 1.0);
    assert_eq!(out, [3.0; 8]);
}

#[test]
fn memory_that_is_not_there_is_no_cache() {
    for ty in [KvType::F16, KvType::F32, KvType::Q8_0] {
        // More than an address space, and more than a number can count.
        assert!(KvCache::try_new(1, 128, 1 << 45, ty, ty).is_none(), "{ty:?}");
        assert!(KvCache::try_new(usize::MAX, 128, usize::MAX, ty, ty).is_none(), "{ty:?}");
    }
}

#[test]
#[should_panic(expected = "2 positions from 3 on, of 4")]
fn an_append_past_the_capacity_panics() {
    fill(&cpus()[0], &mut KvCache::new(1, 2, 4, KvType::F32, KvType::F32), 3, &[0.0; 4], &[0.0; 4]);
}

#[test]
#[should_panic(expected = "3 heads over 2 key/value heads")]
fn partial_groups_panic() {
    let cache = KvCache::new(2, 2, 4, KvType::F32, KvType::F32);
    attend_one(&cpus()[0], &[0.0; 6], 3, &cache, 0, 1.0);
}

mod batches;
mod rows;
