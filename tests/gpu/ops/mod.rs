//! Every kernel alone against the scalar reference of `bitnet-cpu-kernels`: integer results exactly, float
//! results within a tolerance relative to their norm.

mod attention;

mod bias;

mod delta;

mod dense;

mod folded;

mod grouped;

mod quantize;

mod rotate;

mod screen;

mod select;

mod ternary;

use std::ops::RangeInclusive;

use bitnet_cpu_kernels::quantize::QuantizedActs;
use bitnet_gpu::backend::gpu::{
    Gpu, Tuning,
    pipelines::{Choices, Lanes},
};

use crate::common::gpu::open_gpu;

/// The width of the software driver's vectors in bits, read once in a process.
const WIDTH: &str = "LP_NATIVE_VECTOR_WIDTH";

/// Everything that uses subgroups once more with subgroups of four and of sixteen, where Mesa's software driver is there:
/// they are as wide as its vectors, which are 8 by default. In processes of their own, because the driver reads the width
/// once.
#[test]
fn subgroups_of_four() {
    subgroups_of(4);
}

#[test]
fn subgroups_of_sixteen() {
    subgroups_of(16);
}

fn subgroups_of(size: u32) {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    if let Some(width) = std::env::var_os(WIDTH) {
        let own = width.to_str().and_then(|bits| bits.parse::<u32>().ok()).map(|bits| bits / 32);
        assert_eq!(gpu.caps().subgroups, own.map(|own| (own, own)), "{}", gpu.caps());
        return;
    }
    if !gpu.caps().name.contains("llvmpipe") {
        eprintln!("skipped: {} does not let its subgroups be chosen", gpu.caps().name);
        return;
    }
    let own = std::env::current_exe().unwrap();
    let out = std::process::Command::new(own).arg("ops::").env(WIDTH, (32 * size).to_string()).output().unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && !stdout.contains(" 0 passed"), "{stdout}");
}

/// Tokens that the kernels for few of them take.
const FEW: RangeInclusive<usize> = 2..=8;

/// Float kernels differ from the reference by the order of additions only.
const CLOSE: f64 = 2e-5;

/// All choices this device can run for kernels that have both twins; with subgroups of four, the twins that use them.
fn lane_choices(gpu: &Gpu) -> Vec<Choices> {
    let own = gpu.choices();
    let mut all = Vec::new();
    if std::env::var_os(WIDTH).is_none() {
        all.push(Choices { lanes: Lanes::Workgroup, ..own });
    }
    if gpu.caps().subgroups.is_some_and(|(least, _)| least >= 4) {
        all.push(Choices { lanes: Lanes::Subgroup, ..own });
    } else {
        eprintln!("not run: subgroup variants ({} has none)", gpu.caps().name);
    }
    all
}

/// Tokens of one sequence as shaders/common/batch.wgsl has them, behind no damage. Other sequences have the first `base`
/// positions of the caches.
fn batch(ids: &[u32], start: usize, base: usize) -> Vec<u8> {
    let tokens = (start as u32..).zip(ids).map(|(position, &id)| [id, position, 0, base as u32]);
    let words: Vec<[u32; 4]> = std::iter::once([0; 4]).chain(tokens).collect();
    bytemuck::cast_slice(&words).to_vec()
}

/// Output of norm_quantize: int8 (tokens, words * 4), steps and sums.
struct Quantized {
    values: Vec<i8>,
    steps: Vec<f32>,
    sums: Vec<i32>,
}

fn quantized(contents: &[Vec<u8>]) -> Quantized {
    let acts: Vec<[u32; 2]> = bytemuck::pod_collect_to_vec(&contents[3]);
    Quantized {
        values: bytemuck::pod_collect_to_vec(&contents[2]),
        steps: acts.iter().map(|a| f32::from_bits(a[0])).collect(),
        sums: acts.iter().map(|a| a[1].cast_signed()).collect(),
    }
}

/// Equal but for values that lie on the edge between two integers, of which there are very few.
fn assert_quantized(what: &str, found: &Quantized, expected: &QuantizedActs) {
    for t in 0..expected.tokens() {
        let own = &found.values[t * expected.stride()..][..expected.stride()];
        let (cols, reference) = (expected.cols(), expected.values(t));
        assert!(own[cols..].iter().all(|&q| q == 0), "{what}: padding of token {t}");
        let differences: Vec<i32> =
            own[..cols].iter().zip(reference).map(|(&a, &b)| (i32::from(a) - i32::from(b)).abs()).collect();
        assert!(differences.iter().all(|&d| d <= 1), "{what}: token {t} differs by more than one");
        let edges = differences.iter().filter(|&&d| d > 0).count();
        assert!(edges <= 1 + cols / 500, "{what}: {edges} of {cols} values of token {t} differ");
        assert_eq!(found.sums[t], own.iter().map(|&q| i32::from(q)).sum::<i32>(), "{what}: sum of token {t}");
        let step = expected.step(t);
        assert!((found.steps[t] - step).abs() <= 1e-5 * step, "{what}: step {} for {step}", found.steps[t]);
    }
}

/// As [`assert_quantized`], of groups of `size` columns.
fn assert_quantized_groups(what: &str, contents: &[Vec<u8>], expected: &QuantizedActs, size: usize) {
    let values: Vec<i8> = bytemuck::pod_collect_to_vec(&contents[2]);
    let acts: Vec<[u32; 2]> = bytemuck::pod_collect_to_vec(&contents[3]);
    let (cols, groups) = (expected.cols(), expected.cols() / size);
    for t in 0..expected.tokens() {
        let own = &values[t * expected.stride()..][..expected.stride()];
        assert!(own[cols..].iter().all(|&q| q == 0), "{what}: padding of token {t}");
        let off = own.iter().zip(expected.values(t)).filter(|(a, b)| a != b);
        let off: Vec<i32> = off.map(|(&a, &b)| (i32::from(a) - i32::from(b)).abs()).collect();
        assert!(off.iter().all(|&d| d == 1) && off.len() <= 1 + cols / 500, "{what}: token {t} differs by {off:?}");
        for g in 0..groups {
            let [step, sum] = acts[t * groups + g];
            let own_sum: i32 = own[g * size..][..size].iter().map(|&q| i32::from(q)).sum();
            assert_eq!(sum.cast_signed(), own_sum, "{what}: sum of group {g} of token {t}");
            let (step, reference) = (f32::from_bits(step), expected.steps(t)[g]);
            assert!((step - reference).abs() <= 1e-5 * reference, "{what}: step {step} for {reference}");
        }
    }
}
