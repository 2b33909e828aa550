//! Every kernel variant with inputs of its own: one [`Case`] each, on shapes of BitNet b1.58 2B-4T.

use std::{hint::black_box, slice};

use bitnet_cpu_kernels::{
    Cpu, Isa,
    attention::{KvCache, KvType, Placed, append, attend},
    ceiling, dense,
    format::{DenseType, DenseView, GROUP_SIZES, Layout, Scales, TernaryView, ternary_bytes},
    gate, norm,
    quantize::{QuantizedActs, norm_quantize},
    screen::{Screen, Top},
    ternary,
    testing::Rng,
};
use half::f16;

/// Something to time.
pub struct Case {
    pub name: String,
    pub isa: Isa,
    pub work: Work,
    pub run: Box<dyn FnMut(&Cpu)>,
}

/// Work of one run of a case, which decides its ceiling.
#[derive(Clone, Copy, PartialEq)]
pub enum Work {
    /// Reads this many bytes that are in no cache.
    Bytes(u64),
    /// Adds this many products of a code and a value.
    TernaryMacs(u64),
    /// Neither: f32 arithmetic on cached data.
    Values(u64),
}

const COLS: usize = 2560;

/// Weights that a cold case reads in one run: few enough that most runs are not interrupted.
const COLD_BYTES: usize = 8 << 20;

/// Successive runs read successive stretches of this much, far more than the caches hold.
const ALL_BYTES: usize = 256 << 20;

/// The case of the copy of a head.
const SCREEN: &str = "head screen, cold";

/// Rows of a head whose copy is larger than the caches.
const SCREENED_ROWS: usize = 32768;

fn random_acts(tokens: usize, cols: usize) -> QuantizedActs {
    let mut acts = QuantizedActs::new(tokens, cols);
    acts.set_raw(cols, &Rng::new(1).i8s(tokens * cols), &vec![0.01; tokens]);
    acts
}

fn random_codes(rows: usize, cols: usize) -> Vec<u8> {
    let bytes = ternary_bytes(Layout::I2sP128, rows, cols);
    let mut rng = Rng::new(2);
    // Ternary codes four to a byte: no pair of bits is 3.
    let words = (0..bytes.div_ceil(8)).flat_map(|_| {
        let bits = rng.next_u64();
        let threes = bits & bits >> 1 & 0x5555_5555_5555_5555;
        (bits & !(threes | threes << 1)).to_le_bytes()
    });
    words.take(bytes).collect()
}

/// A ternary product: several tokens read the same rows of codes over and over, a single one reads rows that are in no
/// cache. In a lookup layout, the codes are some other ones.
fn ternary_case(
    isa: Isa,
    name: &str,
    layout: Layout,
    (tokens, rows, cols): (usize, usize, usize),
    codes: &'static [u8],
) -> Case {
    let bytes = ternary_bytes(layout, rows, cols);
    let view = move |rows, codes| TernaryView::new(rows, cols, codes, layout, Scales::PerTensor(1.0)).expect("sizes");
    let acts = random_acts(tokens, cols);
    let mut out = vec![0.0; tokens * rows];
    // Some rows and all tokens, against the reference.
    let check = if layout.is_lookup() { rows } else { 40.min(rows) };
    let mut sums = [vec![0; tokens * check], vec![0; tokens * check]];
    for (isa, sums) in [Isa::Scalar, isa].into_iter().zip(&mut sums) {
        ternary::matmul_i32(&Cpu::new(isa, 1), &acts, view(check, &codes[..bytes / rows * check]), sums);
    }
    assert_eq!(sums[0], sums[1], "{name}, {isa}");
    let mut stretches = codes.chunks_exact(bytes).cycle();
    let mut stretch = &codes[..bytes];
    Case {
        name: name.to_owned(),
        isa,
        work: if tokens == 1 { Work::Bytes(bytes as u64) } else { Work::TernaryMacs((tokens * rows * cols) as u64) },
        run: Box::new(move |cpu| {
            if tokens == 1 {
                stretch = stretches.next().expect("a cycle");
            }
            ternary::matmul(
                cpu,
                &acts,
                &mut [ternary::Part { weights: view(rows, stretch), out: &mut out, add: false }],
            );
        }),
    }
}

/// Lookups of one token, cold and from the caches, and of a few. Rows are those of about as many bytes as the cases of
/// whole codes read, in tiles of 64 and of 256.
fn lookup_cases(isa: Isa, codes: &'static [u8]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (cols, tile) in [(COLS, 32), (COLS, 64), (COLS, 256), (6912, 64), (6912, 256)] {
        for (kind, layout) in [("tl1", Layout::tl1 as fn(usize, usize, usize) -> Layout), ("tl2", Layout::tl2)] {
            let rows = COLD_BYTES / (cols / 4) / 256 * 256;
            let name = format!("{kind} of {tile}: 1 x {rows} x {cols}, cold");
            cases.push(ternary_case(isa, &name, layout(rows, cols, tile), (1, rows, cols), codes));
            if (cols, tile) == (COLS, 64) {
                for (tokens, rows) in [(2, 2560), (4, 2560), (5, 2560), (128, 320)] {
                    let name = format!("{kind} of {tile}: {tokens} x {rows} x {cols}");
                    cases.push(ternary_case(isa, &name, layout(rows, cols, tile), (tokens, rows, cols), codes));
                }
            }
        }
    }
    cases
}

/// As [`ternary_case`], with a scale for every `size` columns; its work is counted in the same units: scales are not.
fn grouped_case(isa: Isa, size: usize, tokens: usize, rows: usize, cols: usize, codes: &'static [u8]) -> Case {
    let bytes = ternary_bytes(Layout::I2sR16, rows, cols);
    let groups = cols / size;
    let one = ternary_case(isa, "", Layout::I2sP128, (tokens, rows, cols), codes);
    let mut acts = QuantizedActs::with_group(tokens, cols, Some(size));
    acts.set_raw(cols, &Rng::new(1).i8s(tokens * cols), &vec![0.01; tokens * groups]);
    let scales: &'static [f16] = vec![f16::from_f32(0.37); codes.len() * 4 / size].leak();
    let groups_of = move |rows: usize| rows.next_multiple_of(16) * groups;
    let view = move |rows: usize, codes, scales: &'static [f16]| {
        let scales = Scales::PerGroup { size, values: &scales[..groups_of(rows)] };
        TernaryView::new(rows, cols, codes, Layout::I2sR16, scales).expect("sizes")
    };
    let check = 40.min(rows);
    let mut products = [vec![0.0; tokens * check], vec![0.0; tokens * check]];
    for (isa, out) in [Isa::Scalar, isa].into_iter().zip(&mut products) {
        let weights = view(check, &codes[..ternary_bytes(Layout::I2sR16, check, cols)], scales);
        ternary::matmul(&Cpu::new(isa, 1), &acts, &mut [ternary::Part { weights, out, add: false }]);
    }
    assert_eq!(products[0], products[1], "groups of {size}, {isa}");
    let mut out = vec![0.0; tokens * rows];
    let mut stretches = codes.chunks_exact(bytes).zip(scales.chunks_exact(groups_of(rows))).cycle();
    let mut stretch = (&codes[..bytes], scales);
    let cold_mark = if tokens == 1 { ", cold" } else { "" };
    Case {
        name: format!("grouped {size}: {tokens} x {rows} x {cols}{cold_mark}"),
        run: Box::new(move |cpu| {
            if tokens == 1 {
                stretch = stretches.next().expect("a cycle");
            }
            let weights = view(rows, stretch.0, stretch.1);
            ternary::matmul(cpu, &acts, &mut [ternary::Part { weights, out: &mut out, add: false }]);
        }),
        ..one
    }
}

fn head_case(isa: Isa, name: &str, ty: DenseType, data: &'static [u8]) -> Case {
    let rows = COLD_BYTES / ty.row_bytes(COLS);
    let bytes = rows * ty.row_bytes(COLS);
    let x = Rng::new(3).floats(COLS);
    let mut out = vec![0.0; rows];
    let mut stretches = data.chunks_exact(bytes).cycle();
    Case {
        name: name.to_owned(),
        isa,
        work: Work::Bytes(bytes as u64),
        run: Box::new(move |cpu| {
            let stretch = stretches.next().expect("a cycle");
            dense::matmul(cpu, DenseView::new(rows, COLS, stretch, ty).expect("sizes"), &x, &mut out);
        }),
    }
}

/// The highest products of a head's rows with each of `tokens` tokens by their copy in 6 bits, and the rows that it
/// leaves. What is read is counted by the copy.
fn screen_case(isa: Isa, head: &'static [u8], tokens: usize) -> Case {
    let ty = DenseType::F16;
    let rows = head.len() / ty.row_bytes(COLS);
    let head = DenseView::new(rows, COLS, head, ty).expect("sizes");
    let mut screen = Screen::new(&Cpu::new(isa, 1), head, tokens).expect("finite weights");
    let x = Rng::new(3).floats(tokens * COLS);
    let mut tops = vec![Top { count: 1, ..Top::default() }; tokens];
    Case {
        name: format!("{SCREEN}, {tokens} tokens"),
        isa,
        work: Work::Bytes(Screen::bytes(isa, rows, COLS, ty) as u64),
        run: Box::new(move |cpu| screen.top_rows(cpu, head, &x, black_box(&mut tops))),
    }
}

fn attention_case(isa: Isa, ty: KvType, tokens: usize, before: usize) -> Case {
    let (heads, kv_heads, head_dim) = (20, 5, 128);
    let mut rng = Rng::new(4);
    let cpu = Cpu::new(isa, 1);
    let mut cache = KvCache::new(kv_heads, head_dim, before + tokens, ty, ty);
    let width = kv_heads * head_dim;
    let (k, v) = (rng.floats((before + tokens) * width), rng.floats((before + tokens) * width));
    append(
        &cpu,
        slice::from_mut(&mut cache),
        &[Placed { cache: 0, start: 0, tokens: before + tokens, is_prompt: true }],
        &k,
        &v,
    );
    let q = rng.floats(tokens * heads * head_dim);
    let mut out = vec![0.0; q.len()];
    // Each pair of a query and a key costs two products an element.
    let pairs = (0..tokens).map(|t| before + t + 1).sum::<usize>();
    Case {
        name: format!("attention {tokens} at {before}, {ty:?}"),
        isa,
        work: Work::Values((pairs * heads * head_dim * 2) as u64),
        run: Box::new(move |cpu| {
            let rows = [Placed { cache: 0, start: before, tokens, is_prompt: tokens > 1 }];
            attend(cpu, &q, heads, slice::from_ref(&cache), &rows, 0.088, &mut out);
        }),
    }
}

fn small_cases(isa: Isa) -> [Case; 4] {
    let mut rng = Rng::new(5);
    let (x, weight, up) = (rng.floats(6912), rng.floats(6912), rng.floats(6912));
    let (mut acts, mut normed, mut gate_values) = (QuantizedActs::new(1, 6912), vec![0.0; 6912], rng.floats(6912));
    let (x2, weight2) = (x.clone(), weight.clone());
    let case =
        |name: &str, run: Box<dyn FnMut(&Cpu)>| Case { name: name.to_owned(), isa, work: Work::Values(6912), run };
    [
        case("pool: 8 empty chunks", Box::new(|cpu| cpu.pool().run(8, |chunk| _ = black_box(chunk)))),
        case("norm_quantize 6912", Box::new(move |cpu| norm_quantize(cpu, &x, 6912, Some(&weight), 1e-5, &mut acts))),
        case("rms_norm 6912", Box::new(move |cpu| norm::rms_norm(cpu, &x2, 6912, &weight2, 1e-5, &mut normed))),
        case(
            "silu 6912",
            Box::new(move |cpu| {
                gate_values.copy_from_slice(&up);
                gate::apply(cpu, gate::Kind::Silu, &mut gate_values, &up);
            }),
        ),
    ]
}

/// The ceilings, and the cases with `filter` in their names, of every instruction set that this processor has.
pub fn cases(filter: &str) -> Vec<Case> {
    let cold: &'static [u8] = random_codes(ALL_BYTES / (COLS / 4), COLS).leak();
    // From the first line of the cache on, as matrices are that were repacked.
    let cold = &cold[cold.as_ptr().align_offset(64)..];
    // Made only to be run: that takes a second.
    let screened: Option<&'static [u8]> = SCREEN.contains(filter).then(|| {
        let head: Vec<f16> = Rng::new(6).floats(SCREENED_ROWS * COLS).into_iter().map(f16::from_f32).collect();
        bytemuck::cast_slice(head.leak())
    });
    let mut cases = Vec::new();
    for isa in Isa::available() {
        let mut stretches = cold.chunks_exact(COLD_BYTES).cycle();
        cases.push(Case {
            name: "ceiling: read".to_owned(),
            isa,
            work: Work::Bytes(COLD_BYTES as u64),
            run: Box::new(move |cpu| _ = black_box(ceiling::read(cpu, stretches.next().expect("a cycle")))),
        });
        cases.push(Case {
            name: "ceiling: multiply-add".to_owned(),
            isa,
            work: Work::TernaryMacs(40_000 * 3072),
            run: Box::new(|cpu| _ = black_box(ceiling::multiply_add(cpu, 40_000))),
        });
        if isa == Isa::Scalar {
            continue;
        }
        for (tokens, rows, cols) in [
            (1, COLD_BYTES / (COLS / 4), COLS),
            (1, COLD_BYTES / (6912 / 4), 6912),
            (2, 2560, COLS),
            (3, 2560, COLS),
            (4, 2560, COLS),
            (5, 2560, COLS),
            (6, 2560, COLS),
            (8, 2560, COLS),
            (16, 1280, COLS),
            (128, 320, COLS),
            (128, 128, 6912),
        ] {
            let cold_mark = if tokens == 1 { ", cold" } else { "" };
            let name = format!("ternary {tokens} x {rows} x {cols}{cold_mark}");
            cases.push(ternary_case(isa, &name, Layout::I2sP128, (tokens, rows, cols), cold));
        }
        cases.extend(lookup_cases(isa, cold));
        for (tokens, rows, cols) in [
            (1, COLD_BYTES / ternary_bytes(Layout::Base3, 1, COLS), COLS),
            (1, COLD_BYTES / ternary_bytes(Layout::Base3, 1, 6912), 6912),
            (2, 2560, COLS),
            (4, 2560, COLS),
            (8, 2560, COLS),
            (16, 2560, COLS),
        ] {
            let cold_mark = if tokens == 1 { ", cold" } else { "" };
            let name = format!("base3: {tokens} x {rows} x {cols}{cold_mark}");
            cases.push(ternary_case(isa, &name, Layout::Base3, (tokens, rows, cols), cold));
        }
        for size in GROUP_SIZES {
            for (tokens, rows, cols) in
                [(1, COLD_BYTES / (COLS / 4) / 16 * 16, COLS), (4, 2560, COLS), (16, 1280, COLS), (128, 320, COLS)]
            {
                cases.push(grouped_case(isa, size, tokens, rows, cols, cold));
            }
        }
        for (name, ty) in [
            ("f16", DenseType::F16),
            ("q8_0", DenseType::Q8_0),
            ("q6_k", DenseType::Q6K),
            ("q4_k", DenseType::Q4K),
            ("q4_0", DenseType::Q4_0),
            ("q2_0", DenseType::Q2_0),
        ] {
            cases.push(head_case(isa, &format!("head {name}, cold"), ty, cold));
        }
        if let Some(head) = screened {
            cases.extend([1, 2, 4, 8].map(|tokens| screen_case(isa, head, tokens)));
        }
        for ty in [KvType::F16, KvType::Q8_0] {
            for (tokens, before) in [(1, 0), (1, 1024), (1, 4096), (1, 16384), (64, 64), (64, 4096)] {
                cases.push(attention_case(isa, ty, tokens, before));
            }
        }
        cases.extend(small_cases(isa));
    }
    cases.retain(|case| case.name.contains("ceiling") || case.name.contains(filter));
    cases
}
