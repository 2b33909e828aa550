use super::*;
use crate::testing::{MODEL_COLS, Rng, assert_close, cpus, edge_lengths};

#[test]
fn hand_computed() {
    for cpu in cpus() {
        // mean(x^2) = (9 + 16 + 0 + 0) / 4 = 6.25 with eps 0: x / 2.5 * w.
        let mut out = [0.0; 4];
        rms_norm(&cpu, &[3.0, 4.0, 0.0, 0.0], 4, &[1.0, 0.5, 1.0, 1.0], 0.0, &mut out);
        assert_close("norm", &out, &[1.2, 0.8, 0.0, 0.0], 1e-6);
        // eps is inside the root: 0.25 + 0.75 = 1.
        rms_norm(&cpu, &[0.5; 4], 4, &[2.0; 4], 0.75, &mut out);
        assert_close("eps", &out, &[1.0; 4], 1e-6);
    }
}

#[test]
fn all_variants_agree_with_the_reference() {
    let mut rng = Rng::new(4);
    for cols in edge_lengths(16).into_iter().chain(MODEL_COLS).chain([64, 80, 96, 100, 128]).filter(|&cols| cols > 0) {
        for rows in [0, 1, 2, 5, 9] {
            let x = rng.floats(rows * cols);
            let weight = rng.floats(cols);
            let mut expected = x.clone();
            expected.chunks_exact_mut(cols).for_each(|row| scalar::row(row, &weight, 1e-6));
            for cpu in cpus() {
                let mut out = vec![f32::NAN; x.len()];
                rms_norm(&cpu, &x, cols, &weight, 1e-6, &mut out);
                // Equal: the order of an f64 sum of f32 squares does not reach the f32 factor.
                assert_eq!(out, expected, "{cpu:?}, {rows} x {cols}");
                let mut in_place = x.clone();
                rms_norm_in_place(&cpu, &mut in_place, cols, &weight, 1e-6);
                assert_eq!(in_place, out, "{cpu:?}, {rows} x {cols}: in place");
            }
        }
    }
}

#[test]
fn nan_and_infinity_show() {
    for cpu in cpus() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 7, 8, 20] {
                let mut x = vec![1.0; 21];
                x[at] = bad;
                rms_norm_in_place(&cpu, &mut x, 21, &[1.0; 21], 1e-5);
                assert!(!all_finite(&x), "{cpu:?}, {bad} at {at}");
            }
        }
    }
}

#[test]
fn all_finite_sees_each_place() {
    for n in edge_lengths(8) {
        let mut x = vec![f32::MAX; n];
        assert!(all_finite(&x));
        for at in 0..n {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                x[at] = bad;
                assert!(!all_finite(&x), "{bad} at {at} of {n}");
            }
            x[at] = f32::MIN;
        }
    }
}

#[test]
#[should_panic(expected = "7 values are not whole rows of 4")]
fn partial_rows_panic() {
    rms_norm_in_place(&cpus()[0], &mut [0.0; 7], 4, &[1.0; 4], 1e-5);
}
