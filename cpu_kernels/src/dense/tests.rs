use half::{bf16, f16};

use super::*;
use crate::{
    format::DenseType,
    testing::{Rng, assert_close, cpus, dot_tolerance, edge_lengths},
};

/// A random matrix in its bytes. Scales are small whole numbers, so that all weights are whole and at most `limit`
/// (below), and sums of their products with whole activations are exact in f32.
fn random_whole(rng: &mut Rng, ty: DenseType, rows: usize, cols: usize) -> Vec<u8> {
    let f16_scale = |rng: &mut Rng| f16::from_f32(rng.below(3) as f32 - 1.0).to_le_bytes();
    let mut data = Vec::new();
    for _ in 0..rows * cols / ty.block_len() {
        let whole = rng.whole(1, 100)[0];
        match ty {
            DenseType::F32 => data.extend(whole.to_le_bytes()),
            DenseType::F16 => data.extend(f16::from_f32(whole).to_le_bytes()),
            DenseType::BF16 => data.extend(bf16::from_f32(whole).to_le_bytes()),
            DenseType::Q8_0 => {
                data.extend(f16_scale(rng));
                data.extend(rng.i8s(32).iter().map(|&q| q as u8));
            }
            DenseType::Q4K => {
                data.extend(f16_scale(rng));
                data.extend(f16_scale(rng));
                data.extend((0..140).map(|_| rng.next_u64() as u8));
            }
            DenseType::Q4_0 | DenseType::Q2_0 | DenseType::Q2_0G128 => {
                data.extend(f16_scale(rng));
                data.extend((2..ty.block_bytes()).map(|_| rng.next_u64() as u8));
            }
            DenseType::TQ1_0 | DenseType::TQ2_0 | DenseType::PTQ1_0 => {
                data.extend((2..ty.block_bytes()).map(|_| rng.next_u64() as u8));
                data.extend(f16_scale(rng));
            }
            DenseType::Q6K => {
                data.extend((0..192).map(|_| rng.next_u64() as u8));
                data.extend((0..16).map(|_| (rng.below(9) as i8 - 4) as u8));
                data.extend(f16_scale(rng));
            }
        }
    }
    data
}

/// Shapes of a type: rows around the chunks, columns around its block and the vectors.
fn cols_of(ty: DenseType) -> Vec<usize> {
    let mut cols = match ty.block_len() {
        1 => edge_lengths(32),
        block => vec![block, 2 * block, 5 * block],
    };
    cols.extend([640_usize, 768, 2560, 3072].into_iter().filter(|cols| cols.is_multiple_of(ty.block_len())));
    cols.retain(|&cols| cols > 0);
    cols
}

#[test]
fn hand_computed() {
    // F16 rows [1, 2], [-0.5, 0]; tokens [3, 4], [0, 1].
    let data: Vec<u8> = [1.0, 2.0, -0.5, 0.0].iter().flat_map(|&w| f16::from_f32(w).to_le_bytes()).collect();
    let w = DenseView::new(2, 2, &data, DenseType::F16).unwrap();
    for cpu in cpus() {
        let mut out = [f32::NAN; 4];
        matmul(&cpu, w, &[3.0, 4.0, 0.0, 1.0], &mut out);
        assert_eq!(out, [11.0, -1.5, 2.0, 0.0], "{cpu:?}");
    }
    let mut row = [f32::NAN; 2];
    gather(w, 1, &mut row);
    assert_eq!(row, [-0.5, 0.0]);
}

#[test]
fn all_variants_are_exact_on_whole_numbers() {
    let mut rng = Rng::new(11);
    let cpus = cpus();
    for ty in DenseType::ALL {
        for cols in cols_of(ty) {
            for (rows, tokens) in [(0, 1), (1, 1), (3, 2), (17, 1), (4, 3), (5, 4), (9, 5), (3, 9)] {
                let data = random_whole(&mut rng, ty, rows, cols);
                let w = DenseView::new(rows, cols, &data, ty).unwrap();
                let x = rng.whole(tokens * cols, 3);
                let mut row = vec![0.0; cols];
                let mut expected = vec![0.0; tokens * rows];
                for r in 0..rows {
                    gather(w, r, &mut row);
                    for t in 0..tokens {
                        let products = row.iter().zip(&x[t * cols..]).map(|(&w, &x)| f64::from(w) * f64::from(x));
                        expected[t * rows + r] = products.sum::<f64>() as f32;
                    }
                }
                for cpu in &cpus {
                    let mut out = vec![f32::NAN; expected.len()];
                    matmul(cpu, w, &x, &mut out);
                    assert_close(&format!("{cpu:?}, {ty:?}, {rows} x {cols}, {tokens} tokens"), &out, &expected, 0.0);
                }
            }
        }
    }
}

#[test]
fn all_variants_are_close_on_fractions() {
    let mut rng = Rng::new(12);
    let cpus = cpus();
    for ty in [DenseType::F32, DenseType::F16, DenseType::BF16] {
        let (rows, cols) = (7, 2560);
        let weights = rng.floats(rows * cols);
        let data: Vec<u8> = match ty {
            DenseType::F16 => weights.iter().flat_map(|&w| f16::from_f32(w).to_le_bytes()).collect(),
            DenseType::BF16 => weights.iter().flat_map(|&w| bf16::from_f32(w).to_le_bytes()).collect(),
            _ => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
        };
        let w = DenseView::new(rows, cols, &data, ty).unwrap();
        let x = rng.floats(cols);
        let mut row = vec![0.0; cols];
        for r in 0..rows {
            gather(w, r, &mut row);
            let exact: f64 = row.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            for cpu in &cpus {
                let mut out = vec![f32::NAN; rows];
                matmul(cpu, w, &x, &mut out);
                let tolerance = dot_tolerance(&row, &x);
                assert_close(&format!("{cpu:?}, {ty:?}, row {r}"), &out[r..=r], &[exact as f32], tolerance);
            }
        }
    }
}

#[test]
fn few_tokens_give_the_bits_of_single_ones() {
    let mut rng = Rng::new(13);
    let cpus = cpus();
    for ty in DenseType::ALL {
        let (rows, cols) = (9, if ty.block_len() == 1 { 2565 } else { 2560 });
        // Plain types are random numbers here: whole ones would be exact in any order.
        let data: Vec<u8> = match ty {
            DenseType::F32 => rng.floats(rows * cols).iter().flat_map(|w| w.to_le_bytes()).collect(),
            DenseType::F16 => rng.floats(rows * cols).iter().flat_map(|&w| f16::from_f32(w).to_le_bytes()).collect(),
            _ => random_whole(&mut rng, ty, rows, cols),
        };
        let w = DenseView::new(rows, cols, &data, ty).unwrap();
        for tokens in 1..=crate::ALIKE_TOKENS {
            let x = rng.floats(tokens * cols);
            for cpu in &cpus {
                let mut together = vec![f32::NAN; tokens * rows];
                matmul(cpu, w, &x, &mut together);
                let mut alone = vec![f32::NAN; tokens * rows];
                for (x, alone) in x.chunks_exact(cols).zip(alone.chunks_exact_mut(rows)) {
                    matmul(cpu, w, x, alone);
                }
                let same = together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{cpu:?}, {ty:?}, {tokens} tokens");
            }
        }
    }
}

#[test]
fn nan_and_infinity_show() {
    for cpu in cpus() {
        for at in [0, 31, 32, 36] {
            let mut x = [1.0_f32; 37];
            x[at] = f32::NAN;
            let data = vec![0; 37 * 2];
            let w = DenseView::new(1, 37, &data, DenseType::F16).unwrap();
            let mut out = [0.0];
            matmul(&cpu, w, &x, &mut out);
            assert!(out[0].is_nan(), "{cpu:?}, NaN at {at}");
        }
    }
}

#[test]
#[should_panic(expected = "row 2 of 2")]
fn a_row_past_the_end_panics() {
    gather(DenseView::new(2, 1, &[0; 4], DenseType::F16).unwrap(), 2, &mut [0.0]);
}

#[test]
#[should_panic(expected = "expected 12 bytes, found 11")]
fn short_data_panics() {
    let w = DenseView { rows: 1, cols: 3, data: &[0; 11], ty: DenseType::F32 };
    matmul(&cpus()[0], w, &[0.0; 3], &mut [0.0]);
}
