use std::f32::consts::FRAC_1_SQRT_2;

use super::*;
use crate::testing::{Rng, assert_close, cpus};

const STYLES: [Style; 2] = [Style::HalfSplit, Style::Interleaved];

#[test]
fn table_angles_follow_the_formula() {
    // dims 4, base 100: frequencies 1 and 1/10.
    let table = RopeTable::new(4, 100.0, 1.0, None, 4);
    assert_eq!((table.dims(), table.rows()), (4, 4));
    assert_eq!((table.cos(0), table.sin(0)), (&[1.0, 1.0][..], &[0.0, 0.0][..]));
    assert_close("cos", table.cos(3), &[-0.989_992_5, 0.955_336_5], 1e-6);
    assert_close("sin", table.sin(3), &[0.141_12, 0.295_520_2], 1e-6);
    assert_eq!(table.data().0.len(), 8);
    // Half the position scale and doubled frequencies cancel.
    let scaled = RopeTable::new(4, 100.0, 0.5, Some(&[0.5, 0.5]), 4);
    assert_close("scaled", scaled.cos(3), table.cos(3), 1e-6);
}

#[test]
fn hand_computed_quarter_turns() {
    // One pair whose angle at position 1 is 1 radian, forced to pi/4 by a factor.
    let mut table = RopeTable::new(2, 10000.0, 1.0, Some(&[4.0 / std::f32::consts::PI]), 0);
    table.fill([1, 2]);
    for cpu in cpus() {
        for style in STYLES {
            // Head (1, 0, 7) at positions 1 and 2; the third element does not rotate.
            let mut x = [1.0, 0.0, 7.0, 1.0, 0.0, 7.0];
            apply(&cpu, &mut x, 1, 3, &table, style);
            assert_close("pair", &x, &[FRAC_1_SQRT_2, FRAC_1_SQRT_2, 7.0, 0.0, 1.0, 7.0], 1e-6);
        }
    }
}

/// Qwen3 with four times its 32768 positions: 128 dimensions, base 10^6. Pair 23.6 turns 32 times in 32768 positions
/// (128 * ln(32768 / (32 * 2 pi)) / (2 * ln(10^6)) = 23.596) and pair 39.7 once (39.651), so the ramp is from 23 to 40.
#[test]
fn yarn_slows_the_pairs_that_turn_seldom() {
    let yarn = Yarn { factor: 4.0, original_context: 32768, beta_fast: 32.0, beta_slow: 1.0, attention_factor: 1.0 };
    let factors = yarn.factors(128, 1e6);
    assert_eq!(factors.len(), 64);
    assert!(factors[..=23].iter().all(|&factor| factor == 1.0), "{factors:?}");
    assert!(factors[40..].iter().all(|&factor| factor == 4.0), "{factors:?}");
    // Pair 31: 8/17 of the way, 1 - 8/17 + 8/17/4 = 11/17. Pair 24: 1/17, 16/17 + 1/68 = 65/68. Pair 39: 16/17,
    // 1/17 + 4/17 = 5/17.
    assert_close("ramp", &[factors[31], factors[24], factors[39]], &[17.0 / 11.0, 68.0 / 65.0, 17.0 / 5.0], 1e-6);
    // 1 + 0.1 ln 4
    assert_close("magnitude", &[yarn.magnitude()], &[1.138_629_4], 1e-6);
    let sharper = Yarn { attention_factor: 0.5, ..yarn };
    assert_close("half of it", &[sharper.magnitude()], &[0.569_314_7], 1e-6);
    let same = Yarn { factor: 1.0, ..yarn };
    assert_eq!((same.factors(128, 1e6), same.magnitude()), (vec![1.0; 64], 1.0));
}

/// A context so short, or heads so narrow, that the ramp would begin before the first pair or end after the last.
#[test]
fn yarn_stays_within_the_pairs() {
    let yarn = Yarn { factor: 2.0, original_context: 64, beta_fast: 32.0, beta_slow: 1.0, attention_factor: 1.0 };
    // 8 * ln(64 / (32 * 2 pi)) / (2 ln 10000) = -0.497, so 0; 8 * ln(64 / (2 pi)) / (2 ln 10000) = 1.008, so 2.
    // Pair 1 is half way: 1 / (1/2 + 1/4).
    assert_close("factors", &yarn.factors(8, 10000.0), &[1.0, 4.0 / 3.0, 2.0, 2.0], 1e-6);
}

#[test]
fn a_stretched_table_stretches_rotations() {
    let table = RopeTable::new(4, 100.0, 1.0, None, 4);
    let mut stretched = table.clone().stretched(1.5);
    let expected: Vec<f32> = table.cos(3).iter().map(|c| c * 1.5).collect();
    assert_eq!(stretched.cos(3), expected);
    stretched.fill([0]);
    for cpu in cpus() {
        // Position 0 rotates by nothing.
        let mut x = [1.0, 2.0, 3.0, 4.0];
        apply(&cpu, &mut x, 1, 4, &stretched, Style::HalfSplit);
        assert_eq!(x, [1.5, 3.0, 4.5, 6.0], "{cpu:?}");
    }
}

#[test]
fn the_styles_pair_different_elements() {
    let mut table = RopeTable::new(4, 1.0, std::f32::consts::FRAC_PI_2, None, 0);
    table.fill([1]);
    for cpu in cpus() {
        // A quarter turn of every pair: (a, b) -> (-b, a).
        let mut x = [1.0, 2.0, 3.0, 4.0];
        apply(&cpu, &mut x, 1, 4, &table, Style::HalfSplit);
        assert_close("half split", &x, &[-3.0, -4.0, 1.0, 2.0], 1e-6);
        let mut x = [1.0, 2.0, 3.0, 4.0];
        apply(&cpu, &mut x, 1, 4, &table, Style::Interleaved);
        assert_close("interleaved", &x, &[-2.0, 1.0, -4.0, 3.0], 1e-6);
    }
}

#[test]
fn all_variants_agree_with_the_reference() {
    let mut rng = Rng::new(5);
    let cpus = cpus();
    for (dims, head_dim) in
        [(2, 2), (6, 6), (14, 16), (16, 16), (18, 18), (64, 128), (100, 100), (128, 128), (256, 256)]
    {
        let whole = RopeTable::new(dims, 10000.0, 1.0, None, 24);
        let mut table = RopeTable::new(dims, 10000.0, 1.0, None, 0);
        for (tokens, heads) in [(0, 1), (1, 1), (1, 5), (9, 3), (17, 2)] {
            // One sequence from position 7 on, and several, each at a position of its own.
            for positions in [(7..7 + tokens).collect(), (0..tokens).map(|_| rng.below(24)).collect::<Vec<_>>()] {
                table.fill(positions.iter().copied());
                let x = rng.floats(tokens * heads * head_dim);
                for style in STYLES {
                    let mut expected = x.clone();
                    for (i, head) in expected.chunks_exact_mut(head_dim).enumerate() {
                        let p = positions[i / heads];
                        scalar::rotate(&mut head[..dims], whole.cos(p), whole.sin(p), style);
                    }
                    for cpu in &cpus {
                        let mut actual = x.clone();
                        apply(cpu, &mut actual, heads, head_dim, &table, style);
                        // Inputs below 1: an error of two roundings, with or without a fused one.
                        let what = format!("{cpu:?}, {style:?}, {positions:?} x {heads} x {head_dim}, {dims} dims");
                        assert_close(&what, &actual, &expected, 2.0 * f32::EPSILON);
                    }
                }
            }
        }
    }
}

#[test]
fn tokens_together_give_the_bits_of_single_ones() {
    let mut rng = Rng::new(6);
    let (heads, head_dim) = (3, 100);
    let mut table = RopeTable::new(64, 10000.0, 1.0, None, 0);
    for cpu in cpus() {
        for style in STYLES {
            for positions in [&[5, 5, 5, 1000, 0, 0, 5, 4095][..], &[9, 9], &[0]] {
                let x = rng.floats(positions.len() * heads * head_dim);
                let mut together = x.clone();
                table.fill(positions.iter().copied());
                apply(&cpu, &mut together, heads, head_dim, &table, style);
                let mut alone = x;
                for (token, &position) in alone.chunks_exact_mut(heads * head_dim).zip(positions) {
                    table.fill([position]);
                    apply(&cpu, token, heads, head_dim, &table, style);
                }
                assert!(together == alone, "{cpu:?}, {style:?}, {positions:?}");
            }
        }
    }
}

#[test]
fn a_table_can_be_filled_with_any_positions() {
    let whole = RopeTable::new(6, 10000.0, 0.5, None, 40).stretched(1.25);
    let mut part = RopeTable::new(6, 10000.0, 0.5, None, 0).stretched(1.25);
    assert_eq!((part.dims(), part.rows()), (6, 0));
    for positions in [vec![3, 4, 5, 6], vec![30, 2, 2, 2, 39, 30], vec![0], vec![]] {
        part.fill(positions.iter().copied());
        assert_eq!((part.rows(), part.data().0.len()), (positions.len(), 3 * positions.len()));
        for (row, &p) in positions.iter().enumerate() {
            assert_eq!((part.cos(row), part.sin(row)), (whole.cos(p), whole.sin(p)), "row {row}, position {p}");
        }
    }
}

#[test]
fn a_table_without_pairs_rotates_nothing() {
    let mut table = RopeTable::new(0, 10000.0, 1.0, None, 0);
    table.fill([7, 7, 8]);
    let mut x = [1.0, 2.0, 3.0];
    apply(&cpus()[0], &mut x, 1, 1, &table, Style::Interleaved);
    assert_eq!(x, [1.0, 2.0, 3.0]);
}

#[test]
#[should_panic(expected = "rows of the table, and tokens")]
fn a_table_of_other_tokens_panics() {
    let table = RopeTable::new(2, 10000.0, 1.0, None, 4);
    apply(&cpus()[0], &mut [0.0; 4], 1, 2, &table, Style::HalfSplit);
}
