//! Pipeline constants as the engine gives them: values for BitNet b1.58 2B-4T where they are sizes of a model.

use bitnet_gpu::backend::gpu::pipelines::{Input, Program, Variant};

/// Values of a pipeline constant that the engine gives it, the most usual one first.
pub fn values(name: &str, program: Program) -> &'static [f64] {
    match name {
        "NORM" => &[1.0, 0.0],
        "ADD" | "Q_NORM" | "K_NORM" | "INTERLEAVED" | "INVERSE" | "GROUPED" => &[0.0, 1.0],
        "GATE" => &[0.0, 1.0, 2.0, 3.0],
        "K_TYPE" | "V_TYPE" => &[0.0, 1.0, 2.0],
        // 0, a scale a row, is for products whose input is quantised before.
        "GROUP" if program.flavour.input == Input::Quantized => &[128.0, 64.0, 256.0, 0.0],
        "GROUP" => &[128.0, 64.0, 256.0],
        "TILE" | "ROUNDS" => &[1.0, 4.0],
        "COLS" | "IN_STRIDE" => &[2560.0],
        "WORDS" => &[640.0],
        "SPLIT_KEYS" => &[64.0],
        "ACTS" | "HEADS" => &[20.0],
        "HEAD_DIM" => &[128.0],
        "GATE_DIM" => &[0.0, 64.0],
        "Q_STEP" => &[1.0, 2.0],
        // 4096 is wider than what a workgroup transforms at once.
        "BLOCK" => &[1.0, 512.0, 4096.0],
        "DIM" => &[128.0],
        "KERNEL" => &[4.0],
        // RULE_WORKGROUP times DIM / 16
        "HELD" => &[512.0],
        "FRESH" => &[1024.0],
        "WINDOW_BASE" => &[0.0, 4096.0],
        "WINDOW_ROWS" => &[4_294_967_295.0, 4096.0],
        "IN_OFFSET" => &[0.0],
        "EPS" => &[1e-5],
        other => panic!("no values for the pipeline constant {other}: say here what the engine gives it"),
    }
}

/// Invocations of a workgroup of the delta rule, which has other than its program's.
const RULE_WORKGROUP: f64 = 64.0;

/// Constants for pipelines of a variant: as many sets as its longest list of values, so that each value is in one of
/// them.
pub fn constant_sets(variant: &Variant) -> Vec<Vec<(&'static str, f64)>> {
    let names = variant.constants().into_iter().filter(|&name| name != "WG");
    let lists: Vec<_> = names.map(|name| (name, values(name, variant.program))).collect();
    let is_rule = lists.iter().any(|(name, _)| *name == "HELD");
    let workgroup = if is_rule { RULE_WORKGROUP } else { f64::from(variant.workgroup()) };
    let count = lists.iter().map(|(_, values)| values.len()).max().unwrap_or(1);
    let set = |n: usize| {
        let own = lists.iter().map(|&(name, values)| (name, values[n % values.len()]));
        own.chain([("WG", workgroup)]).collect()
    };
    (0..count).map(set).collect()
}
