//! Every shader that a browser could get on the second implementation of WGSL there is, Chromium's: each must compile to
//! a pipeline without a message, and the integer kernels must give the scalar reference's numbers. Runs in
//! `./check --browser`, which names the program in `BITNET_CHROMIUM`.

#[path = "../common/gpu/constants.rs"]
mod constants;

mod page;

mod program;

use std::slice;

use bitnet_cpu_kernels::{
    Cpu, Isa,
    attention::{KvCache, KvRows, KvType, Placed, append},
    format::{Layout, Scales, TernaryView, ternary_bytes},
    quantize::QuantizedActs,
    ternary,
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    params::{self, Dynamic, Params},
    pipelines::{Choices, Lanes, ParamSource, Product, Program, Shader, Tile, Variant},
};
use constants::constant_sets;
use page::{Page, Run};

/// Browsers have no immediates in a form that naga writes, so parameters come through the uniform buffer.
fn variants(program: Program) -> Vec<Variant> {
    let all = program.variants().into_iter();
    all.filter(|variant| variant.choices.params == ParamSource::Uniform).collect()
}

/// Every text once with some of its constants, and every set of constants with some of the texts: all pairs would take
/// the browser minutes.
fn add_pipelines(page: &mut Page, program: Program) {
    let variants = variants(program);
    for (v, variant) in variants.iter().enumerate() {
        let sets = constant_sets(variant);
        let own = |&n: &usize| n % variants.len() == v;
        let own = (0..variants.len().max(sets.len())).filter(own).map(|n| sets[n % sets.len()].clone());
        page.compile(variant, &own.collect::<Vec<_>>());
    }
}

fn choices(lanes: Lanes, product: Product) -> Choices {
    Choices { lanes, product, tile: Tile::Words, params: ParamSource::Uniform }
}

/// A product of random bytes of codes (code 3 too, which counts as +2) and its integers from the scalar reference. They
/// are whole numbers below 2^24: equal as f32, too.
fn ternary_runs(rng: &mut Rng) -> Vec<Run> {
    let (rows, cols) = (67, 384);
    let mut runs = Vec::new();
    for (shader, tokens, grid) in [
        (Shader::TernaryMatvec, 1, [5, 1, 1]),
        (Shader::TernaryMatvec, 3, [5, 3, 1]),
        (Shader::TernaryFew, 5, [5, 1, 1]),
        (Shader::TernaryFew, 8, [5, 1, 1]),
        (Shader::TernaryMatmul, 70, [2, 2, 1]),
    ] {
        let codes: Vec<u8> = (0..ternary_bytes(Layout::I2sP128, rows, cols)).map(|_| rng.next_u64() as u8).collect();
        let acts = rng.i8s(tokens * cols);
        let weights = TernaryView::new(rows, cols, &codes, Layout::I2sP128, Scales::PerTensor(1.0)).unwrap();
        let mut quantized = QuantizedActs::new(tokens, cols);
        quantized.set_raw(cols, &acts, &vec![1.0; tokens]);
        let mut sums = vec![0; tokens * rows];
        ternary::matmul_i32(&Cpu::new(Isa::Scalar, 1), &quantized, weights, &mut sums);
        let expected: Vec<f32> = sums.iter().map(|&sum| sum as f32).collect();
        let steps_and_sums: Vec<[u32; 2]> =
            (0..tokens).map(|t| [1.0_f32.to_bits(), quantized.sum(t).cast_unsigned()]).collect();
        let params = Params::from(params::Ternary {
            rows: rows as u32,
            row_quads: 6,
            out_stride: rows as u32,
            part1: rows as u32,
            part2: rows as u32,
            scale0: 1.0,
            ..Default::default()
        });
        for lanes in [Lanes::Subgroup, Lanes::Workgroup] {
            for product in Product::ALL {
                let variant = Variant::new(shader, choices(lanes, product), None);
                if variant.choices.lanes != lanes {
                    continue; // it has one entry point only
                }
                let constants = if shader == Shader::TernaryMatmul { vec!["ADD"] } else { vec!["ADD", "GATE"] };
                runs.push(Run {
                    variant,
                    constants: constants.into_iter().map(|name| (name, 0.0)).collect(),
                    params: params.with(&Dynamic { tokens: tokens as u32, ..Dynamic::default() }),
                    buffers: vec![
                        codes.clone(),
                        bytemuck::cast_slice(&acts).to_vec(),
                        bytemuck::cast_slice(&steps_and_sums).to_vec(),
                        vec![0; 4 * tokens * rows],
                        vec![0; 4],
                    ],
                    grid,
                    result: (3, bytemuck::cast_slice(&expected).to_vec()),
                });
            }
        }
    }
    runs
}

/// Values of every magnitude into a cache of q8_0: the CPU's bytes. 64 elements are two blocks, whose two scales share
/// a word.
fn cache_runs(rng: &mut Rng) -> Vec<Run> {
    let (head_dim, tokens) = (64, 40);
    let values: Vec<f32> = (0..tokens * head_dim).map(|i| rng.f32() * 2.0_f32.powi((i / 32) as i32 / 2 - 20)).collect();
    let mut cache = KvCache::new(1, head_dim, tokens, KvType::Q8_0, KvType::Q8_0);
    let rows = [Placed { cache: 0, start: 0, tokens, is_prompt: true }];
    append(&Cpu::new(Isa::Scalar, 1), slice::from_mut(&mut cache), &rows, &values, &values);
    let [KvRows::Q8_0 { codes, scales }, _] = cache.read(0..tokens) else { panic!("rows of q8_0") };
    let heads = codes.chunks_exact(head_dim).zip(scales.chunks_exact(2));
    let expected = heads
        .flat_map(|(codes, scales)| [bytemuck::cast_slice::<i8, u8>(codes), bytemuck::cast_slice(scales)].concat())
        .collect();
    let zeros = vec![0.0; head_dim];
    let x: Vec<f32> = values.chunks_exact(head_dim).flat_map(|head| [&zeros[..], &zeros, head].concat()).collect();
    let params = Params::from(params::RopeAppend {
        heads: 1,
        kv_heads: 1,
        stride: 3 * head_dim as u32,
        k_offset: head_dim as u32,
        v_offset: 2 * head_dim as u32,
        ..Default::default()
    });
    let cache_bytes = tokens * (head_dim + 4);
    // Four words for `damage`; then of each token its id, its position, the sequence's first token and the row of its cache.
    let placed = (0..tokens as u32).flat_map(|position| [0, position, 0, 0]);
    let batch = bytemuck::cast_slice(&[0; 4].into_iter().chain(placed).collect::<Vec<u32>>()).to_vec();
    vec![Run {
        variant: Variant::new(Shader::RopeAppend, choices(Lanes::Workgroup, Product::Int8), None),
        constants: vec![("HEAD_DIM", head_dim as f64), ("K_TYPE", 2.0), ("V_TYPE", 2.0)],
        params: params.with(&Dynamic { tokens: tokens as u32, ..Dynamic::default() }),
        buffers: vec![
            bytemuck::cast_slice(&x).to_vec(),
            vec![0; cache_bytes],
            vec![0; cache_bytes],
            vec![0; 4],
            vec![0; 4],
            vec![0; 4],
            batch,
        ],
        grid: [3, tokens, 1],
        result: (2, expected),
    }]
}

/// Runs without a browser too: a constant that this file does not know is found by every run of the tests.
#[test]
fn every_pipeline_constant_has_values_here() {
    for program in Shader::ALL.iter().flat_map(|shader| shader.programs()) {
        assert!(variants(program).iter().all(|variant| !constant_sets(variant).is_empty()), "{program:?}");
    }
}

#[test]
fn chromium_compiles_every_shader_and_gives_the_reference_numbers() {
    let Some(program) = std::env::var_os("BITNET_CHROMIUM") else {
        eprintln!("skipped: BITNET_CHROMIUM does not name a browser (./check --browser)");
        return;
    };
    let mut page = Page::default();
    for program in Shader::ALL.iter().flat_map(|shader| shader.programs()) {
        add_pipelines(&mut page, program);
    }
    let mut rng = Rng::new(41);
    for run in ternary_runs(&mut rng).into_iter().chain(cache_runs(&mut rng)) {
        page.run(&run);
    }
    let (pipelines, runs) = (page.pipelines(), page.runs());
    let report = program::report_of(&program, &page.html());
    let count = |what: &str| report[what].as_u64().unwrap_or(0) as usize;
    eprintln!("{}: {pipelines} pipelines, {runs} runs", report["adapter"].as_str().unwrap_or("no adapter"));
    assert_eq!(report["faults"], serde_json::json!([]), "messages of the compiler and wrong results");
    assert_eq!((count("pipelines"), count("runs")), (pipelines, runs), "{report}");
}
