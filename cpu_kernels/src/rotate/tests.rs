use super::*;
use crate::Isa;
use crate::testing::{Rng, assert_close, cpus, norm};

/// Blocks below and above a vector of every instruction set, and the published ones.
const BLOCKS: [usize; 9] = [2, 4, 8, 16, 32, 256, 512, 1024, 4096];

fn signs(rng: &mut Rng, width: usize) -> Vec<f32> {
    (0..width).map(|_| if rng.below(2) == 0 { 1.0 } else { -1.0 }).collect()
}

/// H x of one block by its definition, in f64.
fn product(x: &[f64]) -> Vec<f64> {
    let entry = |r: usize, c: usize| if (r & c).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    let scale = 1.0 / (x.len() as f64).sqrt();
    (0..x.len()).map(|r| x.iter().enumerate().map(|(c, x)| entry(r, c) * x).sum::<f64>() * scale).collect()
}

#[test]
fn all_variants_agree_with_the_definition() {
    let mut rng = Rng::new(31);
    for block in BLOCKS {
        for blocks in [1, 3, 5] {
            let (width, tokens) = (block * blocks, if block < 1024 { 3 } else { 1 });
            let s = signs(&mut rng, width);
            let x = rng.floats(tokens * width);
            for s in [None, Some(&s[..])] {
                let rotation = Rotation::new(width, block, s).unwrap();
                let sign = |i: usize| s.map_or(1.0, |s| f64::from(s[i % width]));
                let (mut forwards, mut inverses) = (Vec::new(), Vec::new());
                for (at, x) in x.chunks_exact(block).enumerate() {
                    let of = |i: usize| sign(at * block + i);
                    let signed: Vec<f64> = x.iter().enumerate().map(|(i, &x)| of(i) * f64::from(x)).collect();
                    forwards.extend(product(&signed).into_iter().map(|y| y as f32));
                    let plain: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                    inverses.extend(product(&plain).into_iter().enumerate().map(|(i, y)| (of(i) * y) as f32));
                }
                // Each stage rounds once, at values no larger than the norm of a block.
                let largest = x.chunks_exact(block).map(norm).fold(0.0, f64::max) as f32;
                let tolerance = 2.0 * f32::EPSILON * (1.0 + (block as f32).log2()) * largest;
                let reference = Cpu::new(Isa::Scalar, 1);
                let [mut by_scalar, mut back_by_scalar] = [x.clone(), x.clone()];
                forward(&reference, &rotation, &mut by_scalar);
                inverse(&reference, &rotation, &mut back_by_scalar);
                for cpu in cpus() {
                    let what = format!("{cpu:?}, {tokens} x {width} in blocks of {block}");
                    let mut actual = x.clone();
                    forward(&cpu, &rotation, &mut actual);
                    assert_close(&what, &actual, &forwards, tolerance);
                    assert!(actual == by_scalar, "{what}: other bits than the reference");
                    inverse(&cpu, &rotation, &mut actual);
                    assert_close(&format!("{what}, and back"), &actual, &x, 2.0 * tolerance);
                    let mut actual = x.clone();
                    inverse(&cpu, &rotation, &mut actual);
                    assert_close(&format!("{what}, inverse"), &actual, &inverses, tolerance);
                    assert!(actual == back_by_scalar, "{what}, inverse: other bits than the reference");
                }
            }
        }
    }
}

#[test]
fn whole_numbers_are_exact() {
    // Blocks of 4: H = 1/2 [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]].
    let rotation = Rotation::new(8, 4, Some(&[1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0])).unwrap();
    for cpu in cpus() {
        let mut x = [1.0, 2.0, 3.0, 4.0, 2.0, 0.0, 0.0, 0.0];
        forward(&cpu, &rotation, &mut x);
        assert_eq!(x, [3.0, 1.0, -4.0, 2.0, -1.0, -1.0, -1.0, -1.0], "{cpu:?}");
        inverse(&cpu, &rotation, &mut x);
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0, 2.0, 0.0, 0.0, 0.0], "{cpu:?}");
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    let mut rng = Rng::new(32);
    let (width, tokens) = (3 * 1024, 9);
    let rotation = Rotation::new(width, 1024, Some(&signs(&mut rng, width))).unwrap();
    let x = rng.floats(tokens * width);
    for cpu in cpus() {
        let mut together = x.clone();
        forward(&cpu, &rotation, &mut together);
        for (t, x) in x.chunks_exact(width).enumerate() {
            let mut alone = x.to_vec();
            forward(&cpu, &rotation, &mut alone);
            assert_eq!(alone, together[t * width..][..width], "{cpu:?}, token {t}");
        }
    }
}

#[test]
fn nan_shows_in_its_block_only() {
    let rotation = Rotation::new(96, 32, None).unwrap();
    for cpu in cpus() {
        let mut x = [1.0; 96];
        x[40] = f32::NAN;
        forward(&cpu, &rotation, &mut x);
        assert!((0..96).all(|i| x[i].is_nan() == (32..64).contains(&i)), "{cpu:?}: {x:?}");
    }
}

#[test]
fn what_is_no_rotation_is_refused() {
    let error = |width, block, signs: Option<&[f32]>| Rotation::new(width, block, signs).unwrap_err().to_string();
    for (width, block) in [(8, 0), (8, 1), (12, 3), (12, 6), (8, 16), (20, 8), (0, 2), (8, usize::MAX)] {
        let expected =
            format!("a rotation of rows of {width}: expected blocks of a power of two that divides it, found {block}");
        assert_eq!(error(width, block, None), expected);
    }
    assert_eq!(error(4, 2, Some(&[1.0; 3])), "a rotation: expected 4 signs, found 3");
    assert_eq!(error(4, 2, Some(&[1.0, -1.0, 0.5, 1.0])), "sign 2 of a rotation: expected +1 or -1, found 0.5");
    assert_eq!(error(2, 2, Some(&[1.0, f32::NAN])), "sign 1 of a rotation: expected +1 or -1, found NaN");
}

#[test]
#[should_panic(expected = "rotate::forward: 12 values are not whole rows of 8")]
fn partial_rows_panic() {
    forward(&cpus()[0], &Rotation::new(8, 4, None).unwrap(), &mut [0.0; 12]);
}
