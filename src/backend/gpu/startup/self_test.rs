//! Start-up: whether this GPU computes rightly, and which of the equal ways to compute is the fastest on it.
//!
//! In: an open GPU. Out: the [`Choices`] it is used with, or [`Error::NoAdapter`] with a reason. A driver that gets
//! this wrong would write garbage text. Whole numbers are compared with `==`, a layer by its distance from the scalar
//! reference. A result is kept in the user's cache, for as long as adapter, driver and kernels stay the same.

use std::{fmt, ops::Range, sync::Arc};

use bitnet_cpu_kernels::Isa;
use serde::{Deserialize, Serialize};

use super::{debug, measure, timing::time_us};
use crate::{
    backend::{
        Activations, Backend, Batch, Scored, Want,
        cpu::CpuBackend,
        gpu::{
            device::{Fault, Geometry, Gpu, Measure, OpenOptions},
            kernels::{
                params,
                pipelines::{Choices, Input, Lanes, Product, Program, Shader, Tile, Variant},
            },
            record::encode::{Builder, Extent},
        },
        known_layer::{self, DIM, TOKENS},
        known_product::KnownProduct,
    },
    cache_dir::StableHash,
    error::{Error, Result},
    plan::{BackendKind, KvType, Segment, Sizes},
    steady::Steady,
};

/// The area of the user's cache.
const AREA: &str = "gpu-test";

/// The kernels that differ between candidates.
fn products() -> [Program; 4] {
    [
        Shader::TernaryMatvec.into(),
        Shader::TernaryFew.into(),
        Shader::TernaryMatvec.reading(Input::Slot),
        Shader::TernaryMatmul.into(),
    ]
}

/// A way to compute, with what it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TestedChoices {
    /// Which kernels.
    pub choices: Choices,
    /// Microseconds for a product of one token, and of 64 tokens; `None` where nothing was measured.
    pub us: Option<[f64; 2]>,
    /// Whether one round of measurements agreed with another.
    pub agreed: bool,
}

impl fmt::Display for TestedChoices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.choices.fmt(f)?;
        match self.us {
            Some([matvec, matmul]) => write!(f, ": {matvec:.0} us a token, {matmul:.0} us for 64 tokens of a prompt"),
            None => Ok(()),
        }
    }
}

/// Result of the self-test that is kept for later runs.
#[derive(Serialize, Deserialize)]
struct Passed {
    lanes: Lanes,
    product: Product,
    tile: Tile,
    geometry: Geometry,
}

/// Tests `gpu` and gives it the fastest choices; `backend` makes the backend that is tested. Returns what was compared:
/// nothing where an earlier run has done it.
pub(crate) fn prepare(
    mut gpu: Gpu,
    options: &OpenOptions,
    backend: impl Fn(&Arc<Gpu>) -> Box<dyn Backend>,
) -> Result<(Arc<Gpu>, Vec<TestedChoices>)> {
    let key = key(&gpu, options);
    if let Some(Passed { lanes, product, tile, geometry }) = options.cache.get(AREA, &key) {
        gpu.choose(Choices { lanes, product, tile, ..gpu.choices() });
        gpu.set_geometry(geometry);
        return Ok((Arc::new(gpu), Vec::new()));
    }
    let timed = match options.measure {
        Measure::Never => false,
        Measure::Hardware => !gpu.caps().software,
        Measure::Always => true,
    };
    let known = KnownProduct::new();
    let mut compared = compare(&gpu, candidates(&gpu, timed), &known, timed)?;
    if let Some(further) = further(&gpu, &compared) {
        match tested(&gpu, further, &known, timed)? {
            Ok(right) => compared.push(right),
            Err(fault) => note_fault(&gpu, &fault),
        }
    }
    gpu.choose(fastest(&compared));
    let mut agreed = compared.iter().all(|choices| choices.agreed);
    if timed && gpu.tuning().geometry.is_none() {
        let geometry = measure::measure(&gpu, &known)?;
        gpu.set_geometry(geometry.value);
        agreed &= geometry.agreed;
    }
    let gpu = Arc::new(gpu);
    gpu.set_testing(true);
    test_layer(&gpu, &mut *backend(&gpu))?;
    // Nobody waits for the kernels of the head on a software adapter but who asks.
    if !gpu.caps().software || options.measure == Measure::Always {
        test_head(&gpu, &mut *backend(&gpu))?;
    }
    gpu.set_testing(false);
    // A software adapter shares the processor with everything else.
    if agreed || gpu.caps().software {
        let Choices { lanes, product, tile, .. } = gpu.choices();
        options.cache.put(AREA, &key, &Passed { lanes, product, tile, geometry: gpu.geometry() });
    } else {
        let caps = gpu.caps();
        gpu.add_note(format!("{caps}: times differ from round to round, as something else uses it: none is kept"));
    }
    Ok((gpu, compared))
}

/// All that a result depends on. With the kernels' text, so that a new build of the program tests anew.
fn key(gpu: &Gpu, options: &OpenOptions) -> String {
    let texts = Shader::ALL.iter().flat_map(|shader| shader.programs());
    let products = gpu.choices().products();
    let texts = texts.flat_map(|program| products.map(|choices| Variant::new(program, choices, None).compose()));
    let hash = texts.fold(StableHash::new(), |hash, text| hash.with(text.as_bytes())).value();
    let (caps, choices, measure) = (gpu.caps(), gpu.choices(), options.measure);
    let cut = gpu.tuning().geometry;
    format!("{} | {caps} | {choices} | {cut:?} | timed {measure:?} | {hash:016x}", env!("CARGO_PKG_VERSION"))
}

/// The candidates: the choices of the device, and with `all` those that differ from them and are not fixed by its
/// tuning.
fn candidates(gpu: &Gpu, all: bool) -> Vec<Choices> {
    let own = gpu.choices();
    let mut lanes = vec![own.lanes];
    if all && own.lanes == Lanes::Subgroup && gpu.tuning().subgroups.is_none() {
        lanes.push(Lanes::Workgroup);
    }
    let mut products = vec![own.product];
    if all && gpu.tuning().product.is_none() {
        products.push(if own.product == Product::Int8 { Product::F32 } else { Product::Int8 });
    }
    let with = |lanes| products.iter().map(move |&product| Choices { lanes, product, ..own });
    lanes.into_iter().flat_map(with).collect()
}

/// A candidate more, by what was the fastest. Where int8 is, the device has instructions for it, and tiles may be read by
/// vectors. Where f32 is, products of signed int8 are made of other instructions: those of unsigned ones may be fewer, or be
/// instructions of the device.
fn further(gpu: &Gpu, compared: &[TestedChoices]) -> Option<Choices> {
    let best = fastest(compared);
    let is_timed = compared.iter().any(|c| c.us.is_some());
    let has_both = compared.iter().any(|c| c.choices.product == Product::Int8);
    let (product, tile) = (gpu.tuning().product, gpu.tuning().tile);
    match best.product {
        Product::Int8 if is_timed && tile.is_none() => Some(Choices { tile: Tile::Vectors, ..best }),
        Product::F32 if is_timed && has_both && product.is_none() => Some(Choices { product: Product::Uint8, ..best }),
        _ => None,
    }
}

/// The candidates that get every number right, measured if asked for. Where some do not, a note says so.
fn compare(gpu: &Gpu, candidates: Vec<Choices>, known: &KnownProduct, measure: bool) -> Result<Vec<TestedChoices>> {
    let mut right = Vec::new();
    let mut faults = Vec::new();
    for choices in candidates {
        match tested(gpu, choices, known, measure)? {
            Ok(own) => right.push(own),
            Err(fault) => faults.push(fault),
        }
    }
    match faults.first() {
        Some(fault) if right.is_empty() => return Err(failed(gpu, fault)),
        _ => {}
    }
    faults.iter().for_each(|fault| note_fault(gpu, fault));
    Ok(right)
}

/// A candidate, measured if asked for, or what it gets wrong.
fn tested(
    gpu: &Gpu,
    choices: Choices,
    known: &KnownProduct,
    measure: bool,
) -> Result<std::result::Result<TestedChoices, String>> {
    if let Some(fault) = product_fault(gpu, known, choices)? {
        return Ok(Err(format!("{fault} (with {choices})")));
    }
    if !measure {
        return Ok(Ok(TestedChoices { choices, us: None, agreed: true }));
    }
    let us = [product_us(gpu, choices, 1)?, product_us(gpu, choices, 64)?];
    let agreed = us.iter().all(|us| us.agreed);
    Ok(Ok(TestedChoices { choices, us: Some(us.map(|us| us.value)), agreed }))
}

fn note_fault(gpu: &Gpu, fault: &str) {
    gpu.add_note(format!("{} failed the self-test of {fault}: other kernels are used", gpu.caps()));
}

fn failed(gpu: &Gpu, fault: &str) -> Error {
    Error::NoAdapter { reason: format!("{} failed the self-test of {fault}", gpu.caps()) }
}

fn product_fault(gpu: &Gpu, known: &KnownProduct, choices: Choices) -> Result<Option<String>> {
    for program in products() {
        let mut found = debug::ternary_product(gpu, program, choices, &known.weights(), &known.acts)?;
        if gpu.tuning().fault_of(None) == Some(Fault::SelfTest) {
            found[0] += 1;
        }
        if let Some(fault) = known.fault(&found) {
            return Ok(Some(format!("{}: {fault}", program.name())));
        }
    }
    Ok(None)
}

/// The one with the least sum of both times, each relative to the best: an answer and its prompt count alike.
fn fastest(candidates: &[TestedChoices]) -> Choices {
    let best = |i: usize| candidates.iter().filter_map(|c| Some(c.us?[i])).fold(f64::INFINITY, f64::min);
    let best = [best(0), best(1)];
    let cost = |c: &TestedChoices| c.us.map_or(f64::INFINITY, |us| us[0] / best[0] + us[1] / best[1]);
    let least = candidates.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)));
    least.unwrap_or_else(|| unreachable!("compare gives one at least")).choices
}

/// Columns of the timed products: the width of BitNet b1.58 2B-4T.
const COLS: usize = 2560;
/// Rows for one token: 2.6 MB of codes, more than the second-level cache of most integrated GPUs.
const MATVEC_ROWS: usize = 4096;
/// Rows for 64 tokens, which take more time each.
const MATMUL_ROWS: usize = 1024;
/// Microseconds of a product of `tokens`.
fn product_us(gpu: &Gpu, choices: Choices, tokens: usize) -> Result<Steady<f64>> {
    let (shader, rows) =
        if tokens == 1 { (Shader::TernaryMatvec, MATVEC_ROWS) } else { (Shader::TernaryMatmul, MATMUL_ROWS) };
    let usage = wgpu::BufferUsages::STORAGE;
    let sizes = [rows * COLS / 4, tokens * COLS, tokens * 8, tokens * rows * 4, 16];
    let buffers =
        sizes.iter().map(|&bytes| gpu.buffer("timed product", bytes as u64, usage)).collect::<Result<Vec<_>>>()?;
    let bindings: Vec<_> = buffers.iter().map(wgpu::Buffer::as_entire_buffer_binding).collect();
    let params = params::Ternary {
        rows: rows as u32,
        row_quads: (COLS / 64) as u32,
        out_stride: rows as u32,
        part1: rows as u32,
        part2: rows as u32,
        ..Default::default()
    };
    let grid = match shader {
        Shader::TernaryMatvec => [rows.div_ceil(Program::from(shader).workgroup() as usize / 4), 1, 1],
        _ => [rows.div_ceil(64), tokens.div_ceil(64), 1],
    };
    let mut builder = Builder::new(gpu);
    let dispatch =
        builder.dispatch(Variant::new(shader, choices, None), &[], params, &bindings, grid.map(Extent::Fixed))?;
    time_us(gpu, builder, &[dispatch], tokens)
}

/// How far a layer may be from the scalar reference, as the norm of the difference over the norm of the result. A few
/// activations that round to the next step give 0.001; a wrong formula 0.1 and more.
const MOST_DIFFERENCE: f64 = 0.02;

/// Runs a whole layer, a prompt and a token after it, and compares.
fn test_layer(gpu: &Gpu, backend: &mut dyn Backend) -> Result<()> {
    let expected = known_output(&mut CpuBackend::new(Isa::Scalar, 1))?;
    let found = known_output(backend)?;
    match layer_fault(&found, &expected) {
        Some(fault) => Err(failed(gpu, &fault)),
        None => Ok(()),
    }
}

/// The hidden states after the known layer.
fn known_output(backend: &mut dyn Backend) -> Result<Vec<f32>> {
    let model = Arc::new(known_layer::model());
    // The backend does not read its own kind.
    let segment = Segment { layers: 0..1, backend: BackendKind::Gpu, embed: false, head: false, reason: String::new() };
    let (k_type, v_type) = (KvType::F16, KvType::F16);
    let sizes = Sizes::new(TOKENS + 1, TOKENS).with_kv(k_type, v_type);
    let id = backend.load(&model, &segment, &sizes, &mut |_| {})?;
    let mut run = |positions: Range<usize>| -> Result<Vec<f32>> {
        let hidden = known_layer::input(positions.clone());
        let mut activations = Activations { hidden, ..Activations::default() };
        backend.run(id, &Batch::one(positions, Want::Nothing), &mut activations)?;
        Ok(activations.hidden)
    };
    Ok([run(0..TOKENS)?, run(TOKENS..TOKENS + 1)?].concat())
}

/// Runs a token through the layer and a head, and compares the logits with the reference, and what is found through the screen
/// with the logits.
fn test_head(gpu: &Gpu, backend: &mut dyn Backend) -> Result<()> {
    let expected = known_head(&mut CpuBackend::new(Isa::Scalar, 1), Want::Last)?;
    let found = known_head(backend, Want::Last)?;
    let mut fault = head_fault(&found.logits, &expected.logits);
    for count in [1, SCREENED] {
        let through_screen = known_head(backend, Want::Top(count))?;
        fault = fault.or_else(|| choice_fault(&through_screen.top, &found.logits, count));
    }
    match fault {
        Some(fault) => Err(failed(gpu, &fault)),
        None => Ok(()),
    }
}

/// Candidates that the screen serves in one way; 1 is the other.
const SCREENED: usize = 4;

/// Output of a head: all logits, or the highest.
struct KnownHead {
    logits: Vec<f32>,
    top: Vec<Scored>,
}

fn known_head(backend: &mut dyn Backend, want: Want) -> Result<KnownHead> {
    let model = Arc::new(known_layer::model_with_head());
    let segment = Segment { layers: 0..1, backend: BackendKind::Gpu, embed: false, head: true, reason: String::new() };
    let sizes = Sizes { head_screen: true, ..Sizes::new(1, 1).with_kv(KvType::F16, KvType::F16) };
    let id = backend.load(&model, &segment, &sizes, &mut |_| {})?;
    let mut activations = Activations { hidden: known_layer::input(0..1), ..Activations::default() };
    backend.run(id, &Batch::one(0..1, want), &mut activations)?;
    let top = activations.rows.first().map(|row| row.candidates.top.clone()).unwrap_or_default();
    Ok(KnownHead { logits: activations.logits, top })
}

fn head_fault(found: &[f32], expected: &[f32]) -> Option<String> {
    let relative = distance(found, expected);
    // Written so that NaN, and a missing logit, are faults.
    let fine = found.len() == expected.len() && relative <= MOST_DIFFERENCE;
    (!fine).then(|| format!("a head: expected at most {MOST_DIFFERENCE} from the reference, found {relative:.3}"))
}

/// Fault of the highest logits, which have to be the first of a full sort with the same values.
fn choice_fault(top: &[Scored], logits: &[f32], count: usize) -> Option<String> {
    let mut sorted: Vec<Scored> =
        logits.iter().enumerate().map(|(id, &logit)| Scored { id: id as u32, logit }).collect();
    sorted.sort_by(Scored::by_rank);
    let pairs = top.iter().zip(&sorted).take(count);
    let fine = top.len() >= count && pairs.clone().all(|(a, b)| a.id == b.id && a.logit == b.logit);
    (!fine).then(|| {
        let ids = |list: &[Scored]| list.iter().take(count).map(|scored| scored.id).collect::<Vec<_>>();
        format!("the screen of a head: expected tokens {:?}, found {:?}", ids(&sorted), ids(top))
    })
}

/// The norm of the difference over the norm of what is expected.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut expected.iter().map(|&b| f64::from(b)))
}

/// Fault of the layer's output, separately for the prompt and the token after it, as different kernels compute them.
fn layer_fault(found: &[f32], expected: &[f32]) -> Option<String> {
    let parts = [("a prompt", 0..TOKENS * DIM), ("a token with attention over a prompt", TOKENS * DIM..expected.len())];
    parts.into_iter().find_map(|(part, range)| {
        let relative = distance(found.get(range.clone())?, &expected[range]);
        // Written so that NaN is a fault.
        let fine = relative <= MOST_DIFFERENCE;
        (!fine).then(|| {
            format!("a layer, {part}: expected at most {MOST_DIFFERENCE} from the reference, found {relative:.3}")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::gpu::{GpuBackend, Tuning},
        cache_dir::Cache,
    };

    fn backend(gpu: &Arc<Gpu>) -> Box<dyn Backend> {
        Box::new(GpuBackend::on(Arc::clone(gpu)))
    }

    fn options(measure: Measure, cache: Cache) -> OpenOptions {
        OpenOptions { software_allowed: true, measure, cache, ..OpenOptions::default() }
    }

    fn open(tuning: Tuning) -> Option<Gpu> {
        match Gpu::open(&OpenOptions { tuning, ..options(Measure::Never, Cache::none()) }) {
            Ok(gpu) => Some(gpu),
            Err(error) => {
                assert!(std::env::var_os("BITNET_REQUIRE_GPU").is_none(), "a GPU is required: {error}");
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    #[test]
    fn every_candidate_is_tested_and_the_fastest_is_kept() {
        let Some(gpu) = open(Tuning::default()) else { return };
        let temporary = tempfile::tempdir().unwrap();
        let cache = Cache::at(temporary.path());
        let expected = candidates(&gpu, true);
        assert!(expected.len() >= 2, "{expected:?}");
        let (first, compared) = prepare(gpu, &options(Measure::Always, cache.clone()), backend).unwrap();
        let choices: Vec<_> = compared.iter().map(|c| c.choices).collect();
        assert_eq!(choices[..expected.len()], expected);
        let is_further = |c: &Choices| c.product == Product::Uint8 || c.tile == Tile::Vectors;
        assert!(choices[expected.len()..].iter().all(is_further), "{choices:?}");
        assert!(compared.iter().all(|c| c.us.is_some_and(|us| us.iter().all(|&us| us > 0.0))), "{compared:?}");
        assert_eq!(first.choices(), fastest(&compared));
        let Geometry { workgroup, folded_workgroups, .. } = first.geometry();
        assert!([64, 128, 256].contains(&workgroup) && [216, 108, 54, 27].contains(&folded_workgroups));

        // Known from now on, for this key only.
        let (second, compared) =
            prepare(open(Tuning::default()).unwrap(), &options(Measure::Always, cache.clone()), backend).unwrap();
        assert_eq!((second.choices(), compared), (first.choices(), Vec::new()));
        assert_eq!(second.geometry(), first.geometry());
        let cut = Geometry { workgroup: 128, folded_workgroups: 3, fold: false };
        let fixed =
            Tuning { product: Some(Product::F32), subgroups: Some(false), geometry: Some(cut), ..Tuning::default() };
        let (third, compared) = prepare(open(fixed).unwrap(), &options(Measure::Always, cache), backend).unwrap();
        assert_eq!(compared.len(), 1, "nothing is left to choose: {compared:?}");
        assert_eq!((third.choices().lanes, third.choices().product), (Lanes::Workgroup, Product::F32));
        assert_eq!(third.geometry(), cut);
    }

    #[test]
    fn a_wrong_product_refuses_the_adapter() {
        let Some(gpu) = open(Tuning::default()) else { return };
        let error = compare(&gpu, candidates(&gpu, true), &KnownProduct::wrong(), false).unwrap_err();
        let Error::NoAdapter { reason } = error else { panic!("{error}") };
        assert!(reason.contains("failed the self-test of ternary_matvec_i2s: expected"), "{reason}");
    }

    #[test]
    fn a_layer_is_judged_by_its_distance() {
        let expected: Vec<f32> = (0..(TOKENS + 1) * DIM).map(|i| (i % 7) as f32 - 3.0).collect();
        assert_eq!(layer_fault(&expected, &expected), None);
        let mut close = expected.clone();
        close[5] += 0.01;
        assert_eq!(layer_fault(&close, &expected), None);
        let mut wrong = expected.clone();
        wrong[TOKENS * DIM + 3] += 4.0;
        assert!(layer_fault(&wrong, &expected).unwrap().contains("a token with attention"));
        wrong[7] = f32::NAN;
        assert!(layer_fault(&wrong, &expected).unwrap().contains("a layer, a prompt: expected at most 0.02"));
    }

    #[test]
    fn a_head_is_judged_by_its_distance_and_its_screen_by_the_tokens() {
        let logits = [0.5, 2.0, -1.0, 1.5];
        assert_eq!(head_fault(&logits, &logits), None);
        assert!(head_fault(&[0.5, 2.0, -1.0, 0.0], &logits).unwrap().contains("a head: expected at most 0.02"));
        assert!(head_fault(&[0.5, 2.0, f32::NAN, 1.5], &logits).is_some() && head_fault(&[], &logits).is_some());
        let scored = |id: u32| Scored { id, logit: logits[id as usize] };
        assert_eq!(choice_fault(&[scored(1), scored(3)], &logits, 2), None);
        for wrong in [&[scored(1)][..], &[scored(1), scored(0)], &[scored(1), Scored { id: 3, logit: 1.4 }]] {
            let fault = choice_fault(wrong, &logits, 2).unwrap();
            assert!(fault.contains("the screen of a head: expected tokens [1, 3]"), "{fault}");
        }
    }

    #[test]
    fn what_else_is_tried_follows_from_the_fastest() {
        let Some(gpu) = open(Tuning::default()) else { return };
        let own = gpu.choices();
        let compared = |int8: f64, f32: f64| {
            [(Product::Int8, int8), (Product::F32, f32)].map(|(product, us)| TestedChoices {
                choices: Choices { product, ..own },
                us: Some([us, us]),
                agreed: true,
            })
        };
        let unsigned = Choices { product: Product::Uint8, ..own };
        assert_eq!(further(&gpu, &compared(2.0, 1.0)), Some(unsigned));
        let vectors = Choices { product: Product::Int8, tile: Tile::Vectors, ..own };
        assert_eq!(further(&gpu, &compared(1.0, 2.0)), Some(vectors));
        // Without a comparison there is nothing to conclude from.
        assert_eq!(further(&gpu, &compared(2.0, 1.0)[1..]), None);
        assert_eq!(further(&gpu, &[TestedChoices { choices: own, us: None, agreed: true }]), None);
        let Some(fixed) = open(Tuning { product: Some(Product::F32), ..Tuning::default() }) else { return };
        assert_eq!(further(&fixed, &compared(2.0, 1.0)), None);
        let Some(fixed) = open(Tuning { tile: Some(Tile::Words), ..Tuning::default() }) else { return };
        assert_eq!(further(&fixed, &compared(1.0, 2.0)), None);
    }

    #[test]
    fn the_fastest_is_so_in_both_phases_together() {
        let Some(gpu) = open(Tuning::default()) else { return };
        let all = candidates(&gpu, true);
        let with = |us: [[f64; 2]; 2]| {
            let candidates: Vec<_> =
                (0..2).map(|i| TestedChoices { choices: all[i], us: Some(us[i]), agreed: true }).collect();
            all.iter().position(|&choices| choices == fastest(&candidates)).unwrap()
        };
        assert_eq!(with([[10.0, 100.0], [11.0, 50.0]]), 1);
        assert_eq!(with([[10.0, 100.0], [25.0, 90.0]]), 0);
    }
}
