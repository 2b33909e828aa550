use super::*;
use crate::Isa;
use crate::testing::{Rng, TOKEN_COUNTS, cpus, edge_lengths};

fn quantize(cpu: &Cpu, x: &[f32], cols: usize, weight: Option<&[f32]>) -> QuantizedActs {
    let mut out = QuantizedActs::new(x.len() / cols, cols);
    norm_quantize(cpu, x, cols, weight, 1e-5, &mut out);
    out
}

#[test]
fn halves_round_to_even_and_the_largest_becomes_127() {
    for cpu in cpus() {
        // a = 127, so q = round(x).
        let x = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5, -127.0, 0.49999997, 3.0];
        let acts = quantize(&cpu, &x, x.len(), None);
        assert_eq!(acts.values(0)[..x.len()], [127, 0, 2, 2, 0, -2, -2, 126, -126, -127, 0, 3], "{cpu:?}");
        assert_eq!(acts.step(0), 1.0);
        assert_eq!(acts.sum(0), 3);
    }
}

#[test]
fn tiny_tokens_are_scaled_by_the_smallest_absmax() {
    for cpu in cpus() {
        let acts = quantize(&cpu, &[0.0; 40], 40, None);
        assert_eq!((acts.step(0), acts.sum(0)), (1e-5 / 127.0, 0));
        assert!(acts.values(0).iter().all(|&q| q == 0));
        // Half of 1e-5 becomes 63.5 or, as f32, something beside it.
        let acts = quantize(&cpu, &[5e-6, -5e-6], 2, None);
        assert_eq!(acts.step(0), 1e-5 / 127.0);
        assert!(matches!(acts.values(0)[0], 63 | 64), "{}", acts.values(0)[0]);
    }
}

#[test]
fn the_norm_comes_first() {
    for cpu in cpus() {
        // mean(x^2) = 25: x / 5 * w = [6, -8, 0, 0] / 5 * [1, 1, ..]; absmax 1.6.
        let acts = quantize(&cpu, &[6.0, -8.0, 0.0, 0.0], 4, Some(&[1.0, 1.0, 5.0, 5.0]));
        assert_eq!(acts.values(0)[..4], [95, -127, 0, 0]);
        assert!((acts.step(0) - 1.6 / 127.0).abs() < 1e-7, "{}", acts.step(0));
        let acts = quantize(&cpu, &[6.0, -8.0, 0.0, 0.0], 4, Some(&[2.0, 0.5, 5.0, 5.0]));
        assert_eq!(acts.values(0)[..4], [127, -42, 0, 0]);
    }
}

#[test]
fn all_variants_agree_with_the_reference() {
    let mut rng = Rng::new(3);
    let cpus = cpus();
    for cols in edge_lengths(32).into_iter().chain([100, 640, 6912]).filter(|&cols| cols > 0) {
        for tokens in TOKEN_COUNTS.into_iter().filter(|t| t * cols < 100_000) {
            let x = rng.floats(tokens * cols);
            let weight = rng.floats(cols);
            for group in [None, Some(64), Some(128), Some(256)] {
                let group_cols = group.unwrap_or(cols);
                if !cols.is_multiple_of(group_cols) {
                    continue;
                }
                for weight in [None, Some(&weight[..])] {
                    let expected = reference(&x, cols, group, weight);
                    for cpu in &cpus {
                        let what = format!("{cpu:?}, {tokens} tokens of {cols} columns, {group:?}, {weight:?}");
                        let mut acts = QuantizedActs::with_group(tokens, cols, group);
                        norm_quantize(cpu, &x, cols, weight, 1e-5, &mut acts);
                        assert_eq!((acts.tokens(), acts.cols(), acts.stride()), (tokens, cols, padded_cols(cols)));
                        for t in 0..tokens {
                            let (values, padding) = acts.values(t).split_at(cols);
                            assert!(padding.iter().all(|&q| q == 0), "{what}: padding");
                            let sums: Vec<i32> = values
                                .chunks(group_cols)
                                .map(|group| group.iter().map(|&q| i32::from(q)).sum())
                                .collect();
                            assert_eq!(acts.sums(t), sums, "{what}: sums");
                            // The sums of squares are f64 in every variant: their order moves no f32 result.
                            assert_eq!(values, &expected.values(t)[..cols], "{what}: token {t}");
                            assert_eq!(acts.steps(t), expected.steps(t), "{what}: token {t}");
                        }
                    }
                }
            }
        }
    }
}

fn reference(x: &[f32], cols: usize, group: Option<usize>, weight: Option<&[f32]>) -> QuantizedActs {
    let mut out = QuantizedActs::with_group(x.len() / cols, cols, group);
    norm_quantize(&Cpu::new(Isa::Scalar, 1), x, cols, weight, 1e-5, &mut out);
    out
}

#[test]
fn each_group_has_its_own_step() {
    // Four groups of 64: absmax 127, 254, 0 and 63.5, in that order. The norm would be over all of them.
    let mut x = vec![0.0; 256];
    (x[0], x[1]) = (127.0, 3.0);
    (x[64], x[127]) = (-254.0, 4.0);
    (x[192], x[255]) = (63.5, -63.5);
    for cpu in cpus() {
        let mut acts = QuantizedActs::with_group(1, 256, Some(64));
        norm_quantize(&cpu, &x, 256, None, 1e-5, &mut acts);
        assert_eq!(acts.steps(0), [1.0, 2.0, 1e-5 / 127.0, 0.5], "{cpu:?}");
        assert_eq!(acts.sums(0), [130, -125, 0, 0]);
        assert_eq!((acts.values(0)[1], acts.values(0)[127], acts.values(0)[255]), (3, 2, -127));
        // With a norm: mean(x^2) over all 256 is the same for every group.
        let mean = (127.0f64.powi(2) + 9.0 + 254.0f64.powi(2) + 16.0 + 2.0 * 63.5f64.powi(2)) / 256.0;
        norm_quantize(&cpu, &x, 256, Some(&[1.0; 256]), 1e-5, &mut acts);
        let expected = [1.0, 2.0, 0.0, 0.5].map(|step| (step / mean.sqrt()) as f32);
        for g in [0, 1, 3] {
            assert!((acts.steps(0)[g] - expected[g]).abs() < 1e-6, "{cpu:?}: {:?}, {expected:?}", acts.steps(0));
        }
    }
}

#[test]
fn nan_poisons_its_group_only() {
    for cpu in cpus() {
        for at in [0, 64, 100, 127] {
            let mut x = vec![1.0; 192];
            x[at] = f32::NAN;
            let mut acts = QuantizedActs::with_group(1, 192, Some(64));
            norm_quantize(&cpu, &x, 192, None, 1e-5, &mut acts);
            let nan: Vec<bool> = acts.steps(0).iter().map(|step| step.is_nan()).collect();
            assert_eq!(nan, [at < 64, (64..128).contains(&at), false], "{cpu:?}, NaN at {at}");
        }
    }
}

#[test]
#[should_panic(expected = "100 columns are not whole groups of 64")]
fn partial_groups_panic() {
    QuantizedActs::with_group(1, 128, Some(64)).set_raw(100, &[0; 100], &[1.0; 2]);
}

#[test]
#[should_panic(expected = "one step of a token that has 2")]
fn a_grouped_token_has_no_single_step() {
    QuantizedActs::with_group(1, 128, Some(64)).step(0);
}

#[test]
fn nan_and_infinity_poison_their_token_only() {
    for cpu in cpus() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for cols in [1, 7, 8, 9, 33, 128] {
                for at in [0, cols / 2, cols - 1] {
                    let mut x = vec![1.0; 3 * cols];
                    x[cols + at] = bad;
                    let ones = vec![1.0; cols];
                    for weight in [None, Some(&ones[..])] {
                        let acts = quantize(&cpu, &x, cols, weight);
                        let nan = [0, 1, 2].map(|t| acts.step(t).is_nan());
                        assert_eq!(nan, [false, true, false], "{cpu:?}, {bad} at {at} of {cols}");
                    }
                    let mut weight = ones;
                    weight[at] = bad;
                    assert!(quantize(&cpu, &x, cols, Some(&weight)).step(0).is_nan(), "{cpu:?}, {bad} in the weight");
                }
            }
        }
    }
}

#[test]
fn huge_finite_values_do_not_vanish() {
    // The squares overflow f32.
    for cpu in cpus() {
        let acts = quantize(&cpu, &[1e30, -4e30, 0.0], 3, Some(&[1.0; 3]));
        assert_eq!(acts.values(0)[..3], [32, -127, 0], "{cpu:?}");
    }
}

#[test]
fn a_second_smaller_shape_clears_what_the_first_left() {
    let mut acts = QuantizedActs::new(4, 256);
    acts.set_raw(256, &[-128; 1024], &[1.0; 4]);
    assert_eq!(acts.sum(3), -128 * 256);
    acts.set_raw(100, &[1; 200], &[2.0; 2]);
    assert_eq!((acts.tokens(), acts.cols(), acts.stride(), acts.step(1), acts.sum(1)), (2, 100, 128, 2.0, 100));
    assert!(acts.values(1)[100..].iter().all(|&q| q == 0));
}

#[test]
#[should_panic(expected = "do not fit in the room")]
fn too_many_tokens_panic() {
    QuantizedActs::new(2, 128).set_raw(128, &[0; 384], &[1.0; 3]);
}

#[test]
fn with_a_rotation_it_is_norm_rotation_and_quantisation_after_each_other() {
    let mut rng = Rng::new(33);
    for (cols, block) in [(64, 2), (640, 128), (1536, 512), (3072, 1024), (8192, 4096)] {
        let signs: Vec<f32> = (0..cols).map(|_| if rng.below(2) == 0 { 1.0 } else { -1.0 }).collect();
        let rotation = Rotation::new(cols, block, Some(&signs)).unwrap();
        let weight = rng.floats(cols);
        for tokens in [0, 1, 2, 9, 33] {
            let x = rng.floats(tokens * cols);
            for (weight, group) in [(None, Some(64)), (Some(&weight[..]), Some(64)), (Some(&weight[..]), None)] {
                for cpu in cpus() {
                    let mut rotated = x.clone();
                    if let Some(weight) = weight {
                        norm::rms_norm_in_place(&cpu, &mut rotated, cols, weight, 1e-6);
                    }
                    crate::rotate::forward(&cpu, &rotation, &mut rotated);
                    let mut expected = QuantizedActs::with_group(tokens, cols, group);
                    norm_quantize(&cpu, &rotated, cols, None, 0.0, &mut expected);
                    let mut actual = QuantizedActs::with_group(tokens, cols, group);
                    norm_rotate_quantize(&cpu, &x, cols, weight, 1e-6, &rotation, &mut actual);
                    let what = format!("{cpu:?}, {tokens} tokens of {cols} columns, blocks of {block}, {group:?}");
                    assert_eq!(actual.all_values(), expected.all_values(), "{what}");
                    assert_eq!(actual.all_steps(), expected.all_steps(), "{what}");
                    assert_eq!(actual.all_sums(), expected.all_sums(), "{what}");
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "norm_rotate_quantize: columns, and values of the rotation")]
fn a_rotation_of_another_width_panics() {
    let rotation = Rotation::new(256, 64, None).unwrap();
    norm_rotate_quantize(&cpus()[0], &[0.0; 128], 128, None, 0.0, &rotation, &mut QuantizedActs::new(1, 128));
}
