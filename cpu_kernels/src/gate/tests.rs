use super::*;
use crate::testing::{Rng, assert_close, cpus, edge_lengths};

const KINDS: [Kind; 4] = [Kind::Relu2, Kind::Silu, Kind::GeluTanh, Kind::Sigmoid];

#[test]
fn hand_computed() {
    for cpu in cpus() {
        let up = [2.0, 2.0, 2.0, -1.0];
        let mut gate = [3.0, -3.0, 0.0, 0.5];
        apply(&cpu, Kind::Relu2, &mut gate, &up);
        assert_eq!(gate, [18.0, 0.0, 0.0, -0.25]);
        // silu(1) = 1 / (1 + 1/e) = 0.731 058 58; silu(-1) = silu(1) - 1; silu(0) = 0; silu(ln 3) = ln 3 * 3/4.
        let mut gate = [1.0, -1.0, 0.0, 3.0_f32.ln()];
        apply(&cpu, Kind::Silu, &mut gate, &up);
        assert_close("silu", &gate, &[1.462_117_2, -0.537_882_8, 0.0, -0.823_959_2], 3e-7);
        // sigmoid(1) = 0.731 058 58; sigmoid(0) = 1/2; sigmoid(-ln 3) = 1/4.
        let mut gate = [1.0, -1.0, 0.0, -(3.0_f32.ln())];
        apply(&cpu, Kind::Sigmoid, &mut gate, &up);
        assert_close("sigmoid", &gate, &[1.462_117_2, 0.537_882_8, 1.0, -0.25], 3e-7);
        // gelu(1) = (1 + tanh(0.797 884 56 * 1.044 715)) / 2 = 0.841 191 99; gelu(-1) = gelu(1) - 1;
        // gelu(2) = 1 + tanh(0.797 884 56 * (2 + 8 * 0.044 715)) = 1.954 597 7.
        let mut gate = [1.0, -1.0, 0.0, 2.0];
        apply(&cpu, Kind::GeluTanh, &mut gate, &up);
        assert_close("gelu", &gate, &[1.682_384, -0.317_616, 0.0, -1.954_597_7], 5e-7);
    }
}

#[test]
fn all_variants_agree_with_the_reference() {
    let mut rng = Rng::new(6);
    for n in edge_lengths(8).into_iter().chain([4095, 4096, 4097, 9000]) {
        let gate: Vec<f32> = rng.floats(n).iter().map(|g| g * 20.0).collect();
        let up = rng.floats(n);
        for kind in KINDS {
            let mut expected = gate.clone();
            scalar::apply(kind, &mut expected, &up);
            for cpu in cpus() {
                let mut actual = gate.clone();
                apply(&cpu, kind, &mut actual, &up);
                for i in 0..n {
                    // An error of the argument is one of e^x times x, which is at most 87.
                    let units = if kind == Kind::GeluTanh { 200.0 } else { 4.0 };
                    // The lanes take powers below e^-87.3 for 0.
                    let tolerance = units * (f32::EPSILON * expected[i].abs() + f32::MIN_POSITIVE);
                    assert_close(
                        &format!("{cpu:?}, {kind:?}, {i} of {n}"),
                        &actual[i..=i],
                        &expected[i..=i],
                        tolerance,
                    );
                }
            }
        }
    }
}

#[test]
fn extremes_are_finite_and_nan_stays() {
    for cpu in cpus() {
        for n in [1, 8, 9] {
            let up = vec![1.0; n];
            for (g, expected) in [(-1000.0, 0.0), (1000.0, 1000.0), (-88.0, 0.0), (f32::MIN, 0.0)] {
                for kind in [Kind::Silu, Kind::GeluTanh] {
                    let mut gate = vec![g; n];
                    apply(&cpu, kind, &mut gate, &up);
                    assert_close(&format!("{cpu:?}, {kind:?}({g})"), &gate, &vec![expected; n], 1e-30);
                }
            }
            for (g, expected) in [(-1000.0, 0.0), (1000.0, 1.0), (-88.0, 0.0), (f32::MIN, 0.0), (f32::MAX, 1.0)] {
                let mut gate = vec![g; n];
                apply(&cpu, Kind::Sigmoid, &mut gate, &up);
                assert_close(&format!("{cpu:?}, sigmoid({g})"), &gate, &vec![expected; n], 1e-30);
            }
            for kind in KINDS {
                for i in 0..n {
                    let mut gate = vec![1.0; n];
                    gate[i] = f32::NAN;
                    apply(&cpu, kind, &mut gate, &up);
                    assert!((0..n).all(|j| gate[j].is_nan() == (i == j)), "{cpu:?}, {kind:?}: {gate:?}");
                }
            }
        }
    }
}

#[test]
fn queries_and_gates_are_split_by_heads() {
    for cpu in cpus() {
        for (tokens, heads, head_dim) in [(0, 3, 2), (1, 1, 1), (2, 3, 2), (3, 24, 256)] {
            // Value = its place, so that each result tells where it comes from.
            let x: Vec<f32> = (0..tokens * heads * 2 * head_dim).map(|i| i as f32).collect();
            let (mut q, mut gate) = (vec![f32::NAN; x.len() / 2], vec![f32::NAN; x.len() / 2]);
            split(&cpu, &x, head_dim, &mut q, &mut gate);
            for t in 0..tokens {
                for h in 0..heads {
                    for i in 0..head_dim {
                        let (at, from) = ((t * heads + h) * head_dim + i, (t * heads + h) * 2 * head_dim + i);
                        assert_eq!(
                            (q[at], gate[at]),
                            (from as f32, (from + head_dim) as f32),
                            "{cpu:?}, {t}, {h}, {i}"
                        );
                    }
                }
            }
        }
    }
}
