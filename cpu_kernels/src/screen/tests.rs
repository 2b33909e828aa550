use half::{bf16, f16};

use super::{encode::code_at, *};
use crate::{
    format::{Codec, Dialect, Layout, MatrixScales, dense::encode_row, pack},
    testing::{Rng, cpus},
};

/// Types of ternary heads, the dialects that write them, and the columns that share a scale.
const TERNARY: [(DenseType, Dialect, usize); 5] = [
    (DenseType::TQ1_0, Dialect::TQ1_0, 256),
    (DenseType::TQ2_0, Dialect::TQ2_0, 256),
    (DenseType::Q2_0, Dialect::Q2_0, 64),
    (DenseType::Q2_0G128, Dialect::Q2_0G128, 128),
    (DenseType::PTQ1_0, Dialect::PTQ1_0, 128),
];

/// A ternary head (rows, cols) of `codes` and a scale for each group, by the encoder of files.
fn ternary_head(dialect: Dialect, size: usize, cols: usize, codes: &[u8], scales: &[f16]) -> Vec<u8> {
    let rows = codes.len() / cols;
    let scales = MatrixScales::PerGroup { size, values: scales.into() };
    let packed = pack(Layout::I2sP128, rows, cols, codes);
    Codec::new(dialect, rows, cols).unwrap().encode(&packed, &scales).unwrap()
}

/// The 6-bit codes of a screen.
fn six_bits(screen: &Screen) -> &[u8] {
    match &screen.copy {
        Copy::SixBits(codes) => codes,
        Copy::Ternary(_) => panic!("not in 6 bits"),
    }
}

/// `weights` (rows, cols) as the bytes of `ty`.
fn bytes_of(ty: DenseType, cols: usize, weights: &[f32]) -> Vec<u8> {
    match ty {
        DenseType::F32 => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
        DenseType::F16 => weights.iter().flat_map(|&w| f16::from_f32(w).to_le_bytes()).collect(),
        DenseType::BF16 => weights.iter().flat_map(|&w| bf16::from_f32(w).to_le_bytes()).collect(),
        _ => {
            let mut bytes = vec![0; ty.row_bytes(cols) * weights.len() / cols];
            for (row, bytes) in weights.chunks_exact(cols).zip(bytes.chunks_exact_mut(ty.row_bytes(cols))) {
                encode_row(ty, row, bytes).expect("finite weights");
            }
            bytes
        }
    }
}

/// The first `k` of all products by a full sort.
fn by_sorting(cpu: &Cpu, head: DenseView, x: &[f32], k: usize) -> Vec<Product> {
    let mut out = vec![0.0; head.rows];
    dense::matmul(cpu, head, x, &mut out);
    let mut all: Vec<Product> = out.iter().zip(0..).map(|(&value, row)| Product { row, value }).collect();
    all.sort_by(Product::by_rank);
    all.truncate(k);
    all
}

/// Checks the screen of `weights` against the sort on every variant; returns the rows computed exactly by the last.
#[track_caller]
fn check(what: &str, ty: DenseType, cols: usize, weights: &[f32], x: &[f32], k: usize) -> Option<usize> {
    let bytes = bytes_of(ty, cols, weights);
    check_head(what, DenseView::new(weights.len() / cols, cols, &bytes, ty).unwrap(), x, k)
}

/// As [`check`], for a head that exists already.
#[track_caller]
fn check_head(what: &str, head: DenseView, x: &[f32], k: usize) -> Option<usize> {
    let mut exact = None;
    for cpu in cpus() {
        let mut screen = Screen::new(&cpu, head, 1).expect("a finite head");
        let mut top = vec![Product { row: 7, value: 7.0 }];
        exact = screen.top(&cpu, head, x, k, &mut top);
        let expected = if exact.is_some() { by_sorting(&cpu, head, x, k) } else { Vec::new() };
        assert_eq!(top, expected, "{what}: {:?}, {cpu:?}, {exact:?} rows computed exactly", head.ty);
    }
    exact
}

#[test]
fn the_copy_is_the_same_on_every_variant_and_off_by_no_more_than_it_says() {
    let mut rng = Rng::new(41);
    for ty in [DenseType::F32, DenseType::F16, DenseType::BF16, DenseType::Q8_0] {
        for cols in [1, 31, 32, 255, 256, 257, 640].into_iter().filter(|cols| cols % ty.block_len() == 0) {
            let rows = 70;
            let mut weights = rng.floats(rows * cols);
            // A row of zeros, one of tiny numbers, one with a single large one.
            weights[..cols].fill(0.0);
            weights[cols..2 * cols].fill(1e-31);
            weights[2 * cols] = 6e4;
            let bytes = bytes_of(ty, cols, &weights);
            let head = DenseView::new(rows, cols, &bytes, ty).unwrap();
            let reference = Screen::new(&Cpu::new(Isa::Scalar, 1), head, 1).unwrap();
            for cpu in cpus() {
                let screen = Screen::new(&cpu, head, 1).unwrap();
                assert_eq!(screen.bounds, reference.bounds, "{cpu:?}");
                assert!(six_bits(&screen) == six_bits(&reference), "{cpu:?}");
            }
            let codes = six_bits(&reference);
            let mut row = vec![0.0; cols];
            for (r, codes) in codes.chunks_exact(codes.len() / rows).enumerate() {
                dense::gather(head, r, &mut row);
                let Row { scale, error, norm } = reference.bounds[r];
                let missed = row.iter().enumerate().map(|(col, &w)| {
                    let u = code_at(&codes[col / BLOCK * BLOCK_BYTES..][..BLOCK_BYTES], col % BLOCK);
                    (f64::from(w) - f64::from(scale) * (f64::from(u) - 32.0)).powi(2)
                });
                let missed = missed.sum::<f64>().sqrt();
                let exact_norm = row.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
                assert!(missed <= f64::from(error), "{ty:?} row {r}: {missed} missed, {error} claimed");
                // At most half a step each, and not a bound that could never prune.
                let half_steps = f64::from(scale) * 0.51 * (cols as f64).sqrt() + exact_norm * 2e-7;
                let zeroed = if scale == 0.0 { exact_norm * 1.000_001 } else { half_steps };
                assert!(
                    f64::from(error) <= zeroed + 1e-44,
                    "{ty:?} row {r}: {error} claimed, at most {zeroed} possible"
                );
                assert!((exact_norm..=exact_norm * 1.000_001 + 1e-44).contains(&f64::from(norm)), "{ty:?} row {r}");
            }
        }
    }
}

#[test]
fn sums_are_those_of_the_reference() {
    let mut rng = Rng::new(42);
    for blocks in [1, 2, 10] {
        let rows = 5;
        let mut codes: Vec<u8> = rng.i8s(rows * blocks * BLOCK_BYTES).iter().map(|&x| x as u8).collect();
        codes[..blocks * BLOCK_BYTES].fill(0xFF);
        let mut tokens: Vec<[Vec<i8>; 2]> =
            (0..ALIKE_TOKENS).map(|_| [rng.i8s(blocks * BLOCK), rng.i8s(blocks * BLOCK)]).collect();
        // The largest sums there are.
        tokens[0][1].fill(-128);
        let tokens: Vec<Planes> = tokens.iter().map(|planes| planes.each_ref().map(Vec::as_slice)).collect();
        let mut expected = [[[7; 2]; CHUNK_ROWS]; ALIKE_TOKENS];
        scalar::sums(&codes, &tokens, &mut expected);
        assert_eq!(expected[0][0][1], -128 * 63 * (blocks * BLOCK) as i32);
        for isa in Isa::available() {
            for count in 1..=ALIKE_TOKENS {
                let mut found = [[[7; 2]; CHUNK_ROWS]; ALIKE_TOKENS];
                sums(isa, &codes, &tokens[..count], &mut found[..count]);
                assert_eq!(found[..count], expected[..count], "{isa}, {blocks} blocks, {count} tokens");
            }
        }
    }
}

#[test]
fn the_top_of_random_heads_is_that_of_a_sort() {
    let mut rng = Rng::new(43);
    for ty in [DenseType::F32, DenseType::F16, DenseType::BF16, DenseType::Q8_0] {
        for (rows, cols, k) in [(3000, 256, 1), (4133, 320, 4), (2816, 1024, 2), (10_240, 256, 10)] {
            let weights = rng.floats(rows * cols);
            let mut x = rng.floats(cols);
            // A few columns stand out, as in trained models.
            x[3] *= 40.0;
            let exact = check("random", ty, cols, &weights, &x, k);
            assert!(exact.is_some_and(|exact| (k..rows / 4).contains(&exact)), "{ty:?}, {rows} x {cols}: {exact:?}");
        }
    }
}

/// Rows whose products differ in the last bit of one weight, and equal rows, of which the lowest wins.
#[test]
fn near_ties_are_decided_as_the_full_product_decides_them() {
    let mut rng = Rng::new(44);
    let (rows, cols) = (4100, 512);
    let x = rng.floats(cols);
    let mut weights = rng.floats(rows * cols);
    // Rows along x, as high as they get; f16 first, so that neighbours are an ulp of f16 away.
    let best: Vec<f32> = x.iter().map(|&x| f16::from_f32(x * 2.0).to_f32()).collect();
    let places = [2999, 17, 1500, 64, 63, 2048];
    for place in places {
        weights[place * cols..][..cols].copy_from_slice(&best);
    }
    for ty in [DenseType::F16, DenseType::F32] {
        check("equal rows", ty, cols, &weights, &x, 1);
        check("equal rows", ty, cols, &weights, &x, 4);
        let bytes = bytes_of(ty, cols, &weights);
        let head = DenseView::new(rows, cols, &bytes, ty).unwrap();
        let cpu = Cpu::new(Isa::detect(), 2);
        let mut top = Vec::new();
        Screen::new(&cpu, head, 1).unwrap().top(&cpu, head, &x, 3, &mut top).unwrap();
        assert_eq!(top.iter().map(|product| product.row).collect::<Vec<_>>(), [17, 63, 64]);
    }
    for round in 0..50 {
        for place in places {
            let col = (rng.i8s(1)[0] as u8) as usize;
            let at = place * cols + col;
            let bits = f16::from_f32(weights[at]).to_bits();
            let moved = if round % 2 == 0 { bits + 1 } else { bits - 1 };
            weights[at] = f16::from_bits(moved).to_f32();
        }
        assert!(check("one ulp apart", DenseType::F16, cols, &weights, &x, 1).is_some());
    }
}

#[test]
fn norms_that_differ_by_millions_and_zeros() {
    let mut rng = Rng::new(45);
    let (rows, cols) = (2100, 256);
    let mut weights = rng.floats(rows * cols);
    for row in (0..rows).step_by(97) {
        weights[row * cols..][..cols].iter_mut().for_each(|w| *w *= 1e4);
    }
    for row in (1..rows).step_by(3) {
        weights[row * cols..][..cols].fill(0.0);
    }
    let x = rng.floats(cols);
    for k in [1, 2] {
        assert!(check("norms", DenseType::F32, cols, &weights, &x, k).is_some());
        assert!(check("norms", DenseType::F16, cols, &weights, &x, k).is_some());
    }
    // All rows lose against zeros.
    let away: Vec<f32> = (0..rows * cols).map(|i| if i / cols % 3 == 1 { 0.0 } else { -x[i % cols] }).collect();
    let zeros_win = check("zeros", DenseType::F32, cols, &away, &x, 1);
    assert!(zeros_win.is_none(), "a third of the rows is equally high: {zeros_win:?}");
}

#[test]
fn what_bounds_say_nothing_about_is_left_to_the_full_product() {
    let mut rng = Rng::new(46);
    let (rows, cols) = (1000, 256);
    let weights = rng.floats(rows * cols);
    let cpu = Cpu::new(Isa::detect(), 1);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = rng.floats(cols);
        x[77] = bad;
        assert_eq!(check("x", DenseType::F32, cols, &weights, &x, 1), None);
        let mut with_bad = weights.clone();
        with_bad[500 * cols + 3] = bad;
        let bytes = bytes_of(DenseType::F32, cols, &with_bad);
        let head = DenseView::new(rows, cols, &bytes, DenseType::F32).unwrap();
        assert!(Screen::new(&cpu, head, 1).is_none(), "{bad}");
    }
    let huge: Vec<f32> = weights.iter().map(|w| w * 1e30).collect();
    let large_x: Vec<f32> = rng.floats(cols).iter().map(|x| x * 1e9).collect();
    assert_eq!(check("overflow", DenseType::F32, cols, &huge, &large_x, 1), None);
    assert_eq!(check("zeros", DenseType::F32, cols, &weights, &vec![0.0; cols], 1), None);
    assert_eq!(check("too many", DenseType::F32, cols, &weights, &rng.floats(cols), 2), None);
    let equal: Vec<f32> = weights[..cols].repeat(rows);
    assert_eq!(check("all rows equal", DenseType::F32, cols, &equal, &rng.floats(cols), 1), None);
}

#[test]
fn ternary_heads_leave_a_few_rows() {
    let mut rng = Rng::new(47);
    for (ty, dialect, size) in TERNARY {
        for (rows, cols, k) in [(3000, 256, 1), (4133, 768, 4), (2823, 1024, 2), (10_240, 256, 10)] {
            let codes: Vec<u8> = (0..rows * cols).map(|_| rng.below(3) as u8).collect();
            let scales: Vec<f16> = rng.floats(rows * cols / size).into_iter().map(|x| f16::from_f32(x + 1.2)).collect();
            let bytes = ternary_head(dialect, size, cols, &codes, &scales);
            let head = DenseView::new(rows, cols, &bytes, ty).unwrap();
            let mut x = rng.floats(cols);
            x[3] *= 40.0;
            let exact = check_head("random", head, &x, k);
            // Only what rounding the token leaves open, and the best rows of the chunks.
            assert!(exact.is_some_and(|exact| (k..k + 20).contains(&exact)), "{ty:?}, {rows} x {cols}: {exact:?}");
        }
    }
}

/// Rows with equal products, and rows of which single weights, met by the smallest values of the token, differ.
#[test]
fn near_ties_of_ternary_heads_are_decided_as_the_full_product_decides_them() {
    let mut rng = Rng::new(48);
    let (rows, cols) = (4100, 512);
    for (ty, dialect, size) in TERNARY {
        let mut x = rng.floats(cols);
        let small: Vec<usize> = (0..cols).step_by(5).collect();
        for (i, &col) in small.iter().enumerate() {
            x[col] *= 10.0_f32.powi(-(i as i32 % 8));
        }
        let mut codes: Vec<u8> = (0..rows * cols).map(|_| rng.below(3) as u8).collect();
        let scales = vec![f16::from_f32(0.37); rows * cols / size];
        let best: Vec<u8> = x.iter().map(|&x| if x < 0.0 { 0 } else { 2 }).collect();
        let places = [2999, 17, 1500, 64, 63, 2048];
        for place in places {
            codes[place * cols..][..cols].copy_from_slice(&best);
        }
        let screened = |what, codes: &[u8], k| {
            let bytes = ternary_head(dialect, size, cols, codes, &scales);
            check_head(what, DenseView::new(rows, cols, &bytes, ty).unwrap(), &x, k).is_some()
        };
        assert!(screened("equal rows", &codes, 3));
        for _ in 0..20 {
            for place in places {
                codes[place * cols + small[rng.below(small.len())]] = 1;
            }
            assert!(screened("one weight apart", &codes, 1));
        }
    }
}

#[test]
fn no_row_of_a_ternary_head_exceeds_its_bound() {
    let mut rng = Rng::new(49);
    let (rows, cols) = (200, 1280);
    for (ty, dialect, size) in TERNARY {
        let codes: Vec<u8> = (0..rows * cols).map(|_| rng.below(3) as u8).collect();
        // From the smallest to the largest there are, and zeros.
        let scales: Vec<f16> =
            (0..rows * cols / size).map(|_| f16::from_bits((rng.next_u64() % 0x7C00) as u16)).collect();
        let bytes = ternary_head(dialect, size, cols, &codes, &scales);
        let head = DenseView::new(rows, cols, &bytes, ty).unwrap();
        let mut exact = vec![0.0; rows];
        for x_scale in [1.0, 1e-29, 1e20] {
            let x: Vec<f32> = rng.floats(cols).iter().map(|x| x * x_scale).collect();
            for cpu in cpus() {
                let mut screen = Screen::new(&cpu, head, 1).unwrap();
                assert!(screen.set(cpu.isa(), 0, &x, 1));
                screen.bound_all(&cpu, 1);
                dense::matmul(&cpu, head, &x, &mut exact);
                for (row, (&exact, &upper)) in exact.iter().zip(&screen.upper).enumerate() {
                    let norm = screen.bounds[row].norm * x_scale * (cols as f32).sqrt();
                    assert!(
                        (exact..=exact + 1e-3 * norm).contains(&upper),
                        "{ty:?}, {cpu:?}, row {row}: {exact}, {upper}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_head_with_other_weights_than_ternary_ones_has_no_screen() {
    let (rows, cols) = (1030, 256);
    let cpu = Cpu::new(Isa::detect(), 1);
    for (ty, dialect, size) in TERNARY {
        let scales = vec![f16::ONE; rows * cols / size];
        let bytes = ternary_head(dialect, size, cols, &vec![2; rows * cols], &scales);
        let screen = |bytes: &[u8]| Screen::new(&cpu, DenseView::new(rows, cols, bytes, ty).unwrap(), 1);
        assert!(screen(&bytes).is_some(), "{ty:?}");
        // Two bytes of a block are its scale, in front of the codes of Q2_0 and behind those of others.
        let (block, behind) = (bytes.len() - ty.block_bytes(), ty.block_bytes() - 2);
        let (codes_at, scale_at) =
            if matches!(ty, DenseType::Q2_0 | DenseType::Q2_0G128) { (2, 0) } else { (0, behind) };
        // One byte of four codes; five in a byte are ternary, whatever the byte.
        if !matches!(ty, DenseType::TQ1_0 | DenseType::PTQ1_0) {
            let mut with_three = bytes.clone();
            with_three[block + codes_at] = 0xFF;
            assert!(screen(&with_three).is_none(), "{ty:?}");
        }
        let mut infinite = bytes.clone();
        infinite[block + scale_at..][..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        assert!(screen(&infinite).is_none(), "{ty:?}");
    }
}

/// Tokens with other counts, among them some that get nothing, in every place.
#[test]
fn tokens_together_get_what_each_gets_alone() {
    let mut rng = Rng::new(50);
    let (rows, cols) = (3100, 512);
    let dense = [DenseType::F32, DenseType::F16, DenseType::Q8_0].map(|ty| (ty, None));
    for (ty, ternary) in dense.into_iter().chain(TERNARY.map(|(ty, dialect, size)| (ty, Some((dialect, size))))) {
        let bytes = if let Some((dialect, size)) = ternary {
            let scales: Vec<f16> = rng.floats(rows * cols / size).into_iter().map(|x| f16::from_f32(x + 1.2)).collect();
            ternary_head(dialect, size, cols, &rng.codes(rows * cols), &scales)
        } else {
            bytes_of(ty, cols, &rng.floats(rows * cols))
        };
        let head = DenseView::new(rows, cols, &bytes, ty).unwrap();
        for cpu in cpus() {
            let mut one = Screen::new(&cpu, head, 1).unwrap();
            let mut screen = Screen::new(&cpu, head, ALIKE_TOKENS).unwrap();
            let mut tops = vec![Top::default(); ALIKE_TOKENS];
            for tokens in 0..=ALIKE_TOKENS {
                let mut x = rng.floats(tokens * cols);
                for (t, top) in tops[..tokens].iter_mut().enumerate() {
                    // None wanted, too many, or as many as there may be.
                    top.count = [1, 2, 3, 0, 1, 2, 4, 3][(t + tokens) % 8];
                }
                if tokens > 2 {
                    x[(tokens / 2) * cols + 7] = f32::NAN;
                    // Products that may overflow.
                    x[..cols].iter_mut().for_each(|x| *x *= 1e36);
                }
                screen.top_rows(&cpu, head, &x, &mut tops[..tokens]);
                let mut found = 0;
                for (t, top) in tops[..tokens].iter().enumerate() {
                    let (x, mut alone) = (&x[t * cols..][..cols], Vec::new());
                    let exact = one.top(&cpu, head, x, top.count, &mut alone);
                    let what = format!("{ty:?}, {cpu:?}, token {t} of {tokens}, {} wanted", top.count);
                    assert_eq!((&top.products, top.exact), (&alone, exact), "{what}");
                    if exact.is_some() {
                        assert_eq!(alone, by_sorting(&cpu, head, x, top.count), "{what}");
                        found += 1;
                    }
                }
                assert!(found > 0 || tokens < 2, "{ty:?}, {cpu:?}: nothing for {tokens} tokens");
            }
        }
    }
}

#[test]
#[should_panic(expected = "3 tokens in room for 2")]
fn more_tokens_than_there_is_room_for_panic() {
    let cpu = &cpus()[0];
    let bytes = bytes_of(DenseType::F32, 4, &[0.5; 40]);
    let head = DenseView::new(10, 4, &bytes, DenseType::F32).unwrap();
    Screen::new(cpu, head, 2).unwrap().top_rows(cpu, head, &[1.0; 12], &mut vec![Top::default(); 3]);
}

#[test]
fn a_ternary_copy_has_five_weights_a_byte_where_kernels_read_them() {
    for isa in Isa::available() {
        // 1280 columns: two runs of 128 bytes, or 320 bytes; then 10 scales, and what is kept of a row.
        let codes = if crate::ternary::multiplies_base3(isa) { 256 } else { 320 };
        let expected = 32 * (codes + 10 * 2 + 8 + 16);
        assert_eq!(Screen::bytes(isa, 32, 1280, DenseType::PTQ1_0), expected, "{isa}");
        assert_eq!(Screen::bytes(isa, 32, 1280, DenseType::Q2_0G128), expected, "{isa}");
    }
}
